"""The live view of a terminal."""

import io
import re

import pytest
from rich.console import Console

from salsa_cli.runs.events import Advanced, Event, Note, Said, Table, Working
from salsa_cli.runs.terminal import LiveView, print_table


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


def test_the_live_view_shows_what_is_being_done_until_it_is_done() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    view = LiveView(console)

    def picture(event: Event) -> str:
        assert isinstance(console.file, io.StringIO)
        view(event)
        before = len(console.file.getvalue())
        assert view._live is not None
        view._live.refresh()
        return console.file.getvalue()[before:]

    loading = picture(Working("loading [ref]/"))
    assert "loading [ref]/" in loading and "0:00:0" in loading and "/s" not in loading
    answers = picture(Working("answers", 128, 512, detail="token 37/128"))
    assert "answers 128/512" in answers and "token 37/128" in answers and "loading" not in answers
    assert "answers 256/512" in picture(Working("answers", 256, 512, detail="token 40/128"))
    advanced = picture(Advanced("ppo", 1, 3, "updates"))
    assert "1/3 updates" in advanced and "answers" not in advanced
    picture(Working("minibatch", 3, 8))
    view.close()
    assert isinstance(console.file, io.StringIO)
    assert "minibatch" not in console.file.getvalue().split("1/3 updates")[-1]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_long_name_leaves_room_for_the_amounts(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    view = LiveView(console)
    view(Advanced("judging by python:/home/somebody/project/gold.py:score", 400, 1200, "answers"))
    view(Working("loading somewhere/a-model-with-a-very-long-name-7b-instruct-v0.3"))
    assert isinstance(console.file, io.StringIO)
    before = len(console.file.getvalue())
    assert view._live is not None
    view._live.refresh()
    lines = console.file.getvalue()[before:].splitlines()
    view.close()
    assert len(lines) == 2
    assert "judging by" in lines[0] and "gold.py:score" in lines[0]
    assert "400/1,200 answers" in lines[0]
    assert "loading" in lines[1] and "v0.3" in lines[1] and "0:00:0" in lines[1]


RATES = Table(
    ("model", "judge", "a wins", "n"),
    [("salsa", "rm:rm", "12.5%", "16"), ("ppo-long-name", "python:gold.py", "100.0%", "1,600")],
    names=2,
)


def plain(text: str) -> str:
    """Without control codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "width", "lines"),
    [
        (
            Screen(),
            80,
            [
                "model          judge           a wins      n",
                "salsa          rm:rm            12.5%     16",
                "ppo-long-name  python:gold.py  100.0%  1,600",
            ],
        ),
        (
            Screen(),
            42,
            [
                "model         judge          a wins     n",
                "salsa         rm:rm           12.5%    16",
                "ppo-long-name python:gold.py 100.0% 1,600",
            ],
        ),
        (
            Screen(),
            32,
            [
                "model     judge     a wins     n",
                "salsa     rm:rm      12.5%    16",
                "ppo-long- python:go 100.0% 1,600",
                "name      ld.py",
            ],
        ),
        (
            io.StringIO(),
            32,
            [
                "model          judge           a wins      n",
                "salsa          rm:rm            12.5%     16",
                "ppo-long-name  python:gold.py  100.0%  1,600",
            ],
        ),
    ],
)
def test_a_table_fits_the_terminal_and_truncates_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, width: int, lines: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", stream)
    print_table(RATES)
    assert [line.rstrip() for line in plain(stream.getvalue()).splitlines()] == lines


@pytest.mark.parametrize("width", [80, 200])
def test_every_line_of_the_live_view_fits(width: int) -> None:
    """At the largest amounts that are likely, and with what is being done told in full."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    view = LiveView(console)
    view(Advanced("judging by rm:models/reward-model-7b/", 12_345, 98_765, "answers"))
    events = [
        (Working("loading PyTorch and Transformers"), "loading PyTorch and Transformers"),
        (Working("checking the models and the prompts"), "checking the models and the prompts"),
        (Working("answers", 9, 16, detail="token 6/64"), "answers 9/16  token 6/64"),
    ]
    assert isinstance(console.file, io.StringIO)
    for event, told in events:
        view(event)
        before = len(console.file.getvalue())
        assert view._live is not None
        view._live.refresh()
        picture = plain(console.file.getvalue()[before:])
        assert told in picture
        assert "12,345/98,765 answers" in picture
        assert max(map(len, picture.splitlines())) <= width
    view.close()
