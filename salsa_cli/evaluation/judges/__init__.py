"""Judges: reward models, Python functions, models behind an API, local language models.

A judge is named `KIND:SOURCE`. Those of the kinds `rm` and `python` give each answer a score
(`scoring`); those of the kinds `openai` and `hf` are LLM judges that write a judgement (`writing`).
"""

from dataclasses import dataclass

from salsa_cli.errors import UsageError
from salsa_cli.reward_models import rewards
from salsa_cli.weights import folders

SCORING = ("rm", "python")
WRITING = ("openai", "hf")


@dataclass(frozen=True)
class JudgeSpec:
    """A judge as named on the command line, and the resolved path of its model."""

    name: str
    kind: str
    source: str

    @property
    def scores(self) -> bool:
        """Whether it scores answers, rather than writing judgements."""
        return self.kind in SCORING


def parse(name: str) -> JudgeSpec:
    """Parse `KIND:SOURCE`, and check that a local source exists."""
    kind, _, source = name.partition(":")
    if kind not in (*SCORING, *WRITING) or not source:
        raise UsageError(
            f"--judge {name}: expected rm:MODEL for a reward model, openai:MODEL for a model "
            "behind an API, hf:MODEL for a local one, or python:FILE.py:FUNCTION for a function"
        )
    if kind == "openai":
        return JudgeSpec(name, kind, source)
    if kind == "hf":
        return JudgeSpec(name, kind, str(folders.resolve(source)))
    if rewards.is_function(source) != (kind == "python"):
        expected = "FILE.py:FUNCTION" if kind == "python" else "a model folder or hub id"
        raise UsageError(f"--judge {name}: expected {expected} after '{kind}:'")
    return JudgeSpec(name, kind, rewards.resolve(source))
