"""The disk space of a PPO run, from configurations and headers of weight files."""

from dataclasses import dataclass

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.models import shapes
from salsa_cli.models.learners import MOMENTS
from salsa_cli.rl import memory, snapshots, weight_sharing
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.weights import folders


@dataclass(frozen=True)
class DiskPlan:
    """Bytes on disk.

    Attributes:
        checkpoint: one checkpoint.
        kept: number of checkpoints that are kept while the run goes on.
        keeps: whether a finished run keeps them.
        policy: the policy as a model folder.
        snapshots: number of snapshots, each as large as the policy.
        best: whether the best policy is kept, too.
    """

    checkpoint: int
    kept: int
    keeps: bool
    policy: int
    snapshots: int
    best: bool

    @property
    def models(self) -> int:
        """The policy, its snapshots and the best one."""
        return (1 + self.snapshots + self.best) * self.policy

    @property
    def peak(self) -> int:
        """The most at once: an old checkpoint or best policy goes when a new one is complete.

        The weights that a server reads are gone before the policy is written.
        """
        replaced = self.checkpoint + self.best * self.policy
        return self.models + self.kept * self.checkpoint + replaced

    @property
    def finished(self) -> int:
        """What a finished run takes."""
        return self.models + (self.kept * self.checkpoint if self.keeps else 0)


def plan_disk(plan: PPOPlan, config: PPOConfig) -> DiskPlan:
    """Estimate the disk space of a run."""
    weights = sum(role.own for role in plan.roles(config) if role.learns)
    width = memory.trained_width(config) + MOMENTS[config.optimiser]
    stored = 4 if folders.is_adapter(plan.policy) else shapes.stored_dtype(plan.policy).itemsize
    return DiskPlan(
        checkpoint=int(width * weights),
        kept=config.checkpoints,
        keeps=config.keep_checkpoints is not None,
        policy=stored * weight_sharing.stored(plan.policy),
        snapshots=snapshots.count(config),
        best=config.keep_best is not None,
    )
