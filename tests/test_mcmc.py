import logging
import random
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from sedcast.baselines.coordinates import ProbitCoordinates, SignalCoordinates, choose_coordinates
from sedcast.baselines.mcmc import McmcConfig, run_emcee, run_zeus
from sedcast.data.errors import ParameterError, SedcastError
from sedcast.emulator.prior import Prior
from sedcast.posterior.likelihood import GaussianLikelihood

PRIOR = Prior()
RUNNERS = pytest.mark.parametrize("run", [run_emcee, run_zeus])
SHORT = McmcConfig(n_walkers=22, n_groups=2, max_steps=60, check_every=20, thin=1, n_screen=200, seed=5)
SIGMA = np.array([0.3, 0.2, 0.5, 0.4, 0.25])
COUPLING = np.random.default_rng(1).standard_normal((5, 11)) / 2


class Linear:
    """Fluxes linear in the probit coordinates, so that the posterior there is a known normal."""

    def flux(self, theta, zred):
        return PRIOR.to_unbounded(theta) @ COUPLING.T


class MassTimesColours:
    """Fluxes proportional to the mass; nothing depends on the other parameters."""

    colours = np.array([0.5, 1.0, 1.5, 1.8, 2.0])

    def flux(self, theta, zred):
        return 10 ** (theta[:, :1] - 10) * self.colours


class Broken:
    def flux(self, theta, zred):
        return np.full((len(theta), 5), np.nan)


def linear_galaxy(simulator=None):
    flux = np.array([1.0, -0.5, 0.3, 0.8, -1.2])
    return GaussianLikelihood(simulator or Linear(), PRIOR, flux=flux, flux_ivar=SIGMA**-2, zred=0.1)


def exact_posterior():
    covariance = np.linalg.inv(np.eye(11) + COUPLING.T @ np.diag(SIGMA**-2) @ COUPLING)
    return covariance @ COUPLING.T @ (np.array([1.0, -0.5, 0.3, 0.8, -1.2]) / SIGMA**2), covariance


@RUNNERS
def test_mass_posterior_agrees_with_quadrature_and_the_others_stay_at_the_prior(run):
    sigma = np.full(5, 2.5)
    flux = 3.0 * MassTimesColours.colours
    galaxy = GaussianLikelihood(MassTimesColours(), PRIOR, flux=flux, flux_ivar=sigma**-2, zred=0.1)
    assert isinstance(choose_coordinates(galaxy, np.zeros((1, 11))), SignalCoordinates)
    target = 700 if run is run_emcee else 250
    result = run(galaxy, McmcConfig(n_walkers=24, n_groups=2, target_ess=target, max_rhat=1.03, thin=2, n_screen=2000, seed=1))
    assert result.converged, result.reason
    log_mass = np.linspace(7, 12.5, 20_001)
    model = 10 ** (log_mass[:, None] - 10) * MassTimesColours.colours
    weight = np.exp(-0.5 * (((model - flux) / sigma) ** 2).sum(axis=1))
    cdf = np.cumsum(weight) / weight.sum()
    ranks = np.interp(result.theta[:, 0], log_mass, cdf)
    # Uniform ranks have mean 1/2 and standard deviation 0.289.
    assert abs(ranks.mean() - 0.5) < 4 * 0.289 / np.sqrt(result.ess[0])
    assert abs(ranks.std() - 0.289) < 4 * 0.13 / np.sqrt(result.ess[0])
    others = result.theta_unbounded[:, 1:]
    assert (np.abs(others.mean(axis=0)) < 4.5 / np.sqrt(result.ess[1:])).all()
    assert (np.abs(others.var(axis=0) - 1) < 4.5 * np.sqrt(2 / result.ess[1:])).all()


def test_signal_coordinates_are_a_bijection_that_keeps_the_posterior():
    galaxy = GaussianLikelihood(MassTimesColours(), PRIOR, flux=np.ones(5), flux_ivar=SIGMA**-2, zred=0.1)
    x = np.random.default_rng(0).standard_normal((40, 11))
    coordinates = SignalCoordinates(galaxy)
    y = coordinates.encode(x)
    back, log_prob = coordinates.decode(y, coordinates.log_prob(y))
    np.testing.assert_allclose(back, x, atol=1e-8)
    np.testing.assert_allclose(log_prob, galaxy.log_posterior_unbounded(x), atol=1e-8)
    y[0, 0], y[1, 0], y[2, 4], y[3, 0] = 80.0, np.nan, np.inf, -80.0
    assert (coordinates.log_prob(y[:4]) == -np.inf).all()
    assert isinstance(choose_coordinates(linear_galaxy(), x), ProbitCoordinates)
    assert isinstance(choose_coordinates(linear_galaxy(Broken()), x), ProbitCoordinates)


def test_start_points_are_as_bright_as_the_galaxy_and_differ_by_its_noise():
    flux = 500.0 * MassTimesColours.colours
    galaxy = GaussianLikelihood(MassTimesColours(), PRIOR, flux=flux, flux_ivar=SIGMA**-2, zred=0.1)
    x = np.random.default_rng(1).standard_normal((2000, 11))
    y = SignalCoordinates(galaxy).candidates(x)
    signal = 10 ** y[:, 0]
    assert signal.mean() == pytest.approx(np.sqrt(np.sum((flux / SIGMA) ** 2)), rel=1e-3)
    # The total signal-to-noise ratio is measured to within one.
    assert signal.std() == pytest.approx(1.0, rel=0.06)
    np.testing.assert_array_equal(y[:, 1:], x[:, 1:])
    # Where there is no signal, start points have one of about one.
    dark = GaussianLikelihood(MassTimesColours(), PRIOR, flux=np.zeros(5), flux_ivar=SIGMA**-2, zred=0.1)
    assert np.median(SignalCoordinates(dark).candidates(x)[:, 0]) == pytest.approx(0.0, abs=0.03)


@RUNNERS
def test_same_seed_same_chain_whatever_the_global_state(run):
    first = run(linear_galaxy(), SHORT)
    np.random.seed(99)  # noqa: NPY002 - the state that must not matter
    random.seed(99)
    second = run(linear_galaxy(), SHORT)
    np.testing.assert_array_equal(first.chain, second.chain)
    other = run(linear_galaxy(), SHORT.model_copy(update={"seed": 6}))
    assert not np.array_equal(first.chain, other.chain)


@RUNNERS
def test_globals_and_root_logger_stay_as_they_were(run, capfd):
    root = logging.getLogger()
    handler = logging.NullHandler()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    handlers = root.handlers[:]
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    before, before_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        run(linear_galaxy(), SHORT)
        assert root.handlers == handlers
        assert root.level == logging.INFO
        assert not root.filters
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert random.getstate() == before_python
    assert capfd.readouterr() == ("", "")


@RUNNERS
def test_dead_likelihood_is_a_clear_error(run):
    with pytest.raises(ParameterError, match="posterior is zero at all of 200 prior draws"):
        run(linear_galaxy(Broken()), SHORT)


@RUNNERS
def test_unconverged_run_says_why(run):
    seen = []
    result = run(linear_galaxy(), SHORT, progress=lambda done, total: seen.append((done, total)))
    assert not result.converged
    assert result.reason.startswith("not converged: R-hat ")
    assert " of 1000 for " in result.reason
    assert "after 60 steps, " in result.reason
    assert result.reason.endswith("(max_steps)")
    assert result.n_steps == 60
    assert result.n_burn_in <= 30
    assert result.theta.shape == (result.chain.shape[0] * 44, 12)
    assert seen[0] == (20, 60)
    assert seen[-1] == (60, 60)
    assert all(a < b for a, b in pairwise(seen))


@RUNNERS
def test_evaluations_count_every_row_that_reached_the_simulator(run):
    class Counting(Linear):
        rows = 0

        def flux(self, theta, zred):
            self.rows += len(theta)
            return super().flux(theta, zred)

    simulator = Counting()
    galaxy = linear_galaxy(simulator)
    assert run(galaxy, SHORT).n_evaluations == simulator.rows
    before = simulator.rows
    assert run(galaxy, SHORT).n_evaluations == simulator.rows - before


@RUNNERS
def test_interruption_returns_what_there_is(run):
    class Interrupting(Linear):
        calls = 0

        def flux(self, theta, zred):
            self.calls += 1
            if self.calls == self.stop_at:
                raise KeyboardInterrupt
            return super().flux(theta, zred)

    simulator = Interrupting()
    simulator.stop_at = 1000
    result = run(linear_galaxy(simulator), SHORT.model_copy(update={"max_steps": 5000, "target_ess": 1e9}))
    assert result.interrupted
    assert not result.converged
    assert "interrupted" in result.reason
    assert np.isfinite(result.theta).all()
    simulator.calls, simulator.stop_at = 0, 4
    with pytest.raises(KeyboardInterrupt):
        run(linear_galaxy(simulator), SHORT)


@RUNNERS
def test_starts_from_given_samples(run):
    mean, covariance = exact_posterior()
    start = PRIOR.from_unbounded(np.random.default_rng(0).multivariate_normal(mean, covariance, 100))
    result = run(linear_galaxy(), SHORT, start=np.repeat(start, 2, axis=0))
    assert result.start == "given samples"
    assert result.n_evaluations < 44 * 60 * 20
    with pytest.raises(ParameterError, match="20 distinct points"):
        run(linear_galaxy(), SHORT, start=np.repeat(start[:20], 10, axis=0))
    start[:, 0] = 10.0
    with pytest.raises(ParameterError, match="share a plane"):
        run(linear_galaxy(), SHORT, start=start)


def test_few_surviving_draws_are_shared_by_the_walkers():
    class MostlyBroken(Linear):
        def flux(self, theta, zred):
            flux = super().flux(theta, zred)
            flux[PRIOR.to_unbounded(theta)[:, 0] < 1.2] = np.nan
            return flux

    result = run_emcee(linear_galaxy(MostlyBroken()), SHORT.model_copy(update={"n_screen": 60}))
    assert (result.theta_unbounded[:, 0] >= 1.2).all()


def test_zeus_giving_up_is_an_error_of_ours(monkeypatch):
    import zeus

    def give_up(self, *args, **kwargs):
        raise RuntimeError("Number of expansions exceeded maximum limit! \n Otherwise")
        yield

    monkeypatch.setattr(zeus.EnsembleSampler, "sample", give_up)
    with pytest.raises(SedcastError, match="zeus gave up after 0 steps: Number of expansions"):
        run_zeus(linear_galaxy(), SHORT)


def test_thinning_keeps_every_so_many_steps():
    every = run_emcee(linear_galaxy(), McmcConfig(n_walkers=22, max_steps=400, check_every=400, target_ess=1e6, thin=1))
    third = run_emcee(linear_galaxy(), McmcConfig(n_walkers=22, max_steps=400, check_every=400, target_ess=1e6, thin=4))
    np.testing.assert_array_equal(every.chain[::-4][:40], third.chain[::-1][:40])
    assert third.n_steps == 400
    np.testing.assert_allclose(third.autocorrelation_steps.mean(), every.autocorrelation_steps.mean(), rtol=0.3)


@pytest.mark.parametrize(
    ("key", "value", "message"), [("n_walkers", 20, "22"), ("n_walkers", 31, "even"), ("thin", 50, "check_every")]
)
def test_impossible_configurations_are_refused(key, value, message):
    with pytest.raises(ValidationError, match=message):
        McmcConfig(**{key: value})
