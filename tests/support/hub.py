"""A stand-in for the Hugging Face hub: accounts, repositories and commits of small files."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ALICE: dict[str, Any] = {
    "type": "user",
    "name": "alice",
    "orgs": [{"name": "lab"}],
    "auth": {"accessToken": {"role": "write"}},
}


@dataclass
class Hub:
    """A running stand-in.

    Attributes:
        account: whom every token belongs to; None: no token is valid.
        private: the repositories and whether they are private.
        files: contents by repository and path.
        fails: a commit is refused with status 500.
        calls: method and path of every request.
    """

    url: str
    account: dict[str, Any] | None = field(default_factory=lambda: dict(ALICE))
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fails: bool = False
    calls: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of a call."""
        parts = path.partition("?")[0].strip("/").split("/")
        if self.account is None:
            return 401, {"error": "Invalid credentials"}
        match [method, *parts]:
            case ["GET", "api", "whoami-v2"]:
                return 200, self.account
            case ["POST", "api", "repos", "create"]:
                return self._created(json.loads(body))
            case ["POST", "api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}
            case ["GET", "api", "models", owner, name, *_]:
                return 200, {"id": f"{owner}/{name}", "private": self.private[f"{owner}/{name}"]}
            case ["POST", "api", "models", _, _, "preupload", _]:
                asked = [one["path"] for one in json.loads(body)["files"]]
                modes = [{"path": one, "uploadMode": "regular"} for one in asked]
                return 200, {"files": [{**one, "shouldIgnore": False} for one in modes]}
            case ["POST", "api", "models", owner, name, "commit", _]:
                return self._committed(f"{owner}/{name}", body)
        return 404, {"error": f"{method} {path}"}

    def _created(self, asked: dict[str, Any]) -> tuple[int, Any]:
        assert self.account is not None
        repo = f"{asked.get('organization') or self.account['name']}/{asked['name']}"
        place = {"url": f"{self.url}/{repo}", "name": repo, "id": repo}
        if repo in self.private:
            return 409, {"error": "You already created this model repo", **place}
        self.private[repo] = asked.get("private") or asked.get("visibility") == "private"
        return 200, place

    def _committed(self, repo: str, body: bytes) -> tuple[int, Any]:
        if self.fails:
            return 400, {"error": "no room"}
        rows = [json.loads(line) for line in body.splitlines()]
        kept = self.files.setdefault(repo, {})
        for row in rows:
            if row["key"] == "file":
                kept[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
        url = f"{self.url}/{repo}/commit/0123"
        return 200, {"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""}


@contextmanager
def serving() -> Iterator[Hub]:
    """A stand-in on a free port; HF_ENDPOINT points a client to it."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.calls.append(f"{self.command} {self.path}")
            status, content = hub.answer(self.command, self.path, body)
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
