"""Tasks on the workers of a Dask cluster; needs Dask, so it is imported only when a scheduler is asked for."""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import WorkerPlugin

from sedcast.data.artifacts import software_versions
from sedcast.data.errors import ConfigError, SedcastError
from sedcast.data.executors import LOST, Session, TaskPool, forget, share

__all__ = ["DaskPool", "dask_pool"]

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 30
_COUNT_SECONDS = 5.0
_ATTEMPTS = 3


class _Shared(WorkerPlugin):
    """What all tasks of one call share; reaches the workers that are there, that join later, and that are started again."""

    def __init__(self, token: str, shared: tuple[Any, ...]) -> None:
        self.name, self.shared, self.versions = token, shared, software_versions()

    def setup(self, worker: Any) -> None:
        share(self.name, self.shared, self.versions)

    def teardown(self, worker: Any) -> None:
        forget(self.name)


class DaskPool(TaskPool):
    """Workers of a scheduler; their number may change at any time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counted = (-_COUNT_SECONDS, 0)

    @property
    def n_workers(self) -> int:
        """Workers of the scheduler, as counted at most a few seconds ago."""
        now = time.monotonic()
        if now - self._counted[0] >= _COUNT_SECONDS:
            try:
                self._counted = (now, len(self._client.nthreads()))
            except OSError as error:
                raise SedcastError(LOST) from error
        return self._counted[1]

    @contextlib.contextmanager
    def _session(self, shared: tuple[Any, ...]) -> Iterator[Session]:
        token = uuid.uuid4().hex
        if self.n_workers == 0:
            logger.warning("the Dask scheduler has no workers yet: waiting for the first")
        self._give_to_all(_Shared(token, shared))
        try:
            yield Session(self._client.get_executor(pure=False), token)
        finally:
            # The scheduler may be gone, which the tasks have said.
            with contextlib.suppress(Exception):
                self._client.unregister_worker_plugin(token)

    def _give_to_all(self, shared: _Shared) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._client.register_plugin(shared)
                return
            except OSError as error:
                # Of a connection: those who write files would take it for one of the disk. It may be a worker's that died.
                if self._client.status != "running" or attempt == _ATTEMPTS:
                    raise SedcastError(LOST) from error


@contextlib.contextmanager
def dask_pool(scheduler: str, n_workers: int) -> Iterator[DaskPool]:
    """The workers of the scheduler at an address, or of a cluster on this machine for ``"local"``.

    Raises
    ------
    ConfigError : if no scheduler answers at that address.
    """
    with contextlib.ExitStack() as stack:
        if scheduler == "local":
            cluster = LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0")
            address = stack.enter_context(cluster)
        else:
            address = scheduler
        try:
            client = stack.enter_context(Client(address, timeout=_CONNECT_SECONDS, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {scheduler!r} ({error}): expected an address such as tcp://node1:8786, which "
                "'dask scheduler' prints, or 'local' for a cluster on this machine"
            ) from error
        yield DaskPool(client)
