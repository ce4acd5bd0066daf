"""Another prior without retraining: posterior samples weighed by the ratio of a user's prior density to the model's.

A density over *parameters* replaces their prior, which is known in closed form. A density over *derived properties* (star
formation rate, metallicity, age) must be divided by the density that the model's prior induces in those properties, which has
no closed form: it is estimated from prior draws at the galaxy's redshift, by a Gaussian kernel density of at most two
properties, on a grid. Some have a hard edge (no galaxy forms more than all of its mass within 1 Gyr), across which kernels
would lose half of the density: they are reflected at the ends of the draws (Silverman 1986, "Density Estimation", §2.10). The
estimate fails where the prior has hardly any draws, and samples there are counted in `Reweighted.uncovered`.

Weights only choose among the samples that there are: where the new prior prefers what the old posterior hardly visited, `ess`
is low and k-hat high, and only a new training, or MCMC with the new prior, will do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter

from sedcast.data.checks import as_floats, as_names, check_kind, whole_number
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import DERIVED_NAMES, derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.psis import effective_sample_size, pareto_smooth

__all__ = ["LogDensity", "PriorModel", "Reweighted", "reweight_to"]

LogDensity = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""From columns by name, (n,) each, to the log density of the wanted prior, (n,), up to a constant; -inf excludes."""

_BETA = PARAMETER_NAMES[1:5]
_MOST_DERIVED = 2
_LEAST_PRIOR, _USUAL_PRIOR = 100, 100_000
# Prior draws within reach of a sample below which the density estimate there is a guess.
_FEWEST_DRAWS = 10
# Of kernels, in Scott's (1992) for a Gaussian: the induced densities have steep flanks.
_NARROWER = 0.5
_BINS_PER_WIDTH = 4


@dataclass(frozen=True)
class PriorModel:
    """The prior that samples were made with, and what turns parameters into derived properties.

    Attributes
    ----------
    prior : of the parameters.
    bases, cosmology : of the model; those of the posterior estimator.
    redshift_prior : of the redshift, if the samples' redshifts are inferred.
    """

    prior: Prior
    bases: SFHBases
    cosmology: Cosmology
    redshift_prior: RedshiftPrior | None = None

    @classmethod
    def of(cls, estimator: PosteriorEstimator) -> "PriorModel":
        """That of a posterior estimator."""
        check_kind("estimator", estimator, PosteriorEstimator, "such as PosteriorEstimator.default()")
        return cls(estimator.prior, estimator.bases, estimator.cosmology, estimator.redshift_prior)

    def columns(self, theta: np.ndarray, zred: float) -> dict[str, np.ndarray]:
        """Parameters and derived properties of theta (n, 12) by name, (n,) each."""
        return dict(zip(PARAMETER_NAMES, theta.T, strict=True)) | derived_properties(theta, zred, self.bases, self.cosmology)

    def log_density(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Log density (n,) of independent parameters, see `Prior.log_density`, and of the redshift if it is inferred."""
        parameters = {name: values for name, values in columns.items() if name != "zred"}
        total = self.prior.log_density(parameters) if parameters else np.zeros(len(columns["zred"]))
        if "zred" in columns:
            assert self.redshift_prior is not None
            total = total + self.redshift_prior.log_density(columns["zred"])
        return np.asarray(total)


@dataclass(frozen=True)
class Reweighted:
    """Weights of samples under another prior.

    Attributes
    ----------
    weights : (n,), sum 1, Pareto-smoothed.
    ess : effective number of samples, by the unsmoothed weights.
    khat : shape of the tail of the weights; above 0.7, or 1 - 1 / log10(n) where that is less (of n below some 2,000 samples),
        they are not to be trusted (Vehtari et al. 2024).
    log_evidence_ratio : log of the evidence with the wanted prior over that with the model's, for a normalised density.
    uncovered : fraction of the weight on samples where the induced prior density is a guess; 0 for parameters alone.
    """

    weights: np.ndarray
    ess: float
    khat: float
    log_evidence_ratio: float
    uncovered: float

    def resample(self, n: int, seed: int) -> np.ndarray:
        """Row numbers (n,) of equally weighted samples, drawn with replacement."""
        n, seed = whole_number("n", n), whole_number("seed", seed, least=0)
        return np.random.default_rng(seed).choice(len(self.weights), n, p=self.weights)


def reweight_to(
    samples: np.ndarray,
    log_density: LogDensity,
    over: Sequence[str],
    *,
    model: PriorModel,
    zred: float | np.ndarray,
    n_prior: int = _USUAL_PRIOR,
    seed: int = 0,
) -> Reweighted:
    """Weigh one galaxy's posterior samples for another prior on some quantities.

    The wanted prior is `log_density` over the quantities named, times what the model's prior says of the rest given these.

    Parameters
    ----------
    samples : (n, 12) parameters, for example `PosteriorCatalog.theta` of a row.
    log_density : called with a mapping that has the columns `over`, and nothing else.
    over : names of parameters with a prior of their own (not the SFH weights, which must sum to one), or up to two derived
        properties; not both. If the redshift is inferred: parameters and ``zred``.
    model : the prior that the samples were made with.
    zred : the galaxy's redshift, on which derived properties depend; if it is inferred, that of each sample, (n,).
    n_prior : prior draws for the density of derived properties, 100 at least.
    seed : of these draws.

    Returns
    -------
    reweighted : weights and their diagnostics.

    Raises
    ------
    ParameterError : unknown or mixed names, samples outside the prior, redshifts that are not one per sample where they are
        inferred, a density that is NaN, inf, of the wrong shape or zero at every sample, or too few prior draws.
    """
    check_kind("model", model, PriorModel, "such as PriorModel.of(estimator)")
    if not callable(log_density):
        raise ParameterError(f"log_density is a {type(log_density).__name__}, expected a function of columns by name")
    theta = model.prior.validate(samples)
    if not len(theta):
        raise ParameterError("samples has no rows: expected (n, 12) with n of at least 1; has the galaxy a posterior?")
    n_prior, seed = whole_number("n_prior", n_prior, least=_LEAST_PRIOR), whole_number("seed", seed, least=0)
    names = as_names("over", over)
    of_parameters = _check_names(names, model)
    expected = (len(theta),) if model.redshift_prior is not None else ()
    if np.shape(zred) != expected:
        what = "each sample's, the redshift being inferred" if expected else "the galaxy's"
        raise ParameterError(f"zred has shape {np.shape(zred)}, expected {expected}: {what}")
    zred = as_floats("zred", zred) if model.redshift_prior is None else model.redshift_prior.in_range(zred)
    if of_parameters:
        columns = dict(zip(PARAMETER_NAMES, theta.T, strict=True)) | {"zred": zred}
    else:
        columns = model.columns(theta, float(zred))
    chosen = _Columns({name: columns[name] for name in names})
    wanted = as_floats("what log_density returned", log_density(chosen))
    if wanted.shape != (len(theta),) or np.isnan(wanted).any() or np.isposinf(wanted).any():
        raise ParameterError(
            f"log_density must return ({len(theta)},) numbers below inf, got {wanted.shape} with "
            f"{np.count_nonzero(np.isnan(wanted))} NaN: return -inf where the prior is zero"
        )
    if not np.isfinite(wanted).any():
        raise ParameterError("log_density is -inf at every sample: the wanted prior excludes this galaxy's whole posterior")
    if of_parameters:
        current, guessed = model.log_density(chosen), np.zeros(len(theta), dtype=bool)
    else:
        current, guessed = _log_induced_prior(np.stack(list(chosen.values())), names, model, float(zred), n_prior, seed)
    log_weight = wanted - current
    smoothed, khat = pareto_smooth(log_weight)
    weights = np.exp(smoothed)
    return Reweighted(
        weights=weights / weights.sum(),
        ess=effective_sample_size(log_weight),
        khat=khat,
        log_evidence_ratio=float(np.logaddexp.reduce(log_weight) - np.log(len(theta))),
        uncovered=float(weights[guessed].sum()),
    )


class _Columns(dict[str, np.ndarray]):
    """Columns that a density is given; it is told of one that it asks for in vain."""

    def __missing__(self, name: str) -> np.ndarray:
        raise ParameterError(f"log_density asks for {name!r}, but over has {', '.join(self)} only: name all that it depends on")


def _check_names(names: tuple[str, ...], model: PriorModel) -> bool:
    """Whether the names are parameters; or an error."""
    parameters = tuple(name for name in PARAMETER_NAMES if name not in _BETA)
    others = f", or at most {_MOST_DERIVED} of {DERIVED_NAMES}"
    if model.redshift_prior is not None:
        parameters, others = (*parameters, "zred"), " (derived properties: not where the redshift is inferred)"
    if names and len(set(names)) == len(names):
        if set(names) <= set(parameters):
            return True
        if model.redshift_prior is None and set(names) <= set(DERIVED_NAMES) and len(names) <= _MOST_DERIVED:
            return False
    raise ParameterError(f"over={names}: expected different names, all of them among {parameters}{others}")


def _log_induced_prior(
    values: np.ndarray, names: tuple[str, ...], model: PriorModel, zred: float, n_prior: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log density (n,) that the prior induces at `values` (k, n) of derived properties, and where it is a guess, (n,) bool."""
    columns = model.columns(model.prior.sample(n_prior, seed), zred)
    drawn = np.stack([columns[name] for name in names])
    low, high = drawn.min(axis=1), drawn.max(axis=1)
    width = _NARROWER * n_prior ** (-1 / (len(names) + 4)) * drawn.std(axis=1)
    n_bin = np.maximum(np.ceil(_BINS_PER_WIDTH * (high - low) / width).astype(int), 2)
    step = (high - low) / n_bin
    counts, edges = np.histogramdd(drawn.T, bins=n_bin, range=list(zip(low, high, strict=True)))
    density = gaussian_filter(counts, width / step, mode="reflect") / (n_prior * np.prod(step))
    centres = [edge[:-1] + 0.5 * each for edge, each in zip(edges, step, strict=True)]
    # A sample may lie a little beyond all draws.
    near = np.all((values.T + width >= low) & (values.T - width <= high), axis=1)
    inside = np.clip(values.T, low + 0.5 * step, high - 0.5 * step)
    found = np.where(near, RegularGridInterpolator(centres, density, bounds_error=False, fill_value=None)(inside), 0.0)
    # The height that so many kernels give at one point.
    least = _FEWEST_DRAWS / (n_prior * np.prod(np.sqrt(2 * np.pi) * width))
    return np.log(np.maximum(found, least)), found < least
