"""What is shown of tables and text, whatever is in them and however wide the terminal is."""

import logging

import pytest

from sedcast.console import Screen, configure_logging, printable

COLUMNS = ("", "median", "log_sfr_1gyr", "log_sfr_100myr", "typical 68% half width")
ROWS = [("first", 5.454e-05, "10.750 ± 0.123", "0.500 ± 0.001", 107_365), ("second", 0.25, "1.000 ± 0.300", "2", 3)]


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int | None) -> str:
    monkeypatch.delenv("COLUMNS", raising=False)
    screen = Screen()
    if width is not None:
        screen.out.width = width
    screen.table("A table", COLUMNS, ROWS)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [None, 80, 60, 45, 34])
def test_no_number_is_cut_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    out = shown(capsys, monkeypatch, width)
    for whole in ("5.454e-05", "10.750 ± 0.123", "0.500 ± 0.001", "107,365", "log_sfr_1gyr", "log_sfr_100myr"):
        assert whole in out
    assert "…" not in out
    if width is not None:
        assert max(map(len, out.splitlines())) <= width
    # Each part says whose numbers they are.
    assert out.count("first") == out.count("A table")
    assert (out.count("first") > 1) == (width in (60, 45, 34))


def test_long_text_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.out.width = 40
    screen.table("", ("check", "finding"), [("one", "word " * 30), ("#" * 80, "x" * 50)])
    out = capsys.readouterr().out
    assert out.count("word") == 30
    assert (out.count("x"), out.count("#")) == (50, 80)
    assert "│ word" in out


def test_a_title_longer_than_its_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.out.width = 40
    screen.table("a/folder/of/mine/posteriors.h5", ("figure", "value"), [("row", 0)])
    assert capsys.readouterr().out.splitlines()[0].rstrip() == "a/folder/of/mine/posteriors.h5"


def test_text_is_neither_markup_nor_a_command_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    for text in ("M[a]31", "x[/b]y", ":star: 1", "A\x1b[31mRED\x1b]0;title\x07", "\x9b31m"):
        screen.table(text, (text, "value"), [(text, 1.0)])
        screen.result({text: text}, title=text)
        screen.note(text)
        out = capsys.readouterr().out
        assert out.count(printable(text)) == 7
        assert not set(out) & set("\x1b\x07\x9b")
    assert printable("é\n\t[") == "é\n\t["


def test_a_log_message_is_text_too(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("sedcast")
    handlers, level = logger.handlers[:], logger.level
    try:
        configure_logging(Screen().err, verbose=False)
        logger.warning("row %s has :star: [b]no flux", "A\x1b[31m")
    finally:
        logger.handlers, logger.level = handlers, level
    assert "row A\\x1b[31m has :star: [b]no flux" in " ".join(capsys.readouterr().err.split())
