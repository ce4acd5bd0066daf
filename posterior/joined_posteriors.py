"""Segments of a catalogue's posteriors, joined to one file of samples and one of summaries."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sedcast.emulator.segments import Segments
from sedcast.posterior.posterior_catalog import PERCENTILES
from sedcast.posterior.row_reasons import count_reasons, warn_of_excluded, warn_of_flags
from sedcast.posterior.summary_tables import summary_columns, text_types, write_table

__all__ = ["DATA_MODEL_NAMES", "dataset_types", "join_samples", "join_summaries"]

DATA_MODEL_NAMES = {
    "beta1_sfh": "beta1",
    "beta2_sfh": "beta2",
    "beta3_sfh": "beta3",
    "beta4_sfh": "beta4",
    "gamma1_zh": "gamma1",
    "gamma2_zh": "gamma2",
    "log_z_mw": "log_Z_MW",
}
"""Names of the paper's data model, where they are not those of `sedcast.posterior.posterior_catalog.QUANTITY_NAMES`."""


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    found: list[tuple[str, h5py.Dataset]] = []
    file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
    return iter(found)


def dataset_types(segments: Segments) -> dict[str, np.dtype]:
    """The type of each dataset that holds those of all segments: texts are of different widths."""
    widest: dict[str, np.dtype] = {}
    for path in segments.paths:
        with h5py.File(path, "r") as file:
            for name, item in _datasets(file):
                widest[name] = max(item.dtype, widest.get(name, item.dtype), key=lambda dtype: dtype.itemsize)
    return widest


def join_samples(segments: Segments, path: Path, dtypes: dict[str, np.dtype], header: dict[str, Any]) -> None:
    """Write the samples of all segments to one HDF5 file, the layout that `infer_catalog` writes.

    Parameters
    ----------
    segments : all of them, complete.
    path : of the file to write, best a temporary one: it is not whole before this returns.
    dtypes : of the datasets, by `dataset_types`.
    header : the provenance.
    """
    start = 0
    with segments.joined_file(path) as joined:
        for segment in segments.paths:
            with h5py.File(segment, "r") as file:
                for name, item in _datasets(file):
                    if name not in joined:
                        shape = (segments.n_rows, *item.shape[1:])
                        chunks = item.chunks if item.chunks is None or item.chunks[0] <= shape[0] else None
                        joined.create_dataset(name, shape, dtypes[name], chunks=chunks, compression=item.compression)
                        joined[name].attrs.update(item.attrs)
                    # In other chunks compressed values take another share, and one long text widens those of all segments.
                    joined.make_room(item.size * joined[name].dtype.itemsize)
                    joined[name][start : start + len(item)] = item[:]
                if start == 0:
                    joined.attrs.update({name: file.attrs[name] for name in ("format", "bands")})
                    joined["summary"].attrs["percentiles"] = PERCENTILES
                start += len(file["id"])
        for name in joined["samples"]:
            # The same data under a second name, not a copy.
            joined[DATA_MODEL_NAMES.get(name, name) if name != "zred" else "zred_inferred"] = joined[f"samples/{name}"]
        joined.attrs["provenance"] = json.dumps(header)


def join_summaries(segments: Segments, output: Path, header: dict[str, Any]) -> dict[str, Any]:
    """Write the summaries of all segments to one table, of the kind that the output's name says, and count what they say.

    Parameters
    ----------
    segments : all of them, complete.
    output : the file to write.
    header : the provenance.

    Returns
    -------
    figures : ``galaxies``, ``inferred``, ``flagged``, ``excluded`` (rows by reason); if known, ``efficiency_median``.
    """
    flagged, reasons = Counter[str](), Counter[str]()
    efficiencies: list[np.ndarray] = []

    def files() -> Iterator[h5py.File]:
        for path in segments.paths:
            with h5py.File(path, "r") as file:
                yield file

    def runs() -> Iterator[dict[str, np.ndarray]]:
        for run in map(summary_columns, files()):
            flagged.update(np.char.decode(run["flags"], "utf-8").tolist())
            reasons.update(count_reasons(np.char.decode(run["status"], "utf-8")))
            efficiencies.append(run["efficiency"][np.isfinite(run["efficiency"])].astype(np.float32))
            yield run

    write_table(output, runs(), segments.n_rows, header, types=text_types(output, files()))
    inferred = reasons.pop("", 0)
    warn_of_excluded(inferred, reasons)
    warn_of_flags(inferred, flagged)
    excluded = dict(reasons.most_common())
    figures = {
        "galaxies": segments.n_rows,
        "inferred": inferred,
        "flagged": flagged.total() - flagged[""],
        "excluded": excluded,
    }
    if any(len(some) for some in efficiencies):
        figures["efficiency_median"] = float(np.median(np.concatenate(efficiencies)))
    return figures
