"""Tables read by runs of rows: against what was written, in pieces, compressed, in another process, damaged."""

import csv
import gzip
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from sedcast.data.catalog import read_catalog
from sedcast.data.catalog_columns import as_numbers
from sedcast.data.errors import CatalogError
from sedcast.data.tables import TableFile, open_table

N = 20_000
PIECES = [(0, 5), (8190, 8200), (8192, 16_384), (3, 19_999), (19_998, 20_000), (10, 12)]


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        "number": rng.integers(0, 2**40, N),
        "flux": rng.normal(size=N),
        "name": np.char.add("g", rng.integers(0, 10**6, N).astype(str)),
        "late": np.where(np.arange(N) < N - 1, 1.0, 1.5),
    }


def write(columns: dict[str, np.ndarray], path: Path) -> None:
    if ".parquet" in path.name:
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path, row_group_size=12_000 if "groups" in path.name else N)
    elif ".h5" in path.name:
        with h5py.File(path, "w") as file:
            as_bytes = columns | {"name": np.char.encode(columns["name"])}
            if "rows" in path.name:
                file["rows"] = Table(as_bytes).as_array()
            else:
                for name, values in as_bytes.items():
                    file[name] = values
    else:
        packed = path.name.endswith(".csv.gz")
        Table(columns).write(path.with_suffix("") if packed else path)
        if packed:
            path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


@pytest.mark.parametrize(
    "name", ["t.fits", "t.h5", "rows.h5", "t.parquet", "groups.parquet", "t.csv", "t.ecsv", "t.csv.gz", "t.fits.gz"]
)
def test_any_piece_is_what_was_written(columns: dict[str, np.ndarray], tmp_path: Path, name: str) -> None:
    write(columns, tmp_path / name)
    table = pickle.loads(pickle.dumps(open_table(tmp_path / name)))
    assert sorted(table.names) == sorted(columns)
    assert table.n_rows == N
    for start, stop in PIECES:
        for column, expected in columns.items():
            found = table.read(column, start, stop)
            if column == "name":
                found = np.array([cell.decode() if isinstance(cell, bytes) else str(cell) for cell in found])
            elif column != "number":
                found = as_numbers(column, found)
            np.testing.assert_array_equal(found, expected[start:stop])


def test_vectors_in_every_binary_format(tmp_path: Path) -> None:
    values = np.arange(30.0).reshape(10, 3)
    Table({"v": values}).write(tmp_path / "v.fits")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = values
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"v": values.tolist()}), tmp_path / "v.parquet", row_group_size=4)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(open_table(path).read("v", 2, 7), values[2:7])


def test_vectors_of_vectors_in_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    rows = [[[1.0, 2.0], [3.0, 4.0]], None, [[5.0, 6.0], [7.0, 8.0]]]
    parquet.write_table(pyarrow.table({"v": rows, "bad": [[[1.0], [2.0, 3.0]]] * 3}), tmp_path / "v.parquet")
    table = open_table(tmp_path / "v.parquet")
    np.testing.assert_array_equal(table.read("v", 0, 3), [rows[0], np.full((2, 2), np.nan), rows[2]])
    with pytest.raises(CatalogError, match=r"column 'bad' holds list.* expected numbers, texts or vectors of one length"):
        table.read("bad", 0, 3)


def test_blank_cells_quotes_and_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfid,flux,n\r\n\r\n"a, b",1.5,7\r\nc,,8\r\n')
    table = open_table(path)
    assert table.names == ("id", "flux", "n")
    assert table.read("id", 0, 2).tolist() == ["a, b", "c"]
    np.testing.assert_array_equal(as_numbers("flux", table.read("flux", 0, 2)), [1.5, np.nan])
    assert table.read("n", 0, 2).dtype == np.int64


def test_names_behind_a_hash_under_comments_with_blanks_and_ends_of_lines_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text in ("#Table1\nid, flux\n1, 2.5\n \n2, 3\n", "# id,flux\n1,2.5\n2,3\n", "id,flux\r1,2.5\r2,3\r"):
        path.write_bytes(text.encode())
        table = open_table(path)
        assert (table.names, table.n_rows) == (("id", "flux"), 2)
        assert table.read("id", 0, 2).tolist() == [1, 2]
        assert as_numbers("flux", table.read("flux", 1, 2)).tolist() == [3.0]


@pytest.mark.parametrize("ids", [["1_1", "11"], ["007", "7"], ["1e2", "100"], ["9" * 19, "2"], [str(2**63), "2"], ["+5", "5"]])
def test_integers_in_csv_are_those_that_keep_their_digits(ids: list[str], tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id\n" + "\n".join(ids))
    assert open_table(path).read("id", 0, 2).tolist() == ids


def test_texts_are_numbers_or_say_which_is_none() -> None:
    texts = np.array([" 1.5", "null", "N/A", "", "--", "-inf"])
    np.testing.assert_array_equal(as_numbers("f", texts), [1.5, np.nan, np.nan, np.nan, np.nan, -np.inf])
    for bad in ("1_0", "bright"):
        with pytest.raises(CatalogError, match=f"column 'f' holds {bad} in row 101"):
            as_numbers("f", np.array(["", bad]), 100)
    with pytest.raises(CatalogError, match="holds bool, expected numbers"):
        as_numbers("f", np.array([True]))


def test_a_line_of_ecsv_that_is_a_comment_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "t.ecsv"
    Table({"id": ["a", "# b"], "flux": [1.0, 2.0]}).write(path, delimiter=",")
    with pytest.raises(CatalogError, match="begin with '#' and so are comments"):
        open_table(path).read("id", 0, 2)


@pytest.mark.parametrize("suffix", ["csv", "ecsv"])
def test_line_breaks_within_quotes_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    Table({"id": [1, 2], "note": ["a\nb", "c"]}).write(path)
    with pytest.raises(CatalogError, match="line breaks within quotes"):
        open_table(path).read("id", 0, 2)


def test_logical_columns_and_nulls_of_scaled_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.fits"
    columns = [fits.Column("l", "L", array=[True, False, True]), fits.Column("m", "I", array=np.array([-20, 0, 5]))]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    for key, value in (("TSCAL2", 0.001), ("TZERO2", 20.0), ("TNULL2", 0)):
        fits.setval(path, key, value=value, ext=1)
    table = open_table(path)
    assert table.read("l", 0, 3).tolist() == [True, False, True]
    np.testing.assert_allclose(table.read("m", 0, 3), [19.98, np.nan, 20.005])


def test_parquet_columns_of_nothing_decimals_and_missing_vectors(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    columns = {
        "none": pyarrow.nulls(2),
        "decimal": pyarrow.array([1.5, None]).cast(pyarrow.decimal128(8, 3)),
        "vector": pyarrow.array([None, [1.0, 2.0]]),
        "ragged": pyarrow.array([[1.0], [1.0, 2.0]]),
        "word": pyarrow.array(["a", "b"]).dictionary_encode(),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(table.read("none", 0, 2), [np.nan, np.nan])
    np.testing.assert_array_equal(as_numbers("decimal", table.read("decimal", 0, 2)), [1.5, np.nan])
    np.testing.assert_array_equal(table.read("vector", 0, 2), [[np.nan, np.nan], [1.0, 2.0]])
    assert table.read("word", 0, 2).tolist() == ["a", "b"]
    with pytest.raises(CatalogError, match=r"'ragged'.*vectors of one length"):
        table.read("ragged", 0, 2)


def test_indices_of_pandas_in_parquet_are_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame({"flux": [1.0, 2.0, 3.0]})
    for index in (pandas.RangeIndex(2**60, 2**60 + 9, 3, name="ID"), pandas.Index([7, 5, 9], name="ID")):
        frame.set_index(index).to_parquet(tmp_path / "t.parquet")
        table = open_table(tmp_path / "t.parquet")
        assert sorted(table.names) == ["ID", "flux"]
        assert table.read("ID", 1, 3).tolist() == index.tolist()[1:]
    frame.to_parquet(tmp_path / "unnamed.parquet")
    assert open_table(tmp_path / "unnamed.parquet").names == ("flux",)
    frame.set_index(pandas.RangeIndex(1, 4, name="ID")).to_parquet(tmp_path / "t.parquet")
    parquet.write_table(parquet.read_table(tmp_path / "t.parquet").slice(1), tmp_path / "cut.parquet")
    assert open_table(tmp_path / "cut.parquet").names == ("flux",)


def test_hdf5_tables_in_the_only_group(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["photometry/id"], file["photometry/flux"] = [1, 2], [0.5, 1.5]
    assert open_table(tmp_path / "t.h5").read("flux", 0, 2).tolist() == [0.5, 1.5]
    with h5py.File(tmp_path / "t.h5", "a") as file:
        file["other/flux"] = [3.0]
    with pytest.raises(CatalogError, match="only group; it has: other, photometry"):
        open_table(tmp_path / "t.h5")


def test_damage_is_named(columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    texts = {
        "ragged.csv": ("a,b\n1,2\n1,2,3\n", "row 1 has 3 cells"),
        "long.csv": ("a,b\n" + "1" * 2_000_000, "a line of more than"),
        "none.ecsv": ("# %ECSV 1.0\n", "ECSV"),
        "semicolons.csv": ("a;b\n1;2\n", "semicolons between its cells"),
        "tabs.csv": ("a\tb\n1\t2\n", "tabs between its cells"),
    }
    for name, (text, words) in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(CatalogError, match=words):
            open_table(tmp_path / name)
    (tmp_path / "latin.csv").write_bytes(b"id,a\n\xe9,1\n")
    with pytest.raises(CatalogError, match="is not in UTF-8"):
        open_table(tmp_path / "latin.csv")
    column = fits.Column("v", "PE()", array=np.array([np.zeros(2), np.zeros(3)], dtype=object))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "v.fits")
    with pytest.raises(CatalogError, match="variable length"):
        open_table(tmp_path / "v.fits").read("v", 0, 2)
    write(columns, tmp_path / "cut.fits")
    whole = (tmp_path / "cut.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CatalogError, match="truncated"):
        open_table(tmp_path / "cut.fits")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" * 1000)[:-20])
    with pytest.raises(CatalogError, match=r"cut\.csv\.gz"):
        open_table(tmp_path / "cut.csv.gz")
    write(columns, tmp_path / "hurt.parquet")
    whole = bytearray((tmp_path / "hurt.parquet").read_bytes())
    whole[100:5000] = b"x" * 4900
    (tmp_path / "hurt.parquet").write_bytes(whole)
    with pytest.raises(CatalogError, match=r"hurt\.parquet"):
        open_table(tmp_path / "hurt.parquet").read("number", 0, N)


@pytest.mark.parametrize("limit", [8_192, 2_000_000])
def test_a_full_temporary_folder_is_not_the_catalogue_s_fault(tmp_path: Path, limit: int) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"flux_r,zred\n" + b"1.0,0.1\n" * 300_000))
    (tmp_path / "temporary").mkdir()
    code = (
        "import resource, sys; from sedcast.data.tables import TableFile, open_table\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "try: open_table(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-c", code, str(tmp_path / "x.csv.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("CatalogError")
    assert f"unpacked to {tmp_path / 'temporary'}, where the disk is full" in done.stdout
    assert list((tmp_path / "temporary").iterdir()) == []


def test_columns_of_csv_that_are_read_together_are_those_read_alone(tmp_path: Path) -> None:
    blank = np.arange(N) % 7 == 0
    path = tmp_path / "t.csv"
    columns = {
        "id": np.char.zfill(np.arange(N).astype(str), 6),
        "flux": np.where(blank, "", np.arange(N).astype(str)),
        "late": np.where(np.arange(N) == N - 1, "many", "1.5"),
    }
    write(columns, path)
    alone, together = open_table(path), open_table(path)
    together.hold({"id", "flux", "late"}, {"id"}, 5, N)
    assert together.read("flux", 5, N).dtype == float
    for start, stop in ((5, N), (8000, 17_000), (0, 9)):
        np.testing.assert_array_equal(as_numbers("flux", together.read("flux", start, stop)), floats(alone, start, stop))
        for name in ("id", "late"):
            np.testing.assert_array_equal(together.read(name, start, stop), alone.read(name, start, stop))
    together.read("flux", 5, N)[:] = 0.0
    assert together.read("flux", 8, 9) == [8.0]
    with pytest.raises(CatalogError, match=f"'late' holds many in row {N - 1}"):
        as_numbers("late", together.read("late", 0, N))


def floats(table: TableFile, start: int, stop: int) -> np.ndarray:
    return as_numbers("flux", table.read("flux", start, stop))


@pytest.mark.parametrize(
    "row",
    ["1,2,3", " 1,2,3", "1, 2,3", '"1",2,3', "1,\u00a02,3\u2003", '"1,5",2', "1,2", "1,2,3,4", ",,", 'a"b,2,3', "1,\x00,3"],
)
def test_csv_without_quotes_and_blanks_is_read_as_any_other(row: str, tmp_path: Path) -> None:
    cells = [cell.strip() for cell in next(csv.reader([row], strict=True, skipinitialspace=True))]
    path = tmp_path / "t.csv"
    path.write_text(f"a,b,c\nx,y,z\n{row}\n", encoding="utf-8")
    if len(cells) != 3:
        with pytest.raises(CatalogError, match=f"row 1 has {len(cells)} cells"):
            open_table(path)
        return
    table = open_table(path)
    expected = np.array(cells)
    np.testing.assert_array_equal([table.read(name, 1, 2)[0] for name in "abc"], expected)


def test_a_catalogue_in_csv_takes_a_few_times_the_memory_of_its_numbers(tmp_path: Path) -> None:
    rng, n_rows = np.random.default_rng(3), 30_000
    named = [f"{name}_{band}" for name in ("flux", "flux_ivar") for band in "ugriz"]
    columns = {"id": np.arange(n_rows), "zred": rng.uniform(0.1, 0.5, n_rows)}
    columns |= {name: rng.uniform(50.0, 60.0, n_rows) for name in named}
    # Nobody reads these.
    columns |= {f"note_{number}": np.full(n_rows, "a longer text") for number in range(3)}
    write(columns, tmp_path / "t.csv")
    tracemalloc.start()
    try:
        catalog = read_catalog(tmp_path / "t.csv")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = sum(values.nbytes for values in (catalog.flux, catalog.flux_ivar, catalog.zred, catalog.ids))
    assert peak < 10 * kept


def test_a_csv_that_is_rewritten_while_it_is_read_is_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write({"flux": np.arange(float(N))}, path)
    table = open_table(path)
    assert table.read("flux", 0, 1) == ["0.0"]
    path.write_text("flux\n1.0\n")
    with pytest.raises(CatalogError, match="changed while it was being read"):
        table.read("flux", N - 1, N)
