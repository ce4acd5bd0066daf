"""The benchmark that sets the composite emulator beside a plain one: the same galaxies for both."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.structure import galaxies
from sedcast.data.config import load_config, parse_config
from sedcast.emulator.simulators import load_simulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.speculator import SpeculatorConfig, train_speculator

RECIPE = Path(__file__).parent.parent / "configs" / "emulator_speculator.toml"


def test_the_composite_emulator_is_asked_for_the_same_galaxies() -> None:
    recipe = load_config(RECIPE, SpeculatorConfig).training_set()
    simulator = load_simulator("composite-ssp", {})
    nine = recipe.draw(simulator.parameter_names, 0, 64).astype(np.float32).astype(float)
    emulator = SpectrumEmulator.default()
    kept, theta, zred = galaxies(emulator, nine)
    assert 50 < len(kept) < 64
    assert np.allclose(emulator.cosmology.age_gyr(zred), nine[kept, 8], rtol=1e-6)
    wave = simulator.wave_rest
    optical = (wave > 4000) & (wave < 9000)
    used = np.isin(emulator.wave_rest, wave[optical])
    ratio = emulator.spectra(theta, zred)[:, used] / 1e10 / simulator.spectra(nine[kept])[:, optical]
    assert np.abs(ratio - 1).max() < 0.01


def test_structure_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = load_config(RECIPE, SpeculatorConfig).model_dump(mode="json", exclude_none=True)
    composite = SpectrumEmulator.default()
    values |= {"simulator": "composite-ssp", "n_train": 400, "n_test": 56, "max_pca": 5}
    low, high = composite.wave_rest[0], composite.wave_rest[-1]
    values |= {"segment_edges": [low, 5000.0, high], "network": {"hidden": [8], "epochs": 60, "batch_size": 32}}
    for name in ("dust1", "dust2"):
        values["parameters"][name]["max"] = 0.3
    emulator = train_speculator(parse_config(values, SpeculatorConfig), tmp_path, n_workers=1)
    emulator.save(tmp_path / "s.npz")
    files = ["--speculator", str(tmp_path / "s.npz"), "--composite", "bundled", "--spectra", str(tmp_path / "spectra.h5")]
    assert main(["structure", *files]) == 0
    figures = json.loads(capsys.readouterr().out)
    plain, composite_error = (figures[f"{name}_{low:g}_{high:g}"] for name in ("speculator", "composite"))
    assert composite_error[0] < 1e-3 < plain[0]
