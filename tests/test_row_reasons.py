"""What is said of a catalogue's rows, by hand."""

from collections import Counter

import numpy as np
import pytest

from sedcast.posterior.resampling import FEW_EFFECTIVE
from sedcast.posterior.row_reasons import (
    NOT_FINITE,
    count_reasons,
    joined_flags,
    redshift_at_edge,
    row_figures,
    warn_of_excluded,
    warn_of_flags,
    weight_figures,
)


def test_most_of_the_samples_in_two_per_cent_of_the_range_are_an_edge() -> None:
    low, middle, high = 0.119, 0.6, 1.081
    zred = np.array(
        [
            [low, low, low, middle, middle],
            [high, high, high, middle, middle],
            [low, low, middle, middle, middle],
            # Half at one end and half at the other are at neither.
            [low, low, high, high, middle],
            [0.121, 0.121, 1.079, 1.079, 0.121],
        ]
    )
    assert redshift_at_edge((0.1, 1.1), zred).tolist() == [True, True, False, False, False]


def test_each_reason_is_said_once() -> None:
    assert joined_flags(("a; b", "", "b; c")) == "a; b; c"
    assert joined_flags(("", "")) == ""


def test_reasons_with_numbers_are_counted_together() -> None:
    reasons = np.array(
        ["", "redshift 0.5 beyond the training range, 0 to 0.3", "redshift 0.6 beyond the training range, 0 to 0.3"]
    )
    assert count_reasons(reasons) == {"": 1, "redshift beyond the training range": 2}


def test_figures_of_rows() -> None:
    figures = row_figures(np.array(["", "", "", "no u"]), np.array(["", "odd", "", ""]), 0.5)
    assert figures == {
        "galaxies": 4,
        "inferred": 3,
        "excluded": {"no u": 1},
        "flagged": 1,
        "seconds": 0.5,
        "galaxies_per_s": 6,
    }


def test_figures_of_weights() -> None:
    efficiency = np.append(np.arange(1, 22) ** 2 / 441, np.nan)
    flags = np.full(22, "", dtype="<U99")
    flags[:2] = FEW_EFFECTIVE, f"bad fit; {FEW_EFFECTIVE}"
    expected = {"efficiency_median": 121 / 441, "efficiency_p5": 4 / 441, "approximate": 2}
    assert weight_figures(efficiency, flags) == pytest.approx(expected)
    assert weight_figures(np.full(3, np.nan), flags[:3]) == {}


def test_a_minority_is_no_reason_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_excluded(5, {"no u": 3, "no z": 2})
    warn_of_flags(4, Counter({"": 2, "bad fit": 2}))
    assert caplog.messages == []
    warn_of_excluded(4, {"no u": 3, "no z": 2})
    assert caplog.messages == ["5 of 9 rows have no posterior, most often for: no u"]


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("redshift beyond the training range", "not per cent or km/s"),
        ("redshift above 20", "not per cent or km/s"),
        ("redshift is not positive", "which column has the redshifts"),
        ("no measurement in u g r i z", "which columns are fluxes and errors"),
        (NOT_FINITE, "their calibration (AB, not Vega)"),
    ],
)
def test_the_advice_fits_the_commonest_reason(reason: str, advice: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_excluded(1, {reason: 3, "no z": 2})
    [said] = caplog.messages
    assert said.startswith(f"5 of 6 rows have no posterior, most often for: {reason}; check ")
    assert advice in said


def test_the_commonest_flag_is_that_of_most_rows(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_flags(9, Counter({"": 1, "colours of a star": 6, "bad fit": 1, "bad fit; photometry unlike the training set": 1}))
    assert "8 of 9 posteriors are flagged, most often for 'colours of a star'" in caplog.text
