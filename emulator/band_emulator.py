"""A small emulator of a few bands, without the spectrum: for what needs millions of fluxes a second.

A galaxy's flux in a band is linear in five amplitudes: the mass that each SFH basis forms, and the mass of the burst. Two
small networks give the flux of a unit of each: one of metallicity, dust and redshift for the bases, one that sees the burst's
age as well. What is known is left to neither: distance, and diffuse dust as if the band were one wavelength. The burst's age
enters by a table over the ages of the SSP library, between which its light is linear, and metallicity by ramps over the
library's (`MetallicityInputs`), so that no network has to learn their kinks.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from sedcast.data.checks import one_per_galaxy
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.filters import load_filter
from sedcast.data.sfh_bases import N_SFH_BASES, N_ZH_BASES
from sedcast.data.ssp import log_age_yr
from sedcast.emulator.dust import attenuation_at
from sedcast.emulator.histories import BETA, GAMMA, burst_fraction, clipped_metallicity, column
from sedcast.emulator.metallicity_inputs import MetallicityInputs
from sedcast.emulator.prior import Prior
from sedcast.emulator.spectrum_emulator import EmulatorConfig, SpectrumEmulator

__all__ = ["MAX_LOG", "BandEmulator", "BandInputs", "network_widths"]

Network = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""From inputs (n, n_in), and what is added to the first layer's product, (n, n_hidden) or nothing, to outputs (n, n_out)."""

N_COMPONENT = N_SFH_BASES + 1
_N_METALLICITY_TIMES = 4
MAX_LOG = 30.0
"""Bound on the logarithm of what the networks give."""
_ROWS = 2048
# What is made of so many at a time is not written to memory: several times faster.
_ROWS_IN_CACHE = 512
# A scale that trained networks contain: not to be made more exact.
_MPC_CM = 3.0857e24
_FIXED = ("base", "wave", "age_nodes", "log_z", "zh", "ramp_low", "ramp_width", "t_lookback_gyr", "burst_zh", "zred_range")


class BandInputs(NamedTuple):
    """What the networks see of n galaxies.

    Attributes
    ----------
    history, burst : (n, n_input) of the two networks.
    node, share : (n,), the age node at or below the burst's age, and how far it is towards the next, 0 … 1.
    log_scale : (n, n_band) natural logarithm of what the networks' fluxes are multiplied by.
    """

    history: np.ndarray
    burst: np.ndarray
    node: np.ndarray
    share: np.ndarray
    log_scale: np.ndarray


@dataclass(frozen=True)
class BandEmulator:
    """Noiseless fluxes in a few bands: a `FluxSimulator`; make one with `train_band_emulator`.

    Attributes
    ----------
    bands : band names.
    prior : parameter ranges that it was trained on.
    cosmology : of distances and ages.
    arrays : weights ``history_kernel_0`` … and ``burst_kernel_0`` …, their biases, ``burst_ages`` (n_age, n_hidden), and what
        the inputs are made with, see `blank`.

    Raises
    ------
    ArtifactError : if an array is missing, not finite, or of a shape that does not fit.
    """

    bands: tuple[str, ...]
    prior: Prior
    cosmology: Cosmology
    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        missing = [name for name in (*_FIXED, "burst_ages") if name not in self.arrays]
        if missing:
            raise ArtifactError(f"a band emulator needs the arrays {', '.join(missing)}: the file is of another kind")
        for name, array in self.arrays.items():
            if not np.isfinite(array).all():
                raise ArtifactError(f"band emulator's array {name!r} has non-finite values: its training failed")
        n_band, n_time = len(self.bands), self.arrays["t_lookback_gyr"].size
        n_age, n_ramp = self.arrays["age_nodes"].size, self.arrays["ramp_low"].size
        expected = {
            "base": (n_band,),
            "wave": (n_band,),
            "zred_range": (2,),
            "age_nodes": (max(n_age, 2),),
            "log_z": (max(self.arrays["log_z"].size, 2),),
            "zh": (N_ZH_BASES, n_ramp),
            "ramp_width": (n_ramp,),
            "burst_zh": (N_ZH_BASES, n_time),
            "burst_ages": (n_age, self.layers["burst"][0][0].shape[-1]),
        }
        for name, shape in expected.items():
            if self.arrays[name].shape != shape:
                raise ArtifactError(f"band emulator's array {name!r} has shape {self.arrays[name].shape}, expected {shape}")
        for name, (n_input, n_output) in network_widths(self.arrays, n_band).items():
            layers = self.layers[name]
            widths = [n_input, *(len(bias) for _, bias in layers)]
            fits = all(kernel.shape == (a, b) for (kernel, _), a, b in zip(layers, widths, widths[1:], strict=False))
            if not fits or widths[-1] != n_output:
                raise ArtifactError(f"band emulator's network {name!r} has layers of {widths}, which do not fit together")

    @classmethod
    def blank(
        cls, emulator: SpectrumEmulator, bands: tuple[str, ...], prior: Prior, zred_range: tuple[float, float]
    ) -> dict[str, np.ndarray]:
        """The arrays that the inputs are made with, of a spectrum emulator's model; all but weights and ``base``."""
        config, model = EmulatorConfig.model_validate(emulator.card["config"]), emulator.model
        library, bases = model.library, model.bases
        ramps = MetallicityInputs.of(
            model.histories, library.log_z, prior, n_bin=config.n_complete_bins(model), n_times=_N_METALLICITY_TIMES
        )
        earliest, latest = log_age_yr(np.array(prior.tburst))
        last = library.log_age.size - 1
        first = int(np.clip(np.searchsorted(library.log_age, earliest, side="right") - 1, 0, last - 1))
        stop = int(np.clip(np.searchsorted(library.log_age, latest), first + 1, last)) + 1
        return {
            "wave": np.array([load_filter(band).effective_wave for band in bands]),
            "age_nodes": library.log_age[first:stop].astype(float),
            "log_z": library.log_z.astype(float),
            "zh": ramps.zh,
            "ramp_low": ramps.low,
            "ramp_width": ramps.width,
            "t_lookback_gyr": bases.t_lookback_gyr,
            "burst_zh": bases.zh,
            "zred_range": np.array(zred_range),
        }

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """Noiseless fluxes, nanomaggies, (n, n_band), of parameters (n, 12) and redshifts (n,).

        Raises
        ------
        ParameterError : for parameters or redshifts beyond the range of training.
        """
        theta = self.prior.validate(theta)
        zred = one_per_galaxy(zred, len(theta))
        low, high = self.arrays["zred_range"]
        outside = np.flatnonzero(~((zred >= low) & (zred <= high)))
        if outside.size:
            raise ParameterError(f"zred={zred[outside[0]]}: this emulator of bands serves {low:g} … {high:g}, train another")
        flux = np.empty((len(theta), len(self.bands)))
        for start in range(0, len(theta), _ROWS):
            rows = slice(start, start + _ROWS)
            part, z = theta[rows], zred[rows]
            shares = self.shares(part, burst_fraction(part, self.cosmology.age_gyr(z)))
            per_mass = np.einsum("nc,ncb->nb", shares, self.components(part, z))
            flux[rows] = 10 ** part[:, :1] * per_mass
        return flux

    @staticmethod
    def shares(theta: np.ndarray, f_burst: np.ndarray) -> np.ndarray:
        """The share of the mass formed that each component has, (n, 5): the SFH bases, then the burst."""
        return np.column_stack([theta[:, BETA] * (1 - f_burst)[:, None], f_burst])

    def components(self, theta: np.ndarray, zred: np.ndarray, *, networks: Mapping[str, Network] | None = None) -> np.ndarray:
        """Flux per solar mass formed of each SFH basis and of the burst, nanomaggies, float32 (n, 5, n_band).

        Parameters
        ----------
        theta : (n, 12), inside the prior; masses, weights and burst fraction do not matter.
        zred : (n,) within ``zred_range``, or fewer, each of equally many consecutive rows of theta.
        networks : what evaluates the networks ``"history"`` and ``"burst"`` of `layers`; NumPy by default.
        """
        networks = networks or {name: partial(_evaluate, layers) for name, layers in self.layers.items()}
        inputs = self.inputs(theta, zred)
        n, n_band = inputs.log_scale.shape
        result = np.empty((n, N_COMPONENT, n_band), dtype=np.float32)
        result[:, :-1] = networks["history"](inputs.history, None).reshape(n, N_SFH_BASES, n_band)
        ages, steps = self.arrays["burst_ages"], self._burst_age_steps
        for start in range(0, n, _ROWS_IN_CACHE):
            rows = slice(start, start + _ROWS_IN_CACHE)
            of_age = steps.take(inputs.node[rows], axis=0)
            of_age *= inputs.share[rows, None]
            of_age += ages.take(inputs.node[rows], axis=0)
            result[rows, -1] = networks["burst"](inputs.burst[rows], of_age)
        np.clip(result, -MAX_LOG, MAX_LOG, out=result)
        result += inputs.log_scale[:, None]
        return np.exp(result, out=result)

    def inputs(self, theta: np.ndarray, zred: np.ndarray) -> BandInputs:
        """What the networks see; arguments as of `components`."""
        gamma, t_burst = theta[:, GAMMA], theta[:, column("tburst")]
        ramps = self._metallicity(gamma)
        ranges = np.log([self.prior.gamma1_zh, self.prior.gamma2_zh])
        ramps[:, :2] = _centred(ramps[:, :2], *ranges.T)
        names = ("dust1", "dust2", "dust_index")
        known = [_centred(theta[:, column(name)], *getattr(self.prior, name)) for name in names]
        known.append(np.repeat(_centred(zred, *self.arrays["zred_range"]), len(theta) // max(len(zred), 1)))
        nodes = self.arrays["age_nodes"]
        # As the library does, for ages beyond it.
        log_age = np.clip(log_age_yr(t_burst), nodes[0], nodes[-1])
        position = np.interp(log_age, nodes, np.arange(len(nodes)))
        node = np.minimum(position.astype(np.int32), len(nodes) - 2)
        log_z = self.arrays["log_z"]
        burst_z = np.log10(self._burst_metallicity(gamma, t_burst))
        burst_ramps = np.clip((burst_z[:, None] - log_z[:-1]) / np.diff(log_z), 0, 1)
        context = np.column_stack(known).astype(np.float32)
        burst = [ramps[:, :2], burst_ramps, context, _centred(log_age, nodes[0], nodes[-1])[:, None]]
        return BandInputs(
            np.concatenate([ramps, context], axis=1),
            np.concatenate(burst, axis=1).astype(np.float32),
            node,
            (position - node).astype(np.float32),
            self._log_scale(theta, zred),
        )

    def _log_scale(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        """What is known of the fluxes: distance, and diffuse dust at the band's mean wavelength."""
        wave = self.arrays["wave"] / (1 + zred[:, None])
        amount, index = (theta[:, column(name)].astype(np.float32).reshape(len(zred), -1) for name in ("dust2", "dust_index"))
        depth = amount[:, :, None] * attenuation_at(wave.astype(np.float32), index)
        distance = 2 * np.log(self.cosmology.luminosity_distance_cm(zred) / _MPC_CM) + np.log1p(zred)
        near = (self.arrays["base"] - distance[:, None]).astype(np.float32)
        return np.asarray(near[:, None] - depth).reshape(len(theta), -1)

    def _burst_metallicity(self, gamma: np.ndarray, t_burst: np.ndarray) -> np.ndarray:
        time = self.arrays["t_lookback_gyr"]
        at_burst = np.stack([np.interp(t_burst, time, row) for row in self.arrays["burst_zh"]], axis=1)
        return clipped_metallicity(np.einsum("nj,nj->n", gamma, at_burst))

    @cached_property
    def _burst_age_steps(self) -> np.ndarray:
        """Of what the burst's age gives its network's first layer, the differences from node to node."""
        return np.diff(self.arrays["burst_ages"], axis=0)

    @cached_property
    def layers(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """Kernel (n_in, n_out) and bias (n_out,) of every layer of the networks ``"history"`` and ``"burst"``."""
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for name in ("history", "burst"):
            n_layer = sum(key.startswith(f"{name}_kernel_") for key in self.arrays)
            pairs = [(f"{name}_kernel_{k}", f"{name}_bias_{k}") for k in range(max(n_layer, 1))]
            absent = [key for pair in pairs for key in pair if key not in self.arrays]
            if absent:
                raise ArtifactError(f"band emulator's network {name!r} lacks the arrays {absent}: train it again")
            found[name] = [(self.arrays[kernel], self.arrays[bias]) for kernel, bias in pairs]
        return found

    @cached_property
    def _metallicity(self) -> MetallicityInputs:
        return MetallicityInputs(*(self.arrays[name] for name in ("zh", "ramp_low", "ramp_width")))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays, with bands, prior and cosmology as UTF-8 JSON in ``config``: everything `from_arrays` needs."""
        config = {"bands": list(self.bands), "prior": self.prior.to_dict(), "cosmology": self.cosmology.name}
        return dict(self.arrays) | {"config": np.frombuffer(json.dumps(config).encode(), dtype=np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "BandEmulator":
        """The emulator that `to_arrays` described.

        Raises
        ------
        ArtifactError : if the arrays do not describe one.
        """
        try:
            config = json.loads(np.asarray(arrays["config"], dtype=np.uint8).tobytes())
            bands, prior = tuple(config["bands"]), Prior.from_dict(config["prior"])
            cosmology = Cosmology(config["cosmology"])
        except (KeyError, TypeError, ValueError, ParameterError) as error:
            raise ArtifactError(f"no valid 'config' of a band emulator among the arrays: {error}") from error
        return cls(bands, prior, cosmology, {name: array for name, array in arrays.items() if name != "config"})


def _evaluate(layers: list[tuple[np.ndarray, np.ndarray]], inputs: np.ndarray, first: np.ndarray | None) -> np.ndarray:
    """A network (silu) of inputs (n, n_in); `first` (n, n_hidden) is added to what the first layer's product gives."""
    (kernel, bias), *others = layers
    hidden = inputs @ kernel + bias
    if first is not None:
        hidden += first
    for kernel, bias in others:
        # x · sigmoid(x) through tanh, which cannot overflow.
        hidden *= 0.5 + 0.5 * np.tanh(0.5 * hidden)
        hidden = hidden @ kernel
        hidden += bias
    return hidden


def network_widths(arrays: Mapping[str, np.ndarray], n_band: int) -> dict[str, tuple[int, int]]:
    """Numbers of inputs and outputs of the two networks."""
    n_history, n_burst = 2 + arrays["ramp_low"].size + 4, 2 + arrays["log_z"].size - 1 + 5
    return {"history": (n_history, N_SFH_BASES * n_band), "burst": (n_burst, n_band)}


def _centred(values: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Values of a range, to -1 … 1."""
    return (2 * values - (low + high)) / (high - low)
