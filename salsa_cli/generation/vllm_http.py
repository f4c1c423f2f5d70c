"""Requests to a vLLM server on this machine, and what it means when one fails."""

import json
import time
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from salsa_cli.errors import SalsaError, one_line

COMMAND = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 "
    "--logprobs-mode processed_logprobs --generation-config vllm"
)

BUSY = 30.0
"""Seconds to wait until the server has finished the requests of other clients."""

_RETRY = 0.2
"""Seconds between two attempts to clear the prefix cache."""


class Refusal(SalsaError):
    """The server answers, and not with what was asked for.

    Attributes:
        status: of HTTP; 0 where it is no longer known.
        reason: what the server said.
    """

    def __init__(self, text: str, status: int = 0, reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


def exchange(url: str, method: str, path: str, body: object, patience: float) -> bytes:
    """Send one request; returns the body of the response.

    No proxy is used and no redirection followed: what is sent to this machine stays there.

    Raises:
        SalsaError: nothing answers, or the connection is lost.
        Refusal: the response has another status than 200.
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
            f"{who(url)} did not answer {path} within {patience:g} s; check the server"
        ) from error
    except ConnectionRefusedError as error:
        raise SalsaError(f"{who(url)}: no server is running; start one: {COMMAND}") from error
    except (OSError, HTTPException) as error:
        reason = one_line(str(error) or type(error).__name__)
        raise SalsaError(
            f"{who(url)} closed the connection at {path} ({reason}); check the server"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        reason = _reason(raw)
        text = f"{who(url)} refuses {path}: HTTP {response.status}: {reason}"
        raise Refusal(text, response.status, reason)
    return raw


def dev_mode(url: str, path: str, body: object, patience: float) -> bytes:
    """Call an endpoint that vLLM has in its development mode only; returns the body.

    Raises:
        SalsaError: it is not in that mode.
        Refusal: it refuses for another reason.
    """
    try:
        return exchange(url, "POST", path, body, patience)
    except Refusal as refused:
        if refused.status != 404:
            raise
        raise SalsaError(
            f"{who(url)} has no {path}, which is needed to load new weights; start it in its "
            f"development mode: {COMMAND}"
        ) from refused


def reset_prefix_cache(url: str, patience: float) -> None:
    """Clear the prefix cache of the server.

    vLLM answers with status 200 and `success: false` while requests hold blocks of the cache; those
    of a client that was killed are aborted within a second or so.

    Raises:
        SalsaError: the cache still holds blocks after `BUSY` seconds, or there is no such endpoint.
    """
    limit = min(patience, BUSY)
    deadline = time.monotonic() + limit
    while _failed(dev_mode(url, "/reset_prefix_cache", None, patience)):
        if time.monotonic() > deadline:
            raise SalsaError(
                f"{who(url)} did not clear its prefix cache within {limit:g} s, since it is busy "
                "with other requests. Expected a server that nothing else uses: wait until they "
                "are finished, or restart it"
            )
        time.sleep(_RETRY)


def parsed(url: str, raw: bytes, path: str) -> Any:
    """The JSON of a body.

    Raises:
        SalsaError: it is none.
    """
    try:
        return json.loads(raw)
    except ValueError as error:
        raise SalsaError(
            f"{who(url)} sent malformed JSON from {path}: {first_line(raw)}"
        ) from error


def first_line(raw: bytes) -> str:
    """The first line of a body."""
    lines = raw.decode(errors="replace").strip().splitlines()
    return one_line(lines[0]) if lines else "an empty body"


def who(url: str) -> str:
    """How messages name the server."""
    return f"--generator vllm: {url}"


def _reason(raw: bytes) -> str:
    """The message of an error in vLLM's format, or the first line of another body."""
    try:
        error = json.loads(raw)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        return first_line(raw)
    return first_line(str(message).encode())


def _failed(raw: bytes) -> bool:
    """Whether a body says `success: false`; older releases send no body."""
    try:
        content = json.loads(raw)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("success") is False
