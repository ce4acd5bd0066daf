"""A small emulator of bands, trained for seconds: not accurate, but consistent with itself."""

import functools

import numpy as np

from sedcast.emulator.band_emulator import BandEmulator
from sedcast.emulator.band_training import BandTrainingConfig, train_band_emulator
from sedcast.emulator.simulate import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator

BANDS = ("u", "g", "r", "i", "z")
ZRED_RANGE = (0.005, 0.3)
SMALL = BandTrainingConfig(n_galaxies=4000, hidden=(24,), burst_hidden=(24, 24), steps=1200, batch_size=256)


def galaxies(n: int, seed: int) -> dict[str, np.ndarray]:
    """What the training takes, of galaxies of the prior with errors of 3%."""
    emulator = SpectrumEmulator.default()
    rng = np.random.default_rng(seed)
    theta, zred = emulator.prior.sample(n, rng), rng.uniform(*ZRED_RANGE, n)
    flux = PhotometrySimulator(emulator, BANDS, ZRED_RANGE[1], emulator.cosmology).flux(theta, zred)
    signal = np.where(flux > 0, 30.0, 0.0)
    return {"theta": theta, "zred": zred, "unit_flux": flux / 10 ** theta[:, :1], "signal_to_noise": signal}


@functools.cache
def small_band_emulator() -> tuple[BandEmulator, dict[str, float]]:
    """The emulator, and its figures."""
    emulator = SpectrumEmulator.default()
    return train_band_emulator(SMALL, emulator, BANDS, zred_range=ZRED_RANGE, **galaxies(SMALL.n_galaxies, 1))
