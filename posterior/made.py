"""The architecture that a masked autoregressive flow has in common with its trainer: degrees, masks, permutations, shapes.

One block is a conditional MADE: a network whose outputs for dimension i (shift, log scale and, if the transform has them, skew
and log tail weight) depend on the dimensions before i, on the context and on a choice, if there is one, only. Hidden units have
degrees 0 … dim-1; those of degree 0 see no dimensions, so that even the first one depends on the context nonlinearly.
Units are sorted by degree, in groups as equal as possible: masks are block triangular.

References
----------
Germain et al. 2015, arXiv:1502.03509 (MADE); Papamakarios et al. 2017, arXiv:1705.07057 (flow); Jones & Pewsey 2009,
doi:10.1093/biomet/asp053, eq. 1 (sinh-arcsinh).
"""

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from sedcast.data.config import Config
from sedcast.data.errors import ParameterError

__all__ = [
    "MAX_ANGLE",
    "FlowConfig",
    "check_choice",
    "hidden_degrees",
    "initial_parameters",
    "is_shared",
    "parameter_masks",
    "parameter_shapes",
    "permutations",
    "split_context_kernel",
]

# Where the argument of a sinh-arcsinh transform is cut, at impossible points, lest hyperbolic functions overflow.
MAX_ANGLE = 40.0
_MAX_SKEW, _MAX_LOG_TAIL = 2.0, 1.0

Activation = Literal["relu", "tanh", "elu", "silu"]
Parameters = dict[str, np.ndarray]


class FlowConfig(Config):
    """Shape of a masked autoregressive flow.

    Attributes
    ----------
    n_blocks : number of MADE blocks.
    hidden : widths of the hidden layers of each block.
    activation : nonlinearity of the hidden layers.
    embedding : widths of the layers of a network (silu) that all blocks share and that turns the context into further features
        beside it; none by default. It runs once per galaxy, however many samples are drawn.
    choice : widths of the hidden layers (silu) of a network that gives the probabilities of a choice, which is made before the
        dimensions are drawn and given to every block; no choice by default.
    n_options : of the choice; beside no choice, 2.
    permutation : how dimensions are reordered before each block but the first: at random by `seed`, or reversed.
    transform : of a dimension in a block: noise z becomes shift + scale · z, or shift + scale · sinh(skew + tail · asinh(z)).
    max_log_scale : soft bound on a block's log scale, max_log_scale · tanh(raw / max_log_scale).
    seed : of the permutations and the initial weights.
    """

    n_blocks: Annotated[int, Field(ge=1)] = 8
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (256, 256)
    activation: Activation = "silu"
    embedding: tuple[Annotated[int, Field(ge=1)], ...] = ()
    choice: tuple[Annotated[int, Field(ge=1)], ...] = ()
    n_options: Annotated[int, Field(ge=2)] = 2
    permutation: Literal["random", "reverse"] = "random"
    transform: Literal["affine", "sinh-arcsinh"] = "affine"
    max_log_scale: Annotated[float, Field(gt=0, le=8)] = 4.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _options_of_a_choice(self) -> "FlowConfig":
        if self.n_options != 2 and not self.choice:
            raise ValueError("n_options are those of a choice: give `choice`, its network's widths, too, or drop n_options")
        return self

    @property
    def soft_bounds(self) -> tuple[float, ...]:
        """Bounds of a block's outputs but the shift: of log scale and, if not affine, skew and log tail weight."""
        return (self.max_log_scale,) if self.transform == "affine" else (self.max_log_scale, _MAX_SKEW, _MAX_LOG_TAIL)

    @property
    def n_choice(self) -> int:
        """Columns of theta that hold a choice: one or none."""
        return int(bool(self.choice))

    @property
    def n_indicators(self) -> int:
        """Inputs of a block that say what was chosen: one for each option but the first."""
        return self.n_options - 1 if self.choice else 0

    @property
    def n_outputs(self) -> int:
        """Numbers that a block needs for each dimension: the shift, and those with `soft_bounds`."""
        return 1 + len(self.soft_bounds)


def hidden_degrees(dim: int, width: int) -> np.ndarray:
    """Degrees 0 … dim-1 of the `width` units of a hidden layer, sorted, in groups as equal as possible.

    Raises
    ------
    ParameterError : if the layer is too narrow to hold every degree.
    """
    if width < dim:
        raise ParameterError(f"hidden layers need at least one unit per dimension: {dim} expected, got {width}; widen `hidden`")
    return np.arange(width) * dim // width


def check_choice(config: FlowConfig, theta: np.ndarray) -> None:
    """Raise a ParameterError if the last column of theta (..., dim) is to be a choice and is not one of its options."""
    if config.choice and not np.isin(theta[..., -1], np.arange(config.n_options)).all():
        raise ParameterError(f"theta's last column is a choice, and must be one of 0 … {config.n_options - 1}")


def parameter_shapes(config: FlowConfig, dim: int, n_context: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the trained arrays, the first axis being the block unless all blocks share them (`is_shared`).

    ``kernel_0`` acts on the inputs, ``context_kernel`` on the context, what the embedding makes of it and the choice if there
    is one, ``kernel_k`` on hidden layer k; the last one's outputs are `dim` shifts, `dim` raw log scales and, if the transform
    has them, as many raw skews and log tail weights. A bias follows each kernel.
    """
    widths = (dim, *config.hidden, config.n_outputs * dim)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (n_in, n_out) in enumerate(pairwise((n_context, *config.embedding))):
        shapes[f"embedding_kernel_{layer}"] = (n_in, n_out)
        shapes[f"embedding_bias_{layer}"] = (n_out,)
    n_features = n_context + sum(config.embedding[-1:])
    for layer, (n_in, n_out) in enumerate(pairwise((n_features, *config.choice, config.n_indicators)) if config.choice else ()):
        shapes[f"choice_kernel_{layer}"] = (n_in, n_out)
        shapes[f"choice_bias_{layer}"] = (n_out,)
    shapes["context_kernel"] = (config.n_blocks, n_features + config.n_indicators, widths[1])
    for layer, (n_in, n_out) in enumerate(pairwise(widths)):
        shapes[f"kernel_{layer}"] = (config.n_blocks, n_in, n_out)
        shapes[f"bias_{layer}"] = (config.n_blocks, n_out)
    return shapes


def split_context_kernel(config: FlowConfig, kernel: np.ndarray) -> list[np.ndarray]:
    """The rows of ``context_kernel`` (..., n_in, n_out) for the context, and those for the choice."""
    return np.split(kernel, [kernel.shape[-2] - config.n_indicators], axis=-2)


def is_shared(name: str) -> bool:
    """Whether an array of `parameter_shapes` serves all blocks."""
    return name.startswith(("embedding", "choice"))


def parameter_masks(config: FlowConfig, dim: int) -> Parameters:
    """Boolean masks (n_in, n_out) of ``kernel_0`` … ``kernel_L``: True where a weight may differ from zero."""
    degrees = [np.arange(1, dim + 1), *(hidden_degrees(dim, width) for width in config.hidden)]
    masks = {f"kernel_{layer}": degrees[layer][:, None] <= degrees[layer + 1][None, :] for layer in range(len(config.hidden))}
    output = degrees[-1][:, None] <= np.arange(dim)[None, :]
    masks[f"kernel_{len(config.hidden)}"] = np.concatenate([output] * config.n_outputs, axis=1)
    return masks


def permutations(config: FlowConfig, dim: int) -> np.ndarray:
    """The order (n_blocks, dim) in which each block takes its dimensions from the block before; the first as they come."""
    order = np.tile(np.arange(dim), (config.n_blocks, 1))
    rng = np.random.default_rng([config.seed, 1])
    for block in range(1, config.n_blocks):
        order[block] = rng.permutation(dim) if config.permutation == "random" else order[block][::-1]
    return order


def initial_parameters(config: FlowConfig, dim: int, n_context: int) -> Parameters:
    """Random float32 weights of a flow that is nearly the identity: hidden layers keep the variance, outputs are small."""
    rng = np.random.default_rng([config.seed, 2])
    masks = parameter_masks(config, dim)
    gain = 2.0 if config.activation in ("relu", "elu", "silu") else 1.0
    last = f"kernel_{len(config.hidden)}"
    parameters = {}
    shapes = parameter_shapes(config, dim, n_context)
    n_features = shapes["context_kernel"][1]
    for name, shape in shapes.items():
        if "bias" in name:
            parameters[name] = np.zeros(shape, dtype=np.float32)
            continue
        fan_in = masks[name].sum(axis=0) if name in masks else np.full(shape[-1], shape[-2])
        if name == "kernel_0":
            fan_in = fan_in + n_features
        scale = np.sqrt(gain / np.maximum(fan_in, 1)) * (0.01 if name == last else 1.0)
        values = rng.standard_normal(shape) * scale * masks.get(name, 1.0)
        parameters[name] = values.astype(np.float32)
    return parameters
