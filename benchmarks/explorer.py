"""How long the explorer's page takes from a change to the picture drawn, in headless Chromium."""

import argparse
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import note, positive, table, verdict
from sedcast.data.errors import MissingDependencyError, SedcastError

if TYPE_CHECKING:
    from playwright.sync_api import Page

BAR_MS = 200.0

_SIZES = {"desktop": {"width": 1280, "height": 1000}, "phone": {"width": 390, "height": 844}}
_WAIT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--changes", type=positive, default=60, help="changes of a magnitude, an error or the redshift")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Serve the bundled galaxies in a process, and turn sliders by the keyboard, one change after the other's answer."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingDependencyError(f"no playwright ({error}): pip install 'sedcast[browser]'") from error
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise MissingDependencyError("no Chromium: install it, for example apt-get install chromium")
    command = [sys.executable, "-c", "from sedcast.cli import main; main()", "explore"]
    figures: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=None) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        try:
            found = re.search(r"http://\S+", server.stdout.readline())
            if found is None:
                raise SedcastError("the explorer did not start")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for name, size in _SIZES.items():
                page = browser.new_page(viewport=size)  # type: ignore[arg-type]
                page.goto(found[0])
                figures |= _measured(page, name, options.changes)
                page.close()
            browser.close()
        finally:
            server.terminate()
    rows = [(key, value) for key, value in figures.items()]
    table(("figure", "value"), rows)
    passes = all(figures[f"{name}_ms_p95"] <= BAR_MS for name in _SIZES)
    note(f"95% of the changes answered and drawn in at most {BAR_MS:g} ms: {verdict(passes)}")
    return figures | {"passes": passes}


def _measured(page: "Page", name: str, n_changes: int) -> dict[str, float]:
    _wait(page, 1)
    total, server = [], []
    sliders = page.query_selector_all("input[type=range]")
    for change in range(n_changes):
        seen = int(page.get_attribute("body", "data-answers") or 0)
        sliders[change % len(sliders)].press("ArrowRight" if change // len(sliders) % 2 else "ArrowLeft")
        _wait(page, seen + 1)
        total.append(float(page.get_attribute("body", "data-ms") or "nan"))
        server.append(float(page.get_attribute("body", "data-server-ms") or "nan"))
    return {
        f"{name}_ms_p50": float(np.median(total)),
        f"{name}_ms_p95": float(np.percentile(total, 95)),
        f"{name}_server_ms_p50": float(np.median(server)),
        f"{name}_server_ms_p95": float(np.percentile(server, 95)),
    }


def _wait(page: "Page", n: int) -> None:
    deadline = time.monotonic() + _WAIT_S
    while int(page.get_attribute("body", "data-answers") or 0) < n:
        if time.monotonic() > deadline:
            raise SedcastError(f"the page has not answered in {_WAIT_S:g} s: {page.inner_text('#message')}")
        page.wait_for_timeout(10)
