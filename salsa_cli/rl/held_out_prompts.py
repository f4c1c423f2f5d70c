"""The prompts of `--eval-prompts`: those that are not trained on, and fit the policy's context."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from salsa_cli import data
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.data import Prompt
from salsa_cli.errors import SalsaError
from salsa_cli.formatting import counted, verb
from salsa_cli.models import loading, shapes
from salsa_cli.models.tokenization import row_ids

_LISTED = 8


@dataclass(frozen=True)
class HeldOutPrompts:
    """Prompts that are never trained on.

    Attributes:
        ids: token ids of each prompt.
        copies: for each prompt, the number of equal ones before it in the file.
        trained_rows: rows that are left out because --prompts has them too, counted from 1.
        long_rows: rows that are left out because they leave no room for an answer.
        given: number of rows in the file, of which only the first may be used.
    """

    prompts: tuple[Prompt, ...]
    ids: tuple[tuple[int, ...], ...]
    copies: tuple[int, ...]
    trained_rows: tuple[int, ...] = ()
    long_rows: tuple[int, ...] = ()
    given: int = 0

    def seeds(self, seed: int) -> list[int]:
        """The seed of each answer, the same in every evaluation and in `salsa eval`."""
        return [
            data.answer_seed(seed, data.asked_text(prompt), copy, 0)
            for prompt, copy in zip(self.prompts, self.copies, strict=True)
        ]

    @property
    def total(self) -> int:
        """The number of rows that were looked at, the first of those given."""
        return len(self.prompts) + len(self.trained_rows) + len(self.long_rows)

    def counts(self) -> dict[str, int]:
        """How many rows the file has and what became of them, for the record of a run."""
        return {
            "in_file": self.given,
            "not_read": self.given - self.total,
            "also_in_prompts": len(self.trained_rows),
            "too_long": len(self.long_rows),
            "used": len(self.prompts),
        }

    def left_out(self) -> list[str]:
        """What is left out and why, in words."""
        total = self.total
        found = []
        if self.trained_rows:
            found.append(
                f"{len(self.trained_rows)} of {counted(total, 'prompt')} of --eval-prompts "
                f"{verb(len(self.trained_rows), 'are')} also in --prompts, so not used for "
                f"evaluation: {_listed(self.trained_rows)}"
            )
        if self.long_rows:
            found.append(
                f"{len(self.long_rows)} of {counted(total, 'prompt')} of --eval-prompts "
                f"{verb(len(self.long_rows), 'leave')} no room for an answer of --response-length "
                f"and {verb(len(self.long_rows), 'are')} dropped: {_listed(self.long_rows)}"
            )
        return found


def choose(
    policy: Path, trained: Sequence[Prompt], given: Sequence[Prompt], config: PPOConfig
) -> HeldOutPrompts:
    """The prompts of `given` that can be used, among the first `--max-eval-prompts`.

    Two prompts are the same if the policy reads the same tokens.

    Raises:
        SalsaError: none can.
    """
    in_file, given = len(given), given[: config.held_out_size]
    tokenizer = loading.load_tokenizer(policy)
    source = str(config.eval_prompts)
    ids = [tuple(one) for one in row_ids(tokenizer, given, source)]
    seen = {tuple(one) for one in row_ids(tokenizer, trained, config.prompts)}
    limit = shapes.context_length(policy)
    room = float("inf") if limit is None else limit - config.response_length
    trained_rows = [row for row, one in enumerate(ids) if one in seen]
    long_rows = [row for row, one in enumerate(ids) if len(one) > room and one not in seen]
    rows = [row for row, one in enumerate(ids) if len(one) <= room and one not in seen]
    if not rows and not long_rows:
        raise SalsaError(
            f"all prompts of --eval-prompts {source} ({len(given):,}) are also in --prompts "
            f"{config.prompts}; expected prompts that the policy is not trained on"
        )
    if not rows:
        raise SalsaError(
            f"no prompt of --eval-prompts {source} leaves room for --response-length "
            f"{config.response_length} in the policy's context of {limit} tokens"
        )
    copies = data.earlier_copies([data.asked_text(one) for one in given])
    return HeldOutPrompts(
        tuple(given[row] for row in rows),
        tuple(ids[row] for row in rows),
        tuple(copies[row] for row in rows),
        tuple(row + 1 for row in trained_rows),
        tuple(row + 1 for row in long_rows),
        in_file,
    )


def _listed(rows: Sequence[int]) -> str:
    named = ", ".join(map(str, rows[:_LISTED]))
    more = f" and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {named}{more}"
