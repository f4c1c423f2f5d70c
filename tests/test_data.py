"""Layouts, broken files, and the order of visits."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli import data
from salsa_cli.data import Message, Source
from salsa_cli.errors import SalsaError

USER = {"role": "user", "content": "Why?"}
GOOD = {"role": "assistant", "content": "Because."}


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def test_prompts_may_be_text_or_conversations() -> None:
    rows = [{"prompt": "Hello"}, {"prompt": [USER]}]
    assert data.prompts(Source("x", rows)) == ["Hello", (Message("user", "Why?"),)]
    with pytest.raises(SalsaError, match="ends with the assistant's turn"):
        data.prompts(Source("x", [{"prompt": [USER, GOOD]}]))


def test_only_newline_ends_a_jsonl_row(tmp_path: Path) -> None:
    rows = [{"prompt": "a\u2028b"}, {"prompt": "c\u0085d"}]
    assert data.read(write_rows(tmp_path / "p.jsonl", rows)).rows == rows


def test_reading_writes_nothing_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor a bar of the library that reads it: there may be no terminal."""
    import datasets

    datasets.Dataset.from_list([{"prompt": "a"}]).to_parquet(str(tmp_path / "p.parquet"))
    datasets.enable_progress_bars()
    capfd.readouterr()
    assert len(data.read(str(tmp_path / "p.parquet")).rows) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.gz"])
def test_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": "one, two"}, {"prompt": 'say "three"\nfour'}]
    path = tmp_path / f"p{suffix}"
    if suffix.startswith(".jsonl"):
        content = "".join(json.dumps(row) + "\n" for row in rows)
    elif suffix == ".json":
        content = json.dumps(rows)
    elif suffix == ".parquet":
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        content = 'prompt\n"one, two"\n"say ""three""\nfour"\n'
    if suffix.endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    elif suffix != ".parquet":
        path.write_text(content)
    assert [dict(row) for row in data.read(str(path)).rows] == rows


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", [{"prompt": "2"}])
    write_rows(tmp_path / "a.jsonl", [{"prompt": "1"}])
    (tmp_path / "notes.txt").write_text("no data")
    assert [row["prompt"] for row in data.read(str(tmp_path)).rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", "", "is empty; expected at least one row"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2, column 12: not JSON"),
        ("p.jsonl", "[1]\n", "line 1: a JSON list; expected an object"),
        ("p.json", '{"a": 1}', "expected a JSON list of objects"),
        ("p.txt", "hello", "is not a supported data file"),
        ("p.jsonl", b"\xff\xfe", "cannot be read"),
        ("p.jsonl.gz", "plain", "cannot be read"),
        ("p.parquet", "plain", "cannot be read as Parquet"),
        ("p.csv", "prompt,id,prompt\na,1,b\n", "the column 'prompt' occurs twice"),
        ("p.csv", "prompt,id\na,1\nWell, no,2\n", "line 3: 3 cells for 2 columns; text that"),
        (
            "p.csv",
            'prompt,id\na,1\n"b" c,2\n',
            "cannot be read after line 2: ',' expected after '\"'",
        ),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SalsaError) as caught:
        data.read(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file() -> None:
    with pytest.raises(SalsaError, match=r"nowhere\.jsonl: no such file or folder"):
        data.read("nowhere.jsonl")


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 100),
    seed=st.integers(0, 5),
    steps=st.integers(1, 8),
)
def test_every_epoch_visits_every_item_once(
    count: int, batch_size: int, seed: int, steps: int
) -> None:
    visits = [i for step in range(steps) for i in data.batch_indices(count, batch_size, seed, step)]
    assert len(visits) == steps * batch_size
    for epoch in range(len(visits) // count):
        assert sorted(visits[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert max(Counter(visits).values()) - min(Counter(visits).values()) <= 1 or steps == 1


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(data.epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_stable_seed_is_stable_and_separates_its_parts() -> None:
    assert data.stable_seed(0, "rollout", 3, 5) == 1874772470824432436
    assert data.stable_seed("a", "bc") != data.stable_seed("ab", "c")
    assert 0 <= data.stable_seed("x") < 2**63


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff"])
@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_half_of_a_surrogate_pair_is_named_with_its_row(
    tmp_path: Path, name: str, half: str
) -> None:
    rows = ['{"prompt": "a \\ud83d\\ude00"}', f'{{"prompt": [{{"content": "b {half}"}}]}}']
    text = "\n".join(rows) if name == "p.jsonl" else f"[{', '.join(rows)}]"
    (tmp_path / name).write_text(text)
    with pytest.raises(SalsaError) as caught:
        data.prompts(data.read(str(tmp_path / name)))
    assert (f"{name}, row 2: its text contains half of a surrogate pair ({half})") in str(
        caught.value
    )
    with pytest.raises(SalsaError, match="row 1: its text contains half"):
        data.require_whole_text(Source("x", [{"chosen": [{"content": "a \ud800"}]}]), 0)
    (tmp_path / name).write_text(
        text.replace(f'"content": "b {half}"', '"role": "user", "content": "b"')
    )
    assert data.prompts(data.read(str(tmp_path / name)))[0] == "a \N{GRINNING FACE}"


def test_a_long_cell_of_a_csv_file_is_read(tmp_path: Path) -> None:
    long = "word " * 40_000
    (tmp_path / "p.csv").write_text(f'prompt,id\n"{long}",7\n')
    assert data.read(str(tmp_path / "p.csv")).rows == [{"prompt": long, "id": "7"}]


@pytest.mark.parametrize("column", ["chosen", "rejected", "completion", "messages"])
def test_a_text_prompt_beside_message_lists_is_a_conversation(column: str) -> None:
    asked = (Message("user", "Why?"),)
    for turns in ([USER, GOOD], [GOOD]):
        rows = [{"prompt": "Why?", column: turns}]
        assert data.prompts(Source("x", rows)) == [asked]
    assert data.prompts(Source("x", [{"prompt": "Why?", column: "Because."}])) == ["Why?"]
    assert data.prompts(Source("x", [{"prompt": "Why?", column: ["Because."]}])) == ["Why?"]


def test_an_answer_is_seeded_by_its_question_and_which_copy_it_is() -> None:
    hello = data.asked_text("Hé")
    assert hello == '["Hé"]'
    assert data.asked_text((data.Message("user", "a"),), ["b"]) == (
        '[[{"role": "user", "content": "a"}], "b"]'
    )
    assert data.earlier_copies(["a", "b", "a", "a"]) == [0, 0, 1, 2]
    assert data.answer_seed(3, hello, 1, 0) == data.stable_seed(3, "answer", '["Hé"]', 1, 0)
