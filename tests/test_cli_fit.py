"""`sedcast fit`: a galaxy typed in."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from matplotlib import image
from typer.testing import CliRunner

from sedcast import cli
from sedcast.cli_fit import parse_errors, parse_magnitudes
from sedcast.data.errors import ParameterError
from sedcast.data.provenance import read_provenance
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import quantity_names
from sedcast.posterior.posterior_catalog import read_posteriors
from sedcast.posterior.quantities import QUANTITIES

MAGS, ERRORS = "u=18.95,g=17.67,r=16.94,i=16.53,z=16.26", "0.067,0.021,0.021,0.021,0.033"
FIVE = ["fit", "--mags", MAGS, "--errors", ERRORS, "--redshift", "0.09"]


def test_five_magnitudes_give_a_table_samples_and_a_picture(tmp_path: Path) -> None:
    out, plot = tmp_path / "galaxy.ecsv", tmp_path / "galaxy.png"
    result = CliRunner().invoke(cli.app, [*FIVE, "-o", str(out), "--plot", str(plot)])
    assert result.exit_code == 0, result.exception
    assert "log mass formed" in result.output
    assert "Msun" in result.output
    # A terminal of the usual width need not break the table.
    assert max(len(line) for line in result.output.splitlines() if "│" in line) <= 80
    samples = Table.read(out)
    assert set(samples.colnames) == set(quantity_names(PosteriorEstimator.default()))
    assert samples["a_v"].description == "A_V, no birth clouds [mag]"
    # A galaxy of r = 16.9 at z = 0.09 has some 10^10 to 10^11.5 solar masses.
    assert 10 < np.median(samples["log_mstar"]) < 11.5
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_tables_of_samples_say_what_they_hold(tmp_path: Path) -> None:
    for kind in ("fits", "ecsv", "csv"):
        arguments = [*FIVE, "--n-samples", "100", "-q", "-o", str(tmp_path / f"galaxy.{kind}")]
        assert CliRunner().invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    header = fits.getheader(tmp_path / "galaxy.fits", "SAMPLES")
    told = {header[f"TTYPE{k}"]: (header.get(f"TUNIT{k}"), header[f"TCOMM{k}"]) for k in range(1, header["TFIELDS"] + 1)}
    assert told["t_mw_gyr"] == ("Gyr", "age, mass-weighted [Gyr]")
    assert told["log_mstar"] == (None, "log mass formed [Msun]")
    assert told["beta1_sfh"] == (None, "weight of basis 1 of the star-formation history")
    table, same = QTable.read(tmp_path / "galaxy.fits", hdu=1), QTable.read(tmp_path / "galaxy.ecsv")
    assert (table["t_mw_gyr"] == same["t_mw_gyr"]).all()
    assert same["t_mw_gyr"].unit == table["t_mw_gyr"].unit == "Gyr"
    assert same["log_mstar"].description == told["log_mstar"][1]
    for k in range(1, header["TFIELDS"] + 1):
        name = header[f"TTYPE{k}"]
        assert same[name].info.description == table[name].info.description == header[f"TCOMM{k}"]
        np.testing.assert_array_equal(same[name], table[name])
    lines = [line for line in (tmp_path / "galaxy.ecsv").read_text().splitlines() if not line.startswith("# ")]
    assert lines[0] == ",".join(table.colnames)
    assert (tmp_path / "galaxy.csv").read_text().splitlines() == lines
    headers = [read_provenance(tmp_path / f"galaxy.{kind}") for kind in ("fits", "ecsv")]
    assert headers[0]["run"] == headers[1]["run"]
    assert headers[1]["command"].startswith("sedcast fit")


def test_samples_go_to_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    for kind in ("parquet", "fits"):
        arguments = [*FIVE, "--n-samples", "100", "-q", "-o", str(tmp_path / f"galaxy.{kind}")]
        assert CliRunner().invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    table, same = Table.read(tmp_path / "galaxy.parquet"), Table.read(tmp_path / "galaxy.fits")
    assert (table["t_mw_gyr"].unit, table["t_mw_gyr"].description) == ("Gyr", "age, mass-weighted [Gyr]")
    np.testing.assert_array_equal(table["t_mw_gyr"], same["t_mw_gyr"])
    assert read_provenance(tmp_path / "galaxy.parquet")["command"].startswith("sedcast fit")


def test_files_are_written_before_anything_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("sedcast.console.Screen.table", closed)
    for command, names in (
        ([*FIVE, "-o", str(tmp_path / "galaxy.csv"), "--plot", str(tmp_path / "galaxy.png")], ("galaxy.csv", "galaxy.png")),
        (["validate", "-n", "20", "--n-samples", "20", "-o", str(tmp_path / "v")], ("v/validation.json", "v/pp.png")),
    ):
        assert CliRunner().invoke(cli.app, command).exit_code == 1
        assert all((tmp_path / name).is_file() for name in names)


def test_json_agrees_with_the_estimator(tmp_path: Path) -> None:
    out = tmp_path / "galaxy.h5"
    result = CliRunner().invoke(cli.app, [*FIVE, "--n-samples", "400", "--seed", "3", "--json", "-o", str(out)])
    found = json.loads(result.output)
    magnitude = np.array([float(part[2:]) for part in MAGS.split(",")])
    flux = 10 ** (0.4 * (22.5 - magnitude))[None]
    ivar = (flux * np.array(ERRORS.split(","), float) * np.log(10) / 2.5) ** -2
    theta = PosteriorEstimator.default().sample(flux, ivar, np.array([0.09]), 400, seed=3)
    assert found["quantities"]["log_mstar"]["median"] == pytest.approx(float(np.median(theta[..., 0])), abs=1e-4)
    assert found["quantities"]["log_mstar"]["width_over_prior"] < 0.5
    assert found["model"] == "sdss-ugriz"
    with read_posteriors(out) as posteriors:
        assert len(posteriors) == 1


def test_other_bands_choose_another_posterior() -> None:
    three = ["fit", "--mags", "g=17.67,r=16.94,i=16.53", "--errors", "0.02", "-z", "0.09", "--n-samples", "100", "--json"]
    assert json.loads(CliRunner().invoke(cli.app, three).output)["model"] == "galex-sdss"


def test_without_a_redshift_it_is_inferred(tmp_path: Path) -> None:
    plot = tmp_path / "galaxy.png"
    arguments = [*FIVE[:-2], "--n-samples", "2000", "--json", "--plot", str(plot)]
    found = json.loads(CliRunner().invoke(cli.app, arguments, catch_exceptions=False).output)
    assert found["model"] == "sdss-photoz"
    zred = found["quantities"]["zred"]
    assert 0.005 < zred["p16"] < 0.09 < zred["p84"] < 0.3
    # A row and a column more than with a redshift.
    known = tmp_path / "known.png"
    CliRunner().invoke(cli.app, [*FIVE, "--plot", str(known)], catch_exceptions=False)
    assert all(a > b for a, b in zip(image.imread(plot).shape[:2], image.imread(known).shape[:2], strict=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mags", "u:18", "--errors", "0.1", "-z", "0.1"], "is not BAND=MAGNITUDE"),
        (["--mags", "u=18,u=19", "--errors", "0.1", "-z", "0.1"], "twice"),
        (["--mags", "u=-5", "--errors", "0.1", "-z", "0.1"], "no AB magnitude"),
        (["--mags", "u=18,g=17", "--errors", "0.1,0.1,0.1", "-z", "0.1"], "3 numbers for the 2 bands"),
        (["--mags", "u=18,g=17", "--errors", "0.1,0", "-z", "0.1"], "g=0 is not an error"),
        (["--mags", "u=18,g=17", "--errors", "0.1,x", "-z", "0.1"], "'x' is not an error"),
        (["--mags", "u=18,g=17", "--errors", "g=0.1,r=0.2", "-z", "0.1"], "name the same bands"),
        (["--mags", "Y=18", "--errors", "0.1", "-z", "0.1"], "no posterior for Y with a redshift"),
        (["--mags", MAGS, "--errors", ERRORS, "-z", "3"], "beyond the training range"),
        ([*FIVE[1:], "-o", "x.txt"], "expected a name that ends in .csv"),
        ([*FIVE[1:], "--plot", "x.txt"], "--plot x.txt: expected a name that ends in .png"),
        ([*FIVE[1:], "--plot", "/proc/x.png"], "--plot /proc/x.png: cannot write"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(cli.app, ["fit", *arguments])
    assert isinstance(result.exception, ParameterError)
    assert said in str(result.exception)


def test_errors_by_name_and_one_for_all() -> None:
    assert parse_magnitudes("u=18.9, g=17.6") == {"u": 18.9, "g": 17.6}
    assert parse_errors("g=0.1,u=0.2") == {"g": 0.1, "u": 0.2}
    assert parse_errors("0.3") == 0.3
    assert parse_errors("0.3, 0.1") == [0.3, 0.1]
    for text, said in (("u=0.1,g=0.2,u=0.3", "names a band twice"), ("u=0.1,0.2", "of every error, or of none")):
        with pytest.raises(ParameterError, match=said):
            parse_errors(text)
    assert set(quantity_names(PosteriorEstimator.default())) - set(QUANTITIES) == {
        *(f"beta{i}_sfh" for i in range(1, 5)),
        "gamma1_zh",
        "gamma2_zh",
    }
