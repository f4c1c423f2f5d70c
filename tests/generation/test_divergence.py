"""The exact KL along an answer, against its definition in float64."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli.devices.runtime import start_runtime
from salsa_cli.generation import divergence
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from tests.support.worlds import World

PROMPTS = [[3, 4, 5], [9], [8, 7, 6, 5]]
ANSWERS = [[6, 7, 8, 9, 2], [4, 2], [3, 3, 3]]


@torch.no_grad()
def definition(
    ours: Path, theirs: Path, prompt: list[int], answer: list[int], temperature: float
) -> float:
    """Of each position of the answer: sum over the words of p (log p - log q)."""
    ids = torch.tensor([prompt + answer])
    rows = []
    for folder in (ours, theirs):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        logits = model(ids).logits[0, len(prompt) - 1 : -1].double()
        rows.append(torch.log_softmax(logits / temperature, dim=-1))
    return float((rows[0].exp() * (rows[0] - rows[1])).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("stretch", [256, 6, 2])
def test_it_is_that_of_the_definition(
    world: World, temperature: float, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_POSITIONS", stretch)
    place = Placement(torch.float32, torch.device("cpu"))
    models = [loading.load_language_model(one, place).model for one in (world.a, world.b)]
    found = divergence.answer_kls(
        models[0],
        [models[1], models[0]],
        PROMPTS,
        ANSWERS,
        temperature=temperature,
        runtime=start_runtime("cpu"),
    )
    expected = [
        definition(world.a, world.b, prompt, answer, temperature)
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    # float32 against float64
    assert found[:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0.001
    assert found[:, 1].tolist() == [0, 0, 0]


def test_a_pass_holds_answers_of_similar_lengths_and_each_once() -> None:
    lengths = [3, 300, 5, 600, 250, 4, 512]
    passes = list(divergence.passes([[1] * length for length in lengths]))
    assert passes == [[3], [6], [1], [4, 2], [5, 0]]
    assert list(divergence.passes([])) == []
