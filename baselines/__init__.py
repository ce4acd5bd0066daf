"""MCMC on the same likelihood, and the comparison with the flow."""

from typing import TYPE_CHECKING

from sedcast.data._lazy import lazy_getattr

if TYPE_CHECKING:
    from sedcast.baselines.compare import compare_galaxies
    from sedcast.baselines.coordinates import FlowMap
    from sedcast.baselines.mcmc import McmcConfig, McmcResult, run_emcee, run_zeus

__all__ = [
    "FlowMap",
    "McmcConfig",
    "McmcResult",
    "compare_galaxies",
    "run_emcee",
    "run_zeus",
]

__getattr__ = lazy_getattr(
    __name__,
    {
        "sedcast.baselines.compare": ("compare_galaxies",),
        "sedcast.baselines.coordinates": ("FlowMap",),
        "sedcast.baselines.mcmc": ("McmcConfig", "McmcResult", "run_emcee", "run_zeus"),
    },
)
