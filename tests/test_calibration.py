"""Calibration tests: exact posteriors pass, wrong ones fail in the way that they should."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, ks_2samp, kstest, kstwo
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast.data.errors import ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.emulator.simulation import draw_galaxies
from sedcast.posterior.calibration import Check, _Thinned, calibrate
from sedcast.posterior.mocks import Mocks, draw_mocks, measured_bands
from sedcast.posterior.prior_edges import EdgeRanks
from sedcast.posterior.ranks import TarpResult, holm, rank_statistics, tarp
from sedcast.posterior.resampling import PosteriorDraws


def linear_gaussian(n: int, n_samples: int, *, shift: float = 0.0, widen: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Truths theta ~ N(0, 1) and samples of p(theta | x) for x = theta + N(0, 0.5²), exact for shift 0 and widen 1."""
    rng = np.random.default_rng(8)
    truth = rng.standard_normal(n)
    x = truth + 0.5 * rng.standard_normal(n)
    mean, std = x / 1.25, np.sqrt(0.25 / 1.25)
    return truth, (mean + shift * std)[:, None] + widen * std * rng.standard_normal((n, n_samples))


@pytest.mark.parametrize("n_samples", [3, 200])
def test_ranks_of_an_exact_posterior_are_uniform(n_samples):
    pit = rank_statistics(*linear_gaussian(2000, n_samples), seed=0)
    assert kstest(pit, "uniform").pvalue > 0.01


def test_ranks_show_what_is_wrong():
    def histogram(**wrong):
        return np.histogram(rank_statistics(*linear_gaussian(2000, 200, **wrong), seed=0), bins=4, range=(0, 1))[0] / 2000

    narrow, wide, biased = histogram(widen=0.5), histogram(widen=2.0), histogram(shift=1.0)
    assert narrow[[0, 3]].min() > 0.32 > 0.18 > narrow[[1, 2]].max()
    assert wide[[0, 3]].max() < 0.15 < 0.35 < wide[[1, 2]].min()
    assert biased[0] > 0.5
    assert np.all(np.diff(biased) < 0)


def test_ranks_by_hand():
    samples = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    pit = rank_statistics(np.array([2.5, 0.0, 5.0]), samples, seed=0)
    assert 0.5 < pit[0] < 0.75
    assert 0 < pit[1] < 0.25
    # Ties are broken at random, over all ranks.
    tied = rank_statistics(np.full(4000, 5.0), np.full((4000, 9), 5.0), seed=1)
    assert kstest(tied, "uniform").pvalue > 0.01


def test_ranks_refuse_bad_input():
    with pytest.raises(ParameterError, match="expected"):
        rank_statistics(np.zeros(3), np.zeros((4, 5)), seed=0)
    with pytest.raises(ParameterError, match="expected"):
        rank_statistics(np.zeros(3), np.zeros((3, 0)), seed=0)
    samples = np.zeros((3, 5))
    samples[1, 2] = np.nan
    with pytest.raises(ParameterError, match="not finite in 1 rows"):
        rank_statistics(np.zeros(3), samples, seed=0)


@functools.cache
def tarp_of_gaussian(widen: float, n_reference: int) -> TarpResult:
    """TARP's coverage for N(0, I_3) truths whose posterior is said to be N(0, widen² I_3)."""
    rng = np.random.default_rng(5)
    truth = rng.standard_normal((4000, 3))
    samples = widen * rng.standard_normal((4000, 100, 3))
    ranks = [
        rank_statistics(
            np.linalg.norm(truth - reference, axis=1), np.linalg.norm(samples - reference[:, None], axis=2), seed=[3, k]
        )
        for k, reference in enumerate(rng.standard_normal((n_reference, 4000, 3)))
    ]
    return tarp(np.stack(ranks, axis=1), seed=4)


@pytest.mark.parametrize("n_reference", [1, 8])
def test_tarp_passes_and_fails(n_reference):
    exact, narrow, wide = (tarp_of_gaussian(widen, n_reference) for widen in (1.0, 0.6, 1.7))
    assert exact.max_dev < 1.63 / np.sqrt(4000)
    assert exact.p_value > 0.01
    np.testing.assert_allclose(exact.ecp[[0, -1]], [0, 1])
    for wrong in (narrow, wide):
        assert wrong.max_dev > 0.05
        assert wrong.max_dev > 5 * wrong.max_dev_error
        assert wrong.p_value < 1e-6


def test_tarp_by_hand():
    first = np.array([0.2, 0.6, 0.65, 0.9])
    result = tarp(np.stack([first, [0.2, 0.1, 0.65, 0.3]], axis=1), seed=1)
    # Truths no further from their references than these shares of the samples; of each mock, the mean over its references.
    np.testing.assert_allclose(result.ecp[[0, 15, 25, 62, 65, 100]], [0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1])
    inside = np.array([1.0, 0.5, 0, 0])
    assert result.ecp_error[25] == pytest.approx(inside.std() / 2, rel=0.15)
    # At 0.65, within which are seven of eight.
    assert result.max_dev == pytest.approx(7 / 8 - 0.65)
    # By the first references alone: 0.35 before 0.6, where one in four is within.
    assert result.p_value == pytest.approx(kstwo.sf(0.35, 4))


def test_more_references_make_tarp_less_noisy_and_no_less_sensitive():
    one, many = (tarp_of_gaussian(1.0, n_reference) for n_reference in (1, 8))
    assert many.max_dev_error < 0.8 * one.max_dev_error
    wrong = [tarp_of_gaussian(0.6, n_reference) for n_reference in (1, 8)]
    assert wrong[1].max_dev == pytest.approx(wrong[0].max_dev, abs=4 * wrong[0].max_dev_error)


def test_holm_by_hand():
    # 3 × 0.01; 2 × 0.02; then 0.035, which may not fall below the one before.
    np.testing.assert_allclose(holm(np.array([0.035, 0.01, 0.02])), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm(np.array([[0.6, np.nan], [0.7, np.nan]])), [[1, np.nan], [1, np.nan]])
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.01])), [0.02, np.nan, 0.02])


def prior_mocks(n: int, seed: int) -> Mocks:
    """Mocks whose photometry says nothing: their posterior is the prior."""
    prior = gaussian_estimator().prior
    theta = prior.sample(n, seed)
    return Mocks(theta, prior.to_unbounded(theta), *mock_photometry(n, seed))


def test_calibrated_estimator_passes():
    calls = []
    result = calibrate(
        gaussian_estimator(), prior_mocks(600, 31), n_samples=150, seed=1, progress=lambda *now: calls.append(now)
    )
    figures = result.to_json_dict()
    json.dumps(figures, allow_nan=False)
    assert tuple(figures["ks_p"]) == result.names
    assert result.names[11:14] == ("log_sfr_1gyr", "log_z_mw", "t_mw_gyr")
    assert result.names[14:] == result.others == ("log_sfr_100myr", "log_ssfr_1gyr", "log_ssfr_100myr", "t50_gyr", "a_v")
    assert figures["ks_p_min_holm"] > 0.05
    assert figures["tarp_max_dev"] < 1.63 / np.sqrt(600)
    assert (figures["n_mocks"], figures["n_samples"], figures["n_excluded"]) == (600, 150, 0)
    assert result.pit.shape == (600, 19)
    # Each family has a correction of its own.
    assert figures["ks_p_holm"]["a_v"] == pytest.approx(holm(result.ks_p[14:])[4])
    assert figures["ks_p_holm"]["dust2"] == pytest.approx(holm(result.ks_p[:14])[result.names.index("dust2")])
    for observable in ("zred", "signal_to_noise"):
        by_quartile = figures["ks_p_by_quartile"][observable]
        assert by_quartile["ks_p_min_holm"] > 0.01
        assert len(by_quartile["edges"]) == 5
        assert len(by_quartile["ks_p"]["dust2"]) == 4
    assert len(figures["ks_p_by_quartile"]["zred"]["ks_p"]) == 15
    edges = figures["prior_edges"]
    assert min(edges["ks_p_min_holm"], edges["count_p_min_holm"]) > 0.01
    assert len(edges["edges"]) == 22
    np.testing.assert_allclose(sum(edge["n_expected"] for edge in edges["edges"].values()), 600 * 22 * 0.05, rtol=0.02)
    assert {check["name"]: check["passes"] for check in figures["checks"]}["smallest KS p after Holm's correction"] is True
    assert calls[-1] == (600, 600)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.6), (0.0, 1.7), (0.5, 1.0)])
def test_wrong_estimators_fail(mean, std):
    figures = calibrate(gaussian_estimator(mean, std), prior_mocks(600, 32), n_samples=100, seed=1).to_json_dict()
    assert max(p for name, p in figures["ks_p"].items() if name in ("dust1", "dust2", "log_mstar", "fburst")) < 1e-6
    assert max(figures["ks_p"][name] for name in ("log_ssfr_1gyr", "t50_gyr", "a_v")) < 1e-3
    passed = {check["name"]: check["passes"] for check in figures["checks"]}
    assert passed["KS p of the other derived quantities"] is False
    if mean == 0:
        assert figures["tarp_max_dev"] > 5 * figures["tarp_max_dev_error"]


def test_a_fault_at_high_redshift_alone_is_seen_in_its_quartile():
    mocks = prior_mocks(800, 33)
    shifted = mocks.theta_unbounded.copy()
    shifted[mocks.zred > np.quantile(mocks.zred, 0.75), 8] += 0.8
    faulty = Mocks(gaussian_estimator().prior.from_unbounded(shifted), shifted, mocks.flux, mocks.flux_ivar, mocks.zred)
    quartiles = calibrate(gaussian_estimator(), faulty, n_samples=100, seed=1).to_json_dict()["ks_p_by_quartile"]
    p = quartiles["zred"]["ks_p"]["dust1"]
    assert p[3] < 1e-6
    assert min(p[:3]) > 1e-3


def test_a_quartile_without_mocks_is_left_out():
    mocks = prior_mocks(200, 31)
    result = calibrate(gaussian_estimator(), replace(mocks, zred=np.full(200, 0.1)), n_samples=50, seed=1)
    p = result.quartiles["zred"][1]
    assert np.isnan(p[:3]).all()
    assert np.isfinite(p[3]).all()
    (check,) = [check for check in result.checks() if check.name == "KS p within quartiles of zred"]
    assert check.passes is not None
    figures = json.loads(json.dumps(result.to_json_dict(), allow_nan=False))
    assert figures["ks_p_by_quartile"]["zred"]["ks_p"]["dust1"][:3] == [None, None, None]


def test_truths_at_the_edge_pass_where_naive_ranks_cannot():
    mocks = prior_mocks(1500, 34)
    chosen = mocks.theta_unbounded[:, 8] < -1.6449
    naive = calibrate(gaussian_estimator(), mocks, n_samples=200, seed=1)
    # Selected by truth, the plain rank of an exact posterior is in the lowest twentieth ...
    assert naive.pit[chosen, 8].max() < 0.15
    # ... the rank within the edge is uniform.
    assert naive.edges.ks_p[naive.edges.edges.index("dust1 low")].min() > 0.01 / 14


def test_a_posterior_that_falls_off_at_the_edge_is_seen():
    mocks = prior_mocks(1500, 35)
    result = calibrate(gaussian_estimator(0.0, 0.85), mocks, n_samples=200, seed=1).edges
    k = result.edges.index("dust2 low")
    assert result.n_expected[k] < 0.7 * result.n_truth[k]
    assert result.count_p[k] < 1e-3
    assert result.to_json_dict()["count_p_min_holm"] < 0.01


def test_edges_with_few_truths_have_no_ranks():
    figures = calibrate(gaussian_estimator(), prior_mocks(40, 36), n_samples=50, seed=1).to_json_dict()
    json.dumps(figures, allow_nan=False)
    assert figures["prior_edges"]["count_p_min_holm"] > 0.05
    assert figures["prior_edges"]["edges"]["dust2 low"]["ks_p"]["dust2"] is None
    assert figures["checks"][-2]["passes"] is None


def test_a_posterior_without_any_sample_at_the_edge_is_seen():
    rng = np.random.default_rng(3)
    truth, samples = rng.standard_normal((1000, 11)), np.clip(rng.standard_normal((1000, 100, 11)), -1.64, 1.64)
    ranks = EdgeRanks(FREE_PARAMETER_NAMES, seed=0)
    ranks.add(samples, samples, truth, truth)
    assert ranks.result().n_expected.max() == 0
    assert not ranks.result().normal.any()
    assert ranks.result().count_p.max() < 1e-6


def test_counts_at_the_edge_by_hand():
    """400 mocks with half of their samples in the lower edge, and none in the upper one; and 220 truths in the lower."""
    samples = np.where(np.arange(1000) < 500, -2.0, 0.0)[None, :, None] * np.ones((400, 1, 1))
    truth = np.where(np.arange(400) < 220, -2.0, 0.0)[:, None]
    ranks = EdgeRanks(("dust1",), seed=0, parameters=("dust1",))
    # Of a capped sample: the edges are the outer twentieths.
    samples[:, 999] = -1.64
    ranks.add(samples, samples, truth, truth)
    result = ranks.result()
    assert result.edges == ("dust1 low", "dust1 high")
    assert result.n_truth.tolist() == [220, 0]
    assert result.n_expected.tolist() == [200, 0]
    assert result.n_error[0] == pytest.approx(10, rel=2e-3)
    assert result.count_p[0] == pytest.approx(binomtest(220, 400, 0.5).pvalue, rel=0.15)
    assert np.isnan(result.count_p[1])
    # Of few samples, the mass that they estimate scatters as well.
    few = EdgeRanks(("dust1",), seed=0, parameters=("dust1",))
    few.add(np.tile(np.array([-2.0, 0.0]), (50, 1))[..., None], np.zeros((50, 2, 1)), np.zeros((50, 1)), np.zeros((50, 1)))
    assert few.result().n_error[0] == pytest.approx(np.sqrt(50 * 0.25 * 3))
    # Of rare ones the test is exact: each event is a truth with one chance in 21.
    rare = EdgeRanks(("dust1",), seed=0, parameters=("dust1",))
    samples = np.where(np.arange(20) < 1, -2.0, 0.0)[None, :, None] * np.ones((8, 1, 1))
    truth = np.where(np.arange(8) < 3, -2.0, 0.0)[:, None]
    rare.add(samples, samples, truth, truth)
    assert rare.result().count_p[0] == pytest.approx(binomtest(3, 11, 1 / 21).pvalue)


def test_ranks_at_the_edge_are_among_the_samples_there():
    """Truths at the edge that their posteriors place well: uniform among the samples there, lowest among all."""
    rng = np.random.default_rng(4)
    truth, samples = rng.standard_normal((2000, 1)), rng.standard_normal((2000, 200, 1))
    for n, tested in ((2000, True), (100, False)):
        ranks = EdgeRanks(("dust1",), seed=0, parameters=("dust1",))
        ranks.add(samples[:n], samples[:n], truth[:n], truth[:n])
        assert ranks.result().n_truth.min() > 0
        assert np.isfinite(ranks.result().ks_p).all() == tested
    assert ranks.result().n_truth.max() < 20
    ranks = EdgeRanks(("dust1",), seed=0, parameters=("dust1",))
    ranks.add(samples, samples, truth, truth)
    assert ranks.result().ks_p.min() > 0.01


def test_few_truths_at_the_edge_are_no_alarm():
    """Posteriors with little mass at each edge: the share of small p-values is at most nominal."""
    p_values = []
    for seed in range(100):
        both = np.random.default_rng([seed, 5]).standard_normal((60, 21, 11))
        ranks = EdgeRanks(FREE_PARAMETER_NAMES, seed=0)
        ranks.add(both[:, 1:], both[:, 1:], both[:, 0], both[:, 0])
        p_values.append(ranks.result().count_p)
    assert 0.015 < np.mean(np.array(p_values) < 0.05) < 0.065


def test_classes_of_measured_bands():
    bands = ("FUV", "NUV", "u", "g", "r", "i", "z")
    classes = measured_bands(bands, 5000, seed=0)
    assert list(classes) == ["all bands", "u g r i z only", "NUV u g r i z only", "random subsets"]
    assert classes["u g r i z only"][0].tolist() == [False, False, True, True, True, True, True]
    random = classes["random subsets"]
    assert random.any(axis=1).all()
    # Every one of the 127 subsets, each band in 64 of them.
    assert len(np.unique(random, axis=0)) == 127
    np.testing.assert_allclose(random.mean(axis=0), 64 / 127, atol=0.03)
    assert list(measured_bands(BANDS, 10, seed=0)) == ["all bands", "random subsets"]


def test_too_few_mocks():
    with pytest.raises(ParameterError, match="at least 20"):
        calibrate(gaussian_estimator(), prior_mocks(10, 1), seed=0)


def test_mocks_without_samples_are_a_failure():
    estimator = gaussian_estimator()

    def losing(n_lost):
        def draw(flux, *args, row_keys, **options):
            draws = estimator.draw(flux, *args, row_keys=row_keys, **options)
            draws.points[row_keys < n_lost] = np.nan
            return draws

        return draw

    result = calibrate(estimator, prior_mocks(600, 31), seed=1, sampler=losing(2))
    (check,) = (check for check in result.checks() if check.name == "share of mocks without samples")
    assert check.value == pytest.approx(2 / 600)
    assert check.passes is False
    assert result.to_json_dict()["passes"] is False
    with pytest.raises(ParameterError, match="590 of 600 mocks have non-finite samples"):
        calibrate(estimator, prior_mocks(600, 31), seed=1, sampler=losing(590))


class FakeSimulator:
    bands = BANDS

    def flux(self, theta, zred, *, n_threads=1):
        rest = np.array([0.2, 0.6, 1.0, 1.3, 1.5]) * np.exp(-0.2 * theta[:, 10:11])
        return rest * 10 ** (0.4 * (22.5 - 17.5) + theta[:, :1] - 9.7) * (0.1 / zred[:, None]) ** 2


def test_draw_mocks_from_the_joint():
    estimator = gaussian_estimator()
    noise = NoiseModel.sdss()
    mocks = draw_mocks(300, FakeSimulator(), estimator, noise, seed=3)
    assert len(mocks) == 300
    assert noise.in_range(mocks.flux, mocks.flux_ivar**-0.5).all()
    low, high = estimator.zred_range
    assert ((mocks.zred >= low) & (mocks.zred <= high)).all()
    with pytest.raises(ParameterError, match="noise has bands"):
        draw_mocks(300, FakeSimulator(), estimator, noise.select(("g", "r")), seed=4)


def test_mocks_are_observed_as_their_parameters_and_redshifts_say():
    mocks = draw_mocks(300, FakeSimulator(), gaussian_estimator(), NoiseModel.sdss(), seed=3)
    away = (mocks.flux - FakeSimulator().flux(mocks.theta, mocks.zred)) * np.sqrt(mocks.flux_ivar)
    assert np.std(away) == pytest.approx(1, abs=0.15)
    assert np.abs(away).max() < 6


def test_draw_mocks_with_unmeasured_bands():
    estimator, noise = gaussian_estimator(), NoiseModel.sdss()
    measured = measured_bands(BANDS, 2000, seed=1)["random subsets"]
    mocks = draw_mocks(2000, FakeSimulator(), estimator, noise, seed=3, measured=measured)
    assert ((mocks.flux_ivar > 0) == measured).all()
    assert (mocks.flux[~measured] == 0).all()
    assert np.isfinite(mocks.signal_to_noise).all()
    one = np.flatnonzero(measured.sum(axis=1) == 1)[0]
    band = measured[one].argmax()
    assert mocks.signal_to_noise[one] == pytest.approx(mocks.flux[one, band] * np.sqrt(mocks.flux_ivar[one, band]))
    # Where one band alone is measured, it alone decides on acceptance: the same galaxies as a simulator of that band draws.
    g_only = np.zeros((3000, 5), dtype=bool)
    g_only[:, 1] = True
    alone = draw_mocks(3000, FakeSimulator(), estimator, noise, seed=5, measured=g_only)
    drawn = _draws_in_g(estimator, noise, 3000)
    assert ks_2samp(alone.theta[:, 0], drawn.theta[:, 0]).pvalue > 0.01
    assert ks_2samp(alone.flux[:, 1], drawn.flux[:, 0]).pvalue > 0.01


class FakeG(FakeSimulator):
    bands = ("g",)

    def flux(self, theta, zred, *, n_threads=1):
        return super().flux(theta, zred)[:, 1:2]


def _draws_in_g(estimator, noise, n):
    low, high = estimator.zred_range
    galaxies = draw_galaxies(FakeG(), estimator.prior, noise.select(("g",)), RedshiftPrior(min=low, max=high), seed=6)
    _, draws = next(galaxies)
    assert len(draws) > n
    return draws


def test_a_failed_check_fails_the_whole():
    assert Check("x", 2.0, 1.0, at_least=False).passes is False
    result = calibrate(gaussian_estimator(0.0, 0.8), prior_mocks(600, 32), n_samples=100, seed=1)
    (joint,) = (check for check in result.checks() if check.name == "TARP, largest deviation")
    assert joint.bar == pytest.approx(0.015 * (10_000 / 600) ** 0.5)
    assert joint.passes is bool(joint.value <= joint.bar)
    assert not result.to_json_dict()["passes"]


def test_samples_to_rank_are_no_copies_of_each_other():
    class Copies:
        def draw(self, flux, flux_ivar, zred, n, *, seed, row_keys):
            return PosteriorDraws(np.repeat(np.arange(n // 4), 4)[None, :, None].astype("f4"), np.ones(1), np.zeros(1))

    thinned = _Thinned(Copies())(None, None, None, 10, seed=0, row_keys=None)
    assert len(np.unique(thinned.points)) == 10
