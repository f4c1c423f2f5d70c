"""Run the commands of a study's folder, each once, and say how far they are."""

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from plan import LENGTH, Plan


@dataclass(frozen=True)
class Command:
    """One command and the file or folder that it leaves when it is complete."""

    kind: str
    output: Path
    words: tuple[str, ...]
    atomic: bool = True  # the output appears when it is complete

    @property
    def draft(self) -> Path:
        """Where the command writes: a name of its own unless the output appears complete."""
        return self.output if self.atomic else self.output.with_name(f"{self.output.name}.draft")

    @property
    def words_of_draft(self) -> list[str]:
        return [str(self.draft) if word == str(self.output) else word for word in self.words]


class Failed(Exception):
    """A command ended with an error, which has been printed, or the study is being stopped."""


class Study:
    """The folder of a study: runs the commands, and says how far it is."""

    def __init__(self, root: Path, base: str, plan: Plan, jobs: int, left: Counter[str]) -> None:
        """`left` is the number of commands still to run, by kind."""
        self.root, self.base, self.plan, self.jobs = root, base, plan, jobs
        self.left = left
        self.seconds: dict[str, list[float]] = {}
        self.warnings: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()
        root.mkdir(parents=True, exist_ok=True)
        # Commands inherit it: those of a study that was killed hold it until they have ended.
        self.held = (root / ".lock").open("a+")
        try:
            fcntl.flock(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.held.seek(0)
            sys.exit(
                f"error: commands of a study are running in {root} (process ids "
                f"{self.held.read().strip()}); wait until they have ended, or end them"
            )
        self._note_running()

    @cached_property
    def tokens(self) -> dict[str, Any]:
        """What world.py found of the tokenizer."""
        found: dict[str, Any] = json.loads(
            (self.root / "world" / "tokens.json").read_text(encoding="utf-8")
        )
        return found

    @property
    def length(self) -> int:
        """Tokens of an answer."""
        return round(LENGTH / float(self.tokens["characters_per_token"]))

    def run(self, command: Command) -> None:
        """Run a command unless its output is there.

        Raises:
            Failed: the command failed, or the study is being stopped.
        """
        if self.stopped.is_set():
            raise Failed
        if command.output.exists():
            self._count(command, None)
            return
        command.output.parent.mkdir(parents=True, exist_ok=True)
        name = str(command.output.relative_to(self.root)).replace("/", "--")
        log = self.root / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        began = time.monotonic()
        code = self._finish(command.words_of_draft, log)
        if code:
            tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-5:])
            if not self.stopped.is_set():
                said = f"error: {command.output} ended with {code}, see {log}:\n{tail}"
                print(said, file=sys.stderr, flush=True)
            raise Failed
        command.draft.rename(command.output)
        self._warn(command, log)
        self._count(command, time.monotonic() - began)

    def expect(self, commands: Mapping[str, int], times: int) -> None:
        """Count commands that are to be run as well, or not any more."""
        with self.lock:
            for kind, number in commands.items():
                self.left[kind] += times * number

    def stop(self) -> None:
        """End all commands; those of salsa save their state."""
        self.stopped.set()
        with self.lock:
            for process in self.running:
                process.terminate()

    def _finish(self, words: Sequence[str], log: Path) -> int:
        """The exit status of a command whose output goes to the log."""
        environment = os.environ | {
            "STUDY_BASE": self.base,
            "STUDY_WORLD": str(self.root / "world"),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with log.open("w", encoding="utf-8") as file:
            print("$", shlex.join(words), file=file, flush=True)
            process = subprocess.Popen(
                words, stdout=file, stderr=file, env=environment, pass_fds=[self.held.fileno()]
            )
            with self.lock:
                self.running.add(process)
                self._note_running()
            code = process.wait()
            with self.lock:
                self.running.discard(process)
                self._note_running()
        return code

    def _note_running(self) -> None:
        """Write the process ids of this study and its commands into its lock."""
        self.held.truncate(0)
        ids = [os.getpid(), *sorted(process.pid for process in self.running)]
        print(*ids, file=self.held, flush=True)

    def _warn(self, command: Command, log: Path) -> None:
        """Print the first warning of each kind, and count all."""
        said = [
            line.removeprefix("warning: ")
            for line in log.read_text(encoding="utf-8").splitlines()
            if line.startswith("warning: ")
        ]
        with self.lock:
            for line in said:
                kind = re.sub(r"\d+", "N", line.partition(":")[0])
                self.warnings[kind] += 1
                if self.warnings[kind] == 1:
                    print(f"warning: {command.output.relative_to(self.root)}: {line}", flush=True)

    def _count(self, command: Command, seconds: float | None) -> None:
        with self.lock:
            self.left[command.kind] -= 1
            if seconds is None:
                return
            self.seconds.setdefault(command.kind, []).append(seconds)
            every = mean(one for each in self.seconds.values() for one in each)
            forecast = sum(
                max(count, 0) * mean(self.seconds.get(kind, [every]))
                for kind, count in self.left.items()
            )
            left = sum(max(count, 0) for count in self.left.values())
            print(
                f"{time.strftime('%H:%M:%S')}  {command.output.relative_to(self.root)}  "
                f"{seconds:.0f} s;  {left} command{'s' * (left != 1)} left, "
                f"about {forecast / self.jobs / 60:.0f} min",
                flush=True,
            )


def salsa(kind: str, output: Path, *words: object) -> Command:
    """A command of salsa."""
    command = [sys.executable, "-m", "salsa_cli", *words, "-o", output]
    return Command(kind, output, tuple(map(str, command)))


def write(path: Path, record: object) -> None:
    """Write a record in one step, so that a kill leaves no half of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draft.rename(path)
