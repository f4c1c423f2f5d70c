"""The four commands as functions, cell by cell: soup, reward model, PPO, comparison.

    bash examples/quickstart.sh         makes two SFT models, preference pairs and prompts
    python examples/library.py          or open it as a notebook (VS Code, jupytext)

Each command is a module with `run(config, report)`: `config` is a frozen dataclass that checks its
values, `report` is any function of an event. A run that is refused or fails raises
`salsa_cli.errors.SalsaError`.
"""

# ruff: noqa: E402 (each cell imports what it shows)

# %% Where things are
import os
import sys
from pathlib import Path

folder = Path(os.environ.get("QUICKSTART", "quickstart"))
out = folder / "library"

# %% What happens while it runs: plain lines on stderr, or whatever you make of the events
from salsa_cli.runs.console import PlainLines
from salsa_cli.runs.events import Event, Measured

rewards: list[object] = []


def report(event: Event) -> None:
    if isinstance(event, Measured):  # a row of metrics.jsonl
        rewards.append(event.values.get("reward"))
    else:
        lines(event)


lines = PlainLines(sys.stderr)

# %% A soup of two models; the fields have the names of the options (`salsa soup --help-all`)
from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig

ref = SoupConfig(
    models=(str(folder / "sft-a"), str(folder / "sft-b")), alpha=0.5, output=out / "ref"
)
print(soup.run(ref, report).record())

# %% A reward model
from salsa_cli import train_rm
from salsa_cli.config.train_rm import TrainRMConfig

rm = TrainRMConfig(
    model=str(folder / "sft-a"),
    data=str(folder / "prefs.jsonl"),
    learning_rate=1e-3,
    output=out / "rm",
)
print(train_rm.run(rm, report).record())

# %% A policy that stays near the soup
from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig

policy = PPOConfig(
    ref=(str(ref.output),),
    reward=(str(rm.output),),
    prompts=str(folder / "world" / "prompts.jsonl"),
    updates=5,
    response_length=16,
    learning_rate=5e-4,
    output=out / "policy",
)
rewards.clear()
result = ppo.run(policy, report).record()
print(f"reward {result['reward_first']:.3f} -> {result['reward_last']:.3f}; by update: {rewards}")

# %% Who wins, and how surely. `result.summary()` is what the command prints: text, and a table
from salsa_cli import evaluate
from salsa_cli.config.eval import EvalConfig

comparison = EvalConfig(
    models=(str(policy.output), str(folder / "sft-a")),
    prompts=str(folder / "world" / "heldout.jsonl"),
    judge=(f"rm:{rm.output}",),
    response_length=16,
    output=out / "results",
)
text, table = evaluate.run(comparison, report).summary()
print(text)

# %% A result is a folder with its record: settings, inputs with digests, versions
from salsa_cli.records import read_json

print(read_json(policy.output / "salsa.json")["settings"]["kl_coef"])

# %% The trained policy is an ordinary model
from transformers import AutoModelForCausalLM

print(AutoModelForCausalLM.from_pretrained(policy.output).num_parameters())
