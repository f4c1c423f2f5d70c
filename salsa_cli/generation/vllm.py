"""Generation by a vLLM server on this machine: its HTTP interface, as far as a rollout needs it.

The user starts the server (`COMMAND`). The policy's weights go to it as safetensors in a folder
that it is told to read; prompts go and answers come as token ids, with the log-probability of each
drawn token. Nothing is pickled, and nothing leaves the machine.

An answer depends on the weights, its prompt and its seed, and through the server's kernels on the
other requests: a run is not repeated bit by bit.

The tests use a stand-in that speaks this interface only. Tried by hand with vLLM 0.32 on a CPU: the
log-probabilities were 7e-7 nats a token from the trainer's, and n answers in one request were those
of n requests. Not tried on a GPU. Written for releases whose `reload_weights` takes `weights_path`
(from early 2026 on).
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import pad_right

COMMAND = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 "
    "--logprobs-mode processed_logprobs --generation-config vllm"
)

AT_ONCE = 256
"""Requests under way at a time, as many as vLLM batches by default."""

PATIENCE = 600.0
"""Seconds to wait for an answer, or for the weights to be read."""

BUSY = 30.0
"""Seconds to wait until the server has finished the requests of others."""


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
        model: the name under which it serves its model.
        context: the most tokens of a prompt with its answer; None where it does not say.
        patience: seconds to wait for one answer.
    """

    url: str
    model: str
    context: int | None
    patience: float = PATIENCE

    def check_context(self, needed: int) -> None:
        """Refuse a server whose context is shorter than `needed` tokens.

        Raises:
            SalsaError: it is.
        """
        if self.context is not None and self.context < needed:
            raise SalsaError(
                f"{_who(self.url)} serves a context of {self.context} tokens, and the longest "
                f"prompt with its answer takes {needed}; start it with --max-model-len {needed}"
            )

    def take_over(self, folder: Path) -> None:
        """Have the weights of a model's folder read, and forget what was computed with the old.

        Raises:
            SalsaError: the server does not, or cannot.
        """
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
        try:
            _dev_mode(self.url, "/collective_rpc", body, self.patience)
        except Refusal as refused:
            raise SalsaError(
                f"{refused}. It was to read the policy's weights from {folder}: it needs a model "
                "of the policy's architecture, the same file system, and a release whose "
                "reload_weights takes weights_path"
            ) from refused
        # Keys and values of prompts that were read with the old weights.
        _reset_prefix_cache(self.url, self.patience)

    def answers(
        self,
        policy: LanguageModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        length: int,
        temperature: float,
        samples: int = 1,
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
            rows = [answer for future in futures for answer in future.result()]
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
        body = _request(self.model, prompt, seed, sampling)
        raw = _exchange(self.url, "POST", "/v1/completions", body, self.patience)
        return [_read(self.url, choice, sampling) for choice in _choices(self.url, raw, sampling)]

    def _check_vocabulary(
        self, rows: Sequence[tuple[list[int], list[float]]], policy: LanguageModel
    ) -> None:
        size = int(policy.model.config.get_text_config().vocab_size)
        most = max(max(ids) for ids, _ in rows)
        if most >= size:
            raise SalsaError(
                f"{_who(self.url)} answers with token {most}, and the policy has {size} tokens; "
                f"it serves another model ({self.model})"
            )


class Refusal(SalsaError):
    """The server answers, and not with what was asked for.

    Attributes:
        status: of HTTP; 0 where it is no longer known.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def connect(url: str, patience: float = PATIENCE) -> Server:
    """The server at `http://HOST:PORT`, if it can do what a rollout needs. Changes nothing there.

    Raises:
        SalsaError: nothing answers there, or something else, or without its development mode.
    """
    # It is there or it is not: no need for patience.
    soon = min(patience, 10.0)
    try:
        raw = _exchange(url, "GET", "/v1/models", None, soon)
    except Refusal as refused:
        raise SalsaError(f"{refused}; expected a vLLM server: {COMMAND}") from refused
    served = _served(_parsed(url, raw, "/v1/models"))
    if served is None:
        raise SalsaError(f"{_who(url)} names no model at /v1/models; expected: {COMMAND}")
    _reset_prefix_cache(url, soon)
    name, context = served
    return Server(url, name, context, patience)


def _served(content: object) -> tuple[str, int | None] | None:
    """Name and context of the first model of a list that is no adapter; None where there is none.

    An adapter names its `parent`.
    """
    listed = content.get("data") if isinstance(content, dict) else None
    for model in listed if isinstance(listed, list) else []:
        if isinstance(model, dict) and isinstance(model.get("id"), str) and not model.get("parent"):
            context = model.get("max_model_len")
            return model["id"], context if isinstance(context, int) else None
    return None


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
    content = _parsed(url, raw, "/v1/completions")
    found = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(choice, dict) for choice in found):
        raise SalsaError(f"{_who(url)} sent JSON that is no completion: {_start(raw)}")
    by_index = {choice.get("index", 0): choice for choice in found}
    expected = list(range(sampling.samples))
    if len(found) != sampling.samples or by_index.keys() != set(expected):
        raise SalsaError(
            f"{_who(url)} sent {len(found)} answers to a prompt, where {sampling.samples} were "
            f"asked for: {_start(raw)}"
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
            f"{_who(url)} sent no token_ids of an answer; expected a release of vLLM that knows "
            "return_token_ids"
        )
    logprobs = choice.get("logprobs")
    found = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(found, list) or len(found) != len(ids):
        count = len(found) if isinstance(found, list) else "no"
        raise SalsaError(
            f"{_who(url)} sent {count} log-probabilities for {len(ids)} tokens; expected as many"
        )
    if not all(_is_logprob(one) for one in found):
        raise SalsaError(
            f"{_who(url)} sent log-probabilities that are none (null, NaN or above 0); start it "
            "with --logprobs-mode processed_logprobs"
        )
    if len(ids) > sampling.length:
        raise SalsaError(
            f"{_who(url)} sent {len(ids)} tokens where {sampling.length} were the most"
        )
    if len(ids) < sampling.length and ids[-1] not in sampling.ends:
        reason = one_line(str(choice.get("finish_reason")))
        raise SalsaError(
            f"{_who(url)} stopped an answer after {len(ids)} tokens without an end token of the "
            f"policy (finish_reason {reason}); start it with --generation-config vllm"
        )
    return ids, [float(one) for one in found]


def _is_logprob(value: object) -> bool:
    """A finite number of at most 0; a probability of 1 may round to a little more."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value <= 1e-3  # type: ignore[arg-type, operator]


def _dev_mode(url: str, path: str, body: object, patience: float) -> bytes:
    """Call one of the endpoints that vLLM has in its development mode only; returns the body.

    Raises:
        SalsaError: it is not in that mode.
        Refusal: it refuses for another reason.
    """
    try:
        return _exchange(url, "POST", path, body, patience)
    except Refusal as refused:
        if refused.status != 404:
            raise
        raise SalsaError(
            f"{_who(url)} has no {path}, by which it takes new weights over; start it in its "
            f"development mode: {COMMAND}"
        ) from refused


def _reset_prefix_cache(url: str, patience: float) -> None:
    """Clear the prefix cache of the server.

    vLLM answers with status 200 and `success: false` while requests hold blocks of the cache; those
    of a client that was killed are aborted within a second or so.

    Raises:
        SalsaError: the cache still holds blocks after `BUSY` seconds, or there is no such endpoint.
    """
    deadline = time.monotonic() + min(patience, BUSY)
    while True:
        raw = _dev_mode(url, "/reset_prefix_cache", None, patience)
        if not _failed(raw):
            return
        if time.monotonic() > deadline:
            raise SalsaError(
                f"{_who(url)} did not clear its prefix cache within {min(patience, BUSY):g} s; "
                "other requests are running. Expected a server that nothing else uses: wait until "
                "they are finished, or restart it"
            )
        time.sleep(0.2)


def _failed(raw: bytes) -> bool:
    """Whether a body says `success: false`; older releases send no body."""
    try:
        content = json.loads(raw)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("success") is False


def _exchange(url: str, method: str, path: str, body: object, patience: float) -> bytes:
    """One request, and the body of its answer.

    No proxy is asked and no redirection followed: what goes to this machine stays there.

    Raises:
        SalsaError: nothing answers, or it breaks off.
        Refusal: the answer has another status than 200.
    """
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port or 80, timeout=patience)
    content = None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        raw = response.read()
    except TimeoutError as error:
        raise SalsaError(
            f"{_who(url)} did not answer {path} within {patience:g} s; see to the server"
        ) from error
    except ConnectionRefusedError as error:
        raise SalsaError(f"{_who(url)}: no server is there; start one: {COMMAND}") from error
    except (OSError, HTTPException) as error:
        reason = one_line(str(error) or type(error).__name__)
        raise SalsaError(
            f"{_who(url)} broke off at {path} ({reason}); see to the server"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise Refusal(
            f"{_who(url)} refuses {path}: HTTP {response.status}: {_start(raw)}", response.status
        )
    return raw


def _parsed(url: str, raw: bytes, path: str) -> object:
    try:
        found: Any = json.loads(raw)
    except ValueError as error:
        raise SalsaError(f"{_who(url)} sent no JSON from {path}: {_start(raw)}") from error
    return found


def _start(raw: bytes) -> str:
    """The first line of a body."""
    lines = raw.decode(errors="replace").strip().splitlines()
    return one_line(lines[0]) if lines else "an empty body"


def _who(url: str) -> str:
    return f"--generator vllm: {url}"
