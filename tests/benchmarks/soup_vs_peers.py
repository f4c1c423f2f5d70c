"""Measure `salsa soup` against its peers and against what the disk can do at most.

    python tests/benchmarks/soup_vs_peers.py > result.json

with the Python that salsa is installed in. It prints one JSON object (the machine, every run,
medians, ratios) on stdout, and progress and a table on stderr. Exit code 1: a run failed.

What it does, in this order:

1. Makes an environment for mergekit in the cache folder (`--cache`), on first use: `pip install
   mergekit==0.1.5`, with the torch version that salsa runs with unless PIP_CONSTRAINT says
   otherwise. pip's own settings pass through. Nothing has to be forced: the pins agree.
2. Chooses the case: with `--case auto` Llama-2-7B if three times its size is free on the disk of
   the cache folder (41 GB), else TinyLlama-1.1B (7 GB). Makes two checkpoints of that shape.
3. Lets every way run once on a tiny model, not counted, so that programs and libraries are in
   memory. A way that fails here takes no further part.
4. Runs the ways in turn, `--rounds` times: A B C, A B C, A B C. Before each run the *inputs* are
   evicted from the page cache (posix_fadvise), so that all begin with the disk; nothing else is
   dropped, and no other program is disturbed. Where this machine is a virtual one, a cache of its
   host is out of reach: compare with the floors of the same run, not across machines.
5. After each run, outside the clock, waits until the disk has the output (`flush_seconds`, for a
   way that left it in the page cache), checks values of every tensor against the float64 mean, and
   removes the output. At the end the checkpoints go too (`--keep`: both stay for the next time).

The ways (`--ways` chooses):

salsa-0.5, salsa-0.3    `salsa soup A B --alpha ...`: a power of two has a fast path, others do not
mergekit                `mergekit-yaml` linear, default options
mergekit-best           the same with the options that make it fastest and smallest on a CPU
safe-open               safe_open for every tensor, torch.lerp, save_file for every shard
buffered-floor          `cat B > /dev/null` beside `cat A > OUT`
direct-floor            read both and write one past the page cache, on threads, no arithmetic
alloy                   `alloy merge` linear (Rust, one tensor in memory at a time), if `--alloy`
                        names its program, which has to be built before; not chosen by default
salsa-five              five models, for the memory; not chosen by default (hard links of A and B)
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from make_checkpoint import MODELS, checkpoint_bytes, make_checkpoint
from measure import commit, evict, flush, machine, run, versions
from soup_check import check
from soup_figures import gigabytes, medians, print_table, ratios, row_text
from soup_ways import (
    BEST,
    DEFAULT_WAYS,
    EVERY_WAY,
    MERGEKIT,
    BenchmarkError,
    Job,
    Way,
    all_ways,
    mergekit_versions,
    say,
)

HERE = Path(__file__).resolve().parent
AUTO = ("llama2-7b", "llama-1b", "tiny")  # largest first
MARGIN = 500 * 10**6  # bytes of disk that stay free


def main() -> int:
    args = parse_arguments()
    args.cache.mkdir(parents=True, exist_ok=True)
    with only_one(args.cache), fresh_folder(args.cache / "work") as work:
        peer = mergekit_versions(args) if any("mergekit" in name for name in args.ways) else {}
        ways, failures = warm_up(all_ways(args), args.ways, work)
        case = choose_case(args)
        with checkpoints(case, args) as (first, second):
            facts = machine(work)  # with the load from before the measurements
            job = Job(first, second, work / "run" / "out")
            runs = list(measure_all(ways, job, args.rounds))
    failures |= {row["way"]: row["error"] for row in runs if row["error"]}
    result = {
        "benchmark": "soup_vs_peers",
        "case": case,
        "bytes_of_a_model": checkpoint_bytes(case),
        "rounds": args.rounds,
        "inputs": "evicted from the page cache before each run, where the system can (evicted)",
        "machine": facts,
        "versions": versions("salsa-cli", "numpy", "torch", "safetensors"),
        "commit": commit(HERE),
        "mergekit": peer,
        "mergekit_options": args.mergekit_options,
        "salsa_options": args.salsa_options,
        "failures": failures,
        "medians": medians(runs),
        "ratios": ratios(runs),
        "runs": runs,
    }
    print(json.dumps(result, indent=2))
    print_table(result)
    return 1 if failures else 0


# Running them


def warm_up(
    ways: dict[str, Way], chosen: list[str], work: Path
) -> tuple[dict[str, Way], dict[str, str]]:
    """Let every chosen way run once on a tiny model: those that can, and why the others cannot."""
    first, second = work / "tiny-a", work / "tiny-b"
    make_pair("tiny", first, second)
    able, failures = {}, {}
    for name in chosen:
        row = measure_one(name, ways[name], Job(first, second, work / "run" / "out"))
        if row["error"]:
            failures[name] = row["error"]
            say(f"{name} fails on the tiny model and takes no part: {row['error']}")
        else:
            able[name] = ways[name]
    return able, failures


def measure_all(ways: dict[str, Way], job: Job, rounds: int) -> Iterator[dict[str, Any]]:
    """Run the ways in turn, as many rounds as asked for."""
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            row = {"round": number, **measure_one(name, way, job)}
            say(f"round {number} of {rounds}: {name:15} {row['error'] or row_text(row)}")
            yield row


def measure_one(name: str, way: Way, job: Job) -> dict[str, Any]:
    """Run one way from a cold start, check what it wrote, and remove that."""
    evicted = evict(job.inputs)
    load = round(os.getloadavg()[0], 2)
    with fresh_folder(job.out.parent):
        usage = run(way.command(job), {**os.environ, "HF_HUB_OFFLINE": "1"})
        flushed = flush(job.out)
        error, misrounded = None, None
        if usage.exit_code:
            error = f"exit code {usage.exit_code}: {usage.errors[-800:]}"
        elif way.alpha is not None:
            error, misrounded = check(job, way.alpha)
        written = weight_bytes(job.out.iterdir() if job.out.is_dir() else [])
    return {
        "way": name,
        "error": error,
        **usage.numbers(),
        "flush_seconds": flushed,
        "to_disk_seconds": usage.seconds + flushed,
        "bytes_read": weight_bytes(job.inputs) // 2 * way.models,
        "bytes_written": written,
        "misrounded": misrounded,
        "evicted": evicted,
        "load": load,
        "says": json.loads(usage.output) if name.startswith("salsa") and not error else None,
    }


def weight_bytes(files: Iterable[Path]) -> int:
    """Bytes of the files that hold weights."""
    return sum(path.stat().st_size for path in files if path.suffix == ".safetensors")


# What comes before and after


def choose_case(args: argparse.Namespace) -> str:
    """The case asked for, or the largest one whose two models and result the disk has room for."""
    free = shutil.disk_usage(args.cache).free
    for case in AUTO if args.case == "auto" else (args.case,):
        there = sum(folder.exists() for folder in pair(case, args))
        needed = (3 - there) * checkpoint_bytes(case) + MARGIN
        if needed <= free:
            return case
        say(f"{case} needs {gigabytes(needed)} in {args.cache}, where {gigabytes(free)} are free")
    raise BenchmarkError("not enough disk; choose a smaller --case or another --cache")


@contextmanager
def checkpoints(case: str, args: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """The two models of a case, made if they are not there, and removed unless they are to stay."""
    first, second = pair(case, args)
    try:
        make_pair(case, first, second)
        yield first, second
    finally:
        if not args.keep:
            for folder in (first, second):
                shutil.rmtree(folder, ignore_errors=True)


def pair(case: str, args: argparse.Namespace) -> tuple[Path, Path]:
    """Where the two models of a case are."""
    return args.cache / f"{case}-a", args.cache / f"{case}-b"


def make_pair(case: str, first: Path, second: Path) -> None:
    """Make a model and its sibling, where they are not there from an earlier time."""
    for folder, seed, base in ((first, 1, None), (second, 2, 1)):
        if not folder.exists():
            shutil.rmtree(folder.with_name(folder.name + ".partial"), ignore_errors=True)
            make_checkpoint(folder, case, seed, base)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a lock: two benchmarks at a time would measure each other."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BenchmarkError(f"another benchmark runs in {folder}") from None
        yield


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=[*MODELS, "auto"], default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", type=chosen_ways, default=DEFAULT_WAYS, metavar="A,B,...")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("~/.cache/salsa-benchmarks"),
        help="folder for mergekit's environment and the checkpoints; its disk is what is measured",
    )
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--mergekit", default=MERGEKIT, metavar="VERSION")
    parser.add_argument(
        "--mergekit-options", default=BEST, metavar="TEXT", help=f"of mergekit-best; {BEST}"
    )
    parser.add_argument("--alloy", default="alloy", metavar="PROGRAM", help="of the way alloy")
    parser.add_argument(
        "--salsa-options", default="", metavar="TEXT", help="such as '--memory 256MB'"
    )
    args = parser.parse_args()
    args.cache = args.cache.expanduser().resolve()
    return args


def chosen_ways(text: str) -> list[str]:
    """The value of --ways."""
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in EVERY_WAY]:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(EVERY_WAY)}")
    return chosen


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
