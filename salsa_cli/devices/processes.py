"""Several processes of one command: started on this machine, and ended together. Never torch.

A process learns from its environment, as every launcher of PyTorch sets it (`RANK`, `WORLD_SIZE`,
`MASTER_ADDR` ...), which of how many it is. The main process alone prints and writes.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from salsa_cli.errors import Elsewhere, SalsaError, UsageError

GRACE = 20.0
"""Seconds that the others have to end by themselves when one process has failed."""

TURN = 2.0
"""Seconds that a process leaves to the main one to say what went wrong, if both met it."""

_LIFELINE = "SALSA_LIFELINE"
"""Names the pipe that a launcher holds open while it lives."""

_PAUSE = 0.05


def rank() -> int:
    """Which process of the run this is; 0 is the main process."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def to_start(wanted: int | None) -> int:
    """How many processes are still to be started for a command that wants so many; 0 for none.

    Args:
        wanted: None for a command that runs in one process.

    Raises:
        UsageError: this process is one of another number of them.
    """
    if count() == 1:
        return wanted if wanted is not None and wanted > 1 else 0
    if wanted is None:
        raise UsageError(f"this command runs in one process; it was started in {count()}")
    if wanted not in (1, count()):
        raise UsageError(
            f"--processes {wanted}: a launcher has started {count()} processes already; "
            "leave the option out, or start the command without the launcher"
        )
    return 0


def start(number: int) -> int:
    """Run this very command line in `number` processes; returns the exit code of the run.

    Ctrl-C and SIGTERM are passed on to all of them. They end when this process does, however it
    ends.

    Raises:
        SalsaError: a signal ended one of them, which says nothing by itself.
    """
    reading, writing = os.pipe()
    workers = [_launch(place, environment, reading) for place, environment in _places(number)]
    os.close(reading)
    with _signals(workers) as told:
        first = _first_failed(workers, told)
        _end(workers)
    os.close(writing)
    if first is not None and workers[first].returncode < 0:
        name = signal.Signals(-workers[first].returncode).name
        raise SalsaError(f"process {first} of {number} was ended by {name}")
    return workers[0].returncode or int(first is not None)


def watch_launcher() -> None:
    """Stop as by SIGTERM when the launcher that started this process is gone."""
    lifeline = os.environ.pop(_LIFELINE, None)
    if lifeline is None:
        return

    def watch() -> None:
        os.read(int(lifeline), 1)  # comes back, empty, when nobody holds the other end
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def speaks(error: Exception) -> bool:
    """Whether it is for this process to say what went wrong; waits for the main one to do so.

    Most of what a process meets all of them meet. The main one speaks at once, and whoever
    started the processes ends the others then.
    """
    return not (rank() and isinstance(error, Elsewhere)) and let_main_go_first()


def let_main_go_first() -> bool:
    """Wait a moment if this is not the main process; returns whether nobody ended the wait.

    The main one may still be in the middle of the last thing that all did together, and would lose
    the connection there.
    """
    if rank():
        try:
            time.sleep(TURN)
        except KeyboardInterrupt:
            return False
    return True


def leave(code: int) -> None:
    """End this process at once if it is one of several.

    An orderly exit may wait for the others, or trip over the threads that talked to them.
    """
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _places(number: int) -> Iterator[tuple[int, dict[str, str]]]:
    """The environment of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # Each process with all the cores would wait for the others' threads.
    threads = max(1, (os.cpu_count() or 1) // number)
    usual = {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    for place in range(number):
        yield place, {**usual, **os.environ, **common, "RANK": str(place), "LOCAL_RANK": str(place)}


def _launch(place: int, environment: dict[str, str], lifeline: int) -> subprocess.Popen[bytes]:
    """Start one process, out of reach of the terminal's Ctrl-C, which is passed on once."""
    nothing = None if place == 0 else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "salsa_cli", *sys.argv[1:]],
        env={**environment, _LIFELINE: str(lifeline)},
        stdin=nothing,
        stdout=nothing,
        pass_fds=[lifeline],
        process_group=0,
    )


class _Told:
    """How often the processes have been told to stop."""

    times = 0


@contextmanager
def _signals(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[_Told]:
    """Pass Ctrl-C and SIGTERM on; where a signal is ignored, it stays so."""
    told = _Told()

    def pass_on(signum: int, frame: FrameType | None) -> None:
        told.times += 1
        for worker in workers:
            worker.send_signal(signum)  # does nothing to one that has ended

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, pass_on)
        yield told
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _first_failed(workers: Sequence[subprocess.Popen[bytes]], told: _Told) -> int | None:
    """Wait until all have ended well, one has failed (its place), or a signal came twice."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [place for place, code in enumerate(codes) if code]
        if failed or told.times > 1 or None not in codes:
            # One that a signal ended says nothing, and those that miss it do.
            return min(failed, key=lambda place: codes[place] or 0, default=None)
        time.sleep(_PAUSE)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for all to end; not for long."""
    main, *others = workers
    deadline = time.monotonic() + GRACE
    while any(worker.poll() is None for worker in workers):
        if main.returncode is not None:  # it has said why, and there is nothing to wait for
            for worker in others:
                worker.terminate()
            deadline = min(deadline, time.monotonic() + TURN)
        if time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(_PAUSE)
