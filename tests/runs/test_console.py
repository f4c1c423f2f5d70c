"""Plain lines, results and errors, and when there is a live view."""

import io
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from salsa_cli.runs.console import PlainLines, has_colour, is_live, print_error, print_result
from salsa_cli.runs.events import (
    Advanced,
    DryRun,
    Measured,
    Note,
    Said,
    Table,
    Warned,
    Working,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_lines_are_few_and_whole() -> None:
    stream = io.StringIO()
    lines = PlainLines(stream, pause=3600)
    lines(Note("a note"))
    lines(Warned("careful"))
    for done in range(1, 101):
        lines(Advanced("ppo", done, 100, "updates", {"reward": done / 100}))
    lines(Measured({"reward": 1}))
    assert stream.getvalue().splitlines() == [
        "a note",
        "warning: careful",
        "ppo 1/100  reward 0.010",
        "ppo 100/100  reward 1.000",
    ]


def test_plain_lines_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 115.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    lines = PlainLines(stream)
    for done in (10, 20, 30):
        lines(Advanced("soup", done * 10**6, 100 * 10**6, "B"))
    assert stream.getvalue().splitlines() == [
        "soup 10MB/100MB",
        "soup 20MB/100MB  40 s left",
        "soup 30MB/100MB  35 s left",
    ]


def test_plain_lines_say_what_is_being_done_where_they_would_be_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100.0, 101.0, 103.0, 104.0, 104.5, 106.0, 107.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    lines = PlainLines(stream, pause=2.0)
    lines(Working("loading ref/"))
    lines(Working("answers", 1, 8, detail="token 1/4"))
    lines(Working("answers", 3, 8, detail="token 3/4"))
    lines(Working("minibatch", 1, 4))
    lines(Advanced("ppo", 1, 3, "updates"))
    lines(Working("answers", 4, 8))
    lines(Working("answers", 1000, 2000))
    assert stream.getvalue().splitlines() == [
        "loading ref/",
        "answers 3/8  token 3/4",
        "ppo 1/3",
        "answers 1,000/2,000",
    ]


def test_plain_lines_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event a second for three hours: 2 s apart in the beginning, and 30 s in the end."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    printed: dict[str, list[float]] = {"working": [], "stage": []}
    for kind in printed:
        stream, now = io.StringIO(), 0.0
        lines, length = PlainLines(stream, pause=2.0), 0
        for second in range(3 * 3600):
            now = float(second)
            if kind == "working":
                lines(Working("answers", second, 10**6))
            else:
                lines(Advanced("ppo", second + 1, 10**6, "updates"))
            if len(stream.getvalue()) > length:
                printed[kind].append(now)
            length = len(stream.getvalue())
    for times in printed.values():
        assert times[:3] == [0.0, 2.0, 4.0]
        assert times[-1] - times[-2] == 30
        assert max(after - at for at, after in pairwise(times) if at < 200) in (10, 11)
        assert len(times) < 450


def test_plain_lines_show_a_sample_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 119.0, 120.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    lines = PlainLines(stream, pause=2.0)
    for text in ("one", "two", "three\nlines"):
        lines(Said("why?", text))
    assert stream.getvalue().splitlines() == ["sample: why? -> one", "sample: why? -> three lines"]


def test_results_go_to_stdout_and_errors_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    class Found:
        def record(self) -> dict[str, object]:
            return {}

        def summary(self) -> tuple[str, Table | None]:
            return "[a] line", Table(("model", "score"), [("x", "0.5"), ("yy", "10.0")])

    print_result(Found())
    print_error("[b] wrong")
    out, err = capsys.readouterr()
    assert [line.rstrip() for line in out.splitlines()] == [
        "model  score",
        "x        0.5",
        "yy      10.0",
        "[a] line",
    ]
    assert err == "error: [b] wrong\n"


def test_names_with_colons_are_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("openai:m: it failed")
    assert capsys.readouterr().err == "error: openai:m: it failed\n"
    print_result(DryRun({"judges": "openai:cat: and [red]"}))
    assert capsys.readouterr().out == "judges: openai:cat: and [red]\n"


@pytest.mark.parametrize(
    ("environment", "live", "colour"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "xterm", "CI": "true"}, False, True),
        ({"TERM": "xterm", "CI": "false"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, False, True),
    ],
)
def test_a_terminal_is_live_unless_nobody_watches_it(
    environment: Mapping[str, str], live: bool, colour: bool
) -> None:
    assert is_live(Terminal(), environment) == live
    assert has_colour(Terminal(), environment) == colour


def test_a_pipe_is_never_live() -> None:
    forced = {"TERM": "xterm", "FORCE_COLOR": "1"}
    assert not is_live(io.StringIO(), forced) and has_colour(io.StringIO(), forced)
    assert not has_colour(io.StringIO(), {"TERM": "xterm"})


def test_the_report_of_a_result_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Found:
        def record(self) -> dict[str, object]:
            return {"output": str(tmp_path)}

        def summary(self) -> tuple[str, Table | None]:
            return "done", None

    print_result(Found())
    assert capsys.readouterr().out == "done\n"
    (tmp_path / "report.html").touch()
    print_result(Found())
    assert capsys.readouterr().out == f"done\nreport: {tmp_path}/report.html\n"


def test_words_are_whole_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", Terminal())
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("NO_COLOR", "1")
    print_error("nothing of this was found:\n  - a/b/c.jsonl: no such file")
    print_result(DryRun({"models to be compared": "salsa, ppo"}))
    assert sys.stderr.getvalue() == (  # type: ignore[attr-defined]
        "error: nothing of this\nwas found:\n  - a/b/c.jsonl: no such\n    file\n"
    )
    assert sys.stdout.getvalue() == "models to be compared:\n  salsa, ppo\n"  # type: ignore[attr-defined]


def test_a_dry_run_has_units_and_origins(capsys: pytest.CaptureFixture[str]) -> None:
    dry = DryRun(
        {
            "tensors": 1200,
            "bytes to write": 13_500_000_000,
            "seconds about": 125.0,
            "seconds": 0.04,
        },
        settings=[("alpha", 0.5, "--alpha"), ("memory", 1, "default"), ("models", ["a"], "S")],
    )
    print_result(dry)
    assert capsys.readouterr().out.splitlines() == [
        "tensors: 1,200",
        "to write: 13.5GB",
        "time, about: 2 min 5 s",
        "seconds: less than a second",
        "settings that are not defaults:",
        "  alpha = 0.5  # --alpha",
        '  models = ["a"]  # S',
    ]
    assert dry.record()["bytes_to_write"] == 13_500_000_000
    assert dry.record()["settings"]["memory"] == {"value": 1, "origin": "default"}  # type: ignore[index]
