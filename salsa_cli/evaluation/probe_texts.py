"""Held-out texts for a probe: whole texts, or answers to prompts, as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from salsa_cli import data
from salsa_cli.data import Source
from salsa_cli.errors import SalsaError, during
from salsa_cli.models.tokenization import Answer, Tokenizer, prompt_ids, scored_ids

ANSWERS = ("completion", "chosen", "answer", "response", "output")
LONGEST = 2048
"""Tokens of a text that are read at most."""


@dataclass(frozen=True)
class ProbeText:
    """Token ids of which those from `start` on are measured, given all before."""

    ids: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """Tokens that are measured."""
        return len(self.ids) - self.start


def read(source: Source, tokenizer: Tokenizer, longest: int) -> list[ProbeText]:
    """The texts of a data source, cut to `longest` tokens.

    A row has a `text`, or `messages` that end with the assistant's turn, or a `prompt` with an
    answer: `completion`, `chosen`, `answer`, `response` or `output`.

    Raises:
        SalsaError: a row has none of these, or no text has two tokens.
    """
    found = [_text(source, row, tokenizer) for row in range(len(source.rows))]
    cut = [ProbeText(one.ids[:longest], one.start) for one in found]
    kept = [one for one in cut if one.count > 0]
    if not kept:
        raise SalsaError(f"{source.name}: no text in it has a token to predict")
    return kept


def _text(source: Source, index: int, tokenizer: Tokenizer) -> ProbeText:
    row = source.rows[index]
    if isinstance(text := row.get("text"), str) and "prompt" not in row:
        ids = tokenizer.encode(text)
        return ProbeText(tuple(ids), 1)
    prompt = data.prompt(source, index)
    answer = Answer(_answer(source, index))
    with during(f"{source.name}, row {index + 1}"):
        before = prompt_ids(tokenizer, prompt)
        whole = scored_ids(tokenizer, prompt, answer)
    start = next(
        (place for place, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
        min(len(before), len(whole)),
    )
    return ProbeText(tuple(whole), max(1, start))


def _answer(source: Source, index: int) -> str:
    row = source.rows[index]
    for name in (*ANSWERS, "messages"):
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, Sequence) and value and not isinstance(value, str):
            last = data.conversation(source, index, name, value)[-1]
            if last.role == "assistant":
                return last.content
    raise source.error(
        index,
        "no text and no answer; expected a column 'text', or 'prompt' with one of "
        f"{', '.join(ANSWERS)}",
    )
