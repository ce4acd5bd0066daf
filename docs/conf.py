"""The documentation: ``sphinx-build -W -b html docs OUT`` makes the site."""

from sedcast import __version__

project = "sedcast"
author = "The sedcast developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx.ext.autodoc", "numpydoc"]
numpydoc_show_class_members = False
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Pages link to files of the repository, which are not pages of the site.
suppress_warnings = ["myst.xref_missing"]
