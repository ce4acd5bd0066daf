"""The HDF5 file that inference writes: its datasets, and how blocks of rows go into them."""

from collections.abc import Mapping

import h5py
import numpy as np

from sedcast.data.catalog import Catalog
from sedcast.posterior.exact import Refined
from sedcast.posterior.posterior_catalog import PERCENTILES, REFINEMENT_NAMES
from sedcast.posterior.quantities import description

__all__ = ["create_datasets", "describe", "sample_chunk", "summary_bytes", "told_bytes", "write_refinement", "write_rows"]


# The head with its provenance, and what is told of a row beside its summaries: figures, reasons, flags, refinement.
_HEAD_BYTES, _TOLD_BYTES = 2**18, 512


def summary_bytes(catalog: Catalog, n_quantities: int) -> int:
    """What the catalogue and percentiles take in a file of posteriors."""
    columns = sum(values.nbytes for values in (catalog.ids, catalog.zred, catalog.flux, catalog.flux_ivar))
    return len(catalog) * n_quantities * 4 * len(PERCENTILES) + columns


def told_bytes(n_rows: int) -> int:
    """What is written at most after samples and percentiles."""
    return n_rows * _TOLD_BYTES + _HEAD_BYTES


def sample_chunk(n: int, n_samples: int) -> tuple[int, int]:
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
    chunk = sample_chunk(n, n_samples)
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


def write_rows(datasets: list[tuple[h5py.Dataset | None, h5py.Dataset]], rows: np.ndarray, values: np.ndarray) -> None:
    """Write `values` (n_quantity, n, n_samples) of rows (n,), in increasing order, and their percentiles."""
    # h5py writes a slice much faster than a list of rows; rows between are excluded ones and hold NaN anyway.
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    filled = np.full((values.shape[0], span.stop - span.start, values.shape[2]), np.nan, dtype=np.float32)
    filled[:, rows - rows[0]] = values
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
