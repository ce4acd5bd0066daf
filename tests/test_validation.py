"""Validation over classes of measured bands, and the files that it writes."""

import json

import numpy as np
import pytest
from standin import BANDS, gaussian_estimator
from test_calibration import FakeSimulator

from sedcast.data.noise import NoiseModel
from sedcast.posterior.importance import RefineConfig, Refiner
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
    assert figures["refined"]["approximate"] == np.mean([one < 0.02 for one in exact.efficiency])
    assert figures["passes"] is validation_figures(results)["passes"]
    assert "pp_refined.png" in write_validation(results, tmp_path, exact)
