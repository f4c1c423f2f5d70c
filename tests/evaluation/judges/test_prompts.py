"""Wordings of judges: FastChat's own texts, Arena-Hard's from a clone, a user's file."""

import json
from pathlib import Path

import pytest

from salsa_cli.data import Message
from salsa_cli.errors import UsageError
from salsa_cli.evaluation.judges import prompts, wording
from salsa_cli.evaluation.questions.benchmarks import Question
from tests.support.real_data import SHARED

USER = (Message("user", "Q1"),)
WRITING = Question("1", USER, ("Q2",), category="writing")
MATHS = Question("2", USER, ("Q2",), category="math", references=("R1", "R2"))
PAIR = {"answer_a": ["A1 {answer_b}", "A2"], "answer_b": ["B1", "B2"]}
SINGLE = {"answer": ["A1", "A2"]}


def test_salsas_own_is_the_default() -> None:
    own = prompts.load("pairwise", None)
    assert own.name == prompts.OWN
    rendered = own.render(WRITING, 1, PAIR)
    assert rendered.system is None
    assert rendered.text == wording.fill(wording.PAIRWISE, WRITING, 1, PAIR)


def test_fastchats_wording_word_for_word() -> None:
    fastchat = prompts.load("pairwise", "fastchat")
    first = fastchat.render(WRITING, 1, PAIR)
    assert first.text == (
        "[User Question]\nQ1\n\n[The Start of Assistant A's Answer]\nA1 {answer_b}\n"
        "[The End of Assistant A's Answer]\n\n[The Start of Assistant B's Answer]\nB1\n"
        "[The End of Assistant B's Answer]"
    )
    assert first.system is not None and first.system.startswith("Please act as an impartial judge")
    second = fastchat.render(WRITING, 2, PAIR)
    assert "### User:\nQ2\n\n### Assistant B:\nB2" in second.text and "Reference" not in second.text
    maths = fastchat.render(MATHS, 2, PAIR)
    assert "### Reference answer:\nR2" in maths.text
    assert "{" not in maths.text.replace("{answer_b}", "")


def test_fastchat_grades() -> None:
    fastchat = prompts.load("single", "fastchat")
    assert fastchat.render(WRITING, 1, SINGLE).text.startswith("[Instruction]\nPlease act as")
    assert "[The Start of Reference Answer]\nR1\n" in fastchat.render(MATHS, 1, SINGLE).text
    assert "### Assistant A:\nA2" in fastchat.render(WRITING, 2, SINGLE).text
    assert fastchat.name == "FastChat's (single-v1 and its kin)"


def test_fastchat_needs_its_references_and_knows_two_turns() -> None:
    fastchat = prompts.load("pairwise", "fastchat")
    bare = Question("7", USER, category="math")
    with pytest.raises(UsageError, match=r"question 7 \(math\); pass them with --references"):
        fastchat.render(bare, 1, PAIR)
    with pytest.raises(UsageError, match="has no prompt for turn 3 of question 1"):
        fastchat.render(WRITING, 3, PAIR)


def test_fastchats_file_is_unchanged() -> None:
    theirs = SHARED / "data" / "mt_bench" / "judge_prompts.jsonl"
    if not theirs.is_file():
        pytest.skip(f"{theirs} is not here")
    ours = Path(prompts.__file__).with_name("fastchat_judge_prompts.jsonl")
    assert ours.read_bytes() == theirs.read_bytes()
    named = prompts.load("pairwise", f"fastchat:{theirs}")
    assert named.render(MATHS, 1, PAIR) == prompts.load("pairwise", "fastchat").render(
        MATHS, 1, PAIR
    )


def clone(path: Path) -> Path:
    """What of arena-hard-auto is read, with other words."""
    template = "<|User Prompt|>\n{QUESTION}\n\n<A>\n{ANSWER_A}\n</A>\n<B>\n{ANSWER_B}\n</B>"
    old = "<|User Prompt|>\n{question_1}\n\n<A>\n{answer_1}\n</A>\n<B>\n{answer_2}\n</B>"
    for folder in ("config", "utils"):
        (path / folder).mkdir(parents=True)
    v20 = {"judge_model": "m", "prompt_template": template}
    (path / "config" / "arena-hard-v2.0.yaml").write_text(json.dumps(v20))
    v01 = {"system_prompt": "Judge.", "prompt_template": [old]}
    (path / "config" / "judge_config.yaml").write_text(json.dumps(v01))
    (path / "utils" / "judge_utils.py").write_text(
        'HARD = "Judge hard."\nCREATIVE = "Judge kindly."\nprint("never run")\n'
        'JUDGE_SETTINGS = {"hard_prompt": {"baseline": "x", "system_prompt": HARD},\n'
        '    "creative_writing": {"baseline": "y", "system_prompt": CREATIVE}}\n'
    )
    return path


def test_arena_hard_from_a_clone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = clone(tmp_path / "arena-hard-auto")
    shown = "<|User Prompt|>\nQ1\n\n<A>\nA1 {answer_b}\n</A>\n<B>\nB1\n</B>"
    old = prompts.load("pairwise", f"arena-hard-v0.1:{place}")
    question = Question("1", USER, category="creative_writing")
    assert old.render(question, 1, PAIR) == prompts.Rendered(shown, "Judge.")
    new = prompts.load("pairwise", f"arena-hard-v2.0:{place / 'config' / 'arena-hard-v2.0.yaml'}")
    assert new.render(question, 1, PAIR) == prompts.Rendered(shown, "Judge kindly.")
    assert new.render(Question("2", USER), 1, PAIR).system == "Judge hard."
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("grading", "given", "words"),
    [
        ("pairwise", "arena-hard-v2.0:nowhere", "clone it, and pass --judge-prompt arena-hard-v2"),
        ("pairwise", "arena-hard-v0.1", "no such file or folder; this prompt is in the reposit"),
        ("single", "arena-hard-v0.1:x", "compares pairs; it does not support --grading single"),
        ("pairwise", "fastchat:nowhere.jsonl", "cannot read it as FastChat's judge_prompts.jsonl"),
        ("pairwise", "nowhere.txt", "cannot be read as text"),
    ],
)
def test_wordings_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grading: str, given: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        prompts.load(grading, given)


def test_a_clone_in_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone(tmp_path / "arena-hard-auto")
    monkeypatch.chdir(tmp_path)
    assert prompts.load("pairwise", "arena-hard-v0.1").name == "arena-hard-v0.1"
