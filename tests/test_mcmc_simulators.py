"""Chains with any simulator: the emulator, the direct tabulated model, FSPS; nested sampling beside importance refinement."""

from dataclasses import replace

import emcee
import numpy as np
import pytest

from sedcast.baselines.chain_refiner import ChainRefiner
from sedcast.baselines.coordinates import FlowMap, SignalCoordinates
from sedcast.baselines.mcmc import McmcConfig, run_emcee
from sedcast.baselines.moves import emcee_moves
from sedcast.baselines.nested import run_nautilus
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import ParameterError
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.fsps_model import FSPSModel
from sedcast.emulator.prior import Prior
from sedcast.emulator.simulation import PhotometrySimulator, SimulationConfig, default_simulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.sps import SPSModel
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.importance import Refiner
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.outlier_training import training_simulator
from sedcast.posterior.posterior_catalog import read_posteriors

BANDS = ("u", "g", "r", "i", "z")
SHORT = McmcConfig(n_walkers=22, n_groups=2, max_steps=20, check_every=20, thin=1, n_screen=200, seed=5)


def galaxy(model, row=1):
    catalog = load_sdss_sample(bands=BANDS)
    simulator = PhotometrySimulator(model, BANDS, 0.2)
    # Errors of a tenth: a start is found among a few hundred draws.
    ivar = np.full(5, 100.0) / catalog.flux[row] ** 2
    return GaussianLikelihood(simulator, Prior(), flux=catalog.flux[row], flux_ivar=ivar, zred=float(catalog.zred[row]))


def test_emulator_and_direct_model_give_the_same_likelihood_and_both_run():
    emulated, direct = galaxy(SpectrumEmulator.default()), galaxy(SPSModel(SSPLibrary.popstar()))
    results = [run_emcee(likelihood, SHORT) for likelihood in (emulated, direct)]
    assert all(result.coordinates == "signal-to-noise" and np.isfinite(result.log_prob).all() for result in results)
    theta = results[0].theta[:50]
    np.testing.assert_allclose(emulated.log_likelihood(theta), direct.log_likelihood(theta), atol=0.2)


@pytest.mark.fsps
def test_fsps_itself_evaluates_the_likelihood_and_takes_steps():
    likelihood = galaxy(FSPSModel())
    coordinates = SignalCoordinates(likelihood)
    drawn = coordinates.candidates(np.random.default_rng(0).standard_normal((40, 11)))
    # A candidate of the data's signal-to-noise ratio may need a mass beyond the prior.
    inside = np.flatnonzero(np.isfinite(coordinates.log_prob(drawn)))
    assert len(inside) >= 22
    y = drawn[inside[:22]]
    log_prob, before = coordinates.log_prob(y), likelihood.n_evaluations
    moves, _ = emcee_moves(1, None)
    sampler = emcee.EnsembleSampler(22, 11, coordinates.log_prob, moves=moves, vectorize=True)
    state = sampler.run_mcmc(emcee.State(y, log_prob=log_prob), 2)
    assert 0 < likelihood.n_evaluations - before <= 44
    assert (state.log_prob >= -np.inf).all()
    assert sampler.acceptance_fraction.max() > 0


def test_a_catalogue_by_mcmc_is_read_like_the_flows(tmp_path):
    estimator = PosteriorEstimator.default()
    simulator = training_simulator(estimator)
    catalog = load_sdss_sample(bands=estimator.bands).subset(np.array([1]))
    config = SHORT.model_copy(update={"n_screen": 4096})
    infer_catalog(
        estimator, catalog, tmp_path / "mcmc.h5", n_samples=50, refiner=ChainRefiner(estimator, simulator, config), n_threads=1
    )
    with read_posteriors(tmp_path / "mcmc.h5") as posteriors:
        assert posteriors.refinement["step"][0] == "emcee"
        assert "MCMC did not converge" in posteriors.flags[0]
        assert posteriors.to_arviz(posteriors.ids[0]).posterior["dust2"].shape == (1, 50)


def test_galaxies_far_from_all_that_the_flow_draws_are_sampled_and_end_no_catalogue(tmp_path, monkeypatch):
    estimator = PosteriorEstimator.default()
    catalog = load_sdss_sample(bands=estimator.bands).subset(np.array([1, 2]))
    # One band a hundred times too bright: no draw of the flow has a posterior.
    flux, ivar = catalog.flux.copy(), catalog.flux_ivar.copy()
    flux[0, 2] *= 100
    ivar[0, 2] /= 1e4
    odd = Catalog(catalog.ids, catalog.bands, flux, ivar, catalog.zred)
    refiner = ChainRefiner(estimator, training_simulator(estimator), SHORT.model_copy(update={"n_screen": 4096}))
    found = run_emcee(
        GaussianLikelihood(refiner.simulator, estimator.prior, flux=flux[0], flux_ivar=ivar[0], zred=float(catalog.zred[0])),
        refiner.config,
        flow=FlowMap.at(estimator, flux[0], ivar[0], float(catalog.zred[0])),
    )
    assert "the flow's draws having no posterior" in found.start
    assert np.isfinite(found.log_prob).all()

    def fail(likelihood, config, **options):
        raise ParameterError("no place to begin")

    monkeypatch.setattr("sedcast.baselines.chain_refiner.run_emcee", fail)
    infer_catalog(estimator, odd, tmp_path / "mcmc.h5", n_samples=50, refiner=refiner, n_threads=1)
    with read_posteriors(tmp_path / "mcmc.h5") as posteriors:
        # The flow's samples stand in, where it has any.
        assert ["no draw of the flow" in status for status in posteriors.status] == [True, False]
        assert "MCMC failed" in posteriors.flags[1]
        assert posteriors.refinement["step"][1] == "flow"
        assert np.isfinite(posteriors.samples(1)["log_mstar"]).all()


def test_a_chain_of_a_catalogue_that_the_user_interrupts_is_no_result(monkeypatch):
    estimator = PosteriorEstimator.default()
    simulator = training_simulator(estimator)
    catalog = load_sdss_sample(bands=estimator.bands).subset(np.array([1]))
    refiner = ChainRefiner(estimator, simulator, SHORT.model_copy(update={"n_screen": 4096}))

    def stopped(*arguments, **options):
        return replace(run_emcee(*arguments, **options), interrupted=True)

    monkeypatch.setattr("sedcast.baselines.chain_refiner.run_emcee", stopped)
    with pytest.raises(KeyboardInterrupt):
        refiner(catalog.flux[0], catalog.flux_ivar[0], float(catalog.zred[0]), 50, seed=0)


@pytest.mark.slow
def test_nested_sampling_and_importance_refinement_agree_on_the_evidence():
    pytest.importorskip("nautilus", reason="needs nautilus-sampler")
    estimator = PosteriorEstimator.default()
    simulator = default_simulator(SimulationConfig.model_validate(estimator.card["simulation"]))
    catalog = load_sdss_sample(bands=estimator.bands)
    data = catalog.flux[1], catalog.flux_ivar[1], float(catalog.zred[1])
    refined = Refiner(estimator, simulator)(*data, 1000, seed=0)
    likelihood = GaussianLikelihood(simulator, estimator.prior, flux=data[0], flux_ivar=data[1], zred=data[2])
    nested = run_nautilus(likelihood, McmcConfig(target_ess=3000))
    assert nested.converged, nested.reason
    error = np.hypot(refined.log_evidence_error, nested.log_evidence_error)
    assert abs(nested.log_evidence - refined.log_evidence) < 4.5 * error
