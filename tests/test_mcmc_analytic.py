"""A linear-Gaussian model: emcee, zeus, nautilus and a trained flow must reproduce its posterior, nautilus its evidence."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sedcast.baselines.coordinates import FlowCoordinates, FlowMap
from sedcast.baselines.diagnostics import autocorrelation_time, rank_rhat
from sedcast.baselines.mcmc import McmcConfig, run_emcee, run_zeus
from sedcast.baselines.moves import GroupedMove, ZeusGroups
from sedcast.baselines.nested import run_nautilus
from sedcast.baselines.starts import _Pool, _pooled, _resampled
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import Prior
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.made import FlowConfig

PRIOR = Prior()
SIGMA = np.array([0.6, 0.5, 0.8])
COUPLING = np.random.default_rng(4).standard_normal((3, 11)) / 2
FLUX = np.array([0.5, -0.7, 0.4])
CONFIG = McmcConfig(n_walkers=32, n_groups=2, thin=2, check_every=60, n_screen=2000, seed=11)


class Linear:
    def flux(self, theta, zred):
        return PRIOR.to_unbounded(theta) @ COUPLING.T


def galaxy():
    return GaussianLikelihood(Linear(), PRIOR, flux=FLUX, flux_ivar=SIGMA**-2, zred=0.1)


def exact():
    """Mean and covariance of the posterior in probit space, and the log evidence."""
    covariance = np.linalg.inv(np.eye(11) + COUPLING.T @ np.diag(SIGMA**-2) @ COUPLING)
    evidence = multivariate_normal(np.zeros(3), COUPLING @ COUPLING.T + np.diag(SIGMA**2)).logpdf(FLUX)
    return covariance @ COUPLING.T @ (FLUX / SIGMA**2), covariance, evidence


def assert_exact(x, ess, *, bias=0.0):
    """Means and covariances within 4.5 Monte-Carlo errors, and, for what is only trained, a bias in posterior sigma."""
    mean, covariance, _ = exact()
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(axis=0) - mean) < (4.5 / np.sqrt(ess) + bias) * deviation).all()
    correlation = covariance / np.outer(deviation, deviation)
    got = np.cov(x, rowvar=False) / np.outer(deviation, deviation)
    assert (np.abs(got - correlation) < 4.5 * np.sqrt((1 + correlation**2) / np.min(ess)) + 2 * bias).all()


@pytest.fixture(scope="module")
def flow():
    """A small flow, trained on simulated pairs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 11))
    context = x @ COUPLING.T + SIGMA * rng.standard_normal((20_000, 3))
    training = FlowTrainingConfig(batch_size=256, max_epochs=8, learning_rate=3e-3, ema_decay=0.99)
    return FlowTrainer(FlowConfig(n_blocks=2, hidden=(32,)), training).fit(x, context).flow


def test_the_flow_reproduces_the_posterior(flow):
    x = flow.sample(FLUX[None].astype(np.float32), 8000, seed=0)[0]
    assert_exact(x.astype(float), np.full(11, 8000.0), bias=0.15)


@pytest.mark.parametrize("run", [run_emcee, run_zeus])
def test_chains_reproduce_the_posterior_without_the_flow(run):
    result = run(galaxy(), CONFIG.model_copy(update={"target_ess": 1000.0 if run is run_emcee else 400.0, "max_rhat": 1.02}))
    assert result.converged, result.reason
    assert result.coordinates == "probit"
    assert_exact(result.theta_unbounded, result.ess)


@pytest.mark.parametrize(("run", "shift"), [(run_emcee, 0.0), (run_emcee, 1.0), (run_zeus, 1.0)])
def test_chains_in_the_noise_of_a_flow_reproduce_the_posterior_even_if_the_flow_is_wrong(run, shift, flow):
    at = FlowMap(flow, (FLUX + shift)[None])
    config = CONFIG.model_copy(update={"target_ess": 1000.0 if run is run_emcee else 400.0, "max_rhat": 1.02})
    result = run(galaxy(), config, flow=at)
    assert result.converged, result.reason
    assert result.coordinates == "flow"
    assert_exact(result.theta_unbounded, result.ess)
    np.testing.assert_allclose(
        result.log_prob.ravel()[:50], galaxy().log_posterior_unbounded(result.theta_unbounded[:50]), atol=2e-3
    )
    if run is run_emcee:
        assert any("independence" in move for move in result.moves)


def test_the_flows_noise_has_the_density_of_the_posterior(flow):
    at = FlowMap(flow, FLUX[None])
    coordinates = FlowCoordinates(galaxy(), at)
    noise = np.random.default_rng(0).standard_normal((40, 11))
    x, log_prob = coordinates.decode(noise, coordinates.log_prob(noise))
    np.testing.assert_allclose(log_prob, galaxy().log_posterior_unbounded(x), atol=1e-3)
    # The same map by the flow's other direction: log q at the points, and a single point by itself.
    np.testing.assert_allclose(at(noise)[1], flow.log_prob(x, np.repeat(FLUX[None], 40, axis=0)), atol=1e-3)
    np.testing.assert_allclose(at(noise[:1])[0], x[:1], atol=1e-5)
    noise[0, 0], noise[1, 3] = 11.0, np.inf
    assert (coordinates.log_prob(noise)[:2] == -np.inf).all()


@pytest.mark.slow
def test_nautilus_reproduces_posterior_and_evidence():
    pytest.importorskip("nautilus", reason="needs nautilus-sampler")
    result = run_nautilus(galaxy(), CONFIG.model_copy(update={"target_ess": 3000.0}))
    assert result.converged, result.reason
    assert result.theta_unbounded.shape == (len(result.theta), 11)
    assert_exact(result.theta_unbounded, np.full(11, min(3000.0, len(result.theta))))
    assert abs(result.log_evidence - exact()[2]) < 4.5 * result.log_evidence_error
    short = run_nautilus(galaxy(), CONFIG.model_copy(update={"max_evaluations": 3000}))
    assert short.log_evidence is short.log_evidence_error is None
    assert short.ess.max() <= len(short.theta)
    assert not short.converged


def test_a_start_and_a_flow_exclude_each_other(flow):
    with pytest.raises(ParameterError, match="start and flow were both given"):
        run_emcee(galaxy(), CONFIG, start=PRIOR.sample(200, 0), flow=FlowMap(flow, FLUX[None]))


def test_results_go_to_arviz_by_group():
    result = run_emcee(galaxy(), CONFIG.model_copy(update={"max_steps": 60}))
    data = result.to_arviz()
    n_step, n_walker = result.log_prob.shape
    assert data.posterior.sizes["chain"] == 2
    assert data.posterior.sizes["draw"] == n_step * n_walker // 2
    second = result.theta.reshape(n_step, n_walker, 12)[:, n_walker // 2 :, 10].ravel()
    np.testing.assert_array_equal(data.posterior["dust2"].values[1], second)
    assert len(result.thinned(100)) == 100


def test_the_verdict_is_of_the_chain_that_is_returned():
    result = run_emcee(galaxy(), CONFIG.model_copy(update={"target_ess": 300.0, "max_rhat": 1.1}))
    both = np.concatenate([result.chain, result.log_prob[..., None]], axis=2)
    assert result.rhat == pytest.approx(rank_rhat(both, n_groups=result.n_groups).max())
    steps, walkers, _ = result.chain.shape
    np.testing.assert_allclose(result.ess, steps * walkers / autocorrelation_time(result.chain))
    assert result.n_burn_in >= 2 * CONFIG.thin


def test_zeus_moves_each_group_by_its_own_walkers():
    class Own:
        def get_direction(self, complement, mu):
            # Of which group the walkers are.
            return np.full_like(complement, complement.mean()), True

    groups = ZeusGroups(Own(), 3)
    # Each half of the sampler holds half of every group, one group after the other.
    group = np.tile(np.repeat([0.0, 1.0, 2.0], 4), 2)
    directions, tuned = groups.get_direction(group[:12, None] * np.ones(5), 1.0)
    np.testing.assert_array_equal(directions, group[12:, None] * np.ones(5))
    assert tuned
    order = groups.order(24)
    np.testing.assert_array_equal(group[order], np.repeat([0.0, 1.0, 2.0], 8))
    np.testing.assert_array_equal(np.sort(order), np.arange(24))


def test_emcee_moves_each_group_by_its_own_walkers():
    class Own:
        def get_proposal(self, sample, complement, random):
            (others,) = complement
            return sample + others.mean(), np.full(len(sample), others.mean())

    group = np.repeat([10.0, 20.0, 30.0], 4)[:, None] * np.ones(5)
    proposed, factors = GroupedMove(Own(), 3).get_proposal(np.zeros((12, 5)), [group], None)
    np.testing.assert_array_equal(proposed, group)
    np.testing.assert_array_equal(factors, group[:, 0])


class Normal:
    """A proposal N(0, std²) in every coordinate."""

    def __init__(self, std, dim):
        self.name, self.std, self.dim = "normal", std, dim

    def sample(self, n, rng):
        return self.std * rng.standard_normal((n, self.dim))

    def log_prob(self, y):
        return multivariate_normal(np.zeros(self.dim), self.std**2 * np.eye(self.dim)).logpdf(y)


def test_draws_of_all_rounds_are_weighted_by_the_mixture_of_their_proposals():
    rng, log_evidence = np.random.default_rng(5), -40.0
    proposals = [Normal(1.5, 2), Normal(1.0, 2), Normal(3.0, 2)]

    def pooled(proposals):
        points = [one.sample(20_000, rng) for one in proposals]
        return _pooled([(x, log_evidence + Normal(1.0, 2).log_prob(x)) for x in points], proposals)

    pool = pooled(proposals)
    density = np.mean([np.exp(one.log_prob(pool.points)) for one in proposals], axis=0)
    weight = np.exp(log_evidence + Normal(1.0, 2).log_prob(pool.points)) / density
    np.testing.assert_allclose(np.exp(pool.log_weight), weight, rtol=1e-9)
    # The posterior itself is the best of them, at no distance.
    assert pool.proposal is proposals[1]
    assert pool.closeness == pytest.approx(1.0, abs=0.02)
    # From N(0, 1) to N(0, s²) it is ln s + 1 / (2 s²) - 1 / 2 in each of two coordinates.
    divergence = 2 * (np.log(1.5) + 0.5 / 1.5**2 - 0.5)
    assert pooled(proposals[:1]).closeness == pytest.approx(np.exp(-divergence), abs=0.02)


def test_start_points_are_drawn_by_weight_without_replacement():
    points, weight = np.arange(5.0)[:, None] * np.ones(11), np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    with np.errstate(divide="ignore"):
        pool = _Pool(points, np.log(weight) - 900.0)
    rng = np.random.default_rng(6)
    first = [_resampled(pool, 1, None, rng)[0, 0] for _ in range(4000)]
    shares = np.bincount(np.array(first, dtype=int), minlength=5) / 4000
    np.testing.assert_allclose(shares, weight, atol=4 * np.sqrt(0.25 / 4000))
    assert shares[0] == 0
    np.testing.assert_array_equal(np.sort(_resampled(pool, 4, None, rng), axis=0), points[1:])
