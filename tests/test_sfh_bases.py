"""History bases: validation, files, the bundled set, and the physics that they are derived from."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedcast.data import derive_bases as derivation
from sedcast.data.artifacts import save_artifact
from sedcast.data.errors import ArtifactError, MissingDependencyError, ParameterError
from sedcast.data.sfh_bases import SFHBases

TIME = np.linspace(0.0, 13.8, 24)


def arrays() -> dict[str, Any]:
    return {"t_lookback_gyr": TIME, "sfh": np.ones((4, TIME.size)), "zh": np.ones((2, TIME.size))}


def mass_within(bases: SFHBases, t_gyr: float) -> np.ndarray:
    """Fraction of each basis's mass formed in the last `t_gyr`, by a Riemann sum on a fine grid."""
    grid = np.arange(0.0005, bases.t_lookback_gyr[-1], 0.001)
    rate = np.array([np.interp(grid, bases.t_lookback_gyr, row) for row in bases.sfh])
    return rate[:, grid < t_gyr].sum(axis=1) / rate.sum(axis=1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("t_lookback_gyr", TIME[::-1], "must increase strictly from 0.*reverse"),
        ("t_lookback_gyr", TIME + 0.1, "must increase strictly from 0"),
        ("t_lookback_gyr", TIME / 2, "must end near 13.8 Gyr, got 6.9"),
        ("t_lookback_gyr", TIME * 1e9, "in Gyr"),
        ("t_lookback_gyr", TIME[None], r"shape \(n_t,\)"),
        ("sfh", np.ones((3, TIME.size)), r"sfh must have shape \(4, 24\).*got \(3, 24\)"),
        ("zh", np.ones((2, 5)), r"zh must have shape \(2, 24\).*got \(2, 5\)"),
        ("sfh", -np.ones((4, TIME.size)), "sfh must be non-negative"),
        ("zh", np.full((2, TIME.size), np.nan), "zh must be finite"),
        ("sfh", np.eye(4, TIME.size) * [[1], [1], [0], [1]], "only zeros in row 2"),
    ],
)
def test_impossible_bases_are_refused(key: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SFHBases(**(arrays() | {key: value}), name="wrong")


def test_bases_do_not_follow_changes_of_the_arrays_that_made_them() -> None:
    given = arrays()
    bases = SFHBases(**given, name="mine")
    given["sfh"][:] = 7.0
    assert np.all(bases.sfh == 1.0)
    with pytest.raises(ValueError, match="read-only"):
        bases.sfh[0, 0] = 7.0


def test_saved_bases_come_back(tmp_path: Path, rng: np.random.Generator) -> None:
    bases = SFHBases(TIME, rng.random((4, TIME.size)), rng.random((2, TIME.size)), name="mine", provenance={"seed": 3})
    bases.save(tmp_path / "bases.npz")
    read = SFHBases.load(tmp_path / "bases.npz")
    assert (read.name, dict(read.provenance)) == ("mine", {"seed": 3})
    for key in arrays():
        np.testing.assert_array_equal(getattr(read, key), getattr(bases, key))


def test_files_that_are_no_bases_are_refused(tmp_path: Path) -> None:
    save_artifact(tmp_path / "other.npz", "ssp-library", arrays(), {})
    with pytest.raises(ArtifactError, match="ssp-library"):
        SFHBases.load(tmp_path / "other.npz")
    save_artifact(tmp_path / "partial.npz", "sfh-bases", {"sfh": arrays()["sfh"]}, {})
    with pytest.raises(ArtifactError, match="lacks the arrays"):
        SFHBases.load(tmp_path / "partial.npz")


def test_default_bases_run_from_young_to_very_old() -> None:
    bases = SFHBases.default()
    np.testing.assert_allclose(np.trapezoid(bases.sfh, bases.t_lookback_gyr, axis=1), 1.0, rtol=1e-12)
    peaks = bases.t_lookback_gyr[bases.sfh.argmax(axis=1)]
    assert peaks[0] < 2.0
    assert peaks[3] > 10.0
    assert np.all(np.diff(peaks) > 1.0)


def test_default_bases_span_quiescent_to_star_forming() -> None:
    recent = mass_within(SFHBases.default(), 1.0)
    assert np.log10(recent.max() / 1e9) > -9.8
    assert np.log10(max(recent.min(), 1e-9) / 1e9) < -12.5


def test_default_metallicities_span_a_fiftieth_to_twice_solar_throughout() -> None:
    bases = SFHBases.default()
    t_star_formation = bases.t_lookback_gyr < 12.0
    zh = bases.zh.sum(axis=0)[t_star_formation]
    assert np.all(4.5e-5 * zh < 0.02 * 0.0142)
    assert np.all(1.5e-2 * zh > 2 * 0.0142)


def test_default_bases_record_how_they_were_made() -> None:
    provenance = SFHBases.default().provenance
    config = derivation.PopulationConfig(**provenance["config"])
    assert config == derivation.PopulationConfig()
    assert provenance["figures"]["misplaced_mass_median"]["1 Gyr"] < 0.1
    assert {"diffstar", "diffmah", "scikit-learn"} <= set(provenance["versions"])


@pytest.mark.published
def test_published_tables_are_reversed_reordered_and_continued(published_dir: Path) -> None:
    folder = published_dir / "provabgs"
    bases = SFHBases.from_published(folder)
    time = np.loadtxt(folder / "sfh_t_int.txt")
    sfh = np.loadtxt(folder / "NMF_2basis_SFH_components_nowgt_lin_Nc4.txt")
    for row, source in enumerate((2, 0, 1, 3)):
        at_tables_times = [np.interp(t, bases.t_lookback_gyr, bases.sfh[row]) for t in time]
        np.testing.assert_allclose(at_tables_times, sfh[source], rtol=1e-12, atol=1e-15)
    assert np.all(np.diff(bases.t_lookback_gyr[bases.sfh.argmax(axis=1)]) > 0)
    assert bases.t_lookback_gyr[0] == 0
    # The young basis still rises at the youngest tabulated time; linear continuation keeps that slope.
    slope = np.diff(bases.sfh[0, :3]) / np.diff(bases.t_lookback_gyr[:3])
    assert slope[0] == pytest.approx(slope[1])


@pytest.mark.published
def test_default_bases_resemble_the_published_ones(published_dir: Path) -> None:
    default, published = SFHBases.default(), SFHBases.from_published(published_dir / "provabgs")
    for t_gyr in (0.1, 1.0, 3.0):
        assert mass_within(default, t_gyr)[0] == pytest.approx(mass_within(published, t_gyr)[0], rel=0.25)


def test_missing_published_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"sfh_t_int\.txt"):
        SFHBases.from_published(tmp_path)


def test_published_tables_of_different_lengths_are_refused(tmp_path: Path) -> None:
    for name, shape in (
        ("sfh_t_int.txt", (50,)),
        ("NMF_2basis_SFH_components_nowgt_lin_Nc4.txt", (4, 50)),
        ("NMF_2basis_Z_components_nowgt_lin_Nc2.txt", (2, 49)),
    ):
        np.savetxt(tmp_path / name, np.ones(shape))
    with pytest.raises(ParameterError, match=r"\(2, 49\)"):
        SFHBases.from_published(tmp_path)


def test_steady_star_formation_reaches_the_regulators_equilibrium() -> None:
    t_gyr = np.linspace(0.05, 13.8, 2000)
    log_mhalo = np.array([11.0, 12.0, 13.0])
    zh = derivation.gas_metallicity(
        t_gyr, np.full((3, t_gyr.size), 2.0), np.repeat(log_mhalo[:, None], t_gyr.size, axis=1), metal_yield=np.full(3, 0.02)
    )
    # Steady SFR: dM_gas/dt = SFR · 2 Gyr / 13.8 Gyr, and Z_eq = y SFR / Φ.
    loading = 10 ** (-(log_mhalo - 12) / 3)
    np.testing.assert_allclose(zh[:, -1], 0.02 / (0.55 + loading + 2 / 13.8), rtol=1e-3)


def test_quenching_leaves_metallicity_finite_and_bounded() -> None:
    t_gyr = np.linspace(0.05, 13.8, 276)
    sfh = np.where(t_gyr < 6, 10.0, 1e-12)[None]
    zh = derivation.gas_metallicity(t_gyr, sfh, np.full((1, 276), 12.0), metal_yield=np.array([0.02]))
    assert np.all(np.isfinite(zh))
    assert zh[0, -1] == pytest.approx(zh[0, np.searchsorted(t_gyr, 6.2)], rel=1e-6)


def test_mixtures_of_four_histories_are_recovered_and_of_eight_are_not(rng: np.random.Generator) -> None:
    pytest.importorskip("sklearn")
    centres = np.linspace(1, 13, 8)
    shapes = np.exp(-0.5 * ((TIME - centres[:, None]) / 0.8) ** 2)
    four = rng.dirichlet(np.ones(4), 200) @ shapes[::2]
    eight = rng.dirichlet(np.ones(8), 200) @ shapes
    assert np.median(derivation.misplaced_mass(four, 4, seed=1)) < 0.005
    assert np.median(derivation.misplaced_mass(eight, 4, seed=1)) > 0.05


def test_derivation_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffstar.defaults", None)
    monkeypatch.setitem(sys.modules, "diffmah.diffmahpop_kernels", None)
    with pytest.raises(MissingDependencyError, match=r"sedcast\[bases\]"):
        derivation.simulate_histories(derivation.PopulationConfig(n_galaxy=2))


def test_published_tables_are_turned_round_and_continued_to_both_ends(tmp_path: Path) -> None:
    time = np.array([13.0, 5.0, 1.0, 0.5])
    # The file's row k is (k + 1) t, a straight line through 0.
    np.savetxt(tmp_path / "sfh_t_int.txt", time)
    np.savetxt(tmp_path / "NMF_2basis_SFH_components_nowgt_lin_Nc4.txt", np.arange(1, 5)[:, None] * time)
    np.savetxt(tmp_path / "NMF_2basis_Z_components_nowgt_lin_Nc2.txt", [[0.5, 4.0, 3.5, 1.0], [2.0, 2.0, 2.0, 2.0]])
    bases = SFHBases.from_published(tmp_path)
    np.testing.assert_allclose(bases.t_lookback_gyr, [0, 0.5, 1, 5, 13, 13.8])
    # The published emulator has them from young to old: the third first.
    np.testing.assert_allclose(bases.sfh, np.array([3, 1, 2, 4])[:, None] * bases.t_lookback_gyr, atol=1e-12)
    # The first would be below zero at 0.
    np.testing.assert_allclose(bases.zh, [[0, 1, 3.5, 4, 0.5, 0.15], [2] * 6], atol=1e-12)
