"""The code of the pages runs as written: here of some, at every build of the site of all that say ``<!-- executed -->``."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))

import conf  # noqa: E402
from executed import MARK, execute  # noqa: E402

from sedcast.data.catalog import Catalog, load_sdss_sample  # noqa: E402
from sedcast.posterior.estimator import PosteriorEstimator  # noqa: E402
from sedcast.posterior.infer import infer_catalog  # noqa: E402
from sedcast.posterior.posterior_catalog import read_posteriors  # noqa: E402

QUICKSTART = DOCS / "quickstart.md"


def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", QUICKSTART.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(QUICKSTART), "exec"), names)
    # A galaxy of r = 16.9 at z = 0.09 has some 10^10 to 10^11.5 solar masses.
    assert 10 < np.median(np.asarray(names["log_mass"])) < 11.5
    assert (tmp_path / "twenty.h5").is_file()


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("tutorials/one-galaxy", "log mass formed: 1"),
        ("tutorials/catalogue", "Percentiles of the posterior"),
        ("tutorials/results", "t90 [Gyr ago]: ["),
        ("exchange", "dust:Av  "),
        ("rest-frame", "NUV-r = "),
    ],
)
def test_pages_run(page: str, shown: str, tmp_path: Path) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert MARK in text
    assert shown not in text
    assert shown in execute(text, tmp_path)


def _names(page: str) -> dict[str, object]:
    """What a page takes as given, in an empty folder: photometry, a model, files of posteriors."""
    sample = load_sdss_sample()
    if page == "catalogues":
        catalog = sample.subset(np.arange(2))
        catalog = Catalog([1234, 5], catalog.bands, catalog.flux, catalog.flux_ivar, catalog.zred)
        infer_catalog(PosteriorEstimator.default(), catalog, "samples.h5", n_samples=20)
        with read_posteriors("samples.h5") as posteriors:
            posteriors.write_summary("summaries.parquet")
    if page == "photoz":
        infer_catalog(PosteriorEstimator.find("sdss-photoz"), sample.subset(np.arange(2)), "mine.h5", n_samples=20)
        return {"flux": sample.flux[:2], "flux_ivar": sample.flux_ivar[:2]}
    return {}


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("../README", ["fit"]),
        ("pictures", []),
        ("catalogues", ["mass", "inference_data"]),
        ("photoz", ["new"]),
    ],
)
def test_examples_run(page: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = _names(page)
    for block in re.findall(
        r"^```python\n(.*?)^```$", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        exec(compile(block, page, "exec"), names)
    assert set(expected) <= set(names)


def test_the_reference_describes_every_public_name() -> None:
    text = ""
    for page in (DOCS / "reference").glob("*.md"):
        source = [page.read_text(encoding="utf-8")]
        conf._describe_names(None, page.stem, source)
        text += source[0]
    described = set(re.findall(r"^\.\. auto(?:class|exception|function|data):: (\S+)$", text, re.MULTILINE))
    for package in ("sedcast.data", "sedcast.emulator", "sedcast.posterior", "sedcast.baselines", "sedcast.plotting"):
        names = {f"{package}.{name}" for name in importlib.import_module(package).__all__}
        assert names <= described


def test_what_a_page_prints_stands_below_its_code(tmp_path: Path) -> None:
    page = "```toml\n# file: a.toml\nx = 1\n```\n"
    page += "```python\nfrom pathlib import Path\nprint(Path('a.toml').read_text()[-6:-1])\n```\nend\n"
    assert execute(page, tmp_path).endswith("```\n\n```text\nx = 1\n```\nend\n")
    with pytest.raises(RuntimeError, match="status 2"):
        execute("```bash\nsedcast nothing\n```\n", tmp_path)
    with pytest.raises(ZeroDivisionError):
        execute("```python\n1 / 0\n```\n", tmp_path)
