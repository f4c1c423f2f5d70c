"""Rows that lie behind one another: which models read them, and that they do not touch."""

import pytest
import torch

from salsa_cli.models import forward, packed_attention
from salsa_cli.models.sequences import Packed, Sequences
from tests.support import kinds
from tests.support.families import ANSWERS, PROMPTS, build, read

ROWS = [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]


@pytest.mark.parametrize("family", ["Llama", "Qwen 2", "Gemma", "Cohere, multiplied logits"])
def test_rows_do_not_touch(family: str) -> None:
    model = build(family)
    assert packed_attention.can_pack(model)
    before = model.config._attn_implementation
    found = packed_attention.hidden_states(model, read().packed())
    assert model.config._attn_implementation == before
    body = getattr(model, model.base_model_prefix)
    for ours, row in zip(found.split(list(map(len, ROWS))), ROWS, strict=True):
        alone = body(torch.tensor([row])).last_hidden_state[0]
        # Norms and rotations of these families round to float32 on the way.
        torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "make", [kinds.sliding, kinds.hybrid, kinds.recurrent, kinds.convolutional, kinds.llama]
)
def test_models_whose_rows_would_touch_get_padded_ones(make: object) -> None:
    assert callable(make)
    model = make()
    assert packed_attention.can_pack(model) == (make is kinds.llama)


def test_a_window_of_attention_is_seen_whatever_its_length() -> None:
    """The rows of the trial are shorter than most windows, so the argument has to tell."""
    assert not packed_attention.can_pack(build("Mistral, sliding window"))
    assert not packed_attention.can_pack(build("Gemma 2, free logits"))


def test_a_model_that_mixes_rows_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_row(self: Sequences) -> Packed:
        packed = whole(self)
        count = len(packed.ids)
        places = torch.arange(count)
        return Packed(packed.ids, packed.positions, places, ((1, count),), places, places)

    whole = Sequences.packed
    monkeypatch.setattr(Sequences, "packed", one_row)
    assert not packed_attention.can_pack(build("Llama"))


def test_packed_and_padded_rows_learn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("Llama")
    found = {}
    for packs in (True, False):
        monkeypatch.setattr(packed_attention, "can_pack", lambda _, packs=packs: packs)
        logprobs = forward.answer_logprobs(model, read(), 0.7)
        loss = logprobs.square().sum()
        found[packs] = [logprobs, *torch.autograd.grad(loss, list(model.parameters()))]
    for ours, theirs in zip(found[True], found[False], strict=True):
        # Norms and rotations round to float32; gradients are up to 1e3.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_pass_that_is_computed_again_reads_packed_rows_again() -> None:
    model = build("Llama")
    parameters = list(model.parameters())
    plain = torch.autograd.grad(forward.answer_logprobs(model, read(), 0.7).sum(), parameters)
    from salsa_cli.models import loading

    with loading.checkpointed(model), packed_attention.attention(model):
        again = torch.autograd.grad(forward.answer_logprobs(model, read(), 0.7).sum(), parameters)
    for ours, theirs in zip(again, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
