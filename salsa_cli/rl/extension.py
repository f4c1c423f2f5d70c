"""More updates for a run that was made with fewer: `--resume` with a larger `--updates`.

The result is that of a run which had so many updates from the start. That needs a learning rate
that does not depend on their number: with linear decay to 0, the first run ends with small steps
that the longer one would not have made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salsa_cli.config.comparison import differences
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.formatting import counted
from salsa_cli.models import learners
from salsa_cli.records import JSON, read_json
from salsa_cli.runs import checkpoints, run_folder
from salsa_cli.runs.moved_inputs import with_moved_inputs


def is_asked(config: PPOConfig, record: str) -> bool:
    """Whether `--resume` asks for more updates than the finished run in OUTPUT has.

    Args:
        record: name of the file in which a run records how it was made.
    """
    if not config.resume or config.force:
        return False
    made = _finished(config.output / record)
    return made is not None and _recorded_updates(made["settings"]) < config.updates


def check(config: PPOConfig, record: str) -> None:
    """Refuse to extend a finished run of other settings, or one that kept no checkpoint.

    Raises:
        SalsaError: says why it cannot be extended.
    """
    made = _finished(config.output / record)
    assert made is not None
    output = config.output
    run_folder.check_alone(output)
    before = with_moved_inputs(made["settings"], made.get("inputs", {}), config)
    if differing := differences({**before, "updates": config.updates}, config):
        raise SalsaError(
            f"{output} is complete, but was made with other settings: {'; '.join(differing)}. "
            "Extend it with the same settings, or choose another -o"
        )
    with_more_updates(before, config)
    saved = checkpoints.latest_checkpoint(output)
    if saved is None:
        raise SalsaError(
            f"{output} has no checkpoint, so it cannot be extended to --updates {config.updates}; "
            "--keep-checkpoints keeps some when a run finishes. To train its policy further, "
            f"start a new run with --policy {output}"
        )
    if run_folder.partial_folder(output).exists():
        raise SalsaError(
            f"{run_folder.partial_folder(output)} already exists, and {output} would be extended "
            "there; move it away"
        )


def with_more_updates(before: Mapping[str, JSON], config: PPOConfig) -> dict[str, JSON]:
    """The settings of an earlier run, with the `--updates` of now if there are more.

    Raises:
        SalsaError: updates that are finished would have been others in the longer run.
    """
    made = _recorded_updates(before)
    if made >= config.updates:
        return dict(before)
    if any(
        _share(step, made, config) != _share(step, config.updates, config) for step in range(made)
    ):
        cause = (
            "--schedule linear decays to 0 at the last update"
            if config.schedule == "linear"
            else f"--warmup {config.warmup:g} is a share of the updates"
        )
        raise SalsaError(
            f"a run of {counted(made, 'update')} cannot be extended to --updates "
            f"{config.updates}: its "
            f"learning rates depend on the number of updates ({cause}); expected a run with "
            "--schedule constant and no --warmup. To train its policy further, start a new run "
            "with --policy"
        )
    return {**before, "updates": config.updates}


def _share(step: int, updates: int, config: PPOConfig) -> float:
    """Share of the peak learning rate at a step of a run of so many updates."""
    return learners.warmed_up(step, updates, config.warmup, schedule=config.schedule)


def _finished(record: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where there is none."""
    made = read_json(record) if record.is_file() else {}
    return made if "result" in made and "settings" in made else None


def _recorded_updates(settings: Mapping[str, JSON]) -> int:
    updates = settings.get("updates", PPOConfig.updates)
    return updates if isinstance(updates, int) else PPOConfig.updates
