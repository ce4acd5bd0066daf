"""The command line: teaches, starts fast, and ends with the right status and message."""

import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.table import Table
from standin import BANDS, gaussian_estimator, mock_photometry
from typer.testing import CliRunner

import sedcast
from sedcast import cli
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.config import Config, load_config
from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.emulator.simulation import SimulationConfig
from sedcast.emulator.spectrum_emulator import EmulatorConfig
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.posterior_config import PosteriorConfig

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMANDS = [
    ["demo"],
    ["train", "emulator"],
    ["train", "posterior"],
    ["simulate"],
    ["fit"],
    ["infer"],
    ["show"],
    ["explore"],
    ["rerun"],
    ["validate"],
    ["compare"],
    ["figures"],
    ["init"],
    ["doctor"],
    ["report"],
    ["ssp", "build"],
    ["ssp", "info"],
    ["ssp", "compare"],
]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run the program as its console script does; returns status, standard output and standard error."""
    logger = logging.getLogger("sedcast")
    handlers, level = logger.handlers[:], logger.level

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sedcast", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    yield call
    logger.handlers, logger.level = handlers, level
    cli.options.__init__()  # type: ignore[misc]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['sedcast', '--help']\nfrom sedcast.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'tensorflow', 'tensorflow_probability', 'astropy', 'matplotlib', 'scipy', 'numpy', 'h5py', 'pydantic'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert done.stderr == ""
    assert "demo" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_shows_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert f"sedcast {' '.join(command)}" in " ".join(result.output.split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_paragraphs_of_help_are_wrapped_once(command: list[str]) -> None:
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, [*command, "--help"]).output
    lines = [line.strip() for line in shown.partition("╭")[0].splitlines()]
    broken = [
        (line, after) for line, after in itertools.pairwise(lines) if line and after and len(f"{line} {after.split()[0]}") <= 78
    ]
    assert broken == []


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"sedcast {sedcast.__version__}\n", "")


def test_a_usage_error_has_status_2(run: Run) -> None:
    status, _, err = run("infer", "--bogus")
    assert status == 2
    assert "No such option" in err


def test_a_user_error_is_one_line_with_status_2(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "simulate.toml"
    config.write_text("n_galaxies = 5\nn_galxies = 6\n")
    status, out, err = run("simulate", config)
    assert (status, out) == (2, "")
    assert err.startswith("sedcast: ")
    assert "unknown key 'n_galxies'" in err
    assert err.count("\n") == 1


def test_outputs_and_workers_are_checked_before_the_work(run: Run, tmp_path: Path) -> None:
    file, output = tmp_path / "file", tmp_path / "out.npz"
    file.touch()
    for arguments, said in (
        (["validate", "bundled", "-o", file], "is a file: give a folder"),
        (["simulate", EXAMPLES / "simulate.toml", "-o", tmp_path / "s.txt"], "ends in .h5"),
        (["simulate", EXAMPLES / "simulate.toml", "-o", tmp_path / "s.h5", "--workers", "2"], "those of --scheduler"),
        (["train", "emulator", EXAMPLES / "emulator.toml", "-o", output, "--workers", "2"], "this configuration has none"),
    ):
        status, _, err = run(*arguments)
        assert (status, said in err) == (2, True), err


@pytest.mark.parametrize("command", [["simulate"], ["train", "emulator"], ["train", "posterior"]])
def test_a_configuration_is_not_overwritten(run: Run, tmp_path: Path, command: list[str]) -> None:
    config = tmp_path / "mine.toml"
    config.write_bytes((EXAMPLES / f"{command[-1]}.toml").read_bytes())
    (tmp_path / "link.toml").symlink_to(config)
    for output in (config, tmp_path / "link.toml"):
        status, _, err = run(*command, config, "-o", output)
        assert (status, "would be overwritten" in err) == (2, True), err
    assert config.read_bytes() == (EXAMPLES / f"{command[-1]}.toml").read_bytes()


def test_curves_are_drawn_while_it_trains_and_never_end_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def epochs(n: int) -> list[dict[str, float]]:
        return [{"minutes": float(k), "train_nll": 5.0 - k, "validation_nll": 5.0 - k} for k in range(n)]

    def train(_: PosteriorConfig, *, on_epoch: Callable[[list[dict[str, float]]], None], **__: Any) -> PosteriorEstimator:
        on_epoch(epochs(1))
        drawn = curves.read_bytes()
        plots.rename(tmp_path / "away")
        plots.write_text("in the way")
        on_epoch(epochs(2))
        on_epoch(epochs(3))
        plots.unlink()
        plots.mkdir()
        on_epoch(epochs(4))
        assert curves.read_bytes() != drawn
        return gaussian_estimator().changed({"figures": {}, "history": epochs(5)})

    monkeypatch.setattr(cli, "_SECONDS_BETWEEN_CURVES", 0.0)
    monkeypatch.setattr("sedcast.posterior.train.train_posterior", train)
    plots, output = tmp_path / "plots", tmp_path / "posterior.npz"
    plots.mkdir()
    curves = plots / "curves.png"
    command = ("train", "posterior", EXAMPLES / "posterior.toml", "-o")
    status, _, err = run(*command, output, "--plot", curves)
    assert (status, output.exists(), curves.exists()) == (0, True, True), err
    assert caplog.text.count("the training goes on") == 1
    for wrong in (tmp_path / "curves.txt", output):
        assert run(*command, tmp_path / "new.npz", "--plot", wrong)[0] == 2


def test_checkpoints_of_two_outputs_are_two() -> None:
    for name, kept in (("posterior.npz", "posterior"), ("run1.0", "run1.0"), ("run1.5", "run1.5"), ("run1.5b.npz", "run1.5b")):
        assert cli._checkpoint(Path("out") / name) == Path("out") / f"{kept}.checkpoint.npz"


def test_missing_catalogue_and_folder_as_output(run: Run, tmp_path: Path) -> None:
    status, _, err = run("infer", tmp_path / "nothing.csv", "-o", tmp_path / "out.h5")
    assert (status, "no catalogue at" in err) == (2, True)
    status, _, err = run("infer", "sdss", "-o", tmp_path)
    assert (status, "is a folder" in err) == (2, True)


def test_unexpected_errors_interruption_and_debug(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(error: BaseException) -> None:
        def raising(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("sedcast.demo.run_demo", raising)

    fail(RuntimeError("boom"))
    status, _, err = run("demo", "-o", tmp_path)
    assert (status, "unexpected RuntimeError: boom" in err, "Traceback" in err) == (1, True, False)
    fail(KeyboardInterrupt())
    assert run("demo", "-o", tmp_path) == (130, "", "sedcast: interrupted\n")
    fail(ParameterError("no"))
    status, _, err = run("--debug", "demo", "-o", tmp_path)
    assert (status, "Traceback" in err, "sedcast: no" in err) == (2, True, True)


@pytest.mark.parametrize(("output", "resumes"), [("out.h5", False), ("out.fits", True)])
def test_an_interrupted_command_says_whether_it_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: str, resumes: bool
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sedcast.cli_infer.load_posterior", interrupted)
    status, _, err = run("infer", "nsa.fits", "--mapping", "nsa-v1", "-o", tmp_path / output)
    assert (status, "goes on from where it was" in err) == (130, resumes)


def test_what_an_encoding_lacks_is_replaced() -> None:
    code = "import sys\nsys.argv = ['sedcast', 'ssp', 'info']\nfrom sedcast.cli import main\nmain()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"wavelengths" in done.stdout


@pytest.mark.parametrize(
    ("name", "model"), [("simulate", SimulationConfig), ("emulator", EmulatorConfig), ("posterior", PosteriorConfig)]
)
def test_config_templates_are_valid(name: str, model: type[Config]) -> None:
    load_config(EXAMPLES / f"{name}.toml", model)


def test_simulate(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "simulate.toml"
    config.write_text("n_galaxies = 50\nseed = 3\n")
    status, out, _ = run("--quiet", "simulate", config, "-o", tmp_path / "s.h5", "--json")
    assert status == 0
    assert json.loads(out.splitlines()[-1])["n_galaxies"] == 50
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["theta"].shape == (50, 12)


@pytest.mark.parametrize("command", ["infer", "explore", "compare", "figures"])
def test_catalogues_are_read_by_a_mapping(command: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("NSAID,Z\n1,0.1\n")
    output = [] if command == "explore" else ["-o", tmp_path / ("x.h5" if command == "infer" else "x")]
    for options, said in {
        ("--mapping", "nsa-v1"): "no column 'ELPETRO_NMGY', which the mapping names",
        ("--mapping", "desi-legacy"): "add redshift = 'its column' (to edit a bundled mapping: sedcast init mapping --like",
        ("--mapping", "nsa-v1", "--unit", "uJy"): "--unit uJy goes without --mapping",
        ("--mapping", "nsa-v1", "--no-calibrate"): "--no-calibrate is for SDSS's own columns",
    }.items():
        status, _, err = run("--quiet", command, tmp_path / "t.csv", *options, *output)
        assert (status, said in " ".join(err.split())) == (2, True), err


@pytest.mark.parametrize("command", ["explore", "compare", "figures"])
def test_commands_that_need_redshifts_do_not_advise_a_model_that_they_refuse(command: str, run: Run, tmp_path: Path) -> None:
    columns = [f"{name}_{band}" for band in "ugriz" for name in ("flux", "flux_err")]
    (tmp_path / "t.csv").write_text(",".join(columns) + "\n" + ",".join(["9.5"] * 10) + "\n")
    output = [] if command == "explore" else ["-o", tmp_path / "x"]
    for options in ([], ["--mapping", "desi-legacy"]):
        status, _, err = run("--quiet", command, tmp_path / "t.csv", *options, *output)
        assert status == 2
        assert "'sedcast infer'" in err[: err.index("sdss-photoz")]
    status, _, err = run("--quiet", command, tmp_path / "t.csv", "--model", "sdss-photoz", *output)
    assert (status, "use an estimator for known redshifts" in " ".join(err.split())) == (2, True)


def test_simulate_says_where_own_curves_are(run: Run, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "wide.txt", np.column_stack([np.linspace(6000.0, 6400.0, 9), np.ones(9)]))
    replace(NoiseModel.sdss(["r"]), bands=("wide",)).save(tmp_path / "noise.npz")
    config = tmp_path / "simulate.toml"
    config.write_text(f'n_galaxies = 5\nbands = ["{tmp_path / "wide.txt"}"]\nnoise = "{tmp_path / "noise.npz"}"\n')
    status, out, _ = run("--quiet", "simulate", config, "-o", tmp_path / "s.h5")
    assert (status, "band wide: 6,200 Å at the mean" in out) == (0, True)


def test_simulate_says_that_it_resumes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sedcast.emulator import mass_simulation
    from sedcast.emulator.mass_simulation import simulate

    monkeypatch.setattr(mass_simulation, "_CHUNKS_PER_SEGMENT", 1)

    def interrupt(done: int, total: int) -> None:
        if done == 30_000:
            raise KeyboardInterrupt

    (tmp_path / "simulate.toml").write_text("n_galaxies = 30_000\n")
    with pytest.raises(KeyboardInterrupt):
        simulate(SimulationConfig(n_galaxies=30_000), tmp_path / "s.h5", progress=interrupt)
    status, out, _ = run("--quiet", "simulate", tmp_path / "simulate.toml", "-o", tmp_path / "s.h5")
    assert (status, "resuming the interrupted simulation in" in out, "galaxies were there" in out) == (0, True, True)


@pytest.fixture
def galaxies(tmp_path: Path) -> Path:
    """Eight real galaxies as a plain table in microjansky; the last two cannot be inferred."""
    sample = load_sdss_sample()
    sample = sample.subset(np.flatnonzero((sample.zred > 0.02) & (sample.zred < 0.2))[:8])
    table = Table({"id": [f"g{row}" for row in range(8)], "zred": sample.zred})
    for column, band in enumerate(sample.bands):
        table[f"flux_{band}"] = sample.flux[:, column] * 3.631
        table[f"flux_err_{band}"] = sample.sigma[:, column] * 3.631
    table["zred"][6] = 5.0
    table["flux_g"][7] = np.nan
    table.write(tmp_path / "mine.csv")
    return tmp_path / "mine.csv"


def test_infer_writes_every_row(run: Run, galaxies: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out.h5"
    status, out, _ = run("-q", "infer", galaxies, "-o", output, "--unit", "uJy", "--n-samples", 20, "--json")
    assert status == 0
    figures = json.loads(out)
    assert (figures["galaxies"], figures["inferred"]) == (8, 6)
    assert sum(figures["excluded"].values()) == 2
    with read_posteriors(output) as posteriors:
        assert posteriors.theta(posteriors.row("g3")).shape == (20, 12)
        assert "redshift" in posteriors.status[6]
        assert "g" in posteriors.status[7]
        assert "sedcast infer" in posteriors.provenance["command"]


def test_infer_says_that_draws_are_not_weighed(run: Run, galaxies: Path, tmp_path: Path) -> None:
    gaussian_estimator().save(tmp_path / "model.npz")
    arguments = ("infer", galaxies, "--unit", "uJy", "--n-samples", 20)
    for model, said in (tmp_path / "model.npz", True), ("bundled", False):
        status, out, err = run(*arguments, "-o", tmp_path / "out.h5", "--model", model, "--overwrite")
        assert status == 0
        assert ("the flow's own draws" in " ".join((out + err).split())) is said


def test_infer_shows_reasons_in_its_table(run: Run, galaxies: Path, tmp_path: Path) -> None:
    status, out, err = run("infer", galaxies, "-o", tmp_path / "out.h5", "--unit", "uJy", "--n-samples", 20)
    assert status == 0
    assert "excluded: redshift beyond the training range" in out
    assert "1 of 8 rows lack a measurement or a redshift" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.csv", "-o", "out.csv"], "ends in .h5, or for summaries in .fits, .parquet, .ecsv"),
        (["sdss", "-o", "out.h5", "--unit", "uJy"], "--unit uJy is that of a file"),
        (["sdss", "-o", "out.h5", "--mapping", "nsa-v1"], "--mapping nsa-v1 is that of a file"),
        (["mine.csv", "-o", "out.h5", "--mapping", "nsa-v1", "--unit", "uJy"], "unit = 'uJy' into the mapping"),
        (["mine.csv", "-o", "out.fits", "--mapping", "nsa-v1", "--samples", "out.fits"], "give them two names"),
        (["mine.csv", "-o", "out.fits", "--mapping", "nsa-v1", "--samples", "drawn.fits"], "are written as HDF5"),
        (["mine.csv", "-o", "out.h5", "--mapping", "nsa-v1", "--no-calibrate"], "in the mapping file instead"),
        (["mine.csv", "-o", "out.h5", "--unit", "AB"], "read with a mapping file"),
        (["mine.csv", "-o", "out.h5", "--compression", "gzip"], "are those of --samples"),
        (["mine.csv", "-o", "out.h5", "--fallback", "mcmc"], "are those of --refine"),
        (["mine.csv", "-o", "out.h5", "--model", "nosuch"], "or one of sdss-ugriz, galex-sdss"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    run: Run, galaxies: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(galaxies.parent)
    status, _, err = run("infer", *arguments)
    assert status != 0
    assert said in " ".join(err.split())
    assert not Path(arguments[2]).exists()


def test_the_first_rows_alone(run: Run, galaxies: Path, tmp_path: Path) -> None:
    output = tmp_path / "first.h5"
    assert run("-q", "infer", galaxies, "-o", output, "--unit", "uJy", "--n-samples", 20, "--first", 3)[0] == 0
    with read_posteriors(output) as posteriors:
        assert posteriors.ids.tolist() == ["g0", "g1", "g2"]


def test_validate_writes_plots(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("-q", "validate", "bundled", "--n-mocks", 30, "--n-samples", 50, "-o", tmp_path / "v", "--json")
    assert status == 0
    figures = json.loads(out)
    assert {"ks_p", "ks_p_min_holm", "tarp_max_dev"} <= set(figures)
    assert {path.name for path in (tmp_path / "v").iterdir()} == {
        "edges.png",
        "pp.png",
        "sbc.png",
        "tarp.png",
        "validation.json",
    }
    kept = json.loads((tmp_path / "v" / "validation.json").read_text())
    assert kept.pop("made_by").startswith("sedcast-run:")
    assert kept == figures


def test_compare_refuses_galaxies_that_are_not_there(run: Run, galaxies: Path) -> None:
    for arguments, message in (
        (["--rows", "0,99"], "there is no row 99"),
        (["--rows", "one"], "expected row numbers"),
        (["--ids", "g1,nobody"], "galaxy nobody is in 0 rows"),
        (["--ids", " g1 , nobody"], "galaxy nobody is in 0 rows"),
        (["-n", "0"], "-n 0 without --mocks"),
        (["--rows", "1", "--ids", "g1"], "cannot both be given"),
        (["--rows", "6"], "cannot be inferred: redshift"),
    ):
        status, _, err = run("compare", galaxies, "--unit", "uJy", *arguments)
        assert (status, message in " ".join(err.split())) == (2, True), err


def test_compare_sets_methods_side_by_side(run: Run, galaxies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sedcast.baselines.mcmc import McmcConfig

    monkeypatch.setattr(
        "sedcast.baselines.mcmc.McmcConfig",
        lambda target_ess, max_steps: McmcConfig(target_ess=target_ess, max_steps=40, check_every=20, thin=1, n_walkers=22),
    )
    monkeypatch.delenv("SPS_HOME", raising=False)
    arguments = ["compare", galaxies, "--unit", "uJy", "--ids", "g2", "--methods", "flow,refined,emcee", "--workers", "1"]
    status, out, _ = run("-q", *arguments, "-o", tmp_path / "c")
    assert status == 0
    assert "Galaxy g2" in out
    assert all(word in out for word in ("flow", "refined", "emcee", "log mass formed [Msun]", "Real galaxies, medians of 1"))
    assert {"c2st.png", "differences.png", "comparison.json", "comparison.md", "corner_real_2.png", "runs"} == {
        path.name for path in (tmp_path / "c").iterdir()
    }
    record = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert "sha256" in record["about"]["simulator"]
    assert record["about"]["fsps"]["label"].startswith("computed, not run")
    status, _, err = run("compare", galaxies, "--methods", "magic")
    assert (status, "methods" in err) == (2, True)


def test_public_names_resolve_lazily() -> None:
    for name in sedcast.__all__:
        assert getattr(sedcast, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        sedcast.nothing  # noqa: B018


def test_posteriors_do_not_overwrite_the_catalogue(run: Run, tmp_path: Path) -> None:
    gaussian_estimator().save(tmp_path / "model.npz")
    flux, ivar, zred = mock_photometry(3, 5)
    table = Table({"zred": zred})
    for index, band in enumerate(BANDS):
        table[f"flux_{band}"], table[f"flux_ivar_{band}"] = flux[:, index], ivar[:, index]
    path = tmp_path / "mine.hdf5"
    table.write(path, path="table")
    before = path.read_bytes()
    status, _, err = run("infer", path, "-o", tmp_path / "." / "mine.hdf5", "--model", tmp_path / "model.npz")
    assert (status, "overwritten" in err) == (2, True)
    assert path.read_bytes() == before
