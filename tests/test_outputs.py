"""What a command finds in its output's place is replaced only if the same command made it, of the same inputs."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure
from standin import BANDS, gaussian_estimator, mock_photometry
from typer.testing import CliRunner

from sedcast import validation
from sedcast.cli import app
from sedcast.cli_common import Options, options
from sedcast.data.artifacts import save_artifact
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.data.invocation import Invocation, invocation
from sedcast.data.mapping import load_mapping, read_mapped
from sedcast.data.noise import NoiseModel
from sedcast.data.outputs import check_replaceable, write_text
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.simulation import SimulationConfig
from sedcast.plotting import save_figure
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.streaming import infer_file

Words = list[str]
FIT = ["fit", "--mags", "u=18.95,g=17.67,r=16.94,i=16.53,z=16.26", "--errors", "0.03", "-z", "0.09", "--n-samples", "100"]
SMALL = 'n_galaxies = 300\nbands = ["g", "r"]\n'


@pytest.fixture(autouse=True)
def _fresh_options() -> None:
    vars(options).update(vars(Options()))


@pytest.fixture
def _empty_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures without anything in them, which are saved and marked as all are: drawing takes most of a command's time."""
    drawing = ("corner_plot", "history_plot", "mass_sfr_plane", "sed_plot")
    for name in (
        *(f"report.{name}" for name in drawing),
        "comparison.corner_of",
        "galaxy_fit.posterior_figure",
        "plotting_ssp.ssp_plot",
    ):
        monkeypatch.setattr(f"sedcast.{name}", lambda *_, **__: Figure(figsize=(1, 1)))
    monkeypatch.setattr(validation, "_PICTURES", dict.fromkeys(validation._PICTURES, lambda _: Figure(figsize=(1, 1))))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a catalogue, a mapping, a posterior, configurations."""
    monkeypatch.chdir(tmp_path)
    flux, ivar, zred = mock_photometry(12, 5)
    columns = {f"flux_{band}": flux[:, k] for k, band in enumerate(BANDS)}
    columns |= {f"flux_ivar_{band}": ivar[:, k] for k, band in enumerate(BANDS)}
    Table(columns | {"zred": zred}).write("mine.fits")
    bands = "".join(f'[bands.{band}]\nflux = "flux_{band}"\nivar = "flux_ivar_{band}"\n' for band in BANDS)
    Path("mine.toml").write_text(f'redshift = "zred"\n{bands}', encoding="utf-8")
    gaussian_estimator().save("model.npz")
    Path("simulate.toml").write_text(SMALL, encoding="utf-8")
    return tmp_path


def run(*words: object) -> None:
    CliRunner().invoke(app, ["-q", *map(str, words)], catch_exceptions=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


INFER = ["infer", "mine.fits", "--model", "model.npz", "--n-samples", "5"]


@pytest.mark.usefixtures("_empty_pictures")
@pytest.mark.parametrize(
    ("words", "changed", "written"),
    [
        ([*INFER, "-o", "out.h5"], ["--seed", "1"], ["out.h5"]),
        ([*INFER, "--mapping", "mine.toml", "-o", "o.fits", "--samples", "o.h5"], ["--seed", "1"], ["o.fits", "o.h5"]),
        ([*INFER, "-o", "o.fits", "--samples", "o.h5"], ["--seed", "1"], ["o.fits", "o.h5"]),
        ([*INFER, "-o", "o.ecsv"], ["--first", "3"], ["o.ecsv"]),
        ([*FIT, "-o", "one.h5", "--plot", "one.png"], ["--seed", "1"], ["one.h5", "one.png"]),
        ([*FIT, "-o", "one.ecsv", "--plot", "one.pdf"], ["--seed", "1"], ["one.ecsv", "one.pdf"]),
        ([*FIT, "-o", "one.fits"], ["--seed", "1"], ["one.fits"]),
        (["simulate", "simulate.toml", "-o", "s.h5"], [], ["s.h5"]),
        (["report", "drawn.h5", "--mocks", "0", "-o", "r.html"], ["--rows", "1"], ["r.html"]),
        (["validate", "-n", "20", "--n-samples", "20", "-o", "v"], ["--seed", "1"], ["v/validation.json", "v/pp.png"]),
        (["ssp", "compare", "popstar", "twice.npz", "-o", "ssp.svg"], ["twice.npz"], ["ssp.svg"]),
        (["ssp", "build", "--from", "popstar", "-o", "lib.npz"], ["--nebular"], ["lib.npz"]),
        ([*INFER, "--mapping", "mine.toml", "-o", "o.parquet"], ["--seed", "1"], ["o.parquet"]),
        (["compare", "-n", "1", "--methods", "flow", "-o", "c"], ["--seed", "1"], ["c/comparison.json", "c/comparison.md"]),
    ],
    ids=lambda words: " ".join(words[:2]) if len(words) > 2 else None,
)
def test_a_command_repeats_itself_and_replaces_nothing_else(
    folder: Path, words: Words, changed: Words, written: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPS_HOME", raising=False)
    monkeypatch.setattr("sedcast.data.build_ssp.build_popstar", lambda **_: SSPLibrary.popstar())
    if "o.parquet" in words:
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    if words[0] == "report":
        run("infer", "sdss", "--first", 3, "--n-samples", 50, "-o", "drawn.h5")
    if words[0] == "ssp":
        SSPLibrary.popstar().save("twice.npz")
    run(*words)
    run(*words)
    assert all((folder / name).is_file() for name in written)
    before = contents(folder)
    if changed:
        with pytest.raises(ParameterError, match=r"is there already, made by 'sedcast .*--overwrite"):
            run(*words, *changed)
        assert contents(folder) == before
        run(*words, *changed, "--overwrite")
        assert all((folder / name).read_bytes() != before[str(folder / name)] for name in written)
    for name in written:
        path = folder / name
        held = path.read_bytes()
        path.write_bytes(held[:1000] if path.suffix == ".h5" else b"my notes")
        before = contents(folder)
        with pytest.raises(ParameterError, match=r"is there already, and is not, or not any more.*--overwrite"):
            run(*words, *changed)
        assert contents(folder) == before
        path.write_bytes(held)


def test_a_folder_is_no_file(folder: Path) -> None:
    (folder / "v" / "validation.json").mkdir(parents=True)
    for words in ([*INFER, "-o", "v"], ["validate", "-n", "20", "-o", "v"]):
        with pytest.raises(ParameterError, match="is a folder: give the name of a file"):
            run(*words, "--overwrite")


def test_what_cannot_say_what_made_it_is_kept(folder: Path) -> None:
    run(*FIT, "-o", "galaxy.csv")
    before = contents(folder)
    with pytest.raises(ParameterError, match=r"a \.csv file does not say what made it: .*--overwrite"):
        run(*FIT, "-o", "galaxy.csv")
    assert contents(folder) == before
    run(*FIT, "-o", "galaxy.csv", "--overwrite")


def test_the_output_of_other_inputs_is_kept(folder: Path) -> None:
    run(*INFER, "-o", "out.h5")
    gaussian_estimator(0.5).save("model.npz", overwrite=True)
    with pytest.raises(
        ParameterError, match=r"made by 'sedcast infer .*before an input was changed or made again, or by another"
    ):
        run(*INFER, "-o", "out.h5")


@pytest.mark.usefixtures("_empty_pictures")
def test_a_report_of_posteriors_that_were_made_again_is_repeated(folder: Path) -> None:
    for _ in range(2):
        run("infer", "sdss", "--first", 3, "--n-samples", 50, "-o", "drawn.h5")
        run("report", "drawn.h5", "-o", "r.html")
    run("infer", "sdss", "--first", 3, "--n-samples", 60, "-o", "drawn.h5", "--overwrite")
    with pytest.raises(ParameterError, match=r"r\.html is there already, made by 'sedcast report"):
        run("report", "drawn.h5", "-o", "r.html")


@pytest.mark.usefixtures("_empty_pictures")
def test_a_comparison_that_was_made_again_is_the_same_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("compare", "-n", "1", "--mocks", "0", "--methods", "flow", "-o", "c")
    words = {"comparison": "c"}

    def made() -> str:
        return Invocation("sedcast figures", ("figures",), words).run

    record = Path("c/comparison.json")
    first, before = made(), record.read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    run("compare", "-n", "1", "--mocks", "0", "--methods", "flow", "-o", "c")
    assert record.read_bytes() != before
    assert made() == first
    record.write_text(record.read_text(encoding="utf-8").replace("flow", "flaw"), encoding="utf-8")
    assert made() != first


def test_files_that_a_configuration_names_are_inputs(folder: Path) -> None:
    NoiseModel.sdss(("g", "r")).save("noise.npz")
    (folder / "simulate.toml").write_text(f'{SMALL}noise = "noise.npz"\n', encoding="utf-8")
    run("simulate", "simulate.toml", "-o", "s.h5")
    run("simulate", "simulate.toml", "-o", "s.h5")
    NoiseModel.from_catalog(load_sdss_sample(bands=("g", "r")).subset(slice(3000)), provenance="others").save(
        "noise.npz", overwrite=True
    )
    with pytest.raises(ParameterError, match=r"s\.h5 is there already, made by"):
        run("simulate", "simulate.toml", "-o", "s.h5")
    before = contents(folder)
    with pytest.raises(ParameterError, match=r"noise\.npz is read by the command itself"):
        run("train", "posterior", _posterior(folder), "-o", "noise.npz", "--overwrite")
    assert contents(folder).items() >= before.items()


@pytest.mark.usefixtures("_empty_pictures")
def test_pictures_of_galaxies_that_were_replaced_do_not_stay(folder: Path) -> None:
    words = ["compare", "-n", "1", "--mocks", "0", "--methods", "flow", "-o", "c"]
    run(*words)
    old = {path.name for path in Path("c").glob("corner_*.png")}
    Path("c/corner_mine.png").write_bytes(b"mine")
    run(*words, "--seed", "1", "--overwrite")
    new = {path.name for path in Path("c").glob("corner_*.png")}
    assert old
    assert not old & new
    assert "corner_mine.png" in new
    Path("c/corner_mine.png").unlink()
    run(*words, "--seed", "1")


def test_an_option_may_be_longer_than_any_file_s_name(folder: Path) -> None:
    magnitudes = ",".join(f"{band}=18.{number:060d}" for number, band in enumerate("ugriz"))
    for _ in range(2):
        run("fit", "--mags", magnitudes, *FIT[3:], "-o", "galaxy.fits")
    assert Path("galaxy.fits").is_file()


def _posterior(folder: Path) -> Path:
    text = f'name = "x"\n[simulation]\n{SMALL}noise = "noise.npz"\n'
    (folder / "posterior.toml").write_text(text, encoding="utf-8")
    return folder / "posterior.toml"


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("extra", [[], ["--overwrite"]])
def test_no_link_leads_to_what_is_read(folder: Path, link: Callable[[str, str], None], extra: Words) -> None:
    link("mine.fits", "out.h5")
    before = contents(folder)
    with pytest.raises(ParameterError, match="read by the command itself"):
        run(*INFER, "-o", "out.h5", *extra)
    assert contents(folder) == before


def test_links_to_others_and_to_nothing_are_kept(folder: Path) -> None:
    (folder / "notes.txt").write_text("notes", encoding="utf-8")
    os.symlink("notes.txt", "out.h5")
    with pytest.raises(ParameterError, match="is there already"):
        run(*INFER, "-o", "out.h5")
    os.unlink("out.h5")
    os.symlink("nowhere", "out.h5")
    with pytest.raises(ParameterError, match="a link to what is not there"):
        run(*INFER, "-o", "out.h5")
    assert Path("out.h5").is_symlink()


def test_a_run_is_known_by_what_decides_it(folder: Path) -> None:
    def made(**changes: Any) -> str:
        return Invocation("sedcast infer", ("infer",), {"catalog": "mine.fits", "seed": 0, "output": "a.h5"} | changes).run

    same = made()
    assert made(output="b.h5", overwrite=True, n_workers=4, scheduler="local") == same
    assert made(catalog="./mine.fits") == same
    assert len({same, made(seed=1), made(model="model.npz"), made(catalog="model.npz")}) == 4
    Path("mine.fits").write_bytes(b"other")
    assert made() != same
    Path("emulator.toml").write_text('simulator = "own:spectra"\n', encoding="utf-8")
    Path("own.py").write_text("spectra = 1\n", encoding="utf-8")
    trained = made(catalog="emulator.toml")
    Path("own.py").write_text("spectra = 2\n", encoding="utf-8")
    assert made(catalog="emulator.toml") != trained


def test_a_name_that_is_not_utf_8_is_kept(folder: Path) -> None:
    running = invocation.set(Invocation("sedcast x -o 'r\udce9.md'", ("x",), {}))
    try:
        path = folder / os.fsdecode(b"r\xe9.md")
        write_text(path, "# Title\n")
        check_replaceable([path])
    finally:
        invocation.reset(running)
    with pytest.raises(ParameterError, match=r"made by \"sedcast x -o 'r\\udce9.md'\""):
        check_replaceable([path])


def test_a_text_that_was_edited_is_the_users(folder: Path) -> None:
    running = invocation.set(Invocation("sedcast x --title 'a -- é'", ("x",), {}))
    try:
        for name, text in (("a.md", "# Title\n"), ("a.html", "<p>\n"), ("a.json", '{\n "b": 1\n}\n')):
            path = folder / name
            write_text(path, text)
            check_replaceable([path])
            path.write_bytes(path.read_bytes().replace(b"1", b"2") + b"\nmy notes\n")
            with pytest.raises(ParameterError, match="not any more"):
                check_replaceable([path])
    finally:
        invocation.reset(running)
    with pytest.raises(ParameterError, match="is there already"):
        check_replaceable([folder / "a.md"])


def test_a_file_saved_from_python_is_the_users(folder: Path) -> None:
    run("init", "posterior")
    run("init", "posterior")
    Path("posterior.toml").write_text(Path("posterior.toml").read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    with pytest.raises(ParameterError, match="is there already"):
        run("init", "posterior")
    with pytest.raises(ParameterError, match="is there already"):
        run("ssp", "build", "--from", "popstar", "-o", "model.npz")


def test_calls_from_python_replace_a_file_only_if_that_is_said(folder: Path) -> None:
    estimator, mapping = gaussian_estimator(), load_mapping("mine.toml")
    catalog = read_mapped("mine.fits", mapping)
    config = SimulationConfig(n_galaxies=300, bands=("g", "r"))
    infer_catalog(estimator, catalog, "whole.h5", n_samples=5)

    def write_summary(path: str | Path, *, overwrite: bool = False) -> None:
        with read_posteriors("whole.h5") as posteriors:
            posteriors.write_summary(path, overwrite=overwrite)

    for name, call in {
        "p.h5": functools.partial(infer_catalog, estimator, catalog, n_samples=5),
        "p.fits": functools.partial(infer_file, estimator, "mine.fits", mapping, n_samples=5),
        "p.ecsv": write_summary,
        "s.h5": functools.partial(simulate, config),
        "e.npz": estimator.save,
        "n.npz": NoiseModel.sdss().save,
        "b.npz": SFHBases.default().save,
        "l.npz": SSPLibrary.popstar().trimmed(5000, 5500).save,
        "a.npz": functools.partial(save_artifact, kind="mine", arrays={}, card={}),
        "f.png": functools.partial(save_figure, Figure()),
    }.items():
        path = Path(name)
        given: dict[str, Any] = {"output" if path.suffix in (".h5", ".fits") else "path": name}
        call(**given)
        whole = path.read_bytes()
        with pytest.raises(ParameterError, match=f"{name} is there already: give another name, or overwrite=True"):
            call(**given)
        assert path.read_bytes() == whole
        path.write_bytes(b"my notes")
        call(**given, overwrite=True)
        assert len(path.read_bytes()) == pytest.approx(len(whole), rel=0.1)
        for wrong in ("", None, folder, b"a"):
            with pytest.raises(ParameterError, match=r"is no name of a file to write|is a folder"):
                call(**dict.fromkeys(given, wrong))
    before = Path("mine.fits").read_bytes()
    with pytest.raises(ParameterError, match="is the catalogue itself"):
        infer_file(estimator, folder / "mine.fits", mapping, "mine.fits", n_samples=5, overwrite=True)
    samples: Any = (Path("mine.fits"), "float32", None)
    with pytest.raises(ParameterError, match="is the catalogue itself"):
        infer_file(estimator, "mine.fits", mapping, "new.fits", n_samples=5, samples=samples, overwrite=True)
    assert Path("mine.fits").read_bytes() == before


def test_a_mapping_is_taken_wherever_a_catalogue_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table.read("mine.fits")
    for name in table.colnames:
        table.rename_column(name, f"my_{name}")
    table.write("own.csv")
    text = (folder / "mine.toml").read_text(encoding="utf-8").replace('"flux', '"my_flux').replace('"zred', '"my_zred')
    (folder / "own.toml").write_text(text, encoding="utf-8")
    seen: list[tuple[Any, ...]] = []

    def stop(*arguments: Any, **_: Any) -> None:
        seen.append(arguments)
        raise KeyError("far enough")

    monkeypatch.setattr("sedcast.explore.compute.Explorer", lambda _, __, catalog, **___: stop(catalog))
    monkeypatch.setattr("sedcast.comparison.choose_galaxies", stop)
    monkeypatch.setattr("sedcast.figures.galaxies_to_show", stop)
    expected = np.stack([np.asarray(table[f"my_flux_{band}"], dtype=float) for band in BANDS], axis=1)
    for command in ("explore", "compare", "figures"):
        with pytest.raises(CatalogError, match=r"no column 'zred'.*--mapping"):
            run(command, "own.csv")
        with pytest.raises(KeyError, match="far enough"):
            run(command, "own.csv", "--mapping", "own.toml")
        catalog = seen.pop()[0]
        assert catalog.bands == BANDS
        np.testing.assert_allclose(catalog.flux, expected)
        for words, said in (
            (["own.csv", "--mapping", "own.toml", "--unit", "uJy"], "into the mapping file"),
            (["own.csv", "--mapping", "own.toml", "--no-calibrate"], "in the mapping file instead"),
            (["sdss", "--mapping", "own.toml"], "the bundled sample has its own"),
        ):
            with pytest.raises(ParameterError, match=said):
                run(command, *words)
