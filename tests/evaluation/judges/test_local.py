"""A real model as judge: on this machine, and behind a real OpenAI-compatible server."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from salsa_cli import evaluate
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.records import read_rows
from salsa_cli.runs.events import silent
from tests.support import commands, tiny
from tests.support.worlds import World

LABELS = ["[[A>>B]]", "[[A>B]]", "[[A=B]]", "[[B>A]]", "[[B>>A]]"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that writes one of the five labels and ends; which one, the prompt decides.

    The first of its hidden dimensions says "the last token was a label", no layer writes to it, and
    the end token is read from it.
    """
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = tiny.tokenizer([*tiny.WORDS, *LABELS])
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        tiny.config(vocab_size=len(tokenizer), max_position_embeddings=1024, hidden_size=64)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)
        mute = [i for word, i in tokenizer.get_vocab().items() if word not in LABELS]
        model.lm_head.weight[mute] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 1000.0
        spoken = [i for word, i in tokenizer.get_vocab().items() if word in LABELS]
        model.model.embed_tokens.weight[:, 0] = 0.0
        model.model.embed_tokens.weight[spoken, 0] = 1000.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    rows = [{"prompt": " ".join(tiny.WORDS[i : i + 3])} for i in range(12)]
    made = {"prompts": tiny.write_rows(tmp_path / "p.jsonl", rows)}
    for step, name in enumerate(("x", "y")):
        answered = [
            {**row, "answer": " ".join(tiny.WORDS[(i * (step + 3)) % 15 :][:4])}
            for i, row in enumerate(rows)
        ]
        made[name] = tiny.write_rows(tmp_path / f"{name}.jsonl", answered)
    return made


def configure(files: dict[str, Path], name: str, **changes: Any) -> EvalConfig:
    settings: dict[str, Any] = {
        "answers": (f"x={files['x']}", f"y={files['y']}"),
        "prompts": str(files["prompts"]),
        "judge": (name,),
        "judge_tokens": 2,
        "output": files["prompts"].parent / "out",
        "draws": 100,
        "device": "cpu",
    }
    return EvalConfig(**{**settings, **changes})


def run(config: EvalConfig) -> tuple[EvalResult, list[dict[str, Any]]]:
    result = evaluate.run(config, silent)
    assert isinstance(result, EvalResult)
    return result, read_rows(config.output / "judgments.jsonl")


def outcomes(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["question"], row["order"], row["outcome"], row.get("strong")) for row in rows]


def test_a_local_judge(judge: Path, files: dict[str, Path]) -> None:
    config = configure(files, f"hf:{judge}")
    result, rows = run(config)
    (pair,) = result.pairs
    assert (pair.n, pair.invalid) == (12, 0)
    assert len(Counter(row.get("text") for row in rows)) > 2
    one_by_one = replace(config, batch_size=1, output=config.output.with_name("one"))
    assert run(one_by_one)[1] == rows
    turned = replace(config, answers=config.answers[::-1], output=config.output.with_name("turned"))
    assert run(turned)[0].pairs[0].win_rate == 1 - pair.win_rate


def test_a_judgement_that_is_cut_is_no_verdict(judge: Path, files: dict[str, Path]) -> None:
    config = configure(files, f"hf:{judge}", judge_tokens=1)
    with pytest.raises(SalsaError, match=r"22 of 24 .*\(22 times: cut at --judge-tokens 1\)"):
        run(config)
    # All that was missing is judged under a larger limit.
    result, rows = run(replace(config, judge_tokens=2, resume=True))
    assert (result.pairs[0].n, result.pairs[0].invalid) == (12, 0)
    whole = configure(files, f"hf:{judge}", output=config.output.with_name("whole"))
    assert rows == run(whole)[1]


def test_a_local_judge_that_samples(judge: Path, files: dict[str, Path]) -> None:
    config = configure(files, f"hf:{judge}", judge_temperature=3.0, max_invalid=1.0)
    rows = run(config)[1]
    again = replace(config, batch_size=5, output=config.output.with_name("again"))
    assert run(again)[1] == rows
    other = replace(config, seed=1, output=config.output.with_name("other"))
    assert run(other)[1] != rows


def test_a_local_judge_without_room(world: World, files: dict[str, Path]) -> None:
    with pytest.raises(
        SalsaError,
        match=(
            r"22 of 24 .*: too long: with --judge-tokens 2 it exceeds the context of 64 "
            r"tokens"
        ),
    ):
        run(configure(files, f"hf:{world.a}"))
    assert not list(files["prompts"].parent.glob("out*"))


COMMANDS = {
    "transformers": ["-m", "transformers.cli.transformers", "serve", "{model}", "--device", "cpu"],
    "vllm": [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--enforce-eager"),
        *("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "4"),
    ],
}


@contextmanager
def real_server(kind: str, model: Path) -> Iterator[str]:
    """`transformers serve` or vLLM's server, on a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [interpreter(kind), *(part.format(model=model) for part in COMMANDS[kind])]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        until = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                alive = process.poll() is None and time.monotonic() < until
                assert alive, process.communicate()[0]
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.communicate()


NEEDED = {"transformers": ("openai", "fastapi", "uvicorn"), "vllm": ("openai",)}


def interpreter(kind: str) -> str:
    """The Python that has the server; vLLM wants an environment of its own."""
    return os.environ.get("SALSA_TEST_VLLM", "") if kind == "vllm" else sys.executable


def killed_and_resumed(config: EvalConfig) -> list[dict[str, Any]]:
    """The judgements of a run that was killed after the first few, and then resumed."""
    store = config.output.with_name(config.output.name + ".partial") / "judge_texts.jsonl"
    process = commands.Command(
        *("eval", "--prompts", config.prompts, "--judge", *config.judge),
        *(part for given in config.answers for part in ("--answers", given)),
        *("--base-url", config.base_url, "--judge-tokens", config.judge_tokens),
        *("--concurrency", 1, "--draws", config.draws, "--device", "cpu", "-o", config.output),
    )
    while not (store.exists() and store.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 3 <= len(read_rows(store)) < 24
    return run(replace(config, resume=True, concurrency=1))[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_real_server_says_what_the_local_model_says(
    judge: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for package in NEEDED[kind]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the server of {kind} needs {package}")
    if not interpreter(kind):
        pytest.skip("SALSA_TEST_VLLM names no Python that has vLLM")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    # The server calls a text cut that ends with its last token.
    local = run(configure(files, f"hf:{judge}", judge_tokens=3))[1]
    with real_server(kind, judge) as url:
        config = configure(
            files,
            f"openai:{judge}",
            base_url=url,
            judge_tokens=3,
            output=files["prompts"].parent / "served",
        )
        result, served = run(config)
        resumed = killed_and_resumed(replace(config, output=config.output.with_name("killed")))
    assert (result.pairs[0].n, result.pairs[0].invalid) == (12, 0)
    assert outcomes(served) == outcomes(resumed) == outcomes(local)
