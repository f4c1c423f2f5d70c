"""How soon `salsa` answers: the help, and a mistyped path, as ratios to `import typer`.

    python -m tests.benchmarks.startup [--runs 10] > result.json

The commands are run in turn, each in a new interpreter; a figure is the median processor time of
its runs, divided by that of `python -c 'import typer'`. Prints one JSON object.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks import measure

SALSA = [sys.executable, "-m", "salsa_cli"]
FLOOR = "import typer"
MISTYPED = {
    "soup": "./a ./b",
    "train-rm": "./a --data prefs.jsonl",
    "ppo": "--ref ./a --reward ./rm --prompts prompts.jsonl",
    "eval": "./a --judge rm:./rm --prompts prompts.jsonl",
}


def commands(folder: str) -> dict[str, list[str]]:
    """The command lines by name, the floor first."""
    found = {FLOOR: [sys.executable, "-c", "import typer"], "--help": [*SALSA, "--help"]}
    found |= {f"{name} --help": [*SALSA, name, "--help"] for name in MISTYPED}
    found |= {
        f"{name}, mistyped path": [*SALSA, name, *line.split(), "-o", f"{folder}/out"]
        for name, line in MISTYPED.items()
    }
    return found


def seconds(lines: Mapping[str, Sequence[str]], runs: int) -> dict[str, float]:
    """Median processor time of every command, measured in turn.

    Raises:
        SystemExit: a command did not end as it should.
    """
    taken: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(runs):
        for name, line in lines.items():
            usage = measure.run(line)
            if usage.exit_code != int("mistyped" in name):
                sys.exit(f"{name}: exit code {usage.exit_code}: {usage.errors}")
            taken[name].append(usage.cpu_user + usage.cpu_system)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        medians = seconds(commands(folder), runs)
    result = {
        "machine": measure.machine(Path.cwd()),
        "runs": runs,
        "processor_seconds": {name: round(value, 4) for name, value in medians.items()},
        "ratio": {name: round(value / medians[FLOOR], 2) for name, value in medians.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
