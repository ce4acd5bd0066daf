"""Accuracy of the emulator against the direct model on fresh draws from the whole prior."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks.common import ZRED_MIN, add_emulator, draw, load_emulator, note, positive, table
from sedcast.data.errors import ParameterError
from sedcast.data.filters import BANDS
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import column
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.emulator.simulate import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.sps import SPSModel

FAINTEST = 1e-12
N_WORST = 10

_WAVE = (912.0, 30_000.0)
_PERCENTILES = (50.0, 99.0, 99.9)
_CHUNK = 512
_POGSON = 2.5 / np.log(10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_emulator(parser)
    parser.add_argument("--draws", type=positive, default=10_000, help="prior draws")
    parser.add_argument("--zred-max", type=float, default=0.25, help="largest redshift, at most the emulator's")
    parser.add_argument("--bands", nargs="+", default=list(BANDS), help="photometric bands, in order of wavelength")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the spectral errors' percentiles against wavelength")


def direct_model(emulator: SpectrumEmulator) -> SPSModel:
    """The model that the emulator learnt, in float64, from the bundled library itself where that was the source."""
    model = emulator.model
    library = model.library
    if emulator.card["config"]["library"] == "popstar":
        library = SSPLibrary.popstar().trimmed(model.wave_rest[0], model.wave_rest[-1])
    return SPSModel(library, model.bases, model.cosmology, t_birth_cloud_gyr=model.t_birth_cloud_gyr)


@dataclass(frozen=True)
class Errors:
    """Errors of n draws.

    Attributes
    ----------
    delta_mag : (n, n_band) emulated minus direct magnitude; infinite where the emulator gives no positive flux.
    delta_spec : (n, n_wave) |ΔL/L| float32, 1 where the emulator gives no light.
    bright : (n, n_wave) bool, where the direct spectrum is above `FAINTEST` of its own peak.
    """

    delta_mag: np.ndarray
    delta_spec: np.ndarray
    bright: np.ndarray


def measure(
    emulator: SpectrumEmulator, theta: np.ndarray, zred: np.ndarray, bands: tuple[str, ...], used: np.ndarray
) -> Errors:
    """Errors of photometry in `bands` and of spectra at the wavelengths `used` (boolean), in bounded memory."""
    direct = direct_model(emulator)
    simulators = [PhotometrySimulator(model, bands, float(zred.max()), emulator.cosmology) for model in (emulator, direct)]
    delta_mag = np.empty((len(theta), len(bands)))
    delta_spec = np.empty((len(theta), int(used.sum())), dtype=np.float32)
    bright = np.empty(delta_spec.shape, dtype=bool)
    for rows in _chunks(len(theta)):
        emulated, true = (simulator.flux(theta[rows], zred[rows]) for simulator in simulators)
        ratio = np.divide(emulated, true, out=np.zeros_like(true), where=(emulated > 0) & (true > 0))
        with np.errstate(divide="ignore"):
            delta_mag[rows] = -_POGSON * np.log(ratio)
        spectra, true = (model.spectra(theta[rows], zred[rows])[:, used].astype(float) for model in (emulator, direct))
        delta_spec[rows] = np.divide(np.abs(spectra - true), true, out=np.ones_like(true), where=true > 0)
        bright[rows] = true > FAINTEST * true.max(axis=1, keepdims=True)
    return Errors(delta_mag, delta_spec, bright)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK):
        yield slice(start, min(start + _CHUNK, n))


def photometry_figures(delta_mag: np.ndarray, bands: tuple[str, ...]) -> dict[str, Any]:
    """Percentiles of |Δm| by band, their worst, flux within 1%, and rank correlations of Δm between neighbours."""
    p99, p999 = (
        dict(zip(bands, np.percentile(np.abs(delta_mag), p, axis=0, method="higher"), strict=True)) for p in (99, 99.9)
    )
    within = dict(zip(bands, np.mean(np.abs(np.expm1(-delta_mag / _POGSON)) <= 0.01, axis=0), strict=True))
    correlation = {
        f"{bands[k]}-{bands[k + 1]}": float(spearmanr(*pair).statistic) for k, pair in enumerate(pairwise(delta_mag.T))
    }
    table(
        ("band", "99% |dm|", "99.9% |dm|", "within 1%"),
        [(band, p99[band], p999[band], within[band]) for band in bands],
    )
    table(("bands", "rank correlation of dm"), list(correlation.items()))
    return {
        "phot_p99_mag": max(p99.values()),
        "phot_p999_mag": max(p999.values()),
        "phot_p99_mag_by_band": p99,
        "phot_p999_mag_by_band": p999,
        "within_1_percent": min(within.values()),
        "within_1_percent_by_band": within,
        "residual_correlation": correlation,
    }


def spectrum_figures(errors: Errors, wave: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Percentiles of |ΔL/L| over all draws and wavelengths, and (n_percentile, n_wave) by wavelength."""
    by_wave = np.stack(
        [
            np.percentile(part[lit], _PERCENTILES) if lit.any() else np.full(len(_PERCENTILES), np.nan)
            for part, lit in zip(errors.delta_spec.T, errors.bright.T, strict=True)
        ],
        axis=1,
    )
    bright = np.percentile(errors.delta_spec[errors.bright], _PERCENTILES)
    worst = int(np.nanargmax(by_wave[1]))
    note(
        f"spectra: 99% within {bright[1]:.3g}, 99.9% within {bright[2]:.3g}; "
        f"worst at {wave[worst]:.0f} Å: 99% within {by_wave[1, worst]:.3g}"
    )
    return {
        "spec_p99_frac": bright[1],
        "spec_p999_frac": bright[2],
        "spec_p99_frac_worst_wave": by_wave[1, worst],
        "spec_p999_frac_worst_wave": np.nanmax(by_wave[2]),
        "spec_worst_wave": wave[worst],
        "spec_left_out": float(1 - errors.bright.mean()),
        "spec_p99_frac_none_left_out": float(np.percentile(errors.delta_spec, 99)),
    }, by_wave


def edges(theta: np.ndarray, t_age_gyr: np.ndarray, prior: Prior) -> dict[str, np.ndarray]:
    """Draws at the edges of the prior, (n,) bool by name."""
    burst, t_burst = theta[:, column("fburst")], theta[:, column("tburst")]
    low = np.ones(len(theta), dtype=bool)
    for name in ("gamma1_zh", "gamma2_zh"):
        least, most = np.log(getattr(prior, name))
        low &= np.log(theta[:, column(name)]) < least + 0.2 * (most - least)
    return {
        "young burst (t_burst < 0.2 Gyr, f_burst > 0.1)": (t_burst < 0.2) & (burst > 0.1),
        "burst near t_age (within 0.3 Gyr)": np.abs(t_burst - t_age_gyr) < 0.3,
        "low metallicity (both gammas in the lowest fifth of their log range)": low,
    }


def edge_figures(errors: Errors, chosen: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    found = {}
    for name, rows in chosen.items():
        if rows.any():
            spectra = errors.delta_spec[rows][errors.bright[rows]]
            found[name] = {
                "n": int(rows.sum()),
                "phot_p99_mag": float(np.percentile(np.abs(errors.delta_mag[rows]), 99, axis=0, method="higher").max()),
                "spec_p99_frac": float(np.percentile(spectra, 99)),
            }
    table(("edge of the prior", *next(iter(found.values()), {})), [(name, *values.values()) for name, values in found.items()])
    return found


def show_worst(errors: Errors, theta: np.ndarray, zred: np.ndarray, bands: tuple[str, ...]) -> None:
    """The draws with the largest |Δm| in any band, with their parameters."""
    size = np.abs(errors.delta_mag)
    rows = np.argsort(-size.max(axis=1), kind="stable")[:N_WORST]
    head = ("max |dm|", "band", "z", *PARAMETER_NAMES)
    table(head, [(size[row].max(), bands[int(size[row].argmax())], zred[row], *theta[row]) for row in rows])


def percentile_plot(wave: np.ndarray, by_wave: np.ndarray, n: int) -> Figure:
    """Percentiles of |ΔL/L| against wavelength."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for values, percentile, color in zip(by_wave, _PERCENTILES, ("#0072B2", "#D55E00", "#009E73"), strict=True):
        axes.plot(wave, values, color=color, lw=1, label=f"{percentile:g}% of draws")
    axes.set(xscale="log", yscale="log", xlabel="Rest-frame wavelength [Å]", ylabel=r"$|\Delta L_\lambda / L_\lambda|$")
    axes.set_title(f"Emulator against the direct model, {n:,} prior draws", fontsize="medium")
    axes.tick_params(which="both", direction="in", top=True, right=True)
    axes.legend(frameon=False)
    return figure


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compare on `--draws` draws from the emulator's whole prior."""
    emulator = load_emulator(options.emulator)
    zred_max = min(options.zred_max, emulator.zred_max)
    if zred_max <= ZRED_MIN:
        raise ParameterError(f"--zred-max={options.zred_max}: must be above {ZRED_MIN}")
    bands = tuple(options.bands)
    # Seeds of training and of this comparison must not meet.
    theta, zred = draw(emulator.prior, options.draws, zred_max, options.seed + 2**32)
    wave = emulator.wave_rest
    used = (wave >= _WAVE[0]) & (wave <= _WAVE[1])
    errors = measure(emulator, theta, zred, bands, used)
    photometry = photometry_figures(errors.delta_mag, bands)
    spectra, by_wave = spectrum_figures(errors, wave[used])
    at_edges = edge_figures(errors, edges(theta, emulator.cosmology.age_gyr(zred), emulator.prior))
    show_worst(errors, theta, zred, bands)
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        percentile_plot(wave[used], by_wave, len(theta)).savefig(options.plot, dpi=150)
        note(f"wrote {options.plot}")
    return {
        **photometry,
        **spectra,
        "edges": at_edges,
        "n_draws": len(theta),
        "zred_max": zred_max,
        "wave": [float(wave[used][0]), float(wave[used][-1])],
        "bands": bands,
    }
