"""The HDF5 file that inference writes: its datasets, and how blocks of rows go into them."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from sedcast.data.catalog import Catalog
from sedcast.data.hdf5 import NewHDF5, padded_size
from sedcast.posterior.exact import Refined
from sedcast.posterior.posterior_catalog import PERCENTILES, REFINEMENT_NAMES
from sedcast.posterior.quantities import description

__all__ = ["create_datasets", "describe", "new_file", "write_refinement", "write_rows", "write_texts"]

# The head with its provenance, and what is told of a row beside its summaries: figures, reasons, flags, refinement.
_HEAD_BYTES, _TOLD_BYTES = 2**18, 512


def new_file(
    path: Path, catalog: Catalog, n_samples: int, names: tuple[str, ...], sample_type: str | None, compression: str | None
) -> NewHDF5:
    """A new HDF5 file with room on the disk for all that is written, but for compressed samples."""
    n = len(catalog)
    columns = sum(values.nbytes for values in (catalog.ids, catalog.zred, catalog.flux, catalog.flux_ivar))
    n_bytes = columns + n * len(names) * 4 * len(PERCENTILES) + _told_bytes(n)
    if sample_type is not None and compression is None:
        n_bytes += len(names) * padded_size((n, n_samples), _sample_chunk(n, n_samples)) * np.dtype(sample_type).itemsize
    return NewHDF5(path, n_bytes)


def _told_bytes(n_rows: int) -> int:
    """What is written at most after samples and percentiles."""
    return n_rows * _TOLD_BYTES + _HEAD_BYTES


def _sample_chunk(n: int, n_samples: int) -> tuple[int, int]:
    """The chunks of a quantity's samples, about 256 kB along galaxies: one galaxy's samples are one read."""
    return min(n, max(1, 65_536 // n_samples)), n_samples


def create_datasets(
    file: h5py.File,
    catalog: Catalog,
    n_samples: int,
    names: tuple[str, ...],
    sample_type: str | None,
    compression: str | None,
) -> list[tuple[h5py.Dataset | None, h5py.Dataset]]:
    """Write what is known of the catalogue, and make room: datasets of samples, if wanted, and percentiles of each quantity."""
    ids = catalog.ids if catalog.ids.dtype.kind in "iu" else np.char.encode(catalog.ids.astype(str), "utf-8")
    file["id"] = ids
    for name in ("zred", "flux", "flux_ivar"):
        file[name] = getattr(catalog, name)
    n = len(catalog)
    chunk = _sample_chunk(n, n_samples)
    datasets = []
    for name in names:
        samples = None
        if sample_type is not None:
            options = {"chunks": chunk, "fillvalue": np.nan, "compression": compression}
            samples = file.create_dataset(f"samples/{name}", (n, n_samples), sample_type, **options)
        summary = file.create_dataset(f"summary/{name}", (n, len(PERCENTILES)), "f4", fillvalue=np.nan)
        datasets.append((samples, summary))
    file["summary"].attrs["percentiles"] = PERCENTILES
    return datasets


def describe(name: str, item: h5py.Dataset | h5py.Group) -> None:
    """Write what a dataset is beside it; to be called of each item of the file."""
    if isinstance(item, h5py.Dataset):
        item.attrs["description"] = description(name.rpartition("/")[2])


def write_rows(
    file: NewHDF5, datasets: list[tuple[h5py.Dataset | None, h5py.Dataset]], rows: np.ndarray, values: np.ndarray
) -> None:
    """Write `values` (n_quantity, n, n_samples) of rows (n,), in increasing order, and their percentiles."""
    # h5py writes a slice much faster than a list of rows; rows between are excluded ones and hold NaN anyway.
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    filled = np.full((values.shape[0], span.stop - span.start, values.shape[2]), np.nan, dtype=np.float32)
    filled[:, rows - rows[0]] = values
    first = datasets[0][0]
    if first is not None and first.compression is not None:
        file.make_room(filled.size * first.dtype.itemsize, rest=_told_bytes(len(first)))
    for (samples, summary), quantity in zip(datasets, filled, strict=True):
        if samples is not None:
            # HDF5's own rounding to half precision halves values just below 2^-14, where metallicities are.
            samples[span] = quantity.astype(samples.dtype)
        summary[span] = _percentiles(quantity)


def _percentiles(samples: np.ndarray) -> np.ndarray:
    """Percentiles (n, 5) of each row, interpolated linearly as `numpy.percentile` does; NaN rows stay NaN."""
    ordered = np.sort(samples, axis=1)
    position = np.array(PERCENTILES) / 100 * (samples.shape[1] - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, samples.shape[1] - 1)
    return ordered[:, below] + (position - below) * (ordered[:, above] - ordered[:, below])


def write_texts(file: NewHDF5, reasons: np.ndarray, flags: np.ndarray) -> None:
    """Write why rows have no posterior, and their flags, (n,) str each."""
    texts = {"status": np.char.encode(reasons, "utf-8"), "flags": np.char.encode(flags, "utf-8")}
    # One galaxy of many flags widens all.
    file.make_room(0, rest=_told_bytes(0) + sum(text.nbytes for text in texts.values()))
    for name, text in texts.items():
        file[name] = text


def write_refinement(file: h5py.File, refined: Mapping[int, Refined], flags: np.ndarray) -> np.ndarray:
    """Write the figures of the refined rows, and add their flags (n,) to those given."""
    for name in REFINEMENT_NAMES:
        values = np.full(len(flags), np.nan)
        for row, result in refined.items():
            values[row] = getattr(result, name)
        file[f"refinement/{name}"] = values
    file["refinement/step"] = np.char.encode(
        [refined[row].step if row in refined else "" for row in range(len(flags))], "utf-8"
    )
    both = flags.astype(object)
    for row, result in refined.items():
        both[row] = "; ".join(filter(None, (both[row], result.flag)))
    return both.astype(str)
