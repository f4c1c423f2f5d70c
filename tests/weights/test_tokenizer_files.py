"""Tokenizers that read the same, and tokenizers that do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.errors import SalsaError
from salsa_cli.weights.tokenizer_files import (
    chat_templates,
    compare_chat_templates,
    compare_tokenizers,
)

BPE: dict[str, Any] = {
    "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel"},
    "model": {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": ["a b"],
        "unk_token": None,
    },
}
UNIGRAM = {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}}
NAMED: dict[str, Any] = {
    "pad_token": "<p>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<u>",
}
NAMED["add_bos_token"] = True


def folder(path: Path, tokenizer: object = None, **files: object) -> Path:
    path.mkdir()
    if tokenizer is not None:
        (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text)
    return path


def model(**changes: Any) -> dict[str, Any]:
    return {**BPE, "model": {**BPE["model"], **changes}}


@pytest.mark.parametrize(
    ("other", "key", "fatal"),
    [
        ({**BPE, "normalizer": {"type": "NFKC"}}, "tokenizer.normalizer", True),
        ({**BPE, "pre_tokenizer": {"type": "Whitespace"}}, "tokenizer.pre_tokenizer", True),
        ({**BPE, "decoder": {"type": "Fuse"}}, "tokenizer.decoder", False),
        ({**BPE, "post_processor": {"type": "ByteLevel"}}, "tokenizer.post_processor", False),
        (model(merges=["b a"]), "tokenizer.merges", True),
        (model(vocab={"a": 0, "b": 2, "ab": 1}), "tokenizer.vocab", True),
        (model(byte_fallback=True), "tokenizer.model", True),
        ({**BPE, "added_tokens": []}, "tokenizer.vocab", True),
    ],
)
def test_what_differs(tmp_path: Path, other: object, key: str, fatal: bool) -> None:
    (found,) = compare_tokenizers(folder(tmp_path / "a", BPE), folder(tmp_path / "b", other))
    assert (found.key, found.fatal) == (key, fatal)


@pytest.mark.parametrize(
    "other",
    [
        model(merges=[["a", "b"]]),
        model(byte_fallback=False, ignore_merges=False, dropout=None),
        {**BPE, "truncation": {"max_length": 5}, "padding": {"strategy": "BatchLongest"}},
        {**BPE, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}},
        model(unk_token="<u>"),
        {**BPE, "normalizer": {"type": "Sequence", "normalizers": [BPE["normalizer"]]}},
    ],
)
def test_what_is_written_otherwise_and_means_the_same(tmp_path: Path, other: object) -> None:
    assert not compare_tokenizers(folder(tmp_path / "a", BPE), folder(tmp_path / "b", other))


def test_scores_of_unigrams(tmp_path: Path) -> None:
    other = {"model": {**UNIGRAM["model"], "vocab": [["a", -1.0], ["b", -3.0]]}}
    a, b = folder(tmp_path / "a", UNIGRAM), folder(tmp_path / "b", other)
    assert [one.key for one in compare_tokenizers(a, b)] == ["tokenizer.scores"]
    assert not compare_tokenizers(a, a)


@pytest.mark.parametrize("part", ["model", "added_tokens", "normalizer"])
def test_null_parts_do_not_crash(tmp_path: Path, part: str) -> None:
    a, b = folder(tmp_path / "a", {**BPE, part: None}), folder(tmp_path / "b", {**BPE, part: None})
    assert not compare_tokenizers(a, b)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("named", "fatal"),
    [
        ({"pad_token": "[PAD]"}, False),
        ({}, True),
        ({"pad_token": "[PAD]", "eos_token": "[PAD]"}, True),
    ],
)
def test_a_padding_token_added_to_one_is_read_by_none(
    tmp_path: Path, named: dict[str, str], fatal: bool, swapped: bool
) -> None:
    longer = {**BPE, "added_tokens": [*BPE["added_tokens"], {"id": 9, "content": "[PAD]"}]}
    a = folder(tmp_path / "a", BPE, tokenizer_config__json=NAMED)
    b = folder(tmp_path / "b", longer, tokenizer_config__json={**NAMED, **named})
    found = compare_tokenizers(*((b, a) if swapped else (a, b)))
    assert any(one.fatal for one in found) == fatal
    assert fatal or [one.key for one in found] == ["tokenizer.pad_token"]


@pytest.mark.parametrize(
    "damage",
    [
        model(vocab=5),
        model(vocab=[1, 2]),
        model(vocab=[[]]),
        model(vocab=[["a"], 7]),
        {**BPE, "added_tokens": [{"content": ["x"], "id": 1}]},
    ],
)
def test_a_damaged_vocabulary_is_named(tmp_path: Path, damage: object) -> None:
    a, b = folder(tmp_path / "a", BPE), folder(tmp_path / "b", damage)
    with pytest.raises(SalsaError, match=r"b/tokenizer\.json: its vocabulary is neither"):
        compare_tokenizers(a, b)


def test_a_special_token_that_is_no_text_does_not_crash(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", BPE, tokenizer_config__json=NAMED)
    b = folder(tmp_path / "b", BPE, tokenizer_config__json={**NAMED, "pad_token": [[]]})
    assert [one.key for one in compare_tokenizers(a, b)] == ["tokenizer.pad_token"]


def test_templates_without_a_name_are_no_templates(tmp_path: Path) -> None:
    listed = [{"template": "x"}, {"name": "y"}, 5, {"name": "rag", "template": "z"}]
    a = folder(tmp_path / "a", tokenizer_config__json={"chat_template": listed})
    assert chat_templates(a) == {"rag": "z"}


@pytest.mark.parametrize(
    ("changes", "keys", "fatal"),
    [
        ({"pad_token": "</s>"}, ["tokenizer.pad_token"], False),
        ({"pad_token": {"content": "<p>"}}, [], False),
        ({"unk_token": None}, ["tokenizer.unk_token"], False),
        ({"eos_token": "<p>"}, ["tokenizer.eos_token"], True),
        ({"bos_token": "<p>"}, ["tokenizer.bos_token"], True),
        ({"pad_token": ["<p>"]}, ["tokenizer.pad_token"], False),
        ({"add_bos_token": False}, ["tokenizer.add_bos_token"], False),
        ({"padding_side": "left", "model_max_length": 9, "legacy": True}, [], False),
    ],
)
def test_special_tokens(
    tmp_path: Path, changes: dict[str, Any], keys: list[str], fatal: bool
) -> None:
    a = folder(tmp_path / "a", tokenizer_config__json=NAMED)
    b = folder(tmp_path / "b", tokenizer_config__json={**NAMED, **changes})
    found = compare_tokenizers(a, b)
    assert [one.key for one in found] == keys
    assert all(one.fatal == fatal for one in found)


@pytest.mark.parametrize(
    ("config", "older", "keys"),
    [
        # transformers lets the older file win ...
        (NAMED, {"eos_token": "<p>"}, ["tokenizer.eos_token"]),
        (NAMED, {"pad_token": {"content": "</s>"}}, ["tokenizer.pad_token"]),
        ({**NAMED, "eos_token": "<p>"}, {"eos_token": "</s>"}, []),
        # ... unless the newer one lists its added tokens.
        ({**NAMED, "added_tokens_decoder": {}}, {"eos_token": "<p>"}, []),
        ({}, None, [f"tokenizer.{kind}_token" for kind in ("bos", "eos", "pad", "unk")]),
        ({}, NAMED, []),
        (None, NAMED, []),
    ],
)
def test_special_tokens_as_transformers_resolves_them(
    tmp_path: Path, config: object, older: object, keys: list[str]
) -> None:
    files = {"tokenizer_config__json": config, "special_tokens_map__json": older}
    a = folder(tmp_path / "a", tokenizer_config__json=NAMED)
    b = folder(tmp_path / "b", **{name: one for name, one in files.items() if one is not None})
    assert [one.key for one in compare_tokenizers(a, b)] == keys
    assert [one.key for one in compare_tokenizers(b, a)] == keys


def test_an_absent_token_is_that_of_the_class(tmp_path: Path) -> None:
    """`gpt2` on the hub names no special token; every fine-tune of it does."""
    end = "<|endoftext|>"
    saved = {"bos_token": end, "eos_token": end, "unk_token": end}
    a = folder(
        tmp_path / "a", config__json={"model_type": "gpt2"}, tokenizer_config__json={"x": 1024}
    )
    b = folder(tmp_path / "b", tokenizer_config__json=saved)
    c = folder(tmp_path / "c", config__json={"model_type": "llama"}, tokenizer_config__json={})
    assert not compare_tokenizers(a, b)
    assert [one.text for one in compare_tokenizers(c, b) if "eos" in one.key] == [
        f"eos_token: absent in {c}, '<|endoftext|>' in {b}"
    ]


def test_the_flags_of_an_added_token_are_a_warning(tmp_path: Path) -> None:
    (token,) = BPE["added_tokens"]
    defaults = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    a = folder(tmp_path / "a", BPE)
    b = folder(tmp_path / "b", {**BPE, "added_tokens": [{**token, "lstrip": True}]})
    c = folder(tmp_path / "c", {**BPE, "added_tokens": [{**token, **defaults}]})
    (found,) = compare_tokenizers(a, b)
    assert (found.key, found.fatal) == ("tokenizer.added_tokens", False)
    assert '"lstrip": true' in found.text and "<s>" in found.text
    assert not compare_tokenizers(a, c)


@pytest.mark.parametrize("name", ["tokenizer__model", "merges__txt", "vocab__txt", "vocab__json"])
def test_files_of_slow_tokenizers(tmp_path: Path, name: str) -> None:
    """Fatal where they are what is read; beside an equal tokenizer.json a warning."""
    contents = {"a": {"x": 0}, "b": {"x": 1}}
    a, b = (folder(tmp_path / key, **{name: value}) for key, value in contents.items())
    (found,) = compare_tokenizers(a, b)
    assert found.fatal
    for one in (a, b):
        (one / "tokenizer.json").write_text(json.dumps(BPE))
    assert [one.fatal for one in compare_tokenizers(a, b)] == [False]


def test_one_template_in_three_places(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", chat_template__jinja="{{ x }}\n")
    b = folder(tmp_path / "b", tokenizer_config__json={"chat_template": "{{ x }}"})
    listed = [{"name": "default", "template": "{{ x }}"}]
    c = folder(tmp_path / "c", tokenizer_config__json={"chat_template": listed})
    assert not compare_chat_templates(a, b) and not compare_chat_templates(b, c)
    d = folder(tmp_path / "d", chat_template__jinja="{{ y }}")
    (found,) = compare_chat_templates(a, d)
    assert not found.fatal


def test_a_template_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes("größe".encode("latin-1"))
    assert chat_templates(tmp_path) == {"default": "größe"}
