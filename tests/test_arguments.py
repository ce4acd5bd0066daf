"""What a notebook passes: every kind of array is read alike, and what is no such argument is named before any work."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.cosmology.units import redshift
from astropy.table import Column, MaskedColumn
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast.data.asinh import asinh_flux_error, asinh_magnitude, asinh_magnitude_error, softening_nanomaggies
from sedcast.data.catalog import Catalog, apply_calibration, load_sdss_sample
from sedcast.data.checks import as_floats, as_names, whole_number
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import Prior
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.streaming import infer_file
from sedcast.sampled_histories import sampled_histories

GALAXIES = Catalog(np.arange(3), BANDS, *mock_photometry(3, 23))
FLUX, SIGMA = np.array([[1.0, 20.0], [-3.0, 400.0]]), np.full((2, 2), 0.5)
SOFTENING = softening_nanomaggies(("u", "g"))


@pytest.mark.parametrize(
    "alike",
    [
        lambda x: x.astype(">f8"),
        lambda x: x.tolist(),
        lambda x: x.astype(object),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.ma.array(x),
        lambda x: x * u.dimensionless_unscaled,
        lambda x: 100 * x * u.percent,
        lambda x: Column(x),
        lambda x: Column(100 * x, unit="percent"),
        lambda x: MaskedColumn(x, unit=""),
    ],
)
def test_arrays_of_every_kind_are_read_alike(alike: Callable[[np.ndarray], Any]) -> None:
    given = alike(FLUX)
    np.testing.assert_allclose(asinh_magnitude(given, SOFTENING), asinh_magnitude(FLUX, SOFTENING))
    np.testing.assert_allclose(asinh_flux_error(FLUX, given, SOFTENING), asinh_flux_error(FLUX, FLUX, SOFTENING))
    np.testing.assert_allclose(as_floats("x", given), FLUX)
    prior = Prior()
    theta = prior.sample(2, 0)
    np.testing.assert_allclose(prior.to_unit(alike(theta)), prior.to_unit(theta))


@pytest.mark.parametrize("unit", [None, "", "percent", "redshift"])
def test_masked_values_are_not_numbers(unit: str | None) -> None:
    masked = MaskedColumn(np.ma.masked_less(FLUX, 0), unit=redshift if unit == "redshift" else unit)
    for given in (masked, np.ma.masked_less(FLUX, 0)):
        assert np.isnan(asinh_magnitude(given, SOFTENING)).tolist() == [[False, False], [True, False]]
        assert np.isnan(asinh_magnitude_error(FLUX, given, SOFTENING)).tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize(
    "wrong", [None, "abc", {"a": 1}, 1j * FLUX, FLUX > 0, FLUX * u.nJy, Column(FLUX, unit="nJy"), [[1.0], [1.0, 2.0]]]
)
def test_what_are_no_plain_numbers_is_named(wrong: Any) -> None:
    for name, call in {
        "flux": lambda: asinh_magnitude(wrong, SOFTENING),
        "sigma": lambda: asinh_magnitude_error(FLUX, wrong, SOFTENING),
        "softening": lambda: asinh_magnitude(FLUX, wrong),
        "zred": lambda: Cosmology().age_gyr(wrong),
        "theta": lambda: Prior().contains(wrong),
        "theta_unbounded": lambda: Prior().log_prob_unbounded(wrong),
        "zh": lambda: SFHBases(np.array([0.0, 14.0]), np.ones((4, 2)), wrong, "wrong"),
    }.items():
        with pytest.raises(ParameterError, match=name):
            call()


def test_shapes_and_signs_that_broadcast_to_something_else_are_refused() -> None:
    for softening in (-SOFTENING, 0.0, np.inf, SOFTENING[:1], np.tile(SOFTENING, 2), [SOFTENING]):
        with pytest.raises(ParameterError, match="softening"):
            asinh_magnitude(FLUX, softening)
    with pytest.raises(ParameterError, match="sigma has shape"):
        asinh_magnitude_error(FLUX, SIGMA[:1], SOFTENING)
    with pytest.raises(ParameterError, match=r"theta has shape \(1, 11\)"):
        Prior().to_unbounded(np.zeros((1, 11)))
    with pytest.raises(ParameterError, match="theta must have shape"):
        sampled_histories(Prior().sample(2, 0)[:, :11], 0.1, SFHBases.default(), Cosmology())
    with pytest.raises(ParameterError, match="wave_min has the unit um"):
        SSPLibrary.popstar().trimmed(0.3 * u.um, 0.9 * u.um)
    for unit in ("um", "jansen"):
        with pytest.raises(ParameterError, match=f"zred has the unit {unit}"):
            Cosmology().age_gyr(Column([0.1], unit=u.Unit(unit, parse_strict="silent")))
    with pytest.raises(ParameterError, match="floors not negative"):
        apply_calibration(load_sdss_sample(), floors={"u": np.nan})


@pytest.mark.parametrize("text", ["ugriz", "u", b"ug"])
def test_a_text_is_no_sequence_of_bands(text: Any) -> None:
    for call in (load_sdss_sample, NoiseModel.sdss, load_sdss_sample().select):
        with pytest.raises(ParameterError, match=r"bands=.* is one text"):
            call(bands=text)
    with pytest.raises(ParameterError, match="is one text"):
        Catalog(np.arange(2), text, FLUX, SIGMA, np.ones(2))


def test_names_and_whole_numbers() -> None:
    assert as_names("bands", np.array(["u", "g"])) == ("u", "g")
    with pytest.raises(ParameterError, match="without repetition"):
        Catalog(np.arange(2), ("u", "u"), FLUX, SIGMA, np.ones(2))
    with pytest.raises(ParameterError, match="bands has 1, of type int"):
        as_names("bands", [1])  # type: ignore[list-item]
    with pytest.raises(ParameterError, match="expected a sequence of names"):
        as_names("bands", 3)  # type: ignore[arg-type]
    assert [type(whole_number("n", n)) for n in (3, np.uint8(3), np.array(3))] == [int] * 3
    for wrong in (True, 2.0, 2.5, "3", None, np.nan, Fraction(3), [3], 0, -1):
        with pytest.raises(ParameterError, match=r"n=.* must be an integer of at least 1"):
            whole_number("n", wrong)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n_samples": 2.5}, "n_samples=2.5"),
    ({"n_samples": True}, "n_samples=True"),
    ({"n_samples": None}, "n_samples=None"),
    ({"seed": "1"}, "seed='1'"),
    ({"seed": 2**64}, "seed="),
    ({"n_threads": np.nan}, "n_threads=nan"),
    ({"n_threads": 1.5}, "n_threads=1.5"),
    ({"estimator": "sdss-ugriz"}, "estimator is a str, expected a PosteriorEstimator"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG)
def test_inference_names_wrong_arguments_before_it_works(wrong: dict[str, Any], named: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"estimator": gaussian_estimator(), "catalog": GALAXIES} | wrong
    with pytest.raises(ParameterError, match=named):
        infer_catalog(**given, output=tmp_path / "a.h5")
    with pytest.raises(ParameterError, match=named):
        infer_file(**given, mapping=None, output=tmp_path / "a.fits")
    assert not list(tmp_path.iterdir())


def test_integers_of_numpy_are_as_good(tmp_path: Path) -> None:
    estimator, catalog = gaussian_estimator(), GALAXIES
    infer_catalog(estimator, catalog, tmp_path / "a.h5", n_samples=20, seed=3)
    infer_catalog(
        estimator,
        catalog,
        tmp_path / "b.h5",
        n_samples=np.uint8(20),
        seed=np.int64(3),
        n_threads=np.uint8(2),  # type: ignore[arg-type]
    )
    with read_posteriors(tmp_path / "a.h5") as a, read_posteriors(tmp_path / "b.h5") as b:
        np.testing.assert_array_equal(a.theta(0), b.theta(0))
        assert b.provenance["seed"] == 3
