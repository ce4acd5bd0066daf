"""Fresh galaxies for training: distributed as those of the simulator, whichever bands are measured."""

import numpy as np
import pytest
from scipy import stats

from sedcast.data.config import parse_config
from sedcast.data.errors import ConfigError, ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.emulator.simulation import PhotometrySimulator, SimulationConfig, draw_galaxies
from sedcast.emulator.sps import SPSModel
from sedcast.posterior.stream import Galaxies, GalaxyStream, MissingBands, StreamConfig

OPTICAL = ("u", "g", "r", "i", "z")
BANDS = ("NUV", *OPTICAL)


@pytest.fixture(scope="module")
def model() -> SPSModel:
    return SPSModel(SSPLibrary.popstar().trimmed(1000.0, 12_000.0), dtype=np.float32)


def stream(model: SPSModel, n: int, bands: tuple[str, ...] = OPTICAL, seed: int = 1, **config) -> GalaxyStream:
    simulation = SimulationConfig(n_galaxies=n, seed=seed, bands=bands)
    return GalaxyStream(PhotometrySimulator(model, bands, 0.3), NoiseModel.sdss(bands), simulation, StreamConfig(**config))


def columns(galaxies, bands: tuple[str, ...], used: tuple[str, ...]) -> np.ndarray:
    index = [bands.index(band) for band in used]
    flux, ivar = galaxies.flux[:, index], galaxies.flux_ivar[:, index]
    colour = np.arcsinh(flux[:, 1:]) - np.arcsinh(flux[:, :1])
    return np.column_stack([galaxies.theta_unbounded, galaxies.zred, np.arcsinh(flux), colour, np.log(ivar)])


def simulated(model: SPSModel, bands: tuple[str, ...], n: int) -> np.ndarray:
    noise, parts = NoiseModel.sdss(bands), []
    for _, draws in draw_galaxies(PhotometrySimulator(model, bands, 0.3), Prior(), noise, RedshiftPrior(), seed=9):
        parts.append(columns(draws, bands, bands))
        if sum(map(len, parts)) >= n:
            return np.concatenate(parts)
    raise AssertionError


def assert_alike(one: np.ndarray, two: np.ndarray) -> None:
    p = np.array([stats.ks_2samp(a, b).pvalue for a, b in zip(one.T, two.T, strict=True)])
    assert p.min() * p.size > 1e-2, p
    # Correlations carry what single columns do not.
    np.testing.assert_allclose(np.corrcoef(one.T), np.corrcoef(two.T), atol=5 / np.sqrt(len(one)))


def test_galaxies_are_distributed_as_the_simulators(model):
    with stream(model, 12_000, spectra_per_galaxy=2, pool_epochs=2) as galaxies:
        drawn = galaxies.chunk(0)
    assert len(drawn) == 12_000
    assert_alike(columns(drawn, OPTICAL, OPTICAL), simulated(model, OPTICAL, 12_000))


def test_missing_bands_do_not_select_galaxies(model):
    """Galaxies without NUV are those of a simulator that has no NUV, though few galaxies are bright enough in it."""
    missing = MissingBands(optional=("NUV",), complete=0.5, without_optional=0.5)
    with stream(model, 20_000, BANDS, spectra_per_galaxy=3, pool_epochs=1, missing=missing) as galaxies:
        drawn = galaxies.chunk(0)
    without = drawn.flux_ivar[:, 0] == 0
    assert 0.48 < without.mean() < 0.52
    assert (drawn.flux[without, 0] == 0).all()
    assert (drawn.flux_ivar[:, 1:] > 0).all()

    def rows(which: np.ndarray) -> Galaxies:
        return Galaxies(drawn.theta_unbounded[which], drawn.flux[which], drawn.flux_ivar[which], drawn.zred[which])

    assert_alike(columns(rows(without), BANDS, OPTICAL), simulated(model, OPTICAL, 10_000))
    assert_alike(columns(rows(~without), BANDS, BANDS), simulated(model, BANDS, 10_000))


def test_shares_of_missing_bands():
    bands = ("FUV", "NUV", *OPTICAL)
    measured = MissingBands(optional=("FUV", "NUV"), complete=0.2, without_optional=0.5).draw(
        40_000, bands, np.random.default_rng(3)
    )
    assert measured.any(axis=1).all()
    optical = measured[:, 2:].all(axis=1)
    # A random subset has k bands with probability 1/7, and then each subset of k is as probable as another.
    seven, six, five = 0.3 / 7, 0.3 / 7 / 7, 0.3 / 7 / 21
    shares = {(1, 1): 0.2 + seven, (0, 0): 0.25 + five, (0, 1): 0.125 + six, (1, 0): 0.125 + six}
    for (fuv, nuv), share in shares.items():
        found = np.mean(optical & (measured[:, 0] == fuv) & (measured[:, 1] == nuv))
        assert abs(found - share) < 4 * np.sqrt(share / 40_000), (fuv, nuv)
    single = MissingBands(optional=("NUV",), complete=0, without_optional=1).draw(100, BANDS, np.random.default_rng(3))
    assert (single == [False, *[True] * 5]).all()


def test_chunks_depend_on_seed_and_number_only(model):
    config = {"bands": BANDS, "missing": MissingBands(optional=("NUV",)), "pool_epochs": 2, "n_validation": 1500}
    with stream(model, 700, **config) as galaxies:
        chunks = [galaxies.chunk(index) for index in range(4)]
        held = galaxies.validation()
    with stream(model, 700, **config) as again:
        for index in (3, 0, 1):
            for name, values in vars(again.chunk(index)).items():
                np.testing.assert_array_equal(values, getattr(chunks[index], name))
    with stream(model, 700, seed=2, **config) as other:
        assert not np.array_equal(other.chunk(0).zred, chunks[0].zred)
    assert len(held) == 1500
    assert not np.isin(held.zred, np.concatenate([chunk.zred for chunk in chunks])).any()


def test_every_chunk_has_new_spectra_and_the_pool_is_shared(model):
    with stream(model, 2000, spectra_per_galaxy=0.5, pool_epochs=2) as galaxies:
        first, second, third = (set(galaxies.chunk(index).zred) for index in range(3))
    assert first & second
    assert not first & third


def test_wrong_bands_are_refused(model):
    with pytest.raises(ParameterError, match="some, not all, of the bands u g r i z"):
        stream(model, 100, missing=MissingBands(optional=("FUV", "NUV")))
    simulator = PhotometrySimulator(model, OPTICAL, 0.3)
    with pytest.raises(ParameterError, match="must agree"):
        GalaxyStream(simulator, NoiseModel.sdss(BANDS), SimulationConfig(n_galaxies=5), StreamConfig())
    with pytest.raises(ConfigError, match="exceed 1"):
        parse_config({"complete": 0.7, "without_optional": 0.6}, MissingBands)
    with pytest.raises(ConfigError, match="needs bands in optional"):
        parse_config({"without_optional": 0.2}, MissingBands)


def test_any_band_may_be_missing_where_none_is_optional():
    """A bare table [stream.missing] serves bands of any survey; three bands: 1/3 have one, 1/3 two and 1/3 all of them."""
    missing = parse_config({"complete": 0.4}, MissingBands)
    assert parse_config(missing.model_dump(), MissingBands) == missing
    measured = missing.draw(40_000, ("decam2014-g", "decam2014-r", "decam2014-z"), np.random.default_rng(3))
    shares = np.bincount(measured.sum(axis=1), minlength=4) / len(measured)
    np.testing.assert_allclose(shares, [0, 0.2, 0.2, 0.6], atol=4 * np.sqrt(0.25 / 40_000))
    np.testing.assert_allclose(measured.mean(axis=0), measured.mean(), atol=0.02)


def test_held_out_galaxies_are_of_spectra_of_their_own(model):
    with stream(model, 700, n_validation=1500) as galaxies:
        held, chunk = galaxies.validation(), galaxies.chunk(0)
    assert not np.isin(held.theta_unbounded[:, 1], chunk.theta_unbounded[:, 1]).any()
