"""The decode loop against one that has no cache, no padding and no batch."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from salsa_cli.generation import loop, plain
from salsa_cli.models import LanguageModel
from salsa_cli.passes import Module

PROMPTS = [[4, 6, 9], [5], [7, 8], [4, 7, 10, 11, 12, 13, 14, 15, 16], [6, 6, 7, 8, 9], [13]]
LENGTH = 14
ENDS = (2, 9, 14, 20)
SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama() -> Module:
    return transformers.LlamaForCausalLM(tiny.config())


def sliding() -> Module:
    """Every layer attends to the last five tokens."""
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, sliding_window=5))


def hybrid() -> Module:
    """One layer attends to the last five tokens, one to all."""
    types = ["sliding_attention", "full_attention"]
    settings = {**SIZES, "sliding_window": 5, "layer_types": types}
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**settings))


def learned_positions() -> Module:
    config = transformers.GPT2Config(
        vocab_size=24, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def recurrent() -> Module:
    config = transformers.MambaConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    return transformers.MambaForCausalLM(config)


def without_positions() -> Module:
    config = transformers.BloomConfig(vocab_size=24, hidden_size=16, n_layer=2, n_head=2)
    return transformers.BloomForCausalLM(config)


def policy(make: Callable[[], Module]) -> LanguageModel:
    torch.manual_seed(0)
    model = make().eval().requires_grad_(False)
    for parameter in model.parameters():
        # Far from uniform, so that a wrong position or mask changes the answers.
        parameter.mul_(4 if parameter.dim() > 1 else 1)
    return LanguageModel(Path(), model, tiny.tokenizer(), ENDS, 0)


def numbers(rows: int, length: int = LENGTH) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).random((rows, length)))


def told(ids: torch.Tensor) -> list[list[int]]:
    """Each row up to its first end token."""
    answers = []
    for row in ids.tolist():
        ends = [place for place, token in enumerate(row) if token in ENDS]
        answers.append(row[: ends[0] + 1] if ends else row)
    return answers


def naive(
    model: Module, prompts: Sequence[Sequence[int]], uniforms: torch.Tensor, temperature: float
) -> list[list[int]]:
    """Whole sequences in float64, one at a time, the draw by NumPy."""
    answers = []
    wide = model.double()
    for prompt, numbers in zip(prompts, uniforms.tolist(), strict=True):
        answer: list[int] = []
        for number in numbers:
            logits = wide(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, -1].numpy()
            if temperature == 0:
                token = int(np.argmax(logits))
            else:
                weights = np.exp((logits - logits.max()) / temperature)
                token = int(np.searchsorted(np.cumsum(weights) / weights.sum(), number, "right"))
            answer.append(token)
            if token in ENDS:
                break
        answers.append(answer)
    model.float()
    return answers


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


@pytest.mark.parametrize("period", [3, 100])
def test_rows_that_end_between_two_looks_do_no_harm(
    period: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    expected = told(loop.generate(model, PROMPTS, uniforms, 0.7))
    monkeypatch.setattr(loop, "_period", lambda device: period)
    assert told(loop.generate(model, PROMPTS, uniforms, 0.7)) == expected


@pytest.mark.parametrize("make", [recurrent, without_positions])
def test_other_models_are_left_to_transformers(make: Callable[[], Module]) -> None:
    model = policy(make)
    assert not loop.suits(model.model)
    uniforms = numbers(3)
    equal = [[4, 6, 9], [5, 7, 8], [6, 6, 6]]  # a recurrent model reads padding, too
    answers = told(plain.generate(model, equal, uniforms, 0.7))
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
    vocabulary, rows = 128_000, 3
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
        assert memory.largest == rows * vocabulary * 8  # in float64
        at_once.append(memory.most)
    assert at_once[0] == at_once[1]
