"""The spectrum emulator: PCA and a Speculator network for composite histories, exact structure for everything else.

A composite spectrum is linear in the SFH weights β and in the burst, and mass, dust and redshift are analytic. So the network
learns only how the spectra of the eight pieces, young (inside birth clouds) and old stars of each SFH basis, depend
on the two metallicity weights and on the galaxy's age; each piece is compressed by a PCA of its ratio to its own
mean spectrum, which bounds the relative error of every positive sum of pieces. The burst is one SSP,
interpolated in the SSP table as the direct model does.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator
from scipy.stats import qmc

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.config import Config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.checks import one_per_galaxy
from sedcast.emulator.dust import DustLaw
from sedcast.emulator.histories import BETA, GAMMA, burst_fraction, column
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.pca import n_components_for, principal_components
from sedcast.emulator.prior import Prior
from sedcast.emulator.sps import SPSModel
from sedcast.emulator.training import NetworkTrainingConfig, train_network

__all__ = ["EmulatorConfig", "SpectrumEmulator", "train_emulator"]

logger = logging.getLogger(__name__)

KIND = "spectrum-emulator"
_BUNDLED = "bundled/emulator_popstar.npz"
_N_PIECE = 8
_PCA_CHUNK = 1024


class EmulatorConfig(Config):
    """What `sedcast train emulator` makes.

    Attributes
    ----------
    library : ``"popstar"`` for the bundled SSP library, or the path of one.
    bases : ``"default"`` for the bundled SFH and ZH bases, or the path of an artifact.
    cosmology : name of an astropy cosmology.
    t_birth_cloud_gyr : age up to which stars sit in birth clouds, Gyr.
    zred_max : largest redshift served.
    wave_min, wave_max : rest-frame wavelength range, Å.
    n_train : parameter sets (quasi-random) on which the pieces are computed.
    pca_tolerance : each piece gets the fewest components that reconstruct 99.9% of its values to this relative error.
    max_pca : most components a piece.
    prior : ranges by parameter name; those left out take the PROVABGS defaults.
    network : the network and its training.
    """

    library: str = "popstar"
    bases: str = "default"
    cosmology: str = "Planck13"
    t_birth_cloud_gyr: float = Field(default=0.1, gt=0)
    zred_max: float = Field(default=0.4, gt=0, le=3)
    wave_min: float = Field(default=912.0, gt=0)
    wave_max: float = Field(default=50_000.0, gt=0)
    n_train: int = Field(default=16_384, ge=64)
    pca_tolerance: float = Field(default=1e-3, gt=0, lt=1)
    max_pca: int = Field(default=40, ge=1)
    prior: dict[str, tuple[float, float]] = Field(default_factory=dict)
    network: NetworkTrainingConfig = NetworkTrainingConfig()

    @field_validator("prior")
    @classmethod
    def _valid_prior(cls, prior: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        Prior.from_dict(prior)
        return prior

    @model_validator(mode="after")
    def _increasing(self) -> "EmulatorConfig":
        if self.wave_min >= self.wave_max:
            raise ValueError(f"wave_min={self.wave_min} must be below wave_max={self.wave_max}")
        return self

    def direct_model(self) -> SPSModel:
        """The direct model that the emulator learns, on the emulator's wavelengths."""
        library = SSPLibrary.popstar() if self.library == "popstar" else SSPLibrary.load(self.library)
        bases = SFHBases.default() if self.bases == "default" else SFHBases.load(self.bases)
        library = library.trimmed(self.wave_min, self.wave_max)
        return _single_precision_model(library, bases, Cosmology(self.cosmology), self.t_birth_cloud_gyr)


@dataclass(frozen=True)
class SpectrumEmulator:
    """Rest-frame spectra of the PROVABGS model from a trained network; make one with `load`, `default` or `train_emulator`.

    Attributes
    ----------
    network : inputs (ln γ1, ln γ2, t_age/Gyr), outputs the PCA coefficients of the eight pieces, piece after piece.
    means : (8, n_wave), mean spectrum of each piece, Lsun/Å per Msun formed; the four young pieces first.
    components : (n_pca, n_wave), the PCA components of all pieces, Lsun/Å per Msun formed.
    n_pca : number of components of each of the eight pieces.
    model : the direct model on the same wavelengths, for the burst's SSP and for the redshift's age.
    prior : the parameter ranges that the network was trained on.
    zred_max : largest redshift served.
    card : training figures and provenance.
    """

    network: SpeculatorNetwork
    means: np.ndarray
    components: np.ndarray
    n_pca: tuple[int, ...]
    model: SPSModel
    prior: Prior
    zred_max: float
    card: dict[str, Any] = field(repr=False)
    _dust_law: DustLaw = field(init=False, repr=False)
    _templates: tuple[np.ndarray, np.ndarray] = field(init=False, repr=False)
    _basis: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_young = sum(self.n_pca[: _N_PIECE // 2])
        parts = zip(np.split(self.means, 2), np.split(self.components, [n_young]), strict=True)
        object.__setattr__(self, "_templates", tuple(np.ascontiguousarray(np.vstack(part)) for part in parts))
        # The SFH basis of each PCA component.
        object.__setattr__(self, "_basis", np.repeat(np.arange(_N_PIECE) % (_N_PIECE // 2), self.n_pca))
        object.__setattr__(self, "_dust_law", DustLaw(self.model.wave_rest, np.float32))

    @property
    def wave_rest(self) -> np.ndarray:
        """Rest-frame wavelengths, Å, (n_wave,)."""
        return self.model.wave_rest

    @property
    def cosmology(self) -> Cosmology:
        """The cosmology that relates redshift to age and distance."""
        return self.model.cosmology

    def spectra(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Luminosity densities, Lsun/Å, float32 (n_galaxy, n_wave).

        Parameters
        ----------
        theta : (n_galaxy, 12), inside the emulator's prior.
        zred : (n_galaxy,), 0 … `zred_max`.

        Raises
        ------
        ParameterError : for parameters or redshifts outside the range of training.
        """
        theta = self.prior.validate(theta)
        zred = one_per_galaxy(zred, len(theta))
        good = (zred >= 0) & (zred <= self.zred_max)
        if not good.all():
            raise ParameterError(
                f"zred={zred[~good][0]}: the emulator serves 0 … {self.zred_max}, train one with a larger zred_max"
            )
        t_age = self.cosmology.age_gyr(zred)
        mass = 10 ** theta[:, column("log_mstar")]
        f_burst = burst_fraction(theta, t_age)
        young, old = self._histories(theta, t_age, mass * (1 - f_burst))
        self._add_burst(theta, mass * f_burst, young, old)
        dust = {name: theta[:, column(name)] for name in ("dust1", "dust2", "dust_index")}
        return self._dust_law.attenuate(young, old, **dust)

    def restricted(self, used: slice) -> "SpectrumEmulator":
        """The same emulator on a contiguous part of its wavelengths."""
        wave = self.wave_rest[used]
        model = self.model
        library = model.library.trimmed(wave[0], wave[-1])
        narrow = _single_precision_model(library, model.bases, model.cosmology, model.t_birth_cloud_gyr)
        return replace(self, means=self.means[:, used], components=self.components[:, used], model=narrow)

    def _histories(self, theta: np.ndarray, t_age_gyr: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unattenuated young and old spectra of the smooth histories, which formed `mass` Msun, Lsun/Å."""
        inputs = np.column_stack([np.log(theta[:, GAMMA]), t_age_gyr])
        share = (theta[:, BETA] * mass[:, None]).astype(np.float32)
        coefficients = self.network(inputs.astype(np.float32))
        coefficients *= share[:, self._basis]
        n_young = len(self._templates[0]) - _N_PIECE // 2
        young = np.concatenate([share, coefficients[:, :n_young]], axis=1) @ self._templates[0]
        old = np.concatenate([share, coefficients[:, n_young:]], axis=1) @ self._templates[1]
        return young, old

    def _add_burst(self, theta: np.ndarray, mass: np.ndarray, young: np.ndarray, old: np.ndarray) -> None:
        t_burst = theta[:, column("tburst")]
        metallicity = self.model.histories.metallicity_at(theta[:, GAMMA], t_burst)
        self.model.add_ssps(young, old, mass, t_burst, metallicity)

    def save(self, path: str | Path) -> None:
        """Write the artifact: network, templates, SSP table, bases and card, arrays only."""
        arrays = self.network.to_arrays("network_")
        arrays |= {"means": self.means, "components": self.components, "n_pca": np.array(self.n_pca)}
        library, bases = self.model.library, self.model.bases
        arrays |= {f"ssp_{name}": getattr(library, name) for name in ("wave_rest", "log_age", "log_z", "flux")}
        if library.remnant_mass is not None:
            arrays["ssp_remnant_mass"] = library.remnant_mass
        arrays |= {f"bases_{name}": getattr(bases, name) for name in ("t_lookback_gyr", "sfh", "zh")}
        save_artifact(path, KIND, arrays, self.card)

    @classmethod
    def load(cls, path: str | Path) -> "SpectrumEmulator":
        """Read an artifact that `save` wrote.

        Raises
        ------
        ArtifactError : if it is missing, truncated, altered, of another kind, or inconsistent.
        """
        arrays, card = load_artifact(path, KIND)
        try:
            library = SSPLibrary(
                arrays["ssp_wave_rest"],
                arrays["ssp_log_age"],
                arrays["ssp_log_z"],
                arrays["ssp_flux"],
                name=card["library"]["name"],
                provenance=card["library"]["provenance"],
                remnant_mass=arrays.get("ssp_remnant_mass"),
            )
            bases = SFHBases(
                arrays["bases_t_lookback_gyr"],
                arrays["bases_sfh"],
                arrays["bases_zh"],
                name=card["bases"]["name"],
                provenance=card["bases"]["provenance"],
            )
            cosmology = Cosmology(card["config"]["cosmology"])
            model = _single_precision_model(library, bases, cosmology, card["config"]["t_birth_cloud_gyr"])
            network = SpeculatorNetwork.from_arrays(arrays, "network_")
            means, components, n_pca = arrays["means"], arrays["components"], tuple(arrays["n_pca"].tolist())
            n_wave = len(model.wave_rest)
            if (
                means.shape != (_N_PIECE, n_wave)
                or components.shape != (network.n_output, n_wave)
                or sum(n_pca) != network.n_output
            ):
                raise ArtifactError(
                    f"{path}: means {means.shape} and components {components.shape} do not fit network and library"
                )
            prior, zred_max = Prior.from_dict(card["prior"]), float(card["config"]["zred_max"])
            return cls(network, means, components, n_pca, model, prior, zred_max, card)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path} lacks {error} of a spectrum emulator's card: train it again") from error

    @classmethod
    def default(cls) -> "SpectrumEmulator":
        """The bundled emulator, trained on the PopStar library with the bundled bases."""
        with as_file(files("sedcast.data") / _BUNDLED) as path:
            return cls.load(path)


def _single_precision_model(library: SSPLibrary, bases: SFHBases, cosmology: Cosmology, t_birth_cloud_gyr: float) -> SPSModel:
    return SPSModel(library, bases, cosmology, t_birth_cloud_gyr=t_birth_cloud_gyr, dtype=np.float32)


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
    """
    model = config.direct_model()
    prior = Prior.from_dict(config.prior)
    inputs = _training_inputs(config, prior, model.cosmology)
    young, old = model.basis_spectra(np.exp(inputs[:, :2]), inputs[:, 2])
    pieces = [*np.moveaxis(young, 1, 0), *np.moveaxis(old, 1, 0)]
    means, components, coefficients, error = zip(*(_compress(piece, config) for piece in pieces), strict=True)
    n_pca = tuple(len(part) for part in components)
    logger.info("PCA components of the pieces: %s; 99.9%% of relative errors below %s", n_pca, error)
    # Components are orthonormal in relative flux, so an equal error in each coefficient of a piece matters equally.
    size = [float(np.sqrt(np.mean(part**2))) if part.size else 1.0 for part in coefficients]
    network, history = train_network(
        inputs,
        np.hstack(coefficients),
        config.network,
        output_scale=np.repeat(size, n_pca),
        checkpoint=checkpoint,
        progress=progress,
    )
    card = {
        "config": config.model_dump(mode="json"),
        "prior": prior.to_dict(),
        "library": {"name": model.library.name, "provenance": dict(model.library.provenance)},
        "bases": {"name": model.bases.name, "provenance": dict(model.bases.provenance)},
        "figures": history | {"n_pca": n_pca, "pca_relative_error_p999": error},
    }
    return SpectrumEmulator(network, np.array(means), np.vstack(components), n_pca, model, prior, config.zred_max, card)


def _training_inputs(config: EmulatorConfig, prior: Prior, cosmology: Cosmology) -> np.ndarray:
    """Quasi-random (ln γ1, ln γ2, t_age/Gyr), the weights a little beyond the prior so that its edge is interior."""
    unit = qmc.Sobol(3, seed=config.network.seed).random(config.n_train)
    youngest, oldest = cosmology.age_gyr(np.array([config.zred_max, 0.0]))
    low = np.array([*np.log([prior.gamma1_zh[0], prior.gamma2_zh[0]]), youngest])
    high = np.array([*np.log([prior.gamma1_zh[1], prior.gamma2_zh[1]]), oldest])
    margin = np.array([0.02, 0.02, 0.0]) * (high - low)
    return low - margin + unit * (high - low + 2 * margin)


def _compress(piece: np.ndarray, config: EmulatorConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """PCA of a piece's ratio to its mean spectrum.

    Returns
    -------
    mean (n_wave,), components (n_pca, n_wave) in Lsun/Å/Msun, coefficients (n, n_pca), 99.9th percentile of the relative error.
    A piece that is dark everywhere has no components.
    """
    mean = piece.mean(axis=0, dtype=float)
    lit = mean > 0
    ratio = piece[:, lit] / mean[lit].astype(piece.dtype) - 1
    if not lit.any():
        return mean.astype(np.float32), np.empty((0, len(mean)), np.float32), np.empty((len(piece), 0)), 0.0
    rows = range(0, len(ratio), _PCA_CHUNK)
    vectors = principal_components(lambda: (ratio[row : row + _PCA_CHUNK] for row in rows), config.max_pca)
    vectors = vectors.astype(ratio.dtype)
    coefficients = ratio @ vectors.T
    sample, scores = ratio[::8], coefficients[::8]
    size = np.maximum(sample + 1, 1e-3)

    def error_of(n: int) -> float:
        return float(np.quantile(np.abs(sample - scores[:, :n] @ vectors[:n]) / size, 0.999))

    n_pca, error = n_components_for(error_of, config.pca_tolerance, len(vectors))
    components = np.zeros((n_pca, len(mean)), np.float32)
    components[:, lit] = vectors[:n_pca] * mean[lit]
    return mean.astype(np.float32), components, coefficients[:, :n_pca], error
