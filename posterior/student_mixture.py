"""A mixture of Student t distributions, fitted to weighted points: the proposal of adaptive importance sampling."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp

__all__ = ["StudentMixture"]

_N_ITERATION = 30
_SHRINKAGE = 0.05
_RIDGE = 1e-6


@dataclass(frozen=True)
class StudentMixture:
    """A mixture of multivariate t distributions with common degrees of freedom.

    Attributes
    ----------
    weights : (k,), sum 1.
    means : (k, dim).
    factors : (k, dim, dim) lower Cholesky factors of the scale matrices.
    df : degrees of freedom: low enough that the tails outweigh those of posteriors with a normal prior.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    df: float = 8.0

    @classmethod
    def fit(cls, points: np.ndarray, weights: np.ndarray, n_components: int, rng: np.random.Generator) -> "StudentMixture":
        """Fit by expectation maximisation of a Gaussian mixture, its covariances shrunk towards that of all points.

        Parameters
        ----------
        points : (n, dim).
        weights : (n,), sum 1.
        n_components : k; a component that loses its points keeps hardly any weight.
        rng : picks the first means among the points.
        """
        kept = weights > 1e-3 * weights.max()
        points, weights = points[kept], weights[kept] / weights[kept].sum()
        dim = points.shape[1]
        centred = points - weights @ points
        overall = (centred * weights[:, None]).T @ centred + _RIDGE * np.eye(dim)
        means = points[rng.choice(len(points), n_components, p=weights)]
        shares = np.full(n_components, 1 / n_components)
        factors = np.repeat(np.linalg.cholesky(overall)[None], n_components, axis=0)
        for _ in range(_N_ITERATION):
            log_share = np.log(shares) - 0.5 * _distances(points, means, factors) - _log_det(factors)
            responsibility = np.exp(log_share - logsumexp(log_share, axis=1, keepdims=True)) * weights[:, None]
            shares = np.maximum(responsibility.sum(axis=0), _RIDGE)
            means = (responsibility.T @ points) / shares[:, None]
            for k in range(n_components):
                offset = points - means[k]
                own = (offset * responsibility[:, k, None]).T @ offset / shares[k]
                factors[k] = np.linalg.cholesky((1 - _SHRINKAGE) * own + _SHRINKAGE * overall)
            shares = shares / shares.sum()
        return cls(shares, means, factors)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n points, (n, dim)."""
        component = rng.choice(len(self.weights), n, p=self.weights)
        normal = rng.standard_normal((n, self.means.shape[1]))
        scaled = normal / np.sqrt(rng.chisquare(self.df, n) / self.df)[:, None]
        return np.asarray(self.means[component] + np.einsum("nij,nj->ni", self.factors[component], scaled))

    def log_prob(self, points: np.ndarray) -> np.ndarray:
        """Log density at points (n, dim), (n,)."""
        dim, df = self.means.shape[1], self.df
        constant = gammaln(0.5 * (df + dim)) - gammaln(0.5 * df) - 0.5 * dim * np.log(df * np.pi) - _log_det(self.factors)
        log_kernel = -0.5 * (df + dim) * np.log1p(_distances(points, self.means, self.factors) / df)
        return np.asarray(logsumexp(np.log(self.weights) + constant + log_kernel, axis=1))


def _distances(points: np.ndarray, means: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distances (n, k)."""
    whitened = [solve_triangular(f, (points - m).T, lower=True) for m, f in zip(means, factors, strict=True)]
    return np.stack([np.einsum("dn,dn->n", w, w) for w in whitened], axis=1)


def _log_det(factors: np.ndarray) -> np.ndarray:
    """Logarithms of the Cholesky factors' determinants, (k,)."""
    return np.asarray(np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1))
