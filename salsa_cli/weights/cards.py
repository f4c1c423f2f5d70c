"""The head of a model card (README.md) as the hub reads it: YAML between two lines of dashes."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from salsa_cli.formatting import plain

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TABLE_WIDTH = 300

_CACHED = re.compile(
    r"/[^\s,()=]*/models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)/snapshots/[0-9a-f]+/?"
)
_ABSOLUTE = re.compile(r"(?<![\w.~/-])/(?!/)(?:[^,()=:/]+/)*(?P<last>[^,()=:/]+/?)")


def front_matter(
    base_models: Iterable[str],
    *,
    library: str,
    tags: Sequence[str],
    relation: str | None = None,
    pipeline: str | None = None,
) -> str:
    """The metadata of a card.

    The hub accepts only ids of its own as `base_model`, so local folders are left out; the text of
    the card names them. A model in the hub's cache has an id, too. `relation` says what the model
    is to them: `finetune`, `adapter`, `merge`.
    """
    ids = [name for name in dict.fromkeys(map(_by_id, base_models)) if is_hub_id(name)]
    lines = ["---"]
    if ids:
        lines += ["base_model:", *(f"- {_quoted(name)}" for name in ids)]
        lines += [f"base_model_relation: {relation}"] if relation else []
    lines.append(f"library_name: {library}")
    if pipeline:
        lines.append(f"pipeline_tag: {pipeline}")
    return "\n".join([*lines, "tags:", *(f"- {_quoted(tag)}" for tag in tags), "---", ""])


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one on the hub, and no folder here."""
    return has_hub_form(name) and not Path(name).exists()


def has_hub_form(name: str) -> bool:
    """Whether the hub allows such an id of a repository: `org/name`."""
    return (
        _HUB_ID.fullmatch(name) is not None
        and len(name) <= 96
        and not name.endswith((".git", ".ipynb", ".", "-"))
        and not any(pair in name for pair in ("--", ".."))
    )


def shown(text: str) -> str:
    """A name for readers elsewhere: absolute paths without the folders above them.

    A model in the hub's cache is shown by its id.
    """
    text = _CACHED.sub(lambda found: f"{found['owner']}/{found['name']}", text)
    return _ABSOLUTE.sub(lambda found: found["last"], text)


def cell(text: str) -> str:
    """Foreign text in a cell of a Markdown table, or within a line."""
    return plain(text, _TABLE_WIDTH).replace("|", "\\|")


def _by_id(name: str) -> str:
    """A folder of the hub's cache by the id of its model; any other name as it is."""
    found = _CACHED.fullmatch(name)
    return f"{found['owner']}/{found['name']}" if found else name


def _quoted(text: str) -> str:
    """A YAML scalar: plain where nothing can be misread, else as in JSON, which YAML includes."""
    simple = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", text) is not None
    return text if simple and text.lower() not in _WORDS else json.dumps(text)


_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
