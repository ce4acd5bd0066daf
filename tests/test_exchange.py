"""Posteriors in other programs' shapes."""

import numpy as np
import pytest
from scipy import stats

from sedcast.data.cosmology import Cosmology
from sedcast.data.errors import ParameterError
from sedcast.emulator.dust import attenuation_curve
from sedcast.emulator.prior import PARAMETER_NAMES, Prior
from sedcast.posterior.exchange import to_bagpipes, to_prospector
from sedcast.posterior.likelihood import GaussianLikelihood

FLUX, SIGMA = np.array([3.0, 0.0, 5.0]), np.array([0.5, 1.0, 0.25])


class Flat:
    bands = ("g", "r", "i")

    def flux(self, theta: np.ndarray, zred: np.ndarray) -> np.ndarray:
        return np.repeat(10 ** (theta[:, :1] - 10), 3, axis=1)


@pytest.fixture
def samples() -> dict[str, np.ndarray]:
    theta = Prior().sample(40, 1)
    derived = {"log_sfr_100myr": np.linspace(-1, 1, 40), "log_z_mw": np.full(40, np.log10(0.01)), "t_mw_gyr": np.full(40, 6.0)}
    return dict(zip(PARAMETER_NAMES, theta.T, strict=True)) | derived


def test_prospector_results(samples: dict[str, np.ndarray]) -> None:
    likelihood = GaussianLikelihood(Flat(), Prior(), flux=FLUX, flux_ivar=SIGMA**-2 * (1, 0, 1), zred=0.1)
    results = to_prospector(samples, likelihood)
    assert results["chain"].shape == (40, 12)
    assert results["theta_labels"][0] == "logmass"
    assert results["weights"].sum() == pytest.approx(1)
    model = 10 ** (samples["log_mstar"] - 10)
    by_hand = sum(stats.norm.logpdf(FLUX[b], model, SIGMA[b]) for b in (0, 2))
    assert np.allclose(results["lnlikelihood"], by_hand)
    # Another way to the prior's density: scipy's distributions.
    prior = stats.dirichlet([1, 1, 1, 1]).logpdf(results["chain"][:, 1:5].T / results["chain"][:, 1:5].sum(axis=1))
    for name, (low, high) in Prior().to_dict().items():
        kind = stats.loguniform(low, high) if name.startswith("gamma") else stats.uniform(low, high - low)
        prior = prior + kind.logpdf(samples[name])
    assert np.allclose(results["lnprobability"], by_hand + prior)
    assert np.array_equal(results["bestfit"]["parameter"], results["chain"][np.argmax(results["lnprobability"])])
    best = np.argmax(results["lnprobability"])
    assert best > 0
    np.testing.assert_allclose(results["bestfit"]["photometry"], 1e-9 * np.repeat(model[best], 2))
    obs = results["obs"]
    assert obs["phot_mask"].tolist() == [True, False, True]
    np.testing.assert_allclose(obs["maggies"], [3e-9, 0, 5e-9])
    np.testing.assert_allclose(obs["maggies_unc"], [0.5e-9, 0, 0.25e-9])
    assert obs["filternames"] == ["g", "r", "i"]
    assert results["run_params"] == {"object_redshift": 0.1, "dust_tesc": 8.0}
    assert to_prospector(samples, likelihood, t_birth_cloud_gyr=0.01)["run_params"]["dust_tesc"] == pytest.approx(7)
    with pytest.raises(ParameterError, match=r"t_birth_cloud_gyr=0\.0: must be positive"):
        to_prospector(samples, likelihood, t_birth_cloud_gyr=0.0)


def test_samples_in_half_precision_lie_in_the_prior_again(samples: dict[str, np.ndarray]) -> None:
    likelihood = GaussianLikelihood(Flat(), Prior(), flux=FLUX, flux_ivar=SIGMA**-2, zred=0.1)
    samples["dust2"][0] = 3.0
    samples["tburst"][1] = 13.27
    half = {name: values.astype(np.float16) for name, values in samples.items()}
    assert float(half["tburst"][1]) > 13.27
    chain = to_prospector(half, likelihood)["chain"]
    assert Prior().contains(chain).all()
    np.testing.assert_allclose(chain, np.stack([samples[name] for name in PARAMETER_NAMES], axis=1), rtol=2e-3)
    with pytest.raises(ParameterError, match=r"dust2=3\.0"):
        to_prospector(half | {"dust2": np.full(40, 3.01, dtype=np.float16)}, likelihood)


def test_bagpipes_samples(samples: dict[str, np.ndarray]) -> None:
    found = to_bagpipes(samples, zred=0.1)
    assert np.allclose(np.log10(found["sfr"]), samples["log_sfr_100myr"])
    assert np.allclose(found["mass_weighted_zmet"], 0.5)
    assert np.array_equal(found["formed_mass"], samples["log_mstar"])
    assert np.array_equal(found["dust:delta"], samples["dust_index"])
    assert np.allclose(found["mass_weighted_age"] + found["tform"], Cosmology().age_gyr(np.array([0.1])))
    # Young stars are behind both kinds of dust.
    behind = samples["dust2"] * attenuation_curve(np.array([5500.0]), samples["dust_index"])[:, 0]
    assert np.allclose(found["dust:Av"], -2.5 * np.log10(np.exp(-behind)))
    assert np.allclose(found["dust:Av"] * found["dust:eta"], -2.5 * np.log10(np.exp(-behind - samples["dust1"])))
    assert "stellar_mass" not in found
    more = to_bagpipes(samples | {"log_mstar_surviving": samples["log_mstar"] - 0.2, "zred": np.full(40, 0.2)})
    assert np.allclose(more["stellar_mass"], found["formed_mass"] - 0.2)
    assert np.allclose(more["ssfr"] + more["stellar_mass"], np.log10(found["sfr"]))
    assert np.allclose(more["redshift"], 0.2)


def test_without_dust_the_young_stars_have_as_much(samples: dict[str, np.ndarray]) -> None:
    none = np.zeros(40)
    np.testing.assert_array_equal(to_bagpipes(samples | {"dust1": none, "dust2": none}, zred=0.1)["dust:eta"], 1.0)
    assert np.isinf(to_bagpipes(samples | {"dust2": none}, zred=0.1)["dust:eta"]).all()


def test_what_is_missing_is_named(samples: dict[str, np.ndarray]) -> None:
    likelihood = GaussianLikelihood(Flat(), Prior(), flux=FLUX, flux_ivar=SIGMA**-2, zred=0.1)
    with pytest.raises(ParameterError, match="redshift must be given once"):
        to_bagpipes(samples)
    with pytest.raises(ParameterError, match="zred must be finite"):
        to_bagpipes(samples, zred=np.ma.masked)
    with pytest.raises(ParameterError, match=r"zred must have shape \(40,\)"):
        to_bagpipes(samples, zred=np.array([0.1, 0.2]))
    with pytest.raises(ParameterError, match="lack t_mw_gyr"):
        to_bagpipes({name: values for name, values in samples.items() if name != "t_mw_gyr"}, zred=0.1)
    with pytest.raises(ParameterError, match="inferred redshifts"):
        to_prospector(samples | {"zred": np.full(40, 0.1)}, likelihood)
