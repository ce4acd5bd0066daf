"""The report: one file, whole, with what came from the catalogue escaped."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from sedcast import cli, report
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.config import parse_config
from sedcast.data.errors import ParameterError
from sedcast.data.mapping import CatalogMapping
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.streaming import infer_file
from sedcast.posterior.zero_points import ZeroPointOffsets


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
    assert "<th>log_sfr_1gyr: log SFR, last 1 Gyr [Msun/yr]</th>" in text
    # Empty entries, as of limits that the outlier score does not have, are left out.
    provenance = text.partition('id="provenance"')[2]
    assert "<th>cosmology</th>" in provenance
    assert "<th>outlier_limits</th>" not in provenance
    assert "<td>&#34;&#34;</td>" not in provenance
    assert "Stellar mass formed and star-formation rate" in text
    assert row != 0 or "&lt;script&gt;alert(1)" in text
    assert text.count('src="data:image/png;base64,') == len(re.findall(r"<img ", text)) == 8
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    # Each family of quantities is corrected by itself.
    assert "smallest p-value of uniform ranks, after Holm" in text
    assert "smallest p-value of ranks of the other derived quantities, after Holm" in text


def test_zero_points_are_told_of(posteriors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = np.nan
    found = ZeroPointOffsets(
        tuple("ugriz"), np.array([nan, nan, 0.1, nan, nan]), np.full(5, 0.01), np.array([0.1, 3.0, 2.0, nan, nan]), 300
    )
    monkeypatch.setattr(report, "zero_point_offsets", lambda *_: found)
    arguments = ["report", str(posteriors), "-o", str(tmp_path / "r.html"), "--mocks", "0"]
    assert CliRunner().invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    told = re.findall(r"zero point of (.) beside the other bands, mag</t[hd]>\s*<td>([^<]*)<", text)
    assert told == [("g", "beyond ±0.5, or another band&#39;s is"), ("r", "+0.100 ± 0.010, gains 2.00 nats a galaxy")]


def test_half_precision_is_drawn_as_well(tmp_path: Path) -> None:
    mapping = {"redshift": "zred", "bands": {band: {"flux": f"flux_{band}", "ivar": f"flux_ivar_{band}"} for band in "ugriz"}}
    estimator = PosteriorEstimator.default()
    sample = load_sdss_sample(bands=estimator.bands).subset(slice(0, 8))
    columns = {f"flux_{band}": sample.flux[:, k] for k, band in enumerate("ugriz")}
    columns |= {f"flux_ivar_{band}": sample.flux_ivar[:, k] for k, band in enumerate("ugriz")}
    Table(columns | {"zred": sample.zred}).write(tmp_path / "t.ecsv")
    written = (tmp_path / "half.h5", "float16", None)
    mapped = parse_config(mapping, CatalogMapping)
    infer_file(estimator, tmp_path / "t.ecsv", mapped, tmp_path / "t.fits", n_samples=400, seed=1, samples=written)
    arguments = ["report", str(tmp_path / "half.h5"), "-o", str(tmp_path / "r.html"), "--mocks", "0"]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    with read_posteriors(tmp_path / "half.h5") as held:
        assert held.provenance["outlier_limits"] == ""


def test_rows_that_are_not_there_are_refused(posteriors: Path, tmp_path: Path) -> None:
    for rows, said in (("99", "rows 0 … 19"), ("x", "expected row numbers")):
        result = CliRunner().invoke(
            cli.app, ["report", str(posteriors), "-o", str(tmp_path / "r.html"), "--rows", rows, "--mocks", "0"]
        )
        assert isinstance(result.exception, ParameterError)
        assert said in str(result.exception)
    few = CliRunner().invoke(cli.app, ["report", str(posteriors), "-o", str(tmp_path / "r.html"), "--mocks", "10"])
    assert "--mocks 10: expected at least 20, or 0" in str(few.exception)
