"""`sedcast infer`: a catalogue's posteriors; `sedcast show`: one galaxy read back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedcast.cli_common import (
    HDF5,
    AsJson,
    Calibrate,
    Columns,
    Model,
    Overwrite,
    Scheduler,
    Seed,
    Source,
    Unit,
    Workers,
    check_mapping,
    check_workers,
    check_writable,
    load_catalog,
    load_posterior,
    make_screen,
    pool_of,
    scalars,
)

if TYPE_CHECKING:
    from sedcast.posterior.estimator import PosteriorEstimator
    from sedcast.posterior.importance import Refiner

__all__ = ["add_infer_commands"]


def add_infer_commands(app: typer.Typer) -> None:
    """Give a program the commands `infer` and `show`."""
    app.command(
        epilog="Examples:  sedcast infer sdss -o posteriors.h5    |    sedcast infer mine.csv -o mine.h5 --unit uJy    |    "
        "long: sedcast infer nsa_v1_0_1.fits --mapping nsa-v1 -o summaries.fits --samples samples.h5    |    "
        "exact: sedcast infer mine.csv -o mine.h5 --refine --fallback mcmc"
    )(infer)
    app.command(epilog="Examples:  sedcast show summaries.fits --id 1234    |    sedcast show samples.h5 --row 0 --json")(show)


def infer(
    catalog: Source,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="File to write: .h5, samples and summaries; .fits, .parquet, .ecsv, summaries."),
    ],
    model: Model = "bundled",
    n_samples: Annotated[int, typer.Option(min=1, help="Samples per galaxy.")] = 1000,
    seed: Seed = 0,
    unit: Unit = None,
    calibrate: Calibrate = True,
    refine: Annotated[
        bool, typer.Option("--refine", help="Make samples exact by importance sampling, with figures of how well it worked.")
    ] = False,
    n_draws: Annotated[
        int | None, typer.Option(min=1000, help="With --refine: draws per galaxy and step; by default 10,000.")
    ] = None,
    fallback: Annotated[
        str | None, typer.Option(metavar="mcmc", help="With --refine: 'mcmc' runs emcee where refinement falls short.")
    ] = None,
    mapping: Columns = None,
    samples: Annotated[
        Path | None, typer.Option(help="With -o .fits, .parquet or .ecsv: HDF5 file for the samples; left out if not given.")
    ] = None,
    sample_type: Annotated[str | None, typer.Option(help="With --samples: float32, the default, or float16.")] = None,
    compression: Annotated[str | None, typer.Option(help="With --samples: gzip or lzf.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many rows, the first of the file, to try.")] = None,
    scheduler: Scheduler = None,
    n_workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Infer a catalogue: samples, summaries, derived properties and flags of every galaxy.

    Rows that cannot be inferred stay in the file with the reason. A table needs the columns flux_u, flux_ivar_u (or
    flux_err_u) … for each band of the model, and zred unless the model infers it; SDSS's own layout is recognised; any other
    is read with --mapping. With an output of summaries, .fits, .parquet or .ecsv, an interrupted run goes on where it stopped
    when the same command is given again; with --mapping as well, memory does not grow with the catalogue.
    """
    screen = make_screen(as_json)
    from sedcast.data.errors import ParameterError
    from sedcast.data.mapping import load_mapping
    from sedcast.posterior.infer import infer_catalog
    from sedcast.posterior.streaming import infer_file
    from sedcast.posterior.summary_tables import TABLE_SUFFIXES

    if samples is not None and samples.absolute() == output.absolute():
        raise ParameterError(f"--samples {samples} is the file of the summaries, -o: give them two names")
    for option, path in {"-o": output, "--samples": samples}.items():
        if path is not None:
            check_writable(path, option, overwrite=overwrite)
    streamed = output.suffix in TABLE_SUFFIXES
    if not streamed and output.suffix not in HDF5:
        raise ParameterError(f"-o {output}: expected a name that ends in .h5, or for summaries in {', '.join(TABLE_SUFFIXES)}")
    if not streamed and (samples is not None or scheduler is not None):
        raise ParameterError(
            f"--samples and --scheduler go with -o {', '.join(TABLE_SUFFIXES)}: {output} is written by one process"
        )
    if samples is not None and samples.suffix not in HDF5:
        raise ParameterError(f"--samples {samples}: expected a name that ends in .h5, for samples are written as HDF5")
    if samples is None and (sample_type, compression) != (None, None):
        raise ParameterError("--sample-type and --compression are those of --samples: give that too, or leave them out")
    if not refine and (fallback, n_draws) != (None, None):
        raise ParameterError("--fallback and --n-draws are those of --refine: give that too, or leave them out")
    check_mapping(catalog, mapping=mapping, unit=unit, calibrate=calibrate)
    check_workers(scheduler, n_workers)
    estimator = load_posterior(model)
    refiner = _refiner(estimator, n_draws, fallback) if refine else None
    common: dict[str, Any] = {"n_samples": n_samples, "seed": seed, "refiner": refiner}
    # A mapped table may be of any length: it is read as it is needed.
    mapped = load_mapping(mapping) if streamed and mapping is not None and first is None else None
    galaxies: Any = catalog
    if mapped is None:
        galaxies = load_catalog(catalog, estimator, mapping=mapping, unit=unit, calibrate=calibrate, n_rows=first)
    if streamed:
        kept: Any = None if samples is None else (samples, sample_type or "float32", compression)
        with pool_of(scheduler, n_workers) as pool, screen.progress("inferring galaxies") as report:
            figures = infer_file(estimator, galaxies, mapped, output, samples=kept, pool=pool, progress=report, **common)
    else:
        with screen.progress("inferring galaxies") as report:
            figures = infer_catalog(estimator, galaxies, output, progress=report, **common)
    screen.note(f"wrote {output}" + ("" if samples is None else f" and {samples}"))
    if figures["inferred"] and "efficiency_median" not in figures:
        screen.note(
            "samples are the flow's own draws: trained without [amplitudes], it has no likelihood to weigh them by; train it "
            "with that table, or, where redshifts are given, --refine them"
        )
    reasons = {f"excluded: {reason}": count for reason, count in figures["excluded"].items()}
    screen.result(figures if as_json else scalars(figures) | reasons, title="Inference")


def _refiner(estimator: "PosteriorEstimator", n_draws: int | None, fallback: str | None) -> "Refiner":
    from sedcast.baselines.fallback import emcee_fallback
    from sedcast.data.errors import ParameterError
    from sedcast.posterior.importance import RefineConfig, Refiner
    from sedcast.posterior.outlier_training import training_simulator

    if fallback not in (None, "mcmc"):
        raise ParameterError(f"--fallback {fallback}: expected 'mcmc'")
    last_resort = None if fallback is None else emcee_fallback()
    simulator = training_simulator(estimator)
    return Refiner(estimator, simulator, RefineConfig() if n_draws is None else RefineConfig(n_draws=n_draws), last_resort)


def show(
    posteriors: Annotated[Path, typer.Argument(metavar="FILE", help="Summaries or samples that 'sedcast infer' wrote.")],
    galaxy_id: Annotated[str | None, typer.Option("--id", help="Id of the galaxy.")] = None,
    row: Annotated[int | None, typer.Option(min=0, help="Row number instead of an id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one galaxy of a file of posteriors, however long the file is."""
    screen = make_screen(as_json)
    from sedcast.data.errors import ParameterError
    from sedcast.posterior.lookup import read_summary
    from sedcast.posterior.posterior_catalog import PERCENTILES
    from sedcast.posterior.quantities import table_cells, with_unit

    if (galaxy_id is None) == (row is None):
        raise ParameterError("say which galaxy, by --id ID or by --row NUMBER")
    found = read_summary(posteriors, galaxy_id, row=row)
    if as_json:
        screen.result({"row": found.row} | found.about | {name: list(values) for name, values in found.percentiles.items()})
        return
    # As text, for an id with commas between thousands is none that --id takes.
    about = {name: value if isinstance(value, float) else str(value) for name, value in found.about.items()}
    screen.result({"row": str(found.row)} | about, title=str(posteriors))
    lines = [(with_unit(name), *table_cells(name, values)) for name, values in found.percentiles.items()]
    screen.table(
        "Percentiles of the posterior", ("quantity [unit]", *(f"{percentile:g}%" for percentile in PERCENTILES)), lines
    )
