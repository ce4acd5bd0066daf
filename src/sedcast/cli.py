"""The command line: `sedcast`. Everything heavy is imported inside the commands, so that ``--help`` answers at once."""

import io
import logging
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedcast._version import __version__
from sedcast.cli_common import (
    HDF5,
    MOCK_SEED,
    AsJson,
    CommandGroup,
    MockSeed,
    Overwrite,
    Scheduler,
    Seed,
    Workers,
    check_folder,
    check_picture,
    check_workers,
    check_writable,
    complain,
    end_in_order,
    ended,
    explain_os_error,
    load_posterior,
    make_screen,
    options,
    pool_of,
    replace_closed_streams,
    scalars,
    told_to_end,
)
from sedcast.cli_compare import add_compare_commands
from sedcast.cli_explore import add_explore_command
from sedcast.cli_fit import add_fit_command
from sedcast.cli_infer import add_infer_commands
from sedcast.cli_rerun import add_rerun_command
from sedcast.cli_setup import add_setup_commands
from sedcast.cli_ssp import ssp_app

if TYPE_CHECKING:
    from sedcast.console import Screen
    from sedcast.data.executors import TaskPool
    from sedcast.emulator.spectrum_emulator import EmulatorConfig
    from sedcast.emulator.speculator import SpeculatorConfig

__all__ = ["app", "main"]

logger = logging.getLogger(__name__)

EXIT_UNEXPECTED, EXIT_USER_ERROR = 1, 2
_SECONDS_BETWEEN_CURVES = 10.0

app = typer.Typer(
    name="sedcast",
    cls=CommandGroup,
    help="Full Bayesian posteriors of galaxy properties from photometry.",
    epilog="Start with:  sedcast demo    |    one galaxy of yours: sedcast fit --help    |    templates: sedcast init    |    "
    "check the installation: sedcast doctor    |    "
    "exit status: 0 done, 1 broken or unexpected, 2 an error of usage or input, 130 interrupted",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
train_app = typer.Typer(cls=CommandGroup, help="Train an emulator or a posterior.", no_args_is_help=True)
add_setup_commands(app)
add_compare_commands(app)
add_rerun_command(app)
add_infer_commands(app)
add_fit_command(app)
add_explore_command(app)
app.add_typer(train_app, name="train")
app.add_typer(ssp_app, name="ssp")


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file; 'sedcast init' writes templates.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sedcast {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    options.quiet, options.verbose, options.debug = quiet, verbose, debug


@app.command(epilog="Example:  sedcast demo -o my-demo")
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")] = Path("sedcast-demo"),
    n_galaxies: Annotated[int, typer.Option(min=10, max=10_000, help="How many galaxies of the bundled sample.")] = 300,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Infer real SDSS galaxies with the bundled posterior, compare one with MCMC, and write pictures."""
    screen = make_screen(as_json)
    from sedcast.demo import FILES, run_demo

    check_folder(output, FILES, overwrite=overwrite)
    summary = run_demo(output, n_galaxies=n_galaxies, seed=seed, screen=screen)
    if as_json:
        screen.result(summary)


@train_app.command("emulator", epilog="Example:  sedcast train emulator emulator.toml -o emulator.npz")
def train_emulator_command(
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Artifact to write.")] = Path("emulator.npz"),
    export: Annotated[
        Path | None, typer.Option("--export-speculator", metavar="FOLDER", help="Write files that Speculator reads, too.")
    ] = None,
    n_workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that run the simulator; by default two.")
    ] = None,
    scheduler: Scheduler = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a spectrum emulator: of the SPS model, or of any simulator that the file names.

    An interrupted training goes on where it stopped when the same command is given again. What it needs for that, and the
    spectra of a simulator, are kept beside OUTPUT.
    """
    screen = make_screen(as_json)
    from sedcast.data.errors import ParameterError
    from sedcast.emulator.published import EXPORTED
    from sedcast.emulator.speculator import SpeculatorConfig, load_emulator_config

    settings = load_emulator_config(config)
    check_writable(output, overwrite=overwrite)
    if export is not None:
        check_folder(export, EXPORTED, "--export-speculator", overwrite=overwrite)
    # A user's simulator is a module in the working folder, which a command does not look into as python does.
    sys.path.append(str(Path.cwd()))
    if not isinstance(settings, SpeculatorConfig) and (scheduler, n_workers) != (None, None):
        raise ParameterError("--scheduler and --workers make the spectra of a simulator: this configuration has none")
    if isinstance(settings, SpeculatorConfig):
        with pool_of(scheduler, n_workers) as pool:
            figures = _train_speculator(settings, output, export, screen, n_workers=n_workers or 2, pool=pool)
    else:
        figures = _train_composite(settings, output, export, screen)
    screen.note(f"wrote {output}")
    screen.result(figures if as_json else scalars(figures), title="Training figures")


def _train_speculator(
    settings: "SpeculatorConfig",
    output: Path,
    export: Path | None,
    screen: "Screen",
    *,
    n_workers: int,
    pool: "TaskPool | None",
) -> dict[str, Any]:
    from sedcast.emulator.published import export_speculator
    from sedcast.emulator.speculator import discard_checkpoints, train_speculator

    work = output.with_name(f"{output.name}.training")
    with screen.progress("spectra, then epochs of each segment") as report:
        emulator = train_speculator(settings, work, n_workers=n_workers, pool=pool, progress=report)
    emulator.save(output)
    if export is not None:
        screen.note(f"wrote {', '.join(path.name for path in export_speculator(emulator, export))} to {export}/")
    discard_checkpoints(work)
    screen.note(f"the training spectra stay in {work}/, for another training on them")
    return dict(emulator.card["figures"])


def _train_composite(settings: "EmulatorConfig", output: Path, export: Path | None, screen: "Screen") -> dict[str, Any]:
    from sedcast.data.errors import ParameterError
    from sedcast.emulator.composite_training import train_emulator

    if export is not None:
        raise ParameterError("--export-speculator: Speculator's format cannot hold the composite emulator; name a simulator")
    checkpoint = _checkpoint(output)
    with screen.progress("training the emulator, epochs") as report:
        emulator = train_emulator(settings, checkpoint=checkpoint, progress=report)
    emulator.save(output)
    checkpoint.unlink(missing_ok=True)
    return dict(emulator.card["figures"])


def _checkpoint(output: Path) -> Path:
    """``posterior.checkpoint.npz`` for ``posterior.npz``; any other ending stays in the name, which is that of one output."""
    return output.with_name(f"{output.name.removesuffix('.npz')}.checkpoint.npz")


def _note_curves(screen: "Screen", bands: Sequence[str]) -> None:
    """Say where the user's own filter curves are: one in nanometres may be a band in the ultraviolet."""
    from sedcast.data.filters import band_name, load_filter

    for path in bands:
        if (name := band_name(path)) != path:
            screen.note(f"band {name}: {load_filter(path).effective_wave:,.0f} Å at the mean")


@train_app.command("posterior", epilog="Example:  sedcast train posterior posterior.toml -o posterior.npz")
def train_posterior_command(
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Artifact to write.")] = Path("posterior.npz"),
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PNG", help="Draw the losses, again and again as it trains: .png or .pdf.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a posterior estimator on simulated galaxies.

    An interrupted training goes on where it stopped when the same command is given again.
    """
    screen = make_screen(as_json)
    from sedcast.data.config import load_config
    from sedcast.posterior.posterior_config import PosteriorConfig
    from sedcast.posterior.train import train_posterior
    from sedcast.posterior.train_bands import band_checkpoint

    settings = load_config(config, PosteriorConfig)
    check_writable(output, overwrite=overwrite)
    check_picture(plot, overwrite=overwrite)
    _note_curves(screen, settings.simulation.bands if settings.simulation else ())
    checkpoint, curves = _checkpoint(output), None if plot is None else _Curves(plot)
    with screen.progress("training the posterior") as report:
        estimator = train_posterior(settings, checkpoint=checkpoint, progress=report, on_epoch=curves)
    estimator.save(output)
    if curves is not None:
        # Of all parameters, as the losses that are reported; while it trained they were what the flow learns.
        curves.draw(estimator.card["history"])
        screen.note(f"wrote {plot}")
    for path in (checkpoint, band_checkpoint(checkpoint)):
        path.unlink(missing_ok=True)
    screen.note(f"wrote {output}")
    screen.result(scalars(estimator.card["figures"]), title="Training figures")


@dataclass
class _Curves:
    """The losses of a training, drawn into a file: after an epoch, but not more often than they can be looked at.

    A picture that cannot be written is no reason to end a training: it is told, once.
    """

    path: Path
    drawn: float = float("-inf")
    failed: bool = False

    def __call__(self, epochs: Sequence[Mapping[str, float]]) -> None:
        if time.monotonic() - self.drawn < _SECONDS_BETWEEN_CURVES:
            return
        try:
            self.draw(epochs)
        except OSError as error:
            if not self.failed:
                logger.warning("%s cannot be written now (%s): the training goes on", self.path, error.strerror)
            self.failed = True
        self.drawn = time.monotonic()

    def draw(self, epochs: Sequence[Mapping[str, float]]) -> None:
        from sedcast.plotting import save_figure
        from sedcast.plotting_training import training_plot

        save_figure(training_plot(epochs), self.path)


@app.command(epilog="Example:  sedcast simulate simulate.toml -o simulations.h5")
def simulate(
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file to write.")] = Path("simulations.h5"),
    scheduler: Scheduler = None,
    n_workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Simulate galaxies: draw from the prior, emulate, redshift, project, add noise.

    An interrupted simulation goes on where it stopped when the same command is given again.
    """
    screen = make_screen(as_json)
    from sedcast.data.config import load_config
    from sedcast.data.errors import ParameterError
    from sedcast.emulator.mass_simulation import simulate as run
    from sedcast.emulator.segments import partial_folder
    from sedcast.emulator.simulation import SimulationConfig

    settings = load_config(config, SimulationConfig)
    check_writable(output, overwrite=overwrite)
    _note_curves(screen, settings.bands)
    if output.suffix not in HDF5:
        raise ParameterError(f"-o {output}: expected a name that ends in .h5, for simulations are written as HDF5")
    partial = partial_folder(output)
    if any(partial.glob("segment-*.h5")):
        screen.note(f"resuming the interrupted simulation in {partial}/")
    check_workers(scheduler, n_workers)
    started = time.perf_counter()
    with pool_of(scheduler, n_workers) as pool, screen.progress("simulating") as report:
        figures = run(settings, output, pool=pool, progress=report)
    seconds = time.perf_counter() - started
    rate = (figures["n_galaxies"] - figures["n_resumed"]) / seconds
    screen.note(f"wrote {output}" + (f"; {figures['n_resumed']:,} galaxies were there" if figures["n_resumed"] else ""))
    screen.result(figures | {"wall_s": seconds, "galaxies_per_s": rate}, title="Simulation")


@app.command(epilog="Example:  sedcast validate bundled -o validation    |    quick: sedcast validate bundled -n 1000")
def validate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Posterior artifact, or bundled one: sdss-ugriz, galex-sdss, sdss-photoz."),
    ] = "bundled",
    n_mocks: Annotated[int, typer.Option("-n", "--n-mocks", min=20, help="Mock galaxies to draw.")] = 10_000,
    n_samples: Annotated[int, typer.Option(min=1, help="Posterior samples per mock, each one of four draws.")] = 100,
    seed: MockSeed = MOCK_SEED,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for plots and validation.json.")] = None,
    refine: Annotated[
        int | None,
        typer.Option(min=20, metavar="MOCKS", help="Test refined samples too, on so many mocks: part of a second each."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Test a posterior's calibration on fresh mock galaxies with known parameters.

    Ranks of every parameter and joint coverage, over all mocks, within quartiles of redshift and of signal to noise, and for
    truths at the prior's edges; again for classes of measured bands, if the posterior takes any subset of its bands.
    """
    screen = make_screen(as_json)
    from sedcast.data.outputs import remove_outdated
    from sedcast.emulator.simulation import noise_model
    from sedcast.posterior.importance import Refiner
    from sedcast.posterior.outlier_training import training_simulation, training_simulator
    from sedcast.validation import FILES, validate_estimator, validate_refined, validation_figures, write_validation

    if output is not None:
        check_folder(output, FILES, overwrite=overwrite)
    estimator = load_posterior(model)
    if refine is not None:
        estimator.refuse_inferred_redshift("--refine")
    simulator, settings = training_simulator(estimator), training_simulation(estimator)
    with screen.progress("testing on mocks") as report:
        results = validate_estimator(
            estimator,
            simulator,
            noise_model(settings),
            n_mocks=n_mocks,
            n_samples=n_samples,
            seed=seed,
            progress=report,
        )
    refined = None
    if refine is not None:
        with screen.progress("refining mocks") as report:
            refined = validate_refined(
                Refiner(estimator, simulator),
                simulator,
                noise_model(settings),
                n_mocks=refine,
                n_samples=n_samples,
                seed=seed,
                progress=report,
            )
    figures = validation_figures(results, refined)
    written = [] if output is None else write_validation(results, output, refined)
    if output is not None:
        remove_outdated(output, FILES)
    for name, result in results.items():
        p_values = result.to_json_dict()
        rows = [(quantity, p, p_values["ks_p_holm"][quantity]) for quantity, p in p_values["ks_p"].items()]
        screen.table(f"Are the ranks uniform? {name}", ("quantity", "KS p-value", "Holm's"), rows)
        screen.table(f"Against the bars, {name}", ("figure", "value", "bar", ""), [check.as_row() for check in result.checks()])
    if refined is not None:
        pairs = zip(refined.refined.names, refined.refined.ks_p, refined.flow.ks_p, strict=True)
        screen.table(f"Refined samples of {refine} mocks", ("quantity", "KS p-value", "not refined"), list(pairs))
        screen.table("", ("figure", "value"), list(scalars(refined.to_json_dict()).items()))
    if written:
        screen.note(f"wrote {', '.join(written)} to {output}/")
    screen.result(figures if as_json else scalars(figures), title=f"Calibration of {estimator.name}")


def main() -> None:
    """Run the command line: user errors end with one line and status 2, unexpected ones with status 1."""
    replace_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal's encoding lacks is no reason to end, as on standard error.
        sys.stdout.reconfigure(errors="replace")
    try:
        end_in_order()
        app(prog_name="sedcast")
    except KeyboardInterrupt:
        raise ended() from None
    except SystemExit as error:
        # Before a command runs, Typer ends in silence and as after Ctrl-C.
        if error.code == 128 + signal.SIGINT and told_to_end():
            raise ended() from None
        raise
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        from sedcast.console import printable
        from sedcast.data.errors import SedcastError

        said = str(error) if isinstance(error, SedcastError) else explain_os_error(error)
        status = EXIT_UNEXPECTED if said is None else EXIT_USER_ERROR
        if said is None:
            said = f"unexpected {type(error).__name__}: {error} ('sedcast --debug ...' shows where)"
        complain(printable(said))
        raise SystemExit(status) from None


if __name__ == "__main__":
    main()
