"""Each picture looks as it did: compared pixel by pixel with a stored one.

`SEDCAST_NEW_PICTURES=1 pytest tests/test_pictures.py` stores them anew, to be looked at before they are committed.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.filters import load_filter
from sedcast.data.sfh_bases import SFHBases
from sedcast.emulator.histories import column
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.plotting import corner_plot, mass_sfr_plane, sed_plot
from sedcast.plotting_calibration import edge_plot, pp_plot, sbc_plot, tarp_plot
from sedcast.plotting_model import emulator_accuracy_plot, history_plot
from sedcast.posterior.prior_edges import EdgeRanks
from sedcast.posterior.quantities import SHOWN_QUANTITIES
from sedcast.posterior.ranks import tarp as tarp_of
from sedcast.sampled_histories import sampled_histories
from sedcast.sampled_seds import SampledSeds

FOLDER = Path(__file__).parent / "images"
# Root mean square difference of the pixels' values, 0 … 255.
TOLERANCE = 8.0


def corner(rng: np.random.Generator) -> Figure:
    spread = rng.normal(size=(6, 6)) * 0.2 + np.diag([0.2, 0.3, 0.2, 1.5, 0.3, 0.3])
    centre = np.array([10.8, 0.3, -1.9, 8.0, 0.8, 0.0])
    flow, chain = (centre + rng.normal(size=(n, 6)) @ spread for n in (4000, 3000))
    return corner_plot({"flow": flow, "emcee": chain}, SHOWN_QUANTITIES, truth=centre, title="a galaxy, z = 0.05")


def sed(rng: np.random.Generator) -> Figure:
    curves = tuple(load_filter(band) for band in ("FUV", "NUV", "u", "g", "r", "i", "z"))
    wave = np.geomspace(1200, 13000, 500)
    shape = 0.02 * (wave / 1500) ** 4 / (1 + (wave / 4000) ** 3)
    scale = np.exp(0.05 * rng.standard_normal((300, 1)) * (1 + 4 * (wave < 3000)))
    centre = np.array([1540.0, 2290, 3560, 4710, 6170, 7500, 8960])
    predicted = np.stack([np.interp(centre, wave, row) for row in shape * scale])
    flux = np.median(predicted, axis=0) * np.array([1.1, 0.9, 1.05, 0.98, 1.0, 1.02, 0.97])
    ivar = (0.04 * flux) ** -2.0
    ivar[1] = 0
    return sed_plot(flux, ivar, predicted=SampledSeds(predicted, wave, shape * scale, curves), title="a galaxy")


def history(rng: np.random.Generator) -> Figure:
    theta = Prior().sample(300, rng)
    theta[:, column("log_mstar")] = 10.5 + 0.1 * rng.standard_normal(300)
    return history_plot(theta, 0.05, SFHBases.default(), Cosmology(), title="a galaxy")


def plane(rng: np.random.Generator, n: int = 500) -> Figure:
    mass = rng.normal(10.6, 0.5, n)
    sfr = np.where(rng.random(n) < 0.5, 0.7 * (mass - 10) + 0.2, mass - 12) + rng.normal(0, 0.25, n)
    return mass_sfr_plane(mass, sfr, log_mstar_error=np.full(n, 0.1), log_sfr_error=np.full(n, 0.2))


def plane_density(rng: np.random.Generator) -> Figure:
    return plane(rng, 5000)


def pp(rng: np.random.Generator) -> Figure:
    return pp_plot(rng.random((500, 11)) ** np.linspace(1, 1.4, 11), FREE_PARAMETER_NAMES)


def sbc(rng: np.random.Generator) -> Figure:
    return sbc_plot(rng.random((500, 11)) ** np.linspace(1, 1.4, 11), FREE_PARAMETER_NAMES)


def tarp(rng: np.random.Generator) -> Figure:
    return tarp_plot(tarp_of(rng.random((500, 1)) ** (1 / 1.1), seed=0), 500)


def edges(rng: np.random.Generator) -> Figure:
    ranks = EdgeRanks(FREE_PARAMETER_NAMES, seed=0)
    truth, samples = rng.standard_normal((400, 11)), rng.standard_normal((400, 60, 11))
    ranks.add(samples, samples, truth, truth)
    return edge_plot(ranks.result())


def accuracy(rng: np.random.Generator) -> Figure:
    wave = np.geomspace(912, 30000, 400)
    shape = 1e-4 * (1 + np.sin(8 * np.log(wave)) ** 2) * (wave / 5000) ** -0.3
    errors = {50.0: shape, 99.0: 5 * shape, 99.9: 20 * shape}
    return emulator_accuracy_plot(wave, errors, n_draws=1000, bars={99.0: 3e-3, 99.9: 1e-2})


PICTURES = (corner, sed, history, plane, plane_density, pp, sbc, tarp, edges, accuracy)


@pytest.mark.parametrize("make", PICTURES, ids=lambda make: make.__name__)
def test_picture(make: Callable[[np.random.Generator], Figure], rng: np.random.Generator, tmp_path: Path) -> None:
    expected, actual = FOLDER / f"{make.__name__}.png", tmp_path / f"{make.__name__}.png"
    # Matplotlib's own fonts and defaults, whatever the user's are.
    with mpl.rc_context(mpl.rcParamsDefault | {"backend": "agg", "font.family": "DejaVu Sans"}):
        figure = make(rng)
        figure.savefig(actual, dpi=60, metadata={"Software": None})
    if os.environ.get("SEDCAST_NEW_PICTURES"):
        expected.write_bytes(actual.read_bytes())
    assert compare_images(str(expected), str(actual), tol=TOLERANCE) is None


def test_the_history_that_is_drawn_forms_the_mass(rng: np.random.Generator) -> None:
    theta = Prior().sample(50, rng)
    histories = sampled_histories(theta, 0.1, SFHBases.default(), Cosmology())
    formed = np.sum(histories.sfr * np.diff(histories.edges_gyr), axis=1) * 1e9
    np.testing.assert_allclose(formed, 10 ** theta[:, column("log_mstar")], rtol=1e-6)
    assert histories.edges_gyr[-1] == pytest.approx(Cosmology().age_gyr(np.array([0.1]))[0])


def test_histories_of_samples_in_half_precision_are_those_of_the_samples() -> None:
    theta = Prior().sample(200, 4)
    half, whole = (sampled_histories(one, 0.1, SFHBases.default(), Cosmology()) for one in (theta.astype(np.float16), theta))
    # A mass of 2^-8 dex, and the rest to 2^-11.
    np.testing.assert_allclose(half.sfr.sum(axis=1), whole.sfr.sum(axis=1), rtol=0.02)


def test_histories_are_of_one_redshift(rng: np.random.Generator) -> None:
    theta = Prior().sample(5, rng)
    for zred, said in (
        (np.full(5, 0.1), r"shape \(5,\), expected one number"),
        (np.ma.masked, "must be finite"),
        ("z", "numbers"),
    ):
        with pytest.raises(ParameterError, match=said):
            sampled_histories(theta, zred, SFHBases.default(), Cosmology())


def test_the_gallery_s_code_runs() -> None:
    text = (Path(__file__).parent.parent / "docs" / "pictures.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "pictures.md", "exec"), names)
    assert isinstance(names["figure"], Figure)


def test_accuracy_refuses_what_does_not_fit() -> None:
    wave = np.geomspace(1000, 2000, 5)
    with pytest.raises(ParameterError, match="one value a wavelength"):
        emulator_accuracy_plot(wave, {99.0: np.ones(4)}, n_draws=10)
    with pytest.raises(ParameterError, match="percentiles drawn"):
        emulator_accuracy_plot(wave, {99.0: np.ones(5)}, n_draws=10, bars={95.0: 1.0})
