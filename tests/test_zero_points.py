"""A zero point that is off is found, in the right band and of the right size."""

import logging
from typing import Any

import numpy as np
import pytest

from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import CatalogError, ParameterError
from sedcast.posterior import (
    PosteriorEstimator,
    ZeroPointOffsets,
    infer_catalog,
    training_simulator,
    zero_point_offsets,
    zero_points,
)
from sedcast.posterior.outlier_training import draw_like_training
from sedcast.posterior.resampling import PosteriorDraws
from sedcast.posterior.streaming import infer_file
from sedcast.posterior.zero_points import _step, warn_of_offsets

_LN_FLUX_PER_MAG = 0.4 * np.log(10)


@pytest.fixture(scope="module")
def estimator() -> PosteriorEstimator:
    return PosteriorEstimator.default()


@pytest.fixture(scope="module")
def simulator(estimator):
    return training_simulator(estimator)


@pytest.fixture(scope="module")
def mocks(estimator, simulator) -> Catalog:
    drawn = draw_like_training(estimator, simulator, 300, seed=31)
    return Catalog(np.arange(300), estimator.bands, drawn.flux, drawn.flux_ivar, drawn.zred)


def off(catalog: Catalog, band: str, offset: float) -> Catalog:
    """The catalogue with a band brighter by `offset` magnitudes."""
    factor = np.where(np.array(catalog.bands) == band, 10 ** (0.4 * offset), 1.0)
    return Catalog(catalog.ids, catalog.bands, catalog.flux * factor, catalog.flux_ivar / factor**2, catalog.zred)


def test_zero_points_of_mocks_are_right(estimator, simulator, mocks, caplog):
    found = zero_point_offsets(estimator, simulator, mocks)
    assert (np.abs(found.offset) < 4 * found.error).all()
    assert (found.error < 0.02).all()
    assert (found.gain < 0.05).all()
    warn_of_offsets(found)
    assert not caplog.records


@pytest.mark.parametrize(("band", "offset"), [("g", -0.1), ("r", 0.1), ("i", 0.1), ("i", -0.1), ("z", 0.1)])
def test_a_planted_offset_is_found_in_its_band(estimator, simulator, mocks, caplog, band, offset):
    found = zero_point_offsets(estimator, simulator, off(mocks, band, offset))
    b = mocks.bands.index(band)
    assert found.worst == b
    assert found.offset[b] == pytest.approx(offset, abs=0.035)
    warn_of_offsets(found)
    assert f"fluxes of {band} are {'brighter' if offset > 0 else 'fainter'}" in caplog.text


def test_the_step_is_that_of_the_evidence_itself(estimator, simulator, mocks):
    """Evidence with the fluxes moved a little to either side, by fresh draws, has the slope and curvature of the step."""
    catalog, band, step = off(mocks, "i", 0.03), mocks.bands.index("i"), 0.02

    def log_evidence(offset: float) -> np.ndarray:
        moved = off(catalog, "i", -offset)
        drawn = estimator.draw(moved.flux, moved.flux_ivar, moved.zred, 300, seed=3)
        return drawn.log_evidence - _LN_FLUX_PER_MAG * offset

    low, middle, high = (log_evidence(offset) for offset in (-step, 0.0, step))
    slope, curvature = np.sum(high - low) / (2 * step), -np.sum(high - 2 * middle + low) / step**2
    found = zero_point_offsets(estimator, simulator, catalog)
    assert found.offset[band] == pytest.approx(slope / curvature, rel=0.1)
    assert found.gain[band] == pytest.approx(0.5 * slope**2 / curvature / len(catalog), rel=0.1)


def test_galaxies_that_nothing_fits_do_not_decide(estimator, simulator, mocks):
    flux = mocks.flux.copy()
    flux[::20, mocks.bands.index("r")] *= 10
    spoilt = Catalog(mocks.ids, mocks.bands, flux, mocks.flux_ivar, mocks.zred)
    found = zero_point_offsets(estimator, simulator, spoilt)
    assert (found.gain < 0.1).all()
    assert abs(found.offset[mocks.bands.index("r")]) < 0.02


@pytest.mark.parametrize(("band", "offset"), [("g", -0.5), ("u", -1.0), ("z", 0.5)])
def test_of_an_offset_that_is_too_large_to_be_measured_no_figure_is_given(estimator, simulator, mocks, caplog, band, offset):
    """Newton's steps would put g - 0.5 down to u, by 3 mag, and z + 0.5 to r, by 2 mag."""
    found = zero_point_offsets(estimator, simulator, off(mocks, band, offset))
    assert found.far
    assert not set(found.far) & set(found.to_json_dict())
    warn_of_offsets(found)
    assert len(caplog.records) == 1
    assert "by some tenths of a magnitude or more in one of" in caplog.text
    assert band in caplog.text.partition("in one of ")[2].partition(" at least")[0].split(", ")


def test_a_neighbour_that_follows_is_not_far(caplog):
    offset, error = np.array([np.nan, 0.15]), np.array([np.nan, 0.01])
    follows = ZeroPointOffsets(("u", "i"), offset, error, np.array([2.0, 10.0]), 300)
    assert follows.far == ()
    assert follows.suspects == ("i",)
    warn_of_offsets(follows)
    assert "fluxes of i are brighter" in caplog.text
    assert ZeroPointOffsets(("u", "i"), offset, error, np.array([3.0, 10.0]), 300).far == ("u",)


def test_samples_that_are_not_weighed_say_nothing(estimator, simulator, mocks, monkeypatch):
    """Of a flow that learns all parameters, errors of its own would pass for offsets."""
    draw = PosteriorEstimator.draw

    def unweighed(*args: Any, **kwargs: Any) -> PosteriorDraws:
        return draw(*args, **kwargs)._replace(log_evidence=np.full(len(mocks), np.nan))

    monkeypatch.setattr(PosteriorEstimator, "draw", unweighed)
    found = zero_point_offsets(estimator, simulator, off(mocks, "i", 0.1))
    assert found.worst is None
    assert found.far == ()


def test_the_step_beyond_half_a_magnitude_is_not_taken():
    slope = np.full(60, 4.0)
    assert zero_points._step(slope, np.full(60, 10.0)) == pytest.approx((0.4, 0.0, 0.8))
    for curvature in (7.9, 0.0, -10.0):
        step, error, gain = zero_points._step(slope, np.full(60, curvature))
        assert np.isnan([step, error]).all()
        assert gain == pytest.approx(1.0)


def test_the_warning_has_the_sign_of_a_mapping(caplog):
    offsets = ZeroPointOffsets(("g", "r"), np.array([-0.1234, 0.05]), np.array([0.0031, 0.01]), np.array([0.9, 0.2]), 300)
    warn_of_offsets(offsets)
    assert "g are fainter" in caplog.text
    assert "0.123 ± 0.003 mag" in caplog.text
    assert "-0.123 in its ab_offset" in caplog.text


def test_galaxies_with_samples_of_two_minds_do_not_decide(estimator, simulator):
    """Of the 262 nearby blue ones some have curvatures in u a hundred times the usual one, below zero."""
    sample = load_sdss_sample()
    blue = sample.flux[:, 3] < 10 ** (0.4 * 1.1) * sample.flux[:, 1]
    found = zero_point_offsets(estimator, simulator, sample.subset(blue & (sample.zred < 0.03)))
    assert found.offset[0] == pytest.approx(0.13, abs=0.04)
    assert found.error[0] < 0.03
    assert found.gain[0] < 1


def test_too_few_galaxies_say_nothing(estimator, simulator, mocks, caplog):
    few = off(mocks, "i", 0.2).subset(slice(0, 49))
    found = zero_point_offsets(estimator, simulator, few)
    assert np.isnan(found.offset).all()
    assert found.worst is None
    assert found.to_json_dict() == {}
    warn_of_offsets(found)
    assert not caplog.records
    none = Catalog(mocks.ids, mocks.bands, mocks.flux, mocks.flux_ivar, mocks.zred + 5)
    assert zero_point_offsets(estimator, simulator, none).n_galaxies == 0


def test_bands_that_are_not_measured_are_left_out():
    estimator = PosteriorEstimator.find("galex-sdss")
    sample = load_sdss_sample(bands=("u", "g", "r", "i", "z")).subset(slice(0, 300))
    found = zero_point_offsets(estimator, training_simulator(estimator), off(sample, "i", 0.15))
    assert list(found.to_json_dict()) == ["u", "g", "r", "i", "z"]
    assert found.bands[found.worst] == "i"


def test_inference_warns_and_tells(estimator, tmp_path, caplog):
    catalog = off(load_sdss_sample().subset(slice(0, 60)), "i", 0.15)
    with caplog.at_level(logging.WARNING):
        figures = infer_catalog(estimator, catalog, tmp_path / "a.h5", n_samples=10)
    assert "fluxes of i are brighter" in caplog.text
    assert figures["zero_points"]["i"]["offset_mag"] == pytest.approx(0.15, abs=0.03)
    caplog.clear()
    streamed = infer_file(estimator, catalog, None, tmp_path / "a.fits", n_samples=10, rows_per_segment=20)
    assert streamed["zero_points"] == figures["zero_points"]
    assert caplog.text.count("fluxes of i are brighter") == 1


def test_wrong_arguments_are_named(estimator, simulator, mocks):
    with pytest.raises(ParameterError, match="estimator is a"):
        zero_point_offsets(None, simulator, mocks)
    with pytest.raises(ParameterError, match="simulator is a"):
        zero_point_offsets(estimator, None, mocks)
    with pytest.raises(ParameterError, match="catalog is a"):
        zero_point_offsets(estimator, simulator, mocks.flux)
    with pytest.raises(CatalogError, match=r"bands z are not in this catalogue.*upper or lower case"):
        zero_point_offsets(estimator, simulator, mocks.select(("u", "g", "r", "i")))
    with pytest.raises(ParameterError, match="seed"):
        zero_point_offsets(estimator, simulator, mocks, seed=0.5)


def test_the_step_is_newtons_and_its_error_the_scatter_of_the_galaxies():
    # Of 60 galaxies with the evidence -c (o - o_i)² / 2, the best offset is the mean of the o_i by their c.
    rng = np.random.default_rng(3)
    curvature, own = rng.uniform(50.0, 150.0, 60), 0.1 + 0.02 * rng.standard_normal(60)
    offset, error, gain = _step(curvature * own, curvature)
    best = np.average(own, weights=curvature)
    assert offset == pytest.approx(best, rel=1e-12)
    # The error of a mean with these weights.
    weight = curvature / curvature.sum()
    assert error == pytest.approx(np.sqrt((weight**2 * (own - best) ** 2).sum()), rel=1e-12)
    evidence = -0.5 * curvature * np.array([(best - own) ** 2, own**2])
    assert gain == pytest.approx((evidence[0] - evidence[1]).mean(), rel=1e-12)
    # Those of which nothing is known do not count, and fifty of the others are enough.
    unknown = np.append(curvature * own, np.full(9, np.nan)), np.append(curvature, np.ones(9))
    assert _step(*unknown) == pytest.approx((offset, error, gain))
    assert np.isfinite(_step((curvature * own)[:50], curvature[:50])).all()
    assert np.isnan(_step((curvature * own)[:49], curvature[:49])).all()
    assert np.isnan(_step(curvature * own, -curvature)[:2]).all()


def test_a_slope_beyond_three_standard_deviations_counts_as_those():
    slope = np.where(np.arange(99) % 2, 1.0, -1.0)
    slope[-1] = 1e6
    # The median |slope| is 1, that of a standard deviation of 1.4826.
    assert _step(slope, np.ones(99))[0] == pytest.approx(3 * 1.4826 / 99)


def test_galaxies_of_a_long_catalogue_are_taken_from_all_of_it(estimator, simulator, mocks):
    moved = off(mocks, "i", 0.16)
    parts = [np.concatenate([getattr(one, name) for one in (mocks, moved)]) for name in ("flux", "flux_ivar", "zred")]
    found = zero_point_offsets(estimator, simulator, Catalog(np.arange(600), mocks.bands, *parts))
    assert found.n_galaxies == 300
    # Every other row: half of them are off.
    assert found.offset[mocks.bands.index("i")] == pytest.approx(0.08, abs=0.035)
