"""Arguments matched with fields, by Typer."""

import pytest

from salsa_cli.config.base import declared
from salsa_cli.config.commands import COMMANDS, Command
from salsa_cli.config.manners import Manners
from salsa_cli.config.options import parse
from salsa_cli.errors import UsageError

PPO, SOUP, EVAL = COMMANDS["ppo"], COMMANDS["soup"], COMMANDS["eval"]


def test_options_of_every_kind() -> None:
    line = "--ref a --ref b,c --kl-coef=0.1 --updates 3 --updates 4 -oout -q --whiten-rewards"
    assert parse(PPO, line.split()) == {
        "ref": ["a", "b,c"],
        "kl_coef": "0.1",
        "updates": "4",
        "output": "out",
        "quiet": True,
        "whiten_rewards": True,
    }


def test_short_flags_together_and_values_that_look_like_flags() -> None:
    assert parse(PPO, ["-qo", "out", "--kl-coef", "-1"]) == {
        "quiet": True,
        "output": "out",
        "kl_coef": "-1",
    }
    assert parse(PPO, ["-o=out"]) == {"output": "out"}
    assert parse(PPO, ["--prompts", "-"]) == {"prompts": "-"}


def test_arguments_before_between_and_after_options() -> None:
    assert parse(SOUP, "a --alpha 0.5 b -o out c".split()) == {
        "models": ["a", "b", "c"],
        "alpha": "0.5",
        "output": "out",
    }
    assert parse(SOUP, ["-o", "out", "--", "-a", "--b"])["models"] == ["-a", "--b"]
    assert parse(COMMANDS["train-rm"], ["a"]) == {"model": "a"}


def test_options_with_several_values() -> None:
    for line in ("--line a b c", "--line a,b c"):
        assert parse(EVAL, line.split())["models"] == ["c"]
    assert parse(EVAL, "--line a b".split()) == {"line": ("a", "b")}
    assert parse(EVAL, "--line soup(a,b) c".split()) == {"line": ("soup(a,b)", "c")}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
def test_every_boolean_has_its_opposite(command: Command) -> None:
    fields = (*declared(command.config_type()), *declared(Manners))
    flags = [field for field in fields if field.is_flag]
    assert {"force", "resume", "dry_run", "json", "quiet"} <= {field.name for field in flags}
    for field in flags:
        negative = f"--no-{field.option[2:]}"
        assert parse(command, [field.option, negative]) == {field.name: False}
        assert parse(command, [negative, field.option]) == {field.name: True}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--lr 1", "no such option --lr (did you mean --learning-rate?)"),
        ("--no-resum", "no such option --no-resum (did you mean --no-resume"),
        ("-x", "no such option -x"),
        ("--updates", "--updates needs a value: --updates N"),
        ("--updates --ref a", "--updates needs a value: --updates N"),
        ("--resume=yes", "--resume takes no value; found 'yes'"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_what_is_refused(line: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(PPO, line.split())
    assert words in str(caught.value)
