"""One call for one galaxy."""

from collections.abc import Iterator, KeysView
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u

from sedcast import GalaxyFit, PosteriorEstimator, fit_galaxy
from sedcast.data.asinh import POGSON
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.posterior.estimator import RowStatus
from sedcast.posterior.infer import quantity_names
from sedcast.posterior.posterior_catalog import read_posteriors

MAGS = {"u": 18.95, "g": 17.67, "r": 16.94, "i": 16.53, "z": 16.26}
ERRORS = [0.067, 0.021, 0.021, 0.021, 0.033]
FLUX = {band: 10 ** (0.4 * (22.5 - mag)) for band, mag in MAGS.items()}
FLUX_ERRORS = np.array([flux * error / POGSON for flux, error in zip(FLUX.values(), ERRORS, strict=True)])


class Labelled:
    """Values with names that is no mapping, as a Series of pandas."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values.values())

    def keys(self) -> KeysView[str]:
        return self.values.keys()

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@pytest.fixture(scope="module")
def fitted() -> GalaxyFit:
    return fit_galaxy(MAGS, errors=ERRORS, zred=0.09, n_samples=300, seed=3)


def test_it_is_the_estimator_and_its_derived_properties(fitted: GalaxyFit) -> None:
    estimator = PosteriorEstimator.default()
    flux, ivar = np.array([list(FLUX.values())]), FLUX_ERRORS[None] ** -2.0
    theta = estimator.sample(flux, ivar, np.array([0.09]), 300, seed=3)[0]
    np.testing.assert_allclose(np.stack([fitted.samples[name] for name in PARAMETER_NAMES], axis=1), theta, rtol=1e-5)
    derived = derived_properties(theta, 0.09, estimator.bases, estimator.cosmology, surviving=estimator.surviving)
    for name, values in derived.items():
        np.testing.assert_allclose(fitted.samples[name], values, rtol=1e-4, atol=1e-4)
    assert tuple(fitted.samples) == quantity_names(estimator)
    draws = estimator.draw(flux, ivar, np.array([0.09]), 300, seed=3)
    assert fitted.log_evidence == pytest.approx(draws.log_evidence[0])
    assert fitted.efficiency == pytest.approx(draws.efficiency[0])
    assert fitted.flags == ""
    assert 0 < fitted.score <= 1
    mass = fitted.intervals["log_mstar"]
    low, median, high = np.percentile(fitted.samples["log_mstar"], [16, 50, 84])
    assert (mass["p16"], mass["median"], mass["p84"]) == pytest.approx((low, median, high))
    # The prior is uniform over 7 to 12.5.
    assert mass["width_over_prior"] == pytest.approx((high - low) / (0.68 * 5.5), rel=0.03)


@pytest.mark.parametrize(
    "given",
    [
        {"mags": {band: mag * u.ABmag for band, mag in MAGS.items()}, "errors": ERRORS * u.mag},
        {"mags": dict(reversed(MAGS.items())), "errors": dict(zip(MAGS, ERRORS, strict=True))},
        {"mags": Labelled(MAGS), "errors": Labelled(dict(reversed(list(zip(MAGS, ERRORS, strict=True)))))},
        {"flux": FLUX, "errors": FLUX_ERRORS},
        {"flux": {band: 3.631 * flux * u.uJy for band, flux in FLUX.items()}, "errors": 3.631 * FLUX_ERRORS * u.uJy},
        {"flux": {band: 3631 * flux * u.nJy for band, flux in FLUX.items()}, "errors": ERRORS * u.mag},
    ],
)
def test_the_same_photometry_said_otherwise(fitted: GalaxyFit, given: dict[str, Any]) -> None:
    same = fit_galaxy(**given, zred=np.array(0.09), n_samples=300, seed=3)
    assert same.log_evidence == pytest.approx(fitted.log_evidence, abs=1e-6)
    np.testing.assert_allclose(same.samples["log_mstar"], fitted.samples["log_mstar"], atol=1e-3)


def test_without_a_redshift_it_is_inferred_and_a_flux_may_be_negative() -> None:
    photoz = fit_galaxy(MAGS, errors=0.03, n_samples=200)
    assert photoz.estimator.name == "sdss-photoz"
    assert photoz.samples["zred"].shape == (200,)
    assert photoz.summary()["name"][0] == "zred"
    faint = fit_galaxy(flux={"FUV": -0.1, "g": 3.0, "r": 6.0}, errors=[0.2, 0.1, 0.1], zred=0.1, n_samples=200)
    assert faint.estimator.name == "galex-sdss"
    assert faint.galaxy.flux[0, 0] == -0.1
    assert (faint.galaxy.flux_ivar[0] > 0).tolist() == [True, False, False, True, True, False, False]


def test_its_tables_pictures_and_file(fitted: GalaxyFit, tmp_path: Path) -> None:
    table, summary = fitted.table(), fitted.summary()
    np.testing.assert_array_equal(table["t_mw_gyr"], fitted.samples["t_mw_gyr"])
    assert table["t_mw_gyr"].unit == "Gyr"
    assert table["log_mstar"].description == "log mass formed [Msun]"
    assert summary[0]["quantity"] == "log mass formed"
    assert summary[0]["median"] == fitted.intervals["log_mstar"]["median"]
    # A terminal of the usual width shows every column.
    assert max(map(len, summary.pformat(max_width=80))) <= 80
    assert "..." not in summary.pformat(max_width=80)[0]
    assert {"beta1_sfh", "gamma1_zh"}.isdisjoint(summary["name"])
    # Six quantities; nine and a spectrum.
    assert [len(fitted.corner_plot().axes), len(fitted.posterior_figure().axes)] == [36, 82]
    again = fit_galaxy(MAGS, errors=ERRORS, zred=0.09, n_samples=300, seed=3, model="sdss-ugriz", output=tmp_path / "galaxy.h5")
    with read_posteriors(tmp_path / "galaxy.h5") as posteriors:
        np.testing.assert_array_equal(posteriors.samples(0)["a_v"], again.samples["a_v"])
    np.testing.assert_array_equal(fitted.samples["a_v"], again.samples["a_v"])
    (tmp_path / "mine.h5").write_text("precious")
    with pytest.raises(ParameterError, match="is there already"):
        fit_galaxy(MAGS, errors=ERRORS, zred=0.09, output=tmp_path / "mine.h5")


def test_a_galaxy_without_a_posterior_is_asked_for_once_and_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, status = [], PosteriorEstimator.status

    def counted(estimator: PosteriorEstimator, catalog: Catalog) -> RowStatus:
        asked.append(len(catalog))
        return status(estimator, catalog)

    monkeypatch.setattr(PosteriorEstimator, "status", counted)
    output = tmp_path / "galaxy.h5"
    fit_galaxy(MAGS, errors=ERRORS, zred=0.09, n_samples=100, output=output)
    held = output.read_bytes()
    with pytest.raises(ParameterError, match=r"redshift 3 beyond the training range.*; check zred, or train"):
        fit_galaxy(MAGS, errors=ERRORS, zred=3.0, n_samples=100, output=output, overwrite=True)
    assert asked == [1, 1]
    assert output.read_bytes() == held
    assert "have no posterior" not in caplog.text
    with pytest.raises(ParameterError, match=r"expected a name that ends in \.h5"):
        fit_galaxy(MAGS, errors=ERRORS, zred=0.09, output=tmp_path / "galaxy.fits")
    assert [path.name for path in tmp_path.iterdir()] == ["galaxy.h5"]


@pytest.mark.filterwarnings("ignore")
def test_it_goes_to_arviz(fitted: GalaxyFit) -> None:
    pytest.importorskip("arviz")
    data = fitted.to_arviz()
    np.testing.assert_array_equal(data["posterior"]["dust2"].values[0], fitted.samples["dust2"])
    assert data["posterior"].attrs["log_evidence"] == fitted.log_evidence
    assert data["observed_data"].attrs["zred"] == 0.09
    photoz = fit_galaxy({"g": 17.67, "r": 16.94, "i": 16.53, "u": 18.95, "z": 16.26}, errors=0.03, n_samples=100).to_arviz()
    assert photoz["posterior"]["zred"].shape == (1, 100)
    assert "zred" not in photoz["observed_data"].attrs


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"errors": 0.1}, "either mags or flux"),
        ({"mags": MAGS, "flux": FLUX, "errors": 0.1}, "either mags or flux"),
        ({"mags": [18.0, 17.0], "errors": 0.1}, "one number a band"),
        ({"mags": MAGS | {"u": -5}, "errors": 0.1}, "u=-5 is no AB magnitude"),
        ({"mags": MAGS | {"u": float("nan")}, "errors": 0.1}, "u=nan is no AB magnitude"),
        ({"mags": MAGS | {"u": 99}, "errors": 0.1}, "not measured is left out"),
        ({"mags": MAGS | {"u": "faint"}, "errors": 0.1}, "u='faint' is no number"),
        ({"mags": MAGS | {"u": True}, "errors": 0.1}, "u=True is no number"),
        ({"mags": MAGS | {"u": [18, 19] * u.ABmag}, "errors": 0.1}, "mags: u=.* is no number; for many .* infer_catalog"),
        ({"mags": MAGS | {"u": 10**400}, "errors": 0.1}, "mags: u=1000* is no number"),
        ({"mags": MAGS, "errors": 0.1, "zred": 10**400}, "zred: expected a number"),
        ({"mags": {1: 18.0}, "errors": 0.1}, "one number a band"),
        ({"mags": MAGS | {"u": 3 * u.uJy}, "errors": 0.1}, "u has the unit uJy: expected AB magnitudes .*flux="),
        ({"mags": MAGS | {"u": 18 * u.STmag}, "errors": 0.1}, "expected AB magnitudes"),
        ({"mags": MAGS, "errors": 0.1 * u.uJy}, "errors: u has the unit uJy: expected mag"),
        ({"mags": MAGS, "errors": [0.1, 0.1]}, "2 numbers for the 5 bands"),
        ({"mags": MAGS, "errors": {"u": 0.1}}, "name the same bands"),
        ({"mags": MAGS, "errors": 0.0}, "u=0 is not an error"),
        ({"flux": FLUX | {"u": float("nan")}, "errors": 0.1}, "leave out a band"),
        ({"flux": FLUX | {"u": [1, 2] * u.uJy}, "errors": 0.1 * u.uJy}, "flux: u=.* is no number"),
        ({"flux": FLUX, "errors": np.full((len(FLUX), 1), 0.1)}, "errors: .* is no number"),
        ({"flux": FLUX, "errors": -1.0}, "not an error of a flux"),
        ({"flux": FLUX, "errors": 1e-200}, "not an error of a flux"),
        ({"flux": FLUX, "errors": float("nan") * u.uJy}, "both with units, or neither"),
        ({"flux": {"g": 3 * u.uJy}, "errors": float("nan") * u.uJy}, "not an error of a flux"),
        ({"flux": {"g": 18 * u.ABmag}, "errors": 0.1 * u.mag}, "go in as mags="),
        ({"mags": {"Y": 18}, "errors": 0.1}, "no posterior for Y with a redshift"),
        ({"mags": MAGS, "errors": 0.1, "zred": 3.0}, "beyond the training range"),
        ({"mags": MAGS, "errors": 0.1, "zred": "0.1"}, "zred: expected a number"),
        ({"mags": MAGS, "errors": 0.1, "zred": True}, "zred: expected a number"),
        ({"mags": MAGS, "errors": 0.1, "zred": np.ma.masked}, "zred: expected a number"),
        ({"mags": MAGS, "errors": 0.1, "zred": np.array([0.1])}, "zred: expected a number"),
        ({"mags": MAGS, "errors": 0.1, "zred": None, "model": "sdss-ugriz"}, "needs a redshift"),
        ({"mags": MAGS, "errors": 0.1, "n_samples": 0}, "n_samples=0"),
        ({"mags": MAGS, "errors": 0.1, "n_samples": 100.0}, "n_samples=100.0: must be an integer of at least 1"),
    ],
)
def test_mistakes_are_explained(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        fit_galaxy(**{"zred": 0.09} | given)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ArtifactError, match="no posterior 'nothing'"):
        fit_galaxy(MAGS, errors=0.1, zred=0.09, model="nothing")
