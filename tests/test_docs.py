"""The quickstart's code runs as written."""

import re
from pathlib import Path

import numpy as np
import pytest

QUICKSTART = Path(__file__).parent.parent / "docs" / "quickstart.md"


def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", QUICKSTART.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(QUICKSTART), "exec"), names)
    # A galaxy of r = 16.9 at z = 0.09 has some 10^10 to 10^11.5 solar masses.
    assert 10 < np.median(np.asarray(names["log_mass"])) < 11.5
    assert (tmp_path / "posteriors.h5").is_file()
