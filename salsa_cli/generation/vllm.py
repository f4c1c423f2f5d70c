"""Answers from a vLLM server on this machine, through its HTTP interface.

The user starts the server (`vllm_http.COMMAND`). It reads the policy's weights, or its adapters, as
safetensors from a folder; prompts and answers travel as token ids, with the log-probability of each
sampled token. Nothing is pickled, and nothing leaves the machine.

An answer depends on the weights, its prompt and its seed, and through the server's kernels on the
other requests: a run is not reproducible bit by bit.

The unit tests use a stand-in that speaks this interface only; `tests/real/` has tests with vLLM
0.32 on a CPU. Not tried on a GPU. Written for releases whose `reload_weights` takes `weights_path`
(from early 2026 on).
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.formatting import counted
from salsa_cli.generation import vllm_http, vllm_model
from salsa_cli.generation.vllm_http import Refusal, exchange, first_line, who
from salsa_cli.generation.vllm_model import ServedModel
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import pad_right
from salsa_cli.runs.events import Report, Working, silent

AT_ONCE = 256
"""Requests under way at a time, as many as vLLM batches by default."""

PATIENCE = 600.0
"""Seconds to wait for an answer, or for the weights to be read."""


@dataclass(frozen=True)
class Drawn:
    """Answers of a server.

    Attributes:
        ids: `[B, R]`, right-padded.
        logprobs: `[B, R]` float32, those of the distribution that a token was drawn from; 0 on the
            padding.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        length: most tokens of it.
        temperature: divides the logits.
        ends: token ids that end it.
        samples: answers per request.
    """

    length: int
    temperature: float
    ends: tuple[int, ...]
    samples: int = 1


@dataclass(frozen=True)
class Server:
    """A server that was found to answer.

    Attributes:
        url: `http://HOST:PORT`.
        model: what it serves.
        patience: seconds to wait for one answer.
        takes_adapters: whether it gets the policy's adapters, and has the weights of their base.
        adapter: the name of the adapter that answers; None if the model itself does.
    """

    url: str
    model: ServedModel
    patience: float = PATIENCE
    takes_adapters: bool = False
    adapter: str | None = None

    def check_context(self, needed: int) -> None:
        """Refuse a server whose context is shorter than `needed` tokens.

        Raises:
            SalsaError: it is.
        """
        context = self.model.context
        if context is not None and context < needed:
            raise SalsaError(
                f"{who(self.url)} serves a context of {context} tokens, and the longest prompt "
                f"with its answer needs {needed}; start it with --max-model-len {needed}"
            )

    def load_weights(self, folder: Path) -> None:
        """Replace the weights of the served model, and clear the prefix cache.

        Raises:
            SalsaError: the server refuses or fails. It may then hold a part of the new weights.
        """
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
        try:
            vllm_http.dev_mode(self.url, "/collective_rpc", body, self.patience)
        except Refusal as refused:
            failed = str(refused).rstrip(".")
            raise SalsaError(
                f"{failed}. It was to load the policy's weights from {folder}. Restart the "
                "server, since it may hold parts of two models now. Expected a model of the "
                "policy's architecture, the same file system, and a release whose reload_weights "
                "takes weights_path"
            ) from refused
        # Keys and values of prompts that were read with the old weights.
        vllm_http.reset_prefix_cache(self.url, self.patience)

    def load_adapter(self, folder: Path, name: str) -> "Server":
        """Load an adapter in PEFT's format under a new name; returns the server that uses it.

        The prefix cache is kept by name and path, so that a new name finds none of the old entries.

        Raises:
            Refusal: the server does not load adapters at all, or not this one.
            SalsaError: it does not answer.
        """
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        exchange(self.url, "POST", "/v1/load_lora_adapter", body, self.patience)
        return replace(self, adapter=name)

    def unload_adapters(self, prefix: str) -> None:
        """Forget the adapters whose names start with `prefix`, except the one that answers.

        Raises:
            SalsaError: the server does not do so.
        """
        raw = exchange(self.url, "GET", "/v1/models", None, self.patience)
        for card in vllm_model.cards(vllm_http.parsed(self.url, raw, "/v1/models")):
            name = card["id"]
            if card.get("parent") and name.startswith(prefix) and name != self.adapter:
                body = {"lora_name": name}
                exchange(self.url, "POST", "/v1/unload_lora_adapter", body, self.patience)

    def answers(
        self,
        policy: LanguageModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        length: int,
        temperature: float,
        samples: int = 1,
        report: Report = silent,
    ) -> Drawn:
        """Answers of at most `length` tokens, in the order of the prompts; one request a prompt.

        Args:
            prompts: rows of token ids.
            seeds: one a prompt, 0 to 2^63 - 1. The server adds 1 for each further answer.
            temperature: divides the logits, above 0.
            samples: answers per prompt, in consecutive rows.

        Raises:
            SalsaError: a request fails, or an answer is none; the first such prompt's reason.
        """
        sampling = Sampling(length, temperature, policy.eos_ids, samples)
        pool = ThreadPoolExecutor(min(len(prompts), AT_ONCE))
        try:
            futures = [
                pool.submit(self._answer, prompt, seed, sampling)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            rows = []
            for future in futures:
                rows += future.result()
                report(Working("answers", len(rows), len(prompts) * samples))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self._check_vocabulary(rows, policy)
        ids = pad_right([ids for ids, _ in rows], policy.pad_id).ids
        logprobs = torch.zeros(ids.shape)
        for row, (_, numbers) in enumerate(rows):
            logprobs[row, : len(numbers)] = torch.tensor(numbers)
        return Drawn(ids, logprobs)

    def _answer(
        self, prompt: Sequence[int], seed: int, sampling: Sampling
    ) -> list[tuple[list[int], list[float]]]:
        body = _request(self.adapter or self.model.name, prompt, seed, sampling)
        raw = exchange(self.url, "POST", "/v1/completions", body, self.patience)
        return [_read(self.url, choice, sampling) for choice in _choices(self.url, raw, sampling)]

    def _check_vocabulary(
        self, rows: Sequence[tuple[list[int], list[float]]], policy: LanguageModel
    ) -> None:
        size = int(policy.model.config.get_text_config().vocab_size)
        most = max(max(ids) for ids, _ in rows)
        if most >= size:
            raise SalsaError(
                f"{who(self.url)} answers with token {most}, and the policy has {size} tokens; "
                f"it serves another model ({self.model.name})"
            )


def connect(url: str, patience: float = PATIENCE) -> Server:
    """The server at `http://HOST:PORT`, if it can do what a rollout needs. Clears its prefix cache.

    Raises:
        SalsaError: nothing answers there, or something else, or not in its development mode.
    """
    # It is there or it is not: no need for patience.
    soon = min(patience, 10.0)
    model = vllm_model.served_model(url, soon)
    vllm_http.reset_prefix_cache(url, soon)
    return Server(url, model, patience)


def _request(model: str, prompt: Sequence[int], seed: int, sampling: Sampling) -> dict[str, object]:
    """What is asked for: nothing but the temperature bends the distribution.

    What is left out would be taken from the model's generation config.
    """
    return {
        "model": model,
        "prompt": list(prompt),
        "n": sampling.samples,
        "max_tokens": sampling.length,
        "temperature": sampling.temperature,
        "seed": seed,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        # The policy's end tokens end an answer, whatever the server takes for them.
        "ignore_eos": True,
        "stop_token_ids": list(sampling.ends),
        "logprobs": 0,
        "return_token_ids": True,
    }


def _choices(url: str, raw: bytes, sampling: Sampling) -> list[dict[str, Any]]:
    """The answers of a completion, in the order of their `index`.

    Raises:
        SalsaError: it is none, or has not as many answers as were asked for.
    """
    content = vllm_http.parsed(url, raw, "/v1/completions")
    found = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(choice, dict) for choice in found):
        raise SalsaError(f"{who(url)} sent JSON that is not a completion: {first_line(raw)}")
    by_index = {choice.get("index", 0): choice for choice in found}
    expected = list(range(sampling.samples))
    if len(found) != sampling.samples or by_index.keys() != set(expected):
        raise SalsaError(
            f"{who(url)} sent {counted(len(found), 'answer')} to a prompt instead of "
            f"{sampling.samples}: "
            f"{first_line(raw)}"
        )
    return [by_index[place] for place in expected]


def _read(url: str, choice: Mapping[str, Any], sampling: Sampling) -> tuple[list[int], list[float]]:
    """Tokens and log-probabilities of an answer.

    Raises:
        SalsaError: it is not what was asked for.
    """
    ids = choice.get("token_ids")
    if (
        not isinstance(ids, list)
        or not ids
        or not all(type(one) is int and one >= 0 for one in ids)
    ):
        raise SalsaError(
            f"{who(url)} sent no token_ids of an answer; expected a release of vLLM that supports "
            "return_token_ids"
        )
    logprobs = choice.get("logprobs")
    found = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(found, list) or len(found) != len(ids):
        count = len(found) if isinstance(found, list) else "no"
        raise SalsaError(
            f"{who(url)} sent {count} log-probabilities for {counted(len(ids), 'token')}; "
            "expected one per "
            "token"
        )
    if not all(_is_logprob(one) for one in found):
        raise SalsaError(
            f"{who(url)} sent invalid log-probabilities (null, NaN or above 0); start it "
            "with --logprobs-mode processed_logprobs"
        )
    if len(ids) > sampling.length:
        raise SalsaError(
            f"{who(url)} sent {len(ids)} tokens, more than the limit of {sampling.length}"
        )
    if len(ids) < sampling.length and ids[-1] not in sampling.ends:
        reason = one_line(str(choice.get("finish_reason")))
        raise SalsaError(
            f"{who(url)} stopped an answer after {counted(len(ids), 'token')} without an end "
            "token of the "
            f"policy (finish_reason {reason}); start it with --generation-config vllm"
        )
    return ids, [float(one) for one in found]


def _is_logprob(value: object) -> bool:
    """A finite number of at most 0; a probability of 1 may round to a little more."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value <= 1e-3  # type: ignore[arg-type, operator]
