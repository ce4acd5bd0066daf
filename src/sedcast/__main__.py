"""``python -m sedcast``: the command line, where the program's own name is not on the path."""

from sedcast.cli import main

if __name__ == "__main__":
    main()
