"""Posteriors in the shapes that Prospector and BAGPIPES users' scripts read: dictionaries of arrays, by the names used there.

Names and definitions follow Prospector 1 (``results_from`` gives ``chain``, ``lnprobability``, ``theta_labels``, ``obs`` …) and
BAGPIPES 1 (``fit.posterior.samples``). A quantity has their name only where it is the same quantity; what has no counterpart
keeps ours.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sedcast.data.asinh import POGSON
from sedcast.data.checks import check_kind, in_own_precision, one_number, one_per_galaxy
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.emulator.dust import diffuse_a_v
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.posterior.likelihood import GaussianLikelihood

__all__ = [
    "BAGPIPES_SOLAR_METALLICITY",
    "PROSPECTOR_LABELS",
    "check_redshift_given",
    "stacked",
    "to_bagpipes",
    "to_prospector",
]

PROSPECTOR_LABELS = {"log_mstar": "logmass", "tburst": "tburst_lookback"}
"""Labels that differ from sedcast's. Prospector's ``logmass`` is the mass formed too. Its dust parameters are the same as ours
with ``dust_type=4`` and the ``dust_tesc`` of ``run_params``: FSPS's birth clouds last 10 Myr by default. Its ``tburst`` counts
from the Big Bang, ours back from the galaxy, hence the other label."""

BAGPIPES_SOLAR_METALLICITY = 0.02
"""Metal mass fraction that BAGPIPES' metallicities are multiples of."""

_DIRICHLET = float(np.log(6.0))


def to_prospector(
    samples: Mapping[str, np.ndarray], likelihood: GaussianLikelihood, *, t_birth_cloud_gyr: float = 0.1
) -> dict[str, Any]:
    """One galaxy's posterior as the dictionary that Prospector's ``results_from`` returns first.

    Parameters
    ----------
    samples : (n,) arrays by quantity, as `PosteriorCatalog.samples` gives them for a row; the parameters are needed.
    likelihood : of the same galaxy.
    t_birth_cloud_gyr : age up to which stars sit in birth clouds in the model, Gyr; that of the bundled emulator by default.

    Returns
    -------
    results : ``chain`` (n, 12), ``theta_labels``, ``weights`` (equal, sum 1), ``lnlikelihood``, ``lnprobability`` (likelihood
        times the prior's density in the labelled parameters), ``bestfit`` (the most probable sample's ``parameter`` and
        ``photometry`` in maggies, of measured bands), ``obs`` (``maggies``, ``maggies_unc``, ``phot_mask``, ``filternames``,
        ``redshift``), ``run_params`` (with FSPS's ``dust_tesc``), ``model`` (None).

    Raises
    ------
    ParameterError : if a parameter is missing or outside the prior, arrays are not (n,), or the redshift is one of the
        quantities: a likelihood has one redshift.
    """
    check_kind("likelihood", likelihood, GaussianLikelihood, "GaussianLikelihood(simulator, prior, flux=..., ...) makes one")
    age = one_number("t_birth_cloud_gyr", t_birth_cloud_gyr)
    if not 0 < age < np.inf:
        raise ParameterError(f"t_birth_cloud_gyr={t_birth_cloud_gyr}: must be positive")
    if "zred" in _quantities(samples):
        raise ParameterError("these samples have inferred redshifts: Prospector's shape needs the likelihood at one redshift")
    theta = likelihood.prior.validate(_of_one_galaxy(samples, PARAMETER_NAMES))
    model = likelihood.model_flux(theta)
    ln_likelihood = likelihood.log_prob_flux(model)
    columns = {name: theta[:, PARAMETER_NAMES.index(name)] for name in likelihood.prior.to_dict()}
    ln_probability = ln_likelihood + _DIRICHLET + likelihood.prior.log_density(columns)
    best = int(np.argmax(ln_probability))
    measured, flux, error, zred = likelihood.data
    maggies, uncertainty = np.zeros((2, len(measured)))
    maggies[measured], uncertainty[measured] = flux * 1e-9, error * 1e-9
    return {
        "chain": theta,
        "theta_labels": [PROSPECTOR_LABELS.get(name, name) for name in PARAMETER_NAMES],
        "weights": np.full(len(theta), 1 / len(theta)),
        "lnlikelihood": ln_likelihood,
        "lnprobability": ln_probability,
        "bestfit": {"parameter": theta[best], "photometry": model[best] * 1e-9},
        "obs": {
            "maggies": maggies,
            "maggies_unc": uncertainty,
            "phot_mask": np.array(measured),
            "filternames": list(getattr(likelihood.simulator, "bands", ())),
            "redshift": zred,
            "wavelength": None,
            "spectrum": None,
            "unc": None,
            "mask": None,
        },
        "run_params": {"object_redshift": zred, "dust_tesc": float(np.log10(age) + 9)},
        "model": None,
    }


def to_bagpipes(
    samples: Mapping[str, np.ndarray], *, zred: float | None = None, cosmology: Cosmology | None = None
) -> dict[str, np.ndarray]:
    """One galaxy's posterior by the keys of BAGPIPES' ``fit.posterior.samples``.

    Parameters
    ----------
    samples : (n,) arrays by quantity, as `PosteriorCatalog.samples` gives them for a row, derived ones included.
    zred : the galaxy's redshift, unless it is one of the quantities.
    cosmology : of the estimator; Planck 2013 by default.

    Returns
    -------
    samples : (n,) arrays: ``redshift``; ``formed_mass`` (log10 Msun); ``sfr`` (Msun/yr over 100 Myr, BAGPIPES' default);
        ``mass_weighted_age`` and ``tform`` (Gyr); ``mass_weighted_zmet`` (solar, 0.02; ours weights by mass formed, theirs by
        mass surviving); ``dust:Av`` (mag, diffuse, 5500 Å), ``dust:eta`` (young stars' A_V over it), ``dust:delta`` (slope
        offset); and where the mass that survives is known, ``stellar_mass`` (log10 Msun) and ``ssfr`` (log10 yr^-1). The birth
        clouds are those of a fit with ``t_bc`` 0.1 Gyr, the bundled emulator's.

    Raises
    ------
    ParameterError : if a quantity or the redshift is missing, arrays are not (n,), or the redshift is none.
    """
    check_redshift_given(samples, zred)
    needed = ("log_mstar", "log_sfr_100myr", "log_z_mw", "t_mw_gyr", "dust1", "dust2", "dust_index")
    if cosmology is not None:
        check_kind("cosmology", cosmology, Cosmology, "such as that of the estimator, estimator.cosmology")
    mass, log_sfr, log_z, age, clouds, diffuse, slope = _of_one_galaxy(samples, needed).T.astype(float)
    redshift = one_per_galaxy(zred, len(mass)).copy() if zred is not None else stacked(samples, ("zred",))[:, 0]
    a_v = diffuse_a_v(diffuse, slope)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where there is no dust at all, as in float16 there may not be, any ratio would do.
        ratio = 1 + np.where(clouds > 0, POGSON * clouds / a_v, 0.0)
    found = {
        "redshift": redshift,
        "formed_mass": mass,
        "sfr": 10.0**log_sfr,
        "mass_weighted_age": age,
        "tform": (cosmology or Cosmology()).age_gyr(redshift) - age,
        "mass_weighted_zmet": 10.0**log_z / BAGPIPES_SOLAR_METALLICITY,
        "dust:Av": a_v,
        "dust:eta": ratio,
        "dust:delta": slope,
    }
    if "log_mstar_surviving" in _quantities(samples):
        surviving = stacked(samples, ("log_mstar_surviving",))[:, 0]
        found |= {"stellar_mass": surviving, "ssfr": log_sfr - surviving}
    return found


def check_redshift_given(samples: Mapping[str, np.ndarray], zred: float | np.ndarray | None) -> None:
    """Refuse samples whose redshift is given twice, or not at all."""
    if (zred is None) == ("zred" not in _quantities(samples)):
        raise ParameterError("the redshift must be given once: as zred, or as a quantity of the samples where it is inferred")


def _quantities(samples: Mapping[str, np.ndarray]) -> set[str]:
    """Names of the quantities of a dictionary, a DataFrame or a Table."""
    if not hasattr(samples, "keys"):
        raise ParameterError(f"samples: expected arrays by quantity, as of PosteriorCatalog.samples(row), got {type(samples)}")
    return set(samples.keys())


def _of_one_galaxy(samples: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """As `stacked`, of arrays (n,) that are not empty."""
    found = stacked(samples, names)
    if found.ndim != 2 or not len(found):
        raise ParameterError(f"samples have arrays of shape {found.shape[:-1]}, expected (n,) of one galaxy, with a sample")
    return found


def stacked(samples: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Quantities of samples, along a last axis; a ParameterError if one is missing."""
    held = _quantities(samples)
    absent = [name for name in names if name not in held]
    if absent:
        raise ParameterError(f"samples lack {', '.join(absent)}: pass those of PosteriorCatalog.samples(row), all quantities")
    columns = [in_own_precision(name, samples[name]) for name in names]
    if len({column.shape for column in columns}) > 1:
        shapes = ", ".join(f"{name} {column.shape}" for name, column in zip(names, columns, strict=True))
        raise ParameterError(f"samples have arrays of different shapes, {shapes}: expected the same")
    return np.stack(columns, axis=-1)
