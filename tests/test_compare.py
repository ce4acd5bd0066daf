"""The comparison on a linear model, whose posterior is known: figures, failures, resumption, and the report."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sedcast.baselines import outcomes
from sedcast.baselines.compare import FLOOR, _compare_pairs, _PairTask, compare_galaxies, compared_pairs
from sedcast.baselines.mcmc import McmcConfig, run_emcee
from sedcast.baselines.outcomes import COMPARED_NAMES, PHYSICAL_NAMES, CompareConfig, Galaxy, Outcome, Setting, run_key
from sedcast.baselines.report_tables import _table, pair_name, summarise, to_json, to_markdown
from sedcast.baselines.runs import independent_draws, run_method
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ConfigError, ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.prior import Prior
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.resampling import PosteriorDraws

PRIOR = Prior()
BANDS = ("u", "g", "r")
COUPLING = np.random.default_rng(1).standard_normal((3, 11)) / 2
SIGMA = np.array([0.4, 0.3, 0.5])
BROKEN = 0.13
CONFIG = CompareConfig(
    methods=("flow", "emcee"),
    n_draws=300,
    n_samples=2000,
    mcmc=McmcConfig(
        n_walkers=32, n_groups=2, max_steps=2000, check_every=100, thin=5, target_ess=300, max_rhat=1.1, n_screen=512
    ),
)


class Linear:
    """Fluxes linear in the probit coordinates; breaks at one redshift, and counts."""

    def __init__(self):
        self.calls = 0

    def flux(self, theta, zred):
        self.calls += 1
        if zred[0] == BROKEN:
            raise RuntimeError("no model | at this redshift")
        return PRIOR.to_unbounded(theta) @ COUPLING.T


class ExactFlow:
    """The exact posterior of the linear model, moved by `offset` in the first coordinate."""

    bands, prior, bases, cosmology = BANDS, PRIOR, SFHBases.default(), Cosmology()

    def __init__(self, offset=0.0):
        self.offset = offset
        self.card = {"name": "exact"}
        self.digest = str(offset)

    def draw(self, flux, flux_ivar, zred, n_samples, *, seed):
        weight = np.diag(flux_ivar[0])
        covariance = np.linalg.inv(np.eye(11) + COUPLING.T @ weight @ COUPLING)
        mean = covariance @ COUPLING.T @ weight @ flux[0]
        x = np.random.default_rng(seed).multivariate_normal(mean, covariance, n_samples)
        x[:, 0] += self.offset
        return PosteriorDraws(x[None].astype(np.float32), np.ones(1), np.full(1, np.nan))


def galaxy(row, zred=0.1, *, mock=False):
    rng = np.random.default_rng([2, row])
    truth = rng.standard_normal(11)
    flux = COUPLING @ truth + SIGMA * rng.standard_normal(3)
    return Galaxy("mock" if mock else "real", row, f"g{row}", flux, SIGMA**-2.0, zred, truth if mock else None)


def setting(offset=0.0, **changes):
    return Setting(ExactFlow(offset), Linear(), "linear", CONFIG.model_copy(update=changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    galaxies = [galaxy(0), galaxy(1, BROKEN), galaxy(0, 0.05, mock=True)]
    seen = []
    comparison = compare_galaxies(
        setting(),
        galaxies,
        folder,
        n_workers=1,
        about={"fsps": {"seconds_per_model": 0.36, "label": "computed, not run"}},
        progress=lambda done, total: seen.append((done, total)),
    )
    return comparison, galaxies, folder, seen


def test_an_exact_flow_cannot_be_told_from_the_chain(run):
    comparison, *_ = run
    one = comparison.galaxies[0]
    assert set(one.pairs) == {("emcee", FLOOR), ("flow", "emcee")}
    figures = one.pairs["flow", "emcee"]
    assert figures.c2st == pytest.approx(0.5, abs=0.1)
    assert figures.n >= 200
    assert np.abs(figures.shift[:11]).max() < 0.5
    np.testing.assert_allclose(figures.width_ratio[:11], 1, atol=0.3)
    assert figures.wasserstein.shape == (len(COMPARED_NAMES),)
    medians = dict(zip(PHYSICAL_NAMES, one.outcomes["flow"].physical[1], strict=True))
    assert medians["log_ssfr_1gyr"] == pytest.approx(medians["log_sfr_1gyr"] - medians["log_mstar"], abs=0.3)
    assert 0 < medians["t_mw_gyr"] < 13.8
    assert one.pairs["emcee", FLOOR].c2st == pytest.approx(0.5, abs=0.12)


def test_a_shift_is_found_with_its_size_and_sign(tmp_path):
    comparison = compare_galaxies(setting(1.0), [galaxy(0)], tmp_path, n_workers=1)
    one = comparison.galaxies[0]
    figures = one.pairs["flow", "emcee"]
    sigma = 0.5 * np.subtract(*one.outcomes["emcee"].quantiles[[2, 0], 0])
    assert figures.shift[0] == pytest.approx(1 / sigma, abs=0.4)
    assert figures.wasserstein[0] == pytest.approx(1.0, abs=0.2)
    assert figures.c2st > 0.6


def test_a_method_that_dies_leaves_the_rest_and_its_reason(run):
    comparison, *_ = run
    broken = comparison.galaxies[1].outcomes
    assert not broken["flow"].failed
    assert broken["emcee"].failed
    assert broken["emcee"].reason == "RuntimeError: no model | at this redshift"
    assert comparison.galaxies[1].pairs == {}
    assert not any(one.failed for one in comparison.galaxies[2].outcomes.values())


def test_finished_runs_are_not_repeated_and_failed_ones_are(run):
    comparison, galaxies, folder, seen = run
    assert seen[0] == (0, 9)
    assert seen[-1] == (9, 9)
    again = setting()
    repeated = compare_galaxies(again, [*galaxies, galaxy(7)], folder, n_workers=1)
    np.testing.assert_array_equal(repeated.galaxies[0].outcomes["emcee"].draws, comparison.galaxies[0].outcomes["emcee"].draws)
    assert repeated.galaxies[0].pairs["flow", "emcee"].c2st == comparison.galaxies[0].pairs["flow", "emcee"].c2st
    mended = Galaxy(**(vars(galaxies[1]) | {"zred": 0.12}))
    kept = (folder / "runs" / f"real-{mended.row}-flow.npz").read_bytes()
    with pytest.raises(ConfigError, match=r"is a finished run of other data.*--overwrite"):
        compare_galaxies(setting(), [mended], folder, n_workers=1)
    assert (folder / "runs" / f"real-{mended.row}-flow.npz").read_bytes() == kept
    anew = compare_galaxies(setting(), [mended], folder, n_workers=1, overwrite=True)
    assert not anew.galaxies[0].outcomes["emcee"].failed


def test_damaged_runs_are_run_again(tmp_path, caplog):
    only_flow = setting(methods=("flow",))
    first = compare_galaxies(only_flow, [galaxy(0)], tmp_path, n_workers=1)
    path = tmp_path / "runs" / "real-0-flow.npz"
    path.write_bytes(path.read_bytes()[:-200])
    second = compare_galaxies(only_flow, [galaxy(0)], tmp_path, n_workers=1)
    np.testing.assert_array_equal(first.galaxies[0].outcomes["flow"].draws, second.galaxies[0].outcomes["flow"].draws)
    assert "run again" in caplog.text


def test_a_process_that_died_twice_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("uuid.uuid4", lambda: type("U", (), {"hex": "session"}))
    (tmp_path / "runs" / "real-0-flow.attempt").write_text("session session")
    outcome = compare_galaxies(setting(methods=("flow",)), [galaxy(0)], tmp_path, n_workers=1).galaxies[0].outcomes["flow"]
    assert outcome.failed
    assert "died 2 times" in outcome.reason


def test_an_interrupted_comparison_goes_on(tmp_path):
    class Stop(Linear):
        def flux(self, theta, zred):
            raise KeyboardInterrupt

    galaxies = [galaxy(0), galaxy(1)]
    flow_first = replace(setting(), simulator=Stop())
    with pytest.raises(KeyboardInterrupt):
        compare_galaxies(flow_first, galaxies, tmp_path, n_workers=1)
    assert (tmp_path / "runs" / "real-0-flow.npz").exists()
    seen = []
    compare_galaxies(setting(), galaxies, tmp_path, n_workers=1, progress=lambda done, total: seen.append(done))
    assert seen[0] == 1


def test_a_chain_that_the_user_interrupts_is_no_finished_run(tmp_path):
    """Late enough for `run_emcee` to have kept steps, which it would return."""

    class StopLate(Linear):
        def flux(self, theta, zred):
            if self.calls == 600:
                self.calls += 1
                raise KeyboardInterrupt
            return super().flux(theta, zred)

    late = replace(setting(methods=("emcee",)), simulator=StopLate())
    stopped = run_emcee(
        GaussianLikelihood(StopLate(), PRIOR, flux=galaxy(0).flux, flux_ivar=galaxy(0).flux_ivar, zred=0.1), CONFIG.mcmc
    )
    assert stopped.interrupted
    with pytest.raises(KeyboardInterrupt):
        compare_galaxies(late, [galaxy(0), galaxy(1)], tmp_path, n_workers=1)
    assert list((tmp_path / "runs").glob("*.npz")) == []


def test_ranks_of_mocks_are_uniform_for_the_exact_posterior_and_not_for_a_shifted_one(tmp_path):
    galaxies = [galaxy(row, mock=True) for row in range(30)]
    for offset, low, high in ((0.0, 0.01, 1.0), (2.0, 0.0, 1e-4)):
        chosen = setting(offset, methods=("flow",), n_samples=300)
        comparison = compare_galaxies(chosen, galaxies, tmp_path / str(offset), n_workers=1)
        assert comparison.mock_ranks("flow").shape == (30, len(COMPARED_NAMES))
        p = summarise(comparison)["mock"]["calibration"]["flow"]["ks_p_min_holm_free"]
        assert low <= p <= high


def test_json_is_strict_and_states_costs(run):
    comparison, *_ = run
    read = json.loads(json.dumps(to_json(comparison), allow_nan=False))
    cost = read["summary"]["real"]["methods"]["emcee"]
    assert cost["failed"] == 1
    assert cost["fsps_alone_h"] == pytest.approx(0.36 * cost["n_evaluations"] / 3600)
    assert read["galaxies"][1]["methods"]["emcee"]["quantiles_16_50_84"][0] == [None, None, None]
    assert read["summary"]["real"]["pairs"]["flow – emcee"]["n"] == 1
    assert set(read["galaxies"][2]["ranks"]) == {"flow", "emcee"}


def test_markdown_tables_are_well_formed(run):
    text = to_markdown(run[0])
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) >= 6
    for table in tables:
        assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert r"no model \| at this redshift" in text
    assert pair_name(("emcee", FLOOR)) in text


def test_a_bar_in_a_galaxys_name_is_no_column():
    lines = _table(("galaxy", "method"), [("a|b", "flow")])
    assert lines == ["| galaxy | method |", "| --- | --- |", r"| a\|b | flow |"]


def test_draws_are_as_many_as_effective_samples_and_halves_are_of_other_walkers():
    chain = np.arange(40.0)[:, None, None] + 1000.0 * np.arange(8)[None, :, None] + np.zeros((1, 1, 2))
    draws = independent_draws(chain, 100.0, 60, seed=0)
    assert draws.shape == (60, 2)
    assert len(np.unique(draws[:, 0])) == 60
    walker = draws[:, 0] // 1000
    assert (np.diff(walker) >= 0).all()
    assert len(independent_draws(chain, 30.2, 60, seed=0)) == 30
    # Two effective samples of each walker: its first state and its last.
    assert set(independent_draws(chain, 16.0, 60, seed=0)[:, 0] % 1000) == {0.0, 39.0}


def test_the_reference_is_emcee_where_it_runs():
    assert compared_pairs(("flow", "refined", "emcee", "zeus")) == (
        ("emcee", FLOOR),
        ("flow", "emcee"),
        ("refined", "emcee"),
        ("zeus", "emcee"),
    )
    assert compared_pairs(("flow", "refined")) == (("flow", "refined"),)
    assert compared_pairs(("flow",)) == ()


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="nothing to compare"):
        compare_galaxies(setting(), [], tmp_path)
    short = Galaxy("real", 0, "g", np.ones(2), np.ones(2), 0.1)
    with pytest.raises(ParameterError, match="select and order"):
        compare_galaxies(setting(), [short], tmp_path)
    unmeasured = Galaxy("real", 0, "g", np.ones(3), np.zeros(3), 0.1)
    outcome = compare_galaxies(setting(), [unmeasured], tmp_path, n_workers=1).galaxies[0].outcomes["emcee"]
    assert "no band is measured" in outcome.reason


def test_a_run_that_is_told_to_end_is_not_blamed_for_it(tmp_path):
    attempt = tmp_path / "run.attempt"
    attempt.write_text("session ")
    code = (
        "import os, signal, sys; from pathlib import Path; from sedcast.baselines.runs import _not_at_fault\n"
        "with _not_at_fault(Path(sys.argv[1]), 'before'): os.kill(os.getpid(), signal.SIGTERM)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(attempt)], check=False).returncode == -signal.SIGTERM
    assert attempt.read_text() == "before"


def test_the_floor_is_of_one_half_against_the_other(tmp_path):
    draws = np.random.default_rng(0).standard_normal((300, 11)).astype("f4")
    draws[150:] += 2
    outcome = Outcome(draws, np.zeros((3, 16)), np.zeros((3, 17)), 1.0, 1.0)
    (tmp_path / "runs").mkdir()
    pairs = _compare_pairs(setting(), _PairTask(galaxy(0), {"emcee": outcome}, tmp_path))
    assert pairs["emcee", FLOOR].c2st > 0.9


def test_a_run_is_known_by_all_that_it_depends_on(monkeypatch):
    one = setting()
    key = run_key(one, galaxy(0), "emcee")
    for other in (replace(one, simulator_name="other"), setting(n_draws=30), setting(0.5)):
        assert run_key(other, galaxy(0), "emcee") != key
    # Quantiles of other quantities are no result of today's.
    for names in ("COMPARED_NAMES", "PHYSICAL_NAMES"):
        with monkeypatch.context() as patched:
            patched.setattr(outcomes, names, (*getattr(outcomes, names)[:-1], "t50_gyr"))
            assert run_key(one, galaxy(0), "emcee") != key
    assert run_key(setting(), galaxy(0), "emcee") == key


@pytest.mark.parametrize("method", ["flow", "refined", "emcee", "zeus", "nautilus"])
def test_a_run_is_known_by_its_own_settings_and_data_alone(method):
    one = setting()
    key = run_key(one, galaxy(0), method)
    sampled, refined = method in ("emcee", "zeus", "nautilus"), method == "refined"
    mcmc, refine = one.config.mcmc, one.config.refine
    for changes, matters in (
        ({"seed": one.config.seed + 1}, True),
        ({"n_samples": one.config.n_samples + 1}, not sampled),
        ({"independent": not one.config.independent}, sampled),
        ({"mcmc": mcmc.model_copy(update={"max_steps": mcmc.max_steps + 1})}, sampled),
        # A galaxy's chain has a seed of its own.
        ({"mcmc": mcmc.model_copy(update={"seed": mcmc.seed + 1})}, False),
        ({"refine": refine.model_copy(update={"n_draws": refine.n_draws + 1})}, refined),
    ):
        config = one.config.model_copy(update=changes)
        assert (run_key(replace(one, config=config), galaxy(0), method) != key) == matters, changes
    brighter = galaxy(0)
    for name in ("flux", "flux_ivar", "zred"):
        other = replace(brighter, **{name: 1.001 * getattr(brighter, name)})
        assert run_key(one, other, method) != key, name
    assert run_key(one, galaxy(0, mock=True), method) != key


@pytest.mark.parametrize(("efficiency", "n"), [(np.nan, 300), (1.0, 300), (0.05, 100), (1e-6, 2)])
def test_draws_of_the_flow_are_as_many_as_its_weights_are_worth(efficiency, n, monkeypatch):
    one = setting()
    plain = one.estimator.draw

    def weighted(*row, **seed):
        return plain(*row, **seed)._replace(efficiency=np.array([efficiency]), log_evidence=np.array([-3.0]))

    monkeypatch.setattr(one.estimator, "draw", weighted)
    outcome = run_method(one, galaxy(0), "flow")
    assert not outcome.failed
    assert outcome.draws.shape == (n, 11)
    known = np.isfinite(efficiency)
    assert outcome.ess == pytest.approx(2000 * efficiency if known else 2000)
    assert outcome.log_evidence == (-3.0 if known else None)
