"""The files of a model folder other than its weights: which of them belong to a model made from it.

A result loads wherever its first ingredient loads if it has every file that some loader may read:
tokenizer, processors, prompt templates, remote code (copied, never run), licences. So everything is
carried except weights, their indexes, copies of the model in other formats, and the records of the
run that made the ingredient.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from salsa_cli.errors import SalsaError, StorageError, os_errors
from salsa_cli.records import read_json

# Weights in any format, their indexes, and the configuration files of other formats.
_WEIGHTS = (
    "*.safetensors *.bin *.pt *.pth *.ckpt *.h5 *.msgpack *.ot *.gguf *.ggml *.onnx *.onnx_data "
    "*.tflite *.mlmodel *.distcp *.index.json consolidated* params.json"
).split()
# How the ingredient was made; of the result other things are true.
_RUN_RECORDS = (
    "README.md soup.json salsa.json salsa_reward.json metrics.jsonl samples.jsonl rewards.jsonl "
    "report.html evaluation.json trainer_state.json trainer_log.jsonl training_args.json "
    "all_results.json train_results.json eval_results.json events.out.tfevents* journal.jsonl "
    "*.draft .lock .DS_Store"
).split()
_SKIPPED_FOLDERS = {".git", ".cache", ".huggingface", "__pycache__", "runs", "wandb", "logs"}
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template.*",
    "additional_chat_templates/*",
)


@dataclass(frozen=True)
class Companions:
    """The files other than the weights of a folder, by their path inside it.

    `carried` belong to a model made from it, `left_out` do not; a folder that is left out as a
    whole ends in a slash. What is no UTF-8 in the names of `left_out` is escaped: they are text for
    records and messages.
    """

    folder: Path
    carried: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the files that are carried."""
        return sum((self.folder / name).stat().st_size for name in self.carried)

    def copy(self, target: Path) -> None:
        """Copy the carried files, byte for byte.

        Raises:
            StorageError: a file cannot be read or written.
        """
        for name in self.carried:
            copy_file(self.folder / name, target / name)


def companions(folder: Path, besides: Iterable[str]) -> Companions:
    """Sort the files of a model folder; `besides` are weights and what the caller writes itself.

    A subfolder with weights in it holds another model (`onnx/`, `original/`, `checkpoint-500/`) and
    is left out as a whole. So is a link to a folder: caches link files, users link data.

    Raises:
        SalsaError: the folder cannot be read.
    """
    carried: list[str] = []
    left_out: list[str] = []
    known = {*besides}
    with os_errors(folder, "read"):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.is_symlink():
                left_out.append(f"{path.name}/")
            elif path.is_dir():
                inside = [one for one in sorted(path.rglob("*")) if one.is_file()]
                names = [str(one.relative_to(folder)) for one in inside]
                if path.name in _SKIPPED_FOLDERS or any(map(_is_weights, names)):
                    left_out.append(f"{path.name}/")
                else:
                    carried += names
            elif path.name in known:
                continue
            elif not path.is_file() or _matches(path.name, (*_WEIGHTS, *_RUN_RECORDS)):
                left_out.append(path.name)
            else:
                carried.append(path.name)
    named = (one.encode(errors="backslashreplace").decode() for one in left_out)
    return Companions(folder, tuple(carried), tuple(named))


def modules_left_out(found: Companions) -> tuple[str, ...]:
    """The parts of a sentence-transformers model, named by `modules.json`, that are left out.

    They have weights of their own, such as the `2_Dense/` of a projection.
    """
    path = found.folder / "modules.json"
    if not path.is_file():
        return ()
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a file of that name that means something else
        return ()
    modules = listed if isinstance(listed, list) else []
    paths = [str(one.get("path") or "") for one in modules if isinstance(one, dict)]
    left_out = {name.rstrip("/") for name in found.left_out}
    return tuple(one for one in paths if one and one.strip("/").partition("/")[0] in left_out)


def with_tokenizer(found: Companions, tokenizer: Path) -> tuple[Companions, ...]:
    """The companions where the tokenizer comes from another folder: its files replace all others'.

    Code of the tokenizer that its configuration names comes along.
    """
    if tokenizer == found.folder:
        return (found,)
    others = companions(tokenizer, ())
    code = {name for name in others.carried if name.endswith(".py")} & _named_code(tokenizer)
    ours = tuple(
        name for name in found.carried if not _matches(name, _TOKENIZER_FILES) and name not in code
    )
    theirs = tuple(
        name for name in others.carried if _matches(name, _TOKENIZER_FILES) or name in code
    )
    return (
        Companions(found.folder, ours, found.left_out),
        Companions(tokenizer, theirs, ()),
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file; makes the folders in between.

    Raises:
        StorageError: it names the file that cannot be read, or the one that cannot be written.
    """
    with os_errors(source, "read"):
        content = source.open("rb")
    with content:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{target}: {write_problem(error)}") from error


def write_problem(error: OSError) -> str:
    """What to say of a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and continue with --resume"
    return f"cannot write it: {error.strerror or error}"


def _is_weights(name: str) -> bool:
    return _matches(Path(name).name, _WEIGHTS)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _named_code(folder: Path) -> set[str]:
    """The Python files that the `auto_map` of a tokenizer configuration names."""
    path = folder / "tokenizer_config.json"
    try:
        named = read_json(path).get("auto_map") if path.is_file() else None
    except SalsaError:
        return set()
    return {f"{module}.py" for module in re.findall(r"'(\w+)\.\w+'", repr(named))}
