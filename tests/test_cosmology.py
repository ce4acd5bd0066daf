import astropy.cosmology
import numpy as np
import pytest

from sedcast.data.cosmology import ZRED_MAX, Cosmology
from sedcast.data.errors import ParameterError


@pytest.mark.parametrize("name", ["Planck13", "WMAP9"])
def test_splines_reproduce_astropy(name: str, rng: np.random.Generator) -> None:
    truth = getattr(astropy.cosmology, name)
    zred = np.concatenate([[1e-5, 1e-4, 1e-3], rng.uniform(0, 3, 200)])
    cosmology = Cosmology(name)
    np.testing.assert_allclose(cosmology.age_gyr(zred), truth.age(zred).to_value("Gyr"), rtol=1e-6)
    expected = truth.luminosity_distance(zred).to_value("cm")
    np.testing.assert_allclose(cosmology.luminosity_distance_cm(zred), expected, rtol=1e-6)


def test_shapes_follow_the_argument() -> None:
    cosmology = Cosmology()
    assert cosmology.age_gyr(0.1).shape == ()
    assert cosmology.luminosity_distance_cm(np.zeros((2, 3))).shape == (2, 3)
    assert cosmology.luminosity_distance_cm(0.0) == 0


@pytest.mark.parametrize("zred", [-0.1, np.nan, np.inf, ZRED_MAX + 1])
def test_impossible_redshifts_are_refused(zred: float) -> None:
    with pytest.raises(ParameterError, match="zred must be finite"):
        Cosmology().age_gyr(np.array([0.1, zred]))
    with pytest.raises(ParameterError, match="zred must be finite"):
        Cosmology().luminosity_distance_cm(zred)
    with pytest.raises(ParameterError, match="zred must be finite"):
        Cosmology().age_gyr(np.ma.array([0.1, 0.2], mask=[False, True]))


def test_an_unknown_cosmology_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"'Planck1813' is unknown.*Planck18"):
        Cosmology("Planck1813")
