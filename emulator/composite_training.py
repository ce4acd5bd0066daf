"""Training of the spectrum emulator: its pieces, what their errors matter in a galaxy's light, their PCA, and the network."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import qmc

from sedcast.data.provenance import provenance
from sedcast.data.sfh_bases import N_SFH_BASES
from sedcast.emulator.pca import n_components_for, principal_components
from sedcast.emulator.prior import Prior
from sedcast.emulator.segments import array_digest
from sedcast.emulator.spectrum_emulator import EmulatorConfig, SpectrumEmulator
from sedcast.emulator.sps import SPSModel
from sedcast.emulator.training import ErrorMetric, train_network

__all__ = ["train_emulator"]

logger = logging.getLogger(__name__)

_CHUNK = 1024
_N_METRIC_WAVE = 128
_DRAWS = 8
_FAINTEST_RATIO = 1e-3
_LEAST_WEIGHT = 1e-3
_MARGIN = 0.02


def train_emulator(
    config: EmulatorConfig,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> SpectrumEmulator:
    """Train an emulator of the direct model that `config` describes.

    Parameters
    ----------
    config : what to train.
    checkpoint : file from which an interrupted training of the network goes on.
    progress : called as (epochs done, epochs, figures).

    Returns
    -------
    emulator : with its training figures in `card["figures"]`.

    Raises
    ------
    ConfigError : if the checkpoint is of another training.
    ParameterError : if the SFH bases do not reach to `zred_max`, see `HistoryGrid.check_reach`.
    """
    model = config.direct_model()
    model.histories.check_reach(float(model.cosmology.age_gyr(np.array([config.zred_max]))[0]))
    prior = Prior.from_dict(config.prior)
    gamma = _training_gamma(config, prior)
    young, old = model.basis_spectra(gamma, config.n_complete_bins(model))
    pieces = [*np.moveaxis(young, 1, 0), *np.moveaxis(old, 1, 0)]
    at = _metric_wavelengths(model.wave_rest)
    shares = _shares_of_light(config, model, prior, gamma, np.stack([piece[:, at] for piece in pieces]), at)
    parts = [_compress(piece, share, at, config) for piece, share in zip(pieces, shares, strict=True)]
    n_pca, error = tuple(len(part.components) for part in parts), tuple(part.error for part in parts)
    logger.info("PCA components of the pieces: %s; 99.9%% of errors in the total light below %s", n_pca, error)
    lit = [part for part in parts if len(part.components)]
    network, history = train_network(
        config.metallicity_inputs(model, prior)(gamma),
        np.hstack([part.coefficients for part in parts]),
        config.network,
        output_scale=np.repeat([np.sqrt(np.mean(part.coefficients**2)) for part in lit], [n for n in n_pca if n]),
        # In per mille of the total light.
        metric=ErrorMetric(tuple(part.block for part in lit), 1e3 * np.hstack([part.weight for part in lit])),
        checkpoint=checkpoint,
        progress=progress,
    )
    artifacts = {"library": array_digest(model.library.flux)}
    card = {
        "config": config.model_dump(mode="json"),
        "prior": prior.to_dict(),
        "library": {"name": model.library.name, "provenance": dict(model.library.provenance)},
        "bases": {"name": model.bases.name, "provenance": dict(model.bases.provenance)},
        "figures": history | {"n_pca": n_pca, "pca_error_p999": error},
        "provenance": provenance(config=config.model_dump(mode="json"), artifacts=artifacts),
    }
    means, components = (np.vstack([getattr(part, name) for part in parts]) for name in ("mean", "components"))
    return SpectrumEmulator(network, means, components, n_pca, model, prior, config.zred_max, card)


def _training_gamma(config: EmulatorConfig, prior: Prior) -> np.ndarray:
    """Quasi-random γ (n_train, 2), log-uniform and a little beyond the prior, so that its edge is interior."""
    unit = qmc.Sobol(2, seed=config.network.seed).random(config.n_train)
    low, high = np.log(np.array([prior.gamma1_zh, prior.gamma2_zh])).T
    margin = _MARGIN * (high - low)
    return np.exp(low - margin + unit * (high - low + 2 * margin))


def _metric_wavelengths(wave: np.ndarray) -> np.ndarray:
    """Indices of about evenly spaced log wavelengths."""
    spaced = np.geomspace(wave[0], wave[-1], _N_METRIC_WAVE)
    return np.unique(np.clip(np.searchsorted(wave, spaced), 0, wave.size - 1))


def _shares_of_light(
    config: EmulatorConfig, model: SPSModel, prior: Prior, gamma: np.ndarray, pieces: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """Root mean square, over galaxies of the prior with a given γ, of the share of the total light that each piece has.

    It says how much a relative error of a piece matters. Bursts and diffuse dust are left out: the first only lower the share,
    the second does not change it.

    Parameters
    ----------
    pieces : (8, n, n_point), at the wavelengths of indices `at`.

    Returns
    -------
    shares : (8, n, n_point).
    """
    rng = np.random.default_rng(config.network.seed)
    youngest, oldest = model.cosmology.age_gyr(np.array([config.zred_max, 0.0]))
    n_bin, wave = config.n_complete_bins(model), model.wave_rest[at]
    squares = np.zeros_like(pieces)
    for rows in _row_chunks(len(gamma)):
        n = len(gamma[rows])
        for _ in range(_DRAWS):
            t_age = rng.uniform(youngest, oldest, n)
            total = model.histories.total(t_age)
            amount = rng.dirichlet(np.ones(N_SFH_BASES), n) / total.T
            late = np.zeros((2, n, model.wave_rest.size), dtype=model.dtype)
            mass, age, z = model.histories.later_bins(n_bin, amount, gamma[rows], t_age, total)
            model.add_ssps(late[0], late[1], mass, age, z)
            cloud = np.exp(-rng.uniform(*prior.dust1, n)[:, None] * (5500 / wave))
            light = pieces[:, rows] * np.tile(amount, 2).T[:, :, None]
            light[:N_SFH_BASES] *= cloud
            squares[:, rows] += (light / (light.sum(axis=0) + late.sum(axis=0)[:, at])) ** 2
    return np.sqrt(squares / _DRAWS)


@dataclass(frozen=True)
class _Compressed:
    """A piece as mean + coefficients @ components, and what errors of its coefficients matter.

    Attributes
    ----------
    mean, components : (1, n_wave) and (n_pca, n_wave), Lsun/Å, float32.
    coefficients : (n, n_pca).
    block, weight : (n_pca, n_point) and (n, n_point); (error of coefficients @ block) · weight is relative to the total light.
    error : 99.9th percentile of the reconstruction error relative to the total light.
    """

    mean: np.ndarray
    components: np.ndarray
    coefficients: np.ndarray
    block: np.ndarray
    weight: np.ndarray
    error: float


def _compress(piece: np.ndarray, share: np.ndarray, at: np.ndarray, config: EmulatorConfig) -> _Compressed:
    """PCA of a piece's ratio to its mean spectrum, wavelengths weighted by what a relative error there matters.

    A piece that is dark everywhere has no components.
    """
    mean = piece.mean(axis=0, dtype=float)
    lit, n_wave = mean > 0, piece.shape[1]
    if not lit.any():
        empty = np.empty((len(piece), 0))
        return _Compressed(np.zeros((1, n_wave), np.float32), np.empty((0, n_wave), np.float32), empty, empty.T, empty, 0.0)
    points = lit[at]
    ratio_at = piece[:, at[points]] / mean[at[points]]
    weight = share[:, points] / np.maximum(ratio_at, _FAINTEST_RATIO)
    matters = np.sqrt(np.mean(weight**2, axis=0))
    matters = np.interp(np.flatnonzero(lit), at[points], np.maximum(matters, _LEAST_WEIGHT * matters.max()))

    def chunks() -> Iterator[np.ndarray]:
        for rows in _row_chunks(len(piece)):
            yield (piece[rows][:, lit] / mean[lit] - 1) * matters

    vectors = principal_components(chunks, config.max_pca)
    coefficients = np.concatenate([chunk @ vectors.T for chunk in chunks()])
    block = (vectors / matters)[:, np.searchsorted(np.flatnonzero(lit), at[points])]

    def error_of(n: int) -> float:
        left = ratio_at - 1 - coefficients[:, :n] @ block[:n]
        return float(np.quantile(np.abs(left * weight), 0.999))

    n_pca, error = n_components_for(error_of, config.pca_tolerance, len(vectors))
    components = np.zeros((n_pca, n_wave), np.float32)
    components[:, lit] = vectors[:n_pca] / matters * mean[lit]
    return _Compressed(mean.astype(np.float32)[None], components, coefficients[:, :n_pca], block[:n_pca], weight, error)


def _row_chunks(n: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]
