import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import stats

from sedcast.data.config import parse_config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ConfigError, ParameterError
from sedcast.data.filters import FilterProjection, load_filter
from sedcast.data.noise import NoiseModel
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator import mass_simulation
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.observing import observe
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.emulator.simulation import (
    PhotometrySimulator,
    SimulationConfig,
    default_simulator,
    draw_galaxies,
    noise_model,
)
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.sps import SPSModel

BANDS = ("u", "g", "r", "i", "z")


@pytest.fixture(scope="module")
def simulator() -> PhotometrySimulator:
    model = SPSModel(SSPLibrary.popstar().trimmed(2000.0, 12_000.0), dtype=np.float32)
    return PhotometrySimulator(model, BANDS, 0.3)


def test_photometry_does_not_depend_on_batching_or_threads(simulator: PhotometrySimulator) -> None:
    theta = Prior().sample(1200, 1)
    zred = np.random.default_rng(2).uniform(0.01, 0.3, 1200)
    together = simulator.flux(theta, zred, n_threads=2)
    assert np.allclose(together, simulator.flux(theta, zred), rtol=1e-5)
    one_by_one = np.vstack([simulator.flux(theta[i : i + 1], zred[i : i + 1]) for i in range(0, 1200, 200)])
    assert np.allclose(together[::200], one_by_one, rtol=1e-5)


def test_errors_name_the_row_of_the_caller(simulator: PhotometrySimulator) -> None:
    theta, zred = Prior().sample(1200, 1), np.linspace(0.3, 0.01, 1200)
    theta[900, PARAMETER_NAMES.index("dust1")] = -1.0
    with pytest.raises(ParameterError, match=r"theta\[900\] must have dust1"):
        simulator.flux(theta, zred)


def test_flux_is_that_of_the_full_spectrum(simulator: PhotometrySimulator) -> None:
    theta, zred = Prior().sample(5, 3), np.full(5, 0.1)
    assert np.allclose(
        simulator.flux(theta, zred), simulator.projection.flux(simulator.model.spectra(theta, zred), zred), rtol=1e-5
    )


def test_masses_within_reach_give_the_prior_cut_to_what_is_observed(simulator: PhotometrySimulator) -> None:
    """The short cut over masses against plain rejection: the same distribution of what is kept."""
    prior, noise = Prior(), NoiseModel.sdss(BANDS)
    n = 60_000
    rng = np.random.default_rng(8)
    theta, zred = prior.sample(n, 4), rng.uniform(0.01, 0.3, n)
    flux = simulator.flux(theta, zred, n_threads=2)

    def columns(theta: np.ndarray, zred: np.ndarray, flux: np.ndarray) -> np.ndarray:
        return np.column_stack([prior.to_unbounded(theta), zred, np.log(flux[:, 2])])

    observed, sigma, log_weight = noise.draw(flux, rng)
    keep = noise.accept(log_weight, rng) & noise.in_range(observed, sigma)
    plain = columns(theta[keep], zred[keep], flux[keep])
    found = observe(np.log10(flux) - theta[:, :1], prior, noise, rng)
    with_mass = theta[found.rows]
    with_mass[:, 0] = found.log_mstar
    quick = columns(with_mass, zred[found.rows], found.flux_true)
    assert len(quick) > 1.5 * len(plain)
    pvalues = [stats.ks_2samp(plain[:, k], quick[:, k]).pvalue for k in range(plain.shape[1])]
    assert min(pvalues) * len(pvalues) > 1e-2, dict(zip((*FREE_PARAMETER_NAMES, "zred", "flux"), pvalues, strict=True))


def test_stream_does_not_depend_on_workers(simulator: PhotometrySimulator) -> None:
    noise = NoiseModel.sdss(BANDS)
    streams = [
        next(iter(draw_galaxies(simulator, Prior(), noise, RedshiftPrior(), seed=3, n_workers=workers)))[1]
        for workers in (1, 2)
    ]
    assert np.array_equal(streams[0].zred, streams[1].zred)
    assert np.allclose(streams[0].flux, streams[1].flux, rtol=1e-5)


def test_simulated_file_holds_what_was_asked(simulator: PhotometrySimulator, tmp_path: Path) -> None:
    config = SimulationConfig(n_galaxies=700, seed=5, bands=BANDS)
    figures = simulate(config, tmp_path / "mocks.h5", simulator=simulator)
    assert figures["n_galaxies"] == 700
    noise = NoiseModel.sdss(BANDS)
    with h5py.File(tmp_path / "mocks.h5") as file:
        theta, zred, flux, ivar, true = (file[k][:] for k in ("theta", "zred", "flux", "flux_ivar", "flux_true"))
        assert file["theta_unbounded"].shape == (700, 11)
        assert json.loads(file.attrs["config"])["seed"] == 5
        assert list(file.attrs["bands"]) == list(BANDS)
    assert np.allclose(simulator.flux(theta, zred), true, rtol=2e-3)
    # A row on the edge of the range may leave it by the rounding to float32.
    assert noise.in_range(flux.astype(float), ivar.astype(float) ** -0.5).mean() > 0.99
    pull = (flux - true) * np.sqrt(ivar)
    assert 0.9 < pull.std() < 1.1
    assert list(tmp_path.iterdir()) == [tmp_path / "mocks.h5"]


def test_galex_bands_are_simulated_with_the_bundled_noise() -> None:
    assert noise_model(SimulationConfig(n_galaxies=1, bands=("FUV", "NUV", "u"))).bands == ("FUV", "NUV", "u")


def contents(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: values[:] for name, values in file.items()} | {key: np.array(value) for key, value in file.attrs.items()}


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two runs differ in the time that their headers name."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")


def assert_identical(path: Path, other: Path) -> None:
    one, two = contents(path), contents(other)
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert np.array_equal(values, two[name]), name


def interrupt_after(n_calls: int):
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == n_calls:
            raise KeyboardInterrupt

    return progress


def test_interruption_loses_nothing_and_changes_nothing(
    simulator: PhotometrySimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mass_simulation, "_CHUNKS_PER_SEGMENT", 1)
    config, output = SimulationConfig(n_galaxies=20_000), tmp_path / "mocks.h5"
    with pytest.raises(KeyboardInterrupt):
        simulate(config, output, simulator=simulator, progress=interrupt_after(2))
    assert [path.name for path in tmp_path.iterdir()] == ["mocks.h5.partial"]

    with pytest.raises(ConfigError, match=r"config\.seed was 0 and is now 4.*delete the folder to start anew"):
        simulate(config.model_copy(update={"seed": 4}), output, simulator=simulator)
    fewer = PhotometrySimulator(SPSModel(SSPLibrary.popstar().trimmed(2000.0, 12_000.0)), BANDS, 0.3)
    object.__setattr__(fewer.model, "card", {"sha256": "another"})
    with pytest.raises(ConfigError, match=r'artifacts\.emulator was "SPSModel \w{64}" and is now "another"'):
        simulate(config, output, simulator=fewer)

    seen: list[int] = []
    figures = simulate(config, output, simulator=simulator, n_workers=1, progress=lambda done, _: seen.append(done))
    assert 0 < figures["n_resumed"] == seen[0] < 20_000
    assert seen[-1] == 20_000
    assert list(tmp_path.iterdir()) == [output]
    whole = simulate(config, tmp_path / "whole.h5", simulator=simulator, n_workers=3)
    assert whole == figures | {"n_resumed": 0}
    assert_identical(output, tmp_path / "whole.h5")


def test_killed_run_resumes_to_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass_simulation, "_CHUNKS_PER_SEGMENT", 1)
    config, output = SimulationConfig(n_galaxies=40_000, seed=2), tmp_path / "mocks.h5"
    program = """
        import sys
        from sedcast.emulator import mass_simulation
        mass_simulation._CHUNKS_PER_SEGMENT = 1
        config = mass_simulation.SimulationConfig(n_galaxies=40_000, seed=2)
        mass_simulation.simulate(config, sys.argv[1])
    """
    run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(output)])
    deadline = time.monotonic() + 60
    partial = tmp_path / "mocks.h5.partial"
    while len(list(partial.glob("segment-*.h5"))) < 2 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    if run.poll() is None:
        with pytest.raises(ConfigError, match="another process is writing"):
            simulate(config, output)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert not output.exists()
    assert simulate(config, output)["n_resumed"] > 0
    assert list(tmp_path.iterdir()) == [output]
    simulate(config, tmp_path / "whole.h5")
    assert_identical(output, tmp_path / "whole.h5")


def test_what_is_in_the_way_is_not_touched(simulator: PhotometrySimulator, tmp_path: Path) -> None:
    (tmp_path / "mocks.h5.partial").mkdir()
    (tmp_path / "mocks.h5.partial" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="which sedcast did not make"):
        simulate(SimulationConfig(n_galaxies=10), tmp_path / "mocks.h5", simulator=simulator)
    assert (tmp_path / "mocks.h5.partial" / "mine.txt").read_text() == "precious"


def test_a_simulator_of_other_bands_is_refused(simulator: PhotometrySimulator, tmp_path: Path) -> None:
    turned = PhotometrySimulator(simulator.model, simulator.bands[::-1], 0.3)
    with pytest.raises(ConfigError, match=r"the simulator has bands \('z', .*the configuration \('u'"):
        simulate(SimulationConfig(n_galaxies=10), tmp_path / "mocks.h5", simulator=turned)


def test_a_run_is_not_gone_on_from_with_another_library(simulator: PhotometrySimulator, tmp_path: Path) -> None:
    config, output = SimulationConfig(n_galaxies=10**6), tmp_path / "mocks.h5"
    library = SSPLibrary.popstar()
    models = [SPSModel(each) for each in (library, replace(library, flux=2 * library.flux))]
    with pytest.raises(KeyboardInterrupt):
        simulate(config, output, simulator=PhotometrySimulator(models[0], BANDS, 0.3), progress=interrupt_after(9))
    with pytest.raises(ConfigError, match="emulator"):
        simulate(config, output, simulator=PhotometrySimulator(models[1], BANDS, 0.3))


def test_distances_are_those_of_the_model_s_cosmology() -> None:
    theta, zred, cosmology = Prior().sample(3, 1), np.array([0.02, 0.1, 0.3]), Cosmology("WMAP5")
    model = SPSModel(SSPLibrary.popstar(), cosmology=cosmology)
    expected = FilterProjection(BANDS, model.wave_rest, 0.3, cosmology).flux(model.spectra(theta, zred), zred)
    np.testing.assert_allclose(PhotometrySimulator(model, BANDS, 0.3).flux(theta, zred), expected, rtol=1e-6)


def test_another_softening_is_another_run(
    simulator: PhotometrySimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output, noise = SimulationConfig(n_galaxies=10**6), tmp_path / "mocks.h5", NoiseModel.sdss(BANDS)
    with pytest.raises(KeyboardInterrupt):
        simulate(config, output, simulator=simulator, progress=interrupt_after(9))
    monkeypatch.setattr(mass_simulation, "noise_model", lambda _: replace(noise, softening=2 * noise.softening))
    with pytest.raises(ConfigError, match="artifacts"):
        simulate(config, output, simulator=simulator)


@pytest.mark.parametrize("damage", ["altered", "cut", "emptied"])
def test_damaged_segments_are_made_again(
    simulator: PhotometrySimulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    monkeypatch.setattr(mass_simulation, "_CHUNKS_PER_SEGMENT", 1)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    config, output = SimulationConfig(n_galaxies=20_000), tmp_path / "mocks.h5"
    simulate(config, tmp_path / "whole.h5", simulator=simulator)
    with pytest.raises(KeyboardInterrupt):
        simulate(config, output, simulator=simulator, progress=interrupt_after(3))
    first, *others = sorted((tmp_path / "mocks.h5.partial").glob("segment-*.h5"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes({"altered": data, "cut": data[:-5000], "emptied": b""}[damage])
    simulate(config, output, simulator=simulator)
    assert others
    assert f"{first.name} is damaged: its rows are made again" in caplog.text
    assert output.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_run_that_would_not_end_leaves_nothing(
    simulator: PhotometrySimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mass_simulation, "PROPOSALS_PER_CHUNK", 1024)
    monkeypatch.setitem(draw_galaxies.__globals__, "PROPOSALS_PER_CHUNK", 1024)
    faint = SimulationConfig(n_galaxies=10, prior={"log_mstar": (2.0, 2.1)})
    with pytest.raises(ConfigError, match="check zred and prior"):
        simulate(faint, tmp_path / "mocks.h5", simulator=simulator)
    assert list(tmp_path.iterdir()) == []


def test_own_filter_curve(simulator: PhotometrySimulator, tmp_path: Path) -> None:
    curve = load_filter("r")
    for name in ("r", "mine"):
        np.savetxt(tmp_path / f"{name}.txt", np.column_stack([curve.wave, curve.response]), header="Å, response")
    bands = ("u", "g", str(tmp_path / "r.txt"), "i", "z")
    own = PhotometrySimulator(simulator.model, bands, 0.3)
    assert own.bands == BANDS
    theta, zred = Prior().sample(20, 3), np.full(20, 0.1)
    assert np.allclose(own.flux(theta, zred), simulator.flux(theta, zred), rtol=1e-4)
    # Everything else that goes by the name, such as errors and the curves of others, would be that of the known band.
    with pytest.raises(ValueError, match="r is the name of a known band, call the file otherwise"):
        SimulationConfig(n_galaxies=50, bands=bands)
    with pytest.raises(ParameterError, match=r"bands mine: the noise model has FUV, NUV, u.*from_catalog"):
        noise_model(SimulationConfig(n_galaxies=50, bands=("u", str(tmp_path / "mine.txt"))))


def test_a_prior_beyond_the_emulator_s_is_named() -> None:
    with pytest.raises(ParameterError, match=r"prior\.gamma2_zh=\(4\.5e-05, 0\.02\) is beyond the emulator's"):
        default_simulator(SimulationConfig(n_galaxies=1, prior={"gamma2_zh": (4.5e-5, 0.02)}))
    default_simulator(SimulationConfig(n_galaxies=1, prior={"log_mstar": (5.0, 13.0)}))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"n_galaxies": 0}, "n_galaxies"),
        ({"n_galaxies": 10, "bands": ["u", "q"]}, "unknown band 'q'"),
        ({"n_galaxies": 10, "bands": ["u", "no/such/curve.txt"]}, "cannot read filter curve"),
        ({"n_galaxies": 10, "zred": {"min": 0.3, "max": 0.1}}, "must be below"),
        ({"n_galaxies": 10, "prior": {"dust3": [0, 1]}}, "dust3"),
        ({"n_galaxies": "many"}, "n_galaxies"),
        ({"n_galaxies": 10, "galaxies": 10}, "unknown key 'galaxies'"),
    ],
)
def test_bad_configuration_names_the_key(values: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config(values, SimulationConfig)


def test_filters_beyond_the_spectra_are_refused() -> None:
    model = SPSModel(SSPLibrary.popstar().trimmed(3000.0, 12_000.0), dtype=np.float32)
    with pytest.raises(ParameterError, match="'u' covers rest frame"):
        PhotometrySimulator(model, BANDS, 0.3)


@pytest.mark.parametrize("change", ["bases", "t_birth_cloud_gyr", "wavelengths"])
def test_a_direct_model_is_known_by_all_that_it_is_made_of(change: str) -> None:
    library = SSPLibrary.popstar().trimmed(1000.0, 12_000.0)
    bases = SFHBases.default()
    one = SPSModel(library, bases)
    others = {
        "bases": lambda: SPSModel(library, replace(bases, sfh=1.1 * bases.sfh)),
        "t_birth_cloud_gyr": lambda: SPSModel(library, bases, t_birth_cloud_gyr=0.01),
        "wavelengths": lambda: SPSModel(replace(library, wave_rest=library.wave_rest * 1.01), bases),
    }
    assert mass_simulation._identity(one) == mass_simulation._identity(SPSModel(library, bases))
    assert mass_simulation._identity(one) != mass_simulation._identity(others[change]())


def test_depths_take_the_place_of_a_noise_model() -> None:
    depths = {"lsst2023-g": 27.4, "lsst2023-i": 26.8}
    values = {"n_galaxies": 500, "bands": ["lsst2023-g", "lsst2023-i"]}
    survey = {"depths": depths, "floor": 0.01, "detected": ["lsst2023-i"]}
    config = parse_config(values | {"survey": survey}, SimulationConfig)
    assert parse_config(json.loads(config.model_dump_json()), SimulationConfig) == config
    noise = noise_model(config)
    wanted = NoiseModel.from_depths(depths, floor=0.01, detected=["lsst2023-i"])
    np.testing.assert_array_equal(noise.median, wanted.median)
    np.testing.assert_array_equal(noise.magnitude_range, wanted.magnitude_range)
    _, draws = next(draw_galaxies(default_simulator(config), Prior(), noise, config.zred, seed=1))
    assert draws.flux[:, 1].min() >= 10 ** (0.4 * (22.5 - 26.8)) * (1 - 1e-9)
    pull = (draws.flux - draws.flux_true) * np.sqrt(draws.flux_ivar)
    assert np.abs(pull.std(axis=0) - 1).max() < 0.05
    for change, said in (
        ({"noise": "noise.npz", "survey": survey}, "noise='noise.npz' and survey.depths both say"),
        ({"bands": ["lsst2023-g", "lsst2023-r"], "survey": survey}, "survey.depths has none of lsst2023-r"),
        ({"survey": survey | {"detected": ["i"]}}, "survey.detected: i is none of the bands lsst2023-g lsst2023-i"),
        ({"survey": survey | {"depth": 27.0}}, r"unknown key 'survey.depth' \(known are: depths, detected, floor\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_config(values | change, SimulationConfig)


def test_configurations_without_depths_are_written_as_before_there_were_any() -> None:
    assert "survey" not in json.loads(SimulationConfig(n_galaxies=1).model_dump_json())
    assert "survey" not in SimulationConfig(n_galaxies=1).model_dump(exclude={"seed"})


def test_redshifts_beyond_the_models_are_refused_when_a_simulator_is_made() -> None:
    emulator = SpectrumEmulator.default()
    with pytest.raises(ParameterError, match=r"zred_max=1\.5 is beyond the model's redshifts, 0 … 0\.32: lower it"):
        PhotometrySimulator(emulator, BANDS, 1.5)
    # A direct model has no such end.
    assert PhotometrySimulator(emulator.model, BANDS, 0.33).zred_max == 0.33
