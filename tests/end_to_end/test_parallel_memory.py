"""Two processes compute what one does in every way that saves memory, and resume to the same."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from salsa_cli import ppo
from salsa_cli.devices import processes
from salsa_cli.records import read_rows
from salsa_cli.rl import offload
from salsa_cli.runs.events import silent
from tests.support import adapters, tiny
from tests.support.agreement import same_metrics, without_time
from tests.support.launched import alive, arguments, children, wait_for_rows, wait_until
from tests.support.parallel_ways import NARROW, WAYS, ppo_config

pytestmark = pytest.mark.slow

SAME = [
    "adapters+shard",
    "adapters+shard+weights",
    "adapters checkpointed+shard",
    "new adapters+shard",
    "moments",
    "moments+shard",
    "moments+shard+weights",
]
"""Ways in which nothing is rounded by the number of processes."""

NARROWED = ["narrow", "narrow+shard", "narrow moments+shard+weights"]
"""In bfloat16, each process rounds the sum of its own passes' gradients."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with and without adapters, and the runs of two processes."""
    pytest.importorskip("peft", reason="peft is not installed")
    root = tmp_path_factory.mktemp("ways")
    make_world(root)
    environments = [environment for _, environment in processes._places(2)]
    command = [sys.executable, "-m", "tests.support.parallel_ways", str(root), *SAME, *NARROWED]
    workers = [subprocess.Popen(command, env=one) for one in environments]
    assert [worker.wait(timeout=900) for worker in workers] == [0, 0]
    return root


def make_world(root: Path) -> None:
    adapters.make(root)
    tiny.save_reward_model(root / "whole-rm")
    tiny.save_language_model(root / "a-whole", seed=5, scale=0.1)
    tiny.prompts(root / "prompts.jsonl")
    held_out = ("cat ?", "dog dog", "sun moon tree", "bird ? ?", "moon")
    tiny.write_rows(root / "eval.jsonl", [{"prompt": text} for text in held_out])


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Path]:
    """The runs of one process, by way."""
    return {way: by_one(folder, way) for way in WAYS if not NARROW.items() <= WAYS[way].items()}


def by_one(folder: Path, way: str) -> Path:
    output = folder / f"{way} in one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offload, "check", lambda *given: None)
        ppo.run(ppo_config(folder, output, way), silent)
    return output


def weights(output: Path) -> dict[str, Any]:
    (file,) = output.glob("*model.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", SAME)
def test_two_processes_compute_what_one_does(
    folder: Path, alone: dict[str, Path], name: str
) -> None:
    one, two = alone[name.partition("+")[0]], folder / name
    same_metrics(one, two)
    expected, found = weights(one), weights(two)
    assert expected.keys() == found.keys()
    assert all((expected[n] - found[n]).abs().max() <= 1e-5 for n in expected)
    assert {row["ratio_error"] for row in read_rows(two / "metrics.jsonl")} == {0.0}


@pytest.mark.parametrize("name", NARROWED)
def test_narrow_weights_begin_alike_and_learn(folder: Path, name: str) -> None:
    """Before the first step, nothing is rounded stochastically: the first answers are equal."""
    rows = read_rows(folder / name / "metrics.jsonl")
    first = read_rows(folder / "narrow" / "metrics.jsonl")[0]
    for figure in ("reward", "kl", "length", "entropy"):
        assert rows[0][figure] == pytest.approx(first[figure], abs=1e-5)
    assert all(row["ratio_error"] == 0 and row["approx_kl"] > 0 for row in rows)


@pytest.mark.parametrize("way", ["adapters", "narrow"])
def test_a_killed_run_resumes_to_the_same_bits(folder: Path, way: str) -> None:
    """Once by SIGKILL to all, once by SIGTERM to one process, against a run without a stop."""
    whole = folder / f"{way} whole"
    assert start(folder, way, whole).wait(timeout=300) == 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        output = folder / f"{way} {number.name}"
        run = start(folder, way, output)
        wait_for_rows(output, 3, run)
        workers = children(run.pid)
        for pid in (run.pid, *workers) if number == signal.SIGKILL else workers[1:]:
            os.kill(pid, number)
        run.communicate(timeout=120)
        assert run.returncode in (-signal.SIGKILL, 143)
        wait_until(partial(all_ended, workers))
        resumed = start(folder, way, output, "--resume")
        assert resumed.wait(timeout=300) == 0, resumed.communicate()
        assert without_time(whole) == without_time(output)
        expected, found = weights(whole), weights(output)
        assert all(expected[name].equal(found[name]) for name in expected)


def all_ended(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


def start(folder: Path, way: str, output: Path, *more: str) -> subprocess.Popen[str]:
    """`salsa ppo --processes 2 --shard` in a way, for more updates than it takes to stop it."""
    config = ppo_config(folder, output, way, updates=8)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "salsa_cli", "ppo", *arguments(config)),
            *("--processes", "2", "--shard", *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
