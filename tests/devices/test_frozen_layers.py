"""Who gathers which layers, without processes; `test_parallel.py` runs it in two."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli.devices import frozen_layers
from salsa_cli.devices.frozen_layers import FrozenLayers
from tests.support.worlds import World

LAYER = {"LlamaDecoderLayer"}


class Recorded:
    """A layer that writes down when it is gathered and freed."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self._name, self._seen = name, seen

    def unshard(self) -> None:
        self._seen.append(f"+{self._name}")

    def reshard(self) -> None:
        self._seen.append(f"-{self._name}")


def frozen(monkeypatch: pytest.MonkeyPatch, turns: list[int]) -> tuple[FrozenLayers, list[str]]:
    """Two sets of weights; `turns` is what the processes agree on, one after the other."""
    seen: list[str] = []
    layers: Any = [
        [Recorded("a0", seen), Recorded("a1", seen)],
        [Recorded("b0", seen), Recorded("b1", seen)],
    ]
    made = FrozenLayers(layers)
    monkeypatch.setattr(FrozenLayers, "_agree", lambda self, number: turns.pop(0))
    return made, seen


def test_a_process_without_passes_gathers_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [1, 2, 0]
    made, seen = frozen(monkeypatch, turns)
    made.join()
    assert seen == ["+a0", "-a0", "+a1", "-a1", "+b0", "-b0", "+b1", "-b1"]
    assert turns == []


def test_a_pass_begins_when_it_is_the_turn_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [2, 1]
    made, seen = frozen(monkeypatch, turns)
    made._announce(1)
    assert seen == ["+b0", "-b0", "+b1", "-b1"]
    assert turns == []


def test_nothing_is_agreed_on_where_nothing_is_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrozenLayers, "_agree", None)
    FrozenLayers().join()


def test_only_the_layers_lose_their_storage(world: World) -> None:
    model = AutoModelForCausalLM.from_pretrained(world.a)
    names = frozen_layers.layer_parameters(model, LAYER)
    whole = [name for name, _ in model.named_parameters() if not name.startswith("model.layers.")]
    assert whole == ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    assert set(names) == dict(model.named_parameters()).keys() - set(whole)
    assert not frozen_layers.is_sharded(model)
    frozen_layers.without_storage(model, LAYER)
    meta = {name for name, one in model.named_parameters() if one.is_meta}
    assert meta == set(names)
    assert not any(one.requires_grad for one in model.parameters() if one.is_meta)
    assert model.lm_head.weight.device == torch.device("cpu")
