"""The fast model against FSPS itself. FSPS bears one StellarPopulation per process, so all share one."""

import time
from typing import Any

import numpy as np
import pytest

from sedcast.data.errors import ConfigError, ParameterError
from sedcast.data.executors import task_pool
from sedcast.data.filters import C_ANGSTROM_S
from sedcast.data.fsps_link import fsps_spectrum, stellar_population
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.dust import attenuation_curve
from sedcast.emulator.fsps_model import FSPSModel
from sedcast.emulator.prior import Prior
from sedcast.emulator.sps import SPSModel

pytestmark = pytest.mark.fsps

N_SSP = 43
"""SSPs that a galaxy is the sum of: the bins and the burst."""


@pytest.fixture(scope="session")
def population() -> Any:
    return stellar_population()


@pytest.fixture(scope="session")
def library(population: Any) -> SSPLibrary:
    return SSPLibrary.from_fsps(population)


def in_range(wave: np.ndarray) -> np.ndarray:
    return (wave >= 1000) & (wave <= 3e4)


def test_the_library_is_fsps_on_its_own_grid(population: Any, library: SSPLibrary) -> None:
    before = dict(population.params.iteritems())
    assert SSPLibrary.from_fsps(population).name == library.name
    assert dict(population.params.iteritems()) == before
    assert library.provenance["parameters"]["imf_type"] == 1
    assert library.remnant_mass is not None
    for node_z, node_age in ((0, 0), (5, 20), (11, 42)):
        population.params["dust1"] = population.params["dust2"] = 0.0
        z, age = population.zlegend[node_z], 10 ** (library.log_age[node_age] - 9)
        expected = fsps_spectrum(population, z, age)
        keep = in_range(library.wave_rest)
        np.testing.assert_allclose(library.flux[node_z, node_age][keep], expected[keep], rtol=1e-5)


def test_processes_with_an_fsps_each_tabulate_the_same(library: SSPLibrary) -> None:
    with task_pool(None, 2) as pool:
        shared = SSPLibrary.from_fsps(pool=pool)
    np.testing.assert_array_equal(shared.flux, library.flux)
    assert shared.remnant_mass is not None
    assert library.remnant_mass is not None
    np.testing.assert_array_equal(shared.remnant_mass, library.remnant_mass)
    assert shared.name == library.name


def test_a_process_with_an_fsps_of_other_libraries_gives_no_part_of_a_library(
    population: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    isochrones, _, dust = population.libraries
    monkeypatch.setattr(population, "_libraries", (isochrones, b"another", dust))
    with task_pool(None, 2) as pool, pytest.raises(ConfigError, match="an FSPS of other libraries than this process"):
        SSPLibrary.from_fsps(pool=pool)


@pytest.mark.parametrize("dust_index", [-2.0, -0.7, 0.0, 1.0])
def test_the_dust_curve_is_that_of_fsps(population: Any, dust_index: float) -> None:
    FSPSModel(population).spectra(Prior().sample(1, 0), 0.1)
    spectra = {}
    for depth in (0.0, 1.0):
        for key, value in {"dust1": 0.0, "dust2": depth, "dust_index": dust_index}.items():
            population.params[key] = value
        spectra[depth] = fsps_spectrum(population, 0.02, 5.0)
    wave = np.asarray(population.wavelengths)
    keep = in_range(wave)
    got = attenuation_curve(wave[keep], dust_index)[0]
    np.testing.assert_allclose(got, -np.log(spectra[1.0][keep] / spectra[0.0][keep]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("t_birth_cloud_gyr", "n"), [(0.1, 50), (0.01, 10), (0.03, 10)])
def test_the_fast_model_agrees_with_fsps_over_the_whole_prior(
    population: Any, library: SSPLibrary, t_birth_cloud_gyr: float, n: int, record_property: Any
) -> None:
    theta = Prior().sample(n, 20)
    zred = np.random.default_rng(21).uniform(0, 0.3, n)
    start = time.perf_counter()
    slow = FSPSModel(population, t_birth_cloud_gyr=t_birth_cloud_gyr).spectra(theta, zred)
    seconds = (time.perf_counter() - start) / n
    fast = SPSModel(library, t_birth_cloud_gyr=t_birth_cloud_gyr).spectra(theta, zred)
    keep = in_range(library.wave_rest)
    # FSPS raises each SSP's flux to 1e-70 Lsun/Hz, which shows where dust dims a galaxy to 1e-50 of its peak.
    floor = 10 ** theta[:, :1] * N_SSP * 1e-70 * C_ANGSTROM_S / library.wave_rest**2
    excess = np.maximum(np.abs(fast - slow) - floor, 0) / slow
    deviation = float(excess[:, keep].max())
    record_property("max_deviation", deviation)
    print(f"t_BC {t_birth_cloud_gyr} Gyr: max deviation {deviation:.1e} over {n} galaxies; FSPS {seconds:.3f} s per galaxy")
    assert deviation < 1e-4


def test_settings_that_fsps_cannot_bear_are_refused_before_it_stops_the_process(population: Any) -> None:
    for t_birth_cloud_gyr in (1e-4, -1.0, 0.0, np.nan):
        with pytest.raises(ParameterError, match="t_birth_cloud_gyr"):
            FSPSModel(population, t_birth_cloud_gyr=t_birth_cloud_gyr)


def test_a_population_without_continuous_metallicity_is_refused(population: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "_zcontinuous", 0)
    with pytest.raises(ParameterError, match="zcontinuous=1"):
        FSPSModel(population)
    with pytest.raises(ParameterError, match="zcontinuous=1"):
        SSPLibrary.from_fsps(population)
