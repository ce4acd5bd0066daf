"""Reweighting to another prior, against answers known in closed form."""

import numpy as np
import pytest
from scipy.stats import beta, kstest, norm

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import DERIVED_NAMES
from sedcast.emulator.prior import Prior
from sedcast.posterior.reweight import PriorModel, reweight_to

MODEL = PriorModel(Prior(), SFHBases.default(), Cosmology())
ZRED = 0.1


@pytest.fixture(scope="module")
def theta():
    return Prior().sample(20_000, 5)


def test_parameters_with_a_uniform_prior_follow_the_wanted_density(theta):
    # Samples of the prior are the posterior of a galaxy without data, so the weighted samples must follow the new prior.
    wanted = beta(2, 5, scale=3)
    result = reweight_to(theta, lambda c: wanted.logpdf(c["dust2"]), ["dust2"], model=MODEL, zred=ZRED)
    rows = result.resample(3000, 1)
    assert kstest(theta[rows, 10], wanted.cdf).pvalue > 1e-3
    ratio = 3 * np.exp(wanted.logpdf(theta[:, 10]))
    assert result.ess == pytest.approx(ratio.sum() ** 2 / (ratio**2).sum())
    assert result.log_evidence_ratio == pytest.approx(0.0, abs=0.03)
    assert result.uncovered == 0


def test_figures_of_a_steep_density_are_those_of_its_own_weights(theta):
    result = reweight_to(theta, lambda c: 4 * c["dust2"], ["dust2"], model=MODEL, zred=ZRED)
    ratio = np.exp(4 * theta[:, 10])
    # Not those of the smoothed ones.
    assert result.ess == pytest.approx(ratio.sum() ** 2 / (ratio**2).sum())
    assert result.weights.sum() == pytest.approx(1)
    # The integral of the density over the range of dust2, from 0 to 3.
    assert result.log_evidence_ratio == pytest.approx(12 - np.log(4), abs=0.05)


def test_a_log_uniform_prior_is_divided_out(theta):
    flat = reweight_to(theta, lambda c: np.zeros_like(c["gamma1_zh"]), ["gamma1_zh"], model=MODEL, zred=ZRED)
    assert flat.weights @ theta[:, 7] == pytest.approx((4.5e-5 + 1.5e-2) / 2, rel=0.03)


def test_the_prior_itself_changes_nothing(theta):
    result = reweight_to(theta, lambda c: np.full(len(c["dust1"]), 3.0), ["dust1", "dust_index"], model=MODEL, zred=ZRED)
    np.testing.assert_allclose(result.weights, 1 / len(theta))
    assert result.ess == pytest.approx(len(theta))


def test_a_density_over_a_derived_property_replaces_what_the_prior_induces(theta):
    wanted = norm(9.0, 1.0)
    few = theta[:4000]
    result = reweight_to(few, lambda c: wanted.logpdf(c["t_mw_gyr"]), ["t_mw_gyr"], model=MODEL, zred=ZRED)
    age = MODEL.columns(few, ZRED)["t_mw_gyr"]
    rows = result.resample(1000, 1)
    assert abs(age.mean() - 9) > 0.5
    assert np.mean(age[rows]) == pytest.approx(9.0, abs=0.15)
    assert np.std(age[rows]) == pytest.approx(1.0, abs=0.1)
    assert result.uncovered < 0.01
    # What the prior says of mass, independent of age, stays.
    assert kstest(few[rows, 0], "uniform", (7, 5.5)).pvalue > 1e-3


def test_samples_where_the_prior_has_no_draws_are_counted(theta):
    few = theta[:4000]
    age = MODEL.columns(few, ZRED)["t_mw_gyr"]
    result = reweight_to(few, lambda c: norm(age.max(), 0.02).logpdf(c["t_mw_gyr"]), ["t_mw_gyr"], model=MODEL, zred=ZRED)
    assert result.ess < 50

    def uncovered(quantile: float) -> float:
        wanted = norm(np.quantile(age, quantile), 0.02)
        log_density = lambda c: wanted.logpdf(c["t_mw_gyr"])  # noqa: E731
        return reweight_to(few, log_density, ["t_mw_gyr"], model=MODEL, zred=ZRED, n_prior=1000).uncovered

    # Of the 1,000 draws that the estimate is made from, one is younger, and ten.
    assert uncovered(0.001) > 0.9
    assert uncovered(0.01) < 1e-6


def test_two_derived_properties(theta):
    # A priori these two know nothing of each other.
    wanted = {"a_v": norm(1.5, 0.3), "t50_gyr": norm(6.0, 1.0)}
    values = MODEL.columns(theta, ZRED)
    result = reweight_to(
        theta, lambda c: sum(w.logpdf(c[name]) for name, w in wanted.items()), [*wanted], model=MODEL, zred=ZRED
    )
    means = {name: result.weights @ values[name] for name in wanted}
    for name, density in wanted.items():
        assert means[name] == pytest.approx(density.mean(), abs=5 * density.std() / np.sqrt(result.ess))
        spread = result.weights @ (values[name] - means[name]) ** 2
        assert np.sqrt(spread) == pytest.approx(density.std(), rel=0.05)
    together = result.weights @ ((values["a_v"] - means["a_v"]) * (values["t50_gyr"] - means["t50_gyr"]))
    assert abs(together) / (0.3 * 1.0) < 5 / np.sqrt(result.ess)
    assert result.uncovered < 0.01


@pytest.mark.parametrize("name", DERIVED_NAMES)
def test_a_flat_density_over_a_derived_property_makes_it_flat(theta, name):
    values = MODEL.columns(theta, ZRED)[name]
    low, high = np.quantile(values, [0.01, 0.99])
    inside = lambda c: np.where((c[name] >= low) & (c[name] < high), 0.0, -np.inf)  # noqa: E731
    weights = reweight_to(theta, inside, [name], model=MODEL, zred=ZRED).weights
    bins = np.digitize(values, np.linspace(low, high, 9)[1:-1])
    for k in range(8):
        share, noise = weights[bins == k].sum(), np.sqrt((weights[bins == k] ** 2).sum())
        assert share == pytest.approx(1 / 8, abs=0.06 / 8 + 4 * noise)


def test_the_induced_density_stands_up_to_a_hard_edge(theta):
    # No galaxy forms more than its whole mass within 1 Gyr: log sSFR ends at -9, where kernels alone lose half of the density.
    low, edge, top = -9.06, -9.0, -1.5
    values = MODEL.columns(theta, ZRED)
    for names in (["log_ssfr_1gyr"], ["log_ssfr_1gyr", "log_z_mw"]):

        def flat(columns, names=names):
            inside = columns["log_ssfr_1gyr"] > -9.4
            if len(names) > 1:
                inside &= (columns["log_z_mw"] > -2.5) & (columns["log_z_mw"] < top)
            return np.where(inside, 0.0, -np.inf)

        weights = reweight_to(theta, flat, names, model=MODEL, zred=ZRED).weights
        share = weights[values["log_ssfr_1gyr"] > low].sum()
        assert share == pytest.approx((edge - low) / 0.4, abs=0.05)


@pytest.mark.parametrize(
    ("density", "over", "message"),
    [
        (lambda c: np.zeros(50), ["mass"], "over"),
        (lambda c: np.zeros(50), ["beta1_sfh"], "over"),
        (lambda c: np.zeros(50), ["dust1", "t_mw_gyr"], "over"),
        (lambda c: np.zeros(50), ["log_sfr_1gyr", "log_z_mw", "t_mw_gyr"], "over"),
        (lambda c: np.zeros(50), ["dust1", "dust1"], "over"),
        (lambda c: np.zeros(50), [], "over"),
        (lambda c: np.zeros(3), ["dust1"], "must return"),
        (lambda c: c["dust2"], ["dust1"], "asks for 'dust2', but over has dust1 only"),
        (lambda c: np.full(50, np.nan), ["dust1"], "50 NaN"),
        (lambda c: np.full(50, np.inf), ["dust1"], "below inf"),
        (lambda c: np.full(50, -np.inf), ["dust1"], "excludes"),
    ],
)
def test_bad_input_is_refused(theta, density, over, message):
    with pytest.raises(ParameterError, match=message):
        reweight_to(theta[:50], density, over, model=MODEL, zred=ZRED)


def test_no_samples_are_named_as_such(theta):
    with pytest.raises(ParameterError, match="samples has no rows"):
        reweight_to(theta[:0], lambda c: np.zeros(0), ["dust1"], model=MODEL, zred=ZRED)


@pytest.mark.parametrize("n_prior", [0, 1, -5, 1000.0, None])
def test_too_few_prior_draws_are_refused(theta, n_prior):
    with pytest.raises(ParameterError, match=r"n_prior=.* must be an integer of at least 100"):
        reweight_to(theta[:50], lambda c: c["a_v"], ["a_v"], model=MODEL, zred=ZRED, n_prior=n_prior)


@pytest.mark.parametrize(
    ("zred", "said"), [(np.ma.masked, "zred must be finite"), ("near", "zred must be an array of numbers")]
)
def test_a_redshift_that_is_none_is_refused(theta, zred, said):
    with pytest.raises(ParameterError, match=said):
        reweight_to(theta[:50], lambda c: c["a_v"], ["a_v"], model=MODEL, zred=zred)
