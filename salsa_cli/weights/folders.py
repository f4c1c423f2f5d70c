"""Model folders: find them locally or on the hub, describe them, copy their other files."""

import re
import shutil
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from salsa_cli import data
from salsa_cli.errors import SalsaError, one_line, os_errors
from salsa_cli.records import JSON, read_json, to_json, write_json
from salsa_cli.weights.weight_files import (
    adapter_message,
    digest,
    has_model_weights,
    listing,
    open_adapter_weights,
    open_weight_files,
    weights_digest,
)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_PICKLED = ["pytorch_model*.bin", "adapter_model.bin"]  # only if there are no safetensors
_FETCHED = [
    *["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.bpe"],
    *["*.py", "LICENSE*", "NOTICE*", "USE_POLICY*"],  # copied into soups; code is never run here
]
# Copies of the weights for other programs: in subfolders, or in Mistral's own layout.
_NOT_FETCHED = ["*/*.safetensors", "consolidated*"]

SOUP_RECORD = "soup.json"

# All files a tokenizer may consist of; the names differ between families.
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template.*",
)


ADAPTER_CONFIG = "adapter_config.json"

SETTINGS_DIGEST = "settings_sha256"
"""Key of a model's record; records of salsa before 0.2.0 do not have it."""

# Keys of configuration files that say where a model came from and what wrote it.
_WRITER = {"_name_or_path", "transformers_version", "peft_version"}

REWARD_SCALE = "salsa_reward"
"""Key in config.json (file name for adapters) of a reward model's score mean and deviation."""


def resolve(name: str) -> Path:
    """The local folder of a model: the folder `name`, or else the hub model of that id, downloaded.

    Only weights and the files that loaders read are downloaded; `.bin` files only if there are no
    safetensors. Code is among them, so that a soup can carry it; nothing here runs it.

    Raises:
        SalsaError: there is no such folder or hub model, the hub cannot be reached, or the folder
            has no config.json.
    """
    folder = resolve_any(name)
    if is_adapter(folder):
        raise SalsaError(adapter_message(folder))
    return folder


def resolve_any(name: str) -> Path:
    """Like `resolve`, but also accepts LoRA adapters."""
    with os_errors(Path(name), "read"):
        folder = local_folder(name) or _fetch(name)
        _check_one_kind(folder)
        if (folder / "config.json").is_file() or is_adapter(folder):
            return folder
        inside = [one for one in sorted(folder.iterdir()) if (one / ADAPTER_CONFIG).is_file()]
        # peft saves a named adapter in a folder of that name.
        hint = f"; {inside[0]} contains an adapter" if inside else ""
        raise SalsaError(
            f"{name}: no config.json found; expected a Hugging Face model folder "
            f"{listing(folder)}{hint}"
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter; some tools save the base's config.json with it."""
    return (folder / ADAPTER_CONFIG).is_file()


def _check_one_kind(folder: Path) -> None:
    """Refuse a folder with an adapter and full weights: Transformers would load the base instead.

    Raises:
        SalsaError: it has both.
    """
    if is_adapter(folder) and (folder / "config.json").is_file() and has_model_weights(folder):
        raise SalsaError(
            f"{folder} contains both a model and a LoRA adapter ({ADAPTER_CONFIG}), so which of "
            "them is meant is not clear. Move the files of one of them to another folder"
        )


def base(folder: Path) -> Path:
    """The base model of an adapter; of any other model, the model itself.

    A relative path is looked up in the working directory first, then next to the adapter.

    Raises:
        SalsaError: the adapter does not name it, or it is not there.
    """
    if not is_adapter(folder):
        return folder
    path = folder / ADAPTER_CONFIG
    name = read_json(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise SalsaError(
            f"{path}: no base_model_name_or_path; expected the folder or the hub id of the base "
            "model of the adapter"
        )
    places = (Path(name), folder.parent / name, folder / name)
    local = next((place for place in places if place.is_dir()), None)
    try:
        return resolve(str(local)) if local is not None else _fetched_base(name)
    except SalsaError as error:
        raise SalsaError(
            f"the base of the adapter {folder} cannot be used: {error}. "
            f"base_model_name_or_path in {path} names it"
        ) from error


def base_name(folder: Path) -> str:
    """The adapter's name for its base, or the full path if the name only works next to it."""
    name = str(read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"])
    beside = any((place / name).is_dir() for place in (folder.parent, folder))
    return str(base(folder)) if beside and not Path(name).is_dir() else name


def tokenizer(folder: Path) -> Path:
    """The folder with a model's tokenizer: an adapter without one uses that of its base."""
    own = any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab.*", "*.tiktoken"))
    return folder if own else base(folder)


def reward_scale_file(folder: Path) -> Path:
    """The file with a reward model's scale: config.json, or a separate one for an adapter."""
    return folder / (f"{REWARD_SCALE}.json" if is_adapter(folder) else "config.json")


def reward_scale(folder: Path) -> Mapping[str, float] | None:
    """The `mean` and `std` of a reward model's raw scores, if it has them."""
    path = reward_scale_file(folder)
    if is_adapter(folder):
        return read_json(path) if path.is_file() else None
    found: Mapping[str, float] | None = read_json(path).get(REWARD_SCALE)
    return found or None


def store_reward_scale(folder: Path, scale: Mapping[str, float]) -> None:
    """Write the `mean` and `std` of a reward model's raw scores into its folder."""
    path = reward_scale_file(folder)
    whole = {} if is_adapter(folder) else {**read_json(path), REWARD_SCALE: dict(scale)}
    write_json(path, whole or dict(scale))


def ingredients(folder: Path) -> tuple[str, ...]:
    """The models that a soup's record names; empty if the folder is not a soup.

    Relative paths are looked up in the working directory first, then next to the soup.
    """
    path = folder / SOUP_RECORD
    if not path.exists():
        return ()
    named = read_json(path).get("ingredients")
    if not isinstance(named, list) or not all(isinstance(one, dict) for one in named):
        raise SalsaError(f"{path}: no list of ingredients found; expected the record of a soup")
    found = []
    for ingredient in named:
        name = str(ingredient.get("model"))
        beside = folder.parent / name
        found.append(str(beside) if not Path(name).exists() and beside.exists() else name)
    return tuple(found)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files, byte for byte."""
    for pattern in TOKENIZER_FILES:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def name_pad_token(folder: Path, token: str) -> None:
    """Set the padding token of a copied tokenizer if it names another one or none."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    given = settings.get("pad_token")
    if (given.get("content") if isinstance(given, dict) else given) != token:
        write_json(path, {**settings, "pad_token": token})


def members(folder: Path) -> tuple[Path, ...]:
    """The members of an ensemble, its subfolders 0, 1, 2 ...; empty for a single model.

    Raises:
        SalsaError: a number is missing among them.
    """
    if (folder / "config.json").exists() or is_adapter(folder) or not folder.is_dir():
        return ()
    numbers = sorted(
        int(path.name) for path in folder.iterdir() if re.fullmatch(r"0|[1-9]\d*", path.name)
    )
    found = tuple(folder / str(number) for number in numbers)
    if numbers and numbers != list(range(len(numbers))):
        gap = next(place for place, number in enumerate(numbers) if number != place)
        raise SalsaError(f"{folder} is an incomplete ensemble: member {gap} is missing")
    for member in found:
        _check_one_kind(member)
        if not (member / "config.json").is_file() and not is_adapter(member):
            raise SalsaError(f"{member}: no config.json found; expected a member of an ensemble")
    return found


def describe(folder: Path) -> dict[str, JSON]:
    """A model or an ensemble for the record: its path, digests of its weights and of its settings.

    The settings are the other files that decide what the model computes or reads: configuration and
    tokenizer. For an adapter, also its base.
    """
    if parts := members(folder):
        return {"path": str(folder), "members": [describe(part) for part in parts]}
    adapter = is_adapter(folder)
    files = open_adapter_weights(folder) if adapter else open_weight_files(folder)
    found: dict[str, JSON] = {"path": str(folder), "weights_xxh3": weights_digest(files)}
    found[SETTINGS_DIGEST] = _settings_digest(folder)
    return {**found, "base": describe(base(folder))} if adapter else found


def _settings_digest(folder: Path) -> str:
    """One digest of the configuration and tokenizer files; who wrote them does not count."""
    found = sha256()
    for name in ("config.json", "generation_config.json", ADAPTER_CONFIG):
        if (folder / name).is_file():
            stored = read_json(folder / name)
            kept = {key: stored[key] for key in sorted(stored) if key not in _WRITER}
            found.update(f"{name} {to_json(kept)}\n".encode())
    for path in sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}):
        if path.is_file():
            found.update(f"{path.name} {digest(path)}\n".encode())
    return found.hexdigest()[:32]


def describe_files(name: str, files: tuple[Path, ...]) -> dict[str, JSON]:
    """A data source for the record: its name and the digests of its files."""
    if name == data.STDIN:
        return {"source": name, "sha256": {name: sha256(data.piped()).hexdigest()}}
    return {"source": name, "sha256": {str(path): digest(path) for path in files}}


def free_space(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def local_folder(name: str) -> Path | None:
    """The local folder of that name; None if it may be a hub id instead.

    Raises:
        SalsaError: it is neither.
    """
    folder = Path(name)
    if name and folder.is_dir():
        return folder
    if name and not folder.exists() and _HUB_NAME.fullmatch(name):
        return None
    found = "is a file" if name and folder.exists() else "no such folder"
    raise SalsaError(
        f"{one_line(name)}: {found}; expected a Hugging Face model folder or a hub id like org/name"
    )


@cache
def _fetched_base(name: str) -> Path:
    """A base from the hub, fetched once so that all models of a run use the same one."""
    return resolve(name)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError as error:
        raise SalsaError(
            f"{name}: no such folder, and huggingface_hub, which could download it, is not "
            "installed; run `pip install huggingface_hub`, or pass a local folder"
        ) from error
    try:
        fetched = snapshot_download(name, allow_patterns=_FETCHED, ignore_patterns=_NOT_FETCHED)
        if not any(Path(fetched).glob("*.safetensors")):
            fetched = snapshot_download(name, allow_patterns=[*_FETCHED, *_PICKLED])
    except GatedRepoError as error:
        raise SalsaError(
            f"{name}: no such folder, and on the Hugging Face hub it is gated; accept its terms at "
            f"https://huggingface.co/{name} and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise SalsaError(
            f"{name}: no such folder, and no such model on the Hugging Face hub; correct the name, "
            "or log in with `hf auth login` if the model is private"
        ) from error
    except Exception as error:  # the hub client raises errors of many libraries
        reason = one_line(str(error).strip().partition("\n")[0] or type(error).__name__)
        raise SalsaError(
            f"{name}: no such folder, and it could not be downloaded from the Hugging Face hub "
            f"({reason}); pass a local folder, or check the network connection"
        ) from error
    return Path(str(fetched))
