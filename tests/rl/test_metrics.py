"""The row of an update: what it holds, and that it comes back from JSON."""

import json
from dataclasses import fields, replace
from math import isnan, nan

import pytest

from salsa_cli.records import to_json
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from tests.support.histories import START


def through_json(given: UpdateMetrics) -> UpdateMetrics:
    return UpdateMetrics.of(json.loads(to_json(given.row())))


def test_a_row_comes_back_as_it_was() -> None:
    given = replace(START, rewards={"a": 1.0, "b": -1.0}, kl_anchors={"start": 0.5})
    assert through_json(given) == given
    assert through_json(replace(given, reference_end=None)).reference_end is None


def test_figures_of_a_sampler_and_of_held_out_prompts_are_in_the_row_only_if_measured() -> None:
    names = {field.name for field in fields(UpdateMetrics)}
    sampler = {name for name in names if name.startswith("sampler_")}
    tempered = {"temperature", "kl_at_temperature_1"}
    groups = {"groups", "equal_groups"}
    held_out = {"heldout", "heldout_start"}
    assert set(START.row()) == names - sampler - tempered - groups - held_out
    served = replace(START, sampler_mismatch=0.01, sampler_truncated=0.0)
    assert set(served.row()) == names - tempered - groups - held_out
    served = replace(served, temperature=0.7, kl_at_temperature_1={"start": 1.0})
    assert set(served.row()) == names - groups - held_out
    one = HeldOutFigure(0.5, 0.1)
    found = HeldOutMetrics(8, one, {}, {"gold": one}, {"start": one}, None, one, one)
    served = replace(served, heldout=found, heldout_start=found)
    assert set(served.row()) == names - groups
    assert through_json(served) == served


def test_figures_of_a_critic_are_in_the_row_only_if_there_was_one() -> None:
    of_the_critic = {"explained_variance", "mean_return", "value_loss", "value_clip_share"}
    of_the_critic |= {"critic_grad_norm"}
    compared = replace(START, **dict.fromkeys(of_the_critic), groups=16, equal_groups=3)
    assert not of_the_critic & set(compared.row())
    assert compared.row()["equal_groups"] == 3
    assert compared.equal_share == 3 / 16 and START.equal_share is None
    assert through_json(compared) == compared
    # One that was not finite is still a figure.
    assert isnan(through_json(replace(START, value_loss=nan)).value_loss or 0.0)


def test_what_was_not_finite_is_nan_again_and_not_absent() -> None:
    found = through_json(replace(START, kl=nan, policy_grad_norm=float("inf")))
    assert isnan(found.kl) and isnan(found.policy_grad_norm)
    assert found.reward == START.reward


def test_speed_is_over_the_whole_update() -> None:
    given = replace(START, tokens=2560, time={"rollout": 1.0, "learning": 0.6})
    assert given.tokens_per_second == pytest.approx(1600)
