"""Fixtures and the skipping of tests that need what a user's machine may lack."""

import importlib.util
import os
import shutil
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes, each with a BLAS thread for every core, wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl
import numpy as np
import pytest

from sedcast.posterior.flow_kernel import vector_floats

mpl.use("Agg")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason, what cannot run here; CI sets both variables and fails on such a skip."""
    has_fsps = "SPS_HOME" in os.environ and Path(os.environ["SPS_HOME"]).is_dir()
    published = os.environ.get("SEDCAST_PUBLISHED", "")
    has_published = bool(published) and Path(published).is_dir()
    has_browser = importlib.util.find_spec("playwright") is not None and any(map(shutil.which, BROWSERS))
    if os.environ.get("SEDCAST_NO_SKIP"):
        if not (has_fsps and has_published):
            raise pytest.UsageError("SEDCAST_NO_SKIP is set, but SPS_HOME or SEDCAST_PUBLISHED does not name a folder")
        if vector_floats() == 0:
            raise pytest.UsageError("SEDCAST_NO_SKIP is set, but the sampler in C was not compiled")
        if not has_browser:
            raise pytest.UsageError("SEDCAST_NO_SKIP is set, but playwright or Chromium is not installed")
    for item in items:
        if item.get_closest_marker("fsps") and not has_fsps:
            item.add_marker(pytest.mark.skip(reason="needs FSPS data: set SPS_HOME"))
        if item.get_closest_marker("published") and not has_published:
            item.add_marker(pytest.mark.skip(reason="needs the published emulator files: set SEDCAST_PUBLISHED"))
        if item.get_closest_marker("browser") and not has_browser:
            item.add_marker(pytest.mark.skip(reason="needs playwright and Chromium: pip install 'sedcast[browser]'"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20221103)


@pytest.fixture(scope="session")
def published_dir() -> Path:
    return Path(os.environ["SEDCAST_PUBLISHED"])
