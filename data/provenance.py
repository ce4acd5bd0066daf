"""Where an output comes from: the header that every output carries, and with which ``sedcast rerun`` repeats it."""

import itertools
import json
import math
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table.meta import get_header_from_yaml

from sedcast.data.artifacts import consistent, read_card, software_versions
from sedcast.data.errors import ArtifactError
from sedcast.data.hdf5 import open_hdf5
from sedcast.data.invocation import invocation
from sedcast.data.tables import reading

__all__ = ["jsonable", "processor_name", "provenance", "read_provenance"]

FORMAT = 1
_FITS_WIDTH = 72


def provenance(*, config: Mapping[str, Any], artifacts: Mapping[str, str], command: str = "") -> dict[str, Any]:
    """The header of an output that is made now.

    Parameters
    ----------
    config : all that decides the output besides files, as JSON has it.
    artifacts : checksums of the artifacts that it was made with, by what they are for.
    command : the command, where the command line does not say it.

    Returns
    -------
    header : ``format``, ``versions``, ``command``, ``invocation`` (None for a call from Python), ``files`` that it names,
        ``run`` (`Invocation.run`), ``time`` (UTC; of the environment's SOURCE_DATE_EPOCH, if that is set), ``config``,
        ``artifacts``.
    """
    running = invocation.get()
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    header = {
        "format": FORMAT,
        "versions": software_versions(),
        "command": command if running is None else running.text,
        "invocation": None if running is None else {"name": list(running.name), "options": dict(running.options)},
        "files": {} if running is None else running.files,
        "run": None if running is None else running.run,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
        "config": config,
        "artifacts": dict(artifacts),
    }
    return dict(json.loads(json.dumps(header, default=str)))


def processor_name() -> str:
    """The processor that this program runs on, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def jsonable(value: Any) -> Any:
    """Plain Python values of mappings, sequences, arrays and NumPy scalars, for JSON; what is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The header of an output: HDF5, FITS, Parquet, ECSV, an artifact, or the folder of a comparison.

    Raises
    ------
    ArtifactError : if there is no such output, or it carries no header.
    """
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"no output at {path}: check the path")
    with consistent(path, "output of sedcast", otherwise="pass what a command of sedcast wrote"):
        found = _read(path)
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("files"), dict):
            raise ArtifactError(
                f"{path} carries no header of provenance of format {FORMAT}: an older sedcast wrote it, or another program"
            )
        return found


def _read(path: Path) -> Any:
    if path.is_dir():
        return json.loads((path / "comparison.json").read_text(encoding="utf-8"))["about"]["provenance"]
    if path.suffix == ".npz":
        return read_card(path).get("provenance")
    if path.suffix in (".h5", ".hdf5"):
        with open_hdf5(path) as file:
            return json.loads(file.attrs["provenance"])
    if path.suffix == ".fits":
        # The cards of a long text are cut at their width, and blanks at their ends fall off.
        cards = [str(line).ljust(_FITS_WIDTH) for line in fits.getheader(path, 1)["HISTORY"]]
        return json.loads("".join(cards))
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with path.open("rb") as handle:
            return json.loads(parquet.read_schema(handle).metadata[b"sedcast"])
    if path.suffix == ".ecsv":
        with reading(path), path.open(encoding="utf-8") as handle:
            head = [line[2:].rstrip("\n") for line in itertools.takewhile(lambda line: line.startswith("#"), handle)]
            return json.loads(get_header_from_yaml(head[1:]).get("meta", {}).get("sedcast", "null"))
    raise ArtifactError(f"{path}: expected .h5, .fits, .parquet, .ecsv, .npz, or the folder of a comparison")
