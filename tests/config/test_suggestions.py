"""What a mistyped name was meant to be."""

import pytest

from salsa_cli.config import suggestions
from salsa_cli.config.base import Config, declared
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.suggestions import did_you_mean, suggest
from salsa_cli.config.train_rm import TrainRMConfig

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
        ("--start", "--policy"),
        ("--model", "--policy"),
        ("--kl", "--kl-coef"),
        ("--rm", "--reward"),
        ("--dataset", "--prompts"),
        ("--num-epochs", "--epochs"),
        ("--reference", "--ref"),
        ("--num_generations", "--samples-per-prompt"),
    ],
)
def test_the_first_suggestion(typed: str, meant: str) -> None:
    assert suggest(typed, OPTIONS)[0] == meant


@pytest.mark.parametrize(
    ("config", "typed", "meant"),
    [
        (TrainRMConfig, "--dataset", ["--data"]),
        (TrainRMConfig, "--val", ["--eval-data"]),
        (PPOConfig, "--val", ["--eval-prompts"]),
        (EvalConfig, "--judge-model", ["--judge"]),
    ],
)
def test_a_name_means_what_the_command_has(
    config: type[Config], typed: str, meant: list[str]
) -> None:
    assert suggest(typed, [field.option for field in declared(config)]) == meant


def test_every_option_that_peers_name_otherwise_is_one_of_ours() -> None:
    commands = (SoupConfig, TrainRMConfig, PPOConfig, EvalConfig)
    ours = {field.option.lstrip("-") for one in commands for field in declared(one)}
    assert suggestions._PEERS.keys() <= ours


def test_nothing_is_like_it() -> None:
    assert suggest("--xyzzy", OPTIONS) == [] and did_you_mean("--xyzzy", OPTIONS) == ""


def test_in_words() -> None:
    assert did_you_mean("alfa", ["alpha", "weights"]) == " (did you mean alpha?)"
