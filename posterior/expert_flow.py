"""A flow for any subset of the bands, and experts beside it: flows for the galaxies measured in certain sets of bands.

One network that has many posteriors to learn knows each of them less well than a dedicated one. Where most galaxies of a survey
are measured in the same few sets of bands, they get the dedicated ones.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sedcast.data.errors import ArtifactError
from sedcast.posterior.amplitude_flow import FlowWithAmplitudes
from sedcast.posterior.conditional_flow import ConditionalFlow, FlowDraws
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.flow_kernel import product_by_row

__all__ = ["Expert", "FlowWithExperts", "flow_from_arrays"]

_EXPERT = re.compile(r"expert(\d*)_")
_CHOICE = ("columns", "measured", "matrix")
_Part = Callable[[ConditionalFlow, np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Expert:
    """A flow, and which rows it serves.

    Attributes
    ----------
    flow : of the parameters of the flow that it stands beside.
    columns : (n_band,) columns of that one's context that are 1 for a measured band and else 0.
    measured : (n_band,) what they are for the expert's rows.
    matrix : (n_context, flow.n_context) from that context to the expert's own, as `ContextTransform.from_wider`.
    """

    flow: ConditionalFlow
    columns: np.ndarray
    measured: np.ndarray
    matrix: np.ndarray

    def suits(self, general: ConditionalFlow) -> bool:
        """Whether the arrays are such as they must be beside a flow."""
        fits = self.matrix.shape == (general.n_context, self.flow.n_context) and np.isfinite(self.matrix).all()
        in_range = self.columns.size and self.columns.min() >= 0 and self.columns.max() < general.n_context
        return bool(general.dim == self.flow.dim and fits and in_range and self.columns.shape == self.measured.shape)

    def serves(self, context: np.ndarray) -> np.ndarray:
        """Which rows (n,) of a context it serves."""
        return np.asarray(np.all(context[:, self.columns] == self.measured, axis=1))


class FlowWithExperts(ConditionalFlow):
    """The density of `general`, but that of an expert for the rows that it serves.

    Parameters
    ----------
    general : flow for any context.
    experts : one at least; of two that serve a row, the first does.

    Raises
    ------
    ArtifactError : if the parts do not belong together.
    """

    def __init__(self, general: ConditionalFlow, experts: Sequence[Expert]) -> None:
        self._general, self.experts = general, tuple(experts)
        if not all(expert.suits(general) for expert in self.experts):
            raise ArtifactError("a flow and its expert do not belong together: the file is of another kind or version")
        self.config, self.dim, self.n_context = general.config, general.dim, general.n_context

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays, those of each expert and of its choice with a prefix."""
        arrays = dict(self.general.to_arrays())
        for index, expert in enumerate(self.experts):
            own = dict(expert.flow.to_arrays()) | {name: getattr(expert, name) for name in _CHOICE}
            arrays |= {f"expert{index or ''}_{name}": array for name, array in own.items()}
        return arrays

    @property
    def general(self) -> ConditionalFlow:
        """The flow for any context."""
        return self._general

    @property
    def parts(self) -> tuple[ConditionalFlow, ...]:
        """The flow for any context, then the experts'."""
        return (self.general, *(expert.flow for expert in self.experts))

    @property
    def trained(self) -> MaskedAutoregressiveFlow:
        """That of the flow for any context."""
        return self.general.trained

    @property
    def noise_dim(self) -> int:
        """That of every part."""
        return self.general.noise_dim

    def _draw(self, context: np.ndarray, n_samples: int, seed: int, keys: np.ndarray, n_threads: int | None) -> FlowDraws:
        def draw(flow: ConditionalFlow, given: np.ndarray, rows: np.ndarray) -> FlowDraws:
            return flow.draw(given, n_samples, seed=seed, row_keys=keys[rows], n_threads=n_threads)

        return FlowDraws(*self._by_part(context, draw))

    def _carry(self, noise: np.ndarray, context: np.ndarray, n_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
        theta, log_q = self._by_part(
            context, lambda flow, given, rows: flow.transform_noise(noise[rows], given, n_threads=n_threads)
        )
        return theta, log_q

    def _log_density(self, points: np.ndarray, context: np.ndarray, n_threads: int | None) -> np.ndarray:
        (log_q,) = self._by_part(context, lambda flow, given, rows: (flow.log_prob(points[rows], given, n_threads=n_threads),))
        return log_q

    def _by_part(self, context: np.ndarray, evaluate: _Part) -> tuple[np.ndarray, ...]:
        """What `evaluate` gives of each flow for its rows, in the rows' order."""
        left = np.ones(len(context), dtype=bool)
        parts: list[tuple[np.ndarray, tuple[np.ndarray, ...]]] = []
        for expert in self.experts:
            rows = left & expert.serves(context)
            if rows.any():
                own = product_by_row(context[rows].astype(float), expert.matrix).astype(np.float32)
                parts.append((rows, evaluate(expert.flow, own, rows)))
                left &= ~rows
        if left.any() or not parts:
            parts.append((left, evaluate(self.general, context[left], left)))
        if len(parts) == 1:
            return parts[0][1]
        joined = tuple(np.empty((len(context), *found.shape[1:]), found.dtype) for found in parts[0][1])
        for rows, found in parts:
            for whole, part in zip(joined, found, strict=True):
                whole[rows] = part
        return joined


def flow_from_arrays(arrays: Mapping[str, np.ndarray]) -> ConditionalFlow:
    """The flow that `to_arrays` described: with experts or without, of all parameters or completed by amplitudes.

    Raises
    ------
    ArtifactError : if the arrays do not describe one.
    """
    parts: dict[str | None, dict[str, np.ndarray]] = {None: {}}
    for name, array in arrays.items():
        found = _EXPERT.match(name)
        parts.setdefault(found and found[1], {})[name.removeprefix(found[0]) if found else name] = array
    general = _single_flow(parts.pop(None))
    if not parts:
        return general
    experts = []
    for own in parts.values():
        missing = [name for name in _CHOICE if name not in own]
        if missing:
            raise ArtifactError(f"a flow's expert lacks the arrays {', '.join(missing)}: the file is of another version")
        columns, measured, matrix = (np.asarray(own.pop(name)) for name in _CHOICE)
        experts.append(Expert(_single_flow(own), columns.astype(np.int64), measured.astype(np.float32), matrix.astype(float)))
    return FlowWithExperts(general, experts)


def _single_flow(arrays: Mapping[str, np.ndarray]) -> ConditionalFlow:
    kind = FlowWithAmplitudes if FlowWithAmplitudes.describes(arrays) else MaskedAutoregressiveFlow
    return kind.from_arrays(arrays)
