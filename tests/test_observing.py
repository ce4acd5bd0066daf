from collections.abc import Sequence

import numpy as np
import pytest

from sedcast.data.errors import ParameterError
from sedcast.emulator.observing import until_kept


def test_each_row_is_tried_until_it_is_kept() -> None:
    rng = np.random.default_rng(1)
    first, second, tries = np.full(200, -1.0), np.full((200, 2), -1.0), np.zeros(200, dtype=int)

    def attempt(rows: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        tries[rows] += 1
        kept = np.flatnonzero(rng.random(len(rows)) < 0.4)
        return kept, (rows[kept], np.column_stack([rows[kept], 10 * tries[rows[kept]]]))

    until_kept((first, second), attempt, most_tries=100)
    assert np.array_equal(first, np.arange(200))
    assert np.array_equal(second, np.column_stack([np.arange(200), 10 * tries]))
    assert tries.max() > 3


def test_rows_that_are_never_kept_end_the_attempts_with_their_number() -> None:
    calls = []

    def attempt(rows: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        calls.append(len(rows))
        kept = np.flatnonzero(rows < 3)
        return kept, (np.zeros(len(kept)),)

    with pytest.raises(ParameterError, match="2 of 5 galaxies were outside the noise model's range in 7 tries"):
        until_kept((np.ones(5),), attempt, most_tries=7)
    assert calls == [5, 2, 2, 2, 2, 2, 2]
