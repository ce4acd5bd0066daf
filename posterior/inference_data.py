"""Samples as ArviZ inference data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sedcast.data.errors import MissingDependencyError
from sedcast.posterior.quantities import QUANTITIES, description

__all__ = ["from_groups", "inference_data"]

_OBSERVED = {"flux": "nanomaggies", "flux_error": "nanomaggies"}


def inference_data(
    samples: Mapping[str, np.ndarray],
    bands: Sequence[str],
    flux: np.ndarray,
    flux_ivar: np.ndarray,
    zred: float,
    *,
    attributes: Mapping[str, Any],
) -> Any:
    """One galaxy's samples as one chain, and its photometry.

    Parameters
    ----------
    samples : (n,) arrays by quantity.
    bands : names of the bands.
    flux, flux_ivar : (n_band,) nanomaggies and nanomaggies^-2; bands with flux_ivar 0, or NaN, are left out.
    zred : redshift; NaN if it was not given.
    attributes : of the posterior, numbers and texts; what is not finite is left out.

    Returns
    -------
    data : group ``posterior``, each quantity with the attributes ``description`` and, if it has a unit, ``units``
        (``log10(Msun)`` of a logarithm); group ``observed_data``: ``flux`` and ``flux_error`` (nanomaggies) along ``band``, and
        the attribute ``zred`` if it was given.

    Raises
    ------
    MissingDependencyError : if arviz is not installed.
    """
    seen = np.asarray(flux_ivar) > 0
    observed = {"flux": np.asarray(flux)[seen], "flux_error": np.asarray(flux_ivar)[seen] ** -0.5}
    groups = {"posterior": {name: np.asarray(values)[None] for name, values in samples.items()}, "observed_data": observed}
    coords = {"band": [band for band, measured in zip(bands, seen, strict=True) if measured]}
    data = from_groups(groups, coords=coords, dims={name: ["band"] for name in _OBSERVED})
    for name in samples:
        data["posterior"][name].attrs.update({"description": description(name), **_units(name)})
    for name, unit in _OBSERVED.items():
        data["observed_data"][name].attrs["units"] = unit
    data["posterior"].attrs.update(_known(attributes))
    data["observed_data"].attrs.update(_known({"zred": zred}))
    return data


def from_groups(groups: dict[str, dict[str, np.ndarray]], **options: Any) -> Any:
    """ArviZ inference data of arrays by group and name; a MissingDependencyError if arviz is not installed."""
    try:
        import arviz
    except ImportError as error:
        raise MissingDependencyError("to_arviz needs arviz: install it with 'pip install arviz'") from error
    # ArviZ 1 takes the groups as one mapping, earlier ones as keywords.
    return arviz.from_dict(**groups, **options) if arviz.__version__.startswith("0.") else arviz.from_dict(groups, **options)


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if isinstance(value, str) or np.isfinite(value)}


def _units(name: str) -> dict[str, str]:
    unit = QUANTITIES[name].unit if name in QUANTITIES else ""
    if not unit:
        return {}
    return {"units": f"log10({unit})" if name.startswith("log_") else unit}
