"""Mock galaxies that a posterior is trained on, read and checked."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sedcast.data.config import parse_config
from sedcast.data.errors import ConfigError, ParameterError, SedcastError
from sedcast.data.hdf5 import open_hdf5, read_whole
from sedcast.emulator.mass_simulation import changed_artifacts
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.emulator.simulation import SimulationConfig

__all__ = ["TrainingSet", "read_training_set"]

_COLUMNS = ("theta_unbounded", "flux", "flux_ivar", "zred")
# Of probit coordinates: `Prior.from_unit` keeps 1e-12 from the edges of the unit cube.
_FARTHEST = 7.04


@dataclass(frozen=True)
class TrainingSet:
    """Mock galaxies to train on: theta_unbounded (n, 11), flux, flux_ivar (n, n_band), zred (n,), and their configuration.

    `softening` (n_band,), nanomaggies, is that of the noise model by which they were observed; () for the usual ones.

    Raises
    ------
    ParameterError : if rows are not finite, repeat each other, or a column is constant; all are counted.
    """

    theta_unbounded: np.ndarray
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: np.ndarray
    config: SimulationConfig
    softening: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n, n_band = len(self.zred), len(self.config.bands)
        shapes = {
            "theta_unbounded": (n, len(FREE_PARAMETER_NAMES)),
            "flux": (n, n_band),
            "flux_ivar": (n, n_band),
            "zred": (n,),
        }
        if not n:
            raise ParameterError("the training set is empty: simulate galaxies")
        problems = []
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise ParameterError(f"training set: {name} has shape {values.shape}, expected {shape}")
            rows = values.reshape(n, -1)
            bad = int(np.count_nonzero(~np.isfinite(rows).all(axis=1)))
            if bad:
                problems.append(f"{name} is not finite in {bad} of {n} rows")
            else:
                constant = int(np.count_nonzero(rows.min(axis=0) == rows.max(axis=0)))
                if constant:
                    problems.append(f"{name} is constant in {constant} of {rows.shape[1]} columns")
        low, high = np.array([self.config.zred.min, self.config.zred.max])
        if outside := int(np.count_nonzero((self.zred < low * (1 - 1e-6)) | (self.zred > high * (1 + 1e-6)))):
            problems.append(f"zred is beyond {low:g} … {high:g}, the range of the configuration, in {outside} of {n} rows")
        if far := int(np.count_nonzero((np.abs(self.theta_unbounded) > _FARTHEST).any(axis=1))):
            problems.append(f"theta_unbounded is no probit coordinate, beyond ±{_FARTHEST:g}, in {far} of {n} rows")
        unmeasured = int(np.count_nonzero((self.flux_ivar <= 0).any(axis=1)))
        if unmeasured:
            problems.append(f"flux_ivar is not positive in {unmeasured} of {n} rows")
        repeated = n - len(np.unique(np.ascontiguousarray(self.theta_unbounded), axis=0))
        if repeated:
            problems.append(f"{repeated} of {n} rows repeat the parameters of another")
        if problems:
            raise ParameterError("the training set cannot be used: " + "; ".join(problems) + ". Simulate it again")

    def __len__(self) -> int:
        return len(self.zred)


def read_training_set(path: str | Path) -> TrainingSet:
    """Read a file that `sedcast.emulator.mass_simulation.simulate` wrote.

    Raises
    ------
    ConfigError : if it cannot be read, or is not such a file.
    ParameterError : as `TrainingSet`.
    """
    try:
        with open_hdf5(path) as file:
            theta_unbounded, flux, flux_ivar, zred = (read_whole(file[name]) for name in _COLUMNS)
            names = [str(name) for name in file.attrs["free_parameter_names"]]
            config = parse_config(json.loads(file.attrs["config"]), SimulationConfig, f"{path}, attribute 'config'")
            made_with = json.loads(file.attrs.get("artifacts", "{}"))
            # Files of before softenings were learnt have none.
            softening = tuple(float(b) for b in file.attrs.get("softening", ()))
    except SedcastError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"{path} is not a file of simulations ({error}): make one with 'sedcast simulate'") from error
    if made_with and (changed := changed_artifacts(config, made_with)):
        raise ConfigError(f"{path} was simulated with another {changed[0]} than is there now: put that back, or simulate again")
    if names != list(FREE_PARAMETER_NAMES):
        raise ConfigError(f"{path} has parameters {names}, this sedcast {list(FREE_PARAMETER_NAMES)}: simulate again")
    return TrainingSet(theta_unbounded, flux, flux_ivar, zred, config, softening)
