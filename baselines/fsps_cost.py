"""What a model evaluation costs where FSPS itself computes it: measured if FSPS runs here, else the documented figure."""

import time
from dataclasses import dataclass

import numpy as np

from sedcast.data.errors import MissingDependencyError
from sedcast.emulator.fsps_model import FSPSModel
from sedcast.emulator.prior import Prior

__all__ = ["FspsCost", "fsps_cost"]

_DOCUMENTED_S = 0.15
_N_TIMED = 12


@dataclass(frozen=True)
class FspsCost:
    """Seconds of one model evaluation by FSPS, and where they are from."""

    seconds_per_model: float
    measured: bool

    @property
    def label(self) -> str:
        """What a time computed from it is."""
        source = (
            f"measured here, median of {_N_TIMED} galaxies"
            if self.measured
            else "documented, benchmarks sps; FSPS does not run here"
        )
        return f"computed, not run: model evaluations × {self.seconds_per_model:.3g} s of one FSPS model ({source}), one core"


def fsps_cost(zred: float) -> FspsCost:
    """Time `FSPSModel` on prior draws at a redshift; some seconds where FSPS runs (SPS_HOME), else none."""
    try:
        model = FSPSModel()
    except MissingDependencyError:
        return FspsCost(_DOCUMENTED_S, measured=False)
    theta, zreds = Prior().sample(_N_TIMED + 1, 0), np.array([zred])
    model.spectra(theta[:1], zreds)  # sets FSPS's dust and reads its tables
    seconds = []
    for row in range(1, _N_TIMED + 1):
        began = time.perf_counter()
        model.spectra(theta[row : row + 1], zreds)
        seconds.append(time.perf_counter() - began)
    return FspsCost(float(np.median(seconds)), measured=True)
