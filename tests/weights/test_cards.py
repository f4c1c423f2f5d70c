"""The metadata of model cards, read back by a YAML parser as the hub does."""

import yaml

from salsa_cli.weights.cards import cell, front_matter, is_hub_id, shown


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


CACHED = "/home/al/.cache/huggingface/hub/models--org--my-model/snapshots/0a1b2c/"


def test_a_model_in_the_cache_of_the_hub_has_its_id() -> None:
    head = front_matter((CACHED, "/data/org/x"), library="transformers", tags=("salsa",))
    assert read(head)["base_model"] == ["org/my-model"]


def test_no_folder_above_a_local_name_is_shown() -> None:
    cases = {
        "/home/al/sft-a/": "sft-a/",
        "/home/al/my models/sft": "sft",
        "soup(/home/al/a/,../b,/x/c,alpha=0.5)": "soup(a/,../b,c,alpha=0.5)",
        "python:/home/al/gold.py:score": "python:gold.py:score",
        "name=/home/al/run@20": "name=run@20",
        f"soup({CACHED},b)": "soup(org/my-model,b)",
        CACHED: "org/my-model",
    }
    assert {name: shown(name) for name in cases} == cases
    same = (
        "org/name",
        "runs/sft-a/",
        "../b",
        "org/data:config@split",
        "https://host/v1/x",
        "/",
        "-",
    )
    assert [shown(name) for name in same] == list(same)
