"""What is made of a sampler's steps, with first-order processes of known autocorrelation in the sampler's place."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from sedcast.baselines.chains import Chains, Meter
from sedcast.baselines.checkpoint import Moment
from sedcast.baselines.coordinates import ProbitCoordinates
from sedcast.baselines.mcmc_result import McmcConfig, McmcResult
from sedcast.baselines.starts import Start
from sedcast.emulator.prior import Prior
from sedcast.posterior.likelihood import GaussianLikelihood

CONFIG = McmcConfig(n_walkers=22, n_groups=2, thin=2, check_every=40, target_ess=2000, max_rhat=1.05)
# Of every second step of a process whose neighbours correlate with 0.9: (1 + 0.81) / (1 - 0.81), in steps twice that.
TIME = 2 * 1.81 / 0.19


class Dark:
    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        return np.zeros((len(theta), 1))


class Sampler:
    """States whose coordinates each correlate with those before."""

    def __init__(self, correlation: np.ndarray | float = 0.9, log_prob_of_groups: tuple[float, float] = (0.0, 0.0)) -> None:
        self.correlation, self.offset = correlation, np.repeat(log_prob_of_groups, 22)
        self.points: list[np.ndarray] = []

    def steps(self, moment: Moment | None) -> Iterator[Moment]:
        rng = np.random.default_rng(4)
        points = rng.standard_normal((44, 11))
        while True:
            noise = np.sqrt(1 - np.square(self.correlation)) * rng.standard_normal((44, 11))
            points = self.correlation * points + noise
            self.points.append(points)
            yield Moment(points, self.offset - 0.5 * (points**2).sum(axis=1), ())

    def run(
        self, config: McmcConfig = CONFIG, *, weighted: bool = True, order: np.ndarray | slice = slice(None), n_tuning: int = 0
    ) -> McmcResult:
        galaxy = GaussianLikelihood(Dark(), Prior(), flux=np.zeros(1), flux_ivar=np.ones(1), zred=0.1)
        found = Start(np.zeros((44, 11)), ProbitCoordinates(galaxy), None, weighted, "nowhere")
        made = Chains("toy", Meter(galaxy), found, config, moves=(), checkpoint=None, order=order, n_tuning=n_tuning)
        return made.until_converged(self.steps, progress=None)


@pytest.mark.parametrize(("weighted", "times"), [(True, 2), (False, 5)])
def test_times_and_effective_samples_are_those_of_the_process(weighted: bool, times: int) -> None:
    sampler = Sampler()
    result = sampler.run(weighted=weighted)
    assert result.converged, result.reason
    assert result.autocorrelation_steps.mean() == pytest.approx(TIME, rel=0.1)
    assert result.ess.mean() == pytest.approx(2 * result.chain.shape[0] * 44 / TIME, rel=0.1)
    # Of the slowest of eleven parameters, by its measured time.
    assert times * TIME < result.n_burn_in < 1.6 * times * TIME
    kept = np.array(sampler.points)[1::2]
    np.testing.assert_array_equal(result.chain, kept[result.n_burn_in // 2 :])
    np.testing.assert_allclose(result.log_prob, -0.5 * (result.chain**2).sum(axis=2))


def test_walkers_are_put_in_order_and_tuning_is_left_out() -> None:
    sampler, order = Sampler(), np.random.default_rng(0).permutation(44)
    result = sampler.run(order=order, n_tuning=150)
    assert result.n_burn_in == 150
    np.testing.assert_array_equal(result.chain, np.array(sampler.points)[151::2, order])


@pytest.mark.parametrize(
    ("sampler", "change", "said"),
    [
        (Sampler(log_prob_of_groups=(0.0, 3.0)), {"max_steps": 600}, "R-hat .* for log_prob"),
        (Sampler(np.array([0.9] * 5 + [0.98] + [0.9] * 5)), {"max_steps": 600, "max_rhat": 2}, r"ESS \d+ of 2000 for tburst"),
        (Sampler(), {"max_steps": 60, "target_ess": 1, "max_rhat": 9}, r"not converged: burn-in 30 of \d+ steps after 60"),
    ],
)
def test_what_is_wrong_is_said(sampler: Sampler, change: dict[str, float], said: str) -> None:
    result = sampler.run(CONFIG.model_copy(update=change), weighted=False)
    assert not result.converged
    assert np.array(sampler.points).shape[0] == change["max_steps"] == result.n_steps
    assert re.search(said, result.reason), result.reason
