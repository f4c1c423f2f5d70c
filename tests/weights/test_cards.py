"""The metadata of model cards, read back by a YAML parser as the hub does."""

import yaml

from salsa_cli.weights.cards import cell, front_matter, is_hub_id


def read(text: str) -> dict[str, object]:
    head, rest = text.removeprefix("---\n").split("---\n")
    assert rest == ""
    found: dict[str, object] = yaml.safe_load(head)
    return found


def test_only_ids_of_the_hub_are_base_models() -> None:
    names = ("Qwen/Qwen2.5-0.5B", "/data/sft-a", "./x/y", "a: b/c", "org/x\ny", "Qwen/Qwen2.5-0.5B")
    head = front_matter(names, library="transformers", tags=("merge", "salsa"), relation="merge")
    assert read(head) == {
        "base_model": ["Qwen/Qwen2.5-0.5B"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "salsa"],
    }


def test_without_ids_there_is_no_base_model() -> None:
    head = front_matter(("sft a: x/",), library="peft", tags=("no",), pipeline="text-generation")
    assert read(head) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["no"],
    }


def test_ids_of_the_hub() -> None:
    good = ("org/name", "a/b.c-d_e", "0x/1")
    bad = (
        "name",
        "a/b/c",
        "org/name.git",
        "org/a--b",
        "org/a..b",
        "/a/b",
        "org/",
        "../x",
        "tests/soups",
    )
    assert all(map(is_hub_id, good))
    assert not any(map(is_hub_id, bad))


def test_foreign_names_stay_in_their_cell() -> None:
    assert cell("a | b\n---\nc") == "a \\| b --- c"
