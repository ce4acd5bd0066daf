"""Star-formation and metallicity histories in bins of lookback time, and what is derived from them.

A galaxy of age t_age forms its mass in the bins of Hahn et al. 2022 (arXiv:2202.01809, Sec. 3): edges at 0,
10^(6.05 + 0.1 i) yr for i = 0 … 40, and 13.8 Gyr, those at or beyond t_age replaced by t_age. All the mass of a bin has
the bin's mid-point as its age, and the metallicity of that time.
"""

import numpy as np

from sedcast.data.checks import as_floats, check_kind, one_per_galaxy
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import N_SFH_BASES, N_ZH_BASES, SFHBases
from sedcast.emulator.dust import diffuse_a_v
from sedcast.emulator.prior import BETA_TOLERANCE, PARAMETER_NAMES
from sedcast.emulator.surviving import SurvivingMass

__all__ = [
    "BETA",
    "DERIVED_NAMES",
    "GAMMA",
    "LOG_SSFR_FLOOR",
    "METALLICITY_RANGE",
    "SURVIVING_NAME",
    "HistoryGrid",
    "burst_fraction",
    "check_theta",
    "clipped_metallicity",
    "column",
    "derived_properties",
]

DERIVED_NAMES = (
    "log_sfr_1gyr",
    "log_sfr_100myr",
    "log_ssfr_1gyr",
    "log_ssfr_100myr",
    "log_z_mw",
    "t_mw_gyr",
    "t50_gyr",
    "a_v",
)
"""Quantities that `derived_properties` computes of any parameters."""

SURVIVING_NAME = "log_mstar_surviving"
"""Log10 of the mass in stars and remnants, Msun; ``log_mstar`` is the mass formed."""

METALLICITY_RANGE = (4.49e-5, 4.49e-2)
"""Metal mass fractions that histories are clipped to (Hahn et al. 2022, Sec. 3)."""

LOG_SSFR_FLOOR = -16.0
"""Lowest log10 specific star-formation rate, yr^-1, that is reported: a galaxy without star formation has this one."""

BETA = slice(PARAMETER_NAMES.index("beta1_sfh"), PARAMETER_NAMES.index("beta4_sfh") + 1)
"""Columns of theta that hold the SFH weights."""

GAMMA = slice(PARAMETER_NAMES.index("gamma1_zh"), PARAMETER_NAMES.index("gamma2_zh") + 1)
"""Columns of theta that hold the metallicity weights."""

_EDGES_GYR = np.concatenate([[0.0], 10 ** (6.05 + 0.1 * np.arange(41) - 9), [13.8]])
_ALLOWED = {
    "log_mstar": (0.0, 16.0),
    "fburst": (0.0, 1.0),
    "tburst": (0.0, np.inf),
    "gamma1_zh": (0.0, np.inf),
    "gamma2_zh": (0.0, np.inf),
    "dust1": (0.0, np.inf),
    "dust2": (0.0, np.inf),
    "dust_index": (-10.0, 10.0),
}
_CHUNK = 4096
_LEAST_SHARE = 0.05


def clipped_metallicity(z: np.ndarray) -> np.ndarray:
    """Metal mass fractions within `METALLICITY_RANGE`, in place."""
    # For a few galaxies np.clip takes several times longer.
    np.maximum(z, METALLICITY_RANGE[0], out=z)
    return np.minimum(z, METALLICITY_RANGE[1], out=z)


def column(name: str) -> int:
    """Column of theta that holds a parameter."""
    return PARAMETER_NAMES.index(name)


def check_theta(theta: np.ndarray, zred: np.ndarray | float, name: str = "zred") -> tuple[np.ndarray, np.ndarray]:
    """Validate parameters as physically possible (not as inside any prior); `name` is what messages call the redshift.

    Returns
    -------
    theta, zred : float64 arrays of shape (n, 12) and (n,); a single redshift is repeated.

    Raises
    ------
    ParameterError : for a wrong shape, a value that is not finite or impossible, or SFH weights that do not sum to one.
    """
    theta = as_floats("theta", theta)
    if theta.ndim != 2 or theta.shape[1] != len(PARAMETER_NAMES):
        raise ParameterError(
            f"theta must have shape (n, {len(PARAMETER_NAMES)}) in the order {PARAMETER_NAMES}, got {theta.shape}"
        )
    zred = one_per_galaxy(zred, len(theta), name)
    finite = np.isfinite(theta)
    if not finite.all():
        row, index = np.argwhere(~finite)[0]
        raise ParameterError(f"theta[{row}] must be finite, got {PARAMETER_NAMES[index]}={theta[row, index]}")
    beta = theta[:, BETA]
    wrong = (np.abs(beta.sum(axis=1) - 1) > BETA_TOLERANCE) | (beta < 0).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ParameterError(f"theta[{row}] must have non-negative SFH weights that sum to 1, got {beta[row]}: normalise them")
    for name, (low, high) in _ALLOWED.items():
        value = theta[:, column(name)]
        outside = (value < low) | (value > high)
        if outside.any():
            row = int(np.argmax(outside))
            raise ParameterError(
                f"theta[{row}] must have {name} in {low:g} … {high:g}, got {value[row]:g}: check order and units"
            )
    return theta, zred


class HistoryGrid:
    """Bases integrated over the bins of lookback time, once; per galaxy only the bin that t_age closes differs.

    Parameters
    ----------
    bases : the SFH and ZH bases.
    """

    def __init__(self, bases: SFHBases) -> None:
        check_kind("bases", bases, SFHBases, "such as SFHBases.default()")
        self.bases = bases
        self.edges_gyr = _EDGES_GYR
        self.centres_gyr = 0.5 * (_EDGES_GYR[1:] + _EDGES_GYR[:-1])
        time = bases.t_lookback_gyr
        self._slope = np.diff(bases.sfh, axis=1) / np.diff(time)
        steps = 0.5 * (bases.sfh[:, 1:] + bases.sfh[:, :-1]) * np.diff(time)
        self._cumulative = np.concatenate([np.zeros((N_SFH_BASES, 1)), np.cumsum(steps, axis=1)], axis=1)
        self._formed_at_edges = self.formed(_EDGES_GYR)
        self._mass = np.diff(self._formed_at_edges, axis=1)
        self._zh = np.stack([np.interp(self.centres_gyr, time, row) for row in bases.zh])

    @property
    def n_bin(self) -> int:
        """Number of bins, 42."""
        return len(self.centres_gyr)

    def formed(self, t_gyr: np.ndarray) -> np.ndarray:
        """Mass that each basis forms between now and lookback time t, exactly, not normalised; shape (4, n)."""
        time = self.bases.t_lookback_gyr
        t_gyr = np.minimum(t_gyr, time[-1])
        index = np.clip(np.searchsorted(time, t_gyr, side="right") - 1, 0, len(time) - 2)
        step = t_gyr - time[index]
        return self._cumulative[:, index] + step * (self.bases.sfh[:, index] + 0.5 * step * self._slope[:, index])

    def time_to_form(self, mass: np.ndarray, amount: np.ndarray) -> np.ndarray:
        """Lookback time, Gyr, since when `amount` (n, 4) of the bases, not normalised, forms a mass, (n,), exactly; (n,)."""
        time = self.bases.t_lookback_gyr
        index, last = np.zeros(len(mass), dtype=int), len(time) - 2
        for power in reversed(range(last.bit_length())):
            later = np.minimum(index + 2**power, last)
            index = np.where(np.einsum("ni,in->n", amount, self._cumulative[:, later]) < mass, later, index)
        parts = (self._cumulative, self.bases.sfh, self._slope)
        formed, rate, slope = (np.einsum("ni,in->n", amount, part[:, index]) for part in parts)
        missing = np.maximum(mass - formed, 0.0)
        # This form of the root of missing = rate t + slope t²/2 needs no division by the slope, which may be zero.
        twice = rate + np.sqrt(np.maximum(rate**2 + 2 * slope * missing, 0.0))
        step = np.divide(2 * missing, twice, out=np.zeros_like(missing), where=twice > 0)
        return np.asarray(np.minimum(time[index] + step, time[index + 1]))

    def total(self, t_age_gyr: np.ndarray) -> np.ndarray:
        """Mass that each basis forms over a galaxy's age, not normalised; shape (4, n).

        Raises
        ------
        ParameterError : if an age is not in (0, end of the bases], or a basis forms nothing within it.
        """
        t_age_gyr = np.asarray(t_age_gyr, dtype=np.float64)
        t_max = min(self.bases.t_lookback_gyr[-1], self.edges_gyr[-1])
        good = np.isfinite(t_age_gyr) & (t_age_gyr > 0) & (t_age_gyr <= t_max)
        if not good.all():
            raise ParameterError(f"age of the galaxy must lie in (0, {t_max:g}] Gyr, got {t_age_gyr[~good][0]:g}: check zred")
        formed = self.formed(t_age_gyr)
        if formed.size and formed.min() <= 0:
            basis, row = np.argwhere(formed <= 0)[0]
            raise ParameterError(f"SFH basis {basis} forms no mass in {t_age_gyr[row]:g} Gyr: zred is too high for these bases")
        return formed

    def check_reach(self, t_age_gyr: float) -> None:
        """Refuse galaxies so young that hardly anything of a basis, of what it forms in all, lies within their age.

        Normalised within that age, what is left of an old population is the remainder of a fit, and may be the youngest of all.

        Raises
        ------
        ParameterError : if less than 5% of a basis does.
        """
        share = self.formed(np.array([t_age_gyr]))[:, 0] / self._cumulative[:, -1]
        if share.min() < _LEAST_SHARE:
            raise ParameterError(
                f"SFH basis {share.argmin()} has {share.min():.1%} of its stars within the age of a galaxy at zred_max, "
                f"{t_age_gyr:.3g} Gyr, expected {_LEAST_SHARE:.0%} or more: lower zred_max, or give bases for such redshifts"
            )

    def closing_bin(self, t_age_gyr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bin that t_age closes: its index and its centre in Gyr, each of shape (n,)."""
        index = np.searchsorted(self.edges_gyr, t_age_gyr, side="left") - 1
        return index, 0.5 * (self.edges_gyr[index] + t_age_gyr)

    def masses(self, beta: np.ndarray, t_age_gyr: np.ndarray) -> np.ndarray:
        """Mass formed in each bin for Σ β_i s_i, each basis normalised to unit mass over [0, t_age] (Hahn et al. 2022, Eq. 3).

        Parameters
        ----------
        beta : (n, 4) weights.
        t_age_gyr : (n,) ages of the galaxies.

        Returns
        -------
        masses : (n, n_bin), zero beyond t_age; rows sum to Σ β_i.
        """
        total = self.total(t_age_gyr)
        weight = beta / total.T
        index, _ = self.closing_bin(t_age_gyr)
        masses = weight @ self._mass
        masses[np.arange(self.n_bin) >= index[:, None]] = 0.0
        masses[np.arange(len(index)), index] = self._closing_mass(weight, total, index)
        return masses

    def n_complete(self, t_age_gyr: float) -> int:
        """Number of bins that have ended by an age of the galaxy, whatever later ages it may have."""
        return int(np.searchsorted(self.edges_gyr, t_age_gyr, side="right")) - 1

    def complete_masses(self, n_bin: int) -> np.ndarray:
        """Mass that each basis, not normalised, forms in each of the first `n_bin` bins; (4, n_bin)."""
        return self._mass[:, :n_bin]

    def complete_metallicities(self, gamma: np.ndarray, n_bin: int) -> np.ndarray:
        """Metal mass fraction at the centre of each of the first `n_bin` bins; (n, n_bin)."""
        return clipped_metallicity(gamma @ self._zh[:, :n_bin])

    def later_bins(
        self, first: int, amount: np.ndarray, gamma: np.ndarray, t_age_gyr: np.ndarray, total: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mass, age (Gyr) and metallicity of the bins from `first` on, of which a galaxy's age closes one; (n, n_bin - first).

        Parameters
        ----------
        first : a bin that no galaxy's age precedes.
        amount : (n, 4), weights of the bases, not normalised: β times the mass over `total`.
        gamma, t_age_gyr : (n, 2) and (n,).
        total : (4, n), of `total` at the same ages.
        """
        index, centre = self.closing_bin(t_age_gyr)
        rows, closing = np.arange(len(index)), index - first
        mass = amount @ self._mass[:, first:]
        age = np.empty_like(mass)
        age[:] = self.centres_gyr[first:]
        mass[age > centre[:, None]] = 0.0
        mass[rows, closing] = self._closing_mass(amount, total, index)
        age[rows, closing] = centre
        z = gamma @ self._zh[:, first:]
        z[rows, closing] = self._unclipped_metallicity(gamma, centre)
        return mass, age, clipped_metallicity(z)

    def _closing_mass(self, weight: np.ndarray, total: np.ndarray, index: np.ndarray) -> np.ndarray:
        formed = total - self._formed_at_edges[:, index]
        # Cancellation may leave a closing bin of a hair's width slightly negative.
        return np.maximum(np.einsum("ni,in->n", weight, formed), 0.0)

    def metallicities(self, gamma: np.ndarray, t_age_gyr: np.ndarray) -> np.ndarray:
        """Metal mass fraction at the centre of each bin, shape (n, n_bin); of no meaning in bins beyond t_age."""
        z = gamma @ self._zh
        index, centre = self.closing_bin(t_age_gyr)
        z[np.arange(len(index)), index] = self._unclipped_metallicity(gamma, centre)
        return clipped_metallicity(z)

    def metallicity_at(self, gamma: np.ndarray, t_gyr: np.ndarray) -> np.ndarray:
        """Metal mass fraction at one lookback time per galaxy, Σ γ_j z_j(t), clipped; shape (n,)."""
        return clipped_metallicity(self._unclipped_metallicity(gamma, t_gyr))

    def _unclipped_metallicity(self, gamma: np.ndarray, t_gyr: np.ndarray) -> np.ndarray:
        time = self.bases.t_lookback_gyr
        z = np.zeros(len(gamma))
        for j in range(N_ZH_BASES):
            z += gamma[:, j] * np.interp(t_gyr, time, self.bases.zh[j])
        return z


def derived_properties(
    theta: np.ndarray,
    zred: np.ndarray | float,
    bases: SFHBases,
    cosmology: Cosmology,
    *,
    surviving: SurvivingMass | None = None,
) -> dict[str, np.ndarray]:
    """Star-formation rates, metallicity (Hahn et al. 2022, Eq. 17), ages and attenuation that parameters imply.

    Parameters
    ----------
    theta : (n, 12), columns `PARAMETER_NAMES`.
    zred : (n,) redshifts, or one.
    bases, cosmology : those of the SPS model.
    surviving : mass left per mass formed, where the SSP library knows it.

    Returns
    -------
    properties : arrays of shape (n,).
        ``log_sfr_1gyr``, ``log_sfr_100myr``: log10 of the mass formed in the last 1 Gyr and 100 Myr (or in t_age where that is
        shorter), burst included, over that time, Msun/yr; ``log_ssfr_1gyr``, ``log_ssfr_100myr``: these per mass formed, log10
        yr^-1, at least `LOG_SSFR_FLOOR`, which also bounds both rates; ``log_z_mw``: log10 of the mass-weighted metal mass
        fraction; ``t_mw_gyr``: mass-weighted age; ``t50_gyr``: lookback time from the galaxy by which half of the mass was
        formed, burst included, not rounded to bins; ``a_v``: attenuation at 5500 Å by the diffuse dust, without birth clouds,
        mag; with `surviving` also ``log_mstar_surviving``: log10 of the mass in stars and remnants, Msun, at most the mass
        formed, which ``log_mstar`` is.

    Raises
    ------
    ParameterError : as `check_theta`, or for a redshift outside the bases or the cosmology.
    """
    theta, zred = check_theta(theta, zred)
    grid = HistoryGrid(bases)
    t_age = cosmology.age_gyr(zred)
    names = [*DERIVED_NAMES, *([] if surviving is None else [SURVIVING_NAME])]
    result = {name: np.empty(len(theta)) for name in names}
    for start in range(0, len(theta), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = _derived(theta[rows], t_age[rows], grid, surviving)
        for name in names:
            result[name][rows] = part[name]
    return result


def _derived(theta: np.ndarray, t_age: np.ndarray, grid: HistoryGrid, surviving: SurvivingMass | None) -> dict[str, np.ndarray]:
    beta, gamma = theta[:, BETA], theta[:, GAMMA]
    t_burst = theta[:, column("tburst")]
    f_burst = burst_fraction(theta, t_age)
    masses = grid.masses(beta, t_age)
    index, centre = grid.closing_bin(t_age)
    closing = masses[np.arange(len(index)), index]
    age = masses @ grid.centres_gyr + closing * (centre - grid.centres_gyr[index])
    bin_z = grid.metallicities(gamma, t_age)
    z = np.einsum("nb,nb->n", masses, bin_z)
    z_burst = grid.metallicity_at(gamma, t_burst)
    total = grid.total(t_age)
    log_ssfr = [_log_ssfr(span, beta, t_age, f_burst, t_burst, grid, total) for span in (1.0, 0.1)]
    log_mstar = theta[:, column("log_mstar")]
    derived = {
        "log_sfr_1gyr": log_ssfr[0] + log_mstar,
        "log_sfr_100myr": log_ssfr[1] + log_mstar,
        "log_ssfr_1gyr": log_ssfr[0],
        "log_ssfr_100myr": log_ssfr[1],
        "log_z_mw": np.log10((1 - f_burst) * z + f_burst * z_burst),
        "t_mw_gyr": (1 - f_burst) * age + f_burst * t_burst,
        "t50_gyr": _half_mass_time(beta / total.T, f_burst, t_burst, grid),
        "a_v": diffuse_a_v(theta[:, column("dust2")], theta[:, column("dust_index")]),
    }
    if surviving is not None:
        bin_age = np.tile(grid.centres_gyr, (len(theta), 1))
        bin_age[np.arange(len(index)), index] = centre
        left = np.einsum("nb,nb->n", masses, surviving(bin_age, bin_z))
        left = (1 - f_burst) * left + f_burst * surviving(t_burst, z_burst)
        derived[SURVIVING_NAME] = log_mstar + np.log10(left)
    return derived


def _log_ssfr(
    span_gyr: float,
    beta: np.ndarray,
    t_age: np.ndarray,
    f_burst: np.ndarray,
    t_burst: np.ndarray,
    grid: HistoryGrid,
    total: np.ndarray,
) -> np.ndarray:
    span = np.minimum(span_gyr, t_age)
    smooth = np.einsum("ni,in->n", beta, grid.formed(span) / total)
    fraction = (1 - f_burst) * smooth + f_burst * (t_burst <= span)
    return np.log10(np.maximum(fraction / (span * 1e9), 10**LOG_SSFR_FLOOR))


def _half_mass_time(amount: np.ndarray, f_burst: np.ndarray, t_burst: np.ndarray, grid: HistoryGrid) -> np.ndarray:
    """Lookback time, Gyr, by which half of the mass was formed, (n,), of `amount` (n, 4) of the bases and a burst."""
    after_burst = np.einsum("ni,in->n", amount, grid.formed(t_burst))
    # Half of all mass may be reached by the smooth part alone, before the burst, in the burst, or with it.
    with np.errstate(divide="ignore"):
        least, most = (0.5 - f_burst) / (1 - f_burst), 0.5 / (1 - f_burst)
    share = np.clip(after_burst, least, most)
    return np.where(share == after_burst, t_burst, grid.time_to_form(share, amount))


def burst_fraction(theta: np.ndarray, t_age_gyr: np.ndarray) -> np.ndarray:
    """Fraction of the mass formed in the burst, (n,): none where the burst would precede the Universe."""
    return np.where(theta[:, column("tburst")] > t_age_gyr, 0.0, theta[:, column("fburst")])
