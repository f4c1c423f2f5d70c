"""The configuration classes: what they derive, what they refuse, what they declare."""

from pathlib import Path

import numpy as np
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
        ({"alpha": 0.5, "weights": (0.5, 0.5)}, "use one of them"),
        ({"alpha": 0.5, "models": ("a", "b", "c")}, "Use --weights"),
        ({"weights": (1.0,)}, "--weights has 1 number for 2 models"),
        (
            {"weights": (0.5, 0.6)},
            "--weights sum to 1.1; expected 1 (or use --normalize)",
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


def test_values_from_python_code() -> None:
    """A text for a list is one item; it is never split into letters, nor at commas."""
    one = ppo(ref="ref,a", reward=Path("rm"), output="out", updates=np.int64(3), critic="reward")
    assert (one.ref, one.reward, one.output) == (("ref,a",), ("rm",), Path("out"))
    assert type(one.updates) is int and one.updates == 3
    assert soup(models=["a", Path("b")], weights=[0.5, 0.5]).models == ("a", "b")
    assert soup(alpha=np.float32(0.5)).mixing == (0.5, 0.5)
    assert soup(models="a", merge_into=Path("base")).models == ("a",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "0.5,0.5"}, "--weights is '0.5,0.5'; expected a number"),
        ({"weights": ("1", 0.0)}, "--weights is '1'; expected a number"),
        ({"alpha": "0.5"}, "--alpha is '0.5'; expected a number, 0 <= X <= 1"),
        ({"alpha": True}, "--alpha is True; expected a number"),
        ({"models": 3}, "MODELS is 3; expected text"),
        ({"models": (None, "b")}, "is None; expected text"),
        ({"memory": 1e9}, "--memory is 1000000000.0; expected a size"),
        ({"verify": "yes"}, "--verify is 'yes'; expected true or false"),
        ({"verify": 1}, "--verify is 1; expected true or false"),
        ({"dtype": "float64"}, "--dtype is 'float64'; expected one of auto, float32"),
        ({"output": None}, "--output is None; expected a path"),
        ({"verify": 1, "alpha": 2.0}, "expected a number, 0 <= X <= 1\n  - --verify is 1; ex"),
    ],
)
def test_values_from_python_code_of_a_wrong_type(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        soup(**changes)
    assert words in str(caught.value)


def test_two_models_of_a_line_are_not_the_letters_of_one() -> None:
    with pytest.raises(UsageError, match="--line has 1 values; expected 2"):
        EvalConfig(models="ab", line="ab", prompts="p", judge="rm:x", output=OUT)  # type: ignore[arg-type]


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
    with pytest.raises(
        UsageError, match="by --minibatches 3; expected a multiple of 3, such as 9 or 12"
    ):
        ppo(batch_size=10, minibatches=3)
    with pytest.raises(
        UsageError, match="by 3 processes; expected a multiple of 3, such as 6 or 9"
    ):
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
        ({"reuse_logprobs": True, "generator": "vllm"}, "--reuse-logprobs needs log-prob"),
        ({"clip_high": 0.1}, "--clip-high 0.1 is below --clip 0.2"),
        (
            {"adaptive_lambda": 0.05, "response_length": 20},
            "gives lambda 0 to all answers of at most 20 tokens; expected more than 0.05",
        ),
        ({"recompute_layers": 1}, "--recompute-layers has no effect without --gradient-check"),
        ({"overlong_buffer": 4}, "--overlong-buffer has no effect without --overlong-penalty"),
        (
            {"overlong_buffer": 200, "overlong_penalty": 1.0},
            "--overlong-buffer 200 is more than --response-length 128",
        ),
        (
            {"advantage": "grpo", "critic_lambda": 1.0},
            "--critic-lambda is not used by --advantage grpo",
        ),
        (
            {"advantage": "group", "adaptive_lambda": 0.05},
            "--adaptive-lambda is not used by --advantage group",
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
