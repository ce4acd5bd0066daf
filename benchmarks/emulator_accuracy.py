"""Accuracy of the emulator against the direct model on fresh draws from the whole prior."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.common import ZRED_MIN, add_emulator, draw, load_emulator, note, positive, table, verdict
from sedcast.data.errors import ParameterError
from sedcast.data.filters import BANDS
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import BETA, column
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.sps import SPSModel
from sedcast.plotting_model import emulator_accuracy_plot

FAINTEST = 1e-12
N_WORST = 10
MAG_BARS = {99.0: 0.001, 99.9: 0.005}
SPECTRUM_BARS = {99.0: 0.003, 99.9: 0.01}

_WAVE = (912.0, 30_000.0)
_PERCENTILES = (50.0, 95.0, 99.0, 99.9)
_CHUNK = 512
_FAINTEST_OBSERVABLE_MAG = 35.0
_POGSON = 2.5 / np.log(10)
_BIN_EDGES = np.append(np.logspace(-9, 1, 2001), np.inf)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_emulator(parser)
    parser.add_argument("--draws", type=positive, default=20_000, help="prior draws")
    parser.add_argument("--edge-draws", type=positive, default=1000, help="further draws at each edge of the prior")
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


@dataclass
class SpectrumErrors:
    """Counts of |ΔL/L| in 2,000 logarithmic bins from 1e-9 to 10, so that memory does not grow with the draws.

    Percentiles are the upper edges of their bins, at most 1.2% too large.

    Attributes
    ----------
    by_wave : (n_wave, n_bin) counts where the direct spectrum is above `FAINTEST` of its own peak.
    faint : (n_bin,) counts of the rest.
    """

    n_wave: int
    by_wave: np.ndarray = field(init=False, repr=False)
    faint: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.by_wave = np.zeros((self.n_wave, len(_BIN_EDGES)), dtype=np.int64)
        self.faint = np.zeros(len(_BIN_EDGES), dtype=np.int64)

    def add(self, emulated: np.ndarray, true: np.ndarray) -> None:
        """Count the errors of spectra (n, n_wave); where the direct spectrum is dark, any light is an error of 1."""
        error = np.divide(np.abs(emulated - true), true, out=(emulated != 0).astype(float), where=true > 0)
        index = np.searchsorted(_BIN_EDGES, np.where(np.isfinite(error), error, np.inf))
        bright = true > FAINTEST * true.max(axis=1, keepdims=True)
        size = len(_BIN_EDGES)
        self.faint += np.bincount(index[~bright], minlength=size)
        flat = (index + np.arange(self.n_wave) * size)[bright]
        self.by_wave += np.bincount(flat, minlength=self.by_wave.size).reshape(self.by_wave.shape)

    @property
    def left_out(self) -> float:
        """Fraction of values below `FAINTEST`."""
        faint = int(self.faint.sum())
        return faint / max(faint + int(self.by_wave.sum()), 1)


def percentiles(counts: np.ndarray, wanted: tuple[float, ...] = _PERCENTILES) -> np.ndarray:
    """Percentiles (n_wanted,) of values counted in (n_bin,) bins; NaN of none."""
    total = np.cumsum(counts)
    if not total[-1]:
        return np.full(len(wanted), np.nan)
    rank = np.ceil(np.array(wanted) / 100 * total[-1])
    return _BIN_EDGES[np.searchsorted(total, np.maximum(rank, 1))]


@dataclass(frozen=True)
class Errors:
    """Errors of n draws.

    Attributes
    ----------
    delta_mag : (n, n_band) emulated minus direct magnitude; infinite where the emulator gives no positive flux.
    mag : (n, n_band) direct AB magnitude.
    spectra : errors of spectra.
    """

    delta_mag: np.ndarray
    mag: np.ndarray
    spectra: SpectrumErrors


class Comparison:
    """The emulator beside the direct model in some bands, up to a redshift, at wavelengths from 912 Å to 3 µm."""

    def __init__(self, emulator: SpectrumEmulator, bands: tuple[str, ...], zred_max: float) -> None:
        self.emulator = emulator
        self.direct = direct_model(emulator)
        self.simulator = PhotometrySimulator(emulator, bands, zred_max)
        self.used = (emulator.wave_rest >= _WAVE[0]) & (emulator.wave_rest <= _WAVE[1])

    @property
    def wave(self) -> np.ndarray:
        return self.emulator.wave_rest[self.used]

    def errors(self, theta: np.ndarray, zred: np.ndarray) -> Errors:
        """Compare for parameters (n, 12) and redshifts (n,), in bounded memory."""
        delta_mag, mag = np.empty((2, len(theta), len(self.simulator.bands)))
        spectra = SpectrumErrors(int(self.used.sum()))
        for start in range(0, len(theta), _CHUNK):
            rows = slice(start, start + _CHUNK)
            true = self.direct.spectra(theta[rows], zred[rows])
            true_flux = self.simulator.projection.flux(true, zred[rows])
            flux = self.simulator.flux(theta[rows], zred[rows])
            ratio = np.divide(flux, true_flux, out=np.zeros_like(flux), where=(flux > 0) & (true_flux > 0))
            with np.errstate(divide="ignore"):
                delta_mag[rows] = -_POGSON * np.log(ratio)
                mag[rows] = 22.5 - _POGSON * np.log(true_flux)
            spectra.add(self.emulator.spectra(theta[rows], zred[rows])[:, self.used].astype(float), true[:, self.used])
        return Errors(delta_mag, mag, spectra)


def photometry_figures(delta_mag: np.ndarray, bands: tuple[str, ...]) -> dict[str, Any]:
    """Percentiles of |Δm| by band, their worst, flux within 1%, and rank correlations of Δm between neighbours."""
    p99, p999 = (dict(zip(bands, np.percentile(np.abs(delta_mag), p, axis=0, method="higher"), strict=True)) for p in MAG_BARS)
    within = dict(zip(bands, np.mean(np.abs(np.expm1(-delta_mag / _POGSON)) <= 0.01, axis=0), strict=True))
    correlation = {
        f"{bands[k]}-{bands[k + 1]}": float(spearmanr(*pair).statistic) for k, pair in enumerate(pairwise(delta_mag.T))
    }
    bar99, bar999 = MAG_BARS.values()
    passed = {band: bool(p99[band] <= bar99 and p999[band] <= bar999) for band in bands}
    table(
        ("band", "99% |dm|", f"<= {bar99}", "99.9% |dm|", f"<= {bar999}", "within 1%"),
        [
            (band, p99[band], verdict(p99[band] <= bar99), p999[band], verdict(p999[band] <= bar999), within[band])
            for band in bands
        ],
    )
    table(("bands", "rank correlation of dm"), list(correlation.items()))
    return {
        "phot_pass": all(passed.values()),
        "phot_pass_by_band": passed,
        "phot_p99_mag": max(p99.values()),
        "phot_p999_mag": max(p999.values()),
        "phot_p99_mag_by_band": p99,
        "phot_p999_mag_by_band": p999,
        "within_1_percent": min(within.values()),
        "within_1_percent_by_band": within,
        "residual_correlation": correlation,
    }


def spectrum_figures(errors: SpectrumErrors, wave: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Percentiles of |ΔL/L| over all draws and wavelengths, and (n_percentile, n_wave) by wavelength."""
    by_wave = np.stack([percentiles(counts) for counts in errors.by_wave], axis=1)
    bright = dict(zip(_PERCENTILES, percentiles(errors.by_wave.sum(axis=0)), strict=True))
    at_worst = dict(zip(_PERCENTILES, np.nanmax(by_wave, axis=1), strict=True))
    worst_wave = wave[int(np.nanargmax(by_wave[_PERCENTILES.index(99.0)]))]
    table(
        ("|dL/L|, 912 Å - 3 µm", "bar", "all wavelengths", "", "worst wavelength", ""),
        [
            (f"{p:g}%", bar, bright[p], verdict(bright[p] <= bar), at_worst[p], verdict(at_worst[p] <= bar))
            for p, bar in SPECTRUM_BARS.items()
        ],
    )
    note(f"worst 99% at {worst_wave:.0f} Å; fainter than {FAINTEST:g} of the peak and left out: {errors.left_out:.2g}")
    return {
        "spec_pass": all(bool(bright[p] <= bar) for p, bar in SPECTRUM_BARS.items()),
        "spec_p99_frac": bright[99.0],
        "spec_p999_frac": bright[99.9],
        "spec_p99_frac_worst_wave": at_worst[99.0],
        "spec_p999_frac_worst_wave": at_worst[99.9],
        "spec_worst_wave": worst_wave,
        "spec_left_out": errors.left_out,
        "spec_p99_frac_none_left_out": percentiles(errors.by_wave.sum(axis=0) + errors.faint, (99.0,))[0],
    }, by_wave


def edge_draws(prior: Prior, zred: np.ndarray, t_age_gyr: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
    """Prior draws (n, 12) held to each edge of the prior, by its name, for galaxies of given redshifts and ages."""
    n = len(zred)

    def held(**ranges: tuple[float, float]) -> np.ndarray:
        return Prior.from_dict(prior.to_dict() | ranges).sample(n, rng)

    def tenth(name: str, k: int) -> tuple[float, float]:
        low, high = getattr(prior, name)
        share = np.array([k, k + 1]) / 10
        first, last = low * (high / low) ** share
        return max(float(first), low), min(float(last), high)

    burst = {"fburst": (0.1, prior.fburst[1])}
    near = held(**burst)
    near[:, column("tburst")] = np.clip(t_age_gyr * rng.uniform(0.95, 1.05, n), *prior.tburst)
    single = held()
    alone = rng.integers(4, size=n)
    single[:, BETA] *= (0.1 * rng.random(n) / (1 - single[np.arange(n), 1 + alone]))[:, None]
    single[np.arange(n), 1 + alone] = 0.0
    single[np.arange(n), 1 + alone] = 1 - single[:, BETA].sum(axis=1)
    gammas = ("gamma1_zh", "gamma2_zh")
    return {
        "young burst (t_burst < 0.05 Gyr, f_burst > 0.1)": held(**burst, tburst=(prior.tburst[0], 0.05)),
        "burst within 5% of t_age (f_burst > 0.1)": near,
        "low metallicity (both gammas in the lowest tenth of ln)": held(**{name: tenth(name, 0) for name in gammas}),
        "high metallicity (both gammas in the highest tenth of ln)": held(**{name: tenth(name, 9) for name in gammas}),
        "one SFH basis with more than 90%": single,
    }


def edge_figures(comparison: Comparison, zred: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy of photometry (worst band) and of spectra at each edge of the prior."""
    emulator = comparison.emulator
    rng = np.random.default_rng(seed)
    found = {}
    for name, theta in edge_draws(emulator.prior, zred, emulator.cosmology.age_gyr(zred), rng).items():
        errors = comparison.errors(theta, zred)
        p99, p999 = np.percentile(np.abs(errors.delta_mag), list(MAG_BARS), axis=0, method="higher").max(axis=1)
        spec99, spec999 = percentiles(errors.spectra.by_wave.sum(axis=0), tuple(SPECTRUM_BARS))
        found[name] = {
            "phot_p99_mag": float(p99),
            "phot_p999_mag": float(p999),
            "spec_p99_frac": float(spec99),
            "spec_p999_frac": float(spec999),
        }
    head = ("edge of the prior", "99% |dm|", "99.9% |dm|", "99% |dL/L|", "99.9% |dL/L|")
    table(head, [(name, *values.values()) for name, values in found.items()])
    return found


def worst_cases(
    errors: Errors, theta: np.ndarray, zred: np.ndarray, bands: tuple[str, ...], *, faintest: float = np.inf
) -> list[dict[str, Any]]:
    """The draws with the largest |Δm| in any band not fainter than magnitude `faintest`, with their parameters."""
    size = np.where(errors.mag <= faintest, np.abs(errors.delta_mag), 0.0)
    rows = np.argsort(-size.max(axis=1), kind="stable")[:N_WORST]
    bright = "" if np.isinf(faintest) else f" in a band brighter than {faintest:g} mag"
    cases = [
        {
            "max_abs_delta_mag": size[row].max(),
            "band": bands[int(size[row].argmax())],
            "mag": errors.mag[row, int(size[row].argmax())],
            "zred": zred[row],
            **dict(zip(PARAMETER_NAMES, theta[row], strict=True)),
        }
        for row in rows
    ]
    note(f"the {len(cases)} draws with the largest errors{bright}")
    table(("max |dm|", "band", "mag", "z", *PARAMETER_NAMES), [list(case.values()) for case in cases])
    return cases


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compare on `--draws` draws from the emulator's whole prior, and on `--edge-draws` at each of its edges."""
    emulator = load_emulator(options.emulator)
    zred_max = min(options.zred_max, emulator.zred_max)
    if zred_max <= ZRED_MIN:
        raise ParameterError(f"--zred-max={options.zred_max}: must be above {ZRED_MIN}")
    bands = tuple(options.bands)
    # Seeds of training and of this comparison must not meet.
    seed = options.seed + 2**32
    theta, zred = draw(emulator.prior, options.draws, zred_max, seed)
    comparison = Comparison(emulator, bands, zred_max)
    errors = comparison.errors(theta, zred)
    photometry = photometry_figures(errors.delta_mag, comparison.simulator.bands)
    spectra, by_wave = spectrum_figures(errors.spectra, comparison.wave)
    _, edge_zred = draw(emulator.prior, options.edge_draws, zred_max, seed + 1)
    at_edges = edge_figures(comparison, edge_zred, seed + 2)
    cases = theta, zred, comparison.simulator.bands
    worst = {
        "worst": worst_cases(errors, *cases),
        "worst_observable": worst_cases(errors, *cases, faintest=_FAINTEST_OBSERVABLE_MAG),
    }
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        by_percentile = dict(zip(_PERCENTILES, by_wave, strict=True))
        emulator_accuracy_plot(comparison.wave, by_percentile, n_draws=len(theta), bars=SPECTRUM_BARS).savefig(options.plot)
        note(f"wrote {options.plot}")
    return {
        **photometry,
        **spectra,
        "edges": at_edges,
        **worst,
        "n_draws": len(theta),
        "n_edge_draws": options.edge_draws,
        "zred_max": zred_max,
        "wave": [float(comparison.wave[0]), float(comparison.wave[-1])],
        "bands": comparison.simulator.bands,
    }
