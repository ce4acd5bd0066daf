"""Tables of summaries of any catalogue: what the samples' file holds, with units, descriptions and provenance."""

import gzip
import keyword
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table
from standin import BANDS, gaussian_estimator, mock_photometry
from typer.testing import CliRunner

from sedcast.cli import app
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.errors import ArtifactError, CatalogError, ConfigError, MissingDependencyError, ParameterError
from sedcast.data.executors import task_pool
from sedcast.data.mapping import load_mapping
from sedcast.data.provenance import read_provenance
from sedcast.emulator.segments import partial_folder
from sedcast.emulator.simulation import default_simulator
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.importance import RefineConfig, Refiner
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.lookup import read_summary
from sedcast.posterior.outlier_training import training_simulation
from sedcast.posterior.posterior_catalog import PERCENTILES, REFINEMENT_NAMES, all_quantity_names, read_posteriors
from sedcast.posterior.quantities import column_unit, description, percentile_column
from sedcast.posterior.streaming import infer_file
from sedcast.posterior.summary_tables import held_texts

N = 20
SUFFIXES = ("fits", "parquet", "ecsv")


@pytest.fixture(params=SUFFIXES)
def suffix(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        for module in ("pyarrow", "pandas"):
            pytest.importorskip(module, reason=f"needs {module}")
    return str(request.param)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    flux, ivar, zred = mock_photometry(N, 5)
    zred[7], ivar[9, 2] = -1.0, 0.0
    # Segments whose texts are of different widths.
    return Catalog(np.array([f"galaxy {'é' * (k // 4)}{k}" for k in range(N)]), BANDS, flux, ivar, zred)


@pytest.fixture
def folder(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a plain table, its mapping, a posterior."""
    monkeypatch.chdir(tmp_path)
    columns: dict[str, Any] = {"id": catalog.ids, "zred": catalog.zred}
    for k, band in enumerate(BANDS):
        columns |= {f"flux_{band}": catalog.flux[:, k], f"flux_ivar_{band}": catalog.flux_ivar[:, k]}
    Table(columns).write("mine.csv")
    bands = "".join(f'[bands.{band}]\nflux = "flux_{band}"\nivar = "flux_ivar_{band}"\n' for band in BANDS)
    Path("mine.toml").write_text(f'id = "id"\nredshift = "zred"\n{bands}', encoding="utf-8")
    gaussian_estimator().save("model.npz")
    return tmp_path


def run(*words: object) -> None:
    done = CliRunner().invoke(app, ["-q", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def read(path: str | Path) -> Table:
    return Table.read(path, **({"mask_invalid": False} if str(path).endswith(".fits") else {}))


def assert_holds(path: str | Path, samples: str | Path) -> None:
    """A table is the summary of a file of samples, to the last bit."""
    table = read(path)
    with read_posteriors(samples) as posteriors:
        expected = posteriors.summary()
    assert table.colnames == expected.colnames
    for name in expected.colnames:
        wanted = expected[name]
        # Astropy leaves the texts of a FITS table as bytes, and there only ASCII may be among them.
        got = np.char.decode(table[name], "unicode_escape") if table[name].dtype.kind == "S" else table[name]
        assert got.dtype.kind == wanted.dtype.kind
        np.testing.assert_array_equal(got, wanted)
        assert table[name].unit == wanted.unit
        assert table[name].description == wanted.description


@pytest.mark.parametrize("mapped", [False, True])
def test_a_table_holds_what_the_samples_file_holds(folder: Path, suffix: str, mapped: bool) -> None:
    words = ["infer", "mine.csv", "--model", "model.npz", "--n-samples", 30, "--seed", 3, "--first", 12]
    words += ["--mapping", "mine.toml"] if mapped else []
    run(*words, "-o", "whole.h5")
    run(*words, "-o", f"t.{suffix}", "--samples", "drawn.h5")
    assert_holds(f"t.{suffix}", "whole.h5")
    with read_posteriors("whole.h5") as whole, read_posteriors("drawn.h5") as drawn:
        assert len(whole) == 12
        assert np.flatnonzero(whole.status != "").tolist() == [7, 9]
        for name in whole.quantity_names:
            np.testing.assert_array_equal(drawn.samples(slice(None))[name], whole.samples(slice(None))[name])
    found = read_summary(f"t.{suffix}", "galaxy éé11")
    assert (found.row, found.about["good"], found.about["status"]) == (11, bool(found.about["flags"] == ""), "")
    assert found.percentiles == read_summary("whole.h5", row=11).percentiles
    assert not partial_folder(Path(f"t.{suffix}")).exists()


def test_the_bundled_sample_goes_to_a_table_and_is_repeated_from_it(tmp_path: Path, suffix: str) -> None:
    made = tmp_path / f"made.{suffix}"
    words = ["infer", "sdss", "--model", "sdss-photoz", "--first", 5, "--n-samples", 20]
    run(*words, "-o", made)
    run(*words, "-o", tmp_path / "whole.h5")
    assert_holds(made, tmp_path / "whole.h5")
    assert read_provenance(made)["invocation"]["options"]["first"] == 5
    run("rerun", made, "--check")


def test_a_catalogue_in_memory_is_resumed_and_another_is_not(catalog: Catalog, tmp_path: Path) -> None:
    estimator, output = gaussian_estimator(), tmp_path / "out.fits"
    options: dict[str, Any] = {"n_samples": 10, "rows_per_segment": 8}

    def stop(done: int, total: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer_file(estimator, catalog, None, output, progress=stop, **options)
    brighter = Catalog(catalog.ids, BANDS, 2 * catalog.flux, catalog.flux_ivar, catalog.zred)
    renamed = Catalog(np.arange(N), BANDS, catalog.flux, catalog.flux_ivar, catalog.zred)
    for other in (brighter, renamed):
        with pytest.raises(ConfigError, match=r"interrupted run of something else, catalog\.sha256 was"):
            infer_file(estimator, other, None, output, **options)
    with task_pool(None, 2) as pool:
        assert infer_file(estimator, catalog, None, output, pool=pool, **options)["resumed"] == 8
    infer_catalog(estimator, catalog, tmp_path / "whole.h5", n_samples=10)
    assert_holds(output, tmp_path / "whole.h5")


def test_refined_rows_of_a_catalogue_in_memory(tmp_path: Path) -> None:
    estimator, galaxies = PosteriorEstimator.default(), load_sdss_sample().subset(slice(3))
    refiner = Refiner(estimator, default_simulator(training_simulation(estimator)), RefineConfig(n_draws=1000))
    infer_catalog(estimator, galaxies, tmp_path / "whole.h5", n_samples=20, refiner=refiner)
    infer_file(estimator, galaxies, None, tmp_path / "t.ecsv", n_samples=20, refiner=refiner, rows_per_segment=2)
    assert_holds(tmp_path / "t.ecsv", tmp_path / "whole.h5")
    assert {"khat", "step", "log_evidence_error"} <= set(read(tmp_path / "t.ecsv").colnames)


def test_what_goes_not_together_is_refused(folder: Path, catalog: Catalog) -> None:
    estimator = gaussian_estimator()
    with pytest.raises(ParameterError, match=r"mapping is None, expected that of mine\.csv's columns; or give read_catalog"):
        infer_file(estimator, "mine.csv", None, "t.fits")
    with pytest.raises(ParameterError, match="the catalogue is in memory: give mapping=None"):
        infer_file(estimator, catalog, load_mapping("mine.toml"), "t.fits")
    with pytest.raises(CatalogError, match="no rows"):
        infer_file(estimator, catalog.subset(slice(0)), None, "t.fits")
    assert not list(folder.glob("t.*"))


def test_samples_files_write_their_own_summaries(catalog: Catalog, tmp_path: Path, suffix: str) -> None:
    estimator, whole, path = gaussian_estimator(), tmp_path / "whole.h5", tmp_path / f"t.{suffix}"
    infer_catalog(estimator, catalog, whole, n_samples=10)
    with read_posteriors(whole) as posteriors:
        posteriors.write_summary(path)
        assert read_provenance(path) == posteriors.provenance
    assert_holds(path, whole)
    infer_file(estimator, catalog, None, tmp_path / f"streamed.{suffix}", n_samples=10, rows_per_segment=6)
    assert read(path).dtype == read(tmp_path / f"streamed.{suffix}").dtype
    with h5py.File(whole, "a") as file:
        del file["score"], file["efficiency"]
    with read_posteriors(whole) as posteriors:
        posteriors.write_summary(path, overwrite=True)
        assert np.isnan(read(path)["score"]).all()
        assert np.isnan(read(path)["efficiency"]).all()
        assert_holds(path, whole)
        with pytest.raises(ParameterError, match=r"ends in '\.txt': expected one of \.fits, \.parquet, \.ecsv"):
            posteriors.write_summary(tmp_path / "t.txt")
    with h5py.File(whole, "a") as file:
        file["summary/colour"] = np.zeros((N, len(PERCENTILES)))
    with read_posteriors(whole) as posteriors:
        for damaged in (posteriors.summary, lambda: posteriors.write_summary(path, overwrite=True)):
            with pytest.raises(ArtifactError, match="no consistent file of posteriors"):
                damaged()


def test_tables_are_written_to_names_that_are_not_utf_8(catalog: Catalog, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / os.fsdecode(b"\xff %20#")
    folder.mkdir()
    output = folder / f"{folder.name}.{suffix}"
    # A warning of other ids would have the name in it, which the processes of a test run could not send.
    plain = replace(catalog, ids=np.arange(len(catalog)))
    infer_file(gaussian_estimator(), plain, None, output, n_samples=20)
    assert read_provenance(output)["n_samples"] == 20


def test_fits_and_parquet_describe_each_column(catalog: Catalog, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    for kind in ("fits", "parquet"):
        infer_file(gaussian_estimator(), catalog, None, tmp_path / f"t.{kind}", n_samples=5, rows_per_segment=6)
    header, schema = fits.getheader(tmp_path / "t.fits", 1), parquet.read_schema(tmp_path / "t.parquet")
    for number, field in enumerate(schema, start=1):
        assert header[f"TTYPE{number}"] == field.name
        expected = {b"description": header[f"TCOMM{number}"].encode()}
        expected |= {b"unit": header[f"TUNIT{number}"].encode()} if f"TUNIT{number}" in header else {}
        assert field.metadata == expected
    assert schema.field("t_mw_gyr_p50").metadata[b"unit"] == b"Gyr"


def test_names_of_columns_are_names_everywhere() -> None:
    """Identifiers of FITS, SQL and Python, told apart without capitals; each fits a card of FITS."""
    quantities = all_quantity_names(surviving=True, zred=True)
    names = [percentile_column(name, percentile) for name in quantities for percentile in PERCENTILES]
    names += ["id", "zred", "status", "flags", "good", "score", *REFINEMENT_NAMES, "step"]
    assert {"log_mstar_p2_5", "log_mstar_p16", "log_mstar_p97_5"} <= set(names)
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not keyword.iskeyword(name)
        assert len(name) <= 68
    for name in quantities:
        assert len(description(name, "97.5")) <= 68
        assert column_unit(name) is None or units.Unit(column_unit(name), format="fits")


@pytest.mark.parametrize(
    "held", ["# %ECSV 1.0\n# - {a: [\na\n1\n", "# my notes\n", "", "# %ECSV 1.0\n# ---\n# meta: {sedcast: 1}\n"]
)
def test_other_text_is_no_table_of_summaries(catalog: Catalog, tmp_path: Path, held: str) -> None:
    path = tmp_path / "t.ecsv"
    path.write_text(held, encoding="utf-8")
    with pytest.raises(ArtifactError):
        read_provenance(path)
    with pytest.raises(ParameterError, match="is there already"):
        infer_file(gaussian_estimator(), catalog, None, path, n_samples=5)
    assert path.read_text(encoding="utf-8") == held


def test_parquet_without_its_library_is_refused_before_the_work(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install pyarrow.*or write \.fits or \.ecsv"):
        infer_file(gaussian_estimator(), catalog, None, tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_any_id_is_written_without_loss(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    """In FITS only printable ASCII may be, in tables of lines no breaks of them: these are escaped, wherever they occur."""
    ids = ["plain", "", "a,b", "NGC 6", 'q"u', "nan", "back\\slash", "x" * 3000, "é", "two\nlines", "two\r\nlines", "a\u2028星"]
    catalog = Catalog(np.array(ids), BANDS, *mock_photometry(len(ids), 5))
    whole, streamed, path = tmp_path / "whole.h5", tmp_path / f"streamed.{suffix}", tmp_path / f"t.{suffix}"
    infer_catalog(gaussian_estimator(), catalog, whole, n_samples=10)
    with read_posteriors(whole) as posteriors:
        posteriors.write_summary(path)
    # Segments of which the first has nothing to escape, and short texts.
    infer_file(gaussian_estimator(), catalog, None, streamed, n_samples=10, rows_per_segment=5)
    said = [record.message for record in caplog.records if "escapes" in record.message]
    assert len(said) == (0 if suffix == "parquet" else 2)
    assert all(f"what .{suffix} cannot hold of a text" in message for message in said)
    escaped = {
        "parquet": ids,
        "ecsv": [*ids[:9], "two\\nlines", "two\\r\\nlines", "a\\u2028星"],
        "fits": [*ids[:8], "\\xe9", "two\\nlines", "two\\r\\nlines", "a\\u2028\\u661f"],
    }[suffix]
    for one in (path, streamed):
        table = Table.read(one)
        found = table["id"].filled("") if table.has_masked_columns else table["id"]
        assert found.astype(str).tolist() == escaped
        packed = one.with_name(f"{one.name}.gz")
        packed.write_bytes(gzip.compress(one.read_bytes()))
        for place in (one, packed) if suffix != "parquet" else (one,):
            assert [read_summary(place, name).row for name in ids if name] == [0, *range(2, len(ids))]
    if suffix == "fits":
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert hdus[1].data["id"].tolist() == escaped


@pytest.mark.parametrize("text", [b"a\0b", b"\x1f", b"\x7f", b"two\nlines"])
def test_texts_that_neither_fits_nor_lines_hold_are_escaped(text: bytes) -> None:
    plain = np.array([b" plain~", b""])
    for name in ("t.fits", "t.ecsv", "t.csv.gz"):
        held = held_texts(Path(name), np.array([*plain, text]))
        assert held.tolist() == [*plain, text.decode().encode("unicode_escape")]
        assert held_texts(Path(name), plain).tolist() == plain.tolist()
        assert held_texts(Path(name), plain[:0]).size == 0


def test_ids_with_a_hash_are_no_comments(tmp_path: Path) -> None:
    flux, ivar, zred = mock_photometry(5, 5)
    ids = ["# first", "a#b", 'q"uote', "a,b", "plain"]
    path = tmp_path / "t.ecsv"
    infer_file(gaussian_estimator(), Catalog(np.array(ids), BANDS, flux, ivar, zred), None, path, n_samples=20)
    table = Table.read(path)
    assert list(table["id"]) == ids
    masses = [read_summary(path, name).percentiles["log_mstar"][2] for name in ids]
    np.testing.assert_allclose(table["log_mstar_p50"], masses)
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.read_csv(path, comment="#")
    assert list(frame["id"]) == ids
    np.testing.assert_allclose(frame["log_mstar_p50"], masses)
