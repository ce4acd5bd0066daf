"""The same galaxies on several SSP libraries: what the choice of library does to a spectrum."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sedcast.data.errors import ParameterError
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.sps import SPSModel

__all__ = ["EXAMPLE_GALAXIES", "LibraryComparison", "bin_edges", "bin_spectra", "compare_libraries"]

EXAMPLE_GALAXIES: Mapping[str, tuple[float, ...]] = {
    "star-forming": (10.0, 0.3, 0.3, 0.2, 0.2, 0.0, 5.0, 0.004, 0.004, 0.3, 0.3, -0.7),
    "after a burst": (10.0, 0.0, 0.3, 0.4, 0.3, 0.1, 0.5, 0.004, 0.004, 0.0, 0.1, -0.7),
    "quiescent": (10.0, 0.0, 0.05, 0.35, 0.6, 0.0, 5.0, 0.005, 0.005, 0.0, 0.05, -0.7),
}
"""θ by name, 10^10 Msun formed each; columns are `PARAMETER_NAMES`."""

RANGES = {
    "1300-1800 Å": (1300.0, 1800.0),
    "1800-2800 Å": (1800.0, 2800.0),
    "3000-4000 Å": (3000.0, 4000.0),
    "4000-5500 Å": (4000.0, 5500.0),
    "5500-7000 Å": (5500.0, 7000.0),
    "7000-10000 Å": (7000.0, 10_000.0),
    "1.0-2.4 μm": (10_000.0, 24_000.0),
}
_ZRED = 0.1
_WAVE = (950.0, 24_000.0)
_RESOLUTION = 150


@dataclass(frozen=True)
class LibraryComparison:
    """Spectra of the same galaxies on several libraries, at one resolution.

    Parameters
    ----------
    wave_edges : (n_bin + 1,) rest-frame edges of the bins, Å, where all libraries have light to give.
    galaxies : (n_galaxy,) names.
    luminosity : by library, (n_galaxy, n_bin) mean luminosity density in the bins, Lsun/Å. The first is the reference.
    """

    wave_edges: np.ndarray
    galaxies: tuple[str, ...]
    luminosity: Mapping[str, np.ndarray]

    @property
    def wave_rest(self) -> np.ndarray:
        """Centres of the bins, Å, (n_bin,)."""
        return np.sqrt(self.wave_edges[1:] * self.wave_edges[:-1])

    def ratio(self, name: str) -> np.ndarray:
        """A library's luminosity over that of the first one, (n_galaxy, n_bin); NaN where the first has none."""
        reference = next(iter(self.luminosity.values()))
        return np.divide(self.luminosity[name], reference, out=np.full(reference.shape, np.nan), where=reference > 0)

    def band_ratios(self, name: str) -> dict[str, np.ndarray]:
        """Ratios (n_galaxy,) to the first library of the light in wide ranges, those that the bins cover."""
        reference, width = next(iter(self.luminosity)), np.diff(self.wave_edges)
        ratios = {}
        for label, (low, high) in RANGES.items():
            if self.wave_edges[0] <= low and high <= self.wave_edges[-1] * (1 + 1 / _RESOLUTION):
                inside = (self.wave_rest >= low) & (self.wave_rest < high)
                light = {key: self.luminosity[key][:, inside] @ width[inside] for key in (name, reference)}
                ratios[label] = light[name] / light[reference]
        return ratios


def compare_libraries(libraries: Mapping[str, SSPLibrary]) -> LibraryComparison:
    """Spectra of `EXAMPLE_GALAXIES` at redshift 0.1 on each library, averaged in bins of λ/Δλ = 150.

    Libraries differ in resolution, which the bins hide; bins hold the light of the finer grid whole.

    Parameters
    ----------
    libraries : at least two, by name.

    Raises
    ------
    ParameterError : if there are fewer than two libraries, or no wavelengths that they share.
    """
    if len(libraries) < 2:
        raise ParameterError(f"libraries holds {len(libraries)}, expected at least 2 of different names")
    low = max(_WAVE[0], *(library.wave_rest[0] for library in libraries.values()))
    high = min(_WAVE[1], *(library.wave_rest[-1] for library in libraries.values()))
    if high <= low * (1 + 1 / _RESOLUTION):
        raise ParameterError(f"the libraries share no wavelengths between {_WAVE[0]:g} and {_WAVE[1]:g} Å: choose others")
    edges = bin_edges(low, high)
    theta = np.array(list(EXAMPLE_GALAXIES.values()))
    models = {name: SPSModel(library) for name, library in libraries.items()}
    luminosity = {name: bin_spectra(model.wave_rest, model.spectra(theta, _ZRED), edges) for name, model in models.items()}
    return LibraryComparison(edges, tuple(EXAMPLE_GALAXIES), luminosity)


def bin_edges(wave_min: float, wave_max: float) -> np.ndarray:
    """Edges of bins of λ/Δλ = 150 from `wave_min` to just below `wave_max`, Å."""
    n_bin = int(np.floor(np.log(wave_max / wave_min) * _RESOLUTION))
    edges = wave_min * np.exp(np.arange(n_bin + 1) / _RESOLUTION)
    edges[-1] = min(edges[-1], wave_max)
    return edges


def bin_spectra(wave: np.ndarray, spectra: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean luminosity densities (n, n_bin) in bins: spectra (n, n_wave), straight between their points, integrated exactly."""
    points = np.union1d(wave[(wave >= edges[0]) & (wave <= edges[-1])], edges)
    at_edges = np.searchsorted(points, edges)
    binned = np.empty((len(spectra), len(edges) - 1))
    for row, spectrum in enumerate(spectra):
        values = np.interp(points, wave, spectrum)
        running = np.concatenate([[0.0], np.cumsum(np.diff(points) * (values[1:] + values[:-1]) / 2)])
        binned[row] = np.diff(running[at_edges]) / np.diff(edges)
    return binned
