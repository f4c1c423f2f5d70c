"""From prompts and a policy to answers, with the log-probabilities and values that PPO needs.

An answer depends on its prompt, its seed and the weights, and not on
the batch it was generated in: every row draws its tokens from uniforms of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from salsa_cli.devices.runtime import Runtime
from salsa_cli.generation.selection import select_generator
from salsa_cli.generation.vllm import Server
from salsa_cli.maths import categorical
from salsa_cli.models import forward
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import Answer, Tokens, answer_text, pad_left
from salsa_cli.runs.events import Report, Working, silent


@dataclass(frozen=True)
class Sampled:
    """Answers to a batch of prompts.

    Attributes:
        prompts: `[B, P]`, left-padded.
        responses: `[B, R]`, right-padded; the mask covers the end token.
        finished: `[B]`, True where an end token was produced.
        sampler_logprobs: `[B, R]` of the program that sampled them, where that is another one; 0
            on the padding.
        own_logprobs: `[B, R]` of the policy itself, as computed token by token in generation, where
            they were asked for; 0 on the padding.
    """

    prompts: Tokens
    responses: Tokens
    finished: torch.Tensor
    sampler_logprobs: torch.Tensor | None = None
    own_logprobs: torch.Tensor | None = None

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens per answer `[B]`, the end token counted."""
        return self.responses.mask.sum(-1)

    @cached_property
    def sequences(self) -> Sequences:
        """Prompts and answers as the forward passes read them."""
        return Sequences.of(self.prompts, self.responses)

    def __getitem__(self, rows: torch.Tensor | slice) -> "Sampled":
        theirs = None if self.sampler_logprobs is None else self.sampler_logprobs[rows]
        own = None if self.own_logprobs is None else self.own_logprobs[rows]
        return Sampled(self.prompts[rows], self.responses[rows], self.finished[rows], theirs, own)


@dataclass(frozen=True)
class Rollout:
    """Answers with what was computed of them when they were sampled. One response mask for all.

    Attributes:
        logprobs: `[B, R]` under the policy that sampled.
        ref_logprobs: `[B, R]` under each reference.
        values: `[B, R]` of the critic at that time; None where there is no critic.
        scores: `[B]` of the reward.
    """

    sampled: Sampled
    logprobs: torch.Tensor
    ref_logprobs: tuple[torch.Tensor, ...]
    values: torch.Tensor | None
    scores: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """True on the real tokens of the answers `[B, R]`."""
        return self.sampled.responses.mask


class Sampler(Protocol):
    """A way to draw answers from the policy."""

    def __call__(
        self,
        policy: LanguageModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        length: int,
        temperature: float,
        runtime: Runtime,
        report: Report = silent,
    ) -> Sampled:
        """Sample one answer per prompt, of at most `length` tokens.

        Args:
            policy: the model; a server has its weights already.
            prompts: rows of token ids.
            seeds: one per prompt; an answer's only source of randomness.
            length: most tokens of an answer, its end token counted.
            temperature: divides the logits.
            runtime: where the result goes.
            report: receives the number of answers.
        """


@dataclass(frozen=True)
class OwnSampler:
    """Samples in this process.

    Attributes:
        generator: how, by its name (see `generation.selection`).
        logprobs: whether the answers come with their log-probabilities.
    """

    generator: str = "auto"
    logprobs: bool = False

    def __call__(
        self,
        policy: LanguageModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        length: int,
        temperature: float,
        runtime: Runtime,
        report: Report = silent,
    ) -> Sampled:
        """See `Sampler`."""
        return sample(
            policy,
            prompts,
            seeds,
            length=length,
            temperature=temperature,
            runtime=runtime,
            generator=self.generator,
            report=report,
            with_logprobs=self.logprobs,
        )


@dataclass(frozen=True)
class ServerSampler:
    """Samples on a server that has the policy's weights.

    Attributes:
        samples: answers per prompt. That many consecutive rows, all of one prompt, are one
            request with the seed of the first.
    """

    server: Server
    samples: int = 1

    def __call__(
        self,
        policy: LanguageModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        length: int,
        temperature: float,
        runtime: Runtime,
        report: Report = silent,
    ) -> Sampled:
        """See `Sampler`.

        Raises:
            SalsaError: the server does not answer, or not as it should.
        """
        count = self.samples
        drawn = self.server.answers(
            policy,
            prompts[::count],
            seeds[::count],
            length=length,
            temperature=temperature,
            samples=count,
            report=report,
        )
        responses, finished = _until_end(drawn.ids.to(runtime.device), policy.eos_ids)
        theirs = drawn.logprobs.to(runtime.device)[:, : responses.ids.shape[1]]
        padded = pad_left(prompts, policy.pad_id).to(runtime.device)
        return Sampled(padded, responses, finished, theirs)


@torch.no_grad()
def sample(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    length: int,
    temperature: float,
    runtime: Runtime,
    generator: str = "auto",
    report: Report = silent,
    with_logprobs: bool = False,
) -> Sampled:
    """Sample one answer per prompt, of at most `length` tokens.

    Args:
        prompts: rows of token ids.
        seeds: one per prompt; the answer's only source of randomness.
        temperature: divides the logits; 0 takes the likeliest token.
        generator: how, by its name (see `generation.selection`).
        with_logprobs: whether the answers come with their log-probabilities.
    """
    draws = np.stack([np.random.default_rng(seed).random(length) for seed in seeds])
    uniforms = torch.from_numpy(draws).to(runtime.device)
    with runtime.autocast():
        generate = select_generator(generator, policy.model)
        found = torch.zeros(uniforms.shape, device=runtime.device) if with_logprobs else None
        ids = generate(policy, prompts, uniforms, temperature, report, found)
    responses, finished = _until_end(ids, policy.eos_ids)
    own = None if found is None else found[:, : responses.ids.shape[1]] * responses.mask
    padded = pad_left(prompts, policy.pad_id).to(runtime.device)
    return Sampled(padded, responses, finished, own_logprobs=own)


def texts(policy: LanguageModel, sampled: Sampled) -> list[Answer]:
    """The answers as text."""
    answers = []
    for index in range(len(sampled.finished)):
        prompt = sampled.prompts.ids[index][sampled.prompts.mask[index]].tolist()
        answer = sampled.responses.ids[index][sampled.responses.mask[index]].tolist()
        text = answer_text(policy.tokenizer, prompt, answer)
        answers.append(Answer(text, bool(sampled.finished[index])))
    return answers


@torch.no_grad()
def logprobs(
    model: Module,
    sampled: Sampled,
    *,
    temperature: float,
    groups: Sequence[torch.Tensor],
    runtime: Runtime,
    report: Report = silent,
) -> torch.Tensor:
    """Log-probabilities `[B, R]` of the answers under a model, a group of rows a forward pass."""
    with runtime.autocast():
        parts = [
            forward.answer_logprobs(model, sampled.sequences.part(rows), temperature)
            for rows in _counted(groups, "log-probabilities", report)
        ]
    return _in_row_order(parts, groups, sampled, runtime)


@torch.no_grad()
def anchor_kl(
    model: Module,
    anchor: Module,
    sampled: Sampled,
    *,
    temperature: float,
    groups: Sequence[torch.Tensor],
    runtime: Runtime,
    report: Report = silent,
) -> torch.Tensor:
    """KL(model || anchor) `[B, R]` over the vocabulary at each token, a group of rows a pass."""
    with runtime.autocast():
        parts = [
            forward.answer_kl(model, anchor, sampled.sequences.part(rows), temperature)
            for rows in _counted(groups, "KL to an anchor", report)
        ]
    return _in_row_order(parts, groups, sampled, runtime)


@torch.no_grad()
def end_logprobs(
    model: Module,
    sampled: Sampled,
    eos_ids: Sequence[int],
    *,
    temperature: float,
    groups: Sequence[torch.Tensor],
    runtime: Runtime,
) -> torch.Tensor:
    """Log-probabilities `[B]` under a model of ending the answer at once, by any end token."""

    def ending(rows: torch.Tensor) -> torch.Tensor:
        logits = forward.next_logits(model, sampled.prompts[rows])
        logprobs = categorical.log_softmax(logits, temperature)
        return torch.logsumexp(logprobs[:, list(eos_ids)], dim=-1)

    with runtime.autocast():
        parts = [ending(rows) for rows in groups]
    return _in_row_order(parts, groups, sampled, runtime)


@torch.no_grad()
def values(
    critic: Module,
    sampled: Sampled,
    *,
    groups: Sequence[torch.Tensor],
    runtime: Runtime,
    report: Report = silent,
) -> torch.Tensor:
    """Values `[B, R]` of the answers' states, a group of rows a forward pass."""
    with runtime.autocast():
        parts = [
            forward.answer_values(critic, sampled.sequences.part(rows))
            for rows in _counted(groups, "values", report)
        ]
    return _in_row_order(parts, groups, sampled, runtime)


def _counted(groups: Sequence[torch.Tensor], step: str, report: Report) -> Iterator[torch.Tensor]:
    """The groups, with a report before each."""
    for number, rows in enumerate(groups, 1):
        report(Working(f"{step}, pass", number, len(groups)))
        yield rows


def _in_row_order(
    parts: Sequence[torch.Tensor],
    groups: Sequence[torch.Tensor],
    sampled: Sampled,
    runtime: Runtime,
) -> torch.Tensor:
    """The results `[B, ...]` of all groups and processes, in the order of the rows."""
    return runtime.whole(torch.cat(list(parts)), torch.cat(list(groups)), len(sampled.finished))


def _until_end(ids: torch.Tensor, eos_ids: Sequence[int]) -> tuple[Tokens, torch.Tensor]:
    """Mask everything after the first end token, and cut to the longest answer."""
    ends = torch.isin(ids, torch.tensor(list(eos_ids), device=ids.device))
    # A token is real if no end token came before it.
    mask = ends.long().cumsum(-1) - ends.long() == 0
    width = int(mask.any(0).sum())
    return Tokens(ids[:, :width], mask[:, :width]), ends.any(-1)
