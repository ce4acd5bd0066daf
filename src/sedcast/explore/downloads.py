"""Samples of one galaxy as a file: CSV or HDF5."""

import csv
import io
import json

import h5py
import numpy as np

from sedcast._version import __version__
from sedcast.explore.compute import Explorer, Observed

__all__ = ["samples_csv", "samples_hdf5"]


def samples_csv(explorer: Explorer, observed: Observed, theta: np.ndarray) -> bytes:
    """Samples (n, 12) with derived properties and the redshift, one a line, under their names."""
    values = explorer.quantities(theta, observed.zred) | {"zred": np.full(len(theta), observed.zred)}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(values)
    writer.writerows([f"{value:.7g}" for value in row] for row in np.stack(list(values.values()), axis=1))
    return text.getvalue().encode("utf-8")


def samples_hdf5(explorer: Explorer, observed: Observed, theta: np.ndarray, *, method: str) -> bytes:
    """As `samples_csv` in datasets of a group ``samples``, with the photometry and the model's name and digest."""
    values = explorer.quantities(theta, observed.zred) | {"zred": np.full(len(theta), observed.zred)}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in values.items():
            file.create_dataset(f"samples/{name}", data=array.astype(np.float32))
        file["flux_nanomaggies"], file["flux_ivar"] = observed.flux, observed.flux_ivar
        file.attrs["bands"] = json.dumps(explorer.estimator.bands)
        file.attrs["zred"], file.attrs["method"] = observed.zred, method
        card = explorer.estimator.card
        file.attrs["model"], file.attrs["model_sha256"] = explorer.estimator.name, str(card.get("sha256", ""))
        file.attrs["sedcast"] = __version__
    return buffer.getvalue()
