"""What the model's priors say of derived properties before any data: ``python -m sedcast.plotting_prior -o FILE.png``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sedcast.emulator.histories import burst_fraction
from sedcast.plotting import _BLUE, _DPI, _ORANGE, _ticks_inward, own_style
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.reweight import PriorModel

__all__ = ["prior_artefacts", "prior_plot"]

_OLD_GYR, _QUIESCENT = 8.0, -11.5
_PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)


def prior_artefacts(model: PriorModel, zred: float, n: int, seed: int) -> dict[str, np.ndarray]:
    """Specific star-formation rate and age of prior draws at one redshift.

    Returns
    -------
    columns : (n,) each, ``log_ssfr_1gyr`` (log10 yr^-1), ``t_mw_gyr``, and ``f_burst``, 0 where there is no burst.
    """
    theta = model.prior.sample(n, seed)
    columns = model.columns(theta, zred)
    t_age = model.cosmology.age_gyr(np.full(n, zred))
    return {name: columns[name] for name in ("log_ssfr_1gyr", "t_mw_gyr")} | {"f_burst": burst_fraction(theta, t_age)}


@own_style
def prior_plot(columns: dict[str, np.ndarray], t_age_gyr: float) -> Figure:
    """Histograms of what `prior_artefacts` returned: all draws, and those with hardly any burst."""
    figure = Figure(figsize=(8.6, 3.6), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    smooth = columns["f_burst"] < 0.05
    bins = np.linspace(np.floor(columns["log_ssfr_1gyr"].min()), -8.9, 90)
    _histogram(left, columns["log_ssfr_1gyr"], smooth, bins)
    left.set(xlabel=r"log sSFR over 1 Gyr [yr$^{-1}$]", ylabel="prior density", yscale="log")
    _histogram(right, columns["t_mw_gyr"], smooth, np.linspace(0, t_age_gyr, 90))
    right.axvline(t_age_gyr, color="0.5", linestyle=":")
    right.annotate(
        "age of the Universe ", (t_age_gyr, 0.97), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top"
    )
    right.set(xlabel="mass-weighted age [Gyr]", xlim=(0, t_age_gyr * 1.02))
    left.legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def _histogram(axes: Axes, values: np.ndarray, smooth: np.ndarray, bins: np.ndarray) -> None:
    _ticks_inward(axes)
    axes.hist(values, bins.tolist(), density=True, color=_BLUE, alpha=0.35, label="all prior draws")
    axes.hist(
        values[smooth],
        bins.tolist(),
        density=True,
        histtype="step",
        color=_ORANGE,
        linewidth=1.4,
        label="bursts below 5% of the mass",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture of the bundled posterior's prior, and print the percentiles behind it."""
    parser = argparse.ArgumentParser(prog="python -m sedcast.plotting_prior", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("prior_artefacts.png"), help="picture to write")
    parser.add_argument("--zred", type=float, default=0.05, help="redshift of the galaxies")
    parser.add_argument("-n", type=int, default=100_000, help="prior draws")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    options = parser.parse_args(arguments)
    model = PriorModel.of(PosteriorEstimator.default())
    columns = prior_artefacts(model, options.zred, options.n, options.seed)
    smooth = columns["f_burst"] < 0.05
    lines = [f"{'percentile':<34}" + "".join(f"{q:>9g}" for q in _PERCENTILES)]
    for name in ("log_ssfr_1gyr", "t_mw_gyr"):
        for label, rows in (("", slice(None)), (", bursts below 5%", smooth)):
            found = np.percentile(columns[name][rows], _PERCENTILES)
            lines.append(f"{name + label:<34}" + "".join(f"{value:9.2f}" for value in found))
    old, quiescent = np.mean(columns["t_mw_gyr"] > _OLD_GYR), np.mean(columns["log_ssfr_1gyr"] < _QUIESCENT)
    lines.append(f"older than {_OLD_GYR:g} Gyr: {old:.1%}; log sSFR below {_QUIESCENT:g}: {quiescent:.1%}")
    sys.stdout.write("\n".join(lines) + "\n")
    prior_plot(columns, float(model.cosmology.age_gyr(np.array([options.zred]))[0])).savefig(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
