"""Burst fraction and mass given all else, against sums over fine grids."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import kstest

from sedcast.emulator.prior import Prior
from sedcast.posterior.amplitudes import AmplitudePosterior
from sedcast.posterior.flow_kernel import vector_floats

HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)
# History and burst over errors at 1e10 solar masses, in three bands; the observed ones are those of f = 0.3, 3e10, with noise.
HISTORY, BURST = np.array([10.0, 25.0, 30.0]), np.array([30.0, 28.0, 22.0])
OBSERVED = 3 * (0.7 * HISTORY + 0.3 * BURST) + np.array([0.7, -0.4, 0.2])
CASES = {
    "usual": (HISTORY, BURST, OBSERVED, Prior()),
    "a young burst, a hundred times brighter": (HISTORY, 100 * BURST, OBSERVED, Prior()),
    "no contrast": (HISTORY, 1.7 * HISTORY, OBSERVED, Prior()),
    "a burst before the beginning": (HISTORY, HISTORY, OBSERVED, Prior()),
    "bright": (4 * HISTORY, 4 * BURST, 4 * OBSERVED, Prior()),
    "at the greatest mass": (HISTORY, BURST, OBSERVED, Prior(log_mstar=(7.0, 10.45))),
    "beyond the greatest mass": (HISTORY, BURST, OBSERVED, Prior(log_mstar=(7.0, 10.3))),
    "a part of the burst fractions": (HISTORY, BURST, OBSERVED, Prior(fburst=(0.1, 0.5))),
}


@pytest.fixture(params=["compiled", "NumPy"])
def compiled(request) -> bool:
    if request.param == "compiled" and not vector_floats():
        pytest.skip("the C library was not built, or this processor cannot run it")
    return request.param == "compiled"


def posterior(case: str, compiled: bool, n: int = 1) -> AmplitudePosterior:
    history, burst, observed, prior = CASES[case]
    tiled = [np.tile(values, (n, 1)) for values in (1e-10 * history, 1e-10 * burst, observed)]
    found = AmplitudePosterior(*tiled, prior)
    found.compiled = compiled
    return found


def log_likelihood(case: str, fraction: np.ndarray, log_mstar: np.ndarray) -> np.ndarray:
    """Of burst fractions and log masses that broadcast."""
    history, burst, observed, _ = CASES[case]
    f = np.asarray(fraction)[..., None]
    model = 10 ** (np.asarray(log_mstar)[..., None] - 10) * ((1 - f) * history + f * burst)
    return -0.5 * np.sum((model - observed) ** 2, axis=-1)


def in_range(limits: tuple[float, float], probit: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * ndtr(probit)


def mass_grid(case: str) -> np.ndarray:
    """Log masses of the prior's range, as finely as the narrowest density needs, around those that the fluxes allow."""
    low, high = CASES[case][3].log_mstar
    middle, reach = (9.6, 1.2) if "brighter" in case else (10.477, 0.35)
    centre = np.clip(middle, low, high)
    return np.linspace(max(low, centre - reach), min(high, centre + reach), 6001)


def cumulative(density: np.ndarray) -> np.ndarray:
    """The integral from the first node to each, of all."""
    steps = np.cumsum(0.5 * (density[1:] + density[:-1]))
    return np.concatenate([[0], steps]) / steps[-1]


def on_grids(case: str, probits: np.ndarray) -> tuple[np.ndarray, float]:
    """Exact log density of f's probit on a grid, the mass integrated out, and the log evidence."""
    prior, mass = CASES[case][3], mass_grid(case)
    low, high = prior.log_mstar
    joint = np.empty(len(probits))
    for k, f in enumerate(in_range(prior.fburst, probits)):
        each = log_likelihood(case, f, mass)
        joint[k] = each.max() + np.log(np.trapezoid(np.exp(each - each.max()), mass) / (high - low))
    joint += -0.5 * probits**2 - HALF_LOG_2PI
    log_evidence = joint.max() + np.log(np.trapezoid(np.exp(joint - joint.max()), probits))
    return joint - log_evidence, float(log_evidence)


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_exact_posterior(case, compiled):
    prior, n = CASES[case][3], 3000
    found = posterior(case, compiled, n)
    points, log_q = found.draw(np.random.default_rng(3).standard_normal((n, 2)))
    drawn = points[:, 0]
    probits = np.linspace(1.2 * drawn.min() - 0.2 * drawn.max(), 1.2 * drawn.max() - 0.2 * drawn.min(), 401)
    of_fraction, log_evidence = on_grids(case, probits)
    fraction, log_mstar = in_range(prior.fburst, points[:, 0]), in_range(prior.log_mstar, points[:, 1])
    exact = log_likelihood(case, fraction, log_mstar) - log_evidence - np.sum(0.5 * points**2 + HALF_LOG_2PI, axis=1)
    assert np.abs(np.mean(exact - log_q)) < 0.02
    assert np.quantile(np.abs(exact - log_q), 0.99) < 0.1
    np.testing.assert_allclose(found.log_density(points), log_q, atol=0.02)
    assert kstest(np.interp(drawn, probits, cumulative(np.exp(of_fraction))), "uniform").pvalue > 1e-3
    # Each mass against the exact density at its own fraction.
    grid, ranks = mass_grid(case), []
    for f, mass in zip(fraction[:300], log_mstar[:300], strict=True):
        log_density = log_likelihood(case, f, grid)
        ranks.append(np.interp(mass, grid, cumulative(np.exp(log_density - log_density.max()))))
    assert kstest(ranks, "uniform").pvalue > 1e-3


def test_densities_do_not_depend_on_the_precision_that_points_are_kept_in(compiled):
    found = posterior("a part of the burst fractions", compiled, 500)
    points = found.draw(np.random.default_rng(4).standard_normal((500, 2)))[0].astype(np.float32)
    np.testing.assert_array_equal(found.log_density(points), found.log_density(points.astype(float)))


def test_a_burst_before_the_beginning_leaves_the_prior(compiled):
    mass = (np.log10(np.sum(HISTORY * OBSERVED) / np.sum(HISTORY**2)) + 10 - 7) / 5.5
    points = np.column_stack([np.linspace(-3, 3, 7), np.full(7, ndtri(mass))])
    found = posterior("a burst before the beginning", compiled, 7).log_density(points)
    np.testing.assert_allclose(np.diff(found), np.diff(-0.5 * points[:, 0] ** 2), atol=0.02)


def test_without_a_detection_every_faint_mass_will_do(compiled):
    n = 2000
    flux = np.tile(1e-10 * HISTORY, (n, 1))
    found = AmplitudePosterior(flux, flux, np.tile([0.3, -0.2, 0.1], (n, 1)), Prior())
    found.compiled = compiled
    points, log_q = found.draw(np.random.default_rng(5).standard_normal((n, 2)))
    assert np.isfinite(log_q).all()
    faint = np.log10(0.3 / np.linalg.norm(HISTORY)) + 10
    mass = 7 + 5.5 * ndtr(points[:, 1])
    assert mass.max() < 9.2
    # Log masses below what could be seen are all as likely.
    assert kstest((mass[mass < faint] - 7) / (faint - 7), "uniform").pvalue > 1e-3


def test_compiled_and_numpy_agree():
    if not vector_floats():
        pytest.skip("the C library was not built, or this processor cannot run it")
    rng = np.random.default_rng(6)
    n = 500
    history = 10 ** rng.uniform(-12, -8, (n, 1)) * rng.uniform(0.2, 1, (n, 5))
    burst = history * 10 ** rng.uniform(-1, 2.5, (n, 1)) * rng.uniform(0.5, 1, (n, 5))
    f = rng.random((n, 1))
    colours = (1 - f) * history + f * burst
    mass = 10 ** rng.uniform(0, 2.3, (n, 1)) / np.linalg.norm(colours, axis=1, keepdims=True)
    observed = mass * colours + rng.standard_normal((n, 5))
    measured = rng.random((n, 5)) < 0.8
    both = [AmplitudePosterior(history * measured, burst * measured, observed * measured, Prior()) for _ in range(2)]
    both[1].compiled = False
    noise = rng.standard_normal((n, 2))
    (points, log_q), (again, log_q_again) = (one.draw(noise) for one in both)
    np.testing.assert_allclose(points, again, atol=2e-3)
    assert np.quantile(np.abs(log_q - log_q_again), 0.99) < 0.01
    np.testing.assert_allclose(both[0].log_density(points), both[1].log_density(points), atol=0.02)


def test_what_is_not_a_number_gets_the_prior(compiled):
    n = 4000
    light = np.full((n, 3), np.nan)
    light[1::2] = np.inf
    found = AmplitudePosterior(light, light, np.tile(OBSERVED, (n, 1)), Prior())
    found.compiled = compiled
    points, log_q = found.draw(np.random.default_rng(7).standard_normal((n, 2)))
    for column in points.T:
        assert kstest(ndtr(column), "uniform").pvalue > 1e-3
    np.testing.assert_allclose(log_q, -np.sum(0.5 * points**2 + HALF_LOG_2PI, axis=1), atol=0.1)


def test_no_burst_and_nothing_but_a_burst_have_a_density(compiled):
    ends = np.array([[-7.03, 0.0], [-5.7, 0.0], [5.7, 0.0], [7.03, 0.0]])
    mass = (np.log10(np.sum(HISTORY * OBSERVED) / np.sum(HISTORY**2)) + 10 - 7) / 5.5
    # There the burst, 1.7 times as bright, makes all the light.
    ends[:, 1] = ndtri(mass - np.array([0, 0, 1, 1]) * np.log10(1.7) / 5.5)
    found = posterior("no contrast", compiled, 4).log_density(ends)
    # The prior's CDF of f is as likely here as there, at either end.
    found += 0.5 * ends[:, 0] ** 2
    assert found[0] == pytest.approx(found[1], abs=0.05)
    assert found[2] == pytest.approx(found[3], abs=0.05)
    assert np.isfinite(found).all()


def test_brighter_than_the_prior_allows(compiled):
    """The mass is at the edge of its range, by hundreds of σ."""
    history, burst = np.tile(1e-9 * HISTORY, (500, 1)), np.tile(1e-9 * BURST, (500, 1))
    prior = Prior(log_mstar=(9.0, 9.8))
    observed = 10**10.2 * (0.6 * history + 0.4 * burst)
    found = AmplitudePosterior(history, burst, observed, prior)
    found.compiled = compiled
    points, log_q = found.draw(np.random.default_rng(8).standard_normal((500, 2)))
    log_mstar = in_range(prior.log_mstar, points[:, 1])
    assert (log_mstar > 9.8 - 1e-3).all()
    again = found.log_density(points)
    assert np.isfinite(again).all()
    assert np.median(np.abs(again - log_q)) < 0.1


def test_draws_are_the_same_bits_whatever_company():
    """The faintest of a vector must not send the others another way, whose rounding differs."""
    if not vector_floats():
        pytest.skip("the C library was not built, or this processor cannot run it")
    rng = np.random.default_rng(12)
    brightness = np.where(np.arange(128) % 2, 1e-3, 3.0)[:, None]
    light = [1e-10 * brightness * values * rng.uniform(0.9, 1.1, (128, 3)) for values in (HISTORY, BURST)]
    observed = brightness * OBSERVED + rng.standard_normal((128, 3))
    noise = rng.standard_normal((128, 2))
    together = AmplitudePosterior(*light, observed, Prior()).draw(noise)
    for kind in (slice(0, None, 2), slice(1, None, 2)):
        among_alike = AmplitudePosterior(*(values[kind] for values in light), observed[kind], Prior()).draw(noise[kind])
        for got, expected in zip(among_alike, together, strict=True):
            np.testing.assert_array_equal(got, expected[kind])
