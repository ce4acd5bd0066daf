"""Two emulators on the same spectra that neither has seen: networks for everything, and networks for the smooth part only."""

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import load_emulator, note, table
from sedcast.data.errors import ParameterError
from sedcast.emulator.histories import BETA, GAMMA, column
from sedcast.emulator.log_spectrum import LogSpectrumEmulator
from sedcast.emulator.prior import PARAMETER_NAMES, sfh_weights
from sedcast.emulator.published_provabgs import PROVABGS_PARAMETERS
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.training_set import TrainingSet

QUANTILES = (0.5, 0.95, 0.99, 0.999)

_LOG_MSTAR = 10.0
_REDSHIFT_STEPS = 20_001
_CHUNK = 256
_DARK = 1e-30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--speculator", type=Path, required=True, metavar="FILE", help="artifact of a nine-input emulator")
    parser.add_argument(
        "--composite", required=True, metavar="FILE", help="artifact of the composite emulator on the same SSPs"
    )
    parser.add_argument(
        "--spectra", type=Path, required=True, metavar="FILE", help="training set of the former; its test rows are used"
    )


def galaxies(emulator: SpectrumEmulator, nine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same galaxies for the composite emulator.

    Returns
    -------
    kept : rows of `nine` whose age the composite emulator serves.
    theta, zred : their parameters, without burst, held to its prior, and redshifts of the same ages.
    """
    grid = np.linspace(0, emulator.zred_max, _REDSHIFT_STEPS)
    ages = emulator.cosmology.age_gyr(grid)
    kept = np.flatnonzero((nine[:, 8] >= ages[-1]) & (nine[:, 8] <= ages[0]))
    nine = nine[kept]
    theta = np.zeros((len(nine), len(PARAMETER_NAMES)))
    theta[:, column("log_mstar")] = _LOG_MSTAR
    theta[:, column("tburst")] = 1.0
    theta[:, BETA] = sfh_weights(nine[:, :3])
    theta[:, GAMMA] = nine[:, 3:5]
    theta[:, column("dust1") : column("dust_index") + 1] = nine[:, 5:8]
    for name, (low, high) in emulator.prior.to_dict().items():
        # The set holds single precision, which can lie a rounding beyond an edge.
        theta[:, column(name)] = np.clip(theta[:, column(name)], low, high)
    return kept, theta, np.interp(nine[:, 8], ages[::-1], grid[::-1])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Relative errors of both on the test rows of a training set."""
    speculator, composite = LogSpectrumEmulator.load(options.speculator), load_emulator(options.composite)
    training = TrainingSet(options.spectra)
    if training.parameter_names != PROVABGS_PARAMETERS or speculator.parameter_names != PROVABGS_PARAMETERS:
        raise ParameterError(f"--speculator and --spectra must have the parameters {PROVABGS_PARAMETERS}")
    if not (
        np.array_equal(training.wave_rest, speculator.wave_rest) and np.array_equal(training.wave_rest, composite.wave_rest)
    ):
        raise ParameterError("--speculator, --composite and --spectra must have the same wavelengths: train them on the same")
    first = int(speculator.card["config"]["n_train"])
    nine = training.theta[first:].astype(np.float64)
    kept, theta, zred = galaxies(composite, nine)
    note(f"{len(kept)} of {len(nine)} test spectra have ages that the composite emulator serves")
    log_true = np.concatenate(list(training.log_spectra(slice(None), first=first)))[kept]
    errors, seconds = {}, {}
    for name in ("speculator", "composite"):
        started = time.perf_counter()
        parts = []
        for start in range(0, len(kept), _CHUNK):
            rows = slice(start, start + _CHUNK)
            if name == "speculator":
                parts.append(speculator.log_spectra(nine[kept][rows]))
            else:
                with np.errstate(divide="ignore"):
                    parts.append(np.log(composite.spectra(theta[rows], zred[rows])) - np.log(10) * _LOG_MSTAR)
        seconds[name] = time.perf_counter() - started
        error = np.expm1(np.concatenate(parts) - log_true)
        # Behind hundreds of optical depths light underflows, and nobody will see it.
        errors[name] = np.where(log_true > np.log(_DARK), np.abs(error), np.nan)
    edges = speculator.card["config"]["segment_edges"]
    figures: dict[str, Any] = {"n_test": len(kept), "n_train": first, "segment_edges": edges, "spectra_seconds": seconds}
    figures["dark"] = float(np.isnan(errors["composite"]).mean())
    note(f"{100 * figures['dark']:.2g}% of the values, below {_DARK:g} Lsun/Å/Msun, are left out")
    lines = []
    for low, high in [(edges[0], edges[-1]), *pairwise(edges)]:
        used = (training.wave_rest >= low) & (training.wave_rest <= high)
        for name, error in errors.items():
            found = np.nanquantile(error[:, used], QUANTILES)
            figures[f"{name}_{low:g}_{high:g}"] = found.tolist()
            lines.append((f"{low:g}-{high:g} Å", name, *(f"{value:.2e}" for value in found)))
    table(("wavelengths", "emulator", *(f"{100 * share:g}%" for share in QUANTILES)), lines)
    return figures
