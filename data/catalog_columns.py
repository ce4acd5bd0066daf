"""Columns of a catalogue's table: found by their names, read as numbers in their units, refused where they cannot be fluxes."""

import contextlib
import difflib
import itertools
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import MaskedColumn, Table
from astropy.units import MagUnit, UnitsWarning

from sedcast.data.checks import floats_of
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.filters import load_filter
from sedcast.data.sdss import SDSS_BANDS, is_sdss_layout, needed_sdss_columns
from sedcast.data.tables import ColumnsInHdf5, RowsInHdf5, TableFile, no_catalog, open_table, reading, unknown_kind
from sedcast.data.units import as_nanomaggies, contradicts, known_unit, unknown_unit

__all__ = [
    "ID_NAMES",
    "REDSHIFT_MAX",
    "REDSHIFT_NAMES",
    "all_with_units",
    "any_with_unit",
    "as_numbers",
    "as_texts",
    "band_columns",
    "check_ids",
    "check_not_magnitudes",
    "check_redshifts",
    "find_column",
    "has_band",
    "is_missing_code",
    "is_not_detected",
    "is_one_of",
    "no_column",
    "numbers",
    "read_table",
    "sdss_columns",
    "warn_of_ids",
    "warn_of_unused",
]

logger = logging.getLogger(__name__)

_MISSING_CODES = (-99.0, -999.0, -9999.0)
_MISSING_MAGNITUDES = (99.0, 99.9, 99.99, 999.0)
_NO_MAGNITUDE = 90.0
_ENOUGH_MAGNITUDES = 0.9
# What catalogues write where there is no number.
_NO_NUMBER = ("", "-", "--", "null", "none", "nan", "na", "n/a", "<na>", "\\n")
# What ids are called elsewhere.
_LIKE_ID = frozenset(
    ("objid", "objectid", "object_id", "obj_id", "specobjid", "source_id", "sourceid", "targetid", "galaxy_id")
)
_LIKE_EXTINCTION = ("mw_transmission", "ebv", "e_bv", "ebmv", "extinction")
ID_NAMES = ("id", "ID", "Id")
REDSHIFT_NAMES = ("zred", "z")
REDSHIFT_MAX = 20.0
"""Beyond it a number is no redshift."""
_FORMATS = {
    ".fits": "fits",
    ".fit": "fits",
    ".ecsv": "ascii.ecsv",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".csv": None,
    ".parquet": None,
    ".pq": None,
}
"""Astropy's readers by suffix, which .gz may follow; None for those that have one here."""


def read_table(path: Path, columns: Mapping[str, str]) -> Table:
    """A file's table, by its suffix; a CatalogError if there is none, it cannot be read, or it has no rows.

    Of several tables in a FITS file, the only one that has fluxes, under their own names or those that `columns` gives.
    """
    if not path.is_file():
        raise no_catalog(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _FORMATS:
        raise unknown_kind(path, suffix, _FORMATS)
    kind = _FORMATS[suffix]
    # Astropy believes a header's sizes, and reads a damaged archive for ever: they are checked, and unpacked, before.
    checked = open_table(path) if path.suffix.lower() == ".gz" or kind != "ascii.ecsv" else None
    if checked is not None and len(checked.tables) > 1:
        checked = open_table(path, _only_with_fluxes(checked, columns))
    source = path if checked is None else checked.source
    if checked is not None and (kind is None or isinstance(checked, ColumnsInHdf5)):
        table = _whole(checked, columns, suffix)
        for name in checked.units.keys() & set(table.colnames):
            table[name].unit = checked.units[name]
    else:
        within: dict[str, Any] = {"path": checked.place} if isinstance(checked, RowsInHdf5) else {}
        if checked is not None and checked.hdu is not None:
            within = {"hdu": checked.hdu}
        with reading(path), source.open("rb") as handle, warnings.catch_warnings():
            # Astropy warns of units such as "nanomaggy", which are known here.
            warnings.simplefilter("ignore", UnitsWarning)
            table = Table.read(handle if kind == "fits" else source, format=kind, **within)
        # Astropy writes masked columns to HDF5 as two.
        masks = {name for name in table.colnames if getattr(table[name], "dtype", np.dtype(float)).kind == "b"}
        for name in [name for name in table.colnames if f"{name}.mask" in masks]:
            table[name] = MaskedColumn(table[name], mask=table[f"{name}.mask"])
    if len(table) == 0:
        raise CatalogError(f"{path} has no rows: a catalogue needs at least one galaxy")
    return table


def _whole(file: TableFile, columns: Mapping[str, str], suffix: str) -> Table:
    """All columns of a file; of CSV, those that `read_catalog` has no use for are there without their cells."""
    names = set(file.names)
    if suffix == ".csv" and not is_sdss_layout(file.names):
        names = {name for name in names if name in (*columns.values(), *ID_NAMES, *REDSHIFT_NAMES) or name.startswith("flux_")}
    file.hold(names, {columns.get(name, name) for name in ID_NAMES}, 0, file.n_rows)
    nothing = np.broadcast_to(np.array(False), file.n_rows)
    return Table({name: file.read(name, 0, file.n_rows) if name in names else nothing for name in file.names}, copy=False)


def _only_with_fluxes(table: TableFile, columns: Mapping[str, str]) -> str | int:
    """Which of a FITS file's tables has columns of fluxes."""
    own = {name for key, name in columns.items() if key.startswith("flux_")}
    having = [
        key
        for key, names in table.tables.items()
        if is_sdss_layout(names) or own.intersection(names) or any(name.startswith("flux_") for name in names)
    ]
    if len(having) != 1:
        raise CatalogError(
            f"{table.path} has the tables {', '.join(map(repr, table.tables))}, and {', '.join(map(repr, having)) or 'none'} "
            "of them has columns of fluxes, such as flux_r, expected one: say in a mapping file which to read (sedcast init "
            f"mapping), by hdu = {(having or list(table.tables))[0]!r}"
        )
    return having[0]


def as_texts(name: str, values: np.ndarray) -> np.ndarray:
    """The values of a column as they are, but bytes and objects as texts.

    Raises
    ------
    CatalogError : if bytes are not UTF-8.
    """
    try:
        if values.dtype == object:
            known = ["" if value is None else value for value in values]
            return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in known])
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
    except UnicodeDecodeError as error:
        raise CatalogError(f"column {name!r} holds a text that is not in UTF-8: {error}") from error


def is_missing_code(values: np.ndarray, *, magnitudes: bool = False) -> np.ndarray:
    """Where fluxes are -99, -999 or -9999, or magnitudes beyond ±90: there is no measurement."""
    return np.abs(values) > _NO_MAGNITUDE if magnitudes else is_one_of(values, _MISSING_CODES)


def is_not_detected(magnitudes: np.ndarray) -> np.ndarray:
    """Where magnitudes are 99 or its like, which SExtractor, among others, writes for sources without a positive flux."""
    return is_one_of(magnitudes, _MISSING_MAGNITUDES)


def is_one_of(values: np.ndarray, codes: Sequence[float]) -> np.ndarray:
    """Where values are one of the codes, as they are or rounded to single precision."""
    with np.errstate(over="ignore"):
        return np.isin(values, [*codes, *np.array(codes, dtype=np.float32).astype(float)])


def as_numbers(name: str, values: np.ndarray, first_row: int = 0) -> np.ndarray:
    """The values of a column as float64: of numbers, or of texts that are numbers; NaN where there is none.

    Raises
    ------
    CatalogError : if one is no number; `name` and `first_row` say where.
    """
    if values.dtype.kind in "iuf":
        return floats_of(values)
    if values.dtype.kind not in "USO":
        raise CatalogError(f"column {name!r} holds {values.dtype}, expected numbers")
    texts = as_texts(name, np.asarray(values)).astype(str)
    texts = np.where(np.ma.getmaskarray(values), "nan", texts)
    if (found := _as_floats(texts)) is not None:
        return found
    texts = np.where(np.isin(np.char.lower(np.char.strip(texts)), _NO_NUMBER), "nan", texts)
    if (found := _as_floats(texts)) is not None:
        return found
    place = next(place for place, text in np.ndenumerate(texts) if _as_floats(np.array([text])) is None)
    raise CatalogError(f"column {name!r} holds {texts[place]!s} in row {first_row + place[0]}, expected numbers")


def _as_floats(texts: np.ndarray) -> np.ndarray | None:
    try:
        # Python's own numerals may have underscores.
        return None if (np.char.find(texts, "_") >= 0).any() else texts.astype(float)
    except ValueError:
        return None


def numbers(table: Table, name: str, width: tuple[int, ...] = ()) -> np.ndarray:
    """A column as float64, masked entries as NaN."""
    column = table[name]
    values = as_numbers(name, getattr(column, "value", column))
    if values.shape[1:] != width:
        raise CatalogError(f"column {name!r} has shape {values.shape}, expected {(len(table), *width)}")
    return values


def find_column(table: Table, columns: Mapping[str, str], *wanted: str) -> str | None:
    """The name of the first wanted column that the mapping or the table has."""
    for want in wanted:
        name = columns.get(want, want)
        if name in table.colnames:
            return str(name)
        if want in columns:
            raise no_column(table, name)
    return None


def no_column(table: Table, *wanted: str) -> CatalogError:
    """The error that none of the wanted columns is there, with those that are."""
    # Whatever its case, and with a unit behind it: "flux_u [uJy]".
    same = [name for name in table.colnames if re.split(r"[\s(\[]", name.lower())[0] == wanted[0].lower()]
    # That of another band is no hint.
    others = [name for name in table.colnames if not name.startswith("flux_")]
    close = same or difflib.get_close_matches(wanted[0], others, n=1, cutoff=0.4)
    hint = f"; closest is {close[0]!r}" if close else ""
    listed = ", ".join(table.colnames[:40]) + (" ..." if len(table.colnames) > 40 else "")
    other = ""
    if wanted[0] == "zred":
        other = " Without redshifts, 'sedcast infer' can take a model that infers them (--model sdss-photoz)."
    elif wanted[0].startswith("flux_") and wanted[0].rsplit("_", 1)[1] in ("FUV", "NUV", *SDSS_BANDS) and not same:
        other = " A model for any subset of bands needs not all of them (--model galex-sdss)."
    return CatalogError(
        f"no column {' or '.join(map(repr, wanted))}{hint}. The table has: {listed}.{other} Rename it; or say in a mapping "
        "file which columns to read, of magnitudes too (sedcast init mapping, then --mapping); or in Python read_catalog(..., "
        f"columns={{{wanted[0]!r}: 'its name in the file'}})"
    )


def _check_unit(table: Table, name: str, unit: str, *, inverse_variance: bool = False) -> None:
    """Refuse a column that states another unit than that in which it is to be read."""
    stated = table[name].unit
    if contradicts(stated, unit, inverse_variance=inverse_variance):
        raise CatalogError(
            f"column {name!r} says its unit is {str(stated)!r}, but is to be read in {unit!r}"
            f"{' to the -2' * inverse_variance}: "
            "correct one of them (--unit; or give every flux and error in the file its unit)"
        )


def all_with_units(
    table: Table, bands: Sequence[str], columns: Mapping[str, str]
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Flux and ivar of each band in nanomaggies, by the columns' units; None if not all of them have one.

    Raises
    ------
    CatalogError : if a column has one that is not known.
    """
    names = _flux_columns(table, bands, columns)
    for column in filter(None, itertools.chain(*names)):
        if unknown_unit(table[column].unit):
            raise CatalogError(
                f"column {column!r} says its unit is {str(table[column].unit)!r}, which is not known: correct it, or say what "
                "it is in (--unit, in Python unit=; magnitudes by a mapping file)"
            )
    if any(name is None or known_unit(table[name].unit) is None for pair in names for name in pair):
        return None
    pairs = []
    for name, spread in names:
        try:
            flux, flux_ivar = as_nanomaggies(_with_unit(table[name]), _with_unit(table[spread]))
        except ParameterError as error:
            raise CatalogError(f"columns {name!r} and {spread!r}: {error}") from error
        in_magnitudes = isinstance(known_unit(table[name].unit), MagUnit)
        flux[is_missing_code(np.asarray(table[name]), magnitudes=in_magnitudes)] = np.nan
        pairs.append((flux, flux_ivar))
    return pairs


def any_with_unit(table: Table, bands: Sequence[str], columns: Mapping[str, str]) -> bool:
    """Whether a flux or error of one of the bands states its unit."""
    named = filter(None, itertools.chain(*_flux_columns(table, bands, columns)))
    return any(known_unit(table[name].unit) is not None for name in named)


def _flux_columns(table: Table, bands: Sequence[str], columns: Mapping[str, str]) -> list[tuple[str | None, str | None]]:
    return [(find_column(table, columns, f"flux_{band}"), _spread_column(table, columns, band)) for band in bands]


def _with_unit(column: Any) -> Any:
    """A column in the unit that it states, which astropy may know by another name or, AB, take for a flux."""
    unit = known_unit(column.unit)
    return column if column.unit == unit else floats_of(column) << unit


def _spread_column(table: Table, columns: Mapping[str, str], band: str) -> str | None:
    return find_column(table, columns, f"flux_ivar_{band}") or find_column(table, columns, f"flux_err_{band}")


def band_columns(table: Table, band: str, columns: Mapping[str, str], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Flux and ivar of one band, in the file's unit; missing codes become NaN."""
    flux_name = find_column(table, columns, f"flux_{band}")
    if flux_name is None:
        raise no_column(table, f"flux_{band}")
    _check_unit(table, flux_name, unit)
    flux = numbers(table, flux_name)
    flux[is_missing_code(flux)] = np.nan
    ivar_name = find_column(table, columns, f"flux_ivar_{band}")
    if ivar_name is not None:
        _check_unit(table, ivar_name, unit, inverse_variance=True)
        return flux, numbers(table, ivar_name)
    error_name = find_column(table, columns, f"flux_err_{band}")
    if error_name is None:
        raise no_column(table, f"flux_ivar_{band}", f"flux_err_{band}")
    _check_unit(table, error_name, unit)
    error = numbers(table, error_name)
    with np.errstate(divide="ignore", invalid="ignore"):
        return flux, np.where(error > 0, error**-2.0, 0.0)


def check_ids(name: str, column: np.ndarray, first_row: int = 0) -> np.ndarray:
    """A column of ids; integers as int64, which outputs hold, whole floats as the texts of integers, missing texts empty.

    Texts lose the blanks around them, which one format keeps and another does not: the same id is the same text.

    Raises
    ------
    CatalogError : if a number is missing, rounded or too large; `name` and `first_row` say where.
    """
    if column.ndim != 1:
        raise CatalogError(f"{name!r} has shape {column.shape}: expected one id a row")
    if column.dtype.kind in "USO":
        texts = np.asarray(column.filled("") if isinstance(column, np.ma.MaskedArray) else column)
        if texts.dtype.kind == "O":
            return np.array([text.strip() if isinstance(text, str | bytes) else text for text in texts], dtype=object)
        return np.char.strip(texts)
    none = np.ma.getmaskarray(column)
    column = np.asarray(column)
    if column.dtype.kind == "f":
        none = none | np.isnan(column)
    bad, what = none, "none"
    if column.dtype.kind == "f" and not none.any():
        # From here on floating-point numbers pass over integers.
        bad, what = np.abs(column) >= 2.0 ** (np.finfo(column.dtype).nmant + 1), "{:.0f}, which floating-point numbers round"
    elif column.dtype.kind == "u" and not none.any():
        bad, what = column > np.iinfo(np.int64).max, "{}, too large for 64 bits with a sign"
    if bad.any():
        row = int(np.argmax(bad))
        raise CatalogError(
            f"the id in column {name!r} of row {first_row + row} is {what.format(column[row])}: expected an integer below 2^63 "
            "or a text in every row; write the column as text, or name another, or none to number the rows"
        )
    if column.dtype.kind == "f":
        return np.array([f"{value:.0f}" if value == np.round(value) else str(value) for value in column], dtype=str)
    return column.astype(np.int64) if column.dtype.kind in "iu" else column


def check_redshifts(zred: np.ndarray, name: str) -> None:
    """Refuse a column whose values cannot be redshifts."""
    seen = zred[np.isfinite(zred)]
    if seen.size and ((seen <= 0).all() or (seen > REDSHIFT_MAX).all()):
        raise CatalogError(
            f"column {name!r} runs from {seen.min():.6g} to {seen.max():.6g}: no value is a redshift (0 to {REDSHIFT_MAX:g}). "
            "Is it a velocity in km/s, or another column? The redshift's column must be called 'zred', or be named in a mapping"
        )


def warn_of_ids(table: Table, path: Path) -> None:
    """Warn that rows are numbered though a column looks like their ids."""
    if like := [name for name in table.colnames if name.lower() in _LIKE_ID]:
        logger.warning(
            "%s: rows are numbered; if %r is their id, rename it 'id', or name it in a mapping file or, in Python, columns=",
            path,
            like[0],
        )


def warn_of_unused(table: Table, bands: Sequence[str], columns: Mapping[str, str], path: Path) -> None:
    """Warn of extinction, and of fluxes in the file that are of no band that is read: unknown or not asked for."""
    if like := [name for name in table.colnames if name.lower().startswith(_LIKE_EXTINCTION)]:
        logger.warning(
            "%s: fluxes are read as corrected for Galactic extinction, %r is not used: if they are not, a mapping file "
            "says how (sedcast init mapping)",
            path,
            like[0],
        )
    read = {columns.get(f"flux_{band}", f"flux_{band}") for band in bands}
    others = [name for name in table.colnames if name.startswith("flux_") and name not in read]
    others = [name for name in others if not name.startswith(("flux_ivar_", "flux_err_"))]
    if others:
        logger.warning("%s: not used: %s (bands read: %s)", path, ", ".join(others), ", ".join(bands))


def has_band(table: Table, band: str, columns: Mapping[str, str], is_sdss: bool) -> bool:
    """Whether a table has columns for a band."""
    if is_sdss:
        return all(name in table.colnames for name in needed_sdss_columns((band,)) if name != "Z")
    return find_column(table, columns, f"flux_{band}") is not None


def sdss_columns(table: Table, bands: Sequence[str], redshift: bool) -> dict[str, np.ndarray]:
    """The columns of SDSS's layout that the bands need, their shapes checked; NaN for redshifts that are not needed."""
    found = {}
    for name in needed_sdss_columns(bands):
        if name == "Z" and not redshift and name not in table.colnames:
            found[name] = np.full(len(table), np.nan)
            continue
        if name not in table.colnames:
            raise no_column(table, name)
        width = (len(SDSS_BANDS),) if name in ("MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION") else ()
        found[name] = numbers(table, name, width)
    return found


def _by_wavelength(bands: Sequence[str]) -> list[str]:
    """Those of the bands whose curves are known, from blue to red."""
    waves = {}
    for band in bands:
        with contextlib.suppress(ParameterError):
            waves[band] = load_filter(band).effective_wave
    return sorted(waves, key=lambda band: waves[band])


def check_not_magnitudes(flux: np.ndarray, bands: Sequence[str], path: Path) -> None:
    """Refuse tables whose fluxes are magnitudes.

    Magnitudes of galaxies all lie in 8 to 32 and fall from blue to red bands, while AB fluxes rise: of real galaxies
    with every flux inside that interval hardly one has its bluest flux above its reddest. In a single band
    the test is the scatter: 30 magnitudes or more differ by less than 0.12 dex, fluxes by more.
    """
    with np.errstate(invalid="ignore"):
        possible = (flux >= 8) & (flux <= 32)
    # Faint magnitudes, and codes for none, may be anything.
    seen = flux[np.isfinite(flux) & (flux != 0) & ~is_not_detected(flux)]
    if not possible.any() or possible.sum() < _ENOUGH_MAGNITUDES * seen.size:
        return
    flux = np.where(possible, flux, np.nan)
    seen = flux[possible]
    order = _by_wavelength(bands)
    if len(order) >= 2:
        difference = flux[:, bands.index(order[0])] - flux[:, bands.index(order[-1])]
        difference = difference[np.isfinite(difference)]
        suspicious = difference.size > 0 and float(np.mean(difference > 0)) > 0.8
    else:
        suspicious = seen.size >= 30 and float(np.std(np.log10(seen))) < 0.12
    if suspicious:
        raise CatalogError(
            f"{path}: the fluxes look like magnitudes (in {seen.min():.4g} to {seen.max():.4g}, smaller in redder bands); "
            "expected linear fluxes: 10**(0.4 * (22.5 - m)) nanomaggies for an AB magnitude m. If they are fluxes, of blue "
            "galaxies, state the unit of fluxes and errors in the table, or convert them to another one"
        )
