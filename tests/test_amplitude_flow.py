"""A flow whose burst fractions and masses are drawn from their own posterior."""

import itertools
import pickle

import numpy as np
import pytest
from scipy.stats import kstest
from small_bands import BANDS, ZRED_RANGE, small_band_emulator
from standin import mock_photometry

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES, Prior
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.posterior.amplitude_flow import FlowWithAmplitudes, with_burst_choice, without_amplitudes
from sedcast.posterior.burst_choice import FARTHEST, from_option, prior_chances, to_option
from sedcast.posterior.context import ContextTransform
from sedcast.posterior.expert_flow import flow_from_arrays
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_kernel import DenseKernel, vector_floats
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.made import FlowConfig, initial_parameters, permutations

CONFIG = FlowConfig(n_blocks=2, hidden=(24,))


def others(transform: ContextTransform, dim: int, n_options: int = 1) -> MaskedAutoregressiveFlow:
    """An untrained flow, which is nearly the prior."""
    config = CONFIG.model_copy(update={"choice": (8,), "n_options": n_options} if n_options > 1 else {})
    arrays = initial_parameters(config, dim, transform.n_context)
    arrays |= {"permutation": permutations(config, dim), "theta_mean": np.zeros(dim), "theta_std": np.ones(dim)}
    arrays |= {"context_mean": np.zeros(transform.n_context), "context_std": np.ones(transform.n_context)}
    return MaskedAutoregressiveFlow(config, arrays)


def flow(
    *,
    mask: bool = False,
    redshift_prior: RedshiftPrior | None = None,
    n_options: int = 1,
    softening: tuple[float, ...] = (),
) -> FlowWithAmplitudes:
    transform = ContextTransform(BANDS, mask=mask, redshift=redshift_prior is None, softening=softening)
    dim = 9 + (redshift_prior is not None)
    return FlowWithAmplitudes(others(transform, dim, n_options), small_band_emulator()[0], transform, redshift_prior)


def galaxies(n: int, seed: int):
    return mock_photometry(n, seed)


def test_the_density_of_amplitudes_is_that_of_the_likelihood():
    """With all other parameters as they are, it is the likelihood's times the prior's, but for a factor."""
    made = flow()
    flux, ivar, zred = galaxies(20, 4)
    rng = np.random.default_rng(2)
    noise = np.repeat(rng.standard_normal((20, 1, 11)), 200, axis=1)
    noise[..., [0, 4]] = rng.standard_normal((20, 200, 2))
    context = made.transform(flux, ivar, zred)
    points, log_q = made.transform_noise(noise, context)
    for row in range(20):
        assert len(np.unique(points[row, :, 4])) > 190
        galaxy = {"flux": flux[row], "flux_ivar": ivar[row], "zred": float(zred[row])}
        likelihood = GaussianLikelihood(made.emulator, made.emulator.prior, **galaxy)
        ratio = likelihood.log_posterior_unbounded(points[row]) - log_q[row]
        assert np.std(ratio) < 0.03


@pytest.mark.parametrize("settings", [{}, {"mask": True}, {"redshift_prior": RedshiftPrior(min=0.01, max=0.29)}])
@pytest.mark.parametrize("n_options", [1, 2, 3])
def test_samples_noise_and_density_agree(settings, n_options):
    made = flow(**settings, n_options=n_options)
    flux, ivar, zred = galaxies(20, 5)
    if made.transform.mask:
        ivar[::3, 0] = 0
        ivar[1::3, 1:] = 0
    context = made.transform(flux, ivar, zred if made.transform.redshift else None)
    points, log_q = made.draw(context, 40, seed=7)[:2]
    assert points.shape == (20, 40, made.dim)
    assert np.isfinite(points).all()
    np.testing.assert_allclose(made.log_prob(points, context), log_q, atol=0.05)
    np.testing.assert_allclose(made.log_prob(points[:, 3], context), log_q[:, 3], atol=0.05)
    noise = np.random.default_rng(8).standard_normal((20, 30, made.dim))
    carried, log_q = made.transform_noise(noise, context, n_threads=1)
    np.testing.assert_allclose(made.log_prob(carried, context), log_q, atol=0.05)
    # The other coordinates are those of their own flow.
    alone, _ = made.others.transform_noise(without_amplitudes(noise), context)
    # But the burst's time, if a choice tells where it is.
    same = np.delete(np.arange(made.dim - 2), [3] if made.config.choice else [])
    np.testing.assert_array_equal(without_amplitudes(carried)[..., same], alone[..., same])


@pytest.mark.parametrize("inferred", [False, True])
@pytest.mark.parametrize("n_options", [2, 3])
def test_a_choice_is_whether_the_burst_has_begun_and_is_young(inferred, n_options):
    made = flow(n_options=n_options, redshift_prior=RedshiftPrior(min=0.01, max=0.29) if inferred else None)
    flux, ivar, zred = galaxies(20, 5)
    context = made.transform(flux, ivar, None if inferred else zred)
    noise = np.random.default_rng(8).standard_normal((20, 300, made.dim))
    points, _ = made.transform_noise(noise, context)
    chosen = made.others.transform_noise(without_amplitudes(noise), context)[0][..., -1].ravel()
    assert set(np.unique(chosen)) == set(range(n_options))
    flat = points.reshape(-1, made.dim)
    z = made.redshift_prior.from_unbounded(flat[:, -1]) if inferred else np.repeat(zred, 300)
    model = {"prior": made.emulator.prior, "cosmology": made.emulator.cosmology}
    tburst = model["prior"].from_unbounded(flat[:, :11])[:, PARAMETER_NAMES.index("tburst")]
    begun = tburst <= model["cosmology"].age_gyr(z)
    early = prior_chances(z, **model, n_options=n_options)[:, 0] > 0.0051
    assert np.count_nonzero(early & ~begun) > 50
    np.testing.assert_array_equal(begun[early], chosen[early] > 0)
    if n_options == 3:
        np.testing.assert_array_equal(tburst < 1, chosen == 2)
    learnt, _ = with_burst_choice(flat, z, n_options, **model)
    np.testing.assert_array_equal(learnt[:, -1], chosen)


def test_options_are_never_empty_and_no_burst_is_lost():
    late = Prior(tburst=(2.0, 13.0))
    for prior, n_options in itertools.product((Prior(), late), (2, 3)):
        chance = prior_chances(np.array([0.005, 0.3, 2.0, 9.9]), prior, Cosmology(), n_options)
        np.testing.assert_allclose(chance.sum(axis=1), 1)
        assert chance.min() >= 0.0024
    probit = np.array([-40.0, -8.5, 8.5, 40.0])
    for again in (to_option(probit, chance[k]) for k in range(4)):
        assert all(np.isfinite(values).all() for values in again)
        assert again[1].tolist() == [2, 2, 0, 0]
    with pytest.raises(ParameterError, match="n_options=4"):
        prior_chances(np.zeros(1), Prior(), Cosmology(), 4)


@pytest.mark.parametrize("chance", [(0.2, 0.8), (0.005, 0.995), (0.1, 0.82, 0.08)])
def test_within_every_option_the_prior_is_a_standard_normal(chance):
    probit, chance = np.random.default_rng(3).standard_normal(40_000), np.array(chance)
    within, option, log_slope = to_option(probit, chance)
    np.testing.assert_allclose(np.bincount(option) / option.size, chance, atol=0.01)
    for k in range(len(chance)):
        assert kstest(within[option == k], "norm").pvalue > 1e-3
    again, same = from_option(within, option, chance)
    np.testing.assert_allclose(again, probit, atol=1e-6)
    np.testing.assert_allclose(same, log_slope, atol=1e-6)
    ends = [to_option(probit + nudge, chance)[0] for nudge in (-1e-6, 1e-6)]
    inside = np.abs(within) < 3.5
    np.testing.assert_allclose(np.log((ends[1] - ends[0])[inside] / 2e-6), log_slope[inside], atol=1e-3)


def test_a_row_depends_on_its_key_and_data_only():
    made = flow()
    flux, ivar, zred = galaxies(30, 6)
    context = made.transform(flux, ivar, zred)
    keys = np.arange(30) + 5
    whole, _ = made.draw(context, 100, seed=3, row_keys=keys)[:2]
    part, _ = made.draw(context[10:13], 100, seed=3, row_keys=keys[10:13], n_threads=1)[:2]
    np.testing.assert_allclose(part, whole[10:13], atol=1e-3)
    first, _ = made.draw(context, 7, seed=3, row_keys=keys)[:2]
    np.testing.assert_allclose(first, whole[:, :7], atol=1e-3)
    assert not np.allclose(made.sample(context, 100, seed=4, row_keys=keys)[..., 0], whole[..., 0])


@pytest.mark.parametrize(
    "settings",
    [
        {"mask": True, "n_options": 3},
        {"redshift_prior": RedshiftPrior(min=0.01, max=0.29)},
        {"softening": (0.14, 0.09, 0.004, 0.18, 0.74)},
    ],
)
def test_arrays_make_the_same_flow(settings):
    made = flow(**settings)
    again = flow_from_arrays(made.to_arrays())
    assert isinstance(again, FlowWithAmplitudes)
    assert (again.transform, again.redshift_prior, again.dim) == (made.transform, made.redshift_prior, made.dim)
    flux, ivar, zred = galaxies(5, 1)
    context = made.transform(flux, ivar, zred if made.transform.redshift else None)
    np.testing.assert_array_equal(again.sample(context, 30, seed=1), made.sample(context, 30, seed=1))


def test_compiled_networks_are_those_of_numpy_whatever_rows_are_beside():
    if not vector_floats():
        pytest.skip("the C library was not built, or this processor cannot run it")
    emulator, _ = small_band_emulator()
    networks = {name: DenseKernel(layers) for name, layers in emulator.layers.items()}
    theta = emulator.prior.sample(131, 3)
    zred = np.full(131, 0.1)
    found = emulator.components(theta, zred, networks=networks)
    np.testing.assert_allclose(found, emulator.components(theta, zred), rtol=2e-4)
    for rows in (slice(1), slice(60, 131), slice(7, 30)):
        np.testing.assert_array_equal(emulator.components(theta[rows], zred[rows], networks=networks), found[rows])


def test_another_process_gets_the_same_flow():
    made = flow()
    flux, ivar, zred = galaxies(4, 1)
    context = made.transform(flux, ivar, zred)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.sample(context, 30, seed=1), made.sample(context, 30, seed=1))


def test_what_the_flow_cannot_follow_stays_non_finite():
    made = flow()
    arrays = made.others.to_arrays()
    arrays["theta_std"] = np.full(9, 1e38, np.float32)
    wild = FlowWithAmplitudes(MaskedAutoregressiveFlow(CONFIG, arrays), made.emulator, made.transform)
    flux, ivar, zred = galaxies(2, 1)
    points, _ = wild.draw(made.transform(flux, ivar, zred), 200, seed=1)[:2]
    lost = ~np.isfinite(without_amplitudes(points)).all(axis=2)
    assert lost.any()
    assert np.isnan(points[lost][:, [0, 4]]).all()


def test_photometry_beyond_all_sense_gives_no_warning():
    """Warnings are errors here: fluxes over their errors beyond what single precision holds are cut."""
    made = flow()
    flux, ivar = np.full((3, 5), 10.0), np.full((3, 5), 4.0)
    flux[0], ivar[1], ivar[2] = 1e30, 1e90, 1e90
    flux[2] = 1e10
    points, _, log_likelihood = made.draw(made.transform(flux, ivar, np.full(3, 0.1)), 100, seed=1)
    assert np.isfinite(points).all()
    assert not np.isnan(log_likelihood).any()


@pytest.mark.parametrize("n_options", [1, 3])
def test_no_samples_are_no_error(n_options):
    made = flow(n_options=n_options)
    assert made.log_prob(np.empty((2, 0, 11)), made.transform(*galaxies(2, 1))).shape == (2, 0)
    assert made.log_prob(np.empty((0, 11)), made.transform(*galaxies(2, 1))[:0]).shape == (0,)


def test_bad_input_is_refused():
    made = flow()
    flux, ivar, zred = galaxies(3, 1)
    context = made.transform(flux, ivar, zred)
    with pytest.raises(ParameterError, match=r"theta must be \(n, 11\) or \(n, m, 11\) with n = 3, got \(3, 9\)"):
        made.log_prob(np.zeros((3, 9)), context)
    with pytest.raises(ParameterError, match=r"noise must be \(3, m, 11\), got \(2, 4, 11\)"):
        made.transform_noise(np.zeros((2, 4, 11)), context)
    with pytest.raises(ParameterError, match="theta has 1 non-finite"):
        made.log_prob(np.full((3, 11), 1.0) * np.where(np.arange(11) == 4, np.array([[1], [np.nan], [1]]), 1), context)
    with pytest.raises(ArtifactError, match="do not belong together"):
        FlowWithAmplitudes(made.others, made.emulator, ContextTransform(BANDS[:4]))
    with pytest.raises(ArtifactError, match="do not belong together"):
        FlowWithAmplitudes(others(made.transform, 11), made.emulator, made.transform)
    arrays = made.to_arrays()
    with pytest.raises(ArtifactError, match="amplitude_config"):
        flow_from_arrays(arrays | {"amplitude_config": np.frombuffer(b"[]", dtype=np.uint8)})
    assert made.dim == 11
    assert tuple(made.emulator.arrays["zred_range"]) == ZRED_RANGE


def test_draws_that_share_a_burst_s_beginning_have_no_density():
    made = flow(n_options=2)
    flux, ivar, zred = galaxies(2, 5)
    context = made.transform(flux, ivar, zred)
    noise = np.zeros((2, 3, made.dim))
    noise[:, 1:] = 40.0
    others = made.others.transform_noise(without_amplitudes(noise), context)[0]
    tburst = FREE_PARAMETER_NAMES.index("tburst") - 2
    beyond = np.abs(others[..., tburst]) > FARTHEST
    assert beyond.any()
    _, log_q = made.transform_noise(noise, context)
    np.testing.assert_array_equal(np.isposinf(log_q), beyond)
