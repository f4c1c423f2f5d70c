"""`--dry-run`: what an evaluation would do and cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation import best_of, planning
from salsa_cli.evaluation.judges.writing import (
    BYTES_A_TOKEN,
    Completion,
    Forecast,
    JudgeSampling,
    Request,
)
from salsa_cli.evaluation.planning import EvalPlan
from salsa_cli.evaluation.questions.answer_files import Replies, Reply
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import Value


def facts(plan: EvalPlan, config: EvalConfig) -> dict[str, Value]:
    """What would be done, with calls, tokens and dollars of LLM judges.

    Raises:
        SalsaError: a judge needs more calls than `--max-calls`, as far as that is certain.
    """
    found: dict[str, Value] = {
        "models": ", ".join(plan.names),
        "judges": ", ".join(judge.name for judge in plan.judges),
        "prompts": len(plan.questions),
        "answers to generate": plan.turns * len(plan.models),
    }
    if sampled := best_of.sampled_models(config, tuple(plan.models)):
        more = config.answers_per_prompt - 1
        found["answers to sample for best of N"] = plan.turns * len(sampled) * more
    forecasts = _forecasts(plan, config)
    if not forecasts:
        return found
    found["judgements to request"] = sum(one.calls for one in forecasts)
    found["judgements stored"] = sum(one.stored for one in forecasts)
    paid = [one for one in forecasts if one.judge in plan.apis]
    if paid:
        found["API calls"] = sum(one.calls for one in paid)
        found["tokens in, about"] = sum(one.tokens_in for one in paid)
        found["tokens out, at most"] = sum(one.tokens_out for one in paid)
        costs = [one.cost for one in paid if one.cost is not None]
        if costs:
            found["dollars, about"] = round(sum(costs), 2)
        found |= _too_long(plan, config)
        found["estimate"] = _words(plan, config)
    return found


def _forecasts(plan: EvalPlan, config: EvalConfig) -> list[Forecast]:
    store = planning.store(run_folder.partial_folder(config.output), config)
    answered = _answered(plan, config)
    found = []
    for spec in plan.judges:
        if not spec.scores:
            writer = plan.apis.get(spec.name) or _Named(spec.name)
            asked = planning.tasks(writer, plan, answered, config)
            found.append(planning.forecast(spec.name, asked, store, config))
            if spec.name in plan.apis and not plan.models:
                plan.apis[spec.name].check_budget(found[-1].calls)
    return found


def _too_long(plan: EvalPlan, config: EvalConfig) -> dict[str, Value]:
    """How many prompts do not fit the context of an API judge that says how long it is."""
    found: dict[str, Value] = {}
    for name, api in plan.apis.items():
        if api.context is None:
            continue
        room = (api.context - config.judge_tokens) * BYTES_A_TOKEN
        tasks = planning.tasks(api, plan, _answered(plan, config), config)
        requests = [task.request for task in tasks if task.request is not None]
        long = sum(len(f"{one.system or ''}{one.text}".encode()) > room for one in requests)
        if long:
            found[f"too long for {name} (context {api.context:,} tokens), about"] = long
    return found


def _answered(plan: EvalPlan, config: EvalConfig) -> dict[str, Replies]:
    return {**{name: _longest(name, plan, config) for name in plan.models}, **plan.given}


def _longest(name: str, plan: EvalPlan, config: EvalConfig) -> Replies:
    """Placeholder answers of maximum length for a model whose answers are not generated yet."""
    replies = {}
    for question in plan.questions:
        size = BYTES_A_TOKEN * (config.response_length or question.length)
        # Each placeholder is unique: equal answers would tie without a call.
        words = f"{name} {question.id} {question.copy} "
        text = (words * (size // len(words) + 1))[: max(size, len(words))]
        replies[question.id] = (Reply(text),) * question.turns
    return replies


def _words(plan: EvalPlan, config: EvalConfig) -> str:
    parts = [f"{BYTES_A_TOKEN} bytes a token", f"judgements of {config.judge_tokens} tokens each"]
    if plan.models:
        parts.append("answers still to be generated at their maximum length")
    return ", ".join(parts)


@dataclass(frozen=True)
class _Named:
    """A local judge before it is loaded; its stored judgements are not known yet."""

    name: str

    @property
    def identity(self) -> str:
        """Its name; no stored judgement has this key."""
        return self.name

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        """Never called in a dry run."""
        raise NotImplementedError
