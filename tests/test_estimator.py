"""The posterior estimator, on a flow that is known exactly."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest, norm
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.posterior.estimator import PosteriorEstimator, bundled_posteriors

FLUX, IVAR, ZRED = mock_photometry(6, 11)


class FlowWithoutPosterior:
    """A flow all of whose draws for the third galaxy are impossible."""

    def __init__(self, flow) -> None:
        self.flow, self.dim, self.n_context, self.parts = flow, flow.dim, flow.n_context, flow.parts

    def draw(self, context, n_samples, **options):
        drawn = self.flow.draw(context, n_samples, **options)
        log_likelihood = np.zeros_like(drawn.log_q)
        log_likelihood[2] = -np.inf
        return drawn._replace(log_likelihood=log_likelihood)


def test_samples_of_an_identity_flow_are_the_prior():
    estimator = gaussian_estimator()
    theta = estimator.sample(FLUX, IVAR, ZRED, 3000, seed=5)
    assert theta.shape == (6, 3000, 12)
    assert theta.dtype == np.float32
    flat = theta.reshape(-1, 12)
    assert estimator.prior.contains(flat).all()
    for name, (low, high) in estimator.prior.to_dict().items():
        values = flat[:, PARAMETER_NAMES.index(name)].astype(float)
        if name.startswith("gamma"):
            values, low, high = np.log(values), np.log(low), np.log(high)
        assert kstest((values - low) / (high - low), "uniform").pvalue > 1e-3, name
    for beta in flat[:, 1:5].T:
        assert kstest(beta, "beta", args=(1, 3)).pvalue > 1e-3


def test_extreme_samples_stay_inside_the_prior():
    estimator = gaussian_estimator(std=1.0)
    for extreme in (-40.0, -9.0, 9.0, 40.0):
        theta = estimator.to_theta(np.full((2, 5, 11), extreme, dtype=np.float32))
        assert theta.shape == (2, 5, 12)
        assert estimator.prior.contains(theta.reshape(-1, 12)).all()


def test_one_galaxy_whose_draws_are_all_lost_is_warned_of(caplog):
    estimator = gaussian_estimator()
    draw = FlowWithoutPosterior(estimator.flow)
    assert np.isnan(replace(estimator, flow=draw).sample(FLUX, IVAR, ZRED, 5, seed=0)[2]).all()
    assert "1 of 6 galaxies, the first in row 2, are so far outside the training set" in caplog.text


def test_to_theta_matches_the_prior_in_float64(rng):
    estimator = gaussian_estimator()
    points = rng.standard_normal((3, 5000, 11)).astype(np.float32)
    expected = estimator.prior.from_unbounded(points.reshape(-1, 11)).reshape(3, 5000, 12)
    np.testing.assert_allclose(estimator.to_theta(points, n_threads=2), expected, rtol=2e-6, atol=1e-6)


def test_log_prob_is_the_density_in_probit_space():
    estimator = gaussian_estimator(mean=0.3, std=0.7)
    points = estimator.sample_unbounded(FLUX, IVAR, ZRED, 4, seed=2)
    expected = norm.logpdf(points.astype(float), 0.3, 0.7).sum(axis=-1)
    theta = estimator.to_theta(points)
    np.testing.assert_allclose(estimator.log_prob(theta, FLUX, IVAR, ZRED), expected, atol=2e-3)
    np.testing.assert_allclose(estimator.log_prob(theta[:, 0], FLUX, IVAR, ZRED), expected[:, 0], atol=2e-3)
    outside = theta.copy()
    outside[1, 0, 0] = 20
    with pytest.raises(ParameterError, match="log_mstar"):
        estimator.log_prob(outside, FLUX, IVAR, ZRED)
    for wrong in (theta[:2], theta[0, 0], theta[..., 1:], np.float64(1)):
        with pytest.raises(ParameterError, match=re.escape(f"n = {len(ZRED)} galaxies, got {np.shape(wrong)}")):
            estimator.log_prob(wrong, FLUX, IVAR, ZRED)
    assert estimator.log_prob(theta[:0], FLUX[:0], IVAR[:0], ZRED[:0]).shape == (0, 4)
    half = estimator.log_prob(theta.astype(np.float16), FLUX, IVAR, ZRED)
    np.testing.assert_allclose(half, expected, atol=0.5)


def test_samples_depend_on_seed_and_key_only():
    estimator = gaussian_estimator()
    whole = estimator.sample(FLUX, IVAR, ZRED, 50, seed=1)
    rows = np.array([4, 1])
    part = estimator.sample(FLUX[rows], IVAR[rows], ZRED[rows], 50, seed=1, row_keys=rows)
    np.testing.assert_allclose(part, whole[rows], rtol=1e-6)
    assert not np.allclose(estimator.sample(FLUX, IVAR, ZRED, 50, seed=2), whole)


def test_redshift_beyond_training_is_refused():
    zred = ZRED.copy()
    zred[3] = 0.41
    with pytest.raises(ParameterError, match=r"zred\[3\]=0.41 \(1 such rows\) is beyond the training range 0.005 to 0.3"):
        gaussian_estimator().sample(FLUX, IVAR, zred, 5, seed=0)


def test_status_tells_excluded_from_flagged():
    flux, ivar, zred = mock_photometry(7, 12)
    flux[:], ivar[:] = [50.0, 150.0, 250.0, 330.0, 400.0], (0.03 * np.array([50.0, 150.0, 250.0, 330.0, 400.0])) ** -2.0
    zred[:] = 0.1
    ivar[1, 0] = 0
    flux[2, 3] = np.nan
    zred[3], zred[4], zred[5] = 0.41, -0.2, np.nan
    flux[6, 0] = 0.01
    catalog = Catalog(np.arange(7), BANDS, flux, ivar, zred)
    status = gaussian_estimator().status(catalog)
    assert status.excluded[0] == status.flags[0] == ""
    assert status.excluded[1].endswith(" u")
    assert status.excluded[2].endswith(" i")
    assert status.excluded[3] == "redshift 0.41 beyond the training range, 0.005 to 0.3"
    ends = Catalog(np.arange(2), BANDS, *mock_photometry(2, 3)[:2], np.float32([0.005, 0.3]))
    assert gaussian_estimator().status(ends).ok.all()
    assert "not positive" in status.excluded[4]
    assert "not finite" in status.excluded[5]
    assert status.excluded[6] == ""
    assert "u magnitude fainter than the training range" in status.flags[6]
    assert (status.flags[1:6] == "").all()
    assert status.ok.tolist() == [True, False, False, False, False, False, True]
    with pytest.raises(ParameterError, match="select"):
        gaussian_estimator().status(catalog.select(("r", "u")))


def test_rows_that_were_read_for_subsets_of_bands_are_excluded_one_by_one():
    estimator = gaussian_estimator()
    flux, ivar, zred = mock_photometry(4, 2)
    ivar[1, 4] = 0
    catalog = Catalog(np.arange(4), BANDS, flux, ivar, zred).select(BANDS, ragged=True)
    assert catalog.status[1] == ""
    assert estimator.status(catalog).excluded.tolist() == ["", "no measurement in z", "", ""]


def test_masked_estimator_serves_every_row_with_a_measurement(tmp_path):
    estimator = gaussian_estimator(mask=True)
    estimator.save(tmp_path / "masked.npz")
    estimator = PosteriorEstimator.load(tmp_path / "masked.npz")
    flux, ivar, zred = mock_photometry(6, 12)
    ivar[1, [0, 3]] = 0
    flux[2, :4] = np.nan
    ivar[3] = 0
    zred[4], zred[5] = 0.41, np.nan
    catalog = Catalog(np.arange(6), BANDS, flux, ivar, zred)
    status = estimator.status(catalog)
    assert status.ok.tolist() == [True, True, True, False, False, False]
    assert status.excluded[3] == "no measurement in u g r i z"
    assert "beyond the training range" in status.excluded[4]
    assert "not finite" in status.excluded[5]
    assert not any("u " in flag for flag in status.flags[[1, 2]])
    assert estimator.sample(flux[:3], ivar[:3], zred[:3], 4, seed=0).shape == (3, 4, 12)
    # Bands that the catalogue does not have at all.
    fewer = catalog.select(("r", "g"))
    assert estimator.status(fewer.select(BANDS, ragged=True)).ok.tolist() == [True, True, False, False, False, False]
    with pytest.raises(ParameterError, match="ragged=True"):
        estimator.status(fewer)
    with pytest.raises(ParameterError, match="row 3 has no measured band"):
        estimator.sample(flux[:4], ivar[:4], zred[:4], 4, seed=0)
    with pytest.raises(ParameterError, match="estimator trained with missing bands"):
        gaussian_estimator().sample(flux[:2], ivar[:2], zred[:2], 4, seed=0)


def test_save_and_load(tmp_path):
    estimator = gaussian_estimator(mean=0.2, std=0.5, softening=(0.14, 0.09, 0.004, 0.18, 0.74))
    path = tmp_path / "posterior.npz"
    estimator.save(path)
    again = PosteriorEstimator.load(path)
    assert again.context == estimator.context
    assert (again.name, again.bands, again.zred_range) == ("stand-in", BANDS, (0.005, 0.3))
    assert again.prior == estimator.prior
    assert again.card["kind"] == "posterior-estimator"
    np.testing.assert_array_equal(again.sample(FLUX, IVAR, ZRED, 9, seed=3), estimator.sample(FLUX, IVAR, ZRED, 9, seed=3))
    again.save(tmp_path / "copy.npz")
    assert PosteriorEstimator.load(tmp_path / "copy.npz").card["sha256"] == again.card["sha256"]


def test_load_refuses_what_does_not_fit(tmp_path):
    estimator = gaussian_estimator()
    path = tmp_path / "posterior.npz"
    estimator.save(path)
    arrays, card = load_artifact(path, "posterior-estimator")
    save_artifact(path, "posterior-estimator", arrays, card | {"bands": ["u", "g", "r"]}, overwrite=True)
    with pytest.raises(ArtifactError, match="train it again"):
        PosteriorEstimator.load(path)
    save_artifact(path, "posterior-estimator", {k: v for k, v in arrays.items() if k != "bases_sfh"}, card, overwrite=True)
    with pytest.raises(ArtifactError, match="bases_sfh"):
        PosteriorEstimator.load(path)
    save_artifact(path, "posterior-estimator", arrays, card | {"softening": [0.1, 0.1, 0.1, 0.1, 0.0]}, overwrite=True)
    with pytest.raises(ArtifactError, match="expected a positive number, nanomaggies"):
        PosteriorEstimator.load(path)
    old = {name: value for name, value in card.items() if name != "softening"}
    save_artifact(path, "posterior-estimator", arrays, old, overwrite=True)
    assert PosteriorEstimator.load(path).context == estimator.context
    save_artifact(path, "noise-model", arrays, card, overwrite=True)
    with pytest.raises(ArtifactError, match="noise-model"):
        PosteriorEstimator.load(path)


def test_bundled_estimators_are_found_by_name(tmp_path: Path) -> None:
    assert "sdss-ugriz" in bundled_posteriors()
    for name in bundled_posteriors():
        estimator = PosteriorEstimator.find(name)
        assert estimator.name == name
        # Of the machine that it was trained on.
        assert not re.findall(r'[" ](/[a-z]+/[^" ]+)', json.dumps(estimator.card))
    assert PosteriorEstimator.find("bundled").name == "sdss-ugriz"
    with pytest.raises(ArtifactError, match="no-such"):
        PosteriorEstimator.find(tmp_path / "no-such.npz")


def test_an_estimator_is_known_by_its_weights_where_no_file_is_its_own():
    one, same, other = gaussian_estimator(), gaussian_estimator(), gaussian_estimator(0.0, 0.9)
    assert one.digest == same.digest != other.digest
    loaded = PosteriorEstimator.default()
    assert loaded.digest == loaded.card["sha256"]
