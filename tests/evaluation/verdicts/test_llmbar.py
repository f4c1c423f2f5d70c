"""LLMBar's gold labels and the games of both orders."""

from pathlib import Path

from tests.support.verdict_rows import LLMBAR
from tests.support.verdict_rows import read_verdicts as read


def test_llmbar(tmp_path: Path) -> None:
    folder = tmp_path / "natural" / "result"
    folder.mkdir(parents=True)
    found = read(folder, LLMBAR, name="GPT-4__CoT.jsonl")
    assert (found.format, found.gold) == ("LLMBar", "label")
    label, first, second = found.verdicts
    assert (label.judge, label.outcome, label.order) == ("label", 0.0, None)
    assert (first.judge, first.outcome, first.order) == ("GPT-4__CoT", 1.0, "ab")
    assert second.invalid is not None and second.order == "ba"
    assert {v.question for v in found.verdicts} == {"natural/3"}
