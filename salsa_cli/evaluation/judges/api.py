"""A judge behind an OpenAI-compatible API: several calls at a time, retried with patience.

The retries are our own and not the client's: every call has to be counted, and a reply that is
broken in itself (half a body, JSON of another kind) has to be asked for again like an overload.
"""

import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, TypeGuard

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.evaluation.judges.writing import Completion, JudgeSampling, Request

KEY = "OPENAI_API_KEY"
DEFAULT_URL = "https://api.openai.com/v1"

_RETRIED = frozenset({408, 409, 425, 429})
_REFUSED = frozenset({401, 403, 404})
_LONGEST_PAUSE = 60.0
_FAILURES_IN_A_ROW = 10


@dataclass(frozen=True)
class Patience:
    """How long to go on with a call that fails.

    Attributes:
        tries: calls for one judgement, the first one counted.
        timeout: seconds to wait for an answer.
        pause: seconds before the second try; doubled before each further one, up to a minute.
    """

    tries: int = 6
    timeout: float = 120.0
    pause: float = 1.0


@dataclass
class Budget:
    """Calls that may still be made; None has no end. Shared by threads."""

    most: int | None = None
    made: int = 0
    _lock: Lock = field(default_factory=Lock)

    def take(self) -> None:
        """Count one call.

        Raises:
            SalsaError: there is none left.
        """
        with self._lock:
            if self.most is not None and self.made >= self.most:
                raise SalsaError(
                    f"--max-calls {self.most} is used up, retries included; give a larger one"
                )
            self.made += 1


@dataclass(frozen=True)
class _Failed:
    """A call that brought no judgement: why, whether to try again, and when the server said to."""

    reason: str
    again: bool
    after: float | None = None


@dataclass(frozen=True)
class _Reply:
    """The text of a chat completion; `cut` where the token limit ended it."""

    text: str
    cut: bool


class ApiWriter:
    """A model behind an API, by its name there."""

    def __init__(
        self,
        name: str,
        model: str,
        base_url: str | None,
        *,
        concurrency: int,
        patience: Patience,
        budget: Budget,
    ) -> None:
        self.name = name
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        self._model = model
        self._concurrency = concurrency
        self._patience = patience
        self._budget = budget
        # Every server knows max_tokens but that of OpenAI's reasoning models, which refuses it.
        self._limit = "max_tokens"
        self._client = _client(name, self.base_url, base_url is not None, patience.timeout)
        self._headers = _headers()

    @property
    def identity(self) -> str:
        """The model and the server that has it."""
        return f"{self.base_url} {self._model}"

    def check(self) -> None:
        """Find out whether there is a server; what it says of its models does not matter.

        Raises:
            SalsaError: nothing answers, or it refuses the key.
        """
        import openai

        try:
            hurried = self._client.with_options(timeout=min(self._patience.timeout, 10.0))
            hurried.models.list(extra_headers=self._headers)
        except openai.APIConnectionError as error:
            raise SalsaError(
                f"--judge {self.name}: {self.base_url} cannot be reached ({_cause(error)}); "
                "start the server, or correct --base-url"
            ) from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._refusal(error) from error
        except Exception:  # a server without a list of models, or with one of another form
            return

    def check_budget(self, calls: int) -> None:
        """Refuse to begin what the budget will not see to its end."""
        left = None if self._budget.most is None else self._budget.most - self._budget.made
        if left is not None and calls > left:
            raise SalsaError(
                f"{self.name} needs {calls:,} calls, and --max-calls {self._budget.most} leaves "
                f"{left:,}; give at least {self._budget.made + calls}, and some more for retries"
            )

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        """One `Completion` a request, as they come.

        Raises:
            SalsaError: the server refuses the key or the model, nothing works any more, or the
                budget is used up; when the calls that were under way have come back.
        """
        stop = Event()
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            futures = [pool.submit(self._patiently, one, sampling, stop) for one in requests]
            end: SalsaError | None = None
            failures = 0
            for future in as_completed(futures):
                try:
                    completion = future.result()
                except CancelledError:
                    continue
                except SalsaError as error:
                    end = end or error
                else:
                    failures = 0 if completion.failure is None else failures + 1
                    yield completion
                    if failures == _FAILURES_IN_A_ROW:
                        end = end or _gave_up(self.name, completion)
                if end is not None and not stop.is_set():
                    stop.set()
                    for waiting in futures:
                        waiting.cancel()
            if end is not None:
                raise end
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _patiently(self, request: Request, sampling: JudgeSampling, stop: Event) -> Completion:
        pause = self._patience.pause
        reason = ""
        for number in range(1, self._patience.tries + 1):
            result = self._call(request, sampling)
            if not isinstance(result, _Failed):
                return Completion(request, text=result.text, cut=result.cut)
            reason = result.reason
            if not result.again or number == self._patience.tries:
                break
            # Spread over half to all of the pause, so that the calls do not come back as one.
            wait = pause * (0.5 + 0.5 * random.random()) if result.after is None else result.after
            if stop.wait(min(wait, _LONGEST_PAUSE)):
                break
            pause *= 2
        times = "" if number == 1 else f" ({number} tries)"
        return Completion(request, failure=f"{reason}{times}")

    def _call(self, request: Request, sampling: JudgeSampling) -> _Reply | _Failed:
        import openai

        self._budget.take()
        limit = self._limit
        try:
            completion = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": request.text}],
                temperature=sampling.temperature,
                extra_headers=self._headers,
                **{limit: sampling.max_tokens},
            )
        except openai.APITimeoutError:
            return _Failed(f"no answer within {self._patience.timeout:g} s", again=True)
        except openai.APIConnectionError as error:
            return _Failed(f"connection failed: {_cause(error)}", again=True)
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED or _field(error, "code") == "insufficient_quota":
                raise self._refusal(error) from error
            if _field(error, "param") == "temperature":
                raise SalsaError(
                    f"--judge {self.name}: {_said(error)}; give the --judge-temperature it takes"
                ) from error
            if _field(error, "param") == "max_tokens" and limit == "max_tokens":
                self._limit = "max_completion_tokens"
                return self._call(request, sampling)
            again = error.status_code in _RETRIED or error.status_code >= 500
            return _Failed(_said(error), again, _retry_after(error))
        except (openai.APIError, ValueError) as error:  # JSON that breaks off is a ValueError
            return _Failed(f"broken reply: {one_line(str(error))}", again=True)
        return _reply(completion)

    def _refusal(self, error: Any) -> SalsaError:
        return SalsaError(
            f"--judge {self.name}: {self.base_url} refuses: {_said(error)}; "
            f"check the model's name, --base-url and {KEY}"
        )


def _client(name: str, base_url: str, own_server: bool, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise SalsaError(f"--judge {name}: needs the openai package; pip install openai") from error
    key = os.environ.get(KEY)
    if not key and not own_server:
        raise SalsaError(
            f"--judge {name}: {KEY} is not set; set it, or name a server that needs no key "
            "with --base-url"
        )
    try:
        return openai.OpenAI(
            api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=0
        )
    except Exception as error:  # an address that is none
        raise SalsaError(f"--base-url {base_url}: {one_line(str(error))}") from error


def _headers() -> dict[str, Any]:
    """What a call's headers lack: without a key, the one that would hold it."""
    import openai

    return {} if os.environ.get(KEY) else {"Authorization": openai.Omit()}


def _gave_up(name: str, last: Completion) -> SalsaError:
    return SalsaError(
        f"{name}: {_FAILURES_IN_A_ROW} judgements in a row failed, the last one with: "
        f"{last.failure}; see to the server"
    )


def _reply(completion: object) -> _Reply | _Failed:
    """The text of a chat completion, without reasoning that the server returns apart from it."""
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    text = _text(getattr(message, "content", None)) if message is not None else None
    if text is None:
        return _Failed("broken reply: JSON, but no chat completion", again=True)
    return _Reply(text, cut=getattr(choice, "finish_reason", None) == "length")


def _text(content: object) -> str | None:
    """The text of a message's content: a text, nothing, or a list of typed parts.

    Of parts, those of type `text` count; Mistral's models send their reasoning as `thinking`.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts = (part.get("text") for part in content if _is_text(part))
    return "".join(text for text in texts if isinstance(text, str))


def _is_text(part: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(part, dict) and part.get("type") in ("text", "output_text")


def _cause(error: BaseException) -> str:
    """The innermost reason that says something."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(str(error) or type(error).__name__)


def _said(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    message = body.get("message") or str(error)
    return f"HTTP {error.status_code}: {one_line(str(message))}"


def _field(error: Any, name: str) -> object:
    return error.body.get(name) if isinstance(error.body, dict) else None


def _retry_after(error: Any) -> float | None:
    """Seconds that the server asked to wait, where it did in seconds."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, seconds)
