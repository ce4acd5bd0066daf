"""Flows of their own for the galaxies measured in certain sets of bands."""

from dataclasses import replace

import numpy as np
import pytest
from standin import gaussian_estimator, mock_photometry

from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.emulator.redshift import RedshiftPrior
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.expert_flow import Expert, FlowWithExperts, flow_from_arrays
from sedcast.posterior.experts import check_experts


@pytest.fixture(scope="module")
def general():
    estimator = PosteriorEstimator.find("galex-sdss")
    return replace(estimator, flow=getattr(estimator.flow, "general", estimator.flow))


@pytest.fixture(scope="module")
def five():
    return PosteriorEstimator.default()


@pytest.fixture(scope="module")
def galaxies(general):
    """Fluxes, inverse variances and redshifts of 40 galaxies, of which every other lacks FUV and NUV and some z."""
    catalog = load_sdss_sample(bands=general.bands)
    both = np.isfinite(catalog.flux).all(axis=1) & (catalog.flux_ivar > 0).all(axis=1)
    catalog = catalog.subset(np.flatnonzero(both & general.status(catalog).ok)[:40])
    ivar = np.array(catalog.flux_ivar)
    ivar[::2, :2] = 0
    ivar[::8, 6] = 0
    return catalog.flux, ivar, catalog.zred


def only_five(ivar):
    return (ivar[:, :2] == 0).all(axis=1) & (ivar[:, 2:] > 0).all(axis=1)


def test_each_row_gets_its_flow(general, five, galaxies):
    flux, ivar, zred = galaxies
    both = general.with_experts(five)
    mine = only_five(ivar)
    assert 10 <= mine.sum() < 20
    keys = np.arange(100, 140)
    samples = both.sample_unbounded(flux, ivar, zred, 50, seed=4, row_keys=keys)
    rest = general.sample_unbounded(flux[~mine], ivar[~mine], zred[~mine], 50, seed=4, row_keys=keys[~mine])
    np.testing.assert_allclose(samples[~mine], rest, atol=1e-5)
    dedicated = five.sample_unbounded(flux[mine][:, 2:], ivar[mine][:, 2:], zred[mine], 50, seed=4, row_keys=keys[mine])
    np.testing.assert_allclose(samples[mine], dedicated, atol=0.01)
    context = both.context(flux, ivar, zred)
    drawn, log_q = both.flow.draw(context, 50, seed=4, row_keys=keys)[:2]
    np.testing.assert_allclose(both.flow.log_prob(drawn, context), log_q, atol=0.5)
    noise = np.random.default_rng(0).standard_normal((40, 3, 11))
    carried, _ = both.flow.transform_noise(noise, context)
    alone, _ = general.flow.transform_noise(noise[~mine], context[~mine])
    np.testing.assert_allclose(carried[~mine], alone, atol=1e-5)


def test_several_experts_serve_rows_of_their_own():
    general, complete = gaussian_estimator(0, 0.1, mask=True), gaussian_estimator(2, 0.1)
    both = general.with_experts(complete)
    (of_all,) = both.flow.experts
    without_z = Expert(gaussian_estimator(-2, 0.1).flow, of_all.columns, np.array([1, 1, 1, 1, 0]), 0 * of_all.matrix)
    flow = flow_from_arrays(FlowWithExperts(general.flow, [of_all, without_z]).to_arrays())
    assert len(flow.parts) == 3
    flux, ivar, zred = mock_photometry(30, 2)
    lacking = {0: [], 1: [4], 2: [0], 3: [3, 4]}
    for row in range(30):
        ivar[row, lacking[row % 4]] = 0
    samples = flow.sample(both.context(flux, ivar, zred), 50, seed=0)
    expected = np.array([2, -2, 0, 0])[np.arange(30) % 4]
    np.testing.assert_allclose(samples.mean(axis=(1, 2)), expected, atol=0.05)
    with pytest.raises(ConfigError, match="stand-in and stand-in are for the same bands"):
        general.with_experts(complete, complete)


def test_rows_are_the_same_alone_and_in_company(general, five, galaxies):
    flux, ivar, zred = galaxies
    both = general.with_experts(five)
    keys = np.arange(len(zred))
    together = both.sample_unbounded(flux, ivar, zred, 20, seed=1)
    for row in (0, 1, 2):
        one = slice(row, row + 1)
        alone = both.sample_unbounded(flux[one], ivar[one], zred[one], 20, seed=1, row_keys=keys[one])
        np.testing.assert_allclose(together[one], alone, atol=0.01)
    assert both.flow.sample(np.empty((0, both.flow.n_context)), 3, seed=0).shape == (0, 3, 11)


def test_it_survives_a_file(general, five, galaxies, tmp_path):
    flux, ivar, zred = galaxies
    both = general.with_experts(five)
    both.save(tmp_path / "both.npz")
    again = PosteriorEstimator.load(tmp_path / "both.npz")
    assert isinstance(again.flow, FlowWithExperts)
    assert again.card["experts"] == both.card["experts"]
    assert again.card["experts"][0]["sha256"] == five.card["sha256"]
    samples = [one.sample_unbounded(flux, ivar, zred, 20, seed=1) for one in (both, again)]
    np.testing.assert_array_equal(*samples)
    arrays = both.flow.to_arrays()
    del arrays["expert_matrix"]
    with pytest.raises(ArtifactError, match="lacks the arrays matrix"):
        flow_from_arrays(arrays)
    with pytest.raises(ArtifactError, match="do not belong together"):
        flow_from_arrays(both.flow.to_arrays() | {"expert_matrix": np.eye(3)})


def test_what_does_not_fit_is_refused(general, five):
    with pytest.raises(ConfigError, match="the one must need every one of its bands"):
        five.with_experts(general)
    with pytest.raises(ConfigError, match="another prior, cosmology, bases or redshift range"):
        general.with_experts(replace(five, bases=replace(five.bases, sfh=1.1 * five.bases.sfh)))
    model = {name: getattr(general, name) for name in ("context", "zred_range", "prior", "cosmology", "bases")}
    with pytest.raises(ConfigError, match="infers the redshift, or by another prior"):
        check_experts(
            [five], name="other", redshift_prior=RedshiftPrior(min=0.01, max=0.2), emulator=None, own_files={}, **model
        )
    with pytest.raises(ConfigError, match="was trained with another curve of g than other"):
        check_experts([five], name="other", redshift_prior=None, emulator=None, own_files={"g": "another"}, **model)
    deep = gaussian_estimator(softening=(0.14, 0.09, 0.004, 0.18, 0.74))
    with pytest.raises(ConfigError, match="stand-in has asinh magnitudes of another softening in r than stand-in"):
        gaussian_estimator(mask=True).with_experts(deep)
    made_with = five.card["provenance"] | {"emulator": {"sha256": "0" * 64}}
    with pytest.raises(ConfigError, match="another emulator of spectra"):
        general.with_experts(replace(five, card=five.card | {"provenance": made_with}))
    assert "sha256" in general.card
    assert "sha256" not in general.with_experts(five).card
    flow = general.with_experts(five).flow
    context = np.zeros((2, flow.n_context))
    with pytest.raises(ParameterError, match="row_keys must be 2 non-negative integers"):
        flow.sample(context, 1, seed=0, row_keys=np.arange(3))
    with pytest.raises(ParameterError, match=r"theta must be \(n, 11\) or \(n, m, 11\) with n = 2, got \(3, 11\)"):
        flow.log_prob(np.zeros((3, 11)), context)
    with pytest.raises(ParameterError, match="context has non-finite values"):
        flow.sample(context * np.nan, 1, seed=0)


def test_a_row_s_samples_do_not_depend_on_its_company(general, galaxies):
    both = PosteriorEstimator.find("galex-sdss")
    catalog = load_sdss_sample(bands=general.bands).select(general.bands, ragged=True)
    rows = np.flatnonzero(general.status(catalog).ok)[:400]
    context = both.context(catalog.flux[rows], catalog.flux_ivar[rows], catalog.zred[rows])
    together = both.flow.draw(context, 100, seed=1, row_keys=rows)
    alone = [both.flow.draw(context[k : k + 1], 100, seed=1, row_keys=rows[k : k + 1]) for k in range(len(rows))]
    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(part, np.concatenate(parts))
