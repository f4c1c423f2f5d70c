"""Seconds by stage, with a clock that tells what it is told."""

from collections.abc import Iterator

import pytest

from salsa_cli.rl import stopwatch
from salsa_cli.rl.stopwatch import Stopwatch


def test_stages_in_their_order_and_a_stage_measured_twice_is_summed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks: Iterator[float] = iter([0.0, 1.5, 2.0, 2.25, 10.0, 14.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(ticks))
    clock = Stopwatch()
    for stage in ("rollout", "scoring", "rollout"):
        with clock.measure(stage):
            pass
    assert list(clock.seconds.items()) == [("rollout", 5.5), ("scoring", 0.25)]
