"""The run folder: a draft that becomes the result in one rename, its record, its checkpoints."""

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from salsa_cli.config.base import Config
from salsa_cli.config.options import record
from salsa_cli.errors import SalsaError, UsageError, os_errors
from salsa_cli.records import JSON, to_json, write_json
from salsa_cli.version import versions

PARTIAL = ".partial"
_LOCK = ".lock"

# What a folder holds that may be replaced by a new result.
_EXPLAINED = {"soup.json", "salsa.json", "config.json", "adapter_config.json"}


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; unwinds like Ctrl-C."""


def partial_folder(output: Path) -> Path:
    """Where a run works until it is complete: beside its output, so that a rename ends it."""
    return output.with_name(output.name + PARTIAL)


def check_output(output: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that exists, or that cannot be made.

    `inputs` are what the run reads; `force` never replaces them, nor a folder around them, nor one
    that salsa or a model does not explain.

    Raises:
        UsageError: `output` is no name for a folder.
        SalsaError: `output` exists and `force` is not set or may not replace it, or its parent is
            no writable folder.
    """
    if output.name in ("", ".."):
        raise UsageError(f"-o {output}: expected the name of a folder that is to be made")
    if (output.exists() or output.is_symlink()) and not force:
        raise SalsaError(f"{output} exists already; choose another -o, or replace it with --force")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise SalsaError(f"{output} is a link or a file, which --force does not replace")
    if output.exists():
        _check_replaceable(output, inputs)
    above = output.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise SalsaError(f"{output} cannot be made: {above} is not a folder that can be written to")


def _check_replaceable(output: Path, inputs: Iterable[Path]) -> None:
    place = output.resolve()
    for path in inputs:
        if path.exists() and path.resolve().is_relative_to(place):
            raise SalsaError(f"{output} holds {path}, which this run reads; choose another -o")
    names = {entry.name for entry in output.iterdir()}
    if names and not names & _EXPLAINED:
        raise SalsaError(
            f"{output} holds neither a model nor a result of salsa, so --force does not replace "
            "it; choose another -o, or remove it yourself"
        )


@contextmanager
def draft(output: Path, *, force: bool) -> Iterator[Path]:
    """A fresh folder to fill; becomes `output` when the block ends, vanishes when it fails."""
    with _locked(output, force) as folder:
        _empty(folder)
        try:
            yield folder
            publish(folder, output)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


Kept = Callable[[Path], str | None]
"""What an unfinished run's folder holds that is worth keeping, in words; None for nothing."""


def saved_steps(folder: Path) -> str | None:
    """What a training run keeps: its newest checkpoint."""
    saved = latest_checkpoint(folder)
    return f"the run up to step {saved.step}" if saved else None


@contextmanager
def resumable(
    output: Path, *, force: bool, resume: bool, kept: Kept = saved_steps
) -> Iterator[Path]:
    """A folder to fill that outlives a failure if it holds something worth keeping by then.

    Raises:
        SalsaError: `output` exists, or an unfinished run of that name was neither to be
            continued (`resume`) nor to be discarded (`force`).
    """
    folder = partial_folder(output)
    if not resume and not force and kept(folder) is not None:
        raise SalsaError(
            f"{folder} holds an unfinished run; continue it with --resume, "
            "or start again with --force"
        )
    with _locked(output, force):
        if not resume or kept(folder) is None:
            _empty(folder)
        begun = kept(folder)
        try:
            yield folder
            publish(folder, output)
        except BaseException as end:
            saved = kept(folder)
            if saved is None:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            hint = f"{folder} keeps {saved}; continue it with --resume"
            if isinstance(end, KeyboardInterrupt):
                raise type(end)(f"interrupted; {hint}") from end
            if isinstance(end, SalsaError) and saved != begun:
                raise type(end)(f"{end}\n{hint}") from end
            raise


def publish(folder: Path, output: Path) -> None:
    """Make `folder` the result `output`; what stood there before goes only then.

    The lock moves along and goes last: whoever waits for it never meets a folder without one.
    """
    _sync(folder)
    if not output.exists():
        folder.rename(output)
        (output / _LOCK).unlink(missing_ok=True)
        return
    retired = output.with_name(f"{output.name}.replaced-{os.getpid()}")
    output.rename(retired)
    folder.rename(output)
    (output / _LOCK).unlink(missing_ok=True)
    shutil.rmtree(retired)


def made_by(
    command: str, config: Config, inputs: Mapping[str, JSON], **more: Any
) -> dict[str, JSON]:
    """How a result was made; `--config` takes it back."""
    return {
        "command": command,
        "settings": record(config),
        "inputs": dict(inputs),
        "versions": dict(versions()),
        **more,
    }


def write_record(folder: Path, name: str, content: Mapping[str, JSON]) -> None:
    """Write the record of a run into its folder."""
    write_json(folder / name, content)


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk: the number of finished steps, and its file."""

    step: int
    file: Path


def checkpoint_path(folder: Path, step: int) -> Path:
    """The file for the state after `step` steps."""
    return folder / "checkpoints" / f"{step:06d}.pt"


def latest_checkpoint(folder: Path) -> Saved | None:
    """The newest complete checkpoint of a run folder."""
    found = sorted((folder / "checkpoints").glob("[0-9]*.pt"))
    return Saved(int(found[-1].stem), found[-1]) if found else None


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int = 2) -> None:
    """Save `state` (tensors and plain values) atomically and drop all but the newest `keep`.

    Raises:
        SalsaError: it cannot be written; the checkpoints before it stand.
    """
    import torch

    path = checkpoint_path(folder, step)
    unfinished = path.with_suffix(".draft")
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException as error:
            unfinished.unlink(missing_ok=True)
            # PyTorch's writer hides behind an error of its own what the disk said.
            if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    for old in sorted(path.parent.glob("[0-9]*.pt"))[:-keep]:
        old.unlink()


def load_checkpoint(saved: Saved) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU; loads tensors and plain values only."""
    return _read_checkpoint(saved, mmap=False)


def peek_checkpoint(saved: Saved) -> dict[str, Any]:
    """The same with its tensors still on the disk, to look at the plain values."""
    return _read_checkpoint(saved, mmap=True)


def _read_checkpoint(saved: Saved, *, mmap: bool) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(saved.file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise SalsaError(
            f"{saved.file} cannot be read as a checkpoint ({str(error).split('. ')[0]}); delete it "
            "to fall back to the one before"
        ) from error
    return dict(state)


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that will not be continued."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def check_same_settings(saved: Saved, stored: str, settings: Mapping[str, JSON]) -> None:
    """Refuse to continue a run under other settings than those it began with.

    Raises:
        SalsaError: names every setting that differs, with both values.
    """
    if differing := _differences(json.loads(stored), settings):
        raise SalsaError(
            f"{saved.file} is of a run with other settings: {'; '.join(differing)}. "
            "Resume with the same ones, or start again with --force"
        )


def check_same_inputs(saved: Saved, stored: str, inputs: Mapping[str, JSON]) -> None:
    """Refuse to continue a run whose models or data have changed since it began.

    Raises:
        SalsaError: names every input that differs, with both descriptions.
    """
    if differing := _differences(json.loads(stored), inputs):
        raise SalsaError(
            f"{saved.file} is of a run with other inputs: {'; '.join(differing)}. "
            "Resume with the same ones, or start again with --force"
        )


def finished(
    output: Path, name: str, config: Config, besides: Collection[str] = ()
) -> dict[str, Any] | None:
    """The result that a complete run recorded in `output/name`; None where there is none.

    Settings in `besides` do not change the result, and may differ.

    Raises:
        SalsaError: that run had other settings; it names them.
    """
    path = output / name
    if not path.is_file():
        return None
    made = json.loads(path.read_text(encoding="utf-8"))
    if "result" not in made:
        return None
    before, now = made["settings"], json.loads(to_json(record(config)))
    differing = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(now)
        if before.get(key) != now[key] and key not in besides
    ]
    if differing:
        raise SalsaError(
            f"{output} is complete, but was made with other settings: {'; '.join(differing)}. "
            "Choose another -o, or replace it with --force"
        )
    return dict(made["result"])


def keep_rows(path: Path, rows: int) -> None:
    """Cut a JSON Lines file down to its first `rows` lines (those that a checkpoint covers)."""
    if path.exists():
        kept = path.read_bytes().split(b"\n")[:rows]
        draft = path.with_name(path.name + ".draft")
        draft.write_bytes(b"".join(line + b"\n" for line in kept))
        draft.replace(path)


def terminate_like_interrupt() -> None:
    """Make SIGTERM unwind the program, so that drafts are cleaned up."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


def _differences(before: Mapping[str, JSON], now: Mapping[str, JSON]) -> list[str]:
    """Every entry that is not the same in two records, as JSON has it."""
    now = json.loads(to_json(now))
    return [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name != _LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@contextmanager
def _locked(output: Path, force: bool) -> Iterator[Path]:
    """The folder in which a run of this output works, made if need be, for this process alone."""
    check_output(output, force)
    folder = partial_folder(output)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise SalsaError(f"{folder} is no draft of salsa, but in the way of one; move it away")
    folder.mkdir(parents=True, exist_ok=True)
    busy = SalsaError(f"{folder} is in use by another salsa process")
    try:
        lock = (folder / _LOCK).open("w")
    except FileNotFoundError as error:  # it became a result between two of our lines
        raise busy from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise busy from error
        if not _is_at(lock, folder / _LOCK):
            raise busy
        check_output(output, force)  # another process may have made it meanwhile
        yield folder


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
