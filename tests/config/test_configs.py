"""The configuration classes: what they derive, what they refuse, what they declare."""

from pathlib import Path

import pytest

from salsa_cli.config.base import declared
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.manners import Manners
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.errors import UsageError

OUT = Path("out")


def soup(**changes: object) -> SoupConfig:
    return SoupConfig(**{"models": ("a", "b"), "output": OUT, **changes})  # type: ignore[arg-type]


def test_weights_of_a_soup() -> None:
    assert soup().mixing == (0.5, 0.5)
    assert soup(alpha=0.25).mixing == (0.75, 0.25)
    assert soup(weights=(3.0, 1.0), normalize=True).mixing == (0.75, 0.25)
    assert soup(models=("a", "b", "c"), weights=(0.5, 0.3, 0.2)).mixing == (0.5, 0.3, 0.2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ("a",)}, "a soup needs two or more models; found 1"),
        ({"alpha": 0.5, "weights": (0.5, 0.5)}, "give one of them"),
        ({"alpha": 0.5, "models": ("a", "b", "c")}, "Use --weights"),
        ({"weights": (1.0,)}, "--weights has 1 numbers for 2 models"),
        (
            {"weights": (0.5, 0.6)},
            "--weights sum to 1.1; expected 1 (or give --normalize)",
        ),
        ({"normalize": True}, "--normalize needs --weights"),
        ({"normalize": True, "weights": (1.0, -1.0)}, "--normalize needs --weights"),
        ({"alpha": 1.5}, "--alpha is 1.5, which is out of range; expected a number, 0 <= X <= 1"),
        ({"alpha": float("nan")}, "--alpha is nan"),
        ({"memory": 5}, "--memory is 5"),
    ],
)
def test_a_soup_that_cannot_be(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        soup(**changes)
    assert words in str(caught.value)


def test_all_numbers_out_of_range_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        ppo(updates=0, clip=1.5, batch_size=64)
    assert str(caught.value) == (
        "2 settings are wrong:\n"
        "  - --updates is 0, which is out of range; expected a whole number, N >= 1\n"
        "  - --clip is 1.5, which is out of range; expected a number, 0 < X < 1"
    )


def ppo(**changes: object) -> PPOConfig:
    needed = {"ref": ("ref",), "reward": ("rm",), "prompts": "p.jsonl", "output": OUT}
    return PPOConfig(**{**needed, **changes})  # type: ignore[arg-type]


def test_batches_that_do_not_divide() -> None:
    assert ppo(batch_size=24, minibatches=3, micro_batch_size=4).minibatch_size == 8
    with pytest.raises(UsageError, match="--batch-size 10 is not a multiple of --minibatches 3"):
        ppo(batch_size=10, minibatches=3)
    with pytest.raises(UsageError, match="cannot be divided among 3 processes; expected a mul"):
        ppo(batch_size=8, processes=3)
    with pytest.raises(UsageError, match="--micro-batch-size 3 does not divide a minibatch of 8"):
        ppo(batch_size=8, micro_batch_size=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("kl_coef", -0.1),
        ("gamma", 0.0),
        ("gamma", 1.1),
        ("clip", 1.0),
        ("updates", 0),
        ("seed", -1),
    ],
)
def test_bounds_of_ppo(field: str, value: float) -> None:
    with pytest.raises(UsageError, match="out of range"):
        ppo(**{field: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adaptive_lambda": 0.05, "lam": 0.9}, "--lambda 0.9 has no effect with --adaptive-lam"),
        ({"overlong_buffer": 4}, "--overlong-buffer has no effect without --overlong-penalty"),
        (
            {"overlong_buffer": 200, "overlong_penalty": 1.0},
            "--overlong-buffer 200 is more than --response-length 128",
        ),
        (
            {"advantage": "grpo", "critic_lambda": 1.0},
            "--critic-lambda has no effect with --advantage grpo",
        ),
        (
            {"advantage": "group", "adaptive_lambda": 0.05},
            "--adaptive-lambda has no effect with --advantage group",
        ),
        ({"stop_on": ("equal-groups",)}, "--stop-on equal-groups has no effect with --adv"),
    ],
)
def test_switches_without_effect_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        ppo(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("config_type", [SoupConfig, TrainRMConfig, PPOConfig, EvalConfig])
def test_every_setting_has_help_and_a_name_of_its_own(config_type: type) -> None:
    fields = declared(config_type)
    assert all(field.setting.help.endswith(".") for field in fields)
    assert len({field.option for field in fields}) == len(fields)
    assert not {one.name for one in declared(Manners)} & {field.name for field in fields}
    assert len({field.key for field in fields}) == len(fields)


def test_a_text_in_place_of_a_list_is_one_value() -> None:
    """Typed by hand in Python; as a sequence it would be one value a letter."""
    config = ppo(ref="ref/", reward=["rm-1/", "rm-2/"])
    assert (config.ref, config.reward) == (("ref/",), ("rm-1/", "rm-2/"))
