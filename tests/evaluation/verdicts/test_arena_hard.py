"""Arena-Hard's games of a model against a baseline, v0.1 and v2.0."""

from pathlib import Path

from salsa_cli.evaluation.verdicts.verdict import Verdict
from tests.support.files import failure
from tests.support.verdict_rows import V01, V20
from tests.support.verdict_rows import read_verdicts as read


def test_arena_hard_v01(tmp_path: Path) -> None:
    odd = {**V01, "games": [{"score": None}, {"score": "A<B"}]}
    found = read(tmp_path, V01, odd, baseline="base")
    assert found.format == "Arena-Hard v0.1"
    first, second, none, unknown = found.verdicts
    # The baseline is shown first in the first game: A>>B is a strong loss of the model.
    assert first == Verdict("ab", "gpt-4", "x", "base", order="ba", outcome=0.0, strong=True)
    assert second == Verdict("ab", "gpt-4", "x", "base", order="ab", outcome=1.0)
    assert none.invalid == "no label in the judge's text"
    assert unknown.invalid == "a label unknown to the benchmark: A<B"
    assert read(tmp_path, V01).verdicts[0].b == "gpt-4-0314"


def test_arena_hard_v20(tmp_path: Path) -> None:
    found = read(tmp_path, V20)
    assert found.format == "Arena-Hard v2.0"
    strong, failed = found.verdicts
    assert (strong.b, strong.outcome, strong.strong) == ("o3-mini-2025-01-31", 1.0, True)
    assert (strong.category, strong.text) == ("hard_prompt", "so [[A<<B]]")
    assert failed.invalid is not None and failed.order == "ab"
    story = {**V20, "category": "creative_writing"}
    assert read(tmp_path, story).verdicts[0].b == "gemini-2.0-flash-001"
    assert read(tmp_path, story, baseline="z").verdicts[0].b == "z"
    assert read(tmp_path, {**story, "baseline": "w"}, baseline="z").verdicts[0].b == "w"
    lost = failure(lambda: read(tmp_path, {**V20, "category": "poems"}))
    assert lost.endswith("row 1: no baseline for category 'poems'; set it with --baseline")
