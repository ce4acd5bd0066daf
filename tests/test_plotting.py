"""Each picture is a figure that holds what it says, in the axes where it says so."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import get_type_hints

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import image
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy.stats import binom

import sedcast
from sedcast.data.errors import ParameterError
from sedcast.data.filters import load_filter
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.simulation import PhotometrySimulator
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.plotting import corner_plot, mass_sfr_plane, save_figure, sed_plot
from sedcast.plotting_calibration import edge_plot, pp_plot, sbc_plot, tarp_plot
from sedcast.plotting_galex import galex_plot
from sedcast.plotting_paper import training_labels
from sedcast.plotting_training import training_plot
from sedcast.posterior.prior_edges import EdgeRanks
from sedcast.posterior.quantities import QUANTITY_LABELS
from sedcast.posterior.ranks import tarp
from sedcast.sampled_seds import SampledSeds, sampled_seds

NAMES = ("log_mstar", "log_sfr_1gyr", "t_mw_gyr")
BANDS = ("u", "g", "r")


def drawn(figure: Figure) -> Figure:
    """The figure after it has really been drawn, so that a bad label or layout fails here."""
    figure.canvas.draw()
    return figure


def points(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()]


def test_corner_shows_every_estimate(rng: np.random.Generator) -> None:
    flow, chain = rng.normal([11, 0, 6], [0.1, 0.3, 1], (2000, 3)), rng.normal([11, 0, 6], [0.1, 0.3, 1], (900, 3))
    figure = drawn(corner_plot({"flow": flow, "emcee": chain}, NAMES, truth=(11, 0, 6), title="galaxy 1"))
    assert len(figure.axes) == 9
    assert legend_texts(figure) == ["flow (2,000 samples)", "emcee (900 samples)", "truth"]
    assert "Gyr" in figure.axes[8].get_xlabel()
    low, high = figure.axes[8].get_xlim()
    assert low < np.quantile(flow[:, 2], 0.01) < np.quantile(flow[:, 2], 0.99) < high
    # Samples of different size stand on one scale: each curve encloses the same area.
    curves = [points(line)[1] for line in figure.axes[0].lines if len(points(line)[1]) > 2]
    assert len(curves) == 2
    assert curves[0].sum() == pytest.approx(curves[1].sum(), rel=0.02)


def test_corner_refuses_bad_samples(rng: np.random.Generator) -> None:
    samples = rng.normal(size=(50, 3))
    with pytest.raises(ParameterError, match=r"posteriors\['flow'\] has shape \(50, 2\)"):
        corner_plot({"flow": samples[:, :2]}, NAMES)
    samples[3, 1] = np.nan
    with pytest.raises(ParameterError, match="not finite"):
        corner_plot({"flow": samples}, NAMES)
    with pytest.raises(ParameterError, match="empty"):
        corner_plot({}, NAMES)
    with pytest.raises(ParameterError, match="2 labels for 3 names"):
        corner_plot({"flow": rng.normal(size=(50, 3))}, NAMES, labels=["a", "b"])


def test_corner_needs_as_many_samples_as_panels(rng: np.random.Generator) -> None:
    with pytest.raises(ParameterError, match=r"shape \(2, 3\), expected \(n_sample >= 3"):
        corner_plot({"flow": rng.normal(size=(2, 3))}, NAMES)


def test_labels_of_neighbouring_panels_are_apart(rng: np.random.Generator) -> None:
    for scale in (0.013, 0.1, 0.7, 1.0, 3.1, 40.0):
        figure = drawn(corner_plot({"flow": rng.uniform(0, scale, (500, 3))}, NAMES))
        for axis in (figure.axes[6].xaxis, figure.axes[7].xaxis, figure.axes[6].yaxis):
            low, high = axis.get_view_interval()
            share = (axis.get_majorticklocs() - low) / (high - low)
            assert len(share) >= 2
            assert 0.1 < share.min() < share.max() < 0.9


def test_names_are_no_formulas(rng: np.random.Generator) -> None:
    name = "a$b_{$c"
    figure = drawn(corner_plot({"flow": rng.normal(size=(50, 3))}, NAMES, title=name))
    assert figure.legends[0].get_title().get_text() == r"a\$b_{\$c"
    seds = predictions(rng)
    named = replace(seds, curves=(*seds.curves[:2], replace(seds.curves[2], name=name)))
    drawn(sed_plot(np.ones(3), np.ones(3), predicted=named, title=name))
    labels = training_labels(("hsc_g_v2", "hsc_r_v2", name))
    assert len(labels) == 6
    drawn(corner_plot({"mocks": rng.normal(size=(50, 6))}, labels, labels=labels))


def test_a_users_matplotlibrc_is_not_in_the_picture(rng: np.random.Generator, tmp_path: Path) -> None:
    seds, samples = predictions(rng), rng.normal(size=(50, 3))
    made = []
    for theirs in ({}, {"text.usetex": True, "font.size": 18, "figure.facecolor": "red", "savefig.transparent": True}):
        with mpl.rc_context(theirs):
            for number, figure in enumerate(
                (corner_plot({"flow": samples}, NAMES), sed_plot(*np.ones((2, 3)), predicted=seds))
            ):
                save_figure(figure, tmp_path / f"{number}.png", overwrite=True)
                made.append(image.imread(tmp_path / f"{number}.png"))
    np.testing.assert_array_equal(made[0], made[2])
    np.testing.assert_array_equal(made[1], made[3])


def test_every_picture_has_the_packages_own_style() -> None:
    for module in map(
        import_module, (f"sedcast.{info.name}" for info in iter_modules(sedcast.__path__) if "plotting" in info.name)
    ):
        for name in set(module.__all__) - {"own_style", "training_figure", "corner_of"}:
            function = getattr(module, name)
            if get_type_hints(function).get("return") is Figure:
                assert hasattr(function, "__wrapped__"), name


def predictions(rng: np.random.Generator) -> SampledSeds:
    wave = np.geomspace(2000, 12000, 200)
    scale = np.exp(0.1 * rng.standard_normal((100, 1)))
    curves = tuple(load_filter(band) for band in BANDS)
    return SampledSeds(scale * [5.0, 20, 40], wave, scale * wave / 150, curves)


def test_sed_marks_fluxes_below_zero(rng: np.random.Generator) -> None:
    seds = predictions(rng)
    figure = drawn(sed_plot(np.array([-1.0, 10.0, 40.0]), np.array([0.25, 1.0, 1.0]), predicted=seds))
    mark = next(line for line in figure.axes[0].lines if line.get_label() == r"observed flux < 0, at 2$\sigma$")
    np.testing.assert_allclose(mark.get_xydata(), [[seds.centre[0], 4.0]])
    low, high = figure.axes[0].get_ylim()
    assert low < 4.0 < high


def test_the_legend_of_an_sed_is_not_on_its_photometry(rng: np.random.Generator) -> None:
    seds = predictions(rng)
    for flux in (np.array([1.0, 10.0, 100.0]), np.array([100.0, 10.0, 1.0])):
        alike = replace(seds, flux=np.tile(flux, (len(seds.flux), 1)))
        figure = drawn(sed_plot(flux, np.full(3, 100.0), predicted=alike))
        axes = figure.axes[0]
        points = axes.transData.transform(np.column_stack([seds.centre, flux]))
        assert not any(axes.get_legend().get_window_extent().contains(*point) for point in points)


def test_sed_marks_observed_bands_at_their_wavelengths(rng: np.random.Generator) -> None:
    flux, ivar = np.array([5.0, 0.0, 40.0]), np.array([4.0, 0.0, 1.0])
    figure = drawn(sed_plot(flux, ivar, predicted=predictions(rng), title="galaxy 1"))
    main, residual, filters = figure.axes
    assert "nanomaggies" in main.get_ylabel()
    assert "wavelength" in filters.get_xlabel()
    assert [text.get_text() for text in filters.texts] == list(BANDS)
    errorbar = main.containers[0]
    assert isinstance(errorbar, ErrorbarContainer)
    observed = errorbar.lines[0]
    centre = [load_filter(band).effective_wave for band in ("u", "r")]
    np.testing.assert_allclose(points(observed)[0], centre)
    np.testing.assert_allclose(points(observed)[1], [5, 40])
    assert len(points(residual.lines[-1])[0]) == 2


def test_sed_hides_no_point(rng: np.random.Generator) -> None:
    seds = predictions(rng)
    early = replace(seds, flux=seds.flux * [1e-5, 1, 1], spectrum=seds.spectrum * np.where(seds.wave_obs < 3000, 1e-9, 1))
    main = drawn(sed_plot(np.array([2e-5, 20, 40]), np.array([1e10, 1, 1]), predicted=early)).axes[0]
    low, high = main.get_ylim()
    assert low < 2e-5 < np.median(early.flux[:, 0]) < 40 < high
    assert low == pytest.approx(1e-5)
    # A flux that is noise does not make room for itself, but for its error bar.
    main = drawn(sed_plot(np.array([1e-9, 20, 40]), np.array([1.0, 1, 1]), predicted=seds)).axes[0]
    assert 1e-3 < main.get_ylim()[0] < 1


def test_sed_of_a_users_own_band(tmp_path: Path) -> None:
    curve, emulator = load_filter("r"), SpectrumEmulator.default()
    np.savetxt(tmp_path / "wide.txt", np.column_stack([curve.wave, curve.response]))
    simulator = PhotometrySimulator(emulator, ("g", str(tmp_path / "wide.txt")), 0.2)
    theta = Prior().sample(30, 1)
    predicted = sampled_seds(simulator, theta, 0.1)
    figure = drawn(sed_plot(predicted.flux[0], np.ones(2), predicted=predicted))
    assert [text.get_text() for text in figure.axes[2].texts] == ["g", "wide"]
    np.testing.assert_allclose(predicted.centre, [load_filter("g").effective_wave, curve.effective_wave])


def test_sed_refuses_shapes_that_disagree(rng: np.random.Generator) -> None:
    predicted = predictions(rng)
    with pytest.raises(ParameterError, match="do not fit 3 bands"):
        sed_plot(np.ones(2), np.ones(2), predicted=predicted)
    with pytest.raises(ParameterError, match="wavelengths"):
        sed_plot(np.ones(3), np.ones(3), predicted=replace(predicted, wave_obs=np.arange(1.0, 6.0)))


@pytest.mark.parametrize(("n", "kind"), [(300, "points"), (3000, "density")])
def test_mass_sfr_plane(rng: np.random.Generator, n: int, kind: str) -> None:
    mass, sfr = rng.normal(10.5, 0.5, n), rng.normal(0, 0.5, n)
    sfr[0] = np.nan
    figure = drawn(mass_sfr_plane(mass, sfr, log_mstar_error=np.full(n, 0.1), log_sfr_error=np.full(n, 0.2)))
    axes = figure.axes[0]
    assert "M$_" in axes.get_xlabel()
    assert "yr" in axes.get_ylabel()
    entries = legend_texts(figure)
    assert "typical 68% interval" in entries
    assert any("-11" in entry for entry in entries)
    assert (f"{n - 1} galaxies, medians" in entries) == (kind == "points")
    division = next(line for line in axes.lines if "sSFR" in str(line.get_label()))
    np.testing.assert_allclose(points(division)[1] - points(division)[0], -11)


def test_mass_sfr_plane_refuses_nothing_to_draw() -> None:
    with pytest.raises(ParameterError, match="nothing to draw"):
        mass_sfr_plane(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ParameterError, match="equal length"):
        mass_sfr_plane(np.zeros(3), np.zeros(4))


def test_pictures_say_that_mass_is_the_mass_formed(rng: np.random.Generator) -> None:
    samples = rng.normal(size=(300, 3))
    corner_labels = [axes.get_xlabel() for axes in drawn(corner_plot({"flow": samples}, NAMES)).axes]
    plane = drawn(mass_sfr_plane(samples[:, 0], samples[:, 1])).axes[0]
    ranks = rng.random((400, 11))
    titles = [axes.get_title() for axes in drawn(sbc_plot(ranks, FREE_PARAMETER_NAMES)).axes]
    legend = legend_texts(drawn(pp_plot(ranks, FREE_PARAMETER_NAMES)))
    for shown in (corner_labels, [plane.get_xlabel()], titles, legend):
        assert sum("formed" in text for text in shown) == 1
    assert plane.get_xlabel() == QUANTITY_LABELS["log_mstar"]
    assert QUANTITY_LABELS["log_mstar_surviving"] == QUANTITY_LABELS["log_mstar"].replace("formed", "surviving")


def test_galex_plot_names_quantities_and_units(rng: np.random.Generator) -> None:
    widths = {name: (rng.random(20), rng.random(20)) for name in ("dust2", "log_sfr_1gyr", "t_mw_gyr")}
    panels = drawn(galex_plot(widths)).axes
    for axes, name, unit in zip(panels, widths, ("", " [dex]", " [Gyr]"), strict=True):
        assert axes.get_title() == QUANTITY_LABELS[name].split(" [")[0]
        assert axes.get_xlabel() == f"u g r i z: half the 68% interval{unit}"
        assert axes.get_ylabel() == f"FUV NUV u g r i z: half the 68% interval{unit}"
        np.testing.assert_array_equal(points(axes.lines[0]), widths[name])


def test_pp_plot_shows_the_empirical_distribution(rng: np.random.Generator) -> None:
    ranks = rng.random((500, 11))
    ranks[:, 3] **= 2
    figure = drawn(pp_plot(ranks, FREE_PARAMETER_NAMES))
    curves = figure.axes[0].lines[1:]
    assert len(curves) == 11
    # P(u^2 < 0.25) = 0.5
    assert np.interp(0.25, *points(curves[3])) == pytest.approx(0.5, abs=0.07)
    styles = {(line.get_color(), line.get_linestyle()) for line in curves}
    assert len(styles) == 11
    level, difference = points(figure.axes[1].lines[4])
    np.testing.assert_allclose(difference, points(curves[3])[1] - level, atol=1e-12)


def test_sbc_plot_has_one_panel_a_parameter_and_the_binomial_band(rng: np.random.Generator) -> None:
    figure = drawn(sbc_plot(rng.random((400, 11)), FREE_PARAMETER_NAMES, n_bins=10))
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 11
    assert len({axes.get_title() for axes in panels}) == 11
    band = figure.axes[0].patches[0]
    assert isinstance(band, Rectangle)
    low, high = band.get_y(), band.get_y() + band.get_height()
    assert binom.cdf(high, 400, 0.1) - binom.cdf(low - 1, 400, 0.1) == pytest.approx(0.99, abs=0.01)


def test_spectra_of_inferred_redshifts_are_where_their_photometry_is(rng: np.random.Generator) -> None:
    simulator = PhotometrySimulator(SpectrumEmulator.default(), ("g", "r", "i"), 0.3)
    theta = np.repeat(Prior().sample(1, rng), 3, axis=0)
    seds = sampled_seds(simulator, theta, np.array([0.03, 0.1, 0.25]))
    at_centre = np.stack([np.interp(seds.centre, seds.wave_obs, spectrum) for spectrum in seds.spectrum])
    np.testing.assert_allclose(at_centre, seds.flux, rtol=0.3)
    # Between the least and the most distant lie two orders of magnitude.
    assert (seds.flux[0] / seds.flux[2] > 30).all()
    with pytest.raises(ParameterError, match=r"zred must have shape \(3,\)"):
        sampled_seds(simulator, theta, np.array([0.03, 0.1]))
    with pytest.raises(ParameterError, match="zred=nan"):
        sampled_seds(simulator, theta, np.ma.masked)


def test_tarp_plot_shows_the_curve() -> None:
    result = tarp(np.random.default_rng(2).random((400, 8)) ** 0.8, seed=1)
    figure = drawn(tarp_plot(result, 400))
    curve = figure.axes[0].lines[-1]
    np.testing.assert_array_equal(points(curve)[1], result.ecp)
    # Eight references that are independent are as good as eight times the mocks.
    assert result.ecp_error[50] == pytest.approx(0.5 / np.sqrt(8 * 400), rel=0.2)
    outline = figure.axes[0].collections[0].get_paths()[0].vertices
    assert np.ptp(outline[outline[:, 0] == 0.5, 1]) == pytest.approx(2 * 2.576 * result.ecp_error[50], rel=1e-3)
    np.testing.assert_allclose(points(figure.axes[1].lines[-1])[1], result.ecp - result.levels, atol=1e-12)
    assert figure.axes[1].get_xlabel() == "credibility level"


def test_training_plot_shows_the_losses_and_the_least_of_them() -> None:
    epochs = [
        {"minutes": 0.5 * k, "train_nll": 6 + 90 * (k < 1) - 0.05 * k, "validation_nll": 6.1 - 0.04 * k} for k in range(20)
    ]
    epochs[15]["validation_nll"] = 5.0
    axes = drawn(training_plot(epochs)).axes[0]
    train, held_out, least = (points(line) for line in axes.lines)
    np.testing.assert_array_equal(train[1], [record["train_nll"] for record in epochs])
    np.testing.assert_array_equal(held_out[0], [record["minutes"] for record in epochs])
    assert (least[0].item(), least[1].item()) == (7.5, 5.0)
    # The first loss would leave no room for the others.
    assert axes.get_ylim()[1] < 7
    drawn(training_plot(epochs[:1]))
    drawn(training_plot([record | {"validation_nll": float("nan")} for record in epochs]))
    for wrong in ([], [{"minutes": 1.0}]):
        with pytest.raises(ParameterError, match=r"epochs: \d records without .*train_nll"):
            training_plot(wrong)


def test_the_legend_of_a_training_that_ends_steeply_is_beside_its_curves() -> None:
    # As of a short training whose first epoch holds the compilation.
    minutes = [0.2, *np.linspace(0.25, 0.26, 9)]
    epochs = [{"minutes": at, "train_nll": 13.2 - 0.1 * k, "validation_nll": 13.0 - 0.08 * k} for k, at in enumerate(minutes)]
    axes = drawn(training_plot(epochs)).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    for line in axes.lines:
        assert not line.get_path().transformed(line.get_transform()).intersects_bbox(legend.get_window_extent(), filled=False)


def test_edge_plot_shows_each_edge_with_enough_truths(rng: np.random.Generator) -> None:
    edges = EdgeRanks(FREE_PARAMETER_NAMES, seed=0)
    # Mocks and samples of the prior, but for the first parameter, which never comes near its edges.
    truth, samples = rng.standard_normal((400, 11)), rng.standard_normal((400, 60, 11))
    truth[:, 0] *= 0.1
    samples[..., 0] *= 0.1
    edges.add(samples, samples, truth, truth)
    result = edges.result()
    figure = drawn(edge_plot(result))
    low, high = (container.lines[0] for container in figure.axes[0].containers)
    assert len(points(low)[0]) == len(points(high)[0]) == 10
    np.testing.assert_allclose(points(low)[1], result.n_truth[2::2] / result.n_expected[2::2])
    assert len(figure.axes[0].get_xticklabels()) == 11


def test_calibration_plots_refuse_ranks_that_are_not_fractions(rng: np.random.Generator) -> None:
    for plot in (pp_plot, sbc_plot):
        with pytest.raises(ParameterError, match="0 … 1"):
            plot(rng.integers(0, 100, (50, 11)), FREE_PARAMETER_NAMES)
        with pytest.raises(ParameterError, match="n_mock"):
            plot(rng.random((50, 3)), FREE_PARAMETER_NAMES)


def test_no_pyplot_state_is_left_behind(rng: np.random.Generator) -> None:
    from matplotlib import pyplot

    corner_plot({"flow": rng.normal(size=(100, 3))}, NAMES)
    pp_plot(rng.random((50, 11)), FREE_PARAMETER_NAMES)
    assert pyplot.get_fignums() == []


def test_corners_are_drawn_where_the_home_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """ArviZ, which corner imports where it is installed, keeps a file there."""

    class ReadOnly:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "arviz":
                raise PermissionError(13, "Permission denied", "/home/one/.cache")

    for name in [name for name in sys.modules if name.partition(".")[0] in ("arviz", "corner")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [ReadOnly, *sys.meta_path])
    figure = corner_plot({"flow": np.random.default_rng(0).normal(size=(200, 2))}, ["log_mstar", "a_v"])
    assert len(figure.axes) == 4
    assert "arviz" not in sys.modules
