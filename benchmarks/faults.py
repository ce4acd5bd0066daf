"""Commands killed, disks filled and files spoilt: `runs_lost` and `unhandled` must be 0."""

import argparse
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import note, positive
from benchmarks.kills import FAULTS, kill_and_resume, make_tasks, run_fault
from sedcast.data.errors import ParameterError

# What the commands import sooner or later, imported once before they are forked.
_IMPORTED = ("sedcast.cli", "sedcast.posterior.streaming", "sedcast.posterior.train", "sedcast.emulator.speculator")
# Imported only: its first operation, after which it cannot be forked, is the child's.
_IMPORTED_TO_TRAIN = ("tensorflow", "tensorflow_probability")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=50, help="kill -9, shared among the commands")
    parser.add_argument("--inputs", type=int, default=20_000, help="spoilt files to read")
    parser.add_argument("--commands", default="simulate,infer,train posterior,train emulator,compare", help="to kill")
    parser.add_argument("--no-faults", action="store_true", help="leave out full disks, Ctrl-C and their like")
    parser.add_argument("--workers", type=positive, default=2, help="processes that read spoilt files")


def run(options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"kills": 0, "runs_lost": 0, "inputs": 0, "unhandled": 0}
    folder = Path(tempfile.mkdtemp(prefix="sedcast-faults-"))
    # An unprivileged child is to reach its folder.
    folder.chmod(0o755)
    try:
        figures |= _commands(options, folder / "commands")
        if options.inputs:
            # Imported late: these need what a run without them does not.
            from benchmarks.fuzz import run_fuzzer

            figures |= run_fuzzer(folder / "inputs", options.inputs, seed=options.seed, n_workers=options.workers)
    finally:
        shutil.rmtree(folder)
    return figures


def _commands(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    wanted = options.commands.split(",") if options.commands else []
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}
    for module in _IMPORTED + (_IMPORTED_TO_TRAIN if any(name.startswith("train") for name in wanted) else ()):
        importlib.import_module(module)
    known = make_tasks(folder / "inputs")
    if unknown := set(wanted) - {task.name for task in known}:
        raise ParameterError(f"--commands {', '.join(sorted(unknown))}: expected some of {', '.join(t.name for t in known)}")
    tasks = [task for task in known if task.name in wanted]
    rng = np.random.default_rng(options.seed)
    by_command: dict[str, Any] = {}
    problems: list[str] = []
    for number, task in enumerate(tasks):
        n_kills = (options.kills + number) // len(tasks)
        place = folder / task.name.replace(" ", "-")
        by_command[task.name] = kill_and_resume(task, place, n_kills, rng)
        problems += [f"{task.name}: {problem}" for problem in by_command[task.name]["lost"]]
        for fault in () if options.no_faults else FAULTS:
            here = place / fault.replace(" ", "-")
            problem = run_fault(fault, task, here, place / "reference")
            by_command[task.name][fault] = problem or "survived"
            problems += [f"{task.name}, {fault}: {problem}"] if problem else []
            note(f"  {task.name}, {fault}: {problem or 'survived'}")
    figures = {"kills": sum(found["kills"] for found in by_command.values()), "runs_lost": len(problems)}
    return figures | {"problems": problems, "commands": by_command}
