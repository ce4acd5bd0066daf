"""Configuration files: TOML read into frozen pydantic models that refuse unknown keys."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from sedcast.data.errors import ConfigError

__all__ = ["Config", "load_config", "parse_config", "read_toml"]


MAX_CONFIG_BYTES = 1 << 24


class Config(BaseModel):
    """Base of every configuration: immutable, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ConfigT = TypeVar("ConfigT", bound=Config)


def parse_config(values: object, model: type[ConfigT], source: str = "configuration") -> ConfigT:
    """Validate `values` (a mapping of what TOML and JSON know) as `model`, naming every key that is wrong.

    Types are strict: text that looks like a number is not one, nor are true and false; an integer will do for a float.

    Raises
    ------
    ConfigError : one line per wrong key, with what came.
    """
    try:
        # By way of JSON, because strict Python values would have to be tuples where TOML has arrays.
        return model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(top level)"
            if problem["type"] == "extra_forbidden":
                *section, _ = problem["loc"]
                known = ", ".join(sorted(_section(model, section).model_fields))
                lines.append(f"unknown key {key!r} (known are: {known})")
            elif problem["type"] == "missing":
                lines.append(f"key {key!r} is missing")
            elif problem["type"] == "value_error":
                words, values = problem["msg"].removeprefix("Value error, "), problem["input"]
                if not problem["loc"]:
                    lines.append(words)
                elif isinstance(values, dict) and any(isinstance(value, dict) for value in values.values()):
                    # A table with tables in it is too long to be shown: the words name the key that is wrong.
                    lines.append(f"key {key!r}: {words}")
                else:
                    lines.append(f"key {key!r}: {words}, got {values!r}")
            else:
                lines.append(f"key {key!r}: {problem['msg']}, got {problem['input']!r}")
        raise ConfigError(f"{source}: " + "; ".join(lines)) from error


def _section(model: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel]:
    """The model of a nested table, by the keys that lead to it."""
    keys = iter(path)
    for key in keys:
        annotation = model.model_fields[str(key)].annotation
        model = next(
            kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
        if get_origin(annotation) is dict:
            # The key of a table of tables is the user's own.
            next(keys, None)
    return model


def load_config(path: str | Path, model: type[ConfigT]) -> ConfigT:
    """Read a TOML file as `model`.

    Raises
    ------
    ConfigError : if the file cannot be read, is not TOML, or does not fit `model`; the key is named.
    """
    return parse_config(read_toml(path), model, str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises
    ------
    ConfigError : if it cannot be read, or is not TOML.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} has more than {MAX_CONFIG_BYTES} bytes: is it a configuration?")
        return tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror or error}") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        # Numbers of more digits than Python converts are ValueErrors, as is what is not TOML or not UTF-8.
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
