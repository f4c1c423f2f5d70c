"""The settings of `salsa eval`, and which of them contradict each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from salsa_cli.config.base import ModelConfig, Setting
from salsa_cli.errors import UsageError

BENCHMARKS = ("mt-bench", "arena-hard", "arena-hard-v0.1", "arena-hard-v2.0", "ultrafeedback")
"""Names of prompts on the hub."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(ModelConfig):
    """`salsa eval`."""

    models: Annotated[
        tuple[str, ...],
        Setting(
            "Models to compare: folders, hub ids, or NAME=MODEL; NAME=RUN,RUN,... for runs that "
            "differ in their seed; RUN@20, RUN@best or RUN@all for snapshots of a run. Without "
            "--prompts and --judge: runs of salsa ppo, whose logged curves are compared.",
            positional=True,
            metavar="MODEL...",
            names="arm",
        ),
    ] = ()
    prompts: Annotated[
        str | None,
        Setting(
            "Prompts: a file, a folder, a hub id, or - for JSON lines from stdin; or "
            "mt-bench, arena-hard (v0.1), arena-hard-v2.0, ultrafeedback from the hub.",
            values=BENCHMARKS,
            metavar="DATA",
            essential=True,
            names="prompts",
        ),
    ] = None
    judge: Annotated[
        tuple[str, ...],
        Setting(
            "rm:MODEL, openai:MODEL, hf:MODEL or python:FILE.py:FUNCTION.",
            metavar="JUDGE",
            essential=True,
            names="judge",
        ),
    ] = ()
    judgments: Annotated[
        tuple[str, ...],
        Setting(
            "Count stored verdicts instead of judging: a file or folder of FastChat, Arena-Hard, "
            "LLMBar, PandaLM, AlpacaEval (without its length-controlled rate), JudgeBench, "
            "RewardBench, evalscope or salsa.",
            metavar="FILE",
            essential=True,
            names="data",
        ),
    ] = ()
    columns: Annotated[
        tuple[str, ...],
        Setting(
            "Columns of --judgments files in another format: a, b and outcome, or a and score_a; "
            "optionally question, judge, turn, category.",
            metavar="a=COLUMN,...",
        ),
    ] = ()
    answers: Annotated[
        tuple[str, ...],
        Setting(
            "Existing answers of a model, in the format of salsa, FastChat or Arena-Hard. With "
            "--judgments: for win rates at equal length and style; also a "
            "folder.",
            metavar="NAME=FILE",
            names="answers",
            essential=True,
        ),
    ] = ()
    references: Annotated[
        str | None,
        Setting(
            "Reference answers for the judges, by question id.",
            metavar="FILE",
        ),
    ] = None
    max_prompts: Annotated[
        int | None,
        Setting(
            "Use only the first N prompts.",
            low=1,
            metavar="N",
        ),
    ] = None
    response_length: Annotated[
        int | None,
        Setting(
            "Maximum length of an answer, in tokens. Default: the benchmark's own (mt-bench "
            "1024, arena-hard 4096), else 128.",
            low=1,
            metavar="N",
            panel="Generation",
            essential=True,
        ),
    ] = None
    temperature: Annotated[
        float | None,
        Setting(
            "Sampling temperature; 0: greedy decoding. Default: the benchmark's own "
            "(mt-bench by category, arena-hard 0), else 1.",
            low=0,
            metavar="X",
            panel="Generation",
        ),
    ] = None
    batch_size: Annotated[
        int,
        Setting(
            "Number of answers to generate or judge at once.",
            low=1,
            metavar="N",
            panel="Generation",
            changes_result=False,
        ),
    ] = 64
    grading: Annotated[
        Literal["pairwise", "single"],
        Setting(
            "Whether openai: and hf: judges compare two answers or grade each alone.",
            panel="Judges",
        ),
    ] = "pairwise"
    orders: Annotated[
        Literal["both", "given"],
        Setting(
            "Order in which a judge sees the two answers: both, or only as given.",
            panel="Judges",
        ),
    ] = "both"
    judge_prompt: Annotated[
        str | None,
        Setting(
            "Wording for openai: and hf: judges: fastchat, arena-hard-v0.1:PATH, "
            "arena-hard-v2.0:PATH (a clone of arena-hard-auto); or a file with {question}, "
            "{answer_a} and {answer_b} (single: {answer}), and optionally {reference}.",
            metavar="NAME|FILE",
            panel="Judges",
        ),
    ] = None
    judge_temperature: Annotated[
        float | Literal["none"],
        Setting(
            "Sampling temperature of these judges; none: send none, for models that refuse it.",
            low=0,
            metavar="X",
            panel="Judges",
        ),
    ] = 0.0
    judge_tokens: Annotated[
        int,
        Setting(
            "Maximum length of a judgement, in tokens.",
            low=1,
            metavar="N",
            panel="Judges",
        ),
    ] = 2048
    max_invalid: Annotated[
        float | None,
        Setting(
            "Fail if a larger share of a pair's judgements is invalid. Default: 0.05, and 1 "
            "for stored verdicts.",
            low=0,
            high=1,
            metavar="X",
            panel="Judges",
            changes_result=False,
        ),
    ] = None
    base_url: Annotated[
        str | None,
        Setting(
            "OpenAI-compatible server of openai: judges; its key, if any, is read from "
            "OPENAI_API_KEY.",
            metavar="URL",
            panel="API",
            essential=True,
        ),
    ] = None
    max_calls: Annotated[
        int | None,
        Setting(
            "Maximum number of API calls; if more are forecast, the command stops before "
            "the first one.",
            low=0,
            metavar="N",
            recorded=False,
            changes_result=False,
            panel="API",
        ),
    ] = None
    price: Annotated[
        tuple[float, ...] | None,
        Setting(
            "Dollars per million input and output tokens, for the forecast.",
            low=0,
            metavar="IN,OUT",
            recorded=False,
            changes_result=False,
            panel="API",
        ),
    ] = None
    concurrency: Annotated[
        int,
        Setting(
            "Number of simultaneous API calls.",
            low=1,
            metavar="N",
            recorded=False,
            changes_result=False,
            panel="API",
        ),
    ] = 8
    tries: Annotated[
        int,
        Setting(
            "Attempts per judgement if the API fails, including the first.",
            low=1,
            metavar="N",
            recorded=False,
            changes_result=False,
            panel="API",
        ),
    ] = 6
    timeout: Annotated[
        float,
        Setting(
            "Timeout of an API call, in seconds.",
            above=0,
            metavar="X",
            recorded=False,
            changes_result=False,
            panel="API",
        ),
    ] = 120.0
    cache: Annotated[
        Path | None,
        Setting(
            "File of judgements to reuse and extend, which runs may share. Default: a file "
            "in OUTPUT.",
            metavar="FILE",
            changes_result=False,
            panel="Judges",
        ),
    ] = None
    baseline: Annotated[
        str | None,
        Setting(
            "Model to compare all others with; no other pairs are compared. Default for "
            "Arena-Hard v0.1 files: gpt-4-0314.",
            metavar="NAME",
            panel="Statistics",
            essential=True,
        ),
    ] = None
    by_judge: Annotated[
        bool,
        Setting(
            "Count every judge separately. By default, more than 10 judges are counted together.",
            panel="Statistics",
        ),
    ] = False
    rule: Annotated[
        Literal["half", "both-agree"],
        Setting(
            "half: mean over both orders, ties count as half. both-agree: a win only if "
            "both orders agree, else a tie (FastChat).",
            panel="Statistics",
        ),
    ] = "half"
    failed: Annotated[
        Literal["drop", "tie"],
        Setting(
            "How to count comparisons without a valid verdict: drop them, or count them as ties.",
            panel="Statistics",
        ),
    ] = "drop"
    anchors: Annotated[
        tuple[str, ...],
        Setting(
            "Models to measure the KL of each model to, on its own answers, at temperature 1; "
            "@start and @ref: each run's own start and reference.",
            metavar="A,B,...",
            panel="Landscape",
            essential=True,
        ),
    ] = ()
    line: Annotated[
        tuple[str, str] | None,
        Setting(
            "Mean reward of soups along the line from A to B; they are averaged in memory.",
            metavar="A B",
            panel="Landscape",
        ),
    ] = None
    plane: Annotated[
        tuple[str, str, str] | None,
        Setting(
            "Mean reward of soups in the triangle of three models.",
            metavar="A B C",
            panel="Landscape",
        ),
    ] = None
    points: Annotated[
        int | None,
        Setting(
            "Number of soups on the line, or on each edge of the triangle. Default: 11 and 5.",
            low=2,
            metavar="N",
            panel="Landscape",
        ),
    ] = None
    best_of: Annotated[
        int | None,
        Setting(
            "Estimate the score of the best of 1 ... N answers of a model, a baseline without "
            "training. The first judge that scores (rm:, python:) chooses the best; all of them "
            "score it.",
            low=2,
            high=1024,
            metavar="N",
            panel="Best of N",
        ),
    ] = None
    best_of_models: Annotated[
        tuple[str, ...],
        Setting(
            "Models whose best of N is estimated. Default: all MODELs.",
            metavar="NAME",
            panel="Best of N",
        ),
    ] = ()
    samples_per_prompt: Annotated[
        int | None,
        Setting(
            "Answers per prompt from which the best of N is estimated, at least N. Default: 4 N.",
            low=2,
            metavar="M",
            panel="Best of N",
        ),
    ] = None
    fail_under: Annotated[
        float | None,
        Setting(
            "Exit with code 3 if the lower end of the interval of the first pair's win rate is "
            "below X. The first pair is the first model against the second, or against --baseline, "
            "by the first judge. All results are written.",
            low=0,
            high=1,
            metavar="X",
            recorded=False,
            changes_result=False,
            panel="Statistics",
        ),
    ] = None
    draws: Annotated[
        int,
        Setting(
            "Number of bootstrap draws over the prompts.",
            low=100,
            metavar="N",
            panel="Statistics",
        ),
    ] = 10_000

    @classmethod
    def idle(cls, values: Mapping[str, object]) -> tuple[frozenset[str], str]:
        """Judges where stored verdicts are counted."""
        if not values.get("judgments"):
            return frozenset(), ""
        return frozenset({"models", "judge"}), "with --judgments"

    def __post_init__(self) -> None:
        super().__post_init__()
        judging = {"MODEL": self.models, "--prompts": self.prompts, "--judge": self.judge}
        if self.columns and not self.judgments:
            raise UsageError("--columns has no effect without --judgments")
        if self.judgments:
            useless = [name for name, value in judging.items() if value and name != "--prompts"]
            if useless:
                raise UsageError(
                    f"--judgments counts stored verdicts; {', '.join(useless)} would have no effect"
                )
            return
        if self.compares_logs:
            return
        if self.answers or self.line or self.plane:
            del judging["MODEL"]
        missing = [name for name, value in judging.items() if not value]
        if missing:
            raise UsageError(
                f"missing {', '.join(missing)}; expected MODEL... or --answers NAME=FILE, with "
                "--prompts and --judge; --judgments for stored verdicts; or runs of salsa ppo "
                "alone, for their curves:\n"
                "  salsa eval MODEL... --prompts DATA --judge JUDGE -o FOLDER\n"
                "  salsa eval --judgments FILE -o FOLDER\n"
                "  salsa eval RUN... -o FOLDER"
            )
        if self.points is not None and self.line is None and self.plane is None:
            raise UsageError("--points has no effect without --line or --plane")
        self._check_best_of()
        if self.anchors and not self.models:
            raise UsageError("--anchors needs a MODEL whose KL it measures")
        if self.price is not None and len(self.price) != 2:
            raise UsageError(f"--price has {len(self.price)} numbers; expected IN,OUT")

    @property
    def compares_logs(self) -> bool:
        """Whether only the logs of runs are compared: there are neither prompts nor judges."""
        asked = (self.prompts, self.judge, self.judgments, self.answers, self.line, self.plane)
        return bool(self.models) and not any(asked)

    @property
    def answers_per_prompt(self) -> int:
        """How many answers to each prompt `--best-of` is estimated from; 1 without it."""
        if self.best_of is None:
            return 1
        return 4 * self.best_of if self.samples_per_prompt is None else self.samples_per_prompt

    def _check_best_of(self) -> None:
        if self.best_of is None:
            given = {
                "--best-of-models": self.best_of_models,
                "--samples-per-prompt": self.samples_per_prompt,
            }
            if useless := [name for name, value in given.items() if value]:
                raise UsageError(f"{', '.join(useless)} has no effect without --best-of")
            return
        if not self.models:
            raise UsageError("--best-of needs a MODEL that can be sampled")
        if self.answers_per_prompt < self.best_of:
            raise UsageError(
                f"--best-of {self.best_of} cannot be estimated from --samples-per-prompt "
                f"{self.samples_per_prompt}; expected at least {self.best_of}"
            )
