"""Lines of ionised gas, and what the benchmarks say of colours beside others."""

import numpy as np
import pytest

from benchmarks.coverage import beside_others
from benchmarks.gas import with_lines
from sedcast.data.filters import LSUN_ERG_S
from sedcast.data.ssp import SSPLibrary


def test_lines_are_those_of_the_ionising_photons():
    """Hα of steady star formation is Kennicutt's (1998, ARA&A 36, 189), times 0.63 for Chabrier's initial mass function."""
    stars = SSPLibrary.popstar()
    added = with_lines(stars, stars).flux - stars.flux
    near = np.abs(stars.wave_rest - 6562.8) < 70
    solar = int(np.argmin(np.abs(stars.log_z - np.log10(0.02))))
    # Hα and [N II], which is 1.33 of Hβ beside 2.87.
    line = np.trapezoid(added[solar][:, near], stars.wave_rest[near], axis=1) * 2.87 / (2.87 + 1.33) * LSUN_ERG_S
    age = 10**stars.log_age
    young = age < 1e8
    of_one_msun_per_yr = np.trapezoid(line[young], age[young]) + line[0] * age[0]
    assert of_one_msun_per_yr == pytest.approx(1 / (0.63 * 7.9e-42), rel=0.25)
    assert (added[solar][age > 1e8].sum(axis=1) < 0.01 * added[solar].sum(axis=1).max()).all()
    assert (added[:, :, stars.wave_rest < 3600] == 0).all()


def test_a_colour_beside_others_is_the_offset_that_was_planted():
    rng = np.random.default_rng(0)

    def galaxies(n: int, planted: float) -> tuple[np.ndarray, np.ndarray]:
        g_r, r_i, i_z = rng.normal([0.6, 0.4, 0.2], 0.08, (n, 3)).T
        zred = rng.uniform(0, 0.3, n)
        u_g = 1 + g_r - 0.5 * r_i * g_r + 2 * zred + rng.normal(0, 0.1, n) + planted
        return np.column_stack([u_g, g_r, r_i, i_z]), zred

    found = beside_others(*galaxies(5000, -0.15), *galaxies(20_000, 0.0))
    for pairs in found.values():
        offset, scatter = pairs[0]
        assert offset == pytest.approx(-0.15, abs=0.015)
        assert scatter == pytest.approx(0.1, abs=0.005)
        assert abs(pairs[3][0]) < 0.015
