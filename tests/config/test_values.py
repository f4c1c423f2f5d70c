"""Values of settings from text and from files."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.config.base import Field, declared
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.values import convert, parse_size, split_list
from salsa_cli.errors import UsageError


def field(config_type: type, name: str) -> Field:
    return next(one for one in declared(config_type) if one.name == name)


@pytest.mark.parametrize(
    ("text", "count"),
    [("256MB", 256_000_000), ("1.5GiB", 1_610_612_736), ("7", 7), (7, 7), (" 3 kb ", 3000)],
)
def test_sizes(text: object, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "MB", "1XB", "-1MB", "1.2.3GB", "."])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_from_text_and_from_a_list(numbers: list[float]) -> None:
    weights = field(SoupConfig, "weights")
    texts = list(map(repr, numbers))
    for raw in (",".join(texts), numbers, texts, [",".join(texts)]):
        assert convert(weights, raw, "--weights") == tuple(numbers)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a/", ["a/"]),
        ("a/,b/", ["a/", "b/"]),
        ("soup(a/,b/,alpha=0.5)", ["soup(a/,b/,alpha=0.5)"]),
        ("soup(a,b),c", ["soup(a,b)", "c"]),
        ("a, b", ["a", "b"]),
    ],
)
def test_lists_are_split_outside_of_brackets(text: str, items: list[str]) -> None:
    assert split_list(text) == items


def test_a_file_with_a_comma_in_its_name_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").touch()
    assert split_list("a,b") == ["a,b"]
    assert split_list("a,b,c") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("config_type", "name", "raw", "value"),
    [
        (PPOConfig, "kl_coef", "0.1", 0.1),
        (PPOConfig, "kl_coef", 1, 1.0),
        (PPOConfig, "updates", "3", 3),
        (PPOConfig, "updates", 3.0, 3),
        (PPOConfig, "whiten_rewards", "yes", True),
        (PPOConfig, "whiten_rewards", "0", False),
        (PPOConfig, "whiten_rewards", True, True),
        (PPOConfig, "kl_target", None, None),
        (PPOConfig, "kl_target", "", None),
        (PPOConfig, "penalty", "chi2", "chi2"),
        (PPOConfig, "reward", "rm-1/,rm-2/", ("rm-1/", "rm-2/")),
        (PPOConfig, "reward", ["rm-1/", "rm-2/"], ("rm-1/", "rm-2/")),
        (PPOConfig, "reward", "rm/", ("rm/",)),
        (PPOConfig, "output", "out", Path("out")),
        (EvalConfig, "line", "a,b", ("a", "b")),
        (EvalConfig, "line", ["a,1", "b"], ("a,1", "b")),
        (EvalConfig, "models", ["a,1", "b"], ("a,1", "b")),
        (SoupConfig, "memory", "64MB", 64_000_000),
        (SoupConfig, "weights", None, None),
    ],
)
def test_values(config_type: type, name: str, raw: object, value: Any) -> None:
    found = convert(field(config_type, name), raw, name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("config_type", "name", "raw", "words"),
    [
        (PPOConfig, "kl_coef", "x", "--y is x; expected a number, X >= 0"),
        (PPOConfig, "kl_coef", True, "--y is True; expected a number, X >= 0"),
        (PPOConfig, "kl_coef", [1], "--y is [1]; expected a number, X >= 0, not a list"),
        (PPOConfig, "updates", 1.5, "--y is 1.5; expected a whole number, N >= 1"),
        (PPOConfig, "updates", None, "--y: a value is missing; expected a whole number"),
        (PPOConfig, "clip", "", "--y is ''; expected a number, 0 < X < 1"),
        (PPOConfig, "penalty", "klm", "--y is klm; expected one of kl, chi2, mean-kl"),
        (PPOConfig, "whiten_rewards", "maybe", "--y is maybe; expected true or false"),
        (PPOConfig, "prompts", True, "--y is True; expected text"),
        (SoupConfig, "weights", "0.5,x", "--y is x; expected a number"),
        (SoupConfig, "memory", "much", "--y: 'much' is not a size"),
        (EvalConfig, "line", "a", "--y has 1 values; expected 2"),
    ],
)
def test_wrong_values(config_type: type, name: str, raw: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(field(config_type, name), raw, "--y")
    assert words in str(caught.value)


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the shell leaves it alone: in quotes, behind `NAME=`, in a file."""
    monkeypatch.setenv("HOME", "/home/me")
    refs = convert(field(PPOConfig, "ref"), ["~/ref", "soup(~/a,~/b)", "x/~/y"], "--ref")
    assert refs == ("/home/me/ref", "soup(/home/me/a,/home/me/b)", "x/~/y")
    assert convert(field(PPOConfig, "output"), "~/out", "-o") == Path("/home/me/out")
    models = convert(field(EvalConfig, "models"), ["ours=~/policy", "~"], "MODEL")
    assert models == ("ours=/home/me/policy", "/home/me")
    assert convert(field(EvalConfig, "judge"), "rm:~/rm", "--judge") == ("rm:/home/me/rm",)


def test_a_word_in_place_of_a_number() -> None:
    temperature = field(EvalConfig, "judge_temperature")
    assert convert(temperature, "none", "--judge-temperature") == "none"
    assert convert(temperature, "0.5", "--judge-temperature") == 0.5
    with pytest.raises(UsageError, match="is warm; expected a number, X >= 0, or none"):
        convert(temperature, "warm", "--judge-temperature")
