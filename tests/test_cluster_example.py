"""`examples/cluster.py` with jobs that are processes of this machine: commands run to their end, with the same results."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale import write_catalog
from sedcast.rerun import output_differences

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parent.parent / "examples" / "cluster.py"


def command(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def both(folder: Path, *arguments: str) -> tuple[Path, Path]:
    """Run a command on two jobs and without them, in folders of their own."""
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue")
    places = folder / "jobs", folder / "alone"
    for place in places:
        place.mkdir()
    command(places[0], str(EXAMPLE), "--queue-system", "local", "--jobs", "2", "--", *arguments)
    command(places[1], "-c", "from sedcast.cli import main; main()", *arguments)
    return places


def test_simulations(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("n_galaxies = 20000\nseed = 3\n", encoding="utf-8")
    jobs, alone = both(tmp_path, "simulate", str(tmp_path / "s.toml"), "-o", "out.h5")
    assert output_differences(jobs / "out.h5", alone / "out.h5") == []


def test_inference(tmp_path: Path) -> None:
    write_catalog(tmp_path / "c.fits", 300, seed=1)
    mapped = ("--mapping", "kcorrect-sdss", "--n-samples", "20")
    jobs, alone = both(
        tmp_path, "infer", str(tmp_path / "c.fits"), *mapped, "-o", "out.fits", "--samples", "samples.h5"
    )  # fmt: skip
    for name in ("out.fits", "samples.h5"):
        assert output_differences(jobs / name, alone / name) == []


def test_the_command_s_failure_is_the_script_s(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue")
    arguments = [str(EXAMPLE), "--queue-system", "local", "--", "infer", "nothing.fits", "-o", "out.fits"]
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
