"""Whether models can be combined: every way in which their folders differ, all at once."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from salsa_cli.records import read_json
from salsa_cli.weights.layout import TensorSpec
from salsa_cli.weights.weight_files import PIECE, TensorReader, WeightFiles

# Buffers that old versions of transformers stored and newer ones compute: rotary frequencies and
# causal masks.
_COMPUTED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)")
_OUTPUT_EMBEDDING = re.compile(r"(lm_head|embed_out)\.weight")
_INPUT_EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|word_embeddings|embed_in)\.weight")

# Keys of config.json that describe where a model comes from or how it is stored, not the function
# that it computes.
_HARMLESS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"} | {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "salsa_reward",
}
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Mismatches:
    """How models differ: `fatal` rules out combining them, `minor` only deserves a warning."""

    fatal: tuple[str, ...]
    minor: tuple[str, ...]


def compare(folders: Sequence[Path]) -> Mismatches:
    """Compare the configuration and the tokenizer of every folder with those of the first."""
    configs = [line for other in folders[1:] for line in _config(folders[0], other)]
    found = compare_tokenizers(folders)
    return Mismatches((*configs, *found.fatal), found.minor)


def compare_tokenizers(folders: Sequence[Path]) -> Mismatches:
    """Compare vocabulary, special tokens and chat template with those of the first folder."""
    first, *others = folders
    fatal = [line for other in others for line in tokenizers(first, other)]
    minor = [
        f"the chat templates of {first} and {other} differ"
        for other in others
        if _chat_template(first) != _chat_template(other)
    ]
    return Mismatches(tuple(fatal), tuple(minor))


def common_tensors(
    models: Sequence[WeightFiles],
) -> tuple[tuple[WeightFiles, ...], tuple[str, ...]]:
    """Drop tensors that only some models store and none needs; returns the models and notes.

    These are buffers that newer versions compute (rotary frequencies, causal masks), and an output
    embedding stored as a copy of the input embedding to which the other models tie it.

    Raises:
        SalsaError: a file cannot be read.
    """
    notes = []
    spare = set()
    names = dict.fromkeys(name for one in models for name in one.tensors)
    for name in names:
        holders = [one for one in models if name in one.tensors]
        if len(holders) == len(models):
            continue
        if _is_computed(holders[0].tensors[name]):
            spare.add(name)
            notes.append(f"{name} is left out: only some models store it, and none needs it")
        elif _OUTPUT_EMBEDDING.fullmatch(name) and all(_is_tied(one, name) for one in holders):
            spare.add(name)
            notes.append(
                f"{name} is left out: it equals the input embedding, to which "
                f"{len(models) - len(holders)} of the models tie it"
            )
    kept = tuple(
        replace(one, tensors={name: s for name, s in one.tensors.items() if name not in spare})
        for one in models
    )
    return kept, tuple(notes)


def _is_computed(spec: TensorSpec) -> bool:
    """A mask is [1, 1, n, n] or a single number; a bias of that name would be a vector."""
    return _COMPUTED.fullmatch(spec.name) is not None and (
        spec.name.endswith("inv_freq") or len(spec.shape) != 1
    )


def _is_tied(weights: WeightFiles, name: str) -> bool:
    """Whether a tensor holds the same bytes as the input embedding."""
    output = weights.tensors[name]
    inputs = [spec for key, spec in weights.tensors.items() if _INPUT_EMBEDDING.fullmatch(key)]
    if len(inputs) != 1 or (inputs[0].dtype, inputs[0].shape) != (output.dtype, output.shape):
        return False
    with TensorReader() as one, TensorReader() as other:
        return all(
            np.array_equal(
                one.read(inputs[0], begin, count := min(PIECE, output.elements - begin)),
                other.read(output, begin, count),
            )
            for begin in range(0, output.elements, PIECE)
        )


def tokenizers(first: Path, other: Path) -> list[str]:
    """Differences in vocabulary and special tokens; none if a folder has no tokenizer."""
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


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of any kind."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.*", "*.tiktoken")
    return any(any(folder.glob(name)) for name in names)


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
    # Unigram models list [token, log-probability] in order of the ids.
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
