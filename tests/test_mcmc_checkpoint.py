"""Checkpoints: a resumed run is the uninterrupted one, and files of other runs or damaged ones are refused."""

import emcee
import h5py
import numpy as np
import pytest

from sedcast.baselines.checkpoint import Checkpoint, Moment, Progressed
from sedcast.baselines.mcmc import McmcConfig, run_emcee, run_zeus
from sedcast.data.errors import ArtifactError, ConfigError
from sedcast.data.locks import output_lock
from sedcast.emulator.prior import Prior
from sedcast.posterior.likelihood import GaussianLikelihood

PRIOR = Prior()
RUNNERS = pytest.mark.parametrize("run", [run_emcee, run_zeus])
START = Prior(dust1=(0.0, 2.0)).sample(60, seed=2)
SHORT = McmcConfig(n_walkers=22, n_groups=2, max_steps=90, check_every=20, thin=1, n_screen=200, seed=5)
COUPLING = np.random.default_rng(1).standard_normal((3, 11)) / 2


class Linear:
    scale = 1.0

    def flux(self, theta, zred):
        return self.scale * PRIOR.to_unbounded(theta) @ COUPLING.T


def galaxy(flux=0.3, simulator=None, prior=PRIOR):
    return GaussianLikelihood(simulator or Linear(), prior, flux=np.full(3, flux), flux_ivar=np.full(3, 9.0), zred=0.1)


class Stopping(Linear):
    """Interrupts, or raises something else, in the middle of a step."""

    def __init__(self, at, error=KeyboardInterrupt):
        self.left, self.error = at, error

    def flux(self, theta, zred):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return super().flux(theta, zred)


@RUNNERS
def test_a_resumed_run_is_the_uninterrupted_one(run, tmp_path):
    whole = run(galaxy(), SHORT)
    path = tmp_path / "run.h5"
    # Enough calls for zeus, whose steps take several, to be past its tuning.
    stopped = run(galaxy(simulator=Stopping(330 if run is run_emcee else 1100)), SHORT, checkpoint=path)
    assert stopped.interrupted
    assert "interrupted" in stopped.reason
    assert stopped.n_steps < 90
    resumed = run(galaxy(), SHORT, checkpoint=path)
    assert resumed.n_steps == 90
    np.testing.assert_array_equal(resumed.chain, whole.chain)
    np.testing.assert_array_equal(resumed.log_prob, whole.log_prob)
    assert resumed.reason.split(" after ")[0] == whole.reason.split(" after ")[0]
    # Evaluations of the step that was cut short were spent, too.
    assert whole.n_evaluations <= resumed.n_evaluations < whole.n_evaluations + 500
    assert resumed.wall_s > stopped.wall_s


def test_a_run_interrupted_before_it_can_be_judged_goes_on(tmp_path):
    path = tmp_path / "run.h5"
    with pytest.raises(KeyboardInterrupt):
        run_emcee(galaxy(simulator=Stopping(30)), SHORT, start=START, checkpoint=path)
    assert path.exists()
    np.testing.assert_array_equal(
        run_emcee(galaxy(), SHORT, start=START, checkpoint=path).chain, run_emcee(galaxy(), SHORT, start=START).chain
    )


def test_steps_that_are_kept_twice_are_there_once(tmp_path, rng):
    checkpoint = Checkpoint(tmp_path / "run.h5", {}, 4)
    chain, log_prob = rng.normal(size=(5, 4, 11)), rng.normal(size=(5, 4))
    for first, last in ((0, 3), (3, 5), (3, 5)):
        now = Progressed(Moment(chain[last - 1], log_prob[last - 1], np.random.RandomState(1).get_state()), last, {})
        checkpoint.save(list(chain[first:last]), list(log_prob[first:last]), now, first=first)
    held = checkpoint.load()
    assert held is not None
    np.testing.assert_array_equal(held.chain, chain)
    np.testing.assert_array_equal(held.log_prob, log_prob)


@RUNNERS
def test_a_finished_run_can_be_continued_and_read_by_emcee(run, tmp_path):
    path = tmp_path / "run.h5"
    first = run(galaxy(), SHORT.model_copy(update={"max_steps": 40}), start=START, checkpoint=path)
    whole = run(galaxy(), SHORT, start=START)
    backend = emcee.backends.HDFBackend(str(path), read_only=True)
    assert backend.get_chain().shape == (40, 44, 11)
    again = run(galaxy(), SHORT.model_copy(update={"max_steps": 40}), start=START, checkpoint=path)
    np.testing.assert_array_equal(again.chain, first.chain)
    longer = run(galaxy(), SHORT, start=START, checkpoint=path)
    np.testing.assert_array_equal(longer.chain, whole.chain)


class Rounding:
    """Proportional to the mass; as models in single precision do, it rounds otherwise for another number of points."""

    def flux(self, theta, zred):
        return 10 ** (theta[:, :1] - 10) * (1 + theta[:, 9:12]) * (1 + 1e-8 * len(theta))


@RUNNERS
def test_a_finished_run_is_read_as_it_ended(run, tmp_path):
    first = run(galaxy(simulator=Rounding()), SHORT, start=START, checkpoint=tmp_path / "run.h5")
    again = run(galaxy(simulator=Rounding()), SHORT, start=START, checkpoint=tmp_path / "run.h5")
    np.testing.assert_array_equal(again.chain, first.chain)
    np.testing.assert_array_equal(again.log_prob, first.log_prob)
    assert again.n_evaluations == first.n_evaluations


@RUNNERS
def test_what_a_likelihood_raises_is_not_printed(run, capsys):
    with pytest.raises(ZeroDivisionError, match="of the model"):
        run(galaxy(simulator=Stopping(40, ZeroDivisionError("of the model"))), SHORT, start=START)
    assert capsys.readouterr() == ("", "")


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    path = tmp_path / "run.h5"
    run_emcee(galaxy(), SHORT, start=START, checkpoint=path)
    other_model, other_prior = Linear(), Prior(dust1=(0.0, 2.0))
    other_model.scale = 1.01
    for likelihood, config, run, what in (
        (galaxy(flux=0.31), SHORT, run_emcee, "galaxy"),
        (galaxy(simulator=other_model), SHORT, run_emcee, "model"),
        (galaxy(prior=other_prior), SHORT, run_emcee, "prior"),
        (galaxy(), SHORT.model_copy(update={"seed": 6}), run_emcee, "settings"),
        (galaxy(), SHORT, run_zeus, "sampler"),
    ):
        with pytest.raises(ArtifactError, match=f"of another run: .*{what}.* differ"):
            run(likelihood, config, start=START, checkpoint=path)


def test_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.h5"
    run_emcee(galaxy(), SHORT, start=START, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged or no HDF5 file"):
        run_emcee(galaxy(), SHORT, start=START, checkpoint=path)
    path.write_bytes(b"something else")
    with pytest.raises(ArtifactError, match="damaged or no HDF5 file"):
        run_emcee(galaxy(), SHORT, start=START, checkpoint=path)
    path.write_bytes(whole)
    with h5py.File(path, "a") as file:
        file["mcmc/chain"].resize(7, axis=0)
    with pytest.raises(ArtifactError, match="is damaged: its chain"):
        run_emcee(galaxy(), SHORT, start=START, checkpoint=path)
    with h5py.File(path, "w") as file:
        file.create_group("mcmc")
    with pytest.raises(ArtifactError, match="no checkpoint of sedcast"):
        run_emcee(galaxy(), SHORT, start=START, checkpoint=path)


def test_two_processes_do_not_write_one_checkpoint(tmp_path):
    path = tmp_path / "run.h5"
    with output_lock(path), pytest.raises(ConfigError, match="another process is writing"):
        run_emcee(galaxy(), SHORT, start=START, checkpoint=path)
