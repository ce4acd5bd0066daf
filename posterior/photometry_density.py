"""How probable photometry is under the training simulations, errors and unmeasured bands accounted for.

The noiseless asinh magnitudes m and redshifts of simulated galaxies are described by a mixture of Gaussians. Observed ones
have errors Σ = diag(σ²), so that given the redshift their density is the same mixture with Σ added to every covariance
(Bovy, Hogg & Roweis 2011, arXiv:0905.2979, Eq. 5), without the rows and columns of bands that are not measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, logsumexp

from sedcast.data.errors import ArtifactError, ParameterError

__all__ = ["DensityStatistics", "PhotometryDensity"]

_MAGNITUDE_FLOOR, _ZRED_FLOOR = 0.01, 0.001
_ITERATIONS = 40
_TOLERANCE = 5e-4
_KMEANS_ITERATIONS = 10
_ROWS_PER_BLOCK = 1024
_LN_2PI = float(np.log(2 * np.pi))
_ARRAYS = ("weights", "means", "covariances")


@dataclass(frozen=True)
class DensityStatistics:
    """What a density says about rows of photometry.

    Attributes
    ----------
    log_prob : (n,) log density of the measured magnitudes given redshift and errors, mag^-n_measured.
    log_prob_inflated : (n,) the same if every error were larger by the factor asked for.
    tail : (n, n_band) log probability that a band's magnitude is at least as far from what the other bands, its error and the
        redshift let expect, on the same side; NaN where unmeasured, or if no other band is measured.
    bright : (n, n_band) bool, whether the band is brighter than expected.
    """

    log_prob: np.ndarray
    log_prob_inflated: np.ndarray
    tail: np.ndarray
    bright: np.ndarray


@dataclass(frozen=True)
class PhotometryDensity:
    """A mixture of Gaussians over (asinh magnitudes, zred) of noiseless simulated galaxies; make one with `fit`.

    Attributes
    ----------
    weights : (n_component,), summing to one.
    means : (n_component, n_band + 1) magnitudes, and the redshift last.
    covariances : (n_component, n_band + 1, n_band + 1).
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @classmethod
    def fit(cls, magnitude: np.ndarray, zred: np.ndarray, *, n_components: int, seed: int) -> "PhotometryDensity":
        """Fit by expectation-maximisation, from the clusters that k-means finds.

        Parameters
        ----------
        magnitude : (n, n_band) asinh magnitudes of noiseless fluxes.
        zred : (n,).
        n_components : Gaussians; every variance is at least (0.01 mag)².
        seed : of the first clusters.

        Raises
        ------
        ParameterError : if there are fewer than ten rows a component, or a value is not finite.
        """
        x = np.column_stack([magnitude, zred]).astype(float)
        if len(x) < 10 * n_components or not np.isfinite(x).all():
            bad = int((~np.isfinite(x)).any(axis=1).sum())
            raise ParameterError(
                f"{len(x)} galaxies, {bad} not finite, for {n_components} Gaussians: expected ten finite ones each at least"
            )
        rng = np.random.default_rng(seed)
        floor = np.diag(np.append(np.full(x.shape[1] - 1, _MAGNITUDE_FLOOR), _ZRED_FLOOR) ** 2)
        responsibility = _clusters(x, n_components, rng)
        previous = -np.inf
        for _ in range(_ITERATIONS):
            total = responsibility.sum(axis=0) + 1e-9
            weights, means = total / total.sum(), (responsibility.T @ x) / total[:, None]
            covariances = np.empty((n_components, x.shape[1], x.shape[1]))
            for k, mean in enumerate(means):
                centred = x - mean
                covariances[k] = (centred * responsibility[:, k, None]).T @ centred / total[k] + floor
            log_joint = np.log(weights) + _log_gaussians(x, means, covariances)
            log_prob = logsumexp(log_joint, axis=1)
            if log_prob.mean() - previous < _TOLERANCE:
                break
            previous = log_prob.mean()
            responsibility = np.exp(log_joint - log_prob[:, None])
        return cls(weights, means, covariances)

    @property
    def n_band(self) -> int:
        """Number of bands."""
        return self.means.shape[1] - 1

    def statistics(
        self, magnitude: np.ndarray, error: np.ndarray, zred: np.ndarray | None, *, inflation: float
    ) -> DensityStatistics:
        """Evaluate rows of photometry.

        Parameters
        ----------
        magnitude, error : (n, n_band) asinh magnitudes and their errors; NaN where unmeasured.
        zred : (n,), or None where it is unknown: the density is then that of the magnitudes at any redshift.
        inflation : factor of the larger errors.

        Raises
        ------
        ParameterError : if shapes disagree, or a row has no measured band.
        """
        measured = self._measured(magnitude, error, zred)
        log_prob, inflated = np.empty((2, len(measured)))
        tail, bright = np.full(measured.shape, np.nan), np.zeros(measured.shape, dtype=bool)
        for rows, bands in _blocks(measured):
            given = self._given_zred(zred, rows, bands)
            m, e = magnitude[np.ix_(rows, bands)], error[np.ix_(rows, bands)]
            inflated[rows] = _MixtureRows(*given, m, inflation * e).log_prob
            mixture = _MixtureRows(*given, m, e)
            log_prob[rows] = mixture.log_prob
            if len(bands) > 1:
                tail[np.ix_(rows, bands)], bright[np.ix_(rows, bands)] = mixture.leave_one_out()
        return DensityStatistics(log_prob, inflated, tail, bright)

    def log_prob(self, magnitude: np.ndarray, error: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
        """`DensityStatistics.log_prob` alone, (n,); arguments and errors as in `statistics`."""
        log_prob = np.empty(len(magnitude))
        for rows, _, mixture in self._mixtures(magnitude, error, zred):
            log_prob[rows] = mixture.log_prob
        return log_prob

    def expected(self, magnitude: np.ndarray, error: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
        """Mean magnitude (n, n_band) of each band given the others; NaN where `DensityStatistics.tail` is.

        Arguments and errors as in `statistics`.
        """
        mean = np.full(magnitude.shape, np.nan)
        for rows, bands, mixture in self._mixtures(magnitude, error, zred):
            if len(bands) > 1:
                mean[np.ix_(rows, bands)] = magnitude[np.ix_(rows, bands)] - mixture.residual()
        return mean

    def _mixtures(
        self, magnitude: np.ndarray, error: np.ndarray, zred: np.ndarray | None
    ) -> "Iterator[tuple[np.ndarray, np.ndarray, _MixtureRows]]":
        """Some rows of the same measured bands at a time, these bands, and the mixture there."""
        for rows, bands in _blocks(self._measured(magnitude, error, zred)):
            m, e = magnitude[np.ix_(rows, bands)], error[np.ix_(rows, bands)]
            yield rows, bands, _MixtureRows(*self._given_zred(zred, rows, bands), m, e)

    def _measured(self, magnitude: np.ndarray, error: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
        """Which bands of which rows are measured, (n, n_band) bool; or an error."""
        shape = (len(magnitude if zred is None else zred), self.n_band)
        if magnitude.shape != shape or error.shape != shape:
            raise ParameterError(f"magnitude {magnitude.shape} and error {error.shape}: expected {shape}")
        measured = np.isfinite(magnitude) & np.isfinite(error)
        if not measured.any(axis=1).all():
            raise ParameterError(f"row {int(np.argmin(measured.any(axis=1)))} has no measured band: leave such rows out")
        return np.asarray(measured)

    def _given_zred(
        self, zred: np.ndarray | None, rows: np.ndarray, bands: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mixture at given redshifts: log weights (n, K), means (n_used, n, K), covariances (K, n_used, n_used)."""
        if zred is None:
            log_weights = np.broadcast_to(np.log(self.weights), (len(rows), len(self.weights)))
            means = np.broadcast_to(self.means[:, bands].T[:, None], (len(bands), len(rows), len(self.weights)))
            return log_weights, means, self.covariances[:, bands[:, None], bands]
        variance = self.covariances[:, -1, -1]
        away = zred[rows, None] - self.means[:, -1]
        log_weights = np.log(self.weights / np.sqrt(variance)) - 0.5 * away**2 / variance
        slope = self.covariances[:, bands, -1] / variance[:, None]
        means = self.means[:, bands].T[:, None] + slope.T[:, None] * away
        covariances = self.covariances[:, bands[:, None], bands]
        covariances = covariances - slope[:, :, None] * slope[:, None, :] * variance[:, None, None]
        return log_weights - logsumexp(log_weights, axis=1, keepdims=True), means, covariances

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays by prefixed name, for an artifact."""
        return {prefix + name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, n_band: int, arrays: Mapping[str, np.ndarray], prefix: str) -> "PhotometryDensity":
        """The density that `to_arrays` described.

        Raises
        ------
        ArtifactError : if an array is missing or of the wrong shape.
        """
        try:
            weights, means, covariances = (np.asarray(arrays[prefix + name], dtype=float) for name in _ARRAYS)
        except KeyError as error:
            raise ArtifactError(
                f"array {error} of the photometry's density is missing: the file is of another version"
            ) from error
        k, d = len(weights), n_band + 1
        if means.shape != (k, d) or covariances.shape != (k, d, d):
            raise ArtifactError(f"the photometry's density has means {means.shape} for {k} Gaussians, expected {(k, d)}")
        return cls(weights, means, covariances)


class _MixtureRows:
    """Rows of photometry against their own mixtures: the Cholesky factors, element by element over all rows and components.

    Each row has other covariances, all tiny: loops over bands of operations on (n, K) arrays beat batched linear algebra.
    """

    def __init__(
        self, log_weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, magnitude: np.ndarray, error: np.ndarray
    ) -> None:
        n_band = magnitude.shape[1]
        variance = error.T[:, :, None] ** 2
        lower: list[list[np.ndarray]] = []
        self.white: list[np.ndarray] = []
        log_det = np.zeros(log_weights.shape)
        for i in range(n_band):
            row: list[np.ndarray] = []
            for j in range(i):
                row.append((covariances[:, i, j] - _dot(row, lower[j][:j])) / lower[j][j])
            row.append(np.sqrt(covariances[:, i, i] + variance[i] - _dot(row, row)))
            log_det += np.log(row[i])
            self.white.append((magnitude[:, i, None] - means[i] - _dot(row, self.white)) / row[i])
            lower.append(row)
        self.lower = lower
        self.log_joint = log_weights - 0.5 * _dot(self.white, self.white) - log_det - 0.5 * n_band * _LN_2PI
        self.log_prob = np.asarray(logsumexp(self.log_joint, axis=1))

    def leave_one_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Tail probabilities of each band given the others, and whether it is brighter than they suggest, (n, n_band) each."""
        tails, bright = [], []
        for t, _, others in self._given_others():
            below, above = (logsumexp(others + log_ndtr(sign * t), axis=1) for sign in (1, -1))
            tails.append(np.minimum(below, above))
            bright.append(below < above)
        return np.stack(tails, axis=1), np.stack(bright, axis=1)

    def residual(self) -> np.ndarray:
        """How far each magnitude is from its mean given the other bands, (n, n_band)."""
        return np.stack([(np.exp(others) * t * scatter).sum(axis=1) for t, scatter, others in self._given_others()], axis=1)

    def _given_others(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each band, given the others: its residual in standard deviations, these, and the log weights, (n, K) each."""
        n_band = len(self.lower)
        inverse = self._inverse()
        for b in range(n_band):
            column = [inverse[i][b] for i in range(b, n_band)]
            precision = _dot(column, column)
            # Rasmussen & Williams (2006), Eqs. 5.11-5.12.
            t = _dot(column, self.white[b:]) / np.sqrt(precision)
            others = self.log_joint + 0.5 * t**2 - 0.5 * np.log(precision)
            yield t, 1 / np.sqrt(precision), others - logsumexp(others, axis=1, keepdims=True)

    def _inverse(self) -> list[list[np.ndarray]]:
        """The inverse of the Cholesky factor."""
        inverse: list[list[np.ndarray]] = []
        for i, row in enumerate(self.lower):
            inverse.append([-_dot(row[j:i], [inverse[k][j] for k in range(j, i)]) / row[i] for j in range(i)] + [1 / row[i]])
        return inverse


def _dot(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    return np.asarray(sum((x * y for x, y in zip(a, b, strict=False)), np.zeros(())))


def _blocks(measured: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows with the same measured bands, some at a time, and those bands."""
    patterns, pattern_of_row = np.unique(measured, axis=0, return_inverse=True)
    blocks = []
    for k, pattern in enumerate(patterns):
        rows = np.flatnonzero(pattern_of_row.ravel() == k)
        bands = np.flatnonzero(pattern)
        blocks += [(rows[start : start + _ROWS_PER_BLOCK], bands) for start in range(0, len(rows), _ROWS_PER_BLOCK)]
    return blocks


def _clusters(x: np.ndarray, n_components: int, rng: np.random.Generator) -> np.ndarray:
    """Responsibilities (n, K) of the nearest of k-means's centres, in units where the whole has unit covariance."""
    variance, axes = np.linalg.eigh(np.cov(x, rowvar=False))
    white = (x - x.mean(axis=0)) @ (axes / np.sqrt(np.maximum(variance, 1e-12)))
    centres = white[rng.choice(len(white), n_components, replace=False)]
    for _ in range(_KMEANS_ITERATIONS):
        nearest = np.argmin((centres**2).sum(axis=1) - 2 * white @ centres.T, axis=1)
        one_hot = (nearest[:, None] == np.arange(n_components)).astype(float)
        filled = one_hot.any(axis=0)
        centres[filled] = (one_hot.T @ white)[filled] / one_hot.sum(axis=0)[filled, None]
    return one_hot + 1e-3 / n_components


def _log_gaussians(x: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Log densities (n, K) of rows under each Gaussian."""
    log_prob = np.empty((len(x), len(means)))
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (x - mean).T)
        log_prob[:, k] = -0.5 * (white**2).sum(axis=0) - np.log(np.diag(root)).sum() - 0.5 * x.shape[1] * _LN_2PI
    return log_prob
