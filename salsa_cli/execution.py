"""A command from its settings to its result: checked, run, printed.

The module that does the work is imported only when everything that can be checked without it is.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from salsa_cli.config import sources
from salsa_cli.config.base import Config, TrainingConfig
from salsa_cli.config.commands import Command
from salsa_cli.config.manners import Manners
from salsa_cli.devices import processes
from salsa_cli.records import to_json
from salsa_cli.runs import console, markdown
from salsa_cli.runs.events import DryRun, GateFailed, Note, Report, Result, Warned, Working

GATE_FAILED = 3

SOUP, PPO, EVALUATE = "salsa_cli.soup", "salsa_cli.ppo", "salsa_cli.evaluate"
PROBE = "salsa_cli.evaluation.probe"
PROBE_ROWS = "salsa_cli.evaluation.probe_rows"
TRAIN_RM, EVALUATE_RM = "salsa_cli.train_rm", "salsa_cli.reward_models.evaluation"
VERDICT_FILES = "salsa_cli.evaluation.verdict_files"
HUB = "salsa_cli.weights.hub"

CURVES = "salsa_cli.evaluation.curves"

WITHOUT_TORCH = (SOUP, VERDICT_FILES, CURVES)
IN_PARALLEL = (PPO, TRAIN_RM)


def execute(command: Command, given: dict[str, object], arguments: Sequence[str]) -> None:
    """Run a command and print its result.

    Args:
        given: the texts for its settings and `Manners` on the command line, by field.
        arguments: those after the command's name as they were typed, for an error.

    Raises:
        SalsaError: the settings, the inputs or the output are wrong, or the command fails.
        SystemExit: the result is complete, but does not pass the gate of the user; or other
            processes have run the command.
    """
    manners = sources.manners(given)
    config = sources.configure(command, given, arguments, os.environ)
    _check(config)
    _execute(_module(command, config), config, manners)


def _check(config: Config) -> None:
    """Refuse what can be refused at once, before PyTorch is imported."""
    from salsa_cli.runs import inputs, run_folder  # numpy would delay errors of the command line

    inputs.check(config)
    if isinstance(probe := getattr(config, "probe", None), str):
        import_module(PROBE_ROWS).check(probe)
    if not getattr(config, "resume", False) and config.output != Path():
        run_folder.check_output(config.output, config.force)
    if (repo := getattr(config, "push_to_hub", None)) is not None and not processes.rank():
        import_module(HUB).check(repo)


def _module(command: Command, config: Config) -> str:
    """The module that does what the command is asked for."""
    match command.name:
        case "soup":
            return SOUP if getattr(config, "probe", None) is None else PROBE
        case "train-rm":
            return EVALUATE_RM if getattr(config, "data", None) is None else TRAIN_RM
        case "ppo":
            return PPO
        case _:
            if getattr(config, "judgments", ()):
                return VERDICT_FILES
            return CURVES if getattr(config, "compares_logs", False) else EVALUATE


def _execute(module: str, config: Config, manners: Manners) -> None:
    """Run a command's module and print its result."""
    if missing := processes.to_start(_processes(module, config)):
        sys.exit(processes.start(missing))
    with console.listening(manners.quiet or bool(processes.rank())) as report:
        for text in config.ignored:
            report(Note(text))
        if module not in WITHOUT_TORCH:
            report(Working("loading PyTorch and Transformers"))
        run: Callable[[Config, Report], Result] = import_module(module).run
        result = run(config, report)
    if isinstance(result, DryRun):
        result = replace(result, settings=sources.described(config))
    if not processes.rank():
        _print(result, manners)
    if not isinstance(result, DryRun) and not processes.rank():
        _publish(config, manners)
    if isinstance(result, GateFailed):
        console.print_error(result.reason)
        processes.leave(GATE_FAILED)
        sys.exit(GATE_FAILED)
    processes.leave(0)


def _publish(config: Config, manners: Manners) -> None:
    """Push the result to the hub, if that was asked for; it is printed already and stays."""
    if (repo := getattr(config, "push_to_hub", None)) is None:
        return
    hub = import_module(HUB)
    with console.listening(manners.quiet) as report:
        if (caution := hub.caution(config.output)) is not None:
            report(Warned(caution))
        report(Note(f"uploading {config.output} to {repo}"))
    live = not manners.quiet and console.is_live(sys.stderr, os.environ)
    told = hub.push(config.output, repo, progress=live)
    with console.listening(manners.quiet) as report:
        report(Note(f"uploaded to {told}"))


def _processes(module: str, config: Config) -> int | None:
    """How many processes the command is to run in; None if it always runs in one."""
    if isinstance(config, TrainingConfig) and module in IN_PARALLEL:
        return config.processes
    return None


def _print(result: Result, manners: Manners) -> None:
    if manners.json:
        _say(to_json(result.record()))
    elif manners.markdown:
        _say(markdown.of_result(result))
    elif not manners.quiet:
        with _lost_reader_ignored():
            console.print_result(result)


def _say(text: str) -> None:
    with _lost_reader_ignored():
        print(text, flush=True)


@contextmanager
def _lost_reader_ignored() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # The pipe's reader or the terminal is gone. A result is in its folder; print nothing at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
