"""Tables read by runs of rows: against what was written, in pieces, compressed, in another process, damaged."""

import gzip
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from sedcast.data.errors import CatalogError
from sedcast.data.tables import open_table

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
            np.testing.assert_array_equal(found, expected[start:stop])
            assert column != "late" or found.dtype.kind == "f"


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


def test_blank_cells_quotes_and_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfid,flux,n\r\n\r\n"a, b",1.5,7\r\nc,,8\r\n')
    table = open_table(path)
    assert table.names == ("id", "flux", "n")
    assert table.read("id", 0, 2).tolist() == ["a, b", "c"]
    np.testing.assert_array_equal(table.read("flux", 0, 2), [1.5, np.nan])
    assert table.read("n", 0, 2).dtype == np.int64


def test_damage_is_named(columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    texts = {
        "ragged.csv": ("a,b\n1,2\n1,2,3\n", "row 1 has 3 cells"),
        "long.csv": ("a,b\n" + "1" * 2_000_000, "a line of more than"),
        "none.ecsv": ("# %ECSV 1.0\n", "ECSV"),
    }
    for name, (text, words) in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(CatalogError, match=words):
            open_table(tmp_path / name)
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
