"""Fixtures and the skipping of tests that need what a user's machine may lack."""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason, what cannot run here; CI sets both variables and fails on such a skip."""
    has_fsps = "SPS_HOME" in os.environ and Path(os.environ["SPS_HOME"]).is_dir()
    published = os.environ.get("SEDCAST_PUBLISHED", "")
    has_published = bool(published) and Path(published).is_dir()
    if os.environ.get("SEDCAST_NO_SKIP") and not (has_fsps and has_published):
        raise pytest.UsageError("SEDCAST_NO_SKIP is set, but SPS_HOME or SEDCAST_PUBLISHED does not name a folder")
    for item in items:
        if item.get_closest_marker("fsps") and not has_fsps:
            item.add_marker(pytest.mark.skip(reason="needs FSPS data: set SPS_HOME"))
        if item.get_closest_marker("published") and not has_published:
            item.add_marker(pytest.mark.skip(reason="needs the published emulator files: set SEDCAST_PUBLISHED"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20221103)


@pytest.fixture(scope="session")
def published_dir() -> Path:
    return Path(os.environ["SEDCAST_PUBLISHED"])
