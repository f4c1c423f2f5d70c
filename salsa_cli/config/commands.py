"""The four commands: what they are called, what they do, and the class of their settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it takes longer to import than `salsa --help` needs
    from salsa_cli.config.base import Config


@dataclass(frozen=True)
class Command:
    """A command of `salsa`.

    Attributes:
        summary: one line for the list of commands.
        examples: command lines to copy, without `salsa NAME`, each with a comment.
        settings: module and name of its configuration class, imported only when it is needed.
    """

    name: str
    summary: str
    examples: tuple[tuple[str, str], ...]
    settings: tuple[str, str]

    def config_type(self) -> "type[Config]":
        """The class of its settings."""
        module, name = self.settings
        found: type[Config] = getattr(import_module(f"salsa_cli.config.{module}"), name)
        return found


Run = Callable[[Command, dict[str, object], Sequence[str]], None]
"""What runs a command: with the texts that are given by field, and the arguments as typed."""

COMMANDS = {
    command.name: command
    for command in (
        Command(
            "soup",
            "Average the weights of models, piece by piece, in little memory.",
            (
                ("sft-a/ sft-b/ --alpha 0.5 -o ref/", "two models"),
                ("a/ b/ c/ --weights 0.5,0.3,0.2 -o ref/", "any number"),
            ),
            ("soup", "SoupConfig"),
        ),
        Command(
            "train-rm",
            "Train a reward model on preference pairs, or evaluate one.",
            (
                ("sft-a/ --data prefs.jsonl -o rm/", "train"),
                ("rm/ --eval-data rewardbench.jsonl -o evaluation/", "evaluate"),
            ),
            ("train_rm", "TrainRMConfig"),
        ),
        Command(
            "ppo",
            "Train a policy with PPO, kept close to a reference model.",
            (
                ("--ref ref/ --reward rm/ --prompts prompts.jsonl -o policy/", "from a soup"),
                (
                    "--ref sft/ --reward rm-1/,rm-2/ --prompts p.jsonl -o policy/",
                    "two rewards",
                ),
            ),
            ("ppo", "PPOConfig"),
        ),
        Command(
            "eval",
            "Compare models: which one wins, by how much, with intervals.",
            (
                ("policy/ sft/ --prompts p.jsonl --judge rm:rm/ -o results/", "by a reward model"),
                ("--judgments judgments.jsonl -o results/", "count stored verdicts"),
                ("salsa/ ppo/ -o curves/", "compare what runs of salsa ppo logged"),
            ),
            ("eval", "EvalConfig"),
        ),
    )
}
