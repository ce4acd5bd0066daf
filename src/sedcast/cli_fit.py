"""`sedcast fit`: the posterior of one galaxy whose magnitudes are typed in."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedcast.cli_common import AsJson, Seed, check_writable, make_screen, simulator_of

if TYPE_CHECKING:
    import numpy as np

    from sedcast.data.catalog import Catalog
    from sedcast.posterior.estimator import PosteriorEstimator

__all__ = ["add_fit_command", "parse_errors", "parse_magnitudes"]

_TABLES = (".csv", ".ecsv", ".fits")
_MAG_RANGE, _ERROR_RANGE = (0.0, 40.0), (1e-4, 5.0)
_ONE_SIGMA = (16.0, 50.0, 84.0)
_N_PRIOR, _N_PREDICTED = 4000, 500


def add_fit_command(app: typer.Typer) -> None:
    """Give a program the command `fit`."""
    app.command(
        epilog="Examples:  sedcast fit --mags u=18.95,g=17.67,r=16.94,i=16.53,z=16.26 --errors 0.067,0.021,0.021,0.021,0.033 "
        "--redshift 0.09    |    a picture: ... --plot galaxy.png    |    samples to keep: ... -o galaxy.csv    |    "
        "for 'sedcast report': ... -o galaxy.h5"
    )(fit)


def fit(
    mags: Annotated[str, typer.Option("--mags", metavar="BAND=MAG,...", help="AB magnitudes, such as u=18.95,g=17.67.")],
    errors: Annotated[
        str, typer.Option("--errors", metavar="ERR,...", help="Their errors, in that order; or one for all; or u=0.07,g=0.02.")
    ],
    redshift: Annotated[
        float | None, typer.Option("--redshift", "-z", metavar="Z", help="Redshift; inferred with the rest if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Posterior artifact or bundled one; by default the bundled one for these bands."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Samples: .csv, .ecsv or .fits; .h5 for 'show' and 'report'.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw posterior and SED: .png or .pdf.")] = None,
    n_samples: Annotated[int, typer.Option(min=100, help="Posterior samples.")] = 5000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit one galaxy: type its magnitudes, get its mass, star formation, metallicity, age and dust.

    Magnitudes are AB, total (the same aperture in every band), and corrected for Galactic extinction. Errors should include the
    uncertainty of the calibration: 0.02 mag and more. The table gives medians and 68% intervals; the last column
    is the width of the interval over that of the prior: near 1, the photometry says nothing.
    """
    screen = make_screen(as_json)
    from sedcast.data.errors import ParameterError
    from sedcast.posterior.infer import infer_catalog
    from sedcast.posterior.posterior_catalog import read_posteriors
    from sedcast.posterior.quantities import QUANTITIES

    magnitudes = parse_magnitudes(mags)
    sigmas = parse_errors(errors, tuple(magnitudes))
    estimator = _estimator(model, tuple(magnitudes), redshift)
    for option, path, kinds in (("-o", output, (*_TABLES, ".h5")), ("--plot", plot, (".png", ".pdf"))):
        if path is not None:
            if path.suffix not in kinds:
                raise ParameterError(f"{option} {path}: expected a name that ends in {', '.join(kinds)}")
            check_writable(path, option, inputs=[model])
    galaxy = _galaxy(estimator, magnitudes, sigmas, redshift)
    excluded = str(estimator.status(estimator.select(galaxy)).excluded[0])
    if excluded:
        raise ParameterError(f"no posterior by {estimator.name!r}: {excluded}")
    with tempfile.TemporaryDirectory() as folder:
        kept = output if output is not None and output.suffix == ".h5" else Path(folder) / "galaxy.h5"
        infer_catalog(estimator, galaxy, kept, n_samples=n_samples, seed=seed, command="sedcast fit")
        with read_posteriors(kept) as posteriors:
            if posteriors.status[0]:
                raise ParameterError(f"no posterior by {estimator.name!r}: {posteriors.status[0]}; check magnitudes and errors")
            samples, flags, score = posteriors.samples(0), str(posteriors.flags[0]), float(posteriors.score[0])
            efficiency, log_evidence = float(posteriors.efficiency[0]), float(posteriors.log_evidence[0])
    figures = _intervals(estimator, samples, redshift, seed)
    # Files first, for standard output may be a pipe that is closed.
    if output is not None and output.suffix in _TABLES:
        _write_table(output, samples)
    if plot is not None:
        _draw(estimator, galaxy, samples, plot)
    if not as_json:
        given = "redshift inferred" if redshift is None else f"redshift {redshift:g}"
        rows = [_line(name, figures[name]) for name in QUANTITIES if name in figures]
        screen.table(
            f"{' '.join(magnitudes)} and {given}, by {estimator.name}",
            ("quantity", "unit", "median", "68% from", "to", "width/prior"),
            rows,
        )
        if math.isfinite(efficiency):
            screen.note(f"weighed draws of the flow: efficiency {efficiency:.0%}, ln evidence {log_evidence:.2f}")
        screen.note(f"flags: {flags}" if flags else "flags: none, the photometry is like that of the training simulations")
    for path in filter(None, (output, plot)):
        screen.note(f"wrote {path}")
    if as_json:
        weights = {"efficiency": efficiency, "log_evidence": log_evidence}
        screen.result({"model": estimator.name, "flags": flags, "score": score, **weights, "quantities": figures})


def parse_magnitudes(text: str) -> dict[str, float]:
    """``u=18.9,g=17.6`` as a dictionary.

    Raises
    ------
    ParameterError : if it reads otherwise, a band is named twice, or a magnitude is none.
    """
    from sedcast.data.errors import ParameterError

    found: dict[str, float] = {}
    for part in text.replace(" ", "").strip(",").split(","):
        band, equals, value = part.partition("=")
        magnitude = _number(value)
        if not (band and equals) or magnitude is None:
            raise ParameterError(f"--mags: {part!r} is not BAND=MAGNITUDE; expected such as u=18.95,g=17.67,r=16.94")
        if band in found:
            raise ParameterError(f"--mags names band {band!r} twice")
        if not _MAG_RANGE[0] < magnitude < _MAG_RANGE[1]:
            raise ParameterError(
                f"--mags: {part} is no AB magnitude of a galaxy; a flux f in nanomaggies is 22.5 - 2.5 log10 f"
            )
        found[band] = magnitude
    return found


def parse_errors(text: str, bands: Sequence[str]) -> dict[str, float]:
    """Errors by band: ``0.05,0.02`` in the bands' order, ``0.05`` for all, or ``u=0.05,g=0.02``.

    Raises
    ------
    ParameterError : if it reads otherwise, not every band has one, or an error is none.
    """
    from sedcast.data.errors import ParameterError

    parts = text.replace(" ", "").strip(",").split(",")
    if all("=" in part for part in parts):
        named = dict(part.split("=", 1) for part in parts)
        if len(named) < len(parts):
            raise ParameterError(f"--errors {text} names a band twice: one error each")
        if set(named) != set(bands):
            raise ParameterError(f"--errors are of {', '.join(named)}, --mags of {', '.join(bands)}: name the same bands")
        parts = [named[band] for band in bands]
    elif len(parts) == 1:
        parts = parts * len(bands)
    if len(parts) != len(bands):
        raise ParameterError(
            f"--errors has {len(parts)} numbers for the {len(bands)} bands {', '.join(bands)}: one each, or one"
        )
    values = [_number(part) for part in parts]
    for part, value in zip(parts, values, strict=True):
        if value is None or not _ERROR_RANGE[0] <= value <= _ERROR_RANGE[1]:
            raise ParameterError(f"--errors: {part!r} is not an error of {_ERROR_RANGE[0]:g} to {_ERROR_RANGE[1]:g} mag")
    return {band: float(value) for band, value in zip(bands, values, strict=True) if value is not None}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _estimator(model: str | None, bands: tuple[str, ...], redshift: float | None) -> "PosteriorEstimator":
    """The estimator asked for, or the first bundled one that takes these bands, with or without a redshift."""
    from sedcast.data.errors import ParameterError
    from sedcast.posterior.estimator import PosteriorEstimator, bundled_posteriors

    tried = []
    for name in bundled_posteriors() if model is None else (model,):
        estimator = PosteriorEstimator.find(name)
        known = set(bands) <= set(estimator.bands) and (estimator.context.mask or len(bands) == len(estimator.bands))
        if known and estimator.infers_redshift == (redshift is None):
            return estimator
        some = "any of " if estimator.context.mask else ""
        tried.append(
            f"{estimator.name}: {some}{' '.join(estimator.bands)}{'' if estimator.infers_redshift else ', --redshift'}"
        )
    if model is not None and known:
        what = "infers the redshift: leave --redshift out" if estimator.infers_redshift else "needs one: give --redshift"
        raise ParameterError(f"{estimator.name} {what}, or --model, and a bundled posterior for both is taken")
    given = f"{' '.join(bands)} {'without' if redshift is None else 'with'} a redshift"
    advice = "leave others out, or train a posterior of your own ('sedcast init')"
    raise ParameterError(f"no posterior for {given}; there is {'; '.join(tried)}: {advice}")


def _galaxy(
    estimator: "PosteriorEstimator", magnitudes: Mapping[str, float], sigmas: Mapping[str, float], redshift: float | None
) -> "Catalog":
    import numpy as np
    from astropy import units as u

    from sedcast.data.catalog import Catalog
    from sedcast.data.units import as_nanomaggies

    columns = [estimator.bands.index(band) for band in magnitudes]
    errors = [sigmas[band] for band in magnitudes]
    flux, ivar = np.zeros((2, 1, len(estimator.bands)))
    flux[0, columns], ivar[0, columns] = as_nanomaggies([*magnitudes.values()] * u.ABmag, errors * u.mag)
    return Catalog(np.zeros(1, int), estimator.bands, flux, ivar, np.array([np.nan if redshift is None else redshift]))


def _intervals(
    estimator: "PosteriorEstimator", samples: Mapping[str, "np.ndarray"], redshift: float | None, seed: int
) -> dict[str, dict[str, float]]:
    """Median, 16th and 84th percentile of each quantity, and the interval's width over the prior's."""
    import numpy as np

    from sedcast.emulator.histories import derived_properties
    from sedcast.emulator.prior import PARAMETER_NAMES

    theta = estimator.prior.sample(_N_PRIOR, seed)
    if estimator.redshift_prior is None:
        zred = np.full(_N_PRIOR, redshift, dtype=float)
    else:
        zred = estimator.redshift_prior.sample(_N_PRIOR, np.random.default_rng(seed))
    prior = dict(zip(PARAMETER_NAMES, theta.T, strict=True)) | {"zred": zred}
    prior |= derived_properties(theta, zred, estimator.bases, estimator.cosmology, surviving=estimator.surviving)
    figures = {}
    for name, values in samples.items():
        low, median, high = np.percentile(values, _ONE_SIGMA)
        before = np.percentile(prior[name], _ONE_SIGMA)
        share = (high - low) / (before[2] - before[0])
        figures[name] = {"median": float(median), "p16": float(low), "p84": float(high), "width_over_prior": float(share)}
    return figures


def _line(name: str, figures: Mapping[str, float]) -> tuple[str, ...]:
    from sedcast.posterior.quantities import QUANTITIES

    quantity = QUANTITIES[name]
    digits = 4 if name == "zred" else 2
    values = (f"{figures[key]:.{digits}f}" for key in ("median", "p16", "p84"))
    return (quantity.words, quantity.unit or quantity.wavelength, *values, f"{figures['width_over_prior']:.2f}")


def _write_table(path: Path, samples: Mapping[str, "np.ndarray"]) -> None:
    from astropy.table import Column, Table

    from sedcast.data.artifacts import atomic_path
    from sedcast.posterior.quantities import description

    kind = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits"}[path.suffix]
    columns = {name: Column(values, description=description(name)) for name, values in samples.items()}
    with atomic_path(path) as temporary:
        Table(columns).write(temporary, format=kind, overwrite=True)


def _draw(estimator: "PosteriorEstimator", galaxy: "Catalog", samples: Mapping[str, Any], path: Path) -> None:
    import numpy as np

    from sedcast.emulator.prior import PARAMETER_NAMES
    from sedcast.plotting import save_figure
    from sedcast.plotting_paper import posterior_figure
    from sedcast.posterior.exact import rows_at_most
    from sedcast.sampled_seds import sampled_seds

    simulator, _ = simulator_of(estimator)
    n = len(samples[PARAMETER_NAMES[0]])
    shown = rows_at_most(n, _N_PREDICTED)
    theta = np.stack([samples[name][shown] for name in PARAMETER_NAMES], axis=1).astype(float)
    zred = np.asarray(samples.get("zred", np.repeat(galaxy.zred, n)), dtype=float)
    figure = posterior_figure(
        {"posterior": np.stack(list(samples.values()), axis=1)},
        galaxy.flux[0],
        galaxy.flux_ivar[0],
        predicted=sampled_seds(simulator, theta, zred[shown]),
        names=tuple(samples),
        title=f"z = {np.median(zred):.4f}",
    )
    save_figure(figure, path)
