"""The decode loop against one that has no cache, no padding and no batch."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from salsa_cli.generation import loop, transformers_generate
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from tests.support import tiny
from tests.support.kinds import (
    PROMPTS,
    convolutional,
    hybrid,
    learned_positions,
    llama,
    naive,
    numbers,
    policy,
    recurrent,
    sliding,
    told,
    without_positions,
)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
@pytest.mark.parametrize("make", [llama, sliding, hybrid, learned_positions])
def test_answers_are_those_of_a_loop_without_cache_or_batch(
    make: Callable[[], Module], temperature: float
) -> None:
    model = policy(make)
    assert loop.suits(model.model)
    uniforms = numbers(len(PROMPTS))
    answers = told(loop.generate(model, PROMPTS, uniforms, temperature))
    assert answers == naive(model.model, PROMPTS, uniforms, temperature)
    lengths = {len(answer) for answer in answers}
    assert temperature == 0 or len(lengths) > 2  # rows ended at different times


def test_half_precision_beside_single_is_no_other_answer() -> None:
    """Autocast gives keys in float32 and values in bfloat16."""
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = told(transformers_generate.generate(model, PROMPTS, uniforms, 0.7))
        assert told(loop.generate(model, PROMPTS, uniforms, 0.7)) == expected


@pytest.mark.parametrize("period", [3, 100])
def test_rows_that_end_between_two_looks_do_no_harm(
    period: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    expected = told(loop.generate(model, PROMPTS, uniforms, 0.7))
    monkeypatch.setattr(loop, "_period", lambda device: period)
    assert told(loop.generate(model, PROMPTS, uniforms, 0.7)) == expected


@pytest.mark.parametrize("make", [recurrent, convolutional, without_positions])
def test_other_models_are_left_to_transformers(make: Callable[[], Module]) -> None:
    model = policy(make)
    assert not loop.suits(model.model)
    uniforms = numbers(3)
    equal = [[4, 6, 9], [5, 7, 8], [6, 6, 6]]  # a recurrent model reads padding, too
    answers = told(transformers_generate.generate(model, equal, uniforms, 0.7))
    assert answers == naive(model.model, equal, uniforms, 0.7)


def test_rows_leave_when_they_end() -> None:
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    sizes: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    answers = told(loop.generate(model, PROMPTS, uniforms, 0.7))
    hook.remove()
    longest = max(len(answer) for answer in answers)
    # Prompts of 9 and 5 tokens, of 3 and 2, of 1: nobody is padded to twice its length.
    assert sizes[:3] == [2, 2, 2]
    decoded = [sum(len(answer) > step for answer in answers) for step in range(1, longest)]
    assert sizes[3:] == decoded


def test_one_token_takes_one_pass() -> None:
    model = policy(llama)
    ids = loop.generate(model, [[4, 6]], numbers(1, 1), 0.7)
    assert ids.shape == (1, 1)
    assert told(ids) == naive(model.model, [[4, 6]], numbers(1, 1), 0.7)


class _Memory(TorchDispatchMode):
    """The largest tensor that is made, in bytes, and the most of its size or half at one time."""

    def __init__(self, watched: int) -> None:
        super().__init__()
        self.largest = self.most = 0
        self._watched = watched
        self._living: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            size = tensor.untyped_storage().nbytes()
            self.largest = max(self.largest, size)
            if size >= self._watched:
                self._living = [ref for ref in self._living if ref() is not None]
                self._living.append(weakref.ref(tensor))
        self.most = max(self.most, len(self._living))
        return result


def _tensors(result: object) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for part in result:
            yield from _tensors(part)


def test_no_logits_are_kept() -> None:
    """With a vocabulary of 128,000 nothing is larger than one token's probabilities."""
    vocabulary, rows = 128_000, 6
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        tiny.config(vocab_size=vocabulary, hidden_size=4, intermediate_size=4)
    )
    given = LanguageModel(Path(), model.eval().requires_grad_(False), tiny.tokenizer(), (2,), 0)
    at_once = []
    for length in (2, 12):
        with _Memory(rows * vocabulary * 4) as memory:
            ids = loop.generate(given, [[4, 6, 9, 7]] * rows, numbers(rows, length), 1.0)
        assert ids.shape == (rows, length)
        assert memory.largest == rows * vocabulary * 4  # in float32
        at_once.append(memory.most)
    assert at_once[0] == at_once[1]
