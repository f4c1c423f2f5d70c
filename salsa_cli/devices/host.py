"""The memory of this machine that a process may still take: of the machine, and of its container.

Linux says both under /proc and /sys; elsewhere it is all that the machine has.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage, and the part of the usage that gives way: in control groups of version 2 and 1."""


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without another process losing some, as the kernel estimates it.

    The least of `MemAvailable` and of what every control group around this process has left
    (Linux, Documentation/admin-guide/cgroup-v2.rst): a container has less than its machine.
    """
    return min([_machine(root), *_control_groups(root)])


def _machine(root: Path) -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    if found:
        return 1024 * int(found[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_groups(root: Path) -> Iterator[int]:
    """What each group from that of this process upwards leaves, where it has a limit."""
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
    """The text of a file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
