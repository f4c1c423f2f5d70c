"""Monitors: each fires where it should, with its figure, and is silent on runs that learn."""

import random
from collections.abc import Sequence
from dataclasses import replace
from math import nan

from salsa_cli.records import read_rows
from salsa_cli.rl import monitors
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from tests.support.histories import HEALTHY, history


def named(rows: Sequence[UpdateMetrics]) -> dict[str, int]:
    return {alarm.name: alarm.update for alarm in monitors.alarms(rows)}


def test_a_run_that_learns_raises_no_alarm() -> None:
    rows = [UpdateMetrics.of(row) for row in read_rows(HEALTHY)]
    assert len(rows) == 30 and rows[-1].reward > rows[0].reward + 1
    assert rows[0].reference_end is not None and rows[0].watched
    assert monitors.alarms(rows) == []


def test_a_run_in_which_nothing_happens_raises_no_alarm() -> None:
    assert named(history(50)) == {}


def test_stopping_is_cheap_before_the_first_step() -> None:
    # 7 nats to the soup, 4.6 to end at once: 2.4 nats saved. At beta 0.1 that is a quarter of the
    # reward's spread, at 0.4 nearly all of it.
    costs = {"kl": 7.0, "reference_end": -4.6}
    assert named(history(1, kl_coef=0.1, **costs)) == {}
    (alarm,) = monitors.alarms(history(1, kl_coef=0.4, **costs))
    assert alarm.name == "cheap-stopping" and alarm.update == 1
    assert "saves 0.96" in alarm.text and "rewards is 1.00" in alarm.text
    assert "7.0 nats" in alarm.text and "4.6 for ending" in alarm.text
    # A reward that spreads more outweighs it; a reference that never ends makes it dear.
    assert named(history(1, kl_coef=0.4, reward_std=3.0, **costs)) == {}
    assert named(history(1, kl_coef=0.4, kl=7.0, reference_end=-9.0)) == {}
    assert named(history(1, kl_coef=0.4, kl=7.0, reference_end=None)) == {}


def test_length_collapse() -> None:
    assert named(history(6, length=[40.0, 30, 25, 22, 21, 21])) == {}
    falling = [40.0, 30, 20, 10, 5, 3]
    assert named(history(6, length=falling)) == {"length-collapse": 5}  # (20 + 10 + 5) / 3 = 11.7
    (alarm,) = monitors.alarms(history(6, length=falling))
    assert "11.7 tokens" in alarm.text and "40.0 at the start" in alarm.text


def test_a_kl_that_jumps_within_a_short_history() -> None:
    """0, 85, 186, 228 nats at a learning rate of 1e-3: named in the second of them."""
    jumping = history(4, kl=[0.0, 85.0, 186.0, 228.0])
    assert named(jumping)["kl-jump"] == 2
    (text,) = [alarm.text for alarm in monitors.alarms(jumping) if alarm.name == "kl-jump"]
    assert "within 1 update: the policy changes too fast" in text
    assert "from 0.0 to 85.0 nats" in text and "--learning-rate" in text
    # A policy that starts far from its reference, or drifts a nat an update, does not jump.
    assert "kl-jump" not in named(history(14, kl=85.0))
    assert "kl-jump" not in named(history(14, kl=[2.0 + i for i in range(14)]))


def test_a_first_ratio_that_is_not_one() -> None:
    assert "ratio-error" not in named(history(3, ratio_error=1e-5))
    assert named(history(3, ratio_error=[0.0, 0.002, 0.0]))["ratio-error"] == 2


def test_the_objective_below_its_start() -> None:
    # 64 answers, std 1: two standard errors are 0.26.
    assert named(history(30, reward=[0.0] + [-0.2] * 29)) == {}
    assert named(history(30, reward=[0.0] + [-0.4] * 29)) == {"objective-below-start": 11}
    # One update above the start is enough to doubt it.
    assert named(history(15, reward=[0.0] + [-0.4] * 8 + [0.3] + [-0.4] * 5)) == {}
    # A penalty that grows counts as a lost reward does ...
    assert "objective-below-start" in named(history(30, penalty=[2.0] + [12.0] * 29))
    # ... but an adaptive coefficient that grows does not lower J by itself.
    assert named(history(30, kl_coef=[0.05 + 0.1 * i for i in range(30)], reference_end=None)) == {}


def test_missing_end_tokens() -> None:
    assert named(history(4, finished=[0.95, 0.9, 0.8, 0.7])) == {}
    assert named(history(4, finished=0.4)) == {"missing-end": 1}
    # From 0.95 the line is at 0.65: the mean of 0.7, 0.6, 0.6 lies below it.
    assert named(history(5, finished=[0.95, 0.8, 0.7, 0.6, 0.6])) == {"missing-end": 5}


def test_entropy_collapse() -> None:
    assert named(history(6, entropy=[1.0, 0.9, 0.8, 0.5, 0.4, 0.35])) == {}
    assert named(history(6, entropy=[1.0, 0.6, 0.4, 0.3, 0.2, 0.1])) == {"entropy-collapse": 5}


def test_kl_that_runs_away() -> None:
    steady = [2.0 + 0.1 * i for i in range(30)]
    assert named(history(30, kl=steady)) == {}
    drift = [0.01 * i**2 for i in range(30)]  # one direction, equal steps
    assert named(history(30, kl=drift)) == {}
    assert named(history(30, kl=[1e-6 * 2.0**i for i in range(19)] + [0.5] * 11)) == {}
    found = named(history(30, kl=steady[:20] + [4.0 * 1.6**i for i in range(10)]))
    assert found == {"kl-acceleration": 23, "kl-jump": 24}


def test_kl_acceleration_by_hand() -> None:
    # Means 2, 3 and 3 + rise: the rise before was 1, so 3 nats is the line.
    def rows(rise: float) -> list[UpdateMetrics]:
        return history(15, kl=[2.0] * 5 + [3.0] * 5 + [3.0 + rise] * 5)

    assert named(rows(2.9)) == {}
    (alarm,) = monitors.alarms(rows(3.0))
    assert (alarm.name, alarm.update) == ("kl-acceleration", 15)
    assert "rose by 3.0 nats in 5 updates, by 1.0 in the 5 before" in alarm.text


def test_clipping() -> None:
    assert named(history(5, clip_share=0.25)) == {}
    assert named(history(5, clip_share=[0.1, 0.2, 0.3, 0.4, 0.5])) == {"clipping": 5}


def test_a_held_out_reward_that_falls_while_the_proxy_rises() -> None:
    noise = random.Random(0)
    proxy = [0.1 * i for i in range(40)]
    gold = [1.0 - abs(i - 15) / 15 + noise.gauss(0, 0.05) for i in range(40)]
    watched = [{"gold": value} for value in gold]
    (alarm,) = monitors.alarms(history(40, reward=proxy, watched=watched))
    assert alarm.name == "reward-hacking" and 18 <= alarm.update <= 30
    assert alarm.text.startswith("gold fell from 0.9")
    # Both fall: that is no exploit of the proxy. Both rise: that is what training is for.
    falling = [1.0 - 0.001 * i for i in range(40)]
    assert "reward-hacking" not in named(history(40, reward=falling, watched=watched))
    rising = [{"gold": 0.05 * i + noise.gauss(0, 0.05)} for i in range(40)]
    assert named(history(40, reward=proxy, watched=rising)) == {}


def test_noise_of_the_held_out_reward_is_no_fall() -> None:
    proxy = [0.02 * i for i in range(60)]
    for seed in range(20):
        noise = random.Random(seed)
        watched = [{"gold": noise.gauss(1, 0.2)} for _ in range(60)]
        assert named(history(60, reward=proxy, watched=watched)) == {}, seed


def test_a_reward_of_length() -> None:
    assert named(history(10, length_reward_correlation=0.65)) == {}
    found = monitors.alarms(history(10, length_reward_correlation=0.75))
    assert [(a.name, a.update) for a in found] == [("length-bias", 5)]
    assert "correlate by 0.75" in found[0].text and "longer answers" in found[0].text
    (alarm,) = monitors.alarms(history(10, length_reward_correlation=-0.75))
    assert "shorter answers" in alarm.text


def test_a_reward_that_the_length_follows() -> None:
    longer = [40.0 + 2 * i for i in range(10)]
    shorter = [40.0 - 2 * i for i in range(10)]
    assert named(history(10, length_reward_correlation=0.45, length=longer)) == {}
    # 40 tokens become 50, a quarter more, in update 6.
    assert named(history(10, length_reward_correlation=0.55, length=longer)) == {"length-bias": 6}
    assert named(history(10, length_reward_correlation=0.55, length=shorter)) == {}
    assert named(history(10, length_reward_correlation=-0.55, length=shorter)) == {"length-bias": 6}


def test_a_critic_that_learns_nothing() -> None:
    assert named(history(30, explained_variance=[-4.0] * 5 + [0.1] * 25)) == {}
    assert named(history(30, explained_variance=-0.1)) == {"weak-critic": 20}


def test_prompts_whose_answers_have_one_reward() -> None:
    rows = history(5, groups=16, equal_groups=[0, 16, 8, 1, 16])
    assert named(rows) == {"equal-groups": 4}  # 25 of 48; in the third update 24 of 48
    (alarm,) = monitors.alarms(rows)
    assert "in 25 of the last 48 prompts" in alarm.text
    without_critic = history(30, groups=16, equal_groups=0, explained_variance=[None] * 30)
    assert named(without_critic) == {}


def test_a_warning_is_named_once() -> None:
    watch = monitors.AlarmTracker()
    found = [watch.add(metrics) for metrics in history(5, finished=[0.9, 0.1, 0.1, 0.9, 0.1])]
    assert [len(alarms) for alarms in found] == [0, 1, 0, 0, 0]


def test_every_monitor_says_what_to_try() -> None:
    rows = history(
        30,
        kl=[2.0] * 20 + [90.0] * 10,
        penalty=[2.0] * 20 + [90.0] * 10,
        kl_coef=1.0,
        reference_end=-0.1,
        length=[40.0] + [3.0] * 29,
        reward=[0.0] + [-9.0] * 20 + [-8.9] * 9,
        watched=[{"gold": 1.0 if 2 <= i < 10 else -1.0} for i in range(30)],
        finished=0.1,
        entropy=[1.0] + [0.1] * 29,
        clip_share=0.9,
        explained_variance=-1.0,
        length_reward_correlation=0.9,
        groups=16,
        equal_groups=12,
    )
    rows = [replace(row, ratio_error=0.01) for row in rows]
    measured = evaluated([1.0] * 28 + [0.0] * 3)
    rows = [replace(row, heldout=one.heldout) for row, one in zip(rows, measured, strict=True)]
    found = monitors.alarms(rows)
    assert {alarm.name for alarm in found} == set(monitors.MONITORS)
    for alarm in found:
        assert any(ch.isdigit() for ch in alarm.text), alarm
        assert any(word in alarm.text for word in ("--", "Check the")), alarm


def evaluated(rewards: Sequence[float], watch: Sequence[float] = ()) -> list[UpdateMetrics]:
    """An evaluation at the start and after every update, each with a standard error of 0.1."""
    rest = HeldOutFigure(1.0, 0.1)
    found = [
        HeldOutMetrics(
            64,
            HeldOutFigure(reward, 0.1),
            {},
            {"gold": HeldOutFigure(watch[place], 0.1)} if watch else {},
            {},
            None,
            rest,
            rest,
        )
        for place, reward in enumerate(rewards)
    ]
    rows = history(len(found) - 1, heldout=found[1:])
    return [replace(rows[0], heldout_start=found[0]), *rows[1:]]


def test_a_fall_on_held_out_prompts() -> None:
    """3.5 standard errors of the difference of two figures are 3.5 * sqrt(2) * 0.1 = 0.495."""
    fallen = evaluated([0.0, 1.0, 0.51, 0.51])
    assert named(fallen) == {}  # within the error
    fallen = evaluated([0.0, 1.0, 0.51, 0.5, 0.48])
    assert named(fallen) == {"heldout-fall": 4}  # the second in a row
    assert named(evaluated([1.0, 0.4, 0.4])) == {"heldout-fall": 2}  # from the start
    assert named(evaluated([0.0, 1.0, 0.4, 0.8, 0.4])) == {}
    text = monitors.heldout_fall(fallen)
    assert text is not None and "from 1.000 after update 1 to 0.480" in text


def test_a_watched_reward_that_falls_on_held_out_prompts() -> None:
    found = evaluated([0.0, 1.0, 2.0, 3.0], watch=[0.0, 1.0, 0.2, 0.1])
    assert named(found) == {"heldout-fall": 3}
    text = monitors.heldout_fall(found)
    assert text is not None and text.startswith("gold on the held-out prompts fell from 1.000")


def test_between_evaluations_and_without_an_error_nothing_is_known() -> None:
    rows = evaluated([1.0, 0.4, 0.4])
    assert monitors.heldout_fall([*rows, replace(history(1)[0], update=3)]) is None
    unknown = HeldOutFigure(0.0, nan)
    last = rows[-1].heldout
    assert last is not None
    unknown_now = replace(rows[1], heldout=replace(last, reward=unknown))
    assert monitors.heldout_fall([rows[0], unknown_now]) is None
