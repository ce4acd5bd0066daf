"""Data: SSP libraries, history bases, filters, catalogues, noise models, artifacts, configuration."""

from typing import TYPE_CHECKING

from sedcast.data._lazy import lazy_getattr

if TYPE_CHECKING:
    from sedcast.data.artifacts import load_artifact, read_card, save_artifact
    from sedcast.data.asinh import asinh_magnitude, asinh_magnitude_error, softening_nanomaggies
    from sedcast.data.catalog import Catalog, apply_calibration, load_sdss_sample, read_catalog
    from sedcast.data.config import Config, load_config
    from sedcast.data.cosmology import Cosmology
    from sedcast.data.errors import (
        ArtifactError,
        CatalogError,
        ConfigError,
        MissingDependencyError,
        ParameterError,
        SedcastError,
    )
    from sedcast.data.executors import task_pool
    from sedcast.data.filters import BANDS, FilterProjection, load_filter
    from sedcast.data.mapping import load_mapping, read_mapped
    from sedcast.data.noise import NoiseModel
    from sedcast.data.provenance import read_provenance
    from sedcast.data.sfh_bases import SFHBases
    from sedcast.data.ssp import SSPLibrary
    from sedcast.data.units import as_nanomaggies

__all__ = [
    "BANDS",
    "ArtifactError",
    "Catalog",
    "CatalogError",
    "Config",
    "ConfigError",
    "Cosmology",
    "FilterProjection",
    "MissingDependencyError",
    "NoiseModel",
    "ParameterError",
    "SFHBases",
    "SSPLibrary",
    "SedcastError",
    "apply_calibration",
    "as_nanomaggies",
    "asinh_magnitude",
    "asinh_magnitude_error",
    "load_artifact",
    "load_config",
    "load_filter",
    "load_mapping",
    "load_sdss_sample",
    "read_card",
    "read_catalog",
    "read_mapped",
    "read_provenance",
    "save_artifact",
    "softening_nanomaggies",
    "task_pool",
]

__getattr__ = lazy_getattr(
    __name__,
    {
        "sedcast.data.artifacts": ("load_artifact", "read_card", "save_artifact"),
        "sedcast.data.asinh": ("asinh_magnitude", "asinh_magnitude_error", "softening_nanomaggies"),
        "sedcast.data.catalog": ("Catalog", "apply_calibration", "load_sdss_sample", "read_catalog"),
        "sedcast.data.config": ("Config", "load_config"),
        "sedcast.data.cosmology": ("Cosmology",),
        "sedcast.data.errors": (
            "ArtifactError",
            "CatalogError",
            "ConfigError",
            "MissingDependencyError",
            "ParameterError",
            "SedcastError",
        ),
        "sedcast.data.executors": ("task_pool",),
        "sedcast.data.filters": ("BANDS", "FilterProjection", "load_filter"),
        "sedcast.data.mapping": ("load_mapping", "read_mapped"),
        "sedcast.data.noise": ("NoiseModel",),
        "sedcast.data.provenance": ("read_provenance",),
        "sedcast.data.sfh_bases": ("SFHBases",),
        "sedcast.data.ssp": ("SSPLibrary",),
        "sedcast.data.units": ("as_nanomaggies",),
    },
)
