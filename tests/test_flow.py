import itertools
import re

import numpy as np
import pytest
from scipy.stats import kstest, norm

from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.posterior import flow_kernel
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_kernel import product_by_row, vector_floats
from sedcast.posterior.made import FlowConfig, hidden_degrees, initial_parameters, parameter_shapes, permutations


def random_flow(dim: int = 4, n_context: int = 3, *, scale: float = 20.0, **config) -> MaskedAutoregressiveFlow:
    """An untrained flow far from the identity."""
    shape = FlowConfig(**{"n_blocks": 3, "hidden": (23, 17), "activation": "tanh", "embedding": (9, 6), "seed": 5} | config)
    arrays = initial_parameters(shape, dim, n_context)
    arrays[f"kernel_{len(shape.hidden)}"] *= scale
    rng = np.random.default_rng(1)
    for name, array in arrays.items():
        if "bias" in name:
            array += 0.2 * rng.standard_normal(array.shape).astype(np.float32)
    arrays |= {"permutation": permutations(shape, dim), "theta_mean": rng.standard_normal(dim), "theta_std": np.full(dim, 1.5)}
    arrays |= {"context_mean": rng.standard_normal(n_context), "context_std": np.full(n_context, 2.0)}
    arrays["theta_slope"] = 0.3 * rng.standard_normal((n_context, dim))
    return MaskedAutoregressiveFlow(shape, arrays)


@pytest.fixture(autouse=True, params=["AVX-512", "AVX2", "NumPy"])
def sampler(request, monkeypatch):
    """Every test runs with each variant of the compiled sampler and without it."""
    floats = {"AVX-512": 16, "AVX2": 8, "NumPy": 0}[request.param]
    if vector_floats() < floats:
        pytest.skip("the compiled sampler was not built, or this processor cannot run the variant")
    monkeypatch.setattr(flow_kernel, "vector_floats", lambda: floats)
    return request.param


def contexts(n: int, n_context: int = 3) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((n, n_context))


@pytest.mark.parametrize("hidden", [(23,), (23, 17), (12, 31, 8)])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "silu"])
@pytest.mark.parametrize("transform", ["affine", "sinh-arcsinh"])
def test_log_prob_inverts_sampling(hidden, activation, transform):
    flow = random_flow(hidden=hidden, activation=activation, dim=7, transform=transform)
    theta, log_prob = flow.draw(contexts(5), 300, seed=1)[:2]
    assert theta.shape == (5, 300, 7)
    assert theta.dtype == np.float32
    np.testing.assert_allclose(flow.log_prob(theta, contexts(5)), log_prob, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(flow.log_prob(theta[:, 0], contexts(5)), log_prob[:, 0], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("transform", ["affine", "sinh-arcsinh"])
@pytest.mark.parametrize("n_options", [2, 3])
def test_a_choice_is_drawn_first_and_told_to_every_block(transform, n_options):
    flow = random_flow(dim=5, choice=(6,), n_options=n_options, transform=transform)
    assert (flow.n_real, flow.dim) == (5, 6)
    theta, log_prob = flow.draw(contexts(4), 20_000, seed=1)[:2]
    choice = theta[..., -1]
    assert set(np.unique(choice)) == set(range(n_options))
    np.testing.assert_allclose(flow.log_prob(theta, contexts(4)), log_prob, rtol=1e-4, atol=1e-3)
    # What was chosen changes more than the density's height.
    for row, option in itertools.product(range(4), range(1, n_options)):
        chosen = theta[row, choice[row] == option][None, :200]
        other = np.concatenate([chosen[..., :-1], np.full((1, 200, 1), option - 1)], axis=2)
        given = contexts(4)[row : row + 1]
        assert np.ptp(flow.log_prob(other, given) - flow.log_prob(chosen, given)) > 0.01
    noise = np.random.default_rng(0).standard_normal((4, 30, 5))
    many, few = (flow.transform_noise(noise[:, :m], contexts(4)) for m in (30, 2))
    np.testing.assert_allclose(many[0][:, :2], few[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many[1][:, :2], few[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ParameterError, match=f"one of 0 … {n_options - 1}"):
        flow.log_prob(np.full((4, 6), 0.5), contexts(4))


def test_what_a_choice_leaves_of_its_noise_is_normal_to_the_tails():
    config = FlowConfig(n_blocks=1, hidden=(8,), choice=(4,))
    arrays = {name: np.zeros(shape) for name, shape in parameter_shapes(config, 3, 2).items()}
    arrays |= {"permutation": permutations(config, 3), "theta_mean": np.zeros(3), "theta_std": np.ones(3)}
    arrays |= {"context_mean": np.zeros(2), "context_std": np.ones(2)}
    theta = MaskedAutoregressiveFlow(config, arrays).sample(np.zeros((1, 2)), 100_000, seed=0)[0]
    for column in theta[:, :3].T.astype(float):
        assert kstest(column, "norm").pvalue > 1e-3
        assert np.abs(column).max() > 3.7
    assert theta[:, 3].mean() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(theta.T)[0, 3]) < 0.02


def test_an_option_that_is_out_of_the_question_leaves_the_others_as_they_are():
    flow = random_flow(2, choice=(6,), n_options=3)
    arrays = flow.to_arrays()
    arrays["choice_bias_1"] = np.array([300.0, 299.0], np.float32)
    arrays["choice_kernel_1"] *= 0
    shares = MaskedAutoregressiveFlow(flow.config, arrays).sample(contexts(1), 20_000, seed=3)[0, :, -1]
    assert shares.min() == 1
    assert np.mean(shares == 1) == pytest.approx(np.e / (1 + np.e), abs=0.015)


def test_options_without_a_choice_are_refused():
    with pytest.raises(ValueError, match="n_options"):
        FlowConfig(n_options=3)


@pytest.mark.parametrize("n_options", [2, 3])
def test_the_density_over_all_options_integrates_to_one(n_options):
    flow = random_flow(1, choice=(6,), n_options=n_options)
    axis = np.linspace(-30, 30, 20_001)
    totals = []
    for option in range(n_options):
        grid = np.stack([axis, np.full(axis.shape, option)], axis=-1)[None]
        totals.append(np.exp(flow.log_prob(grid, contexts(1))).sum() * (axis[1] - axis[0]))
    assert sum(totals) == pytest.approx(1, abs=5e-3)
    drawn = flow.sample(contexts(1), 40_000, seed=3)[..., -1].ravel()
    shares = np.bincount(drawn.astype(int), minlength=n_options) / drawn.size
    np.testing.assert_allclose(shares, totals, atol=4 * 0.5 / np.sqrt(40_000))


@pytest.mark.parametrize("choice", [{}, {"choice": (6,)}, {"choice": (6,), "n_options": 3}])
@pytest.mark.parametrize("transform", ["affine", "sinh-arcsinh"])
def test_log_prob_is_the_change_of_variables(transform, choice):
    flow = random_flow(transform=transform, **choice)
    noise = np.random.default_rng(0).standard_normal((1, 1, 4))
    step = 3e-3
    nudged = noise[0, 0] + step * np.concatenate([np.eye(4), -np.eye(4)])
    moved = flow.transform_noise(nudged[None], contexts(1))[0][0].astype(float)
    jacobian = (moved[:4, :4] - moved[4:, :4]) / (2 * step)
    expected = -0.5 * (noise**2).sum() - 2 * np.log(2 * np.pi) - np.linalg.slogdet(jacobian)[1]
    assert flow.transform_noise(noise, contexts(1))[1][0, 0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("transform", ["affine", "sinh-arcsinh"])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_density_integrates_to_one(dim, transform):
    flow = random_flow(dim, transform=transform)
    axis = np.linspace(-30, 30, 20_001 if dim == 1 else 801)
    grid = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(1, -1, dim)
    total = np.exp(flow.log_prob(grid, contexts(1))).sum() * (axis[1] - axis[0]) ** dim
    assert total == pytest.approx(1, abs=5e-3)


def test_each_block_depends_on_earlier_dimensions_and_all_of_the_context_only():
    flow = random_flow(n_blocks=1)
    noise = np.random.default_rng(0).standard_normal((1, 1, 4))
    base = flow.transform_noise(noise, contexts(1))[0][0, 0]
    for d in range(4):
        changed = noise.copy()
        changed[0, 0, d] += 1
        moved = flow.transform_noise(changed, contexts(1))[0][0, 0] != base
        np.testing.assert_array_equal(moved, np.arange(4) >= d)
    # A curved response of the first dimension to the context needs hidden units of degree 0.
    line = np.linspace(-3, 3, 3)[:, None] * np.ones(3)
    first = flow.transform_noise(np.zeros((3, 1, 4)), line)[0][:, 0, 0]
    assert abs(first[0] - 2 * first[1] + first[2]) > 1e-3


def test_degrees_are_balanced_and_sorted():
    degrees = hidden_degrees(11, 256)
    assert (np.diff(degrees) >= 0).all()
    assert set(np.bincount(degrees)) == {23, 24}
    with pytest.raises(ParameterError, match="at least one unit per dimension"):
        hidden_degrees(11, 10)


def test_permutations_are_random_by_seed_or_reverse_each_block_s_order():
    assert permutations(FlowConfig(n_blocks=3, permutation="reverse"), 3).tolist() == [[0, 1, 2], [2, 1, 0], [2, 1, 0]]
    one, other = (permutations(FlowConfig(n_blocks=9, seed=seed), 6) for seed in (0, 1))
    assert one[0].tolist() == list(range(6))
    assert len({tuple(order) for order in one.tolist() + other.tolist()}) > 10


def test_samples_of_a_row_do_not_depend_on_its_company():
    flow = random_flow()
    many = contexts(40)
    whole = flow.sample(many, 700, seed=3, n_threads=1)
    keys = np.arange(40)[10:13]
    np.testing.assert_allclose(flow.sample(many[10:13], 700, seed=3, row_keys=keys), whole[10:13], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(flow.sample(many, 700, seed=3, n_threads=3), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(flow.sample(many, 3000, seed=3)[:, :700], whole, rtol=1e-4, atol=1e-5)
    assert np.abs(flow.sample(many, 700, seed=4) - whole).max() > 1
    assert np.abs(whole[0] - whole[1]).max() > 1


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "silu"])
def test_many_rows_of_few_samples_are_like_few_rows_of_many(activation):
    flow = random_flow(activation=activation)
    many = contexts(40)
    noise = np.random.default_rng(0).standard_normal((40, 5, 4))
    together = flow.transform_noise(noise, many)
    for row in range(0, 40, 13):
        alone = flow.transform_noise(noise[row : row + 1], many[row : row + 1])
        np.testing.assert_allclose(alone[0][0], together[0][row], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone[1][0], together[1][row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", ["affine", "sinh-arcsinh"])
@pytest.mark.parametrize("n_rows", [2, 20])
@pytest.mark.parametrize("huge", [1e30, 3e38])
@pytest.mark.parametrize("choice", [{}, {"choice": (6,), "n_options": 3}])
def test_a_row_that_overflows_spoils_no_other(n_rows, huge, transform, choice):
    flow = random_flow(transform=transform, **choice)
    rows = contexts(n_rows)
    noise = np.random.default_rng(0).standard_normal((n_rows, 50, 4))
    expected = flow.transform_noise(noise, rows)
    rows[0] = huge
    theta, log_prob = flow.transform_noise(noise, rows)
    np.testing.assert_allclose(theta[1:], expected[0][1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_prob[1:], expected[1][1:], rtol=1e-4, atol=1e-4)


def test_samples_follow_the_density():
    flow = random_flow(1)
    samples = np.sort(flow.sample(contexts(1), 20_000, seed=0).ravel())
    axis = np.linspace(-30, 30, 20_001)
    cdf = np.cumsum(np.exp(flow.log_prob(axis[None, :, None], contexts(1))[0])) * (axis[1] - axis[0])
    distance = np.abs(np.interp(samples, axis, cdf) - np.arange(20_000) / 20_000).max()
    assert distance < 1.63 / np.sqrt(20_000)  # Kolmogorov-Smirnov at 1%


def test_skew_and_tails_are_those_of_a_sinh_arcsinh_density():
    shape = FlowConfig(n_blocks=1, hidden=(4,), transform="sinh-arcsinh")
    arrays = {name: np.zeros_like(array) for name, array in initial_parameters(shape, 1, 1).items()}
    arrays["bias_1"][0] = 0.3, 4 * np.arctanh(0.5 / 4), 2 * np.arctanh(0.4 / 2), np.arctanh(-0.2)
    arrays |= {"permutation": [[0]], "theta_mean": [0.0], "theta_std": [1.0], "context_mean": [0.0], "context_std": [1.0]}
    flow = MaskedAutoregressiveFlow(shape, arrays)
    noise = np.linspace(-5, 5, 201)
    theta, log_prob = flow.transform_noise(noise[None, :, None], np.zeros((1, 1)))
    angle = 0.4 + np.exp(-0.2) * np.arcsinh(noise)
    np.testing.assert_allclose(theta[0, :, 0], 0.3 + np.exp(0.5) * np.sinh(angle), rtol=1e-5, atol=1e-5)
    slope = np.exp(0.5 - 0.2) * np.cosh(angle) / np.sqrt(1 + noise**2)
    np.testing.assert_allclose(log_prob[0], norm.logpdf(noise) - np.log(slope), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(flow.log_prob(theta, np.zeros((1, 1))), log_prob, rtol=1e-4, atol=1e-4)


def test_arrays_round_trip_and_are_checked(tmp_path):
    flow = random_flow(permutation="reverse")
    np.savez(tmp_path / "flow.npz", **flow.to_arrays())
    with np.load(tmp_path / "flow.npz", allow_pickle=False) as file:
        arrays = dict(file)
    again = MaskedAutoregressiveFlow.from_arrays(arrays)
    assert again.config == flow.config
    np.testing.assert_array_equal(again.sample(contexts(2), 5, seed=0), flow.sample(contexts(2), 5, seed=0))
    with pytest.raises(ArtifactError, match="bias_1"):
        MaskedAutoregressiveFlow.from_arrays({name: array for name, array in arrays.items() if name != "bias_1"})
    with pytest.raises(ArtifactError, match="mask"):
        MaskedAutoregressiveFlow.from_arrays(arrays | {"kernel_0": np.ones_like(arrays["kernel_0"])})
    with pytest.raises(ArtifactError, match="non-finite"):
        MaskedAutoregressiveFlow.from_arrays(arrays | {"theta_std": np.zeros(4)})
    with pytest.raises(ArtifactError, match="permutation"):
        MaskedAutoregressiveFlow.from_arrays(arrays | {"permutation": np.zeros((3, 4))})
    with pytest.raises(ArtifactError, match="flow_config"):
        MaskedAutoregressiveFlow.from_arrays({})


def test_extreme_contexts_give_finite_samples():
    flow = random_flow(activation="relu")
    theta, log_prob = flow.draw(contexts(4) * 100, 500, seed=0)[:2]
    assert np.isfinite(theta).all()
    assert np.isfinite(log_prob).all()


@pytest.mark.parametrize("transform", ["affine", "sinh-arcsinh"])
def test_points_beyond_all_numbers_have_no_density(transform):
    flow = random_flow(transform=transform)
    far = np.array([1e20, -1e30, 3e38])[:, None] * np.array([1, -1, 0, 1])
    assert (flow.log_prob(np.tile(far, (2, 1, 1)), contexts(2)) < -1e9).all()


def test_bad_arguments_are_refused():
    flow = random_flow()
    with pytest.raises(ParameterError, match=r"context must be \(n, 3\)"):
        flow.sample(np.zeros((2, 4)), 5, seed=0)
    with pytest.raises(ParameterError, match="1 of 2 rows, first 1"):
        flow.sample(np.array([[0, 0, 0], [0, np.inf, 0]]), 5, seed=0)
    with pytest.raises(ParameterError, match="n_samples"):
        flow.sample(contexts(2), 0, seed=0)
    for keys in (np.array([1]), np.array([0, -1]), np.array([0.0, 1.0])):
        with pytest.raises(ParameterError, match="row_keys must be 2 non-negative integers, one per row"):
            flow.sample(contexts(2), 5, seed=0, row_keys=keys)
    for seed in (-1, 2**64, 1.5):
        with pytest.raises(ParameterError, match=re.escape(f"seed={seed!r}: must be an integer of at least 0 and below 2^64")):
            flow.sample(contexts(2), 5, seed=seed)
    with pytest.raises(ParameterError, match="n_threads=0"):
        flow.sample(contexts(2), 5, seed=0, n_threads=0)
    with pytest.raises(ParameterError, match="theta must be"):
        flow.log_prob(np.zeros((3, 4)), contexts(2))
    with pytest.raises(ParameterError, match="2 non-finite"):
        flow.log_prob(np.array([[0, 0, np.nan, np.nan], [0, 0, 0, 0]]), contexts(2))
    with pytest.raises(ParameterError, match="noise must be"):
        flow.transform_noise(np.zeros((2, 5, 3)), contexts(2))
    with pytest.raises(ParameterError, match="noise has 1 non-finite"):
        flow.transform_noise(np.where(np.arange(400).reshape(2, 50, 4) == 7, np.nan, 0), contexts(2))


def test_products_of_rows_are_the_same_alone_and_in_company(rng):
    values, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 77), (77, 300)))
    whole = product_by_row(values, kernel)
    np.testing.assert_allclose(whole, values.astype(float) @ kernel.astype(float), atol=1e-4)
    for n in (1, 3, 7, 16, 39):
        parts = [product_by_row(values[row : row + n], kernel) for row in range(0, 40, n)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_no_samples_are_no_error():
    flow = random_flow()
    assert flow.log_prob(np.empty((2, 0, 4)), contexts(2)).shape == (2, 0)
    assert flow.log_prob(np.empty((0, 4)), contexts(0)).shape == (0,)
    assert flow.sample(contexts(0), 5, seed=2**64 - 1).shape == (0, 5, 4)
