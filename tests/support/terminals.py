"""Programs that run on a terminal: one that this process has the other end of."""

import contextlib
import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def shown(
    command: Sequence[str | Path],
    typed: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """All that a program writes to its terminal until it ends.

    Args:
        typed: what the keyboard sends.
    """
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    ):
        os.close(theirs)
        os.write(ours, typed.encode())
        found = b""
        with contextlib.suppress(OSError):  # raised when the program is gone
            while True:
                found += os.read(ours, 65536)
    os.close(ours)
    return found.decode()
