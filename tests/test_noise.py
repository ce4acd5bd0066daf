import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from standin import deep_catalog

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.asinh import POGSON, asinh_magnitude_error, softening_nanomaggies
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import ArtifactError, CatalogError, ParameterError
from sedcast.data.noise import NoiseModel
from sedcast.data.noise_tables import SCATTER_FLOOR

FLUX_MIN, FLUX_MAX = 0.5, 200.0
SIGMA_1 = 0.25


@pytest.fixture(scope="module")
def toy() -> NoiseModel:
    """One band whose errors rise steeply with flux: the case in which errors tell most about the truth."""
    rng = np.random.default_rng(1)
    flux = np.exp(rng.uniform(np.log(FLUX_MIN), np.log(FLUX_MAX), 8_000))
    sigma = SIGMA_1 * flux**0.8 * np.exp(0.2 * rng.standard_normal(len(flux)))
    return NoiseModel.from_catalog(Catalog(np.arange(8_000), ("r",), flux[:, None], sigma[:, None] ** -2, np.full(8_000, 0.1)))


@pytest.fixture(scope="module")
def toy_draws(toy: NoiseModel) -> tuple[np.ndarray, ...]:
    """True fluxes, uniform in their logarithm; observed fluxes, errors, and which are accepted; (n,) each."""
    rng = np.random.default_rng(2)
    flux = np.exp(rng.uniform(np.log(FLUX_MIN), np.log(FLUX_MAX), 2_000_000))
    flux_obs, sigma, log_weight = (part.reshape(len(flux)) for part in toy.draw(flux[:, None], rng))
    return flux, flux_obs, sigma, toy.accept(log_weight, rng)


@pytest.fixture(scope="module")
def sdss() -> NoiseModel:
    return NoiseModel.sdss()


def posterior_cdf(flux: np.ndarray, flux_obs: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """P(f' < f | f_obs, sigma) for a prior uniform in ln f and a Gaussian likelihood, by quadrature."""
    ln_flux = np.linspace(np.log(FLUX_MIN), np.log(FLUX_MAX), 1_501)
    ln_like = -0.5 * ((flux_obs[:, None] - np.exp(ln_flux)) / sigma[:, None]) ** 2
    like = np.exp(ln_like - ln_like.max(axis=1, keepdims=True))
    cdf = np.cumsum(like, axis=1) - 0.5 * like
    cdf /= cdf[:, -1:]
    return np.array([np.interp(np.log(f), ln_flux, row) for f, row in zip(flux, cdf, strict=True)])


@pytest.mark.parametrize(("low", "high"), [(1.5, 2.0), (9.0, 11.0), (30.0, 40.0)])
def test_accepted_draws_follow_prior_times_likelihood_only(toy_draws: tuple[np.ndarray, ...], low: float, high: float) -> None:
    flux, flux_obs, sigma, kept = toy_draws

    def p_value(flux_obs: np.ndarray, sigma: np.ndarray, n: int, kept: np.ndarray | bool = True) -> float:
        rows = np.flatnonzero((flux_obs > low) & (flux_obs < high) & kept)[:n]
        assert len(rows) == n
        return float(stats.kstest(posterior_cdf(flux[rows], flux_obs[rows], sigma[rows]), "uniform").pvalue)

    assert p_value(flux_obs, sigma, 4_000, kept) > 0.01
    # Errors drawn at the true flux are another target: the point of the weights.
    rng = np.random.default_rng(3)
    sigma_naive = SIGMA_1 * flux**0.8 * np.exp(0.2 * rng.standard_normal(len(flux)))
    assert p_value(flux + sigma_naive * rng.standard_normal(len(flux)), sigma_naive, 10_000) < 1e-6


def test_five_bands_with_the_cut_on_observed_values(sdss: NoiseModel) -> None:
    # One colour, unknown brightness a, prior uniform in ln a and wider than the catalogue: the posterior of a is one integral.
    rng = np.random.default_rng(7)
    shape = np.median(load_sdss_sample().flux, axis=0)
    ln_a = rng.uniform(-6.0, 6.0, 60_000)
    flux_obs, sigma, log_weight = sdss.draw(np.exp(ln_a)[:, None] * shape, rng)
    rows = np.flatnonzero(sdss.accept(log_weight, rng) & sdss.in_range(flux_obs, sigma))[:4_000]
    assert len(rows) == 4_000
    flux_obs, sigma, ln_a = flux_obs[rows], sigma[rows], ln_a[rows]
    # -0.5 chi² = a B - a² A / 2 up to a constant; the posterior is narrow, so the grid follows it
    precision, cross = ((shape / sigma) ** 2).sum(axis=1), (shape * flux_obs / sigma**2).sum(axis=1)
    best, width = cross / precision, precision**-0.5
    grid = np.log(np.maximum(best[:, None] + width[:, None] * np.linspace(-8, 8, 2_001), np.exp(-6.0)))
    like = np.exp(-0.5 * ((np.exp(grid) - best[:, None]) / width[:, None]) ** 2)
    steps = 0.5 * (like[:, 1:] + like[:, :-1]) * np.diff(grid, axis=1)
    cdf = np.cumsum(steps, axis=1) / steps.sum(axis=1, keepdims=True)
    uniform = [np.interp(truth, edges[1:], row) for truth, edges, row in zip(ln_a, grid, cdf, strict=True)]
    assert stats.kstest(uniform, "uniform").pvalue > 0.01


def test_errors_of_accepted_draws_follow_the_density_at_the_observed_flux(toy_draws: tuple[np.ndarray, ...]) -> None:
    _, flux_obs, sigma, kept = toy_draws
    # Far from the prior's edges p(f_obs | sigma) varies slowly with sigma, and ln sigma at fixed f_obs is the model's Gaussian
    # times p(f_obs | sigma) = ∫ N(f_obs | f, sigma²) dlnf.
    rows = kept & (np.abs(flux_obs - 10) < 0.2)
    ln_sigma = np.linspace(-1, 3.5, 400)
    truth = np.exp(np.linspace(np.log(FLUX_MIN), np.log(FLUX_MAX), 2_000))
    evidence = stats.norm.pdf(10.0, truth[:, None], np.exp(ln_sigma)).mean(axis=0)
    median = np.log(SIGMA_1 * 10**0.8)
    density = stats.norm.pdf(ln_sigma, median, 0.2) * evidence
    cdf = np.cumsum(density) / density.sum()
    mean = float((ln_sigma * density).sum() / density.sum())
    found = np.log(sigma[rows])
    assert found.mean() == pytest.approx(mean, abs=0.03)
    assert np.median(found) == pytest.approx(float(np.interp(0.5, cdf, ln_sigma)), abs=0.03)


def test_density_reproduces_the_catalogue(sdss: NoiseModel) -> None:
    catalog = load_sdss_sample()
    usual = [sdss._interpolate(b, catalog.flux[:, b], sdss.median, sdss.scatter) for b in range(5)]
    median, scatter = np.moveaxis(usual, 0, 2)
    deviate = (np.log(catalog.sigma) - median) / scatter
    assert np.abs(np.median(deviate, axis=0)).max() < 0.05
    assert (sdss.scatter >= SCATTER_FLOOR).all()
    # the floor only widens
    assert (np.std(deviate, axis=0) < 1.6).all()


def test_limits_beyond_the_catalogue(sdss: NoiseModel) -> None:
    bright = np.full((1, 5), 1e5)
    # kcorrect's floors, in magnitudes, dominate bright galaxies
    sigma = np.exp([sdss._interpolate(b, bright[:, b], sdss.median)[0][0] for b in range(5)])
    error = asinh_magnitude_error(bright[0], sigma, softening_nanomaggies(sdss.bands))
    np.testing.assert_allclose(error, [0.055, 0.0205, 0.0205, 0.0205, 0.031], rtol=0.1)
    assert error == pytest.approx(POGSON * sigma / 1e5)
    # the sky dominates faint ones
    faint = np.exp([sdss._interpolate(b, np.array([0.01, -5.0]), sdss.median)[0] for b in range(5)])
    np.testing.assert_allclose(faint[:, 0], faint[:, 1], rtol=0.05)


def test_most_of_the_catalogue_is_in_range(sdss: NoiseModel) -> None:
    catalog = load_sdss_sample()
    inside = sdss.in_range(catalog.flux, catalog.sigma)
    assert inside.mean() > 0.985
    assert not sdss.in_range(catalog.flux * 1e4, catalog.sigma).any()
    assert not sdss.in_range(catalog.flux, catalog.sigma * 1e3).any()


@pytest.mark.parametrize("bands", [("u", "g", "r", "i", "z"), ("FUV", "NUV", "u", "g", "r", "i", "z")])
def test_nearly_every_draw_is_accepted_and_the_cap_rarely_touches(bands: tuple[str, ...]) -> None:
    model = NoiseModel.sdss(bands)
    rng = np.random.default_rng(4)
    catalog = load_sdss_sample(bands=bands)
    flux = catalog.flux[(catalog.flux_ivar > 0).all(axis=1)]
    assert model.accept(model.draw(flux, rng)[2], rng).mean() > 0.7
    for b, band in enumerate(bands):
        log_weight = model._propose(b, rng.choice(flux[:, b], 100_000), *rng.standard_normal((2, 100_000)))[2]
        assert np.mean(log_weight > model.log_cap[b]) < 5e-4, band


def test_norm_is_the_integral_over_observed_flux_and_error(sdss: NoiseModel) -> None:
    # Z(f) = ∫∫ N(f_obs | f, sigma²) s(ln sigma | f_obs) dlnsigma df_obs, here by quadrature in the u band, which is the widest.
    for true in (2.0, 10.0, 60.0):
        found = float(np.exp(sdss._interpolate(0, np.array([true]), sdss.log_norm)[0][0]))
        typical = float(sdss._interpolate(0, np.array([true]), sdss.median)[0][0])
        ln_sigma = np.linspace(typical - 2.5, typical + 2.5, 1_201)
        flux_obs = true + 12 * np.exp(typical) * np.linspace(-1, 1, 2_401)
        median, scatter = sdss._interpolate(0, flux_obs, sdss.median, sdss.scatter)
        integrand = stats.norm.pdf(flux_obs, true, np.exp(ln_sigma)[:, None]) * stats.norm.pdf(
            ln_sigma[:, None], median, scatter
        )
        exact = np.trapezoid(np.trapezoid(integrand, flux_obs, axis=1), ln_sigma)
        assert found == pytest.approx(exact, rel=2e-3)


def test_reach_loses_nothing(sdss: NoiseModel) -> None:
    brightest, faintest = sdss.reach()
    rng = np.random.default_rng(9)
    flux = np.median(load_sdss_sample().flux, axis=0) * np.exp(rng.uniform(-5, 5, (100_000, 1)))
    flux_obs, sigma, _ = sdss.draw(flux, rng)
    magnitude = 22.5 - 2.5 * np.log10(flux)
    within = ((magnitude > brightest) & (magnitude < faintest)).all(axis=1)
    assert not (sdss.in_range(flux_obs, sigma) & ~within).any()
    assert within.mean() < 0.7


def test_draw_repeats_with_its_seed(sdss: NoiseModel) -> None:
    flux = load_sdss_sample().flux
    first, again = (sdss.draw(flux, np.random.default_rng(5)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_zero_and_negative_fluxes_are_finite(sdss: NoiseModel) -> None:
    for value in sdss.draw(np.array([[0.0] * 5, [-3.0] * 5, [1e-8] * 5, [1e9] * 5]), np.random.default_rng(6)):
        assert np.isfinite(value).all()


def test_bands_and_files(tmp_path: Path) -> None:
    model = NoiseModel.sdss(("NUV", "r"))
    assert model.bands == ("NUV", "r")
    model.save(tmp_path / "noise.npz")
    again = NoiseModel.load(tmp_path / "noise.npz")
    np.testing.assert_array_equal(again.median, model.median)
    np.testing.assert_array_equal(again.log_norm, model.log_norm)
    assert (again.bands, again.provenance) == (model.bands, model.provenance)
    with pytest.raises(ParameterError, match="Ks"):
        model.select(("Ks",))
    with pytest.raises(ParameterError, match=r"expected \(n, 2\)"):
        model.draw(np.ones((3, 5)), np.random.default_rng(0))
    with pytest.raises(ArtifactError, match="no artifact"):
        NoiseModel.load(tmp_path / "absent.npz")


def test_a_small_catalogue_is_refused() -> None:
    with pytest.raises(CatalogError, match="50 measurements"):
        NoiseModel.from_catalog(load_sdss_sample().subset(slice(0, 50)))


def test_missing_measurements_are_left_out() -> None:
    catalog = load_sdss_sample(bands=("u", "g"))
    ivar = catalog.flux_ivar.copy()
    ivar[::3, 0] = 0.0
    holed = NoiseModel.from_catalog(Catalog(catalog.ids, catalog.bands, catalog.flux, ivar, catalog.zred))
    full = NoiseModel.from_catalog(catalog)
    assert holed.magnitude_range[0] == pytest.approx(full.magnitude_range[0], abs=0.5)
    (found,), (expected,) = (model._interpolate(0, catalog.flux[:, 0], model.median) for model in (holed, full))
    assert 0 < np.abs(found - expected).mean() < 0.02
    np.testing.assert_array_equal(holed.median[1], full.median[1])


def test_the_bundled_model_is_that_of_the_bundled_sample():
    sample = load_sdss_sample(bands=("FUV", "NUV", "u", "g", "r", "i", "z"))
    made, bundled = NoiseModel.from_catalog(sample), NoiseModel.sdss(sample.bands)
    for name in ("softening", "median", "scatter", "magnitude_range", "ln_sigma_range", "log_cap", "log_norm"):
        np.testing.assert_allclose(getattr(made, name), getattr(bundled, name), rtol=1e-6, atol=1e-9)
    assert made.draw(sample.flux, np.random.default_rng(0))[2].max() <= 0


LSST = ("r", "lsst2023-r", "lsst2023-i")


@pytest.mark.parametrize("depth", [26.5, 31.0])
def test_a_deep_survey_has_a_softening_of_its_own(depth: float) -> None:
    """By which faint fluxes are told apart, and errors are those of the catalogue down to the faintest."""
    depths = np.array([22.5, depth, depth])
    catalog, true = deep_catalog(depths, LSST, 60_000, seed=1)
    model = NoiseModel.from_catalog(catalog)
    sky = 10 ** (-0.4 * (depths - 22.5)) / 5
    assert model.softening[0] == softening_nanomaggies("r")
    # At the limit of detection, errors are 5% larger than the sky's.
    np.testing.assert_allclose(model.softening[1:] / sky[1:], 1.042 * 1.05, rtol=0.03)
    rng = np.random.default_rng(2)
    flux, sigma, log_weight = model.draw(true, rng)
    kept = model.accept(log_weight, rng) & model.in_range(flux, sigma)
    edges = np.array([1, 2, 3, 5, 10, 30]) * sky[1]
    for low, high in itertools.pairwise(edges):
        drawn, real = (
            np.median(errors[(values > low) & (values < high)])
            for errors, values in ((sigma[kept, 1], flux[kept, 1]), (catalog.sigma[:, 1], catalog.flux[:, 1]))
        )
        assert drawn == pytest.approx(real, rel=0.03)
    # Neither its range of magnitudes nor the grid ends before the faintest fluxes.
    faint = np.median(catalog.flux[:, 1]) > flux[:, 1]
    assert 0.9 < model.in_range(flux[faint], sigma[faint]).mean() < 1


def test_softenings_are_kept_and_may_be_given(tmp_path: Path) -> None:
    catalog, _ = deep_catalog(np.array([22.5, 31.0, 26.5]), LSST, 5_000, seed=3)
    model = NoiseModel.from_catalog(catalog)
    path = tmp_path / "noise.npz"
    model.save(path)
    again = NoiseModel.load(path)
    true = catalog.flux[:300]
    for one, two in zip(again.draw(true, np.random.default_rng(0)), model.draw(true, np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(model.select(LSST[:0:-1]).softening, model.softening[:0:-1])
    given = NoiseModel.from_catalog(catalog, softening={"lsst2023-r": 0.004})
    np.testing.assert_array_equal(given.softening, [model.softening[0], 0.004, model.softening[2]])
    for wrong, said in (
        ({"r": 0.1}, "r has a fixed one"),
        ({"lsst2023-y": 0.1}, "lsst2023-y is not in the catalogue"),
        ({"lsst2023-r": 0.0}, "must be finite and positive"),
    ):
        with pytest.raises(ParameterError, match=said):
            NoiseModel.from_catalog(catalog, softening=wrong)
    arrays, card = load_artifact(path, "noise-model")
    save_artifact(path, "noise-model", arrays | {"softening": np.array([0.1, -0.1, 0.1])}, card, overwrite=True)
    with pytest.raises(ArtifactError, match="softening of lsst2023-r must be finite and positive"):
        NoiseModel.load(path)


def test_a_deep_catalogue_in_a_band_of_sdss_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    NoiseModel.from_catalog(load_sdss_sample())
    assert not caplog.records
    catalog, _ = deep_catalog(np.array([27.5, 27.5]), ("lsst2023-r", "r"), 2_000, seed=5)
    assert NoiseModel.from_catalog(catalog).softening[1] == softening_nanomaggies("r")
    (record,) = caplog.records
    assert "band r: faint errors are 53 times smaller than the fixed softening" in record.getMessage()


def test_an_artifact_without_softenings_has_the_usual_ones(tmp_path: Path, sdss: NoiseModel) -> None:
    path = tmp_path / "noise.npz"
    replace(sdss, bands=("u", "g", "mine", "i", "z")).save(path)
    arrays, card = load_artifact(path, "noise-model")
    older = {name: array for name, array in arrays.items() if name != "softening"}
    save_artifact(path, "noise-model", older, card, overwrite=True)
    np.testing.assert_array_equal(NoiseModel.load(path).softening, softening_nanomaggies(("u", "g", "mine", "i", "z")))


DEPTHS = {"lsst2023-g": 27.4, "lsst2023-i": 26.8, "mine": 24.9}


@pytest.fixture(scope="module")
def stated() -> NoiseModel:
    return NoiseModel.from_depths(DEPTHS, floor=0.03, detected=["lsst2023-i"])


@pytest.mark.parametrize("above", [-3.0, 0.0, 2.0, 8.0])
def test_errors_of_stated_depths_are_those_of_sky_and_floor(stated: NoiseModel, above: float) -> None:
    # Where photons of the source and scatter are left out: 0.2 of the flux at the depth, the floor far above it.
    flux = 10 ** (0.4 * (22.5 - np.array(list(DEPTHS.values())) + above)) * np.ones((20_000, 1))
    rng = np.random.default_rng(1)
    observed, sigma, log_weight = stated.draw(flux, rng)
    kept = stated.accept(log_weight, rng)
    expected = np.hypot(0.2 * 10 ** (-0.4 * above), 0.03 * np.log(10) / 2.5)
    np.testing.assert_allclose(np.median(sigma[kept] / flux[kept], axis=0), expected, rtol=0.02)
    np.testing.assert_allclose(((observed - flux) / sigma)[kept].std(axis=0), 1, atol=0.02)
    assert kept.mean() > 0.99


def test_galaxies_are_above_the_depth_where_they_are_detected_and_anything_elsewhere(stated: NoiseModel) -> None:
    depth = 10 ** (0.4 * (22.5 - np.array(list(DEPTHS.values()))))
    sigma = np.tile(depth / 5, (4, 1))
    flux = depth * np.array([[1.0, 1.01, 1.0], [-0.9, 1.01, -0.9], [1.0, 0.99, 1.0], [-1.1, 1.01, 1.0]])
    assert stated.in_range(flux, sigma).tolist() == [True, True, False, False]
    # Errors two times those stated are usual, fluxes 12 mag above the depth and errors ten times smaller are not.
    assert stated.in_range(flux[:1], 2 * sigma[:1]).all()
    assert not stated.in_range(flux[:1], 0.1 * sigma[:1]).any()
    assert not stated.in_range(flux[:1] * 7e4, sigma[:1]).any()
    assert np.isinf(stated.reach()[1]).all()


def test_no_galaxy_of_stated_depths_is_brighter_than_the_tables() -> None:
    # Beyond them the error would stay that of 5 mag, below the floor.
    shallow = NoiseModel.from_depths({"mine": 15.0}, floor=0.03)
    flux = 10 ** (0.4 * (22.5 - np.array([[4.99], [5.01]])))
    assert shallow.in_range(flux, 0.03 * flux).tolist() == [False, True]


def test_a_model_of_depths_is_an_artifact_like_another(stated: NoiseModel, tmp_path: Path) -> None:
    stated.save(tmp_path / "noise.npz")
    again = NoiseModel.load(tmp_path / "noise.npz")
    flux = np.full((300, 3), 0.1)
    for one, two in zip(again.draw(flux, np.random.default_rng(0)), stated.draw(flux, np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(one, two)
    assert "'lsst2023-g': 27.4" in again.provenance
    # The softening is Lupton's, as of a catalogue that is as deep.
    np.testing.assert_allclose(again.softening, 1.042 * 10 ** (0.4 * (22.5 - np.array(list(DEPTHS.values())))) / 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depths": {}}, "depths is empty"),
        ({"depths": {"g": 0.01}}, "depths of g must be an AB magnitude of 10 to 40, got 0.01"),
        ({"depths": {"g": np.nan}}, "depths of g must be"),
        ({"depths": {"g": [27.0, 26.0]}}, r"depths\['g'\] has shape \(2,\), expected one number"),
        ({"depths": {"g": 27.0}, "floor": [0.01, 0.02]}, r"floor has shape \(2,\), expected one number"),
        ({"depths": {"g": 27.0}, "floor": -0.1}, "floor must be 0 to below 1 mag, got -0.1"),
        ({"depths": {"g": 27.0}, "detected": ["r"]}, "detected: r has no depth, which g have"),
    ],
)
def test_depths_that_are_none_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        NoiseModel.from_depths(**arguments)


def test_an_own_softening_is_of_the_errors_of_the_faintest_tenth() -> None:
    flux = np.random.default_rng(4).permutation(np.linspace(1.0, 1000.0, 1000))
    sigma = np.where(flux <= 100, 1.0, 3.0)
    catalog = Catalog(np.arange(1000), ("mine",), flux[:, None], sigma[:, None] ** -2, np.full(1000, 0.1))
    assert NoiseModel.from_catalog(catalog).softening == pytest.approx(1.042)


def test_a_draw_is_kept_with_the_product_of_its_bands_chances(sdss: NoiseModel) -> None:
    rng = np.random.default_rng(7)
    flux = 10 ** rng.uniform(-1.0, 4.0, (4000, len(sdss.bands)))
    log_weight = sdss.draw(flux, rng)[2]
    assert log_weight.max() <= 1e-12
    # A band that is not measured has no part in it.
    measured = rng.random(flux.shape) < 0.5
    alone = [sdss.select((band,)).draw(flux[:, [b]], rng)[2] for b, band in enumerate(sdss.bands)]
    np.testing.assert_allclose(log_weight, np.sum(alone, axis=0), atol=1e-12)
    np.testing.assert_allclose(sdss.draw(flux, rng, measured=measured)[2], np.sum(measured.T * alone, axis=0), atol=1e-12)
    # Some flux of each band is always kept.
    grid = 10 ** np.linspace(-3.0, 6.0, 20_000)[:, None]
    for band in sdss.bands:
        assert sdss.select((band,)).draw(grid, rng)[2].max() == pytest.approx(0.0, abs=1e-3)
