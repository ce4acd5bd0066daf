"""A comparison as figures: a summary over galaxies, JSON and a Markdown report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sedcast.baselines.compare import FLOOR, Comparison, GalaxyComparison, Pair
from sedcast.baselines.outcomes import COMPARED_NAMES, PHYSICAL_NAMES, Outcome
from sedcast.baselines.two_sample_tests import TwoSamples
from sedcast.data.provenance import jsonable
from sedcast.emulator.prior import FREE_PARAMETER_NAMES
from sedcast.posterior.quantities import SHOWN_QUANTITIES, with_unit
from sedcast.posterior.ranks import ks_p_values, smallest

__all__ = ["GROUPS", "cost_rows", "pair_name", "pair_rows", "summarise", "to_json", "to_markdown"]

GROUPS = {"real": "real galaxies", "mock": "mock galaxies"}
C2ST_BAR = 0.55
_N_FREE = len(FREE_PARAMETER_NAMES)
_MIN_MOCKS = 20
_COST_HEADER = (
    "method",
    "converged",
    "ESS",
    "R-hat",
    "evaluations",
    "wall, s",
    "CPU, s",
    "ESS / CPU s",
    "FSPS alone, h",
)
_PAIR_HEADER = ("pair", "galaxies", "C2ST", "90% below", f"≤ {C2ST_BAR}", "Wasserstein, prior σ", "shift, σ", "95%", "width")


def pair_name(pair: Pair) -> str:
    """How a pair is called in tables."""
    return f"{pair[0]} itself, halves" if pair[1] == FLOOR else f"{pair[0]} – {pair[1]}"


def summarise(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Figures over the galaxies of each group that is there: ``methods``, ``pairs``, and ``calibration`` of mocks."""
    summary = {}
    for group in GROUPS:
        members = comparison.group(group)
        if not members:
            continue
        methods = {name: _costs(comparison, [one.outcomes[name] for one in members]) for name in comparison.config.methods}
        pairs = {pair: [one.pairs[pair] for one in members if pair in one.pairs] for pair in comparison.pairs}
        summary[group] = {
            "n_galaxies": len(members),
            "methods": methods,
            "pairs": {pair_name(pair): _pair_figures(found) for pair, found in pairs.items() if found},
        }
        if group == "mock":
            summary[group]["calibration"] = _calibration(comparison)
    return summary


def _costs(comparison: Comparison, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Medians over the galaxies where a method did not fail, and counts."""
    good = [one for one in outcomes if not one.failed]

    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None and np.isfinite(value)]
        return float(np.median(known)) if known else None

    evaluations = median([one.n_evaluations for one in good])
    seconds = comparison.about.get("fsps", {}).get("seconds_per_model")
    return {
        "n": len(outcomes),
        "failed": len(outcomes) - len(good),
        "converged": None if all(one.converged is None for one in good) else sum(one.converged is True for one in good),
        "ess": median([one.ess for one in good]),
        "ess_min": min((one.ess for one in good), default=None),
        "rhat": median([one.rhat for one in good]),
        "rhat_max": max((one.rhat for one in good if one.rhat is not None), default=None),
        "n_evaluations": evaluations,
        "wall_s": median([one.wall_s for one in good]),
        "wall_s_max": max((one.wall_s for one in good), default=None),
        "cpu_s": median([one.cpu_s for one in good]),
        "ess_per_s": median([one.ess / one.wall_s for one in good]),
        "ess_per_cpu_s": median([one.ess / one.cpu_s for one in good if one.cpu_s > 0]),
        "fsps_alone_h": None if seconds is None or evaluations is None else seconds * evaluations / 3600,
    }


def _pair_figures(found: Sequence[TwoSamples]) -> dict[str, Any]:
    accuracy = np.array([one.c2st for one in found])
    accuracy = accuracy[np.isfinite(accuracy)]
    wasserstein, shift, width = (
        np.array([getattr(one, name) for one in found]) for name in ("wasserstein", "shift", "width_ratio")
    )
    size = np.abs(shift)
    return {
        "n": len(found),
        "c2st": dict(zip(("p16", "median", "p84", "p90"), np.percentile(accuracy, [16, 50, 84, 90]).tolist(), strict=True))
        | {"max": float(accuracy.max()), "share_below_0.55": float(np.mean(accuracy <= C2ST_BAR))}
        if len(accuracy)
        else None,
        "c2st_samples": float(np.median([one.n for one in found])),
        "wasserstein_prior_sigma": _over(wasserstein[:, :_N_FREE]),
        "shift_sigma": _over(size),
        "width_ratio": {
            "p5": float(np.nanpercentile(width, 5)),
            "median": float(np.nanmedian(width)),
            "p95": float(np.nanpercentile(width, 95)),
        },
        "by_quantity": {
            name: {
                "wasserstein": float(np.median(wasserstein[:, k])),
                "abs_shift_sigma": float(np.nanmedian(size[:, k])),
                "mean_shift_sigma": float(np.nanmean(shift[:, k])),
                "width_ratio": float(np.nanmedian(width[:, k])),
            }
            for k, name in enumerate(COMPARED_NAMES)
        },
    }


def _over(values: np.ndarray) -> dict[str, float]:
    """Median, 95% point and maximum over galaxies and quantities."""
    return {
        "median": float(np.nanmedian(values)),
        "p95": float(np.nanpercentile(values, 95)),
        "max": float(np.nanmax(values)),
    }


def _calibration(comparison: Comparison) -> dict[str, Any] | None:
    """Kolmogorov-Smirnov p-values of the truths' ranks by method, those with too few mocks left out; None if all are."""
    result: dict[str, Any] = {}
    for method in comparison.config.methods:
        ranks = comparison.mock_ranks(method)
        if len(ranks) < _MIN_MOCKS:
            continue
        p = ks_p_values(ranks)
        result[method] = {
            "n": len(ranks),
            "ks_p": dict(zip(COMPARED_NAMES, p.tolist(), strict=True)),
            "ks_p_min_holm_free": smallest(p[:_N_FREE]),
            "ks_p_min_holm": smallest(p),
        }
    return result or None


def cost_rows(group: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and a row a method, as text."""
    rows: list[tuple[str, ...]] = []
    for name, one in group["methods"].items():
        n = one["n"]
        converged = "–" if one["converged"] is None else f"{one['converged']}/{n}"
        if one["failed"]:
            converged += f", {one['failed']} failed"
        rows.append(
            (
                name,
                converged,
                _number(one["ess"], ",.0f"),
                _number(one["rhat"], ".3f"),
                _number(one["n_evaluations"], ",.0f"),
                _number(one["wall_s"], ".3g"),
                _number(one["cpu_s"], ".3g"),
                _number(one["ess_per_cpu_s"], ",.0f"),
                "–" if not one["n_evaluations"] else _number(one["fsps_alone_h"], ".3g"),
            )
        )
    return _COST_HEADER, rows


def pair_rows(group: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and a row a pair, as text."""
    rows: list[tuple[str, ...]] = []
    for name, one in group["pairs"].items():
        c2st, shift, width = one["c2st"] or {}, one["shift_sigma"], one["width_ratio"]
        rows.append(
            (
                name,
                str(one["n"]),
                _number(c2st.get("median"), ".3f"),
                _number(c2st.get("p90"), ".3f"),
                "–" if not c2st else f"{c2st['share_below_0.55']:.0%}",
                _number(one["wasserstein_prior_sigma"]["median"], ".3f"),
                _number(shift["median"], ".3f"),
                _number(shift["p95"], ".2f"),
                f"{width['median']:.2f} ({width['p5']:.2f}–{width['p95']:.2f})",
            )
        )
    return _PAIR_HEADER, rows


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything but the samples, as JSON-serialisable values; what is not finite is None."""
    return {
        "about": jsonable(comparison.about),
        "config": comparison.config.model_dump(mode="json"),
        "compared": list(COMPARED_NAMES),
        "quantities": list(PHYSICAL_NAMES),
        "summary": jsonable(summarise(comparison)),
        "galaxies": [_galaxy_json(one) for one in comparison.galaxies],
    }


def _galaxy_json(one: GalaxyComparison) -> dict[str, Any]:
    galaxy = one.galaxy
    return {
        "group": galaxy.group,
        "row": galaxy.row,
        "name": galaxy.name,
        "zred": galaxy.zred,
        "flux": jsonable(galaxy.flux),
        "flux_ivar": jsonable(galaxy.flux_ivar),
        "methods": {
            name: jsonable(outcome.figures()) | {"quantiles_16_50_84": jsonable(outcome.physical.T)}
            for name, outcome in one.outcomes.items()
        },
        "pairs": {pair_name(pair): jsonable(vars(figures)) for pair, figures in one.pairs.items()},
        "ranks": {name: jsonable(ranks) for name, ranks in one.ranks.items()},
    }


def to_markdown(comparison: Comparison) -> str:
    """The report: what was run, a summary of each group, distances by quantity, and every run."""
    lines = ["# Comparison of the flow with MCMC", "", *_about_lines(comparison)]
    for name, group in summarise(comparison).items():
        lines += ["", f"## {GROUPS[name].capitalize()}", "", f"Medians over {group['n_galaxies']}.", ""]
        lines += _table(*cost_rows(group))
        if group["pairs"]:
            lines += ["", *_table(*pair_rows(group)), "", *_quantity_lines(group)]
        if group.get("calibration"):
            lines += ["", *_calibration_lines(group["calibration"])]
    lines += ["", "## Every run", "", "Median ± half the 68% interval.", "", *_galaxy_lines(comparison)]
    return "\n".join(lines) + "\n"


def _about_lines(comparison: Comparison) -> list[str]:
    about, config = comparison.about, comparison.config
    lines = [f"- {key}: {about[key]}" for key in ("command", "model", "simulator", "machine") if key in about]
    start = "independently of the flow" if config.independent else "from the flow's draws, in its noise"
    lines.append(
        f"- chains run {start}, for {config.mcmc.target_ess:g} effective samples of the worst parameter and R-hat ≤ "
        f"{config.mcmc.max_rhat:g}"
    )
    lines.append(
        f"- C2ST: on the 11 free parameters, on up to {config.n_draws:,} effectively independent draws of each method "
        "(of halves, half as many); 0.5 is indistinguishable"
    )
    lines.append("- shift: abs. difference of the medians in the reference's σ; width: ratio of the 68% intervals (5–95%)")
    if "fsps" in about:
        lines.append(f"- FSPS alone: {about['fsps']['label']}")
    return lines


def _quantity_lines(group: dict[str, Any]) -> list[str]:
    pairs = group["pairs"]
    rows = [
        (
            f"`{name}`",
            *(
                "{abs_shift_sigma:.2f} ({mean_shift_sigma:+.2f}), {width_ratio:.2f}".format(**one["by_quantity"][name])
                for one in pairs.values()
            ),
        )
        for name in COMPARED_NAMES
    ]
    return ["Median shift in σ (its mean with sign), and width ratio:", "", *_table(("quantity", *pairs), rows)]


def _calibration_lines(calibration: dict[str, Any]) -> list[str]:
    rows = [
        (name, str(one["n"]), f"{one['ks_p_min_holm_free']:.3g}", f"{one['ks_p_min_holm']:.3g}")
        for name, one in calibration.items()
    ]
    header = ("method", "mocks", "11 free parameters", f"all {len(COMPARED_NAMES)}")
    return ["Ranks of the truths: smallest Kolmogorov–Smirnov p after Holm's correction.", "", *_table(header, rows)]


def _galaxy_lines(comparison: Comparison) -> list[str]:
    names = [with_unit(name) for name in SHOWN_QUANTITIES]
    header = ("galaxy", "method", *names, "C2ST", "ESS", "wall, s", "evaluations", "how it ended")
    columns = [PHYSICAL_NAMES.index(name) for name in SHOWN_QUANTITIES]
    rows = []
    for one in comparison.galaxies:
        for name, outcome in one.outcomes.items():
            pair = next((pair for pair in one.pairs if pair[0] == name), None)
            values = [
                "failed" if outcome.failed else f"{middle:.3f} ± {(high - low) / 2:.3f}"
                for low, middle, high in outcome.physical[:, columns].T
            ]
            c2st = "–" if pair is None else _number(one.pairs[pair].c2st, ".3f")
            ending = [c2st, f"{outcome.ess:.0f}", f"{outcome.wall_s:.3g}", f"{outcome.n_evaluations:,}", outcome.reason]
            rows.append((f"{one.galaxy.name}, z = {one.galaxy.zred:.3f}", name, *values, *ending))
    return _table(header, rows)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or not np.isfinite(value) else format(value, form)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = ([cell.replace("|", r"\|") for cell in cells] for cells in (header, *rows))
    lines = [f"| {' | '.join(cells)} |" for cells in escaped]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:]]
