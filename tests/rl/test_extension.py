"""A finished run with more updates is the run that had so many from the start."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.record import record
from salsa_cli.errors import SalsaError
from salsa_cli.rl import extension
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import silent
from salsa_cli.weights import folders
from tests.support.ppo_runs import configure, rows_without_time, run, stopping_at
from tests.support.worlds import World

CHANGES: dict[str, Any] = {"schedule": "constant", "anchor_every": 1, "keep_checkpoints": 1}
"""Anchors in every update: else the last update alone of the shorter run would measure them."""


@pytest.fixture(scope="module")
def long(world: World, tmp_path_factory: pytest.TempPathFactory) -> PPOConfig:
    config = configure(world, tmp_path_factory.mktemp("long") / "policy", **CHANGES)
    config = replace(config, updates=5, ref_update="ema", kl_target=4.0)
    run(config)
    return config


@pytest.fixture
def short(long: PPOConfig, tmp_path: Path) -> PPOConfig:
    config = replace(long, updates=3, output=tmp_path / "policy")
    run(config)
    return config


def test_extended_it_is_the_longer_run(long: PPOConfig, short: PPOConfig) -> None:
    longer = replace(short, resume=True, updates=5)
    dry = ppo.run(replace(longer, dry_run=True), silent).record()
    assert dry["resumes_after_update"] == 3 and short.output.exists()
    result = run(longer)
    assert result.updates == 5
    assert rows_without_time(short.output) == rows_without_time(long.output)
    for name in ("samples.jsonl", "model.safetensors"):
        assert (short.output / name).read_bytes() == (long.output / name).read_bytes()
    made = json.loads((short.output / "salsa.json").read_text())
    assert made["settings"]["updates"] == made["result"]["updates"] == 5
    assert not run_folder.partial_folder(short.output).exists()


def test_stopped_while_it_is_extended_it_resumes(long: PPOConfig, short: PPOConfig) -> None:
    longer = replace(short, resume=True, updates=5)
    with pytest.raises(KeyboardInterrupt, match="continue it with --resume"):
        ppo.run(longer, stopping_at(4))  # before the first checkpoint of the extension
    assert not short.output.exists()
    run(longer)
    assert rows_without_time(short.output) == rows_without_time(long.output)


def test_fewer_updates_or_other_settings_are_refused(short: PPOConfig) -> None:
    for changes, found in (
        ({"updates": 2}, "updates was 3, is 2"),
        ({"updates": 5, "clip": 0.1}, "clip was 0.2, is 0.1"),
    ):
        with pytest.raises(SalsaError, match=found):
            run(replace(short, resume=True, **changes))
    assert short.output.exists()


def test_other_inputs_are_refused_before_the_folder_is_renamed(
    short: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_settings_digest", lambda folder: "another")
    with pytest.raises(SalsaError, match="other inputs"):
        run(replace(short, resume=True, updates=5))
    assert short.output.exists()
    assert not run_folder.partial_folder(short.output).exists()


def test_a_run_without_a_checkpoint_is_refused(short: PPOConfig) -> None:
    (short.output / "checkpoints" / "000003.pt").unlink()
    with pytest.raises(SalsaError, match=r"has no checkpoint.*--keep-checkpoints"):
        run(replace(short, resume=True, updates=5))


def test_what_is_in_the_way_is_left_alone(short: PPOConfig) -> None:
    run_folder.partial_folder(short.output).mkdir()
    with pytest.raises(SalsaError, match=r"policy\.partial already exists"):
        run(replace(short, resume=True, updates=5))
    assert short.output.exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schedule": "linear"}, "--schedule linear decays to 0"),
        ({"schedule": "constant", "warmup": 0.5}, "--warmup 0.5 is a share"),
    ],
)
def test_a_rate_that_depends_on_the_number_of_updates_is_refused(
    world: World, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    config = configure(world, tmp_path / "policy", **changes)
    with pytest.raises(SalsaError, match=why):
        extension.with_more_updates({**record(config), "updates": 3}, replace(config, updates=9))


def test_a_rise_that_both_runs_round_to_nothing_is_none(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", schedule="constant", warmup=0.05)
    before = {**record(config), "updates": 3}
    assert extension.with_more_updates(before, replace(config, updates=9))["updates"] == 9
    # 0.05 of 40 updates is a rise over two of them, which the three did not make.
    with pytest.raises(SalsaError, match="--warmup"):
        extension.with_more_updates(before, replace(config, updates=40))
