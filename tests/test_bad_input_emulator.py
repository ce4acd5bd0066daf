"""Bad input to models, emulators, libraries and weight files: an error that says what to do, or a mask; never a NaN."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.emulator.published import read_speculator, write_speculator
from sedcast.emulator.safe_pickle import read_array_pickle
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.sps import SPSModel
from tests.test_published import Calls, make_segment

BANDS = ("u", "g", "r")
ZRED_MAX = 0.3

Evaluate = Callable[[Any, Any], np.ndarray]


@pytest.fixture(scope="module")
def direct() -> SPSModel:
    return SPSModel(SSPLibrary.popstar().trimmed(912, 3e4))


@pytest.fixture(scope="module")
def emulator() -> SpectrumEmulator:
    return SpectrumEmulator.default()


@pytest.fixture(scope="module")
def photometry(emulator: SpectrumEmulator) -> PhotometrySimulator:
    return PhotometrySimulator(emulator, BANDS, ZRED_MAX)


@pytest.fixture(scope="module", params=["direct", "emulator", "photometry", "derived"])
def evaluate(
    request: pytest.FixtureRequest, direct: SPSModel, emulator: SpectrumEmulator, photometry: PhotometrySimulator
) -> Evaluate:
    def derived(theta: Any, zred: Any) -> np.ndarray:
        return np.stack(list(derived_properties(theta, zred, direct.bases, direct.cosmology).values()), axis=1)

    return {
        "direct": direct.spectra,
        "emulator": emulator.spectra,
        "photometry": photometry.flux,
        "derived": derived,
    }[request.param]


def with_value(name: str, value: float) -> np.ndarray:
    theta = Prior().sample(3, 1)
    theta[1, PARAMETER_NAMES.index(name)] = value
    return theta


# θ and redshift, for every model.


@pytest.mark.parametrize("name", PARAMETER_NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_theta_that_is_not_finite_is_named(evaluate: Evaluate, name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=rf"theta\[1\].*{name}={value}") as caught:
        evaluate(with_value(name, value), 0.1)
    assert "finite" in str(caught.value)


@pytest.mark.parametrize("beta", [(0.9, 0.1, 0.1, 0.1), (-0.2, 0.4, 0.4, 0.4), (0, 0, 0, 0)])
def test_weights_that_do_not_sum_to_one_are_shown(evaluate: Evaluate, beta: tuple[float, ...]) -> None:
    theta = Prior().sample(3, 1)
    theta[2, 1:5] = beta
    with pytest.raises(ParameterError, match=r"theta\[2\].*SFH weights.*sum to 1.*normalise them|theta\[2\].*got \["):
        evaluate(theta, 0.1)


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (np.zeros((3, 11)), r"\(3, 11\)"),
        (np.zeros((2, 3, 12)), r"\(2, 3, 12\)"),
        (None, "theta"),
        ([["a"] * 12], "theta must be an array of numbers"),
        ([[1.0], [1.0, 2.0]], "theta must be an array of numbers"),
    ],
)
def test_theta_of_another_shape_or_kind(evaluate: Evaluate, theta: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        evaluate(theta, 0.1)


@pytest.mark.parametrize("zred", [-0.1, np.nan, np.inf, 5.0, 50.0, np.array([0.1, np.nan, 0.1])])
def test_redshifts_that_no_model_serves(evaluate: Evaluate, zred: Any) -> None:
    with pytest.raises(ParameterError, match="zred"):
        evaluate(Prior().sample(3, 1), zred)


@pytest.mark.parametrize(
    ("zred", "message"),
    [(np.array([0.1, 0.2]), r"\(3,\) as theta has, got \(2,\)"), ("high", "zred must be an array of numbers")],
)
def test_redshifts_of_another_shape_or_kind(evaluate: Evaluate, zred: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        evaluate(Prior().sample(3, 1), zred)


def test_no_galaxies_are_no_error(evaluate: Evaluate) -> None:
    assert evaluate(np.empty((0, 12)), 0.1).shape[0] == 0
    assert evaluate(np.empty((0, 12)), np.empty(0)).shape[0] == 0


# Beyond the prior, the redshift range and the wavelengths of an emulator.


@pytest.mark.parametrize(("name", "low", "high"), [(name, *limits) for name, limits in Prior().to_dict().items()])
def test_what_the_emulator_learnt_has_a_range_and_what_it_computes_has_none(
    emulator: SpectrumEmulator, name: str, low: float, high: float
) -> None:
    for value in (low * 0.9, high * 1.1) if name.startswith("gamma") else (low - 0.01, high + 0.01):
        theta = with_value(name, value)
        with pytest.raises(ParameterError, match=rf"theta\[1\] has {name}=.*outside the prior range.*Prior\.contains"):
            emulator.prior.validate(theta)
        if name.startswith("gamma"):
            with pytest.raises(ParameterError, match=rf"theta\[1\] has {name}=.*outside the emulator's"):
                emulator.spectra(theta, 0.1)
        elif (value >= 0 or name == "dust_index") and (name != "fburst" or value <= 1):
            assert np.isfinite(emulator.spectra(theta, 0.1)).all()
        else:
            with pytest.raises(ParameterError, match=rf"theta\[1\] must have {name} in"):
                emulator.spectra(theta, 0.1)
        inside = emulator.prior.contains(theta)
        np.testing.assert_array_equal(inside, [True, False, True])
        assert np.isfinite(emulator.spectra(theta[inside], 0.1)).all()


def test_the_mask_knows_every_kind_of_bad_theta(emulator: SpectrumEmulator) -> None:
    theta = np.concatenate([with_value("dust1", value) for value in (1.0, np.nan, np.inf, 9.0)])
    theta[0, 1] += 0.5
    np.testing.assert_array_equal(np.flatnonzero(~emulator.prior.contains(theta)), [0, 4, 7, 10])


def test_the_edges_of_the_prior_are_served_without_nan(emulator: SpectrumEmulator) -> None:
    corners = Prior().from_unit(np.random.default_rng(5).integers(0, 2, (256, 11)).astype(float))
    for zred in (0.0, emulator.zred_max):
        spectra = emulator.spectra(corners, zred)
        assert np.isfinite(spectra).all()


def test_a_redshift_beyond_the_emulator_says_what_it_serves(emulator: SpectrumEmulator) -> None:
    with pytest.raises(ParameterError, match=rf"0 … {emulator.zred_max}, train one with a larger zred_max"):
        emulator.spectra(Prior().sample(2, 1), emulator.zred_max + 0.01)


def test_a_filter_beyond_the_wavelengths_at_some_redshift(emulator: SpectrumEmulator) -> None:
    PhotometrySimulator(emulator, ("FUV",), 0.3)
    with pytest.raises(ParameterError, match=r"band 'wise2010-W3' covers.*spectra cover.*lower zred_max or drop the band"):
        PhotometrySimulator(emulator, ("r", "wise2010-W3"), 0.1)


@pytest.mark.parametrize(("zred", "message"), [(0.0, "0 < zred"), (0.31, "0 < zred <= 0.3")])
def test_photometry_needs_a_redshift_that_its_filters_were_tabulated_for(
    photometry: PhotometrySimulator, zred: float, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        photometry.flux(Prior().sample(2, 1), zred)


# Libraries.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_age": [8.0, 6.0, 10.0]}, "log_age must be finite and increase strictly.*sort the library"),
        ({"log_age": [6.0, np.nan, 10.0]}, "log_age must be finite"),
        ({"log_z": [-2.0, -4.0]}, "log_z must be finite and increase"),
        ({"wave_rest": [1000.0, 1000.0]}, "wave_rest must be finite and increase"),
        ({"flux": np.full((2, 3, 2), -1e-9)}, "flux must be finite and non-negative, got values from -1e-09"),
        ({"flux": np.full((2, 3, 2), np.nan)}, "flux must be finite"),
        ({"flux": np.full((2, 3, 2), 1e300)}, "flux must be finite"),
        ({"flux": np.ones((3, 2, 2))}, r"flux must have shape \(2, 3, 2\).*got \(3, 2, 2\): transpose it"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_impossible_libraries_are_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "wave_rest": [1000.0, 2000.0],
        "log_age": [6.0, 8.0, 10.0],
        "log_z": [-4.0, -2.0],
        "flux": np.ones((2, 3, 2)),
    }
    SSPLibrary(**good, name="good")
    with pytest.raises(ParameterError, match=message):
        SSPLibrary(**{key: np.array(value) for key, value in (good | changes).items()}, name="bad")


# Weight files.


def test_weight_files_with_wrong_shapes(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    write_speculator(path, make_segment())
    parts = read_array_pickle(path)
    for index, part in ((0, parts[0][:-1]), (5, parts[5][:-1]), (10, parts[10].T), (13, parts[13][::-1])):
        path.write_bytes(pickle.dumps([*parts[:index], part, *parts[index + 1 :]], protocol=3))
        with pytest.raises(ArtifactError, match=r"net\.pkl"):
            read_speculator(path)


def test_a_malicious_weight_file_runs_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "net.pkl", tmp_path / "trace"
    write_speculator(path, make_segment())
    parts = read_array_pickle(path)
    for evil in (Calls(os.system, f"touch {trace}"), Calls(eval, f"open({str(trace)!r}, 'w')")):
        for index in (0, 10, 17):
            path.write_bytes(pickle.dumps([*parts[:index], evil, *parts[index + 1 :]], protocol=3))
            with pytest.raises(
                ArtifactError, match=r"net\.pkl was refused, and nothing in it was run.*get it from its authors"
            ):
                read_speculator(path)
    assert not trace.exists()


@pytest.mark.parametrize("load", [SpectrumEmulator.load, SSPLibrary.load, SFHBases.load])
def test_artifacts_that_are_pickles_truncated_or_altered(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    path, trace = tmp_path / "artifact.npz", tmp_path / "trace"
    whole = tmp_path / "whole.npz"
    SFHBases.default().save(whole)
    data = bytearray(whole.read_bytes())
    altered = data.copy()
    altered[len(data) // 2] ^= 0xFF
    objects = tmp_path / "objects.npz"
    np.savez(objects, flux=np.array([Calls(os.system, f"touch {trace}")], dtype=object))
    for content in (b"", bytes(data[: len(data) // 2]), bytes(altered), pickle.dumps([1]), objects.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"artifact\.npz"):
            load(path)
    assert not trace.exists()
    with pytest.raises(ArtifactError, match=r"none\.npz"):
        load(tmp_path / "none.npz")
