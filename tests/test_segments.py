"""Segments of long work: kept in order, checked when they are read again, joined to what was asked for."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from sedcast.data.artifacts import reserve
from sedcast.data.errors import ConfigError
from sedcast.emulator.segments import Segments, array_digest, open_segments, partial_folder, write_segment

MANIFEST = {"config": {"seed": 1, "n": 5}, "versions": {"sedcast": "1"}}


def append(segments: Segments, start: int, stop: int) -> None:
    """A segment of two chunks with the numbers from one to before another."""
    rows = np.arange(float(start), stop)
    parts = {"x": np.array_split(rows, 2), "wide": np.array_split(rows[:, None] * np.ones(3), 2)}
    segments.append(parts, n_proposed=10 * len(rows), n_chunks=2)


def test_segments_are_joined_in_order_up_to_the_rows_that_were_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with open_segments(output, MANIFEST) as segments:
        append(segments, 0, 4)
        append(segments, 4, 9)
        assert (segments.n_rows, segments.n_proposed, segments.next_chunk) == (9, 90, 4)
    with open_segments(output, MANIFEST) as segments:
        # What is gone on with is what was there.
        assert (segments.n_rows, segments.n_proposed, segments.next_chunk) == (9, 90, 4)
        append(segments, 9, 12)
        segments.join(output, 10, {"seed": 1}, tables={"edges": np.arange(3)})
    with h5py.File(output) as file:
        np.testing.assert_array_equal(file["x"][:], np.arange(10))
        np.testing.assert_array_equal(file["wide"][:], np.arange(10)[:, None] * np.ones(3))
        np.testing.assert_array_equal(file["edges"][:], np.arange(3))
        assert file["x"].dtype == np.float32
        assert file.attrs["seed"] == 1
    assert not partial_folder(output).exists()


def test_room_is_held_for_tables_and_for_chunks_that_are_hardly_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, output, n_rows = [], tmp_path / "out.h5", 65_537
    with open_segments(output, MANIFEST) as segments:
        append(segments, 0, n_rows)
        monkeypatch.setattr("sedcast.data.hdf5.reserve", lambda path, n_bytes: (reserve(path, n_bytes), held.append(n_bytes)))
        segments.join(output, n_rows, {}, tables={"edges": np.arange(500_000)})
    assert held[0] < output.stat().st_size <= max(held) <= 2 * output.stat().st_size


def test_segments_of_any_order_count_up_to_the_first_that_is_not_there(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(3.0)

    with open_segments(tmp_path / "out.h5", MANIFEST) as segments:
        for number in (0, 3, 1):
            write_segment(segments.path(number), number, 3, write)
        assert segments.absent(5) == [2, 4]
        segments.count()
        assert (segments.n_rows, segments.next_chunk, len(segments.paths)) == (6, 2, 2)
        write_segment(segments.path(2), 2, 3, write)
        segments.count()
        assert (segments.n_rows, segments.next_chunk) == (12, 4)


@pytest.mark.parametrize("damage", ["altered", "cut", "longer", "empty"])
def test_a_segment_that_was_damaged_is_let_go_of_with_those_after_it(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.h5"
    with open_segments(output, MANIFEST) as segments:
        for start in (0, 4, 8):
            append(segments, start, start + 4)
        second = segments.paths[1]
    whole = second.read_bytes()
    middle = len(whole) // 2
    second.write_bytes(
        {
            "altered": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "cut": whole[:-1],
            "longer": whole + b"\0",
            "empty": b"",
        }[damage]
    )
    with open_segments(output, MANIFEST) as segments:
        assert segments.n_rows == 4
        assert f"{second} is damaged" in caplog.text
        assert not second.exists()


def test_what_differs_from_an_interrupted_run_is_named(tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with open_segments(output, MANIFEST) as segments:
        append(segments, 0, 4)
    other = {"config": {"seed": 2, "n": 5, "bands": ["g"]}, "versions": {"sedcast": "1"}}
    with (
        pytest.raises(ConfigError, match=r'config\.bands was null and is now \["g"\]; config\.seed was 1 and is now 2: repeat'),
        open_segments(output, other),
    ):
        pass
    # Without a finished segment there is nothing to lose, and the manifest is that of the new run.
    first = partial_folder(output) / "segment-000000000.h5"
    first.unlink()
    with open_segments(output, other) as segments:
        assert segments.n_rows == 0
    assert json.loads((partial_folder(output) / "manifest.json").read_text(encoding="utf-8")) == other


def test_a_folder_is_taken_if_it_is_empty_or_ours(tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    folder = partial_folder(output)
    folder.mkdir()
    with open_segments(output, MANIFEST) as segments:
        append(segments, 0, 4)
    # What a killed process was writing goes.
    left = folder / ".segment-000000002.h5.abc.part"
    left.write_bytes(b"half")
    with open_segments(output, MANIFEST) as segments:
        assert segments.n_rows == 4
        assert not left.exists()
    other = partial_folder(tmp_path / "other.h5")
    other.mkdir()
    (other / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="is in the way"), open_segments(tmp_path / "other.h5", MANIFEST):
        pass
    assert (other / "letter.txt").read_text(encoding="utf-8") == "mine"


def test_a_digest_is_of_shapes_and_types_too() -> None:
    zeros = np.zeros(4)
    others = (np.zeros((2, 2)), np.zeros(4, dtype=np.int64), np.zeros(8, dtype=np.float32), np.array([0.0, 0.0, 0.0, 1.0]))
    assert len({array_digest(one) for one in (zeros, *others)}) == 5
    assert array_digest(zeros, np.ones(2)) != array_digest(np.ones(2), zeros)
    # Not of how they lie in memory.
    table = np.arange(6.0).reshape(2, 3)
    assert array_digest(np.asfortranarray(table)) == array_digest(table)
