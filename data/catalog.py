"""Catalogues of observed galaxies: one form in memory, read from tables, nothing dropped silently."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from astropy.table import Table

from sedcast.data.artifacts import load_artifact
from sedcast.data.asinh import POGSON
from sedcast.data.catalog_columns import (
    ID_NAMES,
    REDSHIFT_MAX,
    REDSHIFT_NAMES,
    all_with_units,
    any_with_unit,
    as_texts,
    band_columns,
    check_ids,
    check_not_magnitudes,
    check_redshifts,
    find_column,
    has_band,
    no_column,
    numbers,
    read_table,
    sdss_columns,
    warn_of_ids,
    warn_of_unused,
)
from sedcast.data.checks import as_floats, as_names
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.filters import BANDS, check_band_names, check_bands
from sedcast.data.sdss import AB_OFFSETS, ERROR_FLOORS, SDSS_BANDS, is_sdss_layout, sdss_photometry
from sedcast.data.units import NANOMAGGIES_PER_UNIT, as_nanomaggies

__all__ = ["NANOMAGGIES_PER_UNIT", "Catalog", "apply_calibration", "load_sdss_sample", "read_catalog"]

logger = logging.getLogger(__name__)

# Nanomaggies: no survey measures it, and its square is still a number.
_MOST_FLUX = 1e100


@dataclass(frozen=True)
class Catalog:
    """Observed fluxes and redshifts of galaxies.

    Parameters
    ----------
    ids : (n,) int64 or str.
    bands : band names, the order of the second axis.
    flux : (n, n_band) nanomaggies, or with units, see `as_nanomaggies`.
    flux_ivar : (n, n_band) nanomaggies^-2. A band is missing where flux or ivar is not finite, ivar is not positive, or the
        flux is beyond 1e100, which is none; both are then stored as 0.
    zred : (n,) redshift; NaN where unknown.
    status : (n,) str, "" for a row that can be inferred, else why it cannot. If not given, it is worked out: every band
        must be there and the redshift be positive. `select`, which inference from a subset of the bands calls, works it out
        anew: leave rows out, by `subset`, rather than give them reasons of your own.

    Raises
    ------
    CatalogError : if shapes disagree.
    ParameterError : if `bands` is empty, repeats one or is no sequence of names, or fluxes and redshifts are no numbers.
    """

    ids: np.ndarray
    bands: tuple[str, ...]
    flux: np.ndarray
    flux_ivar: np.ndarray
    zred: np.ndarray
    status: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))

    def __post_init__(self) -> None:
        bands = check_band_names(as_names("bands", self.bands))
        flux, ivar = as_nanomaggies(self.flux, self.flux_ivar)
        zred, ids = np.atleast_1d(as_floats("zred", self.zred)), check_ids("ids", np.ma.asanyarray(self.ids))
        expected = (len(zred), len(bands))
        if flux.shape != expected or ivar.shape != expected or ids.shape != zred.shape:
            raise CatalogError(
                f"flux {flux.shape}, flux_ivar {ivar.shape} and ids {ids.shape} do not fit {expected[0]} redshifts and "
                f"{expected[1]} bands {bands}: flux and flux_ivar must be {expected}, ids ({expected[0]},)"
            )
        missing = ~((np.abs(flux) <= _MOST_FLUX) & np.isfinite(ivar) & (ivar > 0))
        flux[missing] = ivar[missing] = 0.0
        status = (
            _row_status(bands, missing, zred, missing.any(axis=1)) if np.size(self.status) == 0 else np.asarray(self.status)
        )
        if status.dtype.kind not in "US" and not all(isinstance(reason, str) for reason in status.ravel()):
            raise CatalogError(f"status is of type {status.dtype}, expected texts, empty for rows that can be inferred")
        status = status.astype(str)
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
        """The rows that a boolean mask, an index array or a slice picks.

        Raises
        ------
        ParameterError : if it is none of these, is masked in part, or of rows that are not there.
        """
        if not isinstance(index, slice):
            index = self._rows(index)
        return Catalog(
            self.ids[index], self.bands, self.flux[index], self.flux_ivar[index], self.zred[index], self.status[index]
        )

    def _rows(self, index: np.ndarray) -> np.ndarray:
        if np.ma.is_masked(index):
            raise ParameterError("index is masked in part: say by index.filled(False) that those rows are left out")
        index = np.asarray(index)
        kind, n = index.dtype.kind, len(self)
        if index.size == 0:
            index = index.astype(int)
        elif index.shape != (n,) if kind == "b" else kind not in "iu" or ((index < -n) | (index >= n)).any():
            raise ParameterError(
                f"index is of type {index.dtype} and shape {index.shape}: expected ({n},) of true and false, "
                f"row numbers below {n}, or a slice"
            )
        if index.ndim != 1:
            raise ParameterError(f"index has shape {index.shape}: expected one dimension, such as [3]")
        return index

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
        bands = check_band_names(as_names("bands", bands))
        absent = [band for band in bands if band not in self.bands]
        if absent and not (ragged and len(absent) < len(bands)):
            raise CatalogError(
                f"bands {', '.join(absent)} are not in this catalogue, which has {', '.join(self.bands)}: names must be those "
                "of the model, in upper or lower case as there; a model for any subset of bands needs not all"
            )
        flux, flux_ivar = np.zeros((2, len(self), len(bands)))
        for column, band in enumerate(bands):
            if band in self.bands:
                flux[:, column] = self.flux[:, self.bands.index(band)]
                flux_ivar[:, column] = self.flux_ivar[:, self.bands.index(band)]
        missing = flux_ivar == 0
        lacking = missing.all(axis=1) if ragged else missing.any(axis=1)
        status = _row_status(bands, missing, self.zred if redshift else np.ones(len(self)), lacking)
        return Catalog(self.ids, tuple(bands), flux, flux_ivar, self.zred, status)


def no_measurement(bands: Sequence[str], missing: np.ndarray) -> str:
    """The status of a row that lacks some of the bands, `missing` (n_band,)."""
    return "no measurement in " + " ".join(np.asarray(bands)[missing])


def _row_status(bands: Sequence[str], missing: np.ndarray, zred: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """Why rows cannot be inferred, (n,); those of `lacking` (n,) because of their missing bands (n, n_band)."""
    reasons: dict[int, list[str]] = defaultdict(list)
    for row in np.flatnonzero(lacking).tolist():
        reasons[row].append(no_measurement(bands, missing[row]))
    with np.errstate(invalid="ignore"):
        tests = (
            (~np.isfinite(zred), "redshift is not finite"),
            (zred <= 0, "redshift is not positive"),
            (np.isfinite(zred) & (zred > REDSHIFT_MAX), f"redshift above {REDSHIFT_MAX:g}"),
        )
    for test, reason in tests:
        for row in np.flatnonzero(test).tolist():
            reasons[row].append(reason)
    texts = [""] * len(zred)
    for row, found in reasons.items():
        texts[row] = "; ".join(found)
    return np.array(texts, dtype=str)


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

    Raises
    ------
    ParameterError : if one is not finite, or a floor negative.
    """
    offset = as_floats("offsets", [offsets.get(band, 0.0) for band in catalog.bands])
    floor = as_floats("floors", [floors.get(band, 0.0) for band in catalog.bands])
    if not np.isfinite(offset).all() or not ((floor >= 0) & (floor < np.inf)).all():
        raise ParameterError(f"offsets {offset} and floors {floor} of {catalog.bands}: must be finite, floors not negative")
    factor = 10.0 ** (-0.4 * offset)
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
    bands = check_band_names(as_names("bands", bands))
    unknown = [band for band in bands if band not in BANDS]
    if unknown:
        raise ParameterError(f"bands {unknown}: the bundled sample has {', '.join(BANDS)}")
    path = files("sedcast.data").joinpath("bundled", "sdss_sample.npz")
    arrays, _ = load_artifact(Path(str(path)), "sdss-sample")
    return _from_sdss_columns(arrays, bands, calibrate, np.arange(len(arrays["Z"])))


def read_catalog(
    path: str | Path | Table,
    *,
    bands: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    unit: str | None = None,
    calibrate: bool = True,
    ragged: bool = False,
    redshift: bool = True,
) -> Catalog:
    """Read a catalogue from FITS, HDF5, Parquet, ECSV or CSV, or from an astropy Table in memory.

    Two layouts are recognised: SDSS's (`sedcast.data.sdss`), and one column per quantity: ``flux_u``, ``flux_ivar_u`` or
    ``flux_err_u`` and so on, ``zred`` or ``z``, and ``id`` if there is one. The fluxes of the second must be AB, total, and
    corrected for Galactic extinction.

    Parameters
    ----------
    path : the file; or a Table or QTable. Columns that have units are converted from them (see `as_nanomaggies`).
    bands : bands to read, in order; by default u g r i z of the SDSS layout, else every known band the file has.
    columns : names in the file where they differ, for example ``{"flux_u": "FLUX_U", "zred": "Z_BEST"}``.
    unit : unit of the fluxes, a key of `NANOMAGGIES_PER_UNIT`; errors are in the same unit, ivar in its inverse square.
        By default that of the columns, and nanomaggies if these have none.
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
    source = Path("the table") if isinstance(path, Table) else Path(path)
    if unit is not None and unit not in NANOMAGGIES_PER_UNIT:
        raise ParameterError(
            f"unit={unit!r}: expected one of {', '.join(NANOMAGGIES_PER_UNIT)}; magnitudes are read with a mapping file "
            '(unit = "AB" or "asinh" there)'
        )
    chosen = None if bands is None else as_names("bands", bands)
    columns = dict(columns or {})
    table = path if isinstance(path, Table) else read_table(source, columns)
    # A band of a user's own filter curve is known by its column only; where bands may be missing, not even by that.
    others = tuple(band for band in chosen or () if band not in BANDS and not find_column(table, columns, f"flux_{band}"))
    if others and not ragged:
        check_bands(others)
    id_name = find_column(table, columns, *ID_NAMES)
    ids = np.arange(len(table)) if id_name is None else check_ids(id_name, table[id_name])
    ids = ids if ids.dtype.kind == "i" else as_texts(str(id_name), ids).astype(str)
    if id_name is None:
        warn_of_ids(table, source)
    is_sdss = is_sdss_layout(table.colnames) and not columns
    wanted = chosen
    if ragged and chosen:
        chosen = tuple(band for band in chosen if has_band(table, band, columns, is_sdss)) or chosen
    if is_sdss:
        if unit is not None:
            raise ParameterError(f"unit={unit!r}: columns of SDSS's layout are nanomaggies; leave it out")
        chosen = chosen or SDSS_BANDS
        catalog = _from_sdss_columns(sdss_columns(table, chosen, redshift), chosen, calibrate, ids)
        zred_name: str | None = "Z"
    else:
        chosen = chosen or tuple(band for band in BANDS if find_column(table, columns, f"flux_{band}"))
        if not chosen:
            raise no_column(table, "flux_r")
        zred_name = find_column(table, columns, *REDSHIFT_NAMES)
        if zred_name is None and redshift:
            raise no_column(table, *REDSHIFT_NAMES)
        warn_of_unused(table, chosen, columns, source)
        stated = all_with_units(table, chosen, columns) if unit is None else None
        read_in = unit or "nanomaggies"
        scale = NANOMAGGIES_PER_UNIT[read_in] if stated is None else 1.0
        pairs = stated or [band_columns(table, band, columns, read_in) for band in chosen]
        flux, flux_ivar = np.stack([p[0] for p in pairs], axis=1), np.stack([p[1] for p in pairs], axis=1)
        if stated is None:
            check_not_magnitudes(flux, chosen, source)
        if unit is None and not any_with_unit(table, chosen, columns):
            logger.warning("%s: no units are stated, fluxes are read as nanomaggies; say which with --unit (unit=)", source)
        zred = np.full(len(table), np.nan) if zred_name is None else numbers(table, zred_name)
        # A long catalogue is in memory a few times at most.
        del table, pairs, stated
        flux *= scale
        flux_ivar /= scale**2
        catalog = Catalog(ids, chosen, flux, flux_ivar, zred)
    if redshift:
        check_redshifts(catalog.zred, zred_name or "Z")
    if ragged or not redshift:
        catalog = catalog.select(wanted or catalog.bands, ragged=ragged, redshift=redshift)
    excluded = int((~catalog.ok).sum())
    if excluded:
        logger.warning("%s: %d of %d rows lack a measurement or a redshift; see their status", source, excluded, len(catalog))
    return catalog
