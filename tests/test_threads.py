"""BLAS held to one thread by several threads at once."""

import numpy as np  # noqa: F401  (brings the BLAS that is held)
from threadpoolctl import ThreadpoolController

from sedcast.data.threads import one_blas_thread


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in ThreadpoolController().info() if library["user_api"] == "blas"]


def test_the_last_to_leave_lifts_the_limit() -> None:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        assert set(blas_threads()) == {2}
        first, second = one_blas_thread(), one_blas_thread()
        with first:
            second.__enter__()
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert set(blas_threads()) == {2}
