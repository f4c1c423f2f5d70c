"""Prompts and answers in one row each, padded after the answer.

Nothing after the last real token affects a causal model, so rows need no attention mask, which lets
attention skip its upper triangle. A batch is as wide as its longest row, not as its longest prompt
plus its longest answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch

from salsa_cli.models.tokenization import Tokens

SHORTEST = 0.75
"""Shortest row of a block, as a fraction of its longest one."""


@dataclass(frozen=True)
class Packed:
    """Concatenated rows without padding: N tokens, of which A predict an answer token.

    Attributes:
        ids: `[N]`.
        positions: `[N]`, starting from 0 in each row.
        predicting: `[A]` indices of the tokens that predict the answer tokens.
        blocks: rows and width of each block of padded rows of similar length.
        padded: `[M]` index of the token at each position of the blocks; on padding, that of the
            row's last token.
        real: `[N]` position of each token in the blocks.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predicting: torch.Tensor
    blocks: tuple[tuple[int, int], ...]
    padded: torch.Tensor
    real: torch.Tensor


@dataclass(frozen=True)
class Sequences:
    """A batch of prompts with answers.

    Attributes:
        ids: `[B, T]`, right-padded.
        answers: `[B, R]` tokens of the answers, right-padded.
        prompt_lengths: `[B]` on the CPU, so that selecting rows needs no device synchronisation.
        answer_lengths: `[B]` on the CPU.
    """

    ids: torch.Tensor
    answers: torch.Tensor
    prompt_lengths: torch.Tensor
    answer_lengths: torch.Tensor

    @classmethod
    def of(cls, prompts: Tokens, responses: Tokens) -> Self:
        """From left-padded prompts `[B, P]` and right-padded answers `[B, R]`."""
        ids = torch.cat([prompts.ids, responses.ids], dim=1)
        mask = torch.cat([prompts.mask, responses.mask], dim=1)
        lengths = torch.stack([prompts.mask.sum(1), responses.mask.sum(1)]).cpu()
        width = int(lengths.sum(0).max())
        # A stable sort of "is padding" moves the real tokens to the front, in their order.
        order = torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices
        return cls(ids.gather(1, order)[:, :width], responses.ids, lengths[0], lengths[1])

    @property
    def lengths(self) -> torch.Tensor:
        """Total length `[B]` of prompt and answer, on the CPU."""
        return self.prompt_lengths + self.answer_lengths

    def part(self, rows: torch.Tensor) -> "Sequences":
        """Some rows, as wide as the longest of them; `rows` is on the CPU."""
        prompts, answers = self.prompt_lengths[rows], self.answer_lengths[rows]
        there = rows.to(self.ids.device, non_blocking=True)
        width = int((prompts + answers).max())
        return Sequences(self.ids[there, :width], self.answers[there], prompts, answers)

    def predicting(self) -> torch.Tensor:
        """Indices `[N]` into `ids.flatten()` of the tokens that predict the answer tokens."""
        starts = torch.arange(len(self.ids)) * self.ids.shape[1] + self.prompt_lengths - 1
        return (starts[:, None] + torch.arange(self.answers.shape[1]))[self._real()].to(
            self.ids.device, non_blocking=True
        )

    def packed(self) -> Packed:
        """The rows concatenated, in their order."""
        lengths, device = self.lengths, self.ids.device
        starts = lengths.cumsum(0) - lengths
        columns = torch.arange(self.ids.shape[1])
        rows = columns < lengths[:, None]
        answers = torch.arange(self.answers.shape[1])
        before = ((starts + self.prompt_lengths - 1)[:, None] + answers)[self._real()]
        real = torch.empty(int(lengths.sum()), dtype=torch.long)
        blocks, padded, begin = [], [], 0
        for block in _blocks(lengths):
            width = int(lengths[block].max())
            within = torch.minimum(columns[:width], lengths[block][:, None] - 1)
            tokens = starts[block][:, None] + within
            there = rows[block, :width]
            real[tokens[there]] = (begin + torch.arange(tokens.numel())).view_as(tokens)[there]
            blocks.append((len(block), width))
            padded.append(tokens.flatten())
            begin += tokens.numel()
        return Packed(
            self.ids[rows.to(device)],
            columns.expand_as(rows)[rows].to(device),
            before.to(device),
            tuple(blocks),
            torch.cat(padded).to(device),
            real.to(device),
        )

    def real(self) -> torch.Tensor:
        """Indices `[N]` into `answers.flatten()` of the real answer tokens."""
        return self._real().flatten().nonzero().squeeze(1).to(self.ids.device, non_blocking=True)

    def spread(self, found: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Values `[N]` of the real answer tokens as `[B, R]`, 0 on the padding."""
        flat = found.new_zeros(self.answers.numel()).index_copy(0, places, found)
        return flat.view(self.answers.shape)

    def _real(self) -> torch.Tensor:
        return torch.arange(self.answers.shape[1]) < self.answer_lengths[:, None]


def group_by_length(
    lengths: torch.Tensor, rows: torch.Tensor, most: int, tokens: int
) -> list[torch.Tensor]:
    """Rows grouped by similar length, the longest first; each group is one forward pass.

    Args:
        lengths: `[B]` tokens of every row of the batch.
        rows: `[M]` rows to group.
        most: maximum rows per group.
        tokens: maximum tokens per group, padding included; a single row may exceed it.
    """
    order = rows[torch.argsort(lengths[rows], descending=True, stable=True)]
    groups: list[torch.Tensor] = []
    first = 0
    while first < len(order):
        width = max(1, int(lengths[order[first]]))
        count = min(most, max(1, tokens // width))
        groups.append(order[first : first + count])
        first += count
    return groups


def _blocks(lengths: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of rows of similar length, the longest first."""
    order = torch.argsort(lengths, descending=True, stable=True)
    while len(order):
        count = int((lengths[order] >= SHORTEST * lengths[order[0]]).sum())
        yield order[:count]
        order = order[count:]
