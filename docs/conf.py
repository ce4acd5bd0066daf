"""The documentation: ``sphinx-build -W -b html docs OUT`` runs the code of its tutorials and makes the site."""

import importlib
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
autosummary_generate = True
numpydoc_show_class_members = False
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Pages link to files of the repository, which are not pages of the site.
suppress_warnings = ["myst.xref_missing"]


def _list_names(app: Any, name: str, source: list[str]) -> None:
    """Replace ``@names of PACKAGE@`` by a table of what it makes public."""

    def table(found: re.Match[str]) -> str:
        names = "\n".join(f"   {found[1]}.{public}" for public in importlib.import_module(found[1]).__all__)
        return f"```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n{names}\n```"

    source[0] = re.sub(r"@names of (\S+)@", table, source[0])


def setup(app: Any) -> None:
    """Register with Sphinx."""
    app.connect("source-read", _list_names)
