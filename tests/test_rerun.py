"""Headers of provenance, and outputs repeated from them."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from standin import BANDS, mock_photometry
from typer.testing import CliRunner

from benchmarks.kills import make_tasks
from sedcast.cli import app
from sedcast.cli_common import options as screen_options
from sedcast.data.artifacts import save_artifact
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.data.provenance import provenance, read_provenance
from sedcast.emulator import mass_simulation, simulation
from sedcast.rerun import header_differences, options_of, output_differences

HEADER = {"format", "versions", "command", "invocation", "files", "run", "time", "config", "artifacts"}


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    flux, ivar, zred = mock_photometry(12, 5)
    columns = {f"flux_{band}": flux[:, k] for k, band in enumerate(BANDS)}
    columns |= {f"flux_ivar_{band}": ivar[:, k] for k, band in enumerate(BANDS)}
    path = tmp_path / "mine.fits"
    Table(columns | {"zred": zred}).write(path)
    return path


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    bands = "".join(f'[bands.{band}]\nflux = "flux_{band}"\nivar = "flux_ivar_{band}"\n' for band in BANDS)
    path = tmp_path / "mine.toml"
    path.write_text(f'redshift = "zred"\n{bands}', encoding="utf-8")
    return path


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["--quiet", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_either_file_of_a_streamed_run_is_repeated(
    catalog: Path, mapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made, samples, again = tmp_path / "made.fits", tmp_path / "drawn.h5", tmp_path / "again"
    run("infer", catalog, "--mapping", mapping, "--n-samples", 7, "-o", made, "--samples", samples)
    again.mkdir()
    run("rerun", samples, "-o", again / "x.h5", "--check")
    assert (again / "x.fits").exists()
    for target, beside in (("x.fits", "x.h5"), ("x.h5", "x.fits")):
        (again / target).unlink()
        kept = (again / beside).rename(tmp_path / beside)
        (again / beside).touch()
        with pytest.raises(ParameterError, match=f"{beside} is there already, and is not"):
            run("rerun", made, "-o", again / target)
        kept.rename(again / beside)
        run("rerun", made, "-o", again / target)
    with pytest.raises(ParameterError, match="read by the command itself"):
        run("rerun", made, "-o", made, "--overwrite")


def test_a_repeated_command_keeps_the_options_of_the_screen(catalog: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.h5"
    run("infer", catalog, "--n-samples", 7, "-o", made)
    arguments = ["--debug", "--quiet", "rerun", str(made), "-o", str(tmp_path / "again.h5")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (screen_options.debug, screen_options.quiet, screen_options.verbose) == (True, True, False)


@pytest.mark.parametrize("name", ["out.h5", "out.fits", "out.parquet", "out.ecsv"])
def test_inferred_catalogues_are_repeated(
    name: str, catalog: Path, mapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made, again = tmp_path / name, tmp_path / "again" / name
    run("infer", catalog, "--model", "sdss-ugriz", "--mapping", mapping, "--n-samples", 7, "--seed", 5, "-o", made)
    header = read_provenance(made)
    assert header.keys() >= HEADER
    assert header["time"] == "2023-11-14T22:13:20Z"
    assert header["command"].startswith("sedcast infer")
    assert header["invocation"]["options"]["seed"] == 5
    assert header["files"]["mapping"]["text"] == mapping.read_text(encoding="utf-8")
    assert len(header["files"]["catalog"]["sha256"]) == len(header["artifacts"]["estimator"]) == 64
    # The mapping is in the header; the catalogue must be there.
    mapping.unlink()
    run("rerun", made, "-o", again)
    assert output_differences(made, again) == []
    assert header_differences(header, read_provenance(again)) == []
    assert json.loads(run("rerun", made, "--check", "--json"))["identical"] is True
    catalog.write_bytes(catalog.read_bytes() + b"\0" * 2880)
    with pytest.raises(ArtifactError, match="changed since"):
        run("rerun", made, "--check")


def test_simulations_are_repeated_by_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (simulation, mass_simulation):
        monkeypatch.setattr(module, "PROPOSALS_PER_CHUNK", 512)
    (tmp_path / "s.toml").write_text('n_galaxies = 300\nseed = 2\nbands = ["g", "r"]\n', encoding="utf-8")
    made = tmp_path / "out.h5"
    run("simulate", tmp_path / "s.toml", "-o", made)
    (tmp_path / "s.toml").unlink()
    run("rerun", made, "-o", tmp_path / "again.h5")
    assert output_differences(made, tmp_path / "again.h5") == []
    config = simulation.SimulationConfig(n_galaxies=300, seed=2, bands=("g", "r"))
    for workers, chunks in ((1, 1), (3, 5)):
        monkeypatch.setattr(mass_simulation, "_CHUNKS_PER_SEGMENT", chunks)
        mass_simulation.simulate(config, tmp_path / f"{workers}.h5", n_workers=workers)
        assert output_differences(made, tmp_path / f"{workers}.h5") == []
    with h5py.File(tmp_path / "again.h5", "a") as file:
        file["flux"][0] += 1
    assert output_differences(made, tmp_path / "again.h5") == ["flux"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train posterior", "train emulator", "compare"])
def test_trainings_and_comparisons_are_repeated(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("train"):
        pytest.importorskip("tensorflow", reason="training needs TensorFlow")
    monkeypatch.chdir(tmp_path)
    task = next(task for task in make_tasks(tmp_path / "inputs") if task.name == name)
    run(*task.arguments)
    figures = json.loads(run("rerun", task.outputs[0], "--check", "--json"))
    assert (figures["changed"], figures["different"]) == ([], [])


def test_comparisons_differ_in_numbers_and_not_in_times(tmp_path: Path) -> None:
    for name, seconds, shift in (("a", 1.0, 0.5), ("b", 2.0, 0.5), ("c", 1.0, 0.25)):
        (tmp_path / name / "runs").mkdir(parents=True)
        save_artifact(tmp_path / name / "runs" / "real-0-flow.npz", "thing", {"draws": np.ones(3)}, {"wall_s": seconds})
        one = {"methods": {"flow": {"wall_s": seconds, "ess_per_s": 9 / seconds}}, "pairs": {"flow": {"shift": [shift]}}}
        text = json.dumps({"about": {"command": name}, "galaxies": [one]})
        (tmp_path / name / "comparison.json").write_text(text, encoding="utf-8")
    assert output_differences(tmp_path / "a", tmp_path / "b") == []
    (different,) = output_differences(tmp_path / "a", tmp_path / "c")
    assert different.startswith("comparison.json: galaxies[0].pairs.flow.shift")
    (tmp_path / "b" / "comparison.json").unlink()
    assert output_differences(tmp_path / "a", tmp_path / "b") == ["comparison.json is not in both"]


def test_what_cannot_be_repeated_says_why(tmp_path: Path) -> None:
    save_artifact(tmp_path / "x.npz", "thing", {}, {})
    with pytest.raises(ArtifactError, match="carries no header"):
        read_provenance(tmp_path / "x.npz")
    with pytest.raises(ArtifactError, match="no output at"):
        read_provenance(tmp_path / "nothing.h5")
    save_artifact(tmp_path / "x.npz", "thing", {}, {"provenance": provenance(config={}, artifacts={})}, overwrite=True)
    with pytest.raises(ArtifactError, match="from Python"):
        options_of(read_provenance(tmp_path / "x.npz"), tmp_path / "y.npz", tmp_path)
    with pytest.raises(ParameterError, match="give -o"):
        run("rerun", tmp_path / "x.npz")


def test_options_that_did_nothing_are_left_out(tmp_path: Path) -> None:
    idle = {"unit": "nanomaggies", "n_draws": 10_000, "sample_type": "float32", "compression": None}
    made = {"name": ["infer"], "options": idle | {"catalog": "sdss", "output": "x.h5", "refine": False}}
    options = options_of({"invocation": made, "files": {}}, tmp_path / "y.h5", tmp_path)[1]
    assert options == {"catalog": "sdss", "output": str(tmp_path / "y.h5"), "refine": False}
    made["options"] |= {"catalog": "mine.csv", "unit": "uJy", "fallback": "mcmc"}
    options = options_of({"invocation": made, "files": {}}, tmp_path / "y.h5", tmp_path)[1]
    assert {name: options.get(name) for name in idle} == dict.fromkeys(idle) | {"unit": "uJy", "n_draws": 10_000}
    assert options["refine"] is True


@pytest.mark.parametrize(("name", "option"), [("posterior", "plot"), ("emulator", "export")])
def test_only_the_output_is_written_again(name: str, option: str, tmp_path: Path) -> None:
    made = {"name": ["train", name], "options": {"config": "gone.toml", "output": "x.npz", option: "theirs"}}
    header = {"invocation": made, "files": {"config": {"bytes": 0, "sha256": "", "text": ""}}}
    options = options_of(header, tmp_path / "y.npz", tmp_path, allow_code=True)[1]
    assert options == {"config": str(tmp_path / "input0.toml"), "output": str(tmp_path / "y.npz")}


def test_no_code_is_run_unasked(tmp_path: Path) -> None:
    text = 'simulator = "os:system"\n[options]\ncommand = "touch pwned"\n'
    made = {"name": ["train", "emulator"], "options": {"config": "gone.toml", "output": "x.npz"}}
    header = {"invocation": made, "files": {"config": {"bytes": len(text), "sha256": "", "text": text}}}
    with pytest.raises(ConfigError, match="code would be run"):
        options_of(header, tmp_path / "y.npz", tmp_path)
    assert options_of(header, tmp_path / "y.npz", tmp_path, allow_code=True)[0] == ("train", "emulator")
    with pytest.raises(ArtifactError, match="cannot be repeated from the file"):
        options_of({"invocation": {"name": ["demo"], "options": {}}, "files": {}}, tmp_path / "y", tmp_path)


def test_long_headers_survive_fits(tmp_path: Path) -> None:
    header = provenance(config={"text": "a  " * 200, "other": "é" * 90}, artifacts={})
    table = fits.BinTableHDU(np.zeros(1, dtype=[("a", "f4")]))
    table.header["HISTORY"] = json.dumps(header)
    table.writeto(tmp_path / "x.fits")
    assert read_provenance(tmp_path / "x.fits") == header
