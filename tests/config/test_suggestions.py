"""What a mistyped name was meant to be."""

import pytest

from salsa_cli.config.base import declared
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.suggestions import did_you_mean, suggest

OPTIONS = [field.option for field in declared(PPOConfig)]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr", "--learning-rate"),
        ("--bs", "--batch-size"),
        ("--beta", "--kl-coef"),
        ("--learning_rate", "--learning-rate"),
        ("--learningrate", "--learning-rate"),
        ("--upates", "--updates"),
        ("--max-new-tokens", "--response-length"),
        ("--coef", "--kl-coef"),
        ("--gae-lambda", "--lambda"),
    ],
)
def test_the_first_suggestion(typed: str, meant: str) -> None:
    assert suggest(typed, OPTIONS)[0] == meant


def test_nothing_is_like_it() -> None:
    assert suggest("--xyzzy", OPTIONS) == [] and did_you_mean("--xyzzy", OPTIONS) == ""


def test_in_words() -> None:
    assert did_you_mean("alfa", ["alpha", "weights"]) == " (did you mean alpha?)"
