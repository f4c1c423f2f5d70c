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

PROMPT, ANSWER = [3, 4, 5], [6, 7, 8, 9, 2]


@torch.no_grad()
def definition(ours: Path, theirs: Path, temperature: float) -> float:
    """Of each position of the answer: sum over the words of p (log p - log q)."""
    ids = torch.tensor([PROMPT + ANSWER])
    rows = []
    for folder in (ours, theirs):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        logits = model(ids).logits[0, len(PROMPT) - 1 : -1].double()
        rows.append(torch.log_softmax(logits / temperature, dim=-1))
    return float((rows[0].exp() * (rows[0] - rows[1])).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("stretch", [256, 2])
def test_it_is_that_of_the_definition(
    world: World, temperature: float, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_POSITIONS", stretch)
    place = Placement(torch.float32, torch.device("cpu"))
    models = [loading.load_language_model(one, place).model for one in (world.a, world.b)]
    to_b, to_itself = divergence.answer_kls(
        models[0],
        [models[1], models[0]],
        PROMPT,
        ANSWER,
        temperature=temperature,
        runtime=start_runtime("cpu"),
    )
    # float32 against float64
    assert to_b == pytest.approx(definition(world.a, world.b, temperature), rel=1e-5)
    assert to_b > 0.01 and to_itself == 0
