"""`sedcast init` and `sedcast doctor`: templates to start from, and a check of the installation."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from sedcast._version import __version__
from sedcast.cli_common import AsJson, Overwrite, make_screen, refuse_file
from sedcast.cli_report import report

__all__ = ["add_setup_commands", "check_installation"]

EXIT_FAILED = 1
_N_TESTED, _N_SAMPLES, _WORST_RESIDUAL = 16, 200, 0.1


class Template(StrEnum):
    """The configurations that `sedcast init` can write."""

    EMULATOR = "emulator"
    SIMULATE = "simulate"
    POSTERIOR = "posterior"
    MAPPING = "mapping"


def add_setup_commands(app: typer.Typer) -> None:
    """Give a program the commands `init`, `doctor` and `report`."""
    app.command(
        epilog="Examples:  sedcast init    |    one of them: sedcast init posterior -o my-project    |    "
        "a bundled mapping to edit: sedcast init mapping --like desi-legacy"
    )(init)
    app.command(epilog="Example:  sedcast doctor")(doctor)
    app.command(epilog="Example:  sedcast report posteriors.h5 -o report.html --rows 0,5,12")(report)


def init(
    templates: Annotated[list[Template] | None, typer.Argument(help="Which to write; all of them by default.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")] = Path(),
    like: Annotated[
        str | None, typer.Option(metavar="NAME", help="With mapping: a copy of this bundled one, NAME.toml, to edit.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write commented configuration templates, for `simulate`, `train` and `--mapping`."""
    screen = make_screen()
    from sedcast.data.errors import ParameterError
    from sedcast.data.mapping import bundled_mapping
    from sedcast.data.outputs import check_replaceable, write_text

    refuse_file(output)
    if like is not None:
        if templates != [Template.MAPPING]:
            raise ParameterError(f"--like {like} is of the mapping alone: sedcast init mapping --like {like}")
        name = f"{like}.toml"
        copied = bundled_mapping(like).read_text(encoding="utf-8")
        wanted = {output / name: f"# sedcast infer mine.fits --mapping {name} -o mine.h5\n{copied}"}
    else:
        held = files("sedcast") / "examples"
        names = [f"{template}.toml" for template in templates or Template]
        wanted = {output / name: (held / name).read_text(encoding="utf-8") for name in names}
    # A template that is there as it would be written is no loss; one that was filled in is.
    check_replaceable(
        (path for path, text in wanted.items() if not (path.is_file() and path.read_bytes() == text.encode())),
        overwrite=overwrite,
    )
    for path, text in wanted.items():
        try:
            write_text(path, text)
        except OSError as error:
            raise ParameterError(f"-o {output}: cannot write {path} ({error.strerror})") from error
        command = text.splitlines()[0].lstrip("# ").replace(path.name, shlex.quote(str(path)))
        screen.note(f"wrote {path}; use it with:  {command}")


def doctor(as_json: AsJson = False) -> None:
    """Check the installation: versions, data, trained files, the compiled sampler, and a small inference.

    Ends with status 1 if anything that sedcast needs is broken; FSPS and the compiled sampler are optional.
    """
    screen = make_screen(as_json)
    checks = check_installation()
    failed = [name for name, (state, _) in checks.items() if state == "FAILED"]
    screen.table("Installation", ("check", "state", "finding"), [(name, *found) for name, found in checks.items()])
    if as_json:
        screen.result(
            {"ok": not failed, "checks": {name: {"state": state, "finding": said} for name, (state, said) in checks.items()}}
        )
    else:
        screen.note(f"broken: {', '.join(failed)}" if failed else "sedcast is ready: try 'sedcast demo'")
    if failed:
        raise typer.Exit(EXIT_FAILED)


def check_installation() -> dict[str, tuple[str, str]]:
    """What `sedcast doctor` finds, by check: ``ok``, ``note`` (optional, absent) or ``FAILED``, and a line about it."""
    checks: dict[str, Callable[[], tuple[str, str]]] = {
        "python": lambda: ("ok", f"{sys.version.split()[0]} at {sys.executable}, sedcast {__version__}"),
        "packages": _packages,
        "SPS_HOME": _sps_home,
        "compiled sampler": _sampler,
    }
    found = {name: _guarded(check) for name, check in checks.items()}
    held = (files("sedcast.data") / "bundled").iterdir()
    bundled = sorted((entry for entry in held if entry.name.endswith(".npz")), key=lambda entry: entry.name)
    for entry in bundled:
        found[entry.name] = _guarded(lambda path=Path(str(entry)): _artifact(path))  # type: ignore[misc]
    found["self-test"] = _guarded(_self_test)
    return found


def _guarded(check: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    # Whatever breaks in an installation is a finding here, not an error of the program.
    try:
        return check()
    except Exception as error:
        return "FAILED", f"{type(error).__name__}: {error}"


def _packages() -> tuple[str, str]:
    from sedcast.data.artifacts import software_versions

    return "ok", ", ".join(f"{name} {version}" for name, version in software_versions().items())


def _sps_home() -> tuple[str, str]:
    from sedcast.data.fsps_link import missing_folders

    home = os.environ.get("SPS_HOME")
    if not home:
        return "note", "not set; only needed to make spectra with FSPS"
    if missing := missing_folders(home):
        return "note", f"{home} has no folder {', '.join(missing)}: for spectra of FSPS, set it to the folder of its data"
    return "ok", home


def _sampler() -> tuple[str, str]:
    from sedcast.posterior.flow_kernel import kernel_library

    if kernel_library() is None:
        return "note", "not built, or the processor has no AVX2: samples are drawn with NumPy, at half the speed"
    return "ok", "present"


def _artifact(path: Path) -> tuple[str, str]:
    from sedcast.data.artifacts import load_artifact, read_card

    _, card = load_artifact(path, read_card(path)["kind"])
    return "ok", f"{card['kind']}, sha256 {card['sha256'][:12]}… verified"


def _self_test() -> tuple[str, str]:
    """Infer galaxies of the bundled sample, and predict from their posteriors the r fluxes that were observed."""
    import numpy as np

    from sedcast.data.catalog import load_sdss_sample
    from sedcast.emulator.simulation import PhotometrySimulator
    from sedcast.emulator.spectrum_emulator import SpectrumEmulator
    from sedcast.posterior.estimator import PosteriorEstimator

    started = time.perf_counter()
    estimator, emulator = PosteriorEstimator.default(), SpectrumEmulator.default()
    catalog = load_sdss_sample(bands=estimator.bands)
    catalog = catalog.subset(np.flatnonzero(estimator.status(catalog).ok)[:_N_TESTED])
    theta = estimator.sample(catalog.flux, catalog.flux_ivar, catalog.zred, _N_SAMPLES, seed=0).reshape(-1, 12)
    zred = np.repeat(catalog.zred, _N_SAMPLES)
    simulator = PhotometrySimulator(emulator, estimator.bands, float(zred.max()))
    predicted = np.median(simulator.flux(theta, zred).reshape(_N_TESTED, _N_SAMPLES, -1), axis=1)
    band = estimator.bands.index("r")
    residual = float(np.median(np.abs(2.5 * np.log10(predicted[:, band] / catalog.flux[:, band]))))
    said = f"{_N_TESTED} galaxies inferred in {time.perf_counter() - started:.1f} s; r predicted to {residual:.3f} mag"
    return ("ok" if residual < _WORST_RESIDUAL else "FAILED"), said
