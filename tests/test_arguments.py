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
from matplotlib.figure import Figure
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast.baselines.chain_refiner import ChainRefiner
from sedcast.baselines.coordinates import FlowMap
from sedcast.baselines.mcmc import McmcConfig, run_emcee, run_zeus
from sedcast.baselines.two_sample_tests import two_samples
from sedcast.data.asinh import asinh_flux_error, asinh_magnitude, asinh_magnitude_error, softening_nanomaggies
from sedcast.data.catalog import Catalog, apply_calibration, load_sdss_sample
from sedcast.data.checks import as_floats, as_names, check_memory, whole_number
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.galaxy_fit import fit_galaxy
from sedcast.plotting import corner_plot, mass_sfr_plane, save_figure
from sedcast.plotting_calibration import pp_plot, sbc_plot
from sedcast.posterior.calibration import calibrate
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exchange import to_bagpipes, to_prospector
from sedcast.posterior.importance import RefineConfig, Refiner
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.mocks import Mocks, draw_mocks
from sedcast.posterior.photoz import redshift_figures
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.reweight import PriorModel, reweight_to
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
    "wrong",
    [None, "abc", {"a": 1}, 1j * FLUX, FLUX > 0, FLUX * u.nJy, Column(FLUX, unit="nJy"), [[1.0], [1.0, 2.0]], [[10**400, 1]]],
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


class Bright:
    """Fluxes proportional to the mass."""

    bands = BANDS

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        return 10 ** (theta[:, :1] - 9) * (1 + theta[:, 7:12])


class Other(Bright):
    """With bands, or results, of another kind."""

    def __init__(self, change: Callable[[np.ndarray], Any] = np.asarray, bands: tuple[str, ...] = BANDS) -> None:
        self.change, self.bands = change, bands

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        return self.change(super().flux(theta, zred))


def likelihood_of(simulator: Any, prior: Any = None) -> GaussianLikelihood:
    flux, ivar, zred = GALAXIES.flux[0], GALAXIES.flux_ivar[0], GALAXIES.zred[0]
    return GaussianLikelihood(simulator, Prior() if prior is None else prior, flux=flux, flux_ivar=ivar, zred=zred)


def test_a_simulator_in_other_units_or_bands_is_refused() -> None:
    theta = Prior().sample(3, 0)
    with pytest.raises(ParameterError, match="simulator's fluxes has the unit uJy"):
        likelihood_of(Other(lambda flux: flux * u.uJy)).log_likelihood(theta)
    masked = likelihood_of(Other(lambda flux: np.ma.masked_array(flux, mask=True)))
    assert (masked.log_likelihood(theta) == -np.inf).all()
    for kind in (Refiner, ChainRefiner):
        with pytest.raises(ParameterError, match="simulator has bands z i r g u"):
            kind(gaussian_estimator(), Other(bands=BANDS[::-1]))
        with pytest.raises(ParameterError, match="simulator is a NoneType"):
            kind(gaussian_estimator(), None)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="prior is a PosteriorEstimator"):
        likelihood_of(Bright(), gaussian_estimator())


def test_chains_take_units_and_name_what_is_of_another_kind() -> None:
    estimator, config = gaussian_estimator(), McmcConfig()
    flux, ivar, zred = GALAXIES.flux[0], GALAXIES.flux_ivar[0], GALAXIES.zred[0]
    plain = FlowMap.at(estimator, flux, ivar, zred)
    units = FlowMap.at(estimator, flux * 3.631 * u.uJy, ivar / 3.631**2 * u.uJy**-2, zred)
    np.testing.assert_allclose(units.context, plain.context, rtol=1e-5)
    for run in (run_emcee, run_zeus):
        with pytest.raises(ParameterError, match="likelihood is a str"):
            run("galaxy", config)  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match="config is a dict"):
            run(likelihood_of(Bright()), {})  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match="flow is a PosteriorEstimator"):
            run(likelihood_of(Bright()), config, flow=estimator)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="key=-1"):
        ChainRefiner(estimator, Bright())(flux, ivar, zred, 10, seed=0, key=-1)


def test_masked_values_are_no_values_in_pictures_and_subsets() -> None:
    mass, masked = np.arange(4.0), np.ma.masked_array(np.arange(4.0), mask=[1, 0, 0, 0])
    assert len(mass_sfr_plane(masked, mass).axes[0].lines[0].get_xdata()) == 3
    for wrong in (mass * u.Msun, "abc", mass[:3]):
        with pytest.raises(ParameterError, match="log_mstar"):
            mass_sfr_plane(wrong, mass)
    ranks = np.full((4, 2), 0.5)
    for plot in (pp_plot, sbc_plot):
        with pytest.raises(ParameterError, match="ranks"):
            plot(np.ma.masked_array(ranks, mask=ranks > 0), ["dust1", "dust2"])
        with pytest.raises(ParameterError, match="is one text"):
            plot(ranks, "ab")
    for truth in ([1.0], "ab", [np.nan, 1.0]):
        with pytest.raises(ParameterError, match="truth"):
            corner_plot({"a": np.random.default_rng(0).normal(size=(50, 2))}, ["dust1", "dust2"], truth=truth)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="index is masked in part"):
        GALAXIES.subset(np.ma.masked_array([True, True, True], mask=[0, 1, 0]))
    for index in (0, 1.0, [3], [True, False], np.ones((3, 5), bool), "a"):
        with pytest.raises(ParameterError, match="index"):
            GALAXIES.subset(index)  # type: ignore[arg-type]
    assert GALAXIES.subset([]).ids.tolist() == []  # type: ignore[arg-type]


def test_pictures_have_a_known_ending_before_a_file_is_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no kind of picture is called xyz"):
        save_figure(Figure(), tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())


def test_catalogues_name_ids_and_reasons_that_are_none() -> None:
    rows = GALAXIES.bands, GALAXIES.flux, GALAXIES.flux_ivar, GALAXIES.zred
    for status in (None, [True, False, True], [np.nan] * 3, [None] * 3):
        with pytest.raises(CatalogError, match="status"):
            Catalog(np.arange(3), *rows, status)  # type: ignore[arg-type]
    for ids in (None, np.arange(3)[:, None], 7):
        with pytest.raises(CatalogError, match="ids"):
            Catalog(ids, *rows)  # type: ignore[arg-type]


def test_exchanged_samples_are_of_one_galaxy() -> None:
    theta = Prior().sample(5, 0)
    samples = {name: theta[:, k] for k, name in enumerate(PARAMETER_NAMES)}
    likelihood = likelihood_of(Bright())
    derived = dict.fromkeys(("log_sfr_100myr", "log_z_mw", "t_mw_gyr"), theta[:, 0])
    for change in (lambda x: x[:, None], lambda x: x[:0], lambda x: x[0]):
        with pytest.raises(ParameterError, match="of one galaxy"):
            to_bagpipes({name: change(values) for name, values in (samples | derived).items()}, zred=0.1)
        with pytest.raises(ParameterError, match="of one galaxy"):
            to_prospector({name: change(values) for name, values in samples.items()}, likelihood)
    for age in (-0.1, None, np.nan, 0.1 * u.Gyr):
        with pytest.raises(ParameterError, match="t_birth_cloud_gyr"):
            to_prospector(samples, likelihood, t_birth_cloud_gyr=age)  # type: ignore[arg-type]


def test_densities_and_redshifts_that_are_no_numbers_are_refused() -> None:
    model, theta = PriorModel.of(gaussian_estimator()), Prior().sample(20, 0)
    for change in (lambda x: x * 1j, lambda x: x * u.mag, lambda x: x > 0, lambda x: np.ma.masked_array(x, mask=x > 0)):
        with pytest.raises(ParameterError, match="log_density"):
            reweight_to(theta, lambda c, change=change: change(c["dust1"]), ["dust1"], model=model, zred=0.1)  # type: ignore[misc]
    with pytest.raises(ParameterError, match="model is a PosteriorEstimator"):
        reweight_to(theta, lambda c: c["dust1"], ["dust1"], model=gaussian_estimator(), zred=0.1)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="zred_spec has -99"):
        redshift_figures(np.full((2, 5), 0.1), np.array([0.1, -99.0]))
    with pytest.raises(ParameterError, match="n_joint=-1"):
        two_samples(theta, theta, n_joint=-1, seed=0)


def test_mocks_fit_together() -> None:
    estimator, theta = gaussian_estimator(), Prior().sample(20, 0)
    flux, ivar, zred = mock_photometry(20, 3)
    points = Prior().to_unbounded(theta)
    with pytest.raises(ParameterError, match="first axis"):
        Mocks(theta, points, flux[:5], ivar[:5], zred)
    with pytest.raises(ParameterError, match="mocks is a Catalog"):
        calibrate(estimator, GALAXIES, seed=0)  # type: ignore[arg-type]
    for measured in (np.ones((2, 5)), np.zeros((3, 5)), np.full((3, 5), 2)):
        with pytest.raises(ParameterError, match="measured has shape"):
            draw_mocks(3, Bright(), estimator, NoiseModel.sdss(bands=BANDS), seed=0, measured=measured)


@pytest.mark.parametrize("path", [None, 3, b"a.h5", ["a.h5"]])
def test_what_is_no_path_is_named(path: Any) -> None:
    for read in (read_posteriors, PosteriorEstimator.load, PosteriorEstimator.find):
        with pytest.raises(ParameterError, match="is no name of a file"):
            read(path)


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    infer_catalog(gaussian_estimator(), GALAXIES, tmp_path / "a.h5", n_samples=20)
    with read_posteriors(tmp_path / "a.h5") as posteriors:
        pass
    for read in (len, lambda p: p.samples(0), lambda p: p.summary(), lambda p: p.row(0), lambda p: p.flux):
        with pytest.raises(ParameterError, match="is closed"):
            read(posteriors)


def test_errors_of_a_galaxy_may_be_a_list_of_quantities() -> None:
    mags = {"u": 18.95, "g": 17.67, "r": 16.94, "i": 16.53, "z": 16.26}
    plain = fit_galaxy(mags, errors=[0.05] * 5, zred=0.09, n_samples=20)
    units = fit_galaxy(mags, errors=[50 * u.mmag] * 5, zred=0.09, n_samples=20)
    np.testing.assert_allclose(units.galaxy.flux_ivar, plain.galaxy.flux_ivar)
    with pytest.raises(ParameterError, match="errors are of 0, 1"):
        fit_galaxy(mags, errors=dict.fromkeys(range(5), 0.05), zred=0.09)


def test_what_no_memory_holds_is_refused_before_the_work(tmp_path: Path) -> None:
    estimator, many = gaussian_estimator(), 10**12
    row = GALAXIES.flux[:1], GALAXIES.flux_ivar[:1], GALAXIES.zred[:1]
    one = GALAXIES.flux[0], GALAXIES.flux_ivar[0], GALAXIES.zred[0]
    for call in (
        lambda: estimator.sample(*row, many, seed=0),
        lambda: infer_catalog(estimator, GALAXIES, tmp_path / "a.h5", n_samples=many),
        lambda: Prior().sample(many, 0),
        lambda: Refiner(estimator, Bright())(*one, many, seed=0),
        # Rounds begin at ten times as many draws of the prior.
        lambda: Refiner(estimator, Bright(), RefineConfig(n_draws=many // 10))(*one, 5, seed=0),
        lambda: ChainRefiner(estimator, Bright())(*one, many, seed=0),
        lambda: draw_mocks(many, Bright(), estimator, NoiseModel.sdss(bands=BANDS), seed=0),
    ):
        with pytest.raises(ParameterError, match=r"1,000,000,000,000 .* need [\d,]+ GiB of memory at least"):
            call()
    assert not list(tmp_path.iterdir())
    check_memory("a few numbers", 1000)
