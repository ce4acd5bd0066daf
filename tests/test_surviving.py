"""Surviving mass: known only where the library gives it, and the mass-weighted mean of its table then."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.data.sfh_bases import SFHBases
from sedcast.data.ssp import SSPLibrary
from sedcast.emulator.histories import derived_properties
from sedcast.emulator.prior import Prior
from sedcast.emulator.spectrum_emulator import SpectrumEmulator
from sedcast.emulator.sps import SPSModel
from sedcast.emulator.surviving import SurvivingMass

LOG_AGE = np.array([5.0, 7.0, 9.0, 10.2])
LOG_Z = np.array([-4.5, -2.5, -1.3])
FRACTION = np.array([[1.0, 0.9, 0.7, 0.6], [1.0, 0.85, 0.7, 0.55], [1.0, 0.8, 0.65, 0.5]])


def a_library() -> SSPLibrary:
    """One whose light at two wavelengths is the surviving mass itself."""
    flux = np.repeat(FRACTION[:, :, None], 2, axis=2)
    return SSPLibrary(np.array([5000.0, 6000.0]), LOG_AGE, LOG_Z, flux, name="toy", remnant_mass=FRACTION)


def test_the_table_is_interpolated_and_held_at_its_ends() -> None:
    table = SurvivingMass.of(a_library())
    assert table(np.array([0.01]), np.array([10**-2.5]))[0] == pytest.approx(0.85)
    assert table(np.array([0.1]), np.array([10**-2.5]))[0] == pytest.approx((0.85 + 0.7) / 2)
    assert table(np.array([0.1]), np.array([10**-1.9]))[0] == pytest.approx((0.85 + 0.7 + 0.8 + 0.65) / 4)
    np.testing.assert_allclose(table(np.array([0.0, 1e-9, 100.0]), np.array([1e-9, 1e-9, 0.9])), [1.0, 1.0, 0.5])


def test_surviving_mass_is_what_the_sps_model_sums() -> None:
    library, bases, cosmology = a_library(), SFHBases.default(), Cosmology()
    theta = Prior().sample(200, 3)
    theta[:, 9:11] = 0.0
    zred = np.random.default_rng(3).uniform(0, 0.3, 200)
    got = derived_properties(theta, zred, bases, cosmology, surviving=SurvivingMass.of(library))
    # Without dust, "light" that is the surviving mass adds up to it.
    expected = SPSModel(library, bases, cosmology).spectra(theta, zred)[:, 0]
    np.testing.assert_allclose(10 ** got["log_mstar_surviving"], expected, rtol=1e-6)
    assert (got["log_mstar_surviving"] < theta[:, 0]).all()


def test_it_is_absent_where_the_library_does_not_know_it() -> None:
    assert SSPLibrary.popstar().remnant_mass is None
    with pytest.raises(ParameterError, match=r"'popstar'.*only the mass formed is known"):
        SurvivingMass.of(SSPLibrary.popstar())
    assert "log_mstar_surviving" not in derived_properties(Prior().sample(2, 1), 0.1, SFHBases.default(), Cosmology())


def test_arrays_come_back() -> None:
    table = SurvivingMass.of(a_library())
    arrays = table.to_arrays("surviving_")
    again = SurvivingMass.from_arrays(arrays, "surviving_")
    assert again is not None
    np.testing.assert_array_equal(again.fraction, FRACTION)
    assert SurvivingMass.from_arrays({}, "surviving_") is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((LOG_AGE, LOG_Z, FRACTION.T), "must have shape"),
        ((LOG_AGE, LOG_Z, FRACTION - 0.9), "positive and finite"),
        ((LOG_AGE[::-1], LOG_Z, FRACTION), "log_age must be finite and increase"),
        ((LOG_AGE, np.full_like(LOG_Z, LOG_Z[0]), FRACTION), "log_z must be finite and increase"),
    ],
)
def test_impossible_tables_are_refused(arrays: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SurvivingMass(*arrays)


def test_trimming_and_the_disk_keep_it(tmp_path: Path) -> None:
    library = replace(a_library(), name="kept")
    library.trimmed(4000, 7000).save(tmp_path / "kept.npz")
    np.testing.assert_array_equal(SSPLibrary.load(tmp_path / "kept.npz").remnant_mass, FRACTION)


def test_an_emulator_keeps_it(tmp_path: Path) -> None:
    bundled = SpectrumEmulator.default()
    known = np.full((bundled.model.library.log_z.size, bundled.model.library.log_age.size), 0.7)
    model = SPSModel(replace(bundled.model.library, remnant_mass=known), bundled.model.bases, bundled.cosmology)
    replace(bundled, model=model).save(tmp_path / "emulator.npz")
    library = SpectrumEmulator.load(tmp_path / "emulator.npz").model.library
    np.testing.assert_array_equal(SurvivingMass.of(library).fraction, known)
    assert bundled.model.library.remnant_mass is None


@pytest.mark.fsps
def test_fsps_gives_it() -> None:
    table = SurvivingMass.of(SSPLibrary.from_fsps())
    young, old = table(np.array([1e-3, 10.0]), np.array([0.02, 0.02]))
    assert young == pytest.approx(1, abs=0.01)
    assert 0.4 < old < 0.8
