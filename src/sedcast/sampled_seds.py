"""Photometry and spectra of posterior samples, as they are drawn."""

from dataclasses import dataclass

import numpy as np

from sedcast.data.checks import as_floats, check_kind, one_per_galaxy
from sedcast.data.errors import ParameterError
from sedcast.data.filters import FilterCurve, flux_density
from sedcast.emulator.simulation import PhotometrySimulator

__all__ = ["SampledSeds", "sampled_seds"]


@dataclass(frozen=True)
class SampledSeds:
    """What samples of one galaxy's posterior predict.

    Attributes
    ----------
    flux : (n_sample, n_band) noiseless fluxes, nanomaggies.
    wave_obs : (n_wave,) observed wavelengths, Å.
    spectrum : (n_sample, n_wave) flux densities per frequency, nanomaggies.
    curves : the bands' filter curves, which may be a user's own.
    """

    flux: np.ndarray
    wave_obs: np.ndarray
    spectrum: np.ndarray
    curves: tuple[FilterCurve, ...]

    @property
    def centre(self) -> np.ndarray:
        """Effective wavelengths of the bands, Å, (n_band,)."""
        return np.array([curve.effective_wave for curve in self.curves])


def sampled_seds(simulator: PhotometrySimulator, theta: np.ndarray, zred: np.ndarray | float) -> SampledSeds:
    """Photometry and spectra that parameters imply for a galaxy.

    Parameters
    ----------
    simulator : of the galaxy's bands.
    theta : (n_sample, 12), columns `PARAMETER_NAMES`.
    zred : redshift, or (n_sample,) where it is inferred: each spectrum is then at its own, on the wavelengths of the median.

    Raises
    ------
    ParameterError : for parameters or redshifts that the model refuses, or as many redshifts as neither one nor the samples.
    """
    check_kind("simulator", simulator, PhotometrySimulator, "of the galaxy's bands")
    theta = np.atleast_2d(as_floats("theta", theta))
    if not len(theta):
        raise ParameterError("theta has no rows: expected (n_sample, 12) with one sample at least")
    redshifts = one_per_galaxy(zred, len(theta))
    model = simulator.model
    spectra = model.spectra(theta, redshifts)
    wave_obs = np.asarray(model.wave_rest, dtype=float) * (1 + np.median(redshifts))
    own_wave, density = flux_density(spectra, model.wave_rest, redshifts, simulator.cosmology)
    density = np.stack([np.interp(wave_obs, *own) for own in zip(own_wave, density, strict=True)])
    return SampledSeds(simulator.flux(theta, redshifts), wave_obs, density, simulator.projection.curves)
