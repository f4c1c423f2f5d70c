"""The run folder: a draft that becomes the result in one rename, and the record of the run."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from salsa_cli.config.base import Config
from salsa_cli.config.comparison import differences
from salsa_cli.config.record import origins, record
from salsa_cli.errors import SalsaError, UsageError, os_errors
from salsa_cli.records import JSON, write_json
from salsa_cli.runs import signals, stops
from salsa_cli.runs.checkpoints import latest_checkpoint
from salsa_cli.runs.moved_inputs import with_moved_inputs
from salsa_cli.runs.versions import versions

PARTIAL = ".partial"
_LOCK = ".lock"

# A folder with one of these files is a model or a result, which --force may replace.
_EXPLAINED = {"soup.json", "salsa.json", "config.json", "adapter_config.json"}


def partial_folder(output: Path) -> Path:
    """The folder in which a run works: next to its output, which a rename then creates."""
    return output.with_name(output.name + PARTIAL)


def check_output(output: Path, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that exists or cannot be created; an empty folder does not count.

    Args:
        inputs: what the run reads. `force` replaces neither them nor a folder that holds them, nor
            a folder that is neither a model nor a result of salsa.

    Raises:
        UsageError: `output` cannot be the name of a folder.
        SalsaError: `output` exists and `force` is not set or may not replace it, or its parent
            is not a writable folder.
    """
    if output.name in ("", ".."):
        raise UsageError(f"-o {output}: expected the name of a new folder")
    if is_free(output):
        _check_renaming(output)
    else:
        _check_replaceable(output, inputs)
        if not force:
            raise SalsaError(
                f"{output} already exists; choose another -o, or replace it with --force"
            )
    above = output.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise SalsaError(f"{output} cannot be created: {above} is not a writable folder")


def is_free(output: Path) -> bool:
    """Whether a result may take this name: nothing has it, or an empty folder."""
    if output.is_symlink() or not output.exists():
        return not output.is_symlink()
    return output.is_dir() and not any(output.iterdir())


def _check_renaming(output: Path) -> None:
    """Refuse an empty folder that a rename cannot replace."""
    if output.is_mount():
        raise SalsaError(
            f"{output} is a mount point, and a result appears by a rename, which cannot replace "
            f"it; choose a folder in it: -o {output / 'NAME'}"
        )


def _check_replaceable(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse what `--force` does not replace, so that it is advised only where it works."""
    if output.is_symlink() or not output.is_dir():
        raise SalsaError(
            f"{output} already exists and is a link or a file, which --force does not replace; "
            "choose another -o"
        )
    place = output.resolve()
    for path in inputs:
        if path.exists() and path.resolve().is_relative_to(place):
            raise SalsaError(f"{output} contains {path}, an input of this run; choose another -o")
    names = {entry.name for entry in output.iterdir()}
    if not names & _EXPLAINED:
        raise SalsaError(
            f"{output} already exists and contains neither a model nor a result of salsa, so "
            "--force does not replace it; choose another -o, or delete it yourself"
        )


@contextmanager
def draft(output: Path, *, force: bool) -> Iterator[Path]:
    """An empty folder that becomes `output` at the end of the block, and is removed if it fails."""
    with _locked(output, force) as folder:
        _empty(folder)
        try:
            yield folder
            publish(folder, output)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


Kept = Callable[[Path], str | None]
"""Describes what the folder of an unfinished run has worth keeping; None if nothing."""


def saved_steps(folder: Path) -> str | None:
    """What a training run has worth keeping: its newest checkpoint."""
    saved = latest_checkpoint(folder)
    return f"the run up to step {saved.step}" if saved else None


@contextmanager
def resumable(
    output: Path, *, force: bool, resume: bool, kept: Kept = saved_steps
) -> Iterator[Path]:
    """As `draft`, but the folder survives a failure if it has something worth keeping.

    Raises:
        SalsaError: `output` exists, or there is an unfinished run of that name and neither
            `resume` nor `force` is set.
    """
    folder = partial_folder(output)
    if not resume and not force and kept(folder) is not None:
        stop = stops.read(folder)
        why = f" ({stop.headline})" if stop is not None else ""
        raise SalsaError(
            f"{folder} contains an unfinished run{why}; continue it with --resume, "
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
            # An existing result would be taken for the end of this run.
            how = "--resume --force" if force and not is_free(output) else "--resume"
            hint = f"{folder} keeps {saved}; continue it with {how}"
            if isinstance(end, KeyboardInterrupt):
                raise type(end)(f"{signals.described(type(end))}; {hint}") from end
            if isinstance(end, SalsaError) and saved != begun:
                raise type(end)(f"{end}\n{hint}") from end
            raise


def reopen(output: Path) -> None:
    """Turn a complete result into a draft again, which `resumable` continues.

    Raises:
        SalsaError: another process is doing so, or the folder cannot be renamed.
    """
    with os_errors(output, "rename"):
        (output / _LOCK).touch()
        output.rename(partial_folder(output))


def publish(folder: Path, output: Path) -> None:
    """Rename `folder` to `output`; only then remove an earlier result.

    The lock moves with the folder and is removed last: no other process ever finds the folder
    without it.
    """
    _sync(folder)
    if is_free(output):
        folder.rename(output)  # also replaces an empty folder, atomically
        (output / _LOCK).unlink(missing_ok=True)
        return
    retired = output.with_name(f"{output.name}.replaced-{os.getpid()}")
    output.rename(retired)
    folder.rename(output)
    (output / _LOCK).unlink(missing_ok=True)
    shutil.rmtree(retired)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` at the end of the block, in place of an earlier one.

    A process that is killed leaves `target` complete or absent, and at worst a draft beside it,
    which the next call with this target removes.

    Raises:
        SalsaError: it cannot be written.
    """
    folder = target.with_name(target.name + ".draft")
    with os_errors(target, "write"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
            _sync(folder)
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def made_by(
    command: str, config: Config, inputs: Mapping[str, JSON], **more: Any
) -> dict[str, JSON]:
    """The record of how a result was made; `--config` accepts it."""
    return {
        "command": command,
        "settings": record(config),
        "origins": origins(config),
        "inputs": dict(inputs),
        "versions": dict(versions()),
        **more,
    }


def write_record(folder: Path, name: str, content: Mapping[str, JSON]) -> None:
    """Write the record of a run into its folder."""
    write_json(folder / name, content)


def finished(name: str, config: Config) -> dict[str, Any] | None:
    """The result that a complete run recorded in the file `name` of its output; None if none did.

    Raises:
        SalsaError: that run had other settings that change the result; names them. Or a later run
            was stopped that will replace it.
    """
    output = config.output
    path = output / name
    if not path.is_file():
        return None
    made = json.loads(path.read_text(encoding="utf-8"))
    if "result" not in made:
        return None
    check_alone(output)
    before = with_moved_inputs(made["settings"], made.get("inputs", {}), config)
    if differing := differences(before, config):
        raise SalsaError(
            f"{output} is complete, but was made with other settings: {'; '.join(differing)}. "
            "Choose another -o, or replace it with --force"
        )
    return dict(made["result"])


def check_alone(output: Path) -> None:
    """Refuse a complete result with an unfinished run next to it, which --force has begun.

    Raises:
        SalsaError: `--resume` could mean either.
    """
    folder = partial_folder(output)
    if (stop := stops.read_killed(folder)) is not None:
        raise SalsaError(
            f"{output} is complete, and {folder} contains an unfinished run that will replace it "
            f"({stop.headline}). Continue that one with --resume --force, or delete {folder}"
        )


def keep_rows(path: Path, rows: int) -> None:
    """Cut a JSON Lines file down to its first `rows` lines (those that a checkpoint covers)."""
    if path.exists():
        kept = path.read_bytes().split(b"\n")[:rows]
        draft = path.with_name(path.name + ".draft")
        draft.write_bytes(b"".join(line + b"\n" for line in kept))
        draft.replace(path)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name != _LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@contextmanager
def _locked(output: Path, force: bool) -> Iterator[Path]:
    """The folder in which a run of this output works, locked by this process."""
    check_output(output, force)
    folder = partial_folder(output)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise SalsaError(
            f"{folder} has the name of a partial result, but was not written by salsa; move it away"
        )
    folder.mkdir(parents=True, exist_ok=True)
    busy = SalsaError(f"{folder} is in use by another salsa process")
    try:
        lock = (folder / _LOCK).open("w")
    except FileNotFoundError as error:  # another process has just published it
        raise busy from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise busy from error
        if not _is_at(lock, folder / _LOCK):
            raise busy
        check_output(output, force)  # another process may have created it since
        yield folder


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one at this path."""
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
