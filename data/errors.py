"""The errors that sedcast raises on purpose: each names what came, what was expected and the likely fix."""

__all__ = [
    "ArtifactError",
    "CatalogError",
    "ConfigError",
    "MissingDependencyError",
    "ParameterError",
    "SedcastError",
]


_LONGEST = 2000


class SedcastError(Exception):
    """Base of every error that sedcast raises on purpose; a message that quotes a long input is cut in its middle."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 500]} … {message[-500:]}")


class ParameterError(SedcastError, ValueError):
    """An argument has the wrong shape, unit, range or value."""


class ConfigError(SedcastError, ValueError):
    """A configuration file has an unknown key, a wrong type or an impossible value."""


class ArtifactError(SedcastError, ValueError):
    """A file of trained weights or tables is missing, truncated, altered or of another kind."""


class CatalogError(SedcastError, ValueError):
    """A catalogue lacks a column, is empty, or its values cannot be what its mapping says."""


class MissingDependencyError(SedcastError, ImportError):
    """An optional package, or data that a package needs at run time, is not there."""
