"""Plan a soup: find and compare the ingredients, and decide how each tensor is computed."""

from pathlib import Path

from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import UsageError
from salsa_cli.records import read_json
from salsa_cli.runs.events import Note, Report
from salsa_cli.soups import adapter_planning
from salsa_cli.soups.block_average import WeightedAverage
from salsa_cli.soups.plan import (
    SoupPlan,
    check_allowed,
    choose_tokenizer,
    plan_shards,
    refuse,
    warn,
    with_dtype,
    without_scale,
)
from salsa_cli.weights import compatibility, folders, shared_tensors, tied_embeddings, weight_files
from salsa_cli.weights.quantization import refuse_quantised


def prepare(config: SoupConfig, report: Report) -> SoupPlan:
    """Find the ingredients, and refuse with all reasons at once what cannot be averaged.

    Raises:
        SalsaError: an ingredient cannot be read, or they do not fit together.
        UsageError: models and adapters are mixed, or an option is given that is only for adapters.
    """
    paths = tuple(folders.resolve_any(model) for model in config.models)
    adapters = [folders.is_adapter(path) for path in paths]
    if any(adapters) != all(adapters):
        kinds = ", ".join(
            f"{path} is {'an adapter' if adapter else 'a model'}"
            for path, adapter in zip(paths, adapters, strict=True)
        )
        raise UsageError(f"models and LoRA adapters cannot be averaged together: {kinds}")
    if all(adapters):
        return adapter_planning.plan(paths, config, report)
    for option, value in (("--merge-into", config.merge_into), ("--base", config.base)):
        if value is not None and config.probe is None:
            raise UsageError(f"{option} applies to LoRA adapters only; these are whole models")
    return _plan_models(paths, config, report)


def _plan_models(paths: tuple[Path, ...], config: SoupConfig, report: Report) -> SoupPlan:
    whole = tuple(weight_files.open_weight_files(path) for path in paths)
    refuse_quantised(dict(zip(paths, whole, strict=True)))
    configs = [read_json(path / "config.json") for path in paths]
    spelled = tied_embeddings.one_spelling(whole, configs)
    ingredients, notes = shared_tensors.common_tensors(spelled.models)
    differing = [
        one
        for one in compatibility.differences(paths)
        if not (spelled.settled and one.key.endswith(f".{tied_embeddings.KEY}"))
    ]
    check_allowed(differing, paths, config)
    reasons = spelled.reasons or weight_files.differences(ingredients)
    refuse(differing, reasons, "fine-tuned models of the same base", config)
    tokenizer = choose_tokenizer(paths, config, report)
    warn(differing, tokenizer, config, report)
    for note in (*spelled.notes, *notes):
        report(Note(note))
    average = WeightedAverage(
        config.models, config.mixing, config.allow_nonfinite, config.dtype != "auto"
    )
    return SoupPlan(
        folders=paths,
        ingredients=ingredients,
        streamed=ingredients,
        fill=average.fill,
        shards=plan_shards(ingredients[0], config),
        template=paths[0],
        tokenizer=tokenizer,
        config=without_scale(with_dtype(spelled.config, config), paths, config, report),
    )
