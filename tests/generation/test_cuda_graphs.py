"""The step of graphs, called where a GPU would replay it; `end_to_end/test_cuda.py` replays it."""

import functools
from collections.abc import Callable

import pytest
import torch

from salsa_cli.errors import SalsaError
from salsa_cli.generation import cuda_graphs, loop, selection, transformers_generate
from salsa_cli.models.forward import Module
from tests.support.kinds import (
    PROMPTS,
    convolutional,
    grouped,
    hybrid,
    learned_positions,
    llama,
    naive,
    numbers,
    policy,
    recurrent,
    sliding,
    told,
)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are used up after a few tokens."""
    monkeypatch.setattr(cuda_graphs, "WIDER", 1)
    monkeypatch.setattr(cuda_graphs, "ALIGNED", 2)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
@pytest.mark.parametrize("make", [llama, grouped, learned_positions])
def test_answers_are_those_of_a_loop_without_cache_or_batch(
    make: Callable[[], Module], temperature: float
) -> None:
    model, uniforms = policy(make), numbers(len(PROMPTS))
    assert cuda_graphs.suits(model.model)
    answers = told(cuda_graphs.generate(model, PROMPTS, uniforms, temperature))
    assert answers == naive(model.model, PROMPTS, uniforms, temperature)


@pytest.mark.usefixtures("narrow")
def test_a_step_that_is_used_up_is_made_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    widen = cuda_graphs._Reader.widen

    def watched(reader: cuda_graphs._Reader) -> None:
        widen(reader)
        widths.append(reader.width)

    monkeypatch.setattr(cuda_graphs._Reader, "widen", watched)
    model, uniforms = policy(llama), numbers(2)
    short = [[4, 6, 9], [5]]
    answers = told(cuda_graphs.generate(model, short, uniforms, 0.7))
    assert answers == naive(model.model, short, uniforms, 0.7)
    # Prompts of 3 tokens; twice as many columns each time, up to those of all tokens.
    assert widths == [6, 12, 18]


def test_rows_leave_when_half_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    sizes: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    answers = told(cuda_graphs.generate(model, PROMPTS, uniforms, 0.7))
    hook.remove()
    assert answers == naive(model.model, PROMPTS, uniforms, 0.7)
    longest, expected = max(map(len, answers)), []
    there = len(answers)
    for step in range(1, longest):
        going = sum(len(answer) > step for answer in answers)
        there = going if going <= there / 2 else there
        expected.append(there)
    assert sizes[3:] == expected  # behind three buckets of prompts
    assert set(expected) == {6, 2}


def test_it_stops_when_all_ended() -> None:
    model = policy(llama)
    uniforms = numbers(len(PROMPTS), 400)[:, :56]
    longest = max(map(len, naive(model.model, PROMPTS, uniforms[:, :50], 1.5)))
    assert longest < 48
    ids = cuda_graphs.generate(model, PROMPTS, uniforms, 1.5)
    assert longest <= ids.shape[1] <= longest + loop.CHECK_EVERY


def test_half_precision_beside_single_is_no_other_answer() -> None:
    """Autocast gives keys in float32 and values in bfloat16."""
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cuda_graphs.suits(model.model)
        expected = told(transformers_generate.generate(model, PROMPTS, uniforms, 0.7))
        assert told(cuda_graphs.generate(model, PROMPTS, uniforms, 0.7)) == expected


@pytest.mark.parametrize("make", [sliding, hybrid, recurrent, convolutional])
def test_models_that_attend_in_another_way_are_left_to_others(
    make: Callable[[], Module],
) -> None:
    assert not cuda_graphs.suits(policy(make).model)


def test_a_model_that_the_trial_finds_out_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that would count its positions by itself, say: here, one that is told wrong ones."""
    model = policy(learned_positions).model
    forward = type(model).forward

    def wrong(self: Module, *args: object, **given: object) -> object:
        if given.get("use_cache") and given["input_ids"].shape[1] == 1:  # type: ignore[attr-defined]
            given["position_ids"] = given["position_ids"] + 1  # type: ignore[operator]
        return forward(self, *args, **given)

    assert cuda_graphs.suits(model)
    cuda_graphs._checked.pop(model)
    monkeypatch.setattr(type(model), "forward", _like(forward, wrong))
    assert not cuda_graphs.suits(model)


def _like(forward: Callable[..., object], other: Callable[..., object]) -> Callable[..., object]:
    """The other with the signature of the first."""
    return functools.wraps(forward)(other)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SalsaError, match="--generator graphs needs a CUDA device, and this is"):
        selection.check_generator("graphs", torch.device("cpu"))
    for name in ("auto", "loop"):
        selection.check_generator(name, torch.device("cpu"))
    for name in ("loop", "graphs"):
        with pytest.raises(
            SalsaError, match=f"--generator {name} does not support a MambaForCausalLM"
        ):
            selection.select_generator(name, policy(recurrent).model)
    assert (
        selection.select_generator("auto", policy(recurrent).model)
        is transformers_generate.generate
    )
    assert selection.select_generator("auto", policy(llama).model) is loop.generate
