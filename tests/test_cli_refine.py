"""``sedcast infer --refine`` on the bundled posterior and real galaxies."""

import numpy as np
import pytest
from typer.testing import CliRunner

from sedcast import cli
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import ParameterError
from sedcast.posterior.posterior_catalog import read_posteriors


@pytest.fixture
def table(tmp_path):
    catalog = load_sdss_sample(bands=("u", "g", "r", "i", "z")).subset(np.arange(3))
    path = tmp_path / "three.csv"
    columns = {"id": np.arange(3), "zred": catalog.zred}
    for k, band in enumerate(catalog.bands):
        columns |= {f"flux_{band}": catalog.flux[:, k], f"flux_ivar_{band}": catalog.flux_ivar[:, k]}
    np.savetxt(path, np.column_stack(list(columns.values())), delimiter=",", header=",".join(columns), comments="")
    return path


def test_refined_catalogue(tmp_path, table):
    output = tmp_path / "refined.h5"
    arguments = ["infer", str(table), "-o", str(output), "--refine", "--n-draws", "2000", "--n-samples", "200"]
    result = CliRunner().invoke(cli.app, ["--quiet", *arguments])
    assert result.exit_code == 0, result.output
    with read_posteriors(output) as posteriors:
        assert (posteriors.status == "").all()
        figures = posteriors.refinement
        assert (figures["efficiency"] > 0.02).all()
        assert set(figures["step"]) <= {"flow", "contexts", "adapted"}
        assert np.isfinite(figures["log_evidence"]).all()
        assert "--refine --n-draws 2000" in posteriors.provenance["command"]


def test_unknown_fallback_is_refused(tmp_path, table):
    result = CliRunner().invoke(
        cli.app, ["infer", str(table), "-o", str(tmp_path / "x.h5"), "--refine", "--fallback", "nested"]
    )
    assert isinstance(result.exception, ParameterError)
    assert "expected 'mcmc'" in str(result.exception)
