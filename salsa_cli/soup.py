"""`salsa soup`: the weighted average of models, streamed tensor by tensor.

Model soups: Wortsman et al. 2022. SALSA's reference is the soup of two SFT models of one base,
W = (1 - alpha) A + alpha B (Chegini et al. 2024). Every value is the float64 average, rounded once.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from salsa_cli import checkpoints, compatibility, folders, runs
from salsa_cli.checkpoints import Checkpoint, TensorReader
from salsa_cli.configs import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.layout import Array, NewTensor
from salsa_cli.maths import averaging
from salsa_cli.records import JSON, read_json, write_json, write_text
from salsa_cli.reports import (
    Advanced,
    DryRun,
    Note,
    Report,
    Result,
    Table,
    Warned,
    amount,
    duration,
)
from salsa_cli.shards import ShardWriter, WeightFile

STORAGE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
CONFIG_NAMES = {"F64": "float64", **{storage: name for name, storage in STORAGE_NAMES.items()}}


@dataclass(frozen=True)
class SoupResult:
    """What was written."""

    output: str
    models: tuple[str, ...]
    weights: tuple[float, ...]
    tensors: int
    parameters: int
    bytes: int
    seconds: float

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        return asdict(self)

    def summary(self) -> tuple[str, Table | None]:
        """The recipe, the size and the time."""
        recipe = " + ".join(
            f"{weight:.4g} {model}" for weight, model in zip(self.weights, self.models, strict=True)
        )
        return (
            f"{self.output} = {recipe}\n{self.tensors} tensors, {self.parameters:,} parameters, "
            f"{amount(self.bytes, 'B')} in {duration(self.seconds)}"
        ), None


@dataclass(frozen=True)
class Plan:
    """The ingredients, found and compared, and the tensors to write."""

    folders: tuple[Path, ...]
    ingredients: tuple[Checkpoint, ...]
    tensors: tuple[NewTensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data to write."""
        return sum(tensor.nbytes for tensor in self.tensors)


def run(config: SoupConfig, report: Report) -> Result:
    """Average the models of `config` into `config.output`."""
    began = time.monotonic()
    runs.check_output(config.output, config.force)
    plan = prepare(config, report)
    if config.dry_run:
        return DryRun(
            {
                "output": str(config.output),
                "tensors": len(plan.tensors),
                "bytes to read": sum(one.nbytes for one in plan.ingredients),
                "bytes to write": plan.nbytes,
                "bytes free": folders.free_space(config.output),
            }
        )
    with runs.draft(config.output, force=config.force) as folder:
        files = average(plan, config, folder, report)
        if config.verify:
            verify(plan, config, folder, report)
        result = SoupResult(
            output=str(config.output),
            models=config.models,
            weights=config.mixing,
            tensors=len(plan.tensors),
            parameters=plan.ingredients[0].parameters,
            bytes=plan.nbytes,
            seconds=time.monotonic() - began,
        )
        write_companions(plan, config, folder, files, result)
    return result


def prepare(config: SoupConfig, report: Report) -> Plan:
    """Find the ingredients and refuse, all reasons at once, what cannot be averaged."""
    paths = tuple(folders.resolve(model) for model in config.models)
    ingredients = tuple(checkpoints.open_checkpoint(path) for path in paths)
    found = compatibility.compare(paths)
    reasons = [*found.fatal, *checkpoints.differences(ingredients)]
    if reasons:
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise SalsaError(
            f"these models cannot be averaged; expected fine-tunes of one base:\n{listed}"
        )
    for line in found.minor:
        report(Warned(f"{line}; the soup takes that of {paths[0]}"))
    tensors = tuple(
        NewTensor(spec.name, _result_dtype(spec.dtype, config), spec.shape)
        for spec in ingredients[0].tensors.values()
    )
    plan = Plan(paths, ingredients, tensors)
    free = folders.free_space(config.output)
    if free < plan.nbytes:
        raise SalsaError(
            f"{config.output} needs {amount(plan.nbytes, 'B')} and its disk has "
            f"{amount(free, 'B')} free"
        )
    report(Note(f"averaging {len(paths)} models of {len(tensors)} tensors"))
    return plan


def average(plan: Plan, config: SoupConfig, folder: Path, report: Report) -> tuple[WeightFile, ...]:
    """Stream every tensor through memory in pieces; returns the files written."""
    done = 0
    with ShardWriter(folder, plan.tensors, config.max_shard_size) as writer:
        for _, _, piece in pieces(writer.plan, plan, config):
            writer.write(piece)
            done += piece.nbytes
            report(Advanced("soup", done, plan.nbytes, "B"))
    return writer.files


def verify(plan: Plan, config: SoupConfig, folder: Path, report: Report) -> None:
    """Read the result back and compare every byte with a recomputation."""
    written = checkpoints.open_checkpoint(folder)
    done = 0
    with TensorReader() as reader:
        for tensor, begin, piece in pieces(plan.tensors, plan, config):
            stored = reader.read(written.tensors[tensor.name], begin, piece.size)
            if stored.tobytes() != piece.tobytes():
                raise SalsaError(
                    f"{tensor.name} was not stored as it was computed; the disk may be failing"
                )
            done += piece.nbytes
            report(Advanced("verifying", done, plan.nbytes, "B"))


def pieces(
    tensors: Sequence[NewTensor], plan: Plan, config: SoupConfig
) -> Iterator[tuple[NewTensor, int, Array]]:
    """The average of every tensor in pieces: the tensor, the first element, the values."""
    with ExitStack() as stack:
        readers = [stack.enter_context(TensorReader()) for _ in plan.ingredients]
        for tensor in tensors:
            specs = [one.tensors[tensor.name] for one in plan.ingredients]
            # In flight: each input's piece and the result's, none wider than eight bytes a value.
            step = config.memory // (8 * (len(specs) + 1))
            for begin in range(0, specs[0].elements, step):
                count = min(step, specs[0].elements - begin)
                parts = [
                    reader.read(spec, begin, count)
                    for reader, spec in zip(readers, specs, strict=True)
                ]
                yield tensor, begin, _combine(tensor, parts, [s.dtype for s in specs], config)


def write_companions(
    plan: Plan,
    config: SoupConfig,
    folder: Path,
    files: Sequence[WeightFile],
    result: SoupResult,
) -> None:
    """Tokenizer, model card and record; config.json, by which a folder loads, comes last."""
    first = plan.folders[0]
    folders.copy_tokenizer(first, folder)
    folders.copy_if_present(first / "generation_config.json", folder)
    ingredients: list[JSON] = [
        {"model": model, "weight": weight, **folders.describe(path)}
        for model, weight, path in zip(config.models, config.mixing, plan.folders, strict=True)
    ]
    made = runs.made_by(
        "soup",
        config,
        {},
        ingredients=ingredients,
        files={file.name: {"bytes": file.nbytes, "sha256": file.sha256} for file in files},
        result=dict(result.record()),
    )
    runs.write_record(folder, folders.SOUP_RECORD, made)
    write_text(folder / "README.md", _model_card(config, result))
    settings = read_json(first / "config.json")
    if config.dtype != "auto":
        settings.pop("torch_dtype", None)
        settings["dtype"] = config.dtype
    write_json(folder / "config.json", settings)


def _combine(
    tensor: NewTensor, parts: Sequence[Array], dtypes: Sequence[str], config: SoupConfig
) -> Array:
    if tensor.dtype in averaging.FLOATS:
        for part, dtype, model in zip(parts, dtypes, config.models, strict=True):
            if bad := averaging.count_nonfinite(part, dtype):
                raise SalsaError(f"{tensor.name} of {model} holds {bad} values that are NaN or Inf")
        return averaging.average(parts, dtypes, config.mixing, tensor.dtype)
    for part, model in zip(parts[1:], config.models[1:], strict=True):
        if not np.array_equal(part, parts[0]):
            raise SalsaError(
                f"{tensor.name} is of type {tensor.dtype}, which is not averaged, and differs "
                f"between {config.models[0]} and {model}"
            )
    return parts[0]


def _result_dtype(dtype: str, config: SoupConfig) -> str:
    if config.dtype == "auto" or dtype not in averaging.FLOATS:
        return dtype
    return STORAGE_NAMES[config.dtype]


def _model_card(config: SoupConfig, result: SoupResult) -> str:
    bases = "".join(f"- {model}\n" for model in config.models)
    rows = "".join(
        f"| {model} | {weight:.6g} |\n"
        for model, weight in zip(config.models, config.mixing, strict=True)
    )
    return (
        f"---\nbase_model:\n{bases}tags:\n- merge\n- salsa\n---\n\n"
        "# A model soup\n\n"
        "The weighted average of the weights of these models, made by `salsa soup`; "
        "`soup.json` has the digests.\n\n"
        f"| model | weight |\n|---|---|\n{rows}"
    )
