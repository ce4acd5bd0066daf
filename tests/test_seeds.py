"""Streams of random numbers: a galaxy's own whatever the company, and none shared between galaxies, samplers and uses."""

import random

import numpy as np

from sedcast.baselines.mcmc_result import McmcConfig
from sedcast.baselines.outcomes import SAMPLERS, Galaxy
from sedcast.baselines.zeus_globals import GlobalGenerators
from sedcast.posterior.exact import chain_seed


def test_no_two_galaxies_of_a_large_catalogue_share_the_seed_of_their_chains() -> None:
    seeds = [chain_seed(0, key) for key in range(200_000)]
    assert len(set(seeds)) == len(seeds)
    assert McmcConfig(seed=max(seeds)).seed.bit_length() > 120
    assert len({chain_seed(*stream) for stream in ((0, 1), (1, 0), (0, 1, 0), (0, 0, 1), (1,), (0, 1, 1), (2**32, 0))}) == 7


def test_samplers_of_a_galaxy_have_seeds_of_their_own() -> None:
    flux = np.ones(2)
    galaxies = [Galaxy(group, row, "", flux, flux, 0.1) for group in ("real", "mock") for row in (0, 1)]  # type: ignore[arg-type]
    assert len({galaxy.chain_seed(seed, method) for galaxy in galaxies for seed in (0, 1) for method in SAMPLERS}) == 24


def test_global_generators_take_all_bits_of_a_seed_and_are_put_back() -> None:
    before = np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[union-attr]  # noqa: NPY002
    drawn = []
    for seed in (5, 5, 5 + 2**32, 5 + 2**100):
        with GlobalGenerators(np.random.SeedSequence(seed)):
            drawn.append((np.random.rand(), random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert len({part for pair in drawn for part in pair}) == 6
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # type: ignore[union-attr]  # noqa: NPY002
