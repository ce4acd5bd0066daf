"""Inference of catalogues into HDF5."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import h5py
import numpy as np
import pytest
from astropy import units as u
from matplotlib import pyplot
from standin import BANDS, gaussian_estimator, mock_photometry

from sedcast.baselines.fallback import NOT_CONVERGED
from sedcast.data.artifacts import reserve
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ArtifactError, CatalogError, ParameterError
from sedcast.emulator.histories import DERIVED_NAMES, derived_properties
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.emulator.surviving import SurvivingMass
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.exact import Refined
from sedcast.posterior.importance import HEAVY_TAIL, INEFFICIENT
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.inference_data import inference_data
from sedcast.posterior.lookup import read_summary
from sedcast.posterior.posterior_catalog import PERCENTILES, QUANTITY_NAMES, read_posteriors
from sedcast.posterior.posterior_file import write_refinement
from sedcast.posterior.quantities import percentile_column
from sedcast.posterior.resampling import FEW_EFFECTIVE
from sedcast.posterior.row_reasons import AT_EDGE, NOT_FINITE, warn_of_flags


def broken_catalog() -> Catalog:
    flux, ivar, zred = mock_photometry(12, 21)
    ivar[1, 0] = 0
    flux[2, 3] = np.nan
    zred[4], zred[5], zred[11] = -0.1, 0.41, np.nan
    ids = np.array([f"gal-{k}" for k in range(12)])
    return Catalog(ids, BANDS, flux, ivar, zred)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("infer") / "posteriors.h5"
    calls = []
    figures = infer_catalog(
        gaussian_estimator(),
        broken_catalog(),
        path,
        n_samples=300,
        seed=4,
        rows_per_block=5,
        command="test",
        progress=lambda done, total: calls.append((done, total)),
    )
    return path, figures, calls


@pytest.mark.parametrize(
    ("n_rows", "n_samples", "sample_type", "compression"),
    [(3000, 2, None, None), (3000, 2, "float16", None), (66, 1000, "float16", None), (700, 100, "float32", "gzip")],
)
def test_room_is_held_for_all_that_is_written(tmp_path, monkeypatch, n_rows, n_samples, sample_type, compression):
    # HDF5 crashes the process where the room ends in between.
    held, room, output = [], [], tmp_path / "out.h5"
    monkeypatch.setattr("sedcast.data.hdf5.reserve", lambda path, n_bytes: (reserve(path, n_bytes), held.append(n_bytes)))

    def look(*_):
        (part,) = tmp_path.glob(".out.h5.*")
        room.append((part.stat().st_blocks * 512, held[-1]))

    flux, ivar, zred = mock_photometry(n_rows, 21)
    # Excluded rows have the longest texts.
    zred[::2] = 0.41
    catalog = Catalog(np.array([f"galaxy-{k:020d}" for k in range(n_rows)]), BANDS, flux, ivar, zred)
    form = {"sample_type": sample_type, "compression": compression}
    infer_catalog(gaussian_estimator(), catalog, output, n_samples=n_samples, progress=look, **form)
    assert all(there >= asked for there, asked in room)
    assert output.stat().st_size <= held[-1] <= 4 * output.stat().st_size
    assert len(held) == (2 if compression is None else 2 + len(room))
    with read_posteriors(output) as posteriors:
        assert len(posteriors.ids) == n_rows


def test_room_is_held_for_long_flags(tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr("sedcast.data.hdf5.reserve", lambda path, n_bytes: (reserve(path, n_bytes), held.append(n_bytes)))
    monkeypatch.setattr("sedcast.posterior.infer.joined_flags", lambda _: "flag; " * 300)
    flux, ivar, zred = mock_photometry(1000, 21)
    infer_catalog(gaussian_estimator(), Catalog(np.arange(1000), BANDS, flux, ivar, zred), tmp_path / "out.h5", n_samples=2)
    assert held[0] < (tmp_path / "out.h5").stat().st_size <= held[-1]


def test_every_row_is_there_with_its_reason(written):
    path, figures, calls = written
    catalog = broken_catalog()
    with read_posteriors(path) as posteriors:
        assert posteriors.ids.tolist() == catalog.ids.tolist()
        bad = [1, 2, 4, 5, 11]
        assert np.flatnonzero(posteriors.status != "").tolist() == bad
        assert not posteriors.good[bad].any()
        assert posteriors.good[(posteriors.status == "") & (posteriors.flags == "")].all()
        assert posteriors.status[1].endswith(" u")
        assert posteriors.status[2].endswith(" i")
        assert "beyond the training range" in posteriors.status[5]
        np.testing.assert_array_equal(posteriors.flux, catalog.flux)
        np.testing.assert_array_equal(posteriors.flux_ivar, catalog.flux_ivar)
        for values in posteriors.samples(slice(None)).values():
            # NaN exactly where the status says why.
            np.testing.assert_array_equal(np.isnan(values).all(axis=1), posteriors.status != "")
            np.testing.assert_array_equal(np.isnan(values).any(axis=1), posteriors.status != "")
    assert figures["galaxies"] == 12
    assert figures["inferred"] == 7
    assert sum(figures["excluded"].values()) == 5
    assert figures["excluded"]["redshift beyond the training range"] == 1
    assert calls == [(5, 12), (10, 12), (12, 12)]


def test_samples_and_derived_properties_are_the_estimators(written):
    estimator, catalog = gaussian_estimator(), broken_catalog()
    with read_posteriors(written[0]) as posteriors:
        row = posteriors.row("gal-7")
        one = slice(row, row + 1)
        expected = estimator.sample(
            catalog.flux[one], catalog.flux_ivar[one], catalog.zred[one], 300, seed=4, row_keys=np.array([row])
        )[0]
        np.testing.assert_allclose(posteriors.theta(row), expected, rtol=1e-5)
        derived = derived_properties(expected, catalog.zred[row], estimator.bases, estimator.cosmology)
        found = posteriors.samples(row, DERIVED_NAMES)
        for name in DERIVED_NAMES:
            np.testing.assert_allclose(found[name], derived[name], rtol=1e-5, atol=1e-5)


def test_surviving_mass_is_written_where_it_is_known(tmp_path, written):
    fraction = np.full((2, 2), 0.6)
    known = SurvivingMass(np.array([6.0, 10.2]), np.array([-4.0, -1.5]), fraction)
    replace(gaussian_estimator(), surviving=known).save(tmp_path / "estimator.npz")
    estimator = PosteriorEstimator.load(tmp_path / "estimator.npz")
    infer_catalog(estimator, broken_catalog(), tmp_path / "known.h5", n_samples=50)
    with read_posteriors(tmp_path / "known.h5") as posteriors:
        assert posteriors.quantity_names == (*QUANTITY_NAMES, "log_mstar_surviving")
        samples = posteriors.samples(0)
        np.testing.assert_allclose(samples["log_mstar_surviving"], samples["log_mstar"] + np.log10(0.6), rtol=1e-5)
        assert "log_mstar_surviving_p50" in posteriors.summary().colnames
    with read_posteriors(written[0]) as posteriors:
        assert "log_mstar_surviving" not in posteriors.quantity_names


def test_files_of_before_are_read(tmp_path, written):
    """Without the derived quantities that were added later."""
    path, added = tmp_path / "old.h5", ("log_ssfr_100myr", "t50_gyr", "a_v")
    shutil.copy(written[0], path)
    with h5py.File(path, "r+") as file:
        for name in added:
            del file[f"samples/{name}"], file[f"summary/{name}"]
    with read_posteriors(path) as old, read_posteriors(written[0]) as new:
        assert old.quantity_names == tuple(name for name in new.quantity_names if name not in added)
        assert set(new.summary().colnames) - set(old.summary().colnames) == {
            percentile_column(n, p) for n in added for p in PERCENTILES
        }
        np.testing.assert_array_equal(old.samples(0)["t_mw_gyr"], new.samples(0)["t_mw_gyr"])
        with pytest.raises(ParameterError, match="earlier version wrote the file: infer again"):
            old.samples(0, ("t50_gyr",))
        assert read_summary(path, row=0).percentiles == {
            name: values for name, values in read_summary(written[0], row=0).percentiles.items() if name not in added
        }
    with h5py.File(path, "r+") as file:
        del file["summary/t_mw_gyr"]
    with read_posteriors(path) as damaged, pytest.raises(ArtifactError, match="infer the catalogue again"):
        damaged.summary()


def test_columns_say_what_they_are(written):
    path = written[0] if isinstance(written, tuple) else written
    with read_posteriors(path) as posteriors:
        described = {name: posteriors.file["samples"][name].attrs["description"] for name in posteriors.quantity_names}
        summary = posteriors.summary()
        assert summary["tburst_p16"].description == "burst's lookback time [Gyr], percentile 16"
        assert (summary["tburst_p16"].unit, summary["log_mstar_p16"].unit) == (u.Gyr, None)
        assert all(column.description for column in summary.itercols())
        assert posteriors.file["flux"].attrs["description"] == "AB fluxes in the file's bands [nanomaggies]"
    assert described["log_sfr_1gyr"] == "log SFR, last 1 Gyr [Msun/yr]"
    assert described["t50_gyr"] == "age, half-mass (t50) [Gyr]"
    assert described["a_v"] == "A_V, no birth clouds [mag]"
    assert described["dust2"].isascii()
    assert len(set(described.values())) == len(described)


def test_summary_is_numpys_percentiles(written):
    with read_posteriors(written[0]) as posteriors:
        table = posteriors.summary()
        assert len(table) == 12
        for name in QUANTITY_NAMES:
            expected = np.percentile(posteriors.samples(3, (name,))[name].astype(float), PERCENTILES)
            found = [table[f"{name}_p{p}"][3] for p in ("2_5", "16", "50", "84", "97_5")]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            assert np.isnan(table[f"{name}_p50"][1])


def test_blocks_and_threads_do_not_matter(tmp_path, written):
    with read_posteriors(written[0]) as first:
        for rows_per_block, n_threads in ((1, 1), (7, 2), (100, 3)):
            path = tmp_path / f"{rows_per_block}.h5"
            infer_catalog(
                gaussian_estimator(),
                broken_catalog(),
                path,
                n_samples=300,
                seed=4,
                rows_per_block=rows_per_block,
                n_threads=n_threads,
            )
            with read_posteriors(path) as again:
                for name in QUANTITY_NAMES:
                    every = slice(None)
                    np.testing.assert_allclose(
                        again.samples(every, (name,))[name], first.samples(every, (name,))[name], rtol=1e-5, atol=1e-6
                    )


def test_provenance(written):
    with h5py.File(written[0]) as file:
        provenance = json.loads(file.attrs["provenance"])
        assert list(file.attrs["bands"]) == list(BANDS)
    assert provenance["command"] == "test"
    assert (provenance["seed"], provenance["n_samples"]) == (4, 300)
    assert provenance["estimator"]["name"] == "stand-in"
    assert len(provenance["estimator"]["sha256"]) == 64
    assert provenance["parameter_names"] == list(PARAMETER_NAMES)
    assert "numpy" in provenance["versions"]


def test_wider_catalogue_and_integer_ids(tmp_path):
    flux, ivar, zred = mock_photometry(4, 22)
    wide = Catalog(
        np.array([10, 11, 12, 12]),
        ("NUV", *BANDS[::-1]),
        np.column_stack([np.zeros(4), flux[:, ::-1]]),
        np.column_stack([np.zeros(4), ivar[:, ::-1]]),
        zred,
    )
    figures = infer_catalog(gaussian_estimator(), wide, tmp_path / "wide.h5", n_samples=20)
    assert figures["inferred"] == 4
    with read_posteriors(tmp_path / "wide.h5") as posteriors:
        np.testing.assert_array_equal(posteriors.flux, flux)
        assert posteriors.row(11) == 1
        for wrong in (12, 99):
            with pytest.raises(ParameterError, match=f"id {wrong}"):
                posteriors.row(wrong)


def test_non_finite_samples_exclude_a_row_with_a_reason(tmp_path, monkeypatch):
    estimator = gaussian_estimator()
    draw = type(estimator).draw

    def spoiled(self, *args, **kwargs):
        drawn = draw(self, *args, **kwargs)
        drawn.points[kwargs["row_keys"] == 1, 3] = np.nan
        return drawn

    monkeypatch.setattr(type(estimator), "draw", spoiled)
    flux, ivar, zred = mock_photometry(3, 23)
    flux[1:, 0] *= 1e4
    figures = infer_catalog(estimator, Catalog(np.arange(3), BANDS, flux, ivar, zred), tmp_path / "spoiled.h5", n_samples=20)
    assert figures["excluded"] == {NOT_FINITE: 1}
    with read_posteriors(tmp_path / "spoiled.h5") as posteriors:
        assert posteriors.status.tolist() == ["", NOT_FINITE, ""]
        # Flags are those of posteriors.
        assert [flags != "" for flags in posteriors.flags] == [False, False, True]
        assert np.isnan(posteriors.theta(1)).all()
        assert np.isfinite(posteriors.theta(2)).all()


def test_flags_of_refinement_come_after_those_of_before(tmp_path):
    nothing = np.empty(0)
    one = Refined(nothing, nothing, 50.0, 0.05, 0.8, -3.0, 0.1, "adapted", "heavy", (), 100, 1.0)
    with h5py.File(tmp_path / "refined.h5", "w") as file:
        flags = write_refinement(file, {1: one, 2: replace(one, flag="")}, np.array(["odd", "odd", "odd", ""]))
        assert flags.tolist() == ["odd", "odd; heavy", "odd", ""]
        np.testing.assert_array_equal(file["refinement/khat"], [np.nan, 0.8, 0.8, np.nan])
        assert file["refinement/step"][:].tolist() == [b"", b"adapted", b"adapted", b""]


def test_nothing_left_behind_by_a_failure(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    catalog = Catalog(np.arange(3), BANDS, *mock_photometry(3, 23))
    with pytest.raises(KeyboardInterrupt):
        infer_catalog(gaussian_estimator(), catalog, tmp_path / "out.h5", n_samples=20, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_catalogue_without_any_good_row(tmp_path):
    flux, ivar, zred = mock_photometry(3, 23)
    catalog = Catalog(np.arange(3), BANDS, flux, np.zeros_like(ivar), zred)
    figures = infer_catalog(gaussian_estimator(), catalog, tmp_path / "out.h5", n_samples=20)
    assert figures["inferred"] == 0
    with read_posteriors(tmp_path / "out.h5") as posteriors:
        assert (posteriors.status != "").all()


def test_bad_input(tmp_path):
    estimator = gaussian_estimator()
    catalog = Catalog(np.arange(3), BANDS, *mock_photometry(3, 23))
    with pytest.raises(CatalogError, match="no rows"):
        infer_catalog(estimator, catalog.subset(slice(0, 0)), tmp_path / "out.h5")
    with pytest.raises(CatalogError, match="not in this catalogue"):
        infer_catalog(estimator, catalog.select(("u", "g")), tmp_path / "out.h5")
    with pytest.raises(ParameterError, match="n_samples=0"):
        infer_catalog(estimator, catalog, tmp_path / "out.h5", n_samples=0)
    with pytest.raises(ParameterError, match="n_threads=-1: must be an integer of at least 1"):
        infer_catalog(estimator, catalog, tmp_path / "out.h5", n_threads=-1)
    with pytest.raises(ParameterError, match="seed=-1: must be an integer of at least 0"):
        infer_catalog(estimator, catalog, tmp_path / "out.h5", seed=-1)
    with pytest.raises(ParameterError, match=r"n_samples=2\.5: must be an integer"):
        infer_catalog(estimator, catalog, tmp_path / "out.h5", n_samples=2.5)
    # HDF5 by the name of a table would be read by no program.
    with pytest.raises(ParameterError, match=r"written as HDF5.*\.h5; `infer_file`"):
        infer_catalog(estimator, catalog, tmp_path / "out.fits")


def test_reading_other_files(tmp_path, written):
    with pytest.raises(ArtifactError, match="no file"):
        read_posteriors(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ArtifactError, match="not a readable HDF5"):
        read_posteriors(tmp_path / "text.h5")
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(ArtifactError, match="not a sedcast-posteriors-1"):
        read_posteriors(tmp_path / "other.h5")
    with read_posteriors(written[0]) as posteriors:
        with pytest.raises(ParameterError, match="unknown quantities"):
            posteriors.samples(0, ("mass",))
        with pytest.raises(ParameterError, match="row 12"):
            posteriors.samples(12)


@pytest.mark.filterwarnings("ignore")
def test_arviz(written):
    pytest.importorskip("arviz")
    with read_posteriors(written[0]) as posteriors:
        data = posteriors.to_arviz("gal-3")
        posterior, observed = data["posterior"], data["observed_data"]
        np.testing.assert_array_equal(posterior["log_mstar"].values[0], posteriors.samples(3)["log_mstar"])
        assert posterior["log_mstar"].attrs == {"description": "log mass formed [Msun]", "units": "log10(Msun)"}
        assert posterior["t_mw_gyr"].attrs["units"] == "Gyr"
        assert "units" not in posterior["fburst"].attrs
        assert posterior.attrs["id"] == "gal-3"
        assert posterior.attrs["flags"] == posteriors.flags[3]
        # Its flow knows no likelihood, hence no evidence.
        assert np.isnan(posteriors.log_evidence[3])
        assert "log_evidence" not in posterior.attrs
        np.testing.assert_array_equal(observed["flux"], posteriors.flux[3])
        np.testing.assert_allclose(observed["flux_error"], posteriors.flux_ivar[3] ** -0.5)
        assert tuple(observed["band"].values) == posteriors.bands
        assert observed["flux"].attrs["units"] == "nanomaggies"
        assert observed.attrs["zred"] == posteriors.zred[3]
        with pytest.raises(ParameterError, match="no posterior"):
            posteriors.to_arviz("gal-1")


@pytest.mark.filterwarnings("ignore")
def test_arviz_takes_what_it_is_given(written):
    arviz = pytest.importorskip("arviz")
    with read_posteriors(written[0]) as posteriors:
        data = posteriors.to_arviz("gal-3")
        expected = float(posteriors.samples(3)["dust2"].mean())
    summary = arviz.summary(data, kind="stats", round_to=6)
    assert summary.loc["dust2", "mean"] == pytest.approx(expected, abs=1e-3)
    names = ["log_mstar", "dust2"]
    try:
        arviz.plot_pair(data, var_names=names)
        # Of ArviZ before 1.
        if hasattr(arviz, "plot_posterior"):
            arviz.plot_posterior(data, var_names=names)
    finally:
        # Its figures are pyplot's, which other tests look at.
        pyplot.close("all")


@pytest.mark.filterwarnings("ignore")
def test_arviz_is_not_told_of_bands_that_were_not_measured():
    pytest.importorskip("arviz")
    told = {"flags": "", "score": np.nan}
    samples = {"dust2": np.arange(3.0)}
    data = inference_data(
        samples, ("u", "g", "r"), np.array([0.0, 2.0, 3.0]), np.array([0, 4.0, np.nan]), np.nan, attributes=told
    )
    assert data["observed_data"]["band"].values.tolist() == ["g"]
    assert data["observed_data"]["flux_error"].values.tolist() == [0.5]
    assert "zred" not in data["observed_data"].attrs
    assert "score" not in data["posterior"].attrs


def test_it_warns_when_most_posteriors_are_extrapolations(tmp_path, caplog):
    flux, ivar, zred = mock_photometry(6, 22)
    estimator, ids = gaussian_estimator(), np.arange(6)
    maggies = Catalog(ids, BANDS, flux * 1e-9, ivar * 1e18, zred)
    infer_catalog(estimator, maggies, tmp_path / "a.h5", n_samples=20)
    assert "6 of 6 posteriors are flagged" in caplog.text
    assert "check which columns are which band, the unit of the fluxes" in caplog.text
    caplog.clear()
    infer_catalog(estimator, Catalog(ids, BANDS, flux, ivar, zred), tmp_path / "b.h5", n_samples=20)
    assert "flagged" not in caplog.text


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        (INEFFICIENT, "--fallback mcmc"),
        (HEAVY_TAIL, "--fallback mcmc"),
        (FEW_EFFECTIVE, "train it longer"),
        (NOT_CONVERGED, "longer chains"),
        (AT_EDGE, "a wider prior"),
        ("colours of a star", "keep to galaxies"),
        ("bad fit", "the model has no such galaxies (AGN, emission lines, blends), or columns of two bands are exchanged"),
        ("errors understated?", "check the unit and the errors of the fluxes"),
        ("u error smaller than the training range", "check the unit and the errors of the fluxes"),
        (
            "photometry unlike the training set",
            "check which columns are which band, the unit of the fluxes, their calibration (AB",
        ),
        ("g magnitude brighter than the training range", "check which columns are which band, the unit of the fluxes"),
    ],
)
def test_the_advice_fits_the_commonest_flag(flag: str, advice: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_flags(5, Counter({"": 1, flag: 3, "too blue in u-g": 1}))
    [said] = caplog.messages
    assert said.startswith(f"4 of 5 posteriors are flagged, most often for {flag!r}: ")
    assert advice in said
    assert ("unit" in said) == ("flux" in advice or "no such" in advice)
    warn_of_flags(1, Counter({flag: 1}))
    assert caplog.messages[1] == said.replace("4 of 5 posteriors are flagged, most often", "the posterior is flagged")
