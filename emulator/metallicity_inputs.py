"""The network's view of a metallicity history: inputs that have its kinks where SSP interpolation has them."""

from dataclasses import dataclass

import numpy as np

from sedcast.emulator.histories import HistoryGrid, clipped_metallicity
from sedcast.emulator.prior import Prior

__all__ = ["MetallicityInputs"]


@dataclass(frozen=True)
class MetallicityInputs:
    """The map γ → (ln γ1, ln γ2, ramps), make one with `of`.

    SSPs are interpolated linearly in log Z between the library's metallicities, so that the light of stars of one age is a
    linear function of the ramps clip((log Z - node) / (next node - node), 0, 1), and has a kink wherever log Z passes
    a node. A network of γ alone would have to learn these kinks; given the ramps at a few lookback times it has hardly any
    to learn.

    Attributes
    ----------
    zh : (2, n_ramp), the metallicity bases at each ramp's lookback time.
    low, width : (n_ramp,), where each ramp begins and how wide it is, dex.
    """

    zh: np.ndarray
    low: np.ndarray
    width: np.ndarray

    @classmethod
    def of(cls, histories: HistoryGrid, log_z: np.ndarray, prior: Prior, *, n_bin: int, n_times: int) -> "MetallicityInputs":
        """Ramps at `n_times` lookback times over the first `n_bin` bins, those which the prior's metallicities reach."""
        times = np.linspace(0, histories.edges_gyr[n_bin], n_times)
        zh = np.stack([np.interp(times, histories.bases.t_lookback_gyr, row) for row in histories.bases.zh])
        ranges = np.array([prior.gamma1_zh, prior.gamma2_zh])
        lowest, highest = np.log10(clipped_metallicity(ranges.T @ zh))[:, :, None]
        reached = (lowest < log_z[1:]) & (highest > log_z[:-1])
        at_time, node = np.nonzero(reached)
        return cls(zh[:, at_time], log_z[node], np.diff(log_z)[node])

    @property
    def n_input(self) -> int:
        """Number of inputs."""
        return 2 + len(self.low)

    def __call__(self, gamma: np.ndarray) -> np.ndarray:
        """Inputs (n, n_input), float32, for γ (n, 2)."""
        inputs = np.empty((len(gamma), self.n_input), np.float32)
        np.log(gamma, out=inputs[:, :2], casting="same_kind")
        ramps = np.log10(clipped_metallicity(gamma @ self.zh))
        ramps -= self.low
        ramps /= self.width
        np.maximum(ramps, 0, out=ramps)
        np.minimum(ramps, 1, out=inputs[:, 2:], casting="same_kind")
        return inputs
