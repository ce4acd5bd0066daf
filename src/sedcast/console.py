"""What the command line shows: tables and JSON on standard output, progress and messages on standard error."""

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sedcast.data.provenance import jsonable

__all__ = ["Report", "Screen", "configure_logging", "printable"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WHOLE = 24


def printable(text: object) -> str:
    """Text with its control characters, which a terminal would obey, written out."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], str(text))


class Report(Protocol):
    """A progress callback: items done, items in total, and figures to show beside them."""

    def __call__(self, done: int, total: int, figures: Mapping[str, float] | None = None, /) -> None:
        """Show progress."""
        ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2f}/s", style="cyan")


class _Output(Console):
    def on_broken_pipe(self) -> NoReturn:
        """End as programs do whose reader, ``head`` for one, has enough."""
        # Or Python would try once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE)


class Screen:
    """Where a command writes.

    Parameters
    ----------
    quiet : no progress bars.
    as_json : `result` prints one JSON object and tables are left out, so that standard output can be piped.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.out = _Output(highlight=False, emoji=False)
        if not self.out.is_terminal:
            # A file has room for every column.
            self.out.width = 10_000
        self.err = Console(stderr=True, highlight=False, emoji=False)
        self.quiet = quiet
        self.as_json = as_json

    @contextmanager
    def progress(self, description: str) -> Iterator[Report]:
        """A progress bar with rate and time left, on standard error if that is a terminal; yields its callback."""
        columns = (
            TextColumn("{task.description}"),
            # On a narrow screen the figures, such as a training's loss, would have no room.
            BarColumn(bar_width=28 if self.err.width >= 100 else 12),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}", style="dim"),
        )
        with Progress(*columns, console=self.err, disable=self.quiet or not self.err.is_terminal) as bar:
            task = bar.add_task(description, total=None, figures="")

            def report(done: int, total: int, figures: Mapping[str, float] | None = None, /) -> None:
                shown = "  ".join(f"{name} {value:.4g}" for name, value in (figures or {}).items())
                if done < bar.tasks[0].completed:
                    bar.reset(task)  # the next stage of the same work
                bar.update(task, completed=done, total=total, figures=shown)

            yield report

    def note(self, message: str) -> None:
        """A line of prose on standard output, left out with `as_json`."""
        if not self.as_json:
            self.out.print(printable(message), soft_wrap=True, markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table on standard output, prose to the left, left out with `as_json`; too wide for a terminal, in parts."""
        if self.as_json:
            return
        cells = [[Text(_cell(value)) for value in row] for row in rows]
        heads = [Text(printable(column)) for column in columns]
        longest = [max((row[k].cell_len for row in cells), default=0) for k in range(len(heads))]
        room = self.out.width
        if _width([max(head.cell_len, cell) for head, cell in zip(heads, longest, strict=True)]) <= room:
            fixed: list[int | None] = [None] * len(heads)
            parts = [list(range(len(heads)))]
        else:
            words = [max(map(len, head.plain.split()), default=0) for head in heads]
            least = [max(min(cell, _WHOLE), word) for cell, word in zip(longest, words, strict=True)]
            fixed = [size if cell <= _WHOLE else None for size, cell in zip(least, longest, strict=True)]
            parts = _parts(least, room)
        for part in parts:
            # Not as the table's title, which would be folded at its width.
            if title:
                self.out.print(Text(printable(title), style="bold", overflow="fold"))
            table = Table()
            for k in part:
                prose = k == 0 or longest[k] > _WHOLE
                table.add_column(heads[k], justify="left" if prose else "right", overflow="fold", width=fixed[k])
            for row in cells:
                table.add_row(*(row[k] for k in part))
            self.out.print(table)

    def result(self, figures: Mapping[str, Any], title: str = "") -> None:
        """The figures of a command: a table, or with `as_json` one line of JSON."""
        if self.as_json:
            try:
                sys.stdout.write(json.dumps(jsonable(figures), allow_nan=False) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                self.out.on_broken_pipe()
        else:
            self.table(title, ("figure", "value"), [(key, value) for key, value in figures.items()])


def _width(columns: Sequence[int]) -> int:
    """Of a table with its lines and the space beside them."""
    return sum(columns) + 3 * len(columns) + 1


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns in groups that have room beside each other, the first column in each."""
    parts = [[0]]
    for k in range(1, len(widths)):
        if len(parts[-1]) > 1 and _width([widths[one] for one in (*parts[-1], k)]) > room:
            parts.append([0])
        parts[-1].append(k)
    return parts


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


class _Printable(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def configure_logging(console: Console, *, verbose: bool) -> None:
    """Show the library's log on standard error: warnings, and what is being done with `verbose`."""
    handler = RichHandler(console=console, show_time=verbose, show_path=False, markup=False)
    handler.setFormatter(_Printable("%(message)s"))
    logger = logging.getLogger("sedcast")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    # On the first run of a fresh installation it announces that it builds its font cache.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
