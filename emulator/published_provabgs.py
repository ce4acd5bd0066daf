"""The published PROVABGS emulator as a spectrum model, beside `SPSModel` and `SpectrumEmulator`."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sedcast.data.checks import one_per_galaxy
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.dust import DustLaw
from sedcast.emulator.histories import BETA, GAMMA, HistoryGrid, burst_fraction, column
from sedcast.emulator.log_spectrum import LogSpectrumEmulator
from sedcast.emulator.prior import Prior, sfh_sticks
from sedcast.emulator.published import load_speculator
from sedcast.emulator.sps import SPSModel

__all__ = ["PROVABGS_PARAMETERS", "PublishedProvabgsModel"]

PROVABGS_PARAMETERS = (
    *("beta_stick1", "beta_stick2", "beta_stick3", "gamma1_zh", "gamma2_zh"),
    *("dust1", "dust2", "dust_index", "t_age_gyr"),
)
"""Inputs of the published PROVABGS emulator (Hahn et al. 2022, arXiv:2202.01809; Kwon et al. 2022, arXiv:2209.14323)."""

# The ranges that the files' own input shifts and scales imply, with ages those of redshifts 0 … 0.6.
_PROVABGS_PRIOR = Prior(log_mstar=(0.0, 16.0), gamma1_zh=(4.5e-5, 2e-2), gamma2_zh=(4.5e-5, 2e-2), dust_index=(-3.0, 1.0))
_PROVABGS_ZRED_MAX = 0.6
_PROVABGS_BIRTH_CLOUD_GYR = 0.01


class PublishedProvabgsModel:
    """The published PROVABGS emulator as a spectrum model in the 12 parameters, rest frame, 2005 … 59900 Å.

    The β of `theta` mean what they mean in `SPSModel`: shares of the smoothly formed mass (Hahn et al. 2022, Eq. 3). The
    published code weighs the bases as they are and normalises their sum, which differs at ages that cut a basis short: the
    emulator is given the weights by which it means the same history.

    The published component is the smooth history, without a burst. A burst is refused unless `burst_library` is given; then
    it is one SSP of that library behind the same dust, as in `SPSModel`. The library is not the one that the emulator was
    trained on unless the user makes it so (FSPS with MIST, MILES and Chabrier). Birth clouds last 10 Myr in both.

    Parameters
    ----------
    emulator : inputs `PROVABGS_PARAMETERS`, output ln of Lsun/Å per Msun formed.
    bases : the published bases, which the emulator was trained with.
    cosmology : for the age of the Universe at a galaxy's redshift.
    burst_library : SSP spectra for the burst; interpolated linearly onto the emulator's wavelengths.

    Raises
    ------
    ParameterError : if the emulator has other than nine inputs, or the library does not reach over its wavelengths.
    """

    def __init__(
        self,
        emulator: LogSpectrumEmulator,
        bases: SFHBases,
        cosmology: Cosmology | None = None,
        *,
        burst_library: SSPLibrary | None = None,
    ) -> None:
        if emulator.n_input != len(PROVABGS_PARAMETERS):
            raise ParameterError(f"emulator has {emulator.n_input} inputs, expected {PROVABGS_PARAMETERS}")
        self.emulator = emulator
        self.bases = bases
        self.cosmology = Cosmology() if cosmology is None else cosmology
        self.burst_library = burst_library
        self._histories = HistoryGrid(bases)
        self._burst_model: SPSModel | None = None
        if burst_library is not None:
            library = _resampled(burst_library, self.wave_rest)
            self._burst_model = SPSModel(
                library, bases, self.cosmology, t_birth_cloud_gyr=_PROVABGS_BIRTH_CLOUD_GYR, dtype=np.float32
            )
            self._dust = DustLaw(self.wave_rest, np.float32)

    @classmethod
    def load(
        cls, folder: str | Path, cosmology: Cosmology | None = None, *, burst_library: SSPLibrary | None = None
    ) -> "PublishedProvabgsModel":
        """Read the files ``nmf.*.pkl`` of a folder, and the published bases beside them.

        Raises
        ------
        ArtifactError : if there is none, or one cannot be read.
        """
        paths = sorted(Path(folder).glob("nmf.*.pkl"))
        if not paths:
            raise ArtifactError(f"no files nmf.*.pkl in {folder}: point to the folder of PROVABGS's published emulator")
        emulator = load_speculator(paths, parameter_names=PROVABGS_PARAMETERS)
        return cls(emulator, SFHBases.from_published(folder), cosmology, burst_library=burst_library)

    @property
    def wave_rest(self) -> np.ndarray:
        """Rest-frame wavelengths, Å, (n_wave,)."""
        return self.emulator.wave_rest

    @property
    def prior(self) -> Prior:
        """The parameter ranges served, those of the published training."""
        return _PROVABGS_PRIOR

    @property
    def zred_max(self) -> float:
        """Largest redshift served."""
        return _PROVABGS_ZRED_MAX

    @property
    def t_birth_cloud_gyr(self) -> float:
        """Age up to which stars are in birth clouds, Gyr."""
        return _PROVABGS_BIRTH_CLOUD_GYR

    def spectra(self, theta: np.ndarray, zred: np.ndarray | float) -> np.ndarray:
        """Luminosity densities, Lsun/Å, float32 (n_galaxy, n_wave).

        Parameters
        ----------
        theta : (n_galaxy, 12), columns `PARAMETER_NAMES`, inside the range of the published training.
        zred : (n_galaxy,) or one, 0 … 0.6.

        Raises
        ------
        ParameterError : for values outside those ranges, or a burst where there is no `burst_library`.
        """
        theta = _PROVABGS_PRIOR.validate(theta)
        zred = one_per_galaxy(zred, len(theta))
        outside = ~((zred >= 0) & (zred <= _PROVABGS_ZRED_MAX))
        if outside.any():
            raise ParameterError(f"zred={zred[outside][0]}: the published emulator serves 0 … {_PROVABGS_ZRED_MAX}")
        t_age = self.cosmology.age_gyr(zred)
        f_burst = burst_fraction(theta, t_age)
        if self._burst_model is None and (f_burst > 0).any():
            row = int(np.argmax(f_burst > 0))
            raise ParameterError(
                f"theta[{row}] has fburst={f_burst[row]:g}, but the published emulator has no burst: set fburst to 0, "
                "or give burst_library"
            )
        mass = 10 ** theta[:, column("log_mstar")]
        dust = theta[:, column("dust1") : column("dust_index") + 1]
        weights = theta[:, BETA] / self._histories.total(t_age).T
        weights /= weights.sum(axis=1, keepdims=True)
        spectra = self.emulator(np.column_stack([sfh_sticks(weights), theta[:, GAMMA], dust, t_age]))
        spectra *= (mass * (1 - f_burst)).astype(np.float32)[:, None]
        rows = np.flatnonzero(f_burst > 0)
        if rows.size:
            spectra[rows] += self._bursts(theta[rows], mass[rows] * f_burst[rows])
        return spectra

    def restricted(self, used: slice) -> "PublishedProvabgsModel":
        """The same model on a contiguous part of its wavelengths; segments outside it are not evaluated."""
        segments, start = [], 0
        for segment in self.emulator.segments:
            n_wave = segment.wave_rest.size
            part = slice(max(used.start - start, 0), max(min(used.stop - start, n_wave), 0))
            start += n_wave
            if part.start < part.stop:
                names = ("components", "shift", "scale", "wave_rest")
                segments.append(replace(segment, **{name: getattr(segment, name)[..., part] for name in names}))
        emulator = replace(self.emulator, segments=tuple(segments))
        return PublishedProvabgsModel(emulator, self.bases, self.cosmology, burst_library=self.burst_library)

    def _bursts(self, theta: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """Attenuated spectra of bursts that formed `mass` Msun, Lsun/Å."""
        assert self._burst_model is not None
        t_burst = theta[:, column("tburst")]
        metallicity = self._burst_model.histories.metallicity_at(theta[:, GAMMA], t_burst)
        young, old = self._burst_model.ssp_spectra(t_burst, metallicity)
        dust = {name: theta[:, column(name)] for name in ("dust1", "dust2", "dust_index")}
        return self._dust.attenuate(young, old, **dust) * mass.astype(np.float32)[:, None]


def _resampled(library: SSPLibrary, wave_rest: np.ndarray) -> SSPLibrary:
    """A library interpolated linearly onto other wavelengths, Å."""
    low, high = library.wave_rest[0], library.wave_rest[-1]
    if wave_rest[0] < low or wave_rest[-1] > high:
        raise ParameterError(
            f"burst_library covers {low:g} … {high:g} Å, expected {wave_rest[0]:g} … {wave_rest[-1]:g} Å: use one that does"
        )
    flux = np.array([[np.interp(wave_rest, library.wave_rest, spectrum) for spectrum in row] for row in library.flux])
    return SSPLibrary(wave_rest, library.log_age, library.log_z, flux, name=library.name, provenance=library.provenance)
