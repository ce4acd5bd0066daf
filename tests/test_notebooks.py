"""The notebooks of `examples/` run, and hold no output."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
REASON = "needs nbclient and ipykernel: pip install 'sedcast[test]'"


@pytest.mark.parametrize("name", ["quickstart", "catalogue"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As for a user, whose kernel chooses how figures are shown.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    nbclient = pytest.importorskip("nbclient", reason=REASON)
    pytest.importorskip("ipykernel", reason=REASON)
    nbformat = pytest.importorskip("nbformat", reason=REASON)
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    # The last cell shows something: a residual, a picture; and a figure is a picture, not its name.
    assert code[-1].outputs
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    figures = [data for data in shown if "<Figure" in data.get("text/plain", "")]
    assert figures
    assert all("image/png" in data for data in figures)
