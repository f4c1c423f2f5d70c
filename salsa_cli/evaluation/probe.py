"""`salsa soup --probe`: whether two models can be averaged, and whether that changes anything.

The line between two models is measured before a soup of them is written: the likelihood of held-out
text along it (linear mode connectivity: Frankle et al. 2020), the KL from each model to the soups,
and the distances of the weights.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from salsa_cli import data
from salsa_cli.config.soup import SoupConfig
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import UsageError, one_line
from salsa_cli.evaluation import landscape, probe_texts, weight_distances
from salsa_cli.evaluation.landscape import Ingredients
from salsa_cli.evaluation.probe_result import LinePoint, ProbeResult, barrier, gain_over_best
from salsa_cli.evaluation.probe_texts import LONGEST, ProbeText
from salsa_cli.evaluation.report import probe_page
from salsa_cli.formatting import counted
from salsa_cli.maths import categorical, kl
from salsa_cli.models import loading, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.lm_head import Module
from salsa_cli.records import JSON, write_json
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import Advanced, Note, Report, Result, Working
from salsa_cli.soups import model_planning
from salsa_cli.soups.plan import SoupPlan
from salsa_cli.weights import folders, weight_files

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
RECORD = "salsa.json"
_POSITIONS = 256  # whose distributions over the vocabulary are held in float32 at a time


@dataclass(frozen=True)
class LineSums:
    """Sums over the tokens of each text: the soup's likelihood, and a KL to it, in nats."""

    nll: tuple[float, ...]
    kl: tuple[float, ...]


def run(config: SoupConfig, report: Report) -> Result:
    """Measure the line between two models; write a report if `config.output` names a folder."""
    began = time.monotonic()
    assert config.probe is not None  # what the command line has looked at
    writes = config.output != Path()
    if writes:
        run_folder.check_output(config.output, config.force)
    source = data.read(config.probe)
    plan = _plan(config, report)
    runtime = start_runtime("auto")
    ingredients = landscape.load(plan.folders, runtime)
    found = probe_texts.read(source, ingredients.model.tokenizer, _longest(plan.folders))
    texts = found.texts
    report(Note(f"measuring {counted(len(texts), 'text')} at {len(ALPHAS)} points of the line"))
    base = None if config.base is None else folders.resolve(config.base)
    first, second = plan.ingredients
    groups, stored = weight_distances.distances(
        first, second, None if base is None else weight_files.open_weight_files(base)
    )
    lengths = [text.count for text in texts]
    from_a, from_b = _measure(ingredients, texts, runtime, report)
    highest, alpha, error = barrier(ALPHAS, [from_a[one].nll for one in ALPHAS], lengths)
    ends = (from_a[0.0].nll, from_a[1.0].nll)
    gain, gain_error = gain_over_best(ends, from_a[0.5].nll, lengths)
    result = ProbeResult(
        models=(config.models[0], config.models[1]),
        texts=len(texts),
        tokens=sum(lengths),
        line=tuple(_point(one, from_a[one], from_b[one], lengths) for one in ALPHAS),
        barrier=highest,
        barrier_alpha=alpha,
        barrier_error=error,
        groups=groups,
        stored=stored,
        seconds=time.monotonic() - began,
        gain=gain,
        gain_error=gain_error,
        output=str(config.output) if writes else None,
        texts_cut=found.cut,
        texts_left_out=found.left_out,
        longest=found.longest,
    )
    if writes:
        _write(config, plan, source, result)
    return result


def _plan(config: SoupConfig, report: Report) -> SoupPlan:
    """Refuse, with all reasons, models that no soup could be made of."""
    plan = model_planning.prepare(config, report)
    if plan.config_name != "config.json":
        raise UsageError(
            "--probe measures whole models, not LoRA adapters; merge each into its base first: "
            "salsa soup ADAPTER --merge-into BASE -o MERGED"
        )
    for folder in plan.folders:
        if (kind := shapes.other_kind(folder)) is not None:
            raise UsageError(
                f"--probe measures causal language models only; {folder} is a {one_line(kind)}"
            )
    return plan


def _longest(paths: Sequence[Path]) -> int:
    limits = [limit for path in paths if (limit := shapes.context_length(path)) is not None]
    return min([LONGEST, *limits])


def _measure(
    ingredients: Ingredients, texts: Sequence[ProbeText], runtime: Runtime, report: Report
) -> tuple[Mapping[float, LineSums], Mapping[float, LineSums]]:
    """For each ingredient: the soups at all alphas, and the KL from the ingredient to them.

    The stored weights of both are in memory once; of a soup and of the ingredient that it is
    compared with there is one model each, whose weights change from point to point.
    """
    report(Working("loading the models"))
    placement = Placement(runtime.frozen_dtype, runtime.device)
    model = loading.load_language_model(ingredients.template, placement)
    end = replace(ingredients, model=model)
    total = 2 * len(ALPHAS) * len(texts)
    found: list[dict[float, LineSums]] = []
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        ingredient = end.mix(weights).model
        points: dict[float, LineSums] = {}
        for alpha in ALPHAS:
            soup = ingredients.mix((1 - alpha, alpha)).model
            sums = []
            for text in texts:
                sums.append(_text_sums(ingredient, soup, text, runtime))
                done = (len(found) * len(ALPHAS) + len(points)) * len(texts) + len(sums)
                report(Advanced("probe", done, total, "texts"))
            points[alpha] = LineSums(tuple(s[0] for s in sums), tuple(s[1] for s in sums))
        found.append(points)
    return found[0], found[1]


@torch.no_grad()
def _text_sums(
    ingredient: Module, soup: Module, text: ProbeText, runtime: Runtime
) -> tuple[float, float]:
    """The soup's negative log-likelihood of a text, and the KL from an ingredient to the soup."""
    nll = divergence = 0.0
    for ours, theirs, targets in _logits(ingredient, soup, text, runtime):
        nll -= float(categorical.token_logprobs(theirs, targets, 1.0).double().sum())
        divergence += float(kl.exact(ours, theirs, 1.0).double().sum())
    return nll, divergence


def _logits(
    ingredient: Module, soup: Module, text: ProbeText, runtime: Runtime
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Logits `[1, T, V]` of both models and the tokens `[1, T]` that follow, some at a time."""
    ids = torch.tensor([text.ids], device=runtime.device)
    with runtime.autocast():
        both = [model(input_ids=ids, use_cache=False).logits for model in (ingredient, soup)]
    for first in range(text.start, len(text.ids), _POSITIONS):
        last = min(first + _POSITIONS, len(text.ids))
        yield (
            both[0][:, first - 1 : last - 1].float(),
            both[1][:, first - 1 : last - 1].float(),
            ids[:, first:last],
        )


def _point(alpha: float, a: LineSums, b: LineSums, lengths: Sequence[int]) -> LinePoint:
    tokens, texts = sum(lengths), len(lengths)
    kl_a, kl_b = max(0.0, sum(a.kl)), max(0.0, sum(b.kl))  # rounding may leave -1e-9
    return LinePoint(
        alpha, sum(a.nll) / tokens, kl_a / tokens, kl_b / tokens, kl_a / texts, kl_b / texts
    )


def _write(config: SoupConfig, plan: SoupPlan, source: data.Source, result: ProbeResult) -> None:
    """`salsa.json` and `report.html`, in a folder that appears complete."""
    models: list[JSON] = [folders.describe(path) for path in plan.folders]
    inputs: dict[str, JSON] = {
        "models": models,
        "data": folders.describe_files(source.name, data.local_files(source.name)),
    }
    with run_folder.draft(config.output, force=config.force) as folder:
        record = dict(result.record())
        made = run_folder.made_by("soup", config, inputs, result=record)
        run_folder.write_record(folder, RECORD, made)
        write_json(folder / "probe.json", record)
        probe_page.write(folder, config, result)
