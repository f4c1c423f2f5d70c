"""The command line: four commands, and the one place where errors become exit codes.

A command's module is imported only when it runs, and nothing slow before that, so that `--help`
and a mistyped name are answered at once.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from salsa_cli.config import options, sources
from salsa_cli.config.base import Config, TrainingConfig
from salsa_cli.config.commands import Command
from salsa_cli.config.manners import Manners
from salsa_cli.devices import processes
from salsa_cli.errors import SalsaError
from salsa_cli.records import to_json
from salsa_cli.runs import console, markdown, signals
from salsa_cli.runs.events import DryRun, GateFailed, Note, Report, Result

GATE_FAILED = 3
INTERRUPTED = 130
TERMINATED = 143

SOUP, PPO, EVALUATE = "salsa_cli.soup", "salsa_cli.ppo", "salsa_cli.evaluate"
PROBE = "salsa_cli.evaluation.probe"
PROBE_ROWS = "salsa_cli.evaluation.probe_rows"
TRAIN_RM, EVALUATE_RM = "salsa_cli.train_rm", "salsa_cli.reward_models.evaluation"
VERDICT_FILES = "salsa_cli.evaluation.verdict_files"

CURVES = "salsa_cli.evaluation.curves"

WITHOUT_TORCH = (SOUP, VERDICT_FILES, CURVES)
IN_PARALLEL = (PPO, TRAIN_RM)


def main() -> None:
    """Entry point of `salsa`: run the command line and exit with its code."""
    # PyTorch's threads must sleep while they wait, not spin: on a machine whose cores are busy,
    # spinning makes a small model dozens of times slower. Spinning for less than a millisecond
    # saves the cost of sleeping between two small products.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        if sys.platform == "win32":
            raise SalsaError("salsa runs on Linux and macOS; on Windows, run it in WSL")
        signals.terminate_like_interrupt()
        processes.watch_launcher()
        options.application(_command)(sys.argv[1:])
    except Exception as error:
        _fail(error)
    except KeyboardInterrupt as interrupt:
        _stop(interrupt)


def _command(command: Command, given: dict[str, object], arguments: Sequence[str]) -> None:
    manners = sources.manners(given)
    config = sources.configure(command, given, arguments, os.environ)
    _check(config)
    _execute(_module(command, config), config, manners)


def _check(config: Config) -> None:
    """Refuse what can be refused at once, before PyTorch is imported."""
    from salsa_cli.runs import inputs, run_folder  # numpy would slow --help down

    inputs.check(config)
    if isinstance(probe := getattr(config, "probe", None), str):
        import_module(PROBE_ROWS).check(probe)
    if not getattr(config, "resume", False) and config.output != Path():
        run_folder.check_output(config.output, config.force)


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
        if module not in WITHOUT_TORCH:
            report(Note("loading PyTorch and Transformers"))
        run: Callable[[Config, Report], Result] = import_module(module).run
        result = run(config, report)
    if isinstance(result, DryRun):
        result = replace(result, settings=sources.described(config))
    if not processes.rank():
        _print(result, manners)
    if isinstance(result, GateFailed):
        console.print_error(result.reason)
        processes.leave(GATE_FAILED)
        sys.exit(GATE_FAILED)
    processes.leave(0)


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
        with _broken_pipe_ignored():
            console.print_result(result)


def _say(text: str) -> None:
    with _broken_pipe_ignored():
        print(text, flush=True)


@contextmanager
def _broken_pipe_ignored() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # The reader of stdout is gone. A result is in its folder; print nothing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: Exception) -> NoReturn:
    if os.environ.get("SALSA_DEBUG"):
        raise error
    if processes.reports(error):
        place = f"process {processes.rank()}: " if processes.rank() else ""
        console.print_error(place + _explain(error))
    code = error.exit_code if isinstance(error, SalsaError) else 1
    processes.leave(code)
    sys.exit(code)


def _explain(error: Exception) -> str:
    if isinstance(error, SalsaError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file system'}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"out of memory ({error}); try a smaller --batch-size or a shorter length"
    return (
        f"{type(error).__name__}: {error}\n"
        "This is a defect of salsa, not of your input. SALSA_DEBUG=1 shows where it happened."
    )


def _stop(interrupt: KeyboardInterrupt) -> NoReturn:
    terminated = isinstance(interrupt, signals.Terminated)
    processes.let_main_go_first()
    if not processes.rank():
        console.print_error(str(interrupt) or ("terminated" if terminated else "interrupted"))
    sys.stdout.flush()
    sys.stderr.flush()
    # An interrupt that has passed through an extension module's own call of the interpreter makes
    # Python end itself by SIGINT, whatever the exit code is. Everything is cleaned up; exit now.
    os._exit(TERMINATED if terminated else INTERRUPTED)
