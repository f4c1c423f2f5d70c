"""Passes through whole models: every family's own logits, and no tensor of all of them."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from salsa_cli.maths.chunked_logprobs import CHUNK_BYTES
from salsa_cli.models import forward, lm_head, sequences
from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import pad_left, pad_right
from tests.support import tiny
from tests.support.allocations import Largest
from tests.support.families import ANSWERS, FAMILIES, PROMPTS, SMALL, build, read


def alone(model: Any, row: int, temperature: float) -> torch.Tensor:
    """Log-probabilities of one answer by the model's own logits, without any padding."""
    prompt, answer = PROMPTS[row], ANSWERS[row]
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    chosen = torch.log_softmax(logits / temperature, -1)
    return chosen.gather(-1, torch.tensor(answer)[:, None])[:, 0]


@pytest.mark.parametrize("own_logits", [False, True], ids=["projected", "by the model"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_are_those_of_the_models_own_logits(
    family: str, own_logits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(family)
    if own_logits:
        monkeypatch.setattr(lm_head, "find_head", lambda _: None)
    else:
        assert lm_head.find_head(model) is not None
    given = read()
    found = forward.answer_logprobs(model, given, 0.7)
    expected = [alone(model, row, 0.7) for row in range(4)]
    for row, theirs in enumerate(expected):
        # Norms and rotations of these families round to float32 on the way.
        torch.testing.assert_close(found[row, : len(theirs)], theirs, rtol=0, atol=1e-5)
        assert found[row, len(theirs) :].abs().sum() == 0
    leaves = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(found.square().sum(), leaves, allow_unused=True)
    total = sum((row.square().sum() for row in expected), torch.zeros(()))
    theirs = torch.autograd.grad(total, leaves, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        if other is None:
            assert one is None
        else:
            # Gradients of up to 1e3, of sums that round to float32.
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("own_logits", [False, True], ids=["projected", "by the model"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_kl_is_that_of_the_models_own_distributions(
    family: str, own_logits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, anchor = build(family), build(family)
    with torch.no_grad():
        for parameter in anchor.parameters():
            parameter.mul_(0.9)
    if own_logits:
        monkeypatch.setattr(lm_head, "find_head", lambda _: None)
    monkeypatch.setattr(forward, "KL_TOKENS", 5)  # the 12 tokens of the answers in three parts
    found = forward.answer_kl(model, anchor, read(), 0.7)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        p, q = (
            torch.softmax(one(torch.tensor([prompt + answer])).logits[0] / 0.7, -1)
            for one in (model, anchor)
        )
        theirs = (p * (p / q).log()).sum(-1)[len(prompt) - 1 : -1]
        assert float(theirs.detach().min()) > 1e-3
        torch.testing.assert_close(found[row, : len(theirs)], theirs, rtol=0, atol=1e-5)
        assert found[row, len(theirs) :].abs().sum() == 0


def test_a_model_with_logits_of_its_own_kind_makes_them_itself() -> None:
    class Doubling(LlamaForCausalLM):
        def forward(self, *args: Any, **options: Any) -> Any:
            output = super().forward(*args, **options)
            output.logits = 2 * output.logits
            return output

    torch.manual_seed(0)
    model = Doubling(LlamaConfig(**SMALL)).double().eval()
    assert lm_head.find_head(model) is None
    found = forward.answer_logprobs(model, read(), 0.7)
    for row in range(4):
        theirs = alone(model, row, 0.7)
        torch.testing.assert_close(found[row, : len(theirs)], theirs, rtol=0, atol=1e-5)


def test_values_are_those_of_each_answer_alone() -> None:
    torch.manual_seed(0)
    critic = LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1)).double().eval()
    found = forward.answer_values(critic, read())
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        hidden = critic.model(torch.tensor([prompt + answer])).last_hidden_state
        theirs = critic.score(hidden)[0, len(prompt) - 1 : -1, 0]
        torch.testing.assert_close(found[row, : len(theirs)], theirs, rtol=0, atol=1e-6)
        assert found[row, len(theirs) :].abs().sum() == 0


def test_rows_are_joined_without_a_gap() -> None:
    given = read()
    assert given.ids.tolist() == [
        [4, 6, 9, 6, 2, 0],
        [5, 11, 5, 4, 8, 2],
        [7, 8, 3, 3, 12, 3],
        [10, 9, 9, 9, 2, 0],
    ]
    assert given.lengths.tolist() == [5, 6, 6, 5]
    part = given.part(torch.tensor([3, 0]))
    assert part.ids.tolist() == [[10, 9, 9, 9, 2], [4, 6, 9, 6, 2]]
    assert part.ids.flatten()[part.predicting()].tolist() == [10, 9, 9, 9, 9, 6]
    assert part.answers.flatten()[part.real()].tolist() == [9, 9, 9, 2, 6, 2]


def test_tokens_that_look_like_padding_are_kept() -> None:
    """The mask decides, never the token: 0 pads here, and is an answer's token too."""
    given = Sequences.of(pad_left([[0, 5], [0]], 0), pad_right([[0], [7, 0]], 0))
    assert given.ids.tolist() == [[0, 5, 0], [0, 7, 0]]
    assert given.answer_lengths.tolist() == [1, 2]


def test_passes_hold_rows_of_like_length() -> None:
    lengths = torch.tensor([5, 9, 1, 9, 4, 2, 30, 3])
    rows = torch.tensor([7, 6, 5, 4, 3, 2, 1])
    groups = sequences.group_by_length(lengths, rows, most=3, tokens=18)
    # 30 alone, above the limit; 2 x 9; 3 of at most 4; the last one
    assert [group.tolist() for group in groups] == [[6], [3, 1], [4, 7, 5], [2]]


# ------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("length", [64, 100])
def test_an_update_of_a_128k_vocabulary_never_has_all_logits(length: int) -> None:
    """Forward and backward: no tensor is larger than the embedding, however long the answers."""
    vocabulary, rows = 128_000, 8
    model = LlamaForCausalLM(tiny.config(vocab_size=vocabulary, max_position_embeddings=128)).eval()
    answers = torch.randint(4, vocabulary, (rows, length)).tolist()
    given = Sequences.of(pad_left([[5, 6]] * rows, 0), pad_right(answers, 0))
    lm_head.find_head(model)  # its check looks at the logits of eight tokens
    with Largest() as seen:
        forward.answer_logprobs(model, given, 1.0).sum().backward()
    assert seen.elements <= max(vocabulary * 16, CHUNK_BYTES["cpu"] // 4)
    assert seen.elements < rows * length * vocabulary / 3
