"""`sedcast train emulator` on a simulator of the user's: the example of the documentation, run as it stands there."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from sedcast import cli
from sedcast.emulator.log_spectrum import LogSpectrumEmulator
from sedcast.emulator.published import load_speculator

DOCS = Path(__file__).parent.parent / "docs" / "training-emulators.md"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sedcast", "--quiet", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_documented_example_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[:2])
    (tmp_path / "mymodel.py").write_text(blocks["python"], encoding="utf-8")
    toml = blocks["toml"].replace("batch_size = 256", "batch_size = 32").replace("n_train = 4000", "n_train = 1000")
    toml = toml.replace("epochs = 300", "epochs = 60")
    (tmp_path / "mymodel.toml").write_text(toml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    output, folder = tmp_path / "mymodel.npz", tmp_path / "mymodel"
    arguments = ("train", "emulator", tmp_path / "mymodel.toml", "-o", output, "--workers", 1)
    assert run(monkeypatch, *arguments, "--export-speculator", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error_p99"] < 0.1
    emulator = LogSpectrumEmulator.load(output)
    simulator = importlib.import_module("mymodel").GreyBody()
    theta = np.array([[1.0, 0.5], [0.1, 1.5]])
    assert np.allclose(emulator(theta), simulator.spectra(theta), rtol=0.1)
    assert load_speculator(folder.glob("*.pkl")).wave_rest.size == 500
    assert [path.name for path in (tmp_path / "mymodel.npz.training").iterdir()] == ["spectra.h5"]


def test_errors_of_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text('library = "popstar"\n', encoding="utf-8")
    assert run(monkeypatch, "train", "emulator", tmp_path / "c.toml", "--export-speculator", tmp_path / "x") == 2
    assert "Speculator's format cannot hold the composite emulator" in capsys.readouterr().err
    (tmp_path / "c.toml").write_text('simulator = "nowhere"\nn_train = 10\n', encoding="utf-8")
    assert run(monkeypatch, "train", "emulator", tmp_path / "c.toml") == 2
    error = capsys.readouterr().err
    assert "key 'n_train'" in error
    assert "'segment_edges' is missing" in error
