"""The code of the pages runs as written: here of some, at every build of the site of all that say ``<!-- executed -->``."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"
sys.path.insert(0, str(DOCS))

from executed import MARK, execute  # noqa: E402

QUICKSTART = DOCS / "quickstart.md"


def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", QUICKSTART.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(QUICKSTART), "exec"), names)
    # A galaxy of r = 16.9 at z = 0.09 has some 10^10 to 10^11.5 solar masses.
    assert 10 < np.median(np.asarray(names["log_mass"])) < 11.5
    assert (tmp_path / "posteriors.h5").is_file()


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("tutorials/one-galaxy", "log mass formed: 1"),
        ("tutorials/catalogue", "Percentiles of the posterior"),
        ("exchange", "dust:Av  "),
        ("rest-frame", "NUV-r = "),
    ],
)
def test_pages_run(page: str, shown: str, tmp_path: Path) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert MARK in text
    assert shown not in text
    assert shown in execute(text, tmp_path)


def test_what_a_page_prints_stands_below_its_code(tmp_path: Path) -> None:
    page = "```toml\n# file: a.toml\nx = 1\n```\n"
    page += "```python\nfrom pathlib import Path\nprint(Path('a.toml').read_text()[-6:-1])\n```\nend\n"
    assert execute(page, tmp_path).endswith("```\n\n```text\nx = 1\n```\nend\n")
    with pytest.raises(RuntimeError, match="status 2"):
        execute("```bash\nsedcast nothing\n```\n", tmp_path)
    with pytest.raises(ZeroDivisionError):
        execute("```python\n1 / 0\n```\n", tmp_path)
