from pathlib import Path

import numpy as np
import pytest

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.config import parse_config
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.emulator.composite_training import train_emulator
from sedcast.emulator.histories import GAMMA
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import EmulatorConfig, SpectrumEmulator
from sedcast.emulator.training import NetworkTrainingConfig


@pytest.fixture(scope="module")
def bundled() -> SpectrumEmulator:
    return SpectrumEmulator.default()


@pytest.fixture(scope="module")
def small() -> SpectrumEmulator:
    network = NetworkTrainingConfig(hidden=(32, 32), epochs=60, batch_size=128, learning_rate=1e-2)
    return train_emulator(EmulatorConfig(n_train=1024, pca_tolerance=1e-2, wave_min=2000, wave_max=12_000, network=network))


def test_bundled_emulator_agrees_with_the_direct_model(bundled: SpectrumEmulator) -> None:
    """First bar of the project: 99% of noiseless fluxes within 1%, on held-out draws of the full prior."""
    bands = ("FUV", "NUV", "u", "g", "r", "i", "z")
    theta, zred = Prior().sample(3000, 991), np.random.default_rng(992).uniform(0.003, 0.3, 3000)
    direct = EmulatorConfig.model_validate(bundled.card["config"]).direct_model()
    emulated, exact = (PhotometrySimulator(model, bands, 0.3).flux(theta, zred) for model in (bundled, direct))
    # Fluxes below 1e-30 nanomaggies, behind hundreds of optical depths, underflow in both.
    error = np.abs(emulated - exact) / np.maximum(exact, 1e-30)
    for column, band in enumerate(bands):
        assert np.quantile(error[:, column], 0.99) < 0.01, band


def test_what_is_analytic_is_exact(bundled: SpectrumEmulator) -> None:
    direct = EmulatorConfig.model_validate(bundled.card["config"]).direct_model()
    theta, zred = Prior().sample(200, 5), np.full(200, 0.05)
    # All of the mass in a burst after the Big Bang: no network is involved.
    theta[:, PARAMETER_NAMES.index("fburst")] = 1.0
    theta[:, PARAMETER_NAMES.index("tburst")] *= 0.9
    emulated, exact = bundled.spectra(theta, zred), direct.spectra(theta, zred)
    assert np.allclose(emulated, exact, rtol=1e-4, atol=1e-6 * exact.max())
    heavier = theta.copy()
    heavier[:, 0] = np.minimum(theta[:, 0] + 0.5, 12.5)
    ratio = 10 ** (heavier[:, :1] - theta[:, :1])
    assert np.allclose(bundled.spectra(heavier, zred), emulated * ratio, rtol=1e-4)


def test_restriction_keeps_the_spectrum(bundled: SpectrumEmulator) -> None:
    theta, zred = Prior().sample(20, 6), np.full(20, 0.1)
    used = slice(100, 400)
    assert np.allclose(bundled.restricted(used).spectra(theta, zred), bundled.spectra(theta, zred)[:, used], rtol=1e-4)


def test_training_save_and_load(small: SpectrumEmulator, tmp_path: Path) -> None:
    assert small.card["figures"]["n_train"] > 900
    small.save(tmp_path / "emulator.npz")
    theta, zred = Prior().sample(20, 7), np.full(20, 0.1)
    again = SpectrumEmulator.load(tmp_path / "emulator.npz")
    assert np.array_equal(again.spectra(theta, zred), small.spectra(theta, zred))
    assert again.card["config"]["n_train"] == 1024


def test_damaged_artifacts_are_refused(small: SpectrumEmulator, tmp_path: Path) -> None:
    path = tmp_path / "emulator.npz"
    small.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="truncated"):
        SpectrumEmulator.load(path)
    path.write_bytes(whole)
    arrays, card = load_artifact(path, "spectrum-emulator")
    save_artifact(tmp_path / "other.npz", "noise-model", arrays, card)
    with pytest.raises(ArtifactError, match="expected a 'spectrum-emulator'"):
        SpectrumEmulator.load(tmp_path / "other.npz")
    save_artifact(tmp_path / "odd.npz", "spectrum-emulator", arrays | {"means": arrays["means"][:, :-1]}, card)
    with pytest.raises(ArtifactError, match="do not fit"):
        SpectrumEmulator.load(tmp_path / "odd.npz")


def test_outside_the_range_is_refused(bundled: SpectrumEmulator) -> None:
    theta = Prior().sample(3, 8)
    for zred in (-0.1, 0.5, np.nan):
        with pytest.raises(ParameterError, match="the emulator serves"):
            bundled.spectra(theta, np.full(3, zred))
    theta[2, GAMMA] = 0.02
    with pytest.raises(ParameterError, match=r"theta\[2\] has gamma1_zh=0.02"):
        bundled.spectra(theta, np.full(3, 0.1))
    theta[2, GAMMA] = 1e-2, 1e-5
    with pytest.raises(ParameterError, match=r"theta\[2\] has gamma2_zh=1e-05, outside the emulator's 4\.5e-05"):
        bundled.spectra(theta, np.full(3, 0.1))


def test_mass_dust_and_burst_beyond_the_prior_are_computed(bundled: SpectrumEmulator) -> None:
    direct = EmulatorConfig.model_validate(bundled.card["config"]).direct_model()
    theta, zred = Prior().sample(20, 9), np.full(20, 0.05)
    for name, value in {"log_mstar": 5.0, "tburst": 0.004, "dust1": 4.0, "dust_index": -2.5}.items():
        theta[:, PARAMETER_NAMES.index(name)] = value
    emulated, exact = (PhotometrySimulator(model, ("u", "r", "z"), 0.3).flux(theta, zred) for model in (bundled, direct))
    np.testing.assert_allclose(emulated, exact, rtol=0.01)


def test_redshifts_that_the_bases_do_not_reach_are_refused_before_the_training() -> None:
    with pytest.raises(ParameterError, match=r"SFH basis 3 has 2\.2% of its stars within the age .* at zred_max"):
        train_emulator(EmulatorConfig(zred_max=0.4))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"wave_min": 5000, "wave_max": 1000}, "must be below"),
        ({"pca_tolerance": 0}, "pca_tolerance"),
        ({"network": {"hidden": []}}, "network.hidden"),
        ({"n_pca": 10}, "unknown key 'n_pca'"),
    ],
)
def test_bad_configuration_names_the_key(values: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config(values, EmulatorConfig)


def test_the_networks_inputs_are_ramps_of_the_metallicity_between_the_librarys(bundled: SpectrumEmulator) -> None:
    config = EmulatorConfig.model_validate(bundled.card["config"])
    model, prior = bundled.model, Prior(gamma1_zh=(1e-3, 4e-3), gamma2_zh=(1e-3, 3e-3))
    n_bin, log_z = config.n_complete_bins(model), model.library.log_z
    rng = np.random.default_rng(8)
    low, high = np.array([prior.gamma1_zh, prior.gamma2_zh]).T
    gamma = rng.uniform(low, high, (40, 2))
    found = config.metallicity_inputs(model, prior)(gamma)
    np.testing.assert_allclose(found[:, :2], np.log(gamma), rtol=1e-6)
    times = np.linspace(0, model.histories.edges_gyr[n_bin], config.n_metallicity_times)
    z = np.log10(model.histories.metallicity_at(np.repeat(gamma, len(times), axis=0), np.tile(times, 40))).reshape(40, -1)
    ramps = np.clip((z[:, :, None] - log_z[:-1]) / np.diff(log_z), 0, 1).reshape(40, -1)
    # Those left out are the same for all that the prior allows: so each other one is there, in order.
    corners = np.log10(model.histories.metallicity_at(np.repeat([low, high], len(times), axis=0), np.tile(times, 2)))
    lowest, highest = corners.reshape(2, -1, 1)
    there = ((lowest < log_z[1:]) & (highest > log_z[:-1])).ravel()
    assert 0 < there.sum() < len(there)
    np.testing.assert_allclose(found[:, 2:], ramps[:, there], atol=2e-6)
    assert (np.ptp(ramps[:, ~there], axis=0) == 0).all()
