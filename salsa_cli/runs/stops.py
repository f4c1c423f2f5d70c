"""Why a run has stopped, written into its folder for a person who looks at it later."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from salsa_cli.errors import Halted, SalsaError, explained, out_of_disk, out_of_memory
from salsa_cli.records import read_json, write_json
from salsa_cli.runs import signals

FILE = "state.json"
"""The file with the state of an unfinished run; a complete result does not have it."""

_RUNNING, _STOPPED = "running", "stopped"

_KILLED = (
    "killed before it could say why: by SIGKILL (kill -9, a job scheduler, or the kernel when "
    "memory runs out), or by a power failure"
)


@dataclass(frozen=True)
class Stop:
    """How a run ended before it was complete.

    Attributes:
        reason: what stopped it.
        kept: what its folder keeps, in words; empty if that is not known.
        first: what has to be changed before it can go on; empty if nothing.
        resume: the command that goes on, from the directory `directory`.
        time: when it stopped; for a run that was killed, when it began.
    """

    reason: str
    kept: str
    first: str
    resume: str
    directory: str
    time: str

    @property
    def headline(self) -> str:
        """The time, and the first line of the reason."""
        return f"{self.time}: {self.reason.splitlines()[0]}"


def begin(folder: Path, resume: str) -> None:
    """Note that a run is working in this folder: if it is killed, this is what remains."""
    _write(folder, _RUNNING, Stop("", "", "", resume, str(Path.cwd()), _now()))


def mark(folder: Path, error: BaseException, kept: str, resume: str, first: str = "") -> None:
    """Note what has stopped the run; a disk that is too full for that is ignored."""
    first = first or _first(error)
    stop = Stop(_reason(error), kept, first, resume, str(Path.cwd()), _now())
    with suppress(OSError):
        _write(folder, _STOPPED, stop)


def clear(folder: Path) -> None:
    """Remove the note: the result is complete."""
    (folder / FILE).unlink(missing_ok=True)


def read(folder: Path) -> Stop | None:
    """How the run in this folder has stopped; None if it has not, or is not known.

    A run that is still going has not.
    """
    return _parsed(folder, _STOPPED)


def read_killed(folder: Path) -> Stop | None:
    """The same for a folder in which no process works: also a run that was killed."""
    return read(folder) or _parsed(folder, _RUNNING)


def _parsed(folder: Path, state: str) -> Stop | None:
    try:
        found = read_json(folder / FILE)
    except SalsaError:  # none, or cut short by a power failure
        return None
    if found.get("state") != state:
        return None
    texts = {name: str(found.get(name, "")) for name in Stop.__dataclass_fields__}
    if state == _RUNNING:
        texts["reason"] = _KILLED
        texts["time"] = f"begun {texts['time']}"
    return Stop(**texts)


def _write(folder: Path, state: str, stop: Stop) -> None:
    known: Mapping[str, str] = {name: text for name, text in asdict(stop).items() if text}
    write_json(folder / FILE, {"state": state, **known})


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return signals.described(type(error))
    return explained(error) if isinstance(error, Exception) else type(error).__name__


def _first(error: BaseException) -> str:
    """What to change before the run can go on; empty if nothing, or if the command says it."""
    if isinstance(error, KeyboardInterrupt | Halted):
        return ""
    if out_of_disk(error):
        return "Free space on the disk of the folder."
    if out_of_memory(error):
        return (
            "End other programs that use the memory, or change options that do not change the "
            "result, such as --gradient-checkpointing and --offload of salsa ppo."
        )
    return "Correct the cause first, or the run stops at the same place again."


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
