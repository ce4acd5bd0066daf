"""Property-based tests of everything that is read, and the fuzzer at reduced count."""

import contextlib
import gzip
import io
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_mutations
from benchmarks.fuzz import run_fuzzer
from sedcast.data import hdf5
from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.catalog import read_catalog
from sedcast.data.config import load_config, parse_config
from sedcast.data.errors import ArtifactError, CatalogError, ConfigError, SedcastError
from sedcast.data.hdf5 import check_type, open_hdf5, read_whole
from sedcast.data.mapping import load_mapping
from sedcast.data.provenance import read_provenance
from sedcast.data.tables import open_table
from sedcast.emulator.simulation import SimulationConfig
from sedcast.posterior.training_set import read_training_set

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
ARRAYS = st.sampled_from(["f4", "f8", "i4", "u1", "U3", "S2", "c8", "?"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 3), max_size=3).map(lambda shape: np.ones(shape, dtype))
)


@QUICK
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PK\x03\x04", b"SIMPLE  =                    T", b"\x89HDF\r\n\x1a\n", b"PAR1"]),
)
def test_bytes_are_read_or_refused(tmp_path: Path, content: bytes, head: bytes) -> None:
    for name, read in (
        ("x.npz", lambda path: load_artifact(path, "thing")),
        ("x.fits", read_catalog),
        ("x.h5", read_catalog),
        ("x.parquet", open_table),
        ("x.csv", read_catalog),
        ("x.ecsv", open_table),
        ("x.toml", lambda path: load_config(path, SimulationConfig)),
        ("m.toml", load_mapping),
    ):
        path = tmp_path / name
        path.write_bytes(head + content)
        # Whatever else is raised fails the test.
        with contextlib.suppress(SedcastError):
            read(path)


@QUICK
@given(
    st.dictionaries(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), ARRAYS, max_size=4),
    st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
)
def test_any_arrays_and_card_come_back_or_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], card: dict[str, object]
) -> None:
    path = tmp_path / "x.npz"
    try:
        save_artifact(path, "thing", arrays, card, overwrite=True)
    except (ArtifactError, UnicodeEncodeError):
        return
    held, found = load_artifact(path, "thing")
    assert held.keys() == arrays.keys()
    assert all(held[name].tobytes() == array.tobytes() and held[name].shape == array.shape for name, array in arrays.items())
    for key in card.keys() - {"schema", "kind", "versions", "sha256"}:
        assert json.dumps(found[key]) == json.dumps(json.loads(json.dumps(card[key])))


@QUICK
@given(st.dictionaries(st.sampled_from([*SimulationConfig.model_fields, "other"]), VALUES, max_size=5))
def test_configurations_are_read_or_refused(tmp_path: Path, values: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        parse_config(values, SimulationConfig)


def archive_with(path: Path, **members: bytes) -> Path:
    save_artifact(path, "thing", {"x": np.ones(3)}, {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_dot_", "."), content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("huge.npy", fuzz_mutations._npy("(1000000, 1000000)", "'<f8'", b"\0" * 64), "does not have"),
        ("empty.npy", fuzz_mutations._npy("(1000000000000,)", "'<U0'", b""), "expected numbers or text"),
        ("objects.npy", fuzz_mutations._npy("(1,)", "'|O'", b"\x80\x04N."), "expected numbers or text"),
        ("../escaped.npy", b"", "without folders"),
        ("notes.txt", b"", "expected arrays only"),
        ("x.npy", b"", "repeated"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_lies_about_size_pickles_and_escapes_are_refused(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = archive_with(tmp_path / "x.npz", **{name: content})
    with pytest.raises(ArtifactError, match=why):
        load_artifact(path, "thing")
    assert [entry.name for entry in tmp_path.parent.rglob("escaped*")] == []


def test_a_member_that_claims_more_than_the_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_artifact(path, "thing", {"x": np.zeros(10)}, {})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="more than it can hold"):
        load_artifact(path, "thing")


def test_datasets_never_written_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name in ("id", "flux_r"):
            file.create_dataset(name, (10**12,), "f8", chunks=(1024,))
    with pytest.raises(CatalogError, match="more than the file can hold"):
        open_table(path)
    with h5py.File(path) as file, pytest.raises(ValueError, match="more than the file can hold"):
        read_whole(file["id"])


def heap_without_end(path: Path) -> Path:
    """A file whose heap of texts holds an object of no size: the HDF5 library never steps over it."""
    with h5py.File(path, "w") as file:
        file.attrs["config"] = "{}"
        file["flux"] = np.ones(3)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL") + 16
    data[heap : heap + 4080] = bytes(4080)
    path.write_bytes(data)
    return path


def test_what_the_hdf5_library_never_finishes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = heap_without_end(tmp_path / "x.h5")
    monkeypatch.setattr(hdf5, "_SECONDS", 0.1)
    for read, error in ((read_training_set, ConfigError), (read_catalog, CatalogError), (read_provenance, ArtifactError)):
        with pytest.raises(error, match="not done with it"):
            read(path)
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file.attrs["text"] = "text"
    with open_hdf5(tmp_path / "whole.h5") as file:
        assert file.attrs["text"] == "text"


def test_values_in_other_files_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(80))
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["flux"] = np.ones(10)
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "whole.h5", "flux", (10,))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("flux", (10,), "f8", external=[(tmp_path / "secret", 0, 80)])
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("flux", layout)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["flux"] = h5py.ExternalLink(tmp_path / "whole.h5", "flux")
    for name in ("external", "virtual", "link"):
        with pytest.raises(CatalogError, match="another file"):
            open_table(tmp_path / f"{name}.h5")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("card.npy", b"x" * 100)
    with pytest.raises(ArtifactError, match="another method"):
        load_artifact(path, "thing")


def test_fields_that_overlap_are_refused(tmp_path: Path) -> None:
    """What h5py makes of some altered types; reading such rows corrupts memory."""
    dtype = np.dtype({"names": ["id", "flux_r"], "formats": ["f16", "f8"], "offsets": [0, 8], "itemsize": 16})
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("rows", data=np.zeros(3, dtype=[("id", "f8"), ("flux_r", "f8")]))
        check_type(dataset)
        check_type(file.create_dataset("text", data=["a", "b"], dtype=h5py.string_dtype()))
        with pytest.raises(ValueError, match="overlap"):
            check_type(SimpleNamespace(dtype=dtype, name="/rows"))  # type: ignore[arg-type]
        references = file.create_dataset("references", data=[dataset.ref], dtype=h5py.ref_dtype)
        with pytest.raises(ValueError, match="numbers or text"):
            check_type(references)


def test_ecsv_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    for tag in (f"!!python/object/apply:os.system ['touch {marker}']", f"!!python/object/new:os.system ['touch {marker}']"):
        path = tmp_path / "x.ecsv"
        path.write_text(
            f"# %ECSV 1.0\n# ---\n# datatype:\n# - {{name: a, datatype: int64}}\n# meta: {tag}\na\n1\n", encoding="utf-8"
        )
        with pytest.raises(CatalogError):
            read_catalog(path)
        with pytest.raises(CatalogError):
            open_table(path).read("a", 0, 1)
    assert not marker.exists()


def test_a_device_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="is it a configuration"):
        load_config("/dev/zero", SimulationConfig)


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as packed:
        packed.write(b"a,b\n" + b"0,0\n" * 2_000_000)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CatalogError, match="unpacks to more than"):
        open_table(path)


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    figures = run_fuzzer(tmp_path, 300, seed=7, n_workers=1)
    assert figures["inputs"] == 300
    assert figures["failures"] == {}
    assert figures["refused"] > 150


def test_an_interrupt_does_not_leave_an_answer_for_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["flux"] = np.ones(3)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["flux"] = h5py.ExternalLink(tmp_path / "first.h5", "flux")
    open_hdf5(tmp_path / "first.h5").close()
    probe = hdf5._PROBES[os.getpid()]

    answers = probe.stdout

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "stdout", SimpleNamespace(readline=interrupted, close=answers.close))
    with pytest.raises(KeyboardInterrupt):
        open_hdf5(tmp_path / "link.h5")
    open_hdf5(tmp_path / "second.h5").close()
    with pytest.raises(ValueError, match="another file"):
        open_hdf5(tmp_path / "link.h5")
