"""Snapshots: the policy after some updates, each as a model folder within the run's folder."""

import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.models import saving, shapes
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.rl.run import Run
from salsa_cli.runs import run_folder
from salsa_cli.weights import folders

FOLDER = "snapshots"

_NAME = re.compile(r"[0-9]{6,}")


def snapshot_path(folder: Path, update: int) -> Path:
    """The folder of the policy after `update` updates, in the folder of its run."""
    return folder / FOLDER / f"{update:06d}"


def is_due(update: int, config: PPOConfig) -> bool:
    """Whether a snapshot is written after `update` updates."""
    return config.snapshot_every is not None and update % config.snapshot_every == 0


def count(config: PPOConfig) -> int:
    """Number of snapshots of a whole run."""
    return config.updates // config.snapshot_every if config.snapshot_every else 0


def write(update: int, actors: Actors, run: Run) -> None:
    """Write the snapshot of this update. Every process must call it; the main process writes.

    Raises:
        SalsaError: it cannot be written.
    """
    write_policy(snapshot_path(run.folder, update), actors, run)


def write_policy(
    target: Path, actors: Actors, run: Run, also: Callable[[Path], None] | None = None
) -> None:
    """Write the policy under training to a folder that appears only when it is complete.

    Every process must call it; the main process writes.

    Args:
        also: writes more into the folder.
    """
    with unrounded(actors, run), run.runtime.main_first():
        if run.runtime.main:
            with run_folder.whole_folder(target) as folder:
                save_model_files(actors, run.plan, folder)
                if also is not None:
                    also(folder)


def unrounded(actors: Actors, run: Run) -> AbstractContextManager[None]:
    """Within the block, the policy's weights are exact enough to be saved.

    Every process must enter it. A plain model next to a sharded one is rounded to the type in which
    it computes; that is not undone, and takes no memory, if it is stored in the same type.
    """
    like = run.plan.policy
    same = shapes.stored_dtype(like) == run.runtime.frozen_dtype
    if same and not folders.is_adapter(like) and run.config.lora_rank is None:
        return nullcontext()
    return actors.actor.unrounded()


def save_model_files(actors: Actors, plan: PPOPlan, folder: Path) -> None:
    """Write what makes a folder a model: weights, configuration, tokenizer.

    A policy that began as an adapter stays one; a new adapter is merged into its model.
    """
    saving.save_policy(actors.policy.model, folder, like=plan.policy)
    folders.copy_tokenizer(plan.policy, folder)


def updates(folder: Path) -> list[int]:
    """The updates of which the folder of a run has a snapshot."""
    found = (path.name for path in (folder / FOLDER).glob("*"))
    return sorted(int(name) for name in found if _NAME.fullmatch(name))


def drop_later(folder: Path, update: int) -> None:
    """Remove the snapshots after `update`, whose updates a resumed run makes again, and drafts."""
    for path in (folder / FOLDER).glob("*"):
        if not _NAME.fullmatch(path.name) or int(path.name) > update:
            shutil.rmtree(path)
