"""What a model can read: checks of prompts and rows, before its weights are loaded or run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from salsa_cli.data import Prompt
from salsa_cli.errors import SalsaError, during
from salsa_cli.formatting import counted
from salsa_cli.models import shapes
from salsa_cli.models.shapes import RotarySwitch
from salsa_cli.models.tokenization import Tokenizer, check_rendering, end_token, row_ids


@dataclass(frozen=True)
class Limits:
    """What a model can read at all; beyond it, an embedding has no row.

    Attributes:
        tokens: token ids from 0 that it has an embedding of.
        positions: tokens of a row at most; None where no table limits it.
        rotary: lengths that the rows of a run must not lie on both sides of.
    """

    tokens: int
    positions: int | None
    rotary: tuple[RotarySwitch, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The limits of a model, from its configuration and the names of its weights."""
        return cls(
            shapes.vocabulary_size(folder),
            shapes.position_limit(folder),
            shapes.rotary_switches(folder),
        )

    def pad(self, given: int | None, end: int) -> int:
        """The token that pads batches: `given`, or `end` if the model has no such token.

        Padding is masked, but it is embedded like any other token.
        """
        return end if given is None or given >= self.tokens else given

    def check(self, tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> None:
        """Refuse rows of prompts with answers that the model cannot read.

        Raises:
            SalsaError: names the token, or the length.
        """
        for ids in rows:
            if ids and max(ids) >= self.tokens:
                raise SalsaError(_unknown(tokenizer, max(ids), self.tokens, "an answer contains"))
            if self.positions is not None and len(ids) > self.positions:
                raise SalsaError(
                    f"a prompt with its answer has {len(ids)} tokens, and the context of the model "
                    f"is {self.positions}; expected shorter answers, or a model with a longer "
                    "context"
                )
        lengths = [len(ids) for ids in rows]
        for switch in self.rotary:
            if lengths and switch.separates(min(lengths), max(lengths)):
                raise SalsaError(
                    f"{_depends(switch)}; prompts with answers have {min(lengths)} to "
                    f"{max(lengths)} tokens. Expected shorter prompts or answers: at most "
                    f"{switch.length} tokens together"
                )


UNLIMITED = Limits(2**63, None)
"""Of a model that is not checked."""


def check_prompts(
    folder: Path,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    source: str,
    answer_length: int,
    used: Collection[int] | None = None,
) -> None:
    """Refuse prompts that a model cannot read: their template, tokens or length.

    Args:
        folder: the model.
        tokenizer: makes the token ids that it reads.
        prompts: one per row of the data source.
        source: its name.
        answer_length: maximum tokens of an answer.
        used: the rows, from 1, whose tokens and lengths matter; by default all.

    Raises:
        SalsaError: names the tokens, the lengths and the rows.
    """
    with during(str(folder)):
        check_rendering(tokenizer, prompts, source)
        limits = Limits.of(folder)
        if (end := end_token(tokenizer)) >= limits.tokens:
            raise SalsaError(_unknown(tokenizer, end, limits.tokens, "every answer ends with"))
        known = max(tokenizer.get_vocab().values(), default=0) < limits.tokens
        if known and limits.positions is None and not limits.rotary:
            return
        ids_of = dict(enumerate(row_ids(tokenizer, prompts, source), start=1))
        rows = {row: ids for row, ids in ids_of.items() if used is None or row in used}
        for row, ids in rows.items():
            if max(ids) >= limits.tokens:
                where = f"{source}, row {row} contains"
                raise SalsaError(_unknown(tokenizer, max(ids), limits.tokens, where))
        if limits.positions is not None:
            _check_length(rows, limits.positions, answer_length, source)
        for switch in limits.rotary:
            _check_rotary(rows, switch, answer_length, source)


def _unknown(tokenizer: Tokenizer, token: int, size: int, where: str) -> str:
    return (
        f"the embedding of the model has {size} tokens, and {where} token {token} "
        f"({tokenizer.decode([token])!r}): the tokenizer was extended, and the model was not. "
        "Expected a model and a tokenizer with the same vocabulary"
    )


def _check_length(
    rows: Mapping[int, Sequence[int]], limit: int, answer_length: int, source: str
) -> None:
    """Refuse prompts that leave no room for an answer; its end token is one of its tokens."""
    long = [row for row, ids in rows.items() if len(ids) + answer_length > limit]
    if long:
        longest = max(map(len, rows.values()))
        raise SalsaError(
            f"the context of the model is {limit} tokens; {counted(len(long), 'prompt')} of "
            f"{source} (first in row {long[0]}; the longest has {longest} tokens) with an answer "
            f"of {answer_length} tokens need more. Expected a model with a longer context, shorter "
            "answers, or a file without these rows"
        )


def _check_rotary(
    rows: Mapping[int, Sequence[int]], switch: RotarySwitch, answer_length: int, source: str
) -> None:
    """Refuse prompts that with their answers are read with several rotary frequencies."""
    lengths = {row: len(ids) for row, ids in rows.items()}
    longest = max(lengths.values(), default=0)
    if not switch.separates(min(lengths.values(), default=0), longest + answer_length):
        return
    long = [row for row, length in lengths.items() if length + answer_length > switch.length]
    raise SalsaError(
        f"{_depends(switch)}; {counted(len(long), 'prompt')} of {source} (first in row {long[0]}; "
        f"the longest has {longest} tokens) with an answer of {answer_length} tokens can exceed "
        f"it. Expected shorter prompts or answers: at most {switch.length} tokens together"
    )


def _depends(switch: RotarySwitch) -> str:
    return (
        f"beyond {switch.length} tokens the rotary frequencies of the model depend on the longest "
        f"row of a batch (rope_type {switch.kind}), so the log-probabilities and scores of an "
        "answer would depend on the other answers in its batch"
    )
