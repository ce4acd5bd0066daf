"""Mass that survives in stars and remnants, for SSP libraries that know it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sedcast.data.errors import ParameterError
from sedcast.data.ssp import SSPLibrary, log_age_yr

__all__ = ["SurvivingMass"]

_ARRAYS = ("log_age", "log_z", "fraction")


@dataclass(frozen=True)
class SurvivingMass:
    """Fraction of the mass formed that is left in stars and remnants, by age and metallicity.

    Interpolated linearly in log age and log Z, the nearest age or metallicity beyond the grid, as `SPSModel` does with
    spectra.

    Attributes
    ----------
    log_age : (n_age,), log10 yr, increasing.
    log_z : (n_z,), log10 of the metal mass fraction, increasing.
    fraction : (n_z, n_age), positive.

    Raises
    ------
    ParameterError : if the shapes do not fit together, a grid does not increase, or a fraction is not positive and finite.
    """

    log_age: np.ndarray
    log_z: np.ndarray
    fraction: np.ndarray

    def __post_init__(self) -> None:
        if self.fraction.shape != (self.log_z.size, self.log_age.size):
            raise ParameterError(
                f"fraction must have shape {(self.log_z.size, self.log_age.size)} (metallicity, age), got {self.fraction.shape}"
            )
        if not (np.isfinite(self.fraction).all() and (self.fraction > 0).all()):
            raise ParameterError("fraction must be positive and finite: it is the mass left per mass formed")
        for name in ("log_age", "log_z"):
            if not (np.diff(getattr(self, name)) > 0).all():
                raise ParameterError(f"{name} must be finite and increase strictly: sort the table")

    @classmethod
    def of(cls, library: SSPLibrary) -> "SurvivingMass":
        """The table of a library.

        Raises
        ------
        ParameterError : if the library does not know it.
        """
        if library.remnant_mass is None:
            raise ParameterError(
                f"library {library.name!r} does not give the mass that survives (remnant_mass is None): "
                "only the mass formed is known; libraries made by SSPLibrary.from_fsps give both"
            )
        return cls(library.log_age, library.log_z, library.remnant_mass)

    @classmethod
    def known(cls, library: SSPLibrary) -> "SurvivingMass | None":
        """The table of a library, or None where the library does not know it."""
        return None if library.remnant_mass is None else cls.of(library)

    def __call__(self, age_gyr: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Fractions at ages, Gyr, zero or more, and positive metal mass fractions, of shapes that broadcast together."""
        age, z = np.broadcast_arrays(age_gyr, z)
        i, up = _cell(self.log_age, log_age_yr(age))
        j, above = _cell(self.log_z, np.log10(z))
        table = self.fraction
        low = (1 - up) * table[j, i] + up * table[j, i + 1]
        high = (1 - up) * table[j + 1, i] + up * table[j + 1, i + 1]
        return np.asarray((1 - above) * low + above * high)

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays under names that start with `prefix`, for an artifact."""
        return {f"{prefix}{name}": getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> "SurvivingMass | None":
        """What `to_arrays` wrote, or None where there is nothing."""
        if f"{prefix}fraction" not in arrays:
            return None
        return cls(*(arrays[f"{prefix}{name}"] for name in _ARRAYS))


def _cell(grid: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower node of each value's cell on a grid, and the value's place in it, 0 … 1."""
    position = np.interp(value, grid, np.arange(grid.size, dtype=np.float64))
    node = np.minimum(position.astype(int), grid.size - 2)
    return node, position - node
