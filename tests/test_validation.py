"""Validation over classes of measured bands, and the files that it writes."""

import json

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from standin import BANDS, gaussian_estimator
from test_calibration import FakeSimulator

from sedcast.data.noise import NoiseModel
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, PARAMETER_NAMES
from sedcast.posterior.importance import RefineConfig, Refiner
from sedcast.posterior.likelihood import GaussianLikelihood
from sedcast.posterior.mocks import draw_mocks
from sedcast.validation import validate_estimator, validate_refined, validation_figures, write_validation


@pytest.fixture(scope="module")
def results():
    calls = []
    results = validate_estimator(
        gaussian_estimator(mask=True),
        FakeSimulator(),
        NoiseModel.sdss(),
        n_mocks=60,
        n_samples=50,
        seed=3,
        progress=lambda *now: calls.append(now),
    )
    assert calls[-1] == (120, 120)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    return results


def test_an_estimator_with_a_mask_is_tested_in_every_class(results):
    assert list(results) == ["all bands", "random subsets"]
    figures = validation_figures(results)
    assert list(figures["by_bands"]) == ["random subsets"]
    assert figures["seed"] != figures["by_bands"]["random subsets"]["seed"]
    every = [figures["by_bands"]["random subsets"]["passes"], all(check["passes"] is not False for check in figures["checks"])]
    assert figures["passes"] is all(every)


def test_an_estimator_without_a_mask_needs_every_band():
    results = validate_estimator(gaussian_estimator(), FakeSimulator(), NoiseModel.sdss(), n_mocks=30, n_samples=20, seed=3)
    assert list(results) == ["all bands"]
    assert np.isfinite(results["all bands"].pit).all()
    assert len(BANDS) == 5


def test_bands_with_long_names_are_no_long_files(results, tmp_path):
    many = " ".join(f"subaru_suprime_ib{band}" for band in range(400, 420))
    classes = {
        "all bands": results["all bands"],
        f"{many} only": results["random subsets"],
        f"NUV {many} only": results["all bands"],
    }
    written = write_validation(classes, tmp_path)
    assert written[0] == "validation.json"
    assert len(set(written)) == 13
    assert {path.name for path in tmp_path.iterdir()} == set(written)


def test_files(results, tmp_path):
    written = write_validation(results, tmp_path / "made" / "here")
    assert {path.name for path in (tmp_path / "made" / "here").iterdir()} == set(written)
    assert len(written) == 9
    assert "pp_random-subsets.png" in written
    assert json.loads((tmp_path / "made" / "here" / "validation.json").read_text()) == validation_figures(results)


def test_refined_samples_are_calibrated_where_the_flow_is_not(results, tmp_path):
    estimator = gaussian_estimator()
    refiner = Refiner(estimator, FakeSimulator(), RefineConfig(n_draws=2000))
    exact = validate_refined(refiner, FakeSimulator(), NoiseModel.sdss(), n_mocks=60, n_samples=100, seed=5)
    mass = exact.refined.names.index("log_mstar")
    assert exact.flow.ks_p[mass] < 1e-6
    assert exact.refined.ks_p[mass] > 0.01
    assert exact.refined.ks_p_min_holm > 0.01
    figures = validation_figures(results, exact)
    assert figures["refined"]["n_mocks"] == 60
    assert figures["refined"]["approximate"] == np.mean([one < 0.02 for one in exact.refined.efficiency])
    assert figures["refined"]["flow_excess_loss_nats"] == pytest.approx(exact.excess_nats.mean())
    assert figures["passes"] is validation_figures(results)["passes"]
    assert "pp_refined.png" in write_validation(results, tmp_path, exact)


def test_the_flows_excess_loss_is_that_of_the_known_posterior():
    estimator, n = gaussian_estimator(), 20
    refiner = Refiner(estimator, FakeSimulator(), RefineConfig(n_draws=4000))
    found = validate_refined(refiner, FakeSimulator(), NoiseModel.sdss(), n_mocks=n, n_samples=20, seed=6).excess_nats
    mocks = draw_mocks(n, FakeSimulator(), estimator, NoiseModel.sdss(), seed=6)
    # The flow is the prior, and the fluxes depend on the mass and one more parameter: on a grid of their prior's quantiles.
    quantiles = [(np.arange(size) + 0.5) / size for size in (8000, 50)]
    grid = np.zeros((8000 * 50, 11))
    columns = [FREE_PARAMETER_NAMES.index(name) for name in ("log_mstar", PARAMETER_NAMES[10])]
    grid[:, columns] = norm.ppf(np.stack(np.meshgrid(*quantiles), axis=-1).reshape(-1, 2))
    theta = estimator.prior.from_unbounded(grid)
    for row in range(0, n, 5):
        galaxy = {"flux": mocks.flux[row], "flux_ivar": mocks.flux_ivar[row], "zred": mocks.zred[row]}
        likelihood = GaussianLikelihood(FakeSimulator(), estimator.prior, **galaxy)
        evidence = logsumexp(likelihood.log_likelihood(theta)) - np.log(len(theta))
        expected = likelihood.log_likelihood(mocks.theta[row])[0] - evidence
        assert found[row] == pytest.approx(expected, abs=0.3)
        assert expected > 1
