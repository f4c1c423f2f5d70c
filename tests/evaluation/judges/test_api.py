"""The judge behind an API, against a server that misbehaves: nothing lost, nothing paid twice."""

import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from salsa_cli import evaluate
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import planning
from salsa_cli.evaluation.judges import wording
from salsa_cli.evaluation.judges.api import Patience
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.records import read_rows
from salsa_cli.runs.events import DryRun, Event, Note, silent
from tests.support import commands, servers, tiny
from tests.support.servers import Answer, Server
from tests.support.worlds import World

pytest.importorskip("openai", reason="the judge behind an API needs openai")

COUNT = 10
_REPLIES = re.compile(
    r"\[Reply of assistant A\]\n(.*)\n\n\[Reply of assistant B\]\n(.*)\n\n\[Your task\]", re.DOTALL
)


def taste(prompt: str) -> str:
    """The longer reply wins; as good as any other taste."""
    match = _REPLIES.search(prompt)
    assert match is not None
    a, b = len(match[1]), len(match[2])
    return f"A has {a} letters, B has {b}.\n[[{'A>B' if a > b else 'B>A' if b > a else 'A=B'}]]"


def healthy(prompt: str, number: int) -> Answer:
    return servers.chat(taste(prompt))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(planning, "Patience", partial(Patience, pause=0.01))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Ten questions, and the answers of three models to them."""
    rows = [{"question_id": i, "prompt": f"question {i}"} for i in range(COUNT)]
    lengths = {"x": lambda i: 3 + i % 4, "y": lambda i: 4 + i % 3, "z": lambda i: 5}
    made = {"prompts": tiny.write_rows(tmp_path / "prompts.jsonl", rows)}
    for name, length in lengths.items():
        answered = [{**row, "answer": name * length(i)} for i, row in enumerate(rows)]
        made[name] = tiny.write_rows(tmp_path / f"{name}.jsonl", answered)
    return made


def configure(files: dict[str, Path], server: Server | str, **changes: Any) -> EvalConfig:
    names = changes.pop("names", ("x", "y"))
    settings: dict[str, Any] = {
        "answers": tuple(f"{name}={files[name.split('-')[0]]}" for name in names),
        "prompts": str(files["prompts"]),
        "judge": ("openai:m",),
        "base_url": server if isinstance(server, str) else server.url,
        "output": files["prompts"].parent / "out",
        "timeout": 5.0,
        "draws": 100,
        "device": "cpu",
    }
    return EvalConfig(**{**settings, **changes})


def run(config: EvalConfig) -> EvalResult:
    result = evaluate.run(config, silent)
    assert isinstance(result, EvalResult)
    return result


def test_both_orders_are_judged(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        (pair,) = run(configure(files, server)).pairs
    assert (pair.a, pair.b, pair.judge, pair.invalid) == ("x", "y", "openai:m", 0)
    # By hand: x has 3 4 5 6 3 4 5 6 3 4 letters, y has 4 5 6 4 5 6 4 5 6 4.
    assert pair.win_rate == (3 + 0.5) / 10
    rows = read_rows(files["prompts"].parent / "out" / "judgments.jsonl")
    assert Counter(row["order"] for row in rows) == {"ab": 10, "ba": 10}
    assert [row["outcome"] for row in rows if row["order"] == "ab"] == [
        row["outcome"] for row in rows if row["order"] == "ba"
    ]
    assert len(server.prompts) == len(set(server.prompts)) == 20
    assert {body["model"] for body in server.bodies} == {"m"}
    assert {body["temperature"] for body in server.bodies} == {0}


FAULTS = {
    "429": servers.fault(429, "slow down", Retry_After="0"),
    "500": servers.fault(500),
    "503": Answer(b"down", 503),
    "half a body": servers.HALF,
    "half a JSON": servers.HALF_JSON,
    "other JSON": servers.OTHER_JSON,
    "a list": servers.LIST,
    "a page": servers.HTML,
    "an error with 200": servers.ERROR_IN_200,
    "never": servers.NEVER,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_asked_again_and_changes_nothing(files: dict[str, Path], kind: str) -> None:
    def faulty(prompt: str, number: int) -> Answer:
        hit = "question 3\n" in prompt or "question 7\n" in prompt
        return FAULTS[kind] if hit and number == 0 else healthy(prompt, number)

    with servers.serving(faulty) as server:
        (pair,) = run(configure(files, server, timeout=0.5)).pairs
    assert (pair.win_rate, pair.n, pair.invalid) == (0.35, 10, 0)
    asked = Counter(server.prompts)
    assert len(asked) == 20 and Counter(asked.values()) == {1: 16, 2: 4}


@pytest.mark.parametrize("text", ["", None, "I cannot decide.", "[[A>B]] or [[B>A]]"])
def test_a_judgement_without_verdict_is_asked_for_once_more(
    files: dict[str, Path], text: str | None
) -> None:
    def vague(prompt: str, number: int) -> Answer:
        first = "question 3\n" in prompt and wording.REMINDER not in prompt
        return servers.chat(text) if first else healthy(prompt, number)

    with servers.serving(vague) as server:
        (pair,) = run(configure(files, server)).pairs
    assert (pair.win_rate, pair.n, pair.invalid) == (0.35, 10, 0)
    assert len(server.prompts) == 22
    reminded = [prompt for prompt in server.prompts if prompt.endswith(wording.REMINDER)]
    assert len(reminded) == 2


CUT_TEXTS = [
    "<think>Perhaps [[B>A]] at first; but then I",
    "A is right, so [[A>B]] and",
    "[[A>B]]",
]


@pytest.mark.parametrize(
    ("text", "finish"),
    [
        *((text, "length") for text in CUT_TEXTS),
        *((CUT_TEXTS[-1], name) for name in ("max_tokens", "MAX_TOKENS", "model_length")),
    ],
)
def test_a_judgement_that_was_cut_is_no_verdict(
    files: dict[str, Path], text: str, finish: str
) -> None:
    patient = False

    def cut(prompt: str, number: int) -> Answer:
        short = "question 3\n" in prompt and not patient
        return servers.chat(text, finish=finish) if short else healthy(prompt, number)

    out = files["prompts"].parent / "out"
    with servers.serving(cut) as server:
        config = configure(files, server, judge_tokens=9)
        with pytest.raises(SalsaError, match=r"\(2 times: cut at --judge-tokens 9\)") as caught:
            run(config)
        assert "--resume requests the missing ones again, with a larger --judge-tok" in str(
            caught.value
        )
        assert len(server.prompts) == 20  # under the same limit, another try would be cut again
        assert len(read_rows(out.with_name("out.partial") / "judge_texts.jsonl")) == 18
        with pytest.raises(SalsaError, match="judge_tokens was 9, is 8"):
            run(replace(config, resume=True, judge_tokens=8))
        patient = True
        (pair,) = run(replace(config, resume=True, judge_tokens=10)).pairs
        # The 18 that had ended before the smaller limit are not paid for again.
        assert (pair.win_rate, pair.invalid, len(server.prompts)) == (0.35, 0, 22)


def thinking(text: str) -> list[Answer]:
    """One judgement, as servers of reasoning models send it."""
    other = "Perhaps [[B>>A]]?"
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": other}]}
    return [
        servers.chat(f"<think>{other}</think>{text}"),
        servers.chat(text, reasoning_content=other),
        servers.chat(text, reasoning=other),
        servers.chat([thought, {"type": "text", "text": text}]),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_thinking_is_no_part_of_a_judgement(files: dict[str, Path], kind: int) -> None:
    with servers.serving(lambda prompt, number: thinking(taste(prompt))[kind]) as server:
        (pair,) = run(configure(files, server)).pairs
    assert (pair.win_rate, pair.invalid, len(server.prompts)) == (0.35, 0, 20)


def test_a_store_of_earlier_versions_is_not_paid_for_again(files: dict[str, Path]) -> None:
    cache = files["prompts"].with_name("cache.jsonl")
    with servers.serving(healthy) as server:
        run(configure(files, server, cache=cache))
        plan = planning.prepare(configure(files, server, output=cache.with_name("plan")))
        tasks = planning.tasks(
            plan.apis["openai:m"], plan, plan.given, configure(files, server, cache=cache)
        )
        keys = {task.request.key: task.request.legacy_key for task in tasks if task.request}
        rows = [
            {"key": keys[row["key"]], "judge": row["judge"], "text": row["text"]}
            for row in read_rows(cache)
        ]
        tiny.write_rows(cache, rows)
        run(configure(files, server, cache=cache, output=cache.with_name("again")))
        assert len(server.prompts) == 20


def test_what_stays_unread_is_invalid_and_no_loss(files: dict[str, Path]) -> None:
    def stubborn(prompt: str, number: int) -> Answer:
        return servers.chat("pass") if "question 3\n" in prompt else healthy(prompt, number)

    out = files["prompts"].parent / "out"
    with servers.serving(stubborn) as server:
        (pair,) = run(configure(files, server, max_invalid=0.1)).pairs
        assert (pair.n, pair.invalid, len(server.prompts)) == (9, 1, 22)
        # Question 3 was a win of x: 2 wins and a tie of 9 are left.
        assert pair.wins == 2 and pair.win_rate == pytest.approx(2.5 / 9)
        invalid = [row for row in read_rows(out / "judgments.jsonl") if "invalid" in row]
        assert [(row["question"], row["text"]) for row in invalid] == [("3", "pass")] * 2
        assert {row["invalid"] for row in invalid} == {"no verdict found"}
        assert len(read_rows(out / "judge_texts.jsonl")) == 18


def test_too_many_failures_end_the_command_and_are_asked_again_later(
    files: dict[str, Path],
) -> None:
    broken = True

    def down(prompt: str, number: int) -> Answer:
        return servers.fault(500) if broken and "question 3\n" in prompt else healthy(prompt, 0)

    config = configure(files, "", tries=2)
    with servers.serving(down) as server:
        config = configure(files, server, tries=2)
        with pytest.raises(SalsaError) as caught:
            run(config)
        message = str(caught.value)
        assert "openai:m: 2 of 20 judgements of x against y are invalid" in message
        assert "(2 times: HTTP 500: no (2 attempts))" in message
        # 2 wins and a tie of 18 verdicts stand; the two others may be losses or wins.
        assert "the win rate is between 25.0% and 35.0%" in message
        assert "--max-invalid 0.05" in message and "--resume" in message
        assert not config.output.exists() and len(server.prompts) == 22
        broken = False
        with pytest.raises(
            SalsaError, match=r"contains an unfinished run \(.*; continue it with --resume"
        ):
            run(config)
        (pair,) = run(configure(files, server, tries=2, resume=True)).pairs
        assert (pair.win_rate, pair.n, pair.invalid) == (0.35, 10, 0)
        # The 18 that were had are not asked for again.
        assert len(server.prompts) == 24


@pytest.mark.parametrize("param", ["max_tokens", None])
def test_a_model_that_knows_max_completion_tokens_only(
    files: dict[str, Path], param: str | None
) -> None:
    with servers.serving(healthy) as server:

        def modern(prompt: str, number: int) -> Answer:
            if any("max_tokens" in body for body in server.bodies[-1:]):
                return servers.fault(400, "Use 'max_completion_tokens' instead.", param)
            return healthy(prompt, number)

        server.behaviour = modern
        (pair,) = run(configure(files, server, concurrency=1, tries=1)).pairs
    assert (pair.win_rate, pair.invalid, len(server.bodies)) == (0.35, 0, 21)
    assert {body.get("max_completion_tokens") for body in server.bodies[1:]} == {2048}


@pytest.mark.parametrize("param", ["temperature", None])
def test_a_model_that_refuses_a_temperature(files: dict[str, Path], param: str | None) -> None:
    def strict(prompt: str, number: int) -> Answer:
        if "temperature" in server.bodies[-1]:
            return servers.fault(400, "'temperature' does not support 0, only the default.", param)
        return healthy(prompt, number)

    with servers.serving(strict) as server:
        words = "only the default.; set a --judge-temperature that it accepts, or none to send none"
        with pytest.raises(SalsaError, match=re.escape(words)):
            run(configure(files, server, concurrency=1))
        (pair,) = run(configure(files, server, concurrency=1, judge_temperature="none")).pairs
    assert (pair.win_rate, pair.invalid) == (0.35, 0)


def test_none_is_no_temperature_of_a_local_judge(files: dict[str, Path], world: World) -> None:
    with pytest.raises(UsageError, match="an hf: judge needs a number"):
        run(configure(files, "", base_url=None, judge=(f"hf:{world.a}",), judge_temperature="none"))


REFUSED = {
    "the judge refused: I cannot judge this.": servers.chat(None, refusal="I cannot judge this."),
    "withheld by the provider's content filter": servers.chat("", finish="content_filter"),
    "no answer after its reasoning (--judge-tokens 2048)": servers.chat("", reasoning="So A"),
    "HTTP 200 with an error: no credit": Answer(
        b'{"error": {"message": "no credit", "code": 402}}'
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_judgement_is_named_and_not_asked_for_again(
    files: dict[str, Path], reason: str
) -> None:
    def shy(prompt: str, number: int) -> Answer:
        return REFUSED[reason] if "question 3\n" in prompt else healthy(prompt, number)

    with servers.serving(shy) as server:
        (pair,) = run(configure(files, server, max_invalid=0.5)).pairs
    assert (pair.n, dict(pair.reasons), len(server.prompts)) == (9, {reason: 2}, 20)


def test_parts_without_an_answer_name_the_limit(files: dict[str, Path]) -> None:
    thought = servers.chat([{"type": "thinking", "thinking": [{"type": "text", "text": "[[A]]"}]}])
    with (
        servers.serving(lambda prompt, number: thought) as server,
        pytest.raises(SalsaError, match=r"no answer after its reasoning .*judge-tokens 2048"),
    ):
        run(configure(files, server, concurrency=1))


def test_a_web_page_is_called_one(files: dict[str, Path]) -> None:
    with (
        servers.serving(lambda prompt, number: servers.HTML) as server,
        pytest.raises(SalsaError, match="malformed reply: a web page, not a chat completion"),
    ):
        run(configure(files, server, tries=1, concurrency=1))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'data: {"id": "c"}\n\ndata: [DONE]\n\n', "a stream of events, not a chat completion"),
        (b'{"detail": "model is loading"}', "HTTP 200 with an error: model is loading"),
    ],
)
def test_other_replies_are_named(files: dict[str, Path], body: bytes, words: str) -> None:
    kind = "text/event-stream" if body.startswith(b"data") else "application/json"
    answer = Answer(body, headers={"Content-Type": kind})
    with (
        servers.serving(lambda prompt, number: answer) as server,
        pytest.raises(SalsaError, match=words),
    ):
        run(configure(files, server, tries=1, concurrency=1))


def test_an_address_of_the_endpoint(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        words = f"is an endpoint, not a base URL; use --base-url {server.url}"
        with pytest.raises(SalsaError, match=re.escape(words) + "$"):
            run(configure(files, f"{server.url}/chat/completions"))
        assert server.prompts == []


def test_an_address_without_its_version(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        bare = server.url.removesuffix("/v1")
        words = f"no API found at {bare}, but at {server.url}; use --base-url"
        with pytest.raises(SalsaError, match=re.escape(words)):
            run(configure(files, bare))
        assert server.prompts == []


def test_the_servers_pause_may_be_a_date(files: dict[str, Path]) -> None:
    def busy(prompt: str, number: int) -> Answer:
        soon = formatdate(time.time() + 2, usegmt=True)
        hit = "question 3\n" in prompt and number == 0
        return servers.fault(429, Retry_After=soon) if hit else healthy(prompt, number)

    began = time.monotonic()
    with servers.serving(busy) as server:
        (pair,) = run(configure(files, server)).pairs
    # A date has whole seconds: two from now are at least one.
    assert (pair.invalid, len(server.prompts)) == (0, 22) and time.monotonic() - began >= 1.0


def test_half_a_letter_in_a_judgement_is_replaced(files: dict[str, Path]) -> None:
    def broken(prompt: str, number: int) -> Answer:
        return servers.chat("\ud83d " + taste(prompt))

    with servers.serving(broken) as server:
        (pair,) = run(configure(files, server)).pairs
    assert (pair.win_rate, pair.invalid) == (0.35, 0)
    rows = read_rows(files["prompts"].parent / "out" / "judgments.jsonl")
    assert rows[0]["text"].startswith("\ufffd ")


def test_two_turns_are_judged_after_one_another(tmp_path: Path) -> None:
    rows = [{"question_id": i, "category": "math", "turns": ["one", "two"]} for i in range(3)]
    rows[0]["reference"] = ["RIGHT1", "RIGHT2"]
    files = {"prompts": tiny.write_rows(tmp_path / "prompts.jsonl", rows)}
    for name in ("x", "y"):
        turns = [name * 4, name * (5 if name == "x" else 6)]
        answered = [{"question_id": i, "choices": [{"turns": turns}]} for i in range(3)]
        files[name] = tiny.write_rows(tmp_path / f"{name}.jsonl", answered)
    with servers.serving(healthy) as server:
        (pair,) = run(configure(files, server)).pairs
    judged = read_rows(tmp_path / "out" / "judgments.jsonl")
    assert {(row.get("turn", 1), row["outcome"]) for row in judged} == {(1, 0.5), (2, 0.0)}
    assert {row["category"] for row in judged} == {"math"}
    # A tie in the first turn and a loss in the second: a quarter of each question.
    assert (pair.win_rate, len(judged)) == (0.25, 12)
    assert len(server.prompts) == 8  # two questions are the same to the judge
    assert sum("RIGHT1" in p for p in server.prompts) == 4
    assert sum("RIGHT2" in p for p in server.prompts) == 2


def test_a_server_that_fails_throughout_is_given_up(files: dict[str, Path]) -> None:
    with servers.serving(lambda prompt, number: servers.fault(500, "boom")) as server:
        config = configure(files, server, tries=2, concurrency=1)
        with pytest.raises(SalsaError, match=r"10 judgements in a row failed, .*HTTP 500: boom"):
            run(config)
        # Ten were asked for, twice each; one more may have begun.
        assert 20 <= len(server.prompts) <= 22
    assert not list(config.output.parent.glob("out*"))


def test_a_server_that_fails_now_and_then_is_not_given_up(files: dict[str, Path]) -> None:
    def flaky(prompt: str, number: int) -> Answer:
        even = re.search(r"question [02468]\n", prompt)
        return servers.fault(500) if even else healthy(prompt, number)

    with servers.serving(flaky) as server:
        config = configure(files, server, tries=1, concurrency=1, max_invalid=1.0)
        (pair,) = run(config).pairs
    assert (pair.n, pair.invalid, len(server.prompts)) == (5, 5, 20)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_it_at_once(files: dict[str, Path], status: int) -> None:
    with servers.serving(lambda prompt, number: servers.fault(status, "no such model")) as server:
        with pytest.raises(
            SalsaError, match=f"rejects the request: HTTP {status}: no such model; check the"
        ):
            run(configure(files, server, concurrency=2))
        assert len(server.prompts) <= 4


def test_a_judgement_too_long_for_the_server_is_one_failure(files: dict[str, Path]) -> None:
    def narrow(prompt: str, number: int) -> Answer:
        too_long = "question 3\n" in prompt
        return servers.fault(400, "context length") if too_long else healthy(prompt, number)

    with servers.serving(narrow) as server:
        (pair,) = run(configure(files, server, max_invalid=0.5)).pairs
        assert (pair.n, pair.invalid, len(server.prompts)) == (9, 1, 20)


def test_the_forecast_and_the_most_calls(files: dict[str, Path]) -> None:
    events: list[Event] = []
    with servers.serving(healthy) as server:
        config = configure(files, server, max_calls=19, price=(1000.0, 0.0))
        with pytest.raises(SalsaError, match=r"needs 20 calls, and --max-calls 19 leaves 19"):
            evaluate.run(config, events.append)
        assert server.prompts == []
        run(configure(files, server, max_calls=20))
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert re.match(
        r"openai:m: 20 calls to make, 0 judgements stored; about \d,\d{3} tokens in, "
        r"at most 40,960 out, together about \$\d\.\d\d$",
        note,
    )


def test_retries_count_as_calls(files: dict[str, Path]) -> None:
    def faulty(prompt: str, number: int) -> Answer:
        return servers.fault(500) if number == 0 else healthy(prompt, number)

    with servers.serving(faulty) as server:
        with pytest.raises(SalsaError, match="--max-calls 25 is used up \\(retries count\\)"):
            run(configure(files, server, max_calls=25, concurrency=2))
        assert len(server.prompts) == 25
        (pair,) = run(configure(files, server, resume=True)).pairs
        assert pair.win_rate == 0.35
        assert len(server.prompts) == 40 and Counter(server.prompts).most_common(1)[0][1] == 2


def test_a_judge_that_cannot_be_reached(files: dict[str, Path]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(
        SalsaError, match=r"--judge openai:m: http://.* cannot be reached \(.*refused"
    ):
        run(configure(files, url))
    with pytest.raises(SalsaError, match="cannot be reached"):
        run(configure(files, url, dry_run=True))


def test_a_judge_without_key(files: dict[str, Path]) -> None:
    with pytest.raises(SalsaError, match="OPENAI_API_KEY is not set; set it, or use --base-url"):
        run(configure(files, "", base_url=None))


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with servers.serving(healthy) as server:
        run(configure(files, server))
    assert server.keys == server.keys_at_check == {"Bearer sk-secret"}
    written = [path for path in (files["prompts"].parent / "out").rglob("*") if path.is_file()]
    assert len(written) >= 6
    assert not any(b"sk-secret" in path.read_bytes() for path in written)


def test_without_a_key_none_is_sent(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        run(configure(files, server))
    assert server.keys == {None} and server.keys_at_check == {None}


def test_the_models_turned_round_and_a_model_against_itself(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        out = files["prompts"].parent
        (yx,) = run(configure(files, server, names=("y", "x"), output=out / "yx")).pairs
        (xy,) = run(configure(files, server, output=out / "xy")).pairs
        assert yx.win_rate == 1 - xy.win_rate
        asked = len(server.prompts)
        (xx,) = run(configure(files, server, names=("x", "x-2"), output=out / "xx")).pairs
        assert (xx.win_rate, xx.ties) == (0.5, 10)
        assert len(server.prompts) == asked  # equal answers tie, and need no judge


def test_only_the_pairs_of_the_baseline_are_asked_for(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        config = configure(files, server, names=("x", "y", "z"), baseline="y")
        facts = evaluate.run(replace(config, dry_run=True), silent)
        assert isinstance(facts, DryRun) and facts.facts["judgements to request"] == 40
        result = run(config)
        assert [(row.a, row.b) for row in result.pairs] == [("x", "y"), ("z", "y")]
        assert len(server.prompts) == 40 == len(set(server.prompts))


def test_only_the_given_order(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        (pair,) = run(configure(files, server, orders="given")).pairs
        assert (pair.n, len(server.prompts)) == (10, 10)


def test_single_grading(files: dict[str, Path]) -> None:
    def grade(prompt: str, number: int) -> Answer:
        return servers.chat("[[8]]" if "xxx" in prompt else "[[6.5]]")

    with servers.serving(grade) as server:
        result = run(configure(files, server, grading="single"))
        assert len(server.prompts) == 20 and result.pairs == ()
    assert [(row.model, row.score, row.n) for row in result.scores] == [
        ("x", 8.0, 10),
        ("y", 6.5, 10),
    ]


def test_fastchats_wording_is_asked_and_named(files: dict[str, Path]) -> None:
    def judge(prompt: str, number: int) -> Answer:
        a, b = (prompt.split(f"Assistant {side}'s Answer]\n")[1].split("\n")[0] for side in "AB")
        winner = "A" if len(a) > len(b) else "B" if len(b) > len(a) else "C"
        return servers.chat(f"So: [[{winner}]]")

    with servers.serving(judge) as server:
        result = run(configure(files, server, judge_prompt="fastchat"))
    assert result.pairs[0].win_rate == 0.35
    assert {tuple(m["role"] for m in body["messages"]) for body in server.bodies} == {
        ("system", "user")
    }
    words = "Prompt of the LLM judges: FastChat's (pair-v2 and its kin)."
    assert result.remarks == (words,)
    report = (files["prompts"].parent / "out" / "report.html").read_text()
    assert "FastChat&#x27;s (pair-v2 and its kin)" in report


def test_several_calls_are_under_way_at_once(files: dict[str, Path]) -> None:
    with servers.serving(healthy, seconds=0.05) as server:
        run(configure(files, server, concurrency=3))
        assert 1 < server.most_at_once <= 3


def test_a_cache_between_runs(files: dict[str, Path]) -> None:
    folder = files["prompts"].parent
    cache = folder / "cache.jsonl"
    with servers.serving(healthy) as server:
        config = configure(files, server, cache=cache, output=folder / "two")
        run(config)
        three = run(configure(files, server, cache=cache, names=("x", "y", "z")))
        assert len(three.pairs) == 3
        asked = len(server.prompts)
        assert asked == 60 == len(set(server.prompts))
        # Another judge, temperature or length is another judgement; so is another seed, where the
        # judge samples.
        for number, (changes, calls) in enumerate(
            [
                ({"judge": ("openai:n",)}, 20),
                ({"judge_tokens": 9}, 20),
                ({"seed": 1}, 0),
                ({"judge_temperature": 0.5}, 20),
                ({"judge_temperature": 0.5, "seed": 1}, 20),
            ]
        ):
            run(configure(files, server, cache=cache, output=folder / str(number), **changes))
            asked += calls
            assert len(server.prompts) == asked


def test_killed_and_resumed_no_verdict_is_paid_for_twice(files: dict[str, Path]) -> None:
    folder = files["prompts"].parent
    store = folder / "out.partial" / "judge_texts.jsonl"
    # Seven calls are answered; the next two, all that --concurrency 2 allows, get no answer before
    # the kill. So there is one state to kill the command in, however slow the machine is.
    answered, calls, killed = 7, count(), threading.Event()
    under_way = threading.Semaphore(0)

    def until_killed(prompt: str, number: int) -> Answer:
        if next(calls) >= answered and not killed.is_set():
            under_way.release()
            killed.wait(120)
        return healthy(prompt, number)

    with servers.serving(until_killed) as server:
        command = [
            *("eval", "--prompts", files["prompts"]),
            *("--answers", f"x={files['x']}", "--answers", f"y={files['y']}"),
            *("--judge", "openai:m", "--base-url", server.url, "--concurrency", "2"),
            *("--device", "cpu", "-o", folder / "out"),
        ]
        process = commands.Command(*command)
        assert under_way.acquire(timeout=120) and under_way.acquire(timeout=120)
        while not (store.exists() and store.read_bytes().count(b"\n") == answered):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed.set()
        had = {row["key"] for row in read_rows(store)}
        before = len(server.prompts)
        assert (len(had), before) == (answered, answered + 2)
        done = commands.run(*command, "--resume", "--json")
        assert done.returncode == 0, done.stderr
        after = server.prompts[before:]
    assert "13 calls to make, 7 judgements stored" in done.stderr
    # Only what was under way at the kill is asked for again.
    assert Counter(Counter(server.prompts).values()) == {1: 18, 2: 2}
    assert len(after) == len(set(after)) == 13
    keys = [row["key"] for row in read_rows(folder / "out" / "judge_texts.jsonl")]
    assert len(keys) == len(set(keys)) == 20 and had < set(keys)
    assert '"win_rate": 0.35' in done.stdout


def test_a_resumed_run_must_be_the_same(files: dict[str, Path]) -> None:
    def partly(prompt: str, number: int) -> Answer:
        return servers.fault(500) if "question 3\n" in prompt else healthy(prompt, number)

    with servers.serving(partly) as server:
        with pytest.raises(SalsaError, match="are invalid"):
            run(configure(files, server, tries=1))
        with pytest.raises(SalsaError, match=r"judge_tokens was 2048, is 5\. Resume with the same"):
            run(configure(files, server, tries=1, resume=True, judge_tokens=5))
        files["x"].write_text(files["x"].read_text() + "\n")
        with pytest.raises(SalsaError, match="other inputs: answers was"):
            run(configure(files, server, tries=1, resume=True))


def test_names_with_slashes_and_in_other_case(files: dict[str, Path]) -> None:
    given = (f"org/X={files['x']}", f"ORG/x={files['y']}", f"org--X={files['z']}")
    with servers.serving(healthy) as server:
        result = run(configure(files, server, answers=given, baseline="org--X"))
    assert [(row.a, row.b) for row in result.pairs] == [("org/X", "org--X"), ("ORG/x", "org--X")]
    folder = files["prompts"].parent
    assert sorted(path.name for path in (folder / "out" / "answers").iterdir()) == [
        "ORG--x-2.jsonl",
        "org--X-3.jsonl",
        "org--X.jsonl",
    ]
    # What a message says to give is taken.
    again = configure(
        files, server, answers=(given[0], f"org/X={files['y']}"), output=folder / "two"
    )
    with pytest.raises(UsageError, match="for example --answers org/X-2=") as caught:
        run(again)
    advice = str(caught.value).split("--answers ")[1]
    with servers.serving(healthy) as server:
        run(configure(files, server, answers=(given[0], advice), output=folder / "two"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ("x",)}, "compares two models; found 1. --grading single"),
        ({"judge": ("openai:m", "openai:m")}, "--judge openai:m is given twice"),
        ({"names": ("x", "x")}, "two models are called 'x'"),
        ({"answers": ("x",)}, "--answers x: expected NAME=FILE"),
        ({"answers": ()}, "missing MODEL; expected MODEL... or --answers"),
        ({"price": (1.0,)}, "--price has 1 numbers; expected IN,OUT"),
        ({"judge": ("openai:",)}, "expected rm:MODEL for a reward model, openai:MODEL"),
    ],
)
def test_bad_input(files: dict[str, Path], changes: dict[str, Any], words: str) -> None:
    with servers.serving(healthy) as server, pytest.raises(UsageError, match=words):
        run(configure(files, server, **changes))


def test_options_without_effect(files: dict[str, Path]) -> None:
    taste_file = files["prompts"].with_name("taste.py")
    taste_file.write_text("def score(prompts, answers):\n    return [len(a) for a in answers]\n")
    judge = (f"python:{taste_file}:score",)
    with pytest.raises(UsageError, match="--base-url has no effect without an openai: judge"):
        run(configure(files, "http://x", judge=judge))
    with pytest.raises(UsageError, match="--price has no effect without an openai: or hf: judge"):
        run(configure(files, "", base_url=None, judge=judge, price=(1.0, 1.0)))


def test_the_dry_run_says_what_the_run_would_take(files: dict[str, Path]) -> None:
    events: list[Event] = []
    cache = files["prompts"].parent / "cache.jsonl"
    with servers.serving(healthy) as server:
        config = configure(files, server, dry_run=True, price=(1e6, 1e3), cache=cache)
        foreseen = evaluate.run(config, silent)
        assert isinstance(foreseen, DryRun)
        facts = foreseen.facts
        assert server.prompts == [] and not cache.exists()
        evaluate.run(replace(config, dry_run=False), events.append)
        tokens = sum(len(prompt.encode()) for prompt in server.prompts) // 4
        assert facts["judgements to request"] == facts["API calls"] == 20
        assert (facts["tokens in, about"], facts["tokens out, at most"]) == (tokens, 20 * 2048)
        assert facts["dollars, about"] == tokens + 40.96
        assert facts["estimate"] == "4 bytes a token, judgements of 2048 tokens each"
        (note,) = [event.text for event in events if isinstance(event, Note)]
        assert f"about {tokens:,} tokens in" in note
        # A cache that a kill broke in its last row is read, and stays as it is.
        broken = cache.read_bytes()[:-5]
        cache.write_bytes(broken)
        again = evaluate.run(replace(config, output=cache.with_name("again")), silent)
        assert isinstance(again, DryRun)
        assert (again.facts["judgements to request"], again.facts["judgements stored"]) == (1, 19)
        assert cache.read_bytes() == broken and len(server.prompts) == 20


def test_the_dry_run_counts_answers_yet_to_come_at_their_longest(
    world: World, files: dict[str, Path]
) -> None:
    with servers.serving(healthy) as server:
        config = configure(files, server, models=(str(world.a),), names=("x",), dry_run=True)
        sizes = []
        for length in (100, 200):
            foreseen = evaluate.run(replace(config, response_length=length), silent)
            assert isinstance(foreseen, DryRun)
            assert foreseen.facts["judgements to request"] == 20
            assert str(foreseen.facts["estimate"]).endswith("generated at their maximum length")
            sizes.append(int(str(foreseen.facts["tokens in, about"])))
        assert sizes[1] - sizes[0] == 20 * 100


def test_the_dry_run_says_what_does_not_fit_the_judge(files: dict[str, Path]) -> None:
    with servers.serving(healthy) as server:
        server.models = [{"id": "m", "object": "model", "max_model_len": 2048 + 100}]
        foreseen = evaluate.run(configure(files, server, dry_run=True), silent)
        assert isinstance(foreseen, DryRun)
        assert foreseen.facts["too long for openai:m (context 2,148 tokens), about"] == 20
        server.models[0]["max_model_len"] = 4096
        foreseen = evaluate.run(configure(files, server, dry_run=True), silent)
        assert isinstance(foreseen, DryRun)
        assert not any("too long" in name for name in foreseen.facts)


def test_the_cache_is_in_the_record(files: dict[str, Path]) -> None:
    cache = files["prompts"].with_name("cache.jsonl")
    with servers.serving(healthy) as server:
        run(configure(files, server, cache=cache))
    made = json.loads((files["prompts"].parent / "out" / "salsa.json").read_text())
    assert made["settings"]["cache"] == str(cache)


def test_a_grade_of_nought_is_named(files: dict[str, Path]) -> None:
    with servers.serving(lambda prompt, number: servers.chat("[[0]]")) as server:
        result = run(configure(files, server, grading="single", max_invalid=1.0))
    assert dict(result.scores[0].reasons) == {"grade 0 is not between 1 and 10": 10}
    text = result.summary()[0] + (files["prompts"].parent / "out" / "report.html").read_text()
    assert "nan" not in text


def test_the_dry_run_refuses_what_the_run_would(files: dict[str, Path]) -> None:
    words = "needs 20 calls, and --max-calls 19 leaves 19"
    with servers.serving(healthy) as server, pytest.raises(SalsaError, match=words):
        run(configure(files, server, dry_run=True, max_calls=19))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"rubbish", r"cache\.jsonl, line 1: malformed JSON: Expecting value at line 1, column 1"),
        (b'{"a": 1}', r"cache\.jsonl, line 1: not a stored judgement; its columns are a; expected"),
    ],
)
def test_a_cache_of_something_else(files: dict[str, Path], line: bytes, words: str) -> None:
    cache = files["prompts"].with_name("cache.jsonl")
    cache.write_bytes(line + b"\n")
    with servers.serving(healthy) as server, pytest.raises(SalsaError, match=words):
        run(configure(files, server, cache=cache, dry_run=True))


def test_a_cache_that_cannot_be(files: dict[str, Path]) -> None:
    folder = files["prompts"].parent
    for cache, words in (
        (folder, "a folder; expected a file"),
        (folder / "none" / "c.jsonl", r"none is not a folder; create it first"),
    ):
        with servers.serving(healthy) as server, pytest.raises(UsageError, match=words):
            run(configure(files, server, cache=cache))
