"""The explorer on the bundled galaxies, and its server in a thread."""

import contextlib
import threading
from collections.abc import Iterator

from sedcast.cli_common import load_posterior, simulator_of
from sedcast.data.catalog import load_sdss_sample
from sedcast.explore.compute import Explorer


def bundled_explorer() -> Explorer:
    estimator = load_posterior("bundled")
    return Explorer(estimator, simulator_of(estimator)[0], load_sdss_sample(bands=estimator.bands), name="the SDSS sample")


@contextlib.contextmanager
def served(explorer: Explorer) -> Iterator[str]:
    """The address of the page, while it is served."""
    from sedcast.explore.server import ExplorerServer

    server = ExplorerServer(explorer, "bundled")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join()
