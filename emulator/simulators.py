"""Simulators for the general trainer: anything that makes rest-frame spectra from named parameters.

A configuration names a simulator as ``package.module:factory``, or as one of `BUILT_IN`. The factory is called with the
configuration's options and gives a `Simulator`.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sedcast.data.errors import ConfigError, ParameterError
from sedcast.data.invocation import describe_file
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.fsps_model import FSPSModel
from sedcast.emulator.histories import BETA, GAMMA, column
from sedcast.emulator.log_spectrum import LARGEST_LOG
from sedcast.emulator.prior import PARAMETER_NAMES, sfh_weights
from sedcast.emulator.published_provabgs import PROVABGS_PARAMETERS
from sedcast.emulator.segments import array_digest
from sedcast.emulator.sps import SPSModel, library_digest

__all__ = ["BUILT_IN", "CompositeSimulator", "Simulator", "checked_spectra", "code_digest", "load_simulator"]


class Simulator(Protocol):
    """What the trainer asks of a simulator; spectra must be positive and finite, for their logarithm is learnt.

    An attribute `provenance`, JSON-serialisable, is put on the emulator's card where a simulator has one.
    """

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Name of each column of theta."""

    @property
    def wave_rest(self) -> np.ndarray:
        """Wavelengths, Å, (n_wave,), increasing."""

    def spectra(self, theta: np.ndarray) -> np.ndarray:
        """Spectra (n, n_wave), in any unit in which they peak between 1e-34 and 1e34, for theta (n, n_parameter) in float64."""


class CompositeSimulator:
    """The smooth histories of the SPS model per solar mass formed, from the nine inputs of the published PROVABGS emulator.

    Stick-breaking coordinates of the SFH weights, two metallicity weights, three dust parameters and the galaxy's age in
    Gyr (Hahn et al. 2022, arXiv:2202.01809; Kwon et al. 2022, arXiv:2209.14323); there is no burst.

    Parameters
    ----------
    model : the direct model that computes them, from SSP tables or by calls of FSPS.
    """

    parameter_names = PROVABGS_PARAMETERS

    def __init__(self, model: SPSModel | FSPSModel) -> None:
        self.model = model

    @property
    def wave_rest(self) -> np.ndarray:
        """Rest-frame wavelengths, Å, (n_wave,)."""
        return self.model.wave_rest

    @property
    def provenance(self) -> dict[str, Any]:
        """What the spectra are made from, for the card of an emulator."""
        model, bases = self.model, self.model.bases
        made = {"bases": bases.name, "bases_digest": array_digest(bases.sfh, bases.zh, bases.t_lookback_gyr)}
        if isinstance(model, SPSModel):
            return {"library": model.library.name, "library_digest": library_digest(model.library)} | made
        libraries = [part.decode() if isinstance(part, bytes) else str(part) for part in model.population.libraries]
        return {"fsps_libraries": libraries} | made

    def spectra(self, theta: np.ndarray) -> np.ndarray:
        """Luminosity densities, Lsun/Å per Msun formed, (n, n_wave); errors as `SPSModel.spectra`."""
        full = np.zeros((len(theta), len(PARAMETER_NAMES)))
        full[:, BETA] = sfh_weights(theta[:, :3])
        full[:, GAMMA] = theta[:, 3:5]
        full[:, column("dust1") : column("dust_index") + 1] = theta[:, 5:8]
        return self.model.spectra_at_age(full, theta[:, 8])


def _composite_fsps(*, bases: str = "default", t_birth_cloud_gyr: float = 0.1) -> CompositeSimulator:
    return CompositeSimulator(FSPSModel(bases=_bases(bases), t_birth_cloud_gyr=t_birth_cloud_gyr))


def _composite_ssp(*, library: str = "popstar", bases: str = "default", t_birth_cloud_gyr: float = 0.1) -> CompositeSimulator:
    table = SSPLibrary.popstar() if library == "popstar" else SSPLibrary.load(library)
    return CompositeSimulator(SPSModel(table, _bases(bases), t_birth_cloud_gyr=t_birth_cloud_gyr))


def _bases(name: str) -> SFHBases:
    return SFHBases.default() if name == "default" else SFHBases.load(name)


BUILT_IN: Mapping[str, Callable[..., Simulator]] = {"composite-fsps": _composite_fsps, "composite-ssp": _composite_ssp}
"""Simulators by name: `CompositeSimulator` by direct calls of FSPS, and from a library of SSPs."""


# By module: its specification, and the digest of its file when this process first asked for it.
_FIRST_LOOKS: dict[str, tuple[ModuleSpec | None, str]] = {}


def load_simulator(name: str, options: Mapping[str, Any]) -> Simulator:
    """Make the simulator that a configuration names.

    Parameters
    ----------
    name : one of `BUILT_IN`, or ``package.module:factory``, importable; from the working folder too, where a command is run.
    options : keyword arguments of the factory.

    Raises
    ------
    ConfigError : if there is no such simulator, it does not take these options, or what it gives is no `Simulator`.
    """
    factory = BUILT_IN.get(name) or _imported(name)
    try:
        simulator = factory(**options)
    except TypeError as error:
        raise ConfigError(f"simulator {name!r} cannot be made with options {dict(options)}: {error}") from error
    lacking = [part for part in ("parameter_names", "wave_rest", "spectra") if not hasattr(simulator, part)]
    if lacking:
        raise ConfigError(f"simulator {name!r} lacks {lacking}: its factory must give what sedcast's Simulator describes")
    wave = np.asarray(simulator.wave_rest)
    if wave.ndim != 1 or wave.size < 2 or not np.isfinite(wave).all() or wave[0] <= 0 or (np.diff(wave) <= 0).any():
        raise ConfigError(f"simulator {name!r}: wave_rest must be 1-D, positive and increase, got shape {wave.shape}: give Å")
    return simulator


def code_digest(name: str) -> str | None:
    """SHA-256 of the file of a user's own simulator, by which a change is noticed; None of `BUILT_IN` and of compiled ones.

    Raises
    ------
    ConfigError : if the file is another than at the first look of this process, which still runs the former code.
    """
    if name in BUILT_IN:
        return None
    module = import_module(name.partition(":")[0])
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        return None
    digest = str(describe_file(Path(file))["sha256"])
    # A module that is loaded again has another specification.
    spec, first = _FIRST_LOOKS.get(module.__name__, (None, digest))
    if spec is module.__spec__ and first != digest:
        raise ConfigError(
            f"{file} was changed after this process had imported it, which still runs the former code: start the process anew, "
            "be it a notebook's or a worker of a cluster"
        )
    _FIRST_LOOKS[module.__name__] = module.__spec__, digest
    return digest


def _imported(name: str) -> Callable[..., Simulator]:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"unknown simulator {name!r}: give one of {sorted(BUILT_IN)}, or 'package.module:factory'")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"simulator {name!r} cannot be imported: {error}; put its folder on PYTHONPATH") from error
    if not callable(factory):
        raise ConfigError(f"simulator {name!r} is a {type(factory).__name__}: it must be a callable that gives a simulator")
    return factory  # type: ignore[no-any-return]


def checked_spectra(simulator: Simulator, theta: np.ndarray, used: slice) -> np.ndarray:
    """Spectra of a simulator as float64 (n, n_used) on the part `used` of its wavelengths, checked there.

    Raises
    ------
    ParameterError : if their shape is wrong, or a value is not finite or not positive; says for which parameters. If single
        precision cannot hold them.
    """
    spectra = np.asarray(simulator.spectra(theta), dtype=np.float64)
    expected = (len(theta), len(simulator.wave_rest))
    if spectra.shape != expected:
        raise ParameterError(f"the simulator gave spectra of shape {spectra.shape}, expected {expected}: (n, n_wave)")
    spectra = spectra[:, used]
    good = np.isfinite(spectra) & (spectra > 0)
    if not good.all():
        row, index = np.argwhere(~good)[0]
        where = dict(zip(simulator.parameter_names, theta[row].tolist(), strict=True))
        raise ParameterError(
            f"the simulator gave {spectra[row, index]:g} at {simulator.wave_rest[used][index]:g} Å for {where}, and "
            f"{int((~good).sum())} such values in {len(theta)} spectra: expected positive and finite ones, for their logarithm "
            "is learnt; mend the simulator, narrow its priors, or choose segment_edges where it has light"
        )
    peak = spectra.max(axis=1)
    if (np.abs(np.log(peak)) >= LARGEST_LOG).any():
        raise ParameterError(
            f"the simulator gave spectra that peak at {peak.min():g} to {peak.max():g}: expected 1e-34 to 1e34, for emulators "
            "work in single precision; give them in another unit, such as solar luminosities per Å"
        )
    return spectra
