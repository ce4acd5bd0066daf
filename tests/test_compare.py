import json

import numpy as np
import pytest

from sedcast.baselines.compare import CompareConfig, compare_galaxies
from sedcast.baselines.mcmc import McmcConfig
from sedcast.data.artifacts import load_artifact
from sedcast.data.catalog import Catalog
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.posterior.infer import QUANTITY_NAMES

PRIOR = Prior()
BANDS = ("u", "g", "r")
COUPLING = np.random.default_rng(1).standard_normal((3, 11)) / 2
SIGMA = np.array([0.4, 0.3, 0.5])
CONFIG = CompareConfig(
    n_samples=500, mcmc=McmcConfig(n_walkers=24, max_steps=400, check_every=100, thin=2, target_ess=100, max_rhat=1.1)
)


class Linear:
    """Fluxes linear in the probit coordinates; breaks at one redshift."""

    def flux(self, theta, zred):
        if zred[0] == 0.13:
            raise RuntimeError("no model | at this redshift")
        return PRIOR.to_unbounded(theta) @ COUPLING.T


class ExactFlow:
    """The exact posterior of the linear model, moved by `offset` in log mass."""

    bands, prior, bases, cosmology = BANDS, PRIOR, SFHBases.default(), Cosmology()

    def __init__(self, offset=0.0):
        self.offset = offset

    def sample(self, flux, flux_ivar, zred, n_samples, *, seed):
        weight = np.diag(flux_ivar[0])
        covariance = np.linalg.inv(np.eye(11) + COUPLING.T @ weight @ COUPLING)
        mean = covariance @ COUPLING.T @ weight @ flux[0]
        x = np.random.default_rng(seed).multivariate_normal(mean, covariance, n_samples)
        theta = PRIOR.from_unbounded(x)
        theta[:, 0] = np.clip(theta[:, 0] + self.offset, 7, 12.5)
        return theta[None].astype(np.float32)


def catalog(zred=(0.1, 0.13, 0.05)):
    zred = np.array(zred)
    flux = np.random.default_rng(2).standard_normal((len(zred), 3))
    return Catalog(np.arange(len(zred)) + 100, BANDS, flux, np.tile(SIGMA**-2.0, (len(zred), 1)), zred)


@pytest.fixture(scope="module")
def comparison():
    return compare_galaxies(ExactFlow(), Linear(), catalog(), CONFIG, fsps_seconds=0.36)


def test_exact_flow_and_both_chains_agree(comparison):
    for pair in comparison.pairs:
        table = comparison.shift_table(pair)
        assert table.shape == (2, len(QUANTITY_NAMES))
        # Medians of about 100 effective samples scatter by 0.13 sigma.
        assert np.abs(table[:, : len(PARAMETER_NAMES)]).max() < 0.65
    shift = comparison.galaxies[0].shifts["flow", "emcee"]
    np.testing.assert_allclose(shift.width_ratio[:12], 1, atol=0.5)
    assert shift.wasserstein.shape == (11,)
    assert shift.wasserstein.max() < 0.4


def test_a_method_that_dies_leaves_the_rest_intact(comparison):
    broken = comparison.galaxies[1].outcomes
    assert not broken["flow"].failed
    for name in ("emcee", "zeus"):
        assert broken[name].failed
        assert broken[name].reason == "RuntimeError: no model | at this redshift"
        assert broken[name].converged is False
        assert len(broken[name].samples) == 0
    assert comparison.galaxies[1].shifts == {}
    assert not any(outcome.failed for outcome in comparison.galaxies[2].outcomes.values())


def test_shift_has_the_size_and_sign_that_was_put_in():
    config = CONFIG.model_copy(update={"samplers": ("emcee",)})
    moved = compare_galaxies(ExactFlow(0.2), Linear(), catalog((0.1,)), config)
    exact = compare_galaxies(ExactFlow(), Linear(), catalog((0.1,)), config)
    pair = ("flow", "emcee")
    difference = moved.galaxies[0].shifts[pair].units - exact.galaxies[0].shifts[pair].units
    assert difference[0] == pytest.approx(0.2, abs=1e-3)
    assert difference[QUANTITY_NAMES.index("log_sfr_1gyr")] == pytest.approx(0.2, abs=0.02)
    sigma = moved.galaxies[0].outcomes["emcee"].width[0]
    assert moved.galaxies[0].shifts[pair].sigma[0] == pytest.approx(moved.galaxies[0].shifts[pair].units[0] / sigma)


def test_json_is_strict_and_states_costs(comparison):
    text = json.dumps(comparison.to_json_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["quantities"] == list(QUANTITY_NAMES)
    method = read["galaxies"][0]["methods"]["zeus"]
    assert method["fsps_wall_s"] == pytest.approx(0.36 * method["n_evaluations"])
    assert method["n_evaluations"] > 24 * 100
    assert "not run" in read["fsps_label"]
    assert np.shape(method["quantiles"]) == (len(QUANTITY_NAMES), 3)
    assert read["galaxies"][1]["methods"]["emcee"]["quantiles"][0] == [None, None, None]
    assert read["summary"]["flow - emcee"]["log_mstar"]["median_abs_sigma"] < 0.65


def test_markdown_tables_are_well_formed(comparison):
    lines = comparison.to_markdown().splitlines()
    assert sum(line.startswith("## Galaxy") for line in lines) == 3
    assert any("with FSPS [h]" in line for line in lines)
    tables = "\n".join(lines).split("\n\n")
    for table in (part.splitlines() for part in tables if part.startswith("|")):
        assert len({line.count("|") for line in table}) == 1
    assert "failed" in comparison.to_markdown()


def test_saved_samples_are_read_back(comparison, tmp_path):
    comparison.save(tmp_path / "comparison.npz")
    arrays, card = load_artifact(tmp_path / "comparison.npz", "mcmc-comparison")
    samples = comparison.galaxies[2].outcomes["emcee"].samples
    np.testing.assert_allclose(arrays["samples_2_emcee"], samples, rtol=1e-6)
    assert card["comparison"]["galaxies"][2]["name"] == "102"


def test_same_seed_same_numbers():
    config = CONFIG.model_copy(update={"samplers": ("emcee",)})
    first, second = (compare_galaxies(ExactFlow(), Linear(), catalog((0.1,)), config) for _ in range(2))
    for name in ("flow", "emcee"):
        np.testing.assert_array_equal(first.galaxies[0].outcomes[name].samples, second.galaxies[0].outcomes[name].samples)


def test_interruption_keeps_what_is_done():
    class Interrupting(Linear):
        def flux(self, theta, zred):
            if zred[0] == 0.05:
                raise KeyboardInterrupt
            return super().flux(theta, zred)

    seen = []
    result = compare_galaxies(
        ExactFlow(), Interrupting(), catalog((0.1, 0.05, 0.1)), CONFIG, progress=lambda done, total: seen.append((done, total))
    )
    assert result.interrupted
    assert [set(galaxy.outcomes) for galaxy in result.galaxies] == [{"flow", "emcee", "zeus"}, {"flow"}]
    assert seen[0] == (1, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"bands": ("g", "u", "r")}, "select and order"), ({"rows": 0}, "no rows"), ({"fsps_seconds": 0.0}, "fsps_seconds")],
)
def test_bad_input_is_refused(changes, message):
    galaxies = catalog()
    if "bands" in changes:
        galaxies = Catalog(galaxies.ids, changes["bands"], galaxies.flux, galaxies.flux_ivar, galaxies.zred)
    if "rows" in changes:
        galaxies = galaxies.subset(slice(0, 0))
    with pytest.raises(ParameterError, match=message):
        compare_galaxies(ExactFlow(), Linear(), galaxies, CONFIG, fsps_seconds=changes.get("fsps_seconds"))
