"""Whether models are of one base: every way in which their folders disagree, all at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli.records import read_json

# Fields of config.json that say where a model comes from or how it is stored or run, not what
# function it computes.
_HARMLESS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"} | {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "salsa_reward",
}
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Disagreement:
    """What differs: `fatal` forbids to combine the models, `minor` is worth a line."""

    fatal: tuple[str, ...]
    minor: tuple[str, ...]


def compare(folders: Sequence[Path]) -> Disagreement:
    """Hold the configuration and the tokenizer of every folder against those of the first."""
    first, *others = folders
    fatal: list[str] = []
    minor: list[str] = []
    for other in others:
        fatal += _config(first, other)
        fatal += tokenizers(first, other)
        if _chat_template(first) != _chat_template(other):
            minor.append(f"the chat templates of {first} and {other} differ")
    return Disagreement(tuple(fatal), tuple(minor))


def tokenizers(first: Path, other: Path) -> list[str]:
    """Differences in vocabulary and special tokens; none where a folder brings no tokenizer."""
    found = []
    ours, theirs = _vocabulary(first), _vocabulary(other)
    if ours is not None and theirs is not None and ours != theirs:
        example = next(
            token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)
        )
        found.append(
            f"vocabulary: {len(ours)} tokens in {first}, {len(theirs)} in {other}; for example "
            f"{example!r} is {ours.get(example, 'absent')} and {theirs.get(example, 'absent')}"
        )
    special, special_other = _special_tokens(first), _special_tokens(other)
    for name in _SPECIAL_TOKENS:
        a, b = special.get(name), special_other.get(name)
        if special and special_other and a != b:
            found.append(f"{name}: {a!r} in {first}, {b!r} in {other}")
    return found


def _config(first: Path, other: Path) -> list[str]:
    ours, theirs = read_json(first / "config.json"), read_json(other / "config.json")
    return [
        f"config.json {key}: {_short(a)} in {first}, {_short(b)} in {other}"
        for key in sorted({*ours, *theirs} - _HARMLESS)
        if (a := ours.get(key)) != (b := theirs.get(key))
    ]


def _vocabulary(folder: Path) -> dict[str, int] | None:
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    content = read_json(path)
    vocab = content.get("model", {}).get("vocab", {})
    # Unigram models list [token, log-probability] in the order of their ids.
    tokens = (
        dict(vocab)
        if isinstance(vocab, Mapping)
        else {entry[0]: index for index, entry in enumerate(vocab)}
    )
    return tokens | {token["content"]: token["id"] for token in content.get("added_tokens") or []}


def _special_tokens(folder: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            content = read_json(folder / name)
            found |= {key: _token_text(content[key]) for key in _SPECIAL_TOKENS if key in content}
    return found


def _token_text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _chat_template(folder: Path) -> str | None:
    separate = folder / "chat_template.jinja"
    if separate.exists():
        return separate.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    template = read_json(config).get("chat_template") if config.exists() else None
    return None if template is None else json.dumps(template)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
