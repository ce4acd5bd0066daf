"""Mapping files and table readers on small files of the surveys' own layouts."""

import pickle
from importlib.resources import files
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table

from sedcast.data.artifacts import load_artifact
from sedcast.data.asinh import SOFTENING, asinh_magnitude, softening_nanomaggies
from sedcast.data.catalog import Catalog, load_sdss_sample, read_catalog
from sedcast.data.config import parse_config
from sedcast.data.errors import CatalogError, ConfigError, ParameterError
from sedcast.data.filters import BANDS, load_filter
from sedcast.data.mapping import BUNDLED_MAPPINGS, CatalogMapping, load_mapping, map_rows, read_mapped
from sedcast.data.mapping_checks import USUAL_MAGNITUDES, check_usual
from sedcast.data.sdss_flags import sdss_clean, sdss_flag_word
from sedcast.data.tables import open_table

N = 11


def nsa_table(flux: str) -> Table:
    rng = np.random.default_rng(3)
    values = rng.uniform(10, 1000, (N, 7)).astype("f4")
    return Table(
        {
            "NSAID": np.arange(N, dtype="i4") + 500,
            "Z": rng.uniform(0.01, 0.15, N).astype("f4"),
            "EXTINCTION": np.full((N, 7), 0.5, dtype="f4"),
            f"{flux.replace('NMGY', 'FLUX')}": values / 2,
            flux: values,
            f"{flux}_IVAR": np.full((N, 7), 4.0, dtype="f4"),
        }
    )


@pytest.mark.parametrize(("name", "flux"), [("nsa-v0", "NMGY"), ("nsa-v1", "ELPETRO_NMGY"), ("nsa-v1-sersic", "SERSIC_NMGY")])
def test_the_nsa_files_are_read_as_corrected_nanomaggies_in_their_order(tmp_path: Path, name: str, flux: str) -> None:
    table = nsa_table(flux)
    table.write(tmp_path / "nsa.fits")
    catalog = read_mapped(tmp_path / "nsa.fits", load_mapping(name))
    assert catalog.bands == ("FUV", "NUV", "u", "g", "r", "i", "z")
    np.testing.assert_array_equal(catalog.flux, table[flux])
    np.testing.assert_allclose(catalog.flux_ivar, 4.0)
    assert catalog.ids.tolist() == list(range(500, 500 + N))
    np.testing.assert_array_equal(catalog.zred, table["Z"])


@pytest.mark.parametrize(("name", "extra"), [("desi-legacy", ()), ("desi-legacy-dr10", ("I",))])
def test_sweeps_are_corrected_by_their_transmission(name: str, extra: tuple[str, ...], tmp_path: Path) -> None:
    columns = {"RELEASE": np.full(2, 9010), "BRICKID": np.array([3, 4]), "OBJID": np.array([7, 8])}
    for band in ("G", "R", "Z", "W1", "W2", *extra):
        columns |= {f"FLUX_{band}": np.array([8.0, -1.0]), f"FLUX_IVAR_{band}": np.array([1.0, 0.0])}
        columns |= {f"MW_TRANSMISSION_{band}": np.array([0.8, 0.5])}
    Table(columns).write(tmp_path / "sweep.fits")
    catalog = read_mapped(tmp_path / "sweep.fits", load_mapping(name))
    assert sorted(band[-1].upper() for band in catalog.bands) == sorted(["G", "R", "Z", "1", "2", *extra])
    np.testing.assert_allclose(catalog.flux[0], 10.0)
    np.testing.assert_allclose(catalog.flux_ivar[0], 0.64)
    assert (catalog.flux_ivar[1] == 0).all()
    assert catalog.ids.tolist() == ["9010-3-7", "9010-4-8"]


def test_the_sdss_sample_is_read_as_its_own_reader_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    shape = (N, 5)
    Table(
        {
            "MODELFLUX": rng.uniform(1, 99, shape),
            "MODELFLUX_IVAR": rng.uniform(1, 9, shape),
            "EXTINCTION": rng.uniform(0, 1, shape),
            "Z": rng.uniform(0.1, 0.2, N),
        }
    ).write(tmp_path / "sdss.fits")
    mine, own = read_mapped(tmp_path / "sdss.fits", load_mapping("kcorrect-sdss")), read_catalog(tmp_path / "sdss.fits")
    np.testing.assert_allclose(mine.flux, own.flux, rtol=1e-12)
    np.testing.assert_allclose(mine.flux_ivar, own.flux_ivar, rtol=1e-12)


UNITS = {"nanomaggies": 1.0, "maggies": 1e-9, "uJy": 3.631, "mJy": 3.631e-3, "Jy": 3.631e-6}


@pytest.mark.parametrize("suffix", ["fits", "h5", "ecsv", "csv", "parquet"])
def test_every_format_and_unit_gives_the_same_fluxes(tmp_path: Path, suffix: str) -> None:
    flux, sigma = np.array([100.0, 250.0, 30.0]), np.array([1.0, 2.0, 3.0])
    columns = {"name": np.array(["a", "b", "c"]), "zspec": np.array([0.1, 0.2, 0.3])}
    bands = {}
    for unit, factor in UNITS.items():
        columns |= {f"f_{unit}": flux * factor, f"e_{unit}": sigma * factor}
        bands[unit] = {"flux": f"f_{unit}", "error": f"e_{unit}", "unit": unit}
    columns |= {"m": 22.5 - 2.5 * np.log10(flux), "e_m": 2.5 / np.log(10) * sigma / flux}
    bands["AB"] = {"flux": "m", "error": "e_m", "unit": "AB"}
    bands["r"] = {"flux": "m", "error": "e_m", "unit": "asinh"}
    path = tmp_path / f"table.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                file[name] = np.char.encode(values) if values.dtype.kind == "U" else values
    elif suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    else:
        Table(columns).write(path)
    mapping = parse_config({"bands": bands, "id": "name", "redshift": "zspec"}, CatalogMapping)
    catalog = read_mapped(path, mapping)
    assert catalog.ids.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(catalog.zred, columns["zspec"])
    # An asinh magnitude of a bright source is an ordinary one.
    np.testing.assert_allclose(catalog.flux, np.tile(flux[:, None], 7), rtol=1e-4)
    np.testing.assert_allclose(catalog.sigma, np.tile(sigma[:, None], 7), rtol=1e-4)
    parts = [map_rows(open_table(path), mapping, *rows) for rows in ((0, 2), (2, 3))]
    np.testing.assert_array_equal(np.concatenate([part.flux for part in parts]), catalog.flux)


def test_scaled_and_null_columns_of_fits(tmp_path: Path) -> None:
    columns = [
        fits.Column("big", "J", bzero=2**31, array=np.array([1, 2**32 - 1], dtype="u4")),
        fits.Column("holes", "J", null=-1, array=np.array([5, -1], dtype="i4")),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    table = open_table(tmp_path / "t.fits")
    assert table.read("big", 0, 2).tolist() == [1, 2**32 - 1]
    np.testing.assert_array_equal(table.read("holes", 0, 2), [5, np.nan])


@pytest.mark.parametrize("name", BUNDLED_MAPPINGS)
def test_bundled_mappings_are_valid(name: str) -> None:
    for band in load_mapping(name).bands:
        assert load_filter(band).name == band


@pytest.mark.parametrize(
    ("band", "words"),
    [
        ({"flux": "f"}, "one of 'ivar' and 'error'"),
        ({"flux": "f", "ivar": "i", "unit": "AB"}, "expected 'error'"),
        ({"flux": "f", "ivar": "i", "unit": "furlongs"}, "bands.r.unit"),
        ({"flux": "f", "ivar": "i", "indx": 2}, "indx"),
        ({"flux": "f", "ivar": "i", "extinction": {"column": "MW_TRANSMISSION_R"}}, "say kind = 'transmission'"),
        ({"flux": "f", "ivar": "i", "extinction": {"column": "ebv"}}, r"say factor = A / E\(B-V\)"),
        ({"flux": "f", "ivar": "i", "extinction": {"column": "E(B-V)"}}, r"say factor = A / E\(B-V\)"),
        (
            {"flux": "f", "ivar": "i", "extinction": {"column": "T", "kind": "transmission", "factor": 2.0}},
            "'factor' is of magnitudes",
        ),
    ],
)
def test_wrong_mappings_are_refused(band: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config({"bands": {"r": band}}, CatalogMapping)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    nsa_table("NMGY").write(tmp_path / "nsa.fits")
    with pytest.raises(CatalogError, match="ELPETRO_NMGY"):
        read_mapped(tmp_path / "nsa.fits", load_mapping("nsa-v1"))
    flat = {"bands": {"r": {"flux": "NMGY", "ivar": "NMGY_IVAR"}}}
    with pytest.raises(CatalogError, match="index"):
        read_mapped(tmp_path / "nsa.fits", parse_config(flat, CatalogMapping))
    with pytest.raises(ConfigError, match="no mapping"):
        load_mapping("nsa-v9")
    whole = (tmp_path / "nsa.fits").read_bytes()
    for name, content in {"cut.fits": whole[:5000], "noise.h5": b"noise", "none.csv": b"a,b\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CatalogError):
            read_mapped(tmp_path / name, load_mapping("nsa-v0"))


MAGNITUDES = {"error": "S", "extinction": {"column": "E", "factor": 4.0}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "uJy"}, "'F' says its unit is 'nmgy', but the mapping's is 'uJy'"),
        ({"unit": "AB"}, "'F' says its unit is 'nmgy', but the mapping's is 'AB'"),
        (
            {"bands": {"r": {"flux": "F", "ivar": "I"}}},
            "'I' says its unit is '1 / uJy2', but the mapping's is 'nanomaggies' to the -2",
        ),
        ({"redshift": "V"}, "Is it a velocity in km/s"),
        ({"bands": {"u": MAGNITUDES | {"flux": "Mu"}, "r": MAGNITUDES | {"flux": "Mr"}}}, "look like magnitudes"),
    ],
)
def test_what_a_mapping_cannot_mean_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    table = Table({"F": [11.0, 20.0], "S": [0.1, 0.1], "I": [1.0, 1.0], "Z": [0.1, 0.2], "V": [3e4, 6e4]})
    table["Mu"], table["Mr"], table["E"] = [19.0, 18.0], [17.0, 16.5], [0.05, 0.5]
    table["F"].unit, table["I"].unit, table["E"].unit = "nmgy", "uJy^-2", "mag"
    table.write(tmp_path / "t.ecsv")
    mapping = {"redshift": "Z", "unit": "nanomaggies", "bands": {"r": {"flux": "F", "error": "S"}}}
    read_mapped(tmp_path / "t.ecsv", parse_config(mapping, CatalogMapping))
    with pytest.raises(CatalogError, match=said):
        read_mapped(tmp_path / "t.ecsv", parse_config(mapping | change, CatalogMapping))


def test_blue_fluxes_whose_unit_the_table_states_are_no_magnitudes(tmp_path: Path) -> None:
    table = Table({"flux_u": [19.0, 28.0], "flux_r": [17.0, 15.0], "flux_err_u": [1.0, 1.0], "flux_err_r": [1.0, 1.0]})
    table["z"] = 0.1
    bands = {band: {"flux": f"flux_{band}", "error": f"flux_err_{band}"} for band in "ur"}
    mapping = parse_config({"bands": bands, "redshift": "z", "unit": "nJy"}, CatalogMapping)
    table.write(tmp_path / "t.ecsv")
    with pytest.raises(CatalogError, match=r"look like magnitudes .* If they are fluxes, .* state the unit"):
        read_mapped(tmp_path / "t.ecsv", mapping)
    for name in table.colnames[:4]:
        table[name].unit = "nJy"
    table.write(tmp_path / "t.ecsv", overwrite=True)
    mapped = read_mapped(tmp_path / "t.ecsv", mapping)
    np.testing.assert_allclose(mapped.flux, np.array([[19.0, 17.0], [28.0, 15.0]]) / 3631)
    # Read by its columns' names, these would be magnitudes by their nanomaggies.
    for name in table.colnames[:4]:
        table[name] *= 3631
    np.testing.assert_allclose(read_catalog(table, bands=("u", "r")).flux, 3631 * mapped.flux)


def many(**band: Any) -> tuple[Table, CatalogMapping]:
    """Forty rows of all that may be taken for each other, and a mapping of a band."""
    rng = np.random.default_rng(0)
    table = Table({"flux": 10 ** rng.uniform(3, 5, 40), "mag": rng.uniform(18, 26, 40), "S": np.full(40, 0.1)})
    table["dust"], table["left"] = rng.uniform(0.01, 0.1, 40), rng.uniform(0.5, 1.0, 40)
    return table, parse_config({"bands": {"hsc2017-g": {"error": "S"} | band}}, CatalogMapping)


@pytest.mark.parametrize(
    ("band", "said"),
    [
        ({"flux": "flux", "unit": "AB"}, "'flux' of band 'hsc2017-g' runs from 1.* most values are no magnitudes"),
        ({"flux": "flux", "unit": "asinh", "softening": 1e-10}, "most values are no magnitudes"),
        ({"flux": "flux", "unit": "maggies"}, "'flux' of band 'hsc2017-g', read as maggies, .* most values are no galaxies'"),
        ({"flux": "flux", "extinction": {"column": "dust", "kind": "transmission"}}, "'dust' of band .* no factors of flux"),
    ],
)
def test_fluxes_are_no_magnitudes_and_extinctions_no_transmissions(tmp_path: Path, band: dict[str, Any], said: str) -> None:
    table, mapping = many(**band)
    table.write(tmp_path / "t.fits")
    with pytest.raises(CatalogError, match=said):
        read_mapped(tmp_path / "t.fits", mapping)


@pytest.mark.parametrize(
    "band",
    [
        {"flux": "mag", "unit": "AB"},
        {"flux": "flux", "unit": "nJy"},
        {"flux": "instrumental", "unit": "AB", "ab_offset": 30.0},
        {"flux": "flux", "extinction": {"column": "left", "kind": "transmission"}},
        {"flux": "mostly_none", "unit": "AB"},
    ],
)
def test_magnitudes_and_transmissions_are_what_they_are(tmp_path: Path, band: dict[str, Any]) -> None:
    table, mapping = many(**band)
    table["instrumental"] = table["mag"] - 30.0
    table["mostly_none"] = np.where(np.arange(40) < 30, 1e20, table["mag"])
    table.write(tmp_path / "t.fits")
    assert (read_mapped(tmp_path / "t.fits", mapping).flux_ivar[30:] > 0).all()


def test_a_few_rows_of_many_may_be_anything(tmp_path: Path) -> None:
    table = Table({"u": np.full(40, 20.0), "r": np.full(40, 18.0), "S": np.full(40, 0.1), "Z": np.full(40, -1.0)})
    table["u"][20:], table["r"][20:] = 100.0, 200.0
    table.write(tmp_path / "t.csv")
    bands = {band: {"flux": band, "error": "S"} for band in "ur"}
    mapping = parse_config({"redshift": "Z", "bands": bands}, CatalogMapping)
    whole = read_mapped(tmp_path / "t.csv", mapping)
    np.testing.assert_array_equal(read_mapped(tmp_path / "t.csv", mapping, n_rows=2).flux, whole.flux[:2])
    table = open_table(tmp_path / "t.csv")
    parts = [map_rows(table, mapping, start, min(start + 7, 40)) for start in range(0, 40, 7)]
    np.testing.assert_array_equal(np.concatenate([part.flux for part in parts]), whole.flux)


@pytest.mark.parametrize("suffix", ["fits", "csv", "ecsv", "h5"])
def test_an_id_that_is_blank_is_a_blank_text(tmp_path: Path, suffix: str) -> None:
    table = Table({"id": ["a", "", "c"], "flux_r": [30.0, 40.0, 50.0], "flux_err_r": [0.1, 0.1, 0.1], "zred": [0.1, 0.1, 0.1]})
    path = tmp_path / f"t.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            for name in table.colnames:
                file[name] = table[name].tolist()
            file["note"] = [b"caf\xe9", b"x", b"y"]
    else:
        table.write(path)
    mapping = {"id": "id", "redshift": "zred", "bands": {"r": {"flux": "flux_r", "error": "flux_err_r"}}}
    for catalog in (read_catalog(path), read_mapped(path, parse_config(mapping, CatalogMapping))):
        assert catalog.ids.tolist() == ["a", "", "c"]


def test_codes_for_no_measurement_are_known(tmp_path: Path) -> None:
    columns = {"M": [17.0, 99.0, -99.0, 27.5, 27.5], "F": [30.0, -999.0, 40.0, 40.0, 40.0], "S": [0.1] * 5}
    columns["E"] = [0.1, 0.1, 0.1, 99.0, -1.0]  # of limits
    Table(columns).write(tmp_path / "t.csv")
    bands = {"g": {"flux": "M", "error": "E", "unit": "AB"}, "r": {"flux": "F", "error": "S"}}
    catalog = read_mapped(tmp_path / "t.csv", parse_config({"bands": bands}, CatalogMapping))
    assert ((catalog.flux_ivar > 0) == [[True, True], [False, False], *[[False, True]] * 3]).all()


def test_flags_agree_with_the_survey_query() -> None:
    bits = np.arange(63)
    words = (1 << 28) | (np.int64(1) << bits)
    # The mask of the archive's sample query of clean photometry, without its EDGE (bit 2).
    refused = (words & 0x8100000C00A0) != 0
    np.testing.assert_array_equal(sdss_clean(words), ~refused)
    assert not sdss_clean(np.array([0]))[0]
    both = (1 << 28) | (1 << 12) | (1 << 44)
    assert not sdss_clean(np.array([both]))[0]
    two = sdss_flag_word(np.array([-(2**31)], dtype="i4"), np.array([1 << 12], dtype="i4"))
    assert two[0] == (1 << 31) | (1 << 44)
    with pytest.raises(ParameterError, match="integers"):
        sdss_clean(np.array([1.0]))


def test_the_bundled_sample_has_the_bands_of_its_mapping() -> None:
    assert load_sdss_sample().bands == tuple(load_mapping("kcorrect-sdss").bands)


def test_the_full_sample_is_read_as_its_own_reader_does(tmp_path: Path) -> None:
    arrays, _ = load_artifact(Path(str(files("sedcast.data").joinpath("bundled", "sdss_sample.npz"))), "sdss-sample")
    Table(arrays).write(tmp_path / "sample.fits")
    mine, own = read_mapped(tmp_path / "sample.fits", load_mapping("kcorrect-full")), load_sdss_sample(bands=tuple(BANDS))
    assert mine.bands == own.bands
    np.testing.assert_array_equal(mine.flux_ivar > 0, own.flux_ivar > 0)
    assert (own.flux_ivar > 0).sum(axis=0).min() > 500
    np.testing.assert_allclose(mine.flux, own.flux, rtol=1e-5)
    np.testing.assert_allclose(mine.flux_ivar, own.flux_ivar, rtol=1e-5)


BIG = np.array([1237648720693755918, 1237648720693755919, 1237648720693755920])


def _of_ids(path: Path, ids: Any) -> np.ndarray:
    columns = {"F": [1.0, 2.0, 3.0], "S": [0.1, 0.1, 0.1], "Z": [0.1, 0.1, 0.1]}
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
        parquet.write_table(arrow.table({"ID": arrow.array(ids)} | columns), path)
    else:
        Table({"ID": MaskedColumn(ids)} | columns, masked=True).write(path)
    mapping = CatalogMapping.model_validate(
        {"id": "ID", "redshift": "Z", "unit": "nanomaggies", "bands": {"r": {"flux": "F", "error": "S"}}}
    )
    return read_mapped(path, mapping).ids


@pytest.mark.parametrize("suffix", [".fits", ".parquet"])
def test_integer_ids_keep_their_digits_and_a_missing_one_is_named(tmp_path: Path, suffix: str) -> None:
    none = [False, False, False]
    np.testing.assert_array_equal(_of_ids(tmp_path / f"all{suffix}", np.ma.MaskedArray(BIG, mask=none)), BIG)
    with pytest.raises(CatalogError, match="the id in column 'ID' of row 1 is none"):
        _of_ids(tmp_path / f"null{suffix}", np.ma.MaskedArray(BIG, mask=[False, True, False]))
    with pytest.raises(CatalogError, match="which floating-point numbers round"):
        _of_ids(tmp_path / f"float{suffix}", BIG.astype(float))
    with pytest.raises(CatalogError, match="of row 2 is 9223372036854775813, too large"):
        _of_ids(tmp_path / f"large{suffix}", np.array([1, 2, 2**63 + 5], dtype=np.uint64))


@pytest.mark.parametrize("kind", ["h5", "parquet"])
def test_masks_that_astropy_writes_beside_columns_are_heeded(kind: str, tmp_path: Path) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    flux = MaskedColumn([20.0, 20.0, 20.0], mask=[False, True, False])
    table = Table({"flux_r": flux, "flux_err_r": [1.0, 1.0, 1.0], "zred": [0.1, 0.1, 0.1]})
    path = tmp_path / f"t.{kind}"
    if kind == "h5":
        table.write(path, path="t", serialize_meta=True)
        assert read_catalog(path, bands=["r"]).status.tolist() == ["", "no measurement in r", ""]
    else:
        table.write(path)
    mapping = {"redshift": "zred", "unit": "nanomaggies", "bands": {"r": {"flux": "flux_r", "error": "flux_err_r"}}}
    catalog = read_mapped(path, parse_config(mapping, CatalogMapping))
    assert catalog.status.tolist() == ["", "no measurement in r", ""]


def test_an_extinction_that_is_not_known_is_no_measurement(tmp_path: Path) -> None:
    table = Table({"F": [20.0] * 4, "S": [1.0] * 4, "A": [0.1, -99.0, 5.0, 0.0], "z": [0.1] * 4})
    table.write(tmp_path / "t.ecsv")
    band = {"flux": "F", "error": "S", "extinction": {"column": "A"}}
    mapping = {"redshift": "z", "unit": "nanomaggies", "missing": [5.0, 0.0], "bands": {"r": band}}
    catalog = read_mapped(tmp_path / "t.ecsv", parse_config(mapping, CatalogMapping))
    assert catalog.status.tolist() == ["", "no measurement in r", "no measurement in r", ""]
    # Noise about zero is none; what no dust does is a code.
    codes = {"F": [20.0] * 5, "S": [1.0] * 5, "A": [-0.01, -1.0, -9.0, 99.0, 0.3], "T": [1.01, -1.0, 9.0, 99.0, 0.5]}
    Table(codes | {"z": [0.1] * 5}).write(tmp_path / "u.ecsv")
    for extinction in ({"column": "A"}, {"column": "T", "kind": "transmission"}):
        band["extinction"] = extinction
        catalog = read_mapped(tmp_path / "u.ecsv", parse_config(mapping | {"missing": []}, CatalogMapping))
        assert catalog.status.tolist() == ["", *["no measurement in r"] * 3, ""]


def test_rows_without_an_id_have_their_number_in_the_file(tmp_path: Path) -> None:
    Table({"F": [20.0, 30.0, 40.0], "S": [1.0] * 3}).write(tmp_path / "t.ecsv")
    mapping = parse_config({"unit": "nanomaggies", "bands": {"r": {"flux": "F", "error": "S"}}}, CatalogMapping)
    assert map_rows(open_table(tmp_path / "t.ecsv"), mapping, 1, 3).ids.tolist() == [1, 2]
    assert read_mapped(tmp_path / "t.ecsv", mapping, n_rows=2).ids.tolist() == [0, 1]
    assert read_mapped(tmp_path / "t.ecsv", mapping, n_rows=100).flux[:, 0].tolist() == [20.0, 30.0, 40.0]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("F,S,F\n1,2,3\n")
    with pytest.raises(CatalogError, match="two columns of the name 'F'"):
        open_table(tmp_path / "t.csv")


def test_codes_are_known_in_single_precision_and_infinite_weights_are_none(tmp_path: Path) -> None:
    columns = {"F": np.array([20, -99.9, 1e20, 20], dtype="f4"), "I": np.array([1, 1, 1, np.inf], dtype="f4"), "z": [0.1] * 4}
    Table(columns).write(tmp_path / "t.fits")
    mapping = {"redshift": "z", "missing": [-99.9, 1e20], "bands": {"r": {"flux": "F", "ivar": "I", "floor": 0.05}}}
    catalog = read_mapped(tmp_path / "t.fits", parse_config(mapping, CatalogMapping))
    assert catalog.status.tolist() == ["", *["no measurement in r"] * 3]


def test_a_unit_that_is_not_known_needs_one_in_the_mapping(tmp_path: Path) -> None:
    table = Table({"F": [20.0] * 4, "S": [1.0] * 4, "z": [0.1] * 4})
    table.write(tmp_path / "t.fits")
    fits.setval(tmp_path / "t.fits", "TUNIT1", value="wobblies", ext=1)
    mapping = {"redshift": "z", "bands": {"r": {"flux": "F", "error": "S"}}}
    with pytest.raises(CatalogError, match="'F' says its unit is 'wobblies', which is not known"):
        read_mapped(tmp_path / "t.fits", parse_config(mapping, CatalogMapping))
    catalog = read_mapped(tmp_path / "t.fits", parse_config(mapping | {"unit": "uJy"}, CatalogMapping))
    np.testing.assert_allclose(catalog.flux, 20 / 3.631)


def test_integers_are_scaled_without_overflow(tmp_path: Path) -> None:
    columns = [
        fits.Column("times_ten", "I", array=np.array([5000, -2])),
        fits.Column("signed", "B", bzero=-128, array=np.array([-128, 127], dtype="i1")),
        fits.Column("holes", "B", null=255, array=np.array([5, 255], dtype="u1")),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    fits.setval(tmp_path / "t.fits", "TSCAL1", value=10, ext=1)
    table = open_table(tmp_path / "t.fits")
    expected = Table.read(tmp_path / "t.fits")
    assert table.read("times_ten", 0, 2).tolist() == expected["times_ten"].tolist() == [50_000, -20]
    assert table.read("signed", 0, 2).tolist() == expected["signed"].tolist() == [-128, 127]
    np.testing.assert_array_equal(table.read("holes", 0, 2), [5, np.nan])


def test_ids_in_csv_are_integers_if_63_bits_hold_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ID,F,S,z\n13260518543048941568,20,1,0.1\n7,30,1,0.1\n")
    mapping = {"id": "ID", "redshift": "z", "bands": {"r": {"flux": "F", "error": "S"}}}
    catalog = read_mapped(tmp_path / "t.csv", parse_config(mapping, CatalogMapping))
    assert catalog.ids.tolist() == ["13260518543048941568", "7"]
    (tmp_path / "t.csv").write_text("ID,F,S,z\n1237648720693755918,20,1,0.1\n7,30,1,0.1\n")
    assert read_mapped(tmp_path / "t.csv", parse_config(mapping, CatalogMapping)).ids.tolist() == [1237648720693755918, 7]


def test_null_values_of_unsigned_integers(tmp_path: Path) -> None:
    columns = {
        "small": MaskedColumn(np.array([5, 7], dtype="u4"), mask=[False, True]),
        "large": MaskedColumn(np.array([2**63 + 1, 7], dtype="u8"), mask=[False, True]),
    }
    Table(columns).write(tmp_path / "t.fits")
    table = open_table(tmp_path / "t.fits")
    np.testing.assert_array_equal(table.read("small", 0, 2), [5, np.nan])
    np.testing.assert_array_equal(table.read("large", 0, 2), [2.0**63, np.nan])


def mapped(path: Path, columns: dict[str, Any], **mapping: Any) -> Catalog:
    Table(columns).write(path, overwrite=True)
    bands = {"r": {"flux": "flux_r", "error": "err"} | mapping.pop("r", {})}
    return read_mapped(path, parse_config({"bands": bands, **mapping}, CatalogMapping, "test"))


def test_codes_of_redshifts_are_no_redshifts(tmp_path: Path) -> None:
    columns = {"flux_r": np.full(40, 100.0), "err": np.ones(40), "zred": np.r_[np.full(35, -99.0), np.full(5, 0.1)]}
    catalog = mapped(tmp_path / "t.fits", columns, redshift="zred")
    assert np.isnan(catalog.zred[:35]).all()
    assert (catalog.zred[35:] == 0.1).all()
    columns["zred"][:35] = 7.0
    assert np.isnan(mapped(tmp_path / "t.fits", columns, redshift="zred", missing=[7.0]).zred[:35]).all()


def test_nanojanskys_and_names_in_other_capitals(tmp_path: Path) -> None:
    columns = {"FLUX_R": [3631.0], "ERR": [363.1]}
    table = Table(columns, units={"FLUX_R": "nJy", "ERR": "nJy"})
    np.testing.assert_allclose(mapped(tmp_path / "t.fits", dict(table.columns), unit="nJy").flux, [[1.0]])
    with pytest.raises(CatalogError, match="says its unit is 'nJy'"):
        mapped(tmp_path / "t.fits", dict(table.columns), unit="uJy")


def test_softening_of_asinh_magnitudes_of_other_surveys(tmp_path: Path) -> None:
    columns = {"flux_r": asinh_magnitude(np.array([0.3, 3.0]), softening_nanomaggies("z")), "err": [0.1, 0.1]}
    softening = SOFTENING["z"]
    Table(columns).write(tmp_path / "t.fits")
    bands = {"mine_z": {"flux": "flux_r", "error": "err", "unit": "asinh"}}
    with pytest.raises(ConfigError, match="expected 'softening'"):
        parse_config({"bands": bands}, CatalogMapping, "test")
    bands["mine_z"]["softening"] = softening
    mine = read_mapped(tmp_path / "t.fits", parse_config({"bands": bands}, CatalogMapping, "test"))
    np.testing.assert_allclose(mine.flux[:, 0], [0.3, 3.0])
    # Lupton et al. 1999, Eq. 5: near the softening an error is not that of an ordinary magnitude.
    np.testing.assert_allclose(mine.sigma[:, 0], 0.1 * np.log(10) / 2.5 * np.hypot([0.3, 3.0], 2e9 * softening))
    bands = {"z": {"flux": "flux_r", "error": "err", "unit": "asinh"}}
    known = read_mapped(tmp_path / "t.fits", parse_config({"bands": bands}, CatalogMapping, "test"))
    np.testing.assert_array_equal(mine.flux_ivar, known.flux_ivar)


@pytest.mark.parametrize(("dtype", "first"), [("f4", 2**24), ("f8", 2**53)])
def test_ids_in_floats_keep_their_digits_or_are_refused(dtype: str, first: int, tmp_path: Path) -> None:
    columns = {"id": np.array([123456, 3], dtype=dtype), "flux_r": [1.0, 1.0], "err": [1.0, 1.0]}
    assert mapped(tmp_path / "t.fits", columns, id="id").ids.tolist() == ["123456", "3"]
    columns["id"] = np.array([first, 3], dtype=dtype)
    with pytest.raises(CatalogError, match="which floating-point numbers round"):
        mapped(tmp_path / "t.fits", columns, id="id")


@pytest.mark.parametrize("suffix", ["hdf5", "parquet", "ecsv"])
def test_units_that_astropy_writes_beside_a_table_are_heeded(suffix: str, tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    table = QTable({"flux_r": [3.631] * u.uJy, "err": [0.3631] * u.uJy})
    options = {"path": "t", "serialize_meta": True} if suffix == "hdf5" else {}
    table.write(tmp_path / f"t.{suffix}", **options)
    mapping = {"bands": {"r": {"flux": "flux_r", "error": "err"}}}
    with pytest.raises(CatalogError, match="says its unit is 'uJy', but the mapping's is 'nanomaggies'"):
        read_mapped(tmp_path / f"t.{suffix}", parse_config(mapping, CatalogMapping, "test"))
    right = read_mapped(tmp_path / f"t.{suffix}", parse_config(mapping | {"unit": "uJy"}, CatalogMapping, "test"))
    np.testing.assert_allclose(right.flux, [[1.0]])


def of_two_tables(path: Path) -> dict[str, Any]:
    """A FITS file of redshifts in 'SPEC' and of fluxes in 'PHOT' and, half as large, in a table without a name."""
    phot = {"ID": [5, 6], "flux_r": [10.0, 20.0], "err": [1.0, 1.0]}
    tables = [{"Z": [0.1, 0.2, 0.3], "N": [1, 2, 3]}, phot, phot | {"flux_r": [5.0, 10.0]}]
    hdus = [fits.BinTableHDU(Table(columns)) for columns in tables]
    hdus[0].name, hdus[1].name = "SPEC", "PHOT"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return {"id": "ID", "bands": {"r": {"flux": "flux_r", "error": "err"}}}


@pytest.mark.parametrize(("hdu", "flux"), [("PHOT", 10.0), ("phot", 10.0), (2, 10.0), (3, 5.0)])
def test_a_table_of_several_in_fits_is_named_or_numbered(hdu: str | int, flux: float, tmp_path: Path) -> None:
    mapping = parse_config(of_two_tables(tmp_path / "t.fits") | {"hdu": hdu}, CatalogMapping)
    catalog = read_mapped(tmp_path / "t.fits", mapping)
    assert catalog.flux.tolist() == [[flux], [2 * flux]]
    assert catalog.ids.tolist() == [5, 6]
    # Another process opens the same one.
    table = pickle.loads(pickle.dumps(open_table(tmp_path / "t.fits", hdu)))
    assert table.read("flux_r", 0, 1).tolist() == [flux]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, r"no column 'flux_r'.* The table 'SPEC' has: Z, N. Of the file's other tables 'PHOT', 3 has it: say hdu = 'PHOT'"),
        ({"hdu": 3, "redshift": "z"}, "The table 3 has: ID, flux_r, err. Of the file's other tables 'SPEC' has it"),
        ({"hdu": "PHOT", "redshift": "zspec"}, "The file's other tables, 'SPEC', 3, do not have it either"),
        ({"hdu": "phots"}, r"has no table 'phots': expected as hdu .* of 'SPEC' \(1\), 'PHOT' \(2\), 3"),
        ({"hdu": 0}, "has no table 0"),
    ],
)
def test_columns_of_another_table_are_told_where_they_are(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    mapping = parse_config(of_two_tables(tmp_path / "t.fits") | change, CatalogMapping)
    with pytest.raises(CatalogError, match=said):
        read_mapped(tmp_path / "t.fits", mapping)


def test_only_fits_has_several_tables(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("flux_r,err\n1,1\n")
    mapping = parse_config({"hdu": 1, "bands": {"r": {"flux": "flux_r", "error": "err"}}}, CatalogMapping)
    with pytest.raises(CatalogError, match="hdu = 1 is which table of a FITS file, and this is none"):
        read_mapped(tmp_path / "t.csv", mapping)


@pytest.mark.parametrize("suffix", ["fits", "fits.gz"])
def test_without_a_mapping_the_only_table_with_fluxes_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    rows = {"flux_r": [10.0, 20.0], "flux_err_r": [1.0, 1.0], "zred": [0.1, 0.2]}
    named = rows | {"FLUX": rows["flux_r"]}
    del named["flux_r"]
    for columns, renamed in ((rows, {}), (named, {"flux_r": "FLUX"})):
        tables = [fits.BinTableHDU(Table(one)) for one in ({"RA": [1.0, 2.0, 3.0]}, columns)]
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path, overwrite=True)
        assert read_catalog(path, bands=["r"], columns=renamed).flux.tolist() == [[10.0], [20.0]]
    for others, said in (([], "and none of them"), ([rows, rows], "and 2, 3 of them")):
        tables = [fits.BinTableHDU(Table(one)) for one in ({"RA": [1.0]}, *others, {"DEC": [1.0]})]
        fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path, overwrite=True)
        with pytest.raises(CatalogError, match=f"{said} has columns of fluxes, .* by hdu = "):
            read_catalog(path)


@pytest.mark.parametrize("suffix", ["fits", "h5", "parquet"])
def test_elements_of_columns_with_two_axes(suffix: str, tmp_path: Path) -> None:
    # A band's flux and its error, (n, band, 2), as in one column; their extinction beside them.
    values = np.arange(1.0, 25.0).reshape(4, 3, 2)
    path = tmp_path / f"t.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            file["P"], file["A"] = values, values / 100
    elif suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"P": values.tolist(), "A": (values / 100).tolist()}), path)
    else:
        Table({"P": values, "A": values / 100}).write(path)
        assert fits.getval(path, "TDIM1", ext=1) == "(2,3)"
    band = {"flux": "P", "index": [2, 0], "error": "P", "error_index": [2, 1]}
    catalog = read_mapped(path, parse_config({"bands": {"r": band}}, CatalogMapping))
    np.testing.assert_allclose(catalog.flux[:, 0], values[:, 2, 0])
    np.testing.assert_allclose(catalog.sigma[:, 0], values[:, 2, 1])
    band["extinction"] = {"column": "A", "index": [0, 1]}
    dust = read_mapped(path, parse_config({"bands": {"r": band}}, CatalogMapping))
    np.testing.assert_allclose(dust.flux[:, 0], values[:, 2, 0] * 10 ** (0.004 * values[:, 0, 1]))
    for index, said in ((2, "index=2"), ([2, 2], r"index=\[2, 2\]"), ([2, 0, 0], "index="), (None, "index=None")):
        bands = {"r": {"flux": "P", "error": "P"} | ({} if index is None else {"index": index})}
        with pytest.raises(CatalogError, match=f"{said}.* expected index = a list of 2, 0 to 2 and 0 to 1"):
            read_mapped(path, parse_config({"bands": bands}, CatalogMapping))


@pytest.mark.parametrize("index", [-1, [], [0, -1], 1.5])
def test_an_index_is_not_negative(index: object) -> None:
    with pytest.raises(ConfigError, match=r"bands\.r\.index"):
        parse_config({"bands": {"r": {"flux": "F", "error": "E", "index": index}}}, CatalogMapping)


def test_the_index_of_the_error_may_be_another(tmp_path: Path) -> None:
    columns = {"F": [[1.0, 2.0], [3.0, 4.0]], "I": [[9.0, 4.0, 1.0], [9.0, 16.0, 1.0]]}
    Table(columns).write(tmp_path / "t.fits")
    band = {"flux": "F", "index": 0, "ivar": "I", "error_index": 1}
    catalog = read_mapped(tmp_path / "t.fits", parse_config({"bands": {"r": band}}, CatalogMapping))
    np.testing.assert_allclose(catalog.flux[:, 0], [1.0, 3.0])
    np.testing.assert_allclose(catalog.flux_ivar[:, 0], [4.0, 16.0])


@pytest.mark.parametrize("bands", [("decam2014-z", "decam2014-g"), ("z", "wise2010-W1", "lsst2023-g")])
def test_few_magnitudes_in_any_bands_are_no_fluxes(bands: tuple[str, ...], tmp_path: Path) -> None:
    magnitudes = dict(zip(bands, (18.3, 17.1, 19.0) if len(bands) == 3 else (18.3, 20.0), strict=True))
    Table({band: [m, m + 1, m + 2] for band, m in magnitudes.items()} | {"S": [0.1] * 3}).write(tmp_path / "m.fits")
    mapping = parse_config({"bands": {band: {"flux": band, "error": "S"} for band in bands}}, CatalogMapping)
    with pytest.raises(CatalogError, match="look like magnitudes"):
        read_mapped(tmp_path / "m.fits", mapping)
    fluxes = {band: 10 ** (0.4 * (22.0 - m)) * np.ones(3) for band, m in magnitudes.items()}
    Table(fluxes | {"S": [0.1] * 3}).write(tmp_path / "f.fits")
    assert (read_mapped(tmp_path / "f.fits", mapping).flux > 0).all()


ALL = ("FUV", "NUV", "u", "g", "r", "i", "z", "J", "H", "Ks")


def sky_and_photons(scale: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Fluxes and errors, nanomaggies times `scale`: the bundled sample and faint galaxies of a deep survey."""
    sample = load_sdss_sample(bands=ALL, calibrate=False)
    sample = sample.subset(slice(None, None, 4))
    found = {band: (sample.flux[:, k], sample.sigma[:, k]) for k, band in enumerate(ALL)}
    rng = np.random.default_rng(8)
    faint = 10 ** rng.uniform(-1.5, 1.5, 3000)
    for band, sky, gain in (("lsst2023-u", 0.02, 2000.0), ("decam2014-g", 0.06, 200.0)):
        sigma = np.sqrt((sky * rng.uniform(0.7, 1.5, 3000)) ** 2 + faint / gain)
        found[band] = (rng.normal(faint, sigma), sigma)
    # Nothing but noise.
    found["wise2010-W2"] = (rng.normal(0, sigma), sigma)
    return {band: (flux * scale, sigma * scale) for band, (flux, sigma) in found.items()}


def one_band(path: Path, band: str, key: str, flux: np.ndarray, values: np.ndarray, *, unit: str = "nanomaggies") -> Catalog:
    Table({"F": flux, "S": np.where(np.isfinite(values), values, 0)}).write(path, overwrite=True)
    return read_mapped(path, parse_config({"unit": unit, "bands": {band: {"flux": "F", key: "S"}}}, CatalogMapping))


SCALES = {"nanomaggies": 1.0, "maggies": 1e-9, "nJy": 3631.0, "uJy": 3.631}


@pytest.mark.parametrize("unit", SCALES)
def test_errors_and_inverse_variances_are_told_apart(unit: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    not_told = []
    for band, (flux, sigma) in sky_and_photons(SCALES[unit]).items():
        with np.errstate(divide="ignore"):
            right = {"error": sigma, "ivar": sigma**-2.0}
        for key, other in (("error", "ivar"), ("ivar", "error")):
            one_band(tmp_path / "t.fits", band, key, flux, right[key], unit=unit)
            assert not caplog.messages, (band, key)
            try:
                one_band(tmp_path / "t.fits", band, key, flux, right[other], unit=unit)
            except CatalogError as error:
                said = [str(error)]
            else:
                said = caplog.messages
            if any(f"column 'S', the {key} of band '{band}', seems to be its {other}" in text for text in said):
                assert f"rite {other} = 'S' in the mapping" in said[0]
            else:
                not_told.append((band, key))
            caplog.clear()
    assert not not_told


def test_doubts_of_several_bands_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns, bands = {}, {}
    for band, (flux, sigma) in sky_and_photons(1.0).items():
        if band in "ugr":
            columns |= {f"F{band}": flux, f"I{band}": sigma**-2.0}
            bands[band] = {"flux": f"F{band}", "error": f"I{band}"}
    bands["r"] = {"flux": "Fr", "ivar": "Ir"}
    Table(columns).write(tmp_path / "t.fits")
    read_mapped(tmp_path / "t.fits", parse_config({"bands": bands}, CatalogMapping))
    [said] = caplog.messages
    assert "column 'Iu', the error of band 'u', seems to be its ivar" in said
    assert said.endswith("write ivar = 'Iu' in the mapping (2 bands of 3)")


def test_inverse_variances_cannot_be_errors_where_nothing_would_be_seen(tmp_path: Path) -> None:
    flux, sigma = sky_and_photons(1e-9)["g"]
    with pytest.raises(CatalogError, match=r"as error the median signal-to-noise is .*e-26, as ivar 1"):
        one_band(tmp_path / "t.fits", "g", "error", flux, sigma**-2.0)
    # Few rows tell nothing, and constant errors have no trend.
    assert one_band(tmp_path / "t.fits", "g", "error", flux[:5], sigma[:5] ** -2.0).flux.shape == (5, 1)
    assert one_band(tmp_path / "t.fits", "g", "error", np.arange(1.0, 41.0), np.full(40, 0.1)).flux.shape == (40, 1)


def test_limits_in_magnitudes_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {
        "u": np.array([99.0, 20.0, 99.9, 20.0, -99.0], dtype="f4"),
        "e_u": [26.0, -1.0, 0.1, 0.1, -1.0],
        "r": [19.0] * 5,
        "e_r": [0.1] * 5,
        "z": [0.1] * 5,
    }
    Table(columns).write(tmp_path / "t.fits")
    bands = {band: {"flux": band, "error": f"e_{band}"} for band in "ur"}
    mapping = {"unit": "AB", "redshift": "z", "bands": bands}
    catalog = read_mapped(tmp_path / "t.fits", parse_config(mapping, CatalogMapping))
    assert [status != "" for status in catalog.status] == [True, True, True, False, True]
    [said] = caplog.messages
    assert "among the first 5 rows are limits (magnitudes of 99, errors of -1), 3 in u. They are read as bands" in said
    assert "in r" not in said
    caplog.clear()
    # Runs of rows that follow are not told again, and codes that the mapping lists are no limits.
    map_rows(open_table(tmp_path / "t.fits"), parse_config(mapping, CatalogMapping), 1, 5)
    read_mapped(tmp_path / "t.fits", parse_config(mapping | {"missing": [99.0, 99.9, -1.0]}, CatalogMapping))
    assert not caplog.messages


@pytest.mark.parametrize("suffix", ["fits", "csv", "ecsv", "h5", "parquet"])
def test_blanks_around_ids_do_not_count_in_any_format(suffix: str, tmp_path: Path) -> None:
    columns = {
        "id": [" a 1", "b ", "\tc"],
        "n": [" 7 ", "8", " 9"],
        "flux_r": [3.0] * 3,
        "flux_err_r": [1.0] * 3,
        "zred": [0.1] * 3,
    }
    path = tmp_path / f"t.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                file[name] = values
    elif suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path)
    else:
        Table(columns).write(path)
    mapping = {"redshift": "zred", "bands": {"r": {"flux": "flux_r", "error": "flux_err_r"}}}
    for ids, expected in (("id", ["a 1", "b", "c"]), (["id", "n"], ["a 1-7", "b-8", "c-9"])):
        assert read_mapped(path, parse_config(mapping | {"id": ids}, CatalogMapping)).ids.tolist() == expected
    assert read_catalog(path).ids.tolist() == ["a 1", "b", "c"]


@pytest.mark.parametrize("flags", [None, "FLAG", "FLAGS"])
@pytest.mark.parametrize("unit", ["AB", "uJy"])
def test_limits_of_k_sigma_become_a_flux_of_zero_and_its_error(
    unit: str, flags: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A measurement, a limit at 24 mag, a row without either, and a limit that is no flux.
    is_limit, limit = np.array([False, True, False, True]), 10 ** (-0.4 * (24.0 - 22.5))
    fluxes = np.array([10.0, limit, np.nan, np.nan])
    values, error = (22.5 - 2.5 * np.log10(fluxes), 0.1) if unit == "AB" else (3.631 * fluxes, 3.631)
    errors = np.where(is_limit, -1.0 if flags is None else error, error)
    columns = {
        "F": values,
        "E": errors,
        "FLAG": is_limit,
        "FLAGS": np.stack([0 * is_limit, 4 * is_limit], axis=1),
        "EBV": [0.1] * 4,
    }
    Table(columns).write(tmp_path / "t.fits")
    band = {"flux": "F", "error": "E", "floor": 0.02, "ab_offset": 0.1, "extinction": {"column": "EBV", "factor": 3.0}}
    band |= {"limit": {"sigma": 3} | ({} if flags is None else {"column": flags})}
    if flags == "FLAGS":
        band["limit"] |= {"index": 1}
    mapping = parse_config({"unit": unit, "bands": {"lsst2023-r": band}}, CatalogMapping)
    catalog = read_mapped(tmp_path / "t.fits", mapping)
    factor = 10 ** (0.4 * (0.3 - 0.1))
    assert catalog.flux[0, 0] == pytest.approx(10 * factor)
    assert catalog.flux[1, 0] == 0
    assert catalog.sigma[1, 0] == pytest.approx(limit / 3 * factor)
    assert catalog.flux_ivar[2:, 0].tolist() == [0, 0]
    assert not caplog.messages
    # Without the key limits by the error are not measured, as before.
    del band["limit"]
    without = read_mapped(tmp_path / "t.fits", parse_config({"unit": unit, "bands": {"lsst2023-r": band}}, CatalogMapping))
    assert (without.flux_ivar[1, 0] == 0) == (flags is None)


def test_codes_that_mean_missing_are_no_limits(tmp_path: Path) -> None:
    Table({"F": [20.0, 24.0, 99.0], "E": [0.1, -1.0, -2.0]}).write(tmp_path / "t.fits")
    values = {"unit": "AB", "bands": {"r": {"flux": "F", "error": "E", "limit": {"sigma": 5}}}}
    catalog = read_mapped(tmp_path / "t.fits", parse_config(values, CatalogMapping))
    assert (catalog.flux_ivar[:, 0] > 0).tolist() == [True, True, False]
    catalog = read_mapped(tmp_path / "t.fits", parse_config(values | {"missing": [-1.0]}, CatalogMapping))
    assert (catalog.flux_ivar[:, 0] > 0).tolist() == [True, False, False]
    Table({"F": [20.0, 24.0], "E": [0.1, 0.1], "FLAG": [-99, 2]}).write(tmp_path / "flags.fits")
    band = {"flux": "F", "error": "E", "limit": {"sigma": 5, "column": "FLAG"}}
    values = {"unit": "AB", "missing": [-99.0], "bands": {"r": band}}
    catalog = read_mapped(tmp_path / "flags.fits", parse_config(values, CatalogMapping))
    assert (catalog.flux[:, 0] > 0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("limit", "said"), [({"sigma": 0}, "greater than 0"), ({"sigma": 3, "index": 1}, "'index' is of a column of flags")]
)
def test_limits_that_cannot_be_are_refused(limit: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"bands": {"r": {"flux": "F", "error": "E", "limit": limit}}}, CatalogMapping)


def test_a_mapping_of_some_bands_needs_only_their_columns(tmp_path: Path) -> None:
    columns = {"RELEASE": [9010], "BRICKID": [3], "OBJID": [7]}
    for band in "GRIZ":
        columns |= {f"FLUX_{band}": [8.0], f"FLUX_IVAR_{band}": [1.0], f"MW_TRANSMISSION_{band}": [0.8]}
    Table(columns).write(tmp_path / "optical.fits")
    mapping, bands = load_mapping("desi-legacy-dr10"), [f"decam2014-{band}" for band in "zg"]
    with pytest.raises(CatalogError, match="no column 'FLUX_W1'"):
        read_mapped(tmp_path / "optical.fits", mapping)
    catalog = read_mapped(tmp_path / "optical.fits", mapping.only(bands))
    assert catalog.bands == ("decam2014-g", "decam2014-z")
    np.testing.assert_allclose(catalog.flux, 10.0)
    for wrong, said in ((["decam2014-u"], "bands decam2014-u: the mapping has decam2014-g"), ([], "bands none")):
        with pytest.raises(ConfigError, match=said):
            mapping.only(wrong)


def test_a_column_is_refused_where_most_of_its_values_are_odd() -> None:
    usual, nothing = np.linspace(15.0, 25.0, 20), np.array([np.nan, np.inf])
    check_usual(np.concatenate([usual, np.linspace(100.0, 200.0, 20), nothing]), USUAL_MAGNITUDES, "m", "magnitudes")
    for odd in (np.linspace(100.0, 200.0, 21), np.linspace(-9.0, 4.9, 21)):
        with pytest.raises(CatalogError, match=r"m runs from .*: most values are no magnitudes"):
            check_usual(np.concatenate([usual, odd, nothing]), USUAL_MAGNITUDES, "m", "magnitudes")
    # No survey has most of its galaxies beyond 5 or 40 mag; a few are near either end.
    for ends in ((5.0, 5.5), (39.5, 40.0)):
        check_usual(np.linspace(*ends, 40), USUAL_MAGNITUDES, "m", "magnitudes")
    for beyond in ((4.0, 4.9), (40.1, 41.0)):
        with pytest.raises(CatalogError, match="most values are no magnitudes"):
            check_usual(np.linspace(*beyond, 40), USUAL_MAGNITUDES, "m", "magnitudes")


def test_a_few_codes_may_stand_in_most_rows() -> None:
    usual, codes = np.linspace(15.0, 25.0, 20), np.array([-9999.0, -999.0, -99.0, 99.0, 999.0])
    check_usual(np.concatenate([usual, np.repeat(codes, 20)]), USUAL_MAGNITUDES, "m", "magnitudes")
    with pytest.raises(CatalogError, match="runs from -9999 to 1000"):
        check_usual(np.concatenate([usual, np.repeat(codes, 20), [1000.0]]), USUAL_MAGNITUDES, "m", "magnitudes")
