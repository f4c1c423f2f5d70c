"""Publishes a result on the Hugging Face hub: model, tokenizer and card, and nothing else."""

import glob
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salsa_cli.errors import SalsaError, UsageError, one_line, os_errors
from salsa_cli.formatting import plain
from salsa_cli.records import read_json
from salsa_cli.weights import cards, folders

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_MODEL = (
    *("*.safetensors", "*.safetensors.index.json", "README.md"),
    *("config.json", "generation_config.json", folders.ADAPTER_CONFIG),
    f"{folders.REWARD_SCALE}.json",
    *folders.TOKENIZER_FILES,
)
"""What every model consists of; a soup's record names what else it has from its first model."""

_SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}(\.safetensors)")


def check(repo: str) -> None:
    """Refuse to begin where the result could not be pushed: before anything is computed.

    Raises:
        UsageError: `repo` cannot be the id of a repository.
        SalsaError: nobody is logged in, the token is not valid or may only read, or the
            repository would be somebody else's.
    """
    if not cards.has_hub_form(repo):
        raise UsageError(f"--push-to-hub {one_line(repo)}: expected ORG/NAME, like alice/my-policy")
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise SalsaError(
            f"--push-to-hub {repo}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it"
        )
    if get_token() is None:
        raise SalsaError(
            f"--push-to-hub {repo}: not logged in to the Hugging Face hub; run `hf auth login`, or "
            "set HF_TOKEN to a token that may write"
        )
    with _refusals(f"--push-to-hub {repo}: the hub cannot be asked who is logged in"):
        account = _api().whoami()
    _check_account(repo, account)


def _check_account(repo: str, account: dict[str, Any]) -> None:
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise SalsaError(
            f"--push-to-hub {repo}: the token of {account['name']} may only read; create one that "
            "may write at https://huggingface.co/settings/tokens"
        )
    own = [account["name"], *(one["name"] for one in account.get("orgs", ()))]
    if (owner := repo.partition("/")[0]).lower() not in {name.lower() for name in own}:
        raise SalsaError(
            f"--push-to-hub {repo}: {account['name']} is logged in, who cannot write to {owner}; "
            f"expected one of {', '.join(own)}"
        )


def result_files(folder: Path) -> tuple[str, ...]:
    """The files of a result that make it a model, by their paths in its folder.

    Logs, records, samples, checkpoints and whatever else lies there are not among them.
    """
    record = folder / folders.SOUP_RECORD
    listed = read_json(record).get("companions", []) if record.is_file() else []
    with os_errors(folder, "read"):
        found = {
            path.name
            for path in folder.iterdir()
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _MODEL)
        }
        found |= {name for name in listed if (folder / name).is_file()}
    return tuple(sorted(found))


def caution(folder: Path) -> str | None:
    """What keeps others from loading the result: a base that the hub does not have."""
    path = folder / folders.ADAPTER_CONFIG
    if not folders.is_adapter(folder):
        return None
    base = str(read_json(path).get("base_model_name_or_path"))
    if cards.is_hub_id(base):
        return None
    return (
        f"{path.name} names {one_line(base)} as the base of the adapter, which is not on the hub: "
        "nobody else can load it. Train with the hub id of the base, or push a merged model"
    )


def push(folder: Path, repo: str, *, progress: bool) -> str:
    """Upload a result; returns what to tell of it: its address, and who may read it.

    A new repository is private. The folder is only read. `progress` lets the hub's client draw
    bars on stderr.

    Raises:
        SalsaError: the upload failed; says how to repeat it.
        KeyboardInterrupt: it was interrupted; says the same.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not progress:
        disable_progress_bars()
    names = result_files(folder)
    with _refusals(f"the upload to {repo} failed", advice(folder, repo)):
        api = _api()
        url = str(api.create_repo(repo, private=True, exist_ok=True))
        private = api.model_info(repo).private
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in names],
            commit_message="Upload by salsa",
        )
    return f"{url} ({'private' if private else 'public'})"


def advice(folder: Path, repo: str) -> str:
    """What to do after an upload that did not succeed: the command that repeats it."""
    patterns = dict.fromkeys(
        _SHARD.sub(r"\1-*\2", glob.escape(name)) for name in result_files(folder)
    )
    included = [part for pattern in patterns for part in ("--include", pattern)]
    command = shlex.join(["hf", "upload", repo, str(folder), ".", "--private", *included])
    return f"{folder} is complete. To upload it:\n  {command}"


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="salsa")


@contextmanager
def _refusals(what: str, then: str = "") -> Iterator[None]:
    """Context manager around calls of the hub: what they raise, in one sentence."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(f"interrupted; {then}" if then else "") from interrupt
    except Exception as error:  # the hub client raises errors of many libraries
        reason = plain(str(error), 300) or type(error).__name__
        raise SalsaError(f"{what} ({reason})" + (f"; {then}" if then else "")) from error
