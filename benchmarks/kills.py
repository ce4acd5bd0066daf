"""Commands killed at random moments and begun again, until their outputs can be compared with those of runs left alone."""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from benchmarks.common import note
from sedcast.data.artifacts import load_artifact, read_card
from sedcast.rerun import without_times

__all__ = ["FAULTS", "Task", "kill_and_resume", "make_tasks", "run_fault"]

_EPOCH = "1700000000"
# It is over the times too.
_NO_CHECKSUM = {"sha256": None}
_SIMULATE = "n_galaxies = 5000\nseed = 3\n"
_POSTERIOR = """
name = "tiny"
[simulation]
n_galaxies = 1500
[amplitudes]
n_galaxies = 1500
hidden = [8]
burst_hidden = [8]
steps = 300
batch_size = 256
[flow]
n_blocks = 1
hidden = [16]
[training]
max_epochs = 3
batch_size = 64
checkpoint_minutes = 0.0
[outliers]
n_fit = 300
n_calibration = 500
n_components = 2
"""
_EMULATOR = """
simulator = "composite-ssp"
n_train = 600
n_test = 64
segment_edges = [3000.0, 5000.0, 7000.0]
pca_tolerance = 1e-2
max_pca = 8
[parameters]
beta_stick1 = {prior = "power", exponent = 3, min = 0, max = 1}
beta_stick2 = {prior = "power", exponent = 2, min = 0, max = 1}
beta_stick3 = {prior = "uniform", min = 0, max = 1}
gamma1_zh = {prior = "log-uniform", min = 4.5e-5, max = 1.5e-2}
gamma2_zh = {prior = "log-uniform", min = 4.5e-5, max = 1.5e-2}
dust1 = {prior = "uniform", min = 0, max = 3}
dust2 = {prior = "uniform", min = 0, max = 3}
dust_index = {prior = "uniform", min = -2, max = 1}
t_age_gyr = {prior = "uniform", min = 10.0, max = 13.79}
[network]
hidden = [16]
batch_size = 64
epochs = 10
checkpoint_minutes = 0.0
"""


@dataclass(frozen=True)
class Task:
    """A command, run in a folder of its own.

    Attributes
    ----------
    arguments : of the command line.
    outputs : final names in the folder.
    same : whether two finished outputs of one name are the same.
    exactly : what that means.
    """

    name: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    same: Callable[[Path, Path], bool]
    exactly: str = "byte-identical files"


def _same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def _same_artifact(one: Path, other: Path) -> bool:
    """Whether arrays are the same to the last bit, and cards but for the seconds that it took."""
    (arrays, card), (others, other_card) = (load_artifact(path, str(read_card(path)["kind"])) for path in (one, other))
    return (
        arrays.keys() == others.keys()
        and all(values.tobytes() == others[name].tobytes() for name, values in arrays.items())
        and without_times(card | _NO_CHECKSUM) == without_times(other_card | _NO_CHECKSUM)
    )


def _same_comparison(one: Path, other: Path) -> bool:
    """Whether every number of a comparison is the same but for the seconds that it took."""
    cards = [without_times(json.loads((path / "comparison.json").read_text(encoding="utf-8"))) for path in (one, other)]
    for card in cards:
        card["about"].pop("fsps", None)
        # It has a digest of the whole text, seconds included.
        card.pop("made_by")
    return bool(cards[0] == cards[1])


def make_tasks(folder: Path) -> list[Task]:
    """Write the inputs of the tasks, each of a few seconds, to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    texts = {
        "simulate": _SIMULATE,
        "posterior": _POSTERIOR,
        "emulator": _EMULATOR,
    }
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    rng, n = np.random.default_rng(1), 400
    flux = 50 * 10 ** rng.normal(0, 0.2, (n, 1)) * np.array([0.1, 0.2, 0.3, 1, 2, 3, 4]) * rng.normal(1, 0.03, (n, 7))
    columns = {"NSAID": np.arange(n), "Z": rng.uniform(0.03, 0.15, n), "ELPETRO_NMGY": flux}
    Table(columns | {"ELPETRO_NMGY_IVAR": (0.03 * flux) ** -2.0}).write(folder / "nsa.fits", overwrite=True)
    infer = ("infer", str(folder / "nsa.fits"), "--mapping", "nsa-v1", "--n-samples", "100")
    artifact = "arrays identical to the last bit; cards but for the seconds it took"
    return [
        Task("simulate", ("simulate", str(folder / "simulate.toml"), "-o", "out.h5"), ("out.h5",), _same_bytes),
        Task("infer", (*infer, "-o", "out.fits", "--samples", "samples.h5"), ("out.fits", "samples.h5"), _same_bytes),
        Task(
            "train posterior",
            ("train", "posterior", str(folder / "posterior.toml"), "-o", "out.npz"),
            ("out.npz",),
            _same_artifact,
            artifact,
        ),
        Task(
            "train emulator",
            ("train", "emulator", str(folder / "emulator.toml"), "-o", "out.npz", "--workers", "1"),
            ("out.npz",),
            _same_artifact,
            artifact,
        ),
        Task(
            "compare",
            ("compare", "sdss", "--rows", "1,2", "--methods", "flow,emcee", "--target-ess", "50", "--max-steps", "400",
             "--workers", "1", "-o", "out"),
            ("out",),
            _same_comparison,
            "numbers identical to the last bit but for the seconds it took",
        ),
    ]  # fmt: skip


def _start(task: Task, folder: Path, prepare: Callable[[], None] | None = None) -> int:
    """The command in a child of this process, which has everything but TensorFlow imported already; returns its number."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.fork()
    if number:
        # Here and there, so that the group is there before either goes on.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(number, number)
        return number
    status = 1
    try:
        os.setpgid(0, 0)
        # A shell that starts this in the background has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ["SOURCE_DATE_EPOCH"] = _EPOCH
        with (folder.parent / f"{folder.name}.log").open("w", encoding="utf-8") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        from sedcast import cli
        from sedcast.emulator import mass_simulation, simulation
        from sedcast.posterior import streaming

        # Several segments in a short time.
        streaming.ROWS_PER_SEGMENT, mass_simulation._CHUNKS_PER_SEGMENT = 50, 1
        simulation.PROPOSALS_PER_CHUNK = mass_simulation.PROPOSALS_PER_CHUNK = 2048
        sys.argv = ["sedcast", "--quiet", *task.arguments]
        if prepare is not None:
            prepare()
        cli.main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _wait(number: int, seconds: float) -> int | None:
    """The status of a child (negative for a signal), or None if it still runs after some seconds."""
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)


def _kill(number: int) -> None:
    # The group: worker processes that it has started must not go on without it.
    os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)


def _wrong(task: Task, folder: Path, reference: Path) -> list[str]:
    """Outputs under their final names that are not what the run left alone wrote."""
    return [name for name in task.outputs if _stands(folder / name) and not task.same(folder / name, reference / name)]


def _stands(output: Path) -> bool:
    """Whether an output is there; a folder is one when its last file is."""
    return output.is_file() or (output / "comparison.json").is_file()


def _left(task: Task, folder: Path) -> list[str]:
    """Names that a finished run leaves besides its outputs."""
    allowed = {*task.outputs, "out.npz.training"}
    return [path.name for path in folder.iterdir() if path.name not in allowed]


def reference_run(task: Task, folder: Path) -> float:
    """Run a task undisturbed; returns its seconds."""
    started = time.monotonic()
    status = _wait(_start(task, folder), 600)
    if status != 0:
        log = (folder.parent / f"{folder.name}.log").read_text(encoding="utf-8")
        raise RuntimeError(f"{task.name} fails by itself, with status {status}: {log[-1500:]}")
    return time.monotonic() - started


def kill_and_resume(task: Task, folder: Path, n_kills: int, rng: np.random.Generator) -> dict[str, Any]:
    """Kill a task `n_kills` times at random moments, letting it go on in between and to its end after the last.

    Returns
    -------
    figures : ``kills``, ``runs`` (brought to their end), ``lost`` (what went wrong, each), ``seconds`` of the run left alone.
    """
    # The first run of all imports and caches more than those after it.
    seconds = min(reference_run(task, folder / name) for name in ("before", "reference"))
    kills, runs = 0, 0
    lost = [f"{name} differs between two runs left alone" for name in _wrong(task, folder / "before", folder / "reference")]
    while kills < n_kills or not runs:
        here, finished = folder / str(runs), False
        # Half of the kills fall on a run that others have brought some way.
        while not finished:
            number = _start(task, here)
            patience = float(rng.uniform(0, seconds)) if kills < n_kills else 600.0
            status = _wait(number, patience)
            if status is None and kills < n_kills:
                _kill(number)
                kills += 1
            elif status is None:
                _kill(number)
                lost.append("did not end")
                finished = True
            else:
                finished = True
                if status:
                    lost.append(f"status {status}: {(folder / f'{runs}.log').read_text(encoding='utf-8')[-300:]}")
            lost += [f"{name} is not what it should be" for name in _wrong(task, here, folder / "reference")]
        absent = [name for name in task.outputs if not _stands(here / name)]
        lost += [f"{name} is missing" for name in absent] + [f"{name} is left over" for name in _left(task, here)]
        shutil.rmtree(here)
        runs += 1
    note(f"  {task.name}: {kills} kills, {runs} runs to the end, {len(lost)} lost; {seconds:.1f} s undisturbed")
    return {"kills": kills, "runs": runs, "lost": lost, "seconds": seconds, "compared": task.exactly}


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))


def _unprivileged() -> None:
    """An unwritable folder; and without its capabilities even root may not write there."""
    Path.cwd().chmod(0o555)
    if os.geteuid() == 0:
        version, nothing = 0x20080522, (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(version, 0), nothing)


def _full_disk(task: Task, folder: Path) -> str:
    """Files cannot grow; then they can."""
    status, said = _said(_start(task, folder, _limited), folder, 600)
    if status != 2 or "disk is full" not in said:
        return f"status {status}: {said}"
    return "" if not any(_stands(folder / name) for name in task.outputs) else "an output is there"


def _unwritable(task: Task, folder: Path) -> str:
    status, said = _said(_start(task, folder, _unprivileged), folder, 600)
    folder.chmod(0o755)
    return "" if status == 2 and ("cannot write" in said or "no permission" in said) else f"status {status}: {said}"


def _until_locked(folder: Path) -> None:
    """Wait for a command to have checked what it was given and to begin."""
    until = time.monotonic() + 300
    while not any(folder.glob(".*.lock")) and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(0.05)


def _interrupted(task: Task, folder: Path) -> str:
    number = _start(task, folder)
    _until_locked(folder)
    os.kill(number, signal.SIGINT)
    status, said = _said(number, folder, 60)
    return "" if status == 130 and "interrupted" in said else f"status {status}: {said}"


def _two_runs(task: Task, folder: Path) -> str:
    first = _start(task, folder)
    _until_locked(folder)
    kept = folder.parent / f"{folder.name}.log"
    status, said = _said(_start(task, folder), folder, 600)
    if status != 2 or "another process is writing" not in said:
        return f"the second run had status {status}: {said}"
    if (status := _wait(first, 600)) != 0:
        return f"the first run had status {status}: {kept.read_text(encoding='utf-8')[-400:]}"
    return ""


def _said(number: int, folder: Path, seconds: float) -> tuple[int | None, str]:
    status = _wait(number, seconds)
    if status is None:
        _kill(number)
    return status, (folder.parent / f"{folder.name}.log").read_text(encoding="utf-8")[-400:].strip()


FAULTS: dict[str, Callable[[Task, Path], str]] = {
    "full disk": _full_disk,
    "unwritable folder": _unwritable,
    "Ctrl-C": _interrupted,
    "two runs at once": _two_runs,
}
"""What else goes wrong; each returns why a task did not take it as it should, or nothing."""


def run_fault(fault: str, task: Task, folder: Path, reference: Path) -> str:
    """Let a fault happen to a task, then run it to its end; returns what went wrong, or nothing."""
    if problem := FAULTS[fault](task, folder):
        return problem
    status, said = _said(_start(task, folder), folder, 600)
    if status != 0:
        return f"afterwards, status {status}: {said}"
    return ", ".join(f"{name} is another" for name in _wrong(task, folder, reference))
