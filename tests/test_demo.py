"""The demonstration writes what it promises, and the README's example runs as written."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from typer.testing import CliRunner

from sedcast import demo
from sedcast.baselines.mcmc import McmcConfig
from sedcast.cli import app
from sedcast.console import Screen
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.filters import FilterProjection, flux_density
from sedcast.posterior.posterior_catalog import read_posteriors

README = Path(__file__).parent.parent / "README.md"


def test_demo_writes_what_its_readme_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_MCMC", McmcConfig(max_steps=60, check_every=20, thin=1))
    summary = demo.run_demo(tmp_path / "out", n_galaxies=25, seed=4, screen=Screen(quiet=True))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"posteriors.h5", "corner.png", "sed.png", "mass_sfr.png", "summary.json", "README.md"}
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert all(name in text for name in written - {"README.md"})
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8")) == summary
    assert summary["galaxies"] == 25
    assert summary["inferred"] + sum(summary["excluded"].values()) == 25
    for name in ("corner.png", "sed.png", "mass_sfr.png"):
        picture = image.imread(tmp_path / "out" / name)
        assert min(picture.shape[:2]) > 400
        assert picture.std() > 0.02
    with read_posteriors(tmp_path / "out" / "posteriors.h5") as posteriors:
        table = posteriors.summary()
        good = table[table["status"] == ""]
        assert summary["medians"]["log_mstar"] == pytest.approx(float(np.median(good["log_mstar_p50"])), abs=1e-5)
    shown = capsys.readouterr().out
    assert "galaxies per second" in shown
    assert re.search(r"log mass formed +│ +Msun │", shown)
    assert "emcee" in shown


def test_demo_leaves_files_of_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run_demo", lambda folder, **_: pytest.fail("the demonstration ran"))
    (tmp_path / "README.md").write_text("# My project\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"README\.md is there already, and is not.* what a command of sedcast wrote"):
        CliRunner().invoke(app, ["demo", "-o", str(tmp_path)], catch_exceptions=False)
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["# My project\n"]


def test_flux_density_is_what_the_filters_integrate() -> None:
    """A spectrum of constant observed f_nu has that flux in every band."""
    zred, cosmology, wave = 0.12, Cosmology(), np.geomspace(1000, 20000, 4000)
    spectra = 1e7 * (5000 / wave[None, :]) ** 2
    wave_obs, f_nu = flux_density(spectra, wave, zred, cosmology)
    np.testing.assert_allclose(wave_obs, 1.12 * wave)
    np.testing.assert_allclose(f_nu, f_nu[0, 0], rtol=1e-6)
    flux = FilterProjection(("u", "g", "r", "z"), wave, 0.2, cosmology).flux(spectra, np.array([zred]))
    np.testing.assert_allclose(flux, f_nu[0, 0], rtol=2e-4)


def python_example() -> str:
    found = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found is not None
    return found.group(1)


def test_readme_example_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = python_example()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    found = re.search(r"log mass formed +Msun +(\S+) +(\S+) +(\S+)", out.getvalue())
    assert found is not None, out.getvalue()
    median, low, high = map(float, found.groups())
    assert 7 < low < median < high < 12.5
    assert (tmp_path / "galaxy.png").stat().st_size > 10_000


def test_readme_pictures_and_links_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert any(target.endswith(".png") for target in local)
    for target in local:
        assert (README.parent / target).exists(), target
