"""Simulation-based calibration of the MCMC itself: it validates likelihood, prior and noise model together."""

import argparse
from typing import Any

import numpy as np

from benchmarks.common import note, table, verdict
from benchmarks.mcmc import HOLM_BAR
from sedcast.baselines.compare import compare_galaxies
from sedcast.baselines.mcmc import McmcConfig
from sedcast.baselines.outcomes import COMPARED_NAMES, CompareConfig, Setting
from sedcast.comparison import mock_galaxies
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.outlier_training import training_simulator
from sedcast.posterior.ranks import holm, ks_p_values

_N_DRAWS = 500


def calibrate_mcmc(estimator: PosteriorEstimator, config: McmcConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Ranks of the true parameters of mocks among effectively independent draws of chains, and whether they are uniform."""
    simulator = training_simulator(estimator)
    compare = CompareConfig(methods=(options.sampler,), n_draws=_N_DRAWS, mcmc=config, seed=options.seed)
    mocks = mock_galaxies(estimator, options.sbc, seed=options.seed)
    setting = Setting(estimator, simulator, "emulator", compare)
    found = compare_galaxies(
        setting, mocks, options.folder, n_workers=options.threads, progress=lambda done, total: note(f"  {done} of {total}")
    )
    outcomes = [one.outcomes[options.sampler] for one in found.galaxies]
    ranks = found.mock_ranks(options.sampler)
    p_values = ks_p_values(ranks)
    corrected = holm(p_values)
    table(("quantity", "KS p", "with Holm's correction"), list(zip(COMPARED_NAMES, p_values, corrected, strict=True)))
    passed = bool(corrected.min() >= HOLM_BAR)
    note(f"smallest corrected p {corrected.min():.3g} on {len(ranks)} mocks (at least {HOLM_BAR:g}): {verdict(passed)}")
    return {
        "sampler": options.sampler,
        "mocks": len(ranks),
        "failed": sum(one.failed for one in outcomes),
        "converged": sum(one.converged is True for one in outcomes),
        "smallest_p": float(p_values.min()),
        "smallest_holm_p": float(corrected.min()),
        "passed": passed,
        "median_cpu_s": float(np.median([one.cpu_s for one in outcomes])),
        "ks_p": dict(zip(COMPARED_NAMES, p_values.tolist(), strict=True)),
        "unconverged": [
            f"{one.galaxy.name}: {o.reason}" for one, o in zip(found.galaxies, outcomes, strict=True) if not o.converged
        ],
    }
