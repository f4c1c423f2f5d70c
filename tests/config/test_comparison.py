"""Which settings a resumed run may change: every field of every command."""

import copy
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from salsa_cli.config import comparison
from salsa_cli.config.base import Config, Field, declared
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.record import record
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.train_rm import TrainRMConfig

OUT = Path("out")
CONFIGS: tuple[Config, ...] = (
    SoupConfig(models=("a", "b"), output=OUT),
    TrainRMConfig(model="a", data="p.jsonl", output=OUT),
    PPOConfig(ref=("ref",), reward=("rm",), prompts="p.jsonl", output=OUT),
    EvalConfig(models=("a", "b"), prompts="p.jsonl", judge=("rm:rm",), output=OUT),
)

# How a run is watched, saved, spread or fitted into memory; nothing that shapes its files.
OF_ALL = {"output", "force", "resume", "dry_run"}
OF_TRAINING = {
    "push_to_hub",
    "processes",
    "shard",
    "track",
    "run_name",
    "save_every",
    "gradient_checkpointing",
}
NO_CHANGE = {
    SoupConfig: OF_ALL | {"memory", "verify", "push_to_hub"},
    TrainRMConfig: OF_ALL | OF_TRAINING,
    PPOConfig: OF_ALL
    | OF_TRAINING
    | {"keep_checkpoints", "snapshot_every", "stop_on", "offload", "vllm_url", "recompute_layers"},
    EvalConfig: OF_ALL
    | {
        "batch_size",
        "max_invalid",
        "fail_under",
        "max_calls",
        "price",
        "concurrency",
        "tries",
        "timeout",
    }
    | {"cache"},
}


def other(field: Field, value: object) -> object:
    """A value of the field's type that is not `value`."""
    kinds = [kind for kind in get_args(field.type) if kind is not type(None)]
    if get_origin(field.type) is Literal:
        return next(one for one in kinds if one != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value, "another")
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, str):
        return value + "-2"
    assert value is None
    if float in kinds or int in kinds:
        return 7
    return ("another",) if any(get_origin(kind) is tuple for kind in kinds) else "another"


def with_value(config: Config, name: str, value: object) -> Config:
    """A configuration in which one field alone differs, whatever the others say of it."""
    changed = copy.copy(config)
    object.__setattr__(changed, name, value)
    return changed


@pytest.mark.parametrize(
    ("config", "field"),
    [(config, field) for config in CONFIGS for field in declared(type(config))],
    ids=lambda one: one.name if isinstance(one, Field) else type(one).__name__,
)
def test_a_field_is_compared_if_and_only_if_it_changes_the_result(
    config: Config, field: Field
) -> None:
    before = json.loads(json.dumps(record(config)))
    assert comparison.differences(before, config) == []
    value = getattr(config, field.name)
    changed = with_value(config, field.name, other(field, value))
    found = comparison.differences(before, changed)
    if field.name in NO_CHANGE[type(config)]:
        assert not field.setting.changes_result and found == []
        assert field.key not in comparison.result_settings(config)
    else:
        (text,) = found
        back = comparison.differences(json.loads(json.dumps(record(changed))), config)
        assert len(back) == (0 if field.setting.chosen else 1)  # None leaves it to the run
        assert text.startswith(f"{field.key} was ") and field.setting.changes_result


def ppo(**changes: Any) -> PPOConfig:
    settings: dict[str, Any] = {"ref": ("r",), "reward": ("m",), "prompts": "p", "output": OUT}
    return PPOConfig(**{**settings, **changes})


def test_a_chosen_setting_is_compared_only_if_it_is_asked_for() -> None:
    """A run that fits its passes into the memory records the size that it chose."""
    before = record(ppo(micro_batch_size=8))
    assert comparison.differences(before, ppo()) == []
    assert comparison.differences(before, ppo(micro_batch_size=4)) == [
        "micro_batch_size was 8, is 4"
    ]
    assert comparison.with_choices(ppo(), before).micro_batch_size == 8
    assert comparison.with_choices(ppo(micro_batch_size=4), before).micro_batch_size == 4
    assert comparison.with_choices(ppo(), {}).micro_batch_size is None


def test_records_of_other_versions() -> None:
    """A setting that is not in the record was at its default; one that is gone is ignored."""
    before = record(ppo(seed=3))
    del before["clip"], before["schedule"]
    before["lam"] = before.pop("lambda")  # its key until version 0.1
    before["an_old_setting"] = 5
    assert comparison.differences(before, ppo(seed=3)) == []
    assert comparison.differences(before, ppo(seed=3, clip=0.3)) == ["clip was 0.2, is 0.3"]
    assert comparison.differences(before, ppo(seed=3, lam=1.0)) == ["lambda was 0.95, is 1.0"]


def test_lists_that_older_records_hold_as_one_text() -> None:
    config = EvalConfig(
        models=("a",), prompts="p", judge=("rm:rm",), anchors=("x", "y"), output=OUT
    )
    before = {**record(config), "anchors": ["x,y"]}
    assert comparison.differences(before, config) == []
