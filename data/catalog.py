"""Catalogues of observed galaxies: one form in memory, read from tables, nothing dropped silently."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import NoneType

import numpy as np
from astropy.table import Table
from astropy.units import UnrecognizedUnit

from sedcast.data.artifacts import load_artifact
from sedcast.data.asinh import POGSON
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.filters import BANDS, check_bands
from sedcast.data.sdss import AB_OFFSETS, ERROR_FLOORS, SDSS_BANDS, is_sdss_layout, needed_sdss_columns, sdss_photometry
from sedcast.data.tables import open_table, reading
from sedcast.data.units import NANOMAGGIES_PER_UNIT, as_nanomaggies

__all__ = ["NANOMAGGIES_PER_UNIT", "Catalog", "apply_calibration", "load_sdss_sample", "read_catalog"]

logger = logging.getLogger(__name__)

_UNIT_ALIASES = {"nmgy": "nanomaggies", "nanomaggy": "nanomaggies", "nanomaggie": "nanomaggies", "nmaggy": "nanomaggies"}
_MISSING_CODES = (-99.0, -999.0, -9999.0)
_MISSING_MAGNITUDES = (99.0, 99.9, 99.99, 999.0)
_REDSHIFT_MAX = 20.0
_FORMATS = {
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
    ".csv.gz": "ascii.csv",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
}


@dataclass(frozen=True)
class Catalog:
    """Observed fluxes and redshifts of galaxies.

    Parameters
    ----------
    ids : (n,) int64 or str.
    bands : band names, the order of the second axis.
    flux : (n, n_band) nanomaggies, or with units, see `as_nanomaggies`.
    flux_ivar : (n, n_band) nanomaggies^-2. A band is missing where flux or ivar is not finite or ivar is not positive; both are
        then stored as 0.
    zred : (n,) redshift; NaN where unknown.
    status : (n,) str, "" for a row that can be inferred, else why it cannot. If not given, it is worked out: every band
        must be there and the redshift be positive.

    Raises
    ------
    CatalogError : if shapes disagree.
    """

    ids: np.ndarray
    bands: tuple[str, ...]
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: np.ndarray
    status: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))

    def __post_init__(self) -> None:
        bands = tuple(self.bands)
        flux, ivar = as_nanomaggies(self.flux, self.flux_ivar)
        zred, ids = np.array(self.zred, dtype=float), np.asarray(self.ids)
        expected = (len(zred), len(bands))
        if flux.shape != expected or ivar.shape != expected or ids.shape != zred.shape:
            raise CatalogError(
                f"flux {flux.shape}, flux_ivar {ivar.shape} and ids {ids.shape} do not fit {expected[0]} redshifts and "
                f"{expected[1]} bands {bands}: flux and flux_ivar must be {expected}, ids ({expected[0]},)"
            )
        missing = ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0))
        flux[missing] = ivar[missing] = 0.0
        status = (
            _row_status(bands, missing, zred, missing.any(axis=1))
            if len(self.status) == 0
            else np.asarray(self.status, dtype=str)
        )
        if status.shape != zred.shape:
            raise CatalogError(f"status {status.shape} must have one entry for each of {len(zred)} rows")
        named = {"ids": ids, "bands": bands, "flux": flux, "flux_ivar": ivar, "zred": zred, "status": status}
        for name, value in named.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.zred)

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool: rows that can be inferred."""
        return self.status == ""

    @property
    def sigma(self) -> np.ndarray:
        """(n, n_band) flux errors in nanomaggies, infinite where a band is missing."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.flux_ivar**-0.5)

    def subset(self, index: np.ndarray | slice) -> "Catalog":
        """The rows that a boolean mask, an index array or a slice picks."""
        return Catalog(
            self.ids[index], self.bands, self.flux[index], self.flux_ivar[index], self.zred[index], self.status[index]
        )

    def select(self, bands: Sequence[str], *, ragged: bool = False, redshift: bool = True) -> "Catalog":
        """The given bands, in the given order; each row's status is worked out anew for them.

        Parameters
        ----------
        bands : the bands.
        ragged : one measured band is enough for a row, and of the bands, one is enough in the catalogue: the others
            have no measurements.
        redshift : a row needs a redshift.

        Raises
        ------
        CatalogError : if a band, or with `ragged` every one, is not in the catalogue.
        """
        absent = [band for band in bands if band not in self.bands]
        if absent and not (ragged and len(absent) < len(bands)):
            raise CatalogError(f"bands {', '.join(absent)} are not in this catalogue, which has {', '.join(self.bands)}")
        flux, flux_ivar = np.zeros((2, len(self), len(bands)))
        for column, band in enumerate(bands):
            if band in self.bands:
                flux[:, column] = self.flux[:, self.bands.index(band)]
                flux_ivar[:, column] = self.flux_ivar[:, self.bands.index(band)]
        missing = flux_ivar == 0
        lacking = missing.all(axis=1) if ragged else missing.any(axis=1)
        status = _row_status(bands, missing, self.zred if redshift else np.ones(len(self)), lacking)
        return Catalog(self.ids, tuple(bands), flux, flux_ivar, self.zred, status)


def _row_status(bands: Sequence[str], missing: np.ndarray, zred: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """Why rows cannot be inferred, (n,); those of `lacking` (n,) because of their missing bands (n, n_band)."""
    reasons: list[list[str]] = [[] for _ in range(len(zred))]
    for row in np.flatnonzero(lacking):
        reasons[row].append("no measurement in " + " ".join(np.asarray(bands)[missing[row]]))
    with np.errstate(invalid="ignore"):
        tests = (
            (~np.isfinite(zred), "redshift is not finite"),
            (zred <= 0, "redshift is not positive"),
            (np.isfinite(zred) & (zred > _REDSHIFT_MAX), f"redshift above {_REDSHIFT_MAX:g}"),
        )
    for test, reason in tests:
        for row in np.flatnonzero(test):
            reasons[row].append(reason)
    return np.array(["; ".join(reason) for reason in reasons], dtype=str)


def apply_calibration(
    catalog: Catalog, offsets: Mapping[str, float] = AB_OFFSETS, floors: Mapping[str, float] = ERROR_FLOORS
) -> Catalog:
    """Shift each band's magnitudes by its offset, then add its floor in quadrature.

    The flux becomes f 10^(-0.4 offset) and the error scales with it; then sigma^2 = sigma^2 + (floor f ln 10 / 2.5)^2 with the
    observed, shifted flux f. The floor so depends on observed values only.

    Parameters
    ----------
    catalog : as observed.
    offsets : m_AB - m_catalogue per band, magnitudes; 0 for bands not named.
    floors : minimum error per band, magnitudes; 0 for bands not named.
    """
    factor = 10.0 ** (-0.4 * np.array([offsets.get(band, 0.0) for band in catalog.bands]))
    floor = np.array([floors.get(band, 0.0) for band in catalog.bands])
    flux = catalog.flux * factor
    variance = (catalog.sigma * factor) ** 2 + (floor * flux / POGSON) ** 2
    return Catalog(catalog.ids, catalog.bands, flux, 1.0 / variance, catalog.zred, catalog.status)


def _from_sdss_columns(columns: Mapping[str, np.ndarray], bands: tuple[str, ...], calibrate: bool, ids: np.ndarray) -> Catalog:
    flux, flux_ivar = sdss_photometry(columns, bands)
    catalog = Catalog(ids, bands, flux, flux_ivar, np.asarray(columns["Z"], dtype=float))
    return apply_calibration(catalog) if calibrate else catalog


def load_sdss_sample(*, bands: Sequence[str] = SDSS_BANDS, calibrate: bool = True) -> Catalog:
    """The bundled sample: 10,000 SDSS galaxies at 0.01 < z < 0.6, 774 of them with GALEX and nearly all with 2MASS photometry.

    Parameters
    ----------
    bands : any of FUV NUV u g r i z J H Ks.
    calibrate : apply SDSS's AB offsets and the error floors of `sedcast.data.sdss`.

    Returns
    -------
    catalog : model fluxes corrected for Galactic extinction (GALEX: AUTO, 2MASS: extended-source totals), AB nanomaggies.
    """
    bands = tuple(bands)
    unknown = [band for band in bands if band not in BANDS]
    if unknown:
        raise ParameterError(f"bands {unknown}: the bundled sample has {', '.join(BANDS)}")
    path = files("sedcast.data").joinpath("bundled", "sdss_sample.npz")
    arrays, _ = load_artifact(Path(str(path)), "sdss-sample")
    return _from_sdss_columns(arrays, bands, calibrate, np.arange(len(arrays["Z"])))


def _read_table(path: Path) -> Table:
    if not path.is_file():
        raise CatalogError(f"no catalogue at {path}: check the path")
    kinds = [kind for suffix, kind in _FORMATS.items() if path.name.lower().endswith(suffix)]
    if not kinds:
        raise CatalogError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(_FORMATS)}")
    # Astropy believes a header's sizes, and reads a damaged archive for ever: they are checked, and unpacked, before.
    checked = open_table(path) if path.suffix.lower() == ".gz" or kinds[0] in ("fits", "hdf5") else None
    source = path if checked is None else checked.source
    with reading(path), source.open("rb") as handle:
        table = Table.read(handle if kinds[0] == "fits" else source, format=kinds[0])
    if len(table) == 0:
        raise CatalogError(f"{path} has no rows: a catalogue needs at least one galaxy")
    return table


def _numbers(table: Table, name: str, width: tuple[int, ...] = ()) -> np.ndarray:
    """A column as float64, masked entries as NaN."""
    column = table[name]
    try:
        values = np.ma.MaskedArray(getattr(column, "value", column), dtype=float)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"column {name!r} holds {column.dtype}, expected numbers ({error})") from error
    if values.shape[1:] != width:
        raise CatalogError(f"column {name!r} has shape {values.shape}, expected {(len(table), *width)}")
    return np.array(values.filled(np.nan))


def _find(table: Table, columns: Mapping[str, str], *wanted: str) -> str | None:
    """The name of the first wanted column that the mapping or the table has."""
    for want in wanted:
        name = columns.get(want, want)
        if name in table.colnames:
            return str(name)
        if want in columns:
            raise _no_column(table, name)
    return None


def _no_column(table: Table, *wanted: str) -> CatalogError:
    close = difflib.get_close_matches(wanted[0], table.colnames, n=1, cutoff=0.4)
    hint = f"; closest is {close[0]!r}" if close else ""
    listed = ", ".join(table.colnames[:40]) + (" ..." if len(table.colnames) > 40 else "")
    return CatalogError(
        f"no column {' or '.join(map(repr, wanted))}{hint}. The table has: {listed}. "
        f"Rename it, or in Python read_catalog(..., columns={{{wanted[0]!r}: 'its name in the file'}})"
    )


def _check_unit(table: Table, name: str, unit: str) -> None:
    stated = str(table[name].unit or "")
    stated = _UNIT_ALIASES.get(stated.lower(), stated)
    if stated and stated != unit and (stated in NANOMAGGIES_PER_UNIT or stated.startswith("mag")):
        raise CatalogError(f"column {name!r} says its unit is {stated!r}, but unit={unit!r} was given: one of them is wrong")


def _all_with_units(
    table: Table, bands: Sequence[str], columns: Mapping[str, str]
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Flux and ivar of each band in nanomaggies, by the units of the columns; None if no flux has a unit that is known."""
    names = {band: _find(table, columns, f"flux_{band}") for band in bands}
    bare = {band for band, name in names.items() if name and isinstance(table[name].unit, NoneType | UnrecognizedUnit)}
    if bare or None in names.values():
        if bare not in (set(), set(bands)):
            raise CatalogError(f"fluxes of {', '.join(sorted(bare))} have no unit, the others have: give every column its unit")
        return None
    pairs = []
    for band, name in names.items():
        spread = _find(table, columns, f"flux_ivar_{band}") or _find(table, columns, f"flux_err_{band}")
        if spread is None:
            raise _no_column(table, f"flux_ivar_{band}", f"flux_err_{band}")
        try:
            flux, flux_ivar = as_nanomaggies(table[name], table[spread])
        except ParameterError as error:
            raise CatalogError(f"columns {name!r} and {spread!r}: {error}") from error
        flux[np.isin(np.asarray(table[name]), _MISSING_CODES)] = np.nan
        pairs.append((flux, flux_ivar))
    return pairs


def _band_columns(table: Table, band: str, columns: Mapping[str, str], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Flux and ivar of one band, in the file's unit; missing codes become NaN."""
    flux_name = _find(table, columns, f"flux_{band}")
    if flux_name is None:
        raise _no_column(table, f"flux_{band}")
    _check_unit(table, flux_name, unit)
    flux = _numbers(table, flux_name)
    flux[np.isin(flux, _MISSING_CODES)] = np.nan
    ivar_name = _find(table, columns, f"flux_ivar_{band}")
    if ivar_name is not None:
        return flux, _numbers(table, ivar_name)
    error_name = _find(table, columns, f"flux_err_{band}")
    if error_name is None:
        raise _no_column(table, f"flux_ivar_{band}", f"flux_err_{band}")
    _check_unit(table, error_name, unit)
    error = _numbers(table, error_name)
    with np.errstate(divide="ignore", invalid="ignore"):
        return flux, np.where(error > 0, error**-2.0, 0.0)


def _say_unused(table: Table, bands: Sequence[str], columns: Mapping[str, str], path: Path) -> None:
    """Warn of fluxes in the file that are of no band that is read: unknown ones, or ones that were not asked for."""
    read = {columns.get(f"flux_{band}", f"flux_{band}") for band in bands}
    others = [name for name in table.colnames if name.startswith("flux_") and name not in read]
    others = [name for name in others if not name.startswith(("flux_ivar_", "flux_err_"))]
    if others:
        logger.warning("%s: not used: %s (bands read: %s)", path, ", ".join(others), ", ".join(bands))


def _has_band(table: Table, band: str, columns: Mapping[str, str], is_sdss: bool) -> bool:
    """Whether a table has columns for a band."""
    if is_sdss:
        return all(name in table.colnames for name in needed_sdss_columns((band,)))
    return _find(table, columns, f"flux_{band}") is not None


def _sdss_columns(table: Table, bands: Sequence[str], redshift: bool) -> dict[str, np.ndarray]:
    """The columns of SDSS's layout that the bands need, their shapes checked; NaN for redshifts that are not needed."""
    found = {}
    for name in needed_sdss_columns(bands):
        if name == "Z" and not redshift and name not in table.colnames:
            found[name] = np.full(len(table), np.nan)
            continue
        if name not in table.colnames:
            raise _no_column(table, name)
        width = (len(SDSS_BANDS),) if name in ("MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION") else ()
        found[name] = _numbers(table, name, width)
    return found


def _check_not_magnitudes(flux: np.ndarray, bands: Sequence[str], path: Path) -> None:
    """Refuse tables whose fluxes are magnitudes.

    Magnitudes of galaxies all lie in 8 to 32 and fall from blue to red bands, while AB fluxes rise: of real galaxies
    with every flux inside that interval hardly one has its bluest flux above its reddest. In a single band
    the test is the scatter: 30 magnitudes or more differ by less than 0.12 dex, fluxes by more.
    """
    flux = np.where(np.isin(flux, _MISSING_MAGNITUDES), np.nan, flux)
    seen = flux[np.isfinite(flux)]
    if seen.size == 0 or seen.min() < 8 or seen.max() > 32:
        return
    order = [name for name in BANDS if name in bands]
    if len(order) >= 2:
        difference = flux[:, bands.index(order[0])] - flux[:, bands.index(order[-1])]
        difference = difference[np.isfinite(difference)]
        suspicious = difference.size > 0 and float(np.mean(difference > 0)) > 0.8
    else:
        suspicious = seen.size >= 30 and float(np.std(np.log10(seen))) < 0.12
    if suspicious:
        raise CatalogError(
            f"{path}: the fluxes look like magnitudes (all in {seen.min():.4g} to {seen.max():.4g}, smaller in redder bands); "
            "expected linear fluxes: 10**(0.4 * (22.5 - m)) nanomaggies for an AB magnitude m"
        )


def _check_redshifts(zred: np.ndarray, name: str) -> None:
    seen = zred[np.isfinite(zred)]
    if seen.size and ((seen <= 0).all() or (seen > _REDSHIFT_MAX).all()):
        raise CatalogError(
            f"column {name!r} runs from {seen.min():.6g} to {seen.max():.6g}: no value is a redshift (0 to {_REDSHIFT_MAX:g}). "
            "Is it a velocity in km/s, or another column? The redshift's column must be called 'zred'"
        )


def read_catalog(
    path: str | Path | Table,
    *,
    bands: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    unit: str = "nanomaggies",
    calibrate: bool = True,
    ragged: bool = False,
    redshift: bool = True,
) -> Catalog:
    """Read a catalogue from FITS, ECSV, CSV or HDF5, or from an astropy Table in memory.

    Two layouts are recognised: SDSS's (`sedcast.data.sdss`), and one column per quantity: ``flux_u``, ``flux_ivar_u`` or
    ``flux_err_u`` and so on, ``zred`` or ``z``, and ``id`` if there is one. The fluxes of the second must be AB, total, and
    corrected for Galactic extinction.

    Parameters
    ----------
    path : the file; or a Table or QTable, whose columns' units, if they have any, are converted (see `as_nanomaggies`).
    bands : bands to read, in order; by default u g r i z of the SDSS layout, else every known band the file has.
    columns : names in the file where they differ, for example ``{"flux_u": "FLUX_U", "zred": "Z_BEST"}``.
    unit : unit of the fluxes, a key of `NANOMAGGIES_PER_UNIT`; errors are in the same unit, ivar in its inverse square.
    calibrate : for the SDSS layout, apply AB offsets and error floors.
    ragged : one of `bands` is enough, in the file and in a row; those that the file lacks have no measurements.
    redshift : the file, and each row, needs a redshift; otherwise those that it lacks are NaN.

    Returns
    -------
    catalog : all rows; those that cannot be inferred say why in `status`.

    Raises
    ------
    CatalogError : if the file is missing or unreadable, has no rows, lacks a column, or its values cannot be what they
        are read as (magnitudes as fluxes, velocities as redshifts).
    ParameterError : if a band or the unit is unknown.
    """
    in_memory = isinstance(path, Table)
    source = Path("the table") if isinstance(path, Table) else Path(path)
    if unit not in NANOMAGGIES_PER_UNIT:
        raise ParameterError(f"unit={unit!r}: expected one of {', '.join(NANOMAGGIES_PER_UNIT)}")
    chosen = None if bands is None else tuple(bands)
    table, columns = path if isinstance(path, Table) else _read_table(source), dict(columns or {})
    # A band of a user's own filter curve is known by its column only.
    others = tuple(band for band in chosen or () if band not in BANDS and not _find(table, columns, f"flux_{band}"))
    if others:
        check_bands(others)
    id_name = _find(table, columns, "id")
    ids = np.arange(len(table)) if id_name is None else np.asarray(table[id_name])
    ids = ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str)
    is_sdss = is_sdss_layout(table.colnames) and not columns
    wanted = chosen
    if ragged and chosen:
        chosen = tuple(band for band in chosen if _has_band(table, band, columns, is_sdss)) or chosen
    if is_sdss:
        chosen = chosen or SDSS_BANDS
        catalog = _from_sdss_columns(_sdss_columns(table, chosen, redshift), chosen, calibrate, ids)
        zred_name: str | None = "Z"
    else:
        chosen = chosen or tuple(band for band in BANDS if _find(table, columns, f"flux_{band}"))
        if not chosen:
            raise _no_column(table, "flux_r")
        zred_name = _find(table, columns, "zred", "z")
        if zred_name is None and redshift:
            raise _no_column(table, "zred", "z")
        _say_unused(table, chosen, columns, source)
        pairs = _all_with_units(table, chosen, columns) if in_memory else None
        scale = NANOMAGGIES_PER_UNIT[unit] if pairs is None else 1.0
        pairs = pairs or [_band_columns(table, band, columns, unit) for band in chosen]
        flux, flux_ivar = np.stack([p[0] for p in pairs], axis=1), np.stack([p[1] for p in pairs], axis=1)
        _check_not_magnitudes(flux, chosen, source)
        zred = np.full(len(table), np.nan) if zred_name is None else _numbers(table, zred_name)
        catalog = Catalog(ids, chosen, flux * scale, flux_ivar / scale**2, zred)
    if redshift:
        _check_redshifts(catalog.zred, zred_name or "Z")
    if ragged or not redshift:
        catalog = catalog.select(wanted or catalog.bands, ragged=ragged, redshift=redshift)
    excluded = int((~catalog.ok).sum())
    if excluded:
        logger.warning("%s: %d of %d rows cannot be inferred; their status says why", source, excluded, len(catalog))
    return catalog
