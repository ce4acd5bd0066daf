import functools
import json
import os
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from standin import gaussian_estimator

from benchmarks import common, emulator, emulator_accuracy, mcmc, sbi_comparison, scale, sps
from benchmarks.__main__ import BENCHMARKS, main
from sedcast.baselines.mcmc import McmcConfig
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import MissingDependencyError
from sedcast.data.mapping import load_mapping, read_mapped
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.prior import Prior
from sedcast.emulator.sps import SPSModel


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a benchmark quickly, without FSPS; returns its JSON object."""

    def no_fsps() -> None:
        raise MissingDependencyError("SPS_HOME is not set")

    monkeypatch.setattr(sps, "FSPSModel", no_fsps)
    monkeypatch.setattr(common, "_GEMM_SIZE", 64)
    monkeypatch.setattr(common.time_rounds, "__kwdefaults__", {"min_seconds": 0.0})

    def call(*arguments: str) -> dict[str, Any]:
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        figures: dict[str, Any] = json.loads(out)
        return figures

    return call


def assert_positive(figures: dict[str, Any], *keys: str) -> None:
    for key in keys:
        assert figures[key] > 0, key


def test_help_lists_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text and line in text for name, (_, line) in BENCHMARKS.items())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert "--threads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sps", "--threads", "99999"], "--threads=99999"),
        (["emulator", "--emulator", "nowhere.npz"], "nowhere.npz"),
        (["emulator-accuracy", "--emulator", "nowhere.npz"], "nowhere.npz"),
        (["simulate", "--bands", "u", "u"], "bands"),
        (["sbi-comparison", "--sbi-python", "nowhere"], "nowhere has no sbi"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err.splitlines()[-1]


def test_counts_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("0", "-3", "2.5"):
        with pytest.raises(SystemExit) as stopped:
            main(["sps", "--repeats", value])
        assert stopped.value.code == 2
        assert value in capsys.readouterr().err


def test_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["speed"])
    assert stopped.value.code == 2
    assert "emulator-accuracy" in capsys.readouterr().err


def test_json_is_strict() -> None:
    line = common.as_json({"a": np.float32(0.5), "b": np.nan, "c": [np.int64(3), (np.inf,)], "d": {"e": None}})
    assert json.loads(line) == {"a": 0.5, "b": None, "c": [3, [None]], "d": {"e": None}}


def test_rounds_run_every_task_in_turn() -> None:
    calls: list[str] = []
    tasks = {name: lambda name=name: calls.append(name) for name in "ab"}  # type: ignore[misc]
    seconds = common.time_rounds(tasks, repeats=3, min_seconds=0.0)
    assert "".join(calls) == "aabb" + "ab" * 3
    assert [len(times) for times in seconds.values()] == [3, 3]


def test_flop_count_by_hand() -> None:
    bundled = common.load_emulator("bundled")
    widths = [bundled.network.n_input, *bundled.card["config"]["network"]["hidden"], sum(bundled.n_pca)]
    products = sum(a * b for a, b in pairwise(widths)) + (8 + sum(bundled.n_pca)) * 100
    assert emulator.flop_per_galaxy(bundled, 100) == 2 * products


def test_sps(run: Any) -> None:
    figures = run("sps", "--galaxies", "64", "--repeats", "1")
    assert_positive(figures, "direct_per_s", "direct_float32_per_s", "gemm_flop_per_s")
    assert figures["fsps_call_s"] is figures["fsps_model_s"] is None
    assert figures["fsps_reason"] == "SPS_HOME is not set"


@pytest.mark.fsps
def test_fsps_tasks_give_spectra() -> None:
    tasks, reason = sps.fsps_tasks(0)
    assert reason == ""
    for task in tasks.values():
        first, second = np.squeeze(task()), np.squeeze(task())
        assert first.shape == second.shape
        assert (first >= 0).all()
        assert not np.array_equal(first, second)


def test_emulator(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(emulator.PUBLISHED_VARIABLE, raising=False)
    figures = run("emulator", "--galaxies", "600", "--bands", "u", "r", "--repeats", "1")
    assert_positive(figures, "phot_per_s", "spec_per_s", "single_us", "batch64_ms", "gemm_fraction", "direct_phot_per_s")
    assert figures["threads"] >= 1
    assert figures["repeats"] == 1
    assert figures["published_spec_per_s"] is None
    assert emulator.PUBLISHED_VARIABLE in figures["published_reason"]
    for stages in figures["profile"].values():
        assert sum(stages.values()) == pytest.approx(1)
        # A stage of no share is a function that has been renamed.
        assert min(stages.values()) > 0


@pytest.mark.published
def test_published_tasks_give_spectra() -> None:
    tasks, reason = emulator.published_tasks(Path(os.environ[emulator.PUBLISHED_VARIABLE]), 0, 2)
    assert reason == ""
    many, one = tasks.values()
    assert many() == emulator.N_PUBLISHED
    assert len(one()) == 1


def test_emulator_accuracy(run: Any, tmp_path: Path) -> None:
    plot = tmp_path / "percentiles.png"
    bands = ("u", "g", "r")
    written = tmp_path / "new" / "figures.json"
    outputs = ("--plot", str(plot), "--json", str(written))
    figures = run("emulator-accuracy", "--draws", "300", "--edge-draws", "50", "--bands", *bands, *outputs)
    assert json.loads(written.read_text()) == figures
    assert len(figures["worst"]) == len(figures["worst_observable"]) == 10
    assert len(figures["edges"]) == 5
    for key in ("phot_p99_mag", "phot_p999_mag"):
        assert tuple(figures[f"{key}_by_band"]) == bands
        assert figures[key] == max(figures[f"{key}_by_band"].values())
    assert 0 < figures["spec_p99_frac"] <= figures["spec_p999_frac"] <= figures["spec_p999_frac_worst_wave"]
    assert set(figures["residual_correlation"]) == {"u-g", "g-r"}
    assert plot.stat().st_size > 1000


@dataclass(frozen=True)
class Brighter:
    """The direct model's spectra times a factor, in the place of an emulator."""

    model: SPSModel
    factor: float
    cosmology: Cosmology = field(default_factory=Cosmology)
    card: dict[str, Any] = field(default_factory=lambda: {"config": {"library": "popstar"}})

    @property
    def wave_rest(self) -> np.ndarray:
        return self.model.wave_rest

    def spectra(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        return self.factor * self.model.spectra(theta, zred)


def test_errors_of_a_known_emulator() -> None:
    model = SPSModel(SSPLibrary.popstar().trimmed(912.0, 50_000.0))
    theta, zred = common.draw(Prior(), 40, 0.25, 3)
    comparison = emulator_accuracy.Comparison(Brighter(model, 1.02), ("FUV", "g"), 0.25)  # type: ignore[arg-type]
    assert 912 <= comparison.wave[0] < comparison.wave[-1] <= 30_000
    errors = comparison.errors(theta, zred)
    np.testing.assert_allclose(errors.delta_mag, -2.5 * np.log10(1.02), atol=1e-5)
    found = emulator_accuracy.percentiles(errors.spectra.by_wave.sum(axis=0))
    assert (found >= 0.0199999).all()
    assert (found <= 0.0203).all()
    figures = emulator_accuracy.photometry_figures(errors.delta_mag, ("FUV", "g"))
    assert figures["phot_p99_mag"] == pytest.approx(2.5 * np.log10(1.02), abs=1e-5)
    assert figures["within_1_percent"] == 0.0
    assert not figures["phot_pass"]


def test_percentiles_of_counts(rng: np.random.Generator) -> None:
    true = rng.uniform(1, 2, (3000, 3))
    error = 10 ** rng.uniform(-6, -1, true.shape)
    errors = emulator_accuracy.SpectrumErrors(3)
    for rows in np.split(np.arange(3000), 10):
        errors.add(true[rows] * (1 + error[rows]), true[rows])
    for k, counts in enumerate(errors.by_wave):
        exact = np.percentile(error[:, k], [50, 95, 99, 99.9], method="higher")
        np.testing.assert_allclose(emulator_accuracy.percentiles(counts), exact, rtol=0.02)
    assert errors.left_out == 0
    assert np.isnan(emulator_accuracy.percentiles(errors.faint)).all()


def test_faint_and_dark_wavelengths_are_told_apart() -> None:
    errors = emulator_accuracy.SpectrumErrors(4)
    errors.add(np.array([[0.0, 2e-14, 0.0, 1.0]]), np.array([[0.5, 1e-14, 0.0, 1.0]]))
    assert errors.left_out == 0.5
    assert emulator_accuracy.percentiles(errors.by_wave[0], (99.0,))[0] == pytest.approx(1.0, rel=0.02)
    assert emulator_accuracy.percentiles(errors.faint, (10.0,))[0] == pytest.approx(1e-9)
    assert not errors.by_wave[1:3].any()


def test_photometry_figures_of_gaussian_errors(rng: np.random.Generator) -> None:
    common_part = rng.standard_normal(200_000)
    delta = 0.004 * np.stack([common_part, 0.6 * common_part + 0.8 * rng.standard_normal(200_000)], axis=1)
    figures = emulator_accuracy.photometry_figures(delta, ("g", "r"))
    assert figures["phot_p99_mag"] == pytest.approx(2.5758 * 0.004, rel=0.02)
    # Spearman's coefficient of a bivariate normal is 6/pi asin(rho/2).
    assert figures["residual_correlation"]["g-r"] == pytest.approx(6 / np.pi * np.arcsin(0.3), abs=0.01)
    assert figures["within_1_percent"] == pytest.approx(0.9928, abs=2e-3)


def test_no_light_counts_as_an_infinite_error() -> None:
    delta = np.zeros((50, 1))
    delta[:2] = np.inf
    assert emulator_accuracy.photometry_figures(delta, ("u",))["phot_p999_mag"] == np.inf


def test_edges_of_the_prior(rng: np.random.Generator) -> None:
    prior = Prior()
    young, near, poor, rich, single = emulator_accuracy.edge_draws(prior, np.full(300, 0.1), np.full(300, 12.0), rng).values()
    assert all(prior.contains(theta).all() for theta in (young, near, poor, rich, single))
    assert young[:, 6].max() < 0.05
    assert np.abs(near[:, 6] / 12.0 - 1).max() <= 0.05
    assert min(young[:, 5].min(), near[:, 5].min()) >= 0.1
    assert poor[:, 7:9].max() < 1e-4 < 8e-3 < rich[:, 7:9].min()
    assert single[:, 1:5].max(axis=1).min() >= 0.9


def test_worst_cases_may_be_held_to_what_can_be_observed() -> None:
    theta, zred = Prior().sample(20, 0), np.full(20, 0.1)
    delta = np.linspace(0, 0.1, 40).reshape(20, 2)
    mag = np.full((20, 2), 20.0)
    delta[3, 0], mag[3, 0] = np.inf, 80.0
    errors = emulator_accuracy.Errors(delta, mag, emulator_accuracy.SpectrumErrors(1))
    worst = emulator_accuracy.worst_cases(errors, theta, zred, ("FUV", "u"))
    assert [worst[0]["band"], worst[0]["mag"], worst[0]["log_mstar"]] == ["FUV", 80.0, theta[3, 0]]
    assert len(worst) == 10
    observable = emulator_accuracy.worst_cases(errors, theta, zred, ("FUV", "u"), faintest=35.0)
    assert [case["max_abs_delta_mag"] for case in observable] == sorted(delta[10:, 1], reverse=True)


def test_simulate(run: Any) -> None:
    figures = run("simulate", "--galaxies", "200", "--repeats", "1")
    assert_positive(figures, "galaxies_per_s", "proposals_per_s", "peak_gib")
    assert figures["galaxies_per_s"] < figures["proposals_per_s"]
    assert figures["n_galaxies"] == 200


def test_posterior(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "posterior.npz"
    gaussian_estimator().save(path)
    small = ("--samples", "20", "--catalog", "5", "--galaxies", "3", "--survey", "1", "--batch", "64", "--steps", "2")
    figures = run("posterior", "--posterior", str(path), "--flow", "1", "16", "--activation", "relu", *small, "--repeats", "1")
    assert_positive(figures, "samples_per_s", "tfp_samples_per_s", "tfp_as_it_comes_per_s", "log_prob_per_s", "gemm_fraction")
    assert_positive(figures, "one_galaxy_ms", "batch64_ms", "catalog_galaxies_per_s", "survey_wall_hours", "train_per_s")
    assert figures["flop_per_sample_of_all_weights"] == 2 * (11 * 16 + 16 * 22)
    assert figures["flop_per_sample"] < figures["flop_per_sample_of_all_weights"]
    assert figures["flow"] == {
        "untrained": True,
        "n_blocks": 1,
        "hidden": [16],
        "activation": "relu",
        "embedding": [],
        "choice": [],
        "n_options": 2,
        "transform": "affine",
        "learnt_parameters": 11,
    }


def test_mcmc(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcmc, "McmcConfig", functools.partial(McmcConfig, n_walkers=22, n_groups=2, n_screen=500))
    monkeypatch.setattr(mcmc, "parse_config", lambda settings, config, _: config(**settings))
    figures = run("mcmc", "--rows", "1", "--max-evaluations", "8000", "--target-ess", "100000")
    for sampler in ("emcee", "zeus"):
        keys = ("cpu_s_per_galaxy", "ess_per_cpu_s", "evaluations_per_cpu_s", "overhead_fraction")
        assert_positive(figures, *(f"{sampler}_{key}" for key in keys))
        assert figures[f"{sampler}_overhead_fraction"] < 1
        assert figures[f"{sampler}_converged"] == 0
    assert figures["repeats"] == 1


def test_sbi_comparison(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for sbi: the standard normal, which the truths follow but for what acceptance changes."""
    seen = {}

    def standard_normal(pairs: dict[str, np.ndarray], _: Any) -> tuple[np.ndarray, dict[str, Any]]:
        seen.update(pairs)
        theta = pairs["held_theta"].astype(float)
        log_prob = -0.5 * (theta**2 + np.log(2 * np.pi)).sum(axis=1)
        return log_prob, {"epochs": 2, "seconds": 1.0, "galaxies_per_s": 1.0, "samples_per_s": 1.0}

    monkeypatch.setattr(sbi_comparison, "_interpreter", str)
    monkeypatch.setattr(sbi_comparison, "train_sbi", standard_normal)
    monkeypatch.setattr(sbi_comparison, "_SAMPLING_SECONDS", 0.1)
    shape = ["--n-galaxies", "3000", "--held-out", "500", "--blocks", "1", "--hidden", "16", "--batch", "250"]
    figures = run("sbi-comparison", *shape)
    assert (figures["n_train"], figures["n_held_out"]) == (2500, 500)
    assert seen["theta"].shape == (2500, 11)
    assert seen["held_context"].shape == (500, 13)
    assert figures["runs"]["ours, same epochs"]["epochs"] == 2
    # 11 × 0.5 ln(2πe) nats is what a standard normal has on average.
    assert figures["runs"]["sbi"]["held_out_log_prob"] == pytest.approx(-15.6, abs=0.5)
    assert figures["over_sbi_nats"] == figures["runs"]["ours"]["over_sbi_nats"]
    assert_positive(figures, "sampling_over_sbi", "over_sbi_error")


def test_a_survey_on_paper_takes_as_long_as_its_slowest_part() -> None:
    costs = scale.Costs(
        cpu_s=3.6e-3,
        join_s=3.6e-3,
        input_bytes=100,
        summary_bytes=400,
        sample_bytes=0,
        task_s=0.01,
        write_bytes_per_s=1e9,
        rows_per_task=10_000,
    )
    paper = scale.on_paper(costs, n_rows=10**9, n_cores=1000, n_files=100)
    assert paper["compute_h"] == pytest.approx(1.0)
    assert paper["join_h"] == pytest.approx(10.0)
    assert (paper["bottleneck"], paper["hours"]) == ("join", paper["join_h"])
    assert paper["network_h"] == pytest.approx((100 + 3 * 400) * 1e9 / 1.25e9 / 3600)
    assert paper["scheduler_h"] == pytest.approx(1e5 * 0.01 / 3600)


def test_made_catalogues_are_the_sample_with_new_noise(tmp_path: Path) -> None:
    path = scale.write_catalog(tmp_path / "c.fits", 2000, seed=3)
    catalog = read_mapped(path, load_mapping("kcorrect-sdss"))
    assert len(Table.read(path)) == len(catalog) == 2000
    assert catalog.ok.mean() > 0.95
    own = load_sdss_sample()
    np.testing.assert_allclose(np.median(catalog.flux, axis=0), np.median(own.flux, axis=0), rtol=0.1)


def test_power_of_the_calibration_checks(run: Any) -> None:
    faults = ("none", "all widths × 0.8", "all of it", "a correlation of -0.92 removed", "20 samples, each five times")
    figures = run("power", "--mocks", "800", "--samples", "100", "--repeats", "1", "--seed", "3", "--faults", *faults)
    exact, narrow, cut, uncorrelated, copied = (figures["missed"][fault] for fault in faults)
    assert exact["any"] == 0
    assert narrow["ranks"] == narrow["TARP"] == narrow["edges, numbers"] == 1
    # No sample beyond the limit, so nothing for ranks within the edge.
    assert (cut["edges, ranks"], cut["edges, numbers"]) == (0, 1)
    # Each parameter by itself is right.
    assert (uncorrelated["ranks"], uncorrelated["edges, ranks"]) == (0, 1)
    assert copied["any"] == 1
