"""The report: one file, whole, with what came from the catalogue escaped."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sedcast import cli
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import ParameterError
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.posterior_catalog import read_posteriors


@pytest.fixture(scope="module")
def posteriors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "posteriors.h5"
    estimator = PosteriorEstimator.default()
    catalog = load_sdss_sample(bands=estimator.bands).subset(slice(0, 20))
    names = np.array(["<script>alert(1)</script>", *(f"g{i}" for i in range(1, 20))])
    infer_catalog(estimator, replace(catalog, ids=names), path, n_samples=300, seed=0)
    return path


def test_report_is_self_contained_and_escaped(posteriors: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    with read_posteriors(posteriors) as held:
        row = int(np.flatnonzero(held.status == "")[0])
    result = CliRunner().invoke(cli.app, ["report", str(posteriors), "-o", str(output), "--rows", str(row), "--mocks", "40"])
    assert result.exception is None, result.exception
    text = output.read_text(encoding="utf-8")
    assert "<script" not in text
    assert row != 0 or "&lt;script&gt;alert(1)" in text
    assert text.count('src="data:image/png;base64,') == len(re.findall(r"<img ", text)) == 8
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)


def test_rows_that_are_not_there_are_refused(posteriors: Path, tmp_path: Path) -> None:
    for rows, said in (("99", "rows 0 … 19"), ("x", "expected row numbers")):
        result = CliRunner().invoke(
            cli.app, ["report", str(posteriors), "-o", str(tmp_path / "r.html"), "--rows", rows, "--mocks", "0"]
        )
        assert isinstance(result.exception, ParameterError)
        assert said in str(result.exception)
