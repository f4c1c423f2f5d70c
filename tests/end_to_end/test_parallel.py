"""Two processes compute what one does, are killed and resume, and end together."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from salsa_cli import ppo, train_rm
from salsa_cli.devices import processes
from salsa_cli.records import read_json, read_rows
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.agreement import close, same_metrics, same_weights, without_time
from tests.support.launched import alive, arguments, children, wait_for_rows, wait_until
from tests.support.parallel_runs import evaluated_config, lora_config, rm_config

pytestmark = pytest.mark.long

GOLD = """
def score(prompts, answers):
    # Depends on the whole batch and its order.
    longest = max(map(len, answers))
    return [len(answer) / longest + place / 10 for place, answer in enumerate(answers)]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world, with the runs of one process and of two in it."""
    root = tmp_path_factory.mktemp("parallel")
    tiny.save_language_model(root / "a", seed=1, scale=0.1)
    tiny.save_language_model(root / "b", seed=2, scale=0.1)
    tiny.save_reward_model(root / "rm")
    tiny.prompts(root / "prompts.jsonl")
    tiny.preferences(root / "preferences.jsonl")
    held_out = ("cat ?", "dog dog", "sun moon tree", "bird ? ?", "moon")
    tiny.write_rows(root / "eval.jsonl", [{"prompt": text} for text in held_out])
    (root / "gold.py").write_text(GOLD)
    environments = [environment for _, environment in processes._places(2)]
    command = [sys.executable, "-m", "tests.support.parallel_runs", str(root)]
    workers = [subprocess.Popen(command, env=one) for one in environments]
    ppo.run(evaluated_config(root, root / "ppo-one"), silent)
    train_rm.run(rm_config(root, root / "rm-one"), silent)
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    return root


@pytest.mark.parametrize("name", ["ppo-plain", "ppo-sharded"])
def test_two_processes_train_the_policy_of_one(folder: Path, name: str) -> None:
    same_metrics(folder / "ppo-one", folder / name)
    same_weights(folder / "ppo-one", folder / name)
    ours, theirs = (read_rows(folder / one / "samples.jsonl") for one in ("ppo-one", name))
    assert [row["answer"] for row in ours] == [row["answer"] for row in theirs]
    # One config for all: FSDP leaves no trace in the class that is saved.
    configs = [(folder / one / "config.json").read_bytes() for one in ("ppo-one", name)]
    assert configs[0] == configs[1]
    # The ratio is exactly one before anything has moved, though others made the passes.
    assert {row["ratio_error"] for row in read_rows(folder / name / "metrics.jsonl")} == {0.0}


def test_adapters_on_a_sharded_base_learn_what_they_do_in_one_process(folder: Path) -> None:
    """Policy, critic, reference, start and held-out prompts run on the shards of one base."""
    pytest.importorskip("peft", reason="peft is not installed")
    ppo.run(lora_config(folder, folder / "lora-one"), silent)
    same_metrics(folder / "lora-one", folder / "lora-sharded")
    same_weights(folder / "lora-one", folder / "lora-sharded")
    rows = read_rows(folder / "lora-sharded" / "metrics.jsonl")
    assert {row["ratio_error"] for row in rows} == {0.0}
    assert all(row["policy_grad_norm"] > 0 for row in rows) and "heldout" in rows[-1]


@pytest.mark.parametrize("name", ["ppo-plain", "ppo-sharded"])
def test_two_processes_write_the_snapshots_and_the_best_policy_of_one(
    folder: Path, name: str
) -> None:
    one, two = folder / "ppo-one", folder / name
    kept = [read_json(run / "best" / "best.json") for run in (one, two)]
    assert kept[1] == {key: kept[0][key] for key in ("update", "by")} | {
        key: close(kept[0][key]) for key in ("value", "standard_error")
    }
    for place in ("snapshots/000003", "snapshots/000006", "best"):
        assert (two / place / "tokenizer.json").exists()
        same_weights(one / place, two / place)
    last, policy = (path / "model.safetensors" for path in (two / "snapshots" / "000006", two))
    assert last.read_bytes() == policy.read_bytes()
    rows = read_rows(two / "metrics.jsonl")
    assert [row["update"] for row in rows if "heldout" in row] == [3, 6]
    assert rows[2]["heldout"]["prompts"] == 5


@pytest.mark.parametrize("name", ["rm-plain", "rm-sharded"])
def test_two_processes_train_the_reward_model_of_one(folder: Path, name: str) -> None:
    # How much padding is computed depends on who computes which pairs.
    same_metrics(folder / "rm-one", folder / name, besides={"padding"})
    for member in "01":
        same_weights(folder / "rm-one" / member, folder / name / member)
        ours, theirs = (
            read_rows(folder / one / member / "eval_scores.jsonl") for one in ("rm-one", name)
        )
        for row, other in zip(ours, theirs, strict=True):
            assert other == {**row, **{k: close(row[k]) for k in ("chosen", "rejected")}}


@pytest.mark.slow
def test_a_killed_run_resumes_with_two_to_the_same_bits_and_with_one_to_the_same_figures(
    folder: Path,
) -> None:
    output = folder / "ppo-killed"
    run = start(folder, output)
    wait_for_rows(output, 3, run)
    workers = children(run.pid)
    assert len(workers) == 2
    for pid in (run.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    run.wait()
    partial = output.with_name("ppo-killed.partial")
    wait_until(lambda: not any(alive(pid) for pid in workers))
    shutil.copytree(partial, folder / "ppo-alone.partial")
    resumed = start(folder, output, "--resume")
    ppo.run(evaluated_config(folder, folder / "ppo-alone", resume=True), silent)
    same_metrics(folder / "ppo-one", folder / "ppo-alone")
    same_weights(folder / "ppo-one", folder / "ppo-alone")
    assert resumed.wait(timeout=120) == 0
    ours, theirs = (without_time(folder / one) for one in ("ppo-plain", "ppo-killed"))
    assert ours == theirs
    for name in ("model.safetensors", "samples.jsonl"):
        assert (folder / "ppo-plain" / name).read_bytes() == (output / name).read_bytes()


def test_sigterm_at_one_process_ends_all_after_the_same_update(folder: Path) -> None:
    output = folder / "ppo-stopped"
    run = start(folder, output, "--updates", "500")
    wait_for_rows(output, 1, run)
    workers = children(run.pid)
    os.kill(workers[1], signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143, said
    assert "continue it with --resume" in said
    assert said.count("error:") == 1 and "Traceback" not in said
    assert not any(alive(pid) for pid in workers)


@pytest.mark.slow
def test_what_one_process_alone_meets_is_said_once_and_ends_all(folder: Path) -> None:
    """The reward's file is a place for a trap, since every process imports it."""
    (folder / "trap.py").write_text(
        "import os\n"
        "from salsa_cli.rl import learning\n"
        "def score(prompts, answers):\n"
        "    return [0.0] * len(answers)\n"
        "def learn(*given):\n"
        "    raise MemoryError('no room')\n"
        "if os.environ['RANK'] == '1':\n"
        "    learning.learn = learn\n"
    )
    run = start(folder, folder / "ppo-trapped", "--reward", f"{folder / 'trap.py'}:score")
    wait_until(lambda: len(children(run.pid)) == 2)
    workers = children(run.pid)
    out, said = run.communicate(timeout=60)
    assert (run.returncode, out) == (1, "")
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert errors == [
        "error: process 1: out of memory (no room); try a smaller --batch-size or a shorter length",
        "error: another process of this run has exited",
    ]
    assert "Traceback" not in said
    assert not list(folder.glob("ppo-trapped*"))
    assert not any(alive(pid) for pid in workers)


# ------------------------------------------------------------------------------------- helpers


def start(folder: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """`salsa ppo --processes 2` with the settings of `evaluated_config`."""
    options = [*arguments(evaluated_config(folder, output)), "--processes", "2", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "salsa_cli", "ppo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
