"""Configuration files: every wrong key is named, and no type is guessed."""

from pathlib import Path

import pytest
from pydantic import Field, model_validator

from sedcast.data.config import Config, load_config, parse_config
from sedcast.data.errors import ConfigError


class Inner(Config):
    low: float = 0.0


class Example(Config):
    n: int = Field(ge=1)
    name: str = "x"
    bands: tuple[str, ...] = ()
    path: Path | None = None
    inner: Inner = Inner()


class NotZero(Inner):
    @model_validator(mode="after")
    def _not_zero(self) -> "NotZero":
        if self.low == 0:
            raise ValueError("low must not be 0")
        return self


class Outer(Config):
    inner: NotZero

    @model_validator(mode="after")
    def _below_one(self) -> "Outer":
        if self.inner.low >= 1:
            raise ValueError("low must be below 1")
        return self


class Outermost(Config):
    outer: Outer


def test_toml_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    path.write_text('n = 3\nbands = ["u", "g"]\npath = "a/b"\n[inner]\nlow = 2\n', encoding="utf-8")
    assert load_config(path, Example) == Example(n=3, bands=("u", "g"), path=Path("a/b"), inner=Inner(low=2.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 3, "bandz": []}, "unknown key 'bandz'"),
        ({"n": 3, "inner": {"lo": 1}}, r"unknown key 'inner.lo' \(known are: low\)"),
        ({}, "key 'n' is missing"),
        ({"n": "3"}, "key 'n': .*integer, got '3'"),
        ({"n": True}, "key 'n': .*integer, got True"),
        ({"n": 0}, "key 'n': .*greater than or equal to 1, got 0"),
        ({"n": 1, "name": 5}, "key 'name': .*string, got 5"),
        ({"n": 1, "inner": {"low": "small"}}, "key 'inner.low': .*number, got 'small'"),
        ({"n": 1, "bands": "u"}, "key 'bands'"),
        (None, "top level"),
    ],
)
def test_errors_name_the_key(values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(values, Example)


def test_a_rule_of_a_whole_table_is_told_without_the_table() -> None:
    with pytest.raises(ConfigError, match=r"^configuration: key 'outer': low must be below 1$"):
        parse_config({"outer": {"inner": {"low": 2.0}}}, Outermost)
    with pytest.raises(ConfigError, match=r"^configuration: key 'outer.inner': low must not be 0, got \{'low': 0.0\}$"):
        parse_config({"outer": {"inner": {"low": 0.0}}}, Outermost)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "absent.toml", Example)
    path = tmp_path / "broken.toml"
    path.write_text("n = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(path, Example)
