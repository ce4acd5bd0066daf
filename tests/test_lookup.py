"""One galaxy read back from each kind of file, against what was inferred."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from sedcast.cli import app
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.data.mapping import load_mapping
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.lookup import read_summary
from sedcast.posterior.posterior_catalog import PosteriorCatalog, read_posteriors
from sedcast.posterior.streaming import infer_file

N = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    folder = tmp_path_factory.mktemp("lookup")
    rng = np.random.default_rng(5)
    flux = 50 * np.array([0.1, 0.2, 0.3, 1, 2, 3, 4]) * rng.normal(1, 0.1, (N, 7))
    columns = {"NSAID": np.arange(N) * 3 + 7, "Z": np.full(N, 0.1), "NMGY": flux, "NMGY_IVAR": (0.03 * flux) ** -2.0}
    columns["Z"][4] = -1
    Table(columns).write(folder / "nsa.fits")
    for suffix in ("fits", "parquet"):
        kept = (folder / f"{suffix}.h5", "float32", None)
        mapping = load_mapping("nsa-v0")
        infer_file(
            PosteriorEstimator.default(), folder / "nsa.fits", mapping, folder / f"s.{suffix}", samples=kept, n_samples=40
        )
    return folder


@pytest.mark.parametrize("name", ["s.fits", "s.parquet", "fits.h5"])
def test_a_row_is_found_by_its_id(folder: Path, name: str) -> None:
    found = read_summary(folder / name, 22)
    assert (found.row, found.about["id"], found.about["status"]) == (5, 22, "")
    assert found.percentiles == read_summary(folder / name, row=5).percentiles
    with read_posteriors(folder / "fits.h5") as posteriors:
        assert posteriors.row(22) == posteriors.row("22") == 5
        samples = posteriors.samples(5)
        for quantity, values in found.percentiles.items():
            np.testing.assert_allclose(values, np.percentile(samples[quantity], [2.5, 16, 50, 84, 97.5]), rtol=1e-5)
        assert tuple(found.percentiles) == posteriors.quantity_names
        for weight in ("efficiency", "log_evidence"):
            assert found.about[weight] == pytest.approx(getattr(posteriors, weight)[5], rel=1e-6)
        assert 0 < found.about["efficiency"] <= 1
    excluded = read_summary(folder / name, "19")
    assert excluded.about["status"] == "redshift is not positive"
    assert np.isnan(excluded.percentiles["log_mstar"]).all()
    assert np.isnan(excluded.about["efficiency"])


def test_the_id_that_is_shown_is_one_to_ask_for(folder: Path) -> None:
    long_id = folder / "long.h5"
    with h5py.File(folder / "fits.h5") as file, h5py.File(long_id, "w") as copy:
        for name in file:
            file.copy(name, copy)
        copy.attrs.update(file.attrs)
        copy["id"][...] = np.arange(N) + 1_237_648_720_142_401_000
    shown = CliRunner().invoke(app, ["show", str(long_id), "--row", "2"], catch_exceptions=False).stdout
    assert "1237648720142401002" in shown
    assert CliRunner().invoke(app, ["show", str(long_id), "--id", "1237648720142401002"]).exit_code == 0


def test_tables_of_before_are_read(folder: Path) -> None:
    """Their columns of percentiles had a point in their names."""
    table = Table.read(folder / "s.fits", mask_invalid=False)
    for name in table.colnames:
        table.rename_column(name, name.replace("p2_5", "p2.5").replace("p97_5", "p97.5"))
    assert {"a_v_p2.5", "a_v_p97.5"} <= set(table.colnames)
    table.write(folder / "before.fits")
    assert read_summary(folder / "before.fits", 22).percentiles == read_summary(folder / "s.fits", 22).percentiles


@pytest.mark.parametrize("name", ["s.parquet", "fits.h5"])
def test_what_is_shown_has_units_within_80_columns(folder: Path, name: str) -> None:
    shown = CliRunner().invoke(app, ["show", str(folder / name), "--row", "2"], catch_exceptions=False).stdout
    lines = [line for line in shown.partition("Percentiles of the posterior")[2].splitlines() if "│" in line]
    found = read_summary(folder / name, row=2).percentiles
    assert len(lines) == len(found)
    assert max(map(len, lines)) <= 80
    cells = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in lines}
    for label, quantity in (("log mass formed [Msun]", "log_mstar"), ("log SFR, last 100 Myr [Msun/yr]", "log_sfr_100myr")):
        np.testing.assert_allclose(np.array(cells[label], float), found[quantity], atol=0.0051)
    assert {"diffuse dust, depth [5500 Å]", "slope of dust curve", "beta1_sfh"} <= set(cells)
    # Metallicities of 10^-4 are not shown as zero.
    assert (np.array(cells["gamma1_zh"], float) > 0).all()


@pytest.mark.parametrize("name", ["s.fits", "fits.h5"])
def test_wrong_ids_rows_and_files_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="no row has the id '23'"):
        read_summary(folder / name, 23)
    with pytest.raises(ParameterError, match="row 12: the file has rows 0 … 11"):
        read_summary(folder / name, row=12)
    with pytest.raises(ParameterError, match="either the id of a galaxy or a row number"):
        read_summary(folder / name)
    with pytest.raises(ArtifactError, match="expected summaries"):
        read_summary(folder / "nsa.fits", 22)


def test_ids_are_found_with_blanks_and_told_where_they_are_written_otherwise(folder: Path) -> None:
    named = folder / "named.h5"
    with h5py.File(folder / "fits.h5") as file, h5py.File(named, "w") as copy:
        for name in set(file) - {"id"}:
            file.copy(name, copy)
        copy.attrs.update(file.attrs)
        # As earlier versions wrote those of FITS.
        copy["id"] = np.array([f"  NGC {row:04}".encode() for row in range(N)])
    assert read_summary(named, "NGC 0003").row == read_summary(named, " NGC 0003 ").row == 3
    for wrong in ("ngc 0003", "NGC0003", "ngc-0003"):
        with pytest.raises(ParameterError, match=f"no row has the id '{wrong}'; there is one of 'NGC 0003'"):
            read_summary(named, wrong)
    with pytest.raises(ParameterError, match="no row has the id 'NGC 99': use row numbers, or check the id"):
        read_summary(named, "NGC 99")
    with pytest.raises(ParameterError, match="no row has the id '0022'; there is one of '22'"):
        read_summary(folder / "s.fits", "0022")


def test_one_row_is_read_without_the_columns_of_all_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PosteriorCatalog, "status", property(lambda _: pytest.fail("the statuses of all rows were read")))
    monkeypatch.setattr(PosteriorCatalog, "flags", property(lambda _: pytest.fail("the flags of all rows were read")))
    for row in range(N):
        about = read_summary(folder / "fits.h5", row=row).about
        assert about["good"] is (about["status"] == "" and about["flags"] == "")
        assert about["good"] == read_summary(folder / "s.fits", row=row).about["good"]


def test_a_damaged_file_of_samples_is_said_to_be_one(folder: Path) -> None:
    damaged = folder / "damaged.h5"
    damaged.write_bytes((folder / "fits.h5").read_bytes())
    with h5py.File(damaged, "a") as file:
        del file["summary/dust2"]
    with pytest.raises(ArtifactError, match=r"damaged\.h5 is no consistent file of posteriors .*infer the catalogue again"):
        read_summary(damaged, row=0)


def test_rows_are_not_read_backwards(folder: Path) -> None:
    with read_posteriors(folder / "fits.h5") as posteriors:
        assert posteriors.samples(slice(1, 9, 3))["dust2"].shape == (3, 40)
        for wrong in (slice(None, None, -1), slice(0, 5, 0)):
            with pytest.raises(ParameterError, match="expected a step of 1 or more"):
                posteriors.samples(wrong)


def test_a_row_goes_to_arviz(folder: Path) -> None:
    pytest.importorskip("arviz")
    with read_posteriors(folder / "fits.h5") as posteriors:
        assert posteriors.to_arviz(22).posterior["log_mstar"].shape == (1, 40)
