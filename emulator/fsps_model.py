"""The SPS model by direct calls of FSPS, bin by bin: slow, and the arbiter of `sedcast.emulator.sps`."""

from typing import Any

import numpy as np

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.fsps_link import fsps_spectrum, metallicity_position, stellar_population
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import BETA, GAMMA, HistoryGrid, burst_fraction, check_theta, column

__all__ = ["FSPSModel"]

_LOG_BIRTH_CLOUD_MIN = 5.5


class FSPSModel:
    """Rest-frame spectra as `SPSModel`, each bin of lookback time computed by FSPS, dust included.

    As in Hahn et al. 2022 (arXiv:2202.01809, Sec. 3): SSPs (``sfh=0``) of the bin's age and metallicity under the dust of
    Kriek & Conroy 2013 (``dust_type=4``), without dust and nebular emission.

    Parameters
    ----------
    population : an ``fsps.StellarPopulation`` with ``zcontinuous=1``; its settings are changed. `stellar_population()` if not
        given: FSPS bears only one per process.
    bases, cosmology, t_birth_cloud_gyr : as for `SPSModel`.

    Raises
    ------
    MissingDependencyError : if FSPS or its data are missing.
    ParameterError : if `t_birth_cloud_gyr` is below FSPS's limit of 10^5.5 yr, or the population has another ``zcontinuous``.
    """

    def __init__(
        self,
        population: Any = None,
        bases: SFHBases | None = None,
        cosmology: Cosmology | None = None,
        *,
        t_birth_cloud_gyr: float = 0.1,
    ) -> None:
        with np.errstate(all="ignore"):
            log_birth_cloud = float(np.log10(np.float64(t_birth_cloud_gyr) * 1e9))
        if not (np.isfinite(log_birth_cloud) and log_birth_cloud > _LOG_BIRTH_CLOUD_MIN):
            raise ParameterError(
                f"t_birth_cloud_gyr must be finite and above 10^{_LOG_BIRTH_CLOUD_MIN} yr for FSPS, got {t_birth_cloud_gyr}"
            )
        self.population = stellar_population() if population is None else population
        metallicity_position(self.population, self.population.solar_metallicity)
        self.bases = SFHBases.default() if bases is None else bases
        self.cosmology = Cosmology() if cosmology is None else cosmology
        self.t_birth_cloud_gyr = float(t_birth_cloud_gyr)
        self.histories = HistoryGrid(self.bases)
        self._settings = {
            "sfh": 0,
            "dust_type": 4,
            "dust3": 0.0,
            "add_dust_emission": False,
            "add_neb_emission": False,
            "dust_tesc": log_birth_cloud,
        }

    @property
    def wave_rest(self) -> np.ndarray:
        """Rest-frame wavelengths, Å, (n_wave,)."""
        return np.asarray(self.population.wavelengths)

    def spectra(self, theta: np.ndarray, zred: np.ndarray | float) -> np.ndarray:
        """Rest-frame luminosity density, Lsun/Å, shape (n, n_wave); arguments and errors as `SPSModel.spectra`."""
        theta, zred = check_theta(theta, zred)
        return self.spectra_at_age(theta, self.cosmology.age_gyr(zred))

    def spectra_at_age(self, theta: np.ndarray, t_age_gyr: np.ndarray) -> np.ndarray:
        """As `spectra`, for galaxies of given ages, Gyr, (n,)."""
        theta, t_age = check_theta(theta, t_age_gyr, "t_age_gyr")
        # FSPS takes age zero for all ages.
        youngest = 10.0 ** self.population.ssp_ages[0] / 1e9
        for key, value in self._settings.items():
            self.population.params[key] = value
        spectra = np.zeros((len(theta), self.wave_rest.size))
        for row in range(len(theta)):
            for name in ("dust1", "dust2", "dust_index"):
                self.population.params[name] = float(theta[row, column(name)])
            mass, age, z = self._populations(theta[row : row + 1], t_age[row : row + 1])
            for share, t, metallicity in zip(mass, age, z, strict=True):
                if share > 0:
                    spectra[row] += share * fsps_spectrum(self.population, metallicity, max(float(t), youngest))
            spectra[row] *= 10 ** theta[row, column("log_mstar")]
        return spectra

    def _populations(self, theta: np.ndarray, t_age: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mass, age [Gyr] and metallicity of the SSPs of one galaxy: its bins, then its burst."""
        gamma, t_burst = theta[:, GAMMA], theta[:, column("tburst")]
        f_burst = burst_fraction(theta, t_age)
        mass = np.append((1 - f_burst) * self.histories.masses(theta[:, BETA], t_age)[0], f_burst)
        index, centre = self.histories.closing_bin(t_age)
        age = self.histories.centres_gyr.copy()
        age[index] = centre
        z = np.append(self.histories.metallicities(gamma, t_age)[0], self.histories.metallicity_at(gamma, t_burst))
        return mass, np.append(age, t_burst), z
