from importlib.resources import files
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.units import Jy, Unit, def_unit

from sedcast.data.artifacts import load_artifact
from sedcast.data.catalog import Catalog, apply_calibration, load_sdss_sample, read_catalog
from sedcast.data.catalog_columns import as_texts
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.sdss import sdss_photometry
from sedcast.data.tables import open_table

UGRIZ = ("u", "g", "r", "i", "z")


def make_table(n: int = 40, seed: int = 0) -> Table:
    sample = load_sdss_sample(calibrate=False).subset(np.random.default_rng(seed).choice(10_000, n, replace=False))
    table = Table({"id": sample.ids + 7, "zred": sample.zred})
    for index, band in enumerate(UGRIZ):
        table[f"flux_{band}"] = sample.flux[:, index]
        table[f"flux_ivar_{band}"] = sample.flux_ivar[:, index]
    return table


def test_extinction_and_units_of_one_row_by_hand() -> None:
    # E(B-V) = 0.1: A_r = 0.2751; a u flux behind 0.5 mag becomes 10^0.2 times brighter, its ivar 10^-0.4 times
    row = {
        "MODELFLUX": np.array([[10.0, 20.0, 30.0, 40.0, 50.0]]),
        "MODELFLUX_IVAR": np.array([[4.0, 1.0, 1.0, 1.0, 0.0]]),
        "EXTINCTION": np.array([[0.5, 0.4, 0.2751, 0.2, 0.1]]),
        "NUV_FLUX_AUTO": np.array([2.0]),
        "NUV_FLUXERR_AUTO": np.array([0.1]),
        "FUV_FLUX_AUTO": np.array([-99.0]),
        "FUV_FLUXERR_AUTO": np.array([-99.0]),
        "J_M_EXT": np.array([14.0]),
        "J_MSIG_EXT": np.array([0.1]),
        "H_M_EXT": np.array([14.0]),
        "H_MSIG_EXT": np.array([0.0]),
    }
    flux, ivar = sdss_photometry(row, ("u", "z", "NUV", "FUV", "J", "H"))
    assert flux[0, 0] == pytest.approx(10 * 10**0.2)
    assert ivar[0, 0] == pytest.approx(4 * 10**-0.4)
    assert (flux[0, [1, 3, 5]] == 0).all()
    assert (ivar[0, [1, 3, 5]] == 0).all()
    nuv = 20.08 - 2.5 * np.log10(2.0) - 0.82
    assert flux[0, 2] == pytest.approx(10 ** (0.4 * (22.5 - nuv)))
    assert flux[0, 2] * np.sqrt(ivar[0, 2]) == pytest.approx(20.0)
    assert flux[0, 4] == pytest.approx(10 ** (0.4 * (22.5 - (14.0 + 0.91 - 0.0902))))
    assert 2.5 / np.log(10) / (flux[0, 4] * np.sqrt(ivar[0, 4])) == pytest.approx(0.1)


def test_a_flux_whose_magnitude_is_infinite_is_not_measured() -> None:
    catalog = Catalog(np.arange(3), ("u", "r"), [[1e308, 1.0], [1.0, -1e200], [1e38, 1.0]], np.ones((3, 2)), np.full(3, 0.1))
    assert catalog.status.tolist() == ["no measurement in u", "no measurement in r", ""]
    assert (catalog.flux[0, 0], catalog.flux_ivar[0, 0]) == (0.0, 0.0)


def test_offsets_and_floors_by_hand() -> None:
    catalog = Catalog(np.arange(1), ("u", "r", "i"), [[100.0, 0.0, 7.0]], [[0.25, 1.0, 4.0]], [0.1])
    calibrated = apply_calibration(catalog, {"u": -0.036}, {"u": 0.05, "r": 0.02})
    bright = 100.0 * 10 ** (0.4 * 0.036)
    assert calibrated.flux[0].tolist() == pytest.approx([bright, 0.0, 7.0])
    fractional = np.hypot(2.0 / 100.0, 0.05 * np.log(10) / 2.5)
    assert calibrated.sigma[0, 0] == pytest.approx(bright * fractional)
    assert calibrated.sigma[0, 1] == pytest.approx(1.0)
    # A band that is not named stays as it is.
    assert calibrated.sigma[0, 2] == pytest.approx(0.5)


def test_bundled_sample_looks_like_galaxies() -> None:
    sample = load_sdss_sample()
    assert len(sample) == 10_000
    assert sample.bands == UGRIZ
    assert sample.ok.all()
    magnitude = 22.5 - 2.5 * np.log10(sample.flux[:, [1, 2]])
    assert np.median(magnitude[:, 0] - magnitude[:, 1]) == pytest.approx(0.8, abs=0.15)
    sigma_g = 2.5 / np.log(10) * sample.sigma[:, 1] / sample.flux[:, 1]
    assert sigma_g.min() > 0.02
    raw = load_sdss_sample(calibrate=False)
    np.testing.assert_allclose(
        sample.flux / raw.flux, np.broadcast_to(10 ** (-0.4 * np.array([-0.036, 0.012, 0.010, 0.028, 0.040])), (10_000, 5))
    )


def test_galex_units_give_the_known_colours() -> None:
    sample = load_sdss_sample(bands=("FUV", "NUV", "g", "r"))
    assert (sample.flux_ivar[:, 1] > 0).sum() == 774
    assert set(sample.status[~sample.ok]) == {"no measurement in FUV NUV", "no measurement in FUV", "no measurement in NUV"}
    both = sample.subset(sample.ok & (sample.zred < 0.15))
    fuv, nuv, g, r = (22.5 - 2.5 * np.log10(both.flux)).T
    blue = g - r < 0.55
    assert 1.8 < np.median((nuv - r)[blue]) < 3.0
    assert 0.0 < np.median((fuv - nuv)[blue]) < 0.8


def test_2mass_is_ab() -> None:
    sample = load_sdss_sample(bands=("z", "J", "H", "Ks"))
    z, j, h, ks = (22.5 - 2.5 * np.log10(sample.subset(sample.ok).flux)).T
    # old stars: f_nu peaks near 1.6 microns, so AB magnitudes brighten to H and turn over at Ks
    assert 0.0 < np.median(z - j) < 0.7
    assert 0.0 < np.median(j - h) < 0.5
    assert abs(np.median(h - ks)) < 0.4
    assert (sample.flux_ivar[:, 2] == 0).sum() == 715


def test_rows_are_never_dropped() -> None:
    flux = np.full((6, 2), 5.0)
    ivar = np.full((6, 2), 1.0)
    flux[1, 0] = np.nan
    ivar[2, 1] = 0.0
    ivar[3] = -1.0
    catalog = Catalog(np.array(list("abcdef")), ("g", "r"), flux, ivar, [0.1, 0.1, 0.1, 0.1, np.nan, -0.2])
    assert catalog.status.tolist() == [
        "",
        "no measurement in g",
        "no measurement in r",
        "no measurement in g r",
        "redshift is not finite",
        "redshift is not positive",
    ]
    assert np.isfinite(catalog.flux).all()
    assert (catalog.flux_ivar[[1, 2, 3, 3], [0, 1, 0, 1]] == 0).all()
    assert catalog.select(("r",)).status.tolist()[:4] == ["", "", "no measurement in r", "no measurement in r"]
    assert catalog.subset([4, 0]).ids.tolist() == ["e", "a"]
    assert catalog.subset([4, 0]).ok.tolist() == [False, True]
    with pytest.raises(CatalogError, match="FUV"):
        catalog.select(("FUV",))


def test_shapes_must_agree() -> None:
    with pytest.raises(CatalogError, match="do not fit"):
        Catalog(np.arange(3), ("g",), np.ones((3, 2)), np.ones((3, 2)), np.ones(3))


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".csv", ".h5"])
def test_reads_every_format(tmp_path: Path, suffix: str) -> None:
    table, path = make_table(), tmp_path / f"table{suffix}"
    if suffix == ".h5":
        table.write(path, path="catalog", format="hdf5")
    else:
        table.write(path)
    catalog = read_catalog(path)
    assert catalog.bands == UGRIZ
    assert catalog.ids.dtype == np.int64
    np.testing.assert_allclose(catalog.flux[:, 2], table["flux_r"], rtol=1e-12)
    np.testing.assert_allclose(catalog.zred, table["zred"])
    assert catalog.ok.all()


def test_units_errors_and_renamed_columns(tmp_path: Path) -> None:
    table, path = make_table(), tmp_path / "table.fits"
    named = Table({"NAME": [f"galaxy {i}" for i in range(len(table))], "Z_BEST": table["zred"]})
    named["F_R"] = table["flux_r"] * 3.631
    named["E_R"] = 3.631 / np.sqrt(table["flux_ivar_r"])
    named["F_R"][3] = -99.0
    named.write(path)
    names = {"flux_r": "F_R", "flux_err_r": "E_R", "zred": "Z_BEST", "id": "NAME"}
    catalog = read_catalog(path, bands=["r"], columns=names, unit="uJy")
    good = np.arange(len(table)) != 3
    np.testing.assert_allclose(catalog.flux[good, 0], table["flux_r"][good])
    np.testing.assert_allclose(catalog.flux_ivar[good, 0], table["flux_ivar_r"][good])
    assert catalog.status[3] == "no measurement in r"
    assert catalog.ids[0] == "galaxy 0"


def test_fluxes_without_a_unit_are_said_to_be_nanomaggies(caplog: pytest.LogCaptureFixture) -> None:
    table = make_table()
    read_catalog(table)
    assert "no units are stated, fluxes are read as nanomaggies" in caplog.text
    caplog.clear()
    read_catalog(table, unit="nanomaggies")
    # One column that says so is enough.
    table["flux_u"].unit = "nmgy"
    read_catalog(table)
    for band in UGRIZ:
        table[f"flux_{band}"].unit, table[f"flux_ivar_{band}"].unit = "uJy", "uJy-2"
    read_catalog(table)
    with pytest.raises(CatalogError, match="no column 'flux_u'"):
        read_catalog(make_table()["zred", "flux_r"], bands=("u",))
    assert "no units" not in caplog.text


def test_units_of_the_columns_are_taken_unless_one_is_given(tmp_path: Path) -> None:
    table, plain = make_table(), read_catalog(make_table())
    for band in UGRIZ:
        table[f"flux_{band}"] = table[f"flux_{band}"] * 3.631
        table[f"flux_err_{band}"] = 3.631 / np.sqrt(table[f"flux_ivar_{band}"])
        table.remove_column(f"flux_ivar_{band}")
        table[f"flux_{band}"].unit = table[f"flux_err_{band}"].unit = "uJy"
    table.write(tmp_path / "table.fits")
    for unit in (None, "uJy"):
        np.testing.assert_allclose(read_catalog(tmp_path / "table.fits", unit=unit).flux, plain.flux, rtol=1e-6)
    with pytest.raises(CatalogError, match="'flux_u' says its unit is 'uJy', but is to be read in 'mJy'"):
        read_catalog(tmp_path / "table.fits", unit="mJy")
    for band in UGRIZ:
        table[f"flux_{band}"].unit = table[f"flux_err_{band}"].unit = "maggies"
    np.testing.assert_allclose(read_catalog(table).flux, 3.631e9 * plain.flux, rtol=1e-6)
    table["flux_g"].unit = "erg / (Angstrom s cm2)"
    with pytest.raises(CatalogError, match="flux per wavelength must be converted"):
        read_catalog(table)


def with_units(table: Table, size: float, unit: str) -> Table:
    """The table in another unit, which its columns state."""
    for band in UGRIZ:
        table[f"flux_{band}"] = table[f"flux_{band}"] * size
        table[f"flux_{band}"].unit = unit
        table[f"flux_ivar_{band}"] = table[f"flux_ivar_{band}"] / size**2
        table[f"flux_ivar_{band}"].unit = f"{unit}-2"
    return table


@pytest.mark.parametrize("kind", ["astropy.parquet", "rubin.parquet", "ivoa.parquet", "columns.h5"])
def test_units_in_files_that_no_reader_of_astropy_opens(kind: str, tmp_path: Path) -> None:
    plain, table, path = read_catalog(make_table(5)), with_units(make_table(5), 3631.0, "nJy"), tmp_path / kind
    if kind == "columns.h5":
        with h5py.File(path, "w") as file:
            for name in table.colnames:
                file[name] = table[name]
                if table[name].unit is not None:
                    # Of fixed length, as other programs write it, and as h5py does.
                    file[name].attrs["unit"] = str(table[name].unit) if "ivar" in name else np.bytes_(str(table[name].unit))
    elif kind == "astropy.parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
        table.write(path)
    elif kind == "ivoa.parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
        described = {name: {"unit": str(table[name].unit or ""), "ucd": "", "utype": ""} for name in table.colnames}
        table.write(path, format="parquet.votable", metadata=described)
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        fields = [
            pyarrow.field(name, pyarrow.from_numpy_dtype(table[name].dtype), metadata={"unit": str(table[name].unit or "")})
            for name in table.colnames
        ]
        arrays = [np.asarray(table[name]) for name in table.colnames]
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(arrays, schema=pyarrow.schema(fields)), path)
    np.testing.assert_allclose(read_catalog(path).flux, plain.flux, rtol=1e-6)
    np.testing.assert_allclose(read_catalog(path).flux_ivar, plain.flux_ivar, rtol=1e-6)
    with pytest.raises(CatalogError, match="'flux_u' says its unit is 'nJy', but is to be read in 'uJy'"):
        read_catalog(path, unit="uJy")


def test_nanomaggies_in_fits_are_read_without_a_warning(tmp_path: Path) -> None:
    table = make_table(5)
    columns = [fits.Column(name, "D", array=table[name], unit="nanomaggy" * (name[:6] == "flux_u")) for name in table.colnames]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "sweep.fits")
    np.testing.assert_array_equal(read_catalog(tmp_path / "sweep.fits").flux, read_catalog(table).flux)


def test_columns_of_hdf5_and_names_of_ids(tmp_path: Path) -> None:
    table = make_table(5)
    with h5py.File(tmp_path / "columns.h5", "w") as file:
        for name in table.colnames:
            file["ID" if name == "id" else name] = table[name]
        file["name"] = [f"galaxy {k}" for k in range(5)]
    catalog = read_catalog(tmp_path / "columns.h5")
    np.testing.assert_array_equal(catalog.flux, read_catalog(table).flux)
    np.testing.assert_array_equal(catalog.ids, table["id"])
    assert read_catalog(tmp_path / "columns.h5", columns={"id": "name"}).ids[4] == "galaxy 4"


def test_masked_values_are_missing(tmp_path: Path) -> None:
    table = Table(make_table(5), masked=True)
    table["flux_g"].mask[2] = True
    table.write(tmp_path / "table.ecsv")
    assert read_catalog(tmp_path / "table.ecsv").status.tolist() == ["", "", "no measurement in g", "", ""]


def test_sdss_layout_is_recognised(tmp_path: Path) -> None:
    table = Table(
        {
            "MODELFLUX": np.full((2, 5), 10.0),
            "MODELFLUX_IVAR": np.full((2, 5), 1.0),
            "EXTINCTION": np.zeros((2, 5)),
            "Z": [0.1, -1.0],
        }
    )
    table.write(tmp_path / "sdss.fits")
    catalog = read_catalog(tmp_path / "sdss.fits")
    np.testing.assert_allclose(catalog.flux[0], 10 * 10 ** (-0.4 * np.array([-0.036, 0.012, 0.010, 0.028, 0.040])))
    assert catalog.status.tolist() == ["", "redshift is not positive"]
    np.testing.assert_allclose(read_catalog(tmp_path / "sdss.fits", calibrate=False).flux, 10.0)
    with pytest.raises(CatalogError, match="NUV_FLUX_AUTO"):
        read_catalog(tmp_path / "sdss.fits", bands=("NUV", "r"))


def broken(table: Table, what: str) -> Table:
    if what == "no flux error":
        table.remove_column("flux_ivar_g")
    elif what == "no redshift":
        table.rename_column("zred", "zredd")
    elif what == "rounded ids":
        table["id"] = 1.23e18 + np.arange(len(table))
    elif what == "upper case":
        for name in table.colnames[2:]:
            table.rename_column(name, name.upper())
    elif what == "empty":
        table = table[:0]
    elif what.startswith("magnitudes"):
        for band in UGRIZ:
            table[f"flux_{band}"] = 22.5 - 2.5 * np.log10(np.abs(table[f"flux_{band}"]))
        if what == "magnitudes, one missing":
            table["flux_u"][1] = 99.0
    elif what == "velocities":
        table["zred"] = table["zred"] * 299792.458
    elif what == "negative":
        table["zred"] = -table["zred"]
    elif what == "text":
        table["flux_g"] = ["bright"] * len(table)
    elif what == "unit":
        table["flux_g"].unit = "Jy"
    return table


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no flux error", r"'flux_ivar_g' or 'flux_err_g'.*The table has: id, zred"),
        ("no redshift", r"'zred' or 'z'; closest is 'zredd'"),
        ("rounded ids", "which floating-point numbers round"),
        ("upper case", "no column 'flux_r'; closest is 'FLUX_R'.*sedcast init mapping"),
        ("empty", "no rows"),
        ("magnitudes", "look like magnitudes"),
        ("magnitudes, one missing", "look like magnitudes"),
        ("velocities", "km/s"),
        ("negative", "no value is a redshift"),
        ("text", "expected numbers"),
        ("unit", "'flux_g' says its unit is 'Jy', but is to be read in 'nanomaggies'"),
    ],
)
def test_errors_name_what_is_wrong(tmp_path: Path, what: str, message: str) -> None:
    path = tmp_path / "table.ecsv"
    broken(make_table(), what).write(path)
    with pytest.raises(CatalogError, match=message):
        read_catalog(path)


def test_fluxes_of_bands_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = make_table()
    table["flux_Y"] = table["flux_err_Y"] = 1.0
    table.write(tmp_path / "table.ecsv")
    read_catalog(tmp_path / "table.ecsv", bands=UGRIZ[:4])
    assert "not used: flux_z, flux_Y (bands read: u, g, r, i)" in caplog.text


def test_other_errors(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no catalogue at"):
        read_catalog(tmp_path / "absent.fits")
    path = tmp_path / "table.fits"
    path.write_bytes(b"not a table")
    with pytest.raises(CatalogError, match="cannot be read"):
        read_catalog(path)
    make_table().write(path, overwrite=True)
    with pytest.raises(ParameterError, match="unknown band 'q'"):
        read_catalog(path, bands=["q"])
    with pytest.raises(ParameterError, match="unit='ergs'"):
        read_catalog(path, unit="ergs")
    with pytest.raises(CatalogError, match="'FLUX_G'"):
        read_catalog(path, columns={"flux_g": "FLUX_G"})
    make_table().write(tmp_path / "table.txt", format="ascii.csv")
    with pytest.raises(CatalogError, match=r"unknown kind of file '.txt'.*Rename a table with commas to \.csv"):
        read_catalog(tmp_path / "table.txt")
    for reader in (read_catalog, open_table):
        with pytest.raises(CatalogError, match="is a URL, expected a file: download it first"):
            reader("https://example.org/table.fits")


def test_a_column_that_says_its_unit_in_its_name_is_the_closest(tmp_path: Path) -> None:
    table = make_table()
    table.rename_column("flux_g", "flux_g [uJy]")
    table.write(tmp_path / "table.ecsv")
    with pytest.raises(CatalogError, match=r"no column 'flux_g'; closest is 'flux_g \[uJy\]'"):
        read_catalog(tmp_path / "table.ecsv", bands=["g"])


def test_a_subset_of_the_bands_is_advised_only_where_a_bundled_posterior_has_them(tmp_path: Path) -> None:
    make_table().write(tmp_path / "table.ecsv")
    with pytest.raises(CatalogError, match=r"no column 'flux_FUV'.*--model galex-sdss"):
        read_catalog(tmp_path / "table.ecsv", bands=["FUV", "u"])
    with pytest.raises(CatalogError, match="no column 'flux_lsst2023-u'") as refused:
        read_catalog(tmp_path / "table.ecsv", bands=["lsst2023-u"])
    assert "galex" not in str(refused.value)


@pytest.mark.parametrize("n", [1, 3, 1000])
def test_real_fluxes_are_never_taken_for_magnitudes(tmp_path: Path, n: int) -> None:
    # the worst case: fainter galaxies of the same colours, all of whose fluxes happen to be between 8 and 32
    sample = load_sdss_sample(calibrate=False)
    flux = np.concatenate([scale * sample.flux for scale in np.geomspace(0.005, 0.5, 100)])
    flux = flux[((flux > 8) & (flux < 32)).all(axis=1)]
    assert len(flux) > 30
    flux = flux[:: max(1, len(flux) // (20 * n))]
    for start in range(0, len(flux), n):
        part = flux[start : start + n]
        table = Table({"zred": np.full(len(part), 0.1)})
        for index, band in enumerate(UGRIZ):
            table[f"flux_{band}"], table[f"flux_err_{band}"] = part[:, index], 1.0
        table.write(tmp_path / "faint.csv", overwrite=True)
        assert len(read_catalog(tmp_path / "faint.csv")) == len(part)


def test_ragged_catalogue_needs_one_band_of_a_row_and_of_the_file(tmp_path):
    table = Table({"flux_r": [10.0, np.nan, 30.0], "flux_err_r": [1.0] * 3, "flux_u": [1.0, 2.0, np.nan]})
    table["flux_err_u"], table["zred"] = [0.1, 0.0, 0.1], [0.1] * 3
    table.write(tmp_path / "ragged.ecsv")
    catalog = read_catalog(tmp_path / "ragged.ecsv", bands=("NUV", "u", "g", "r"), ragged=True)
    assert catalog.bands == ("NUV", "u", "g", "r")
    assert catalog.status.tolist() == ["", "no measurement in NUV u g r", ""]
    assert (catalog.flux_ivar > 0).sum(axis=1).tolist() == [2, 0, 1]
    with pytest.raises(CatalogError, match="flux_NUV"):
        read_catalog(tmp_path / "ragged.ecsv", bands=("NUV", "g"), ragged=True)
    with pytest.raises(CatalogError, match="not in this catalogue"):
        catalog.select(("J", "H"), ragged=True)


def test_a_text_that_is_missing_is_empty_and_a_zero_is_not() -> None:
    assert as_texts("id", np.array([0, None, b"a", "b"], dtype=object)).tolist() == ["0", "", "a", "b"]


@pytest.mark.parametrize("power", ["^-2", "**-2", "^{-2}"])
@pytest.mark.parametrize(("stated", "size"), [("ujy", 3.631), ("microJy", 3.631), ("nMgy", 1.0), ("nanomaggies", 1.0)])
def test_units_by_other_names_are_known(stated: str, size: float, power: str) -> None:
    table, plain = make_table(5), read_catalog(make_table(5))
    for band in UGRIZ:
        table[f"flux_{band}"] *= size
        table[f"flux_ivar_{band}"] /= size**2
        for name, unit in ((f"flux_{band}", stated), (f"flux_ivar_{band}", f"{stated}{power}")):
            table[name].unit = Unit(unit, parse_strict="silent")
    found = read_catalog(table)
    np.testing.assert_allclose(found.flux, plain.flux, rtol=1e-6)
    np.testing.assert_allclose(found.flux_ivar, plain.flux_ivar, rtol=1e-6)


def test_a_unit_that_is_not_known_is_refused_not_taken_for_nanomaggies(tmp_path: Path) -> None:
    table = make_table(5)
    table["flux_g"].unit = Unit("wobblies", parse_strict="silent")
    with pytest.raises(CatalogError, match="'flux_g' says its unit is 'wobblies', which is not known"):
        read_catalog(table)
    assert len(read_catalog(table, unit="uJy")) == 5
    for name in ("flux_g", "flux_ivar_g"):
        table[name].unit = Unit("-", parse_strict="silent")
    assert len(read_catalog(table)) == 5
    # One of a user's own is a unit.
    table["flux_g"].unit = def_unit("kiloflux", 1e3 * Jy)
    with pytest.raises(CatalogError, match="'kiloflux', but is to be read in 'nanomaggies'"):
        read_catalog(table)


def test_magnitudes_in_single_precision_are_no_fluxes() -> None:
    table = make_table(50)
    for band in UGRIZ:
        magnitude = (22.5 - 2.5 * np.log10(np.maximum(table[f"flux_{band}"], 0.01))).astype("f4")
        magnitude[3] = 99.99
        table[f"flux_{band}"] = magnitude
    with pytest.raises(CatalogError, match="look like magnitudes"):
        read_catalog(table)


@pytest.mark.parametrize("odd", [0.0, -9.99, 38.0, 50.0, 1e20])
def test_an_odd_value_among_magnitudes_does_not_make_them_fluxes(odd: float) -> None:
    table = make_table(200)
    for band in UGRIZ:
        table[f"flux_{band}"] = 22.5 - 2.5 * np.log10(np.maximum(table[f"flux_{band}"], 0.01))
    table["flux_u"][7] = odd
    with pytest.raises(CatalogError, match="look like magnitudes"):
        read_catalog(table)


def test_columns_that_look_like_ids_or_extinction_are_named(caplog: pytest.LogCaptureFixture) -> None:
    table = make_table()
    table.rename_column("id", "OBJID")
    table["mw_transmission_g"] = 0.9
    assert read_catalog(table).ids.tolist() == list(range(len(table)))
    assert "rows are numbered; if 'OBJID' is their id" in caplog.text
    assert "'mw_transmission_g' is not used" in caplog.text


def test_a_missing_id_is_refused_wherever_it_comes_from() -> None:
    ids = np.ma.MaskedArray([1, 2], mask=[False, True])
    with pytest.raises(CatalogError, match="the id in column 'ids' of row 1 is none"):
        Catalog(ids, ("r",), np.ones((2, 1)), np.ones((2, 1)), np.full(2, 0.1))


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "hdf5"])
def test_coordinates_in_a_table_do_no_harm(suffix: str, tmp_path: Path) -> None:
    table = make_table(5)
    table["place"] = SkyCoord(np.arange(5.0), np.arange(5.0), unit="deg")
    table.write(tmp_path / f"t.{suffix}", **({"path": "t", "serialize_meta": True} if suffix == "hdf5" else {}))
    np.testing.assert_array_equal(read_catalog(tmp_path / f"t.{suffix}").flux, read_catalog(make_table(5)).flux)


def test_csv_with_a_byte_order_mark_and_names_that_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    make_table(5).write(path)
    text = path.read_text(encoding="utf-8")
    plain = read_catalog(path)
    path.write_text(text, encoding="utf-8-sig")
    np.testing.assert_array_equal(read_catalog(path).ids, plain.ids)
    quoted = ['"' + name + '"' for name in text.splitlines()[0].split(",")]
    path.write_text("\n".join([",".join(quoted), *text.splitlines()[1:]]), encoding="utf-8-sig")
    np.testing.assert_array_equal(read_catalog(path).ids, plain.ids)
    path.write_text(text.replace("\n", ",,\n"), encoding="utf-8")
    np.testing.assert_array_equal(read_catalog(path).ids, plain.ids)
    path.write_bytes(text.replace("\n", "\r").encode())
    np.testing.assert_array_equal(read_catalog(path).ids, plain.ids)
    path.write_text(text.replace("flux_ivar_z", "zred", 1), encoding="utf-8")
    with pytest.raises(CatalogError, match="two columns of the name 'zred'"):
        read_catalog(path)


def test_a_table_in_the_layout_of_sdss_has_its_other_bands_too(tmp_path: Path) -> None:
    bands = ("FUV", "r", "J", "H", "Ks")
    arrays, _ = load_artifact(Path(str(files("sedcast.data") / "bundled" / "sdss_sample.npz")), "sdss-sample")
    Table({name: values[:200] for name, values in arrays.items()}).write(tmp_path / "t.fits")
    found, expected = read_catalog(tmp_path / "t.fits", bands=bands), load_sdss_sample(bands=bands).subset(slice(0, 200))
    np.testing.assert_allclose(found.flux, expected.flux, rtol=1e-12)
    np.testing.assert_allclose(found.flux_ivar, expected.flux_ivar, rtol=1e-12)
    assert (found.flux_ivar[:, 2:] > 0).mean() > 0.9


def test_floors_of_the_bundled_sample_are_the_published_ones() -> None:
    # kcorrect's minimum errors; Morrissey et al. 2007; and 0.03 mag in 2MASS.
    floors = {
        "FUV": 0.052,
        "NUV": 0.026,
        "u": 0.05,
        "g": 0.02,
        "r": 0.02,
        "i": 0.02,
        "z": 0.03,
        "J": 0.03,
        "H": 0.03,
        "Ks": 0.03,
    }
    raw, calibrated = (load_sdss_sample(bands=tuple(floors), calibrate=calibrate) for calibrate in (False, True))
    for band, (name, floor) in enumerate(floors.items()):
        seen = raw.flux_ivar[:, band] > 0
        of_raw, of_calibrated = (one.sigma[seen, band] / one.flux[seen, band] for one in (raw, calibrated))
        added = np.sqrt(np.median(of_calibrated**2 - of_raw**2))
        assert added == pytest.approx(0.4 * np.log(10) * floor, rel=1e-6), name
