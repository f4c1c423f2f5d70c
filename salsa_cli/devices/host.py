"""The memory that a process may still allocate, limited by the machine and by its container.

On Linux, both limits come from /proc and /sys; elsewhere it is the machine's total memory.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage, and the reclaimable part of the usage, in control groups v2 and v1."""


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be allocated without swapping, as the kernel estimates it.

    The minimum of `MemAvailable` and of what each control group of this process has left (Linux,
    Documentation/admin-guide/cgroup-v2.rst), since a container may use less than the machine has.
    """
    return min([_machine(root), *_control_groups(root)])


def _machine(root: Path) -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    if found:
        return 1024 * int(found[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_groups(root: Path) -> Iterator[int]:
    """What is left in the control group of this process and in each parent with a limit."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / "sys/fs/cgroup" / controllers
            folder = top / path.strip("/")
            while folder.is_relative_to(top):
                yield from _left(folder)
                folder = folder.parent


def _left(folder: Path) -> Iterator[int]:
    for limit, usage, reclaimable in _FILES:
        most, used = (_read(folder / name).strip() for name in (limit, usage))
        if most.isdigit() and used.isdigit():  # without a limit it says "max"
            stat = re.search(rf"^{reclaimable} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
            yield max(0, int(most) - int(used) + (int(stat[1]) if stat else 0))


def _read(path: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
