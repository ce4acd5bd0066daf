import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

PACKAGES = ("sedcast", "sedcast.data", "sedcast.emulator", "sedcast.posterior", "sedcast.baselines")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        # A module of the same name would stand in its place, whenever it is imported first.
        assert not isinstance(getattr(module, name), ModuleType)
        assert importlib.util.find_spec(f"{package}.{name}") is None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_importing_the_packages_imports_nothing_heavy() -> None:
    code = f"import {', '.join(PACKAGES)}, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "astropy", "numpy", "h5py", "scipy", "fsps"} & set(modules)
