"""The documentation: ``sphinx-build -W -b html docs OUT`` runs the code of its tutorials and makes the site."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from sedcast import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "sedcast"
author = "The sedcast developers"
release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.mathjax",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "executed",
]
autosummary_generate = False
# In a docstring `Name` is a link, where Name is documented.
default_role = "py:obj"
numpydoc_show_class_members = False
html_theme = "furo"
html_show_copyright = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Pages link to files of the repository, which are not pages of the site.
suppress_warnings = ["myst.xref_missing"]


def _describe_names(app: Any, name: str, source: list[str]) -> None:
    """Replace ``@names of MODULE@`` by a table of what it makes public, and the description of each."""

    def described(found: re.Match[str]) -> str:
        module = importlib.import_module(found[1])
        names = [f"{found[1]}.{public}" for public in module.__all__]
        table = "\n".join(f"   {public}" for public in names)
        entries = "\n\n".join(_entry(public, getattr(module, public.rpartition(".")[2])) for public in names)
        return f"```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n{table}\n\n{entries}\n```"

    source[0] = re.sub(r"@names of (\S+)@", described, source[0])


def _entry(name: str, item: Any) -> str:
    if inspect.isclass(item):
        return f".. auto{'exception' if issubclass(item, Exception) else 'class'}:: {name}\n   :members:"
    return f".. autofunction:: {name}" if callable(item) else f".. autodata:: {name}\n   :no-value:"


def setup(app: Any) -> None:
    """Register with Sphinx."""
    app.connect("source-read", _describe_names)
