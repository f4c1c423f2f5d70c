"""The live view of a terminal."""

import io

from rich.console import Console

from salsa_cli.runs.events import Advanced, Note, Said
from salsa_cli.runs.terminal import LiveView


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
