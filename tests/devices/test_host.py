"""What a machine and its container leave, from the files in which Linux says it."""

import os
from pathlib import Path

import pytest

from salsa_cli.devices.host import available_memory

GIGABYTE = 2**30


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def place(root: Path, folder: str, **files: int | str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (root / folder / name.replace("_", ".", 1)).write_text(f"{value}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Eight gigabytes free of sixteen."""
    write(tmp_path, proc__meminfo="MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n")
    return tmp_path


def test_a_machine_without_containers(machine: Path) -> None:
    assert available_memory(machine) == 8 * GIGABYTE


def test_a_container_of_version_two_has_less_than_its_machine(machine: Path) -> None:
    """Pages of files that nobody needs give way: 3 of 4 GB are used, 1 of them by such."""
    write(machine, proc__self__cgroup="0::/\n")
    place(machine, "sys/fs/cgroup", memory_max=4 * GIGABYTE, memory_current=3 * GIGABYTE)
    assert available_memory(machine) == GIGABYTE
    place(machine, "sys/fs/cgroup", memory_stat=f"anon 5\ninactive_file {GIGABYTE}\nfile 7")
    assert available_memory(machine) == 2 * GIGABYTE


def test_the_group_above_may_have_less(machine: Path) -> None:
    write(machine, proc__self__cgroup="0::/ci/job\n")
    place(machine, "sys/fs/cgroup/ci/job", memory_max="max", memory_current=GIGABYTE)
    place(machine, "sys/fs/cgroup/ci", memory_max=2 * GIGABYTE, memory_current=GIGABYTE)
    assert available_memory(machine) == GIGABYTE


def test_a_container_of_version_one(machine: Path) -> None:
    """The path is the host's, which the container does not see; its own group is at the top."""
    write(machine, proc__self__cgroup="4:memory:/docker/abc\n3:cpu:/x\n")
    folder = machine / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{5 * GIGABYTE}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{3 * GIGABYTE}\n")
    (folder / "memory.stat").write_text(f"inactive_file 3\ntotal_inactive_file {GIGABYTE}\n")
    assert available_memory(machine) == 3 * GIGABYTE


def test_a_group_that_is_over_its_limit_leaves_nothing(machine: Path) -> None:
    write(machine, proc__self__cgroup="0::/\n")
    place(machine, "sys/fs/cgroup", memory_max=GIGABYTE, memory_current=2 * GIGABYTE)
    assert available_memory(machine) == 0


def test_elsewhere_it_is_all_that_the_machine_has(tmp_path: Path) -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available_memory(tmp_path) == pages
    assert 0 < available_memory() <= pages
