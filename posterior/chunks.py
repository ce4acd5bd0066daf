"""Many samples of many galaxies in chunks that fit the caches, spread over threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sedcast.data.threads import one_blas_thread, usable_cores

__all__ = ["chunks", "in_threads"]


def in_threads(work: Callable[[slice, slice], None], pieces: Sequence[tuple[slice, slice]], n_threads: int | None) -> None:
    """Call `work` with each of `chunks`, spread over threads; BLAS keeps to one thread in each."""
    n_threads = min(n_threads or usable_cores(), len(pieces))
    with one_blas_thread():
        if n_threads < 2:
            for piece in pieces:
                work(*piece)
            return
        with ThreadPoolExecutor(n_threads) as pool:
            for _ in pool.map(lambda piece: work(*piece), pieces):
                pass


def chunks(n_rows: int, n_samples: int, size: int) -> list[tuple[slice, slice]]:
    """Rows and samples of each chunk of about `size`: several rows where they are short, parts of one row where it is long."""
    rows_each = max(1, size // max(n_samples, 1))
    parts = -(-n_samples // size)
    samples_each = max(1, -(-n_samples // max(parts, 1)))
    return [
        (slice(row, min(row + rows_each, n_rows)), slice(column, min(column + samples_each, n_samples)))
        for row in range(0, n_rows, rows_each)
        for column in range(0, n_samples, samples_each)
    ]
