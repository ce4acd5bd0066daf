"""`sedcast figures` on a small comparison made up for it."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sedcast.figures
from sedcast import cli
from sedcast.baselines.compare import Comparison, GalaxyComparison
from sedcast.baselines.outcomes import COMPARED_NAMES, CompareConfig, Galaxy, Outcome, run_path, save_outcome
from sedcast.baselines.report_tables import to_json
from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import ArtifactError, ParameterError
from sedcast.figures import galaxies_to_show, make_figures, read_comparison
from sedcast.posterior.estimator import PosteriorEstimator


@pytest.fixture(scope="module")
def estimator() -> PosteriorEstimator:
    return PosteriorEstimator.default()


def write_record(folder: Path, estimator: PosteriorEstimator, *, n_mocks: int, model: str | None = None) -> Path:
    """One real galaxy and some mocks, by flow and emcee, with draws from the prior."""
    rng = np.random.default_rng(0)
    catalog = load_sdss_sample(bands=estimator.bands)
    row = int(np.flatnonzero(estimator.status(catalog).ok)[0])
    data = (catalog.flux[row], catalog.flux_ivar[row], float(catalog.zred[row]))

    def outcome() -> Outcome:
        draws = rng.standard_normal((200, 11)).astype(np.float32)
        return Outcome(draws, np.zeros((3, len(COMPARED_NAMES))), np.zeros((3, 17)), 1.0, 1.0, ess=200.0)

    members = [Galaxy("real", row, "a galaxy", *data)]
    members += [Galaxy("mock", k, f"mock {k}", *data, rng.standard_normal(11)) for k in range(n_mocks)]
    compared = []
    for galaxy in members:
        outcomes = {"flow": outcome(), "emcee": outcome()}
        ranks = {} if galaxy.truth is None else {name: rng.random(len(COMPARED_NAMES)) for name in outcomes}
        compared.append(GalaxyComparison(galaxy, outcomes, {}, ranks))
    for name, one in compared[0].outcomes.items():
        path = run_path(folder, "real", row, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_outcome(one, path, key="", galaxy=members[0], method=name)  # type: ignore[arg-type]
    named = model or f"sdss (sha256 {estimator.card['sha256'][:12]})"
    record = Comparison(tuple(compared), CompareConfig(methods=("flow", "emcee")), {"model": named})
    (folder / "comparison.json").write_text(json.dumps(to_json(record)))
    return folder


def test_every_figure_is_written(tmp_path: Path, estimator: PosteriorEstimator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sedcast.figures, "_N_TRAINING", 500)
    monkeypatch.setattr(sedcast.figures, "FORMATS", ("png",))
    comparison = read_comparison(write_record(tmp_path, estimator, n_mocks=20), estimator)
    catalog = load_sdss_sample(bands=estimator.bands)
    chosen = galaxies_to_show(catalog.subset(np.arange(300)), estimator)
    written = make_figures(estimator, chosen, comparison, tmp_path / "figures", n_mocks=20, seed=5)
    assert set(written) == {path.name for path in (tmp_path / "figures").iterdir()}
    assert set(written) == {"fig1_training.png", "fig2_posterior.png", "fig3_pp.png", "fig4_sbc.png", "fig4_sbc_emcee.png"}
    for name in written:
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_too_few_galaxies_are_refused_before_the_work(
    estimator: PosteriorEstimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = load_sdss_sample(bands=estimator.bands)
    monkeypatch.setattr("sedcast.cli_compare.load_catalog", lambda *_, **__: catalog.subset(slice(7)))
    result = CliRunner().invoke(cli.app, ["figures", "-o", str(tmp_path / "figures")])
    assert isinstance(result.exception, ParameterError)
    assert "of 7 galaxies" in str(result.exception)
    assert "needs 8 or more" in str(result.exception)
    assert not (tmp_path / "figures").exists()


def test_ranks_are_those_of_the_names_asked_for(tmp_path: Path, estimator: PosteriorEstimator) -> None:
    comparison = read_comparison(write_record(tmp_path, estimator, n_mocks=3), estimator)
    ranks = comparison.ranks(("t_mw_gyr", "log_mstar"))
    held = comparison.record["galaxies"][1]["ranks"]["emcee"]
    np.testing.assert_array_equal(ranks[0], [held[-1], held[0]])
    assert ranks.shape == (3, 2)


def test_ranks_are_those_of_the_names_that_were_compared_then(tmp_path: Path, estimator: PosteriorEstimator) -> None:
    """A file of an earlier version may hold other quantities, in another order."""
    path = write_record(tmp_path, estimator, n_mocks=2) / "comparison.json"
    record = json.loads(path.read_text())
    record["compared"] = ["t_mw_gyr", "log_mstar", "t50_gyr"]
    for galaxy in record["galaxies"]:
        galaxy["ranks"] = {name: ranks[:3] for name, ranks in galaxy["ranks"].items()}
    path.write_text(json.dumps(record))
    comparison = read_comparison(tmp_path, estimator)
    held = [galaxy["ranks"]["emcee"] for galaxy in record["galaxies"][1:]]
    np.testing.assert_array_equal(comparison.ranks(("log_mstar", "t_mw_gyr")), [[one[1], one[0]] for one in held])
    with pytest.raises(ParameterError, match="not dust2: run 'sedcast compare' again"):
        comparison.ranks(("log_mstar", "dust2"))
    del record["compared"]
    path.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="not readable as a comparison"):
        read_comparison(tmp_path, estimator)


def test_what_does_not_fit_is_refused(tmp_path: Path, estimator: PosteriorEstimator) -> None:
    with pytest.raises(ArtifactError, match="sedcast compare"):
        read_comparison(tmp_path, estimator)
    with pytest.raises(ArtifactError, match="another posterior"):
        read_comparison(write_record(tmp_path, estimator, n_mocks=0, model="other (sha256 0)"), estimator)
    comparison = read_comparison(write_record(tmp_path, estimator, n_mocks=0), estimator)
    with pytest.raises(ParameterError, match="are rows"):
        comparison.galaxy(99_999)
    comparison.record["galaxies"] = []
    with pytest.raises(ParameterError, match="no real galaxy with"):
        comparison.galaxy(None)
    comparison.record["config"]["methods"] = ["flow"]
    with pytest.raises(ParameterError, match="emcee or zeus"):
        comparison.chain  # noqa: B018
