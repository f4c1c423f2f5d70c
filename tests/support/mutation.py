"""Break a package in one place at a time and see which test notices.

Each mutant is a copy of the package and of its tests with one piece of text replaced. The tests of
the module itself run on the copy first, then those nearest to it, until the first one fails.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.real_data import SHARED

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "salsa_cli"


@dataclass(frozen=True)
class Mutant:
    """One mistake: `before`, which occurs once in the file, becomes `after`."""

    name: str
    file: str
    before: str
    after: str


def misplaced(mutants: Sequence[Mutant], nearest: Sequence[str]) -> list[str]:
    """The mutants whose text does not occur exactly once, and the tests that do not exist."""
    found = [
        f"{mutant.name}: {mutant.file} holds its text {count} times"
        for mutant in mutants
        if (count := _occurrences(mutant)) != 1
    ]
    return found + [f"no tests/{name}" for name in nearest if not (ROOT / "tests" / name).exists()]


def main(description: str, mutants: Sequence[Mutant], nearest: Sequence[str]) -> int:
    """Run the mutants that the command line asks for; prints a table, returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutants named by a word")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default 1)")
    given = parser.parse_args()
    if wrong := misplaced(mutants, nearest):
        sys.exit("\n".join(wrong))
    words = given.words
    chosen = [m for m in mutants if not words or any(word in m.name for word in words)]
    width = max((len(mutant.name) for mutant in chosen), default=0)
    survived = 0
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(given.jobs) as pool:
        try_one = partial(_try, root=Path(root), nearest=nearest)
        if killer := try_one(None)[0]:
            sys.exit(f"without a mutant, {killer} fails")
        for mutant, (killer, seconds) in zip(chosen, pool.map(try_one, chosen), strict=True):
            survived += killer is None
            print(f"{mutant.name:<{width}}  {seconds:5.1f} s  {killer or 'SURVIVES'}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} mutants die")
    return 1 if survived else 0


def _occurrences(mutant: Mutant) -> int:
    path = PACKAGE / mutant.file
    return path.read_text(encoding="utf-8").count(mutant.before) if path.exists() else 0


def _try(mutant: Mutant | None, root: Path, nearest: Sequence[str]) -> tuple[str | None, float]:
    """The first test that fails on a copy with the mutant, None if none does; and the seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        ignored = shutil.ignore_patterns("__pycache__", "benchmarks")
        for part in ("salsa_cli", "tests", "examples"):
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutant is not None:
            path = folder / "salsa_cli" / mutant.file
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        killer = _first_failure(folder, _own_tests(mutant)) if mutant is not None else None
        return killer or _first_failure(folder, nearest), time.monotonic() - began


def _own_tests(mutant: Mutant) -> list[str]:
    """The test file of the module, if it has one."""
    module = Path(mutant.file)
    tests = str(module.with_name(f"test_{module.name}"))
    return [tests] if (ROOT / "tests" / tests).exists() else []


def _first_failure(folder: Path, tests: Sequence[str]) -> str | None:
    if not tests:
        return None
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]
    done = subprocess.run(
        [*command, *(f"tests/{name}" for name in tests)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SALSA_TEST_DATA": str(SHARED),
        },
        check=False,
    )
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+?)(?:\[.*)?(?: - .*)?$", done.stdout, re.M)
    return found[1] if found else (done.stdout + done.stderr).strip().splitlines()[-1]
