"""The trained posterior: from photometry and redshift, or photometry alone, to samples of the galaxy's parameters."""

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.catalog import Catalog, no_measurement
from sedcast.data.checks import as_path, check_memory, in_own_precision, whole_number
from sedcast.data.config import parse_config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sfh_bases import HISTORY_ARRAYS, SFHBases
from sedcast.data.threads import usable_cores
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.emulator.surviving import SurvivingMass
from sedcast.posterior.amplitude_flow import FlowWithAmplitudes
from sedcast.posterior.conditional_flow import ConditionalFlow
from sedcast.posterior.context import ContextTransform, TrainingDomain
from sedcast.posterior.expert_flow import Expert, FlowWithExperts, flow_from_arrays
from sedcast.posterior.experts import check_experts
from sedcast.posterior.outliers import SCORE_VERSION, OutlierModel
from sedcast.posterior.resampling import PosteriorDraws, n_draws, resample

__all__ = ["PosteriorEstimator", "RowStatus", "emulator_digest", "with_redshift"]

logger = logging.getLogger(__name__)

KIND = "posterior-estimator"
_DEFAULT = "sdss-ugriz"
# Small enough for the cache: the map to theta is several times faster so.
_ROWS_PER_PIECE = 4096
_OUTLIERS = "outliers_"
_SURVIVING = "surviving_"


def bundled_posteriors() -> tuple[str, ...]:
    """Names of the estimators that come with sedcast."""
    return tuple(name for name in ("sdss-ugriz", "galex-sdss", "sdss-photoz") if _bundled(name).is_file())


def _bundled(name: str) -> Traversable:
    return files("sedcast.data") / f"bundled/posterior_{name.replace('-', '_')}.npz"


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

    The flow lives in probit space, where the prior is a standard normal, so that every sample is inside the prior. If the
    redshift is inferred, the posterior is q(theta, zred | flux, flux_ivar), `zred` is None wherever a method asks for the
    galaxies' redshifts, and probit space has zred as its twelfth and last coordinate.

    Attributes
    ----------
    flow : density of the points in probit space, (n, dim) in the order of `free_names`, given the context.
    domain : what the training set covered, with the context's transform.
    prior : parameter ranges.
    cosmology : relates redshift to age.
    bases : SFH and ZH bases that the parameters are weights of.
    card : name, configuration, training figures and provenance.
    outliers : what is usual among the training simulations; None in artifacts without it, see `fit_outliers`.
    redshift_prior : of the redshift that is inferred; None if redshifts are given.
    surviving : mass left per mass formed; None where the SSP library that it was trained with does not know it.

    Raises
    ------
    ArtifactError : if the flow's dimensions are not those of the parameters and the context.
    """

    flow: ConditionalFlow
    domain: TrainingDomain
    prior: Prior
    cosmology: Cosmology
    bases: SFHBases
    card: dict[str, Any] = field(repr=False)
    outliers: OutlierModel | None = field(default=None, repr=False)
    redshift_prior: RedshiftPrior | None = None
    surviving: SurvivingMass | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.context.redshift != (self.redshift_prior is None):
            raise ArtifactError("a redshift that is inferred has a prior and no column in the context: one of them is wrong")
        expected = (len(self.free_names), self.context.n_context)
        if (self.flow.dim, self.flow.n_context) != expected:
            raise ArtifactError(
                f"the flow has {self.flow.dim} parameters and {self.flow.n_context} context columns, "
                f"bands {' '.join(self.bands)} need {expected}: the artifact's parts do not belong together"
            )
        for part in self.flow.parts:
            if isinstance(part, FlowWithAmplitudes) and (part.emulator.prior, part.emulator.cosmology) != (
                self.prior,
                self.cosmology,
            ):
                raise ArtifactError(
                    "the flow's emulator of bands has another prior or cosmology than the posterior: train it again"
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
    def infers_redshift(self) -> bool:
        """Whether the redshift is a parameter."""
        return self.redshift_prior is not None

    @property
    def free_names(self) -> tuple[str, ...]:
        """The coordinates of probit space: `FREE_PARAMETER_NAMES`, then ``zred`` if it is inferred."""
        return (*FREE_PARAMETER_NAMES, "zred") if self.infers_redshift else FREE_PARAMETER_NAMES

    @property
    def zred_range(self) -> tuple[float, float]:
        """Redshifts that the training set covered."""
        return float(self.domain.zred[0]), float(self.domain.zred[1])

    @property
    def name(self) -> str:
        """Short name."""
        return str(self.card["name"])

    @property
    def digest(self) -> str:
        """Checksum of the artifact that it was loaded from, or of its card and its flow's weights if it was not."""
        if found := self.card.get("sha256"):
            return str(found)
        described = hashlib.sha256(json.dumps(self.card, sort_keys=True, default=str).encode())
        for name, array in sorted(self.flow.to_arrays().items()):
            described.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return described.hexdigest()

    @property
    def emulator_digest(self) -> str | None:
        """Checksum of the emulator of spectra that it was trained with; None if its card does not say."""
        return emulator_digest(self.card.get("provenance"))

    @property
    def origin(self) -> dict[str, Any]:
        """Configuration, training figures and checksum, for the card of an artifact that is made with this one."""
        return {name: self.card.get(name) for name in ("config", "figures", "sha256")}

    def sample(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray | None,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """Draw parameters from the posteriors of galaxies.

        The flow's draws are resampled by their importance weights where it knows the likelihood; `draw` tells how much that
        changed. If the redshift is inferred, these are marginalised over it; `sample_with_redshift` gives the redshifts too.

        Parameters
        ----------
        flux, flux_ivar : (n, n_band) nanomaggies and nanomaggies^-2; every band measured, unless the estimator was trained with
            missing bands (`context.mask`): then a band may have flux_ivar 0, or NaN in either.
        zred : (n,), or None if it is inferred.
        n_samples : samples per galaxy.
        seed : a galaxy's samples depend on it, its key and its own data only.
        row_keys : (n,) non-negative integers, the galaxies' random streams; 0 … n-1 by default.
        n_threads : the number of usable cores by default.

        Returns
        -------
        theta : (n, n_samples, 12) float32 in the order of `PARAMETER_NAMES`, inside the prior; NaN, with a warning, for
            galaxies so far outside the training set that no draw has a posterior (`draw` gives them an efficiency of 0).

        Raises
        ------
        ParameterError : for wrong shapes, unmeasured bands (or no measured band), or a redshift beyond the training range;
            the row is named.
        """
        return self.to_theta(
            self.sample_unbounded(flux, flux_ivar, zred, n_samples, seed=seed, row_keys=row_keys, n_threads=n_threads),
            n_threads=n_threads,
        )

    def sample_with_redshift(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw parameters and redshifts from the joint posteriors of galaxies; arguments as in `sample`.

        Returns
        -------
        theta : (n, n_samples, 12) float32 in the order of `PARAMETER_NAMES`, inside the prior.
        zred : (n, n_samples) float32, the same samples' redshifts.

        Raises
        ------
        ParameterError : as `sample`, or if the estimator does not infer the redshift.
        """
        if not self.infers_redshift:
            raise ParameterError(f"{self.name!r} does not infer the redshift: use sample(flux, flux_ivar, zred, ...)")
        points = self.sample_unbounded(flux, flux_ivar, None, n_samples, seed=seed, row_keys=row_keys, n_threads=n_threads)
        return self.to_theta(points, n_threads=n_threads), self.redshifts(points, None)

    def sample_unbounded(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray | None,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """As `sample`, in probit space: (n, n_samples, dim) float32 in the order of `free_names`."""
        drawn = self.draw(flux, flux_ivar, zred, n_samples, seed=seed, row_keys=row_keys, n_threads=n_threads)
        if (lost := np.flatnonzero(drawn.efficiency == 0)).size:
            logger.warning(
                "%d of %d galaxies, the first in row %d, are so far outside the training set that no draw has a posterior: "
                "their samples are NaN",
                len(lost),
                len(drawn.points),
                lost[0],
            )
        return drawn.points

    def draw(
        self,
        flux: np.ndarray,
        flux_ivar: np.ndarray,
        zred: np.ndarray | None,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> PosteriorDraws:
        """As `sample_unbounded`, with the efficiency of the flow and the evidence of every galaxy: see `resample`."""
        context = self._context_in_range(flux, flux_ivar, zred)
        n_samples = whole_number("n_samples", n_samples)
        check_memory(
            f"{n_samples:,} samples of {len(context)} galaxies at a time",
            len(context) * (n_draws(n_samples) + n_samples) * self.flow.dim,
        )
        keys = np.arange(len(context)) if row_keys is None else row_keys
        drawn = self.flow.draw(context, n_draws(n_samples), seed=seed, row_keys=keys, n_threads=n_threads)
        return resample(drawn, n_samples, seed=seed, keys=keys)

    def log_prob(self, theta: np.ndarray, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Log density of the flow in nats, with respect to the volume of *probit space* (not of theta).

        It is the flow's own, before weights correct what it draws.

        Subtract `Prior.log_prob_unbounded` of the same points for the ratio of posterior to prior, which is the same
        in every parametrisation.

        Parameters
        ----------
        theta : (n, 12), or (n, m, 12) for m points per galaxy; inside the prior.
        flux, flux_ivar : as in `sample`.
        zred : (n,); if it is inferred, of each point: (n,) or (n, m).

        Returns
        -------
        log_prob : (n,) or (n, m).

        Raises
        ------
        ParameterError : as `sample`, and for theta outside the prior.
        """
        theta, n_parameter = in_own_precision("theta", theta), len(PARAMETER_NAMES)
        if self.redshift_prior is None:
            context = self._context_in_range(flux, flux_ivar, zred)
        else:
            context, zred = self.context(flux, flux_ivar, None), self.redshift_prior.in_range(zred)
            if zred.shape != theta.shape[:-1]:
                raise ParameterError(f"zred has shape {zred.shape}, expected {theta.shape[:-1]}: the redshift of each point")
        if theta.ndim not in (2, 3) or theta.shape[-1] != n_parameter or len(theta) != len(context):
            raise ParameterError(
                f"theta must be (n, {n_parameter}) or (n, m, {n_parameter}) with n = {len(context)} galaxies, got {theta.shape}"
            )
        points = self.prior.to_unbounded(self.prior.validate(theta.reshape(-1, n_parameter)))
        points = points.reshape(*theta.shape[:-1], len(FREE_PARAMETER_NAMES))
        return self.flow.log_prob(self.joint_points(points, zred), context)

    def joint_points(self, theta_unbounded: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Points (..., dim) in the estimator's probit space from those of the parameters (..., 11) and redshifts (...)."""
        if self.redshift_prior is None:
            return theta_unbounded
        return with_redshift(theta_unbounded, zred, self.redshift_prior)

    def redshifts(self, points: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
        """The redshift of every sample: inferred, from probit-space points (n, m, 12), or that of its galaxy, from `zred` (n,).

        Returns
        -------
        zred : (n, m), float32 inside the prior's range if inferred.

        Raises
        ------
        ParameterError : if `zred` is None, and the estimator does not infer it.
        """
        if self.redshift_prior is None:
            if zred is None:
                raise ParameterError(f"zred is None, which {self.name!r} does not infer: pass the galaxies' redshifts")
            return np.repeat(np.asarray(zred)[:, None], points.shape[1], axis=1)
        low, high = _rounded_inwards(np.array(self.redshift_prior.min), np.array(self.redshift_prior.max))
        return np.clip(self.redshift_prior.from_unbounded(points[..., -1]).astype(np.float32), low, high)

    def refuse_inferred_redshift(self, what: str) -> None:
        """Raise a ParameterError that names `what`, which needs redshifts to be given, if the estimator infers them."""
        if self.infers_redshift:
            raise ParameterError(
                f"{what} needs the redshift given, which {self.name!r} infers: use an estimator for known redshifts"
            )

    def to_theta(self, theta_unbounded: np.ndarray, *, n_threads: int | None = None) -> np.ndarray:
        """Map probit-space points (..., dim) to theta (..., 12) float32 inside the prior, threads over pieces."""
        points = theta_unbounded.reshape(-1, theta_unbounded.shape[-1])[:, : len(FREE_PARAMETER_NAMES)]
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
        the flow knows nothing there. (If the redshift is inferred, the catalogue's does not matter.) It is *flagged* if a
        measured magnitude or error lies outside the training range, or the photometry as a whole is further from the training
        set's mean than 99.99% of the training set: the flow
        answers, but extrapolates.

        Parameters
        ----------
        catalog : with the estimator's bands in order; use `select` to bring them into it.

        Raises
        ------
        ParameterError : if the catalogue's bands are not the estimator's.
        """
        if catalog.bands != self.bands:
            raise ParameterError(
                f"the catalogue has bands {' '.join(catalog.bands)}, the estimator needs {' '.join(self.bands)}: "
                f"pass catalog.select({list(self.bands)}{', ragged=True' if self.context.mask else ''})"
            )
        if self.context.mask or self.infers_redshift:
            catalog = self.select(catalog)
        excluded = catalog.status.astype(object)
        if not self.context.mask:
            # Its own status does not say so if it was read for subsets of bands.
            for row in np.flatnonzero(catalog.ok & ~(catalog.flux_ivar > 0).all(axis=1)):
                excluded[row] = no_measurement(self.bands, ~(catalog.flux_ivar[row] > 0))
        if not self.infers_redshift:
            low, high = self.zred_range
            for row in np.flatnonzero((excluded == "") & ~self._serves(catalog.zred)):
                excluded[row] = f"redshift {catalog.zred[row]:.6g} beyond the training range, {low:.4g} to {high:.4g}"
        flags = np.full(len(catalog), "", dtype=object)
        good = excluded == ""
        if good.any():
            flags[good] = self.domain.flags(*self.observed(catalog, good))
        return RowStatus(excluded.astype(str), flags.astype(str))

    def select(self, catalog: Catalog) -> Catalog:
        """The estimator's bands of a catalogue, with the status that its rows have for this estimator.

        Raises
        ------
        CatalogError : as `Catalog.select`.
        """
        return catalog.select(self.bands, ragged=self.context.mask, redshift=not self.infers_redshift)

    def observed(self, catalog: Catalog, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Flux, inverse variance and (None if it is inferred) redshift of rows of a catalogue, as `sample` takes them."""
        return catalog.flux[rows], catalog.flux_ivar[rows], None if self.infers_redshift else catalog.zred[rows]

    def changed(self, described: Mapping[str, Any], **parts: Any) -> "PosteriorEstimator":
        """The same with other parts, and entries of the card that tell of them; the file's checksum is no longer its own."""
        card = {name: value for name, value in self.card.items() if name != "sha256"}
        return replace(self, card=card | dict(described), **parts)

    def with_experts(self, *experts: "PosteriorEstimator") -> "PosteriorEstimator":
        """The same, with the flows of other estimators for the galaxies measured in exactly the bands of one of those.

        Raises
        ------
        ConfigError : as `check_experts`.
        """
        check_experts(
            experts,
            name=self.name,
            context=self.context,
            zred_range=self.zred_range,
            prior=self.prior,
            cosmology=self.cosmology,
            bases=self.bases,
            redshift_prior=self.redshift_prior,
            emulator=self.emulator_digest,
            own_files=self.card.get("own_files") or {},
        )
        bands = self.context.bands
        columns = np.array([self.context.names.index(f"measured_{band}") for band in bands])
        parts = [
            Expert(
                expert.flow,
                columns=columns,
                measured=np.array([band in expert.bands for band in bands], dtype=np.float32),
                matrix=expert.context.from_wider(self.context),
            )
            for expert in experts
        ]
        described = {"experts": [{"bands": list(expert.bands), **expert.origin} for expert in experts]}
        return self.changed(described, flow=FlowWithExperts(self.flow.general, parts))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the artifact (kind ``posterior-estimator``): arrays and card, float32 weights.

        Raises
        ------
        ParameterError : if a file is there already, unless `overwrite` says that it may be replaced.
        """
        arrays = {f"flow_{name}": array for name, array in self.flow.to_arrays().items()}
        arrays |= self.domain.to_arrays("domain_")
        arrays |= {f"bases_{name}": getattr(self.bases, name) for name in HISTORY_ARRAYS}
        if self.surviving is not None:
            arrays |= self.surviving.to_arrays(_SURVIVING)
        if self.outliers is not None:
            arrays |= self.outliers.to_arrays(_OUTLIERS)
        card = dict(self.card) | {
            "bands": list(self.bands),
            "parameter_names": list(PARAMETER_NAMES),
            "free_parameter_names": list(self.free_names),
            "context_names": list(self.context.names),
            "softening": list(self.context.softening),
            "prior": self.prior.to_dict(),
            "zred_range": list(self.zred_range),
            "cosmology": self.cosmology.name,
            "bases": {"name": self.bases.name, "provenance": dict(self.bases.provenance)},
        }
        if self.redshift_prior is not None:
            card["redshift_prior"] = self.redshift_prior.model_dump(mode="json")
        save_artifact(path, KIND, arrays, card, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "PosteriorEstimator":
        """Read an artifact that `save` wrote.

        Raises
        ------
        ArtifactError : if it is missing, truncated, altered, of another kind, or inconsistent.
        """
        path = as_path("path", path)
        if not path.exists() and str(path) in bundled_posteriors():
            raise ArtifactError(f"{str(path)!r} is the name of a bundled posterior: PosteriorEstimator.find gives it")
        arrays, card = load_artifact(path, KIND)
        with consistent(path, "posterior estimator", otherwise="train it again"):
            mask = any(name.startswith("measured_") for name in card["context_names"])
            inferred = card.get("redshift_prior")
            redshift_prior = None if inferred is None else parse_config(inferred, RedshiftPrior, f"{path}, redshift_prior")
            # Cards of before softenings were learnt have none.
            softening = tuple(card.get("softening", ()))
            context = ContextTransform(tuple(card["bands"]), mask=mask, redshift=inferred is None, softening=softening)
            names = [*FREE_PARAMETER_NAMES, *([] if inferred is None else ["zred"])]
            if card["free_parameter_names"] != names or card["context_names"] != list(context.names):
                raise ArtifactError(f"{path} has other parameters or context columns than this sedcast: train it again")
            flow = {name.removeprefix("flow_"): array for name, array in arrays.items() if name.startswith("flow_")}
            time, sfh, zh = (arrays[f"bases_{name}"] for name in HISTORY_ARRAYS)
            return cls(
                flow_from_arrays(flow),
                TrainingDomain.from_arrays(context, arrays, "domain_"),
                Prior.from_dict(card["prior"]),
                Cosmology(card["cosmology"]),
                SFHBases(time, sfh, zh, card["bases"]["name"], card["bases"]["provenance"]),
                card,
                _outliers(context, arrays, card),
                redshift_prior,
                SurvivingMass.from_arrays(arrays, _SURVIVING),
            )

    @classmethod
    def default(cls) -> "PosteriorEstimator":
        """The bundled estimator ``sdss-ugriz``: SDSS u g r i z, all measured."""
        return cls.find(_DEFAULT)

    @classmethod
    def find(cls, model: str | Path) -> "PosteriorEstimator":
        """A bundled estimator by its name, one of `bundled_posteriors` or ``"bundled"`` for the default; else `load`.

        Raises
        ------
        ArtifactError : as `load`.
        """
        name = _DEFAULT if model == "bundled" else str(as_path("model", model))
        if name not in bundled_posteriors():
            if not Path(name).exists():
                raise ArtifactError(f"no posterior {name!r}: expected a file, or one of {', '.join(bundled_posteriors())}")
            return cls.load(model)
        with as_file(_bundled(name)) as path:
            return cls.load(path)

    def _context_in_range(self, flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray | None) -> np.ndarray:
        context = self.context(flux, flux_ivar, zred)
        if zred is not None:
            self.check_redshift(np.atleast_1d(np.asarray(zred, dtype=float)))
        return context

    def check_redshift(self, zred: np.ndarray) -> None:
        """Raise a ParameterError that names the first of redshifts (n,) beyond the training range."""
        low, high = self.zred_range
        outside = np.flatnonzero(~self._serves(zred))
        if outside.size:
            raise ParameterError(
                f"zred[{outside[0]}]={zred[outside[0]]:.6g} ({outside.size} such rows) is beyond the training range "
                f"{low:.4g} to {high:.4g}: leave those rows out, `status` names them"
            )

    def _serves(self, zred: np.ndarray) -> np.ndarray:
        """Whether redshifts are in the training range, to the rounding of single precision."""
        low, high = np.array(self.zred_range)
        return (zred >= min(low, np.float32(low))) & (zred <= max(high, np.float32(high)))

    @cached_property
    def _float32_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The prior's ranges rounded inwards to float32, (12,) each."""
        low, high = np.zeros(len(PARAMETER_NAMES)), np.ones(len(PARAMETER_NAMES))
        for name, limits in self.prior.to_dict().items():
            low[PARAMETER_NAMES.index(name)], high[PARAMETER_NAMES.index(name)] = limits
        return _rounded_inwards(low, high)


def _outliers(context: ContextTransform, arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> OutlierModel | None:
    """The outlier score of an artifact, None if it has none, or one of an earlier sedcast."""
    if "outliers" not in card:
        return None
    if card["outliers"].get("version") != SCORE_VERSION:
        logger.warning(
            "the outlier score of %s is of an earlier version and left out: `fit_outliers` makes it anew", card["name"]
        )
        return None
    return OutlierModel.from_arrays(context.bands, np.array(context.softening), arrays, _OUTLIERS)


def emulator_digest(provenance: Mapping[str, Any] | None) -> str | None:
    """The checksum of the emulator of spectra that a posterior's provenance names; None if it names none."""
    origin = (provenance or {}).get("emulator")
    return origin.get("sha256") if isinstance(origin, Mapping) else None


def with_redshift(theta_unbounded: np.ndarray, zred: np.ndarray, prior: RedshiftPrior) -> np.ndarray:
    """Append the redshifts (...) as the last coordinate of probit-space points (..., 11)."""
    last = prior.to_unbounded(zred).astype(theta_unbounded.dtype)
    return np.concatenate([theta_unbounded, last[..., None]], axis=-1)


def _rounded_inwards(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A range's ends as float32 that lie in the range."""
    low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
    high32 = np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)
    return low32, high32
