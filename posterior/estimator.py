"""The trained posterior: from photometry and redshift to samples of the galaxy's parameters."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.catalog import Catalog
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.posterior.context import ContextTransform, TrainingDomain
from sedcast.posterior.flow import MaskedAutoregressiveFlow, usable_cores
from sedcast.posterior.outliers import OutlierModel

__all__ = ["PosteriorEstimator", "RowStatus"]

KIND = "posterior-estimator"
_BUNDLED = "bundled/posterior_sdss_ugriz.npz"
# Small enough for the cache: the map to theta is several times faster so.
_ROWS_PER_PIECE = 4096
_OUTLIERS = "outliers_"
_BASES_ARRAYS = ("t_lookback_gyr", "sfh", "zh")


@dataclass(frozen=True)
class RowStatus:
    """What an estimator can say about each row of a catalogue.

    Attributes
    ----------
    excluded : (n,) str, why there can be no posterior, "" where there is one.
    flags : (n,) str, why the posterior is an extrapolation beyond the training set, "" where it is not.
    """

    excluded: np.ndarray
    flags: np.ndarray

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool: rows with a posterior, flagged or not."""
        return np.asarray(self.excluded == "")


@dataclass(frozen=True)
class PosteriorEstimator:
    """An amortized posterior q(theta | flux, flux_ivar, zred): make one with `load`, `default` or `train_posterior`.

    The flow lives in probit space, where the prior is a standard normal, so that every sample is inside the prior.

    Attributes
    ----------
    flow : density of `theta_unbounded` (n, 11) given the context.
    domain : what the training set covered, with the context's transform.
    prior : parameter ranges.
    cosmology : relates redshift to age.
    bases : SFH and ZH bases that the parameters are weights of.
    card : name, configuration, training figures and provenance.
    outliers : what is usual among the training simulations; None in artifacts without it, see `fit_outliers`.

    Raises
    ------
    ArtifactError : if the flow's dimensions are not those of the parameters and the context.
    """

    flow: MaskedAutoregressiveFlow
    domain: TrainingDomain
    prior: Prior
    cosmology: Cosmology
    bases: SFHBases
    card: dict[str, Any] = field(repr=False)
    outliers: OutlierModel | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        expected = (len(FREE_PARAMETER_NAMES), self.context.n_context)
        if (self.flow.dim, self.flow.n_context) != expected:
            raise ArtifactError(
                f"the flow has {self.flow.dim} parameters and {self.flow.n_context} context columns, "
                f"bands {' '.join(self.bands)} need {expected}: the artifact's parts do not belong together"
            )

    @property
    def context(self) -> ContextTransform:
        """The transform from photometry to the flow's context."""
        return self.domain.context

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names, the order of the flux columns."""
        return self.context.bands

    @property
    def zred_range(self) -> tuple[float, float]:
        """Redshifts that the training set covered."""
        return float(self.domain.zred[0]), float(self.domain.zred[1])

    @property
    def name(self) -> str:
        """Short name."""
        return str(self.card["name"])

    def sample(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """Draw parameters from the posteriors of galaxies.

        Parameters
        ----------
        flux, flux_ivar : (n, n_band) nanomaggies and nanomaggies^-2; every band measured, unless the estimator was trained with
            missing bands (`context.mask`): then a band may have flux_ivar 0, or NaN in either.
        zred : (n,).
        n_samples : samples per galaxy.
        seed : a galaxy's samples depend on it, its key and its own data only.
        row_keys : (n,) non-negative integers, the galaxies' random streams; 0 … n-1 by default.
        n_threads : the number of usable cores by default.

        Returns
        -------
        theta : (n, n_samples, 12) float32 in the order of `PARAMETER_NAMES`, inside the prior.

        Raises
        ------
        ParameterError : for wrong shapes, unmeasured bands (or no measured band), or a redshift beyond the training range;
            the row is named.
        """
        return self.to_theta(
            self.sample_unbounded(flux, flux_ivar, zred, n_samples, seed=seed, row_keys=row_keys, n_threads=n_threads),
            n_threads=n_threads,
        )

    def sample_unbounded(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """As `sample`, in probit space: (n, n_samples, 11) float32 in the order of `FREE_PARAMETER_NAMES`."""
        context = self._context_in_range(flux, flux_ivar, zred)
        return self.flow.sample(context, n_samples, seed=seed, row_keys=row_keys, n_threads=n_threads)

    def log_prob(self, theta: np.ndarray, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Log posterior density in nats, with respect to the volume of *probit space* (not of theta).

        Subtract `Prior.log_prob_unbounded` of the same points for the ratio of posterior to prior, which is the same
        in every parametrisation.

        Parameters
        ----------
        theta : (n, 12), or (n, m, 12) for m points per galaxy; inside the prior.
        flux, flux_ivar, zred : as in `sample`.

        Returns
        -------
        log_prob : (n,) or (n, m).

        Raises
        ------
        ParameterError : as `sample`, and for theta outside the prior.
        """
        theta = np.asarray(theta, dtype=float)
        points = self.prior.to_unbounded(self.prior.validate(theta.reshape(-1, theta.shape[-1])))
        context = self._context_in_range(flux, flux_ivar, zred)
        return self.flow.log_prob(points.reshape(*theta.shape[:-1], -1), context)

    def to_theta(self, theta_unbounded: np.ndarray, *, n_threads: int | None = None) -> np.ndarray:
        """Map probit-space points (..., 11) to theta (..., 12) float32 inside the prior, threads over pieces."""
        points = theta_unbounded.reshape(-1, len(FREE_PARAMETER_NAMES))
        theta = np.empty((len(points), len(PARAMETER_NAMES)), dtype=np.float32)
        low, high = self._float32_bounds

        def fill(start: int) -> None:
            rows = slice(start, start + _ROWS_PER_PIECE)
            np.clip(self.prior.from_unbounded(points[rows]).astype(np.float32), low, high, out=theta[rows])

        starts = range(0, len(points), _ROWS_PER_PIECE)
        n_threads = min(n_threads or usable_cores(), len(starts))
        if n_threads < 2:
            for start in starts:
                fill(start)
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(fill, starts))
        return theta.reshape(*theta_unbounded.shape[:-1], len(PARAMETER_NAMES))

    def status(self, catalog: Catalog) -> RowStatus:
        """Which rows of a catalogue have a posterior, and which of those are extrapolated.

        A row is *excluded* if a band of the estimator is unmeasured (by the catalogue's own status), or, of an estimator
        trained with missing bands, all of them; or if the redshift is not positive or lies outside the training range:
        the flow knows nothing there. It is *flagged* if a measured magnitude or error lies outside the training range,
        or the photometry as a whole is further from the training set's mean than 99.99% of the training set: the flow
        answers, but extrapolates.

        Parameters
        ----------
        catalog : with the estimator's bands in order; use `Catalog.select` (for an estimator trained with missing bands with
            ``ragged=True``) to bring them into it.

        Raises
        ------
        ParameterError : if the catalogue's bands are not the estimator's.
        """
        if catalog.bands != self.bands:
            raise ParameterError(
                f"the catalogue has bands {' '.join(catalog.bands)}, the estimator needs {' '.join(self.bands)}: "
                f"pass catalog.select({list(self.bands)}{', ragged=True' if self.context.mask else ''})"
            )
        if self.context.mask:
            catalog = catalog.select(self.bands, ragged=True)
        low, high = self.zred_range
        excluded = catalog.status.astype(object)
        outside = catalog.ok & ~((catalog.zred >= low) & (catalog.zred <= high))
        for row in np.flatnonzero(outside):
            excluded[row] = f"redshift {catalog.zred[row]:.4g} beyond the training range {low:.4g}–{high:.4g}"
        flags = np.full(len(catalog), "", dtype=object)
        good = excluded == ""
        if good.any():
            flags[good] = self.domain.flags(catalog.flux[good], catalog.flux_ivar[good], catalog.zred[good])
        return RowStatus(excluded.astype(str), flags.astype(str))

    def save(self, path: str | Path) -> None:
        """Write the artifact (kind ``posterior-estimator``): arrays and card, float32 weights."""
        arrays = {f"flow_{name}": array for name, array in self.flow.to_arrays().items()}
        arrays |= self.domain.to_arrays("domain_")
        arrays |= {f"bases_{name}": getattr(self.bases, name) for name in _BASES_ARRAYS}
        if self.outliers is not None:
            arrays |= self.outliers.to_arrays(_OUTLIERS)
        card = dict(self.card) | {
            "bands": list(self.bands),
            "parameter_names": list(PARAMETER_NAMES),
            "free_parameter_names": list(FREE_PARAMETER_NAMES),
            "context_names": list(self.context.names),
            "prior": self.prior.to_dict(),
            "zred_range": list(self.zred_range),
            "cosmology": self.cosmology.name,
            "bases": {"name": self.bases.name, "provenance": dict(self.bases.provenance)},
        }
        save_artifact(path, KIND, arrays, card)

    @classmethod
    def load(cls, path: str | Path) -> "PosteriorEstimator":
        """Read an artifact that `save` wrote.

        Raises
        ------
        ArtifactError : if it is missing, truncated, altered, of another kind, or inconsistent.
        """
        arrays, card = load_artifact(path, KIND)
        try:
            mask = any(name.startswith("measured_") for name in card["context_names"])
            context = ContextTransform(tuple(card["bands"]), mask=mask)
            if card["free_parameter_names"] != list(FREE_PARAMETER_NAMES) or card["context_names"] != list(context.names):
                raise ArtifactError(f"{path} has other parameters or context columns than this sedcast: train it again")
            flow = {name.removeprefix("flow_"): array for name, array in arrays.items() if name.startswith("flow_")}
            time, sfh, zh = (arrays[f"bases_{name}"] for name in _BASES_ARRAYS)
            return cls(
                MaskedAutoregressiveFlow.from_arrays(flow),
                TrainingDomain.from_arrays(context, arrays, "domain_"),
                Prior.from_dict(card["prior"]),
                Cosmology(card["cosmology"]),
                SFHBases(time, sfh, zh, card["bases"]["name"], card["bases"]["provenance"]),
                card,
                OutlierModel.from_arrays(context.bands, arrays, _OUTLIERS) if "outliers" in card else None,
            )
        except (KeyError, TypeError, ParameterError) as error:
            raise ArtifactError(f"{path} is not a complete posterior estimator ({error}): train it again") from error

    @classmethod
    def default(cls) -> "PosteriorEstimator":
        """The bundled estimator: SDSS u g r i z."""
        with as_file(files("sedcast.data") / _BUNDLED) as path:
            return cls.load(path)

    def _context_in_range(self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray) -> np.ndarray:
        flux, flux_ivar, zred = self.context.validate(flux, flux_ivar, zred)
        low, high = self.zred_range
        outside = np.flatnonzero((zred < low) | (zred > high))
        if outside.size:
            raise ParameterError(
                f"zred[{outside[0]}]={zred[outside[0]]:.6g} ({outside.size} such rows) is beyond the training range "
                f"{low:.4g}–{high:.4g}: leave those rows out, `status` names them"
            )
        return self.context(flux, flux_ivar, zred)

    @cached_property
    def _float32_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The prior's ranges rounded inwards to float32, (12,) each."""
        low, high = np.zeros(len(PARAMETER_NAMES)), np.ones(len(PARAMETER_NAMES))
        for name, limits in self.prior.to_dict().items():
            low[PARAMETER_NAMES.index(name)], high[PARAMETER_NAMES.index(name)] = limits
        low32, high32 = low.astype(np.float32), high.astype(np.float32)
        low32 = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
        high32 = np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)
        return low32, high32
