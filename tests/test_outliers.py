"""The outlier score: calibrated on what it was made from, alarmed by what it was not."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast.data.asinh import asinh_magnitude, softening_nanomaggies
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.galaxy_fit import fit_galaxy
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.outlier_training import OutlierConfig, OutlierScorer, fit_outliers, training_simulator
from sedcast.posterior.outliers import FALSE_ALARM_RATE, OutlierModel, SampleChecks, misfit
from sedcast.posterior.photometry_density import PhotometryDensity
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.streaming import infer_file

SOFTENING = softening_nanomaggies(BANDS)
SIMULATION = {"n_galaxies": 10, "seed": 3, "bands": BANDS}


@pytest.fixture(scope="module")
def model() -> OutlierModel:
    """Of the stand-in's galaxies; a third of those it is calibrated on lack u."""
    rng = np.random.default_rng(0)
    flux, _, zred = mock_photometry(6000, 30)
    density = PhotometryDensity.fit(asinh_magnitude(flux, SOFTENING), zred, n_components=2, seed=0)
    flux, ivar, zred = mock_photometry(9000, 31)
    flux[6000:, 0] = ivar[6000:, 0] = 0.0
    samples = of_fit(rng.chisquare(4, 9000))
    return OutlierModel.calibrated(BANDS, SOFTENING, density, flux=flux, flux_ivar=ivar, zred=zred, samples=samples)


def of_fit(fit):
    return SampleChecks(fit, np.full(len(fit), np.nan))


def judged(model, flux, ivar, zred, fit=None):
    return model.judge(model.check(flux, ivar, zred), None if fit is None else of_fit(fit))


@pytest.mark.parametrize("lacking", [[], [0], [1]])
@pytest.mark.parametrize("with_fit", [False, True])
def test_false_alarms_are_those_stated(model, lacking, with_fit, rng):
    flux, ivar, zred = mock_photometry(6000, 32)
    flux[:, lacking] = ivar[:, lacking] = 0.0
    scores = judged(model, flux, ivar, zred, rng.chisquare(4, 6000) if with_fit else None)
    np.testing.assert_array_equal(scores.flags != "", scores.score <= FALSE_ALARM_RATE)
    # One in a hundred of 6,000, and of as many mocks that set the threshold: five standard deviations.
    assert np.mean(scores.score <= FALSE_ALARM_RATE) == pytest.approx(
        FALSE_ALARM_RATE, abs=5 * np.sqrt(0.01 / 6000 + 0.01 / 3000)
    )
    assert np.mean(scores.score <= 0.3) == pytest.approx(0.3, abs=0.05)


def test_photometry_beyond_all_sense_is_judged_without_a_warning():
    """Warnings are errors here, as for `python -W error`, where one such row ended the catalogue."""
    model = PosteriorEstimator.default().outliers
    flux, ivar = np.array([10.0, 25.0, 40.0, 55.0, 70.0]), np.full(5, 1.0)
    factors = np.array([1e-320, 1e30, -1e30, 1e150, 1e300])[:, None]
    fluxes = np.concatenate([flux * factors, np.tile(flux, (10, 1))])
    ivars = np.concatenate([np.tile(ivar, (5, 1)), ivar * abs(factors), ivar / np.maximum(abs(factors), 1e-300)])
    scores = judged(model, fluxes, np.minimum(ivars, 1e300), np.full(15, 0.1))
    assert (scores.score <= FALSE_ALARM_RATE).all()
    assert (scores.flags != "").all()


def test_planted_outliers_are_flagged_in_words(model):
    flux, ivar, zred = mock_photometry(300, 33)
    blue, faint, z_bright = flux.copy(), flux.copy(), flux.copy()
    blue[:, 0] *= 10
    faint[:, 2] /= 10
    z_bright[:, 4] *= 10
    for wrong, words in (
        (blue, "too blue in u-g"),
        (faint, "r too faint beside the other bands"),
        (z_bright, "too red in i-z"),
    ):
        flags = judged(model, wrong, ivar, zred).flags
        assert np.mean(flags != "") > 0.99
        assert np.mean([words in flag for flag in flags]) > 0.95
        assert np.mean(["photometry unlike the training set" in flag for flag in flags]) > 0.9
    without_u = ivar.copy()
    without_u[:, 0] = 0.0
    assert np.mean(judged(model, np.where(without_u > 0, blue, 0.0), without_u, zred).flags != "") < 0.05


def test_a_colour_of_bands_with_hyphens_is_readable(model):
    flux, ivar, zred = mock_photometry(20, 33)
    flux[:, 0] *= 10
    names = ("lsst2023-u", "lsst2023-g", *model.bands[2:])
    flags = judged(replace(model, bands=names), flux, ivar, zred).flags
    assert any("too blue in lsst2023-u - lsst2023-g" in flag for flag in flags)


def test_a_flux_lost_in_its_noise_is_no_excuse(model):
    flux, ivar, zred = mock_photometry(300, 38)
    flux[:, 2] = 0.5 * ivar[:, 2] ** -0.5
    flags = judged(model, flux, ivar, zred).flags
    assert np.mean(["photometry unlike" in flag and "r too faint beside the other bands" in flag for flag in flags]) > 0.9


def test_errors_are_judged(model):
    flux, ivar, zred = mock_photometry(300, 34)
    small = judged(model, flux, 25 * ivar, zred).flags
    assert np.mean(["errors understated?" in flag for flag in small]) > 0.95
    large = judged(model, flux, ivar / 25, zred).flags
    assert np.mean(["too noisy: errors larger than usual at this brightness" in flag for flag in large]) > 0.95


def test_bad_fits_are_flagged_and_unknown_ones_are_not(model):
    flux, ivar, zred = mock_photometry(300, 35)
    scores = judged(model, flux, ivar, zred, np.full(300, 100.0))
    assert all("bad fit" in flag for flag in scores.flags)
    unknown = judged(model, flux, ivar, zred, np.full(300, np.nan))
    alone = judged(model, flux, ivar, zred)
    np.testing.assert_array_equal(unknown.score, alone.score)


def test_the_evidence_is_the_density_of_galaxies_where_it_is_known(model):
    """Of magnitudes as the mixture's is: evidences are those of fluxes."""
    flux, ivar, zred = mock_photometry(300, 39)
    checks, fit = model.check(flux, ivar, zred), np.full(300, 4.0)
    # The volume of fluxes per volume of magnitudes, by differences.
    step = 1e-4 * np.abs(flux)
    slope = 2 * step / np.abs(asinh_magnitude(flux + step, SOFTENING) - asinh_magnitude(flux - step, SOFTENING))
    same = SampleChecks(fit, -checks.values[:, 0] - np.log(slope).sum(axis=1))
    np.testing.assert_allclose(checks.with_samples(same)[:, :4], checks.values, atol=1e-5)
    fainter = checks.with_samples(same._replace(log_evidence=same.log_evidence - 20))
    np.testing.assert_allclose(fainter[:, [0, 3]] - checks.values[:, [0, 3]], 20, atol=1e-5)
    np.testing.assert_array_equal(fainter[:, [1, 2]], checks.values[:, [1, 2]])
    np.testing.assert_allclose(model.judge(checks, same).score, model.judge(checks, of_fit(fit)).score, rtol=1e-3)
    flags = model.judge(checks, same._replace(log_evidence=same.log_evidence - 20)).flags
    assert np.mean(["photometry unlike the training set" in flag for flag in flags]) > 0.9


def test_misfit_is_the_mean_of_the_best_tenth(rng):
    predicted, flux = rng.normal(10, 1, (3, 40, 2)), np.full((3, 2), 10.0)
    ivar = np.array([[1.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    predicted[2, 1:] = np.nan
    got = misfit(predicted, flux, ivar)
    best = sorted((p[0] - 10) ** 2 + 4 * (p[1] - 10) ** 2 for p in predicted[0])[:4]
    assert got[0] == pytest.approx(np.mean(best))
    assert got[1] == pytest.approx(np.mean(np.sort((predicted[1, :, 0] - 10) ** 2)[:4]))
    assert np.isinf(got[2])


def test_too_few_mocks_and_broken_arrays_are_refused(model):
    flux, ivar, zred = mock_photometry(400, 36)
    with pytest.raises(ParameterError, match="400 mocks"):
        OutlierModel.calibrated(
            BANDS, SOFTENING, model.density, flux=flux, flux_ivar=ivar, zred=zred, samples=of_fit(np.ones(400))
        )
    arrays = model.to_arrays("o_")
    with pytest.raises(ArtifactError, match="o_least"):
        OutlierModel.from_arrays(BANDS, SOFTENING, {name: array for name, array in arrays.items() if name != "o_least"}, "o_")
    with pytest.raises(ArtifactError, match="quantiles"):
        OutlierModel.from_arrays(BANDS, SOFTENING, arrays | {"o_quantiles": np.ones((2, 4, 3))}, "o_")


@pytest.mark.parametrize(("n_each", "n_patterns"), [(1000, 4), (400, 1)])
def test_rare_sets_of_bands_are_not_judged_by_the_common_ones_with_as_many(model, n_each, n_patterns):
    """Of sets of four bands the common one is of galaxies that hardly differ; the others are judged alone, or together."""
    n = 6000 + 3 * n_each
    flux, ivar, zred = mock_photometry(n, 41)
    lacking = np.repeat([0, 1, 2, 3], [6000, n_each, n_each, n_each])
    for values in (flux, ivar, zred):
        values[:6000] += 0.9 * (np.median(values, axis=0) - values[:6000])
    flux[np.arange(n), lacking] = ivar[np.arange(n), lacking] = 0.0
    samples = of_fit(np.ones(n))
    made = OutlierModel.calibrated(BANDS, SOFTENING, model.density, flux=flux, flux_ivar=ivar, zred=zred, samples=samples)
    assert len(made.patterns) == n_patterns
    others, ivar, zred = mock_photometry(6000, 42)
    lacking = np.arange(6000) % 3 + 1
    others[np.arange(6000), lacking] = ivar[np.arange(6000), lacking] = 0.0
    flagged = np.mean(judged(made, others, ivar, zred).score <= FALSE_ALARM_RATE)
    # Of few mocks, what errors are usual is told from the very ones that set the threshold.
    tolerance = 5 * np.sqrt(0.01 / 6000 + 0.01 / 3000) if n_patterns > 1 else 0.025
    assert flagged == pytest.approx(FALSE_ALARM_RATE, abs=tolerance)


def test_bands_that_few_mocks_have_are_judged_in_wider_bins_or_refused(model):
    def made(n_with_u):
        flux, ivar, zred = mock_photometry(3000, 43)
        flux[n_with_u:, 0] = ivar[n_with_u:, 0] = 0.0
        samples = of_fit(np.ones(3000))
        return OutlierModel.calibrated(BANDS, SOFTENING, model.density, flux=flux, flux_ivar=ivar, zred=zred, samples=samples)

    scatter = made(60).error_scatter
    assert (scatter > 0.05).all()
    with pytest.raises(ParameterError, match="5 of 3000 mocks are measured in u, expected 10"):
        made(5)


def test_an_estimator_carries_its_score_into_the_file(model, tmp_path):
    plain = gaussian_estimator()
    plain = replace(plain, card=dict(plain.card) | {"simulation": SIMULATION})
    with pytest.raises(ArtifactError, match="does not say what it was trained on"):
        fit_outliers(gaussian_estimator())
    fitted = fit_outliers(plain, OutlierConfig(n_fit=200, n_calibration=500, n_components=2))
    path = tmp_path / "estimator.npz"
    replace(fitted, outliers=model).save(path)
    estimator = PosteriorEstimator.load(path)
    flux, ivar, zred = mock_photometry(20, 37)
    flux[3, 0] *= 30
    ivar[4, 1] = 0.0
    catalog = Catalog(np.arange(20), BANDS, flux, ivar, zred)
    infer_catalog(estimator, catalog, tmp_path / "scored.h5", n_samples=80, rows_per_block=6)
    with read_posteriors(tmp_path / "scored.h5") as posteriors:
        score, flags = posteriors.score, posteriors.flags
        assert posteriors.provenance["outlier_limits"] == ""
        assert "score" in posteriors.summary().colnames
    assert np.isnan(score[4])
    assert flags[4] == ""
    assert score[3] <= FALSE_ALARM_RATE
    assert "too blue in u-g" in flags[3]
    infer_catalog(estimator, catalog, tmp_path / "other.h5", n_samples=80, rows_per_block=20, n_threads=1)
    with h5py.File(tmp_path / "other.h5") as file:
        np.testing.assert_array_equal(file["score"][:], score)
    infer_catalog(plain, catalog, tmp_path / "plain.h5", n_samples=20)
    with read_posteriors(tmp_path / "plain.h5") as posteriors:
        assert np.isnan(posteriors.score).all()
        assert "trained without one" in posteriors.provenance["outlier_limits"]


def test_another_emulator_than_that_of_the_training_is_refused():
    bundled = PosteriorEstimator.default()
    assert training_simulator(bundled).bands == bundled.bands
    made_with = bundled.card["provenance"] | {"emulator": {"sha256": "0" * 64}}
    moved = replace(bundled, card=bundled.card | {"provenance": made_with})
    with pytest.raises(ArtifactError, match="trained with an emulator of sha256 000000000000…, but 'bundled' is one of"):
        training_simulator(moved)
    assert "put the former back" in OutlierScorer(moved).limits


def test_a_catalogue_s_runs_of_rows_warn_once_that_the_emulator_is_not_there(tmp_path, caplog):
    bundled = PosteriorEstimator.default()
    made_with = bundled.card["provenance"] | {"emulator": {"sha256": "0" * 64}}
    moved = replace(bundled, card=bundled.card | {"provenance": made_with})
    catalog = load_sdss_sample().subset(slice(6))
    mags = dict(zip(BANDS, (18.95, 17.67, 16.94, 16.53, 16.26), strict=True))
    for call in (
        lambda: infer_file(moved, catalog, None, tmp_path / "s.fits", n_samples=5, rows_per_segment=2),
        lambda: infer_catalog(moved, catalog, tmp_path / "s.h5", n_samples=5),
        lambda: fit_galaxy(mags, errors=0.03, zred=0.09, model=moved, n_samples=50),
    ):
        caplog.clear()
        call()
        said = [record.getMessage() for record in caplog.records if "by photometry alone" in record.getMessage()]
        assert len(said) == 1
        assert "put the former back" in said[0]


def test_a_posterior_of_a_model_of_one_s_own_has_no_emulator():
    bundled = PosteriorEstimator.default()
    card = bundled.card | {
        "provenance": {name: value for name, value in bundled.card["provenance"].items() if name != "emulator"}
    }
    with pytest.raises(ArtifactError, match="trained in Python, names no emulator"):
        training_simulator(replace(bundled, card=card))


def test_scores_do_not_depend_on_the_rows_beside() -> None:
    estimator, galaxies = PosteriorEstimator.default(), load_sdss_sample().subset(slice(15))
    scorer, keys = OutlierScorer(estimator), np.arange(15)

    def scores(rows: slice) -> np.ndarray:
        observed = galaxies.flux[rows], galaxies.flux_ivar[rows], galaxies.zred[rows]
        return scorer(*observed, None, seed=1, row_keys=keys[rows]).score

    apart = [scores(slice(start, start + 4)) for start in range(0, 15, 4)]
    np.testing.assert_array_equal(np.concatenate(apart), scores(slice(15)))
