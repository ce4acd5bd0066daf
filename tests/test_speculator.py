"""The general trainer: any simulator, priors by name, segments, exact resumption, and refusals that say what is wrong."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedcast.data.config import load_config, parse_config
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError, SedcastError
from sedcast.emulator.log_spectrum import LogSpectrumEmulator
from sedcast.emulator.published import export_speculator, load_speculator
from sedcast.emulator.simulators import load_simulator
from sedcast.emulator.spectrum_emulator import EmulatorConfig
from sedcast.emulator.speculator import SpeculatorConfig, discard_checkpoints, load_emulator_config, train_speculator
from sedcast.emulator.training_set import ParameterPrior, TrainingSetConfig, make_training_set

CONFIGS = Path(__file__).parent.parent / "configs"


class GreyBody:
    """A power of wavelength with an exponential cut: ln L = ln a - b ln λ - c/λ, smooth in three parameters."""

    parameter_names = ("a", "b", "c")
    made_by = "tests"

    def __init__(self, n_wave: int = 60, fault: str = "", at: float = 0.5, pause: float = 0.0, unit: float = 1.0) -> None:
        self.wave_rest = np.linspace(1000.0, 9000.0, n_wave)
        self.fault, self.at, self.pause, self.unit = fault, at, pause, unit

    @property
    def provenance(self) -> dict[str, str]:
        return {"made_by": self.made_by}

    def spectra(self, theta: np.ndarray) -> np.ndarray:
        time.sleep(self.pause)
        a, b, c = theta.T[:, :, None]
        spectra = self.unit * a * (self.wave_rest / 5000) ** -b * np.exp(-1000 * c / self.wave_rest)
        bad = theta[:, 1] > self.at
        if self.fault == "shape":
            return spectra[:, :-1]
        if self.fault == "die" and bad.any():
            os._exit(3)
        if self.fault == "raise" and bad.any():
            raise RuntimeError("no such star")
        faults = {"nan": np.nan, "zero": 0.0, "negative": -1.0}
        if self.fault in faults:
            spectra[bad, 5] = faults[self.fault]
        return spectra


def no_simulator() -> object:
    return object()


VALUES: dict[str, Any] = {
    "simulator": "test_speculator:GreyBody",
    "parameters": {
        "b": {"min": 0.0, "max": 1.0},
        "a": {"prior": "log-uniform", "min": 0.01, "max": 10.0},
        "c": {"prior": "normal", "mean": 1.0, "sd": 0.3, "min": 0.0, "max": 2.0},
    },
    "n_train": 1500,
    "n_test": 100,
    "seed": 3,
    "segment_edges": [1000, 3000, 9000],
    "pca_tolerance": 1e-4,
    "max_pca": 8,
    "network": {"hidden": [32], "epochs": 150, "batch_size": 64, "learning_rate": 1e-2, "checkpoint_minutes": 0},
}


def config(**changes: Any) -> SpeculatorConfig:
    return parse_config(VALUES | changes, SpeculatorConfig)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogSpectrumEmulator, Path]:
    work = tmp_path_factory.mktemp("work")
    return train_speculator(config(), work, n_workers=1), work


def test_the_emulator_gives_the_simulator_s_spectra(trained: tuple[LogSpectrumEmulator, Path]) -> None:
    emulator, _ = trained
    rng = np.random.default_rng(4)
    theta = np.column_stack([10 ** rng.uniform(-2, 1, 300), rng.uniform(0, 1, 300), rng.uniform(0.3, 1.7, 300)])
    assert emulator.parameter_names == GreyBody.parameter_names
    assert emulator.log_parameters == ("a",)
    error = np.abs(emulator(theta) / GreyBody().spectra(theta) - 1)
    assert np.quantile(error, 0.99) < 0.05
    figures = emulator.card["figures"]
    assert figures["error_p99"] < 0.05
    assert figures["n_test"] == 100
    # ln L has three degrees of freedom; at 1e-4 each of them is needed.
    assert [segment["n_pca"] for segment in figures["segments"]] == [3, 3]
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert emulator.card["simulator"] == {"made_by": "tests", "code_sha256": code}
    assert np.array_equal(emulator.wave_rest, GreyBody().wave_rest)


def test_artifact_and_speculator_files_hold_the_same_emulator(
    trained: tuple[LogSpectrumEmulator, Path], tmp_path: Path
) -> None:
    emulator, _ = trained
    theta = np.array([[0.05, 0.2, 0.9], [3.0, 0.9, 1.4]])
    emulator.save(tmp_path / "e.npz")
    again = LogSpectrumEmulator.load(tmp_path / "e.npz")
    assert np.array_equal(again(theta), emulator(theta))
    assert (again.ranges, again.log_parameters) == (((0.01, 10.0), (0.0, 1.0), (0.0, 2.0)), ("a",))
    *files, described = export_speculator(emulator, tmp_path / "out")
    assert [path.name for path in files] == ["segment-1.pkl", "segment-2.pkl"]
    inputs = json.loads(described.read_text())
    assert inputs["inputs"] == ["ln a", "b", "c"]
    assert np.allclose(inputs["ranges"][0], np.log([0.01, 10]))
    plain = load_speculator(files)
    assert np.array_equal(plain.log_spectra(np.column_stack([np.log(theta[:, 0]), theta[:, 1:]])), emulator.log_spectra(theta))
    whole = (tmp_path / "e.npz").read_bytes()
    (tmp_path / "e.npz").write_bytes(whole[:900])
    with pytest.raises(ArtifactError):
        LogSpectrumEmulator.load(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("theta", "named"),
    [
        ([[20.0, 0.5, 1.0]], "a=20, outside the training's 0.01 … 10"),
        ([[-1.0, 0.5, 1.0]], "a=-1, outside"),
        ([[1.0, np.nan, 1.0]], "b=nan"),
        ([[1.0, 0.5]], "shape"),
    ],
)
def test_outside_the_training_is_refused(trained: tuple[LogSpectrumEmulator, Path], theta: list, named: str) -> None:
    with pytest.raises(ParameterError, match=named):
        trained[0](np.array(theta))


def test_an_interrupted_training_ends_as_one_that_was_not(trained: tuple[LogSpectrumEmulator, Path], tmp_path: Path) -> None:
    class Kill(BaseException):
        pass

    stages: list[int] = []

    def kill(done: int, total: int, figures: dict[str, float] | None = None) -> None:
        if figures is None and done > 900 and not stages:
            stages.append(1)
            raise Kill
        if figures is not None and done == 100 and len(stages) == 1:
            stages.append(2)
            raise Kill

    for _ in range(2):
        with pytest.raises(Kill):
            train_speculator(config(), tmp_path, n_workers=1, progress=kill)
    seen: list[int] = []
    resumed = train_speculator(config(), tmp_path, n_workers=1, progress=lambda done, *_: seen.append(done))
    assert seen[0] == 100
    theta = np.array([[0.05, 0.2, 0.9], [3.0, 0.9, 1.4]])
    assert np.array_equal(resumed(theta), trained[0](theta))
    with pytest.raises(ConfigError, match="max_pca was 8 and is now 9"):
        train_speculator(config(max_pca=9), tmp_path, n_workers=1)
    with pytest.raises(ConfigError, match=r"parameters.b.max was 1.0 and is now 2.0"):
        train_speculator(config(parameters=VALUES["parameters"] | {"b": {"min": 0.0, "max": 2.0}}), tmp_path, n_workers=1)
    discard_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spectra.h5"]


def test_workers_make_the_same_spectra(trained: tuple[LogSpectrumEmulator, Path], tmp_path: Path) -> None:
    alone = make_training_set(config().training_set(), trained[1] / "spectra.h5")
    together = make_training_set(config().training_set(), tmp_path / "spectra.h5", n_workers=2)
    assert np.array_equal(together.theta, alone.theta)
    assert all(
        np.array_equal(a, b) for a, b in zip(together.log_spectra(slice(None)), alone.log_spectra(slice(None)), strict=True)
    )


def training_set(n_spectra: int = 128, **options: Any) -> TrainingSetConfig:
    return config(n_train=n_spectra - 1, n_test=1, options=options).training_set()


def test_spectra_survive_a_kill(tmp_path: Path) -> None:
    """A process killed by the system while it makes spectra loses only what it was at."""
    wanted = training_set(1024, pause=0.02)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_speculator import training_set; from sedcast.emulator.training_set import make_training_set;"
        "make_training_set(training_set(1024, pause=0.02), sys.argv[2], n_workers=1,"
        " progress=lambda done, total: done > 600 and __import__('os').kill(__import__('os').getpid(), 9))"
    )
    output = tmp_path / "spectra.h5"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(output)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert not output.exists()
    seen: list[int] = []
    resumed = make_training_set(wanted, output, n_workers=1, progress=lambda done, _: seen.append(done))
    assert seen[0] == 512
    whole = make_training_set(wanted, tmp_path / "whole.h5", n_workers=1)
    assert np.array_equal(
        next(resumed.log_spectra(slice(None), n_chunk=1024)), next(whole.log_spectra(slice(None), n_chunk=1024))
    )


@pytest.mark.parametrize(
    ("fault", "error", "named"),
    [
        ("shape", ParameterError, r"shape \(64, 59\), expected \(64, 60\)"),
        ("nan", ParameterError, r"nan at 1677.97 Å for .*'b': 0\.[5-9]"),
        ("zero", ParameterError, "0 at 1677.97 Å"),
        ("negative", ParameterError, "-1 at 1677.97 Å"),
        ("raise", SedcastError, "RuntimeError: no such star"),
    ],
)
def test_faulty_simulators_are_named(fault: str, error: type[Exception], named: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=named):
        make_training_set(training_set(fault=fault), tmp_path / "s.h5", n_workers=1)


@pytest.mark.parametrize("unit", [1e40, 1e-40])
def test_units_beyond_single_precision_are_refused(unit: float, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"expected 1e-34 to 1e34.*another unit"):
        make_training_set(training_set(unit=unit), tmp_path / "s.h5", n_workers=1)


def test_spectra_of_another_simulator_of_that_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_training_set(training_set(), tmp_path / "s.h5", n_workers=1)
    monkeypatch.setattr(GreyBody, "made_by", "another library")
    with pytest.raises(ConfigError, match=r"holds another training set.*another library"):
        make_training_set(training_set(), tmp_path / "s.h5", n_workers=1)


def test_spectra_of_a_simulator_whose_file_has_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    own = tmp_path / "own_simulator.py"
    own.write_text("from test_speculator import GreyBody\n")
    config = training_set().model_copy(update={"simulator": "own_simulator:GreyBody"})
    make_training_set(config, tmp_path / "s.h5", n_workers=1)
    make_training_set(config, tmp_path / "s.h5", n_workers=1)
    own.write_text("from test_speculator import GreyBody\n# brighter\n")
    with pytest.raises(ConfigError, match=r"own_simulator.py was changed after this process had imported it"):
        make_training_set(config, tmp_path / "new.h5", n_workers=1)
    importlib.reload(sys.modules["own_simulator"])
    with pytest.raises(ConfigError, match=r"holds another training set.*code_sha256"):
        make_training_set(config, tmp_path / "s.h5", n_workers=1)
    make_training_set(config, tmp_path / "new.h5", n_workers=1)


def test_a_worker_with_another_simulator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process alone.
    monkeypatch.setattr(GreyBody, "made_by", "another library")
    with pytest.raises(ConfigError, match=r'a worker has another simulator .*made_by was "another library" and'):
        make_training_set(training_set(), tmp_path / "s.h5", n_workers=2)


def test_a_fault_in_a_worker_is_named_as_one_here(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"nan at 1677.97 Å for .*'b': 0\.[5-9]"):
        make_training_set(training_set(fault="nan"), tmp_path / "s.h5", n_workers=2)


def test_a_dead_worker_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SedcastError, match="a worker process died"):
        make_training_set(training_set(fault="die", at=0.97), tmp_path / "s.h5", n_workers=2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"simulator": "grey"}, r"unknown simulator 'grey': give one of .*composite-fsps"),
        ({"simulator": "no_such_module:grey"}, "cannot be imported"),
        ({"simulator": "test_speculator:absent"}, "cannot be imported"),
        ({"simulator": "test_speculator:VALUES"}, "must be a callable"),
        ({"simulator": "test_speculator:no_simulator"}, "lacks"),
        ({"options": {"n": 5}}, "cannot be made with options"),
        ({"options": {"n_wave": 1}}, "wave_rest must be"),
        ({"parameters": {"a": {"min": 0, "max": 1}}}, r"expected those of the simulator: \['a', 'b', 'c'\]"),
        ({"segment_edges": [20_000, 30_000]}, "covers 1000 … 9000 Å"),
        ({"segment_edges": [1000, 1010, 9000]}, "segment 1000 … 1010 Å holds 1 wavelengths"),
    ],
)
def test_configurations_that_do_not_suit_the_simulator(changes: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        train_speculator(config(n_train=64, **changes), tmp_path, n_workers=1)


@pytest.mark.parametrize(
    ("prior", "named"),
    [
        ({"min": 1, "max": 1}, "must be below"),
        ({"min": 2, "max": 1}, "must be below"),
        ({"prior": "log-uniform", "min": 0, "max": 1}, "must be positive"),
        ({"prior": "normal", "min": 0, "max": 1}, "takes"),
        ({"prior": "power", "min": 0, "max": 1, "exponent": 0}, "exponent"),
        ({"min": 0, "max": 1, "mean": 3}, "only min and max"),
        ({"prior": "flat", "min": 0, "max": 1}, "prior"),
    ],
)
def test_impossible_priors_are_refused(prior: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(parameters=VALUES["parameters"] | {"b": prior})


def test_segment_edges_must_increase() -> None:
    for edges in ([1000], [2000, 1000], [0, 1000]):
        with pytest.raises(ConfigError, match="segment_edges"):
            config(segment_edges=edges)


def test_priors_have_their_distributions() -> None:
    unit = (np.arange(20_000) + 0.5) / 20_000
    values = parse_config({"prior": "normal", "mean": 1, "sd": 2, "min": -50, "max": 50}, ParameterPrior).from_unit(unit)
    assert (values.mean(), values.std()) == pytest.approx((1, 2), abs=2e-3)
    values = parse_config({"prior": "power", "exponent": 3, "min": 0, "max": 1}, ParameterPrior).from_unit(unit)
    assert values.mean() == pytest.approx(3 / 4, abs=1e-4)
    values = parse_config({"prior": "log-uniform", "min": 0.01, "max": 10}, ParameterPrior).from_unit(unit)
    assert np.log10(values).mean() == pytest.approx(-0.5, abs=1e-4)
    rows = config().training_set()
    names = GreyBody.parameter_names
    assert np.array_equal(rows.draw(names, 64, 10), rows.draw(names, 0, 128)[64:74])


def test_what_is_not_a_training_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.h5").write_text("no")
    with pytest.raises(ConfigError, match="not a training set"):
        make_training_set(training_set(), tmp_path / "s.h5")


def test_recipes_are_read_by_kind() -> None:
    assert isinstance(load_emulator_config(CONFIGS / "emulator_speculator.toml"), SpeculatorConfig)
    assert isinstance(load_emulator_config(CONFIGS / "emulator_fsps.toml"), EmulatorConfig)
    assert isinstance(load_emulator_config(CONFIGS / "emulator_popstar.toml"), EmulatorConfig)


def test_composite_simulator_is_the_direct_model_without_burst() -> None:
    from sedcast.data.ssp import SSPLibrary
    from sedcast.emulator.prior import PARAMETER_NAMES, Prior, sfh_sticks
    from sedcast.emulator.sps import SPSModel

    theta = Prior().sample(5, 1)
    theta[:, 0] = 0.0
    theta[:, PARAMETER_NAMES.index("fburst")] = 0.0
    model = SPSModel(SSPLibrary.popstar())
    zred = np.linspace(0, 0.3, 5)
    nine = np.column_stack([sfh_sticks(theta[:, 1:5]), theta[:, 7:], model.cosmology.age_gyr(zred)])
    simulator = load_simulator("composite-ssp", {})
    assert np.allclose(simulator.spectra(nine), model.spectra(theta, zred), rtol=1e-10)


def test_composite_simulators_tell_their_libraries_apart() -> None:
    from sedcast.data.ssp import SSPLibrary
    from sedcast.emulator.simulators import CompositeSimulator
    from sedcast.emulator.sps import SPSModel

    library = SSPLibrary.popstar().trimmed(4000, 5000)
    brighter = replace(library, flux=2 * library.flux)
    first, again, other = (CompositeSimulator(SPSModel(each)).provenance for each in (library, library, brighter))
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"library_digest"}


@pytest.mark.fsps
def test_composite_simulator_calls_fsps() -> None:
    recipe = load_config(CONFIGS / "emulator_speculator.toml", SpeculatorConfig).training_set()
    simulator, used = recipe.load()
    theta = recipe.draw(simulator.parameter_names, 0, 2)
    spectra = simulator.spectra(theta)[:, used]
    assert (spectra > 0).all()
    assert len(recipe.parameters) == 9
