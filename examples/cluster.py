"""Run a sedcast command on the nodes of a batch system: SLURM or PBS.

    python cluster.py --queue-system slurm --jobs 20 --cores 48 --memory 96GB --walltime 04:00:00 --partition normal \
        -- infer nsa_v1_0_1.fits --mapping nsa-v1 -o summaries.fits --samples samples.h5

starts a Dask scheduler here (on a login node, or in a small job), asks for 20 jobs of 48 single-threaded workers, and
runs the command on them. Jobs that the system kills or whose time is over are asked for again, and the tasks they had are
repeated; should this script end, the same call goes on where it stopped. It needs ``pip install dask-jobqueue`` and
a file system that all nodes share. ``--queue-system local`` starts the jobs as processes of this machine, to try it out.
"""

import argparse
import subprocess
import sys
from typing import Any


def make_cluster(options: argparse.Namespace) -> Any:
    """A Dask cluster of the batch system, with no jobs yet."""
    import dask_jobqueue
    from dask_jobqueue.local import LocalCluster

    kinds = {"slurm": dask_jobqueue.SLURMCluster, "pbs": dask_jobqueue.PBSCluster, "local": LocalCluster}
    settings: dict[str, Any] = {
        # One process a core, and one task a process: each may hold an FSPS.
        "cores": options.cores,
        "processes": options.cores,
        "memory": options.memory,
        "python": sys.executable,
        "job_script_prologue": options.before,
        "scheduler_options": {"dashboard_address": ":0"},
    }
    if options.queue_system != "local":
        settings |= {"queue": options.partition, "account": options.account, "walltime": options.walltime}
    if options.interface is not None:
        settings["interface"] = options.interface
    return kinds[options.queue_system](**settings)


def main(arguments: list[str] | None = None) -> int:
    """Start the jobs, run the command on them, end the jobs; returns the command's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue-system", choices=("slurm", "pbs", "local"), required=True)
    parser.add_argument("--jobs", type=int, default=1, help="jobs that run at a time")
    parser.add_argument("--cores", type=int, default=1, help="cores, and so processes, of a job")
    parser.add_argument("--memory", default="2GB", help="of a job: 2 GB a process are plenty")
    parser.add_argument("--walltime", default="01:00:00", help="of a job")
    parser.add_argument("--partition", help="SLURM's partition, PBS's queue")
    parser.add_argument("--account", help="what the jobs are charged to")
    parser.add_argument("--interface", help="network interface between the nodes, such as ib0")
    parser.add_argument(
        "--before", action="append", default=[], help="line of the job script, such as 'export SPS_HOME=/home/me/fsps'"
    )
    parser.add_argument("command", nargs="+", help="after --: infer, simulate, compare, ssp build or train emulator")
    options = parser.parse_args(arguments)
    with make_cluster(options) as cluster:
        # Not scale(): a job that has ended is replaced.
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)
        program = "from sedcast.cli import main; main()"
        command = [sys.executable, "-c", program, *options.command, "--scheduler", cluster.scheduler_address]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
