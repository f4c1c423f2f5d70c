"""The cache of fixed size, and that its decode step is one graph; without a GPU."""

from collections.abc import Callable

import pytest
import torch
from kinds import PROMPTS, hybrid, llama, naive, numbers, policy, recurrent, sliding, told

from salsa_cli.errors import SalsaError
from salsa_cli.generation import choice, compiled
from salsa_cli.passes import Module


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("make", [llama, sliding, hybrid])
def test_answers_are_those_of_a_loop_without_cache_or_batch(
    make: Callable[[], Module], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_compiled", lambda model: model)
    model, uniforms = policy(make), numbers(len(PROMPTS))
    assert compiled.suits(model.model)
    answers = told(compiled.generate(model, PROMPTS, uniforms, temperature))
    assert answers == naive(model.model, PROMPTS, uniforms, temperature)


def test_one_graph_serves_every_token_and_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    def traced(model: Module) -> Callable[..., object]:
        return torch.compile(model.__call__, backend=backend, fullgraph=True)

    monkeypatch.setattr(compiled, "_compiled", traced)
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    torch._dynamo.reset()
    answers = told(compiled.generate(model, PROMPTS, uniforms, 0.7))
    assert answers == naive(model.model, PROMPTS, uniforms, 0.7)
    shorter = [prompt[:4] for prompt in PROMPTS]
    compiled.generate(model, shorter, uniforms, 0.7)
    assert len(graphs) == 1


def test_it_stops_when_all_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_compiled", lambda model: model)
    model = policy(llama)
    uniforms = numbers(len(PROMPTS), 400)[:, :400]
    longest = max(map(len, naive(model.model, PROMPTS, uniforms[:, :50], 1.5)))
    assert longest < 50
    ids = compiled.generate(model, PROMPTS, uniforms[:, :56], 1.5)
    assert longest <= ids.shape[1] < longest + compiled.loop.CHECK_EVERY


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SalsaError, match="--generator compiled needs a CUDA device, and this is"):
        choice.check("compiled", torch.device("cpu"))
    for name in ("loop", "paged"):
        choice.check(name, torch.device("cpu"))
    with pytest.raises(SalsaError, match="--generator compiled cannot drive a MambaForCausalLM"):
        choice.choose("compiled", policy(recurrent).model)
    with pytest.raises(SalsaError, match="--generator paged cannot drive a MambaForCausalLM"):
        choice.choose("paged", policy(recurrent).model)
