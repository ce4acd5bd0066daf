"""Importance refinement against posteriors and evidences that are known exactly."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal, norm
from standin import gaussian_estimator, mock_photometry

from sedcast.baselines.fallback import FAILED, NOT_CONVERGED, emcee_fallback
from sedcast.baselines.mcmc import McmcConfig, run_emcee
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import Refined
from sedcast.posterior.importance import HEAVY_TAIL, INEFFICIENT, UNRESOLVED, RefineConfig, Refiner, _Draws
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.mass import MassConditional
from sedcast.posterior.outlier_training import training_simulator
from sedcast.posterior.posterior_catalog import REFINEMENT_NAMES, read_posteriors
from sedcast.posterior.student_mixture import StudentMixture

FLUX = np.array([20.0, 26.0, 30.0, 33.0, 36.0])
ZRED = 0.1
NARROW = Prior(log_mstar=(10.0, 10.0 + 1e-9))


class Linear:
    """Fluxes proportional to the mass and linear in the ten other probit coordinates."""

    def __init__(self, prior, slope=1.0):
        self.prior = prior
        self.slopes = slope * np.random.default_rng(3).standard_normal((10, 5))

    def flux(self, theta, zred):
        return 10 ** (theta[:, :1] - 10) * (
            np.array([18.0, 25.0, 31.0, 34.0, 35.0]) + self.prior.to_unbounded(theta)[:, 1:] @ self.slopes
        )


def exact_linear(sigma):
    """Posterior mean and covariance of the ten coordinates, and the evidence, where the mass is known."""
    model = Linear(NARROW)
    ivar = np.diag(sigma**-2.0)
    residual = FLUX - np.array([18.0, 25.0, 31.0, 34.0, 35.0])
    covariance = np.linalg.inv(np.eye(10) + model.slopes @ ivar @ model.slopes.T)
    mean = covariance @ model.slopes @ ivar @ residual
    evidence = multivariate_normal(np.zeros(5), np.diag(sigma**2) + model.slopes.T @ model.slopes).logpdf(residual)
    return mean, covariance, evidence


def refiner(std=1.0, prior=NARROW, mean=0.0, slope=1.0, **config):
    estimator = replace(gaussian_estimator(mean, std), prior=prior)
    return Refiner(estimator, Linear(prior, slope), RefineConfig(**config))


@pytest.mark.parametrize(
    ("sigma", "config", "step"),
    [
        (3.0, {"contexts_below": 0.0, "max_rounds": 0}, "flow"),
        (3.0, {"contexts_below": 1.0, "max_rounds": 0}, "contexts"),
        (0.3, {"contexts_below": 0.0, "adapt_below": 0.5, "max_rounds": 6}, "adapted"),
    ],
)
def test_posterior_and_evidence_of_a_linear_model(sigma, config, step):
    sigma = np.full(5, sigma)
    mean, covariance, evidence = exact_linear(sigma)
    # The first steps propose the prior, a little widened, for posteriors within it.
    result = refiner(1.1, n_draws=20_000, **config)(FLUX, sigma**-2, ZRED, 4000, seed=2)
    assert result.step == step or (step == "contexts" and result.step == "flow")
    assert result.flag == ""
    assert result.tried[0][0] == "flow"
    assert result.efficiency == max(efficiency for _, efficiency, *_ in result.tried)
    assert result.log_evidence == pytest.approx(evidence, abs=4 * result.log_evidence_error)
    assert result.log_evidence_error < 0.05
    found = result.theta_unbounded[:, 1:]
    error = np.sqrt(np.diag(covariance) * (1 / result.ess + 1 / 4000))
    assert (np.abs(found.mean(axis=0) - mean) < 4.5 * error).all()
    np.testing.assert_allclose(found.std(axis=0), np.sqrt(np.diag(covariance)), rtol=0.12)
    assert NARROW.contains(result.theta).all()


def test_evidence_over_seeds_scatters_as_its_error_says():
    sigma = np.full(5, 3.0)
    evidence = exact_linear(sigma)[2]
    refine = refiner(1.1, n_draws=2000, contexts_below=0.0, max_rounds=0, max_khat=9.0)
    runs = [refine(FLUX, sigma**-2, ZRED, 10, seed=seed) for seed in range(60)]
    pulls = np.array([(run.log_evidence - evidence) / run.log_evidence_error for run in runs])
    assert abs(pulls.mean()) < 0.6
    assert 0.7 < pulls.std() < 1.5


@pytest.mark.parametrize(
    ("flux", "sigma"), [(20.0, 0.5), (20.0, 12.0), (-3.0, 2.0), (0.0, 5.0), (3e6, 4e4), (354.2, 10.0), (-3.797, 1.0)]
)
def test_mass_is_integrated_and_drawn_exactly(flux, sigma):
    class Colours:
        def flux(self, theta, zred):
            return 10 ** (theta[:, :1] - 10) * np.array([1.0, 2.0])

    prior = Prior()
    observed = np.array([flux, 2 * flux])
    likelihood = GaussianLikelihood(Colours(), prior, flux=observed, flux_ivar=np.full(2, sigma**-2), zred=0.1)

    # The posterior of log mass on a grid far finer than the peak.
    grid = np.linspace(7, 12.5, 1_000_001)
    scale = 10 ** (grid - 10)
    log_density = norm(scale, sigma).logpdf(flux) + norm(2 * scale, sigma).logpdf(2 * flux)
    density = np.exp(log_density - log_density.max())
    theta = prior.sample(6000, 1)
    mass = MassConditional.of(likelihood, likelihood.model_flux(theta), theta[:, 0])
    expected = np.log(np.trapezoid(density, grid) / 5.5) + log_density.max()
    np.testing.assert_allclose(mass.log_evidence(), expected, atol=1e-5)
    cumulative = np.cumsum(density) / density.sum()
    drawn = mass.draw(np.random.default_rng(4))
    assert kstest(np.interp(drawn, grid, cumulative), "uniform").pvalue > 1e-3


def test_no_mass_will_do_where_the_faintest_is_far_too_bright():
    mass = MassConditional(np.array([-1e12, 5.0]), np.log([1e12, 1.0]) - 7 * np.log(10), (7.0, 12.5))
    assert mass.possible.tolist() == [False, True]
    np.testing.assert_array_equal(mass.log_evidence() == -np.inf, [True, False])
    np.testing.assert_array_equal(np.isnan(mass.quantile(np.full(2, 0.5))), [True, False])


def test_no_model_is_asked_for_beyond_the_prior():
    class Strict(Linear):
        def flux(self, theta, zred):
            assert self.prior.contains(theta).all()
            return super().flux(theta, zred)

    strict = replace(refiner(), simulator=Strict(NARROW))
    assert np.isfinite(strict(FLUX, np.full(5, 0.1), ZRED, 10, seed=0).theta).all()


def test_full_posterior_of_mass_and_others_against_plain_weights():
    # The same target by plain importance sampling from the prior, with many draws and nothing of ours but the likelihood.
    prior = Prior(log_mstar=(9.5, 10.5))
    sigma = np.full(5, 4.0)
    result = refiner(1.1, prior, n_draws=30_000, max_rounds=0)(FLUX, sigma**-2, ZRED, 5000, seed=1)
    x = np.random.default_rng(8).standard_normal((100_000, 11))
    theta = prior.from_unbounded(x)
    log_weight = norm(Linear(prior).flux(theta, None), sigma).logpdf(FLUX).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    assert result.log_evidence == pytest.approx(np.log(weight.mean()) + log_weight.max(), abs=0.05)
    mean = weight @ theta[:, 0] / weight.sum()
    std = np.sqrt(weight @ (theta[:, 0] - mean) ** 2 / weight.sum())
    assert result.theta[:, 0].mean() == pytest.approx(mean, abs=0.1 * std)
    assert result.theta[:, 0].std() == pytest.approx(std, rel=0.08)


def test_of_a_perfect_flow_the_evidence_has_no_error():
    """Photometry that says nothing, and a flow that is the prior: its weights are all equal."""
    result = refiner(n_draws=1000)(FLUX, np.full(5, 1e-14), ZRED, 10, seed=0)
    assert result.efficiency == pytest.approx(1, abs=1e-6)
    assert result.log_evidence == pytest.approx(5 * (np.log(1e-7) - 0.5 * np.log(2 * np.pi)), abs=1e-6)
    assert result.log_evidence_error < 1e-3


def test_results_depend_on_seed_key_and_data_only():
    refine, ivar = refiner(n_draws=1000, max_rounds=1), np.full(5, 0.1)
    one = refine(FLUX, ivar, ZRED, 50, seed=3, key=7, n_threads=1)
    two = refine(FLUX, ivar, ZRED, 50, seed=3, key=7, n_threads=2)
    other = refine(FLUX, ivar, ZRED, 50, seed=3, key=8)
    np.testing.assert_allclose(one.theta_unbounded, two.theta_unbounded, atol=1e-5)
    assert not np.allclose(one.theta_unbounded, other.theta_unbounded)


def test_hopeless_rows_are_flagged_and_finite():
    sigma = np.full(5, 0.05)
    result = refiner(0.3, mean=3.0, n_draws=1000, max_rounds=0)(FLUX, sigma**-2, ZRED, 100, seed=2)
    assert result.flag in (INEFFICIENT, HEAVY_TAIL)
    assert result.khat > 0.7
    assert np.isfinite(result.theta).all()


def test_fallback_takes_over_where_refinement_falls_short():
    prior = Prior(log_mstar=(9.5, 10.5))
    asked = []

    def chain(likelihood, start, seed):
        asked.append((len(start), seed))
        return np.full((30, 11), 0.25), "flag of the chain"

    hard = replace(refiner(0.3, prior, mean=2.0, n_draws=1000, max_rounds=0), fallback=chain)
    result = hard(FLUX, np.full(5, 0.05**-2), ZRED, 100, seed=2, key=5)
    assert (result.step, result.flag) == ("mcmc", "flag of the chain")
    assert (result.theta_unbounded == 0.25).all()
    # Seed and row make the chain's seed, and not by their sum.
    hard(FLUX, np.full(5, 0.05**-2), ZRED, 100, seed=5, key=2)
    hard(FLUX, np.full(5, 0.05**-2), ZRED, 100, seed=2, key=6)
    assert len({seed for _, seed in asked}) == 3
    assert hard.settings()["fallback"].endswith("test_fallback_takes_over_where_refinement_falls_short.<locals>.chain")
    easy = replace(refiner(1.1, prior), fallback=chain)
    assert easy(FLUX, np.full(5, 4.0**-2), ZRED, 100, seed=2).step != "mcmc"
    assert len(asked) == 3


def test_emcee_fallback_samples_the_linear_model_and_says_when_it_stopped_early():
    sigma = np.full(5, 3.0)
    likelihood = GaussianLikelihood(Linear(Prior()), Prior(), flux=FLUX, flux_ivar=sigma**-2, zred=ZRED)
    short = emcee_fallback(McmcConfig(max_steps=100, thin=2, n_walkers=32, target_ess=1e6))
    samples, flag = short(likelihood, np.empty((0, 12)), 3)
    assert flag == NOT_CONVERGED
    assert samples.shape[1] == 11
    assert len(samples) > 100


@pytest.mark.parametrize("flux", [1e30, -1e30, 1e9])
def test_weights_lost_in_rounding_are_no_good_ones(flux):
    """At a signal-to-noise ratio of 1e30 all draws had the same weight: an efficiency of 1, and no flag."""

    def chain(likelihood, start, seed):
        raise AssertionError("its steps would be lost in rounding too")

    one = replace(refiner(prior=Prior()), fallback=chain)
    observed = np.where(np.arange(5) == 2, flux, FLUX)
    result = one(observed, np.full(5, 0.05**-2), ZRED, 100, seed=2)
    assert (result.step, result.flag) == ("flow", UNRESOLVED)
    assert np.isfinite(result.theta).all()
    likelihood = GaussianLikelihood(one.simulator, Prior(), flux=observed, flux_ivar=np.full(5, 0.05**-2), zred=ZRED)
    with pytest.raises(ParameterError, match=r"signal-to-noise ratio is .* lost in rounding"):
        run_emcee(likelihood, McmcConfig())
    samples, flag = emcee_fallback()(likelihood, np.empty((0, 12)), 3)
    assert (len(samples), flag) == (0, FAILED)


def test_the_brightest_real_photometry_is_resolved():
    one = refiner(prior=Prior())
    bright = GaussianLikelihood(one.simulator, Prior(), flux=1e5 * FLUX, flux_ivar=np.full(5, 1.0), zred=ZRED)
    assert bright.observed_signal_to_noise > 1e6
    assert bright.resolved
    # Here a nat is lost in rounding.
    assert not GaussianLikelihood(one.simulator, Prior(), flux=1e7 * FLUX, flux_ivar=np.full(5, 1.0), zred=ZRED).resolved


def test_a_fallback_that_the_user_interrupts_is_no_result():
    model = Linear(Prior())
    calls = []

    class Stopping:
        def flux(self, theta, zred):
            calls.append(len(theta))
            if len(calls) == 150:
                raise KeyboardInterrupt
            return model.flux(theta, zred)

    likelihood = GaussianLikelihood(Stopping(), Prior(), flux=FLUX, flux_ivar=np.full(5, 1 / 9), zred=ZRED)
    endless = emcee_fallback(McmcConfig(thin=1, check_every=20, n_walkers=32, target_ess=1e6))
    with pytest.raises(KeyboardInterrupt):
        endless(likelihood, np.empty((0, 12)), 3)


def test_a_simulator_not_proportional_to_the_mass_is_refused():
    class Saturated(Linear):
        def flux(self, theta, zred):
            return np.sqrt(np.maximum(super().flux(theta, zred), 0))

    class Hardly(Linear):
        def flux(self, theta, zred):
            return super().flux(theta, zred) * 10 ** (0.01 * (theta[:, :1] - 10))

    for simulator in (Saturated(Prior()), Hardly(Prior())):
        wrong = replace(refiner(prior=Prior()), simulator=simulator)
        with pytest.raises(ParameterError, match="not proportional to the mass"):
            wrong(FLUX, np.full(5, 0.1), ZRED, 10, seed=0)
    with pytest.raises(ParameterError, match="n_samples"):
        refiner()(FLUX, np.full(5, 0.1), ZRED, 0, seed=0)


def test_student_mixture_density_and_fit(rng):
    points = np.concatenate([rng.normal(-3, 0.5, (3000, 2)), rng.normal([2, 4], [1.0, 0.2], (3000, 2))])
    mixture = StudentMixture.fit(points, np.full(6000, 1 / 6000), 2, rng)
    order = np.argsort(mixture.means[:, 0])
    np.testing.assert_allclose(mixture.means[order], [[-3, -3], [2, 4]], atol=0.1)
    # Its density integrates to one over the plane, and its draws have that density: E[1/p over a box] is the box's area.
    drawn = mixture.sample(200_000, rng)
    box = (np.abs(drawn - [2, 4]) < [1.0, 0.3]).all(axis=1)
    area = np.mean(box * np.exp(-mixture.log_prob(drawn)))
    assert area == pytest.approx(2.0 * 0.6, rel=0.02)


def test_a_student_mixture_of_points_on_a_line_has_a_density(rng):
    points = np.column_stack([rng.standard_normal(500), np.zeros(500)])
    mixture = StudentMixture.fit(points, np.full(500, 1 / 500), 3, rng)
    assert np.isfinite(mixture.log_prob(points)).all()
    assert np.isfinite(mixture.sample(1000, rng)).all()


class LosesOne:
    """Finds nothing for the second galaxy, and the others' samples by chains."""

    def __init__(self, refiner: Refiner) -> None:
        self.refiner, self.estimator, self.settings = refiner, refiner.estimator, refiner.settings

    def __call__(self, *galaxy, key, **options):
        found = self.refiner(*galaxy, key=key, **options)
        if key == 1:
            return replace(found, theta_unbounded=np.full_like(found.theta_unbounded, np.nan))
        return replace(found, step="mcmc" if key == 0 else "emcee")


def test_a_row_that_refinement_loses_has_no_figures_of_it(tmp_path):
    estimator = gaussian_estimator(0.0, 1.05)
    flux, _, zred = mock_photometry(3, 21)
    catalog = Catalog(np.arange(3), estimator.bands, flux, (2 * flux) ** -2.0, zred)
    refiner = LosesOne(Refiner(estimator, Linear(Prior()), RefineConfig(n_draws=1000, max_rounds=1)))
    figures = infer_catalog(estimator, catalog, tmp_path / "a.h5", n_samples=20, refiner=refiner)
    assert figures["inferred"] == 2
    assert figures["approximate"] <= 2
    assert figures["by_mcmc"] == 2
    with read_posteriors(tmp_path / "a.h5") as posteriors:
        assert "no draw of the flow has a posterior" in posteriors.status[1]
        assert posteriors.refinement["step"][1] == ""
        for name in REFINEMENT_NAMES:
            assert np.isnan(posteriors.refinement[name][1])


def test_catalogue_of_refined_rows(tmp_path):
    estimator = gaussian_estimator(0.0, 1.05)
    flux, ivar, zred = mock_photometry(7, 21)
    ivar[:] = (2 * flux) ** -2.0
    ivar[2, 0] = 0
    catalog = Catalog(np.arange(7), estimator.bands, flux, ivar, zred)
    refine = Refiner(estimator, Linear(Prior()), RefineConfig(n_draws=1000, max_rounds=1))
    figures = infer_catalog(estimator, catalog, tmp_path / "a.h5", n_samples=60, refiner=refine, n_threads=2)
    infer_catalog(estimator, catalog, tmp_path / "b.h5", n_samples=60, refiner=refine, n_threads=1, rows_per_block=1)
    assert 0 < figures["efficiency_p5"] <= figures["efficiency_median"] <= 1
    with read_posteriors(tmp_path / "a.h5") as a, read_posteriors(tmp_path / "b.h5") as b:
        for name in REFINEMENT_NAMES:
            np.testing.assert_allclose(a.refinement[name], b.refinement[name], rtol=1e-4)
            assert np.flatnonzero(np.isnan(a.refinement[name])).tolist() == [2]
        np.testing.assert_allclose(a.theta(4), b.theta(4), rtol=1e-4)
        one = refine(flux[4], ivar[4], zred[4], 60, seed=0, key=4)
        np.testing.assert_allclose(a.theta(4), one.theta, rtol=1e-4)
        assert a.refinement["ess"][4] == pytest.approx(one.ess, rel=1e-4)
        assert "khat" in a.summary().colnames
    with pytest.raises(ParameterError, match="another estimator"):
        infer_catalog(gaussian_estimator(), catalog, tmp_path / "c.h5", refiner=refine)
    infer_catalog(estimator, catalog, tmp_path / "d.h5", n_samples=60)
    with read_posteriors(tmp_path / "d.h5") as plain:
        assert plain.refinement == {}


@pytest.fixture(scope="module")
def real_refiner() -> Refiner:
    estimator = PosteriorEstimator.default()
    return Refiner(estimator, training_simulator(estimator))


@pytest.fixture(scope="module")
def real_galaxies() -> Catalog:
    return load_sdss_sample()


def refined_row(refiner: Refiner, galaxies: Catalog, row: int, seed: int = 0, **options: Any) -> Refined:
    return refiner(galaxies.flux[row], galaxies.flux_ivar[row], float(galaxies.zred[row]), 200, seed=seed, key=row, **options)


@pytest.mark.parametrize("seed", [0, 10])
def test_a_mode_that_the_flow_misses_is_kept_for_its_evidence(real_refiner: Refiner, real_galaxies: Catalog, seed: int) -> None:
    # The flow knows an old burst, evidence exp(-122.0); the posterior is of a young one, which other contexts find, or with the
    # second seed only rounds from the prior.
    result = refined_row(real_refiner, real_galaxies, 1853, seed)
    assert result.flag == ""
    assert result.log_evidence == pytest.approx(-115.4, abs=0.3)
    assert np.median(result.theta[:, PARAMETER_NAMES.index("tburst")]) < 0.1


def test_rows_without_a_draw_that_has_a_posterior(real_refiner: Refiner, real_galaxies: Catalog, caplog) -> None:
    row = np.array([722])
    galaxy = real_galaxies.subset(row)
    draws = real_refiner.estimator.draw(galaxy.flux, galaxy.flux_ivar, galaxy.zred, 200, seed=0, row_keys=row)
    assert draws.efficiency[0] == 0
    theta = real_refiner.estimator.sample(galaxy.flux, galaxy.flux_ivar, galaxy.zred, 200, seed=0, row_keys=row)
    assert np.isnan(theta).all()
    assert "no draw has a posterior: their samples are NaN" in caplog.text
    result = refined_row(real_refiner, real_galaxies, 722)
    assert (result.step, result.flag) == ("adapted", "")
    assert result.log_evidence == pytest.approx(-89.8, abs=0.3)


def test_where_hardly_anything_is_measured_rounds_begin_at_the_prior(real_refiner: Refiner, real_galaxies: Catalog) -> None:
    # No draw of the flow has a posterior; those of the prior have an efficiency at which rounds would end.
    faint = replace(real_galaxies, flux_ivar=real_galaxies.flux_ivar * 1e-6)
    result = refined_row(real_refiner, faint, 1853)
    assert [step[0] for step in result.tried] == ["flow", "adapted", "adapted"]
    assert (result.tried[0][1], result.step, result.flag) == (0, "adapted", "")
    assert result.efficiency > 0.5
    assert result.log_evidence == pytest.approx(-43.3, abs=0.1)


def test_refined_samples_do_not_depend_on_threads(real_refiner: Refiner, real_galaxies: Catalog) -> None:
    alone, shared = (refined_row(real_refiner, real_galaxies, 1853, n_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(alone.theta, shared.theta)
    assert alone.tried[-1][1:3] == shared.tried[-1][1:3]


def test_refinement_checks_its_stream_and_takes_unmeasured_bands(real_refiner: Refiner, real_galaxies: Catalog) -> None:
    with pytest.raises(ParameterError, match=r"seed=.* must be an integer"):
        real_refiner(real_galaxies.flux[0], real_galaxies.flux_ivar[0], 0.1, 10, seed=-1)
    with pytest.raises(ParameterError, match="n_threads=0"):
        real_refiner(real_galaxies.flux[0], real_galaxies.flux_ivar[0], 0.1, 10, seed=0, n_threads=0)
    ragged = PosteriorEstimator.find("galex-sdss")
    refiner = Refiner(ragged, training_simulator(ragged), RefineConfig(n_draws=1000))
    flux, ivar = np.r_[np.nan, 1.0, real_galaxies.flux[0]], np.r_[1.0, np.nan, real_galaxies.flux_ivar[0]]
    found = refiner(flux, ivar, float(real_galaxies.zred[0]), 50, seed=0)
    zero = refiner(np.nan_to_num(flux), np.where(np.isnan(flux * ivar), 0, ivar), float(real_galaxies.zred[0]), 50, seed=0)
    np.testing.assert_array_equal(found.theta, zero.theta)


def test_masses_of_adapted_samples_are_those_of_the_posterior():
    prior, sigma = Prior(log_mstar=(9.5, 10.5)), np.full(5, 4.0)
    config = {"n_draws": 20_000, "contexts_below": 0.0, "adapt_below": 1.0, "max_rounds": 2}
    result = refiner(1.1, prior, **config)(FLUX, sigma**-2, ZRED, 5000, seed=1)
    assert result.step == "adapted"
    theta = prior.from_unbounded(np.random.default_rng(8).standard_normal((100_000, 11)))
    log_weight = norm(Linear(prior).flux(theta, None), sigma).logpdf(FLUX).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    mean = np.average(theta[:, 0], weights=weight)
    std = np.average((theta[:, 0] - mean) ** 2, weights=weight) ** 0.5
    assert result.theta[:, 0].mean() == pytest.approx(mean, abs=0.1 * std)
    assert result.theta[:, 0].std() == pytest.approx(std, rel=0.1)


def test_contexts_are_a_mixture_of_weight_one():
    sigma, four = np.full(5, 3.0), refiner(1.1, n_draws=20_000)
    likelihood = GaussianLikelihood(four.simulator, four.estimator.prior, flux=FLUX, flux_ivar=sigma**-2, zred=ZRED)
    draws = four._from_contexts(likelihood, "contexts", [(FLUX, sigma**-2)] * 4, (2, 0), 1)
    assert draws.log_evidence == pytest.approx(exact_linear(sigma)[2], abs=0.05)


def test_a_heavy_tail_is_flagged():
    heavy = refiner(0.7, n_draws=4000, max_rounds=0, min_efficiency=0.0, contexts_below=0.0)
    assert heavy(FLUX, np.full(5, 0.3**-2), ZRED, 50, seed=2).flag == HEAVY_TAIL
    # It is reason enough for every further step.
    further = refiner(0.7, n_draws=4000, max_rounds=1, min_efficiency=0.0, contexts_below=0.0, adapt_below=0.0)
    tried = further(FLUX, np.full(5, 0.3**-2), ZRED, 50, seed=2).tried
    assert [step for step, *_ in tried][:3] == ["flow", "contexts", "adapted"]


def test_of_two_proposals_the_larger_evidence_by_far_goes_before_then_what_needs_no_flag_then_more_draws():
    refiner = Refiner(gaussian_estimator(), Linear(NARROW), RefineConfig(n_draws=1000, min_efficiency=0.02, max_khat=0.7))

    def draws(*, ess, log_evidence=0.0, khat=0.3):
        # Of that evidence: equal weights.
        return _Draws("flow", np.zeros((1000, 11)), np.full(1000, log_evidence), np.zeros((1000, 5)), np.zeros(1000), ess, khat)

    def best(first, second):
        return next(name for name, one in (("first", first), ("second", second)) if refiner._better(first, second) is one)

    assert best(draws(ess=100.0), draws(ess=101.0)) == "second"
    assert best(draws(ess=101.0), draws(ess=100.0)) == "first"
    # By more than two nats, whatever the efficiency; by less it does not count.
    assert best(draws(ess=900.0), draws(ess=5.0, log_evidence=2.1)) == "second"
    assert best(draws(ess=5.0, log_evidence=2.1), draws(ess=900.0)) == "first"
    assert best(draws(ess=900.0), draws(ess=100.0, log_evidence=1.9)) == "first"
    # Not if one draw alone has all of it.
    assert best(draws(ess=900.0), draws(ess=1.5, log_evidence=9.0)) == "first"
    # A flag weighs more than draws.
    assert best(draws(ess=900.0, khat=0.8), draws(ess=100.0)) == "second"
    assert best(draws(ess=100.0), draws(ess=900.0, khat=0.8)) == "first"
    assert best(draws(ess=900.0, khat=0.8), draws(ess=901.0, khat=0.9)) == "second"


def test_flags_and_further_steps_begin_below_their_efficiency_and_above_their_khat():
    refiner = Refiner(gaussian_estimator(), Linear(NARROW), RefineConfig(n_draws=1000, min_efficiency=0.02, max_khat=0.7))

    def draws(ess, khat):
        return _Draws("flow", np.zeros((1000, 11)), np.zeros(1000), np.zeros((1000, 5)), np.zeros(1000), ess, khat)

    assert [refiner._flag(draws(*one)) for one in ((20.0, 0.7), (19.9, 0.7), (20.0, 0.71), (19.9, 0.71))] == [
        *("", INEFFICIENT, HEAVY_TAIL, INEFFICIENT)
    ]
    assert [refiner._short(draws(*one), 0.2) for one in ((200.0, 0.7), (199.0, 0.7), (200.0, 0.71))] == [False, True, True]


def test_rounds_end_with_a_good_proposal_unless_its_evidence_betrays_it(monkeypatch):
    refiner = Refiner(gaussian_estimator(), Linear(NARROW), RefineConfig(n_draws=1000, adapt_below=0.05, max_rounds=4))

    def draws(ess, log_evidence=0.0):
        return _Draws("any", np.zeros((1000, 11)), np.full(1000, log_evidence), np.zeros((1000, 5)), np.zeros(1000), ess, 0.3)

    def rounds(start, *made):
        """What came of the rounds, and what each was fitted to."""
        left, fitted = list(made), []

        def adapted(_, likelihood, last, rng):
            fitted.append(last)
            return left.pop(0)

        monkeypatch.setattr(Refiner, "_adapted", adapted)
        return list(refiner._rounds(None, start, None)), fitted

    start, short, good = draws(10.0), draws(30.0), draws(60.0)
    assert rounds(start, short, good, short) == ([short, good], [start, short])
    # Four at most.
    made = [draws(20.0 + k) for k in range(5)]
    assert rounds(start, *made) == (made[:4], [start, *made[:3]])
    # A good one that has lost a mode is not gone on from.
    lost = draws(900.0, log_evidence=-2.1)
    assert rounds(start, lost, good) == ([lost, good], [start, start])
    assert rounds(start, draws(900.0, log_evidence=-1.9), good)[1] == [start]
    # Nothing can be fitted to no draw.
    assert rounds(draws(0.0), good) == ([], [])
