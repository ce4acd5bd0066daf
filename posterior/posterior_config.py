"""What `sedcast train posterior` makes: the configuration of a posterior."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sedcast.data.config import Config
from sedcast.emulator.band_training import BandTrainingConfig
from sedcast.emulator.simulation import SimulationConfig
from sedcast.posterior.burst_choice import BURST_OPTIONS
from sedcast.posterior.flow_training import FlowTrainingConfig
from sedcast.posterior.made import FlowConfig
from sedcast.posterior.outlier_training import OutlierConfig
from sedcast.posterior.stream import StreamConfig

__all__ = ["PosteriorConfig"]


class PosteriorConfig(Config):
    """What `sedcast train posterior` makes; give either `simulation` or `simulation_file`.

    Attributes
    ----------
    name : short name of the estimator.
    simulation : the training set to simulate; with `stream`, what every epoch draws anew.
    simulation_file : an HDF5 file that `sedcast simulate` wrote.
    redshift : ``"observed"`` conditions on the redshift; ``"inferred"`` makes it a parameter, whose prior is the distribution
        that the simulations draw it from (`SimulationConfig.zred`).
    stream : draw fresh galaxies for every epoch instead of repeating a fixed set, and let bands be missing if so wanted.
    flow : architecture. Its choice is where the burst's time is, see `prior_chances`, and needs `amplitudes`.
    amplitudes : with it, burst fraction and mass are not learnt but drawn from their own posterior given the other parameters,
        which takes a small emulator of the bands that is trained first, of the spectrum emulator that `simulation` names; that
        of `start` serves if it was trained in the same way.
    start : a posterior to begin with, a bundled one's name or a file, see `warm_start`; random weights if left out.
    experts : posteriors, bundled ones' names or files, whose flows serve the galaxies measured in exactly their bands, see
        `PosteriorEstimator.with_experts`.
    training : schedule.
    outliers : the score of galaxies unlike the training set.
    """

    name: str = Field(min_length=1)
    simulation: SimulationConfig | None = None
    simulation_file: Path | None = None
    redshift: Literal["observed", "inferred"] = "observed"
    stream: StreamConfig | None = None
    flow: FlowConfig = FlowConfig()
    amplitudes: BandTrainingConfig | None = None
    start: str | None = None
    experts: tuple[str, ...] = ()
    training: FlowTrainingConfig = FlowTrainingConfig()
    outliers: OutlierConfig = OutlierConfig()

    @model_validator(mode="after")
    def _one_source(self) -> "PosteriorConfig":
        if (self.simulation is None) == (self.simulation_file is None):
            raise ValueError("give either [simulation] or simulation_file, the training set's source")
        if self.stream is not None and self.simulation is None:
            raise ValueError("[stream] draws fresh galaxies and needs [simulation], not simulation_file")
        if self.experts and (self.stream is None or self.stream.missing is None):
            raise ValueError("experts serve galaxies of certain bands among others: give [stream.missing], or drop experts")
        if self.flow.choice and self.amplitudes is None:
            raise ValueError("flow.choice, where the burst's time is, needs [amplitudes]: give that too, or drop choice")
        if self.flow.choice and self.flow.n_options not in BURST_OPTIONS:
            raise ValueError(f"flow.n_options={self.flow.n_options}: a burst has begun or not, 2, or may be young too, 3")
        if self.stream is not None and self.simulation is not None:
            self._check_stream(self.stream, self.simulation)
        return self

    def _check_stream(self, stream: StreamConfig, simulation: SimulationConfig) -> None:
        if self.training.batch_size > simulation.n_galaxies:
            raise ValueError(
                f"training.batch_size={self.training.batch_size} is above simulation.n_galaxies={simulation.n_galaxies}, the "
                "galaxies of an epoch: lower the one or raise the other"
            )
        missing = stream.missing
        if missing is not None and len(simulation.bands) == 1:
            raise ValueError(
                f"stream.missing: {simulation.band_names[0]} is the only band, and never missing: leave the table out"
            )
        if missing is None or missing.complete + missing.without_optional < 1 - 1e-9:
            return
        if always := [band for band in simulation.band_names if band not in missing.optional or missing.complete == 1]:
            raise ValueError(
                f"stream.missing: {' '.join(always)} would never be missing, and a flow for any subset of bands could not "
                "learn what that means: leave complete + without_optional below 1, for some random subsets of all bands"
            )
