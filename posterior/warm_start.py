"""A trained flow as the start of another training: the same parameters, and a context of as many bands or more.

A flow for any subset of seven bands, begun at one for five of them, knows galaxies measured in those five from the first step.
"""

import numpy as np

from sedcast.data.errors import ConfigError, ParameterError
from sedcast.posterior.context import ContextTransform
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.made import FlowConfig
from sedcast.posterior.training_pairs import mean_and_std

__all__ = ["check_start", "warm_start"]


def warm_start(
    estimator: PosteriorEstimator, config: FlowConfig, *, transform: ContextTransform, context: np.ndarray, dim: int
) -> MaskedAutoregressiveFlow:
    """The estimator's flow, made to take the context of another training.

    Where all of the estimator's bands are measured, the flow gives the estimator's density, whatever the other bands say. One
    of affine transforms may become one of sinh-arcsinh transforms.

    Parameters
    ----------
    estimator : whose flow it is.
    config : architecture of the flow to train.
    transform : of the context to train with.
    context : (n, transform.n_context) of galaxies to train on, by whose mean and spread its columns are standardised.
    dim : number of coordinates that the training learns.

    Raises
    ------
    ConfigError : as `check_start`.
    """
    matrix = check_start(estimator, config, transform=transform, dim=dim)
    flow = estimator.flow.trained
    arrays = flow.to_arrays()
    mean, std = mean_and_std("the context", context)
    # The standardised context that the estimator was trained with is linear in the new one.
    kernel = std[:, None] * matrix / arrays["context_std"]
    offset = (mean @ matrix - arrays["context_mean"]) / arrays["context_std"]
    changed = {
        "context_mean": mean,
        "context_std": std,
        "theta_mean": arrays["theta_mean"] + offset @ arrays["theta_slope"],
        "theta_slope": kernel @ arrays["theta_slope"],
    }
    # The layers that see the context; what else they see comes after it.
    sees = {"context_kernel": "bias_0"}
    sees |= {f"{name}_kernel_0": f"{name}_bias_0" for name in ("embedding", "choice") if getattr(config, name)}
    for layer, bias in sees.items():
        direct, other = np.split(arrays[layer].astype(float), [len(offset)], axis=-2)
        changed[layer] = np.concatenate([kernel @ direct, other], axis=-2)
        changed[bias] = arrays[bias] + offset @ direct
    if _gains_tails(flow.config, config):
        # Neither skew nor other tails, which is the affine transform.
        for name in (f"kernel_{len(config.hidden)}", f"bias_{len(config.hidden)}"):
            changed[name] = np.concatenate([arrays[name], np.zeros_like(arrays[name])], axis=-1)
    return MaskedAutoregressiveFlow(config, arrays | {name: value.astype(np.float32) for name, value in changed.items()})


def check_start(estimator: PosteriorEstimator, config: FlowConfig, *, transform: ContextTransform, dim: int) -> np.ndarray:
    """Refuse, while there are no galaxies yet, a start that `warm_start` cannot make.

    Parameters
    ----------
    estimator, config, transform, dim : as of `warm_start`.

    Returns
    -------
    matrix : (transform.n_context, estimator.context.n_context), see `ContextTransform.from_wider`.

    Raises
    ------
    ConfigError : if the architectures differ, one of the two infers the redshift or learns the amplitudes and the other does
        not, or the estimator's context has other columns.
    """
    flow = estimator.flow.trained
    own, wanted = flow.config.model_dump(), config.model_dump()
    if _gains_tails(flow.config, config):
        own["transform"] = wanted["transform"]
    differing = [f"{key}={wanted[key]} (there {own[key]})" for key in wanted if wanted[key] != own[key]]
    if differing:
        raise ConfigError(
            f"start: [flow] must be that of {estimator.name}, but has {', '.join(differing)}: take its values, or drop start"
        )
    if estimator.infers_redshift == transform.redshift:
        does = "infers the redshift" if estimator.infers_redshift else "is given the redshift"
        raise ConfigError(f"start: {estimator.name} {does}, unlike this training: choose the same `redshift` in both")
    if flow.dim != dim:
        raise ConfigError(
            f"start: {estimator.name} learnt {flow.dim} coordinates, this training {dim}: give [amplitudes] if that one had "
            "it, and only then"
        )
    try:
        return estimator.context.from_wider(transform)
    except ParameterError as error:
        raise ConfigError(
            f"start: {error}, which {estimator.name} needs: start from a posterior for some of the bands, "
            "of the same softening (NoiseModel.from_catalog takes it)"
        ) from error


def _gains_tails(own: FlowConfig, wanted: FlowConfig) -> bool:
    return own.transform == "affine" and wanted.transform != "affine"
