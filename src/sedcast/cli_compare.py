"""`sedcast compare` and `sedcast figures`: the flow beside MCMC, in tables and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sedcast.cli_common import (
    MOCK_SEED,
    AsJson,
    Calibrate,
    Columns,
    MockSeed,
    Model,
    Overwrite,
    Scheduler,
    Seed,
    Source,
    Unit,
    check_folder,
    load_catalog,
    load_posterior,
    make_screen,
    pool_of,
)

if TYPE_CHECKING:
    from sedcast.baselines.compare import Comparison
    from sedcast.console import Screen

__all__ = ["add_compare_commands"]

Rows = Annotated[str | None, typer.Option(help="Row numbers of real galaxies, such as 0,5,12.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; by default the usable cores.")]

_FEW = 3
_MOCKS_FOR_FIGURES = 20


def add_compare_commands(app: typer.Typer) -> None:
    """Give a program the commands `compare` and `figures`."""
    app.command(
        epilog="Examples:  sedcast compare sdss --rows 0,1,2 -o three    |    "
        "sedcast compare sdss -n 100 --mocks 100 -o comparison    |    "
        "sedcast compare mine.csv --mapping mine.toml -n 5 -o mine"
    )(compare)
    app.command(
        epilog="Examples:  sedcast figures -o figures    |    of a long comparison: sedcast figures --comparison comparison"
    )(figures)


def compare(
    catalog: Source = "sdss",
    rows: Rows = None,
    ids: Annotated[str | None, typer.Option(help="Galaxy ids instead of row numbers, with commas between them.")] = None,
    n_real: Annotated[
        int, typer.Option("-n", "--n-real", min=0, help="Without rows or ids: real galaxies, picked by seed.")
    ] = 3,
    n_mocks: Annotated[int, typer.Option("--mocks", min=0, help="Mock galaxies, with known parameters.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for runs, tables and pictures.")] = Path("comparison"),
    model: Model = "bundled",
    methods: Annotated[
        str, typer.Option(help="What to run, with commas between: flow, refined, emcee, zeus, nautilus.")
    ] = "flow,refined,emcee,zeus",
    simulator: Annotated[
        Literal["emulator", "direct"],
        typer.Option(help="Photometry of the likelihood: the flow's emulator, or its direct model."),
    ] = "emulator",
    target_ess: Annotated[float, typer.Option(min=1, help="Effective samples of a chain's worst parameter to run for.")] = 1000,
    max_steps: Annotated[int, typer.Option(min=200, help="Steps after which a chain ends unconverged.")] = 40_000,
    independent: Annotated[
        bool, typer.Option("--independent", help="Chains know nothing of the flow: slower, as a check of it.")
    ] = False,
    seed: Seed = 0,
    n_workers: Workers = None,
    scheduler: Scheduler = None,
    mapping: Columns = None,
    unit: Unit = None,
    calibrate: Calibrate = True,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Run the flow, the refined flow, emcee and zeus on the same galaxies and likelihood, and set them side by side.

    Writes comparison.json, comparison.md and pictures to the folder. A chain of emcee takes about a second, one of zeus some
    ten. Finished runs are kept in the folder: the same command goes on where an interrupted one stopped, and one for more
    galaxies, with --overwrite, runs the new ones only.
    """
    screen = make_screen(as_json)
    from sedcast.baselines.compare import compare_galaxies
    from sedcast.baselines.mcmc import McmcConfig
    from sedcast.baselines.outcomes import CompareConfig
    from sedcast.baselines.report_tables import to_json
    from sedcast.comparison import FILES, about, choose_galaxies, mock_galaxies, setting_of, write_comparison
    from sedcast.data.config import parse_config
    from sedcast.data.errors import ParameterError
    from sedcast.data.invocation import invocation
    from sedcast.data.outputs import remove_outdated

    if not n_mocks and not n_real and rows is None and ids is None:
        raise ParameterError("-n 0 without --mocks: there is no galaxy to compare, give one of them")
    check_folder(output, FILES, overwrite=overwrite)
    estimator = load_posterior(model)
    estimator.refuse_inferred_redshift("the comparison with MCMC")
    chosen = {"methods": methods.split(","), "seed": seed}
    config = parse_config(chosen, CompareConfig, "options")
    mcmc = McmcConfig(target_ess=target_ess, max_steps=max_steps)
    config = config.model_copy(update={"mcmc": mcmc, "independent": independent})
    setting = setting_of(estimator, config, direct=simulator == "direct")
    galaxies = []
    if n_real or rows is not None or ids is not None:
        table = load_catalog(catalog, estimator, mapping=mapping, unit=unit, calibrate=calibrate)
        galaxies += choose_galaxies(table, estimator, rows=rows, ids=ids, n=n_real, seed=seed)
    galaxies += mock_galaxies(estimator, n_mocks, seed=seed)
    running = invocation.get()
    recorded = about(setting, "" if running is None else running.text, zred=galaxies[0].zred if galaxies else 0.1)
    try:
        with pool_of(scheduler, n_workers) as pool, screen.progress("runs, then pairs") as report:
            comparison = compare_galaxies(
                setting,
                galaxies,
                output,
                n_workers=n_workers,
                pool=pool,
                about=recorded,
                overwrite=overwrite,
                progress=report,
            )
    except KeyboardInterrupt:
        screen.note(f"finished runs are kept in {output}/runs: the same command goes on from there")
        raise
    written = write_comparison(comparison, setting, output)
    remove_outdated(output, FILES)
    _show(screen, comparison)
    screen.note(f"wrote {', '.join(written)} to {output}/")
    if as_json:
        screen.result(to_json(comparison))


def figures(
    catalog: Source = "sdss",
    comparison: Annotated[
        Path | None,
        typer.Option(
            help="Folder that 'sedcast compare' wrote. Default: one galaxy and 20 mocks are compared for the figures."
        ),
    ] = None,
    row: Annotated[int | None, typer.Option(min=0, help="Compared galaxy of the second figure; default, the first.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")] = Path("figures"),
    model: Model = "bundled",
    n_mocks: Annotated[int, typer.Option(min=20, help="Mocks for the flow's ranks.")] = 2000,
    seed: MockSeed = MOCK_SEED,
    n_workers: Workers = None,
    mapping: Columns = None,
    unit: Unit = None,
    calibrate: Calibrate = True,
    overwrite: Overwrite = False,
) -> None:
    """Draw the figures of a paper about a posterior, as PNG and PDF.

    Training set against catalogue; one galaxy's posterior by flow and MCMC with its spectrum; p–p plot, with MCMC's in grey;
    rank histograms.
    """
    screen = make_screen()
    from sedcast.data.outputs import remove_outdated
    from sedcast.figures import FILES, galaxies_to_show, make_figures, read_comparison

    check_folder(output, FILES, overwrite=overwrite)
    estimator = load_posterior(model)
    estimator.refuse_inferred_redshift("the comparison with MCMC")
    shown = galaxies_to_show(load_catalog(catalog, estimator, mapping=mapping, unit=unit, calibrate=calibrate), estimator)
    if comparison is None:
        comparison = output / "comparison"
        compare(
            catalog,
            rows=None if row is None else str(row),
            n_real=1,
            n_mocks=_MOCKS_FOR_FIGURES,
            output=comparison,
            model=model,
            methods="flow,emcee",
            n_workers=n_workers,
            mapping=mapping,
            unit=unit,
            calibrate=calibrate,
            overwrite=overwrite,
        )
    record = read_comparison(comparison, estimator)
    with screen.progress("ranks of mocks") as report:
        written = make_figures(
            estimator,
            shown,
            record,
            output,
            row=row,
            n_mocks=n_mocks,
            seed=seed,
            progress=report,
        )
    remove_outdated(output, FILES)
    screen.note(f"wrote {', '.join(written)} to {output}/")


def _show(screen: "Screen", comparison: "Comparison") -> None:
    """A summary of each group; and the galaxies one by one, if they are few."""
    from sedcast.baselines.outcomes import PHYSICAL_NAMES
    from sedcast.baselines.report_tables import GROUPS, cost_rows, pair_rows, summarise
    from sedcast.posterior.quantities import SHOWN_QUANTITIES, with_unit

    for name, group in summarise(comparison).items():
        screen.table(f"{GROUPS[name].capitalize()}, medians of {group['n_galaxies']}", *cost_rows(group))
        if group["pairs"]:
            screen.table(f"How far apart, {GROUPS[name]}", *pair_rows(group))
        if group.get("calibration"):
            rows = [
                (method, one["n"], one["ks_p_min_holm_free"], one["ks_p_min_holm"])
                for method, one in group["calibration"].items()
            ]
            screen.table("Ranks of the truths: smallest KS p after Holm's correction", ("", "mocks", "free", "all"), rows)
    if len(comparison.galaxies) > _FEW:
        return
    columns = [PHYSICAL_NAMES.index(name) for name in SHOWN_QUANTITIES]
    for one in comparison.galaxies:
        values = {
            method: [f"{m:.3f} ± {(high - low) / 2:.3f}" for low, m, high in outcome.physical[:, columns].T]
            for method, outcome in one.outcomes.items()
            if not outcome.failed
        }
        lines = [(with_unit(name), *(cells[k] for cells in values.values())) for k, name in enumerate(SHOWN_QUANTITIES)]
        title = f"Galaxy {one.galaxy.name}, z = {one.galaxy.zred:.4f}: median ± half the 68% interval"
        screen.table(title, ("", *values), lines)
        for method, outcome in one.outcomes.items():
            if outcome.failed or outcome.converged is False:
                screen.note(f"{method}: {'failed: ' * outcome.failed}{outcome.reason}")
