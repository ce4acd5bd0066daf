"""The density of photometry, against SciPy's Gaussians and draws of known distributions."""

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal, norm

from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.posterior.photometry_density import PhotometryDensity

ONE = PhotometryDensity(
    np.ones(1),
    np.array([[19.0, 18.0, 17.5, 0.1]]),
    0.1 * np.array([[[4, 3, 3, 0.1], [3, 4, 3.5, 0.1], [3, 3.5, 5, 0], [0.1, 0.1, 0, 0.05]]]),
)
TWO = PhotometryDensity(
    np.array([0.3, 0.7]), np.concatenate([ONE.means, ONE.means + 0.2]), np.concatenate([ONE.covariances, 0.3 * ONE.covariances])
)


def rows(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = rng.multivariate_normal(ONE.means[0], ONE.covariances[0], n)
    error = rng.uniform(0.02, 0.3, (n, 3))
    return drawn[:, :3] + error * rng.standard_normal((n, 3)), error, drawn[:, 3]


@pytest.mark.parametrize("bands", [[0, 1, 2], [0, 2], [1]])
def test_log_prob_is_that_of_the_marginal_given_redshift(bands, rng):
    magnitude, error, zred = rows(20, rng)
    absent = np.setdiff1d(range(3), bands)
    magnitude[:, absent] = np.nan
    seen = TWO.statistics(magnitude, error, zred, inflation=5.0)
    columns = [*bands, 3]
    for row in range(20):
        for factor, got in ((1, seen.log_prob[row]), (5, seen.log_prob_inflated[row])):
            joint = alone = 0.0
            for weight, mean, covariance in zip(TWO.weights, TWO.means, TWO.covariances, strict=True):
                noisy = covariance[np.ix_(columns, columns)] + np.diag([*(factor * error[row, bands]) ** 2, 0])
                joint += weight * multivariate_normal(mean[columns], noisy).pdf([*magnitude[row, bands], zred[row]])
                alone += weight * norm(mean[3], np.sqrt(covariance[3, 3])).pdf(zred[row])
            assert got == pytest.approx(np.log(joint / alone), rel=1e-9)
    if len(bands) == 1:
        assert np.isnan(seen.tail).all()
    else:
        np.testing.assert_array_equal(np.isnan(seen.tail).any(axis=0), [band in absent for band in range(3)])


def test_tails_are_those_of_the_conditional(rng):
    magnitude, error, zred = rows(20, rng)
    seen = ONE.statistics(magnitude, error, zred, inflation=5.0)
    expected = ONE.expected(magnitude, error, zred)
    for row in range(20):
        noisy = ONE.covariances[0] + np.diag([*error[row] ** 2, 0])
        for band in range(3):
            others = [column for column in range(4) if column != band]
            gain = noisy[band, others] @ np.linalg.inv(noisy[np.ix_(others, others)])
            away = np.array([*magnitude[row], zred[row]])[others] - ONE.means[0][others]
            spread = np.sqrt(noisy[band, band] - gain @ noisy[others, band])
            assert expected[row, band] == pytest.approx(ONE.means[0][band] + gain @ away, rel=1e-10)
            t = (magnitude[row, band] - ONE.means[0][band] - gain @ away) / spread
            assert seen.tail[row, band] == pytest.approx(norm.logcdf(-abs(t)), rel=1e-8)
            assert seen.bright[row, band] == (t < 0)


def test_tails_of_a_mixture_are_uniform_on_its_own_draws(rng):
    which = rng.random(4000) < TWO.weights[0]
    drawn = np.where(
        which[:, None], *(rng.multivariate_normal(m, c, 4000) for m, c in zip(TWO.means, TWO.covariances, strict=True))
    )
    error = np.full((4000, 3), 0.1)
    seen = TWO.statistics(drawn[:, :3] + 0.1 * rng.standard_normal((4000, 3)), error, drawn[:, 3], inflation=5.0)
    for band in range(3):
        assert kstest(2 * np.exp(seen.tail[:, band]), "uniform").pvalue > 0.001


def test_what_a_mixture_expects_is_its_mean_given_the_other_bands():
    magnitude, error, zred = np.array([[19.5, 18.3, np.nan]]), np.array([[0.1, 0.2, np.nan]]), np.array([0.15])
    weights, means = [], []
    for weight, mean, covariance in zip(TWO.weights, TWO.means, TWO.covariances, strict=True):
        noisy = covariance[1:, 1:][np.ix_([0, 2], [0, 2])] + np.diag([0.2**2, 0])
        weights.append(weight * multivariate_normal(mean[[1, 3]], noisy).pdf([18.3, 0.15]))
        means.append(mean[0] + covariance[0, [1, 3]] @ np.linalg.solve(noisy, np.array([18.3, 0.15]) - mean[[1, 3]]))
    expected = TWO.expected(magnitude, error, zred)[0]
    assert expected[0] == pytest.approx(np.average(means, weights=weights), rel=1e-10)
    assert np.isnan(expected[2])


def test_fit_finds_the_density_of_its_draws(rng):
    which = rng.random(6000) < 0.4
    drawn = np.where(
        which[:, None], rng.normal([19, 18, 0.1], [0.5, 0.1, 0.05], (6000, 3)), rng.normal([17, 18, 0.2], 0.2, (6000, 3))
    )
    found = PhotometryDensity.fit(drawn[:, :2], drawn[:, 2], n_components=2, seed=0)
    assert np.sort(found.weights) == pytest.approx([0.4, 0.6], abs=0.03)
    assert np.sort(found.means[:, 0]) == pytest.approx([17, 19], abs=0.05)
    again = PhotometryDensity.from_arrays(2, found.to_arrays("d_"), "d_")
    np.testing.assert_array_equal(again.covariances, found.covariances)


def test_bad_input_is_refused(rng):
    magnitude, error, zred = rows(20, rng)
    with pytest.raises(ParameterError, match="20 galaxies, 0 not finite, for 4 Gaussians"):
        PhotometryDensity.fit(magnitude, zred, n_components=4, seed=0)
    with pytest.raises(ParameterError, match=r"magnitude \(20, 2\)"):
        ONE.statistics(magnitude[:, :2], error, zred, inflation=5.0)
    magnitude[3] = np.nan
    with pytest.raises(ParameterError, match="row 3 has no measured band"):
        ONE.statistics(magnitude, error, zred, inflation=5.0)
    with pytest.raises(ArtifactError, match="d_means"):
        PhotometryDensity.from_arrays(3, {"d_weights": np.ones(1)}, "d_")
    with pytest.raises(ArtifactError, match="for 1 Gaussians"):
        PhotometryDensity.from_arrays(2, ONE.to_arrays("d_"), "d_")
