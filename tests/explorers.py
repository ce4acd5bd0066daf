"""The explorer on the bundled galaxies, and its server in a thread."""

import contextlib
import threading
from collections.abc import Iterator

from sedcast.data.catalog import load_sdss_sample
from sedcast.explore.compute import Explorer
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.outlier_training import training_simulator


def bundled_explorer() -> Explorer:
    estimator = PosteriorEstimator.default()
    return Explorer(estimator, training_simulator(estimator), load_sdss_sample(bands=estimator.bands), name="the SDSS sample")


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
