"""`sedcast init`, `sedcast doctor` and the options that every command takes."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sedcast import cli, cli_setup
from sedcast.cli_common import Options, options
from sedcast.data.config import load_config
from sedcast.data.mapping import BUNDLED_MAPPINGS, CatalogMapping, load_mapping
from sedcast.emulator.simulation import SimulationConfig
from sedcast.emulator.spectrum_emulator import EmulatorConfig
from sedcast.posterior.posterior_config import PosteriorConfig

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _fresh_options() -> None:
    vars(options).update(vars(Options()))


def test_init_writes_the_examples_and_they_load(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["init", "-o", str(tmp_path / "new")])
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in EXAMPLES.glob("*.toml")}
    models = {"emulator": EmulatorConfig, "simulate": SimulationConfig, "posterior": PosteriorConfig, "mapping": CatalogMapping}
    for name, model in models.items():
        path = tmp_path / "new" / f"{name}.toml"
        assert path.read_bytes() == (EXAMPLES / path.name).read_bytes()
        load_config(path, model)
        assert path.read_text().splitlines()[0].startswith("# sedcast ")
        command = path.read_text().splitlines()[0][2:]
        assert f"use it with: {command.replace(path.name, str(path))}" in " ".join(result.output.split())


def test_init_replaces_nothing_unless_told(tmp_path: Path) -> None:
    mine = tmp_path / "simulate.toml"
    mine.write_text("mine")
    refused = CliRunner().invoke(cli.app, ["init", "-o", str(tmp_path)])
    assert "simulate.toml is there already, and a .toml file does not say what made it" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["simulate.toml"]
    assert mine.read_text() == "mine"
    assert CliRunner().invoke(cli.app, ["init", "simulate", "-o", str(tmp_path), "--overwrite"]).exit_code == 0
    assert mine.read_text() == (EXAMPLES / "simulate.toml").read_text()


@pytest.mark.parametrize("name", BUNDLED_MAPPINGS)
def test_init_writes_a_bundled_mapping_to_edit(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["init", "mapping", "--like", name, "-o", str(tmp_path)])
    assert result.exit_code == 0
    [path] = tmp_path.iterdir()
    assert f"use it with: sedcast infer mine.fits --mapping {path} -o mine.h5" in " ".join(result.output.split())
    assert load_mapping(path) == load_mapping(name)
    if name.startswith("desi"):
        path.write_text(path.read_text().replace("# redshift", "redshift"))
        assert load_mapping(path).redshift == "Z"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mapping", "--like", "desi"], "no bundled mapping 'desi': expected one of nsa-v0"),
        (["posterior", "--like", "nsa-v0"], "--like nsa-v0 is of the mapping alone: sedcast init mapping --like nsa-v0"),
        (["--like", "nsa-v0"], "--like nsa-v0 is of the mapping alone"),
    ],
)
def test_init_refuses_what_is_not_like_a_bundled_mapping(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["init", *arguments, "-o", str(tmp_path)])
    assert said in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_init_refuses_a_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli.app, ["init", "-o", str(tmp_path / "file")])
    assert str(result.exception) == f"-o {tmp_path / 'file'} is a file: give a folder"


def test_doctor_finds_this_installation_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPS_HOME", raising=False)
    result = CliRunner().invoke(cli.app, ["doctor", "--json"])
    found = json.loads(result.output)
    assert (result.exit_code, found["ok"]) == (0, True)
    assert found["checks"]["SPS_HOME"]["state"] == "note"
    assert "16 galaxies" in found["checks"]["self-test"]["finding"]
    assert sum("verified" in check["finding"] for check in found["checks"].values()) == len(
        list((EXAMPLES.parent / "data/bundled").glob("*.npz"))
    )


def test_doctor_names_what_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPS_HOME", str(tmp_path))
    monkeypatch.setattr(cli_setup, "_self_test", lambda: 1 / 0)
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    # FSPS is optional.
    assert "broken: self-test" in result.output
    assert "has no folder" in result.output
    assert "ZeroDivisionError" in result.output


def test_an_altered_artifact_is_found(tmp_path: Path) -> None:
    path = tmp_path / "bases.npz"
    shutil.copy(EXAMPLES.parent / "data/bundled/nmf_bases.npz", path)
    path.write_bytes(path.read_bytes()[:-100])
    state, finding = cli_setup._guarded(lambda: cli_setup._artifact(path))
    assert (state, "ArtifactError" in finding) == ("FAILED", True)


@pytest.mark.parametrize("arguments", [["-q", "doctor"], ["doctor", "-q"], ["doctor", "--quiet", "--json"]])
def test_shared_options_are_taken_before_and_after_the_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_setup, "check_installation", dict)
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert (options.quiet, options.verbose, options.debug) == (True, False, False)


def test_shared_options_reach_commands_of_groups() -> None:
    for command in (["train", "emulator"], ["ssp", "info"]):
        helped = CliRunner().invoke(cli.app, [*command, "--help"]).output
        assert helped.count("--debug") == 1
        assert helped.count("--verbose") == 1
