"""What a PPO configuration names: models, rewards and prompts, found and checked."""

from dataclasses import dataclass
from pathlib import Path

from salsa_cli import data
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.data import Prompt
from salsa_cli.records import JSON
from salsa_cli.reward_models import rewards
from salsa_cli.rl import weight_sharing
from salsa_cli.rl.held_out_prompts import HeldOutPrompts
from salsa_cli.rl.references import Reference
from salsa_cli.rl.weight_sharing import Role
from salsa_cli.weights import folders


@dataclass(frozen=True)
class PPOPlan:
    """What the configuration names, found and checked.

    `critic` is what the critic starts from; None where there is none.
    """

    policy: Path
    references: tuple[Reference, ...]
    critic: Path | None
    rewards: tuple[str, ...]
    watched: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    held_out: HeldOutPrompts | None = None

    def roles(self, config: PPOConfig) -> tuple[Role, ...]:
        """What each model of the run has of its own, and which backbone it may share."""
        return weight_sharing.assign_roles(
            self.policy,
            self.critic,
            self.references,
            self.rewards,
            self.watched,
            rank=config.lora_rank,
            moving=config.ref_update != "none",
        )

    @property
    def read(self) -> tuple[Path, ...]:
        """Every folder and file of a model or a reward that is read."""
        references = [folder for one in self.references for folder in one.folders]
        rewards = [Path(name.partition(":")[0]) for name in (*self.rewards, *self.watched)]
        critic = () if self.critic is None else (self.critic,)
        found = (self.policy, *critic, *references, *rewards)
        return (*found, *(folders.base(one) for one in found if folders.is_adapter(one)))

    def inputs(self, config: PPOConfig) -> dict[str, JSON]:
        """All inputs with their digests; a resumed run must find the same."""
        described: dict[str, JSON] = {
            "policy": folders.describe(self.policy),
            "reference": [one.describe() for one in self.references],
            "rewards": [_describe_reward(name) for name in self.rewards],
            "prompts": folders.describe_files(config.prompts, data.local_files(config.prompts)),
        }
        if self.critic is not None:
            described["critic"] = folders.describe(self.critic)
        if config.eval_prompts is not None:
            files = data.local_files(config.eval_prompts)
            described["eval_prompts"] = folders.describe_files(config.eval_prompts, files)
        if self.watched:
            described["watched"] = [_describe_reward(name) for name in self.watched]
        if len(self.references) == 1:
            described["reference"] = self.references[0].describe()
        return described


def _describe_reward(name: str) -> JSON:
    return name if rewards.is_function(name) else folders.describe(Path(name))
