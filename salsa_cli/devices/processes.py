"""Several processes of one command, started and stopped together on this machine. Never torch.

Each process reads its rank from the environment variables of PyTorch's launchers (`RANK`,
`WORLD_SIZE`, `MASTER_ADDR` ...). Only the main process prints and writes.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from salsa_cli.errors import Elsewhere, SalsaError, UsageError

GRACE = 20.0
"""Seconds that the other processes have to exit after one has failed."""

TURN = 2.0
"""Seconds in which the main process may report an error first, before another one does."""

_LIFELINE = "SALSA_LIFELINE"
"""File descriptor of a pipe that the launcher keeps open while it is alive."""

_ACCELERATE = "ACCELERATE_MIXED_PRECISION"
"""Environment variable that `accelerate launch` always sets."""

_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables with the number of processes that MPI has started."""

_LAUNCHERS = (
    "Start the command with --processes N on one machine, and with torchrun --nnodes on several"
)

_PAUSE = 0.05


def rank() -> int:
    """Rank of this process; 0 is the main process."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def to_start(wanted: int | None) -> int:
    """Number of processes to start for a command; 0 if it is to run in this process.

    Args:
        wanted: processes asked for; None for a command that always runs in one.

    Raises:
        UsageError: a launcher has started another number of processes, or says what cannot be.
    """
    _check_launcher()
    if count() == 1:
        return wanted if wanted is not None and wanted > 1 else 0
    if wanted is None:
        raise UsageError(f"this command runs in one process, but was started in {count()}")
    if wanted not in (1, count()):
        raise UsageError(
            f"--processes {wanted}: a launcher already started {count()} processes; remove the "
            "option, or start the command without the launcher"
        )
    return 0


def _check_launcher() -> None:
    """Refuse processes that do not know of one another: each would do the whole of the work.

    Raises:
        UsageError: the environment variables of a launcher are incomplete or contradict each other.
    """
    ranks = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK")}
    if not ranks["WORLD_SIZE"]:
        for name in _MPI_SIZES:
            if os.environ.get(name, "1") != "1":
                raise UsageError(
                    f"{name} is {os.environ[name]} and WORLD_SIZE is not set: MPI has started "
                    f"several processes that would not work together. {_LAUNCHERS}"
                )
        if _ACCELERATE in os.environ and "MASTER_ADDR" in os.environ:
            raise UsageError(
                "accelerate launch is configured for several processes and has started this one "
                "alone (MASTER_ADDR is set, and WORLD_SIZE is not), as it does on CPUs. "
                f"{_LAUNCHERS}"
            )
        return
    numbers = all(text.isdecimal() for text in ranks.values())
    if not numbers or not int(ranks["RANK"]) < int(ranks["WORLD_SIZE"]):
        found = " and ".join(f"{name} is {text or 'not set'}" for name, text in ranks.items())
        raise UsageError(f"{found}; expected a rank from 0 to WORLD_SIZE - 1. {_LAUNCHERS}")


def start(number: int) -> int:
    """Run this command line in `number` processes; returns the exit code of the run.

    Ctrl-C, SIGTERM and SIGHUP are forwarded to all of them. They exit when this process does, even
    if it is killed.

    Raises:
        SalsaError: one of them was killed by a signal, and so could not report an error.
    """
    reading, writing = os.pipe()
    workers = [_launch(place, environment, reading) for place, environment in _places(number)]
    os.close(reading)
    with _signals(workers) as forwarded:
        first = _first_failed(workers, forwarded)
        _end(workers)
    os.close(writing)
    if first is not None and workers[first].returncode < 0:
        name = signal.Signals(-workers[first].returncode).name
        raise SalsaError(f"process {first} of {number} was killed by {name}")
    return workers[0].returncode or int(first is not None)


def watch_launcher() -> None:
    """Send SIGTERM to this process when the launcher that started it is gone."""
    lifeline = os.environ.pop(_LIFELINE, None)
    if lifeline is None:
        return

    def watch() -> None:
        os.read(int(lifeline), 1)  # returns, empty, when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def reports(error: Exception) -> bool:
    """Whether this process should print the error; gives the main process time to do so first.

    Most errors occur in all processes. The main one prints at once, and the launcher then stops
    the others.
    """
    return not (rank() and isinstance(error, Elsewhere)) and let_main_go_first()


def let_main_go_first() -> bool:
    """Wait a moment if this is not the main process; returns False if the wait was interrupted.

    The main process may still be in the last collective operation, and would lose its connection.
    """
    if rank():
        try:
            time.sleep(TURN)
        except KeyboardInterrupt:
            return False
    return True


def leave(code: int) -> None:
    """Exit at once if this is one of several processes.

    A normal exit may wait for the others, or fail in the threads that communicated with them.
    """
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _places(number: int) -> Iterator[tuple[int, dict[str, str]]]:
    """The environment of each process."""
    import socket  # takes longer to import than this module

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # With all cores for each process, their threads would compete.
    threads = max(1, (os.cpu_count() or 1) // number)
    usual = {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    for place in range(number):
        yield place, {**usual, **os.environ, **common, "RANK": str(place), "LOCAL_RANK": str(place)}


def _launch(place: int, environment: dict[str, str], lifeline: int) -> subprocess.Popen[bytes]:
    """Start one process in a group of its own: Ctrl-C is forwarded to it, once."""
    nothing = None if place == 0 else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "salsa_cli", *sys.argv[1:]],
        env={**environment, _LIFELINE: str(lifeline)},
        stdin=nothing,
        stdout=nothing,
        pass_fds=[lifeline],
        process_group=0,
    )


class _Forwarded:
    """Counts the signals that were forwarded; SIGHUP, which may come twice, does not count."""

    times = 0


@contextmanager
def _signals(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[_Forwarded]:
    """Forward Ctrl-C, SIGTERM and SIGHUP; a signal that is ignored stays ignored."""
    forwarded = _Forwarded()

    def forward(signum: int, frame: FrameType | None) -> None:
        forwarded.times += signum != signal.SIGHUP
        for worker in workers:
            worker.send_signal(signum)  # does nothing to one that has ended

    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.getsignal(one) for one in kinds}
    try:
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, forward)
        yield forwarded
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _first_failed(workers: Sequence[subprocess.Popen[bytes]], forwarded: _Forwarded) -> int | None:
    """Wait for all to succeed, one to fail (returns its rank), or a second signal."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [place for place, code in enumerate(codes) if code]
        if failed or forwarded.times > 1 or None not in codes:
            # Prefer a process that could report its error to one killed by a signal.
            return min(failed, key=lambda place: codes[place] or 0, default=None)
        time.sleep(_PAUSE)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for all to exit, and kill those that do not in time."""
    main, *others = workers
    deadline = time.monotonic() + GRACE
    while any(worker.poll() is None for worker in workers):
        if main.returncode is not None:  # the main process has reported the error
            for worker in others:
                worker.terminate()
            deadline = min(deadline, time.monotonic() + TURN)
        if time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(_PAUSE)
