"""The spectrum emulator: PCA and a Speculator network for composite histories, exact structure for everything else.

A composite spectrum is linear in the SFH weights β and in the burst, and mass, dust and redshift are analytic. What a
galaxy's age decides is analytic too: how each SFH basis is normalised, and the few bins of lookback time that it closes or
has not reached, each of which is one SSP. So the network learns only how the spectra of eight pieces, young (inside birth
clouds) and old stars of each SFH basis, depend on the two metallicity weights; each piece is compressed by a PCA in which
the errors count that matter in a galaxy's total light. The late bins and the burst are SSPs, interpolated in the SSP
table as the direct model does.
"""

from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.config import Config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sfh_bases import HISTORY_ARRAYS, SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.dust import DustLaw
from sedcast.emulator.histories import BETA, GAMMA, burst_fraction, check_theta, column
from sedcast.emulator.metallicity_inputs import MetallicityInputs
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.prior import Prior
from sedcast.emulator.sps import SPSModel
from sedcast.emulator.training import NetworkTrainingConfig

__all__ = ["EmulatorConfig", "SpectrumEmulator"]

KIND = "spectrum-emulator"
_BUNDLED = "bundled/emulator_popstar.npz"
_N_PIECE = 8


class EmulatorConfig(Config):
    """What `sedcast train emulator` makes.

    Attributes
    ----------
    library : ``"popstar"`` for the bundled SSP library, or the path of one.
    bases : ``"default"`` for the bundled SFH and ZH bases, or the path of an artifact.
    cosmology : name of an astropy cosmology.
    t_birth_cloud_gyr : age up to which stars sit in birth clouds, Gyr.
    zred_max : largest redshift served, up to which the bases must mean something, see `HistoryGrid.check_reach`.
    wave_min, wave_max : rest-frame wavelength range, Å.
    n_train : parameter sets (quasi-random) on which the pieces are computed.
    n_metallicity_times : lookback times at which the network sees the metallicity.
    pca_tolerance : each piece gets the fewest components whose error relative to the galaxy's light is below this in 99.9%.
    max_pca : most components a piece.
    prior : ranges by parameter name; those left out take the PROVABGS defaults.
    network : the network and its training.
    """

    library: str = "popstar"
    bases: str = "default"
    cosmology: str = "Planck13"
    t_birth_cloud_gyr: float = Field(default=0.1, gt=0)
    zred_max: float = Field(default=0.32, gt=0, le=3)
    wave_min: float = Field(default=912.0, gt=0)
    wave_max: float = Field(default=50_000.0, gt=0)
    n_train: int = Field(default=16_384, ge=64)
    n_metallicity_times: int = Field(default=8, ge=1)
    pca_tolerance: float = Field(default=2e-4, gt=0, lt=1)
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
        return single_precision_model(library, bases, Cosmology(self.cosmology), self.t_birth_cloud_gyr)

    def n_complete_bins(self, model: SPSModel) -> int:
        """Number of bins of lookback time that the age of every galaxy completes."""
        return model.histories.n_complete(float(model.cosmology.age_gyr(np.array([self.zred_max]))[0]))

    def metallicity_inputs(self, model: SPSModel, prior: Prior) -> MetallicityInputs:
        """The network's inputs."""
        n_bin = self.n_complete_bins(model)
        return MetallicityInputs.of(model.histories, model.library.log_z, prior, n_bin=n_bin, n_times=self.n_metallicity_times)


@dataclass(frozen=True)
class SpectrumEmulator:
    """Rest-frame spectra of the PROVABGS model from a trained network; make one with `load`, `default` or `train_emulator`.

    Attributes
    ----------
    network : inputs those of `MetallicityInputs`, outputs the PCA coefficients of the eight pieces, piece after piece.
    means : (8, n_wave), mean spectrum of each piece, Lsun/Å, of what an SFH basis, not normalised, forms in the bins that every
        galaxy's age completes; the four young pieces first.
    components : (n_pca, n_wave), the PCA components of all pieces, in the same unit.
    n_pca : number of components of each of the eight pieces.
    model : the direct model on the same wavelengths, for the SSPs of the burst and of late bins, and for the redshift's age.
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
    _n_bin: int = field(init=False, repr=False)
    _inputs: MetallicityInputs = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_young = sum(self.n_pca[: _N_PIECE // 2])
        parts = zip(np.split(self.means, 2), np.split(self.components, [n_young]), strict=True)
        object.__setattr__(self, "_templates", tuple(np.ascontiguousarray(np.vstack(part)) for part in parts))
        # The SFH basis of each PCA component.
        object.__setattr__(self, "_basis", np.repeat(np.arange(_N_PIECE) % (_N_PIECE // 2), self.n_pca))
        object.__setattr__(self, "_dust_law", DustLaw(self.model.wave_rest, np.float32))
        config = EmulatorConfig.model_validate(self.card["config"])
        object.__setattr__(self, "_n_bin", config.n_complete_bins(self.model))
        object.__setattr__(self, "_inputs", config.metallicity_inputs(self.model, self.prior))
        if self._inputs.n_input != self.network.n_input:
            raise ArtifactError(
                f"the network has {self.network.n_input} inputs, {self._inputs.n_input} expected for this library: "
                "another version trained it, train it again"
            )

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
        theta : (n_galaxy, 12), its metallicity weights inside the emulator's prior; all else is computed, not learnt.
        zred : (n_galaxy,), 0 … `zred_max`.

        Raises
        ------
        ParameterError : for impossible parameters, or metallicity weights or redshifts outside the range of training.
        """
        theta, zred = self.check(theta, zred)
        t_age = self.cosmology.age_gyr(zred)
        mass = 10 ** theta[:, column("log_mstar")]
        f_burst = burst_fraction(theta, t_age)
        # `total` without its checks: within zred_max they hold, as training made sure.
        total = self.model.histories.formed(t_age)
        # How much of each SFH basis, not normalised, the galaxy has.
        amount = theta[:, BETA] * (mass * (1 - f_burst))[:, None] / total.T
        young, old = self._histories(theta[:, GAMMA], amount)
        late = self.model.histories.later_bins(self._n_bin, amount, theta[:, GAMMA], t_age, total)
        self._add_ssps(theta, mass * f_burst, late, young, old)
        dust = {name: theta[:, column(name)] for name in ("dust1", "dust2", "dust_index")}
        return self._dust_law.attenuate(young, old, **dust)

    def check(self, theta: np.ndarray, zred: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Parameters (n, 12) and redshifts (n,) as float64, if `spectra` takes them; errors as there."""
        theta, zred = check_theta(theta, zred)
        low, high = np.array([self.prior.gamma1_zh, self.prior.gamma2_zh]).T
        gamma = theta[:, GAMMA]
        if (outside := (gamma < low) | (gamma > high)).any():
            row, index = np.argwhere(outside)[0]
            raise ParameterError(
                f"theta[{row}] has gamma{index + 1}_zh={gamma[row, index]:.6g}, outside the emulator's {low[index]:g} … "
                f"{high[index]:g}: check order and units, or train an emulator with a wider prior"
            )
        good = (zred >= 0) & (zred <= self.zred_max)
        if not good.all():
            raise ParameterError(
                f"zred={zred[~good][0]}: the emulator serves 0 … {self.zred_max}, train one with a larger zred_max"
            )
        return theta, zred

    def restricted(self, used: slice) -> "SpectrumEmulator":
        """The same emulator on a contiguous part of its wavelengths."""
        wave = self.wave_rest[used]
        model = self.model
        library = model.library.trimmed(wave[0], wave[-1])
        narrow = single_precision_model(library, model.bases, model.cosmology, model.t_birth_cloud_gyr)
        return replace(self, means=self.means[:, used], components=self.components[:, used], model=narrow)

    def _histories(self, gamma: np.ndarray, amount: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unattenuated young and old spectra of what is formed in the bins that every galaxy completes, Lsun/Å."""
        share = amount.astype(np.float32)
        coefficients = self.network(self._inputs(gamma))
        coefficients *= share[:, self._basis]
        n_young = len(self._templates[0]) - _N_PIECE // 2
        young = np.concatenate([share, coefficients[:, :n_young]], axis=1) @ self._templates[0]
        old = np.concatenate([share, coefficients[:, n_young:]], axis=1) @ self._templates[1]
        return young, old

    def _add_ssps(
        self,
        theta: np.ndarray,
        burst_mass: np.ndarray,
        late: tuple[np.ndarray, np.ndarray, np.ndarray],
        young: np.ndarray,
        old: np.ndarray,
    ) -> None:
        """Add the burst and the late bins (mass, age, metallicity), in place."""
        t_burst = theta[:, column("tburst")]
        burst = (burst_mass, t_burst, self.model.histories.metallicity_at(theta[:, GAMMA], t_burst))
        mass, age, z = (np.concatenate([one[:, None], more], axis=1) for one, more in zip(burst, late, strict=True))
        self.model.add_valid_ssps(young, old, mass, age, z)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the artifact: network, templates, SSP table, bases and card, arrays only.

        Raises
        ------
        ParameterError : if a file is there already, unless `overwrite` says that it may be replaced.
        """
        arrays = self.network.to_arrays("network_")
        arrays |= {"means": self.means, "components": self.components, "n_pca": np.array(self.n_pca)}
        library, bases = self.model.library, self.model.bases
        arrays |= {f"ssp_{name}": getattr(library, name) for name in ("wave_rest", "log_age", "log_z", "flux")}
        if library.remnant_mass is not None:
            arrays["ssp_remnant_mass"] = library.remnant_mass
        arrays |= {f"bases_{name}": getattr(bases, name) for name in HISTORY_ARRAYS}
        save_artifact(path, KIND, arrays, self.card, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "SpectrumEmulator":
        """Read an artifact that `save` wrote.

        Raises
        ------
        ArtifactError : if it is missing, truncated, altered, of another kind, or inconsistent.
        """
        arrays, card = load_artifact(path, KIND)
        with consistent(path, "spectrum emulator", otherwise="train it again"):
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
            model = single_precision_model(library, bases, cosmology, card["config"]["t_birth_cloud_gyr"])
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

    @classmethod
    def default(cls) -> "SpectrumEmulator":
        """The bundled emulator, trained on the PopStar library with the bundled bases."""
        with as_file(files("sedcast.data") / _BUNDLED) as path:
            return cls.load(path)


def single_precision_model(library: SSPLibrary, bases: SFHBases, cosmology: Cosmology, t_birth_cloud_gyr: float) -> SPSModel:
    return SPSModel(library, bases, cosmology, t_birth_cloud_gyr=t_birth_cloud_gyr, dtype=np.float32)
