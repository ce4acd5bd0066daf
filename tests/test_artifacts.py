"""Artifacts: what is written comes back, and no damage gets through or raises anything but the project's own error."""

import io
from pathlib import Path

import numpy as np
import pytest

from sedcast.data.artifacts import load_artifact, read_card, save_artifact
from sedcast.data.errors import ArtifactError

ARRAYS = {"x": np.arange(60, dtype=np.float32).reshape(12, 5) ** 0.5, "names": np.array(["one", "three"])}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "thing.npz"
    save_artifact(path, "thing", ARRAYS, {"size": 3})
    return path


def test_arrays_and_card_come_back(artifact: Path) -> None:
    arrays, card = load_artifact(artifact, "thing")
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert card["size"] == 3
    assert read_card(artifact) == card


def test_any_altered_byte_is_refused_or_harmless(artifact: Path) -> None:
    content = artifact.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        altered = bytearray(content)
        altered[position] ^= 0xFF
        artifact.write_bytes(altered)
        try:
            arrays, _ = load_artifact(artifact, "thing")
        except ArtifactError:
            refused += 1
        else:
            np.testing.assert_array_equal(arrays["x"], ARRAYS["x"])
    assert refused > 0.6 * len(content) / 3


def test_a_truncated_file_is_refused(artifact: Path) -> None:
    content = artifact.read_bytes()
    for stop in range(0, len(content), 29):
        artifact.write_bytes(content[:stop])
        with pytest.raises(ArtifactError, match="artifact"):
            load_artifact(artifact, "thing")


def test_another_archive_with_the_same_layout_fails_the_checksum(artifact: Path) -> None:
    buffer = io.BytesIO()
    with np.load(artifact) as archive:
        members = {name: archive[name] for name in archive.files}
    np.savez(buffer, **(members | {"x": members["x"] + 1}))
    artifact.write_bytes(buffer.getvalue())
    with pytest.raises(ArtifactError, match="checksum"):
        load_artifact(artifact, "thing")


def test_a_pickle_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(ArtifactError, match="not a sedcast artifact"):
        load_artifact(path, "thing")


def test_kinds_are_told_apart_and_a_missing_file_is_named(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="'thing', expected a 'other'"):
        load_artifact(artifact, "other")
    with pytest.raises(ArtifactError, match="nowhere"):
        load_artifact(tmp_path / "nowhere.npz", "thing")


def test_a_failed_write_leaves_the_file_that_was_there(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be stored"):
        save_artifact(artifact, "thing", {"bad": np.array([object()])}, {}, overwrite=True)
    assert load_artifact(artifact, "thing")[1]["size"] == 3
