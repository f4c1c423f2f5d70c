"""Snapshots: model folders of the policy at some updates, which change nothing of the run."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.adapters import AdapterWorld
from tests.support.ppo_runs import (
    configure,
    configure_adapted,
    rows_without_time,
    run,
    stopping_at,
)
from tests.support.worlds import World

MODEL = "model.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def trace(folder: Path) -> tuple[object, bytes, bytes]:
    """All that two equal runs share."""
    samples = (folder / "samples.jsonl").read_bytes()
    return rows_without_time(folder), samples, (folder / MODEL).read_bytes()


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start that is trained in float32 and stored in bfloat16."""
    folder = tiny.save_language_model(tmp_path_factory.mktemp("start") / "a", seed=1, scale=0.1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(world: World, bfloat16: Path, tmp_path_factory: pytest.TempPathFactory) -> PPOConfig:
    """A run without snapshots."""
    output = tmp_path_factory.mktemp("plain") / "policy"
    config = configure(world, output, policy=str(bfloat16), schedule="constant")
    run(config)
    return config


@pytest.fixture(scope="module")
def snapped(plain: PPOConfig, tmp_path_factory: pytest.TempPathFactory) -> PPOConfig:
    """The same run with snapshots."""
    output = tmp_path_factory.mktemp("snapped") / "policy"
    config = replace(plain, output=output, snapshot_every=2)
    run(config)
    return config


def test_a_run_with_snapshots_is_the_run_without(plain: PPOConfig, snapped: PPOConfig) -> None:
    assert trace(snapped.output) == trace(plain.output)
    assert names(snapped.output / "snapshots") == ["000002", "000004"]


def test_a_snapshot_is_the_policy_that_a_run_of_so_many_updates_ends_with(
    plain: PPOConfig, snapped: PPOConfig, tmp_path: Path
) -> None:
    short = replace(plain, output=tmp_path / "short", updates=2)
    run(short)
    for alone, update in ((short.output, "000002"), (plain.output, "000004")):
        taken = snapped.output / "snapshots" / update
        for name in (MODEL, "config.json", "tokenizer.json"):
            assert (taken / name).read_bytes() == (alone / name).read_bytes(), name


def test_a_snapshot_is_an_ordinary_folder(snapped: PPOConfig) -> None:
    folder = snapped.output / "snapshots" / "000002"
    ids = AutoTokenizer.from_pretrained(folder)("the cat", return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generate(ids, max_new_tokens=3).shape[1] > ids.shape[1]
    assert not [name for name in names(folder) if not name.endswith((".json", ".safetensors"))]
    assert not (folder / "salsa.json").exists()


def test_a_finished_run_keeps_its_snapshots_and_drops_its_checkpoints(
    snapped: PPOConfig, tmp_path: Path
) -> None:
    assert not (snapped.output / "checkpoints").exists()
    made = json.loads((snapped.output / "salsa.json").read_text())
    assert made["settings"]["snapshot_every"] == 2 and made["snapshots"] == [2, 4]
    kept = replace(snapped, output=tmp_path / "kept", keep_checkpoints=1)
    run(kept)
    assert names(kept.output / "checkpoints") == ["000004.pt"]


def test_a_run_that_cannot_take_its_name_keeps_its_checkpoint(
    plain: PPOConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at the very end: until then the checkpoint is all that there is to resume from."""

    def full(folder: Path, output: Path) -> None:
        raise SalsaError("the disk is full")

    config = replace(plain, output=tmp_path / "policy")
    with monkeypatch.context() as patch, pytest.raises(SalsaError, match="the disk is full"):
        patch.setattr(run_folder, "publish", full)
        run(config)
    assert names(tmp_path / "policy.partial" / "checkpoints")[-1] == "000004.pt"
    run(replace(config, resume=True))
    assert trace(config.output) == trace(plain.output)


KILLED = """
import os, signal, sys
from salsa_cli import cli
from salsa_cli.models import saving
save, calls = saving.save_policy, []
def killed(model, folder, *, like):
    save(model, folder, like=like)
    calls.append(folder)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
saving.save_policy = killed
sys.argv[0] = "salsa"
cli.main()
"""


def command(config: PPOConfig) -> list[str]:
    file = config.output.parent / "settings.json"
    settings = {
        name: getattr(config, name)
        for name in "reward prompts policy updates batch_size response_length epochs minibatches "
        "learning_rate save_every snapshot_every schedule device".split()
    }
    file.write_text(json.dumps(settings))
    return ["ppo", "--ref", *config.ref, "-o", str(config.output), "--config", str(file), "-q"]


def test_killed_while_one_is_written_it_is_whole_or_absent(
    snapped: PPOConfig, tmp_path: Path
) -> None:
    config = replace(snapped, output=tmp_path / "policy", snapshot_every=1, save_every=1)
    done = subprocess.run([sys.executable, "-c", KILLED, *command(config)], check=False)
    assert done.returncode == -signal.SIGKILL
    taken = tmp_path / "policy.partial" / "snapshots"
    assert names(taken) == ["000001", "000002.draft"]  # the second was half-made
    before = (taken / "000001" / MODEL).stat()
    run(replace(config, resume=True))
    assert names(config.output / "snapshots") == ["000001", "000002", "000003", "000004"]
    after = (config.output / "snapshots" / "000001" / MODEL).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert trace(config.output) == trace(snapped.output)
    for update in ("000002", "000004"):
        ours, theirs = (one.output / "snapshots" / update / MODEL for one in (config, snapped))
        assert ours.read_bytes() == theirs.read_bytes()


def test_resume_makes_those_again_whose_updates_it_makes_again(
    snapped: PPOConfig, tmp_path: Path
) -> None:
    config = replace(snapped, output=tmp_path / "policy", snapshot_every=1)
    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stopping_at(4))  # the checkpoint is that of update 2
    taken = tmp_path / "policy.partial" / "snapshots"
    assert names(taken) == ["000001", "000002", "000003"]
    (taken / "000003" / "of-the-lost-run").touch()
    (taken / "000002" / "kept").touch()
    run(replace(config, resume=True))
    assert "kept" in names(config.output / "snapshots" / "000002")
    assert "of-the-lost-run" not in names(config.output / "snapshots" / "000003")


def test_that_of_an_adapter_is_an_adapter(adapted: AdapterWorld, tmp_path: Path) -> None:
    config = configure_adapted(adapted, tmp_path / "policy", snapshot_every=3)
    run(config)
    taken = config.output / "snapshots" / "000003"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (taken / name).read_bytes() == (config.output / name).read_bytes()
    assert not (taken / MODEL).exists()


def test_a_new_adapter_is_merged_and_goes_on_learning(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", lora_rank=2, snapshot_every=1)
    run(config)
    plain = replace(config, output=tmp_path / "plain", snapshot_every=None)
    run(plain)
    assert trace(config.output) == trace(plain.output)
    first, last = (
        load_file(config.output / "snapshots" / name / MODEL) for name in ("000001", "000004")
    )
    assert (config.output / "snapshots" / "000004" / MODEL).read_bytes() == (
        config.output / MODEL
    ).read_bytes()
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_the_dry_run_counts_them(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", dry_run=True)
    without = ppo.run(config, silent).record()
    with_two = ppo.run(replace(config, snapshot_every=2), silent).record()
    kept = ppo.run(replace(config, keep_checkpoints=2), silent).record()
    size = sum(value.nbytes for value in load_file(world.a / MODEL).values())
    assert with_two["snapshots"] == 2 and "snapshots" not in without
    assert without["disk_when_finished"] == f"{size / 1000:.1f}kB"
    assert with_two["disk_when_finished"] == f"{3 * size / 1000:.1f}kB"
    assert kept["disk"] == without["disk"]
    assert kept["disk_when_finished"] != without["disk_when_finished"]


def test_an_interval_longer_than_the_run_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--snapshot-every 5 writes none in 4 updates"):
        configure(world, tmp_path / "policy", snapshot_every=5)
