"""The explorer and the report in a real browser: what a user clicks, drags and sees."""

import csv
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BROWSERS
from explorers import bundled_explorer, served

from sedcast.data.catalog import load_sdss_sample
from sedcast.posterior.estimator import PosteriorEstimator
from sedcast.posterior.infer import infer_catalog

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'sedcast[browser]'")
pytest.importorskip("uvicorn", reason="the explorer's server needs uvicorn")

pytestmark = pytest.mark.browser

DESKTOP, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        # Chromium's sandbox needs privileges that containers do not give.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(bundled_explorer()) as address:
        yield address


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; afterwards it must have said nothing on the console."""
    said: list[str] = []
    context = browser.new_context(accept_downloads=True)

    def opened(address: str, size: dict[str, int]) -> Any:
        page = context.new_page()
        page.set_viewport_size(size)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        return page

    yield opened
    context.close()
    # A refused question is answered with status 422, which Chromium notes there.
    assert [text for text in said if "422" not in text] == []


def answers(page: Any) -> int:
    return int(page.get_attribute("body", "data-answers") or 0)


def settled(page: Any, more_than: int) -> None:
    """Wait until the page has drawn an answer, and no further one is on its way."""
    deadline, last = time.monotonic() + 60, -1
    while time.monotonic() < deadline:
        now = answers(page)
        if now > more_than and now == last:
            return
        last = now
        page.wait_for_timeout(400)
    raise AssertionError(f"no answer on the page: {page.inner_text('#message')!r}")


def mass(page: Any) -> float:
    return float(page.inner_text("#intervals tbody tr:first-child td").split()[0])


def picture(page: Any, name: str) -> bytes:
    return bytes(page.locator(f"#{name}").screenshot())


def test_a_galaxy_is_picked_and_its_photometry_dragged(open_page: Callable[..., Any], url: str, tmp_path: Path) -> None:
    page = open_page(url, DESKTOP)
    settled(page, 0)
    before, drawn = mass(page), {name: picture(page, name) for name in ("sed", "sfh", "zh", "corner")}
    assert all(len(image) > 3000 for image in drawn.values())
    seen = answers(page)
    page.click("#next")
    settled(page, seen)
    assert page.input_value("#row") == "1"
    assert mass(page) != before
    assert all(picture(page, name) != image for name, image in drawn.items())
    # Drag the r-band point of the SED upwards: brighter.
    magnitude, seen = float(page.input_value("#mag-2")), answers(page)
    page.locator("#sed").scroll_into_view_if_needed()
    at = page.evaluate(
        "(() => { const box = document.getElementById('sed').getBoundingClientRect();"
        "return [box.x + sedPanel.px(setup.filters[2].centre), box.y + sedPanel.py(answer.sed.flux[2])]; })()"
    )
    page.mouse.move(*at)
    page.mouse.down()
    page.mouse.move(at[0], at[1] - 4, steps=4)
    page.mouse.up()
    settled(page, seen)
    assert float(page.input_value("#mag-2")) < magnitude - 0.05
    with page.expect_download() as download:
        page.click("#csv")
    with open(download.value.path(), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10_000
    assert np.median([float(row["log_mstar"]) for row in rows]) == pytest.approx(mass(page), abs=0.05)


def test_the_keyboard_alone_changes_values_and_is_told_of_wrong_ones(open_page: Callable[..., Any], url: str) -> None:
    page = open_page(url, DESKTOP)
    settled(page, 0)
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"row", "zred", "zred-slider", "mag-4", "slider-4", "err-4", "mcmc", "csv", "hdf5"} <= reached
    page.focus("#slider-0")
    seen, slider = answers(page), float(page.input_value("#slider-0"))
    page.keyboard.press("ArrowRight")
    settled(page, seen)
    assert float(page.input_value("#mag-0")) == pytest.approx(slider + 0.01, abs=0.011)
    page.fill("#zred", "2.5")
    page.wait_for_selector("#message:not(:empty)")
    assert "redshift: 2.5 is not within 0.005 … 0.3" in page.inner_text("#message")
    assert page.get_attribute("#zred", "aria-invalid") == "true"
    seen = answers(page)
    page.fill("#zred", "0.1")
    settled(page, seen)
    assert page.inner_text("#message") == ""


def test_mcmc_is_run_overlaid_and_dropped_with_the_galaxy(open_page: Callable[..., Any], url: str) -> None:
    page = open_page(url, DESKTOP)
    settled(page, 0)
    # The first galaxy is one of the few on which chains take a minute.
    seen = answers(page)
    page.click("#next")
    settled(page, seen)
    drawn = picture(page, "corner")
    page.click("#mcmc")
    page.wait_for_selector("#progress:not([hidden])")
    page.wait_for_selector("#method option[value=mcmc]:not([disabled])", state="attached", timeout=120_000)
    assert "emcee converged" in page.inner_text("#mcmc-state")
    assert picture(page, "corner") != drawn
    flow, chains = (float(page.inner_text(f"#intervals tbody tr:first-child td:nth-of-type({k})").split()[0]) for k in (1, 2))
    assert flow == pytest.approx(chains, abs=0.1)
    seen = answers(page)
    page.click("#next")
    settled(page, seen)
    assert page.locator("#method option[value=mcmc]").is_disabled()
    assert page.locator("#intervals tbody tr:first-child td").count() == 1


def test_the_explorer_fits_a_phone(open_page: Callable[..., Any], url: str) -> None:
    page = open_page(url, PHONE)
    settled(page, 0)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for name in ("sed", "sfh", "zh", "corner"):
        assert page.locator(f"#{name}").bounding_box()["width"] > 300


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_shows_its_pictures(open_page: Callable[..., Any], report_file: Path, size: dict[str, int]) -> None:
    page = open_page(f"file://{report_file}", size)
    for summary in page.query_selector_all("details:not([open]) > summary"):
        summary.click()
    page.wait_for_timeout(300)
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) == 2 + 3 * 3 + 3
    assert min(widths) > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from typer.testing import CliRunner

    from sedcast import cli

    folder = tmp_path_factory.mktemp("report")
    estimator = PosteriorEstimator.default()
    catalog = load_sdss_sample(bands=estimator.bands).subset(slice(0, 40))
    infer_catalog(estimator, catalog, folder / "posteriors.h5", n_samples=300, seed=0)
    result = CliRunner().invoke(
        cli.app, ["report", str(folder / "posteriors.h5"), "-o", str(folder / "report.html"), "--mocks", "50"]
    )
    assert result.exception is None, result.exception
    return folder / "report.html"
