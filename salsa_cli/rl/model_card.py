"""README.md of a policy: how it was trained, what from and against what, and what came of it."""

from collections.abc import Iterator
from pathlib import Path

from salsa_cli import VERSION
from salsa_cli.config.command_line import command_line
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.formatting import counted, figure, plain
from salsa_cli.rl import monitors
from salsa_cli.rl.best import BestUpdate
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.monitors import History
from salsa_cli.weights import cards, folders

_ALGORITHMS = {"gae": "PPO", "rloo": "RLOO", "group": "Dr. GRPO", "grpo": "GRPO"}
"""Names of the field for what `--advantage` makes of PPO's clipped loss."""

_PENALTIES = {"kl": "KL", "chi2": "chi-squared", "mean-kl": "mean KL"}


def write(config: PPOConfig, start: Path, history: History, kept: BestUpdate | None = None) -> str:
    """The model card of a policy.

    Args:
        config: the settings of the run.
        start: the folder of the model from which the policy started.
        history: the figures of its updates, one or more.
        kept: the best update, if its policy is kept.
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
    first, last = history[0], history[-1]
    algorithm = _ALGORITHMS[config.advantage]
    rows = "".join(
        f"| {what} | {cards.cell(cards.shown(name))} |\n" for what, name in _setup(config, named)
    )
    command = plain(command_line("ppo", config, cards.shown), 10_000)
    return "\n".join(
        (
            f"{head}\n# A policy trained with {algorithm}\n",
            f"Trained by `salsa ppo` {VERSION} in {counted(len(history), 'update')} of "
            f"{counted(config.batch_size, 'answer')}; the mean training reward was "
            f"{figure(first.reward)} in the first update and {figure(last.reward)} in the last, "
            "each on prompts of its own.\n",
            f"| | |\n|---|---|\n{rows}",
            f"    {command}\n",
            "## KL to the reference and other anchors\n",
            *_moved(history),
            "## Evaluation\n",
            *_compared(history, kept),
            *_warnings(history),
        )
    )


def _setup(config: PPOConfig, start: str) -> Iterator[tuple[str, str]]:
    yield "method", _ALGORITHMS[config.advantage]
    yield "start", start
    for one in config.ref:
        yield "reference", one
    yield "penalty", _penalty(config)
    for one in config.reward:
        yield "reward", one
    if len(config.reward) > 1:
        yield "ensemble", config.ensemble
    yield "prompts", config.prompts
    yield "answers", f"up to {config.response_length} tokens at temperature {config.temperature:g}"
    yield "learning rate", f"{config.learning_rate:g}"
    yield "seed", str(config.seed)


def _penalty(config: PPOConfig) -> str:
    name = f"{_PENALTIES[config.penalty]} in the {config.kl_in}"
    if config.kl_target is not None:
        return f"{name}, coefficient adapted to {config.kl_target:g}, {config.kl_coef:g} at first"
    return f"{name}, coefficient {config.kl_coef:g}"


def _moved(history: History) -> Iterator[str]:
    """The divergences from reference and anchors, in the first and in the last update."""
    first, last = history[0], history[-1]
    at = (
        ""
        if last.temperature in (None, 1)
        else f", of the policies at temperature {last.temperature:g}"
    )
    kls = {"reference": (first.kl, last.kl)}
    kls |= {
        name: (kl, last.kl_anchors[name])
        for name, kl in first.kl_anchors.items()
        if name != "reference" and name in last.kl_anchors
    }
    yield f"KL in nats per answer{at}:\n"
    yield "| to | first update | last update |\n|---|---|---|"
    for name, (before, after) in kls.items():
        yield f"| {cards.cell(cards.shown(name))} | {figure(before + 0.0)} | {figure(after)} |"
    yield ""


def _compared(history: History, kept: BestUpdate | None) -> Iterator[str]:
    before, after = history[0].heldout_start, history[-1].heldout
    if before is None or after is None:
        yield (
            "Not compared with another model: the reward above is measured on training prompts. "
            "`salsa eval` compares models on held-out prompts.\n"
        )
        return
    yield (
        f"Compared with its start on {counted(after.prompts, 'held-out prompt')} (means with "
        "standard errors):\n"
    )
    yield "| | start | policy |\n|---|---|---|"
    for name, (ours, theirs) in _figures(before, after):
        yield f"| {cards.cell(cards.shown(name))} | {_with_error(ours)} | {_with_error(theirs)} |"
    yield ""
    yield "The reward is the one that it was trained on; `salsa eval` takes other judges.\n"
    if kept is not None:
        yield (
            f"The best update by held-out {kept.by} was {kept.update} "
            f"({figure(kept.value)}); this is the last.\n"
        )


def _figures(
    before: HeldOutMetrics, after: HeldOutMetrics
) -> Iterator[tuple[str, tuple[HeldOutFigure, HeldOutFigure]]]:
    yield "reward", (before.reward, after.reward)
    for name, found in before.watch.items():
        yield f"{name}, not trained on", (found, after.watch[name])
    yield "tokens per answer", (before.length, after.length)
    yield "share that ends", (before.finished, after.finished)


def _with_error(found: HeldOutFigure) -> str:
    error = found.standard_error
    return figure(found.mean) + (f" +- {figure(error)}" if error == error else "")


def _warnings(history: History) -> Iterator[str]:
    """Warnings of the run, by name and update."""
    alarms = monitors.alarms(history)
    if alarms:
        yield "## Warnings\n"
        yield from (f"- {one.name}, update {one.update}: {one.text}" for one in alarms)
        yield ""
