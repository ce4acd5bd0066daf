"""What each part of the emulator's design is worth: the same training budget with one of them changed."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import draw, note, positive, table
from benchmarks.emulator_accuracy import Comparison, photometry_figures, spectrum_figures
from sedcast.data.config import load_config
from sedcast.emulator.composite_training import train_emulator
from sedcast.emulator.spectrum_emulator import EmulatorConfig

BANDS = ("FUV", "NUV", "u", "g", "r", "i", "z")
_ZRED_MAX = 0.25

VARIANTS: dict[str, dict[str, Any]] = {
    "as bundled": {},
    "metallicity seen at 1 lookback time": {"n_metallicity_times": 1},
    "metallicity seen at 4 lookback times": {"n_metallicity_times": 4},
    "Adam for SOAP": {"optimizer": "adam"},
    "Adam for SOAP, a fourth of the rate": {"optimizer": "adam", "learning_rate": 1e-3},
    "three hidden layers of 128": {"hidden": (128, 128, 128)},
    "two hidden layers of 64": {"hidden": (64, 64)},
    "PCA tolerance five times larger": {"pca_tolerance": 1e-3},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("configs/emulator_popstar.toml"), help="the design that is varied")
    parser.add_argument("--epochs", type=positive, default=300, help="epochs of each training")
    parser.add_argument("--draws", type=positive, default=10_000, help="prior draws to compare on")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train every variant for `--epochs` epochs and compare it with the direct model."""
    base = load_config(options.config, EmulatorConfig).model_dump()
    base["network"]["epochs"] = options.epochs
    found: dict[str, dict[str, Any]] = {}
    for name, changes in VARIANTS.items():
        values = base | {"network": dict(base["network"])}
        for key, value in changes.items():
            (values if key in values else values["network"])[key] = value
        emulator = train_emulator(EmulatorConfig.model_validate(values))
        theta, zred = draw(emulator.prior, options.draws, _ZRED_MAX, options.seed + 2**32)
        comparison = Comparison(emulator, BANDS, _ZRED_MAX)
        errors = comparison.errors(theta, zred)
        photometry = photometry_figures(errors.delta_mag, comparison.simulator.bands)
        spectra, _ = spectrum_figures(errors.spectra, comparison.wave)
        found[name] = {
            "n_pca": sum(emulator.n_pca),
            "seconds": emulator.card["figures"]["seconds"],
            "phot_p99_mag_by_band": photometry["phot_p99_mag_by_band"],
            "phot_p999_mag": photometry["phot_p999_mag"],
            "spec_p99_frac": spectra["spec_p99_frac"],
            "spec_p999_frac": spectra["spec_p999_frac"],
        }
        note(f"{name}: done")
    head = ("variant", "components", "training, s", "FUV", "u", "r", "99.9%, worst band", "|dL/L| 99%", "99.9%")
    rows = [
        (
            name,
            figures["n_pca"],
            figures["seconds"],
            *(figures["phot_p99_mag_by_band"][band] for band in ("FUV", "u", "r")),
            figures["phot_p999_mag"],
            figures["spec_p99_frac"],
            figures["spec_p999_frac"],
        )
        for name, figures in found.items()
    ]
    table(head, rows)
    return {"epochs": options.epochs, "n_draws": options.draws, "variants": found}
