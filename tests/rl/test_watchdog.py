"""What is said of a run while it goes on, and what stops it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.records import to_json
from salsa_cli.rl import monitors
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.monitors import FOREWARNING
from salsa_cli.rl.watchdog import Watchdog
from salsa_cli.runs.events import Event, Said, Warned
from tests.support.histories import START, history

# A penalty of 0.05 * 40 nats for going on, and one of 0.05 * 1 for ending at once.
CHEAP = (40.0, -1.0, 0.5)


def config(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {"ref": ("r",), "reward": ("m",), "prompts": "p", "output": "o"}
    return PPOConfig(**{**settings, "updates": 60, **changes})


def dog(tmp_path: Path, said: list[Event], **changes: Any) -> Watchdog:
    return Watchdog(tmp_path / "metrics.jsonl", config(**changes), said.append)


def collapsing() -> list[UpdateMetrics]:
    """Answers that shrink to nothing, which a monitor names."""
    rows = history(40, length=[40.0] * 20 + [40.0 - 2 * n for n in range(20)])
    assert monitors.alarms(rows), "the history must raise an alarm"
    return rows


def test_each_warning_is_reported_once_and_once_more_never(tmp_path: Path) -> None:
    said: list[Event] = []
    first = dog(tmp_path, said)
    rows = collapsing()
    for row in rows:
        first.observe(row)
    names = [event.text.split(":")[0] for event in said if isinstance(event, Warned)]
    assert names and len(names) == len(set(names))
    assert not first.stops
    first.raise_if_stopped()
    # A resumed run has read what was measured and does not say it again.
    (tmp_path / "metrics.jsonl").write_text("".join(to_json(r.row()) + "\n" for r in rows))
    again: list[Event] = []
    second = dog(tmp_path, again)
    second.observe(replace(rows[-1], update=41))
    assert again == []


def test_a_warning_that_stop_on_names_stops_the_run_but_not_its_last_update(
    tmp_path: Path,
) -> None:
    rows = collapsing()
    (alarm, *_) = monitors.alarms(rows)
    for updates, stops in ((60, True), (alarm.update, False)):
        one = dog(tmp_path, [], stop_on=(alarm.name,), updates=updates)
        for row in rows[: alarm.update]:
            one.observe(row)
        assert one.stops is stops
        if stops:
            with pytest.raises(SalsaError) as found:
                one.raise_if_stopped()
            assert str(found.value).startswith(
                f"stopped after update {alarm.update} by --stop-on {alarm.name}"
            )


def test_the_forewarning_comes_before_the_first_step(tmp_path: Path) -> None:
    said: list[Event] = []
    one = dog(tmp_path, said)
    one.check_start(*CHEAP)
    (warned,) = said
    assert isinstance(warned, Warned) and warned.text.startswith(FOREWARNING)
    with pytest.raises(SalsaError, match="stopped before the first update by --stop-on"):
        dog(tmp_path, [], stop_on=(FOREWARNING,)).check_start(*CHEAP)


def test_a_start_without_that_danger_is_silent(tmp_path: Path) -> None:
    said: list[Event] = []
    dog(tmp_path, said, stop_on=(FOREWARNING,)).check_start(0.0, -30.0, 1.0)
    assert said == []


def test_samples_are_passed_on(tmp_path: Path) -> None:
    said: list[Event] = []
    dog(tmp_path, said).report_sample("the cat", "sat")
    assert said == [Said("the cat", "sat")]
    assert START.update == 1
