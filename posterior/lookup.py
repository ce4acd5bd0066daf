"""One galaxy read back from any file of posteriors, however long: the samples' HDF5, or summaries in FITS, Parquet or ECSV."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedcast.data.artifacts import consistent
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.tables import TableFile, open_table
from sedcast.posterior.posterior_catalog import PERCENTILES, REFINEMENT_NAMES, WEIGHT_NAMES, find_row, read_posteriors
from sedcast.posterior.quantities import percentile_column
from sedcast.posterior.summary_tables import held_texts

__all__ = ["Summary", "read_summary"]

_ABOUT = ("id", "zred", "status", "flags", "score")
_LABELS = tuple(percentile_column("", percentile) for percentile in PERCENTILES)


@dataclass(frozen=True)
class Summary:
    """A galaxy's row.

    Attributes
    ----------
    row : its number in the catalogue.
    about : ``id``, ``zred``, ``status``, ``flags``, ``good``, ``score``, ``efficiency``, ``log_evidence``, other figures of
        refinement if there are any.
    percentiles : by quantity, at `PERCENTILES`; NaN if ``status`` says why.
    """

    row: int
    about: dict[str, Any]
    percentiles: dict[str, tuple[float, ...]]


def read_summary(path: str | Path, galaxy_id: int | str | None = None, *, row: int | None = None) -> Summary:
    """The summary of one galaxy, by its id or its row number, in memory that does not depend on the file's length.

    Raises
    ------
    ArtifactError : if the file is not one that 'sedcast infer' wrote, or it holds samples and is damaged.
    CatalogError : if it is a table and is damaged.
    ParameterError : if not one of `galaxy_id` and `row` is given, or there is no such row, or more than one.
    """
    if (galaxy_id is None) == (row is None):
        raise ParameterError("expected either the id of a galaxy or a row number")
    if Path(path).suffix in (".h5", ".hdf5"):
        return _of_samples(path, galaxy_id, row)
    table = open_table(path)
    if missing := [name for name in _ABOUT if name not in table.names]:
        raise ArtifactError(f"{path} has no columns {missing}: expected summaries that 'sedcast infer' wrote")
    if row is None:
        # The id as the table holds it.
        wanted = held_texts(Path(path), np.array([str(galaxy_id).strip().encode()]))[0].decode()
        row = find_row(wanted, lambda start, stop: _text_or_numbers(table, "id", start, stop), table.n_rows)
    _check_row(row, table.n_rows)
    # Tables of before have `_p2.5`.
    cells = {name.replace(".", "_"): _text_or_numbers(table, name, row, row + 1)[0].item() for name in table.names}
    names = [name.removesuffix(_LABELS[0]) for name in cells if name.endswith(_LABELS[0])]
    percentiles = {name: tuple(float(cells.pop(f"{name}{label}")) for label in _LABELS) for name in names}
    return Summary(row, cells, percentiles)


def _of_samples(path: str | Path, galaxy_id: int | str | None, row: int | None) -> Summary:
    with read_posteriors(path) as posteriors:
        row = posteriors.row(str(galaxy_id)) if row is None else row
        _check_row(row, len(posteriors))
        names = [*_ABOUT, *WEIGHT_NAMES, *(f"refinement/{name}" for name in (*REFINEMENT_NAMES, "step"))]
        with consistent(path, "file of posteriors", otherwise="infer the catalogue again"):
            cells = {name.rpartition("/")[2]: posteriors.file[name][row] for name in names if name in posteriors.file}
            about = {name: cell.decode() if isinstance(cell, bytes) else cell.item() for name, cell in cells.items()}
            about["good"] = not (about["status"] or about["flags"])
            summary = posteriors.file["summary"]
            return Summary(row, about, {name: tuple(summary[name][row].tolist()) for name in posteriors.quantity_names})


def _text_or_numbers(table: TableFile, name: str, start: int, stop: int) -> np.ndarray:
    values = table.read(name, start, stop)
    if values.dtype == object:
        return values.astype(str)
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def _check_row(row: int, n_rows: int) -> None:
    if not 0 <= row < n_rows:
        raise ParameterError(f"row {row}: the file has rows 0 … {n_rows - 1}")
