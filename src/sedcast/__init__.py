"""sedcast: full Bayesian posteriors of galaxy properties from photometry."""

from sedcast._version import __version__

__all__ = ["__version__"]
