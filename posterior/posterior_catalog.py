"""Files of posteriors, one row a galaxy: the quantities in them, and their reader."""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from astropy.table import Table

from sedcast.data.artifacts import consistent, output_path
from sedcast.data.checks import as_names, as_path
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.hdf5 import check_size, check_type, open_hdf5, read_whole
from sedcast.emulator.histories import DERIVED_NAMES, SURVIVING_NAME
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.posterior.inference_data import inference_data

__all__ = [
    "FORMAT",
    "PERCENTILES",
    "QUANTITY_NAMES",
    "REFINEMENT_NAMES",
    "WEIGHT_NAMES",
    "PosteriorCatalog",
    "all_quantity_names",
    "find_row",
    "held_quantities",
    "read_posteriors",
]

QUANTITY_NAMES = (*PARAMETER_NAMES, *DERIVED_NAMES)
"""Names of the datasets under ``samples`` and ``summary``; `SURVIVING_NAME` follows where the estimator knows the mass that
survives, then ``zred`` where the redshift is inferred."""

PERCENTILES = (2.5, 16.0, 50.0, 84.0, 97.5)
"""Columns of the summaries."""

REFINEMENT_NAMES = ("ess", "efficiency", "khat", "log_evidence", "log_evidence_error")
"""Datasets under ``refinement``, figures of `Refined`."""

WEIGHT_NAMES = ("efficiency", "log_evidence")
"""Datasets of files that are not refined, figures of `PosteriorDraws`."""

FORMAT = "sedcast-posteriors-1"
"""What such a file says that it is."""

_IDS_AT_A_TIME = 1 << 18
# Of a galaxy, in inference data.
_TOLD = ("id", "flags", "score", *WEIGHT_NAMES)
# Files of before do not have these.
_ADDED = ("log_ssfr_100myr", "t50_gyr", "a_v")


def all_quantity_names(*, surviving: bool, zred: bool) -> tuple[str, ...]:
    """`QUANTITY_NAMES`, then `SURVIVING_NAME` and ``zred`` where they are among the quantities."""
    return (*QUANTITY_NAMES, *([SURVIVING_NAME] if surviving else []), *(["zred"] if zred else []))


def held_quantities(file: h5py.File) -> tuple[str, ...]:
    """Names of the quantities that a file of posteriors should hold, whichever version wrote it."""
    held = file["summary"]
    names = all_quantity_names(surviving=SURVIVING_NAME in held, zred="zred" in held)
    return tuple(name for name in names if name not in _ADDED or name in held)


@dataclass(frozen=True)
class PosteriorCatalog:
    """An open file of posteriors, read on demand; make one with `read_posteriors`, use it as a context manager.

    Attributes
    ----------
    bands : band names of `flux` and `flux_ivar`.
    provenance : what made the file.
    """

    file: h5py.File
    bands: tuple[str, ...]
    provenance: dict[str, Any]

    def __enter__(self) -> "PosteriorCatalog":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return len(_open(self.file)["id"])

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """(n,) int64 or str."""
        return _values(self.file, "id")

    @functools.cached_property
    def zred(self) -> np.ndarray:
        """(n,) redshifts of the catalogue; NaN where unknown."""
        return _values(self.file, "zred")

    @functools.cached_property
    def status(self) -> np.ndarray:
        """(n,) str, why there is no posterior, or ""."""
        return _values(self.file, "status")

    @functools.cached_property
    def flags(self) -> np.ndarray:
        """(n,) str, why the posterior is not to be trusted, or ""."""
        return _values(self.file, "flags")

    @property
    def good(self) -> np.ndarray:
        """(n,) bool, rows with a posterior and without flags."""
        return (self.status == "") & (self.flags == "")

    @functools.cached_property
    def score(self) -> np.ndarray:
        """(n,) share of galaxies like the training simulations that are at least as unusual; NaN if unknown."""
        return _values(self.file, "score") if "score" in self.file else np.full(len(self), np.nan)

    @functools.cached_property
    def efficiency(self) -> np.ndarray:
        """(n,) effective share of the draws that the samples are from, 1 at best, see `PosteriorDraws`; NaN if unknown."""
        return self._weight("efficiency")

    @functools.cached_property
    def log_evidence(self) -> np.ndarray:
        """(n,) log probability density of the photometry under model and prior, nats, nanomaggies; NaN if unknown."""
        return self._weight("log_evidence")

    def _weight(self, name: str) -> np.ndarray:
        for place in (name, f"refinement/{name}"):
            if place in self.file:
                return _values(self.file, place)
        return np.full(len(self), np.nan)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _consistent(self) -> contextlib.AbstractContextManager[None]:
        return consistent(_open(self.file).filename, "file of posteriors", otherwise="infer the catalogue again")

    @property
    def quantity_names(self) -> tuple[str, ...]:
        """`QUANTITY_NAMES`, then the mass that survives if it is known, and ``zred`` if the redshift is inferred.

        Files of earlier versions have no ``log_ssfr_100myr``, ``t50_gyr`` and ``a_v``.
        """
        with self._consistent():
            return held_quantities(self.file)

    @property
    def flux(self) -> np.ndarray:
        """(n, n_band) nanomaggies."""
        with self._consistent():
            return read_whole(self.file["flux"])

    @property
    def flux_ivar(self) -> np.ndarray:
        """(n, n_band) nanomaggies^-2."""
        with self._consistent():
            return read_whole(self.file["flux_ivar"])

    @property
    def refinement(self) -> dict[str, np.ndarray]:
        """(n,) each of `REFINEMENT_NAMES`, NaN where there is no posterior, and ``step``; empty if the file is not refined."""
        with self._consistent():
            if "refinement" not in self.file:
                return {}
            group = self.file["refinement"]
            return {name: read_whole(group[name]) for name in REFINEMENT_NAMES} | {
                "step": np.char.decode(read_whole(group["step"]), "utf-8")
            }

    def row(self, galaxy_id: int | str) -> int:
        """Row number of a galaxy.

        Raises
        ------
        ParameterError : if no row, or more than one, has that id.
        """
        return find_row(galaxy_id, lambda start, stop: _values(self.file, "id", start, stop), len(self))

    def samples(self, row: int | slice, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """Samples by quantity, (n_samples,) for a row number or (n, n_samples) for a slice; NaN where `status` says why.

        All of `quantity_names` by default.

        Raises
        ------
        ParameterError : for an unknown quantity, a row beyond the file, or a slice that runs backwards.
        """
        names = self.quantity_names if names is None else as_names("names", names)
        unknown = [name for name in names if name not in self.quantity_names]
        if unknown:
            expected = f"expected some of {', '.join(self.quantity_names)}"
            if set(unknown) <= set(_ADDED):
                expected = f"an earlier version wrote the file: infer again, or {expected}"
            raise ParameterError(f"unknown quantities {unknown}: {expected}")
        if isinstance(row, bool) or not isinstance(row, slice | int | np.integer):
            raise ParameterError(f"row must be a row number or a slice, got {row!r}: `row(galaxy_id)` finds that of an id")
        if not isinstance(row, slice) and not 0 <= row < len(self):
            raise ParameterError(f"row {row}: the file has rows 0 … {len(self) - 1}")
        if isinstance(row, slice) and row.step is not None and row.step < 1:
            raise ParameterError(f"{row}: rows are read in their order, expected a step of 1 or more; reverse what is returned")
        with self._consistent():
            kept = "samples" in self.file
        if not kept:
            raise ParameterError("the file has no samples: infer the catalogue again and keep them")
        with self._consistent():
            for name in names:
                check_type(self.file["samples"][name])
            return {name: np.asarray(self.file["samples"][name][row]) for name in names}

    def theta(self, row: int) -> np.ndarray:
        """Parameter samples of one row, (n_samples, 12)."""
        return np.stack(list(self.samples(row, PARAMETER_NAMES).values()), axis=-1)

    def summary(self) -> Table:
        """One row per galaxy: id, zred, status, flags, good, score, and the percentiles of each quantity, ``<name>_p2_5`` …;
        then efficiency and log_evidence, in a refined file among the other figures of `refinement`.
        """
        # Imported here, for it needs this module's names.
        from sedcast.posterior.summary_tables import described, summary_columns

        with self._consistent():
            return described(summary_columns(self.file))

    def write_summary(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the columns of `summary`, with units, descriptions and this file's provenance, as ``sedcast infer`` does.

        What a kind of file cannot hold of a text is escaped, with a warning: of é in FITS, of line breaks in ECSV.

        Parameters
        ----------
        path : ends in ``.fits``, ``.parquet`` or ``.ecsv``.
        overwrite : whether a file that is there may be replaced.

        Raises
        ------
        ArtifactError : if this file is damaged.
        MissingDependencyError : for Parquet without pyarrow.
        ParameterError : if the ending is another, or a file is there that may not be replaced.
        """
        from sedcast.posterior.summary_tables import check_table, summary_columns, text_types, write_table

        path = output_path(path, overwrite=overwrite)
        check_table(path)
        with self._consistent():
            columns, types = summary_columns(self.file), text_types(path, [self.file])
        write_table(path, iter([columns]), len(self), self.provenance, types=types)

    def to_arviz(self, galaxy_id: int | str) -> Any:
        """The samples of one galaxy as ArviZ inference data, one chain; a draw and its copies are beside each other.

        Its photometry is the group ``observed_data`` (``flux``, ``flux_error`` along ``band``), with the attribute ``zred``.
        Quantities have their unit and description as attributes, the posterior the row's ``id``, ``flags``, ``score``,
        ``efficiency`` and ``log_evidence``, as far as they are known.

        Raises
        ------
        MissingDependencyError : if arviz is not installed.
        ParameterError : if the galaxy is not there, or has no posterior.
        """
        row = self.row(galaxy_id)
        if reason := _values(self.file, "status", row, row + 1)[0]:
            raise ParameterError(f"galaxy {galaxy_id!r} has no posterior: {reason}")
        flux, flux_ivar, zred = (_values(self.file, name, row, row + 1)[0] for name in ("flux", "flux_ivar", "zred"))
        places = {name: place for name in _TOLD for place in (f"refinement/{name}", name) if place in self.file}
        told = {name: _values(self.file, place, row, row + 1)[0].item() for name, place in places.items()}
        return inference_data(self.samples(row), self.bands, flux, flux_ivar, zred, attributes=told)


def find_row(galaxy_id: int | str, ids: Callable[[int, int], np.ndarray], n_rows: int) -> int:
    """The row of an id among many, of which ``ids(start, stop)`` gives a run, numbers or text, so that memory is bounded.

    Blanks around ids do not count.

    Raises
    ------
    ParameterError : if no row, or more than one, has that id.
    """
    found: list[int] = []
    wanted = str(galaxy_id).strip()
    for start, run in _runs_of(ids, n_rows):
        found += (start + np.flatnonzero(run == wanted)).tolist()
    if not found:
        alike = (one for _, run in _runs_of(ids, n_rows) for one in run.tolist() if _core(one) == _core(wanted))
        near = next(alike, None)
        hint = "" if near is None else f"; there is one of {near!r}"
        raise ParameterError(f"no row has the id {galaxy_id!r}{hint}: use row numbers, or check the id")
    if len(found) > 1:
        raise ParameterError(f"id {galaxy_id!r} is that of {len(found)} rows, expected 1: use row numbers")
    return found[0]


def _runs_of(ids: Callable[[int, int], np.ndarray], n_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, n_rows, _IDS_AT_A_TIME):
        yield start, np.char.strip(ids(start, min(start + _IDS_AT_A_TIME, n_rows)).astype(str))


def _core(text: str) -> str:
    """What is left of an id without capitals, separators and leading zeros, in which it may be written otherwise elsewhere."""
    return re.sub(r"[\W_]+", "", text).lower().lstrip("0")


def _open(file: h5py.File) -> h5py.File:
    """The file; a ParameterError if it is closed."""
    if not file:
        raise ParameterError("the file of posteriors is closed: read it within its with block, or open it again")
    return file


def _values(file: h5py.File, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows of a dataset, bytes as text."""
    with consistent(_open(file).filename, "file of posteriors", otherwise="infer the catalogue again"):
        check_size(file[name])
        values = np.asarray(file[name][start:stop])
        return values if values.dtype.kind in "iuf" else np.char.decode(values, "utf-8")


def read_posteriors(path: str | Path) -> PosteriorCatalog:
    """Open a file that `infer_catalog` wrote.

    Raises
    ------
    ArtifactError : if it is missing, or not such a file.
    ParameterError : if it is no path.
    """
    path = as_path("path", path)
    if not path.is_file():
        raise ArtifactError(f"no file of posteriors at {path}: check the path, or make one with 'sedcast infer'")
    try:
        file = open_hdf5(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a readable HDF5 file ({error}): expected samples, of 'sedcast infer -o name.h5' or --samples"
        ) from error
    try:
        with consistent(path, "file of posteriors", otherwise="infer the catalogue again"):
            if file.attrs.get("format") != FORMAT:
                raise ArtifactError(f"{path} is HDF5, but not a {FORMAT} file: pass one that 'sedcast infer' wrote")
            lengths = {name: len(file[name]) for name in ("id", "zred", "status", "flags")}
            if len(set(lengths.values())) != 1:
                raise ArtifactError(f"{path} has columns of different lengths {lengths}: infer the catalogue again")
            return PosteriorCatalog(
                file=file,
                bands=tuple(str(band) for band in file.attrs["bands"]),
                provenance=json.loads(file.attrs["provenance"]),
            )
    except ArtifactError:
        file.close()
        raise
