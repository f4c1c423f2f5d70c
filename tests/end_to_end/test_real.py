"""The whole chain on a real pretrained model: two SFTs, soup, reward model, PPO, evaluation.

The model is stories260k (Karpathy, llama2.c), whose traps its folder's README lists: it ends
stories with `<s>`, pads with `<unk>`, has no chat template and drops leading blanks.
"""

import importlib.util
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from salsa_cli import evaluate, ppo, soup, train_rm
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.generation import rollouts
from salsa_cli.models import loading, tokenization
from salsa_cli.models.backbones import Placement
from salsa_cli.records import read_rows
from salsa_cli.runs.events import silent
from tests.support import tiny

EXAMPLES = Path(__file__).parents[2] / "examples"
LENGTH = 56

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Chain:
    """What the chain made."""

    a: Path
    b: Path
    soup: Path
    rm: train_rm.TrainRMResult
    policy: Path
    run: ppo.PPOResult
    prompts: Path


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def short_stories(source: Path, target: Path) -> list[str]:
    """The next two sentences after each prompt, where they are short; returns the prompts."""
    rows = []
    for row in read_rows(source):
        sentences = re.split(r"(?<=[.!?])\s+", row["completion"].strip())
        completion = " " + " ".join(sentences[:2])
        if len(completion) < 110 and len(row["prompt"]) < 80:
            rows.append({"prompt": row["prompt"], "completion": completion})
    tiny.write_rows(target, rows)
    return [row["prompt"] for row in rows]


def fine_tune(model: Path, data: Path, seed: int, output: Path) -> Path:
    command = [sys.executable, EXAMPLES / "sft.py", model, "--data", data, "-o", output]
    options = ["--seed", seed, "--share", f"{seed}/2", "--epochs", 4, "--learning-rate", 3e-3]
    subprocess.run([*map(str, [*command, *options])], check=True, capture_output=True)
    return output


def label(sft: Path, prompts: list[str], output: Path) -> Path:
    """Two sampled answers per prompt, in the order that the gold reward gives them."""
    gold = example("gold")
    cpu = start_runtime("cpu")
    policy = loading.load_language_model(sft, Placement(torch.float32, cpu.device))
    rows = []
    for start in range(0, 1200, 100):
        chosen = [prompts[i % len(prompts)] for i in range(start, start + 100) for _ in range(2)]
        sampled = rollouts.sample(
            policy,
            [tokenization.prompt_ids(policy.tokenizer, prompt) for prompt in chosen],
            list(range(2 * start, 2 * start + 200)),
            length=LENGTH,
            temperature=1.0,
            runtime=cpu,
        )
        answers = rollouts.texts(policy, sampled)
        for i in range(0, 200, 2):
            pair = sorted(answers[i : i + 2], key=lambda one: gold.reward(chosen[i], one.text))
            worse, better = (gold.reward(chosen[i], one.text) for one in pair)
            if better > worse and all(one.text.strip() for one in pair):
                row = {"prompt": chosen[i], "chosen": pair[1].text, "rejected": pair[0].text}
                row |= {"chosen_finished": pair[1].finished, "rejected_finished": pair[0].finished}
                rows.append(row)
    return tiny.write_rows(output, rows)


@pytest.fixture(scope="module")
def chain(
    stories_model: Path, stories_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    root = tmp_path_factory.mktemp("real")
    data = root / "sft.jsonl"
    prompts = short_stories(stories_data / "prompt_completion_train.jsonl", data)
    prompt_file = tiny.write_rows(root / "prompts.jsonl", [{"prompt": p} for p in prompts])
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda s: fine_tune(stories_model, data, s, root / f"sft-{s}"), (1, 2))
    soup.run(SoupConfig(models=(str(a), str(b)), alpha=0.5, output=root / "ref"), silent)
    pairs = label(a, prompts, root / "prefs.jsonl")
    rm = train_rm.run(
        TrainRMConfig(
            model=str(a),
            data=str(pairs),
            output=root / "rm",
            epochs=2,
            learning_rate=1e-3,
            device="cpu",
        ),
        silent,
    )
    run = ppo.run(
        PPOConfig(
            ref=(str(root / "ref"),),
            reward=(str(root / "rm"),),
            prompts=str(prompt_file),
            output=root / "policy",
            updates=16,
            response_length=LENGTH,
            learning_rate=8e-4,
            critic_learning_rate=1e-3,
            lam=1.0,
            schedule="constant",
            device="cpu",
        ),
        silent,
    )
    assert isinstance(rm, train_rm.TrainRMResult) and isinstance(run, ppo.PPOResult)
    return Chain(a, b, root / "ref", rm, root / "policy", run, prompt_file)


def test_the_soup_is_the_float64_average_of_every_tensor(chain: Chain) -> None:
    a, b, mixed = (load_file(f / "model.safetensors") for f in (chain.a, chain.b, chain.soup))
    assert mixed.keys() == a.keys() == b.keys()
    for name in a:
        expected = 0.5 * a[name].double().numpy() + 0.5 * b[name].double().numpy()
        assert np.array_equal(mixed[name].numpy(), expected.astype(np.float32)), name


def test_the_soup_generates(chain: Chain) -> None:
    model = AutoModelForCausalLM.from_pretrained(chain.soup)
    tokenizer = AutoTokenizer.from_pretrained(chain.soup)
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=12, do_sample=False)[0])
    assert len(text) > len("<s>Once upon a time")


def test_the_reward_model_orders_unseen_pairs(chain: Chain) -> None:
    assert chain.rm.eval_accuracy > 0.7
    assert chain.rm.eval_low > 0.5


def test_the_reward_rises_by_more_than_the_spread_it_began_with(chain: Chain) -> None:
    rows = read_rows(chain.policy / "metrics.jsonl")
    first, last = rows[0], rows[-1]
    assert last["reward"] - first["reward"] > first["reward_std"]
    assert last["objective"] > first["objective"]
    # The policy starts at an ingredient, so it is away from the soup from the first update on.
    assert first["kl"] > 0
    assert {row["ratio_error"] for row in rows} == {0.0}


def test_where_the_policy_went(chain: Chain, tmp_path: Path) -> None:
    result = evaluate.run(
        EvalConfig(
            models=(str(chain.policy), str(chain.soup)),
            prompts=str(chain.prompts),
            judge=(f"rm:{chain.policy.parent / 'rm'}",),
            anchors=(str(chain.a), str(chain.b), str(chain.soup)),
            line=(str(chain.a), str(chain.b)),
            points=3,
            max_prompts=50,
            response_length=LENGTH,
            output=tmp_path / "results",
            device="cpu",
        ),
        silent,
    )
    assert isinstance(result, EvalResult)
    distance = {(row.model, row.anchor): row for row in result.kl}
    assert len(distance) == 6
    name = chain.soup.name
    assert distance[name, name].kl == 0.0
    assert distance[name, chain.a.name].low > 0.0
    # PPO held it near the soup, so one of the ingredients is farther than that. Which of them, a
    # rounding in the course of the training decides.
    policy = {row.anchor: row.kl for row in result.kl if row.model == chain.policy.name}
    assert policy[name] < max(policy[chain.a.name], policy[chain.b.name])
    (soup_score,) = [row for row in result.scores if row.model == name]
    assert result.line[1].weights == (0.5, 0.5)
    # Scored in batches of other sizes, whose sums are rounded in another order.
    assert result.line[1].score == pytest.approx(soup_score.score, abs=1e-5)


def test_the_policy_beats_its_start(chain: Chain, tmp_path: Path) -> None:
    result = evaluate.run(
        EvalConfig(
            models=(str(chain.policy), str(chain.a)),
            prompts=str(chain.prompts),
            judge=(f"rm:{chain.policy.parent / 'rm'}", f"python:{EXAMPLES / 'gold.py'}:score"),
            max_prompts=100,
            response_length=LENGTH,
            output=tmp_path / "results",
            device="cpu",
        ),
        silent,
    )
    assert isinstance(result, EvalResult)
    by_proxy, by_gold = result.pairs
    assert by_proxy.low > 0.5
    assert by_gold.n == 100
    assert json.loads((tmp_path / "results" / "results.json").read_text())["pairs"]
