from collections.abc import Sequence

import numpy as np
import pytest

from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.emulator.observing import masses_within_reach, until_kept
from sedcast.emulator.prior import Prior


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


def test_masses_within_reach_are_those_of_the_measured_bands_alone() -> None:
    noise, prior = NoiseModel.sdss(("g", "r")), Prior(log_mstar=(7.0, 12.5))
    brightest, faintest = noise.reach()
    # From so faint that the heaviest is out of reach to so bright that the lightest is.
    unit_flux = np.random.default_rng(2).uniform(-14.0, -3.0, (200, 2))
    lightest, heaviest, probability = masses_within_reach(unit_flux, prior, noise)
    for one, (least, most) in zip(unit_flux, np.stack([lightest, heaviest], axis=1), strict=True):
        masses = np.linspace(7.0, 12.5, 5501)
        magnitude = 22.5 - 2.5 * (one + masses[:, None])
        seen = masses[((magnitude >= brightest) & (magnitude <= faintest)).all(axis=1)]
        if len(seen):
            np.testing.assert_allclose([least, most], [seen[0], seen[-1]], atol=1.1e-3)
    np.testing.assert_array_equal(probability > 0, heaviest > lightest)
    # As the width of what is within reach, or galaxies would not follow the prior.
    reached = probability > 0
    share = probability[reached] / (heaviest - lightest)[reached]
    np.testing.assert_allclose(share, share[0])
    # No more spectra than need be are lost.
    assert probability.max() == pytest.approx(1.0)
    measured = np.tile([True, False], (200, 1))
    alone = masses_within_reach(unit_flux[:, :1], prior, noise.select(("g",)))
    np.testing.assert_array_equal(masses_within_reach(unit_flux, prior, noise, measured=measured), alone)
    # Without a measurement there is no limit.
    free = masses_within_reach(unit_flux, prior, noise, measured=np.zeros((200, 2), dtype=bool))
    np.testing.assert_array_equal(free, np.broadcast_to([[7.0], [12.5], [1.0]], (3, 200)))


def test_a_galaxy_without_flux_is_observed_where_noise_alone_is() -> None:
    prior, dark = Prior(log_mstar=(7.0, 12.5)), np.array([[-np.inf]])
    deep = NoiseModel.from_depths({"g": 27.0})
    assert np.isinf(deep.reach()[1]).all()
    assert [float(found[0]) for found in masses_within_reach(dark, prior, deep)] == [7.0, 12.5, 1.0]
    assert masses_within_reach(dark, prior, NoiseModel.sdss(("g",)))[2][0] <= 0
