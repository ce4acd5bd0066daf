"""MCMC on the same likelihood, and the comparison with the flow."""

from typing import TYPE_CHECKING

from sedcast.data._lazy import lazy_getattr

if TYPE_CHECKING:
    from sedcast.baselines.chain_refiner import ChainRefiner
    from sedcast.baselines.compare import compare_galaxies
    from sedcast.baselines.coordinates import FlowMap
    from sedcast.baselines.mcmc import McmcConfig, McmcResult, run_emcee, run_zeus
    from sedcast.baselines.nested import run_nautilus
    from sedcast.baselines.outcomes import CompareConfig, Galaxy, Setting
    from sedcast.baselines.two_sample_tests import c2st, two_samples

__all__ = [
    "ChainRefiner",
    "CompareConfig",
    "FlowMap",
    "Galaxy",
    "McmcConfig",
    "McmcResult",
    "Setting",
    "c2st",
    "compare_galaxies",
    "run_emcee",
    "run_nautilus",
    "run_zeus",
    "two_samples",
]

__getattr__ = lazy_getattr(
    __name__,
    {
        "sedcast.baselines.chain_refiner": ("ChainRefiner",),
        "sedcast.baselines.compare": ("compare_galaxies",),
        "sedcast.baselines.coordinates": ("FlowMap",),
        "sedcast.baselines.mcmc": ("McmcConfig", "McmcResult", "run_emcee", "run_zeus"),
        "sedcast.baselines.nested": ("run_nautilus",),
        "sedcast.baselines.outcomes": ("CompareConfig", "Galaxy", "Setting"),
        "sedcast.baselines.two_sample_tests": ("c2st", "two_samples"),
    },
)
