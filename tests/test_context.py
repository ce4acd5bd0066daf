"""The flow's context and the domain of a training set."""

import numpy as np
import pytest
from standin import BANDS, ZRED_RANGE, mock_photometry

from sedcast.data.catalog import Catalog
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.posterior.context import ContextTransform, TrainingDomain


def test_columns_against_ordinary_magnitudes():
    # For bright sources asinh magnitudes are AB magnitudes, whose errors are 1.0857 / (S/N).
    flux = np.array([[100.0, 1000.0, 3000.0, 5000.0, 8000.0]])
    sigma = flux / 50
    context = ContextTransform(BANDS)(flux, sigma**-2, np.array([0.1]))[0]
    magnitude = 22.5 - 2.5 * np.log10(flux[0])
    expected = [magnitude.mean(), *(magnitude - magnitude.mean()), *np.full(5, np.log(1.0857362 / 50)), 0.1, np.log(0.1)]
    assert context.dtype == np.float32
    np.testing.assert_allclose(context, expected, rtol=0, atol=2e-4)


def test_names_match_columns():
    for bands in (BANDS, ("r",), ("FUV", "NUV", *BANDS)):
        transform = ContextTransform(bands)
        n = len(bands)
        context = transform(np.full((3, n), 50.0), np.full((3, n), 1.0), np.full(3, 0.1))
        assert context.shape == (3, transform.n_context) == (3, len(transform.names))


def test_finite_at_negative_and_tiny_flux():
    flux = np.array([[-0.5, 0.0, 1e-9, 1e-3, 1e6]])
    assert np.isfinite(ContextTransform(BANDS)(flux, np.full((1, 5), 4.0), np.array([0.05]))).all()


def test_masked_columns_of_unmeasured_bands():
    flux, ivar, zred = mock_photometry(4, 2)
    plain = ContextTransform(("g", "r"))(flux[:, 1:3], ivar[:, 1:3], zred)
    masked = ContextTransform(BANDS, mask=True)
    assert masked.n_context == len(masked.names) == 18
    missing = [0, 3, 4]
    one, two = flux.copy(), ivar.copy()
    one[:, missing] = np.nan
    two[:2, missing], two[2:, missing] = 0, np.nan
    context = masked(one, two, zred)
    column = dict(zip(masked.names, context.T, strict=True))
    np.testing.assert_array_equal(context[:, [0, 2, 3, 7, 8, 11, 12]], plain)
    for band in ("u", "i", "z"):
        np.testing.assert_array_equal(column[f"mag_{band}-mean"], 0)
        np.testing.assert_allclose(column[f"ln_magerr_{band}"], np.log(0.05))
        np.testing.assert_array_equal(column[f"measured_{band}"], 0)
    np.testing.assert_array_equal(column["measured_r"], 1)
    # Measured flux that is exactly zero is a measurement; a value beside ivar 0 does not matter.
    one[:, 0], two[:, 3] = 1e6, 0
    np.testing.assert_array_equal(masked(one, two, zred), context)
    one[:, 4], two[:, 4] = np.nan, 1.0
    np.testing.assert_array_equal(masked(one, two, zred), context)
    one[:, 0], two[:, 0] = 0, 4.0
    assert (masked(one, two, zred)[:, 13] == 1).all()


@pytest.mark.parametrize("settings", [{}, {"mask": True}, {"redshift": False}])
def test_photometry_is_read_back_from_its_context(settings):
    flux, ivar, zred = mock_photometry(50, 3)
    flux[0], flux[1] = -0.1, 0.0
    transform = ContextTransform(BANDS, **settings)
    if transform.mask:
        flux[::2, 1], ivar[::2, 1] = 0, 0
    observed = transform.observed(transform(flux, ivar, zred if transform.redshift else None))
    noise = np.where(ivar > 0, np.where(ivar > 0, ivar, 1) ** -0.5, 1)
    assert np.abs((observed[0] - flux) / noise).max() < 1e-3
    np.testing.assert_allclose(observed[1], ivar, rtol=1e-5)
    if transform.redshift:
        np.testing.assert_allclose(observed[2], zred, rtol=1e-6)
    else:
        assert observed[2] is None
    one = ContextTransform(("r",))
    np.testing.assert_allclose(one.observed(one(flux[2:, 2:3], ivar[2:, 2:3], zred[2:]))[0], flux[2:, 2:3], rtol=1e-4)


def test_masked_context_refuses_rows_without_measurement_and_wrong_errors():
    flux, ivar, zred = mock_photometry(4, 2)
    masked = ContextTransform(BANDS, mask=True)
    with pytest.raises(ParameterError, match=r"row 2 has no measured band \(1 such rows\)"):
        masked(flux, np.where(np.arange(4)[:, None] == 2, 0, ivar), zred)
    for value, name in ((-1.0, "flux_ivar"), (np.inf, "flux_ivar"), (-np.inf, "flux")):
        data = {"flux": flux.copy(), "flux_ivar": ivar.copy()}
        data[name][1, 3] = value
        with pytest.raises(ParameterError, match=f"{name} of row 1, band 'i' is {value}"):
            masked(**data, zred=zred)


def test_domain_of_ragged_training_set_flags_measured_bands_only():
    flux, ivar, zred = mock_photometry(6000, 3)
    ivar[np.random.default_rng(1).random(ivar.shape) < 0.3] = 0
    kept = (ivar > 0).any(axis=1)
    domain = TrainingDomain.of(ContextTransform(BANDS, mask=True), flux[kept], ivar[kept], zred[kept], zred_range=ZRED_RANGE)
    measured = ivar > 0
    np.testing.assert_allclose(domain.ln_error[2], [f(-0.5 * np.log(ivar[measured[:, 2], 2])) for f in (np.min, np.max)])
    flux, ivar, zred = mock_photometry(3, 4)
    flux[:], ivar[:] = (values := np.array([10.0, 30.0, 50.0, 66.0, 80.0])), (0.03 * values) ** -2.0
    ivar[0, 0] = 0
    flux[1:, 1] *= 1e4
    ivar[2, 1] = 0
    flags = domain.flags(flux, ivar, zred)
    assert flags[0] == flags[2] == ""
    assert "g magnitude brighter than the training range" in flags[1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("flux", np.nan, "flux of row 2, band 'g' is nan"),
        ("flux", np.inf, "flux of row 2, band 'g' is inf"),
        ("flux_ivar", 0.0, "flux_ivar of row 2, band 'g' is 0"),
        ("flux_ivar", -1.0, "flux_ivar of row 2, band 'g' is -1"),
        ("zred", -0.1, r"zred\[2\]=-0.1"),
        ("zred", 0.0, r"zred\[2\]=0.0"),
        ("zred", np.nan, r"zred\[2\]=nan"),
    ],
)
def test_bad_values_name_row_and_band(name, value, words):
    data = {"flux": np.full((4, 5), 10.0), "flux_ivar": np.ones((4, 5)), "zred": np.full(4, 0.1)}
    data[name][(2, 1) if data[name].ndim == 2 else 2] = value
    with pytest.raises(ParameterError, match=words):
        ContextTransform(BANDS)(**data)


def test_wrong_width_says_what_was_expected():
    with pytest.raises(ParameterError, match=r"flux has shape \(4, 3\), expected \(4, 5\)"):
        ContextTransform(BANDS)(np.ones((4, 3)), np.ones((4, 3)), np.full(4, 0.1))
    with pytest.raises(ParameterError, match="without repetition"):
        ContextTransform(("u", "u"))


def test_a_band_of_the_user_s_own_needs_no_curve_here():
    flux, ivar, zred = mock_photometry(10, 3)
    transform = ContextTransform(("u", "mine"))
    assert transform(flux[:, :2], ivar[:, :2], zred).shape == (10, transform.n_context)


def test_domain_flags_what_lies_outside():
    transform = ContextTransform(BANDS)
    trained_on = mock_photometry(5000, 3)
    domain = TrainingDomain.of(transform, *trained_on, zred_range=ZRED_RANGE)
    # Within the range of every band, and but for the one beyond 99.99% of them, within that of all together.
    assert np.count_nonzero(domain.flags(*trained_on)) <= 1
    flux, ivar, zred = mock_photometry(500, 4)
    inside = domain.flags(flux, ivar, zred)
    assert np.mean(inside == "") > 0.95
    flux, ivar = np.tile([[10.0, 30.0, 50.0, 66.0, 80.0]], (5, 1)), np.ones((5, 5))
    ivar[:] = (0.03 * flux) ** -2.0
    flux[1] *= 1e4
    ivar[1] *= 1e-8
    flux[2, 0] = 0.01
    ivar[3, 2] *= 1e8
    # Every band inside its range, but a colour that no galaxy has.
    flux[4, [1, 3]] *= (6.0, 1 / 6.0)
    ivar[4] = (0.03 * flux[4]) ** -2.0
    flags = domain.flags(flux, ivar, np.full(5, 0.1))
    assert flags[0] == ""
    assert all(f"{band} magnitude brighter than the training range" in flags[1] for band in BANDS)
    assert "u magnitude fainter than the training range" in flags[2]
    assert "r error smaller than the training range" in flags[3]
    assert flags[4] == "photometry unlike the training set"


def test_domain_round_trip():
    transform = ContextTransform(BANDS)
    domain = TrainingDomain.of(transform, *mock_photometry(500, 3), zred_range=ZRED_RANGE)
    again = TrainingDomain.from_arrays(transform, domain.to_arrays("d_"), "d_")
    for name, values in domain.to_arrays("").items():
        np.testing.assert_array_equal(again.to_arrays("")[name], values)
    with pytest.raises(ArtifactError, match="d_centre"):
        TrainingDomain.from_arrays(transform, {k: v for k, v in domain.to_arrays("d_").items() if k != "d_centre"}, "d_")


def test_a_masked_redshift_is_none():
    transform = ContextTransform(("u", "g", "r", "i", "z"))
    zred = np.ma.MaskedArray([0.1, 0.2], mask=[False, True])
    with pytest.raises(ParameterError, match=r"zred\[1\]=nan"):
        transform(np.ones((2, 5)), np.ones((2, 5)), zred)
    catalog = Catalog(np.arange(2), transform.bands, np.ones((2, 5)), np.ones((2, 5)), zred)
    assert catalog.status[0] == ""
    assert "redshift" in catalog.status[1]


@pytest.mark.parametrize("bands", [BANDS, ("r",)])
@pytest.mark.parametrize("others_measured", [True, False])
def test_the_context_of_some_bands_is_linear_in_that_of_more(bands, others_measured):
    flux, ivar, zred = mock_photometry(20, 3)
    some, more = ContextTransform(bands), ContextTransform(("NUV", *BANDS), mask=True)
    columns = [BANDS.index(band) for band in bands]
    expected = some(flux[:, columns], ivar[:, columns], zred)
    ivar = np.column_stack([np.full(20, 4.0), ivar])
    ivar[:, 0] *= others_measured
    found = more(np.column_stack([flux[:, 0] / 5, flux]), ivar, zred) @ some.from_wider(more)
    np.testing.assert_allclose(found, expected, atol=1e-5)


DEEP = (0.2, 0.003, 0.004, 0.15, 0.7)


def test_softening_decides_what_is_faint():
    transform = ContextTransform(BANDS, softening=DEEP)
    flux, ivar, zred = mock_photometry(50, 3)
    flux[0, 1], flux[1, 1] = 0.01, 0.02
    ivar[:2, 1] = 0.003**-2
    context = transform(flux, ivar, zred)
    one, two = (context[row, 0] + context[row, 2] for row in (0, 1))
    # Of so deep a band these are nearly ordinary magnitudes, and their errors.
    assert one == pytest.approx(22.5 - 2.5 * np.log10(0.01), abs=0.1)
    assert one - two == pytest.approx(2.5 * np.log10(2), abs=0.1)
    assert np.exp(context[1, 7]) == pytest.approx(1.0857 * 0.15, rel=0.1)
    observed = transform.observed(context)
    assert (np.abs(observed[0] - flux) * np.sqrt(ivar)).max() < 1e-3
    np.testing.assert_allclose(observed[1], ivar, rtol=1e-5)
    domain = TrainingDomain.of(transform, flux, ivar, zred, zred_range=ZRED_RANGE)
    faintest = domain.magnitude[1, 1]
    assert faintest == pytest.approx(one, abs=1e-4)


def test_contexts_of_other_softenings_are_no_linear_map_of_each_other():
    with pytest.raises(ParameterError, match=r"in g of a softening of 0\.003 nanomaggies in place of 0\.09"):
        ContextTransform(("g", "r")).from_wider(ContextTransform(BANDS, softening=DEEP))
    for wrong in ((0.1,), (0.1, 0.1, 0.1, 0.1, -1.0), (0.1, 0.1, 0.1, 0.1, np.nan)):
        with pytest.raises(ParameterError, match="expected a positive number, nanomaggies, for each of u g r i z"):
            ContextTransform(BANDS, softening=wrong)
