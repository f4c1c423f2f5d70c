"""The reference is the one that was named: set-ups in which another model could take its place.

In each, the KL at the start is computed once more by transformers and peft alone, on the tokens
that the run sampled. It agrees with the run's, and not with the KL to any model that might be taken
by mistake (the base without its adapter, an ingredient in place of the soup, other mixing weights,
the model before it was rounded). Or the run is refused, with its reason.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli import soup
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.records import read_rows
from salsa_cli.rl import learning
from salsa_cli.rl.learning import LearningMetrics
from salsa_cli.runs.events import silent
from tests.support import oracle, tiny
from tests.support.adapters import DOWN, AdapterWorld, Q, save_adapter
from tests.support.ppo_runs import configure, run
from tests.support.worlds import World

EXACT = 2e-5
"""Nats an answer: rounding of float32 logits over six tokens. Mistakes are ten times that."""


@dataclass(frozen=True)
class Setup:
    """A run, by the names of its models, and what it should compute.

    Attributes:
        ref: values of `--ref`, with names in braces for folders.
        policy: of `--policy`; empty for the default.
        start: the model that the policy is at the start.
        expected: the models of the references: a name, or a mixture `a=0.5,b=0.5`.
        mistaken: models whose KL must be another one.
        options: further settings.
    """

    ref: tuple[str, ...]
    start: str
    expected: tuple[str, ...]
    mistaken: tuple[str, ...] = ()
    policy: str = ""
    options: dict[str, Any] = field(default_factory=dict)


HALVES, QUARTERS = "a=0.5,b=0.5", "a=0.75,b=0.25"
LORA = "la=0.5,lb=0.5"

SETUPS: dict[str, Setup] = {
    # whole models
    "a soup": Setup(("{soup}",), "a", (HALVES,), ("a", "b")),
    "a soup, the policy its other ingredient": Setup(
        ("{soup}",), "b", (HALVES,), ("a", "b"), policy="b"
    ),
    "a soup as the policy, too": Setup(("{soup}",), "soup", (HALVES,), ("a", "b"), policy="soup"),
    "a soup whose ingredient is gone": Setup(
        ("{orphan}",), "a", ("c=0.5,b=0.5",), ("a", "b", HALVES), policy="a"
    ),
    "a soup at 0.25": Setup(("{quarter}",), "a", (QUARTERS,), ("a", HALVES, "a=0.25,b=0.75")),
    "a recipe": Setup(("soup({a},{b},alpha=0.5)",), "a", (HALVES,), ("a", "b")),
    "a recipe at 0.25": Setup(
        ("soup({a},{b},alpha=0.25)",), "a", (QUARTERS,), ("a", HALVES, "a=0.25,b=0.75")
    ),
    "a recipe by weights": Setup(
        ("soup({a},{b},weights=0.25,0.75)",), "a", ("a=0.25,b=0.75",), ("b", HALVES, QUARTERS)
    ),
    "a recipe of three": Setup(
        ("soup({a},{b},{c},weights=0.5,0.3,0.2)",),
        "a",
        ("a=0.5,b=0.3,c=0.2",),
        (HALVES, "a=0.5,b=0.2,c=0.3"),
    ),
    "a recipe of a soup": Setup(
        ("soup({soup},{c},alpha=0.5)",), "a", ("a=0.25,b=0.25,c=0.5",), (HALVES, "c"), policy="a"
    ),
    "a plain model, also the start": Setup(("{b}",), "b", ("b",), ("a", HALVES)),
    "a plain model": Setup(("{b}",), "a", ("b",), ("a", HALVES), policy="a"),
    "a link to a model": Setup(("{link}",), "a", ("b",), ("a",), policy="a"),
    # how a model is stored, and what its configuration says
    "stored in bfloat16": Setup(("{bf16}",), "a", ("bf16",), (HALVES,), policy="a"),
    "stored in float16": Setup(("{fp16}",), "a", ("fp16",), ("bf16",), policy="a"),
    "a policy stored in bfloat16": Setup(("{soup}",), "a16", (HALVES,), ("a16",), policy="a16"),
    "stored in shards": Setup(("{sharded}",), "a", ("b",), ("a",), policy="a"),
    "stored in .bin": Setup(("{bin}",), "a", ("b",), ("a",), policy="a"),
    "tied embeddings": Setup(("{tied}",), "a", ("tied",), ("a", "b"), policy="a"),
    "dropout in its configuration": Setup(("{dropout}",), "a", ("b",), ("a",), policy="a"),
    "dropout in the policy's": Setup(("{soup}",), "b", (HALVES,), ("a",), policy="dropout"),
    "a temperature in its generation config": Setup(("{warm}",), "a", ("b",), ("a",), policy="a"),
    # adapters
    "an adapter, also the start": Setup(("{la}",), "la", ("la",), ("base", "lb")),
    "the base of the policy's adapter": Setup(("{base}",), "la", ("base",), ("la",), policy="la"),
    "another adapter of the base": Setup(("{lb}",), "la", ("lb",), ("base", "la"), policy="la"),
    "an adapter, the policy its base": Setup(("{la}",), "base", ("la",), ("base",), policy="base"),
    "a soup of adapters": Setup(("{lsoup}",), "la", (LORA,), ("base", "la", "lb")),
    "a recipe of adapters": Setup(("soup({la},{lb},alpha=0.5)",), "la", (LORA,), ("base", "lb")),
    "a recipe of adapters at 0.25": Setup(
        ("soup({la},{lb},alpha=0.25)",), "la", ("la=0.75,lb=0.25",), (LORA, "la=0.25,lb=0.75")
    ),
    "a merged adapter": Setup(("{merged}",), "lb", ("la",), ("base", "lb"), policy="lb"),
    "the adapter of a merged policy": Setup(
        ("{la}",), "merged", ("la",), ("base",), policy="merged"
    ),
    "an adapter of another base": Setup(("{lc}",), "la", ("lc",), ("base", "c"), policy="la"),
    "an adapter scaled by the root of its rank": Setup(
        ("{rs}",), "la", ("rs",), ("base", "plain_rs"), policy="la"
    ),
    # new adapters, on the backbone of others
    "a new adapter on the reference": Setup(
        ("{b}",), "b", ("b",), ("a",), options={"lora_rank": 2}
    ),
    "a new adapter, the soup another model": Setup(
        ("{soup}",), "a", (HALVES,), ("a", "b"), options={"lora_rank": 2}
    ),
    "a new adapter on an adapter's base": Setup(
        ("{la}",), "base", ("la",), ("base",), policy="base", options={"lora_rank": 2}
    ),
    # several, moving, and computed in other ways
    "two references": Setup(
        ("{soup}", "{b}"), "a", (HALVES, "b"), (HALVES, "b"), options={"penalty": "mean-kl"}
    ),
    "a recipe and a model": Setup(
        ("soup({a},{c},alpha=0.5)", "{b}"),
        "a",
        ("a=0.5,c=0.5", "b"),
        ("b", HALVES),
        options={"penalty": "mean-kl"},
    ),
    "two adapters": Setup(
        ("{lsoup}", "{lb}"), "la", (LORA, "lb"), (LORA, "base"), options={"penalty": "mean-kl"}
    ),
    "a moving average": Setup(
        ("{soup}",), "a", (HALVES,), ("a",), options={"ref_update": "ema", "ref_rate": 0.5}
    ),
    "a synchronised reference": Setup(
        ("{b}",), "a", ("b",), ("a",), policy="a", options={"ref_update": "sync", "ref_every": 1}
    ),
    "with a critic": Setup(
        ("{soup}",),
        "a",
        (HALVES,),
        ("a", "b"),
        options={"advantage": "gae", "samples_per_prompt": None},
    ),
    "with a critic on the adapters' backbone": Setup(
        ("{lsoup}",),
        "la",
        (LORA,),
        ("base", "la"),
        options={"advantage": "gae", "samples_per_prompt": None, "critic": "policy"},
    ),
    "the KL in the loss": Setup(
        ("{soup}",), "a", (HALVES,), ("a",), options={"kl_in": "loss", "kl_estimator": "k3"}
    ),
    "activations computed twice": Setup(
        ("{soup}",), "a", (HALVES,), ("a",), options={"gradient_checkpointing": True}
    ),
    "at temperature 0.5": Setup(("{soup}",), "a", (HALVES,), ("a",), options={"temperature": 0.5}),
    "at temperature 2": Setup(("{soup}",), "a", (HALVES,), ("a",), options={"temperature": 2.0}),
}

REFUSED: dict[str, tuple[tuple[str, ...], str, dict[str, Any], str]] = {
    "other words at the same places": (("{words}",), "a", {}, r"the vocabularies of .* differ"),
    "more tokens": (("{larger}",), "a", {}, r"logits for 24 tokens and .* for 32"),
    "another end token": (("{ends}",), "a", {}, r"eos_token: '</s>' in .*/a, '<unk>' in"),
    "a reward model": (("{rm}",), "a", {}, r"rm cannot be a language model"),
    "an adapter and a whole model in one soup": (
        ("soup({la},{b},alpha=0.5)",),
        "a",
        {},
        r"is an adapter, but not all of the models are",
    ),
    "adapters of two bases in one soup": (
        ("soup({la},{lc},alpha=0.5)",),
        "la",
        {},
        r"cannot be averaged: .*base_model_name_or_path",
    ),
    "a moving adapter": (("{la}",), "", {"ref_update": "ema"}, r"updates full weights"),
    "two references for one KL": (
        ("{a}", "{b}"),
        "a",
        {},
        r"--penalty kl takes one --ref; found 2",
    ),
}


@pytest.fixture(scope="module")
def zoo(
    world: World, adapted: AdapterWorld, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Every model by its name."""
    root = tmp_path_factory.mktemp("zoo")
    found = {
        "a": world.a,
        "b": world.b,
        "soup": world.soup,
        "rm": world.rm,
        "base": adapted.base,
        "la": adapted.a,
        "lb": adapted.b,
        "lsoup": adapted.soup,
        "c": tiny.save_language_model(root / "c", seed=3, scale=0.1),
        "tied": tiny.save_language_model(root / "tied", seed=4, tie_word_embeddings=True),
        "larger": tiny.save_language_model(root / "larger", seed=3, vocab_size=32),
    }

    def saved(name: str, model: Any, **options: Any) -> None:
        model.save_pretrained(root / name, **options)
        tiny.tokenizer().save_pretrained(root / name)
        found[name] = root / name

    def averaged(name: str, first: Path, second: Path, alpha: float) -> None:
        pair = (str(first), str(second))
        soup.run(SoupConfig(models=pair, alpha=alpha, output=root / name), silent)
        found[name] = root / name

    def edited(name: str, file: str, **changes: Any) -> None:
        found[name] = Path(shutil.copytree(world.b, root / name))
        place = found[name] / file
        place.write_text(json.dumps(json.loads(place.read_text()) | changes))

    for name, of, dtype in (
        ("bf16", world.soup, torch.bfloat16),
        ("fp16", world.soup, torch.float16),
        ("a16", world.a, torch.bfloat16),
    ):
        saved(name, AutoModelForCausalLM.from_pretrained(of, dtype=dtype))
    of_b = AutoModelForCausalLM.from_pretrained(world.b)
    saved("sharded", of_b, max_shard_size="5KB")
    saved("bin", of_b)
    (found["bin"] / "model.safetensors").unlink()
    torch.save(of_b.state_dict(), found["bin"] / "pytorch_model.bin")
    saved("merged", by_transformers("la", found))
    averaged("quarter", world.a, world.b, 0.25)
    gone = Path(shutil.copytree(found["c"], root / "gone"))
    averaged("orphan", gone, world.b, 0.5)
    shutil.rmtree(gone)
    found["link"] = root / "link"
    found["link"].symlink_to(world.b)
    edited("dropout", "config.json", attention_dropout=0.5)
    edited("warm", "generation_config.json", temperature=0.2, do_sample=True)
    for name, words in (("words", [*tiny.WORDS[:-1], "snow"]), ("ends", tiny.WORDS)):
        found[name] = Path(shutil.copytree(world.b, root / name))
        ends = {"eos_token": "<unk>"} if name == "ends" else {}
        tiny.tokenizer(words, **ends).save_pretrained(found[name])
    found["lc"] = save_adapter(root / "lc", found["c"], {Q: 3, DOWN: 2}, seed=5, lora_alpha=0.3)
    for name, scaled in (("rs", True), ("plain_rs", False)):
        found[name] = save_adapter(
            root / name, adapted.base, {Q: 4}, seed=6, lora_alpha=0.4, use_rslora=scaled
        )
    return found


def by_transformers(name: str, zoo: dict[str, Path]) -> Any:
    """A model, or the float64 average of several, by transformers and peft alone, in float32."""
    if "=" in name:
        parts = [part.split("=") for part in name.split(",")]
        models = [by_transformers(one, zoo) for one, _ in parts]
        mixed = {
            key: sum(
                float(weight) * model.state_dict()[key].double()
                for (_, weight), model in zip(parts, models, strict=True)
            ).float()
            for key in models[0].state_dict()
        }
        models[0].load_state_dict(mixed)
        return models[0]
    folder = zoo[name]
    if not (folder / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    from peft import PeftModel

    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), folder
    ).merge_and_unload()


@torch.no_grad()
def logprobs(model: Any, rollout: Rollout, temperature: float) -> list[np.ndarray]:
    """Of the tokens of each answer, without padding."""
    sampled = rollout.sampled
    found = []
    for row in range(len(sampled.finished)):
        prompt = sampled.prompts.ids[row][sampled.prompts.mask[row]].tolist()
        answer = sampled.responses.ids[row][sampled.responses.mask[row]].tolist()
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        here = logits[len(prompt) - 1 : -1].double().numpy()
        found.append(oracle.token_logprobs(here, answer, temperature))
    return found


def sampled_by(config: PPOConfig) -> Rollout:
    """Run one update; its answers."""
    taken: list[Rollout] = []
    plain = learning.learn

    def learn(update: int, rollout: Rollout, *rest: Any) -> LearningMetrics:
        taken.append(rollout)
        return plain(update, rollout, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "learn", learn)
        run(config)
    return taken[0]


def set_up(
    zoo: dict[str, Path], world: World, folder: Path, ref: tuple[str, ...], policy: str, **more: Any
) -> PPOConfig:
    options: dict[str, Any] = {
        "ref": tuple(one.format(**zoo) for one in ref),
        "policy": str(zoo[policy]) if policy else None,
        "advantage": "rloo",
        "updates": 1,
        "epochs": 1,
        "minibatches": 1,
        "anchor_every": 0,
    }
    return configure(world, folder / "policy", **{**options, **more})


@pytest.mark.parametrize("name", SETUPS)
def test_the_kl_at_the_start_is_that_of_transformers_alone(
    name: str, zoo: dict[str, Path], world: World, tmp_path: Path
) -> None:
    given = SETUPS[name]
    config = set_up(zoo, world, tmp_path, given.ref, given.policy, **given.options)
    rollout = sampled_by(config)

    def of(model: str) -> list[np.ndarray]:
        return logprobs(by_transformers(model, zoo), rollout, config.temperature)

    policy = of(given.start)

    def nats(model: str) -> float:
        pairs = zip(policy, of(model), strict=True)
        return float(np.mean([(ours - theirs).sum() for ours, theirs in pairs]))

    (row,) = read_rows(config.output / "metrics.jsonl")
    expected = float(np.mean([nats(one) for one in given.expected]))
    assert row["kl"] == pytest.approx(expected, abs=EXACT)
    for other in given.mistaken:
        assert abs(nats(other) - expected) > 10 * EXACT, other


@pytest.mark.parametrize("name", REFUSED)
def test_a_reference_that_cannot_be_meant_is_refused(
    name: str, zoo: dict[str, Path], world: World, tmp_path: Path
) -> None:
    ref, policy, options, words = REFUSED[name]
    with pytest.raises(SalsaError, match=words):
        run(set_up(zoo, world, tmp_path, ref, policy, **options))
    assert not (tmp_path / "policy").exists()


def test_there_are_forty_set_ups_and_more() -> None:
    assert len(SETUPS) + len(REFUSED) >= 40
