"""The picture of a training: losses against time."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from sedcast.data.errors import ParameterError
from sedcast.plotting import _BLUE, _DPI, _GREY, _ORANGE, _ticks_inward, own_style

__all__ = ["training_plot"]

# The first losses, many nats above all others, would leave no room for these.
_SHOWN_FROM = 0.1


@own_style
def training_plot(epochs: Sequence[Mapping[str, float]]) -> Figure:
    """Training and held-out loss of each epoch against the minutes of training.

    Parameters
    ----------
    epochs : records with ``minutes``, ``train_nll`` and ``validation_nll`` (nats per galaxy): what `train_posterior` gives to
        `on_epoch`, or the ``history`` on an estimator's card.

    Returns
    -------
    figure : the axis of losses is that of all but the first tenth of the epochs. The training loss is the mean over the epoch's
        batches, with the weights as they were then; the held-out loss is that of the averaged weights after it.

    Raises
    ------
    ParameterError : if there is no epoch, or a record lacks a value.
    """
    names = ("minutes", "train_nll", "validation_nll")
    if not isinstance(epochs, list | tuple) or not all(isinstance(record, Mapping) for record in epochs):
        raise ParameterError(f"epochs is a {type(epochs).__name__}, expected the records of a posterior's training, a list")
    if missing := [name for name in names if not epochs or any(name not in record for record in epochs)]:
        raise ParameterError(
            f"epochs: {len(epochs)} records without {', '.join(missing)}; expected those of a posterior's training"
        )
    minutes, train, held_out = (np.array([record[name] for record in epochs], dtype=float) for name in names)
    figure = Figure(figsize=(7.2, 4.4), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    _ticks_inward(axes)
    marker = "." if len(epochs) < 3 else ""
    axes.plot(minutes, train, color=_GREY, linewidth=1.0, marker=marker, label="training")
    axes.plot(minutes, held_out, color=_BLUE, linewidth=1.5, marker=marker, label="held out")
    best = int(np.nanargmin(held_out)) if np.isfinite(held_out).any() else None
    if best is not None:
        label = f"least, {held_out[best]:.3f} after {minutes[best]:.1f} min"
        axes.plot(minutes[best], held_out[best], "o", color=_ORANGE, markersize=5, label=label)
    settled = np.concatenate([train, held_out])[np.tile(np.arange(len(epochs)) >= _SHOWN_FROM * len(epochs), 2)]
    settled = settled[np.isfinite(settled)]
    if settled.size and np.ptp(settled) > 0:
        room = 0.05 * np.ptp(settled)
        axes.set_ylim(settled.min() - room, settled.max() + room)
    axes.set(xlabel="minutes of training", ylabel="loss: −log probability density of a galaxy's truth [nats]")
    axes.legend(fontsize=9, frameon=False)
    return figure
