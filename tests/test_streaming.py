"""Long catalogues: order, memory of interruptions, refusals, reading back."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast.baselines.chain_refiner import ChainRefiner
from sedcast.data.artifacts import reserve
from sedcast.data.catalog import Catalog, load_sdss_sample
from sedcast.data.config import parse_config
from sedcast.data.errors import ArtifactError, CatalogError, ConfigError, ParameterError
from sedcast.data.executors import task_pool
from sedcast.data.invocation import describe_file
from sedcast.data.mapping import CatalogMapping, load_mapping, read_mapped
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.segments import open_segments, partial_folder, write_segment
from sedcast.emulator.simulation import PhotometrySimulator, SimulationConfig, default_simulator
from sedcast.emulator.sps import SPSModel
from sedcast.posterior import joined_posteriors
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.importance import RefineConfig, Refiner
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.joined_posteriors import dataset_types, join_samples
from sedcast.posterior.lookup import read_summary
from sedcast.posterior.posterior_catalog import PERCENTILES, read_posteriors
from sedcast.posterior.quantities import percentile_column
from sedcast.posterior.streaming import infer_file

# On a busy machine Dask wonders about the time that its folders take.
pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories")

N = 60


@pytest.fixture(scope="module")
def estimator() -> PosteriorEstimator:
    return PosteriorEstimator.default()


@pytest.fixture(scope="module")
def mapping() -> CatalogMapping:
    return load_mapping("nsa-v1")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    flux = 50 * 10 ** rng.normal(0, 0.2, (N, 1)) * np.array([0.1, 0.2, 0.3, 1, 2, 3, 4]) * rng.normal(1, 0.03, (N, 7))
    zred = rng.uniform(0.03, 0.15, N)
    zred[7] = -1.0
    path = tmp_path_factory.mktemp("catalog") / "nsa_v1_0_1.fits"
    columns = {"NSAID": np.arange(N) * 3, "Z": zred, "ELPETRO_NMGY": flux, "ELPETRO_NMGY_IVAR": (0.03 * flux) ** -2.0}
    Table(columns).write(path)
    return path


def test_runs_give_what_the_whole_gives(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    of_whole = infer_catalog(estimator, read_mapped(catalog, mapping), tmp_path / "whole.h5", n_samples=30, seed=4)
    for rows in (17, 60):
        samples = (tmp_path / f"{rows}.h5", "float32", "gzip")
        figures = infer_file(
            estimator, catalog, mapping, tmp_path / f"{rows}.fits", n_samples=30, seed=4, rows_per_segment=rows, samples=samples
        )
        assert figures["galaxies"] == N
        assert figures["inferred"] == N - 1
        assert figures["zero_points"] == of_whole["zero_points"]
        for name in figures.keys() & of_whole.keys() - {"seconds", "zero_points"}:
            assert figures[name] == pytest.approx(of_whole[name]), name
        assert not partial_folder(tmp_path / f"{rows}.fits").exists()
        with read_posteriors(samples[0]) as mine, read_posteriors(tmp_path / "whole.h5") as whole:
            expected, table = whole.summary(), Table.read(tmp_path / f"{rows}.fits")
            assert table["id"].tolist() == (np.arange(N) * 3).tolist()
            for name in ("log_mstar_p50", "t_mw_gyr_p16", "dust2_p97_5"):
                np.testing.assert_array_equal(table[name], expected[name])
            np.testing.assert_array_equal(mine.theta(mine.row(30)), whole.theta(10))
            np.testing.assert_array_equal(mine.file["log_Z_MW"][:], mine.file["samples/log_z_mw"][:])
            assert mine.file["beta1"].shape == (N, 30)
            assert mine.status[7] == "redshift is not positive"


def test_reasons_are_text_that_fits_files_may_hold(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    table = Table.read(catalog)[:9]
    table["Z"][3] = 0.5
    table.write(tmp_path / "far.fits")
    infer_file(estimator, tmp_path / "far.fits", mapping, tmp_path / "out.fits", n_samples=5)
    with fits.open(tmp_path / "out.fits") as file:
        status, header = file[1].data["status"], file[1].header
    assert np.flatnonzero(status != "").tolist() == [3, 7]
    described = {header[f"TTYPE{k}"]: header.get(f"TCOMM{k}") for k in range(1, header["TFIELDS"] + 1)}
    assert described["log_mstar_p50"] == "log mass formed [Msun], percentile 50"
    assert described["status"] == "why there is no posterior, empty if there is one"
    assert None not in described.values()
    units = {header[f"TTYPE{k}"]: header[f"TUNIT{k}"] for k in range(1, header["TFIELDS"] + 1) if f"TUNIT{k}" in header}
    expected = {"tburst": "Gyr", "t_mw_gyr": "Gyr", "t50_gyr": "Gyr", "a_v": "mag"}
    assert units == {percentile_column(name, p): unit for name, unit in expected.items() for p in PERCENTILES}
    assert status[3] == "redshift 0.5 beyond the training range, 0.005 to 0.3"


def test_half_precision_and_parquet(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    samples = (tmp_path / "half.h5", "float16", "lzf")
    infer_file(estimator, catalog, mapping, tmp_path / "s.parquet", n_samples=20, rows_per_segment=25, samples=samples)
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table["id"].to_pylist() == (np.arange(N) * 3).tolist()
    with read_posteriors(samples[0]) as half:
        assert half.samples(0)["log_mstar"].dtype == np.float16
        median = np.median(half.samples(slice(8, N))["log_mstar"].astype(float), axis=1)
        assert estimator.prior.contains(estimator.prior.validate(half.theta(8))).all()
    np.testing.assert_allclose(median, table["log_mstar_p50"].to_numpy()[8:], atol=0.01)


def test_half_precision_is_the_nearest(tmp_path: Path) -> None:
    estimator = gaussian_estimator()
    flux, ivar, zred = mock_photometry(3, 5)
    stored = {}
    for kind in ("float16", "float32"):
        path = tmp_path / f"{kind}.h5"
        infer_catalog(estimator, Catalog(np.arange(3), BANDS, flux, ivar, zred), path, n_samples=20_000, sample_type=kind)
        with read_posteriors(path) as posteriors:
            stored[kind] = posteriors.samples(slice(0, 3))
    for name, exact in stored["float32"].items():
        np.testing.assert_array_equal(stored["float16"][name], exact.astype(np.float16))


SCRIPT = """
import sys
from sedcast.data.mapping import load_mapping
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.streaming import infer_file
from pathlib import Path
infer_file(PosteriorEstimator.default(), sys.argv[1], load_mapping("nsa-v1"), sys.argv[2], n_samples=2000,
           rows_per_segment=3, n_threads=1, samples=(Path(sys.argv[2]).with_suffix(".h5"), "float32", None))
"""


def test_killed_runs_resume_to_the_same_bytes(catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    once, often = tmp_path / "once" / "out.fits", tmp_path / "often" / "out.fits"
    rng, kills = np.random.default_rng(8), 0
    for output, limit in ((once, 0), (often, 3)):
        output.parent.mkdir()
        while True:
            # The provenance names the samples as they are given: relative, so that the two runs are alike.
            run = subprocess.Popen([sys.executable, "-c", SCRIPT, catalog, "out.fits"], cwd=output.parent)
            before = len(list(partial_folder(output).glob("segment*")))
            while kills < limit and run.poll() is None:
                if len(list(partial_folder(output).glob("segment*"))) > before:
                    time.sleep(rng.uniform(0, 0.1))
                    run.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.005)
            if run.wait() == 0:
                break
            assert run.returncode == -signal.SIGKILL
    assert kills == 3
    for suffix in (".fits", ".h5"):
        assert once.with_suffix(suffix).read_bytes() == often.with_suffix(suffix).read_bytes()
    assert sorted(path.name for path in often.parent.iterdir()) == ["out.fits", "out.h5"]


def test_a_second_run_and_another_run_are_refused(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    output = tmp_path / "out.fits"

    def stop(done: int, total: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer_file(estimator, catalog, mapping, output, n_samples=5, rows_per_segment=20, progress=stop)
    assert not output.exists()
    with (partial_folder(output) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process"):
            infer_file(estimator, catalog, mapping, output, n_samples=5, rows_per_segment=20)
    with pytest.raises(ConfigError, match="seed was 0 and is now 1"):
        infer_file(estimator, catalog, mapping, output, n_samples=5, rows_per_segment=20, seed=1)
    manifest = partial_folder(output) / "manifest.json"
    begun = manifest.read_text(encoding="utf-8")
    manifest.write_text(begun.replace('"a_v"', '"other"'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"quantities was .*other.* and is now .*a_v"):
        infer_file(estimator, catalog, mapping, output, n_samples=5, rows_per_segment=20)
    manifest.write_text(begun, encoding="utf-8")
    assert infer_file(estimator, catalog, mapping, output, n_samples=5, rows_per_segment=20)["resumed"] == 20


def test_progress_is_told_within_a_run_of_rows(
    estimator: PosteriorEstimator, mapping: CatalogMapping, catalog: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    # More draws than a block of 60 rows holds.
    infer_file(
        estimator,
        catalog,
        mapping,
        tmp_path / "out.fits",
        n_samples=3000,
        progress=lambda *rows: told.append(rows),
        n_threads=1,
    )
    assert len(told) >= 3
    assert told == sorted(told)
    assert told[-1] == (60, 60)


def test_a_catalogue_that_changes_meanwhile_is_not_joined(
    estimator: PosteriorEstimator, mapping: CatalogMapping, catalog: Path, tmp_path: Path
) -> None:
    changing, output = tmp_path / "changing.fits", tmp_path / "out.fits"
    changing.write_bytes(catalog.read_bytes())

    def edit(*_: int) -> None:
        with fits.open(changing, mode="update") as hdus:
            hdus[1].data["NSAID"][0] = 1

    with pytest.raises(CatalogError, match="changed while it was being inferred"):
        infer_file(estimator, changing, mapping, output, n_samples=5, progress=edit)
    assert not output.exists()
    # Nothing is in the way of the next run.
    assert infer_file(estimator, changing, mapping, output, n_samples=5)["resumed"] == 0


def test_a_catalogue_that_is_only_touched_meanwhile_is_the_same(
    estimator: PosteriorEstimator,
    mapping: CatalogMapping,
    catalog: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    touched, outputs = tmp_path / "touched.fits", (tmp_path / "whole.fits", tmp_path / "out.fits")
    shutil.copy2(catalog, touched)
    infer_file(estimator, touched, mapping, outputs[0], n_samples=5, rows_per_segment=20)
    looked_at: list[Path] = []
    monkeypatch.setattr("sedcast.posterior.streaming.describe_file", lambda path: looked_at.append(path) or describe_file(path))

    def touch(done: int, _: int) -> None:
        if done == 20:
            os.utime(touched, ns=(0, done))

    infer_file(estimator, touched, mapping, outputs[1], n_samples=5, rows_per_segment=20, progress=touch)
    assert touched.stat().st_mtime_ns == 20
    # At the start, after the touch and at the end, but not for both segments that follow.
    assert len(looked_at) == 3
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_catalogue_that_was_another_for_a_while_is_not_joined(
    estimator: PosteriorEstimator, mapping: CatalogMapping, catalog: Path, tmp_path: Path
) -> None:
    changing, output = tmp_path / "changing.fits", tmp_path / "out.fits"
    changing.write_bytes(catalog.read_bytes())

    def edit(done: int, _: int) -> None:
        if done == 20:
            with fits.open(changing, mode="update") as hdus:
                hdus[1].data["NSAID"][30] = 1
        else:
            changing.write_bytes(catalog.read_bytes())

    with pytest.raises(CatalogError, match="changed while it was being inferred"):
        infer_file(estimator, changing, mapping, output, n_samples=5, rows_per_segment=20, progress=edit)
    assert not output.exists()


def test_a_catalogue_that_is_cut_meanwhile_is_said_to_have_changed(
    estimator: PosteriorEstimator, mapping: CatalogMapping, catalog: Path, tmp_path: Path
) -> None:
    changing, output = tmp_path / "changing.fits", tmp_path / "out.fits"
    changing.write_bytes(catalog.read_bytes())

    def cut(*_: int) -> None:
        os.truncate(changing, 6000)

    with pytest.raises(CatalogError, match="changed while it was being inferred"):
        infer_file(estimator, changing, mapping, output, n_samples=5, rows_per_segment=20, progress=cut)
    assert [path.name for path in tmp_path.iterdir()] == ["changing.fits"]


def test_an_edited_catalogue_is_another_whatever_its_size_and_time(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    mine, output = tmp_path / "mine.fits", tmp_path / "out.fits"
    shutil.copy2(catalog, mine)
    about = mine.stat()

    def interrupt(done: int, _: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer_file(estimator, mine, mapping, output, n_samples=10, rows_per_segment=20, progress=interrupt)
    with fits.open(mine, mode="update") as hdus:
        hdus[1].data["NSAID"][0] = 1
    os.utime(mine, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert mine.stat().st_size == about.st_size
    with pytest.raises(ConfigError, match=r"catalog\.sha256 was .* and is now"):
        infer_file(estimator, mine, mapping, output, n_samples=10, rows_per_segment=20)
    shutil.copyfile(catalog, mine)
    assert infer_file(estimator, mine, mapping, output, n_samples=10, rows_per_segment=20)["resumed"] == 20
    mine.unlink()
    with pytest.raises(CatalogError, match=r"mine\.fits"):
        infer_file(estimator, mine, mapping, output, n_samples=10, overwrite=True)


def test_a_finished_run_of_rows_that_was_damaged_is_made_again(
    estimator: PosteriorEstimator,
    catalog: Path,
    mapping: CatalogMapping,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    outputs = [tmp_path / "whole.fits", tmp_path / "out.fits"]

    def interrupt(done: int, _: int) -> None:
        if done > 40:
            raise KeyboardInterrupt

    infer_file(estimator, catalog, mapping, outputs[0], n_samples=10, rows_per_segment=20)
    with pytest.raises(KeyboardInterrupt):
        infer_file(estimator, catalog, mapping, outputs[1], n_samples=10, rows_per_segment=20, progress=interrupt)
    first, _ = sorted(partial_folder(outputs[1]).glob("segment-*.h5"))
    data = bytearray(first.read_bytes())
    with h5py.File(first) as file:
        data[file["zred"].id.get_offset() + 1] ^= 1
    first.write_bytes(data)
    assert infer_file(estimator, catalog, mapping, outputs[1], n_samples=10, rows_per_segment=20)["resumed"] == 20
    assert "is damaged: its rows are made again" in caplog.text
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize("lost", ["segment-000000000.h5", "segment-000000001.h5"])
def test_finished_rows_that_are_deleted_meanwhile_are_missed(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path, lost: str
) -> None:
    output = tmp_path / "out.fits"

    def delete(done: int, _: int) -> None:
        if done == N:
            (partial_folder(output) / lost).unlink(missing_ok=True)

    with pytest.raises(ArtifactError, match="lost finished rows meanwhile"):
        infer_file(estimator, catalog, mapping, output, n_samples=10, rows_per_segment=20, progress=delete)
    assert not output.exists()
    assert infer_file(estimator, catalog, mapping, output, n_samples=10, rows_per_segment=20)["resumed"] == 40


def test_finished_rows_are_promised_where_they_are(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    output = tmp_path / "out.fits"

    def move(done: int, _: int) -> None:
        if done == 20 and partial_folder(output).exists():
            partial_folder(output).rename(tmp_path / "moved")

    with pytest.raises(ArtifactError, match=r"out\.fits\.partial, where finished rows were, is gone"):
        infer_file(estimator, catalog, mapping, output, n_samples=10, rows_per_segment=20, progress=move)


def test_room_is_held_for_texts_that_a_later_segment_widens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, output, n_rows = [], tmp_path / "out.h5", 3000
    with open_segments(output, {}) as segments:
        for number, flag in enumerate((b"short", b"long" * 100)):

            def write(path: Path, flag: bytes = flag) -> None:
                with h5py.File(path, "w") as file:
                    file["id"], file["flags"] = np.arange(n_rows), np.array([flag] * n_rows)
                    file["samples/a_v"], file["summary/a_v"] = np.zeros((n_rows, 2)), np.zeros((n_rows, 5))
                    file.attrs.update({"format": 1, "bands": ["u"]})

            write_segment(segments.path(number), number, n_rows, write)
        segments.count()
        monkeypatch.setattr("sedcast.data.hdf5.reserve", lambda path, n_bytes: (reserve(path, n_bytes), held.append(n_bytes)))
        join_samples(segments, output, dataset_types(segments), {})
    assert held[0] < output.stat().st_size <= max(held) <= 2 * output.stat().st_size


def test_a_call_that_failed_at_its_last_step_goes_on_when_it_is_repeated(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def call() -> dict[str, Any]:
        return infer_file(estimator, catalog, mapping, tmp_path / "out.fits", n_samples=10, samples=(samples, "float32", None))

    samples = tmp_path / "out.h5"
    with monkeypatch.context() as patched:
        patched.setattr(joined_posteriors, "write_table", full)
        with pytest.raises(ArtifactError, match="the disk is full"):
            call()
    # Or it would be in the way of the next call.
    assert [path.name for path in tmp_path.iterdir()] == ["out.fits.partial"]
    assert call()["resumed"] == N
    with read_posteriors(samples) as posteriors:
        assert len(posteriors) == N


def test_a_refinement_by_another_simulator_has_other_settings(estimator: PosteriorEstimator) -> None:
    config = parse_config(estimator.card["simulation"], SimulationConfig, "simulation")
    direct = SPSModel(SSPLibrary.popstar())
    simulators = [
        default_simulator(config),
        PhotometrySimulator(direct, estimator.bands, 0.3),
        PhotometrySimulator(SPSModel(SSPLibrary.popstar(), t_birth_cloud_gyr=0.02), estimator.bands, 0.3),
    ]
    for made in (lambda one: Refiner(estimator, one), lambda one: ChainRefiner(estimator, one)):
        settings = [made(one).settings() for one in simulators]
        assert len({one["simulator"] for one in settings}) == 3
        assert settings[0] == made(default_simulator(config)).settings()


def test_a_file_that_cannot_grow_says_so_and_leaves_nothing_behind(catalog: Path, tmp_path: Path) -> None:
    limited = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}))\n"
    done = subprocess.run(
        [sys.executable, "-c", limited + SCRIPT, catalog, "out.fits"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert "ArtifactError: out.fits cannot be written" in done.stderr
    assert not (tmp_path / "out.fits").exists()


def test_wrong_outputs_are_refused(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=r"\.parquet"):
        infer_file(estimator, catalog, mapping, tmp_path / "out.txt")
    with pytest.raises(ParameterError, match="both the summaries and the samples"):
        infer_file(estimator, catalog, mapping, tmp_path / "out.fits", samples=(tmp_path / "x/../out.fits", "float32", None))
    with pytest.raises(ParameterError, match=r"s\.fits: this is written as HDF5"):
        infer_file(estimator, catalog, mapping, tmp_path / "out.fits", samples=(tmp_path / "s.fits", "float32", None))
    with pytest.raises(ParameterError, match="float16"):
        infer_file(estimator, catalog, mapping, tmp_path / "out.fits", samples=(tmp_path / "s.h5", "float8", None))  # type: ignore[arg-type]


def test_the_command_streams_and_refuses(catalog: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from sedcast.cli import app

    base = ["infer", str(catalog), "--mapping", "nsa-v1", "--n-samples", "5", "--json", "-o"]
    done = CliRunner().invoke(app, [*base, str(tmp_path / "s.fits"), "--samples", str(tmp_path / "s.h5")])
    assert done.exit_code == 0, done.output
    assert len(Table.read(tmp_path / "s.fits")) == N
    whole = CliRunner().invoke(app, [*base, str(tmp_path / "whole.h5")])
    assert whole.exit_code == 0, whole.output
    with read_posteriors(tmp_path / "whole.h5") as one, read_posteriors(tmp_path / "s.h5") as other:
        np.testing.assert_array_equal(one.theta(5), other.theta(5))
        assert one.ids.tolist() == other.ids.tolist()
    with pytest.raises(ParameterError, match="itself"):
        CliRunner().invoke(app, [*base, str(catalog)], catch_exceptions=False)
    with pytest.raises(ParameterError, match="--samples"):
        CliRunner().invoke(app, [*base, str(tmp_path / "w.h5"), "--samples", "x.h5"], catch_exceptions=False)


def test_a_dask_cluster_that_loses_a_worker_gives_the_same_bytes(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="needs dask and distributed")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    (tmp_path / "alone").mkdir()
    (tmp_path / "many").mkdir()
    options: dict[str, Any] = {"n_samples": 200, "rows_per_segment": 4, "samples": (Path("out.h5"), "float32", None)}
    monkeypatch.chdir(tmp_path / "alone")
    infer_file(estimator, catalog, mapping, "out.fits", **options)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0")
    with cluster, distributed.Client(cluster) as client, task_pool(cluster.scheduler_address) as pool:
        # Not the folder in which the workers are.
        monkeypatch.chdir(tmp_path / "many")
        workers = set(client.run(os.getpid).values())
        killed = []

        def kill_one(done: int, total: int) -> None:
            if not killed and done < total / 2:
                killed.append(min(workers))
                os.kill(killed[0], signal.SIGKILL)

        infer_file(estimator, catalog, mapping, "out.fits", pool=pool, progress=kill_one, **options)
        assert killed
        assert len(workers) == 2
    for name in ("out.fits", "out.h5"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_refined_rows_stream_as_they_are_refined_at_once(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    simulator = default_simulator(parse_config(estimator.card["simulation"], SimulationConfig, "simulation"))
    refiner = Refiner(estimator, simulator, RefineConfig(n_draws=1000))
    rows = read_mapped(catalog, mapping).subset(slice(0, 10))
    few = tmp_path / "few.fits"
    Table.read(catalog)[:10].write(few)
    infer_catalog(estimator, rows, tmp_path / "whole.h5", n_samples=50, refiner=refiner)
    figures = infer_file(
        estimator, few, mapping, tmp_path / "s.fits", n_samples=50, refiner=refiner, rows_per_segment=4, n_threads=1
    )
    assert 0 < figures["efficiency_median"] <= 1
    table = Table.read(tmp_path / "s.fits")
    with read_posteriors(tmp_path / "whole.h5") as whole:
        expected = whole.summary()
    for name in ("log_mstar_p50", "efficiency", "khat", "log_evidence"):
        np.testing.assert_array_equal(table[name], expected[name])
    assert table["step"].tolist() == expected["step"].tolist()
    assert table["flags"].tolist() == expected["flags"].tolist()


def test_good_rows_are_told_whatever_reads_the_summaries(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    # Rows of every kind: with a flag, without one, excluded.
    real = load_sdss_sample().subset(slice(40))
    columns = {
        "ELPETRO_NMGY": np.pad(real.flux, ((0, 0), (2, 0))),
        "ELPETRO_NMGY_IVAR": np.pad(real.flux_ivar, ((0, 0), (2, 0))),
    }
    zred = np.where(np.arange(40) == 5, -1.0, real.zred)
    Table({"NSAID": np.arange(40), "Z": zred} | columns).write(tmp_path / "real.fits")
    infer_file(estimator, tmp_path / "real.fits", mapping, tmp_path / "s.fits", n_samples=20)
    table = Table.read(tmp_path / "s.fits", mask_invalid=False)
    expected = (table["status"] == "") & (table["flags"] == "")
    assert 10 < expected.sum() < 40
    assert Table.read(tmp_path / "s.fits")["good"].tolist() == expected.tolist()
    assert read_summary(tmp_path / "s.fits", row=5).about["good"] is False


def test_a_table_beyond_the_first_is_streamed(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table({"Z": [0.1]})), fits.BinTableHDU(Table.read(catalog), name="PHOT")]
    fits.HDUList(hdus).writeto(tmp_path / "two.fits")
    infer_file(estimator, tmp_path / "two.fits", mapping.model_copy(update={"hdu": "PHOT"}), tmp_path / "a.fits", n_samples=5)
    infer_file(estimator, catalog, mapping, tmp_path / "b.fits", n_samples=5)
    assert fits.getdata(tmp_path / "a.fits", 1).tobytes() == fits.getdata(tmp_path / "b.fits", 1).tobytes()


def test_a_mapping_needs_the_redshift_that_the_posterior_needs(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the mapping names no redshift, which 'sdss-ugriz' needs"):
        infer_file(estimator, catalog, mapping.model_copy(update={"redshift": None}), tmp_path / "s.fits")


def test_it_is_said_when_most_rows_have_no_posterior(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table.read(catalog)
    table["Z"][:40] = 0.5
    table.write(tmp_path / "far.fits")
    infer_file(estimator, tmp_path / "far.fits", mapping, tmp_path / "s.fits", n_samples=5)
    assert "40 of 60 rows have no posterior, most often for: redshift beyond the training range" in caplog.text


def test_columns_of_bands_that_the_posterior_lacks_need_not_be_there(
    estimator: PosteriorEstimator, catalog: Path, mapping: CatalogMapping, tmp_path: Path
) -> None:
    beyond = {"wise2010-W1": mapping.bands["z"].model_copy(update={"flux": "FLUX_W1", "ivar": "FLUX_IVAR_W1"})}
    wider = mapping.model_copy(update={"bands": mapping.bands | beyond})
    infer_file(estimator, catalog, wider, tmp_path / "a.fits", n_samples=5)
    infer_file(estimator, catalog, mapping, tmp_path / "b.fits", n_samples=5)
    assert fits.getdata(tmp_path / "a.fits", 1).tobytes() == fits.getdata(tmp_path / "b.fits", 1).tobytes()
    lacking = mapping.model_copy(update={"bands": {band: mapping.bands[band] for band in ("FUV", "g", "r")}})
    with pytest.raises(CatalogError, match="FUV"):
        infer_file(estimator, catalog, lacking, tmp_path / "c.fits")
