"""A flow for all parameters but two, burst fraction and mass, which are drawn from their own posterior given the others.

In those two the posterior is a thin sheet, the harder to learn the better the photometry, but no secret: fluxes are linear in
them (`AmplitudePosterior`). What it takes is the light of the history and of the burst in the bands, for every sample: a
`BandEmulator` gives it, small enough to be evaluated as fast as the flow is.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sedcast.data.config import parse_config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.data.threads import usable_cores
from sedcast.emulator.band_emulator import BandEmulator
from sedcast.emulator.histories import column
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.posterior.amplitudes import BRIGHTEST, AmplitudePosterior
from sedcast.posterior.burst_choice import FARTHEST, from_option, prior_chances, to_option
from sedcast.posterior.chunks import chunks, in_threads
from sedcast.posterior.conditional_flow import ConditionalFlow, FlowDraws, checked_context, row_noise
from sedcast.posterior.context import ContextTransform
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_kernel import DenseKernel, vector_floats

__all__ = ["FlowWithAmplitudes", "with_burst_choice", "without_amplitudes"]

_AMPLITUDES = [FREE_PARAMETER_NAMES.index(name) for name in ("fburst", "log_mstar")]
_TBURST = FREE_PARAMETER_NAMES.index("tburst") - len(_AMPLITUDES)
"""Of the coordinates without the amplitudes, both of which stand before it."""
_CHUNK = 5000
_LN_2PI = float(np.log(2 * np.pi))
_BANDS, _CONFIG = "bands_", "amplitude_config"


def without_amplitudes(points: np.ndarray) -> np.ndarray:
    """Probit-space points (..., dim) without the coordinates of burst fraction and mass, (..., dim - 2)."""
    return np.delete(points, _AMPLITUDES, axis=-1)


def with_burst_choice(
    points: np.ndarray, zred: np.ndarray, n_options: int, *, prior: Prior, cosmology: Cosmology
) -> tuple[np.ndarray, np.ndarray]:
    """What a flow with a choice has to learn of probit-space points (..., dim).

    Parameters
    ----------
    points : (..., dim).
    zred : redshifts, to be broadcast to (...).
    n_options : of the choice, see `prior_chances`.

    Returns
    -------
    learnt : (..., dim - 1), those without amplitudes, with the burst's time within its option of `burst_choice`, and a last
        column that says which one that is.
    log_slope : (...), log of the volume of `learnt` per volume of the points without amplitudes.
    """
    others = without_amplitudes(points)
    within, option, log_slope = to_option(others[..., _TBURST], prior_chances(zred, prior, cosmology, n_options))
    learnt = np.concatenate([others, option[..., None]], axis=-1)
    learnt[..., _TBURST] = within
    return learnt, log_slope


class FlowWithAmplitudes(ConditionalFlow):
    """The density of `others` times that of burst fraction and mass given these and the photometry.

    Parameters
    ----------
    others : flow of all probit coordinates but those of burst fraction and mass, in the order of the rest; if it has a choice,
        of what `with_burst_choice` makes of them.
    emulator : photometry in the context's bands.
    transform : of the context.
    redshift_prior : of the redshift, if it is inferred, and so the last coordinate.

    Raises
    ------
    ArtifactError : if the parts do not belong together.
    """

    def __init__(
        self,
        others: MaskedAutoregressiveFlow,
        emulator: BandEmulator,
        transform: ContextTransform,
        redshift_prior: RedshiftPrior | None = None,
    ) -> None:
        self.others, self.emulator, self.transform, self.redshift_prior = others, emulator, transform, redshift_prior
        self.config, self.dim, self.n_context = others.config, others.n_real + len(_AMPLITUDES), others.n_context
        self._others = np.delete(np.arange(self.dim), _AMPLITUDES)
        inferred = redshift_prior is not None
        fits = transform.bands == emulator.bands and transform.redshift != inferred
        if not fits or (self.dim, self.n_context) != (len(FREE_PARAMETER_NAMES) + inferred, transform.n_context):
            raise ArtifactError("a flow and its emulator of bands do not belong together: the file is of another version")
        layers = emulator.layers
        self._networks = {name: DenseKernel(layers[name]) for name in layers} if vector_floats() else None

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process may have no library, or one for narrower registers.
        return FlowWithAmplitudes, (self.others, self.emulator, self.transform, self.redshift_prior)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays; those of the emulator with a prefix."""
        prior = None if self.redshift_prior is None else self.redshift_prior.model_dump(mode="json")
        config = json.dumps(
            {"mask": self.transform.mask, "softening": self.transform.softening, "redshift_prior": prior}
        ).encode()
        bands = {f"{_BANDS}{name}": array for name, array in self.emulator.to_arrays().items()}
        return self.others.to_arrays() | bands | {_CONFIG: np.frombuffer(config, dtype=np.uint8)}

    @staticmethod
    def describes(arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether arrays are those of such a flow."""
        return _CONFIG in arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "FlowWithAmplitudes":
        """The flow that `to_arrays` described.

        Raises
        ------
        ArtifactError : if the arrays do not describe one.
        """
        bands = {name.removeprefix(_BANDS): array for name, array in arrays.items() if name.startswith(_BANDS)}
        emulator = BandEmulator.from_arrays(bands)
        try:
            config = json.loads(np.asarray(arrays[_CONFIG], dtype=np.uint8).tobytes())
            inferred = config["redshift_prior"]
            prior = None if inferred is None else parse_config(inferred, RedshiftPrior, "redshift_prior")
            softening = tuple(config.get("softening", ()))
            transform = ContextTransform(emulator.bands, mask=bool(config["mask"]), redshift=prior is None, softening=softening)
        except (KeyError, TypeError, ValueError, ConfigError, ParameterError) as error:
            raise ArtifactError(f"no valid {_CONFIG!r} among the arrays of a flow: {error}") from error
        return cls(MaskedAutoregressiveFlow.from_arrays(arrays), emulator, transform, prior)

    @property
    def trained(self) -> MaskedAutoregressiveFlow:
        """The flow of the others."""
        return self.others

    def _draw(self, context: np.ndarray, n_samples: int, seed: int, keys: np.ndarray, n_threads: int | None) -> FlowDraws:
        others, log_q, _ = self.others.draw(context, n_samples, seed=seed, row_keys=keys, n_threads=n_threads)
        noise = row_noise(seed, keys, 1, (n_samples, len(_AMPLITUDES)), n_threads)
        return self._completed(others, log_q, noise, context, n_threads)

    def _carry(self, noise: np.ndarray, context: np.ndarray, n_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
        others, log_q = self.others.transform_noise(without_amplitudes(noise), context, n_threads=n_threads)
        points, total, _ = self._completed(others, log_q, noise[..., _AMPLITUDES], context, n_threads)
        return points, total

    def _log_density(self, points: np.ndarray, context: np.ndarray, n_threads: int | None) -> np.ndarray:
        learnt, log_slope = self.to_learn(points, context)
        of_others = self.others.log_prob(learnt, context, n_threads=n_threads) + log_slope
        return of_others + self._amplitude_log_density(points, context, n_threads)

    def to_learn(self, points: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `others` has to say of points (n, dim) or (n, m, dim), given context (n, n_context).

        Returns
        -------
        learnt : (n, others.dim) or (n, m, others.dim), points of its density.
        log_slope : (n,) or (n, m), log of the volume of these per volume of the points without amplitudes.
        """
        if not self.config.choice:
            return without_amplitudes(points), np.zeros(points.shape[:-1])
        if self.redshift_prior is None:
            zred = self._observed(context)[2]
            assert zred is not None
            zred = zred.reshape(-1, *[1] * (points.ndim - 2))
        else:
            zred = self.redshift_prior.from_unbounded(points[..., -1])
        n_options = self.config.n_options
        return with_burst_choice(points, zred, n_options, prior=self.emulator.prior, cosmology=self.emulator.cosmology)

    def amplitude_log_density(self, theta: np.ndarray, context: np.ndarray, *, n_threads: int | None = None) -> np.ndarray:
        """The second factor alone, of burst fraction and mass given the others; arguments as of `log_prob`."""
        context = checked_context(context, self.n_context)
        points = self._checked_points(theta, context)
        return self._amplitude_log_density(points, context, n_threads).reshape(np.shape(theta)[:-1])

    def _amplitude_log_density(self, points: np.ndarray, context: np.ndarray, n_threads: int | None) -> np.ndarray:
        found, observed = np.empty(points.shape[:2]), self._observed(context)

        def work(rows: slice, columns: slice) -> None:
            part = points[rows, columns]
            flat = without_amplitudes(part).reshape(-1, self.others.n_real)
            posterior = self._posterior(flat, self._redshift(flat, observed[2], rows), observed, rows)
            found[rows, columns] = posterior.log_density(part[..., _AMPLITUDES].reshape(-1, 2)).reshape(part.shape[:2])

        in_threads(work, _pieces(len(points), points.shape[1], n_threads), n_threads)
        return found

    def _completed(
        self, others: np.ndarray, log_q: np.ndarray, noise: np.ndarray, context: np.ndarray, n_threads: int | None
    ) -> FlowDraws:
        """Points (n, m, dim), with burst fractions and masses that base noise (n, m, 2) gives."""
        points = np.empty((*log_q.shape, self.dim), dtype=np.float32)
        points[..., self._others] = others[..., : self.others.n_real]
        total, observed = np.array(log_q, dtype=float), self._observed(context)
        log_likelihood = np.empty(total.shape)
        measured = observed[0] > 0
        # Of errors in nanomaggies.
        log_norm = np.log(observed[0], where=measured, out=np.zeros(measured.shape)) - 0.5 * _LN_2PI * measured

        def work(rows: slice, columns: slice) -> None:
            part, target = others[rows, columns], np.full((*log_q[rows, columns].shape, 2), np.nan)
            finite = np.isfinite(part).all(axis=-1)
            added = np.zeros(finite.shape)
            flat = np.where(finite[..., None], part, 0).reshape(-1, self.others.dim)
            z = self._redshift(flat, observed[2], rows)
            if self.config.choice:
                # Beyond, all of an option's times are one: such draws have no density.
                added[np.abs(part[..., _TBURST]) > FARTHEST] = np.inf
                flat, log_slope = self._joined(flat, z)
                points[rows, columns, self._others[_TBURST]] = np.where(finite, flat[:, _TBURST].reshape(finite.shape), np.nan)
                added += np.where(finite, log_slope.reshape(finite.shape), 0)
            posterior = self._posterior(flat, z, observed, rows)
            drawn, log_density = posterior.draw(noise[rows, columns].reshape(-1, 2))
            target[finite] = drawn.reshape(target.shape)[finite]
            added[finite] += log_density.reshape(finite.shape)[finite]
            points[rows, columns, _AMPLITUDES[0]] = target[..., 0]
            points[rows, columns, _AMPLITUDES[1]] = target[..., 1]
            total[rows, columns] += added
            found = posterior.log_likelihood(drawn).reshape(finite.shape)
            log_likelihood[rows, columns] = np.where(finite, found + log_norm[rows].sum(axis=1, keepdims=True), np.nan)

        in_threads(work, _pieces(len(others), others.shape[1], n_threads), n_threads)
        return FlowDraws(points, total, log_likelihood)

    def _observed(self, context: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Of each row, one over the errors and fluxes over errors, (n, n_band), 0 where unmeasured, and redshift (n,)."""
        flux, flux_ivar, zred = self.transform.observed(checked_context(context, self.n_context))
        # Kept from what single precision cannot hold.
        root = np.minimum(np.sqrt(flux_ivar), BRIGHTEST)
        return root.astype(np.float32), np.clip(flux * root, -BRIGHTEST, BRIGHTEST).astype(np.float32), zred

    def _redshift(self, others: np.ndarray, zred: np.ndarray | None, rows: slice) -> np.ndarray:
        """The redshift of each row, or if it is inferred, of each of the points of others (k, …)."""
        if self.redshift_prior is None:
            assert zred is not None
            return zred[rows]
        return self.redshift_prior.from_unbounded(others[:, self.others.n_real - 1])

    def _joined(self, learnt: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (k, dim - 2), in the memory of `learnt`, and log slopes (k,) of what `with_burst_choice` made of them.

        `z` as `_redshift`.
        """
        chance = prior_chances(z, self.emulator.prior, self.emulator.cosmology, self.config.n_options)
        chance = np.repeat(chance, len(learnt) // max(len(chance), 1), axis=0)
        probit, log_slope = from_option(learnt[:, _TBURST], learnt[:, -1], chance)
        others = learnt[:, :-1]
        others[:, _TBURST] = probit
        return others, log_slope

    def _posterior(
        self,
        others: np.ndarray,
        z: np.ndarray,
        observed: tuple[np.ndarray, np.ndarray, np.ndarray | None],
        rows: slice,
    ) -> AmplitudePosterior:
        """That of points (k, dim - 2) of a chunk, the same number for each of its rows; `z` as `_redshift`."""
        root, signal, _ = observed
        n_each = len(others) // len(root[rows])
        points = np.zeros((len(others), self.dim))
        points[:, self._others] = others
        theta = self.emulator.prior.from_unbounded(points[:, : len(FREE_PARAMETER_NAMES)])
        light = self.emulator.components(theta, z, networks=self._networks)
        weights = self.emulator.shares(theta, np.zeros(len(theta))).astype(np.float32)
        history = np.einsum("nc,ncb->nb", weights, light)
        # A burst before the beginning changes nothing.
        age = np.repeat(self.emulator.cosmology.age_gyr(z), len(theta) // max(len(z), 1))
        begun = theta[:, column("tburst")] <= age
        burst = np.where(begun[:, None], light[:, -1], history)
        root, signal = (np.repeat(values[rows], n_each, axis=0) for values in (root, signal))
        return AmplitudePosterior(history * root, burst * root, signal, self.emulator.prior)


def _pieces(n_rows: int, n_samples: int, n_threads: int | None) -> list[tuple[slice, slice]]:
    """Large chunks, since much of the work is calls of NumPy, but enough of them for every thread."""
    size = min(_CHUNK, -(-n_rows * n_samples // (n_threads or usable_cores())))
    return chunks(n_rows, n_samples, max(size, 1))
