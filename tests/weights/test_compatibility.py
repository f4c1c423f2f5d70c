"""What rules out combining models, what only deserves a warning, and what nobody needs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.weights import compatibility
from salsa_cli.weights.difference import Mismatches

CONFIG = {"model_type": "llama", "hidden_size": 16, "transformers_version": "4.40"}
VOCABULARY = {"a": 0, "b": 1}


def folder(
    path: Path,
    config: Mapping[str, Any] = CONFIG,
    vocabulary: Any = VOCABULARY,
    added: list[dict[str, Any]] | None = None,
    **tokenizer: Any,
) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    content = {"model": {"vocab": vocabulary}, "added_tokens": added}
    (path / "tokenizer.json").write_text(json.dumps(content))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "b", **tokenizer}))
    return path


def test_equal_folders_have_no_mismatch(tmp_path: Path) -> None:
    folders = [folder(tmp_path / name) for name in "xyz"]
    assert compatibility.compare(folders) == Mismatches((), ())


def test_all_differences_of_all_folders_at_once(tmp_path: Path) -> None:
    x = folder(tmp_path / "x")
    y = folder(tmp_path / "y", {**CONFIG, "hidden_size": 32, "rope": 1}, {"a": 0, "c": 1, "d": 2})
    z = folder(tmp_path / "z", eos_token={"content": "a"}, chat_template="{{ x }}")
    found = compatibility.compare([x, y, z])
    assert found.fatal == (
        f"config.json hidden_size: 16 in {x}, 32 in {y}",
        f"config.json rope: absent in {x}, 1 in {y}",
        f"vocabulary: 2 tokens in {x}, 3 in {y}; for example 'b' is 1 and absent",
        f"eos_token: 'b' in {x}, 'a' in {z}",
    )
    assert found.minor == (f"the chat templates of {x} and {z} differ",)


@pytest.mark.parametrize(
    "name",
    ["_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"],
)
def test_what_changes_no_function_is_no_mismatch(tmp_path: Path, name: str) -> None:
    pair = [folder(tmp_path / "x"), folder(tmp_path / "y", {**CONFIG, name: "other"})]
    assert compatibility.compare(pair) == Mismatches((), ())


def test_a_special_token_is_the_same_as_text_or_as_an_object(tmp_path: Path) -> None:
    pair = [folder(tmp_path / "x"), folder(tmp_path / "y", eos_token={"content": "b"})]
    assert compatibility.compare(pair).fatal == ()


def test_vocabularies_as_a_list_and_added_tokens_count(tmp_path: Path) -> None:
    x = folder(tmp_path / "x", added=[{"content": "<end>", "id": 2}])
    y = folder(tmp_path / "y", vocabulary=[["a", -1.0], ["b", -2.0], ["<end>", 0.0]])
    assert compatibility.compare([x, y]).fatal == ()
    z = folder(tmp_path / "z", added=[{"content": "<end>", "id": 3}])
    (line,) = compatibility.compare([x, z]).fatal
    assert line.endswith("for example '<end>' is 2 and 3")


def test_a_chat_template_in_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    x, y = (folder(tmp_path / name, chat_template="{{ x }}") for name in "xy")
    assert compatibility.compare([x, y]).minor == ()
    (y / "chat_template.jinja").write_text("{{ y }}")
    assert len(compatibility.compare([x, y]).minor) == 1


def test_a_folder_without_a_tokenizer_is_compared_by_its_configuration_alone(
    tmp_path: Path,
) -> None:
    x, y = folder(tmp_path / "x"), folder(tmp_path / "y", vocabulary={"z": 0})
    assert compatibility.has_tokenizer(y)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (y / name).unlink()
    assert not compatibility.has_tokenizer(y)
    assert compatibility.compare([x, y]).fatal == ()
