"""A run whose terminal is closed saves its state and stops."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from salsa_cli.config.soup import SoupConfig
from salsa_cli.runs import console, lasting_stderr, signals
from salsa_cli.runs.events import Note
from salsa_cli.runs.unfinished import working_folder

lasting_stderr.outlive_reader()
signals.terminate_like_interrupt()
saved = lambda folder: "a step" if (folder / "step").exists() else None
config = SoupConfig(models=("a", "b"), output=Path("out"))
try:
    with (
        console.listening(False) as report,
        working_folder("soup", config, report, resume=False, kept=saved) as folder,
    ):
        (folder / "step").touch()
        for step in range(int(sys.argv[1])):
            report(Note(f"step {step}"))
            time.sleep(0.01)
except KeyboardInterrupt as end:
    console.print_error(str(end))
    os._exit(signals.EXIT_CODES[type(end)])
"""


def test_a_closed_terminal_stops_the_run_with_its_state_saved(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # the leader of a session, like a shell's command at the end of ssh -t
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT, "100000"])
    seen = b""
    while b"step 1" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    noted = json.loads((tmp_path / "out.partial" / "state.json").read_text())
    assert "SIGHUP" in noted["reason"]


def test_a_run_goes_on_without_the_reader_of_its_stderr(tmp_path: Path) -> None:
    """`nohup salsa ... 2>&1 | tee log`: the hangup ends tee."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "3"], stderr=writing, cwd=tmp_path, check=False, timeout=60
    )
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "out" / "step").exists() and not (tmp_path / "out.partial").exists()
