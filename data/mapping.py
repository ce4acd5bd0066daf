"""Mapping files: which columns of a catalogue are which band, in which unit, and how extinction is undone."""

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from sedcast.data.asinh import POGSON, asinh_flux, asinh_flux_error, softening_nanomaggies
from sedcast.data.catalog import NANOMAGGIES_PER_UNIT, Catalog
from sedcast.data.catalog_columns import (
    as_numbers,
    as_texts,
    check_ids,
    check_not_magnitudes,
    check_redshifts,
    is_missing_code,
    is_one_of,
)
from sedcast.data.checks import as_names
from sedcast.data.config import Config, load_config
from sedcast.data.errors import CatalogError, ConfigError
from sedcast.data.mapping_checks import (
    USUAL_MAGNITUDES,
    USUAL_TRANSMISSION,
    check_spread,
    check_usual,
    find_limits,
    warn_of_limits,
    warn_of_spreads,
)
from sedcast.data.sdss import SDSS_BANDS
from sedcast.data.tables import TableFile, open_table
from sedcast.data.units import contradicts, known_unit, unknown_unit

__all__ = [
    "BUNDLED_MAPPINGS",
    "BandColumns",
    "CatalogMapping",
    "Extinction",
    "Limit",
    "bundled_mapping",
    "load_mapping",
    "map_rows",
    "read_mapped",
]

BUNDLED_MAPPINGS = ("nsa-v0", "nsa-v1", "nsa-v1-sersic", "kcorrect-sdss", "kcorrect-full", "desi-legacy", "desi-legacy-dr10")
"""Names that `load_mapping` knows."""

_MAGNITUDES = ("AB", "asinh")
_ENOUGH_ROWS = 30
_COLOUR_EXCESS = re.compile(r"e[_(]?b[-_]?m?v")
# Beyond it, in magnitudes, an extinction that is too low is a code for none; measured ones scatter about zero.
_LEAST_EXTINCTION = -0.5

Index = Annotated[int, Field(ge=0)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
"""Of an element of a vector, or, a number for each axis, of a longer array; from 0."""

Unit = Literal["nanomaggies", "maggies", "nJy", "uJy", "mJy", "Jy", "AB", "asinh"]


class Extinction(Config):
    """Galactic extinction that the fluxes are still to be corrected for.

    Parameters
    ----------
    column, index : where it is; `index` in a vector column, a list of numbers in one of more axes.
    kind : ``magnitudes``, or ``transmission``, a factor of flux.
    factor : what magnitudes are multiplied by: A per magnitude of the column, where that is E(B-V).
    """

    column: str
    index: Index | None = None
    kind: Literal["magnitudes", "transmission"] = "magnitudes"
    factor: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _as_its_name_says(self) -> "Extinction":
        name, said = self.column.lower(), self.model_fields_set
        if "transmission" in name and "kind" not in said:
            raise ValueError(
                f"column {self.column!r} seems to be a factor of flux: say kind = 'transmission', or 'magnitudes' if it is not"
            )
        if _COLOUR_EXCESS.match(name) and not {"factor", "kind"} & said:
            raise ValueError(
                f"column {self.column!r} seems to be E(B-V): say factor = A / E(B-V) of the band, 1.0 if it is A itself"
            )
        if self.kind == "transmission" and "factor" in said:
            raise ValueError("'factor' is of magnitudes: leave it out with kind = 'transmission'")
        return self


class Limit(Config):
    """Upper limits that stand in the column of fluxes in place of measurements: of them a flux of 0 is made, with an error.

    Parameters
    ----------
    sigma : how many standard deviations of the noise the limit is.
    column, index : flags, true or not 0 where there is a limit; without it that is where the error is negative.
    """

    sigma: float = Field(gt=0, allow_inf_nan=False)
    column: str | None = None
    index: Index | None = None

    @model_validator(mode="after")
    def _index_of_a_column(self) -> "Limit":
        if self.column is None and self.index is not None:
            raise ValueError("'index' is of a column of flags: name it, column = ..., or leave 'index' out")
        return self


class BandColumns(Config):
    """One band's columns.

    Parameters
    ----------
    flux : column of fluxes or magnitudes.
    index : element of vector columns; of columns of more axes (FITS: TDIM) a list, one number an axis, in the order of NumPy
        and HDF5, which is the reverse of TDIM's.
    error_index : that of `ivar` or `error`, if not the same.
    ivar, error : one of them: inverse variance of the flux, or error in the unit of the flux (of a magnitude, magnitudes).
    unit : if not the mapping's.
    extinction : if the fluxes are not corrected for it.
    ab_offset : m_AB - m of the catalogue, magnitudes.
    floor : error to add in quadrature, magnitudes.
    softening : b of asinh magnitudes, maggies; not needed for u g r i z of SDSS.
    limit : if the fluxes of some rows are upper limits.
    """

    flux: str
    index: Index | None = None
    error_index: Index | None = None
    ivar: str | None = None
    error: str | None = None
    unit: Unit | None = None
    extinction: Extinction | None = None
    ab_offset: float = Field(default=0.0, allow_inf_nan=False)
    floor: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    softening: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    limit: Limit | None = None

    @model_validator(mode="after")
    def _one_error(self) -> "BandColumns":
        if (self.ivar is None) == (self.error is None):
            raise ValueError("expected one of 'ivar' and 'error'")
        return self


class CatalogMapping(Config):
    """How a catalogue's table is read.

    Parameters
    ----------
    bands : by the name that the model has for it.
    unit : of the fluxes.
    id : column, or columns to join by ``-``; row numbers if not given.
    redshift : column, if the catalogue has one.
    missing : values that mean that there is no measurement, besides NaN.
    hdu : which table of a FITS file, by name or number (1 is the first extension); by default the first that there is.
    """

    bands: dict[str, BandColumns] = Field(min_length=1)
    unit: Unit = "nanomaggies"
    id: str | list[str] | None = None
    redshift: str | None = None
    missing: list[float] = Field(default_factory=list)
    hdu: str | int | None = None

    @model_validator(mode="after")
    def _errors_of_magnitudes(self) -> "CatalogMapping":
        for name, band in self.bands.items():
            unit = band.unit or self.unit
            if unit in _MAGNITUDES and band.error is None:
                raise ValueError(f"band {name!r} is in magnitudes: expected 'error', in magnitudes")
            if unit == "asinh" and band.softening is None and name not in SDSS_BANDS:
                raise ValueError(
                    f"band {name!r} is in asinh magnitudes and not of SDSS: expected 'softening', their b in maggies"
                )
        return self

    def only(self, bands: Iterable[str]) -> "CatalogMapping":
        """The same of some of its bands, in its order: the columns of the others need not be there.

        Raises
        ------
        ConfigError : if it lacks a band, or none is named.
        """
        wanted = as_names("bands", bands)
        absent = [band for band in wanted if band not in self.bands]
        if absent or not wanted:
            raise ConfigError(
                f"bands {', '.join(absent) or 'none'}: the mapping has {', '.join(self.bands)}, name some of these"
            )
        return self.model_copy(update={"bands": {name: band for name, band in self.bands.items() if name in wanted}})


def load_mapping(mapping: str | Path) -> CatalogMapping:
    """A bundled mapping by its name, or the user's own from a TOML file.

    Raises
    ------
    ConfigError : if there is no such mapping, or the file does not fit `CatalogMapping`.
    """
    path = Path(mapping)
    if str(mapping) in BUNDLED_MAPPINGS:
        path = bundled_mapping(str(mapping))
    elif not path.is_file():
        raise ConfigError(f"no mapping {str(mapping)!r}: expected a TOML file, or one of {', '.join(BUNDLED_MAPPINGS)}")
    return load_config(path, CatalogMapping)


def bundled_mapping(name: str) -> Path:
    """The file of a bundled mapping.

    Raises
    ------
    ConfigError : if there is no such mapping.
    """
    if name not in BUNDLED_MAPPINGS:
        raise ConfigError(f"no bundled mapping {name!r}: expected one of {', '.join(BUNDLED_MAPPINGS)}")
    return Path(str(files("sedcast.data").joinpath("bundled", f"mapping_{name}.toml")))


def read_mapped(path: str | Path, mapping: CatalogMapping, *, n_rows: int | None = None) -> Catalog:
    """A whole catalogue, or its first rows, as `map_rows` reads it."""
    table = open_table(path, mapping.hdu)
    return map_rows(table, mapping, 0, table.n_rows if n_rows is None else min(n_rows, table.n_rows))


def map_rows(table: TableFile, mapping: CatalogMapping, start: int, stop: int) -> Catalog:
    """Rows `start` to `stop` of a table, as AB nanomaggies corrected for Galactic extinction.

    Per band, in this order: unit, limits, extinction, AB offset, floor.

    Raises
    ------
    CatalogError : if a column is missing, not numeric, or has not the shape that the mapping says.
    """
    table.hold(*_columns_of(table, mapping), start, stop)
    pairs = [
        _band(table, band, band.unit or mapping.unit, mapping.missing, name, start, stop)
        for name, band in mapping.bands.items()
    ]
    if "unit" not in mapping.model_fields_set:
        _check_known(table, [band for band in mapping.bands.values() if band.unit is None])
    flux, ivar = np.stack([pair[0] for pair in pairs], axis=1), np.stack([pair[1] for pair in pairs], axis=1)
    zred = np.full(stop - start, np.nan) if mapping.redshift is None else _redshifts(table, mapping, start, stop)
    # A few rows of many may be anything.
    if start == 0 and (stop == table.n_rows or stop >= _ENOUGH_ROWS):
        _check_first(table, mapping, (start, stop))
    return Catalog(_ids(table, mapping.id, start, stop), tuple(mapping.bands), flux, ivar, zred)


def _columns_of(table: TableFile, mapping: CatalogMapping) -> tuple[set[str], set[str]]:
    """The columns that a mapping reads, of those that the table has, and which of them are ids."""
    ids = {mapping.id} if isinstance(mapping.id, str) else {*(mapping.id or ())}
    read = {column for band in mapping.bands.values() for column in (band.flux, band.ivar, band.error)}
    read |= {band.extinction.column for band in mapping.bands.values() if band.extinction is not None}
    read |= {band.limit.column for band in mapping.bands.values() if band.limit is not None}
    found = []
    for names in (read | ids | {mapping.redshift}, ids):
        found.append({same[0] for name in names if name and len(same := _same_name(table, name)) == 1})
    return found[0], found[1]


def _check_first(table: TableFile, mapping: CatalogMapping, rows: tuple[int, int]) -> None:
    """Refuse a table whose first rows cannot be what the mapping says."""
    bands = [(name, band, band.unit or mapping.unit) for name, band in mapping.bands.items()]
    found = [_numbers(table, band.flux, band.index, *rows) for _, band, _ in bands]
    for read in (read for read, (_, _, unit) in zip(found, bands, strict=True) if unit not in _MAGNITUDES):
        read[is_one_of(read, mapping.missing) | is_missing_code(read)] = np.nan
    stated = [known_unit(table.units.get(_named(table, band.flux))) for _, band, _ in bands]
    if None in stated and not any(unit in _MAGNITUDES for _, _, unit in bands):
        check_not_magnitudes(np.stack(found, axis=1), tuple(mapping.bands), table.path)
    limits, doubts = {}, []
    for read, (name, band, unit) in zip(found, bands, strict=True):
        spread = _spread(table, band, *rows)
        spread[_limits(table, band, spread, mapping.missing, *rows)] = np.nan
        if unit in _MAGNITUDES:
            limits[name] = int(find_limits(read, spread, mapping.missing).sum())
            what = f"column {band.flux!r} of band {name!r}"
            check_usual(read + band.ab_offset, USUAL_MAGNITUDES, what, "magnitudes: fluxes need another unit")
        else:
            spread[is_one_of(spread, mapping.missing)] = np.nan
            column, is_ivar = band.ivar or str(band.error), band.ivar is not None
            doubts.append(check_spread(read, spread, column, name, inverse_variance=is_ivar))
            magnitude = 22.5 - 2.5 * np.log10(read[read > 0] * NANOMAGGIES_PER_UNIT[unit])
            what = f"the AB magnitude of column {band.flux!r} of band {name!r}, read as {unit},"
            check_usual(magnitude, USUAL_MAGNITUDES, what, "galaxies' magnitudes: give the fluxes' own unit")
        if band.extinction is not None and band.extinction.kind == "transmission":
            through = _numbers(table, band.extinction.column, band.extinction.index, *rows)
            what = f"column {band.extinction.column!r} of band {name!r}"
            check_usual(through, USUAL_TRANSMISSION, what, "factors of flux: extinctions need kind = 'magnitudes'")
    warn_of_spreads(doubts, table.path)
    warn_of_limits(limits, rows[1], table.path)
    if mapping.redshift is not None:
        zred = _redshifts(table, mapping, *rows)
        # The first rows may well be stars.
        check_redshifts(zred[zred > 0], mapping.redshift)


def _redshifts(table: TableFile, mapping: CatalogMapping, start: int, stop: int) -> np.ndarray:
    zred = _numbers(table, str(mapping.redshift), None, start, stop)
    zred[is_one_of(zred, mapping.missing) | is_missing_code(zred)] = np.nan
    return zred


def _check_known(table: TableFile, bands: Iterable[BandColumns]) -> None:
    """Refuse columns that state a unit which is not known, of bands for which the mapping has none."""
    for name in filter(None, (column for band in bands for column in (band.flux, band.ivar, band.error))):
        if unknown_unit(stated := table.units.get(_named(table, name), "")):
            raise CatalogError(
                f"column {name!r} says its unit is {stated!r}, which is not known: say in the mapping what it is in, such as "
                'unit = "uJy"'
            )


def _check_unit(table: TableFile, name: str | None, unit: str, *, inverse_variance: bool = False) -> None:
    stated = table.units.get(_named(table, name), "") if name else ""
    if contradicts(stated, unit, inverse_variance=inverse_variance, counts=True):
        raise CatalogError(
            f"column {name!r} says its unit is {stated!r}, but the mapping's is {unit!r}{' to the -2' * inverse_variance}: "
            "correct one of them"
        )


def _named(table: TableFile, name: str) -> str:
    """The name of a column in the table: that of the mapping, or the only one that differs in capitals alone."""
    same = _same_name(table, name)
    if len(same) != 1:
        listed = ", ".join(table.names[:40]) + (" ..." if len(table.names) > 40 else "")
        which = f"table {table.hdu!r}" if len(table.tables) > 1 else "table"
        raise CatalogError(f"no column {name!r}, which the mapping names. The {which} has: {listed}{_elsewhere(table, name)}")
    return same[0]


def _same_name(table: TableFile, name: str) -> list[str]:
    if name in table.names:
        return [name]
    return [other for other in table.names if other.lower() == name.lower()]


def _elsewhere(table: TableFile, name: str) -> str:
    """Which other tables of the file have a column."""
    others = {key: {column.lower() for column in columns} for key, columns in table.tables.items() if key != table.hdu}
    if having := [repr(key) for key, columns in others.items() if name.lower() in columns]:
        return (
            f". Of the file's other tables {', '.join(having)} has it: say hdu = {having[0]} in the mapping; columns of "
            "several tables must be joined first"
        )
    return f". The file's other tables, {', '.join(map(repr, others))}, do not have it either" if others else ""


def _column(table: TableFile, name: str, start: int, stop: int) -> np.ndarray:
    return table.read(_named(table, name), start, stop)


def _numbers(table: TableFile, name: str, index: Index | None, start: int, stop: int, *, flags: bool = False) -> np.ndarray:
    """A column, or an element of a vector one, as float64 (n,); truth values are numbers if they are `flags`."""
    column = _column(table, name, start, stop)
    values = as_numbers(name, column.astype(np.int8) if flags and column.dtype.kind == "b" else column, start)
    place = [] if index is None else [index] if isinstance(index, int) else index
    shape = values.shape[1:]
    if len(place) != len(shape) or any(number >= length for number, length in zip(place, shape, strict=True)):
        expected = " and ".join(f"0 to {length - 1}" for length in shape)
        expected = f"index = {'one number' if len(shape) == 1 else f'a list of {len(shape)}'}, {expected}" if shape else "none"
        raise CatalogError(
            f"column {name!r} has shape {shape} per row, which does not go with index={index} in the mapping: "
            f"expected {expected}"
        )
    for number in place:
        values = values[:, number]
    return values


def _ids(table: TableFile, names: str | list[str] | None, start: int, stop: int) -> np.ndarray:
    if names is None:
        return np.arange(start, stop)
    names = [names] if isinstance(names, str) else names
    columns = [check_ids(name, _column(table, name, start, stop), start) for name in names]
    if len(columns) == 1 and columns[0].dtype.kind in "iu":
        return columns[0]
    texts = [as_texts(name, column).astype(str) for name, column in zip(names, columns, strict=True)]
    return np.array(["-".join(row) for row in zip(*texts, strict=True)], dtype=str)


def _band(
    table: TableFile, band: BandColumns, unit: str, missing: list[float], name: str, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Flux and ivar (n,) of a band in nanomaggies; where there is no measurement, NaN and 0."""
    value = _numbers(table, band.flux, band.index, start, stop)
    for column in (band.flux, band.error):
        _check_unit(table, column, unit)
    _check_unit(table, band.ivar, unit, inverse_variance=True)
    spread = _spread(table, band, start, stop)
    limits = _limits(table, band, spread, missing, start, stop)
    is_magnitude = unit in _MAGNITUDES
    value[is_one_of(value, missing) | is_missing_code(value, magnitudes=is_magnitude)] = np.nan
    spread[is_one_of(spread, missing) | (is_magnitude & is_missing_code(spread, magnitudes=True))] = np.nan
    with np.errstate(all="ignore"):
        sigma = np.where(np.isfinite(spread) & (spread > 0), spread**-0.5 if band.ivar else spread, np.nan)
        if unit == "AB":
            flux = 10.0 ** (0.4 * (22.5 - value))
            sigma = flux * sigma / POGSON
        elif unit == "asinh":
            softening = softening_nanomaggies(name) if band.softening is None else 1e9 * band.softening
            flux = asinh_flux(value, softening)
            sigma = asinh_flux_error(flux, sigma, softening)
        else:
            flux, sigma = value * NANOMAGGIES_PER_UNIT[unit], sigma * NANOMAGGIES_PER_UNIT[unit]
        if band.limit is not None:
            sigma = np.where(limits, np.where(flux > 0, flux / band.limit.sigma, np.nan), sigma)
            flux = np.where(limits, flux * 0, flux)
        factor = 10.0 ** (-0.4 * band.ab_offset) * _dereddening(table, band.extinction, missing, start, stop)
        flux, sigma = flux * factor, sigma * factor
        variance = sigma**2 + (band.floor * flux / POGSON) ** 2
        return flux, np.where(np.isfinite(flux) & (variance > 0), 1.0 / variance, 0.0)


def _spread(table: TableFile, band: BandColumns, start: int, stop: int) -> np.ndarray:
    """The column of inverse variances or errors, (n,)."""
    index = band.index if band.error_index is None else band.error_index
    return _numbers(table, band.ivar or str(band.error), index, start, stop)


def _limits(table: TableFile, band: BandColumns, spread: np.ndarray, missing: list[float], start: int, stop: int) -> np.ndarray:
    """Which rows have a limit in place of a flux, (n,) bool, by flags or by `spread`, the column of errors (n,) as it is."""
    if band.limit is None:
        return np.zeros(len(spread), dtype=bool)
    if band.limit.column is None:
        return (spread < 0) & ~is_one_of(spread, missing)
    flags = _numbers(table, band.limit.column, band.limit.index, start, stop, flags=True)
    return np.isfinite(flags) & (flags != 0) & ~is_one_of(flags, missing)


def _dereddening(table: TableFile, extinction: Extinction | None, missing: list[float], start: int, stop: int) -> np.ndarray:
    """What fluxes are multiplied by, (n,) or (1,); NaN where it is not known."""
    if extinction is None:
        return np.ones(1)
    values = _numbers(table, extinction.column, extinction.index, start, stop)
    # A zero may be "not measured" of a flux; as an extinction it is a value.
    values[(is_one_of(values, missing) & (values != 0)) | is_missing_code(values, magnitudes=True)] = np.nan
    if extinction.kind == "magnitudes":
        values[values < _LEAST_EXTINCTION] = np.nan
        return np.asarray(10.0 ** (0.4 * extinction.factor * values))
    return np.where((values > 0) & (values < 10 ** (-0.4 * _LEAST_EXTINCTION)), 1.0 / values, np.nan)
