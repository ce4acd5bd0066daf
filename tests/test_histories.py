"""Histories against an explicit loop over bins with numerical quadrature, and against closed forms."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid, quad

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.dust import DustLaw
from sedcast.emulator.histories import HistoryGrid, burst_fraction, check_theta, column, derived_properties
from sedcast.emulator.prior import Prior


def scalar_bins(beta: np.ndarray, gamma: np.ndarray, t_age: float, bases: SFHBases) -> list[tuple[float, float, float]]:
    """(mass, age, metallicity) of each bin, written out as the definition reads."""
    nominal = [0.0] + [10 ** (6.05 + 0.1 * i - 9) for i in range(41)] + [13.8]
    edges = [edge for edge in nominal if edge < t_age] + [t_age]
    knots = bases.t_lookback_gyr

    def integral(basis: int, low: float, high: float) -> float:
        inner = [knot for knot in knots if low < knot < high]
        points = [low, *inner, high]
        pieces = pairwise(points)
        return sum(quad(lambda t: np.interp(t, knots, bases.sfh[basis]), a, b)[0] for a, b in pieces)

    totals = [integral(basis, 0.0, t_age) for basis in range(4)]
    bins = []
    for low, high in pairwise(edges):
        mass = sum(beta[basis] * integral(basis, low, high) / totals[basis] for basis in range(4))
        centre = (low + high) / 2
        z = sum(gamma[j] * np.interp(centre, knots, bases.zh[j]) for j in range(2))
        bins.append((mass, centre, min(max(z, 4.49e-5), 4.49e-2)))
    return bins


@pytest.fixture
def bases() -> SFHBases:
    rng = np.random.default_rng(3)
    time = np.sort(np.concatenate([[0, 13.8], rng.uniform(0, 13.8, 12)]))
    return SFHBases(time, rng.uniform(0, 1, (4, 14)), rng.uniform(0, 3, (2, 14)), name="random")


def flat_bases(**changes: Any) -> SFHBases:
    time = np.array([0.0, 13.8])
    given: dict[str, Any] = {"t_lookback_gyr": time, "sfh": np.ones((4, 2)), "zh": np.ones((2, 2)), "name": "flat"} | changes
    return SFHBases(**given)


def a_theta(**changes: float) -> np.ndarray:
    given = {"log_mstar": 10.0, "beta1_sfh": 1.0, "tburst": 1.0, "gamma1_zh": 0.01, "gamma2_zh": 0.01} | changes
    theta = np.zeros((1, 12))
    for name, value in given.items():
        theta[0, column(name)] = value
    return theta


@pytest.mark.parametrize("t_age", [13.8, 13.79, 11.5, 11.2201845, 8.0, 2.1])
def test_bins_are_those_of_the_definition(t_age: float, bases: SFHBases) -> None:
    beta, gamma = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.01, 1e-5])
    grid = HistoryGrid(bases)
    mass = grid.masses(beta[None], np.array([t_age]))[0]
    z = grid.metallicities(gamma[None], np.array([t_age]))[0]
    index, centre = grid.closing_bin(np.array([t_age]))
    expected = scalar_bins(beta, gamma, t_age, bases)
    n = len(expected)
    age = np.append(grid.centres_gyr[: n - 1], centre)
    assert index[0] == n - 1
    assert not mass[n:].any()
    np.testing.assert_allclose(np.column_stack([mass[:n], age, z[:n]]), expected, rtol=1e-9, atol=1e-14)


def test_each_basis_is_normalised_on_its_own_so_masses_are_linear_in_beta(bases: SFHBases, rng: np.random.Generator) -> None:
    grid = HistoryGrid(bases)
    t_age = rng.uniform(1, 13.8, 20)
    singles = np.stack([grid.masses(np.tile(beta, (20, 1)), t_age) for beta in np.eye(4)], axis=1)
    np.testing.assert_allclose(singles.sum(axis=2), 1, rtol=1e-12)
    beta = rng.dirichlet(np.ones(4), 20)
    np.testing.assert_allclose(grid.masses(beta, t_age), np.einsum("ni,nib->nb", beta, singles), atol=1e-14)


def test_no_bin_has_less_than_no_mass(bases: SFHBases) -> None:
    grid = HistoryGrid(bases)
    t_age = np.nextafter(grid.edges_gyr[1:-1], 20)
    masses = grid.masses(np.full((len(t_age), 4), 0.25), t_age)
    assert masses.min() == 0
    np.testing.assert_allclose(masses.sum(axis=1), 1, rtol=1e-12)


def test_derived_properties_are_sums_over_bins_and_burst(bases: SFHBases) -> None:
    theta = Prior().sample(20, 5)
    zred = np.linspace(0.01, 0.5, 20)
    cosmology = Cosmology()
    got = derived_properties(theta, zred, bases, cosmology)
    knots = bases.t_lookback_gyr
    for row, (parameters, t_age) in enumerate(zip(theta, cosmology.age_gyr(zred), strict=True)):
        gamma, t_burst = parameters[7:9], parameters[6]
        f_burst = parameters[5] if t_burst <= t_age else 0.0
        z_burst = np.clip(sum(gamma[j] * np.interp(t_burst, knots, bases.zh[j]) for j in range(2)), 4.49e-5, 4.49e-2)
        bins = scalar_bins(parameters[1:5], gamma, t_age, bases)
        age = (1 - f_burst) * sum(mass * t for mass, t, _ in bins) + f_burst * t_burst
        z = (1 - f_burst) * sum(mass * z for mass, _, z in bins) + f_burst * z_burst
        assert got["t_mw_gyr"][row] == pytest.approx(age, rel=1e-8)
        assert got["log_z_mw"][row] == pytest.approx(np.log10(z), abs=1e-8)


def test_a_constant_history_has_the_rate_of_mass_over_age() -> None:
    t_age = float(Cosmology().age_gyr(0.1))
    got = derived_properties(a_theta(), 0.1, flat_bases(), Cosmology())
    expected = 10 - np.log10(t_age * 1e9)
    assert got["log_sfr_1gyr"][0] == pytest.approx(expected, abs=1e-12)
    assert got["log_sfr_100myr"][0] == pytest.approx(expected, abs=1e-12)
    assert got["log_ssfr_1gyr"][0] == pytest.approx(expected - 10, abs=1e-12)
    assert got["log_ssfr_100myr"][0] == pytest.approx(expected - 10, abs=1e-12)
    assert got["t_mw_gyr"][0] == pytest.approx(t_age / 2, rel=1e-12)
    assert got["log_z_mw"][0] == pytest.approx(np.log10(0.02), abs=1e-12)


@pytest.mark.parametrize("basis", [None, 0, 3])
def test_half_of_the_mass_is_formed_by_t50(basis: int | None, bases: SFHBases) -> None:
    """Against a running integral on a fine grid; bursts come before, after and in the middle of half the mass."""
    theta = Prior().sample(60, 8)
    if basis is not None:
        theta[:, 1:6] = 0.0
        theta[:, 1 + basis] = 1.0
    zred, cosmology = np.linspace(0.01, 0.5, 60), Cosmology()
    got = derived_properties(theta, zred, bases, cosmology)["t50_gyr"]
    for row, (parameters, t_age) in enumerate(zip(theta, cosmology.age_gyr(zred), strict=True)):
        time = np.union1d(np.linspace(0, t_age, 20_001), bases.t_lookback_gyr[bases.t_lookback_gyr < t_age])
        sfh = np.stack([np.interp(time, bases.t_lookback_gyr, one) for one in bases.sfh])
        formed = cumulative_trapezoid(sfh, time, initial=0)
        f_burst = parameters[5] if parameters[6] <= t_age else 0.0
        share = (1 - f_burst) * parameters[1:5] @ (formed / formed[:, -1:]) + f_burst * (time >= parameters[6])
        assert got[row] == pytest.approx(time[np.argmax(share >= 0.5)], abs=2e-3)


def test_t50_in_closed_form() -> None:
    t_age = float(Cosmology().age_gyr(0.1))
    constant = (
        (0.0, 2.0, t_age / 2),
        (0.7, 13.5, t_age / 2),  # no burst: it would precede the Universe
        (0.6, 2.0, 2.0),
        (1.0, 2.0, 2.0),
        (0.4, 2.0, t_age * 0.1 / 0.6),  # with the burst 0.4 of the mass is there at 2 Gyr, and the smooth part has 0.1 to form
        (0.4, 12.0, t_age * 0.5 / 0.6),
        (0.4, 4.0, 4.0),
    )
    for f_burst, t_burst, expected in constant:
        got = derived_properties(a_theta(fburst=f_burst, tburst=t_burst), 0.1, flat_bases(), Cosmology())
        assert got["t50_gyr"][0] == pytest.approx(expected, rel=1e-12), (f_burst, t_burst)
    rising = flat_bases(sfh=np.tile([0.0, 1.0], (4, 1)))
    assert derived_properties(a_theta(), 0.1, rising, Cosmology())["t50_gyr"][0] == pytest.approx(t_age / np.sqrt(2), rel=1e-12)
    # Nothing forms between 4 and 8 Gyr.
    time = np.array([0.0, 3.0, 4.0, 8.0, 9.0, 13.8])
    gap = flat_bases(t_lookback_gyr=time, sfh=np.tile([0, 1.0, 0, 0, 1.0, 0], (4, 1)), zh=np.ones((2, 6)))
    assert HistoryGrid(gap).time_to_form(np.array([2.0]), np.array([[1.0, 0, 0, 0]]))[0] == pytest.approx(4.0)
    in_gap = derived_properties(a_theta(fburst=0.5, tburst=6.0), 0.1, gap, Cosmology())
    assert in_gap["t50_gyr"][0] == pytest.approx(6.0)


def test_attenuation_is_that_of_the_diffuse_dust_in_magnitudes() -> None:
    theta = Prior().sample(50, 9)
    got = derived_properties(theta, 0.1, flat_bases(), Cosmology())["a_v"]
    dust = {"dust2": theta[:, column("dust2")], "dust_index": theta[:, column("dust_index")]}
    light = DustLaw(np.array([5500.0])).attenuate(np.zeros((50, 1)), np.ones((50, 1)), dust1=theta[:, column("dust1")], **dust)
    np.testing.assert_allclose(got, -2.5 * np.log10(light[:, 0]), rtol=1e-12)
    np.testing.assert_allclose(got, 1.0857 * theta[:, column("dust2")], rtol=5.1e-3)


def test_a_burst_counts_while_it_is_recent() -> None:
    for t_burst, inside in ((0.05, (1, 1)), (0.5, (1, 0)), (5.0, (0, 0))):
        got = derived_properties(a_theta(fburst=1.0, tburst=t_burst), 0.1, flat_bases(), Cosmology())
        rates = 10 ** np.array([got["log_sfr_1gyr"][0], got["log_sfr_100myr"][0]])
        np.testing.assert_allclose(rates[np.array(inside) == 1], np.array([10.0, 100.0])[np.array(inside) == 1], rtol=1e-12)
        assert got["t_mw_gyr"][0] == pytest.approx(t_burst)
        if not any(inside):
            assert got["log_ssfr_1gyr"][0] == got["log_ssfr_100myr"][0] == -16
            assert got["log_sfr_100myr"][0] == 10 - 16


def test_a_burst_before_the_universe_does_not_happen() -> None:
    theta = np.concatenate([a_theta(fburst=0.7, tburst=13.2), a_theta(fburst=0.7, tburst=12.0)])
    np.testing.assert_array_equal(burst_fraction(theta, np.array([13.0, 13.0])), [0, 0.7])


def test_rates_at_high_redshift_are_over_the_age() -> None:
    got = derived_properties(a_theta(), 9.0, flat_bases(), Cosmology())
    t_age = float(Cosmology().age_gyr(9.0))
    assert t_age < 1
    assert got["log_sfr_1gyr"][0] == pytest.approx(10 - np.log10(t_age * 1e9))


def test_metallicity_is_clipped() -> None:
    for gamma, expected in ((1e-9, 4.49e-5), (1.0, 4.49e-2)):
        got = derived_properties(a_theta(gamma1_zh=gamma, gamma2_zh=0.0), 0.1, flat_bases(), Cosmology())
        assert got["log_z_mw"][0] == pytest.approx(np.log10(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta2_sfh": 0.5}, "sum to 1"),
        ({"beta1_sfh": 1.5, "beta2_sfh": -0.5}, "non-negative SFH weights"),
        ({"dust2": np.nan}, "must be finite, got dust2=nan"),
        ({"log_mstar": 1e10}, "log_mstar in 0 … 16"),
        ({"fburst": 1.1}, "fburst in 0 … 1"),
        ({"tburst": -1.0}, "tburst in 0"),
        ({"dust1": -0.1}, "dust1 in 0"),
        ({"gamma2_zh": -1e-3}, "gamma2_zh in 0"),
    ],
)
def test_impossible_parameters_are_refused_by_name(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_theta(a_theta(**changes), 0.1)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"theta must have shape \(n, 12\).*got \(12,\)"):
        check_theta(a_theta()[0], 0.1)
    with pytest.raises(ParameterError, match="one value per galaxy"):
        check_theta(a_theta(), np.array([0.1, 0.2]))


def test_ages_outside_the_bases_are_refused() -> None:
    grid = HistoryGrid(flat_bases())
    for t_age in (0.0, -1.0, np.nan, 14.0):
        with pytest.raises(ParameterError, match="age of the galaxy"):
            grid.masses(np.array([[1.0, 0, 0, 0]]), np.array([t_age]))
    late = flat_bases(t_lookback_gyr=np.array([0, 12.0, 13.8]), sfh=np.tile([0, 0, 1.0], (4, 1)), zh=np.ones((2, 3)))
    with pytest.raises(ParameterError, match="basis 0 forms no mass in 5 Gyr"):
        HistoryGrid(late).masses(np.array([[1.0, 0, 0, 0]]), np.array([5.0]))


def test_no_galaxies_give_no_properties() -> None:
    got = derived_properties(np.empty((0, 12)), np.empty(0), flat_bases(), Cosmology())
    assert {value.shape for value in got.values()} == {(0,)}


def test_a_burst_at_high_redshift_counts_over_the_age():
    got = derived_properties(a_theta(fburst=1.0, tburst=0.1), 9.0, flat_bases(), Cosmology())
    age = Cosmology().age_gyr(np.array([9.0]))[0]
    assert age < 1
    assert got["log_sfr_1gyr"][0] == pytest.approx(10 - np.log10(age * 1e9))


def test_masked_redshifts_are_none():
    zred = np.ma.MaskedArray([0.1, 0.1], [False, True])
    with pytest.raises(ParameterError):
        derived_properties(np.repeat(a_theta(), 2, axis=0), zred, flat_bases(), Cosmology())
