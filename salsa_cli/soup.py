"""`salsa soup`: the weighted average of models, streamed block by block.

Model soups: Wortsman et al. 2022. SALSA's reference is the soup of two SFT models of the same base,
W = (1 - alpha) A + alpha B (Chegini et al. 2024). Every value is the float64 average, rounded once.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import xxhash

from salsa_cli import VERSION
from salsa_cli.config.command_line import command_line
from salsa_cli.config.comparison import result_settings
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, StorageError, UsageError, one_line
from salsa_cli.formatting import amount, counted, duration, plain, verb
from salsa_cli.records import JSON, read_json, write_text
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import Advanced, DryRun, Note, Report, Result, Table, Warned, Working
from salsa_cli.runs.unfinished import working_folder
from salsa_cli.soups import journal
from salsa_cli.soups.block_threads import in_blocks
from salsa_cli.soups.journal import Entry, Journal
from salsa_cli.soups.model_planning import prepare
from salsa_cli.soups.plan import SoupPlan
from salsa_cli.soups.tensor_source import TensorSource, Workspace, workspaces
from salsa_cli.weights import cards, folders, weight_files
from salsa_cli.weights.companions import modules_left_out, write_problem
from salsa_cli.weights.disk import ALIGNMENT, Bytes, InputFile, aligned
from salsa_cli.weights.folders import ADAPTER_CONFIG
from salsa_cli.weights.shards import Block, ShardWriter
from salsa_cli.weights.weight_files import combined_digest, tensor_hash, weights_digest

THREADS = 4  # more than cores, since most of them wait for the disk
LARGEST_BLOCK = 8 << 20  # beyond it the disk gets no faster


@dataclass(frozen=True)
class SoupResult:
    """What was written."""

    output: str
    models: tuple[str, ...]
    weights: tuple[float, ...]
    tensors: int
    parameters: int
    bytes: int
    io: str
    seconds: float
    left_out: tuple[str, ...] = ()

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        return asdict(self)

    def summary(self) -> tuple[str, Table | None]:
        """The recipe, the size and the time."""
        recipe = " + ".join(
            f"{weight:.4g} {model}" for weight, model in zip(self.weights, self.models, strict=True)
        )
        return (
            f"{self.output} = {recipe}\n{counted(self.tensors, 'tensor')}, {self.parameters:,} "
            "parameters, "
            f"{amount(self.bytes, 'B')} in {duration(self.seconds)}"
        ), None


@dataclass(frozen=True)
class WrittenWeights:
    """Digests of the written files and of the ingredients, and how the bytes were transferred."""

    files: Mapping[str, str]
    ingredients: Sequence[str]
    way: str


def run(config: SoupConfig, report: Report) -> Result:
    """Average the models of `config` into `config.output`.

    Returns:
        What was written, or the plan of a dry run.

    Raises:
        SalsaError: the models cannot be averaged, a file cannot be read or written, or the output
            exists.
    """
    began = time.monotonic()
    resumed = config.resume and not config.force
    check_names(config)
    if resumed and (done := finished(config, report)) is not None:
        return done
    config = _without_files(config, report)
    run_folder.check_output(config.output, config.force)
    report(Working("comparing the models"))
    plan = prepare(config, report)
    run_folder.check_output(config.output, config.force, plan.read)
    check_room(plan, config)
    warn_of_modules(plan, report)
    if config.dry_run:
        return dry_run(plan, config)
    identity = _identity(plan, config)
    draft = run_folder.partial_folder(config.output)
    earlier = journal.read(draft, identity, len(plan.streamed)) if config.resume else []
    count = len(plan.folders)
    named = f"averaging {count} models" if count > 1 else "merging one adapter"
    report(Note(f"{named} into {counted(len(plan.tensors), 'tensor')}"))
    left_out = tuple(name for one in plan.companions for name in one.left_out)
    if left_out:
        report(Note(f"not copied from {plan.template}: {', '.join(map(one_line, left_out))}"))
    with working_folder(
        "soup", config, report, resume=config.resume, kept=journal.progress
    ) as folder:
        with Journal(folder, identity, earlier) as notes:
            written = write_weights(plan, config, folder, notes, report)
            if config.verify:
                verify(plan, config, folder, report)
            for one in (*plan.streamed, *plan.ingredients):
                weight_files.check_unchanged(one)
        result = SoupResult(
            output=str(config.output),
            models=config.models,
            weights=config.mixing,
            tensors=len(plan.tensors),
            parameters=sum(tensor.elements for tensor in plan.tensors),
            bytes=plan.nbytes,
            io=written.way,
            seconds=time.monotonic() - began,
            left_out=left_out,
        )
        with naming_the_disk(config):
            write_companions(plan, config, folder, written, result)
        (folder / journal.NAME).unlink()
    return result


def warn_of_modules(plan: SoupPlan, report: Report) -> None:
    """Warn of parts of a sentence-transformers model that the result lacks."""
    for found in plan.companions:
        if missing := modules_left_out(found):
            report(
                Warned(
                    f"modules.json of {found.folder} names {', '.join(map(one_line, missing))}, "
                    "whose weights are not averaged and which is not copied: sentence-transformers "
                    "may fail to load the result. Copy it from one of the models"
                )
            )


def check_names(config: SoupConfig) -> None:
    """Refuse paths that are no UTF-8: they cannot be recorded.

    Raises:
        UsageError: it names the path.
    """
    named = (*config.models, str(config.output), config.tokenizer, config.merge_into, config.base)
    for name in named:
        try:
            (name or "").encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{name!a}: its name is not valid UTF-8 and cannot be written to "
                f"{folders.SOUP_RECORD}; rename it, or pass a link with another name"
            ) from error


def finished(config: SoupConfig, report: Report) -> SoupResult | None:
    """The result of a soup that is complete, its weights still those that were written.

    Raises:
        SalsaError: it was made with other settings, or its files are gone or have changed.
    """
    path = config.output / folders.SOUP_RECORD
    if not path.is_file():
        return None
    advice = "choose another -o, or replace it with --force"
    try:
        made = read_json(path)
    except SalsaError as error:
        raise SalsaError(f"{error}; {advice}") from error
    written = made.get("files_xxh3")
    result = _recorded(made.get("result"))
    settings_known = isinstance(made.get("settings"), dict)
    if not (settings_known and isinstance(written, dict) and written and result):
        raise SalsaError(f"{path} is not the record of a complete soup; {advice}")
    run_folder.finished(folders.SOUP_RECORD, config)  # raises where the settings differ
    for name, expected in written.items():
        file = config.output / name
        if not file.is_file():
            raise SalsaError(f"{config.output} was complete, but {name} is missing; {advice}")
        if weight_files.file_hash(file) != expected:
            raise SalsaError(f"{config.output} was complete, but {name} has changed; {advice}")
    is_model = any((config.output / one).is_file() for one in ("config.json", ADAPTER_CONFIG))
    if not is_model:
        raise SalsaError(
            f"{config.output} was complete, but its configuration is missing; {advice}"
        )
    report(Note(f"{config.output} is already complete"))
    return result


def _recorded(done: object) -> SoupResult | None:
    """The result in a record; None where it is none."""
    kinds = {"models": list, "weights": list, "left_out": list, "output": str, "io": str}
    known = {field.name for field in fields(SoupResult)}
    if not isinstance(done, dict) or not known - {"left_out"} <= done.keys():
        return None
    found: dict[str, Any] = {name: done[name] for name in known if name in done}
    if not all(isinstance(one, kinds.get(name, int | float)) for name, one in found.items()):
        return None
    lists = {name: tuple(one) for name, one in found.items() if isinstance(one, list)}
    return SoupResult(**{**found, **lists})


def dry_run(plan: SoupPlan, config: SoupConfig) -> DryRun:
    """Sizes, and the time estimated from reading the first megabytes of the first model."""
    blocks = ShardWriter(config.output, plan.shards, _block_size(config)).blocks
    with ExitStack() as stack:
        sources = [stack.enter_context(TensorSource(one)) for one in plan.streamed]
        needed = sum(one.nbytes for one in workspaces(sources, blocks, _block_size(config), 1))
    seconds = (plan.bytes_to_read + plan.nbytes) / _read_rate(plan)
    return DryRun(
        {
            "output": str(config.output),
            "tensors": len(plan.tensors),
            "bytes to read": plan.bytes_to_read,
            "bytes to write": plan.nbytes,
            "bytes free": folders.free_space(config.output),
            "bytes of memory for tensors": THREADS * needed,
            "seconds about": round(seconds, 1),
        }
    )


def check_room(plan: SoupPlan, config: SoupConfig) -> None:
    """Refuse if the disk is too small; what a draft already holds counts as free."""
    there = sum(
        path.stat().st_blocks * 512
        for path in run_folder.partial_folder(config.output).glob("*.safetensors")
    )
    free = folders.free_space(config.output) + there
    needed = plan.nbytes + sum(one.nbytes for one in plan.companions)
    if free < needed:
        raise SalsaError(
            f"{config.output} needs {amount(needed, 'B')} and its disk has {amount(free, 'B')} free"
        )


def write_weights(
    plan: SoupPlan, config: SoupConfig, folder: Path, notes: Journal, report: Report
) -> WrittenWeights:
    """Stream all tensors block by block and write the weight files of the result."""
    with ExitStack() as stack:
        writer = stack.enter_context(
            ShardWriter(folder, plan.shards, _block_size(config), plan.weights_name)
        )
        files = [tensor_hash() for _ in writer.names]
        for file, header in zip(files, writer.headers, strict=True):
            file.update(header)
        kept = keep_finished(writer, notes.entries, files, report)
        notes.keep(len(kept))
        sources = [stack.enter_context(TensorSource(one)) for one in plan.streamed]
        following = writer.blocks[len(kept)].spans[0] if len(kept) < len(writer.blocks) else None
        for number, source in enumerate(sources):
            ended = {name: found for one in kept for name, found in one.tensors[number].items()}
            source.resume_digests(ended, following)

        def then(block: Block, memory: Workspace) -> None:
            ended = tuple(
                source.digest(block, gathered)
                for source, gathered in zip(sources, memory.gathered, strict=True)
            )
            files[block.shard].update(memory.output[: block.nbytes].data)
            notes.add(Entry(files[block.shard].hexdigest(), ended))

        stream(plan, config, sources, writer.blocks[len(kept) :], writer.write, then, report)
        digests = [combined_digest(source.weights, source.all_digests()) for source in sources]
        way = "/".join(sorted({writer.way, *(source.way for source in sources)}))
    if plan.streamed != plan.ingredients:
        digests = [weights_digest(one) for one in plan.ingredients]
    by_file = {name: file.hexdigest() for name, file in zip(writer.names, files, strict=True)}
    return WrittenWeights(by_file, digests, way)


def keep_finished(
    writer: ShardWriter, earlier: Sequence[Entry], files: list[xxhash.xxh3_128], report: Report
) -> list[Entry]:
    """The finished blocks of an interrupted soup whose bytes match its journal.

    They are read back, marked as written, and added to the digests of their `files`.
    """
    kept: list[Entry] = []
    for block, entry in zip(writer.blocks, earlier, strict=False):
        with InputFile(writer.path(block)) as file:
            found = file.read(block.offset, block.nbytes, aligned(block.nbytes + 2 * ALIGNMENT))
        digest = files[block.shard].copy()
        digest.update(found.data)
        if digest.hexdigest() != entry.file:
            break
        files[block.shard] = digest
        writer.keep(block)
        kept.append(entry)
        report(Advanced("checking finished blocks", len(kept), len(earlier), "blocks"))
    if earlier:
        report(
            Note(
                f"{len(kept)} of {counted(len(writer.blocks), 'block')} {verb(len(kept), 'are')} "
                "already finished"
            )
        )
    if len(kept) < len(earlier):
        report(
            Warned(
                f"{len(earlier) - len(kept)} more differ from what was written (a power failure, "
                "or the files were changed) and are computed again"
            )
        )
    return kept


def verify(plan: SoupPlan, config: SoupConfig, folder: Path, report: Report) -> None:
    """Read the result back and compare every byte with a second computation."""
    blocks = ShardWriter(folder, plan.shards, _block_size(config), plan.weights_name).blocks
    with ExitStack() as stack:
        stored = stack.enter_context(TensorSource(plan.open_result(folder)))
        sources = [stack.enter_context(TensorSource(one)) for one in plan.streamed]

        def compare(block: Block, output: Bytes) -> None:
            memory = aligned(block.nbytes + 2 * ALIGNMENT)
            found = stored.gather(block, memory, aligned(block.nbytes + 2 * ALIGNMENT))
            if not np.array_equal(found, output[: block.nbytes]):
                names = ", ".join(span.tensor.name for span in block.spans)
                raise SalsaError(
                    f"{names} differs on disk from what was computed; the disk may be failing"
                )

        stream(plan, config, sources, blocks, compare, lambda *_: None, report, "verifying")


def stream(
    plan: SoupPlan,
    config: SoupConfig,
    sources: Sequence[TensorSource],
    blocks: Sequence[Block],
    work: Callable[[Block, Bytes], None],
    then: Callable[[Block, Workspace], None],
    report: Report,
    stage: str = "soup",
) -> None:
    """Compute the result block by block; `work` runs in any order, `then` in block order."""
    done = plan.nbytes - sum(block.nbytes for block in blocks)
    # More computing threads than cores would only contend for the GIL.
    cores = Semaphore(os.cpu_count() or 1)

    def compute(block: Block, memory: Workspace) -> None:
        memory.gathered[:] = [
            source.gather(block, part, memory.bounce)
            for source, part in zip(sources, memory.inputs, strict=True)
        ]
        with cores:
            plan.fill(block, sources, memory.gathered, memory.output)
        work(block, memory.output)

    def account(block: Block, memory: Workspace) -> None:
        nonlocal done
        then(block, memory)
        done += block.nbytes
        report(Advanced(stage, done, plan.nbytes, "B"))

    memories = workspaces(sources, blocks, _block_size(config), THREADS)
    in_blocks(blocks, memories, compute, account)


def write_companions(
    plan: SoupPlan,
    config: SoupConfig,
    folder: Path,
    written: WrittenWeights,
    result: SoupResult,
) -> None:
    """Write tokenizer, model card and record; config.json, without which nothing loads, last."""
    for one in plan.companions:
        one.copy(folder)
    ingredients: list[JSON] = [
        {"model": model, "weight": weight, "path": str(path), "weights_xxh3": digest}
        for model, weight, path, digest in zip(
            config.models, config.mixing, plan.folders, written.ingredients, strict=True
        )
    ]
    inputs: dict[str, JSON] = {}
    if config.merge_into is not None:
        inputs["base"] = folders.describe(plan.template)
    made = run_folder.made_by(
        "soup",
        config,
        inputs,
        ingredients=ingredients,
        files_xxh3=dict(written.files),
        companions=sorted({name for one in plan.companions for name in one.carried}),
        result=dict(result.record()),
    )
    run_folder.write_record(folder, folders.SOUP_RECORD, made)
    write_text(folder / "README.md", _model_card(plan, config))
    write_text(folder / plan.config_name, plan.config_text)


@contextmanager
def naming_the_disk(config: SoupConfig) -> Iterator[None]:
    """Say of which disk a small file did not find room on.

    Raises:
        StorageError: in place of what the system says.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{config.output}: {write_problem(error)} ({error.filename or 'its disk'})"
        ) from error
    except StorageError as error:
        raise StorageError(f"{config.output}: {error}") from error


def _identity(plan: SoupPlan, config: SoupConfig) -> dict[str, JSON]:
    """What must be unchanged for an interrupted soup to be continued."""
    files: dict[str, JSON] = {
        str(path): asdict(found)
        for one in (*plan.streamed, *plan.ingredients)
        for path, found in one.files.items()
    }
    return {
        **result_settings(config),
        "files": files,
        "bytes of a block (--memory)": _block_size(config),
    }


def _without_files(config: SoupConfig, report: Report) -> SoupConfig:
    """Drop files that a shell pattern like `OUT/*` matched in addition to model folders."""
    parents = {Path(m).parent for m in config.models if (Path(m) / "config.json").is_file()}
    extra = [m for m in config.models if Path(m).is_file() and Path(m).parent in parents]
    if not extra:
        return config
    report(Note(f"ignored, because they are files, not models: {', '.join(extra)}"))
    return replace(config, models=tuple(model for model in config.models if model not in extra))


def _block_size(config: SoupConfig) -> int:
    """Bytes of the result per block, chosen so that all threads together stay within --memory.

    A thread holds a block of the result, one of each ingredient, whose dtype may be four times as
    wide, and one bounce buffer.
    """
    share = config.memory // (THREADS * (1 + 4 * (len(config.models) + 1)))
    return max(ALIGNMENT, min(LARGEST_BLOCK, share // ALIGNMENT * ALIGNMENT))


def _read_rate(plan: SoupPlan) -> float:
    """Read rate in bytes per second, measured on the start of the first weight file."""
    path, found = next(iter(plan.ingredients[0].files.items()))
    count = min(found.size, 64 << 20)
    memory = aligned(count + 2 * ALIGNMENT)
    began = time.monotonic()
    with InputFile(path) as file:
        file.read(0, count, memory)
    return max(1, count) / max(time.monotonic() - began, 1e-6)


def _model_card(plan: SoupPlan, config: SoupConfig) -> str:
    named = (*((plan.base,) if plan.base else ()), *config.models)
    adapter = plan.config_name == ADAPTER_CONFIG
    head = cards.front_matter(
        named,
        library="peft" if adapter else "transformers",
        tags=("merge", "salsa"),
        relation="adapter" if adapter else "merge",
    )
    base = f"The base model is {cards.cell(cards.shown(plan.base))}.\n\n" if plan.base else ""
    rows = "".join(
        f"| {cards.cell(cards.shown(model))} | {weight:.6g} |\n"
        for model, weight in zip(config.models, config.mixing, strict=True)
    )
    return (
        f"{head}\n# A model soup\n\n"
        "The weighted average of the weights of these models, made with `salsa soup` "
        f"{VERSION}.\n\n"
        f"{base}| model | weight |\n|---|---|\n{rows}\n"
        f"    {plain(command_line('soup', config, cards.shown), 10_000)}\n"
    )
