from typing import Any

import numpy as np
import pytest

from sedcast.data.errors import ParameterError
from sedcast.emulator.dust import DustLaw, attenuation_curve


def scalar_curve(wave: float, index: float) -> float:
    """Kriek & Conroy (2013) in FSPS's normalisation, written out for one wavelength in Å."""
    x = 1e4 / wave
    if wave > 6300:
        calzetti = 1.17 * (-1.857 + 1.04 * x) + 1.78
    else:
        calzetti = 1.17 * (-2.156 + 1.509 * x - 0.198 * x * x + 0.011 * x * x * x) + 1.78
    calzetti = max(calzetti / 0.44 / 4.05, 0.0)
    bump = (0.85 - 1.9 * index) * (wave * 350) ** 2 / ((wave**2 - 2175**2) ** 2 + (wave * 350) ** 2)
    return (calzetti + bump / 4.05) * (wave / 5500) ** index


def test_the_curve_is_that_of_the_paper_in_fsps_normalisation() -> None:
    wave = np.array([912.0, 1500.0, 2175.0, 5500.0, 6300.0, 6301.0, 21000.0, 30000.0, 50000.0])
    index = np.array([-2.0, -0.7, 0.0, 1.0])
    expected = [[scalar_curve(w, n) for w in wave] for n in index]
    np.testing.assert_allclose(attenuation_curve(wave, index), expected, rtol=1e-12, atol=1e-15)


def test_the_calzetti_curve_crosses_one_near_5500() -> None:
    assert attenuation_curve(np.array([5500.0]), 0.0)[0, 0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_young_stars_are_behind_both_screens_and_old_ones_behind_one(dtype: type[np.floating[Any]], rtol: float) -> None:
    wave = np.geomspace(1000, 3e4, 50)
    law = DustLaw(wave, dtype)
    young, old = np.full((2, 50), 2.0).astype(dtype), np.full((2, 50), 3.0).astype(dtype)
    dust = {"dust1": np.array([0.5, 0.0]), "dust2": np.array([1.5, 0.0]), "dust_index": np.array([-0.4, 0.3])}
    got = law.attenuate(young, old, **dust)
    diffuse = np.exp(-1.5 * np.array([scalar_curve(w, -0.4) for w in wave]))
    np.testing.assert_allclose(got[0], (2 * np.exp(-0.5 * 5500 / wave) + 3) * diffuse, rtol=rtol)
    np.testing.assert_array_equal(got[1], 5)
    assert got.dtype == dtype


def test_wavelengths_must_be_positive() -> None:
    with pytest.raises(ParameterError, match="wave_rest must be positive"):
        DustLaw(np.array([0.0, 1000.0]))
