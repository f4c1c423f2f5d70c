"""Run the study "does SALSA beat PPO?" as PLAN.md lays it down, one shell command after another.

    python study.py BASE --train train.jsonl --heldout heldout.jsonl -o study/
    python study.py BASE ... -o study/ --quick      1 pipeline per condition, 3 arms: minutes
    python study.py BASE ... -o study/ --scale      arms 1 and 2 alone: for a larger base

BASE is a folder or a hub id of a causal language model that writes stories. Every step is a
`salsa` command (or one of the small scripts next to this file); study/logs has each command with
what it printed. A study that was stopped or killed resumes where it stopped when it is called
again. --jobs commands run at a time, one thread each.

The unit is a pipeline: two SFT models, their soup, a reward model, and PPO of every arm, all with
seeds of their own. `analysis.py` reads what the finished pipelines left.
"""

import argparse
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from commands import Command, Failed, Study, salsa, write
from plan import (
    ADMISSION,
    CANDIDATES,
    PAIR,
    SECONDARY,
    Arm,
    Condition,
    Plan,
    commands_of,
    plan_of,
)

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent
GOLD, PLAIN = (f"python:{HERE / 'study_gold.py'}:{name}" for name in ("score", "plain"))


@dataclass(frozen=True)
class Pipeline:
    """One unit of the study: a condition and a seed."""

    study: Study
    condition: Condition
    seed: int

    @property
    def folder(self) -> Path:
        return self.study.root / self.condition.name / f"seed-{self.seed:02}"

    @property
    def name(self) -> str:
        return f"{self.condition.name}, seed {self.seed}"

    @property
    def data(self) -> Path:
        return self.study.root / "world"

    def primary(self) -> None:
        """The SFT pair, the reward model, the first arms of the plan, and their evaluation."""
        if self.chosen.exists():
            self.study.expect(PAIR, -1)
        else:
            self.admit()
        if self.admitted():
            for command in self.models():
                self.study.run(command)
            self.arms(self.study.plan.arms, "primary", ("a", "b", "soup"), best_of=("a", "soup"))

    def secondary(self) -> None:
        """The other arms, their evaluation, and the line from A to B; the first arms are done."""
        if self.admitted():
            for command in self.other_references():
                self.study.run(command)
            self.arms(SECONDARY, "secondary", ("union", "perturbed"))
            self.study.run(self.line())

    @property
    def chosen(self) -> Path:
        """The record of the pairs that were tried, the last of which counts."""
        return self.folder / "admission.json"

    def admitted(self) -> bool:
        found: bool = json.loads(self.chosen.read_text(encoding="utf-8"))[-1]["admitted"]
        return found

    def admit(self) -> None:
        """Make SFT pairs until one meets the rule of PLAN.md; keep it as a, b and soup."""
        tried: list[dict[str, object]] = []
        for candidate in range(CANDIDATES):
            if candidate:
                self.study.expect(PAIR, 1)
            place = self.folder / f"candidate-{candidate}"
            for command in self.candidate(place, 100 * self.seed + 10 * candidate):
                self.study.run(command)
            tried.append(judged(place, self.condition))
            if tried[-1]["admitted"]:
                break
            print(
                f"{self.name}: pair {candidate} is not admitted: {measured(tried[-1])}", flush=True
            )
        else:
            print(
                f"{self.name}: no pair is admitted; the pipeline is left out. If barrier or KL "
                "is large or the gain is below 0, lower --learning-rate-factor.",
                flush=True,
            )
        for name in ("a", "b", "soup"):
            link = self.folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(f"{tried[-1]['pair']}/{name}")
        write(self.chosen, tried)

    def candidate(self, place: Path, seed: int) -> Iterator[Command]:
        """Two SFT models, their soup, the barrier between them, and the gold of all three."""
        for number, name in enumerate("ab"):
            yield self.sft(place / name, seed + number + 1, self.condition.shares[number])
        pair = (place / "a", place / "b")
        yield salsa("soup", place / "soup", "soup", *pair, "--resume")
        yield salsa("probe", place / "probe", "soup", *pair, "--probe", self.data / "probe.jsonl")
        yield salsa(
            *("admission", place / "gold", "eval", *pair, place / "soup", "--resume"),
            *("--prompts", self.data / "prompts.jsonl", "--max-prompts", ADMISSION),
            *("--response-length", self.study.length, "--judge", GOLD, "--judge", PLAIN),
            *("--anchors", place / "soup"),
        )

    def sft(self, output: Path, seed: int, share: str) -> Command:
        words = [sys.executable, EXAMPLES / "sft.py", self.study.base, "-o", output]
        words += ["--data", self.data / "sft.jsonl", "--seed", seed, "--share", share]
        words += ["--epochs", self.condition.epochs, "--batch-size", 32]
        words += ["--learning-rate", self.condition.learning_rate, "--log-every", 1000]
        return Command("sft", output, tuple(map(str, words)), atomic=False)

    def models(self) -> Iterator[Command]:
        """Preference pairs of A's answers in the order of gold, and a reward model from them."""
        pairs = self.folder / "pairs.jsonl"
        words = [sys.executable, EXAMPLES / "preferences.py", self.folder / "a", "-o", pairs]
        words += ["--prompts", self.data / "prompts.jsonl", "--pairs", self.study.plan.pairs]
        words += [
            "--max-tokens",
            self.study.length,
            "--seed",
            self.seed,
            "--gold",
            HERE / "study_gold.py",
        ]
        yield Command("pairs", pairs, tuple(map(str, words)), atomic=False)
        yield salsa(
            *("train-rm", self.folder / "rm", "train-rm", self.folder / "a", "--data", pairs),
            *("--epochs", 2, "--batch-size", 16, "--learning-rate", 1e-3, "--seed", self.seed),
            *(("--pad-token", pad) if (pad := self.study.tokens["pad_token"]) else ()),
            "--resume",
        )

    def other_references(self) -> Iterator[Command]:
        """A model trained on the rows of both, and A as far from itself as the soup is."""
        both = replace(self, condition=self.condition.union())
        yield both.sft(self.folder / "union", 100 * self.seed + 1, both.condition.shares[0])
        perturbed = self.folder / "perturbed"
        words = [sys.executable, HERE / "perturb.py", self.folder / "a", self.folder / "soup"]
        words += ["--prompts", self.data / "tune.jsonl", "--seed", self.seed, "-o", perturbed]
        yield Command("perturb", perturbed, tuple(map(str, words)), atomic=False)

    def arms(
        self, arms: Sequence[Arm], part: str, models: Sequence[str], best_of: Sequence[str] = ()
    ) -> None:
        """Train every arm with every coefficient, and evaluate all in one command."""
        runs = [(arm, beta) for arm in arms for beta in self.study.plan.coefficients]
        for arm, beta in runs:
            self.study.run(self.ppo(arm, beta))
        named = [
            f"{arm.name}@{beta:g}={self.output_of(arm, beta)}".replace("@", "-")
            for arm, beta in runs
        ]
        named += [f"{name}={self.folder / name}" for name in models]
        extra: list[object] = []
        if best_of:
            best = self.study.plan.best_of
            extra += ["--best-of", best, "--samples-per-prompt", best]
            extra += [word for name in best_of for word in ("--best-of-models", name)]
        self.study.run(
            salsa(
                *("eval", self.folder / f"results-{part}", "eval", *named),
                *("--prompts", self.data / "test.jsonl", "--response-length", self.study.length),
                *("--judge", f"rm:{self.folder / 'rm'}", "--judge", GOLD, "--judge", PLAIN),
                *("--anchors", self.folder / "a", "--anchors", self.folder / "soup"),
                *(
                    "--baseline",
                    named[0].partition("=")[0],
                    "--seed",
                    self.seed,
                    *extra,
                    "--resume",
                ),
            )
        )

    def line(self) -> Command:
        """The rewards of soups between A and B, before any RL."""
        return salsa(
            *("line", self.folder / "line", "eval", "--line", self.folder / "a", self.folder / "b"),
            *(
                "--points",
                5,
                "--prompts",
                self.data / "test.jsonl",
                "--response-length",
                self.study.length,
            ),
            *("--judge", f"rm:{self.folder / 'rm'}", "--judge", GOLD, "--seed", self.seed),
            "--resume",
        )

    def output_of(self, arm: Arm, beta: float) -> Path:
        return self.folder / "runs" / f"{arm.name}-{beta:g}"

    def ppo(self, arm: Arm, beta: float) -> Command:
        plan = self.study.plan
        references = [word for name in arm.ref for word in ("--ref", self.folder / name)]
        return salsa(
            *(
                "ppo",
                self.output_of(arm, beta),
                "ppo",
                *references,
                "--policy",
                self.folder / arm.policy,
            ),
            *("--reward", self.folder / "rm", "--prompts", self.data / "prompts.jsonl"),
            *("--kl-coef", beta, *arm.options, "--critic", "reward", "--resume"),
            *("--updates", plan.updates, "--batch-size", plan.batch_size),
            *("--response-length", self.study.length, "--epochs", 2, "--seed", self.seed),
            *("--learning-rate", plan.learning_rate, "--lambda", 1),
            *("--critic-learning-rate", plan.critic_learning_rate),
            *("--schedule", "constant", "--anchor-every", 0, "--save-every", plan.updates),
            *("--eval-prompts", self.data / "tune.jsonl", "--eval-every", plan.updates),
        )


def judged(place: Path, condition: Condition) -> dict[str, object]:
    """What PLAN.md measures on an SFT pair, and whether the pair is admitted."""
    probe = json.loads((place / "probe" / "probe.json").read_text())
    results = json.loads((place / "gold" / "results.json").read_text())
    gold = {row["model"]: row["score"] for row in results["scores"] if row["judge"] == GOLD}
    a, b, soup = (gold[name] for name in ("a", "b", "soup"))
    kl = next(row["kl"] for row in results["kl"] if row["model"] == "a")
    barrier, gain = probe["barrier"], soup - max(a, b)
    return {
        "pair": str(place.name),
        "barrier": barrier,
        "kl": kl,
        "gold": {"a": a, "b": b, "soup": soup},
        "gain": gain,
        "admitted": condition.admits(barrier, kl, gain),
    }


def begin(study: Study, given: argparse.Namespace) -> None:
    """Make the prompts and record what the study is of, or check that it is still the same.

    Raises:
        Failed: the prompts could not be made.
    """
    now = settings(study.base, study.plan, given)
    record = study.root / "study.json"
    if record.exists():
        then = json.loads(record.read_text(encoding="utf-8"))
        changed = [
            f"{name}: {then[name]} there, {now[name]} here"
            for name in now
            if then[name] != now[name]
        ]
        if changed:
            sys.exit(
                f"error: {study.root} is another study ({'; '.join(changed)}); choose another "
                "folder with -o"
            )
    study.run(world(study.base, given, study.root))
    write(record, now)


def settings(base: str, plan: Plan, given: argparse.Namespace) -> dict[str, object]:
    """What the commands of a study depend on, as JSON reads it; more seeds only add commands."""
    found: dict[str, object] = {"base": base}
    for name in ("train", "heldout"):
        with getattr(given, name).open("rb") as stories:
            found[name] = f"sha256 {hashlib.file_digest(stories, 'sha256').hexdigest()[:16]}"
    found["arms"] = [arm.name for arm in plan.arms]
    found["coefficients"] = list(plan.coefficients)
    found["SFT learning rates"] = [one.learning_rate for one in plan.conditions]
    names = ("pairs", "updates", "batch_size", "best_of", "learning_rate", "critic_learning_rate")
    return found | {name: getattr(plan, name) for name in names}


def measured(pair: dict[str, object]) -> str:
    """The measures of `judged` in words."""
    return (
        f"gain in gold {pair['gain']:+.3f}, barrier {pair['barrier']:+.3f} nats per token, "
        f"KL(A to soup) {pair['kl']:.2f} nats per answer"
    )


def world(base: str, given: argparse.Namespace, root: Path) -> Command:
    words = [sys.executable, HERE / "world.py", base, "--train", given.train]
    words += ["--heldout", given.heldout, "-o", root / "world"]
    return Command("world", root / "world", tuple(map(str, words)), atomic=False)


def file(text: str) -> Path:
    """The path of a file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return Path(text)


def model(text: str) -> str:
    """The whole path of a model's folder, or a hub id."""
    if Path(text).is_dir():
        return str(Path(text).resolve())
    if text.startswith((".", "/")) or text.count("/") > 1:
        raise argparse.ArgumentTypeError(f"no such folder: {text}")
    return text


def count(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, found {text}")
    return int(text)


def factor(text: str) -> float:
    """A finite number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=model, help="folder or hub id of the base model")
    parser.add_argument("--train", type=file, required=True, help='stories, {"text"} rows')
    parser.add_argument("--heldout", type=file, required=True, help="stories held out")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--jobs", type=count, default=os.cpu_count(), help="commands at a time")
    parser.add_argument("--seeds", type=count, help="pipelines per condition")
    parser.add_argument(
        "--learning-rate-factor",
        type=factor,
        default=1.0,
        metavar="FACTOR",
        help="multiplies the learning rates of SFT and PPO; choose less than 1 for a base whose "
        "soups are worse than their SFT models, or whose runs warn of a kl-jump (default: 1)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="1 pipeline per condition, short runs")
    size.add_argument("--scale", action="store_true", help="PPO and SALSA alone, 3 pipelines")
    given = parser.parse_args()
    root = given.output.resolve()
    plan = plan_of(given)
    try:
        study = Study(root, given.base, plan, given.jobs, commands_of(plan))
    except OSError as error:
        sys.exit(f"error: {error}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stopped)
    pipelines = [
        Pipeline(study, condition, seed)
        for seed in plan.pipeline_seeds
        for condition in plan.conditions
    ]
    try:
        begin(study, given)
    except Failed:
        sys.exit(1)
    failed = run_all(study, pipelines)
    for kind, times in study.warnings.items():
        print(f"warnings in study/logs: {times} x {kind}")
    for one in failed:
        print(
            f"error: {one.name}: not finished; run the same command to try again", file=sys.stderr
        )
    print(f"python {HERE / 'analysis.py'} {root} prints the tables of what is done")
    sys.exit(bool(failed))


def stopped(number: int, _: object) -> None:
    """End the study for a signal."""
    print("stopping; run the same command to continue", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def run_all(study: Study, pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """Run the primary arms of all pipelines, then the others; returns those that failed."""
    with ThreadPoolExecutor(study.jobs) as pool:
        try:
            failed = failures({one: pool.submit(one.primary) for one in pipelines})
            with_others = study.plan.pipeline_seeds[: study.plan.secondary_seeds]
            rest = [one for one in pipelines if one.seed in with_others]
            pending = {one: pool.submit(one.secondary) for one in rest if one not in failed}
            return failed + failures(pending)
        except BaseException:
            study.stop()
            pool.shutdown(cancel_futures=True)
            raise


def failures(pending: dict[Pipeline, Future[None]]) -> list[Pipeline]:
    """Those that failed, when all are done; other errors are raised."""
    found = []
    for one, done in pending.items():
        try:
            done.result()
        except Failed:
            found.append(one)
    return found


if __name__ == "__main__":
    main()
