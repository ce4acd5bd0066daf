"""The masked autoregressive flow in TensorFlow: its loss, for training, and as a TensorFlow Probability distribution.

The loss evaluates each network once per block.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sedcast.data.tensorflow import import_tensorflow
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.made import MAX_ANGLE, FlowConfig, is_shared, parameter_shapes

__all__ = ["as_tfp_distribution", "negative_log_prob"]

# In σ: what a block that bends makes of a point farther away tells nothing, and the next block's would overflow.
_FARTHEST = 1e9


def negative_log_prob(
    config: FlowConfig,
    weights: Mapping[str, Any],
    affine: Mapping[str, np.ndarray],
    permutation: np.ndarray,
    theta: Any,
    context: Any,
) -> Any:
    """The loss (n,), nats, of theta (n, dim, and the choice) given context (n, n_context), to be differentiated or compiled.

    Parameters
    ----------
    config : architecture.
    weights : arrays, tensors or variables by the names of `parameter_shapes`.
    affine, permutation : the flow's other arrays, as of `MaskedAutoregressiveFlow`.
    """
    tf, _ = import_tensorflow()
    dim = affine["theta_mean"].size
    theta, choice = theta[:, :dim], theta[:, dim:]
    context = (context - affine["context_mean"]) / affine["context_std"]
    values = (theta - affine["theta_mean"] - tf.matmul(context, affine["theta_slope"])) / affine["theta_std"]
    weights = {name: tf.convert_to_tensor(array) for name, array in weights.items()}
    features = _features(tf, config, weights, context)
    total = 0.5 * dim * np.log(2 * np.pi) + np.log(affine["theta_std"].astype(float)).sum()
    nll = tf.fill([tf.shape(theta)[0]], tf.constant(total, theta.dtype))
    if config.choice:
        log_odds = _log_odds(tf, config, weights, features)
        logits = tf.concat([tf.zeros_like(log_odds[:, :1]), log_odds], axis=1)
        option = tf.cast(choice[:, 0], tf.int32)
        nll += tf.nn.sparse_softmax_cross_entropy_with_logits(labels=option, logits=logits)
        features = tf.concat([features, _indicators(tf, config, option)], axis=1)
    blocks = {name: tf.unstack(array) for name, array in weights.items() if not is_shared(name)}
    for index in range(config.n_blocks):
        values = tf.gather(values, permutation[index], axis=1)
        block = {name: arrays[index] for name, arrays in blocks.items()}
        parameters = _block_parameters(tf, config, block, values, features)
        values, log_slope = _noise_and_log_slope(tf, values, *parameters)
        nll += tf.reduce_sum(log_slope, axis=1)
    return nll + 0.5 * tf.reduce_sum(values**2, axis=1)


def as_tfp_distribution(flow: MaskedAutoregressiveFlow, context: np.ndarray, choice: np.ndarray | None = None) -> Any:
    """The flow as a TensorFlow Probability distribution over (n, n_real), one batch member per row of `context` (n, n_context).

    Of a flow with a choice it is the density given what was chosen, `choice` (n,). Built from TFP's own
    MaskedAutoregressiveFlow, Permute and affine bijectors in float32: the reference for `flow`.
    """
    tf, tfp = import_tensorflow()
    tfb, tfd = tfp.bijectors, tfp.distributions
    arrays = flow.to_arrays()
    standard = tf.constant((np.asarray(context, np.float32) - arrays["context_mean"]) / arrays["context_std"])
    features = _features(tf, flow.config, arrays, standard)
    if flow.config.choice:
        features = tf.concat([features, _indicators(tf, flow.config, tf.constant(choice, tf.int32))], axis=1)
    names = [name for name in parameter_shapes(flow.config, flow.n_real, flow.n_context) if not is_shared(name)]

    def network(index: int) -> Callable[[Any], Any]:
        weights = {name: tf.constant(arrays[name][index]) for name in names}

        def bijector(values: Any) -> Any:
            shift, log_scale, *others = _block_parameters(tf, flow.config, weights, values, features)
            chain = [tfb.Shift(shift), tfb.Scale(log_scale=log_scale)]
            if others:
                skew, tail = others[0], tf.exp(others[1])
                # TFP's is scaled so that it leaves 2 where it is if there is no skew.
                chain += [tfb.Scale(tf.sinh(tf.asinh(2.0) * tail) / 2), tfb.SinhArcsinh(skewness=skew / tail, tailweight=tail)]
            return tfb.Chain(chain)

        return bijector

    # Bijectors act from the last to the first on base noise: the last block comes first.
    centre = arrays["theta_mean"] + tf.matmul(standard, arrays["theta_slope"])
    chain: list[Any] = [tfb.Shift(centre), tfb.Scale(arrays["theta_std"])]
    for index, order in enumerate(arrays["permutation"]):
        chain.append(tfb.Permute(np.argsort(order).astype(np.int32)))
        chain.append(tfb.MaskedAutoregressiveFlow(bijector_fn=network(index), unroll_loop=False))
    base = tfd.MultivariateNormalDiag(tf.zeros([len(standard), flow.n_real]), tf.ones(flow.n_real))
    return tfd.TransformedDistribution(base, tfb.Chain(chain))


def _silu(tf: Any, values: Any) -> Any:
    # Its gradient from what is at hand: a tenth more galaxies per second than one derived from values * sigmoid(values).
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def silu(values: Any) -> tuple[Any, Callable[[Any], Any]]:
        share = tf.sigmoid(values)
        result = values * share
        return result, lambda upstream: upstream * (share + result * (1 - share))

    return silu(values)


def _features(tf: Any, config: FlowConfig, weights: Mapping[str, Any], context: Any) -> Any:
    """What the blocks see of the standardised context (n, n_context): itself and its embedding."""
    embedded = context
    for layer in range(len(config.embedding)):
        embedded = _silu(tf, tf.matmul(embedded, weights[f"embedding_kernel_{layer}"]) + weights[f"embedding_bias_{layer}"])
    return tf.concat([context, embedded], axis=1) if config.embedding else context


def _log_odds(tf: Any, config: FlowConfig, weights: Mapping[str, Any], features: Any) -> Any:
    """Those of the choice's options to the first of them, (n, n_indicators)."""
    values = features
    for layer in range(len(config.choice) + 1):
        values = _silu(tf, values) if layer else values
        values = tf.matmul(values, weights[f"choice_kernel_{layer}"]) + weights[f"choice_bias_{layer}"]
    return values


def _indicators(tf: Any, config: FlowConfig, option: Any) -> Any:
    """What the blocks see of options (n,), (n, n_indicators): `options.indicators` of the other axis."""
    return tf.one_hot(option, config.n_options)[:, 1:]


def _block_parameters(tf: Any, config: FlowConfig, weights: Mapping[str, Any], values: Any, features: Any) -> list[Any]:
    """One MADE: shifts, log scales and, if it has them, skews and log tail weights (…, dim) for `values` given `features`."""
    activation = functools.partial(_silu, tf) if config.activation == "silu" else getattr(tf.nn, config.activation)
    hidden = tf.matmul(values, weights["kernel_0"]) + tf.matmul(features, weights["context_kernel"]) + weights["bias_0"]
    for layer in range(1, len(config.hidden) + 1):
        hidden = tf.matmul(activation(hidden), weights[f"kernel_{layer}"]) + weights[f"bias_{layer}"]
    shift, *raw = tf.split(hidden, config.n_outputs, axis=-1)
    return [shift, *(bound * tf.tanh(each / bound) for each, bound in zip(raw, config.soft_bounds, strict=True))]


def _noise_and_log_slope(
    tf: Any, values: Any, shift: Any, log_scale: Any, skew: Any = None, log_tail: Any = None
) -> tuple[Any, Any]:
    """The noise z that a block's transform makes `values` of, and the log slope of the transform there."""
    values = (values - shift) * tf.exp(-log_scale)
    if log_tail is None:
        return values, log_scale
    # Bounded where squares and hyperbolic functions overflow: at impossible points.
    values = tf.clip_by_value(values, -_FARTHEST, _FARTHEST)
    angle = tf.clip_by_value((tf.asinh(values) - skew) * tf.exp(-log_tail), -MAX_ANGLE, MAX_ANGLE)
    return tf.sinh(angle), log_scale + log_tail + 0.5 * tf.math.log1p(values**2) - tf.math.log(tf.cosh(angle))
