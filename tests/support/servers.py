"""Servers on loopback: an OpenAI-compatible one that misbehaves as a test says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the server does with one call: a status and a body, perhaps cut, perhaps never."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False


def chat(text: object, finish: str = "stop", **message: object) -> Answer:
    """A chat completion; `message` adds fields such as `reasoning_content`."""
    content = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
    }
    return Answer(json.dumps(content).encode())


def fault(status: int, message: str = "no", param: str | None = None, **headers: str) -> Answer:
    """An error as the API words it."""
    body = json.dumps({"error": {"message": message, "code": None, "param": param}}).encode()
    return Answer(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


HALF = Answer(chat("[[A>B]]").body, cut=True)
HALF_JSON = Answer(chat("[[A>B]]").body[:40])
ERROR_IN_200 = Answer(json.dumps({"error": {"message": "overloaded", "code": 502}}).encode())
OTHER_JSON = Answer(b'{"hello": ["world"]}')
LIST = Answer(b"[1, 2]")
HTML = Answer(b"<html>busy</html>", headers={"Content-Type": "text/html"})
NEVER = Answer(silent=True)

Behaviour = Callable[[str, int], Answer]
"""The answer to a prompt; the number counts the calls with this very prompt, from 0."""


@dataclass
class Server:
    """A running server: where it is, and every prompt that it was sent."""

    url: str
    prompts: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    keys: set[str | None] = field(default_factory=set)
    keys_at_check: set[str | None] = field(default_factory=set)
    models: list[dict[str, Any]] = field(default_factory=list)
    behaviour: Behaviour = field(default=lambda prompt, number: chat(None))


@contextmanager
def serving(behaviour: Behaviour, seconds: float = 0.0) -> Iterator[Server]:
    """A server on a free port; every call takes it `seconds`."""
    lock = threading.Lock()
    released = threading.Event()
    now = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/v1/models":
                self._send(fault(404, "Not Found"))
                return
            server.keys_at_check.add(self.headers["Authorization"])
            self._send(Answer(json.dumps({"object": "list", "data": server.models}).encode()))

        def do_POST(self) -> None:
            nonlocal now
            if self.path != "/v1/chat/completions":
                self._send(fault(404, "Not Found"))
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                number = server.prompts.count(prompt)
                server.prompts.append(prompt)
                server.bodies.append(body)
                server.keys.add(self.headers["Authorization"])
                now += 1
                server.most_at_once = max(server.most_at_once, now)
            time.sleep(seconds)
            answer = server.behaviour(prompt, number)
            with lock:
                now -= 1
            if answer.silent:
                released.wait(30)
                return
            self._send(answer)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.cut else answer.body)

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}/v1", behaviour=behaviour)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        released.set()
        http.shutdown()
        http.server_close()
        thread.join()
