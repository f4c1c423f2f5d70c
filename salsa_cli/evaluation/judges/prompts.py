"""The wordings that LLM judges can be asked in: salsa's own, a user's, or a benchmark's original.

`fastchat_judge_prompts.jsonl` next to this module is FastChat's `judge_prompts.jsonl`, unchanged
(lm-sys/FastChat, Apache License 2.0, Copyright the FastChat authors). Arena-Hard's wordings are
read from the user's copy of its repository, lmarena/arena-hard-auto.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from salsa_cli.config import files
from salsa_cli.errors import UsageError
from salsa_cli.evaluation.judges import wording
from salsa_cli.evaluation.questions.benchmarks import REFERENCED, Question

OWN = "salsa's own"
FASTCHAT = "fastchat"
ARENA_HARD = ("arena-hard-v0.1", "arena-hard-v2.0")
_FASTCHAT_FILE = Path(__file__).with_name("fastchat_judge_prompts.jsonl")

Answers = Mapping[str, Sequence[str]]
"""By placeholder (`answer`, or `answer_a` and `answer_b`), one text a turn."""


@dataclass(frozen=True)
class Rendered:
    """What a judge is asked: a user message, perhaps after a system message."""

    text: str
    system: str | None = None


class JudgePrompt(Protocol):
    """A wording."""

    @property
    def name(self) -> str:
        """How the report calls it."""
        ...

    def render(self, question: Question, turn: int, answers: Answers) -> Rendered:
        """The prompt about one turn of a question, counted from 1.

        Raises:
            UsageError: the wording has no prompt for such a question.
        """
        ...


@dataclass(frozen=True)
class Template:
    """A text with placeholders, salsa's own or that of a file."""

    name: str
    text: str

    def render(self, question: Question, turn: int, answers: Answers) -> Rendered:
        """See `JudgePrompt`."""
        return Rendered(wording.fill(self.text, question, turn, answers))


@dataclass(frozen=True)
class FastChatPrompts:
    """MT-Bench's wordings: by category (with a reference for some), and by turn."""

    templates: Mapping[str, Mapping[str, str]]
    grading: str

    @property
    def name(self) -> str:
        """How the report calls it."""
        return (
            f"FastChat's ({'pair-v2' if self.grading == 'pairwise' else 'single-v1'} and its kin)"
        )

    def render(self, question: Question, turn: int, answers: Answers) -> Rendered:
        """See `JudgePrompt`."""
        if turn > 2:
            raise UsageError(
                f"--judge-prompt {FASTCHAT} has no prompt for turn {turn} of question "
                f"{question.id}; it supports two turns"
            )
        referenced = question.category in REFERENCED
        if referenced and len(question.references) < turn:
            raise UsageError(
                f"--judge-prompt {FASTCHAT} needs a reference answer to question {question.id} "
                f"({question.category}); pass them with --references"
            )
        kind = "pair" if self.grading == "pairwise" else "single"
        name = f"{kind}-math-v1" if referenced else "pair-v2" if kind == "pair" else "single-v1"
        if turn > 1:
            name += "-multi-turn"
        template = self.templates[name]
        values = {"question": wording.opening(question)}
        values |= {f"ref_answer_{n}": text for n, text in enumerate(question.references, 1)}
        said = [wording.opening(question), *question.followups]
        values |= {f"question_{n}": text for n, text in enumerate(said, 1)}
        for placeholder, texts in answers.items():
            values[placeholder] = texts[0]
            values |= {f"{placeholder}_{n}": text for n, text in enumerate(texts, 1)}
        return Rendered(
            wording.substitute(template["prompt_template"], values), template["system_prompt"]
        )


@dataclass(frozen=True)
class ArenaHardPrompts:
    """Arena-Hard's wordings; v2.0 has a system message for each category."""

    name: str
    template: str
    systems: Mapping[str, str]

    def render(self, question: Question, turn: int, answers: Answers) -> Rendered:
        """See `JudgePrompt`."""
        if "answer_a" not in answers or turn > 1:
            raise UsageError(f"--judge-prompt {self.name} only compares answers to a single turn")
        a, b = answers["answer_a"][0], answers["answer_b"][0]
        values = {"question_1": wording.opening(question), "answer_1": a, "answer_2": b}
        values |= {"QUESTION": values["question_1"], "ANSWER_A": a, "ANSWER_B": b}
        system = self.systems.get(str(question.category)) or self.systems.get("")
        system = system or self.systems.get("hard_prompt") or next(iter(self.systems.values()))
        return Rendered(wording.substitute(self.template, values), system)


def load(grading: str, given: str | None) -> JudgePrompt:
    """The wording that `--judge-prompt` names: NAME, NAME:PATH or FILE; salsa's own by default.

    Raises:
        UsageError: it cannot be read, or does not fit the grading.
    """
    if given is None:
        return Template(OWN, wording.template(grading, None))
    name, _, path = given.partition(":")
    if name == FASTCHAT and not Path(given).exists():
        return FastChatPrompts(_fastchat(Path(path) if path else _FASTCHAT_FILE), grading)
    if name in ARENA_HARD and not Path(given).exists():
        if grading != "pairwise":
            raise UsageError(
                f"--judge-prompt {name} compares pairs; it does not support --grading {grading}"
            )
        return _arena_hard(name, Path(path) if path else Path("arena-hard-auto"))
    return Template(given, wording.template(grading, Path(given)))


def _fastchat(file: Path) -> dict[str, dict[str, str]]:
    what = f"--judge-prompt {FASTCHAT}:{file}"
    if file.is_dir():
        file = file / "fastchat" / "llm_judge" / "data" / "judge_prompts.jsonl"
    try:
        rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line.strip()]
        return {row["name"]: row for row in rows if row["prompt_template"] and row["system_prompt"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{what}: cannot read it as FastChat's judge_prompts.jsonl") from error


def _arena_hard(name: str, place: Path) -> ArenaHardPrompts:
    """From the repository, or from one of its files in `config/`."""
    what = f"--judge-prompt {name}:{place}"
    options = [place] if place.is_file() else [place / "config" / f"{name}.yaml"]
    if name == ARENA_HARD[0]:
        options.append(place / "config" / "judge_config.yaml")
    file = next((one for one in options if one.is_file()), None)
    if file is None:
        raise UsageError(
            f"{what}: no such file or folder; this prompt is in the repository "
            f"lmarena/arena-hard-auto: clone it, and pass --judge-prompt {name}:PATH with the path "
            "of the clone"
        )
    content = files.read(file, what)
    template = content.get("prompt_template")
    template = template[0] if isinstance(template, list) and template else template
    if not isinstance(template, str):
        raise UsageError(f"{what}: no 'prompt_template' in {file}")
    system = content.get("system_prompt")
    systems = {"": system} if isinstance(system, str) else _settings(file, what)
    return ArenaHardPrompts(name, template, systems)


def _settings(file: Path, what: str) -> dict[str, str]:
    """The system messages by category, in `utils/judge_utils.py`, which is parsed and not run."""
    code = file.parent.parent / "utils" / "judge_utils.py"
    try:
        body = ast.parse(code.read_text("utf-8")).body
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{what}: cannot read the system messages in {code}") from error
    texts: dict[str, str] = {}
    found: dict[str, str] = {}
    for node in body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        value: Any = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts[node.targets[0].id] = value.value
        if node.targets[0].id == "JUDGE_SETTINGS" and isinstance(value, ast.Dict):
            found = _systems(value, texts)
    if not found:
        raise UsageError(f"{what}: no JUDGE_SETTINGS with system messages in {code}")
    return found


def _systems(settings: ast.Dict, texts: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for key, entry in zip(settings.keys, settings.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(entry, ast.Dict):
            continue
        for name, value in zip(entry.keys, entry.values, strict=True):
            if isinstance(name, ast.Constant) and name.value == "system_prompt":
                text = texts.get(value.id) if isinstance(value, ast.Name) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    text = value.value
                if text is not None:
                    found[str(key.value)] = text
    return found
