"""The command line: four commands, and the one place where errors become exit codes.

A command's module is imported only when it runs, so that `--help` answers at once.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from salsa_cli import VERSION
from salsa_cli.config.base import Config, TrainingConfig
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.options import Manners, options
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices import processes
from salsa_cli.errors import SalsaError
from salsa_cli.records import to_json
from salsa_cli.runs import signals
from salsa_cli.runs.events import Note, Report, Result
from salsa_cli.runs.terminal import listening, print_error, print_result

INTERRUPTED = 130
TERMINATED = 143

SOUP, PPO, EVALUATE = "salsa_cli.soup", "salsa_cli.ppo", "salsa_cli.evaluate"
TRAIN_RM, EVALUATE_RM = "salsa_cli.train_rm", "salsa_cli.reward_models.evaluation"
RECOUNT = "salsa_cli.evaluation.verdict_files"

WITHOUT_TORCH = (SOUP, RECOUNT)
IN_PARALLEL = (PPO, TRAIN_RM)

app = typer.Typer(
    name="salsa",
    help="RLHF with PPO in which the reference model is a first-class argument.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"salsa {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("soup")
@options(SoupConfig)
def soup(config: SoupConfig, manners: Manners) -> None:
    """Average the weights of models, piece by piece, in little memory.

    salsa soup sft-a/ sft-b/ --alpha 0.5 -o ref/
    """
    _execute(SOUP, config, manners)


@app.command("train-rm")
@options(TrainRMConfig)
def train_rm(config: TrainRMConfig, manners: Manners) -> None:
    """Train a reward model on preference pairs, or evaluate one.

    salsa train-rm sft-a/ --data prefs.jsonl -o rm/

    salsa train-rm rm/ --eval-data rewardbench.jsonl -o evaluation/
    """
    _execute(EVALUATE_RM if config.data is None else TRAIN_RM, config, manners)


@app.command("ppo")
@options(PPOConfig)
def ppo(config: PPOConfig, manners: Manners) -> None:
    """Train a policy by PPO, held near a reference model.

    salsa ppo --ref ref/ --reward rm/ --prompts prompts.jsonl -o policy/
    """
    _execute(PPO, config, manners)


@app.command("eval")
@options(EvalConfig)
def evaluate(config: EvalConfig, manners: Manners) -> None:
    """Compare models: who wins, by how much, how surely.

    salsa eval policy/ baseline/ --prompts prompts.jsonl --judge rm:rm/ -o results/

    salsa eval --judgments judgments.jsonl -o results/
    """
    _execute(RECOUNT if config.judgments else EVALUATE, config, manners)


def main() -> None:
    """Entry point of `salsa`: run the command line and exit with its code."""
    # Threads of PyTorch that wait for one another must sleep, not spin: on a machine whose cores
    # are busy, a small model is dozens of times slower when they spin. A moment of it (below a
    # millisecond) spares them the way to sleep and back between two small products.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        signals.terminate_like_interrupt()
        processes.watch_launcher()
        app()
    except Exception as error:
        _fail(error)
    except KeyboardInterrupt as interrupt:
        _stop(interrupt)


def _execute(module: str, config: Config, manners: Manners) -> None:
    """Run a command's module and print its result; every way to end passes through here."""
    try:
        if missing := processes.to_start(_processes(module, config)):
            sys.exit(processes.start(missing))
        with listening(manners.quiet or bool(processes.rank())) as report:
            if module not in WITHOUT_TORCH:
                report(Note("loading PyTorch and Transformers"))
            run: Callable[[Config, Report], Result]
            run = importlib.import_module(module).run
            result = run(config, report)
        if not processes.rank():
            _print(result, manners)
        processes.leave(0)
    except typer.Exit:
        raise
    except Exception as error:
        _fail(error)
    except KeyboardInterrupt as interrupt:
        _stop(interrupt)


def _processes(module: str, config: Config) -> int | None:
    """How many processes the command is to run in; None where it runs in one alone."""
    if isinstance(config, TrainingConfig) and module in IN_PARALLEL:
        return config.processes
    return None


def _print(result: Result, manners: Manners) -> None:
    try:
        if manners.json:
            print(to_json(result.record()), flush=True)
        elif not manners.quiet:
            print_result(result)
    except BrokenPipeError:
        # The reader of stdout has gone. The result stands in its folder; say nothing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: Exception) -> NoReturn:
    if os.environ.get("SALSA_DEBUG"):
        raise error
    if processes.reports(error):
        place = f"process {processes.rank()}: " if processes.rank() else ""
        print_error(place + _explain(error))
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
        print_error(str(interrupt) or ("terminated" if terminated else "interrupted"))
    sys.stdout.flush()
    sys.stderr.flush()
    # An interrupt that has passed through an extension module's own call of the interpreter makes
    # Python end itself by SIGINT, whatever exit code is asked for. All is clean; leave at once.
    os._exit(TERMINATED if terminated else INTERRUPTED)
