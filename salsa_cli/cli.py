"""The command line: four commands, and the one place where errors become exit codes.

What runs a command is imported only when one runs, so that `--help` and a mistyped name are
answered at once.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from salsa_cli.config.application import application
from salsa_cli.config.commands import Command
from salsa_cli.devices import processes
from salsa_cli.errors import SalsaError, explained
from salsa_cli.runs import lasting_stderr, signals


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
        lasting_stderr.outlive_reader()
        signals.terminate_like_interrupt()
        processes.watch_launcher()
        application(_command)(sys.argv[1:])
    except Exception as error:
        _fail(error)
    except KeyboardInterrupt as interrupt:
        _stop(interrupt)


def _command(command: Command, given: dict[str, object], arguments: Sequence[str]) -> None:
    from salsa_cli import execution

    execution.execute(command, given, arguments)


def _fail(error: Exception) -> NoReturn:
    if os.environ.get("SALSA_DEBUG"):
        raise error
    if processes.reports(error):
        place = f"process {processes.rank()}: " if processes.rank() else ""
        _print_error(place + explained(error))
    code = error.exit_code if isinstance(error, SalsaError) else 1
    processes.leave(code)
    sys.exit(code)


def _stop(interrupt: KeyboardInterrupt) -> NoReturn:
    processes.let_main_go_first()
    if not processes.rank():
        _print_error(str(interrupt) or signals.described(type(interrupt)))
    with suppress(OSError):  # the terminal may be closed
        sys.stdout.flush()
    sys.stderr.flush()
    # An interrupt that has passed through an extension module's own call of the interpreter makes
    # Python end itself by SIGINT, whatever the exit code is. Everything is cleaned up; exit now.
    os._exit(signals.EXIT_CODES[type(interrupt)])


def _print_error(text: str) -> None:
    from salsa_cli.runs import console

    console.print_error(text)
