"""A small emulator of bands, trained for seconds: not accurate, but consistent with itself."""

import functools

import numpy as np

from sedcast.emulator.band_emulator import BandEmulator
from sedcast.emulator.band_training import BandGalaxies, BandTrainingConfig, train_band_emulator
from sedcast.emulator.prior import Prior
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator

BANDS = ("u", "g", "r", "i", "z")
ZRED_RANGE = (0.005, 0.3)
SMALL = BandTrainingConfig(n_galaxies=4000, hidden=(24,), burst_hidden=(24, 24), steps=1200, batch_size=256)


def galaxies(n: int, seed: int) -> BandGalaxies:
    """Galaxies of the prior with errors of 3%."""
    emulator = SpectrumEmulator.default()
    rng = np.random.default_rng(seed)
    theta, zred = emulator.prior.sample(n, rng), rng.uniform(*ZRED_RANGE, n)
    flux = PhotometrySimulator(emulator, BANDS, ZRED_RANGE[1]).flux(theta, zred)
    signal = np.where(flux > 0, 30.0, 0.0)
    return BandGalaxies(theta, zred, flux / 10 ** theta[:, :1], signal)


def trained(config: BandTrainingConfig, data: BandGalaxies, bands=BANDS, prior: Prior | None = None):
    """A band emulator and its figures."""
    return train_band_emulator(
        config,
        SpectrumEmulator.default(),
        bands,
        training=data,
        held_out=data,
        prior=prior or Prior(),
        zred_range=ZRED_RANGE,
    )


@functools.cache
def small_band_emulator() -> tuple[BandEmulator, dict[str, float]]:
    """The emulator, and its figures."""
    return trained(SMALL, galaxies(SMALL.n_galaxies, 1))
