"""Astropy's units where arrays are."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.utils.masked import Masked

from sedcast.data.catalog import Catalog, load_sdss_sample, read_catalog
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.units import NANOMAGGIES_PER_UNIT, as_nanomaggies, contradicts
from sedcast.emulator.prior import Prior
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.outlier_training import training_simulator

FLUX, SIGMA = np.array([[10.0, 20.0], [30.0, 5.0]]), np.array([[0.5, 1.0], [2.0, 0.1]])
# A nanomaggie is 3.631 µJy (Fukugita et al. 1996: the AB zero point is 3631 Jy).
MICRO = 3.631


@pytest.mark.parametrize(
    ("flux", "spread"),
    [
        (FLUX * u.nmgy, SIGMA**-2 / u.nmgy**2),
        (FLUX * u.nmgy, SIGMA * u.nmgy),
        (FLUX * MICRO * u.uJy, (SIGMA * MICRO) ** -2 * u.uJy**-2),
        (FLUX * MICRO * 1e3 * u.nJy, SIGMA * MICRO * u.uJy),
        (FLUX * MICRO * 1e-29 * u.erg / u.s / u.cm**2 / u.Hz, SIGMA * MICRO * u.uJy),
        ((22.5 - 2.5 * np.log10(FLUX)) * u.ABmag, SIGMA / FLUX * 2.5 / np.log(10) * u.mag),
        ((22.5 - 2.5 * np.log10(FLUX)) * u.ABmag, SIGMA / FLUX * 2.5 / np.log(10) * u.ABmag),
        (Column(FLUX * MICRO, unit="uJy"), Column(SIGMA * MICRO, unit="uJy")),
        (FLUX, SIGMA**-2),
    ],
)
def test_every_way_to_say_it_gives_the_same_nanomaggies(flux: object, spread: object) -> None:
    got_flux, got_ivar = as_nanomaggies(flux, spread)
    assert type(got_flux) is type(got_ivar) is np.ndarray
    assert np.allclose(got_flux, FLUX, rtol=1e-12)
    assert np.allclose(got_ivar, SIGMA**-2, rtol=1e-12)


@pytest.mark.parametrize("unit", [unit for unit in NANOMAGGIES_PER_UNIT if unit.endswith("Jy")])
def test_units_of_plain_numbers_are_those_of_astropy(unit: str) -> None:
    assert NANOMAGGIES_PER_UNIT[unit] == pytest.approx(u.Unit(unit).to(u.uJy) / MICRO, rel=1e-12)


def test_what_is_masked_or_has_no_error_is_not_measured() -> None:
    hidden = np.array([[True, False], [False, False]])
    masked = Masked(FLUX * MICRO * u.uJy, mask=hidden)
    none = SIGMA * MICRO * u.uJy
    none[1, 1] = 0
    flux, ivar = as_nanomaggies(masked, none)
    assert np.isnan(flux[0, 0])
    assert ivar[1, 1] == 0
    assert np.isnan(as_nanomaggies(MaskedColumn(FLUX[0], mask=[True, False]), SIGMA[0])[0][0])


@pytest.mark.parametrize(
    ("flux", "spread", "said"),
    [
        (FLUX * u.Jy, SIGMA, "give both with units"),
        (FLUX * u.m, SIGMA * u.m, "flux has the unit m"),
        (FLUX * u.erg / u.s / u.cm**2 / u.AA, SIGMA * u.Jy, "flux per wavelength must be converted"),
        (FLUX * u.Jy, SIGMA * u.s, "flux_ivar has the unit s"),
        (FLUX * u.STmag, SIGMA * u.mag, "expected AB magnitudes"),
    ],
)
def test_other_units_are_refused(flux: object, spread: object, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        as_nanomaggies(flux, spread)


def test_units_are_understood_where_photometry_goes_in() -> None:
    estimator = PosteriorEstimator.default()
    sample = load_sdss_sample(bands=estimator.bands).subset(slice(0, 2))
    flux, error = sample.flux * MICRO * u.uJy, sample.sigma * MICRO * u.uJy
    plain = estimator.sample(sample.flux, sample.flux_ivar, sample.zred, 5, seed=1)
    assert np.allclose(estimator.sample(flux, error, sample.zred, 5, seed=1), plain, rtol=1e-3)
    catalog = Catalog(sample.ids, sample.bands, flux, error, sample.zred)
    assert np.allclose(catalog.flux_ivar, sample.flux_ivar)
    simulator = training_simulator(estimator)
    likelihood = GaussianLikelihood(simulator, Prior(), flux=flux[0], flux_ivar=error[0], zred=0.1)
    assert np.allclose(likelihood.data[1], sample.flux[0])


@pytest.mark.parametrize(
    ("stated", "unit", "expected"),
    [
        ("", "nanomaggies", False),
        ("nanomaggies", "nanomaggies", False),
        ("nanomaggy", "nanomaggies", False),
        ("Maggies", "nanomaggies", True),
        ("maggie", "maggies", False),
        ("microJy", "uJy", False),
        ("microJy", "mJy", True),
        ("uJy", "uJy", False),
        ("1e-29 erg / (s cm2 Hz)", "uJy", False),
        ("uJy", "nanomaggies", True),
        ("uJy", "AB", True),
        ("mag", "AB", False),
        ("mag(AB)", "asinh", False),
        ("mag", "uJy", True),
        ("erg / (s cm2 Angstrom)", "nanomaggies", True),
        ("ct / s", "nanomaggies", True),
        ("nmgy / arcsec2", "nanomaggies", True),
        ("Jy, Jy", "nanomaggies", False),
        ("AB", "AB", False),
        ("AB magnitudes", "AB", False),
        ("mag(ST)", "AB", True),
        ("mag(Jy)", "AB", True),
        ("dex", "AB", True),
        ("mmag", "AB", True),
        ("whatever", "nanomaggies", False),
    ],
)
def test_what_a_column_says_of_its_unit(stated: str, unit: str, expected: bool) -> None:
    assert contradicts(stated, unit) is expected


def test_inverse_variances_and_counts() -> None:
    assert not contradicts("1 / nanomaggy2", "nanomaggies", inverse_variance=True)
    assert contradicts("1 / nJy2", "uJy", inverse_variance=True)
    assert not contradicts("ct / s", "nanomaggies", counts=True)
    assert contradicts("erg / (s cm2 Angstrom)", "nanomaggies", counts=True)


def test_a_table_in_memory_is_a_catalogue() -> None:
    table = QTable({"id": [7, 8], "zred": [0.1, 0.2]})
    for column, band in enumerate("gr"):
        table[f"flux_{band}"] = FLUX[:, column] * MICRO * u.uJy
        table[f"flux_err_{band}"] = SIGMA[:, column] * MICRO * 1e3 * u.nJy
    catalog = read_catalog(table, bands=["g", "r"])
    assert np.allclose(catalog.flux, FLUX)
    assert np.allclose(catalog.flux_ivar, SIGMA**-2)
    assert catalog.ids.tolist() == [7, 8]
    table["flux_err_r"] = table["flux_err_r"].value
    with pytest.raises(CatalogError, match="'flux_g' says its unit is 'uJy', but is to be read in 'nanomaggies'"):
        read_catalog(table, bands=["g", "r"])


@pytest.mark.parametrize("stated", ["AB", "ab mag", "mag(AB)"])
@pytest.mark.parametrize("kind", ["ecsv", "fits"])
@pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")
def test_magnitudes_in_files_are_known_by_what_their_columns_state(stated: str, kind: str, tmp_path: Path) -> None:
    magnitude, error = 22.5 - 2.5 * np.log10(FLUX[:, 0]), SIGMA[:, 0] / FLUX[:, 0] * 2.5 / np.log(10)
    columns = {"flux_r": np.append(magnitude, 99.0), "flux_err_r": np.append(error, 0.1), "zred": [0.1, 0.2, 0.3]}
    if kind == "ecsv":
        table = Table(columns)
        for name in ("flux_r", "flux_err_r"):
            table[name].unit = u.Unit(stated, parse_strict="silent")
        table.write(tmp_path / "t.ecsv")
    else:
        units = {"flux_r": stated, "flux_err_r": stated}
        made = [fits.Column(name, "D", unit=units.get(name), array=values) for name, values in columns.items()]
        fits.BinTableHDU.from_columns(made).writeto(tmp_path / "t.fits")
    catalog = read_catalog(tmp_path / f"t.{kind}", bands=["r"])
    np.testing.assert_allclose(catalog.flux[:2, 0], FLUX[:, 0], rtol=1e-9)
    np.testing.assert_allclose(catalog.flux_ivar[:2, 0], SIGMA[:, 0] ** -2, rtol=1e-9)
    assert catalog.status.tolist() == ["", "", "no measurement in r"]


def test_masked_numbers_without_a_unit_are_not_measured() -> None:
    flux, _ = as_nanomaggies(Masked(FLUX, mask=[[True, False], [False, False]]), SIGMA**-2)
    np.testing.assert_array_equal(np.isnan(flux), [[True, False], [False, False]])


def test_units_of_columns_and_missing_numbers_of_data_frames() -> None:
    names = Column(FLUX, unit="nanomaggies"), Column(SIGMA**-2, unit="nanomaggies-2")
    for found, expected in zip(as_nanomaggies(*names), (FLUX, SIGMA**-2), strict=True):
        np.testing.assert_allclose(found, expected)

    class Frame:
        """As pandas makes arrays of a nullable column."""

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise TypeError("float() argument must be a string or a real number, not 'NAType'")

        def to_numpy(self, dtype: type, na_value: float) -> np.ndarray:
            return np.array([[1.0, na_value]], dtype=dtype)

    np.testing.assert_array_equal(as_nanomaggies(Frame(), np.ones((1, 2)))[0], [[1.0, np.nan]])
