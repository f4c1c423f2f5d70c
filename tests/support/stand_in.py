"""A stand-in for a vLLM server, on loopback: a tiny model behind the part of its interface that
salsa uses.

It loads weights from a folder, by the names that they have in a checkpoint, and adapters; it
samples from them and says with which log-probabilities. Its prefix cache is kept by name and path
of the adapter, as vLLM's. What a request leaves out it takes from habits that bend the
distribution, as a model's generation config may.
"""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

NAME = "served"

HABITS = {
    "temperature": 0.1,
    "top_p": 0.5,
    "top_k": 1,
    "min_p": 0.5,
    "repetition_penalty": 3.0,
    "presence_penalty": 2.0,
    "frequency_penalty": 2.0,
    "ignore_eos": False,
    "stop_token_ids": [],
    "n": 1,
}
NEUTRAL = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}

Reply = tuple[int, bytes]


@dataclass(frozen=True)
class Adapted:
    """The served model with an adapter, whose file may be gone."""

    path: str
    model: Any


@dataclass
class StandIn:
    """A server that runs, and how it is to misbehave.

    Attributes:
        url: where it is.
        model: what it samples from.
        dev_mode: whether it takes weights over at all.
        stale: says that it takes weights over, and does not.
        keeps_cache: says that it forgets what it computed with old weights, and does not.
        lora: whether it was started with --enable-lora.
        runtime_lora: whether it was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING.
        root: the folder that it was started with.
        dtype: what it says that it computes in.
        busy: how often it fails to forget it, since requests of others are running.
        mode: which log-probabilities it tells: `processed`, of what it draws from, or `raw`.
        instead: what it answers to a path in place of what it should; None for as it should.
        asked: each path with its body, in the order of arrival.
    """

    url: str
    model: Any
    dev_mode: bool = True
    stale: bool = False
    keeps_cache: bool = False
    lora: bool = False
    runtime_lora: bool = False
    root: str = ""
    dtype: str = "torch.float32"
    busy: int = 0
    mode: str = "processed"
    context: int = 64
    instead: Callable[[str, dict[str, Any]], Reply | None] = lambda path, body: None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cache: dict[tuple[object, ...], torch.Tensor] = field(default_factory=dict)
    adapters: dict[str, Adapted] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def paths(self) -> list[str]:
        """What it was asked, without the bodies."""
        return [path for path, _ in self.asked]

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What it was sent to a path."""
        return [body for one, body in self.asked if one == path]

    def reply(self, path: str, body: dict[str, Any]) -> Reply:
        """What a request gets."""
        if path == "/v1/models":
            card = {"id": NAME, "root": self.root, "parent": None, "max_model_len": self.context}
            loaded = [
                {"id": name, "root": one.path, "parent": NAME}
                for name, one in self.adapters.items()
            ]
            return told({"data": [card, *loaded]})
        if path == "/server_info?config_format=json" and self.dev_mode:
            return told({"vllm_config": {"model_config": {"dtype": self.dtype}}})
        if path == "/v1/load_lora_adapter" and self.runtime_lora:
            return self.load_adapter(body["lora_name"], body["lora_path"])
        if path == "/v1/unload_lora_adapter" and self.runtime_lora:
            del self.adapters[body["lora_name"]]
            return 200, b"Success"
        if path == "/v1/completions":
            return self.complete(body)
        if path == "/reset_prefix_cache" and self.dev_mode:
            if self.busy:
                self.busy -= 1
                return told({"success": False})
            if not self.keeps_cache:
                self.cache.clear()
            return told({"success": True})
        if path == "/collective_rpc" and self.dev_mode:
            assert body["method"] == "reload_weights"
            if not self.stale:
                self.reload(Path(body["kwargs"]["weights_path"]))
            return told({"results": [None]})
        return 404, b'{"detail":"Not Found"}'

    def reload(self, folder: Path) -> None:
        """Take over the weights in a folder; all of them must be there by their names."""
        held = dict(self.model.named_parameters())
        given: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            given |= load_file(file)
        assert given.keys() == held.keys()
        with torch.no_grad():
            for name, weight in held.items():
                weight.copy_(given[name])

    def load_adapter(self, name: str, path: str) -> Reply:
        """Add (alpha / r) B A to a copy of each weight that the adapter has factors for.

        r is the rank of that weight's factors, which patterns may set.
        """
        if not self.lora:
            return told({"error": {"message": "LoRA is not enabled.", "code": 500}}, 500)
        if name in self.adapters:
            return told({"error": {"message": f"'{name}' has already been loaded."}}, 400)
        config = json.loads((Path(path) / "adapter_config.json").read_text())
        factors = load_file(Path(path) / "adapter_model.safetensors")
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for key, a in factors.items():
                module, side, _ = key.rsplit(".", 2)
                if side == "lora_A":
                    weight = model.get_parameter(
                        module.removeprefix("base_model.model.") + ".weight"
                    )
                    b = factors[f"{module}.lora_B.weight"]
                    weight += config["lora_alpha"] / len(a) * b @ a
        self.adapters[name] = Adapted(path, model)
        return 200, b"Success"

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> Reply:
        """As many answers as asked for; the seed of each is one more than that before it."""
        asked = {**HABITS, **body}
        if asked["model"] not in (NAME, *self.adapters):
            return told({"error": {"message": f"The model {asked['model']} does not exist."}}, 404)
        choices = [self.draw(asked, index) for index in range(asked["n"])]
        return told({"choices": choices[::-1]})

    def draw(self, asked: dict[str, Any], index: int) -> dict[str, Any]:
        """One answer, drawn token by token."""
        bent = {name: asked[name] for name, value in NEUTRAL.items() if asked[name] != value}
        adapted = self.adapters.get(asked["model"])
        model = adapted.model if adapted else self.model
        generator = torch.Generator().manual_seed(asked["seed"] + index)
        ids: list[int] = []
        numbers: list[float] = []
        reason = "length"
        while len(ids) < asked["max_tokens"]:
            tokens = (*asked["prompt"], *ids)
            seen = (adapted.path if adapted else None, asked["model"], *tokens)
            if seen not in self.cache:
                self.cache[seen] = model(torch.tensor([tokens])).logits[0, -1].double()
            processed = self.cache[seen] / asked["temperature"]
            if bent:
                processed = 3 * processed
            token = int(torch.multinomial(processed.softmax(-1), 1, generator=generator))
            told_from = processed if self.mode == "processed" else self.cache[seen]
            ids.append(token)
            numbers.append(float(told_from.log_softmax(-1)[token]))
            ends = asked["stop_token_ids"] if asked["ignore_eos"] else [2, *asked["stop_token_ids"]]
            if token in ends:
                reason = "stop"
                break
        return {
            "index": index,
            "text": "",
            "finish_reason": reason,
            "token_ids": ids if asked.get("return_token_ids") else None,
            "logprobs": {"token_logprobs": numbers} if asked.get("logprobs") is not None else None,
        }


def told(content: object, status: int = 200) -> Reply:
    """A reply of JSON."""
    return status, json.dumps(content).encode()


NEVER: Reply = (0, b"")
"""No reply, until the stand-in ends."""

CUT: Reply = (-1, b"")
"""The connection is closed without one."""


@contextmanager
def serving(folder: Path, **changes: Any) -> Iterator[StandIn]:
    """A stand-in that begins with the model of a folder."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._handle({})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self._handle(json.loads(raw or b"{}"))

        def _handle(self, body: dict[str, Any]) -> None:
            with lock:
                server.asked.append((self.path, body))
                reply = server.instead(self.path, body) or server.reply(self.path, body)
            if reply == NEVER:
                server.released.wait(30)
                return
            if reply == CUT:
                return
            self.send_response(reply[0])
            self.send_header("Content-Length", str(len(reply[1])))
            self.end_headers()
            self.wfile.write(reply[1])

        def log_message(self, *arguments: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    http = Listening(("127.0.0.1", 0), Handler)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    settings = {"root": str(folder), **changes}
    server = StandIn(f"http://127.0.0.1:{http.server_port}", model, **settings)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
        thread.join()
