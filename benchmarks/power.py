"""Which faults of a posterior `calibrate` finds: faults planted in exact ones, and how often each check misses its bar."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import note, positive, table
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.calibration import CalibrationResult, calibrate
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.mocks import Mocks
from sedcast.posterior.prior_edges import EDGE_LIMIT
from sedcast.posterior.resampling import PosteriorDraws

N_DIM = len(FREE_PARAMETER_NAMES)
# Each parameter is measured with an error of its own, in prior sigma, but that only the sum of the last two is.
_ERRORS = np.append(np.geomspace(0.1, 3.0, N_DIM - 2), 0.3)
_MEASURED = np.eye(N_DIM)[:-1] + np.eye(N_DIM)[-1] * (np.arange(N_DIM - 1) == N_DIM - 2)[:, None]
_COVARIANCE = np.linalg.inv(np.eye(N_DIM) + (_MEASURED.T * _ERRORS**-2) @ _MEASURED)
_SIGMA = np.sqrt(np.diag(_COVARIANCE))
_ONE = 5
_COPIES = 5
_LOST, _LOST_SIGMA = 0.03, 5.0
_STEP = 0.5
LOST, STEPPED = "a mode of 3% at 5 σ lost", "none, a parameter in steps of 0.5"
_GROUPS = {
    "ranks": ("smallest KS p after Holm's correction",),
    "other derived": ("KS p of the other derived quantities",),
    "TARP": ("TARP, largest deviation",),
    "quartiles": ("KS p within quartiles of zred", "KS p within quartiles of signal_to_noise"),
    "edges, ranks": ("KS p of truths at the prior's edges",),
    "edges, numbers": ("p of the number of truths at these edges",),
}


@dataclass(frozen=True)
class Block:
    """What a fault works on: posterior means (n, 11), exact samples (n, n_samples, 11), redshifts (n,), random numbers."""

    mean: np.ndarray
    points: np.ndarray
    zred: np.ndarray
    rng: np.random.Generator


Fault = Callable[[Block], np.ndarray]


def _columns(one: bool) -> np.ndarray:
    return np.arange(N_DIM) == _ONE if one else np.ones(N_DIM, dtype=bool)


def _widths(factor: float, *, one: bool = False) -> Fault:
    factors = np.where(_columns(one), factor, 1.0)
    return lambda block: block.mean[:, None] + factors * (block.points - block.mean[:, None])


def _shift(sigmas: float, *, one: bool = False) -> Fault:
    return lambda block: block.points + np.where(_columns(one), sigmas, 0.0) * _SIGMA


def _shift_far(block: Block) -> np.ndarray:
    far = block.zred > 0.75 * block.zred.max()
    return np.where(far[:, None, None], _shift(0.2, one=True)(block), block.points)


def _prior(block: Block) -> np.ndarray:
    block.points[..., _ONE] = block.rng.standard_normal(block.points.shape[:2])
    return block.points


def _uncorrelated(block: Block) -> np.ndarray:
    block.points[..., -1] = block.rng.permuted(block.points[..., -1], axis=1)
    return block.points


def _copied(block: Block) -> np.ndarray:
    return np.repeat(block.points[:, ::_COPIES], _COPIES, axis=1)


def _reflected(share: float) -> Fault:
    def fault(block: Block) -> np.ndarray:
        column = block.points[..., _ONE]
        moved = (column > EDGE_LIMIT) & (block.rng.random(column.shape) < share)
        column[moved] = 2 * EDGE_LIMIT - column[moved]
        return block.points

    return fault


def _stepped(points: np.ndarray) -> np.ndarray:
    points[..., _ONE] = _STEP * np.round(points[..., _ONE] / _STEP)
    return points


FAULTS: dict[str, Fault] = {
    "none": lambda block: block.points,
    STEPPED: lambda block: _stepped(block.points),
    **{f"all widths × {factor:g}": _widths(factor) for factor in (0.8, 0.9, 0.95, 1.05, 1.1, 1.2)},
    **{f"one width × {factor:g}": _widths(factor, one=True) for factor in (0.9, 0.95, 1.05, 1.1)},
    **{f"all medians + {sigmas:g} σ": _shift(sigmas) for sigmas in (0.05, 0.1)},
    **{f"one median + {sigmas:g} σ": _shift(sigmas, one=True) for sigmas in (0.05, 0.1, 0.2)},
    "one median + 0.2 σ, a quarter of the redshifts": _shift_far,
    "a parameter's prior for its posterior": _prior,
    "a correlation of -0.92 removed": _uncorrelated,
    LOST: lambda block: block.points,
    "20 samples, each five times": _copied,
    "half the mass beyond an edge's limit reflected": _reflected(0.5),
    "all of it": _reflected(1.0),
}


def trial(estimator: PosteriorEstimator, name: str, *, n_mocks: int, n_samples: int, seed: int) -> CalibrationResult:
    """`calibrate` on mocks whose posteriors are known normals, with one fault planted."""
    rng = np.random.default_rng([seed, 0])
    truth = rng.standard_normal((n_mocks, N_DIM))
    data = truth @ _MEASURED.T + _ERRORS * rng.standard_normal((n_mocks, len(_ERRORS)))
    mean = (data / _ERRORS**2) @ _MEASURED @ _COVARIANCE
    factor = np.linalg.cholesky(_COVARIANCE)
    if name == LOST:
        truth[:, _ONE] += _LOST_SIGMA * _SIGMA[_ONE] * (rng.random(n_mocks) < _LOST)
    elif name == STEPPED:
        truth = _stepped(truth)
    flux = np.exp(rng.standard_normal((n_mocks, len(estimator.bands))))
    mocks = Mocks(estimator.prior.from_unbounded(truth), truth, flux, np.ones_like(flux), rng.uniform(0.01, 0.2, n_mocks))

    def draw(
        flux: np.ndarray, flux_ivar: np.ndarray, zred: np.ndarray, n: int, *, seed: int, row_keys: np.ndarray
    ) -> PosteriorDraws:
        own = np.random.default_rng([seed, 1, int(row_keys[0])])
        centre = mean[row_keys]
        points = centre[:, None] + own.standard_normal((len(row_keys), n, N_DIM)) @ factor.T
        drawn = FAULTS[name](Block(centre, points, zred, own)).astype(np.float32)
        return PosteriorDraws(drawn, np.ones(len(drawn)), np.zeros(len(drawn)))

    return calibrate(estimator, mocks, n_samples=n_samples, seed=seed, sampler=draw)


def missed(result: CalibrationResult) -> dict[str, bool]:
    """Whether each group of checks misses a bar."""
    failed = {check.name for check in result.checks() if check.passes is False}
    return {group: any(name in failed for name in names) for group, names in _GROUPS.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mocks", type=positive, default=10_000, help="of each trial")
    parser.add_argument("--samples", type=positive, default=100, help="of each mock's posterior")
    parser.add_argument("--repeats", type=positive, default=5, help="trials of each fault")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT", help="all by default")


def run(options: argparse.Namespace) -> dict[str, Any]:
    estimator = PosteriorEstimator.default()
    shares: dict[str, dict[str, float]] = {}
    for name in options.faults:
        rows = []
        for k in range(options.repeats):
            result = trial(estimator, name, n_mocks=options.mocks, n_samples=options.samples, seed=options.seed + k)
            rows.append(missed(result))
        shares[name] = {group: float(np.mean([row[group] for row in rows])) for group in _GROUPS}
        shares[name]["any"] = float(np.mean([any(row.values()) for row in rows]))
        note(f"  {name}: {', '.join(f'{group} {share:.0%}' for group, share in shares[name].items())}")
    table(("fault", *_GROUPS, "any"), [(name, *row.values()) for name, row in shares.items()])
    return {"mocks": options.mocks, "samples": options.samples, "repeats": options.repeats, "missed": shares}
