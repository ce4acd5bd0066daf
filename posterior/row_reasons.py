"""Why rows have no posterior, why posteriors are not to be trusted, and what is said of a whole catalogue's rows."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from sedcast.posterior.resampling import FEW_EFFECTIVE

__all__ = [
    "AT_EDGE",
    "NOT_FINITE",
    "count_reasons",
    "joined_flags",
    "redshift_at_edge",
    "row_figures",
    "warn_of_excluded",
    "warn_of_flags",
    "weight_figures",
]

logger = logging.getLogger(__name__)

AT_EDGE = "redshift at the edge of its prior"
"""Flag of rows whose inferred redshift lies there: the galaxy may well be beyond."""

NOT_FINITE = "no draw of the flow has a posterior: the photometry is far outside the training set"
# By words of a flag, the first that fit; as docs/quantities.md has it.
_ADVICE = {
    AT_EDGE: "the galaxies may be beyond it, and need a model with a wider prior",
    FEW_EFFECTIVE: "make them exact with --refine, if the model is one for known redshifts; else train it longer",
    "importance": "refinement fell short, let MCMC go on from there with --fallback mcmc",
    "MCMC": "look at these galaxies; longer chains may converge",
    "star": "keep to galaxies, which their sizes or spectra tell from stars",
    "bad fit": "the model has no such galaxies (AGN, emission lines, blends), or columns of two bands are exchanged, or the "
    "unit of the fluxes is wrong",
    "error": "check the unit and the errors of the fluxes, which need the floors of the calibration",
    "": "check which columns are which band, the unit of the fluxes, their calibration (AB, not Vega) and extinction, and "
    "what kind of errors the table has",
}
_ADVICE_IF_EXCLUDED = {
    "redshift is": "check which column has the redshifts; --model sdss-photoz infers them",
    "redshift": "check that the column has redshifts, not per cent or km/s; for other redshifts train a posterior",
    "no measurement": "check which columns are fluxes and errors; a model for any subset of bands takes rows that lack some",
    NOT_FINITE: _ADVICE[""],
}
_EDGE_SHARE = 0.02


def redshift_at_edge(zred_range: tuple[float, float], zred: np.ndarray) -> np.ndarray:
    """(n_rows,) bool: whether most of the samples `zred` (n_rows, n_samples) lie in the first or last 2% of their range."""
    low, high = zred_range
    margin = _EDGE_SHARE * (high - low)
    return np.asarray(np.maximum((zred < low + margin).mean(axis=1), (zred > high - margin).mean(axis=1)) > 0.5)


def joined_flags(reasons: tuple[str, ...]) -> str:
    """One row's flags by several tests as one text, each reason once."""
    return "; ".join(dict.fromkeys(reason for part in reasons for reason in part.split("; ") if reason))


def count_reasons(reasons: np.ndarray) -> Counter[str]:
    """Rows by the reason in their ``status`` (n,), "" among them; reasons with numbers in them are counted by their words."""
    return Counter("redshift beyond the training range" if r.startswith("redshift ") and "beyond" in r else r for r in reasons)


def warn_of_excluded(inferred: int, excluded: Mapping[str, int]) -> None:
    """Warn if most rows have no posterior, naming the commonest reason and what to do; `excluded` are rows by reason."""
    n_rows = inferred + sum(excluded.values())
    if inferred < n_rows / 2:
        commonest = max(excluded, key=lambda reason: excluded[reason])
        advice = next((f"; {advice}" for words, advice in _ADVICE_IF_EXCLUDED.items() if words in commonest), "")
        logger.warning("%d of %d rows have no posterior, most often for: %s%s", n_rows - inferred, n_rows, commonest, advice)


def warn_of_flags(inferred: int, rows_by_flags: Counter[str]) -> None:
    """Warn if most posteriors are flagged, naming the commonest reason and what to do about it.

    Parameters
    ----------
    inferred : number of posteriors.
    rows_by_flags : number of rows by their flags, "" among them.
    """
    flagged = rows_by_flags.total() - rows_by_flags[""]
    if flagged <= inferred / 2:
        return
    reasons: Counter[str] = Counter()
    for flags, n_rows in rows_by_flags.items():
        reasons.update({flag: n_rows for flag in flags.split("; ") if flag})
    commonest = reasons.most_common(1)[0][0]
    advice = next(advice for words, advice in _ADVICE.items() if words in commonest)
    if inferred == 1:
        logger.warning("the posterior is flagged for %r: %s", commonest, advice)
    else:
        logger.warning("%d of %d posteriors are flagged, most often for %r: %s", flagged, inferred, commonest, advice)


def row_figures(reasons: np.ndarray, flags: np.ndarray, seconds: float) -> dict[str, Any]:
    """Rows counted by ``status`` and ``flags`` (n,), and how long they took."""
    kinds = count_reasons(reasons)
    inferred = kinds.pop("", 0)
    return {
        "galaxies": len(reasons),
        "inferred": inferred,
        "excluded": dict(kinds.most_common()),
        "flagged": int(np.count_nonzero(flags != "")),
        "seconds": seconds,
        "galaxies_per_s": inferred / max(seconds, 1e-9),
    }


def weight_figures(efficiency: np.ndarray, flags: np.ndarray) -> dict[str, Any]:
    """Percentiles of the rows' ``efficiency`` (n,), NaN if unknown, and how many have approximate samples; {} of none known."""
    known = efficiency[np.isfinite(efficiency)]
    if not known.size:
        return {}
    return {
        "efficiency_median": float(np.median(known)),
        "efficiency_p5": float(np.quantile(known, 0.05)),
        "approximate": int(np.count_nonzero(np.char.find(flags, "samples approximate") >= 0)),
    }
