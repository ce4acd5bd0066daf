"""Bases that star-formation and metallicity histories are combinations of, as functions of lookback time.

SFH(t) = Σ β_i s_i(t) and Z(t) = Σ γ_i z_i(t) (Hahn et al. 2022, arXiv:2202.01809, Sec. 3), with t the lookback
time from the galaxy's own epoch. The default bases are derived by `sedcast.data.derive_bases`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import consistent, load_artifact, save_artifact
from sedcast.data.checks import as_floats
from sedcast.data.errors import ArtifactError, ParameterError

__all__ = ["HISTORY_ARRAYS", "N_SFH_BASES", "N_ZH_BASES", "T_MAX_GYR", "SFHBases"]

HISTORY_ARRAYS = ("t_lookback_gyr", "sfh", "zh")
N_SFH_BASES = 4
N_ZH_BASES = 2
T_MAX_GYR = 13.8
_T_END_MIN_GYR = 13.5
_KIND = "sfh-bases"
_PUBLISHED_SFH = "NMF_2basis_SFH_components_nowgt_lin_Nc4.txt"
_PUBLISHED_ZH = "NMF_2basis_Z_components_nowgt_lin_Nc2.txt"
_PUBLISHED_TIME = "sfh_t_int.txt"
_PUBLISHED_ROWS = (2, 0, 1, 3)  # young to old: the order that the published emulator was trained with


@dataclass(frozen=True)
class SFHBases:
    """Non-negative bases of star-formation histories (SFH) and metallicity histories (ZH).

    Parameters
    ----------
    t_lookback_gyr : ndarray of shape (n_t,), lookback time in Gyr, increasing from 0 to about 13.8.
    sfh : ndarray of shape (4, n_t), star-formation rate per basis in any one unit (the SFH is normalised after summing).
    zh : ndarray of shape (2, n_t), metal mass fraction per unit of γ.
    name : short name.
    provenance : how the bases were made; JSON-serialisable.

    Raises
    ------
    ParameterError : if a shape is wrong, a value is negative or not finite, times do not increase from 0, or a basis is empty.
    """

    t_lookback_gyr: np.ndarray
    sfh: np.ndarray
    zh: np.ndarray
    name: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in HISTORY_ARRAYS:
            array = as_floats(key, getattr(self, key))
            if not np.all(np.isfinite(array)):
                raise ParameterError(
                    f"{key} must be finite, got {np.sum(~np.isfinite(array))} values that are not: remove them"
                )
            array.setflags(write=False)
            object.__setattr__(self, key, array)
        self._check_time()
        self._check_bases("sfh", N_SFH_BASES)
        self._check_bases("zh", N_ZH_BASES)

    def _check_time(self) -> None:
        time = self.t_lookback_gyr
        if time.ndim != 1 or time.size < 2:
            raise ParameterError(
                f"t_lookback_gyr must have shape (n_t,) with n_t >= 2, got {time.shape}: pass the tabulated times"
            )
        if time[0] != 0 or np.any(np.diff(time) <= 0):
            raise ParameterError(
                f"t_lookback_gyr must increase strictly from 0, got {time[0]:g} … {time[-1]:g}: "
                "reverse tables that run from old to young, and add a point at 0"
            )
        if not _T_END_MIN_GYR <= time[-1] <= 20:
            raise ParameterError(
                f"t_lookback_gyr must end near {T_MAX_GYR} Gyr, got {time[-1]:g}: give it in Gyr, over all of cosmic time"
            )

    def _check_bases(self, key: str, n_basis: int) -> None:
        array = getattr(self, key)
        expected = (n_basis, self.t_lookback_gyr.size)
        if array.shape != expected:
            raise ParameterError(f"{key} must have shape {expected} (bases, times), got {array.shape}: one row per basis")
        if array.min() < 0:
            raise ParameterError(f"{key} must be non-negative, got a minimum of {array.min():g}: clip or derive it with NMF")
        empty = np.flatnonzero(array.max(axis=1) == 0)
        if empty.size:
            raise ParameterError(
                f"{key} must have a positive value in each basis, got only zeros in row {empty[0]}: drop that basis"
            )

    def same_histories(self, other: "SFHBases") -> bool:
        """Whether times and bases are equal, of whatever name and provenance."""
        return all(np.array_equal(getattr(self, key), getattr(other, key)) for key in HISTORY_ARRAYS)

    @classmethod
    def load(cls, path: str | Path) -> "SFHBases":
        """Read bases that `save` wrote.

        Raises
        ------
        ArtifactError : if the file is missing, of another kind, altered, or lacks an array.
        """
        arrays, card = load_artifact(path, _KIND)
        missing = set(HISTORY_ARRAYS) - set(arrays)
        if missing:
            raise ArtifactError(f"{path} lacks the arrays {sorted(missing)}: it was not written by SFHBases.save")
        with consistent(path, "set of history bases"):
            return cls(
                arrays["t_lookback_gyr"],
                arrays["sfh"],
                arrays["zh"],
                name=str(card.get("name", "")),
                provenance=card.get("provenance", {}),
            )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the bases as an artifact (``.npz``), atomically.

        Raises
        ------
        ParameterError : if a file is there already, unless `overwrite` says that it may be replaced.
        """
        arrays = {key: getattr(self, key) for key in HISTORY_ARRAYS}
        save_artifact(path, _KIND, arrays, {"name": self.name, "provenance": dict(self.provenance)}, overwrite=overwrite)

    @classmethod
    def default(cls) -> "SFHBases":
        """The bundled bases, derived from simulated histories by `sedcast.data.derive_bases`."""
        with as_file(files("sedcast.data") / "bundled" / "nmf_bases.npz") as path:
            return cls.load(path)

    @classmethod
    def from_published(cls, folder: str | Path) -> "SFHBases":
        """Read the PROVABGS bases (Hahn et al. 2022, from Illustris) from their published text tables.

        The tables run from old to young and start at 0.067 Gyr; they are reversed, and continued linearly to 0 and to
        13.8 Gyr (not below zero), as the published code does.

        Parameters
        ----------
        folder : where the three text tables are.

        Raises
        ------
        ArtifactError : if a table is missing or unreadable.
        ParameterError : if the tables do not fit together.
        """
        folder = Path(folder)
        time = _read_table(folder / _PUBLISHED_TIME)[0, ::-1]
        sfh = _read_table(folder / _PUBLISHED_SFH)[:, ::-1]
        zh = _read_table(folder / _PUBLISHED_ZH)[:, ::-1]
        if sfh.shape != (N_SFH_BASES, time.size) or zh.shape != (N_ZH_BASES, time.size) or time.size < 2:
            raise ParameterError(
                f"published tables in {folder} must have shapes (n_t,), (4, n_t), (2, n_t), "
                f"got {time.shape}, {sfh.shape}, {zh.shape}: take all three from one release"
            )
        grid = np.concatenate([[0.0], time, [T_MAX_GYR]])
        sfh, zh = (_continue_linearly(time, table, grid) for table in (sfh[list(_PUBLISHED_ROWS)], zh))
        return cls(grid, sfh, zh, name="provabgs", provenance={"source": "PROVABGS, Hahn et al. 2022, arXiv:2202.01809"})


def _read_table(path: Path) -> np.ndarray:
    """Rows of a text table, shape (n_row, n_t)."""
    try:
        return np.loadtxt(path, ndmin=2).reshape(-1, 1).T if path.name == _PUBLISHED_TIME else np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cannot read {path}: {error}. Pass the folder that holds {_PUBLISHED_SFH}, {_PUBLISHED_ZH} and {_PUBLISHED_TIME}"
        ) from error


def _continue_linearly(time: np.ndarray, table: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Tables (n_row, n_t) on `time`, on a grid with one point more at each end, never negative."""
    first = table[:, 0] + (grid[0] - time[0]) * (table[:, 1] - table[:, 0]) / (time[1] - time[0])
    last = table[:, -1] + (grid[-1] - time[-1]) * (table[:, -1] - table[:, -2]) / (time[-1] - time[-2])
    return np.clip(np.column_stack([first, table, last]), 0.0, None)
