"""The explorer: what it answers, and whom it refuses."""

import asyncio
import csv
import http.client
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py
import numpy as np
import pytest
from explorers import bundled_explorer, served

from sedcast.data.catalog import load_sdss_sample
from sedcast.data.errors import ParameterError
from sedcast.emulator.prior import PARAMETER_NAMES
from sedcast.explore.compute import MAX_SAMPLES, Explorer
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import infer_catalog
from sedcast.posterior.outlier_training import training_simulator
from sedcast.posterior.posterior_catalog import read_posteriors

pytest.importorskip("starlette", reason="the explorer's server needs Starlette")
pytest.importorskip("uvicorn", reason="the explorer's server needs uvicorn")

SHOWN = ["log_mstar", "dust2"]


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return bundled_explorer()


@pytest.fixture(scope="module")
def url(explorer: Explorer) -> Iterator[str]:
    with served(explorer) as address:
        yield address


def request(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", parts.path + path, content, named)
    reply = connection.getresponse()
    found = reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    connection.close()
    return found


def question(explorer: Explorer, **changes: Any) -> dict[str, Any]:
    galaxy = explorer.galaxy(0)
    asked = {name: galaxy[name] for name in ("magnitudes", "errors", "zred")}
    return asked | {"shown": SHOWN} | changes


def test_the_catalogue_comes_back_from_its_magnitudes(explorer: Explorer) -> None:
    observed = explorer.observed(question(explorer))
    np.testing.assert_allclose(observed.flux, explorer.catalog.flux[0], rtol=2e-4)
    np.testing.assert_allclose(observed.flux_ivar, explorer.catalog.flux_ivar[0], rtol=2e-3)


def test_an_answer_is_that_of_the_posterior(explorer: Explorer) -> None:
    observed = explorer.observed(question(explorer))
    answer = explorer.answer(observed, SHOWN)
    row = observed.flux[None], observed.flux_ivar[None], np.array([observed.zred])
    theta = explorer.estimator.sample(*row, 20_000, seed=5)[0]
    np.testing.assert_allclose(answer["intervals"]["log_mstar"], np.percentile(theta[:, 0], [16, 50, 84]), atol=0.02)
    # The levels are those whose regions hold 68% and 95% of the density.
    (pair,) = answer["corner"]["pairs"]
    density = np.array(pair["density"])
    for level, share in zip(pair["levels"], (0.68, 0.95), strict=True):
        assert density[density >= level - 1].sum() / density.sum() == pytest.approx(share, abs=0.02)
    # What is predicted fits what is observed, of which the posterior was made.
    sed = answer["sed"]
    pull = (np.array(sed["flux"]) - np.array(sed["predicted"][2])) / np.array(sed["sigma"])
    assert np.abs(pull).max() < 4
    assert np.all(np.diff(np.array(sed["spectrum"]), axis=0) >= 0)
    json.dumps(answer, allow_nan=False)


def test_flags_are_those_of_infer(explorer: Explorer, tmp_path: Path) -> None:
    asked = question(explorer)
    magnitudes = [*asked["magnitudes"][:4], asked["magnitudes"][4] + 0.3]
    answers = [explorer.answer(explorer.observed(asked | changed), SHOWN) for changed in ({}, {"magnitudes": magnitudes})]
    assert 0.1 < answers[0]["efficiency"] <= 1
    assert answers[1]["efficiency"] < 0.1
    assert "flow far from the posterior" in answers[1]["flags"]
    infer_catalog(explorer.estimator, explorer.catalog.subset(slice(1)), tmp_path / "p.h5")
    with read_posteriors(tmp_path / "p.h5") as posteriors:
        assert answers[0]["flags"] == posteriors.flags[0] != ""
    chain = explorer.answer(explorer.observed(asked), SHOWN, explorer.estimator.prior.sample(300, 1))
    assert "flags" not in chain


def test_a_change_of_brightness_moves_the_mass_only(explorer: Explorer) -> None:
    asked = question(explorer)
    before = explorer.answer(explorer.observed(asked), SHOWN)["intervals"]
    brighter = [m - 0.25 for m in asked["magnitudes"]]
    after = explorer.answer(explorer.observed(asked | {"magnitudes": brighter}), SHOWN)["intervals"]
    assert after["log_mstar"][1] - before["log_mstar"][1] == pytest.approx(0.1, abs=0.04)
    assert after["dust2"][1] == pytest.approx(before["dust2"][1], abs=0.15)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"magnitudes": [18, 17]}, "magnitudes: expected a list of 5"),
        ({"magnitudes": [18, "x", 17, 16, 16]}, "magnitude in g: expected a number, got 'x'"),
        ({"magnitudes": [18, None, 17, 16, 16]}, "g: sdss-ugriz needs a magnitude"),
        ({"magnitudes": [18, 1e300, 17, 16, 16]}, "magnitude in g: 1e\\+300 is not within"),
        ({"magnitudes": [18, True, 17, 16, 16]}, "magnitude in g: expected a number"),
        ({"magnitudes": [18, 10**400, 17, 16, 16]}, "magnitude in g: expected a number"),
        ({"errors": [0.1, None, 0.1, 0.1, 0.1]}, "error in g: expected a number, got nothing"),
        ({"errors": [0.1, 0.1, 0.0, 0.1, 0.1]}, "error in r: 0 is not within"),
        ({"errors": [0.1, 0.1, -1.0, 0.1, 0.1]}, "error in r: -1 is not within"),
        ({"zred": 3.0}, "redshift: 3 is not within 0.005 … 0.3"),
        ({"zred": None}, "redshift: expected a number"),
    ],
)
def test_bad_values_are_answered_with_what_is_wrong(explorer: Explorer, url: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        explorer.observed(question(explorer, **change))
    status, _, content = request(url, "api/posterior", question(explorer, **change))
    assert status == 422
    assert json.loads(content)["error"].startswith(said.split("\\")[0])


def test_a_magnitude_without_an_error_is_no_band_left_out() -> None:
    estimator = PosteriorEstimator.find("galex-sdss")
    explorer = Explorer(estimator, training_simulator(estimator), load_sdss_sample(bands=estimator.bands))
    magnitudes, errors = [18.0, None, 18.95, 17.67, 16.94, 16.53, 16.26], [None, None, 0.067, 0.021, 0.021, 0.021, 0.033]
    body = {"magnitudes": magnitudes, "errors": errors, "zred": 0.09}
    with pytest.raises(ParameterError, match="error in FUV: expected a number"):
        explorer.observed(body)
    observed = explorer.observed(body | {"magnitudes": [None, *magnitudes[1:]]})
    assert (observed.flux_ivar > 0).tolist() == [False, False, True, True, True, True, True]


def test_every_post_takes_any_json(url: str) -> None:
    bodies: list[Any] = [[], 1, "x", {}, {"row": "0"}, {"row": 1.5}, {"row": -1}, {"row": 10**30}, {"magnitudes": {}}]
    for path in ("galaxy", "posterior", "mcmc/start", "samples"):
        for body in bodies:
            assert request(url, f"api/{path}", body)[0] == 422, (path, body)
        for content in (b"{", b"[" * 16_000, b"\xff"):
            assert request(url, f"api/{path}", content)[0] == 400, (path, content[:2])
    assert request(url, "api/posterior", {"shown": ["nothing"]})[0] == 422


def test_only_the_page_is_served_and_only_to_itself(url: str) -> None:
    status, headers, content = request(url, "")
    assert status == 200
    assert b"<title>sedcast explorer" in content
    assert "default-src 'none'" in headers["content-security-policy"]
    root = f"http://{urlsplit(url).netloc}"
    assert urlsplit(url).hostname == "127.0.0.1"
    assert request(root, "/")[0] == 404
    assert request(root, "/" + "A" * 32 + "/")[0] == 404
    for path in ("../server.py", "..%2fserver.py", "%2e%2e/compute.py", "page/index.html", "/etc/passwd"):
        assert request(url, path)[0] == 404, path
    assert request(url, "", Host="sedcast.example:80")[0] == 421
    assert request(url, "", Origin="http://evil.example")[0] == 403
    assert request(url, "", Origin=root)[0] == 200
    assert request(url, "api/posterior", b"1" * 20_000)[0] == 413
    assert request(url, "api/posterior")[0] == 405


def test_the_port_of_http_is_left_out_by_clients(explorer: Explorer) -> None:
    from sedcast.explore.mcmc import McmcJob
    from sedcast.explore.server import make_app

    token = "t" * 32
    app = make_app(explorer, McmcJob("bundled"), token=token, port=80)

    def status(**headers: str) -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "path": f"/{token}/", "headers": pairs, "query_string": b"", "root_path": ""}
        asyncio.run(app(scope, receive, send))
        return int(sent[0]["status"])

    for host, expected in (("127.0.0.1", 200), ("127.0.0.1:80", 200), ("localhost", 200), ("127.0.0.1:81", 421), ("evil", 421)):
        assert status(host=host) == expected, host
    assert status(host="127.0.0.1", origin="http://localhost") == 200
    assert status(host="127.0.0.1", origin="http://evil") == 403


def test_downloads_hold_the_samples(explorer: Explorer, url: str) -> None:
    asked = question(explorer, format="csv", method="flow")
    _, _, content = request(url, "api/samples", asked)
    lines = list(csv.DictReader(io.StringIO(content.decode())))
    theta = explorer.sample(explorer.observed(asked), MAX_SAMPLES)
    assert len(lines) == len(theta) == MAX_SAMPLES
    assert float(lines[7]["log_mstar"]) == pytest.approx(theta[7, 0], rel=1e-6)
    assert {*PARAMETER_NAMES, "log_sfr_1gyr", "zred"} <= set(lines[0])
    _, _, content = request(url, "api/samples", asked | {"format": "hdf5"})
    with h5py.File(io.BytesIO(content)) as file:
        np.testing.assert_allclose(file["samples/log_mstar"][:], theta[:, 0], rtol=1e-6)
        assert json.loads(file.attrs["bands"]) == list(explorer.estimator.bands)
        assert file.attrs["model_sha256"]
    status, _, content = request(url, "api/samples", asked | {"method": "mcmc"})
    assert (status, json.loads(content)["error"]) == (422, "there are no samples of MCMC: run it first")


def test_a_run_of_mcmc_is_cancelled_at_once(explorer: Explorer, url: str) -> None:
    assert json.loads(request(url, "api/mcmc/start", question(explorer))[2])["status"] == "running"
    began = time.perf_counter()
    assert json.loads(request(url, "api/mcmc/cancel", {})[2])["status"] == "cancelled"
    assert time.perf_counter() - began < 5
    assert json.loads(request(url, "api/mcmc/state", {"shown": SHOWN})[2])["status"] == "cancelled"


def test_another_run_is_never_taken_for_the_pages_own(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    from sedcast.explore.mcmc import McmcJob, McmcSamples
    from sedcast.explore.server import _Pages

    pages = _Pages(explorer, job := McmcJob("bundled"))
    first = pages.mcmc_start(question(explorer))["run"]
    second = pages.mcmc_start(question(explorer, zred=0.1))["run"]
    assert first != second
    pages.mcmc_cancel({"run": first})
    assert pages.mcmc_state({"run": second, "shown": SHOWN})["status"] == "running"
    assert "another run" in pages.mcmc_state({"run": first, "shown": SHOWN})["message"]
    assert pages.mcmc_cancel({"run": second})["status"] == "cancelled"
    observed, theta = explorer.observed(question(explorer)), explorer.estimator.prior.sample(50, 1)
    monkeypatch.setattr(job, "_samples", McmcSamples(second, observed, theta, "converged"))
    asked = question(explorer, format="csv", method="mcmc")
    assert len(pages.samples(asked | {"run": second}).body.splitlines()) == 51
    with pytest.raises(ParameterError, match="no samples of MCMC"):
        pages.samples(asked | {"run": first})


@pytest.mark.skipif(os.name != "posix", reason="interrupts itself by a signal, and looks at permissions")
def test_ctrl_c_ends_the_explorer_and_open_gives_no_secret_away(tmp_path: Path) -> None:
    found, browser = tmp_path / "found", tmp_path / "browser"
    # Stays in the foreground, as a browser in the terminal does.
    browser.write_text(
        f"#!{sys.executable}\nimport os, pathlib, re, signal, sys, time, urllib.request\n"
        "path = urllib.request.url2pathname(sys.argv[1].removeprefix('file://'))\n"
        "url = re.search('href=\"(.*?)\"', pathlib.Path(path).read_text())[1]\n"
        "title = urllib.request.urlopen(url, timeout=30).read()[:2000]\n"
        f"pathlib.Path({str(found)!r}).write_text(f'{{sys.argv[1]}} {{os.stat(os.path.dirname(path)).st_mode:o}} {{title}}')\n"
        "os.kill(server := os.getppid(), signal.SIGINT)\nwhile os.getppid() == server:\n    time.sleep(0.1)\n"
    )
    browser.chmod(0o755)
    code = "import sys\nsys.argv = ['sedcast', 'explore', '--open']\nfrom sedcast.cli import main\nmain()"
    environment = os.environ | {"BROWSER": f"{browser} %s"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the explorer has ended\n")
    argument, mode, title = found.read_text().split(maxsplit=2)
    assert (argument.startswith("file://"), mode) == (True, "40700")
    assert "sedcast explorer" in title
    assert urlsplit(re.search("http[^ ]*", done.stdout)[0]).path.strip("/") not in argument  # type: ignore[index]


def test_a_port_in_use_is_refused(explorer: Explorer, url: str) -> None:
    from sedcast.explore.server import ExplorerServer

    with pytest.raises(ParameterError, match="cannot be had"):
        ExplorerServer(explorer, "bundled", port=urlsplit(url).port or 0)
