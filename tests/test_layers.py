"""Dependencies point one way: data ← emulator ← posterior ← baselines ← root."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("data", "emulator", "posterior", "baselines")


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_no_import_runs_upward(layer: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    paths = sorted((ROOT / layer).glob("*.py"))
    assert paths
    for path in paths:
        for name in imported_modules(path):
            if name.startswith("sedcast."):
                assert name.split(".")[1] in allowed, f"{path.name} imports {name}"


def test_tensorflow_is_imported_in_one_place() -> None:
    importers = {
        path.name
        for folder in (*LAYERS, "src/sedcast")
        for path in (ROOT / folder).glob("*.py")
        if any(name.split(".")[0] in ("tensorflow", "tensorflow_probability", "tf_keras") for name in imported_modules(path))
    }
    assert importers == {"tensorflow.py"}


def test_only_the_command_line_imports_the_command_line() -> None:
    paths = [path for path in (ROOT / "src/sedcast").rglob("*.py") if not path.name.startswith(("cli", "__main__"))]
    assert paths
    for path in paths:
        found = [name for name in imported_modules(path) if name.startswith("sedcast.cli")]
        assert not found, f"{path.name} imports {found[0]}"
