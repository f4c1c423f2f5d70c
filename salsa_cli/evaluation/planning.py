"""Resolve and check the inputs of an evaluation before anything is generated or paid for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from salsa_cli import data
from salsa_cli.config import run_names
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import UsageError
from salsa_cli.evaluation import anchors, arms, best_of, judges, landscape, names
from salsa_cli.evaluation.anchors import Anchor
from salsa_cli.evaluation.answers import Generation
from salsa_cli.evaluation.arms import Arm
from salsa_cli.evaluation.judges import JudgeSpec, prompts, writing
from salsa_cli.evaluation.judges.api import ApiWriter, Budget, Patience
from salsa_cli.evaluation.judges.prompts import JudgePrompt
from salsa_cli.evaluation.judges.writing import Forecast, JudgeSampling, JudgeTask, Writer
from salsa_cli.evaluation.questions import answer_files, benchmarks
from salsa_cli.evaluation.questions.answer_files import Replies
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.models import input_limits, parts
from salsa_cli.models.loading import find, load_tokenizer
from salsa_cli.records import JSON
from salsa_cli.reward_models import rewards
from salsa_cli.weights import folders


@dataclass(frozen=True)
class EvalPlan:
    """The resolved inputs of an evaluation.

    Attributes:
        arms: what is compared; each policy of theirs is a model.
        models: those that are run here, by name.
        given: the answers of the others.
        apis: the judges behind an API, by their name.
        judge_prompt: the wording for LLM judges.
        line: two models of the same base, or none.
        plane: three models of the same base, or none.
    """

    arms: tuple[Arm, ...]
    models: Mapping[str, Path]
    given: Mapping[str, Replies]
    judges: tuple[JudgeSpec, ...]
    apis: Mapping[str, ApiWriter]
    questions: tuple[Question, ...]
    judge_prompt: JudgePrompt
    anchors: tuple[Anchor, ...]
    line: tuple[Path, ...]
    plane: tuple[Path, ...]

    @property
    def read(self) -> tuple[Path, ...]:
        """Every model folder that is read."""
        judges = (Path(judge.source) for judge in self.judges)
        return (*self.models.values(), *self.anchor_folders, *self.line, *self.plane, *judges)

    @property
    def anchor_folders(self) -> tuple[Path, ...]:
        """The folders of all anchors, each once."""
        found = (folder for anchor in self.anchors for folder in anchor.folders.values())
        return tuple(dict.fromkeys(found))

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are compared."""
        return (*self.models, *self.given)

    def style_baseline(self, baseline: str | None) -> str | None:
        """The model whose rate is one half at equal style: the baseline's, else the last one."""
        chosen = [arm for arm in self.arms if baseline in (None, arm.name)]
        return chosen[-1].runs[0].last if chosen else None

    def pairs(self, baseline: str | None) -> list[tuple[str, str]]:
        """The models to compare head to head, those of a baseline alone if there is one."""
        return arms.pairs(self.arms, baseline)

    @property
    def turns(self) -> int:
        """Number of answers per model."""
        return sum(question.turns for question in self.questions)


def prepare(config: EvalConfig) -> EvalPlan:
    """Resolve models, answers, judges and prompts.

    Raises:
        SalsaError: something is not there, does not fit, or cannot be reached.
    """
    assert config.prompts is not None
    questions = benchmarks.load(config.prompts, config.max_prompts)
    if config.references is not None:
        questions = answer_files.with_references(questions, config.references)
    run_here = arms.parse(config.models)
    models = {name: find(source) for name, source in arms.by_name(run_here).items()}
    given = _given(config.answers, questions, [*models, *(arm.name for arm in run_here)])
    compared = (*run_here, *map(arms.of_answers, given))
    _check_baseline(config.baseline, compared)
    specs = _judges(config, len(compared))
    budget = Budget(config.max_calls)
    plan = EvalPlan(
        compared,
        models,
        given,
        specs,
        {spec.name: _api(spec, budget, config) for spec in specs if spec.kind == "openai"},
        tuple(questions),
        prompts.load(config.grading, config.judge_prompt),
        anchors=anchors.parse(config.anchors, run_here, models),
        line=_of_one_base(config.line or ()),
        plane=_of_one_base(config.plane or ()),
    )
    _check_prompts(plan, config)
    best_of.check(config, tuple(models), specs, questions, generation(config))
    if config.cache is not None:
        _check_cache(config.cache)
    for api in plan.apis.values():
        api.check()
    return plan


def _check_prompts(plan: EvalPlan, config: EvalConfig) -> None:
    """Refuse questions that a model or a reward model cannot read to their last turn."""
    asked = [one.conversation([""] * len(one.followups)) for one in plan.questions]
    lengths = [one.turns * (config.response_length or one.length) for one in plan.questions]
    longest = max(lengths) if plan.models else 0
    for folder in plan.models.values():
        tokenizer = load_tokenizer(folder)
        input_limits.check_prompts(folder, tokenizer, asked, str(config.prompts), longest)
    for judge in plan.judges:
        if judge.kind == "rm":
            for folder in rewards.models_of(judge.source):
                parts.check_reward_model(folder)
            rewards.check_prompts(judge.source, asked, str(config.prompts), longest)


def warnings(plan: EvalPlan, config: EvalConfig) -> list[str]:
    """What is probably unintended: answers that are longer or shorter than in training."""
    return arms.trained_with_other_lengths(plan.arms, _answer_limit(plan, config))


def _answer_limit(plan: EvalPlan, config: EvalConfig) -> int:
    """The most tokens that an answer may have."""
    return config.response_length or max(one.length for one in plan.questions)


def inputs(plan: EvalPlan, config: EvalConfig) -> dict[str, JSON]:
    """The inputs with their digests, for salsa.json."""
    assert config.prompts is not None
    return {
        "models": {name: folders.describe(model) for name, model in plan.models.items()},
        "answers": {
            str(name): folders.describe_files(file, data.local_files(file))
            for name, file in map(run_names.split, config.answers)
        },
        "judges": [_description(judge) for judge in plan.judges],
        "prompts": folders.describe_files(config.prompts, data.local_files(config.prompts)),
        "landscape": [
            folders.describe(path) for path in (*plan.anchor_folders, *plan.line, *plan.plane)
        ],
    }


def generation(config: EvalConfig) -> Generation:
    """How the models answer."""
    return Generation(
        seed=config.seed,
        batch_size=config.batch_size,
        length=config.response_length,
        temperature=config.temperature,
    )


def sampling(config: EvalConfig) -> JudgeSampling:
    """Sampling settings of LLM judges."""
    temperature = None if config.judge_temperature == "none" else config.judge_temperature
    return JudgeSampling(temperature, config.judge_tokens, config.seed)


def store(folder: Path, config: EvalConfig) -> Path:
    """The file that stores judgements, for an evaluation that works in `folder`."""
    return config.cache or folder / "judge_texts.jsonl"


def tasks(
    writer: Writer, plan: EvalPlan, answered: Mapping[str, Replies], config: EvalConfig
) -> list[JudgeTask]:
    """Everything to ask an LLM judge."""
    return writing.tasks(
        writer,
        plan.questions,
        answered,
        plan.judge_prompt,
        sampling(config),
        grading=config.grading,
        orders=("ab", "ba") if config.orders == "both" else ("ab",),
        pairs=plan.pairs(config.baseline),
    )


def forecast(name: str, asked: Sequence[JudgeTask], store: Path, config: EvalConfig) -> Forecast:
    """Calls and tokens that an LLM judge will need, given the judgements in `store`."""
    price = (config.price[0], config.price[1]) if config.price else None
    return writing.forecast(
        name, asked, writing.read_store(store, config.judge_tokens), sampling(config), price
    )


def with_larger_limit(settings: Mapping[str, JSON], config: EvalConfig) -> dict[str, JSON]:
    """Earlier settings, with the `--judge-tokens` of now if it is larger.

    A larger limit changes no judgement that ended under the smaller one.
    """
    before = settings.get("judge_tokens")
    larger = isinstance(before, int) and before < config.judge_tokens
    return {**settings, "judge_tokens": config.judge_tokens} if larger else dict(settings)


def _check_baseline(baseline: str | None, compared: Sequence[Arm]) -> None:
    known = [arm.name for arm in compared]
    if baseline is not None and baseline not in known:
        raise UsageError(
            f"--baseline {baseline}: no such model; expected one of {', '.join(known)}"
        )


def _given(
    given: Sequence[str], questions: Sequence[Question], taken: Sequence[str]
) -> dict[str, Replies]:
    found: dict[str, Replies] = {}
    for one in given:
        name, file = run_names.split(one)
        if name is None:
            raise UsageError(f"--answers {one}: expected NAME=FILE")
        if name in taken or name in found:
            other = names.free_name(name, [*taken, *found])
            raise UsageError(
                f"two models are called '{name}'; choose another NAME for one of them, for example "
                f"--answers {other}={file}"
            )
        found[name] = answer_files.read(file, questions, f"--answers {name}={file}")
    return found


def _judges(config: EvalConfig, models: int) -> tuple[JudgeSpec, ...]:
    """Parse the judges, and check that they fit the other settings."""
    specs = tuple(judges.parse(name) for name in config.judge)
    if twice := [spec.name for spec in specs if specs.count(spec) > 1]:
        raise UsageError(f"--judge {twice[0]} is given twice")
    writing = [spec for spec in specs if not spec.scores]
    if (config.line or config.plane) and len(writing) == len(specs):
        raise UsageError(
            "--line and --plane need a judge that returns scores: rm:MODEL or python:..."
        )
    if writing and config.grading == "pairwise" and models < 2:
        raise UsageError(
            f"--judge {writing[0].name} compares two models; found {models}. "
            "--grading single grades each model alone"
        )
    _refuse_useless(config, specs)
    return specs


def _refuse_useless(config: EvalConfig, specs: Sequence[JudgeSpec]) -> None:
    """Refuse options that would have no effect, or that a judge cannot follow."""
    if config.judge_temperature == "none" and any(spec.kind == "hf" for spec in specs):
        raise UsageError("--judge-temperature none is for API servers; an hf: judge needs a number")
    of_api = {
        "--base-url": config.base_url,
        "--max-calls": config.max_calls,
    }
    of_writing = {
        "--judge-prompt": config.judge_prompt,
        "--references": config.references,
        "--price": config.price,
        "--cache": config.cache,
    }
    for options, kinds, words in (
        (of_api, {"openai"}, "an openai: judge"),
        (of_writing, {"openai", "hf"}, "an openai: or hf: judge"),
    ):
        useless = [name for name, value in options.items() if value is not None]
        if useless and not any(spec.kind in kinds for spec in specs):
            raise UsageError(f"{', '.join(useless)} has no effect without {words}")


def _check_cache(file: Path) -> None:
    """Check before the first answer that judgements can be stored in `--cache`."""
    if file.is_dir():
        raise UsageError(f"--cache {file} is a folder; expected a file of judgements")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--cache {file}: {file.parent} is not a folder; create it first")
    writing.read_store(file)


def _of_one_base(given: Sequence[str]) -> tuple[Path, ...]:
    paths = tuple(folders.resolve(name) for name in given)
    if paths:
        landscape.check(paths)
    return paths


def _api(spec: JudgeSpec, budget: Budget, config: EvalConfig) -> ApiWriter:
    return ApiWriter(
        spec.name,
        spec.source,
        config.base_url,
        concurrency=config.concurrency,
        patience=Patience(tries=config.tries, timeout=config.timeout),
        budget=budget,
    )


def _description(judge: JudgeSpec) -> JSON:
    if judge.kind in ("python", "openai"):
        return judge.name
    return folders.describe(Path(judge.source))
