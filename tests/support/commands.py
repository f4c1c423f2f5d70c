"""`salsa` in processes of its own, without the six seconds in which each imports PyTorch.

A server imports it once; every command is a fork of that server. The command line, the streams,
the signals, and the exit codes are those of `python -m salsa_cli`.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.support.preloaded"])


class Command:
    """A command under way; has what tests use of `subprocess.Popen`."""

    def __init__(
        self, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.args = ["salsa", *map(str, arguments)]
        self._files = [Path(tempfile.mkstemp()[1]) for _ in range(2)]
        environment = {**os.environ, "COLUMNS": "100", **(env or {})}
        given = (self.args, str(cwd or Path.cwd()), environment, list(map(str, self._files)))
        self._process: Any = _forks.Process(target=_run, args=given)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal that killed the process, or None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what the command wrote to stdout and stderr."""
        self.wait(timeout)
        out, err = (path.read_text(encoding="utf-8") for path in self._files)
        for path in self._files:
            path.unlink()
        return out, err


def run(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command from its start to its end, as `subprocess.run` would give it."""
    command = Command(*arguments, cwd=cwd, env=env)
    out, err = command.communicate(timeout=300)
    return subprocess.CompletedProcess(command.args, command.wait(), out, err)


def _run(arguments: list[str], folder: str, environment: dict[str, str], files: list[str]) -> None:
    """In the fork: become the command."""
    # A shell that runs the tests in the background lets them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = arguments
    from salsa_cli.cli import main

    try:
        main()
    finally:
        with suppress(BrokenPipeError):
            sys.stdout.flush()
