"""`salsa ppo --generator vllm` with vLLM itself. See README.md for what it needs."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.records import read_rows
from tests.support import commands, tiny

PYTHON = os.environ.get("SALSA_TEST_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="SALSA_TEST_VLLM names no Python that has vLLM"),
]

SAME = 2e-5
"""Nats per token between two programs that compute in float32; one update apart it is over 1e-3."""

ROUNDED = 0.01
"""The same where the server computes in float16, with 11 bits of mantissa."""

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}


@dataclass(frozen=True)
class Files:
    """Inputs of the runs.

    Attributes:
        start: the model that is served, and that the policy starts from.
        wide: a model of another shape.
    """

    root: Path
    start: Path
    wide: Path
    rm: Path
    prompts: Path

    def command(self, url: str, output: str, *more: object) -> list[object]:
        """A run of three updates; steps so large that weights of the update before would show."""
        return [
            *("ppo", "--ref", self.start, "--reward", self.rm, "--prompts", self.prompts),
            *("--generator", "vllm", "--vllm-url", url, "--updates", 3, "--batch-size", 16),
            *("--response-length", 8, "--learning-rate", "3e-3", "--save-every", 1),
            *("--device", "cpu", "-o", self.root / output, *more),
        ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("real")
    return Files(
        root,
        tiny.save_language_model(root / "start", seed=1, hidden_size=64, **HEADS),
        tiny.save_language_model(root / "wide", seed=1, hidden_size=96, **HEADS),
        tiny.save_reward_model(root / "rm"),
        tiny.write_rows(
            root / "prompts.jsonl",
            [{"prompt": f"{a} {b}"} for a in tiny.WORDS[:6] for b in tiny.WORDS[6:10]],
        ),
    )


@contextmanager
def serving(files: Files, dtype: str, *options: str) -> Iterator[str]:
    """vLLM's server on a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = files.root / f"vllm-{dtype}.log"
    command = [
        *(PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(files.start)),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", dtype),
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", *options),
    ]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if options else "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        until = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def server(files: Files) -> Iterator[str]:
    """A server that loads adapters, in float32."""
    with serving(files, "float32", "--enable-lora", "--max-lora-rank", "8") as url:
        yield url


@pytest.fixture(scope="module")
def plain_server(files: Files) -> Iterator[str]:
    """A server in half precision and without adapters.

    bfloat16, vLLM's default, needs instructions (AVX512-BF16 or AMX) that many CPUs do not have.
    """
    with serving(files, "float16") as url:
        yield url


def rows_of(folder: Path, what: str) -> list[dict[str, Any]]:
    """The metrics of a finished run; prints its figures."""
    rows = read_rows(folder / "metrics.jsonl")
    figures = [f"{row['sampler_mismatch']:.1e}" for row in rows]
    seconds = [f"{row['time']['rollout']:.2f}" for row in rows]
    print(f"\n{what}: sampler_mismatch {', '.join(figures)}; rollout {', '.join(seconds)} s")
    return rows


def adapters_of(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as response:
        return [card["id"] for card in json.load(response)["data"] if card["parent"]]


def check(rows: list[dict[str, Any]], most: float) -> None:
    """Each update sampled from its own policy, and each one changed it."""
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert all(row["sampler_mismatch"] < most for row in rows)
    assert all(row["approx_kl"] > 1e-4 for row in rows)


def test_whole_weights_then_adapters_on_one_server(files: Files, server: str) -> None:
    """The server holds the first run's policy when the second begins."""
    for name, more in {"whole": (), "lora": ("--lora-rank", 4)}.items():
        done = commands.run(*files.command(server, name, *more))
        assert done.returncode == 0, done.stderr
        assert "merged" not in done.stderr and "computes in" not in done.stderr
        check(rows_of(files.root / name, name), SAME)
    assert len(adapters_of(server)) == 1


@pytest.mark.parametrize("more", [(), ("--lora-rank", 4)])
def test_a_run_that_was_killed_resumes(files: Files, server: str, more: tuple[object, ...]) -> None:
    output = files.root / f"killed{len(more)}"
    metrics = output.with_name(output.name + ".partial") / "metrics.jsonl"
    process = commands.Command(*files.command(server, output.name, *more))
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 1):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = adapters_of(server)
    done = commands.run(*files.command(server, output.name, *more, "--resume"))
    assert done.returncode == 0, done.stderr
    check(rows_of(output, f"resumed {more}"), SAME)
    if more:
        left = [name for name in before if name.startswith("salsa-")]
        assert left and not set(left[-1:]) & set(adapters_of(server))


def test_a_policy_of_another_shape_does_not_touch_the_server(files: Files, server: str) -> None:
    wrong = replace(files, start=files.wide).command(server, "wrong")
    for more in ((), ("--dry-run",)):
        done = commands.run(*wrong, *more)
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert "which does not fit the policy" in message, done.stderr
        assert "hidden_size is 64 (expected 96)" in message, done.stderr
    done = commands.run(*files.command(server, "right"))
    assert done.returncode == 0, done.stderr
    check(rows_of(files.root / "right", "after a refusal"), SAME)


def test_a_server_that_was_broken_by_another_client_is_to_be_restarted(
    files: Files, server: str
) -> None:
    """The last test with this server."""
    body = {"method": "reload_weights", "kwargs": {"weights_path": str(files.wide)}}
    request = urllib.request.Request(
        f"{server}/collective_rpc",
        json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=60)
    done = commands.run(*files.command(server, "broken"))
    print(done.stderr)
    assert done.returncode == 1
    assert "Restart the server, since it may hold parts of two models" in " ".join(
        done.stderr.split()
    )


def test_a_server_without_adapters_in_float16(files: Files, plain_server: str) -> None:
    done = commands.run(*files.command(plain_server, "plain", "--lora-rank", 4))
    assert done.returncode == 0, done.stderr
    message = " ".join(done.stderr.split())
    assert "computes in float16 and this run in float32" in message, done.stderr
    assert "the adapters are merged and sent to the server as full weights" in message
    assert "--enable-lora --max-lora-rank 8" in message
    check(rows_of(files.root / "plain", "float16, merged"), ROUNDED)
