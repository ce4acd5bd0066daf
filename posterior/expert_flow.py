"""A flow for any subset of the bands with an expert beside it: a flow of its own for the galaxies measured in one set of bands.

One network that has many posteriors to learn knows each of them less well than a dedicated one. Where most galaxies of a survey
are measured in the same bands, they get the dedicated one.
"""

from collections.abc import Callable, Mapping

import numpy as np

from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.posterior.amplitude_flow import FlowWithAmplitudes
from sedcast.posterior.flow import ConditionalFlow, MaskedAutoregressiveFlow, checked_context

__all__ = ["FlowWithExpert", "flow_from_arrays"]

_EXPERT = "expert_"
_Part = Callable[[ConditionalFlow, np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


class FlowWithExpert(ConditionalFlow):
    """The density of `general`, but that of `expert` for rows whose mask says so.

    Parameters
    ----------
    general : flow for any context.
    expert : flow of the same parameters.
    columns : (n_band,) columns of the context that are 1 for a measured band and else 0.
    measured : (n_band,) what they are for the expert's rows.
    matrix : (n_context, expert.n_context) from the context to the expert's, as `ContextTransform.from_wider`.

    Raises
    ------
    ArtifactError : if the parts do not belong together.
    """

    def __init__(
        self,
        general: ConditionalFlow,
        expert: ConditionalFlow,
        *,
        columns: np.ndarray,
        measured: np.ndarray,
        matrix: np.ndarray,
    ) -> None:
        self._general, self.expert = general, expert
        self.columns, self.measured = np.asarray(columns, dtype=np.int64), np.asarray(measured, dtype=np.float32)
        self.matrix = np.asarray(matrix, dtype=np.float64)
        fits = self.matrix.shape == (general.n_context, expert.n_context) and np.isfinite(self.matrix).all()
        in_range = self.columns.size and self.columns.min() >= 0 and self.columns.max() < general.n_context
        if general.dim != expert.dim or not fits or not in_range or self.columns.shape != self.measured.shape:
            raise ArtifactError("a flow and its expert do not belong together: the file is of another kind or version")
        self.config, self.dim, self.n_context = general.config, general.dim, general.n_context

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All arrays, those of the expert and of its choice with a prefix."""
        own: dict[str, np.ndarray] = {"columns": self.columns, "measured": self.measured, "matrix": self.matrix}
        return self.general.to_arrays() | {f"{_EXPERT}{k}": v for k, v in {**self.expert.to_arrays(), **own}.items()}

    @property
    def general(self) -> ConditionalFlow:
        """The flow for any context."""
        return self._general

    @property
    def trained(self) -> MaskedAutoregressiveFlow:
        """That of the flow for any context."""
        return self.general.trained

    def sample_with_log_prob(
        self,
        context: np.ndarray,
        n_samples: int,
        *,
        seed: int,
        row_keys: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `ConditionalFlow.sample_with_log_prob`."""
        keys = np.arange(len(context)) if row_keys is None else np.asarray(row_keys)
        if keys.shape != (len(context),):
            raise ParameterError(f"row_keys must be one key per row ({len(context)}), got shape {keys.shape}")

        def draw(flow: ConditionalFlow, given: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return flow.sample_with_log_prob(given, n_samples, seed=seed, row_keys=keys[rows], n_threads=n_threads)

        theta, log_q = self._by_part(context, draw)
        return theta, log_q

    def transform_noise(
        self, noise: np.ndarray, context: np.ndarray, *, n_threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `ConditionalFlow.transform_noise`."""
        noise = self._one_per_row("noise", noise, context)
        theta, log_q = self._by_part(
            context, lambda flow, given, rows: flow.transform_noise(noise[rows], given, n_threads=n_threads)
        )
        return theta, log_q

    def log_prob(self, theta: np.ndarray, context: np.ndarray, *, n_threads: int | None = None) -> np.ndarray:
        """As `ConditionalFlow.log_prob`."""
        theta = self._one_per_row("theta", theta, context)
        (log_q,) = self._by_part(context, lambda flow, given, rows: (flow.log_prob(theta[rows], given, n_threads=n_threads),))
        return log_q

    def _one_per_row(self, name: str, values: np.ndarray, context: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        if not values.ndim or len(values) != len(context):
            raise ParameterError(f"{name} must have one entry per row of the context ({len(context)}), got {values.shape}")
        return values

    def _by_part(self, context: np.ndarray, evaluate: _Part) -> tuple[np.ndarray, ...]:
        """What `evaluate` gives of each flow for its rows, in the rows' order."""
        context = checked_context(context, self.n_context)
        dedicated = np.all(context[:, self.columns] == self.measured, axis=1)
        if not dedicated.any():
            return evaluate(self.general, context, ~dedicated)
        own = (context[dedicated] @ self.matrix).astype(np.float32)
        found = evaluate(self.expert, own, dedicated)
        if dedicated.all():
            return found
        others = evaluate(self.general, context[~dedicated], ~dedicated)
        joined = tuple(np.empty((len(context), *part.shape[1:]), part.dtype) for part in found)
        for whole, part, other in zip(joined, found, others, strict=True):
            whole[dedicated], whole[~dedicated] = part, other
        return joined


def flow_from_arrays(arrays: Mapping[str, np.ndarray]) -> ConditionalFlow:
    """The flow that `to_arrays` described: with an expert or without, of all parameters or completed by amplitudes.

    Raises
    ------
    ArtifactError : if the arrays do not describe one.
    """
    expert = {name.removeprefix(_EXPERT): array for name, array in arrays.items() if name.startswith(_EXPERT)}
    general = _single_flow({name: array for name, array in arrays.items() if not name.startswith(_EXPERT)})
    if not expert:
        return general
    missing = [name for name in ("columns", "measured", "matrix") if name not in expert]
    if missing:
        raise ArtifactError(f"the flow's expert lacks the arrays {', '.join(missing)}: the file is of another kind or version")
    choice = {name: expert.pop(name) for name in ("columns", "measured", "matrix")}
    return FlowWithExpert(general, _single_flow(expert), **choice)


def _single_flow(arrays: Mapping[str, np.ndarray]) -> ConditionalFlow:
    kind = FlowWithAmplitudes if FlowWithAmplitudes.describes(arrays) else MaskedAutoregressiveFlow
    return kind.from_arrays(arrays)
