"""What a terminal shows of events: plain lines, a live view, results and errors."""

import io
import time

import pytest
from rich.console import Console

from salsa_cli.runs.events import (
    Advanced,
    DryRun,
    Measured,
    Note,
    Said,
    Table,
    Warned,
)
from salsa_cli.runs.terminal import LiveView, PlainLines, print_error, print_result


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


def test_the_live_view_shows_bars_and_figures() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    view = LiveView(console)
    view(Note("[not] markup"))
    view(Advanced("ppo", 1, 2, "updates", {"reward": 0.5}))
    view(Advanced("ppo", 2, 2, "updates", {"reward": 0.75}))
    view.close()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "[not] markup" in text and "2/2 updates" in text and "0.750" in text


def test_the_live_view_keeps_figures_and_shows_a_sample() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    view = LiveView(console)
    view(Advanced("ppo", 1, 3, "updates", {"reward": 0.5, "KL start": 7.25}))
    view(Said("a prompt", "an [bold]answer\x1b[2J\nwith \u202e codes " + "long " * 99))
    view(Advanced("ppo", 2, 3, "updates", {"reward": 0.75}))
    assert isinstance(console.file, io.StringIO)
    before = len(console.file.getvalue())
    view(Advanced("ppo", 3, 3, "updates", {"reward": 0.875}))
    view.close()
    picture = console.file.getvalue()[before:]
    assert "reward 0.875" in picture and "KL start 7.250" in picture
    assert "prompt  a prompt" in picture and "answer  an [bold]answer\ufffd[2J with" in picture
    assert "\x1b[2J" not in picture and "\u202e" not in picture
    view(Advanced("saving", 1, 2, "B", {"seconds": 1.0}))
    view.close()
    assert "reward" not in console.file.getvalue().split("saving")[-1]


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
