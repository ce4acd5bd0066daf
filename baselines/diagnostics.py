"""How well a chain has sampled."""

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from sedcast.data.errors import ParameterError

__all__ = ["autocorrelation_time", "rank_rhat", "split_rhat"]

_WINDOW = 5.0
_MIN_STEPS = 8


def _as_chain(chain: np.ndarray) -> np.ndarray:
    chain = np.asarray(chain, dtype=float)
    if chain.ndim != 3 or len(chain) < _MIN_STEPS or not np.isfinite(chain).all():
        raise ParameterError(
            f"chain has shape {chain.shape}: expected finite values (n_step, n_walker, n_dim) with at least {_MIN_STEPS} steps"
        )
    return chain


def autocorrelation_time(chain: np.ndarray) -> np.ndarray:
    """Integrated autocorrelation time of each parameter in steps, (n_dim,), averaged over walkers; at least 1.

    Sokal's window of five autocorrelation times, as in `emcee.autocorr.integrated_time`. That function subtracts each
    walker's own mean, which makes the time far too short in chains of a few ten autocorrelation times; here the mean is
    that of all walkers. A walker that is stuck apart from the others thus lengthens the time instead of passing unseen.
    A parameter that never moves has an infinite time.

    Parameters
    ----------
    chain : (n_step, n_walker, n_dim).

    References
    ----------
    Sokal 1996, "Monte Carlo methods in statistical mechanics"; Foreman-Mackey et al. 2013, arXiv:1202.3665.
    """
    chain = _as_chain(chain)
    n_step = len(chain)
    n_fft = 1 << (2 * n_step - 1).bit_length()
    time = np.full(chain.shape[2], np.inf)
    for column in range(chain.shape[2]):
        values = chain[:, :, column] - chain[:, :, column].mean()
        spectrum = np.fft.rfft(values, n=n_fft, axis=0)
        covariance = np.fft.irfft(np.mean(np.abs(spectrum) ** 2, axis=1), n=n_fft)[:n_step]
        if covariance[0] <= 0:
            continue
        covariance /= np.arange(n_step, 0, -1)
        running = 2.0 * np.cumsum(covariance / covariance[0]) - 1.0
        closed = np.flatnonzero(np.arange(n_step) >= _WINDOW * running)
        # A window that never closes means a chain of few autocorrelation times: emcee's would return 1 then.
        time[column] = max(1.0, running[closed[0]] if len(closed) else running.max())
    return time


def split_rhat(chain: np.ndarray, *, n_groups: int | None = None) -> np.ndarray:
    """Split R-hat of each parameter, (n_dim,): 1 when the parts of a chain agree.

    Every walker's chain is cut in halves. With `n_groups`, walkers are pooled into so many groups (the nested R-hat): the
    R-hat of single walkers stays near sqrt(1 + 2 tau / n_step) however many walkers there are, so that it asks of a large
    ensemble many times the samples that its effective sample size needs.

    Parameters
    ----------
    chain : (n_step, n_walker, n_dim).
    n_groups : number of groups, a divisor of n_walker; default, every walker is its own.

    References
    ----------
    Gelman et al. 2013, "Bayesian Data Analysis", 3rd ed., §11.4; Margossian et al. 2024, arXiv:2110.13017.
    """
    chain = _as_chain(chain)
    n_step, n_walker, n_dim = chain.shape
    groups = n_walker if n_groups is None else n_groups
    if groups < 1 or n_walker % groups:
        raise ParameterError(f"n_groups={n_groups}: must divide the number of walkers, {n_walker}")
    half = n_step // 2
    halves = np.stack([chain[:half], chain[n_step - half :]])
    parts = halves.reshape(2, half, groups, n_walker // groups, n_dim).transpose(0, 2, 1, 3, 4).reshape(2 * groups, -1, n_dim)
    n = parts.shape[1]
    within = parts.var(axis=1, ddof=1).mean(axis=0)
    between = parts.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = np.sqrt((n - 1) / n + between / within)
    return np.where(within > 0, rhat, np.inf)


def rank_rhat(chain: np.ndarray, *, n_groups: int) -> np.ndarray:
    """`split_rhat` of normalised ranks, the greater of the values' own and of their distances from the median, (n_dim,).

    Ranks do not mind heavy tails; distances from the median see groups that agree in location but not in width.

    Parameters
    ----------
    chain : (n_step, n_walker, n_dim).
    n_groups : independent groups of walkers, neighbours in the chain.

    References
    ----------
    Vehtari et al. 2021, arXiv:1903.08008; Margossian et al. 2024, arXiv:2110.13017 (groups).
    """
    chain = _as_chain(chain)
    flat = chain.reshape(-1, chain.shape[2])
    both = [flat, np.abs(flat - np.median(flat, axis=0))]
    rhat = [split_rhat(_normal_scores(values).reshape(chain.shape), n_groups=n_groups) for values in both]
    return np.asarray(np.maximum(*rhat))


def _normal_scores(values: np.ndarray) -> np.ndarray:
    return np.asarray(ndtri((rankdata(values, axis=0) - 0.375) / (len(values) + 0.25)))
