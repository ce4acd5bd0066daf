"""Training an estimator from simulations."""

from contextlib import nullcontext
from dataclasses import replace

import h5py
import numpy as np
import pytest
from standin import BANDS, deep_catalog, mock_photometry

from sedcast.data.artifacts import save_artifact
from sedcast.data.config import parse_config
from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.data.filters import load_filter
from sedcast.data.noise import NoiseModel
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.band_training import BandTrainingConfig
from sedcast.emulator.mass_simulation import simulate
from sedcast.emulator.prior import Prior
from sedcast.emulator.simulation import SimulationConfig
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.posterior import train, train_bands
from sedcast.posterior.amplitude_flow import FlowWithAmplitudes
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow_training import FlowTrainer
from sedcast.posterior.made import FlowConfig
from sedcast.posterior.outlier_training import training_simulator
from sedcast.posterior.posterior_config import PosteriorConfig
from sedcast.posterior.stream import StreamConfig
from sedcast.posterior.train import fit_posterior, train_posterior, training_stream
from sedcast.posterior.train_bands import band_checkpoint
from sedcast.posterior.training_set import TrainingSet, read_training_set

SIMULATION = {"n_galaxies": 4000, "seed": 5, "bands": BANDS, "zred": {"min": 0.005, "max": 0.3}}


def config(**kwargs) -> PosteriorConfig:
    values = {
        "name": "tiny",
        "simulation": SIMULATION,
        "flow": {"n_blocks": 2, "hidden": [32]},
        "training": {"batch_size": 200, "max_epochs": 15, "learning_rate": 3e-3, "warmup_steps": 10, "ema_decay": 0.9},
        "outliers": {"n_fit": 400, "n_calibration": 500, "n_components": 2},
    }
    return parse_config(values | kwargs, PosteriorConfig)


def training_set() -> TrainingSet:
    """Two parameters are told by the photometry (mean magnitude and redshift), the others by nothing."""
    flux, ivar, zred = mock_photometry(4000, 6)
    theta = np.random.default_rng(7).standard_normal((4000, 11)).astype(np.float32)
    theta[:, 0] = -np.log(flux[:, 2] / 40) + 0.3 * theta[:, 0]
    return TrainingSet(theta, flux, ivar, zred, SimulationConfig.model_validate(SIMULATION))


def test_fit_and_card(tmp_path):
    epochs, curves = [], []
    estimator = fit_posterior(
        training_set(),
        config(),
        bases=SFHBases.default(),
        cosmology=Cosmology(),
        provenance={"emulator": "a program of mine"},
        progress=lambda done, total, figures=None: epochs.append((done, total)),
        on_epoch=curves.append,
    )
    assert epochs == [(k, 15) for k in range(1, 16)]
    assert [len(records) for records in curves] == list(range(1, 16))
    held_out = [record["validation_nll"] for record in curves[-1]]
    np.testing.assert_allclose([record["validation_nll"] for record in estimator.card["history"]], held_out, rtol=1e-5)
    flux, ivar, zred = mock_photometry(200, 8)
    points = estimator.sample_unbounded(flux, ivar, zred, 200, seed=0)
    residual = points[:, :, 0].mean(axis=1) + np.log(flux[:, 2] / 40)
    assert np.abs(residual).mean() < 0.15
    assert 0.25 < points[:, :, 0].std(axis=1).mean() < 0.4
    figures = estimator.card["figures"]
    # Entropy of ten standard normals and one of width 0.3.
    expected = 11 * 0.5 * np.log(2 * np.pi * np.e) + np.log(0.3)
    assert expected - 0.1 < figures["validation_nll_nats"] < expected + 0.5
    assert figures["n_train"] == 3600
    estimator.save(tmp_path / "tiny.npz")
    card = PosteriorEstimator.load(tmp_path / "tiny.npz").card
    assert card["simulation"]["seed"] == 5
    assert card["provenance"]["emulator"] == "a program of mine"
    assert estimator.emulator_digest is None
    assert card["config"]["training"]["max_epochs"] == 15
    assert len(card["history"]) == 15


def test_broken_training_sets_are_counted():
    good = training_set()
    theta = good.theta_unbounded.copy()
    theta[10:13] = theta[20:23]
    with pytest.raises(ParameterError, match="3 of 4000 rows repeat"):
        replace(good, theta_unbounded=theta)
    flux = good.flux.copy()
    flux[[5, 9], 1] = np.nan
    with pytest.raises(ParameterError, match="flux is not finite in 2 of 4000 rows"):
        replace(good, flux=flux)
    with pytest.raises(ParameterError, match="zred is constant in 1 of 1 columns"):
        replace(good, zred=np.full(4000, 0.1))
    with pytest.raises(ParameterError, match="the training set is empty"):
        TrainingSet(*(getattr(good, name)[:0] for name in ("theta_unbounded", "flux", "flux_ivar", "zred")), good.config)
    with pytest.raises(ParameterError, match=r"flux has shape \(4000, 4\)"):
        replace(good, flux=good.flux[:, :4])
    # What no simulation of the configuration gives: probit coordinates and redshifts beyond its own.
    for far, refused in ((7.0, False), (7.1, True), (-7.1, True)):
        theta = good.theta_unbounded.copy()
        theta[[4, 6], 3] = far, far - 0.01 * np.sign(far)
        with pytest.raises(ParameterError, match=r"beyond ±7\.04, in 2 of 4000 rows") if refused else nullcontext():
            replace(good, theta_unbounded=theta)
    low, high = good.config.zred.min, good.config.zred.max
    for zred, refused in ((low, False), (high, False), (0.99 * low, True), (1.01 * high, True)):
        values = good.zred.copy()
        values[7] = zred
        with pytest.raises(ParameterError, match=r"zred is beyond .* in 1 of 4000 rows") if refused else nullcontext():
            replace(good, zred=values)
    ivar = good.flux_ivar.copy()
    ivar[[1, 2, 3], 0] = 0.0
    with pytest.raises(ParameterError, match="flux_ivar is not positive in 3 of 4000 rows"):
        replace(good, flux_ivar=ivar)


STREAM = {"n_validation": 500, "missing": {}}
BANDS7 = ["FUV", "NUV", *BANDS]


def train_stream(path, progress=None, **training):
    values = {
        "simulation": SIMULATION | {"n_galaxies": 1000, "bands": BANDS7},
        "stream": STREAM,
        "training": {"batch_size": 100, "max_epochs": 3, "warmup_steps": 5, "checkpoint_minutes": 0} | training,
    }
    return train_posterior(config(**values), checkpoint=path, progress=progress)


def test_a_file_of_simulations_that_was_edited_meanwhile_is_not_resumed_with(tmp_path):
    path, simulations = tmp_path / "run.npz", tmp_path / "simulations.h5"
    simulate(SimulationConfig.model_validate(SIMULATION | {"n_galaxies": 1000}), simulations)
    training = {"batch_size": 100, "max_epochs": 3, "warmup_steps": 5, "checkpoint_minutes": 0}
    mine = config(simulation=None, simulation_file=str(simulations), training=training)

    def interrupt(done: int, total: int, figures=None) -> None:
        if (done, total) == (2, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_posterior(mine, checkpoint=path, progress=interrupt)
    with h5py.File(simulations, "a") as file:
        # Neither means nor the number of rows tell of it.
        file["theta_unbounded"][:] = file["theta_unbounded"][:][::-1]
    with pytest.raises(ArtifactError, match=r'another configuration or training set \(rows was "\w+" and is now "\w+"\)'):
        train_posterior(mine, checkpoint=path)


def test_training_on_a_stream_resumes_exactly(tmp_path):
    whole = train_stream(tmp_path / "whole.npz")
    figures = whole.card["figures"]
    assert (figures["n_train"], figures["n_spectra"], figures["n_validation"], figures["epochs"]) == (3000, 3000, 500, 3)
    assert whole.bands == tuple(BANDS7)
    assert whole.context.mask
    assert whole.outliers is not None
    assert whole.card["outliers"]["n_calibration"] == 500

    def interrupt(done: int, total: int, figures=None) -> None:
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_stream(tmp_path / "part.npz", interrupt)
    resumed = train_stream(tmp_path / "part.npz")
    for name, weights in whole.flow.to_arrays().items():
        np.testing.assert_allclose(resumed.flow.to_arrays()[name], weights, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(resumed.domain.centre, whole.domain.centre)
    whole.save(tmp_path / "stream.npz")
    again = PosteriorEstimator.load(tmp_path / "stream.npz")
    assert again.context == whole.context
    assert again.card["config"]["stream"]["missing"]["complete"] == 0.25
    # The flow answers for a galaxy without GALEX.
    flux, ivar, zred = mock_photometry(3, 8)
    flux, ivar = (np.concatenate([np.zeros((3, 2)), values], axis=1) for values in (flux, ivar))
    assert np.isfinite(again.sample(flux, ivar, zred, 5, seed=0)).all()


BANDS_OF_SECONDS = {"n_galaxies": 2000, "hidden": [12], "burst_hidden": [12], "steps": 60, "batch_size": 200}


def test_training_with_amplitudes_of_their_own(tmp_path):
    narrowed = {"log_mstar": [8.0, 12.0], "fburst": [0.0, 0.7], "dust2": [0.0, 2.0]}
    values = {
        "simulation": SIMULATION | {"n_galaxies": 1000, "bands": BANDS7, "prior": narrowed},
        "stream": STREAM,
        "amplitudes": BANDS_OF_SECONDS,
        "flow": {"n_blocks": 2, "hidden": [32], "choice": [4], "n_options": 3},
        "training": {"batch_size": 100, "max_epochs": 2, "warmup_steps": 5, "checkpoint_minutes": 0},
    }
    path = tmp_path / "amplitudes.npz"

    def interrupt(done: int, total: int, figures=None) -> None:
        if (done, total) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_posterior(config(**values), checkpoint=path, progress=interrupt)
    kept = band_checkpoint(path)
    assert kept.is_file()
    seen = []
    estimator = train_posterior(config(**values), checkpoint=path, progress=lambda *now: seen.append(now[:2]))
    # The band emulator, of 60 steps, was finished before.
    assert [total for _, total in seen] == [2, 2, 500]
    flow = estimator.flow
    assert isinstance(flow, FlowWithAmplitudes)
    assert (flow.others.n_real, flow.others.dim) == (9, 10)
    figures = estimator.card["figures"]
    assert estimator.card["bands_emulator"]["figures"]["steps"] == 60
    with training_stream(config(**values)) as (stream, transform, _):
        held = stream.validation()
    context = transform(held.flux, held.flux_ivar, held.zred)
    log_prob = flow.log_prob(held.theta_unbounded, context)
    known = np.isfinite(log_prob)
    described = estimator.card["bands_emulator"]["figures"]
    assert described["impossible"] == np.count_nonzero(~known)
    learnt, log_slope = flow.to_learn(held.theta_unbounded, context)
    of_others = (flow.others.log_prob(learnt, context) + log_slope).mean()
    assert figures["validation_nll_nats"] == pytest.approx(described["amplitudes_nats"] - of_others, rel=1e-3)
    np.testing.assert_allclose(
        log_prob[known],
        (flow.others.log_prob(learnt, context) + log_slope + flow.amplitude_log_density(held.theta_unbounded, context))[known],
        rtol=1e-6,
    )
    assert flow.emulator.prior == estimator.prior == Prior.from_dict(narrowed)
    with pytest.raises(ArtifactError, match="another prior or cosmology"):
        replace(estimator, prior=Prior())
    estimator.save(tmp_path / "saved.npz")
    again = PosteriorEstimator.load(tmp_path / "saved.npz")
    galaxy = held.flux[:3], held.flux_ivar[:3], held.zred[:3]
    np.testing.assert_array_equal(again.sample(*galaxy, 20, seed=1), estimator.sample(*galaxy, 20, seed=1))
    assert again.prior.contains(again.sample(*galaxy, 500, seed=2).reshape(-1, 12)).all()
    other = values | {"amplitudes": BANDS_OF_SECONDS | {"seed": 3}}
    with pytest.raises(ArtifactError, match="of another configuration"):
        train_posterior(config(**other), checkpoint=path)


def test_a_choice_needs_amplitudes_of_their_own():
    with pytest.raises(ConfigError, match=r"needs \[amplitudes\]"):
        config(flow={"choice": [4]})


def test_amplitudes_need_an_emulator_of_the_bands():
    with pytest.raises(ParameterError, match="use train_posterior"):
        fit_posterior(training_set(), config(amplitudes=BANDS_OF_SECONDS), bases=SFHBases.default(), cosmology=Cosmology())


def test_galaxies_for_the_bands_come_in_whole_chunks(monkeypatch):
    """The bundled posteriors' cards say 1,000,000 and 1,048,576."""
    assert "1,048,576 for 1,000,000" in BandTrainingConfig.__doc__
    assert -(-1_000_000 // train_bands._GALAXIES_PER_CHUNK) * train_bands._GALAXIES_PER_CHUNK == 1_048_576
    monkeypatch.setattr(train_bands, "_GALAXIES_PER_CHUNK", 200)
    seconds = BandTrainingConfig(**BANDS_OF_SECONDS | {"n_galaxies": 450, "steps": 2})
    simulation = SimulationConfig.model_validate(SIMULATION)
    trained = train_bands.bands_as_configured(seconds, simulation, StreamConfig(), SpectrumEmulator.default())
    assert trained.figures["n_galaxies"] == 600


def test_a_training_set_has_no_use_for_a_stream():
    streamed = config(stream={"n_validation": 500, "missing": {"optional": ["u"]}}, experts=["sdss-ugriz"])
    with pytest.raises(ParameterError, match=r"\[stream\] draws galaxies of its own"):
        fit_posterior(training_set(), streamed, bases=SFHBases.default(), cosmology=Cosmology())


def test_an_expert_that_does_not_suit_is_refused_before_the_training():
    def never(*now):
        pytest.fail("the training began")

    values = {"simulation": SIMULATION | {"bands": BANDS7, "zred": {"min": 0.01, "max": 0.6}}, "experts": ["sdss-ugriz"]}
    with pytest.raises(ConfigError, match="redshift range"):
        train_posterior(config(**values, stream=STREAM), progress=never)
    values["simulation"] = values["simulation"] | {"bands": ["g", "r", "i", "z"]}
    with pytest.raises(ConfigError, match="cannot serve"):
        train_posterior(config(**values, stream={"missing": {"optional": ["g"]}}), progress=never)
    with pytest.raises(ConfigError, match=r"give \[stream.missing\]"):
        config(**values)


@pytest.fixture
def nothing_begins(monkeypatch):
    """What takes minutes fails."""

    def never(*_, **__):
        pytest.fail("the training began")

    for module in (train, train_bands):
        monkeypatch.setattr(module, "GalaxyStream", never)
    monkeypatch.setattr(train, "simulate", never)


GIVEN, STREAMED = {"amplitudes": BANDS_OF_SECONDS}, {"amplitudes": BANDS_OF_SECONDS, "stream": {"n_validation": 500}}
SDSS = {"n_blocks": 6, "hidden": [192, 192], "transform": "sinh-arcsinh", "embedding": [64, 64]}
SDSS |= {"choice": [64], "n_options": 3, "seed": 11}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GIVEN | {"training": {"batch_size": 3601}}, "3600 training pairs do not fill a batch of 3601"),
        (GIVEN | {"training": {"batch_size": 300, "validation_fraction": 0.95}}, "200 training pairs do not fill a batch"),
        (GIVEN | {"flow": {"hidden": [8]}}, "9 expected, got 8"),
        (STREAMED | {"flow": {"hidden": [8]}}, "9 expected, got 8"),
        ({"flow": {"hidden": [11]}, "redshift": "inferred"}, "12 expected, got 11"),
        (GIVEN | {"start": "sdss-ugriz"}, r"\[flow\] must be that of sdss-ugriz"),
        (STREAMED | {"start": "sdss-photoz", "flow": SDSS | {"seed": 31}}, "infers the redshift, unlike"),
        (STREAMED | {"start": "sdss-ugriz", "flow": SDSS, "redshift": "inferred"}, "is given the redshift, unlike"),
        (
            STREAMED | {"start": "sdss-ugriz", "flow": SDSS, "simulation": SIMULATION | {"bands": ["g", "r", "i"]}},
            "lacks the columns mag_u-mean",
        ),
        (STREAMED | {"start": "absent.npz"}, "no posterior 'absent.npz'"),
    ],
)
@pytest.mark.usefixtures("nothing_begins")
def test_what_cannot_be_trained_is_refused_before_the_minutes_of_work(values, message):
    with pytest.raises((ConfigError, ParameterError, ArtifactError), match=message):
        train_posterior(config(**values))


@pytest.mark.usefixtures("nothing_begins")
def test_checkpoints_of_another_training_are_refused_before_the_minutes_of_work(tmp_path):
    path, seconds = tmp_path / "run.npz", config(**GIVEN)
    FlowTrainer(FlowConfig(hidden=(12,)), seconds.training.model_copy(update={"max_epochs": 1}), checkpoint=path).fit(
        np.random.default_rng(0).standard_normal((300, 3)), np.random.default_rng(1).standard_normal((300, 2))
    )
    with pytest.raises(ArtifactError, match=r"run\.npz is of another configuration"):
        train_posterior(seconds, checkpoint=path)
    path.unlink()
    save_artifact(band_checkpoint(path), train_bands._KIND, {"base": np.zeros(5)}, {"recipe": {}})
    with pytest.raises(ArtifactError, match=r"run\.bands\.npz is of another configuration"):
        train_posterior(seconds, checkpoint=path)


def test_a_score_that_cannot_be_made_is_refused_before_the_training():
    with pytest.raises(ConfigError, match="ten for each at least"):
        config(simulation=SIMULATION, outliers={"n_fit": 300, "n_components": 31})
    with pytest.raises(ConfigError, match=r"outliers\.seed"):
        config(outliers={"seed": 10**16})


def test_one_band_is_never_missing():
    missing = {"optional": [], "complete": 0.5, "without_optional": 0}
    with pytest.raises(ConfigError, match="r is the only band, and never missing"):
        config(simulation=SIMULATION | {"bands": ["r"]}, stream={"missing": missing})


def test_bands_that_would_never_be_missing_are_named():
    def with_missing(optional, complete, without_optional):
        return config(stream={"missing": {"optional": optional, "complete": complete, "without_optional": without_optional}})

    for optional, complete, without in ((["u"], 0.5, 0.49), ([], 0.9, 0.0), (list(BANDS), 0.5, 0.5)):
        assert with_missing(optional, complete, without).stream is not None
    for optional, complete, without, named in (
        (["u"], 0.5, 0.5, "g r i z"),
        ([], 1.0, 0.0, "u g r i z"),
        (["u"], 1.0, 0.0, "u g r i z"),
    ):
        with pytest.raises(ConfigError, match=f"stream.missing: {named} would never be missing"):
            with_missing(optional, complete, without)


def test_a_batch_of_a_stream_is_no_more_than_an_epoch():
    assert config(stream=STREAM, training={"batch_size": 4000}).training.batch_size == 4000
    with pytest.raises(ConfigError, match=r"batch_size=4001 is above simulation\.n_galaxies=4000"):
        config(stream=STREAM, training={"batch_size": 4001})


def test_time_budget_ends_a_stream_and_sets_the_total(tmp_path):
    seen = []
    estimator = train_stream(
        None, lambda done, total, figures=None: seen.append((done, total)), max_epochs=10_000, max_minutes=0.05, patience=10_000
    )
    assert estimator.card["figures"]["stopped"] == "reached max_minutes"
    assert all(done <= total <= 10_000 for done, total in seen)
    epochs = estimator.card["figures"]["epochs"]
    assert (epochs, epochs) in seen


def test_config_needs_one_source():
    with pytest.raises(ConfigError, match=r"needs \[simulation\], not simulation_file"):
        config(simulation=None, simulation_file="a.h5", stream={})
    with pytest.raises(ConfigError, match="either"):
        config(simulation=None)
    with pytest.raises(ConfigError, match="either"):
        config(simulation_file="a.h5")
    assert config(simulation=None, simulation_file="a.h5").simulation_file is not None


def test_reading_what_is_not_a_training_set(tmp_path):
    with pytest.raises(ConfigError, match="not a file of simulations"):
        read_training_set(tmp_path / "absent.h5")


def test_simulations_are_of_what_is_there_now(tmp_path, monkeypatch):
    settings = SimulationConfig(n_galaxies=20, seed=1, bands=BANDS)
    simulate(settings, tmp_path / "mocks.h5")
    assert len(read_training_set(tmp_path / "mocks.h5")) == 20
    model = SpectrumEmulator.default()
    other = replace(model, card=model.card | {"sha256": "0" * 64})
    monkeypatch.setattr(SpectrumEmulator, "default", classmethod(lambda cls: other))
    with pytest.raises(ConfigError, match="was simulated with another emulator than is there now"):
        read_training_set(tmp_path / "mocks.h5")


def test_redshifts_and_coordinates_are_those_of_the_configuration():
    good = training_set()
    zred, theta = good.zred.copy(), good.theta_unbounded.copy()
    zred[:3], theta[:2, 0] = 3.0, 10.5
    with pytest.raises(ParameterError, match=r"beyond 0.005 … 0.3.*in 3 of 4000 rows; .*beyond ±7.04, in 2 of 4000"):
        replace(good, zred=zred, theta_unbounded=theta)


def test_own_files_are_known_by_what_is_in_them(tmp_path):
    curve = load_filter("r")
    path = tmp_path / "mine.txt"
    np.savetxt(path, np.column_stack([curve.wave, curve.response]))
    settings = SimulationConfig(n_galaxies=20, bands=("u", str(path)))
    assert settings.own_files().keys() == {"mine"}
    card = {"name": "own", "simulation": settings.model_dump(mode="json"), "own_files": settings.own_files()}
    estimator = replace(PosteriorEstimator.default(), card=card)
    assert training_simulator(estimator).bands == ("u", "mine")
    np.savetxt(path, np.column_stack([curve.wave + 500, curve.response]))
    with pytest.raises(ArtifactError, match="'own' was trained with another curve of mine than is in the file"):
        training_simulator(estimator)


def test_magnitudes_are_softened_as_the_noise_model_says(tmp_path):
    """From the catalogue by the simulations to the posterior and its score, which need no noise model to be read."""
    bands = ("g", "lsst2023-r", "lsst2023-i")
    catalog, _ = deep_catalog(np.array([22.5, 26.5, 26.0]), bands, 3000, seed=4)
    noise = NoiseModel.from_catalog(catalog)
    noise.save(tmp_path / "noise.npz")
    simulation = SIMULATION | {"n_galaxies": 1000, "bands": bands, "noise": str(tmp_path / "noise.npz")}
    simulate(SimulationConfig.model_validate(simulation), tmp_path / "simulations.h5")
    training = {"batch_size": 100, "max_epochs": 2, "warmup_steps": 5, "checkpoint_minutes": 0}
    made = train_posterior(config(simulation=None, simulation_file=str(tmp_path / "simulations.h5"), training=training))
    assert made.context.softening == tuple(noise.softening)
    with training_stream(config(simulation=simulation, stream=STREAM | {"missing": None})) as (_, transform, _):
        assert transform == made.context
    made.save(tmp_path / "posterior.npz")
    (tmp_path / "noise.npz").unlink()
    again = PosteriorEstimator.load(tmp_path / "posterior.npz")
    assert again.context == made.context
    rows = slice(0, 50)
    galaxies = catalog.flux[rows], catalog.flux_ivar[rows], catalog.zred[rows]
    np.testing.assert_array_equal(again.sample(*galaxies, 5, seed=1), made.sample(*galaxies, 5, seed=1))
    values = again.outliers.check(*galaxies).values
    np.testing.assert_array_equal(values, made.outliers.check(*galaxies).values)
    # Magnitudes of the faintest galaxies spread over more than the tenths of those softened by 0.12 nanomaggies.
    assert np.ptp(made.domain.magnitude[1]) > 5
