"""What judges write, read as the benchmarks read it.

Each function is one benchmark's convention, kept to the letter: stored verdicts were read this way,
and a text must give the verdict that stands beside it. None is for a text without a verdict.
"""

import re
from typing import Literal

PairLabel = Literal["A", "B", "tie"]

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BARE_RATING = re.compile(r"\[(\d+\.?\d*)\]")
_TWO_RATINGS = re.compile(r"\[\[(\d+\.?\d*),\s?(\d+\.?\d*)\]\]")
_BARE_TWO_RATINGS = re.compile(r"\[(\d+\.?\d*),\s?(\d+\.?\d*)\]")
_LABEL = re.compile(r"\[\[([AB<>=]+)\]\]")
_BARE_LABEL = re.compile(r"\[([AB<>=]+)\]")

# FastChat: ratings no farther apart than this are a tie.
_TIE_DELTA = 0.1


def mt_bench_rating(text: str) -> float | None:
    """MT-Bench, one answer: the first `[[7]]`, else the first `[7]`."""
    match = _RATING.search(text) or _BARE_RATING.search(text)
    return float(match[1]) if match else None


def mt_bench_winner(text: str) -> PairLabel | None:
    """MT-Bench, two answers: `[[A]]` before `[[B]]` before `[[C]]`, wherever they stand."""
    labels: tuple[tuple[str, PairLabel], ...] = (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"))
    return next((label for mark, label in labels if mark in text), None)


def mt_bench_ratings_winner(text: str) -> PairLabel | None:
    """MT-Bench, two ratings `[[8, 7]]`: the higher wins, those within 0.1 tie."""
    match = _TWO_RATINGS.search(text) or _BARE_TWO_RATINGS.search(text)
    if match is None:
        return None
    a, b = float(match[1]), float(match[2])
    if abs(a - b) <= _TIE_DELTA:
        return "tie"
    return "A" if a > b else "B"


def arena_hard_label(text: str) -> str | None:
    """Arena-Hard v0.1: the label `[[A>>B]]`, where only one kind of it occurs."""
    found = set(_LABEL.findall(text))
    return str(found.pop()) if len(found) == 1 else None


def arena_hard_v2_label(text: str) -> str | None:
    """Arena-Hard v2.0: the last `[[A>>B]]`, else the last `[A>>B]`, in either case."""
    upper = text.upper()
    found = _LABEL.findall(upper) or _BARE_LABEL.findall(upper)
    return str(found[-1]) if found else None


def llmbar_choice(text: str) -> Literal["a", "b"] | None:
    """LLMBar: `Output (a) is better`, or a line that says `Output (a)` and nothing else."""
    for pattern in (r"Output \({}\) is better.", r"(?:^|\n) ?Output \({}\)\.?\s*(?:\n|$)"):
        for choice in ("a", "b"):
            if re.search(pattern.format(choice), text):
                return choice
    return None
