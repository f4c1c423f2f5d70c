"""The client of a vLLM server, against a stand-in that is right or wrong as a test says."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from salsa_cli.errors import SalsaError
from salsa_cli.generation import vllm, vllm_http
from salsa_cli.generation.vllm_model import ServedModel
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.models.loading import LanguageModel
from tests.support import stand_in
from tests.support.stand_in import Reply, StandIn, told
from tests.support.worlds import World

PROMPTS = [[4, 6, 9], [5], [7, 8], [4, 7, 10, 11, 12]]
SEEDS = [3, 2**63 - 1, 0, 17]
LENGTH = 8
INFO = "/server_info?config_format=json"


@pytest.fixture(scope="module")
def policy(world: World) -> LanguageModel:
    return loading.load_language_model(world.a, Placement(torch.float32, torch.device("cpu")))


def ask(server: StandIn, policy: LanguageModel, **changes: Any) -> vllm.Drawn:
    given: dict[str, Any] = {"prompts": PROMPTS, "seeds": SEEDS, **changes}
    patience = given.pop("patience", vllm.PATIENCE)
    options = {"length": given.pop("length", LENGTH), "temperature": given.pop("temperature", 0.7)}
    found = vllm.connect(server.url, patience)
    return found.answers(policy, given["prompts"], given["seeds"], **options)


def rows(drawn: vllm.Drawn) -> list[list[int]]:
    return drawn.ids.tolist()


def test_each_prompt_gets_its_answer_with_the_log_probabilities_of_its_tokens(
    world: World, policy: LanguageModel
) -> None:
    with stand_in.serving(world.a) as server:
        drawn = ask(server, policy)
    assert len(drawn.ids) == len(PROMPTS) and drawn.ids.shape == drawn.logprobs.shape
    for prompt, ids, found in zip(PROMPTS, drawn.ids.tolist(), drawn.logprobs, strict=True):
        logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1)[range(len(ids)), ids]
        ends = [place + 1 for place, token in enumerate(ids) if token in policy.eos_ids]
        length = ends[0] if ends else LENGTH
        # float32 here, float64 of float32 logits there
        torch.testing.assert_close(found[:length], expected[:length], atol=1e-5, rtol=0)
        assert not found[length:].any()
        assert set(ids[length:]) <= {policy.pad_id}


def test_an_answer_is_its_seeds(world: World, policy: LanguageModel) -> None:
    with stand_in.serving(world.a) as server:
        same = rows(ask(server, policy, prompts=[[4, 6]] * 6, seeds=[1, 2, 3, 4, 5, 1]))
        assert same[0] == same[5] and len(set(map(tuple, same))) > 2
        assert rows(ask(server, policy, prompts=[[4, 6]] * 2, seeds=[5, 3])) == [same[4], same[2]]
    assert sorted(body["seed"] for body in server.bodies("/v1/completions"))[-2:] == [5, 5]


def test_several_answers_of_a_prompt_are_one_request(world: World, policy: LanguageModel) -> None:
    """The seed of each is one more than that before it, whatever order they arrive in."""
    with stand_in.serving(world.a) as server:
        found = vllm.connect(server.url)
        options: dict[str, Any] = {"length": LENGTH, "temperature": 0.7}
        together = found.answers(policy, [[4, 6], [5]], [20, 7], samples=3, **options)
        assert len(server.bodies("/v1/completions")) == 2
        prompts = [[4, 6]] * 3 + [[5]] * 3
        apart = found.answers(policy, prompts, [20, 21, 22, 7, 8, 9], **options)
    assert torch.equal(together.ids, apart.ids)
    assert torch.equal(together.logprobs, apart.logprobs)


def test_nothing_but_the_temperature_bends_the_distribution(
    world: World, policy: LanguageModel
) -> None:
    with stand_in.serving(world.a) as server:
        ask(server, policy, prompts=[[4, 6]], seeds=[9])
    (body,) = server.bodies("/v1/completions")
    assert body == {
        "model": stand_in.NAME,
        "prompt": [4, 6],
        "n": 1,
        "max_tokens": LENGTH,
        "temperature": 0.7,
        "seed": 9,
        **stand_in.NEUTRAL,
        "ignore_eos": True,
        "stop_token_ids": list(policy.eos_ids),
        "logprobs": 0,
        "return_token_ids": True,
    }


def test_the_weights_are_read_and_the_cache_is_forgotten(world: World, tmp_path: Path) -> None:
    with stand_in.serving(world.a) as server:
        vllm.connect(server.url).load_weights(world.b)
        expected = load_file(world.b / "model.safetensors")
        for name, weight in server.model.named_parameters():
            assert torch.equal(weight, expected[name]), name
    assert server.paths[-2:] == ["/collective_rpc", "/reset_prefix_cache"]
    (body,) = server.bodies("/collective_rpc")
    assert body == {"method": "reload_weights", "kwargs": {"weights_path": str(world.b)}}


def test_a_cache_in_use_is_cleared_when_the_requests_of_others_are_finished(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM answers 200 to a reset that failed, and says so in the body."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with stand_in.serving(world.a) as server:
        found = vllm.connect(server.url)
        server.cache[(4,)] = torch.zeros(1)
        server.busy, server.asked = 2, []
        found.load_weights(world.b)
        assert server.paths == ["/collective_rpc", *["/reset_prefix_cache"] * 3]
        assert not server.cache


def test_a_cache_that_stays_in_use_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_http, "BUSY", 0.0)
    with stand_in.serving(world.a, busy=1000) as server:
        with pytest.raises(
            SalsaError, match=r"did not clear its prefix cache within 0 s, since it is busy"
        ):
            vllm.connect(server.url)
        server.busy = 0
        vllm.connect(server.url)
        server.instead = lambda path, body: (200, b"")  # older releases send no body
        vllm_http.reset_prefix_cache(server.url, 1.0)


def test_a_server_is_found_and_left_as_it_is(world: World) -> None:
    with stand_in.serving(world.a) as server:
        found = vllm.connect(server.url)
        assert found.model == ServedModel(stand_in.NAME, str(world.a), 64, "float32")
        found.check_context(64)
        with pytest.raises(SalsaError, match=r"a context of 64 tokens, .* needs 65; start it with"):
            found.check_context(65)
    assert server.paths == ["/v1/models", INFO, "/reset_prefix_cache"]


def test_no_server(policy: LanguageModel) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SalsaError) as caught:
        vllm.connect(url)
    assert str(caught.value) == (
        f"--generator vllm: {url}: no server is running; start one: VLLM_SERVER_DEV_MODE=1 vllm "
        "serve MODEL --host 127.0.0.1 --logprobs-mode processed_logprobs --generation-config vllm"
    )


@pytest.mark.parametrize(
    ("path", "reply", "words"),
    [
        ("/v1/models", (404, b"<h1>\nno"), "refuses /v1/models: HTTP 404: <h1>; expected a vLLM"),
        ("/v1/models", (200, b"hello\nyou"), "sent malformed JSON from /v1/models: hello"),
        ("/v1/models", told([1]), "names no model at /v1/models"),
        ("/v1/models", told({"data": [{"id": "x", "parent": "y"}]}), "names no model"),
        ("/reset_prefix_cache", (404, b""), "has no /reset_prefix_cache, .* development mode"),
        ("/reset_prefix_cache", (503, b""), "refuses .*: HTTP 503: an empty body"),
        ("/v1/models", stand_in.CUT, "closed the connection at /v1/models"),
        ("/v1/models", stand_in.NEVER, r"did not answer /v1/models within 0\.3 s"),
    ],
)
def test_what_is_no_server_for_a_rollout(world: World, path: str, reply: Reply, words: str) -> None:
    with stand_in.serving(world.a) as server:
        server.instead = lambda asked, body: reply if asked == path else None
        with pytest.raises(SalsaError, match=words):
            vllm.connect(server.url, 0.3)


def completion(ids: object = (4, 2), numbers: object = (-1.0, -2.0), **more: Any) -> Reply:
    return told({"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": numbers}, **more}]})


WRONG: dict[str, tuple[Reply, str]] = {
    "another model": (told({"error": "x does not exist"}, 404), "HTTP 404: .*x does not exist"),
    "an error": ((500, b"boom\nmore"), r"refuses /v1/completions: HTTP 500: boom$"),
    "half a JSON": (
        (200, b'{"choices": ['),
        r'sent malformed JSON from /v1/completions: {"choices": \[',
    ),
    "another JSON": (told({"a": 1}), "sent JSON that is not a completion"),
    "two answers": (told({"choices": [{}, {}]}), "sent 2 answers to a prompt instead of 1"),
    "one index twice": (told({"choices": [{"index": 1}]}), "sent 1 answer to a prompt"),
    "no ids": (told({"choices": [{"text": "a"}]}), "sent no token_ids .* return_token_ids"),
    "words for ids": (completion(["a"], [-1.0]), "sent no token_ids"),
    "nothing": (completion([], []), "sent no token_ids"),
    "fewer tokens": (completion([2], [-1.0, -1.0]), "sent 2 log-probabilities for 1 token;"),
    "no numbers": (completion([2], None), "sent no log-probabilities for 1 token;"),
    "null": (completion([4, 2], [-1.0, None]), "invalid log-probabilities"),
    "NaN": (completion([4, 2], [-1.0, float("nan")]), "invalid log-probabilities"),
    "logits": (completion([4, 2], [3.0, -1.0]), "invalid .*processed_logprobs"),
    "too long": (completion([4] * 9, [-1.0] * 9), "sent 9 tokens, more than the limit of 8"),
    "an early end": (
        completion([4, 5], [-1.0, -1.0], finish_reason="abort"),
        r"after 2 tokens without an end token of the policy \(finish_reason abort\)",
    ),
    "another vocabulary": (completion([99, 2]), "answers with token 99, and the policy has 24"),
    "silence": (stand_in.NEVER, r"did not answer /v1/completions within 0\.5 s"),
    "a closed door": (stand_in.CUT, "closed the connection at /v1/completions"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_ends_in_one_message(world: World, policy: LanguageModel, kind: str) -> None:
    """Whichever of the prompts gets it."""
    reply, words = WRONG[kind]

    def wrong(path: str, body: dict[str, Any]) -> Reply | None:
        return reply if path == "/v1/completions" and body["prompt"] == PROMPTS[2] else None

    with stand_in.serving(world.a) as server:
        server.instead = wrong
        with pytest.raises(SalsaError, match=words) as caught:
            ask(server, policy, patience=0.5)
    assert str(caught.value).startswith(f"--generator vllm: {server.url} ")
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_taken_over(world: World) -> None:
    with stand_in.serving(world.a) as server:
        found = vllm.connect(server.url)
        failed = "reload_weights() got an unexpected keyword argument"
        server.instead = lambda path, body: told({"error": failed}, 500)
        with pytest.raises(SalsaError) as caught:
            found.load_weights(world.a)
        assert f"HTTP 500: {failed}. It was to load" in str(caught.value)
        assert "Restart the server, since it may hold parts of two" in str(caught.value)
        assert "takes weights_path" in str(caught.value)
        assert str(world.a) in str(caught.value)
        server.instead, server.dev_mode = lambda path, body: None, False
        with pytest.raises(SalsaError, match="has no /collective_rpc, which is needed to load new"):
            found.load_weights(world.a)


def test_no_proxy_is_asked(
    world: World, policy: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with stand_in.serving(world.a) as server:
        assert len(ask(server, policy).ids) == len(PROMPTS)


def test_messages_are_of_use_when_an_update_adds_its_number(world: World) -> None:
    from salsa_cli.errors import during

    with (
        pytest.raises(SalsaError, match=r"update 3: --generator vllm: .* HTTP 500"),
        during("update 3"),
        stand_in.serving(world.a) as server,
    ):
        server.instead = lambda path, body: (500, json.dumps("x").encode())
        vllm_http.dev_mode(server.url, "/collective_rpc", {}, 5.0)
