"""Events, results and errors for a person: plain lines, or a live view on a terminal.

rich is imported only to draw.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from salsa_cli.formatting import amount, duration, figure, fitted, plain
from salsa_cli.runs.events import (
    Advanced,
    Event,
    Measured,
    Note,
    Report,
    Result,
    Said,
    Warned,
    Working,
    silent,
)


@contextmanager
def listening(quiet: bool) -> Iterator[Report]:
    """The report for stderr: a live view, plain lines, or nothing."""
    if quiet:
        yield silent
        return
    if not is_live(sys.stderr, os.environ):
        yield PlainLines(sys.stderr)
        return
    from salsa_cli.runs.terminal import LiveView

    view = LiveView()
    try:
        yield view
    finally:
        view.close()


def is_live(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that can redraw lines and that a person is likely to watch.

    FORCE_COLOR does not make one of a pipe, and logs of CI services get plain lines.
    """
    in_ci = environment.get("CI", "").lower() not in ("", "0", "false")
    return stream.isatty() and environment.get("TERM") != "dumb" and not in_ci


def has_colour(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Whether to colour a stream, by NO_COLOR, FORCE_COLOR and what it is."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb"


PATIENCE = 20
"""A line of progress is due when nothing was printed for this share of the time so far: one in
twenty, so that the log of an hour has some hundred lines."""


class PlainLines:
    """Events as plain lines: per stage, one progress line every `pause` seconds at most.

    In long runs they become rarer, until they are 15 pauses apart. What is being done is printed
    where nothing else was for as long. A sample answer is printed every ten pauses at most.
    """

    def __init__(self, stream: IO[str], pause: float = 2.0) -> None:
        self._stream = stream
        self._pause = pause
        self._last: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._first: float | None = None
        self._printed = float("-inf")

    def __call__(self, event: Event) -> None:
        match event:
            case Note(text):
                self._write(text)
            case Warned(text):
                self._write(f"warning: {text}")
            case Advanced():
                self._advance(event)
            case Working():
                self._work(event)
            case Said():
                self._say(event)
            case Measured():
                pass

    def _due(self, now: float, last: float) -> bool:
        """Whether the last line is long enough ago, for how long it all takes."""
        self._first = now if self._first is None else self._first
        pause = min(max(self._pause, (now - self._first) / PATIENCE), 15 * self._pause)
        return now - last >= pause

    def _work(self, event: Working) -> None:
        now = time.monotonic()
        if self._due(now, self._printed):
            self._printed = now
            counted = f" {_amounts(event)}" if event.total else ""
            self._write(f"{event.step}{counted}{f'  {event.detail}' if event.detail else ''}")

    def _say(self, event: Said) -> None:
        now = time.monotonic()
        if now - self._last.get("sample", float("-inf")) >= 10 * self._pause:
            self._last["sample"] = now
            self._write(f"sample: {plain(event.prompt, 60)} -> {plain(event.answer, 160)}")

    def _advance(self, event: Advanced) -> None:
        now = time.monotonic()
        began = self._began.setdefault(event.stage, now)
        finished = event.done >= event.total
        if not finished and not self._due(now, self._last.get(event.stage, float("-inf"))):
            return
        self._last[event.stage] = self._printed = now
        parts = [f"{event.stage} {_amounts(event)}"]
        parts += [f"{name} {figure(value)}" for name, value in event.figures.items()]
        if event.done and now - began >= self._pause and not finished:
            left = (now - began) / event.done * (event.total - event.done)
            parts.append(f"{duration(left)} left")
        self._write("  ".join(parts))
        if finished:
            del self._began[event.stage], self._last[event.stage]

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _amounts(event: Advanced | Working) -> str:
    return f"{amount(event.done, event.unit)}/{amount(event.total, event.unit)}"


def print_result(result: Result) -> None:
    """The result for a person, on stdout; names the report if there is one."""
    text, table = result.summary()
    if table is not None:
        from salsa_cli.runs.terminal import print_table

        sys.stdout.flush()
        print_table(table)
    if text:
        print(_shown(text, sys.stdout, hanging="  "))
    page = Path(str(result.record().get("output", ""))) / "report.html"
    if page.is_file():
        print(f"report: {page}")
    sys.stdout.flush()


def print_error(text: str) -> None:
    """One error, on stderr."""
    text = _shown(f"error: {text}", sys.stderr)
    if has_colour(sys.stderr, os.environ):
        text = text.replace("error:", "\x1b[31merror:\x1b[0m", 1)
    print(text, file=sys.stderr, flush=True)


def _shown(text: str, stream: IO[str], hanging: str = "") -> str:
    """Text as a terminal shows it, broken between words; a file or a pipe gets it as it is."""
    if not stream.isatty():
        return text
    columns = os.environ.get("COLUMNS", "")
    try:
        width = int(columns) if columns.isdigit() else os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return text
    return fitted(text, width, hanging) if width else text
