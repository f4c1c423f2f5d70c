"""Whether two folders turn the same text into the same tokens, and where answers end.

What differs in vocabulary, merges or normalisation makes one model read tokens that the other never
saw: fatal. Padding and unknown tokens change nothing that a causal model computes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.records import read_bytes, read_json
from salsa_cli.weights.difference import Difference, describe_values
from salsa_cli.weights.weight_files import digest

# Whether a difference in it is fatal.
_SPECIAL_TOKENS = {"bos_token": True, "eos_token": True, "pad_token": False, "unk_token": False}
# Whether an input begins or ends with such a token; absent, it depends on the class.
_ADDED = ("add_bos_token", "add_eos_token")
# What a class of transformers takes where no file says which token it is; every other class takes
# none. Without `tokenizer_class` the class is that of the family in config.json.
_END = "<|endoftext|>"
_CLASS_TOKENS: Mapping[str, Mapping[str, str]] = {
    "GPT2Tokenizer": {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    "Qwen2Tokenizer": {"eos_token": _END, "unk_token": _END, "pad_token": _END},
    "GPTNeoXTokenizer": {
        "bos_token": _END,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": "<|padding|>",
    },
    "GemmaTokenizer": {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "BertTokenizer": {"unk_token": "[UNK]", "pad_token": "[PAD]"},
    "RobertaTokenizer": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
}
_FAMILY_CLASSES = (
    (re.compile(r"gpt2|opt"), "GPT2Tokenizer"),
    (re.compile(r"qwen[23].*"), "Qwen2Tokenizer"),
    (re.compile(r"gpt_neox"), "GPTNeoXTokenizer"),
    (re.compile(r"gemma.*"), "GemmaTokenizer"),
    (re.compile(r"m?t5"), "T5Tokenizer"),
    (re.compile(r"bert"), "BertTokenizer"),
    (re.compile(r"roberta|bart"), "RobertaTokenizer"),
)
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_PIPELINE = {"normalizer": True, "pre_tokenizer": True, "post_processor": False, "decoder": False}
_SLOW_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")
KEYS = frozenset(
    f"tokenizer.{name}"
    for name in (
        *_SPECIAL_TOKENS,
        *_ADDED,
        *_PIPELINE,
        *_SLOW_FILES,
        *("vocab", "merges", "scores", "model", "added_tokens", "chat_template"),
    )
)
"""What differences of tokenizers are called."""
# Defaults of the `tokenizers` library that some of its versions write and others do not.
_DEFAULTS: Mapping[str, object] = {
    "use_regex": True,
    "trim_offsets": True,
    "add_prefix_space": True,
    "prepend_scheme": "always",
    "split": True,
    "dropout": None,
    "byte_fallback": False,
    "ignore_merges": False,
    "fuse_unk": False,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "invert": False,
}


def compare_tokenizers(first: Path, other: Path) -> list[Difference]:
    """How the tokenizers of two folders differ; nothing if one of them has none.

    Raises:
        SalsaError: a file cannot be read.
    """
    return [
        *_fast_differences(first, other),
        *_slow_differences(first, other),
        *_special_differences(first, other),
    ]


def compare_chat_templates(first: Path, other: Path) -> list[Difference]:
    """How the chat templates differ, wherever a folder keeps them."""
    ours, theirs = chat_templates(first), chat_templates(other)
    if ours == theirs:
        return []
    text = f"the chat templates of {first} and {other} differ"
    return [Difference("tokenizer.chat_template", text, False)]


def chat_templates(folder: Path) -> dict[str, str]:
    """The chat templates of a folder by name; the one without a name is `default`.

    They are kept in `tokenizer_config.json`, as one text or as a list of named ones, or in files of
    their own, which go first.
    """
    found: dict[str, str] = {}
    config = folder / "tokenizer_config.json"
    given = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(given, str):
        found["default"] = given
    elif isinstance(given, list):
        found |= {
            str(one["name"]): str(one["template"])
            for one in given
            if isinstance(one, dict) and {"name", "template"} <= one.keys()
        }
    legacy = folder / "chat_template.json"
    if legacy.is_file() and isinstance(text := read_json(legacy).get("chat_template"), str):
        found["default"] = text
    if (single := folder / "chat_template.jinja").is_file():
        found["default"] = _read_text(single)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = _read_text(path)
    # Jinja drops one newline at the end.
    return {name: text.removesuffix("\n") for name, text in found.items()}


def vocabulary(folder: Path) -> dict[str, int] | None:
    """The ids of all tokens by `tokenizer.json`, or else `vocab.json`; None without either.

    Raises:
        SalsaError: a file cannot be read, or holds no vocabulary.
    """
    if (path := folder / "tokenizer.json").is_file():
        content = read_json(path)
        try:
            return _ids(_part(content, "model").get("vocab") or {}) | _added_tokens(content)
        except (TypeError, ValueError, LookupError) as error:
            raise SalsaError(
                f"{path}: its vocabulary is neither an object of tokens and ids nor a list of "
                "tokens and scores; download or save the tokenizer again"
            ) from error
    if (path := folder / "vocab.json").is_file():
        return dict(read_json(path))
    return None


def _ids(vocab: Any) -> dict[str, int]:
    """Ids by token; Unigram models list [token, log-probability] in order of the ids."""
    if isinstance(vocab, Mapping):
        return dict(vocab)
    return {entry[0]: index for index, entry in enumerate(vocab)}


def _fast_differences(first: Path, other: Path) -> list[Difference]:
    ours, theirs = vocabulary(first), vocabulary(other)
    found = []
    if ours is not None and theirs is not None:
        ours, theirs = _without_unread(first, ours, theirs), _without_unread(other, theirs, ours)
    if ours is not None and theirs is not None and ours != theirs:
        example = next(
            token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)
        )
        found.append(
            Difference(
                "tokenizer.vocab",
                f"vocabulary: {len(ours)} tokens in {first}, {len(theirs)} in {other}; for example "
                f"{one_line(repr(example))} is {ours.get(example, 'absent')} and "
                f"{theirs.get(example, 'absent')}",
                True,
            )
        )
    paths = [folder / "tokenizer.json" for folder in (first, other)]
    if not all(path.is_file() for path in paths):
        return found
    contents = [read_json(path) for path in paths]
    for name, fatal in _PIPELINE.items():
        a, b = (_plain(content.get(name)) for content in contents)
        if a != b:
            text = describe_values(a, b, first, other)
            found.append(Difference(f"tokenizer.{name}", f"tokenizer.json {name}: {text}", fatal))
    found += _flag_differences(first, other, contents)
    return [*found, *_model_differences(first, other, contents)]


def _flag_differences(first: Path, other: Path, contents: list[dict[str, Any]]) -> list[Difference]:
    """Added tokens that are found in a text in other ways, with the spaces around them or not."""
    ours, theirs = map(_flags, contents)
    found = []
    for token in (one for one in ours if one in theirs and ours[one] != theirs[one]):
        names = [name for name in _FLAGS if ours[token][name] != theirs[token][name]]
        a, b = ({name: flags[token][name] for name in names} for flags in (ours, theirs))
        text = describe_values(a, b, first, other)
        text = f"tokenizer.json added token {one_line(repr(token))}: {text}"
        found.append(Difference("tokenizer.added_tokens", text, False))
    return found


def _flags(content: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """The flags of the added tokens by token, with the defaults of the `tokenizers` library."""
    found = {}
    for token in content.get("added_tokens") or []:
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            flags = {name: bool(token.get(name)) for name in _FLAGS}
            if "normalized" not in token:
                flags["normalized"] = not flags["special"]
            found[token["content"]] = flags
    return found


def _without_unread(
    folder: Path, tokens: Mapping[str, int], others: Mapping[str, int]
) -> dict[str, int]:
    """The tokens but for those of padding and for the unknown that were added in one folder alone.

    No model reads them.
    """
    special = _special_tokens(folder)
    unread = {special.get(name) for name, fatal in _SPECIAL_TOKENS.items() if not fatal}
    unread -= {special.get(name) for name, fatal in _SPECIAL_TOKENS.items() if fatal}
    return {one: i for one, i in tokens.items() if one in others or one not in unread}


def _model_differences(
    first: Path, other: Path, contents: list[dict[str, Any]]
) -> list[Difference]:
    """Differences in merges, scores and settings of the tokenizers' models."""
    found = []
    merges = [_merges(_part(content, "model").get("merges")) for content in contents]
    if merges[0] != merges[1]:
        shown = describe_values(merges[0], merges[1], first, other)
        text = f"tokenizer.json merges: {len(merges[0])} and {len(merges[1])}; {shown}"
        found.append(Difference("tokenizer.merges", text, True))
    scores = [_part(content, "model").get("vocab") for content in contents]
    if isinstance(scores[0], list) and isinstance(scores[1], list) and scores[0] != scores[1]:
        same = [one[0] for one in scores[0]] == [one[0] for one in scores[1]]
        if same:
            text = f"tokenizer.json: scores of tokens differ between {first} and {other}"
            found.append(Difference("tokenizer.scores", text, True))
    settings = [
        {
            key: value
            for key, value in _part(content, "model").items()
            if key not in ("vocab", "merges", "unk_token", "unk_id")
        }
        for content in contents
    ]
    a, b = _plain(settings[0]), _plain(settings[1])
    if a != b:
        text = f"tokenizer.json model: {describe_values(a, b, first, other)}"
        found.append(Difference("tokenizer.model", text, True))
    return found


def _slow_differences(first: Path, other: Path) -> list[Difference]:
    """Differences in the files of tokenizers that are not `tokenizer.json`.

    Where both have that one, it is what is read, and the others deserve a warning.
    """
    fatal = not all((folder / "tokenizer.json").is_file() for folder in (first, other))
    found = []
    for name in _SLOW_FILES:
        a, b = first / name, other / name
        if not a.is_file() or not b.is_file() or (name == "vocab.json" and fatal):
            continue  # `vocabulary` compares vocab.json
        if _differ(a, b):
            text = f"{name} of {first} and of {other} differ"
            found.append(Difference(f"tokenizer.{name}", text, fatal))
    return found


def _differ(one: Path, other: Path) -> bool:
    if one.suffix == ".json":
        return read_json(one) != read_json(other)
    return one.stat().st_size != other.stat().st_size or digest(one) != digest(other)


def _special_differences(first: Path, other: Path) -> list[Difference]:
    if not (_says_special_tokens(first) and _says_special_tokens(other)):
        return []
    ours, theirs = _special_tokens(first), _special_tokens(other)
    found = [
        Difference(
            f"tokenizer.{name}",
            f"{name}: {_shown(a)} in {first}, {_shown(b)} in {other}",
            fatal,
        )
        for name, fatal in _SPECIAL_TOKENS.items()
        if (a := ours[name]) != (b := theirs[name])
    ]
    configs = [folder / "tokenizer_config.json" for folder in (first, other)]
    if all(path.is_file() for path in configs):
        told = [read_json(path) for path in configs]
        found += [
            Difference(f"tokenizer.{key}", f"{key}: {a} in {first}, {b} in {other}", False)
            for key in _ADDED
            if None not in (a := told[0].get(key), b := told[1].get(key)) and a != b
        ]
    return found


def _shown(token: str | None) -> str:
    return "absent" if token is None else repr(token)


def _says_special_tokens(folder: Path) -> bool:
    """Whether a folder has a file that decides the special tokens, even by naming none."""
    names = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
    return any((folder / name).is_file() for name in names)


def _special_tokens(folder: Path) -> dict[str, str | None]:
    """The special tokens as transformers resolves them; None for one that there is not.

    `special_tokens_map.json` goes before `tokenizer_config.json`, unless that lists its added
    tokens (`added_tokens_decoder`): then it is complete, and the older file is not read.
    """
    told, older = (
        read_json(path) if (path := folder / name).is_file() else {}
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    effective = told if "added_tokens_decoder" in told else {**told, **older}
    defaults = _CLASS_TOKENS.get(_tokenizer_class(folder, told), {})
    return {
        key: _token_text(effective[key]) if key in effective else defaults.get(key)
        for key in _SPECIAL_TOKENS
    }


def _tokenizer_class(folder: Path, told: Mapping[str, Any]) -> str:
    if isinstance(name := told.get("tokenizer_class"), str):
        return name.removesuffix("Fast")
    path = folder / "config.json"
    family = str(read_json(path).get("model_type")) if path.is_file() else ""
    return next((name for known, name in _FAMILY_CLASSES if known.fullmatch(family)), "")


def _token_text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return None if text is None else str(text)  # damage may be anything


def _part(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object inside another one; empty where it is null or something else."""
    found = content.get(key)
    return found if isinstance(found, dict) else {}


def _added_tokens(content: Mapping[str, Any]) -> dict[str, int]:
    return {
        token["content"]: token["id"]
        for token in content.get("added_tokens") or []
        if isinstance(token, dict) and "content" in token and "id" in token
    }


def _merges(given: object) -> list[str]:
    """Merges as "a b", which newer versions write as ["a", "b"]."""
    if not isinstance(given, list):
        return []
    return [" ".join(map(str, one)) if isinstance(one, list) else str(one) for one in given]


def _plain(value: object) -> object:
    """A part of a tokenizer without what says nothing: nulls and defaults."""
    if isinstance(value, Mapping):
        parts = [one for key, one in value.items() if key != "type"]
        inside = parts[0] if value.get("type") == "Sequence" and len(parts) == 1 else None
        if isinstance(inside, list) and len(inside) == 1:
            return _plain(inside[0])
        return {
            key: _plain(item)
            for key, item in value.items()
            if item is not None and item != _DEFAULTS.get(str(key), ...)
        } or None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _read_text(path: Path) -> str:
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # only compared and copied; every byte is a character of it
