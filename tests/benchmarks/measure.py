"""Run a command and say what it took: time, processor, memory, disk. And what machine it was.

Memory is sampled from /proc every 20 ms over the command and its children, so it is measured on
Linux alone; elsewhere those numbers are None. Two numbers, as they differ by a lot for programs
that map their files: `anonymous` is what the command asked for itself (private anonymous and
shared memory: RssAnon and RssShmem), `rss` is that and every page of a file that it has mapped.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

INTERVAL = 0.02  # seconds between two samples
SECTOR = 512  # bytes in a block of getrusage, whatever the disk
STATUS = re.compile(rb"^(VmHWM|VmRSS|RssAnon|RssShmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """What one run of a command took."""

    exit_code: int
    seconds: float
    cpu_user: float  # seconds, with all children
    cpu_system: float
    peak_anonymous: int | None  # bytes, with all children
    peak_rss: int | None
    disk_read: int  # bytes that came from the disk, not from the page cache
    disk_written: int
    output: str = field(repr=False)
    errors: str = field(repr=False)

    def numbers(self) -> dict[str, Any]:
        """Everything but the texts."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, str)}


def run(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Usage:
    """Run the command to its end, which a failure is too. It ends if this process is stopped."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        memory = MemoryWatch(process.pid)
        try:
            _, status, taken = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            seconds = time.perf_counter() - start
            memory.stop()
        process.returncode = os.waitstatus_to_exitcode(status)  # Popen has not seen the end
        return Usage(
            exit_code=process.returncode,
            seconds=seconds,
            cpu_user=taken.ru_utime,
            cpu_system=taken.ru_stime,
            peak_anonymous=memory.anonymous or None,
            peak_rss=memory.rss or None,
            disk_read=taken.ru_inblock * SECTOR,
            disk_written=taken.ru_oublock * SECTOR,
            output=text_of(output),
            errors=text_of(errors),
        )


def text_of(file: Any) -> str:
    """Everything that was written to the file."""
    file.seek(0)
    return str(file.read().decode(errors="replace"))


class MemoryWatch:
    """Samples the memory of a process and its children on a thread, and keeps the peaks."""

    def __init__(self, pid: int) -> None:
        self.anonymous = 0
        self.rss = 0
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            sizes = [memory_of(pid) for pid in family(self._pid)]
            self.anonymous = max(self.anonymous, sum(anonymous for anonymous, _, _ in sizes))
            self.rss = max(self.rss, sum(rss for _, rss, _ in sizes))
            self.rss = max([self.rss, *(highest for _, _, highest in sizes)])
            if self._end.wait(INTERVAL):
                return


class DeviceWatch:
    """Samples the memory in use on the first GPU, of all programs, every 100 ms; keeps the peak.

    With what PyTorch holds without using it, as another program sees it. 0 without a GPU.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._told = tempfile.TemporaryFile()  # noqa: SIM115
        query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                ["nvidia-smi", "-i", "0", *query], stdout=self._told, stderr=subprocess.DEVNULL
            )
        except OSError:
            self._process = None

    def stop(self) -> None:
        """End it; `peak` is in bytes then."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            numbers = [int(word) for word in text_of(self._told).split() if word.isdigit()]
            self.peak = max(numbers, default=0) * 2**20
        self._told.close()


def memory_of(pid: int) -> tuple[int, int, int]:
    """Bytes of a process: anonymous, resident, the most that was ever resident. 0 once it ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0, 0, 0
    kilobytes = {name: int(number) * 1024 for name, number in STATUS.findall(status)}
    anonymous = kilobytes.get(b"RssAnon", 0) + kilobytes.get(b"RssShmem", 0)
    return anonymous, kilobytes.get(b"VmRSS", 0), kilobytes.get(b"VmHWM", 0)


def family(pid: int) -> Iterator[int]:
    """The process and its children, and theirs."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_bytes().split():
                yield from family(int(child))
    except OSError:  # it ended meanwhile, or this is not Linux
        return


def evict(files: Iterable[Path]) -> bool:
    """Take the files out of the page cache, so that the next reader needs the disk.

    False where the system has no way to. It touches these files alone, and needs no rights.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a page that waits to be written cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def flush(folder: Path) -> float:
    """Seconds until the disk has every file of the folder."""
    start = time.perf_counter()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return time.perf_counter() - start


def machine(folder: Path) -> dict[str, Any]:
    """Facts about the machine, and about the file system that the folder is on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "kernel": platform.release(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": round(os.getloadavg()[0], 2),
        "file_system": file_system(folder),
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def file_system(folder: Path) -> str | None:
    """Type and device of the file system that holds the folder, as "ext4 on /dev/sda1"."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    found, depth = None, -1
    for line in lines:
        mount, (kind, device) = Path(line.split()[4]), line.split(" - ")[1].split()[:2]
        if folder.resolve().is_relative_to(mount) and len(mount.parts) >= depth:
            found, depth = f"{kind} on {device}", len(mount.parts)
    return found


def versions(*names: str, python: Path | None = None) -> dict[str, str | None]:
    """Installed versions of packages: of this Python, or of another."""
    if python is None:
        return {name: version(name) for name in names}
    code = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    told = subprocess.run([python, "-c", code, *names], check=True, capture_output=True, text=True)
    return dict(json.loads(told.stdout))


def version(name: str) -> str | None:
    """The installed version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit(folder: Path) -> str | None:
    """The commit of the checkout that the folder is in, with "-dirty" where files differ."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()
