"""What the fuzzer feeds: for each reader small valid files, how they are spoilt, and what a user does with what is read."""

import functools
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
from astropy.table import MaskedColumn, Table

from benchmarks.fuzz_mutations import mutate_artifact, mutate_bytes, mutate_fits, mutate_text
from sedcast.data.artifacts import save_artifact
from sedcast.data.catalog import read_catalog
from sedcast.data.config import load_config
from sedcast.data.cosmology import Cosmology
from sedcast.data.filters import load_filter
from sedcast.data.mapping import CatalogMapping, load_mapping, map_rows
from sedcast.data.noise import NoiseModel
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.data.tables import open_table
from sedcast.emulator import training
from sedcast.emulator.log_spectrum import LogSpectrumEmulator, LogSpectrumSegment
from sedcast.emulator.network import SpeculatorNetwork
from sedcast.emulator.prior import FREE_PARAMETER_NAMES, Prior
from sedcast.emulator.published import read_speculator, write_speculator
from sedcast.emulator.segments import Segments
from sedcast.emulator.simulation import SimulationConfig
from sedcast.emulator.speculator import load_emulator_config
from sedcast.emulator.training_set import TrainingSet
from sedcast.posterior import flow_training
from sedcast.posterior.context import ContextTransform, TrainingDomain
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow import MaskedAutoregressiveFlow
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.made import FlowConfig, initial_parameters, permutations
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.posterior_config import PosteriorConfig
from sedcast.posterior.training_set import read_training_set

__all__ = ["Target", "make_targets"]

_BANDS = ("u", "g", "r", "i", "z")
_EXAMPLES = Path(__file__).parent.parent / "examples"
_CONFIGS = Path(__file__).parent.parent / "configs"
_MAPPING = """
id = "name"
redshift = "zred"
missing = [-99.0]
[bands.u]
flux = "vector"
index = 0
error = "vector_err"
extinction = {{ column = "ebv", factor = 4.2 }}
[bands.r]
flux = "mag"
error = "mag_err"
unit = "{unit}"
ab_offset = 0.01
floor = 0.02
"""


@dataclass(frozen=True)
class Target:
    """A reader, the valid file that is spoilt for it, and how."""

    name: str
    seed: Path
    mutate: Callable[[Path, np.random.Generator], None]
    read: Callable[[Path], object]


def _table(n: int = 12) -> Table:
    rng = np.random.default_rng(0)
    flux = 50 * 10 ** rng.normal(0, 0.3, (n, 1)) * np.array([0.2, 0.6, 1.0, 1.3, 1.5])
    columns = {f"flux_{band}": flux[:, k] for k, band in enumerate(_BANDS)}
    columns |= {f"flux_err_{band}": 0.03 * flux[:, k] for k, band in enumerate(_BANDS)}
    table = Table(columns | {"zred": rng.uniform(0.02, 0.2, n), "id": np.arange(n) * 7})
    table["flux_g"].unit = "nmgy"
    table["flux_r"] = MaskedColumn(table["flux_r"], mask=np.arange(n) == 3)
    return table


def _mapped_table(n: int = 12) -> Table:
    rng = np.random.default_rng(1)
    vector = rng.uniform(1, 9, (n, 2))
    return Table(
        {
            "name": np.array([f"galaxy-{k}" for k in range(n)]),
            "zred": rng.uniform(0.02, 0.2, n).astype("f4"),
            "vector": vector,
            "vector_err": 0.1 * vector,
            "ebv": rng.uniform(0, 0.1, n),
            "mag": rng.uniform(16, 19, n),
            "mag_err": np.full(n, 0.05),
            "counter": np.arange(n, dtype="u2"),
        }
    )


def _tables(folder: Path) -> list[tuple[str, Path]]:
    """Catalogues of both layouts in every format."""
    made = []
    for kind, table in (("plain", _table()), ("mapped", _mapped_table())):
        fits_path = folder / f"{kind}.fits"
        table.write(fits_path)
        (folder / f"{kind}.fits.gz").write_bytes(gzip.compress(fits_path.read_bytes()))
        table.write(folder / f"{kind}.ecsv", format="ascii.ecsv")
        flat = Table({name: table[name] for name in table.colnames if table[name].ndim == 1})
        flat.write(folder / f"{kind}.csv", format="ascii.csv")
        (folder / f"{kind}.csv.gz").write_bytes(gzip.compress((folder / f"{kind}.csv").read_bytes()))
        rows, names = np.array(table.filled().as_array()), table.colnames
        rows = rows.astype([(n, f"S{rows[n].dtype.itemsize}" if rows.dtype[n].kind == "U" else rows.dtype[n]) for n in names])
        with h5py.File(folder / f"{kind}.rows.h5", "w") as file:
            file["rows"] = rows
        with h5py.File(folder / f"{kind}.columns.h5", "w") as file:
            for name in names:
                file.create_dataset(name, data=rows[name], compression="gzip", chunks=True)
        made += [(kind, folder / f"{kind}{suffix}") for suffix in
                 (".fits", ".fits.gz", ".ecsv", ".csv", ".csv.gz", ".rows.h5", ".columns.h5")]  # fmt: skip
        made.append((kind, _parquet(folder / f"{kind}.parquet", rows, names)))
    return made


def _parquet(path: Path, rows: np.ndarray, names: list[str]) -> Path:
    import pyarrow
    from pyarrow import parquet

    columns = {name: rows[name].astype("U") if rows.dtype[name].kind == "S" else list(rows[name]) for name in names}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=5)
    return path


def _estimator() -> PosteriorEstimator:
    """A flow of small random weights."""
    transform, config, dim = ContextTransform(_BANDS), FlowConfig(n_blocks=1, hidden=(12,)), len(FREE_PARAMETER_NAMES)
    arrays = dict(initial_parameters(config, dim, transform.n_context)) | {"permutation": permutations(config, dim)}
    arrays |= {"theta_mean": np.zeros(dim), "theta_std": np.ones(dim)}
    arrays |= {"context_mean": np.zeros(transform.n_context), "context_std": np.ones(transform.n_context)}
    rng = np.random.default_rng(2)
    flux = 50 * 10 ** rng.normal(0, 0.3, (300, 5))
    ivar, zred = (0.03 * flux * rng.uniform(0.5, 2, (300, 5))) ** -2.0, rng.uniform(0.01, 0.3, 300)
    domain = TrainingDomain.of(transform, flux, ivar, zred, zred_range=(0.01, 0.3))
    return PosteriorEstimator(
        MaskedAutoregressiveFlow(config, arrays), domain, Prior(), Cosmology(), SFHBases.default(), {"name": "small"}
    )


def _segment() -> LogSpectrumSegment:
    rng = np.random.default_rng(3)
    single = np.float32

    def normal(*shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        return tuple(rng.normal(size=shape).astype(single) for shape in shapes)

    kernels, biases = normal((2, 4), (4, 4), (4, 3)), normal((4,), (4,), (3,))
    activation = normal((4,), (4,)), normal((4,), (4,))
    parameter_shift, parameter_scale, pca_shift, pca_scale = (rng.uniform(0.5, 1, n).astype(single) for n in (2, 2, 3, 3))
    network = SpeculatorNetwork(kernels, biases, *activation, parameter_shift, parameter_scale, pca_shift, pca_scale)
    components, shift, scale = (rng.uniform(0.5, 1, shape).astype(single) for shape in ((3, 9), 9, 9))
    return LogSpectrumSegment(network, components, shift, scale, np.linspace(3000.0, 4000.0, 9))


def _artifacts(folder: Path) -> list[tuple[str, Path, Callable[[Path], object]]]:
    """An artifact of every kind, and the function that loads it."""
    library = SSPLibrary.popstar().trimmed(3000.0, 3040.0)
    library.save(folder / "ssp.npz")
    SFHBases.default().save(folder / "bases.npz")
    NoiseModel.sdss(("g", "r")).save(folder / "noise.npz")
    _estimator().save(folder / "posterior.npz")
    segment = _segment()
    LogSpectrumEmulator((segment,), ("a", "b"), ("a",), ((0.1, 1.0), (0.0, 1.0)), {}).save(folder / "log.npz")
    affine = {"theta_mean": np.zeros(2), "theta_std": np.ones(2)}
    weights = {"kernel": np.zeros((2, 2), dtype="f4")}
    graph: Any = SimpleNamespace(affine=affine, shapes={"kernel": (2, 2)}, arrays=lambda: weights)
    best = {f"{flow_training._BEST}{name}": values for name, values in weights.items()}
    state = {"step": 3, "epoch": 1, "position": 0, "loss_sum": 0.5, "best": 1.5, "best_epoch": 0, "minutes": 0.1}
    data: dict[str, list[float]] = {"n": [2], "mean": [0.0]}
    card = {
        "state": state | {"data": data, "history": [{"epoch": 0}], "affine": {k: v.tolist() for k, v in affine.items()}},
        "identity": "{}",
    }
    save_artifact(folder / "flow.checkpoint.npz", "flow-checkpoint", weights | best, card)
    targets, identity = np.ones((2, 3), dtype="f4"), {"network": {"hidden": [4]}, "inputs": "0", "n_output": 3}
    network_card = {
        "state": {"step": 0, "epoch": 2, "waited": 1, "best": 0.1, "seconds": 1.0, "stopped": "", "curve": [[1.0, 1.0]]}
    }
    arrays = {"variable_0": np.ones((2, 2)), "slot_0": np.ones(2), "best_0": np.ones((2, 2)), "first_targets": targets}
    save_artifact(folder / "network.checkpoint.npz", "network-checkpoint", arrays, network_card | {"identity": identity})
    return [
        ("SSP library", folder / "ssp.npz", SSPLibrary.load),
        ("history bases", folder / "bases.npz", SFHBases.load),
        ("noise model", folder / "noise.npz", lambda path: NoiseModel.load(path).select(("r",))),
        ("posterior", folder / "posterior.npz", PosteriorEstimator.load),
        ("emulator", folder / "log.npz", LogSpectrumEmulator.load),
        (
            "checkpoint of a flow",
            folder / "flow.checkpoint.npz",
            lambda path: flow_training._read_checkpoint(path, "{}", {}, graph, data),
        ),
        (
            "checkpoint of a network",
            folder / "network.checkpoint.npz",
            lambda path: training._read_checkpoint(path, identity, targets),
        ),
    ]


def _hdf5(folder: Path) -> list[tuple[str, Path, Callable[[Path], object]]]:
    """The project's own HDF5 files."""
    rng = np.random.default_rng(4)
    with h5py.File(folder / "simulations.h5", "w") as file:
        columns = {"theta_unbounded": (40, len(FREE_PARAMETER_NAMES)), "flux": (40, 5), "flux_ivar": (40, 5), "zred": (40,)}
        for name, shape in columns.items():
            file[name] = rng.uniform(0.1, 0.3, shape).astype("f4")
        about = {"config": SimulationConfig(n_galaxies=40).model_dump_json(), "free_parameter_names": FREE_PARAMETER_NAMES}
        file.attrs.update(about)
    catalog = read_catalog(folder / "plain.csv", bands=_BANDS)
    infer_catalog(_estimator(), catalog, folder / "posteriors.h5", n_samples=4, n_threads=1)
    with h5py.File(folder / "spectra.h5", "w") as file:
        file["theta"], file["wave_rest"], file["log_spectra"] = (
            np.ones((4, 2), "f4"),
            np.arange(1.0, 4.0),
            np.ones((4, 3), "f4"),
        )
        file.attrs.update({"manifest": json.dumps({"config": {}}), "parameter_names": json.dumps(["a", "b"])})
    (folder / "part").mkdir()
    with h5py.File(folder / "part" / "segment-000000000.h5", "w") as file:
        file["x"] = np.ones(4, "f4")
        file.attrs.update({"n_rows": 4, "n_proposed": 8, "next_chunk": 1})

    def posteriors(path: Path) -> object:
        with read_posteriors(path) as found:
            return found.summary(), found.samples(0)

    def segments(path: Path) -> object:
        path.parent.joinpath("segment").mkdir(exist_ok=True)
        path.replace(path.parent / "segment" / "segment-000000000.h5")
        return Segments(path.parent / "segment")

    return [
        ("simulations", folder / "simulations.h5", read_training_set),
        ("posteriors", folder / "posteriors.h5", posteriors),
        ("training spectra", folder / "spectra.h5", lambda path: list(TrainingSet(path).log_spectra(slice(None)))),
        ("segment", folder / "part" / "segment-000000000.h5", segments),
    ]


def make_targets(folder: Path) -> list[Target]:
    """Write the valid files, and check that each of them is read."""
    targets = []
    for kind, path in _tables(folder):
        binary = (
            mutate_text
            if path.name.endswith((".ecsv", ".csv"))
            else mutate_fits
            if path.name.endswith(".fits")
            else mutate_bytes
        )
        if kind == "plain":
            if not path.name.endswith((".rows.h5", ".columns.h5", ".parquet")):
                targets.append(Target(f"read_catalog {path.name}", path, binary, lambda p: read_catalog(p, bands=_BANDS)))
            elif path.name.endswith(".rows.h5"):
                targets.append(Target(f"read_catalog {path.name}", path, binary, lambda p: read_catalog(p)))
        elif not path.name.endswith((".csv", ".csv.gz")):
            mapping = CatalogMapping.model_validate_json(json.dumps(_mapping_dict("AB")))
            targets.append(Target(f"map_rows {path.name}", path, binary, functools.partial(_read_all, mapping=mapping)))
    (folder / "mapping.toml").write_text(_MAPPING.format(unit="AB"), encoding="utf-8")
    (folder / "curve.txt").write_text("# Å, response\n4000 0\n4500 0.5\n5000 1\n5500 0\n", encoding="utf-8")
    write_speculator(folder / "weights.pkl", _segment())
    targets += [
        Target("mapping", folder / "mapping.toml", mutate_text, load_mapping),
        Target("filter curve", folder / "curve.txt", mutate_text, lambda p: load_filter(str(p))),
        Target("weights as published", folder / "weights.pkl", mutate_bytes, read_speculator),
    ]
    for name, reader in (
        ("simulate", lambda p: load_config(p, SimulationConfig)),
        ("posterior", lambda p: load_config(p, PosteriorConfig)),
        ("emulator", load_emulator_config),
    ):
        targets.append(Target(f"configuration {name}", _EXAMPLES / f"{name}.toml", mutate_text, reader))
    targets.append(Target("configuration speculator", _CONFIGS / "emulator_speculator.toml", mutate_text, load_emulator_config))
    targets += [Target(name, path, mutate_artifact, load) for name, path, load in _artifacts(folder)]
    targets += [Target(name, path, mutate_bytes, load) for name, path, load in _hdf5(folder)]
    return targets


def _mapping_dict(unit: str) -> object:
    import tomllib

    return tomllib.loads(_MAPPING.format(unit=unit))


def _read_all(path: Path, mapping: CatalogMapping) -> object:
    table = open_table(path)
    return [map_rows(table, mapping, start, min(start + 8, table.n_rows)) for start in range(0, min(table.n_rows, 64), 8)]
