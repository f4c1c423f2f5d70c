"""Forward passes over whole sequences: log-probabilities, values and scores.

Padding never changes a result: it comes after the last real token, where a causal model does not
see it, or it is masked.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from salsa_cli.maths import categorical, kl, masked
from salsa_cli.models import lm_head, packed_attention
from salsa_cli.models.lm_head import Module as Module
from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import Tokens, position_ids

KL_TOKENS = 128
"""Tokens whose probabilities over the vocabulary are held at a time, for two models, in float32."""


def answer_logits(model: Module, prompts: Tokens, responses: Tokens) -> torch.Tensor:
    """Logits `[B, R, V]` that predict each response token.

    Args:
        prompts: `[B, P]`, left-padded.
        responses: `[B, R]`, right-padded.
    """
    ids, mask = _joined(prompts, responses)
    width = responses.ids.shape[1]
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=position_ids(mask),
        use_cache=False,
        logits_to_keep=width + 1,
    ).logits
    return logits[:, :-1]


def next_logits(model: Module, prompts: Tokens) -> torch.Tensor:
    """Logits `[B, V]` of the token after left-padded prompts `[B, P]`."""
    logits: torch.Tensor = model(
        input_ids=prompts.ids,
        attention_mask=prompts.mask.long(),
        position_ids=position_ids(prompts.mask),
        use_cache=False,
        logits_to_keep=1,
    ).logits
    return logits[:, -1]


def answer_logprobs(model: Module, sequences: Sequences, temperature: float) -> torch.Tensor:
    """Log-probabilities `[B, R]` in float32 of the answers' tokens, 0 on the padding.

    A model in float64 gives float64. Only real answer tokens are projected, a few at a time
    (`maths.chunked_logprobs`), so no tensor of answers x length x vocabulary is allocated. A model
    whose head salsa cannot compute returns its own logits from the end of the shortest prompt on.
    """
    places = sequences.real()
    tokens = sequences.answers.flatten()[places]
    head = lm_head.find_head(model)
    if head is None:
        found = categorical.token_logprobs(_own_logits(model, sequences), tokens, temperature)
    else:
        found = head.logprobs(_before_answers(model, sequences), tokens, temperature)
    return sequences.spread(found, places)


def answer_kl(
    model: Module, anchor: Module, sequences: Sequences, temperature: float
) -> torch.Tensor:
    """KL(model || anchor) `[B, R]` over the vocabulary at each answer token, 0 on the padding.

    Logits exist for a few tokens at a time, as in `answer_logprobs`, but without a gradient.
    """
    places = sequences.real()
    ours, theirs = _logits_of_answers(model, sequences), _logits_of_answers(anchor, sequences)
    starts = range(0, len(places), KL_TOKENS)
    parts = [slice(start, start + KL_TOKENS) for start in starts]
    found = [kl.exact(ours(part), theirs(part), temperature) for part in parts]
    return sequences.spread(torch.cat(found), places)


def answer_values(critic: Module, sequences: Sequences) -> torch.Tensor:
    """Values `[B, R]` in float32 of the state before each token, 0 on the padding.

    A critic in float64 gives float64; of any other, the head computes in float32, as in
    `last_scores`.
    """
    hidden = _before_answers(critic, sequences)
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    head = critic.score
    bias = None if head.bias is None else head.bias.to(kind)
    with torch.autocast(hidden.device.type, enabled=False):
        values = functional.linear(hidden.to(kind), head.weight.to(kind), bias).squeeze(-1)
    return sequences.spread(values, sequences.real())


def last_scores(model: Module, tokens: Tokens) -> torch.Tensor:
    """Scores `[B]` in float32 at the last real token of each row, whichever side is padded.

    The head computes in float32 whatever the type of the body: a score in bfloat16 has about three
    digits, and answers of nearly equal quality would tie.
    """
    hidden = _hidden(model, tokens.ids, tokens.mask)
    last = masked.last_index(tokens.mask)
    rows = torch.arange(len(last), device=last.device)
    head = model.score
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast(hidden.device.type, enabled=False):
        final = hidden[rows, last].float()
        return functional.linear(final, head.weight.float(), bias).squeeze(-1)


def _hidden(model: Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = lm_head.body(model)(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=position_ids(mask),
        use_cache=False,
    ).last_hidden_state
    return hidden


def _logits_of_answers(model: Module, sequences: Sequences) -> Callable[[slice], torch.Tensor]:
    """One pass now; then the logits `[n, V]` that predict any part of the `A` answer tokens."""
    head = lm_head.find_head(model)
    if head is None:
        logits = _own_logits(model, sequences)
        return lambda part: logits[part]
    hidden = _before_answers(model, sequences)
    return lambda part: head.logits(hidden[part])


def _own_logits(model: Module, sequences: Sequences) -> torch.Tensor:
    """Logits `[A, V]` of the answer tokens as the model itself computes them."""
    start, width = int(sequences.prompt_lengths.min()) - 1, sequences.ids.shape[1]
    logits = model(input_ids=sequences.ids, use_cache=False, logits_to_keep=width - start).logits
    at = sequences.predicting()
    chosen: torch.Tensor = logits[at // width, at % width - start]
    return chosen


def _before_answers(model: Module, sequences: Sequences) -> torch.Tensor:
    """Final hidden states `[A, H]` of the positions that predict the answer tokens."""
    if packed_attention.can_pack(model):
        packed = sequences.packed()
        return packed_attention.hidden_states(model, packed)[packed.predicting]
    body = lm_head.body(model)
    # Positions after the last token of a row hold arbitrary values, and are not read.
    hidden: torch.Tensor = body(input_ids=sequences.ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[sequences.predicting()]


def _joined(prompts: Tokens, responses: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.cat([prompts.ids, responses.ids], dim=1)
    return ids, torch.cat([prompts.mask, responses.mask], dim=1)
