"""Kills, full disks, interruptions and two runs at once, at reduced count; the benchmark `faults` has the full one."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.kills import FAULTS, make_tasks
from sedcast.cli import app
from sedcast.cli_common import check_writable, explain_os_error
from sedcast.data.artifacts import atomic_path, load_artifact, reserve, save_artifact
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.data.hdf5 import NewHDF5
from sedcast.data.locks import output_lock

ROOT = Path(__file__).parent.parent


def faults(*arguments: str) -> dict[str, Any]:
    """The benchmark in a process of its own, which forks: this one may have TensorFlow's threads."""
    command = [sys.executable, "-m", "benchmarks", "faults", "--inputs", "0", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_killed_commands_lose_nothing() -> None:
    figures = faults("--kills", "2", "--commands", "infer", "--no-faults")
    assert (figures["kills"], figures["problems"]) == (2, [])


def test_other_faults_lose_nothing() -> None:
    figures = faults("--kills", "2", "--commands", "simulate")
    assert (figures["kills"], figures["problems"]) == (2, [])
    survived = {figures["commands"]["simulate"][fault] for fault in FAULTS}
    assert survived == {"survived"}


def test_tasks_name_their_commands(tmp_path: Path) -> None:
    assert [task.name for task in make_tasks(tmp_path)] == [
        "simulate",
        "infer",
        "train posterior",
        "train emulator",
        "compare",
    ]


def test_what_a_dead_process_left_is_deleted_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with atomic_path(tmp_path / "x.npz") as temporary:
        temporary.write_bytes(b"")
    stem = temporary.name.removesuffix(f"{os.getpid()}.part")
    left, others = tmp_path / f"{stem}{dead.pid}.part", tmp_path / f"{stem}{os.getppid()}.part"
    for path in (left, others):
        path.write_bytes(b"unfinished")
    save_artifact(tmp_path / "x.npz", "thing", {}, {}, overwrite=True)
    assert not left.exists()
    assert others.exists()
    assert load_artifact(tmp_path / "x.npz", "thing")[0] == {}


def test_file_and_folder_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (flushed.append(os.readlink(f"/proc/self/fd/{number}")), real(number))[1])
    with atomic_path(tmp_path / "x") as temporary:
        temporary.write_bytes(b"1")
        assert not (tmp_path / "x").exists()
    assert flushed == [str(temporary), str(tmp_path)]


def test_a_full_disk_while_an_artifact_is_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_artifact(tmp_path / "x.npz", "thing", {}, {"version": 1})

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x.npz")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space") as caught:
            save_artifact(tmp_path / "x.npz", "thing", {}, {"version": 2}, overwrite=True)
    assert str(explain_os_error(caught.value)) == (
        f"cannot write {tmp_path / 'x.npz'}: the disk is full; free some space and repeat the command"
    )
    assert load_artifact(tmp_path / "x.npz", "thing")[1]["version"] == 1
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", lambda *_: full(0))
        (tmp_path / "y").touch()
        with pytest.raises(OSError, match="No space"):
            reserve(tmp_path / "y", 1 << 40)


def test_errors_of_files_are_explained() -> None:
    assert "no permission for /x" in str(explain_os_error(PermissionError(errno.EACCES, "Permission denied", "/x")))
    assert "the disk is full" in str(explain_os_error(RuntimeError("Can't write (errno = 28, error message = 'No space')")))
    assert explain_os_error(ValueError("x")) is None


def test_a_full_disk_is_known_by_numpys_words_too(tmp_path: Path) -> None:
    """They have no number: written as `sedcast fit -o galaxy.fits` writes."""
    code = (
        "import resource, sys; import numpy as np; from astropy.table import Table\n"
        "from sedcast.cli_common import explain_os_error\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))\n"
        "try: Table({'a': np.zeros(100_000)}).write(sys.argv[1])\n"
        "except OSError as error: print(error.errno, explain_os_error(error))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.fits")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None cannot write a file: the disk is full"), done.stdout


def test_an_unfinished_file_that_is_deleted_meanwhile_is_missed(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "x.h5") as temporary, NewHDF5(temporary, 1 << 12) as file:
            file["values"] = np.arange(10)
            temporary.unlink()
            file.make_room(1 << 20)

    with pytest.raises(FileNotFoundError):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "kept"), [("train emulator", True), ("ssp build", False)])
def test_finished_parts_are_promised_by_commands_that_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kept: bool
) -> None:
    def full(*_: Any, **__: Any) -> None:
        with atomic_path(tmp_path / "out.npz") as temporary:
            temporary.touch()
            # What astropy.io.fits raises names no file.
            raise OSError("600 requested and 512 written")

    monkeypatch.setattr("sedcast.cli.check_writable" if kept else "sedcast.cli_ssp.check_writable", full)
    (tmp_path / "c.toml").write_text("")
    given = [str(tmp_path / "c.toml")] if kept else ["--from", "popstar"]
    result = CliRunner().invoke(app, [*command.split(), *given, "-o", str(tmp_path / "out.npz")])
    assert str(explain_os_error(result.exception)) == (
        f"cannot write {tmp_path / 'out.npz'}: the disk is full; free some space and repeat the command"
        + (", finished parts are kept" if kept else "")
    )
    assert not (tmp_path / "out.npz").exists()


def test_the_second_of_two_runs_is_refused_and_the_lock_goes(tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    with output_lock(output):
        code = "import sys; from sedcast.data.locks import output_lock\nwith output_lock(sys.argv[1]): pass"
        second = subprocess.run([sys.executable, "-c", code, output], capture_output=True, text=True, check=False)
        assert "another process is writing" in second.stderr
        with pytest.raises(ConfigError, match="another process"), output_lock(output):
            pass
    assert list(tmp_path.iterdir()) == []
    with output_lock(output):
        pass


def test_the_working_folder_is_locked_under_its_full_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in (".", "", folder / "."):
        with output_lock(name), pytest.raises(ConfigError, match="another process"), output_lock(folder):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_folder_beside_which_nothing_can_be_written_holds_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    # A superuser may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, _: path == folder)
    with output_lock(folder):
        assert [path.name for path in folder.iterdir()] == [".home.lock"]
    assert list(folder.iterdir()) == []


def test_a_name_that_leaves_no_room_for_unfinished_files_is_refused(tmp_path: Path) -> None:
    output = tmp_path / f"{'é' * 120}.fits"
    with pytest.raises(ParameterError, match="the name has 245 bytes, and may have"):
        check_writable(output, overwrite=False)
    assert list(tmp_path.iterdir()) == []
    check_writable(tmp_path / f"{'a' * 80}.fits", overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_device_or_pipe_is_replaced(tmp_path: Path, overwrite: bool) -> None:
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    with pytest.raises(ParameterError, match="a device or a pipe"):
        check_writable(pipe, overwrite=overwrite)
    with pytest.raises(ParameterError, match="a device or a pipe"):
        save_artifact(pipe, "thing", {}, {}, overwrite=overwrite)
    assert pipe.is_fifo()


def test_schemas_of_other_versions_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sedcast.data import artifacts

    for schema, advice in ((artifacts.SCHEMA_VERSION + 1, "update sedcast"), (0, "use the sedcast that wrote it")):
        with monkeypatch.context() as patched:
            patched.setattr(artifacts, "SCHEMA_VERSION", schema)
            save_artifact(tmp_path / "x.npz", "thing", {}, {}, overwrite=True)
        with pytest.raises(ArtifactError, match=f"schema version {schema}.*{advice}"):
            load_artifact(tmp_path / "x.npz", "thing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_told_to_end_says_so_and_leaves_no_lock(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import os, signal, sys; from sedcast import cli, cli_infer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"cli_infer.load_posterior = lambda _: os.kill(os.getpid(), {int(number)})\n"
        "sys.argv = ['sedcast', 'infer', 'sdss', '-o', 'out.fits']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    said = "interrupted" if number == signal.SIGINT else "told to end"
    assert done.stderr == f"sedcast: {said}; the work goes on from where it was when the same command is given again\n"
    assert list(tmp_path.iterdir()) == []


def test_what_ends_a_command_is_known_after_its_chains_have_kept_their_states(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from sedcast import cli, cli_infer\n"
        "from sedcast.baselines.mcmc import run_emcee; from sedcast.baselines.mcmc_result import McmcConfig\n"
        "sys.path.insert(0, sys.argv[1]); from test_mcmc_analytic import galaxy\n"
        "def chains(_):\n"
        "    def kill(*_): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    result = run_emcee(galaxy(), McmcConfig(n_walkers=24, check_every=100), progress=kill)\n"
        "    print(result.reason, flush=True); result.unless_interrupted()\n"
        "cli_infer.load_posterior = chains\n"
        "sys.argv = ['sedcast', 'infer', 'sdss', '-o', 'out.h5']; cli.main()"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "interrupted" in done.stdout
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "sedcast: told to end\n")


@pytest.mark.parametrize("arguments", [["ssp", "info"], ["ssp", "info", "--json"]])
def test_a_reader_that_has_enough_is_no_error(arguments: list[str]) -> None:
    code = f"import sys; from sedcast.cli import main; sys.argv = ['sedcast', *{arguments}]; main()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_an_error_that_nobody_can_hear_keeps_its_status(closed: str, tmp_path: Path) -> None:
    if "full" in closed and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = f"exec {sys.executable} -m sedcast infer absent.csv -o out.h5 {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_told_to_end_before_a_command_runs() -> None:
    code = (
        "import os, signal, sys; from sedcast import cli\n"
        "cli.CommandGroup.get_command = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.argv = ['sedcast', 'demo']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (128 + signal.SIGTERM, "sedcast: told to end")
