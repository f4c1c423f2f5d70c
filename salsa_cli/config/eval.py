"""The settings of `salsa eval`, and which of them contradict each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from salsa_cli.config.base import ModelConfig, Setting
from salsa_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EvalConfig(ModelConfig):
    """`salsa eval`."""

    models: Annotated[
        tuple[str, ...],
        Setting(
            "Models to compare: folders, hub ids, or NAME=MODEL.",
            positional=True,
            metavar="MODEL...",
        ),
    ] = ()
    prompts: Annotated[
        str | None,
        Setting(
            "Prompts: a file, a folder or a hub id; or mt-bench, arena-hard (v0.1), "
            "arena-hard-v2.0, ultrafeedback from the hub.",
            metavar="DATA",
        ),
    ] = None
    judge: Annotated[
        tuple[str, ...],
        Setting(
            "rm:MODEL, openai:MODEL, hf:MODEL or python:FILE.py:FUNCTION. Repeatable.",
            metavar="JUDGE",
        ),
    ] = ()
    judgments: Annotated[
        tuple[str, ...],
        Setting(
            "Count stored verdicts instead of judging: a file or folder of FastChat, Arena-Hard, "
            "LLMBar, PandaLM, AlpacaEval, JudgeBench, RewardBench, evalscope or salsa. Repeatable.",
            metavar="FILE",
        ),
    ] = ()
    columns: Annotated[
        tuple[str, ...],
        Setting(
            "What the columns of --judgments are in a file of another format: a, b and outcome, or "
            "a and score_a; and perhaps question, judge, turn, category. Repeatable.",
            metavar="a=COLUMN,...",
        ),
    ] = ()
    answers: Annotated[
        tuple[str, ...],
        Setting(
            "Answers of a model that is not run here: salsa's rows, FastChat's or Arena-Hard's. "
            "With --judgments: for win rates at equal length and style; also a folder. Repeatable.",
            metavar="NAME=FILE",
        ),
    ] = ()
    references: Annotated[
        str | None, Setting("Reference answers for the judges, by question id.", metavar="FILE")
    ] = None
    max_prompts: Annotated[
        int | None, Setting("Use the first N prompts only.", low=1, metavar="N")
    ] = None
    response_length: Annotated[
        int | None,
        Setting(
            "Longest answer, in tokens. By default the benchmark's own (mt-bench 1024, arena-hard "
            "4096), or 128.",
            low=1,
            metavar="N",
            panel="Generation",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        Setting(
            "Sampling temperature; 0 takes the likeliest token. By default the benchmark's own "
            "(mt-bench: by category; arena-hard: 0), or 1.",
            low=0,
            metavar="X",
            panel="Generation",
        ),
    ] = None
    batch_size: Annotated[
        int,
        Setting(
            "Answers generated or judged at a time.",
            low=1,
            metavar="N",
            panel="Generation",
            changes_result=False,
        ),
    ] = 64
    grading: Annotated[
        Literal["pairwise", "single"],
        Setting("What openai: and hf: judges do: compare answers, or grade each.", panel="Judges"),
    ] = "pairwise"
    orders: Annotated[
        Literal["both", "given"],
        Setting("In which orders a pair is shown to a judge that compares.", panel="Judges"),
    ] = "both"
    judge_prompt: Annotated[
        Path | None,
        Setting(
            "What to ask such a judge, with {question}, {answer_a} and {answer_b} (single: "
            "{answer}), and perhaps {reference}.",
            metavar="FILE",
            panel="Judges",
        ),
    ] = None
    judge_temperature: Annotated[
        float, Setting("Its sampling temperature.", low=0, metavar="X", panel="Judges")
    ] = 0.0
    judge_tokens: Annotated[
        int, Setting("Longest judgement, in tokens.", low=1, metavar="N", panel="Judges")
    ] = 2048
    max_invalid: Annotated[
        float | None,
        Setting(
            "Share of a pair's judgements that may be invalid before the command fails. By default "
            "0.05, and for stored verdicts 1.",
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
            "OpenAI-compatible server of the openai: judges; OPENAI_API_KEY has its key, if it "
            "needs one.",
            metavar="URL",
            panel="API",
        ),
    ] = None
    max_calls: Annotated[
        int | None,
        Setting(
            "Most calls of the API; a forecast above it ends the command before the first.",
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
            "Dollars per million tokens in and out, for the forecast.",
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
            "Calls under way at once.",
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
            "Calls for one judgement when the API fails, the first one counted.",
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
            "Seconds to wait for one call.",
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
            "File of judgements to reuse and to add to, shared between runs. By default they are "
            "kept in OUTPUT.",
            metavar="FILE",
            recorded=False,
            changes_result=False,
            panel="Judges",
        ),
    ] = None
    baseline: Annotated[
        str | None,
        Setting(
            "Model that stands second in its pairs; openai: and hf: judges compare no others. "
            "Arena-Hard v0.1 files do not name theirs: gpt-4-0314 by default.",
            metavar="NAME",
            panel="Statistics",
        ),
    ] = None
    rule: Annotated[
        Literal["half", "both-agree"],
        Setting(
            "half: the mean over both orders, ties as half. both-agree: a win only where both "
            "orders say so, else a tie (FastChat).",
            panel="Statistics",
        ),
    ] = "half"
    failed: Annotated[
        Literal["drop", "tie"],
        Setting("What a comparison without a valid verdict counts as.", panel="Statistics"),
    ] = "drop"
    anchors: Annotated[
        tuple[str, ...],
        Setting(
            "Models to measure each model's KL to, from its own answers.",
            metavar="A,B,...",
            panel="Landscape",
        ),
    ] = ()
    line: Annotated[
        tuple[str, str] | None,
        Setting(
            "Mean reward of the soups on the line from A to B, averaged in memory.",
            metavar="A B",
            panel="Landscape",
        ),
    ] = None
    plane: Annotated[
        tuple[str, str, str] | None,
        Setting(
            "Mean reward of the soups in the triangle of three models.",
            metavar="A B C",
            panel="Landscape",
        ),
    ] = None
    points: Annotated[
        int | None,
        Setting(
            "Soups on the line, or on each edge of the triangle. By default 11 and 5.",
            low=2,
            metavar="N",
            panel="Landscape",
        ),
    ] = None
    draws: Annotated[
        int, Setting("Bootstrap draws over the prompts.", low=100, metavar="N", panel="Statistics")
    ] = 10_000
    SAYS: ClassVar[Mapping[str, str]] = {"seed": "Seed of sampling and of the bootstrap."}

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
        if self.answers or self.line or self.plane:
            del judging["MODEL"]
        missing = [name for name, value in judging.items() if not value]
        if missing:
            raise UsageError(
                f"missing {', '.join(missing)}; expected MODEL... or --answers NAME=FILE, with "
                "--prompts and --judge; or --judgments for stored verdicts"
            )
        if self.points is not None and self.line is None and self.plane is None:
            raise UsageError("--points has no effect without --line or --plane")
        if self.anchors and not self.models:
            raise UsageError("--anchors needs a MODEL whose KL it measures")
        if self.price is not None and len(self.price) != 2:
            raise UsageError(f"--price has {len(self.price)} numbers; expected IN,OUT")
