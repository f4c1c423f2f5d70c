"""The ways to average two models that `soup_vs_peers.py` compares, as commands."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measure import versions

HERE = Path(__file__).resolve().parent
MERGEKIT = "0.1.5"
# Tried on a CPU and safetensors: the shard size saves memory, writing meanwhile some time; the
# first two are advised everywhere, and change something with .bin files and accelerators alone.
BEST = "--lazy-unpickle --low-cpu-memory --async-write --out-shard-size 1B"
DEFAULT_WAYS = (
    "salsa-0.5 salsa-0.3 mergekit mergekit-best safe-open buffered-floor direct-floor"
).split()
EVERY_WAY = [*DEFAULT_WAYS, "salsa-five", "alloy"]


class BenchmarkError(Exception):
    """Something that whoever runs this can put right."""


@dataclass(frozen=True)
class Job:
    """Two models to average, and where to."""

    first: Path
    second: Path
    out: Path

    @property
    def inputs(self) -> list[Path]:
        """The files that hold the weights."""
        return [*self.first.glob("*.safetensors"), *self.second.glob("*.safetensors")]


@dataclass(frozen=True)
class Way:
    """One way to do a job: its command, and the share of the second model in what it writes."""

    command: Callable[[Job], list[str]]
    alpha: float | None  # None: what it writes is no average
    models: int = 2


def all_ways(args: argparse.Namespace) -> dict[str, Way]:
    """Every way, by its name."""
    soup = [sys.executable, "-m", "salsa_cli", "soup", "--json", *shlex.split(args.salsa_options)]
    merge = [str(mergekit_environment(args) / "bin" / "mergekit-yaml")]
    best = shlex.split(args.mergekit_options)
    return {
        "salsa-0.5": Way(lambda job: [*soup, *names(job), "--alpha", "0.5"], 0.5),
        "salsa-0.3": Way(lambda job: [*soup, *names(job), "--alpha", "0.3"], 0.3),
        "mergekit": Way(lambda job: [*merge, linear_config(job), str(job.out)], 0.5),
        "mergekit-best": Way(lambda job: [*merge, linear_config(job), str(job.out), *best], 0.5),
        "alloy": Way(
            lambda job: [args.alloy, "merge", linear_config(job), "--output", str(job.out)], 0.5
        ),
        "safe-open": Way(lambda job: [*script("safe_open_mean.py", job), "0.5"], 0.5),
        "buffered-floor": Way(buffered_floor, None),
        "direct-floor": Way(lambda job: script("direct_floor.py", job), None),
        "salsa-five": Way(lambda job: [*soup, *five_models(job), "-o", str(job.out)], 0.4, 5),
    }


def names(job: Job) -> list[str]:
    """The models and the output as `salsa soup` takes them."""
    return [str(job.first), str(job.second), "-o", str(job.out)]


def script(name: str, job: Job) -> list[str]:
    """A script beside this one, with the folders as arguments."""
    return [sys.executable, str(HERE / name), str(job.first), str(job.second), str(job.out)]


def buffered_floor(job: Job) -> list[str]:
    """Read both and write one through the page cache, with the programs that everyone has."""
    code = """
        mkdir "$3" || exit
        cat "$2"/*.safetensors > /dev/null & cat "$1"/*.safetensors > "$3/all.safetensors" && wait
    """
    return ["sh", "-c", code, "sh", str(job.first), str(job.second), str(job.out)]


def linear_config(job: Job) -> str:
    """Write mergekit's description of the job. JSON is YAML too."""
    models = [
        {"model": str(model), "parameters": {"weight": 0.5}} for model in (job.first, job.second)
    ]
    path = job.out.with_name("linear.yml")
    config = {"merge_method": "linear", "dtype": "bfloat16", "models": models}
    path.write_text(json.dumps(config))
    return str(path)


def five_models(job: Job) -> list[str]:
    """The models A B A B A, as folders of hard links, with their weights."""
    copies = [job.out.with_name(f"model-{number}") for number in range(5)]
    for number, copy in enumerate(copies):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree((job.first, job.second)[number % 2], copy, copy_function=os.link)
    return [*map(str, copies), "--weights", "0.2,0.2,0.2,0.2,0.2"]


def mergekit_environment(args: argparse.Namespace) -> Path:
    """The folder of mergekit's own virtual environment."""
    return Path(args.cache) / f"mergekit-{args.mergekit}"


def mergekit_versions(args: argparse.Namespace) -> dict[str, str | None]:
    """Make mergekit's environment if it is not there; the versions of what decides its speed."""
    folder = mergekit_environment(args)
    python, finished = folder / "bin" / "python", folder / "finished"
    if not finished.exists():
        say(f"installing mergekit {args.mergekit} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-qq", f"mergekit=={args.mergekit}"]
        if subprocess.run([*install, *same_torch(folder)], stdout=sys.stderr).returncode:
            raise BenchmarkError(f"mergekit {args.mergekit} did not install; see --ways")
        finished.touch()
    return versions("mergekit", "torch", "transformers", "safetensors", "numpy", python=python)


def same_torch(folder: Path) -> list[str]:
    """Options that make pip choose the torch that is installed here, whose kernels are the same."""
    torch = versions("torch")["torch"]
    if torch is None or "PIP_CONSTRAINT" in os.environ:
        return []
    path = folder / "constraints.txt"
    path.write_text(f"torch=={torch.partition('+')[0]}\n")
    return ["--constraint", str(path)]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
