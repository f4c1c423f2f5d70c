"""Plan a soup of LoRA adapters: as one adapter, or merged into their base model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError, one_line
from salsa_cli.maths.averaging import FLOATS
from salsa_cli.records import JSON, read_json
from salsa_cli.runs.events import Note, Report, Warned
from salsa_cli.soups.adapter_merge import MergedAdapters
from salsa_cli.soups.plan import (
    STORAGE_NAMES,
    SoupPlan,
    check_allowed,
    choose_tokenizer,
    plan_shards,
    refuse,
    warn,
    with_dtype,
    without_scale,
)
from salsa_cli.weights import compatibility, folders, shards, tied_embeddings, weight_files
from salsa_cli.weights.adapter_sums import SummedAdapters
from salsa_cli.weights.adapters import (
    Adapter,
    add_up,
    base_name,
    base_names,
    disagreements,
    module_of,
    open_adapter,
    without_copies,
)
from salsa_cli.weights.quantization import refuse_quantised
from salsa_cli.weights.shared_tensors import are_equal
from salsa_cli.weights.tied_embeddings import Tie
from salsa_cli.weights.weight_files import ADAPTERS, WeightFiles


@dataclass(frozen=True)
class Base:
    """The base model as adapters are merged into it.

    `modules` maps its tensors to modules of the adapters, `wholes` to the full tensors with which
    the adapters replace them.
    """

    weights: WeightFiles
    config: Mapping[str, JSON]
    modules: Mapping[str, str]
    wholes: Mapping[str, str]


def plan(paths: tuple[Path, ...], config: SoupConfig, report: Report) -> SoupPlan:
    """Find out how adapters are summed.

    Raises:
        SalsaError: they do not fit together, or do not fit the base.
        UsageError: --base and --merge-into are both given.
    """
    if config.base is not None and config.merge_into is not None:
        raise UsageError("--merge-into already names the base; remove --base")
    opened = without_copies([open_adapter(path) for path in paths])
    differing = compatibility.tokenizer_differences(paths)
    check_allowed(differing, paths, config)
    told = config.base or config.merge_into
    refuse(differing, disagreements(opened, told is not None), "adapters of the same base", config)
    names = base_names(opened)
    if told is not None and (len(names) > 1 or not _is_named(told, names)):
        verb = "merged into" if config.merge_into else "treated as adapters of"
        listed = ", ".join(map(str, names))
        report(Warned(f"the adapters name {listed} as their base; they are {verb} {told}"))
    if config.merge_into is None:
        tokenizer = choose_tokenizer(paths, config, report)
        warn(differing, tokenizer, config, report)
        return _plan_sum(paths, opened, tokenizer, config, report)
    base = folders.resolve(config.merge_into)
    tokenizer = choose_tokenizer([base, *paths], config, report)
    warn(differing, tokenizer, config, report)
    return _plan_merge(paths, opened, base, tokenizer, config, report)


def _plan_sum(
    paths: tuple[Path, ...],
    adapters: tuple[Adapter, ...],
    tokenizer: Path,
    config: SoupConfig,
    report: Report,
) -> SoupPlan:
    total = add_up(adapters, config.mixing, STORAGE_NAMES.get(config.dtype))
    filler = SummedAdapters(adapters, config.mixing, total.factors, config.allow_nonfinite)
    settings = _with_base(total.config, paths[0], config)
    named = settings.get("base_model_name_or_path")
    return SoupPlan(
        folders=paths,
        ingredients=tuple(one.weights for one in adapters),
        streamed=(),
        fill=filler.fill,
        shards=shards.arrange([total.tensors]),
        template=paths[0],
        tokenizer=tokenizer,
        config=without_scale(settings, paths, config, report),
        config_name=folders.ADAPTER_CONFIG,
        weights_name=ADAPTERS[0],
        base=named if isinstance(named, str) else None,
    )


def _plan_merge(
    paths: tuple[Path, ...],
    adapters: tuple[Adapter, ...],
    folder: Path,
    tokenizer: Path,
    config: SoupConfig,
    report: Report,
) -> SoupPlan:
    adapters, base = _open_base(folder, adapters, report)
    weights = base.weights
    reasons = _misfits(adapters, weights, base.modules, base.wholes)
    refuse((), reasons, f"adapters of {folder}", config)
    filler = MergedAdapters(
        adapters, config.mixing, base.modules, base.wholes, config.allow_nonfinite
    )
    return SoupPlan(
        folders=paths,
        ingredients=tuple(one.weights for one in adapters),
        streamed=(weights,),
        fill=filler.fill,
        shards=plan_shards(weights, config),
        template=folder,
        tokenizer=tokenizer,
        config=with_dtype(base.config, config),
        base=config.merge_into,
    )


def _open_base(
    folder: Path, adapters: tuple[Adapter, ...], report: Report
) -> tuple[tuple[Adapter, ...], Base]:
    """Open the base; one whose embeddings are tied is untied if the adapters change one of them.

    An adapter of a tied model changes only the side that it is for: the input or the output. With
    `ensure_weight_tying` it changes both alike and stores both: then one of them is dropped from
    the adapters, and the base stays tied.
    """
    weights = weight_files.open_weight_files(folder)
    refuse_quantised({folder: weights})
    settings: dict[str, JSON] = read_json(folder / "config.json")
    tie = tied_embeddings.find(weights, settings)
    if tie is not None and not _stays_tied(adapters, tie):
        untied = tied_embeddings.untie(weights, tie)
        found = _match(untied, settings, adapters)
        changed = {tie.embedding, tie.head} & {*found.modules, *found.wholes}
        if changed:
            report(
                Note(
                    f"the adapters change {' and '.join(sorted(changed))} of {folder}, where the "
                    f"two are tied: the result stores a separate {tie.head} (tie_word_embeddings: "
                    "false)"
                )
            )
            return adapters, replace(found, config=tied_embeddings.untied_config(settings))
    if tie is not None:
        adapters = tuple(_without_tied_copy(one, tie) for one in adapters)
    found = _match(weights, settings, adapters)
    changed = {*found.modules, *found.wholes}
    if tie is None and tied_embeddings.is_tied_elsewhere(weights, settings, changed):
        raise SalsaError(
            f"the adapters change an embedding of {folder} that is tied to another one, in an "
            "architecture that salsa cannot untie; average the adapters without --merge-into, or "
            "untie the base first (in transformers: `tie_word_embeddings=False`) and merge into it"
        )
    return adapters, found


def _stays_tied(adapters: Sequence[Adapter], tie: Tie) -> bool:
    """Whether all adapters change both embeddings alike, or were saved as if they did.

    Those that store both in full must store the same values twice.
    """
    for one in adapters:
        saved = _saved_pair(one, tie)
        if not one.config.get("ensure_weight_tying"):
            return False
        if module_of(tie.head, one.factors):
            return False
        if len(saved) == 2:
            stored = replace(one.weights, tensors=dict(one.others))
            if not are_equal(stored, saved[0], saved[1]):
                return False
        elif saved and base_name(saved[0]) == tie.head:
            return False
    return True


def _saved_pair(adapter: Adapter, tie: Tie) -> list[str]:
    """The names under which an adapter stores the embeddings in full."""
    return [name for name in adapter.others if base_name(name) in (tie.embedding, tie.head)]


def _without_tied_copy(adapter: Adapter, tie: Tie) -> Adapter:
    others = {name: s for name, s in adapter.others.items() if base_name(name) != tie.head}
    return replace(adapter, others=others)


def _match(weights: WeightFiles, settings: Mapping[str, JSON], adapters: Sequence[Adapter]) -> Base:
    names = dict.fromkeys(name for one in adapters for name in one.factors)
    modules = {tensor: module for tensor in weights.tensors if (module := module_of(tensor, names))}
    wholes = {
        tensor: name
        for name in adapters[0].others
        if (tensor := base_name(name)) in weights.tensors
    }
    return Base(weights, settings, modules, wholes)


def _misfits(
    adapters: Sequence[Adapter],
    base: WeightFiles,
    modules: Mapping[str, str],
    wholes: Mapping[str, str],
) -> list[str]:
    """Why adapters cannot be merged into a base: missing modules or other shapes."""
    found = [
        f"{one_line(name)} is not a module of {base.folder}"
        for name in dict.fromkeys(name for one in adapters for name in one.factors)
        if name not in modules.values()
    ]
    found += [
        f"{one_line(name)} is not a tensor of {base.folder}"
        for name in adapters[0].others
        if name not in wholes.values()
    ]
    for one in adapters:
        for tensor, module in modules.items():
            spec = base.tensors[tensor]
            if module in one.factors and not (
                one.factors[module].fit(spec.shape) and spec.dtype in FLOATS
            ):
                factors = one.factors[module]
                found.append(
                    f"{module} of {one.folder} has factors {list(factors.a.shape)} and "
                    f"{list(factors.b.shape)}, which do not fit {spec.dtype} {list(spec.shape)}"
                )
    found += [
        f"{name} is {list(adapters[0].others[name].shape)} in the adapters, "
        f"{list(base.tensors[tensor].shape)} in {base.folder}"
        for tensor, name in wholes.items()
        if adapters[0].others[name].shape != base.tensors[tensor].shape
    ]
    return found[:20]


def _with_base(settings: Mapping[str, JSON], first: Path, config: SoupConfig) -> dict[str, JSON]:
    """Name the base so that it is found from here if the first adapter names it relatively."""
    if config.base is not None:
        return {**settings, "base_model_name_or_path": config.base, "revision": None}
    if not isinstance(settings.get("base_model_name_or_path"), str):
        return dict(settings)
    return {**settings, "base_model_name_or_path": folders.base_name(first)}


def _is_named(told: str, names: Sequence[str | None]) -> bool:
    """Whether the base that the user names is the one that the adapters name."""
    said = str(names[0])
    return said == told.rstrip("/") or (
        Path(said).is_dir() and Path(told).is_dir() and Path(said).samefile(told)
    )
