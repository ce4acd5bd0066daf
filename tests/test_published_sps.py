"""The SPS model with the published bases against the published PROVABGS emulator (FSPS with MIST and MILES, no burst).

The SSP libraries differ (PopStar here), so spectra agree to some per cent only; the attenuation hardly depends on them and
agrees within the networks' own error. They have birth clouds up to 10 Myr (FSPS's default), where the paper says 100 Myr.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.published import compare, draw_smooth, refit, without_dust
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import Prior, sfh_sticks
from sedcast.emulator.published import read_speculator
from sedcast.emulator.published_provabgs import PublishedProvabgsModel
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.sps import SPSModel
from sedcast.emulator.ssp_comparison import bin_edges

pytestmark = pytest.mark.published

BINS = {
    "w2000_3600.pca50": (2500.0, 3500.0),
    "w3600_5500.pca50": (4500.0, 5300.0),
    "w5500_7410.pca50": (6300.0, 7000.0),
    "w7410_60000.pca30": (8000.0, 12000.0, 20000.0),
}
ZRED = 0.05


def published_log_flux(folder: Path, inputs: np.ndarray) -> np.ndarray:
    """ln of the published spectra (Lsun/Å per Msun), smoothed over 2%, at the wavelengths of `BINS`."""
    columns = []
    for tag, waves in BINS.items():
        segment = read_speculator(folder / f"nmf.v0.1.seed0_99.{tag}.8x256.nbatch250.pkl")
        log_flux = segment.log_spectra(inputs)
        columns += [np.median(log_flux[:, np.abs(segment.wave_rest / wave - 1) < 0.01], axis=1) for wave in waves]
    return np.column_stack(columns)


def model_log_flux(model: SPSModel, theta: np.ndarray) -> np.ndarray:
    log_flux = np.log(model.spectra(theta, ZRED))
    waves = [wave for waves in BINS.values() for wave in waves]
    return np.column_stack([np.median(log_flux[:, np.abs(model.wave_rest / wave - 1) < 0.01], axis=1) for wave in waves])


def test_spectra_and_dust_agree_with_the_published_emulator(published_dir: Path) -> None:
    folder = published_dir / "provabgs"
    library, bases = SSPLibrary.popstar().trimmed(2000, 3e4), SFHBases.from_published(folder)
    models = {t: SPSModel(library, bases, t_birth_cloud_gyr=t) for t in (0.01, 0.1)}
    dusty = Prior(gamma1_zh=(4.5e-4, 1.5e-2), gamma2_zh=(4.5e-4, 1.5e-2)).sample(500, 3)
    dusty[:, 0] = dusty[:, 5] = 0.0
    clear = dusty.copy()
    clear[:, 9:11] = 0.0
    sticks = sfh_sticks(dusty[:, 1:5])
    age = np.full((500, 1), models[0.01].cosmology.age_gyr(ZRED))
    published_clear, published_dusty = (
        published_log_flux(folder, np.hstack([sticks, x[:, 7:12], age])) for x in (clear, dusty)
    )

    difference = model_log_flux(models[0.01], clear) - published_clear
    assert np.abs(np.median(difference, axis=0)).max() < 0.15
    assert difference.std(axis=0).max() < 0.1

    error = {
        t: np.median(model_log_flux(model, dusty) - model_log_flux(model, clear) - (published_dusty - published_clear), axis=0)
        for t, model in models.items()
    }
    assert np.abs(error[0.01]).max() < 0.02
    assert error[0.1][0] < -0.5


def test_only_the_ssps_differ(published_dir: Path) -> None:
    published = PublishedProvabgsModel.load(published_dir / "provabgs")
    model = SPSModel(SSPLibrary.popstar().trimmed(1900, 3e4), published.bases, published.cosmology, t_birth_cloud_gyr=0.01)
    theta, zred = draw_smooth(100, 4)
    theta, edges = without_dust(theta), bin_edges(4000, 6000)
    before = compare(model, published, theta, zred, edges).spectra
    after = refit(model, published, theta, zred, edges, 4)
    # An SSP library exists with which the direct model gives the published spectra within the networks' error.
    assert np.percentile(np.abs(before - 1), 95) > 0.15
    assert np.percentile(np.abs(after - 1), 95) < 0.02
    assert abs(np.median(after) - 1) < 0.002


def test_the_published_model_gives_photometry(published_dir: Path) -> None:
    model = PublishedProvabgsModel.load(published_dir / "provabgs")
    theta, zred = draw_smooth(20, 5)
    simulator = PhotometrySimulator(model, ("g", "r", "Ks"), 0.25)
    flux = simulator.flux(theta, zred)
    np.testing.assert_allclose(flux, simulator.projection.flux(model.spectra(theta, zred), zred), rtol=1e-5)
    assert (flux > 0).all()
