"""README.md of a policy: what it was trained from, against what, and for what."""

from pathlib import Path

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.formatting import counted, figure
from salsa_cli.weights import cards, folders

_ALGORITHMS = {"gae": "PPO", "rloo": "RLOO", "group": "Dr. GRPO", "grpo": "GRPO"}
"""Names of the field for what `--advantage` makes of PPO's clipped loss."""


def write(config: PPOConfig, start: Path, updates: int, reward: tuple[float, float]) -> str:
    """The model card of a policy.

    Args:
        config: the settings of the run.
        start: the folder of the model from which the policy started.
        updates: those that were made.
        reward: mean reward of the first and of the last update.
    """
    named = config.policy if config.policy is not None else str(start)
    adapter = folders.is_adapter(start)
    head = cards.front_matter(
        (named,),
        library="peft" if adapter else "transformers",
        tags=("rlhf", "ppo" if config.has_critic else config.advantage, "salsa"),
        relation="adapter" if adapter else "finetune",
        pipeline="text-generation",
    )
    rows = [
        ("start", named),
        *(("reference", one) for one in config.ref),
        *(("reward", one) for one in config.reward),
        ("prompts", config.prompts),
    ]
    table = "".join(f"| {what} | {cards.cell(str(name))} |\n" for what, name in rows)
    return (
        f"{head}\n# A policy trained with {_ALGORITHMS[config.advantage]}\n\n"
        f"Trained by `salsa ppo` in {counted(updates, 'update')}; the mean reward went from "
        f"{figure(reward[0])} in the first to {figure(reward[1])} in the last. `metrics.jsonl` "
        "contains the metrics of every update, `report.html` their curves, and `salsa.json` all "
        "settings.\n\n"
        f"| | |\n|---|---|\n{table}"
    )
