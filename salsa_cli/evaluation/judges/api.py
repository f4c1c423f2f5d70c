"""A judge behind an OpenAI-compatible API: several calls at a time, with retries.

We retry ourselves rather than let the client do it: every call counts against the budget, and a
broken reply (half a body, JSON of another kind) has to be retried like an overload.
"""

import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Event, Lock
from typing import Any, TypeGuard

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.evaluation.judges.writing import Completion, JudgeSampling, Request
from salsa_cli.evaluation.verdicts.verdict import NO_ANSWER
from salsa_cli.formatting import counted

KEY = "OPENAI_API_KEY"
DEFAULT_URL = "https://api.openai.com/v1"

_RETRIED = frozenset({408, 409, 425, 429})
_REFUSED = frozenset({401, 403, 404})
# How providers spell `length` and `content_filter` in `finish_reason`.
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "max_length", "model_length"})
_WITHHELD = frozenset(
    {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii"}
)
_LONGEST_PAUSE = 60.0
_ENDPOINT = "/chat/completions"
_VERSION = re.compile(r"/v\d+[a-z]*(/|$)")
_FAILURES_IN_A_ROW = 10


@dataclass(frozen=True)
class Patience:
    """How to retry a call that fails.

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
    """Calls that may be made, None for any number. Shared by threads."""

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
                raise SalsaError(f"--max-calls {self.most} is used up (retries count); increase it")
            self.made += 1


@dataclass(frozen=True)
class _Failed:
    """A failed call: why, whether to retry, and after how many seconds if the server said so."""

    reason: str
    again: bool
    after: float | None = None


@dataclass(frozen=True)
class _Reply:
    """The text of a chat completion; `cut` where the token limit ended it."""

    text: str
    cut: bool


class ApiWriter:
    """A model behind an API."""

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
        self.context: int | None = None
        """Longest prompt and judgement in tokens, where the server says so in its models."""

    @property
    def identity(self) -> str:
        """The model and the server that has it."""
        return f"{self.base_url} {self._model}"

    def check(self) -> None:
        """Check that a server answers; what it says of its models does not matter.

        Raises:
            SalsaError: nothing answers, it refuses the key, or the API is at `/v1` of the address.
        """
        import openai

        bare = self.base_url.rstrip("/")
        if bare.endswith(_ENDPOINT):
            raise SalsaError(
                f"--judge {self.name}: {self.base_url} is an endpoint, not a base URL; use "
                f"--base-url {bare.removesuffix(_ENDPOINT)}"
            )
        hurried = self._client.with_options(timeout=min(self._patience.timeout, 10.0))
        headers: dict[str, Any] = {"extra_headers": self._headers}
        try:
            listed = hurried.models.list(**headers)
            missing = not _is_list(listed)
            self.context = _context(listed, self._model)
        except openai.APIConnectionError as error:
            raise SalsaError(
                f"--judge {self.name}: {self.base_url} cannot be reached ({_cause(error)}); "
                "start the server, or fix --base-url"
            ) from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._refusal(error) from error
            missing = error.status_code == 404
        except Exception:  # a list of models of another form
            return
        if missing and (better := self._with_version()) is not None:
            try:
                found = _is_list(hurried.with_options(base_url=better).models.list(**headers))
            except Exception:
                return
            if found:
                raise SalsaError(
                    f"--judge {self.name}: no API found at {self.base_url}, but at {better}; use "
                    f"--base-url {better}"
                )

    def _with_version(self) -> str | None:
        """The address with the `/v1` that it lacks; None if it has one."""
        bare = self.base_url.rstrip("/")
        return None if _VERSION.search(bare) else f"{bare}/v1"

    def check_budget(self, calls: int) -> None:
        """Refuse to start if the budget does not allow all calls."""
        left = None if self._budget.most is None else self._budget.most - self._budget.made
        if left is not None and calls > left:
            raise SalsaError(
                f"{self.name} needs {counted(calls, 'call')}, and --max-calls "
                f"{self._budget.most} leaves "
                f"{left:,}; use at least {self._budget.made + calls}, plus some for retries"
            )

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        """One `Completion` per request, in order of completion.

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
        times = "" if number == 1 else f" ({number} attempts)"
        return Completion(request, failure=f"{reason}{times}")

    def _call(self, request: Request, sampling: JudgeSampling) -> _Reply | _Failed:
        import openai

        self._budget.take()
        limit = self._limit
        try:
            completion = self._client.chat.completions.create(
                model=self._model,
                messages=_messages(request),
                extra_headers=self._headers,
                **{limit: sampling.max_tokens, **_temperature(sampling)},
            )
        except openai.APITimeoutError:
            return _Failed(f"no answer within {self._patience.timeout:g} s", again=True)
        except openai.APIConnectionError as error:
            return _Failed(f"connection failed: {_cause(error)}", again=True)
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED or _field(error, "code") == "insufficient_quota":
                raise self._refusal(error) from error
            if sampling.temperature is not None and _is_about(error, "temperature"):
                raise SalsaError(
                    f"--judge {self.name}: {_said(error)}; set a --judge-temperature that it "
                    "accepts, or none to send none"
                ) from error
            if limit == "max_tokens" and _is_about(error, "max_tokens", "max_completion_tokens"):
                self._limit = "max_completion_tokens"
                return self._call(request, sampling)
            again = error.status_code in _RETRIED or error.status_code >= 500
            return _Failed(_said(error), again, _retry_after(error))
        except (openai.APIError, ValueError) as error:  # JSON that breaks off is a ValueError
            return _Failed(f"malformed reply: {one_line(str(error))}", again=True)
        return _reply(completion, sampling.max_tokens)

    def _refusal(self, error: Any) -> SalsaError:
        better = self._with_version() if error.status_code == 404 else None
        perhaps = f" (perhaps {better})" if better else ""
        return SalsaError(
            f"--judge {self.name}: {self.base_url} rejects the request: {_said(error)}; check the "
            f"model's name, --base-url{perhaps} and {KEY}"
        )


def _client(name: str, base_url: str, own_server: bool, timeout: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise SalsaError(
            f"--judge {name}: needs the openai package; run `pip install openai`"
        ) from error
    key = os.environ.get(KEY)
    if not key and not own_server:
        raise SalsaError(
            f"--judge {name}: {KEY} is not set; set it, or use --base-url with a server that needs "
            "no key"
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
        f"{last.failure}; check the server"
    )


def _messages(request: Request) -> list[dict[str, str]]:
    user = {"role": "user", "content": request.text}
    return (
        [user] if request.system is None else [{"role": "system", "content": request.system}, user]
    )


def _temperature(sampling: JudgeSampling) -> dict[str, float]:
    return {} if sampling.temperature is None else {"temperature": sampling.temperature}


def _is_list(listed: object) -> bool:
    """Whether a reply is a list of models, and no page that a web server has for any address."""
    return isinstance(getattr(listed, "data", None), list)


def _context(listed: object, model: str) -> int | None:
    """What vLLM and its kin say of a model's context, in tokens."""
    for one in getattr(listed, "data", None) or ():
        length = getattr(one, "max_model_len", None)
        if getattr(one, "id", None) == model and isinstance(length, int):
            return length
    return None


def _reply(completion: object, max_tokens: int) -> _Reply | _Failed:
    """The text of a chat completion, without reasoning that the server returns apart from it."""
    if isinstance(completion, str):
        what = "a web page" if "<html" in completion[:1000].lower() else "a text"
        if completion.lstrip().startswith("data:"):
            what = "a stream of events"
        return _Failed(f"malformed reply: {what}, not a chat completion", again=True)
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    if error := _error(completion) or getattr(choice, "error", None):
        return _error_in_reply(error)
    message = getattr(choice, "message", None)
    text = _text(getattr(message, "content", None)) if message is not None else None
    if text is None:
        return _Failed("malformed reply: JSON, but not a chat completion", again=True)
    finish = str(getattr(choice, "finish_reason", None)).lower()
    cut = finish in _CUT
    if refusal := getattr(message, "refusal", None):
        return _Failed(f"the judge refused: {one_line(_whole(str(refusal)))}", again=False)
    if finish in _WITHHELD:
        return _Failed("withheld by the provider's content filter", again=False)
    if not text and not cut and _has_reasoning(message):
        return _Failed(f"{NO_ANSWER} (--judge-tokens {max_tokens})", again=False)
    return _Reply(text, cut)


def _error(completion: object) -> object:
    return getattr(completion, "error", None) or getattr(completion, "detail", None)


def _error_in_reply(error: object) -> _Failed:
    """An error that came with HTTP 200, in the words of the provider."""
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    refused = isinstance(code, int) and 400 <= code < 500 and code not in _RETRIED
    words = one_line(_whole(str(fields.get("message") or error)))
    return _Failed(f"HTTP 200 with an error: {words}", again=not refused)


def _has_reasoning(message: object) -> bool:
    content = getattr(message, "content", None)
    fields = (getattr(message, name, None) for name in ("reasoning_content", "reasoning"))
    return any(fields) or isinstance(content, list)


def _text(content: object) -> str | None:
    """The text of a message's content: a text, nothing, or a list of typed parts.

    Of parts, those of type `text` count; Mistral's models send their reasoning as `thinking`.
    """
    if content is None or isinstance(content, str):
        return _whole(content or "")
    if not isinstance(content, list):
        return None
    texts = (part.get("text") for part in content if _is_text(part))
    return _whole("".join(text for text in texts if isinstance(text, str)))


def _is_text(part: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(part, dict) and part.get("type", "text") in ("text", "output_text")


def _whole(text: str) -> str:
    """The text with a replacement character for half of a surrogate pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cause(error: BaseException) -> str:
    """The innermost reason that says something."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(str(error) or type(error).__name__)


def _said(error: Any) -> str:
    return f"HTTP {error.status_code}: {one_line(_whole(_message(error)))}"


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    if isinstance(error.body, str) and "<html" in error.body[:1000].lower():
        return "a web page"
    return str(body.get("message") or body.get("detail") or error)


def _is_about(error: Any, *names: str) -> bool:
    """Whether the server refuses a parameter: by its name, or in its words."""
    param = _field(error, "param")
    if error.status_code not in (400, 422) or (param is not None and param not in names):
        return False
    return param in names or names[-1] in _message(error)


def _field(error: Any, name: str) -> object:
    return error.body.get(name) if isinstance(error.body, dict) else None


def _retry_after(error: Any) -> float | None:
    """Seconds to wait, which the server gave as a number or as a date; None if it gave none."""
    value = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
