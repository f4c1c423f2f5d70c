"""What every part of a PPO run needs, in one value."""

from dataclasses import dataclass
from pathlib import Path

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import Runtime
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.runs.events import Report, silent


@dataclass(frozen=True)
class Run:
    """A PPO run in progress.

    Attributes:
        plan: the models, rewards and prompts that the configuration names.
        config: the settings.
        runtime: the device and the processes.
        folder: the run's draft folder, which becomes the output when the run is complete.
        report: receives its progress.
    """

    plan: PPOPlan
    config: PPOConfig
    runtime: Runtime
    folder: Path
    report: Report = silent
