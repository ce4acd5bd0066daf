"""Inferred redshifts: from training to catalogues, figures and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from scipy import stats
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast import cli
from sedcast.baselines.compare import compare_galaxies
from sedcast.baselines.outcomes import CompareConfig, Setting
from sedcast.data.asinh import asinh_flux, softening_nanomaggies
from sedcast.data.catalog import Catalog, load_sdss_sample, read_catalog
from sedcast.data.config import load_config, parse_config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, CatalogError, ConfigError, ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.emulator.simulation import SimulationConfig
from sedcast.plotting_photoz import photoz_plot
from sedcast.posterior.calibration import calibrate
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.importance import Refiner
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.mocks import Mocks, draw_mocks
from sedcast.posterior.outlier_training import OutlierConfig, draw_like_training, fit_outliers, training_simulator
from sedcast.posterior.photoz import redshift_figures
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.posterior_config import PosteriorConfig
from sedcast.posterior.reweight import PriorModel, reweight_to
from sedcast.posterior.row_reasons import AT_EDGE
from sedcast.posterior.train import fit_posterior, train_posterior
from sedcast.posterior.training_set import TrainingSet

PRIOR = RedshiftPrior(min=0.005, max=0.3, z0=0.07)
SIMULATION = {"n_galaxies": 6000, "seed": 5, "bands": BANDS, "zred": {"min": 0.005, "max": 0.3, "z0": 0.07}}
WIDTH = 0.3


def photoz_estimator(mean: float = 0.0, std: float = 1.0, *, mask: bool = False) -> PosteriorEstimator:
    return gaussian_estimator(mean, std, mask=mask, redshift_prior=PRIOR)


def config(**kwargs) -> PosteriorConfig:
    values = {
        "name": "tiny",
        "redshift": "inferred",
        "simulation": SIMULATION,
        "flow": {"n_blocks": 2, "hidden": [32]},
        "training": {"batch_size": 200, "max_epochs": 15, "learning_rate": 3e-3, "warmup_steps": 10, "ema_decay": 0.9},
    }
    return parse_config(values | kwargs, PosteriorConfig)


def galaxies_of_known_posterior(n: int, seed: int) -> TrainingSet:
    """Galaxies whose u - g is the redshift on the real line with a scatter `WIDTH`; nothing else tells anything."""
    rng = np.random.default_rng(seed)
    zred = PRIOR.sample(n, rng)
    _, ivar, _ = mock_photometry(n, seed)
    magnitude = np.array([20.0, 19.0, 18.3, 18.0, 17.8]) + rng.normal(0, 0.5, (n, 1)) + rng.normal(0, 0.05, (n, 5))
    magnitude[:, 0] = magnitude[:, 1] + 1.5 + 0.5 * (PRIOR.to_unbounded(zred) + WIDTH * rng.standard_normal(n))
    theta = rng.standard_normal((n, 11)).astype(np.float32)
    return TrainingSet(
        theta, asinh_flux(magnitude, softening_nanomaggies(BANDS)), ivar, zred, SimulationConfig.model_validate(SIMULATION)
    )


def test_training_learns_a_known_posterior(tmp_path):
    estimator = fit_posterior(galaxies_of_known_posterior(6000, 1), config(), bases=SFHBases.default(), cosmology=Cosmology())
    fresh = galaxies_of_known_posterior(1000, 2)
    points = estimator.sample_unbounded(fresh.flux, fresh.flux_ivar, None, 200, seed=0)
    assert points.shape == (1000, 200, 12)
    # Prior N(0, 1) and measurement N(z, WIDTH²): the posterior's width and the scatter of its mean follow.
    expected = WIDTH / np.sqrt(1 + WIDTH**2)
    assert points[:, :, -1].std(axis=1).mean() == pytest.approx(expected, rel=0.1)
    residual = points[:, :, -1].mean(axis=1) - PRIOR.to_unbounded(fresh.zred)
    assert residual.std() == pytest.approx(expected, rel=0.15)
    entropy = 12 * 0.5 * np.log(2 * np.pi * np.e) + np.log(expected)
    assert estimator.card["figures"]["validation_nll_nats"] == pytest.approx(entropy, abs=0.25)
    estimator.save(tmp_path / "photoz.npz")
    again = PosteriorEstimator.load(tmp_path / "photoz.npz")
    assert again.redshift_prior == PRIOR
    assert again.infers_redshift
    assert again.card["free_parameter_names"][-1] == "zred"
    np.testing.assert_array_equal(again.sample_unbounded(fresh.flux, fresh.flux_ivar, None, 200, seed=0), points)


def test_training_on_a_stream_draws_redshifts_from_the_prior():
    settings = {
        "simulation": SIMULATION | {"n_galaxies": 600},
        "stream": {"n_validation": 500, "missing": {"optional": ["u"]}},
        "training": {"batch_size": 100, "max_epochs": 2, "warmup_steps": 5},
        "outliers": {"n_fit": 200, "n_calibration": 500, "n_components": 2},
    }
    estimator = train_posterior(config(**settings))
    assert estimator.redshift_prior == PRIOR
    assert estimator.outliers is not None
    assert estimator.context.mask
    assert not any("zred" in name for name in estimator.context.names)
    flux, ivar, _ = mock_photometry(3, 8)
    ivar[0, 0] = 0
    theta, zred = estimator.sample_with_redshift(flux, ivar, 50, seed=0)
    assert estimator.prior.contains(theta.reshape(-1, 12)).all()
    assert ((zred >= PRIOR.min) & (zred <= PRIOR.max)).all()


def test_samples_and_densities_where_the_posterior_is_the_prior():
    estimator = photoz_estimator()
    flux, ivar, _ = mock_photometry(20, 3)
    theta, zred = estimator.sample_with_redshift(flux, ivar, 500, seed=1)
    assert theta.shape == (20, 500, 12)
    assert zred.shape == (20, 500)
    assert stats.kstest(zred.ravel().astype(float), PRIOR.cdf).pvalue > 0.01
    np.testing.assert_array_equal(estimator.sample(flux, ivar, None, 500, seed=1), theta)
    points = estimator.sample_unbounded(flux, ivar, None, 500, seed=1)
    log_prob = estimator.log_prob(theta, flux, ivar, zred)
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(points).sum(axis=2), atol=2e-2)


def test_extreme_redshifts_stay_inside_their_prior():
    for extreme in (-40.0, -8.0, 8.0, 40.0):
        zred = photoz_estimator().redshifts(np.full((1, 2, 12), extreme, dtype=np.float32), None)
        assert zred.dtype == np.float32
        assert ((zred.astype(float) >= PRIOR.min) & (zred.astype(float) <= PRIOR.max)).all()


def test_redshifts_are_asked_for_or_refused():
    flux, ivar, zred = mock_photometry(4, 3)
    with pytest.raises(ParameterError, match="infers the redshift and would not use it"):
        photoz_estimator().sample(flux, ivar, zred, 5, seed=0)
    with pytest.raises(ParameterError, match="does not infer the redshift, pass it"):
        gaussian_estimator().sample(flux, ivar, None, 5, seed=0)
    with pytest.raises(ParameterError, match="does not infer the redshift"):
        gaussian_estimator().sample_with_redshift(flux, ivar, 5, seed=0)
    with pytest.raises(ParameterError, match="'stand-in' does not infer: pass the galaxies' redshifts"):
        gaussian_estimator().redshifts(np.zeros((4, 5, 11)), None)
    theta = photoz_estimator().sample(flux, ivar, None, 5, seed=0)
    with pytest.raises(ParameterError, match="the redshift of each point"):
        photoz_estimator().log_prob(theta, flux, ivar, zred)
    with pytest.raises(ParameterError, match=r"4 values, first 0\.4, beyond its prior's range, 0\.005 to 0\.3"):
        photoz_estimator().log_prob(theta[:, 0], flux, ivar, np.full(4, 0.4))
    ordinary = gaussian_estimator()
    with pytest.raises(ArtifactError, match="has a prior and no column"):
        PosteriorEstimator(
            ordinary.flow, ordinary.domain, ordinary.prior, ordinary.cosmology, ordinary.bases, {}, redshift_prior=PRIOR
        )


def test_what_needs_a_redshift_refuses():
    estimator = photoz_estimator()
    message = "needs the redshift given, which 'stand-in' infers"
    with pytest.raises(ParameterError, match=f"importance refinement {message}"):
        Refiner(estimator, simulator=None)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=f"the comparison with MCMC {message}"):
        compare_galaxies(Setting(estimator, None, "none", CompareConfig()), [], "nowhere")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="redshift"):
        config(redshift="guessed")


def test_the_outlier_score_without_redshifts(tmp_path):
    estimator = photoz_estimator(0.3, 0.5)
    estimator = replace(estimator, card=dict(estimator.card) | {"simulation": SIMULATION})
    scored = fit_outliers(estimator, OutlierConfig(n_fit=400, n_calibration=1000, n_components=4))
    mocks = draw_like_training(scored, training_simulator(scored), 300, seed=77)
    wrong = mocks.flux.copy()
    wrong[:, 2] *= 10
    for flux, low, high in ((mocks.flux, 0.0, 0.05), (wrong, 0.95, 1.0)):
        path = tmp_path / "scored.h5"
        unknown = np.full(300, np.nan)
        infer_catalog(
            scored, Catalog(np.arange(300), BANDS, flux, mocks.flux_ivar, unknown), path, n_samples=64, overwrite=True
        )
        with read_posteriors(path) as posteriors:
            assert posteriors.provenance["outlier_limits"] == ""
            assert low <= np.mean(posteriors.score <= 0.01) <= high


def test_a_catalogue_without_redshifts(tmp_path):
    flux, ivar, _ = mock_photometry(9, 4)
    zred = np.array([np.nan, -1.0, 0.1, 5.0, *[np.nan] * 5])
    ivar[6, 1] = 0
    estimator, output = photoz_estimator(0.3, 0.5), tmp_path / "out.h5"
    figures = infer_catalog(estimator, Catalog(np.arange(9), BANDS, flux, ivar, zred), output, n_samples=200, seed=2)
    assert figures["inferred"] == 8
    with read_posteriors(output) as posteriors:
        assert np.flatnonzero(posteriors.status != "").tolist() == [6]
        np.testing.assert_array_equal(posteriors.zred, zred)
        samples = posteriors.samples(3)
        derived = derived_properties(posteriors.theta(3), samples["zred"], estimator.bases, estimator.cosmology)
        for name, values in derived.items():
            if name in samples:
                np.testing.assert_allclose(samples[name], values, rtol=1e-4, atol=1e-4)
        table = posteriors.summary()
        np.testing.assert_allclose(table["zred_p50"][3], np.median(samples["zred"]), rtol=1e-5)
        assert np.isnan(table["zred_p50"][6])
        assert AT_EDGE not in " ".join(posteriors.flags)
        assert posteriors.provenance["redshift_prior"]["z0"] == 0.07
        assert "trained without one" in posteriors.provenance["outlier_limits"]
        assert np.isnan(posteriors.score).all()
    _, expected = estimator.sample_with_redshift(flux[3:4], ivar[3:4], 200, seed=2, row_keys=np.array([3]))
    np.testing.assert_array_equal(samples["zred"], expected[0])


def test_reweighting_to_another_prior_of_mass_and_redshift():
    """Samples of the prior, weighed, follow the wanted prior, for which mass and redshift need not be independent."""
    estimator = photoz_estimator()
    flux, ivar, _ = mock_photometry(1, 3)
    (theta,), (zred,) = estimator.sample_with_redshift(flux, ivar, 40_000, seed=1)
    model, wanted = PriorModel.of(estimator), RedshiftPrior(min=0.005, max=0.3, z0=0.05)

    def log_density(columns):
        return wanted.log_density(columns["zred"]) + stats.norm.logpdf(columns["log_mstar"], 10 + 5 * columns["zred"], 0.3)

    new = reweight_to(theta, log_density, ["log_mstar", "zred"], model=model, zred=zred)
    rows = new.resample(2000, 1)
    assert stats.kstest(zred[rows].astype(float), wanted.cdf).pvalue > 1e-3
    assert stats.kstest(theta[rows, 0] - 10 - 5 * zred[rows], stats.norm(0, 0.3).cdf).pvalue > 1e-3
    assert new.log_evidence_ratio == pytest.approx(0, abs=0.1)
    # Half precision rounds redshifts out of their range, to either side.
    rounded = np.append(zred[:-2], [0.3, 0.005]).astype(np.float16)
    assert float(rounded.max()) > 0.3
    half = reweight_to(theta.astype(np.float16), log_density, ["log_mstar", "zred"], model=model, zred=rounded)
    assert half.ess == pytest.approx(new.ess, rel=0.02)
    with pytest.raises(ParameterError, match=r"first 0\.3\d+, beyond its prior's range"):
        reweight_to(theta, log_density, ["zred"], model=model, zred=rounded + 0.001)
    with pytest.raises(ParameterError, match="each sample's, the redshift being inferred"):
        reweight_to(theta, log_density, ["zred"], model=model, zred=0.1)
    with pytest.raises(ParameterError, match="not where the redshift is inferred"):
        reweight_to(theta, log_density, ["t_mw_gyr"], model=model, zred=zred)


def test_redshifts_at_the_edge_are_flagged(tmp_path):
    flux, ivar, zred = mock_photometry(3, 4)
    infer_catalog(photoz_estimator(4.0, 0.1), Catalog(np.arange(3), BANDS, flux, ivar, zred), tmp_path / "out.h5", n_samples=50)
    with read_posteriors(tmp_path / "out.h5") as posteriors:
        assert all(AT_EDGE in flags for flags in posteriors.flags)


class ConstantColours:
    """Fluxes that depend on the mass alone."""

    bands = BANDS

    def flux(self, theta, zred, *, n_threads=1):
        colour = 10 ** (-0.4 * np.array([1.8, 0.6, 0.0, -0.3, -0.5]))
        return 60 * colour * 10 ** (theta[:, :1] - 10.5)


def test_calibration_of_redshifts():
    estimator = photoz_estimator()
    mocks = draw_mocks(1500, ConstantColours(), estimator, NoiseModel.sdss(BANDS), seed=8)
    assert stats.kstest(mocks.zred, PRIOR.cdf).pvalue > 0.01
    rng = np.random.default_rng(9)
    points = rng.standard_normal((1500, 11))
    truths = Mocks(estimator.prior.from_unbounded(points), points, mocks.flux, mocks.flux_ivar, mocks.zred)
    result = calibrate(estimator, truths, n_samples=50, seed=10)
    assert result.names[11] == "zred"
    assert len(result.names) - len(result.others) == 15
    assert set(result.quartiles) == {"magnitude", "signal_to_noise"}
    assert result.ks_p_min_holm > 0.01
    assert result.edges.edges[-1] == "zred high"
    shifted = calibrate(photoz_estimator(0.3), truths, n_samples=50, seed=10)
    assert shifted.ks_p[11] < 1e-6


def test_figures_against_spectroscopic_redshifts():
    rng = np.random.default_rng(11)
    spec = rng.uniform(0.05, 0.25, 4000)
    observed = spec + 0.02 * (1 + spec) * rng.standard_normal(4000)
    samples = observed[:, None] + 0.02 * (1 + spec)[:, None] * rng.standard_normal((4000, 99))
    figures = redshift_figures(samples, spec)
    assert figures.sigma_nmad == pytest.approx(0.02, rel=0.06)
    assert figures.sigma_median == pytest.approx(0.02, rel=0.03)
    assert abs(figures.bias) < 0.0015
    assert figures.outliers_5 == pytest.approx(2 * stats.norm.sf(2.5), abs=0.006)
    assert figures.outliers_15 == 0
    assert figures.coverage_68 == pytest.approx(0.68, abs=0.03)
    assert figures.ks_p > 0.01
    described = json.loads(json.dumps(figures.to_json_dict()))
    assert sum(described["pit_histogram"]) == pytest.approx(1)
    assert "pit" not in described
    assert redshift_figures(samples + 0.05, spec).bias == pytest.approx(0.05 / 1.15, abs=0.003)
    assert len(photoz_plot(figures, spec, (0.005, 0.3)).axes) == 3
    with pytest.raises(ParameterError, match="at least one"):
        redshift_figures(samples[:0], spec[:0])
    with pytest.raises(ParameterError, match="one per galaxy"):
        photoz_plot(figures, spec[1:], (0.005, 0.3))


def test_figures_by_hand():
    deviation, spec = np.array([-0.2, -0.06, 0.0, 0.02, 0.2]), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    # Medians, not means.
    samples = spec[:, None] + (1 + spec)[:, None] * (deviation[:, None] + np.array([-0.01, 0.0, 0.03]))
    figures = redshift_figures(samples, spec)
    assert figures.n == 5
    np.testing.assert_allclose(figures.zred, spec + (1 + spec) * deviation)
    assert figures.bias == pytest.approx(0, abs=1e-12)
    assert figures.mean == pytest.approx(-0.008)
    assert figures.sigma_nmad == pytest.approx(0.06 / stats.norm.ppf(0.75), rel=1e-4)
    assert (figures.outliers_5, figures.outliers_15) == (3 / 5, 2 / 5)
    # The quantiles 0.16 and 0.84 of three samples are 0.32 of the way to the second, and 0.68 from it to the last.
    assert figures.sigma_median == pytest.approx((0.68 * 0.01 + 0.68 * 0.03) / 2)
    # Two truths are above all three samples and two below.
    assert np.array(figures.to_json_dict(4)["pit_histogram"])[[0, -1]].tolist() == [2 / 5, 2 / 5]
    with pytest.raises(ParameterError, match="not known"):
        redshift_figures(samples, np.where(spec < 0.15, -1.0, spec))


def test_coverage_does_not_depend_on_the_number_of_samples():
    rng = np.random.default_rng(12)
    spec = rng.uniform(0.05, 0.25, 20_000)
    centre = spec + 0.02 * rng.standard_normal(len(spec))
    for n_samples in (5, 20):
        samples = centre[:, None] + 0.02 * rng.standard_normal((len(spec), n_samples))
        assert redshift_figures(samples, spec).coverage_68 == pytest.approx(0.68, abs=0.015)


def test_tables_without_redshifts(tmp_path):
    flux, ivar, _ = mock_photometry(5, 12)
    table = Table({f"flux_{band}": flux[:, k] for k, band in enumerate(BANDS)})
    for k, band in enumerate(BANDS):
        table[f"flux_ivar_{band}"] = ivar[:, k]
    path = tmp_path / "mine.csv"
    table.write(path)
    with pytest.raises(CatalogError, match="no column 'zred'"):
        read_catalog(path)
    catalog = read_catalog(path, redshift=False)
    assert catalog.ok.all()
    assert np.isnan(catalog.zred).all()
    assert photoz_estimator().status(catalog).ok.all()
    ragged = read_catalog(path, bands=("NUV", *BANDS), ragged=True, redshift=False)
    assert ragged.ok.all()
    assert not load_sdss_sample().subset(slice(0, 5)).select(("r",), redshift=False).status.any()


def test_the_command_line(tmp_path, monkeypatch, capsys):
    model, path, output = tmp_path / "photoz.npz", tmp_path / "mine.csv", tmp_path / "out.h5"
    photoz_estimator().save(model)
    flux, ivar, _ = mock_photometry(5, 12)
    columns = {f"flux_{band}": flux[:, k] for k, band in enumerate(BANDS)}
    Table(columns | {f"flux_ivar_{band}": ivar[:, k] for k, band in enumerate(BANDS)}).write(path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sedcast", "--quiet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr()

    status, streams = run("infer", path, "-o", output, "--model", model, "--n-samples", 20, "--json")
    assert (status, json.loads(streams.out.splitlines()[-1])["inferred"]) == (0, 5)
    with read_posteriors(output) as posteriors:
        assert posteriors.samples(0)["zred"].shape == (20,)
        assert posteriors.quantity_names[: len(PARAMETER_NAMES)] == PARAMETER_NAMES
    status, streams = run("compare", "sdss", "--model", model)
    assert (status, "the comparison with MCMC needs the redshift given" in streams.err) == (2, True)


def test_the_recipe_is_valid():
    recipe = load_config(Path(__file__).parent.parent / "configs" / "posterior_sdss_photoz.toml", PosteriorConfig)
    assert recipe.redshift == "inferred"
    assert recipe.simulation is not None
    assert recipe.simulation.zred.quantile(np.array(0.5)) == pytest.approx(0.104, rel=0.02)


def test_scatter_is_about_the_bias():
    rng = np.random.default_rng(11)
    spec = rng.uniform(0.05, 0.25, 4000)
    observed = spec + 0.02 * (1 + spec) * rng.standard_normal(4000)
    samples = observed[:, None] + 0.02 * (1 + spec)[:, None] * rng.standard_normal((4000, 99))
    figures = redshift_figures(samples + 0.05 * (1 + spec)[:, None], spec)
    assert figures.bias == pytest.approx(0.05, abs=0.002)
    assert figures.sigma_nmad == pytest.approx(0.02, rel=0.06)
    with pytest.raises(ParameterError, match="finite"):
        redshift_figures(samples, np.ma.MaskedArray(spec, spec > 0.2))
