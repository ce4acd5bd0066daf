"""Bad input of the posterior that no other test has: each is refused with its reason, or survived."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from standin import BANDS, gaussian_estimator, mock_photometry
from test_flow_training import SMALL, linear_gaussian

from sedcast.data.artifacts import load_artifact, save_artifact
from sedcast.data.catalog import Catalog
from sedcast.data.errors import ArtifactError, CatalogError, ParameterError
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.flow_training import FlowTrainer, FlowTrainingConfig
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.posterior_catalog import read_posteriors


def test_training_that_diverges_keeps_the_best_weights_and_says_so(caplog):
    theta, x, *_ = linear_gaussian(1200, 0)
    training = FlowTrainingConfig(batch_size=100, max_epochs=8, warmup_steps=0, ema_decay=0)

    def chunks(index):
        return (theta, x) if index < 3 else (theta * 1e30, x)

    result = FlowTrainer(SMALL, training).fit_stream(chunks, validation=linear_gaussian(300, 1)[:2])
    assert "non-finite in epoch 3" in result.reason
    assert result.reason.endswith("kept epoch 2")
    assert "keeping the weights of epoch 2" in caplog.text
    held_out = linear_gaussian(300, 1)[:2]
    nll = -result.flow.log_prob(*held_out).mean()
    assert nll == pytest.approx(min(record["validation_nll"] for record in result.history), abs=1e-3)


def test_bands_in_another_order_are_brought_into_the_card_s(tmp_path):
    flux, ivar, zred = mock_photometry(6, 5)
    estimator = gaussian_estimator()
    turned = Catalog(np.arange(6), BANDS[::-1], flux[:, ::-1], ivar[:, ::-1], zred)
    with pytest.raises(ParameterError, match="bands z i r g u, the estimator needs u g r i z"):
        estimator.status(turned)
    infer_catalog(estimator, turned, tmp_path / "turned.h5", n_samples=10)
    with read_posteriors(tmp_path / "turned.h5") as posteriors:
        np.testing.assert_array_equal(posteriors.flux, flux)
        assert posteriors.bands == BANDS
    lacking = Catalog(np.arange(6), BANDS[1:], flux[:, 1:], ivar[:, 1:], zred)
    with pytest.raises(CatalogError, match="u"):
        infer_catalog(estimator, lacking, tmp_path / "lacking.h5")


def test_fluxes_in_another_unit_are_flagged(tmp_path):
    flux, ivar, zred = mock_photometry(20, 6)
    maggies = Catalog(np.arange(20), BANDS, flux * 1e-9, ivar * 1e18, zred)
    figures = infer_catalog(gaussian_estimator(), maggies, tmp_path / "maggies.h5", n_samples=10)
    assert figures["flagged"] == figures["inferred"] == 20


def test_rows_without_a_usable_band_have_a_reason(tmp_path):
    flux, ivar, zred = mock_photometry(4, 7)
    ivar[0] = 0.0
    flux[1] = np.nan
    ivar[2] = -1.0
    figures = infer_catalog(
        gaussian_estimator(mask=True), Catalog(np.arange(4), BANDS, flux, ivar, zred), tmp_path / "none.h5", n_samples=10
    )
    assert figures["inferred"] == 1
    with read_posteriors(tmp_path / "none.h5") as posteriors:
        assert all(posteriors.status[:3])
        assert posteriors.status[3] == ""


def test_an_artifact_of_another_prior_or_schema_is_refused(tmp_path):
    path = tmp_path / "posterior.npz"
    gaussian_estimator().save(path)
    arrays, card = load_artifact(path, "posterior-estimator")
    prior = dict(card["prior"])
    prior.pop("dust2")
    for wrong in (card | {"prior": prior | {"tau": [0, 1]}}, card | {"free_parameter_names": card["free_parameter_names"][1:]}):
        save_artifact(path, "posterior-estimator", arrays, wrong, overwrite=True)
        with pytest.raises(ArtifactError, match="train it again"):
            PosteriorEstimator.load(path)
    with pytest.raises(ArtifactError, match="do not belong together"):
        replace(gaussian_estimator(), flow=gaussian_estimator(mask=True).flow)


def test_an_outlier_score_of_an_earlier_version_is_left_out(tmp_path, caplog):
    path = tmp_path / "posterior.npz"
    estimator = gaussian_estimator()
    replace(estimator, card=dict(estimator.card) | {"outliers": {"n_fit": 1}}).save(path)
    assert PosteriorEstimator.load(path).outliers is None
    assert "fit_outliers" in caplog.text


def test_inference_does_not_import_tensorflow(tmp_path):
    flux, ivar, zred = mock_photometry(3, 8)
    columns = {"id": np.arange(3), "zred": zred}
    for k, band in enumerate(BANDS):
        columns |= {f"flux_{band}": flux[:, k], f"flux_ivar_{band}": ivar[:, k]}
    table = tmp_path / "three.csv"
    np.savetxt(table, np.column_stack(list(columns.values())), delimiter=",", header=",".join(columns), comments="")
    code = (
        "import sys; from sedcast.cli import main; "
        f"sys.argv = ['sedcast', '-q', 'infer', {str(table)!r}, '-o', {str(tmp_path / 'three.h5')!r}, '--n-samples', '20']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*(name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'tensorflow_probability', 'tf_keras')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == ""
    assert (tmp_path / "three.h5").is_file()
