"""Derive the default bases of star-formation and metallicity histories from a simulated galaxy population.

Run as ``python -m sedcast.data.derive_bases``; needs the ``bases`` extra (diffstar, diffmah, scikit-learn).

Halo histories come from diffmah (Hearin et al. 2021, arXiv:2105.05859), star-formation histories from the diffstar
population model fitted to IllustrisTNG (Alarcon et al. 2023, arXiv:2205.04273), gas-phase metallicities from a gas
regulator with outflows (Lilly et al. 2013, arXiv:1303.5059; Peng & Maiolino 2014, arXiv:1402.5964). The bases
are the components of a non-negative matrix factorisation of the histories, as functions of lookback time.
"""

import argparse
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from sedcast.data.errors import MissingDependencyError
from sedcast.data.sfh_bases import N_SFH_BASES, N_ZH_BASES, T_MAX_GYR, SFHBases

__all__ = ["PopulationConfig", "derive_bases", "gas_metallicity", "main", "misplaced_mass", "simulate_histories"]

_log = logging.getLogger(__name__)

# Near the time averages of the published ZH bases (1.95 and 1.56), for whose size the prior of γ was chosen.
_ZH_MEAN = 1.63
_SMOOTHINGS_GYR = (0.3, 0.6, 1.0, 1.5)
_BUNDLED = Path(__file__).parent / "bundled" / "nmf_bases.npz"


@dataclass(frozen=True)
class PopulationConfig:
    """What is simulated and how it is factorised.

    The youngest galaxies are rare in the population, and NMF spends its components on what is common: galaxies are
    therefore resampled so that their mass-weighted ages are uniform, which makes recent star formation be spanned too.
    """

    seed: int = 20220314
    n_galaxy: int = 12000
    n_resampled: int = 6000
    log_mhalo_min: float = 10.8
    log_mhalo_max: float = 14.2
    t_obs_min_gyr: float = 11.2  # age of the Universe at z = 0.2, where the target samples end
    burstiness_dex: float = 0.3  # scatter of SFRs about diffstar's smooth histories (Caplar & Tacchella 2019)
    burstiness_time_gyr: float = 1.0
    smoothing_gyr: float = 1.0
    metal_yield: float = 0.02  # metals returned per unit mass of stars formed
    metal_yield_scatter_dex: float = 0.1


def simulate_histories(config: PopulationConfig) -> dict[str, np.ndarray]:
    """Simulated central galaxies in cosmic time.

    Returns
    -------
    ``t_gyr`` (n_cosmic,) cosmic time; ``sfh`` (n_galaxy, n_cosmic) Msun/yr; ``log_mhalo`` (n_galaxy, n_cosmic) log10 Msun;
    ``t_obs_gyr`` (n_galaxy,) cosmic time at which each is observed.

    Raises
    ------
    MissingDependencyError : if the ``bases`` extra is not installed.
    """
    try:
        from diffmah.diffmahpop_kernels import DEFAULT_DIFFMAHPOP_PARAMS, mc_cenpop
        from diffstar.defaults import FB, LGT0
        from diffstar.diffstarpop import SIMULATION_FIT_PARAMS, mc_diffstar_sfh_galpop
        from jax import random
    except ImportError as error:
        raise MissingDependencyError(
            f"deriving bases needs diffstar >= 1.0 and diffmah: pip install 'sedcast[bases]' ({error})"
        ) from error
    rng = np.random.default_rng(config.seed)
    n = config.n_galaxy
    t_gyr = np.linspace(0.05, T_MAX_GYR, 276)
    log_mhalo_obs = rng.uniform(config.log_mhalo_min, config.log_mhalo_max, n)
    t_obs = rng.uniform(config.t_obs_min_gyr, T_MAX_GYR, n)
    key_halo, key_galaxy = random.split(random.PRNGKey(config.seed))
    halos = mc_cenpop(DEFAULT_DIFFMAHPOP_PARAMS, t_gyr, log_mhalo_obs, t_obs, key_halo, LGT0)
    central, unused = np.full(n, -1), np.zeros(n)  # infall quantities matter for satellites only
    galaxies = mc_diffstar_sfh_galpop(
        SIMULATION_FIT_PARAMS["tng"], halos.mah_params, halos.mah_params.logm0,
        central, unused, unused, unused, key_galaxy, t_gyr, lgt0=LGT0, fb=FB,
    )  # fmt: skip
    _, _, sfh_main_sequence, sfh_quenched, _, is_quenched = galaxies
    sfh = np.where(np.asarray(is_quenched)[:, None], sfh_quenched, sfh_main_sequence)
    sfh = sfh * _variability(config, rng, t_gyr)
    return {"t_gyr": t_gyr, "sfh": sfh, "log_mhalo": np.asarray(halos.log_mah), "t_obs_gyr": t_obs}


def _variability(config: PopulationConfig, rng: np.random.Generator, t_gyr: np.ndarray) -> np.ndarray:
    """Log-normal factors (n_galaxy, n_cosmic) with an exponential autocorrelation in time."""
    keep = np.exp(-(t_gyr[1] - t_gyr[0]) / config.burstiness_time_gyr)
    state = rng.standard_normal(config.n_galaxy)
    factors = np.empty((config.n_galaxy, t_gyr.size))
    for i in range(t_gyr.size):
        factors[:, i] = state
        state = keep * state + np.sqrt(1 - keep**2) * rng.standard_normal(config.n_galaxy)
    return 10 ** (config.burstiness_dex * factors)


def gas_metallicity(t_gyr: np.ndarray, sfh: np.ndarray, log_mhalo: np.ndarray, *, metal_yield: np.ndarray) -> np.ndarray:
    """Gas-phase metallicity of a gas regulator with outflows.

    dZ/dt = (y SFR - Z Φ) / M_gas with the inflow of pristine gas Φ = (1 - R + η) SFR + dM_gas/dt >= 0 (Lilly et al. 2013),
    R = 0.45, momentum-driven mass loading η = (M_halo / 1e12 Msun)^(-1/3), and M_gas = SFR · 2 Gyr · (t / 13.8 Gyr).
    The reservoir keeps a tenth of its largest mass when a galaxy quenches, so that Z stays as it was and does not diverge.

    Parameters
    ----------
    t_gyr : ndarray of shape (n_t,), cosmic time.
    sfh : ndarray of shape (n_galaxy, n_t), Msun/yr.
    log_mhalo : ndarray of shape (n_galaxy, n_t), log10 Msun.
    metal_yield : ndarray of shape (n_galaxy,).

    Returns
    -------
    ndarray of shape (n_galaxy, n_t) : metal mass fraction, zero at the first time.
    """
    returned = 0.45
    mass_loading = 10 ** (-(log_mhalo - 12) / 3)
    gas = sfh * 1e9 * 2.0 * t_gyr / T_MAX_GYR
    gas = np.maximum(gas, 0.1 * np.maximum.accumulate(gas, axis=1))
    metallicity = np.zeros_like(sfh)
    for i in range(t_gyr.size - 1):
        step = t_gyr[i + 1] - t_gyr[i]
        rate = sfh[:, i] * 1e9
        inflow = (1 - returned + mass_loading[:, i]) * rate + (gas[:, i + 1] - gas[:, i]) / step
        dilution = np.maximum(inflow, 1e-8 * rate) * step / gas[:, i]
        enrichment = metal_yield * rate * step / gas[:, i]
        relaxed = -np.expm1(-dilution)
        metallicity[:, i + 1] = metallicity[:, i] * (1 - relaxed) + enrichment * relaxed / dilution
    return metallicity


def _in_lookback_time(histories: dict[str, np.ndarray], values: np.ndarray, t_lookback_gyr: np.ndarray) -> np.ndarray:
    """Histories (n_galaxy, n_t) before each galaxy's own epoch; zero before the first tabulated time."""
    t_obs = histories["t_obs_gyr"]
    rows = [np.interp(t - t_lookback_gyr, histories["t_gyr"], row, left=0.0) for t, row in zip(t_obs, values, strict=True)]
    return np.array(rows)


def _uniform_in_age(sfh: np.ndarray, t_lookback_gyr: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `n` galaxies whose mass-weighted ages are uniform over the range that the population covers."""
    age = (sfh * t_lookback_gyr).sum(axis=1) / sfh.sum(axis=1)
    youngest, oldest = np.percentile(age, [0.5, 99.5])
    edges = np.linspace(youngest, oldest, 13)
    bins = np.clip(np.digitize(age, edges) - 1, 0, edges.size - 2)
    weight = 1.0 / np.bincount(bins, minlength=edges.size - 1)[bins]
    return rng.choice(age.size, n, p=weight / weight.sum())


def _factorise(rows: np.ndarray, n_component: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.decomposition import NMF

    model = NMF(n_component, init="nndsvd", max_iter=5000, tol=1e-5, random_state=seed)
    weights = model.fit_transform(rows)
    return weights, model.components_


def misplaced_mass(rows: np.ndarray, n_component: int, seed: int) -> np.ndarray:
    """Fraction of each history's mass that its NMF approximation puts at the wrong time, shape (n_row,)."""
    weights, components = _factorise(rows, n_component, seed)
    return 0.5 * np.abs(weights @ components - rows).sum(axis=1) / rows.sum(axis=1)


def _smoothed(sfh: np.ndarray, smoothing_gyr: float, step_gyr: float) -> np.ndarray:
    rows = gaussian_filter1d(sfh, smoothing_gyr / step_gyr, axis=1, mode="nearest")
    return rows / rows.mean(axis=1, keepdims=True)


def _young_to_old(components: np.ndarray, t_lookback_gyr: np.ndarray) -> np.ndarray:
    return components[np.argsort((components * t_lookback_gyr).sum(axis=1) / components.sum(axis=1))]


def derive_bases(config: PopulationConfig) -> SFHBases:
    """Simulate, factorise, normalise.

    SFH bases integrate to 1 over lookback time (Gyr), so β is the mass fraction of each basis where the whole of it fits
    into the galaxy's age. ZH bases average 1.63 over time, near the published ones, for which the prior of γ was chosen.
    """
    histories = simulate_histories(config)
    rng = np.random.default_rng(config.seed + 1)
    metal_yield = config.metal_yield * 10 ** (config.metal_yield_scatter_dex * rng.standard_normal(config.n_galaxy))
    metallicity = gas_metallicity(histories["t_gyr"], histories["sfh"], histories["log_mhalo"], metal_yield=metal_yield)
    t_lookback_gyr = np.linspace(0.0, T_MAX_GYR, 139)
    step = t_lookback_gyr[1]
    sfh = _in_lookback_time(histories, histories["sfh"], t_lookback_gyr)
    zh = _in_lookback_time(histories, metallicity, t_lookback_gyr)
    chosen = _uniform_in_age(sfh, t_lookback_gyr, config.n_resampled, rng)
    sfh, zh = sfh[chosen], zh[chosen]

    figures: dict[str, Any] = {"misplaced_mass_median": {}}
    for smoothing in sorted({*_SMOOTHINGS_GYR, config.smoothing_gyr}):
        median = float(np.median(misplaced_mass(_smoothed(sfh, smoothing, step), N_SFH_BASES, config.seed)))
        figures["misplaced_mass_median"][f"{smoothing:g} Gyr"] = round(median, 4)
    _, sfh_bases = _factorise(_smoothed(sfh, config.smoothing_gyr, step), N_SFH_BASES, config.seed)
    zh_rows = gaussian_filter1d(zh, config.smoothing_gyr / step, axis=1, mode="nearest")
    zh_weights, zh_bases = _factorise(zh_rows, N_ZH_BASES, config.seed)
    error = np.abs(zh_weights @ zh_bases - zh_rows).sum(axis=1) / zh_rows.sum(axis=1)
    figures["metallicity_error_median"] = round(float(np.median(error)), 4)

    sfh_bases = _young_to_old(sfh_bases, t_lookback_gyr)
    zh_bases = _young_to_old(zh_bases, t_lookback_gyr)
    sfh_bases = sfh_bases / np.trapezoid(sfh_bases, t_lookback_gyr, axis=1)[:, None]
    zh_bases = zh_bases * _ZH_MEAN * T_MAX_GYR / np.trapezoid(zh_bases, t_lookback_gyr, axis=1)[:, None]
    figures["sfh_peak_gyr"] = [round(float(t), 2) for t in t_lookback_gyr[sfh_bases.argmax(axis=1)]]
    provenance = {
        "command": "python -m sedcast.data.derive_bases",
        "population": "diffstar population model, IllustrisTNG fit; diffmah central halos; gas-regulator metallicities",
        "config": asdict(config),
        "figures": figures,
        "versions": _versions(),
    }
    return SFHBases(t_lookback_gyr, sfh_bases, zh_bases, name="diffstar-tng", provenance=provenance)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("diffstar", "diffmah", "jax", "scikit-learn")}


def main(arguments: list[str] | None = None) -> None:
    """Derive the bases and write them as an artifact."""
    parser = argparse.ArgumentParser(prog="python -m sedcast.data.derive_bases", description=__doc__)
    parser.add_argument("--output", type=Path, default=_BUNDLED, help="artifact to write (default: the bundled one)")
    parser.add_argument("--seed", type=int, default=PopulationConfig.seed)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bases = derive_bases(PopulationConfig(seed=options.seed))
    bases.save(options.output, overwrite=True)
    _log.info("wrote %s: %s", options.output, bases.provenance["figures"])


if __name__ == "__main__":
    main()
