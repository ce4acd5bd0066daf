"""The stellar population synthesis model: histories and dust applied to a library of SSP spectra."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from sedcast.data.checks import as_floats, check_kind
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import N_SFH_BASES, N_ZH_BASES, SFHBases
from sedcast.data.ssp import SSPLibrary, log_age_yr
from sedcast.emulator.dust import DustLaw
from sedcast.emulator.histories import BETA, GAMMA, HistoryGrid, burst_fraction, check_theta, column
from sedcast.emulator.segments import array_digest

__all__ = ["SPSModel", "library_digest"]

_CHUNK_ELEMENTS = 2**20
_LOG_AGE_SLACK = 1e-9
# The corners of a cell of the library's grid.
_UP_AGE, _UP_Z = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
# Up to so many galaxies, gathering the rows of a table takes less time than making a sparse matrix.
_FEW = 64


class SPSModel:
    """Rest-frame spectra of galaxies from the 12 PROVABGS parameters (Hahn et al. 2022, arXiv:2202.01809).

    L(λ) = M* Σ_b m_b SSP(t_b, Z(t_b)) A(λ): a weighted sum of the library's spectra, so a batch of galaxies is one matrix
    product. SSPs are interpolated linearly in log age and log Z; beyond the library's grid the nearest age or metallicity
    is taken. Birth clouds veil the library's ages up to `t_birth_cloud_gyr`, as in FSPS, so that an SSP between the last
    such age and the next is partly veiled. Against `FSPSModel` on FSPS's own library the largest relative difference found is
    1.5e-5 (1000 Å … 3 µm, 50 draws from the prior).

    Parameters
    ----------
    library : the SSP spectra.
    bases : SFH and ZH bases; the default ones if not given.
    cosmology : for the age of the Universe at a galaxy's redshift.
    t_birth_cloud_gyr : age up to which stars are in birth clouds, Gyr.
    dtype : np.float64, or np.float32 for twice the speed at a relative error below 1e-5 above 1e-6 of the peak flux.

    Raises
    ------
    ParameterError : if `t_birth_cloud_gyr` is not positive and finite or `dtype` is neither float32 nor float64.
    """

    def __init__(
        self,
        library: SSPLibrary,
        bases: SFHBases | None = None,
        cosmology: Cosmology | None = None,
        *,
        t_birth_cloud_gyr: float = 0.1,
        dtype: type[np.floating[Any]] = np.float64,
    ) -> None:
        birth_cloud = as_floats("t_birth_cloud_gyr", t_birth_cloud_gyr)
        if birth_cloud.shape or not 0 < birth_cloud < np.inf:
            raise ParameterError(f"t_birth_cloud_gyr must be positive and finite, got {t_birth_cloud_gyr}: 0.1 is usual")
        if dtype not in (np.float32, np.float64):
            raise ParameterError(f"dtype must be numpy.float32 or numpy.float64, got {dtype}")
        check_kind("library", library, SSPLibrary, "such as SSPLibrary.popstar()")
        self.library = library
        self.bases = SFHBases.default() if bases is None else bases
        self.cosmology = Cosmology() if cosmology is None else cosmology
        self.t_birth_cloud_gyr = birth_cloud.item()
        self.dtype = dtype
        self.histories = HistoryGrid(self.bases)
        self._dust = DustLaw(library.wave_rest, dtype)
        log_birth_cloud = np.log10(self.t_birth_cloud_gyr * 1e9) + _LOG_AGE_SLACK
        self._n_young = int(np.searchsorted(library.log_age, log_birth_cloud, side="right"))
        n_wave = library.wave_rest.size
        self._young_flux = np.ascontiguousarray(library.flux[:, : self._n_young].reshape(-1, n_wave), dtype=dtype)
        self._old_flux = np.ascontiguousarray(library.flux[:, self._n_young :].reshape(-1, n_wave), dtype=dtype)
        self._age_map = self._interpolation_matrix(self.histories.centres_gyr)

    @property
    def wave_rest(self) -> np.ndarray:
        """Rest-frame wavelengths, Å, (n_wave,)."""
        return self.library.wave_rest

    def spectra(self, theta: np.ndarray, zred: np.ndarray | float) -> np.ndarray:
        """Rest-frame luminosity density, Lsun/Å, shape (n, n_wave).

        Parameters
        ----------
        theta : (n, 12), columns `PARAMETER_NAMES`.
        zred : (n,) redshifts, or one for all.

        Raises
        ------
        ParameterError : for impossible parameters, or a redshift outside the cosmology's or the bases' range.
        """
        theta, zred = self.check(theta, zred)
        return self.spectra_at_age(theta, self.cosmology.age_gyr(zred))

    check = staticmethod(check_theta)
    """Parameters (n, 12) and redshifts (n,) as float64, if `spectra` takes them."""

    def spectra_at_age(self, theta: np.ndarray, t_age_gyr: np.ndarray) -> np.ndarray:
        """As `spectra`, for galaxies of given ages, Gyr, (n,), which the bases must reach."""
        theta, t_age = check_theta(theta, t_age_gyr, "t_age_gyr")
        spectra = np.empty((len(theta), self.wave_rest.size), dtype=self.dtype)
        for rows in self._chunks(len(theta)):
            part = theta[rows]
            young, old = self._composite(self._galaxy_weights(part, t_age[rows]))
            dust = {name: part[:, column(name)] for name in ("dust1", "dust2", "dust_index")}
            spectra[rows] = self._dust.attenuate(young, old, **dust)
        return spectra

    def basis_spectra(self, gamma: np.ndarray, n_bin: int) -> tuple[np.ndarray, np.ndarray]:
        """Unattenuated spectra of what each SFH basis, not normalised, forms in the first `n_bin` bins of lookback time.

        They depend on the galaxy's age only in that it must be at least the end of these bins. Together with the bins of
        `HistoryGrid.later_bins` they make up the composite without a burst.

        Parameters
        ----------
        gamma : (n, 2) weights of the metallicity bases.
        n_bin : 1 … number of bins.

        Returns
        -------
        young, old : (n, 4, n_wave) each, Lsun/Å, of the stars with and without birth clouds.

        Raises
        ------
        ParameterError : for wrong shapes, or negative or non-finite weights.
        """
        gamma = np.asarray(gamma, dtype=np.float64)
        if gamma.ndim != 2 or gamma.shape[1] != N_ZH_BASES:
            raise ParameterError(f"gamma must have shape (n, {N_ZH_BASES}), got {gamma.shape}")
        if not np.isfinite(gamma).all() or (gamma < 0).any():
            raise ParameterError(f"gamma must be finite and non-negative, got {gamma.min()} … {gamma.max()}")
        if not 1 <= n_bin <= self.histories.n_bin:
            raise ParameterError(f"n_bin must be 1 … {self.histories.n_bin}, got {n_bin}")
        shape = (len(gamma), N_SFH_BASES, self.wave_rest.size)
        young, old = np.empty(shape, dtype=self.dtype), np.empty(shape, dtype=self.dtype)
        for rows in self._chunks(len(gamma)):
            z = self.histories.complete_metallicities(gamma[rows], n_bin)
            for basis, masses in enumerate(self.histories.complete_masses(n_bin)):
                weights = self._binned_weights(np.broadcast_to(masses, z.shape), z)
                young[rows, basis], old[rows, basis] = self._composite(weights)
        return young, old

    def ssp_spectra(self, age_gyr: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unattenuated SSP spectra per unit mass formed, as a burst has them.

        Parameters
        ----------
        age_gyr : (n,) ages, Gyr; beyond the library's grid the nearest age is taken.
        z : (n,) metal mass fractions; likewise.

        Returns
        -------
        young, old : (n, n_wave) each, Lsun/Å/Msun; the parts with and without birth clouds.

        Raises
        ------
        ParameterError : for wrong shapes, or values that are not positive and finite.
        """
        age = np.atleast_1d(np.asarray(age_gyr, dtype=np.float64))
        young, old = np.zeros((2, len(age), self.wave_rest.size), dtype=self.dtype)
        self.add_ssps(young, old, np.ones(len(age)), age_gyr, z)
        return young, old

    def add_ssps(self, young: np.ndarray, old: np.ndarray, mass: np.ndarray, age_gyr: np.ndarray, z: np.ndarray) -> None:
        """Add SSPs to each of `young` and `old`, (n, n_wave), in place.

        Parameters
        ----------
        young, old : unattenuated spectra, Lsun/Å.
        mass : Msun formed, (n,), or (n, m) for m SSPs a galaxy.
        age_gyr, z : likewise; as in `ssp_spectra`.

        Raises
        ------
        ParameterError : as `ssp_spectra`.
        """
        age, z = np.asarray(age_gyr, dtype=np.float64), np.asarray(z, dtype=np.float64)
        if age.ndim not in (1, 2) or z.shape != age.shape:
            raise ParameterError(f"age_gyr and z must both have shape (n,) or (n, m), got {age.shape} and {z.shape}")
        for name, value in (("age_gyr", age), ("z", z)):
            if not np.isfinite(value).all() or (value <= 0).any():
                raise ParameterError(f"{name} must be positive and finite, got {value.min()} … {value.max()}")
        self.add_valid_ssps(young, old, np.asarray(mass), age, z)

    def add_valid_ssps(self, young: np.ndarray, old: np.ndarray, mass: np.ndarray, age_gyr: np.ndarray, z: np.ndarray) -> None:
        """As `add_ssps`, for float64 arguments that are known to be valid."""
        age_node, z_node, share = self._ssp_nodes(age_gyr, z)
        share = (share * mass[..., None]).astype(self.dtype)
        # The corners of all SSPs of a galaxy are one row of a sparse matrix.
        n_corner = share[0].size if len(share) else 4
        age_node, z_node, share = (part.reshape(len(share), n_corner) for part in (age_node, z_node, share))
        young_node = age_node < self._n_young
        old += self._interpolated(self._old_flux, z_node, age_node - self._n_young, np.where(young_node, 0, share))
        # Few bursts are young.
        rows = np.flatnonzero(young_node.any(axis=1))
        if len(rows):
            shares = np.where(young_node[rows], share[rows], 0)
            young[rows] += self._interpolated(self._young_flux, z_node[rows], age_node[rows], shares)

    def _interpolated(self, table: np.ndarray, z_node: np.ndarray, age_node: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Sums of rows of `table` (n_z · n_age, n_wave), as many for each galaxy; nodes outside it must have no share."""
        n_age = len(table) // self.library.log_z.size
        if not n_age:
            return np.zeros((len(share), table.shape[1]), dtype=self.dtype)
        node = np.minimum(np.maximum(z_node * n_age + np.minimum(np.maximum(age_node, 0), n_age - 1), 0), len(table) - 1)
        if len(share) <= _FEW:
            return np.asarray(np.matmul(share[:, None, :], table[node])[:, 0])
        starts = np.arange(0, share.size + 1, share.shape[1])
        return csr_array((share.ravel(), node.ravel(), starts), shape=(len(share), len(table))) @ table

    def _chunks(self, n: int) -> list[slice]:
        size = int(np.clip(_CHUNK_ELEMENTS // self.wave_rest.size, 16, 1024))
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _composite(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Young and old spectra (n, n_wave) for weights (n, n_z, n_age) on the library's spectra."""
        n = len(weights)
        young = weights[:, :, : self._n_young].reshape(n, -1).astype(self.dtype, copy=False) @ self._young_flux
        old = weights[:, :, self._n_young :].reshape(n, -1).astype(self.dtype, copy=False) @ self._old_flux
        return young, old

    def _galaxy_weights(self, theta: np.ndarray, t_age: np.ndarray) -> np.ndarray:
        """Mass on each node of the library, Msun, (n, n_z, n_age)."""
        mass = 10 ** theta[:, column("log_mstar")]
        f_burst = burst_fraction(theta, t_age)
        t_burst, gamma = theta[:, column("tburst")], theta[:, GAMMA]
        weights = self._history_weights(theta[:, BETA] * (mass * (1 - f_burst))[:, None], gamma, t_age)
        self._add_ssp(weights, mass * f_burst, t_burst, self.histories.metallicity_at(gamma, t_burst))
        return weights

    def _history_weights(self, beta: np.ndarray, gamma: np.ndarray, t_age: np.ndarray) -> np.ndarray:
        masses = self.histories.masses(beta, t_age)
        z = self.histories.metallicities(gamma, t_age)
        index, centre = self.histories.closing_bin(t_age)
        rows = np.arange(len(masses))
        closing_mass, closing_z = masses[rows, index], z[rows, index]
        # The one bin whose centre depends on the galaxy is not part of the fixed map from bins to ages.
        masses[rows, index] = 0.0
        weights = self._binned_weights(masses, z)
        self._add_ssp(weights, closing_mass, centre, closing_z)
        return weights

    def _binned_weights(self, masses: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Mass on each node of the library, (n, n_z, n_age), for masses and metallicities (n, n_bin) of the first bins."""
        position = self._position(self.library.log_z, np.log10(z))
        nodes = np.arange(self.library.log_z.size)[:, None]
        shares = np.maximum(1 - np.abs(position[:, None, :] - nodes), 0.0) * masses[:, None, :]
        n_bin = masses.shape[1]
        return (shares.reshape(-1, n_bin) @ self._age_map[:n_bin]).reshape(len(masses), len(nodes), -1)

    def _add_ssp(self, weights: np.ndarray, mass: np.ndarray, age_gyr: np.ndarray, z: np.ndarray) -> None:
        """Add one SSP per galaxy to its weights (n, n_z, n_age), in place."""
        age_node, z_node, share = self._ssp_nodes(age_gyr, z)
        rows = np.arange(len(weights))
        for corner in range(share.shape[1]):
            weights[rows, z_node[:, corner], age_node[:, corner]] += mass * share[:, corner]

    def _ssp_nodes(self, age_gyr: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The four nodes of the library around each SSP, their age and metallicity indices and shares; (..., 4) each."""
        age = self._position(self.library.log_age, log_age_yr(age_gyr))[..., None]
        metal = self._position(self.library.log_z, np.log10(z))[..., None]
        i = np.minimum(age.astype(int), self.library.log_age.size - 2)
        j = np.minimum(metal.astype(int), self.library.log_z.size - 2)
        above_age, above_z = age - i, metal - j
        share_age, share_z = (np.concatenate([1 - above, above], axis=-1) for above in (above_age, above_z))
        share = share_age[..., None, :] * share_z[..., :, None]
        return i + _UP_AGE, j + _UP_Z, share.reshape(*age.shape[:-1], 4)

    def _interpolation_matrix(self, age_gyr: np.ndarray) -> np.ndarray:
        """Shares of each age on the library's ages, (n, n_age)."""
        position = self._position(self.library.log_age, log_age_yr(age_gyr))
        return np.maximum(1 - np.abs(position[:, None] - np.arange(self.library.log_age.size)), 0.0)

    @staticmethod
    def _position(grid: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Fractional index of each value on a grid, clamped to its ends."""
        return np.interp(value, grid, np.arange(grid.size, dtype=np.float64))


def library_digest(library: SSPLibrary) -> str:
    """Checksum of the spectra of a library, and of what they are of."""
    return array_digest(library.flux, library.log_age, library.log_z, library.wave_rest)
