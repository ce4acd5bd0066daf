"""What packages the program agrees with setup.cfg."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Where conda-forge has another name; matplotlib-base is matplotlib without a toolkit for windows.
ELSEWHERE = {"tf_keras": "tf-keras", "matplotlib": "matplotlib-base"}


def test_the_conda_recipe_needs_what_the_wheel_needs() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wheel = dict(re.match(r"([\w-]+)(.*)", line).groups() for line in setup["options"]["install_requires"].split())  # type: ignore[union-attr]
    run = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8").split("  run:\n")[1].split("\n\n")[0]
    conda = dict(line.removeprefix("    - ").split(" ", 1) for line in run.splitlines())
    assert conda.pop("python") == setup["options"]["python_requires"]
    assert conda == {ELSEWHERE.get(name, name): bound for name, bound in wheel.items()}
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/sedcast/_version.py").read_text(encoding="utf-8"))
    assert version is not None
    assert f"version: {version[1]}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
