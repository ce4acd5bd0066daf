"""The flow beside emcee and zeus, galaxy by galaxy: medians, widths, time and model evaluations."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from sedcast.baselines.diagnostics import marginal_wasserstein
from sedcast.baselines.mcmc import McmcConfig, McmcResult, run_emcee, run_zeus
from sedcast.data.artifacts import save_artifact
from sedcast.data.catalog import Catalog
from sedcast.data.config import Config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import DERIVED_NAMES, QUANTITY_NAMES
from sedcast.posterior.likelihood import FluxSimulator, GaussianLikelihood

__all__ = ["CompareConfig", "Comparison", "GalaxyComparison", "PosteriorSampler", "SamplerOutcome", "Shift", "compare_galaxies"]

logger = logging.getLogger(__name__)

KIND = "mcmc-comparison"
FSPS_LABEL = "computed, not run: measured seconds of one FSPS model x model evaluations"

_RUNNERS = {"emcee": run_emcee, "zeus": run_zeus}
_PERCENTILES = (16.0, 50.0, 84.0)


class PosteriorSampler(Protocol):
    """What the comparison needs of a `PosteriorEstimator`."""

    @property
    def bands(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def prior(self) -> Prior: ...  # noqa: D102
    @property
    def bases(self) -> SFHBases: ...  # noqa: D102
    @property
    def cosmology(self) -> Cosmology: ...  # noqa: D102

    def sample(self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray, n_samples: int, *, seed: int) -> np.ndarray:
        """Parameters (n, n_samples, 12)."""
        ...


class CompareConfig(Config):
    """What to run on each galaxy.

    Attributes
    ----------
    samplers : MCMC codes.
    n_samples : samples of the flow; chains are thinned evenly to at most as many.
    mcmc : of each chain; galaxy i runs with ``mcmc.seed + i``.
    """

    samplers: tuple[Literal["emcee", "zeus"], ...] = ("emcee", "zeus")
    n_samples: int = Field(default=10_000, ge=100)
    mcmc: McmcConfig = McmcConfig()


@dataclass(frozen=True)
class SamplerOutcome:
    """What one method found for one galaxy.

    Attributes
    ----------
    method : ``"flow"``, ``"emcee"`` or ``"zeus"``.
    samples : (n, n_quantity) posterior samples, columns `QUANTITY_NAMES`; no rows if the method failed.
    quantiles : (3, n_quantity) 16, 50 and 84% quantiles; NaN if it failed.
    wall_s : seconds.
    n_evaluations : model evaluations; 0 for the flow.
    converged : whether a chain met its targets; None for the flow.
    reason : why a chain ended, or why the method failed.
    failed : whether there are no samples.
    ess, rhat : of the worst parameter; None for the flow.
    """

    method: str
    samples: np.ndarray
    quantiles: np.ndarray
    wall_s: float
    n_evaluations: int = 0
    converged: bool | None = None
    reason: str = ""
    failed: bool = False
    ess: float | None = None
    rhat: float | None = None

    @property
    def width(self) -> np.ndarray:
        """Half the 16-84% range, the posterior's sigma, (n_quantity,)."""
        return 0.5 * (self.quantiles[2] - self.quantiles[0])


@dataclass(frozen=True)
class Shift:
    """How far one method's posterior of a galaxy is from a reference method's.

    Attributes
    ----------
    units : (n_quantity,) difference of the medians; dex where the quantity is a logarithm, else in its own units.
    sigma : (n_quantity,) the same in the reference's posterior sigma.
    width_ratio : (n_quantity,) ratio of the posterior sigmas.
    wasserstein : (11,) distance of the marginals in probit space, in prior standard deviations.
    """

    units: np.ndarray
    sigma: np.ndarray
    width_ratio: np.ndarray
    wasserstein: np.ndarray


@dataclass(frozen=True)
class GalaxyComparison:
    """All methods on one galaxy.

    Attributes
    ----------
    name : the galaxy's identifier.
    zred : redshift.
    outcomes : by method.
    shifts : by (method, reference), where neither failed.
    """

    name: str
    zred: float
    outcomes: dict[str, SamplerOutcome]
    shifts: dict[tuple[str, str], Shift]


@dataclass(frozen=True)
class Comparison:
    """All methods on all galaxies.

    Attributes
    ----------
    galaxies : in the order given.
    config : what was run.
    fsps_seconds : measured time of one FSPS model, or None.
    interrupted : whether the user stopped the run before all galaxies were done.
    """

    galaxies: tuple[GalaxyComparison, ...]
    config: CompareConfig
    fsps_seconds: float | None = None
    interrupted: bool = False

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (method, reference) pairs that are compared."""
        return tuple(combinations(("flow", *self.config.samplers), 2))

    def shift_table(self, pair: tuple[str, str]) -> np.ndarray:
        """Shifts of the medians in posterior sigma, (n_galaxy, n_quantity); galaxies where either failed are left out."""
        rows = [galaxy.shifts[pair].sigma for galaxy in self.galaxies if pair in galaxy.shifts]
        return np.array(rows).reshape(-1, len(QUANTITY_NAMES))

    def to_json_dict(self) -> dict[str, Any]:
        """Everything but the samples, as JSON-serialisable values; what is not finite is None."""
        return {
            "quantities": list(QUANTITY_NAMES),
            "free_parameters": list(FREE_PARAMETER_NAMES),
            "percentiles": list(_PERCENTILES),
            "config": self.config.model_dump(mode="json"),
            "interrupted": self.interrupted,
            "fsps_seconds_per_model": self.fsps_seconds,
            "fsps_label": FSPS_LABEL if self.fsps_seconds is not None else None,
            "summary": {f"{a} - {b}": _summary(self.shift_table((a, b))) for a, b in self.pairs},
            "galaxies": [self._galaxy_dict(galaxy) for galaxy in self.galaxies],
        }

    def _galaxy_dict(self, galaxy: GalaxyComparison) -> dict[str, Any]:
        methods = {}
        for name, outcome in galaxy.outcomes.items():
            scalars = ("wall_s", "n_evaluations", "ess", "rhat", "converged", "failed", "reason")
            methods[name] = {key: _jsonable(getattr(outcome, key)) for key in scalars} | {
                "quantiles": _jsonable(outcome.quantiles.T),
                "fsps_wall_s": None if self.fsps_seconds is None else self.fsps_seconds * outcome.n_evaluations,
            }
        shifts = {
            f"{a} - {b}": {key: _jsonable(value) for key, value in vars(shift).items()}
            for (a, b), shift in galaxy.shifts.items()
        }
        return {"name": galaxy.name, "zred": galaxy.zred, "methods": methods, "shifts": shifts}

    def to_markdown(self) -> str:
        """A report: the summary over galaxies, the cost of every run, and each galaxy's medians side by side."""
        return "\n".join([*self._summary_lines(), "", *self._cost_lines(), *map(self._galaxy_lines, self.galaxies)]) + "\n"

    def _summary_lines(self) -> list[str]:
        header = ["quantity", *(f"{a} − {b}" for a, b in self.pairs)]
        lines = [
            "## Shift of the posterior medians, in posterior σ",
            "",
            f"Median and largest absolute value over {len(self.galaxies)} galaxies.",
            "",
            *_header(header),
        ]
        tables = [_summary(self.shift_table(pair)) for pair in self.pairs]
        for name in QUANTITY_NAMES:
            cells = [f"{_number(t[name]['median_abs_sigma'])}, {_number(t[name]['max_abs_sigma'])}" for t in tables]
            lines.append(_row([f"`{name}`", *cells]))
        return lines

    def _cost_lines(self) -> list[str]:
        header = ["galaxy", "method", "wall [s]", "model evaluations", "worst ESS", "R-hat", "converged", "how it ended"]
        lines = ["## Cost and convergence", ""]
        if self.fsps_seconds is not None:
            header.insert(4, "with FSPS [h]")
            lines += [f"With FSPS: {FSPS_LABEL} ({self.fsps_seconds:.3g} s each).", ""]
        lines += _header(header)
        for galaxy in self.galaxies:
            for name, outcome in galaxy.outcomes.items():
                verdict = "failed" if outcome.failed else {None: "–", True: "yes", False: "no"}[outcome.converged]
                cells = [galaxy.name, name, f"{outcome.wall_s:.3g}", str(outcome.n_evaluations)]
                if self.fsps_seconds is not None:
                    cells.append(_number(outcome.n_evaluations * self.fsps_seconds / 3600))
                cells += [_number(outcome.ess, ".0f"), _number(outcome.rhat, ".3f"), verdict, outcome.reason.replace("|", "/")]
                lines.append(_row(cells))
        return lines

    def _galaxy_lines(self, galaxy: GalaxyComparison) -> str:
        pairs = [pair for pair in self.pairs if pair in galaxy.shifts]
        lines = [
            "",
            f"## Galaxy {galaxy.name}, z = {galaxy.zred:.4f}",
            "",
            "Median, and the distances to the 16 and 84% quantiles; shifts of the medians in the quantity's units (dex for "
            "logarithms) and, in brackets, in posterior σ.",
            "",
            *_header(["quantity", *galaxy.outcomes, *(f"{a} − {b}" for a, b in pairs)]),
        ]
        for column, name in enumerate(QUANTITY_NAMES):
            cells = [f"`{name}`"]
            for outcome in galaxy.outcomes.values():
                low, middle, high = outcome.quantiles[:, column]
                cells.append("failed" if outcome.failed else f"{middle:.4g} −{middle - low:.2g} +{high - middle:.2g}")
            for pair in pairs:
                shift = galaxy.shifts[pair]
                cells.append(f"{shift.units[column]:+.2g} ({shift.sigma[column]:+.2f})")
            lines.append(_row(cells))
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write samples and figures as an artifact of kind ``mcmc-comparison``, to be read with `load_artifact`.

        Arrays ``samples_<i>_<method>`` are (n, n_quantity) float32 for galaxy i; the card holds `to_json_dict`.
        """
        arrays = {
            f"samples_{index}_{name}": outcome.samples.astype(np.float32)
            for index, galaxy in enumerate(self.galaxies)
            for name, outcome in galaxy.outcomes.items()
        }
        save_artifact(path, KIND, arrays, {"comparison": self.to_json_dict()})


def compare_galaxies(
    estimator: PosteriorSampler,
    simulator: FluxSimulator,
    catalog: Catalog,
    config: CompareConfig,
    *,
    fsps_seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run the flow and MCMC on the same galaxies, likelihood and prior, and set the posteriors side by side.

    Chains start from prior draws, not from the flow's samples, so that they are an independent check of it. A method
    that fails on a galaxy is recorded with its reason, and everything else goes on.

    Parameters
    ----------
    estimator : the flow, with its prior, bases and cosmology.
    simulator : noiseless photometry for the chains, in the estimator's bands; emulator, direct model or FSPS.
    catalog : the galaxies, in the estimator's bands.
    config : what to run.
    fsps_seconds : measured time of one FSPS model; adds what each chain's evaluations would take with it, labelled so.
    progress : called with (runs done, runs in total).

    Raises
    ------
    ParameterError : if the catalogue is empty, its bands are not the estimator's, `fsps_seconds` is not positive, or the
        estimator infers the redshift.
    """
    if isinstance(estimator, PosteriorEstimator):
        estimator.refuse_inferred_redshift("the comparison with MCMC")
    if catalog.bands != estimator.bands:
        raise ParameterError(f"the catalogue has bands {catalog.bands}, the estimator {estimator.bands}: select and order them")
    if len(catalog) == 0:
        raise ParameterError("the catalogue has no rows: nothing to compare")
    if fsps_seconds is not None and not (np.isfinite(fsps_seconds) and fsps_seconds > 0):
        raise ParameterError(f"fsps_seconds={fsps_seconds}: expected the positive time of one FSPS model in seconds")
    total, done = len(catalog) * (1 + len(config.samplers)), 0
    galaxies: list[GalaxyComparison] = []
    interrupted = False
    for index in range(len(catalog)):
        outcomes: dict[str, SamplerOutcome] = {}
        for method in ("flow", *config.samplers):
            try:
                outcomes[method], interrupted = _attempt(method, estimator, simulator, catalog, config, index)
            except KeyboardInterrupt:
                if not galaxies and not outcomes:
                    raise
                interrupted = True
            done += 1
            if progress is not None:
                progress(done, total)
            if interrupted:
                break
        zred = float(catalog.zred[index])
        galaxies.append(GalaxyComparison(str(catalog.ids[index]), zred, outcomes, _shifts(outcomes, estimator.prior)))
        if interrupted:
            logger.warning("comparison interrupted at galaxy %d of %d", index + 1, len(catalog))
            break
    return Comparison(tuple(galaxies), config, fsps_seconds, interrupted)


def _attempt(
    method: str, estimator: PosteriorSampler, simulator: FluxSimulator, catalog: Catalog, config: CompareConfig, index: int
) -> tuple[SamplerOutcome, bool]:
    """One method on one galaxy, and whether the user interrupted it."""
    flux, ivar, zred = catalog.flux[index], catalog.flux_ivar[index], float(catalog.zred[index])
    seed = config.mcmc.seed + index
    began = time.perf_counter()
    likelihood: GaussianLikelihood | None = None
    result: McmcResult | None = None
    try:
        if method == "flow":
            theta = estimator.sample(flux[None], ivar[None], np.array([zred]), config.n_samples, seed=seed)[0]
        else:
            likelihood = GaussianLikelihood(simulator, estimator.prior, flux=flux, flux_ivar=ivar, zred=zred)
            result = _RUNNERS[method](likelihood, config.mcmc.model_copy(update={"seed": seed}))
            theta = result.theta[np.linspace(0, len(result.theta) - 1, min(config.n_samples, len(result.theta))).astype(int)]
        wall_s = time.perf_counter() - began
        samples = _quantities(np.asarray(theta, dtype=float), zred, estimator)
    except Exception as error:  # whatever a simulator or a sampler raises must not take the other galaxies along
        logger.warning("%s failed on galaxy %s: %s", method, catalog.ids[index], error)
        width = len(QUANTITY_NAMES)
        return SamplerOutcome(
            method,
            np.empty((0, width)),
            np.full((3, width), np.nan),
            time.perf_counter() - began,
            n_evaluations=likelihood.n_evaluations if likelihood is not None else 0,
            converged=None if method == "flow" else False,
            reason=f"{type(error).__name__}: {' '.join(str(error).split())}",
            failed=True,
        ), False
    quantiles = np.percentile(samples, _PERCENTILES, axis=0)
    if result is None:
        return SamplerOutcome(method, samples, quantiles, wall_s), False
    outcome = SamplerOutcome(
        method,
        samples,
        quantiles,
        wall_s,
        n_evaluations=result.n_evaluations,
        converged=result.converged,
        reason=result.reason,
        ess=float(result.ess.min()),
        rhat=result.rhat,
    )
    return outcome, result.interrupted


def _quantities(theta: np.ndarray, zred: float, estimator: PosteriorSampler) -> np.ndarray:
    derived = derived_properties(theta, zred, estimator.bases, estimator.cosmology)
    samples = np.column_stack([theta, *(derived[name] for name in DERIVED_NAMES)])
    if not np.isfinite(samples).all():
        raise ParameterError("samples are not finite: the photometry is far outside what the method can describe")
    return samples


def _shifts(outcomes: dict[str, SamplerOutcome], prior: Prior) -> dict[tuple[str, str], Shift]:
    good = [name for name, outcome in outcomes.items() if not outcome.failed]
    unbounded = {name: prior.to_unbounded(outcomes[name].samples[:, : len(PARAMETER_NAMES)]) for name in good}
    shifts = {}
    for a, b in combinations(good, 2):
        units = outcomes[a].quantiles[1] - outcomes[b].quantiles[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma, ratio = units / outcomes[b].width, outcomes[a].width / outcomes[b].width
        shifts[a, b] = Shift(units, sigma, ratio, marginal_wasserstein(unbounded[a], unbounded[b]))
    return shifts


def _summary(table: np.ndarray) -> dict[str, dict[str, float | None]]:
    """By quantity: median and largest |shift| and the mean shift over galaxies, posterior sigma."""
    if len(table) == 0:
        return {name: dict.fromkeys(("median_abs_sigma", "max_abs_sigma", "mean_sigma")) for name in QUANTITY_NAMES}
    size = np.abs(table)
    columns = zip(QUANTITY_NAMES, np.median(size, axis=0), size.max(axis=0), table.mean(axis=0), strict=True)
    return {
        name: {"median_abs_sigma": _jsonable(m), "max_abs_sigma": _jsonable(x), "mean_sigma": _jsonable(mean)}
        for name, m, x, mean in columns
    }


def _jsonable(value: Any) -> Any:
    """Plain Python values for JSON, which knows no NaN."""
    if isinstance(value, np.ndarray):
        return [_jsonable(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None or not np.isfinite(value) else format(value, form)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _header(cells: list[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]
