"""`sedcast explore`: posteriors on a local web page."""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sedcast.cli_common import (
    Calibrate,
    Columns,
    Model,
    Source,
    Unit,
    load_catalog,
    load_posterior,
    make_screen,
)

__all__ = ["add_explore_command"]


def add_explore_command(app: typer.Typer) -> None:
    """Give a program the command `explore`."""
    app.command(
        epilog="Examples:  sedcast explore    |    sedcast explore mine.csv --unit uJy --open    |    "
        "sedcast explore mine.csv --mapping mine.toml    |    "
        "with ultraviolet bands: sedcast explore --model galex-sdss"
    )(explore)


def explore(
    catalog: Source = "sdss",
    model: Model = "bundled",
    mapping: Columns = None,
    unit: Unit = None,
    calibrate: Calibrate = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for any that is free.")] = 0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the web browser.")] = False,
) -> None:
    """Explore posteriors on a local web page: pick a galaxy, drag its magnitudes, errors and redshift.

    The page is served to this machine only, at an address with a secret that is printed here; Ctrl-C ends it.
    """
    screen = make_screen()
    from sedcast.explore.compute import Explorer
    from sedcast.explore.server import ExplorerServer
    from sedcast.posterior.outlier_training import training_simulator

    estimator = load_posterior(model)
    simulator = training_simulator(estimator)
    name = "the SDSS sample" if catalog == "sdss" else catalog
    galaxies = load_catalog(catalog, estimator, mapping=mapping, unit=unit, calibrate=calibrate)
    explorer = Explorer(estimator, simulator, galaxies, name=name)
    server = ExplorerServer(explorer, model, port=port)
    typer.echo(f"The explorer is at {server.url} (Ctrl-C ends it)")
    with _opened(server.url) if open_page else contextlib.nullcontext(), contextlib.suppress(KeyboardInterrupt):
        server.run()
    screen.note("the explorer has ended")


@contextlib.contextmanager
def _opened(url: str) -> Iterator[None]:
    """Open a page in the browser, by way of a file that only its owner reads: a command line is read by all users."""
    import webbrowser

    with tempfile.TemporaryDirectory(prefix="sedcast-") as folder:
        page = Path(folder) / "explorer.html"
        page.write_text(
            f'<meta http-equiv="refresh" content="0; url={url}"><a href="{url}">The explorer</a>\n', encoding="utf-8"
        )
        # Some browsers stay in the foreground.
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
        yield
