"""The SPS model, the network that replaces it, and mass simulation."""

from typing import TYPE_CHECKING

from sedcast.data._lazy import lazy_getattr

if TYPE_CHECKING:
    from sedcast.emulator.band_emulator import BandEmulator
    from sedcast.emulator.band_training import BandTrainingConfig, train_band_emulator
    from sedcast.emulator.composite_training import train_emulator
    from sedcast.emulator.fsps_model import FSPSModel
    from sedcast.emulator.histories import derived_properties
    from sedcast.emulator.log_spectrum import LogSpectrumEmulator, LogSpectrumSegment
    from sedcast.emulator.mass_simulation import simulate
    from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_LABELS, PARAMETER_NAMES, Prior
    from sedcast.emulator.published import (
        PROSPECTOR_ALPHA_PARAMETERS,
        export_speculator,
        load_speculator,
        read_speculator,
        write_speculator,
    )
    from sedcast.emulator.published_provabgs import PROVABGS_PARAMETERS, PublishedProvabgsModel
    from sedcast.emulator.redshift import RedshiftPrior
    from sedcast.emulator.simulation import PhotometrySimulator, SimulationConfig
    from sedcast.emulator.spectrum_emulator import EmulatorConfig, SpectrumEmulator
    from sedcast.emulator.speculator import SpeculatorConfig, train_speculator
    from sedcast.emulator.sps import SPSModel
    from sedcast.emulator.surviving import SurvivingMass

__all__ = [
    "FREE_PARAMETER_NAMES",
    "PARAMETER_LABELS",
    "PARAMETER_NAMES",
    "PROSPECTOR_ALPHA_PARAMETERS",
    "PROVABGS_PARAMETERS",
    "BandEmulator",
    "BandTrainingConfig",
    "EmulatorConfig",
    "FSPSModel",
    "LogSpectrumEmulator",
    "LogSpectrumSegment",
    "PhotometrySimulator",
    "Prior",
    "PublishedProvabgsModel",
    "RedshiftPrior",
    "SPSModel",
    "SimulationConfig",
    "SpectrumEmulator",
    "SpeculatorConfig",
    "SurvivingMass",
    "derived_properties",
    "export_speculator",
    "load_speculator",
    "read_speculator",
    "simulate",
    "train_band_emulator",
    "train_emulator",
    "train_speculator",
    "write_speculator",
]

__getattr__ = lazy_getattr(
    __name__,
    {
        "sedcast.emulator.fsps_model": ("FSPSModel",),
        "sedcast.emulator.histories": ("derived_properties",),
        "sedcast.emulator.band_emulator": ("BandEmulator",),
        "sedcast.emulator.band_training": ("BandTrainingConfig", "train_band_emulator"),
        "sedcast.emulator.log_spectrum": ("LogSpectrumEmulator", "LogSpectrumSegment"),
        "sedcast.emulator.mass_simulation": ("simulate",),
        "sedcast.emulator.prior": ("FREE_PARAMETER_NAMES", "PARAMETER_LABELS", "PARAMETER_NAMES", "Prior"),
        "sedcast.emulator.redshift": ("RedshiftPrior",),
        "sedcast.emulator.published": (
            "PROSPECTOR_ALPHA_PARAMETERS",
            "export_speculator",
            "load_speculator",
            "read_speculator",
            "write_speculator",
        ),
        "sedcast.emulator.published_provabgs": ("PROVABGS_PARAMETERS", "PublishedProvabgsModel"),
        "sedcast.emulator.simulation": ("PhotometrySimulator", "SimulationConfig"),
        "sedcast.emulator.spectrum_emulator": ("EmulatorConfig", "SpectrumEmulator"),
        "sedcast.emulator.composite_training": ("train_emulator",),
        "sedcast.emulator.speculator": ("SpeculatorConfig", "train_speculator"),
        "sedcast.emulator.sps": ("SPSModel",),
        "sedcast.emulator.surviving": ("SurvivingMass",),
    },
)
