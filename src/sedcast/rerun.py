"""Outputs made again from their header of provenance, and compared."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import fits
from astropy.table import Table

from sedcast.data.artifacts import load_artifact, read_card
from sedcast.data.errors import ArtifactError, ConfigError, ParameterError
from sedcast.data.hdf5 import open_hdf5
from sedcast.data.invocation import describe_file
from sedcast.emulator.segments import differences
from sedcast.emulator.simulators import BUILT_IN

__all__ = ["COMMANDS", "header_differences", "options_of", "output_differences", "without_times"]

COMMANDS = (("simulate",), ("infer",), ("compare",), ("train", "emulator"), ("train", "posterior"))
"""Commands that can be repeated."""

_ANYWHERE = ("n_workers", "scheduler", "overwrite", "export", "plot")
_TIMED = ("provenance", "figures", "versions")
_TIMES = ("seconds", "minutes", "wall_s", "cpu_s", "per_s", "per_cpu_s", "fsps_alone_h")
_COMPARISON = "comparison.json"


def options_of(
    header: Mapping[str, Any], output: Path, folder: Path, *, allow_code: bool = False
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The command and the options that make an output again.

    Parameters
    ----------
    header : of the output, from `sedcast.data.provenance.read_provenance`.
    output : where to write.
    folder : for the short files that the command read, where they are not as they were.
    allow_code : whether to import a simulator that a configuration names, and so run its code.

    Raises
    ------
    ArtifactError : if the header does not say how it was made, or a file that it was made from is missing or has changed.
    ConfigError : if it would run code, and may not.
    """
    made = header["invocation"]
    if not isinstance(made, dict) or not isinstance(made.get("options"), dict) or tuple(made.get("name", ())) not in COMMANDS:
        name = made.get("name") if isinstance(made, dict) else None
        maker = f"'sedcast {' '.join(map(str, name))}'" if name else "'sedcast fit' or 'sedcast demo' or from Python"
        raise ArtifactError(f"it was made by {maker}, which cannot be repeated from the file: repeat what made it")
    options = {name: value for name, value in made["options"].items() if name not in _ANYWHERE}
    for number, (name, described) in enumerate(header["files"].items()):
        path = Path(str(options.get(name)))
        options[name] = str(_as_it_was(path, described, folder / f"input{number}{path.suffix}"))
    options |= _outputs(options, output)
    _leave_out_idle(options)
    if tuple(made["name"]) == ("train", "emulator") and not allow_code:
        _check_simulator(Path(str(options.get("config"))))
    return tuple(made["name"]), options


def _outputs(options: Mapping[str, Any], output: Path) -> dict[str, str]:
    """The output and, of two, the other one: summaries have the suffix that they had, samples .h5."""
    if options.get("samples") is None:
        return {"output": str(output)}
    of_samples = output.suffix in (".h5", ".hdf5")
    other = output.with_suffix(Path(str(options["output"])).suffix if of_samples else ".h5")
    return {"output": str(other), "samples": str(output)} if of_samples else {"output": str(output), "samples": str(other)}


def _leave_out_idle(options: dict[str, Any]) -> None:
    """What once was recorded, or accepted, where it did nothing."""
    if options.get("fallback"):
        options["refine"] = True
    idle = [] if options.get("refine") else ["n_draws"]
    idle += [] if options.get("samples") else ["sample_type", "compression"]
    idle += ["calibrate"] if options.get("mapping") else []
    sources_unit = options.get("mapping") or options.get("catalog") == "sdss" or options.get("unit") == "nanomaggies"
    for name in (*idle, *(["unit"] if sources_unit else [])):
        options.pop(name, None)


def _as_it_was(path: Path, described: Mapping[str, Any], copy: Path) -> Path:
    """The file, if it is as it was, else a copy of what it was."""
    if path.is_file() and describe_file(path) == dict(described):
        return path
    if not isinstance(described.get("text"), str):
        raise ArtifactError(f"{path} is missing or has changed since: put the file back that has {dict(described)}")
    copy.write_text(described["text"], encoding="utf-8", newline="")
    return copy


def _check_simulator(config: Path) -> None:
    try:
        simulator = tomllib.loads(config.read_text(encoding="utf-8")).get("simulator")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config} cannot be read: {error}") from error
    if simulator is not None and simulator not in BUILT_IN:
        raise ConfigError(
            f"the configuration names the simulator {simulator!r}, whose code would be run: read it, then say --allow-code"
        )


def header_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs in versions and artifacts, as ``artifacts.emulator was A and is now B``."""
    parts = ("versions", "artifacts")
    return differences({part: old.get(part) for part in parts}, {part: new.get(part) for part in parts})


def output_differences(first: Path, second: Path) -> list[str]:
    """Names of what differs between two outputs of the same command; times and headers apart.

    Raises
    ------
    ParameterError : if they are not of the same kind.
    """
    if first.is_dir() != second.is_dir() or first.suffix != second.suffix:
        raise ParameterError(f"{first} and {second} are not of the same kind")
    if first.is_dir():
        kinds = (".npz", ".h5", ".fits", ".parquet")
        names = {path.relative_to(top) for top in (first, second) for path in top.rglob("*")}
        names = {name for name in names if name.suffix in kinds or name.name == _COMPARISON}
        parts = {name: (first / name, second / name) for name in sorted(names)}
        absent = [f"{name} is not in both" for name, pair in parts.items() if not all(path.is_file() for path in pair)]
        both = {name: pair for name, pair in parts.items() if all(path.is_file() for path in pair)}
        return absent + [f"{name}: {what}" for name, pair in both.items() for what in output_differences(*pair)]
    if first.suffix == ".json":
        return differences(_numbers(first), _numbers(second))
    one, other = _contents(first), _contents(second)
    return sorted(
        name for name in one.keys() | other.keys() if name not in one or name not in other or not _same(one[name], other[name])
    )


def without_times(values: Any) -> Any:
    """What JSON holds, without the entries whose names say that they are times, or come from times."""
    if isinstance(values, dict):
        return {key: without_times(value) for key, value in values.items() if not any(word in key for word in _TIMES)}
    return [without_times(value) for value in values] if isinstance(values, list) else values


def _numbers(path: Path) -> dict[str, Any]:
    """What a comparison found, without what it was made with."""
    held = without_times(json.loads(path.read_text(encoding="utf-8")))
    galaxies = {f"galaxies[{number}]": one for number, one in enumerate(held["galaxies"])}
    return galaxies | {name: value for name, value in held.items() if name not in ("about", "made_by", "galaxies")}


def _contents(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        return load_artifact(path, str(read_card(path).get("kind")))[0]
    if path.suffix == ".fits":
        with fits.open(path, memmap=False) as hdus:
            return {name: np.array(hdus[1].data[name]) for name in hdus[1].columns.names}
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with path.open("rb") as handle:
            table = parquet.read_table(handle)
        return {name: table[name].to_numpy() for name in table.column_names}
    if path.suffix == ".ecsv":
        rows = Table.read(path, format="ascii.ecsv")
        return {name: np.asarray(rows[name]) for name in rows.colnames}
    found: dict[str, np.ndarray] = {}
    with open_hdf5(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        found |= {f"attribute {name}": np.asarray(value) for name, value in file.attrs.items() if name not in _TIMED}
    return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
