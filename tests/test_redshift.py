"""The prior of redshifts: distributions against integrals, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from sedcast.data.config import parse_config
from sedcast.data.errors import ConfigError
from sedcast.emulator.redshift import RedshiftPrior

TABLE = ((0.0, 0.0), (0.1, 4.0), (0.2, 1.0), (0.25, 0.0), (0.4, 0.0))
PRIORS = {
    "uniform": (RedshiftPrior(min=0.01, max=0.2), lambda z: 1.0),
    "magnitude-limited": (RedshiftPrior(min=0.01, max=0.3, z0=0.07), lambda z: z**2 * np.exp(-((z / 0.07) ** 1.5))),
    "table": (RedshiftPrior(min=0.05, max=0.3, table=TABLE), lambda z: float(np.interp(z, *np.transpose(TABLE)))),
}


@pytest.mark.parametrize("name", PRIORS)
def test_cdf_is_the_integral_of_the_density_and_quantile_its_inverse(name):
    prior, density = PRIORS[name]
    at = np.linspace(prior.min, prior.max, 12)
    parts = [quad(density, a, b, points=[0.1, 0.2, 0.25] if name == "table" else None)[0] for a, b in pairwise(at)]
    expected = np.concatenate([[0], np.cumsum(parts)]) / np.sum(parts)
    np.testing.assert_allclose(prior.cdf(at), expected, atol=1e-7)
    unit = np.array([[0.0, 1e-9, 0.3], [0.5, 1 - 1e-9, 1.0]])
    normalised = [density(z) / np.sum(parts) for z in at]
    np.testing.assert_allclose(np.exp(prior.log_density(at)), normalised, rtol=1e-6, atol=1e-12)
    assert np.isneginf(prior.log_density(np.array([prior.min - 1e-3, prior.max + 1e-3]))).all()
    zred = prior.quantile(unit)
    assert ((zred >= prior.min) & (zred <= prior.max)).all()
    np.testing.assert_allclose(prior.cdf(zred), unit, atol=1e-12)
    inner = at[(prior.cdf(at) > 0) & (prior.cdf(at) < 1)]
    np.testing.assert_allclose(prior.quantile(prior.cdf(inner)), inner, rtol=1e-7)


@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_the_distribution_and_are_normal_on_the_real_line(name):
    prior, _ = PRIORS[name]
    zred = prior.sample(20_000, np.random.default_rng(3))
    assert stats.kstest(zred, prior.cdf).pvalue > 0.01
    points = prior.to_unbounded(zred)
    assert stats.kstest(points, "norm").pvalue > 0.01
    np.testing.assert_allclose(prior.from_unbounded(points), zred, rtol=1e-9)
    assert np.isfinite(prior.to_unbounded(np.array([0.0, prior.min, prior.max, 9.0]))).all()


def test_the_median_of_the_magnitude_limited_form():
    wide = RedshiftPrior(min=1e-6, max=3, z0=0.1)
    assert wide.quantile(np.array(0.5)) == pytest.approx(0.1412, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min": 0.3, "max": 0.2}, "must be below"),
        ({"min": 0.3, "max": 0.3}, "must be below"),
        ({"z0": 0.1, "table": [[0.0, 1.0], [1.0, 1.0]]}, "two forms"),
        ({"z0": 1e-4}, "leaves no galaxies"),
        ({"table": [[0.1, 1.0], [0.3, 1.0]]}, "from 0.005 or below"),
        ({"table": [[0.0, 1.0], [0.2, 1.0]]}, "to 0.3 or above"),
        ({"table": [[0.0, 1.0], [0.2, 1.0], [0.2, 1.0], [0.4, 1.0]]}, "must increase"),
        ({"table": [[0.0, 1.0], [0.4, -1.0]]}, "n >= 0"),
        ({"table": [[0.0, 0.0], [0.4, 0.0]]}, "not zero everywhere"),
        ({"shape": "flat"}, "unknown key"),
    ],
)
def test_impossible_priors_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(values, RedshiftPrior)
