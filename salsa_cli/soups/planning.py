"""Plan a soup: find and compare the ingredients, and decide how each tensor is computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError, one_line
from salsa_cli.maths.averaging import EIGHT_BITS, FLOATS
from salsa_cli.records import JSON, read_json
from salsa_cli.runs.events import Note, Report, Warned
from salsa_cli.soups.averages import WeightedAverage
from salsa_cli.soups.lowrank import MergedAdapters
from salsa_cli.soups.sources import TensorSource
from salsa_cli.weights import compatibility, folders, shards, weight_files
from salsa_cli.weights.adapter_sums import SummedAdapters
from salsa_cli.weights.adapters import (
    Adapter,
    add_up,
    base_name,
    disagreements,
    module_of,
    open_adapter,
    without_copies,
)
from salsa_cli.weights.disk import Bytes
from salsa_cli.weights.layout import NewTensor, TensorSpec
from salsa_cli.weights.shards import Block, Shards
from salsa_cli.weights.weight_files import ADAPTERS, WEIGHTS, WeightFiles

STORAGE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Fill = Callable[[Block, Sequence[TensorSource], Sequence[Bytes], Bytes], None]


@dataclass(frozen=True)
class SoupPlan:
    """Everything that is known before the first weight is read.

    `ingredients` are the weight files of the models in the order given, `folders` their folders.
    `streamed` are read block by block, and `fill` computes a block of the result from them. The
    configuration of the result, `config`, is written last as `config_name`; its other files come
    from the folders `template` and `tokenizer`. `base` is the base model that adapters name.
    """

    folders: tuple[Path, ...]
    ingredients: tuple[WeightFiles, ...]
    streamed: tuple[WeightFiles, ...]
    fill: Fill
    shards: Shards
    template: Path
    tokenizer: Path
    config: Mapping[str, JSON]
    config_name: str = "config.json"
    weights_name: str = WEIGHTS
    base: str | None = None

    @property
    def read(self) -> tuple[Path, ...]:
        """Every folder that is read."""
        return (*self.folders, self.template, self.tokenizer)

    @property
    def tensors(self) -> tuple[NewTensor, ...]:
        """What is written, file by file."""
        return tuple(tensor for shard in self.shards for tensor in shard)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data to write."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def open_result(self, folder: Path) -> WeightFiles:
        """Open the weights of the result."""
        if self.weights_name == WEIGHTS:
            return weight_files.open_weight_files(folder)
        return weight_files.open_adapter_weights(folder)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of tensor data to read."""
        small = () if self.streamed == self.ingredients else self.ingredients
        return sum(one.nbytes for one in (*self.streamed, *small))


def prepare(config: SoupConfig, report: Report) -> SoupPlan:
    """Find the ingredients, and refuse with all reasons at once what cannot be averaged.

    Raises:
        SalsaError: an ingredient cannot be read, or they do not fit together.
        UsageError: models and adapters are mixed, or --merge-into is given for models.
    """
    paths = tuple(folders.resolve_any(model) for model in config.models)
    adapters = [folders.is_adapter(path) for path in paths]
    if any(adapters) != all(adapters):
        kinds = ", ".join(
            f"{path} is {'an adapter' if adapter else 'a model'}"
            for path, adapter in zip(paths, adapters, strict=True)
        )
        raise UsageError(f"models and LoRA adapters cannot be averaged with one another: {kinds}")
    if not any(adapters):
        if config.merge_into is not None:
            raise UsageError("--merge-into is for LoRA adapters; these are whole models")
        return _plan_models(paths, config, report)
    opened = without_copies([open_adapter(path) for path in paths])
    found = compatibility.compare_tokenizers(paths)
    _refuse([*found.fatal, *disagreements(opened)], found.minor, "adapters of one base")
    if config.merge_into is None:
        tokenizer = _tokenizer(paths, config, report)
        _warn(found.minor, tokenizer, report)
        return _plan_adapters(paths, opened, tokenizer, config, report)
    base = folders.resolve(config.merge_into)
    _check_base(opened[0], config.merge_into, base, report)
    return _plan_merge(paths, opened, base, _tokenizer([base, *paths], config, report), config)


def _plan_models(paths: tuple[Path, ...], config: SoupConfig, report: Report) -> SoupPlan:
    whole = tuple(weight_files.open_weight_files(path) for path in paths)
    ingredients, notes = compatibility.common_tensors(whole)
    found = compatibility.compare(paths)
    reasons = [*found.fatal, *weight_files.differences(ingredients)]
    _refuse(reasons, found.minor, "fine-tunes of one base")
    tokenizer = _tokenizer(paths, config, report)
    _warn(found.minor, tokenizer, report)
    for note in notes:
        report(Note(note))
    settings = read_json(paths[0] / "config.json")
    if config.dtype != "auto" and "quantization_config" in settings:
        raise SalsaError(
            f"{paths[0]} is quantised, its numbers mean nothing without their scales; "
            "expected models that are not (--dtype auto averages the scales of equal numbers)"
        )
    average = WeightedAverage(
        config.models, config.mixing, config.allow_nonfinite, config.dtype != "auto"
    )
    return SoupPlan(
        folders=paths,
        ingredients=ingredients,
        streamed=ingredients,
        fill=average.fill,
        shards=_shards(ingredients[0], config),
        template=paths[0],
        tokenizer=tokenizer,
        config=_without_scale(_with_dtype(settings, config), paths, config, report),
    )


def _plan_adapters(
    paths: tuple[Path, ...],
    adapters: tuple[Adapter, ...],
    tokenizer: Path,
    config: SoupConfig,
    report: Report,
) -> SoupPlan:
    total = add_up(adapters, config.mixing, STORAGE_NAMES.get(config.dtype))
    filler = SummedAdapters(adapters, config.mixing, total.factors, config.allow_nonfinite)
    return SoupPlan(
        folders=paths,
        ingredients=tuple(one.weights for one in adapters),
        streamed=(),
        fill=filler.fill,
        shards=shards.arrange([total.tensors]),
        template=paths[0],
        tokenizer=tokenizer,
        config=_without_scale(_with_base(total.config, paths[0]), paths, config, report),
        config_name=folders.ADAPTER_CONFIG,
        weights_name=ADAPTERS[0],
        base=adapters[0].config.get("base_model_name_or_path"),
    )


def _plan_merge(
    paths: tuple[Path, ...],
    adapters: tuple[Adapter, ...],
    base: Path,
    tokenizer: Path,
    config: SoupConfig,
) -> SoupPlan:
    weights = weight_files.open_weight_files(base)
    names = dict.fromkeys(name for one in adapters for name in one.factors)
    modules = {tensor: module for tensor in weights.tensors if (module := module_of(tensor, names))}
    wholes = {
        tensor: name
        for name in adapters[0].others
        if (tensor := base_name(name)) in weights.tensors
    }
    _refuse(_misfits(adapters, weights, modules, wholes), (), f"adapters of {base}")
    filler = MergedAdapters(adapters, config.mixing, modules, wholes, config.allow_nonfinite)
    return SoupPlan(
        folders=paths,
        ingredients=tuple(one.weights for one in adapters),
        streamed=(weights,),
        fill=filler.fill,
        shards=_shards(weights, config),
        template=base,
        tokenizer=tokenizer,
        config=_with_dtype(read_json(base / "config.json"), config),
        base=config.merge_into,
    )


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


def _shards(first: WeightFiles, config: SoupConfig) -> Shards:
    """The files of the result: sharded like the first model, or by size."""
    if config.max_shard_size is not None:
        specs = [_new(spec, config) for spec in first.tensors.values()]
        return shards.plan_shards(specs, config.max_shard_size)
    files = groupby(first.tensors.values(), key=lambda spec: spec.file)
    return shards.arrange([[_new(spec, config) for spec in specs] for _, specs in files])


def _new(spec: TensorSpec, config: SoupConfig) -> NewTensor:
    dtype = spec.dtype
    if config.dtype != "auto" and (dtype in FLOATS or dtype in EIGHT_BITS):
        dtype = STORAGE_NAMES[config.dtype]
    return NewTensor(spec.name, dtype, spec.shape)


def _with_dtype(settings: dict[str, JSON], config: SoupConfig) -> dict[str, JSON]:
    if config.dtype == "auto":
        return settings
    return {k: v for k, v in settings.items() if k != "torch_dtype"} | {"dtype": config.dtype}


def _with_base(settings: Mapping[str, JSON], first: Path) -> dict[str, JSON]:
    """Name the base so that it is found from here if the first adapter names it relatively."""
    if not isinstance(settings.get("base_model_name_or_path"), str):
        return dict(settings)
    return {**settings, "base_model_name_or_path": folders.base_name(first)}


def _without_scale(
    settings: dict[str, JSON], paths: tuple[Path, ...], config: SoupConfig, report: Report
) -> dict[str, JSON]:
    """Drop the normalisation of a reward model's scores, which is unknown for an average.

    It cannot be derived from those of the ingredients, whose errors partly cancel.
    """
    if any(folders.reward_scale(path) for path in paths):
        report(
            Warned(
                "the mean and the deviation of the soup's scores are not known, so its scores are "
                "raw. `salsa ppo --normalize-reward` measures them at its start, or once for all "
                f"`salsa train-rm {config.output} --eval-data PAIRS --store-scale -o EVALUATION`"
            )
        )
    return {name: value for name, value in settings.items() if name != folders.REWARD_SCALE}


def _tokenizer(paths: Sequence[Path], config: SoupConfig, report: Report) -> Path:
    """The folder whose tokenizer the result gets; it must be compatible with the first model."""
    if config.tokenizer is not None:
        chosen = folders.resolve_any(config.tokenizer)
        if not compatibility.has_tokenizer(chosen):
            raise SalsaError(f"--tokenizer {config.tokenizer}: there is no tokenizer in {chosen}")
        _refuse(compatibility.tokenizers(paths[0], chosen), (), "the tokenizer of one of them")
        return chosen
    chosen = next((path for path in paths if compatibility.has_tokenizer(path)), paths[0])
    if chosen != paths[0]:
        report(Note(f"{paths[0]} has no tokenizer; the soup gets that of {chosen}"))
    return chosen


def _check_base(adapter: Adapter, name: str, base: Path, report: Report) -> None:
    """Warn if the adapters name another base: equal shapes do not prove that it is the same."""
    said = str(adapter.config.get("base_model_name_or_path"))
    if said != name and not (Path(said).is_dir() and Path(said).samefile(base)):
        report(Warned(f"the adapters say that their base is {said}; they are merged into {name}"))


def _refuse(reasons: Sequence[str], minor: Sequence[str], expected: str) -> None:
    """Raise with all reasons, followed by the differences that alone would only be warnings."""
    if reasons:
        listed = "\n".join(f"  - {reason}" for reason in (*reasons, *minor))
        raise SalsaError(f"these models cannot be averaged; expected {expected}:\n{listed}")


def _warn(lines: Sequence[str], tokenizer: Path, report: Report) -> None:
    for line in lines:
        report(Warned(f"{line}; the soup takes that of {tokenizer}"))
