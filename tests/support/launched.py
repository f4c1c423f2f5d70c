"""Commands that a test starts as processes: their options, their progress and their children."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from salsa_cli.config.base import Config, declared


def arguments(config: Config) -> Iterator[str]:
    """The command line of a configuration."""
    defaults = {field.name: field.default for field in fields(config)}
    for field in declared(type(config)):
        value = getattr(config, field.name)
        if value == defaults[field.name]:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            yield from (field.option,) if item is True else (field.option, str(item))


def wait_for_rows(output: Path, count: int, run: subprocess.Popen[str]) -> None:
    metrics = output.with_name(output.name + ".partial") / "metrics.jsonl"
    wait_until(
        lambda: (
            run.poll() is not None
            or (metrics.exists() and metrics.read_bytes().count(b"\n") >= count)
        )
    )
    assert run.poll() is None, run.communicate()


def wait_until(holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "waited for two minutes"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that another has started, in their order."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
