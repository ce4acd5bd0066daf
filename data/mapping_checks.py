"""What the columns of a mapping cannot be, and what they most likely are instead, by the values of many rows."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sedcast.data.catalog_columns import is_not_detected, is_one_of
from sedcast.data.errors import CatalogError

__all__ = [
    "USUAL_MAGNITUDES",
    "USUAL_TRANSMISSION",
    "check_spread",
    "check_usual",
    "find_limits",
    "warn_of_limits",
    "warn_of_spreads",
]

logger = logging.getLogger(__name__)

# Of magnitudes, and of what dust lets through: what most values of a column are, if they are that.
USUAL_MAGNITUDES = (5.0, 40.0)
USUAL_TRANSMISSION = (0.2, 1.001)
_MOST_CODES = 5
_ENOUGH_ROWS = 30
# Of noise alone the median |flux| / error is 0.67, and no survey measures most of its galaxies to 1 in 100,000.
_LEAST_SIGNAL_TO_NOISE, _MOST_SIGNAL_TO_NOISE = 0.1, 1e5
_LIKELY_SIGNAL_TO_NOISE = 0.3
# Rank correlation of flux and error: positive by photon noise, near 0 where the sky dominates, negative of no real survey.
_OPPOSITE_TREND, _RIGHT_TREND = -0.5, 0.3


def check_usual(values: np.ndarray, usual: tuple[float, float], what: str, expected: str) -> None:
    """Refuse values (n,) of which most are beyond an interval, and more than codes for "not measured" are."""
    seen = values[np.isfinite(values)]
    odd = seen[(seen < usual[0]) | (seen > usual[1])]
    if 2 * odd.size > seen.size and np.unique(odd).size > _MOST_CODES:
        raise CatalogError(f"{what} runs from {seen.min():.4g} to {seen.max():.4g}: most values are no {expected}")


def check_spread(flux: np.ndarray, spread: np.ndarray, name: str, band: str, *, inverse_variance: bool) -> str:
    """Refuse inverse variances that are read as errors, or the reverse, or say why they may be, where it is not certain.

    Parameters
    ----------
    flux, spread : (n,) fluxes, and inverse variances or errors, in units that belong together; NaN where there is none.
    name, band : of the column of `spread`.
    inverse_variance : it is read as that.

    Returns
    -------
    doubt : "" if there is none.

    Raises
    ------
    CatalogError : if as the other of the two it would make sense, and as it is read it cannot.
    """
    used = np.isfinite(flux) & np.isfinite(spread) & (flux != 0) & (spread > 0)
    if used.sum() < _ENOUGH_ROWS:
        return ""
    flux, spread = np.abs(flux[used]), spread[used]
    as_ivar, as_error = float(np.median(flux * np.sqrt(spread))), float(np.median(flux / spread))
    read, other = (as_ivar, as_error) if inverse_variance else (as_error, as_ivar)
    if not _LIKELY_SIGNAL_TO_NOISE < other < _MOST_SIGNAL_TO_NOISE:
        return ""
    trend = _rank_correlation(flux, spread) * (-1 if inverse_variance else 1)
    too_good = read > _MOST_SIGNAL_TO_NOISE
    key, right = ("ivar", "error") if inverse_variance else ("error", "ivar")
    said = (
        f"column {name!r}, the {key} of band {band!r}, seems to be its {right}: as {key} the median signal-to-noise is "
        f"{read:.2g}, as {right} {other:.2g}"
    )
    said += ", and brighter sources would have smaller errors" if trend < _OPPOSITE_TREND else ""
    if read < _LEAST_SIGNAL_TO_NOISE or (too_good and trend < _OPPOSITE_TREND):
        raise CatalogError(f"{said}. Write {right} = {name!r} in the mapping; or if it is the {key}, check its unit")
    doubtful = trend < _OPPOSITE_TREND or (too_good and trend < _RIGHT_TREND)
    return f"{said}. If so, write {right} = {name!r} in the mapping" if doubtful else ""


def warn_of_spreads(doubts: Sequence[str], path: Path) -> None:
    """Warn of what `check_spread` said of each band, if it said anything."""
    if found := [doubt for doubt in doubts if doubt]:
        logger.warning("%s: %s%s", path, found[0], f" ({len(found)} bands of {len(doubts)})" if len(doubts) > 1 else "")


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, 0 where one of them is constant."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(first), rankdata(second)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def find_limits(magnitude: np.ndarray, error: np.ndarray, missing: Sequence[float]) -> np.ndarray:
    """(n,) bool: where magnitudes and errors (n,) are codes of sources that were looked for and not detected.

    They are 99 and its like, and a magnitude whose error is -1, unless the mapping says that they are `missing`.
    """
    limit = (np.abs(magnitude) < USUAL_MAGNITUDES[1]) & (error == -1)
    return (is_not_detected(magnitude) & ~is_one_of(magnitude, missing)) | (limit & ~is_one_of(error, missing))


def warn_of_limits(n_limits: Mapping[str, int], n_rows: int, path: Path) -> None:
    """Warn of the number of limits by band, if there are any, among the first `n_rows` of a table."""
    if found := ", ".join(f"{n} in {band}" for band, n in n_limits.items() if n):
        logger.warning(
            "%s: among the first %d rows are limits (magnitudes of 99, errors of -1), %s. They are read as bands that nobody "
            "looked at, which biases the posteriors of such rows: give the measured flux and its error, be it negative; where "
            "magnitudes beside an error of -1 are limits of 3 sigma, say limit = { sigma = 3 } in the mapping; list codes that "
            "are no limits there under missing",
            path,
            n_rows,
            found,
        )
