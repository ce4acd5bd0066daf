"""A trained flow as the start of another training: the same parameters, and a context that may have gained columns.

A flow for any subset of seven bands, begun at one for five of them, knows galaxies measured in those five from the first step.
"""

from collections.abc import Sequence

import numpy as np

from sedcast.data.errors import ConfigError
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.made import FlowConfig

__all__ = ["warm_start"]


def warm_start(
    estimator: PosteriorEstimator, config: FlowConfig, *, names: Sequence[str], context: np.ndarray
) -> MaskedAutoregressiveFlow:
    """The estimator's flow, made to take the context of another training.

    Columns that it does not know are standardised by their mean and spread, and have zero weights: to begin with, the flow
    gives the same density whatever they hold.

    Parameters
    ----------
    estimator : whose flow it is.
    config : architecture of the flow to train.
    names : of the context's columns, `ContextTransform.names`; the estimator's must be among them.
    context : (n, len(names)) of galaxies to train on.

    Raises
    ------
    ConfigError : if the architectures differ, one of the two infers the redshift, or the estimator's context has other columns.
    """
    own, wanted = estimator.flow.config.model_dump(), config.model_dump()
    differing = [f"{key}={wanted[key]} (there {own[key]})" for key in wanted if wanted[key] != own[key]]
    if differing:
        raise ConfigError(
            f"start: [flow] must be that of {estimator.name}, but has {', '.join(differing)}: take its values, or drop start"
        )
    if estimator.infers_redshift != ("zred" not in names):
        does = "infers the redshift" if estimator.infers_redshift else "is given the redshift"
        raise ConfigError(f"start: {estimator.name} {does}, unlike this training: choose the same `redshift` in both")
    known = estimator.context.names
    absent = [name for name in known if name not in names]
    if absent:
        raise ConfigError(
            f"start: {estimator.name} is conditioned on {', '.join(absent)}, which this training's galaxies lack: "
            "start from a posterior for some of their bands"
        )
    column = np.array([names.index(name) for name in known])
    arrays = estimator.flow.to_arrays()
    mean, std = context.mean(axis=0, dtype=float).astype(np.float32), context.std(axis=0, dtype=float).astype(np.float32)
    mean[column], std[column] = arrays["context_mean"], arrays["context_std"]
    arrays |= {"context_mean": mean, "context_std": std, "theta_slope": _with_rows(arrays["theta_slope"], column, len(names))}
    if config.embedding:
        arrays["embedding_kernel_0"] = _with_rows(arrays["embedding_kernel_0"], column, len(names))
    n_embedded = sum(config.embedding[-1:])
    features = np.concatenate([column, len(names) + np.arange(n_embedded)])
    arrays["context_kernel"] = _with_rows(arrays["context_kernel"], features, len(names) + n_embedded)
    return MaskedAutoregressiveFlow(config, arrays)


def _with_rows(kernel: np.ndarray, rows: np.ndarray, n_rows: int) -> np.ndarray:
    """A kernel (…, len(rows), n_out) as one of `n_rows` rows, zero but for those."""
    wider = np.zeros((*kernel.shape[:-2], n_rows, kernel.shape[-1]), dtype=kernel.dtype)
    wider[..., rows, :] = kernel
    return wider
