"""What is known of a soup before the first weight is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.maths.averaging import EIGHT_BITS, FLOATS
from salsa_cli.records import JSON, read_bytes
from salsa_cli.runs.events import Note, Report, Warned
from salsa_cli.soups.tensor_source import TensorSource
from salsa_cli.weights import compatibility, folders, shards, weight_files
from salsa_cli.weights.companions import Companions, companions, with_tokenizer
from salsa_cli.weights.difference import Difference, is_allowed, sort_out
from salsa_cli.weights.disk import Bytes
from salsa_cli.weights.json_edits import edit_object
from salsa_cli.weights.layout import NewTensor, TensorSpec
from salsa_cli.weights.shards import Block, Shards
from salsa_cli.weights.weight_files import WEIGHTS, WeightFiles

STORAGE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Fill = Callable[[Block, Sequence[TensorSource], Sequence[Bytes], Bytes], None]


@dataclass(frozen=True)
class SoupPlan:
    """Everything that is known before the first weight is read.

    `ingredients` are the weight files of the models in the order given, `folders` their folders.
    `streamed` are read block by block, and `fill` computes a block of the result from them. The
    configuration of the result, that of the folder `template` changed to say `config`, is written
    last as `config_name`; its other files are `companions`. `base` is the base model that adapters
    name.
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

    @property
    def companions(self) -> tuple[Companions, ...]:
        """The files that the result gets from the template and from the tokenizer's folder."""
        weights = {path.name for one in self.streamed for path in one.files}
        weights |= {path.name for one in self.ingredients for path in one.files}
        known = {self.config_name, "README.md", *weight_files.INDEXES, *weights}
        return with_tokenizer(companions(self.template, known), self.tokenizer)

    @property
    def config_text(self) -> str:
        """The configuration of the result: the template's text with the fewest possible edits."""
        path = self.template / self.config_name
        return edit_object(read_bytes(path).decode(), self.config)


def plan_shards(first: WeightFiles, config: SoupConfig) -> Shards:
    """The files of the result: sharded like the first model, or by size."""
    if config.max_shard_size is not None:
        specs = [_new(spec, config) for spec in first.tensors.values()]
        return shards.plan_shards(specs, config.max_shard_size)
    files = groupby(first.tensors.values(), key=lambda spec: spec.file)
    return shards.arrange([[_new(spec, config) for spec in specs] for _, specs in files])


def with_dtype(settings: Mapping[str, JSON], config: SoupConfig) -> dict[str, JSON]:
    """A configuration that says the dtype of the result, where it says one."""
    found = dict(settings)
    if config.dtype == "auto":
        return found
    for key, value in settings.items():
        if isinstance(value, dict) and key.endswith("_config"):
            found[key] = _with_known_dtype(value, config.dtype)
    found = _with_known_dtype(found, config.dtype)
    if "dtype" not in found and "torch_dtype" not in found:
        found["dtype"] = config.dtype
    return found


def _with_known_dtype(settings: dict[str, JSON], dtype: str) -> dict[str, JSON]:
    told = {key for key in ("dtype", "torch_dtype") if settings.get(key) is not None}
    return {key: dtype if key in told else value for key, value in settings.items()}


def without_scale(
    settings: Mapping[str, JSON], paths: tuple[Path, ...], config: SoupConfig, report: Report
) -> dict[str, JSON]:
    """Drop the normalisation of a reward model's scores, which is unknown for an average.

    It cannot be derived from those of the ingredients, whose errors partly cancel.
    """
    if any(folders.reward_scale(path) for path in paths):
        report(
            Warned(
                "the mean and standard deviation of the soup's scores are unknown, so its scores "
                "are raw. `salsa ppo --normalize-reward` measures them at the start; to measure "
                "and store them once, run "
                f"`salsa train-rm {config.output} --eval-data PAIRS --store-scale -o EVALUATION`"
            )
        )
    return {name: value for name, value in settings.items() if name != folders.REWARD_SCALE}


def choose_tokenizer(paths: Sequence[Path], config: SoupConfig, report: Report) -> Path:
    """The folder whose tokenizer the result gets; it must be compatible with the first model."""
    if config.tokenizer is not None:
        chosen = folders.resolve_any(config.tokenizer)
        if not compatibility.has_tokenizer(chosen):
            raise SalsaError(f"--tokenizer {config.tokenizer}: {chosen} has no tokenizer")
        differing = compatibility.tokenizer_differences((paths[0], chosen))
        refuse(differing, (), "the tokenizer of one of them", config)
        return chosen
    chosen = next((path for path in paths if compatibility.has_tokenizer(path)), paths[0])
    if chosen != paths[0]:
        report(Note(f"{paths[0]} has no tokenizer; the soup uses the tokenizer of {chosen}"))
    return chosen


def check_allowed(
    differences: Sequence[Difference], paths: Sequence[Path], config: SoupConfig
) -> None:
    """Refuse a key of --allow-different that no model has.

    Raises:
        UsageError: it names the key, and those in which the models differ.
    """
    keys = tuple(dict.fromkeys(one.key for one in differences))
    known = {*keys, *compatibility.known_keys(paths)}
    for allowed in config.allow_different:
        if not any(is_allowed(one, (allowed,)) for one in known):
            differing = f"the models differ in {', '.join(keys)}" if keys else "nothing differs"
            raise UsageError(f"--allow-different {allowed}: unknown key; {differing}")


def refuse(
    differences: Sequence[Difference],
    reasons: Sequence[str],
    expected: str,
    config: SoupConfig,
) -> None:
    """Raise with all reasons, followed by the differences that alone would only be warnings.

    The way through, `--allow-different`, is named only where it is one: not if there are `reasons`,
    which cannot be allowed.
    """
    found = sort_out(differences, config.allow_different)
    if not (found.fatal or reasons):
        return
    listed = "\n".join(f"  - {one}" for one in (*found.fatal, *reasons, *found.minor))
    keys = dict.fromkeys(
        one.key
        for one in differences
        if one.fatal and not is_allowed(one.key, config.allow_different)
    )
    advice = "".join(f" --allow-different {key}" for key in keys)
    raise SalsaError(
        f"these models cannot be averaged; expected {expected}:\n{listed}"
        + (f"\nTo average them anyway:{advice}" if keys and not reasons else "")
    )


def warn(
    differences: Sequence[Difference], tokenizer: Path, config: SoupConfig, report: Report
) -> None:
    """Warn of the differences that are allowed or may be harmless, and say whose value is taken."""
    for line in sort_out(differences, config.allow_different).minor:
        report(Warned(f"{line}; the soup uses that of {tokenizer}"))
    for key in config.allow_different:
        if not any(is_allowed(one.key, (key,)) for one in differences):
            report(Warned(f"--allow-different {key}: the models do not differ in it"))


def _new(spec: TensorSpec, config: SoupConfig) -> NewTensor:
    dtype = spec.dtype
    if config.dtype != "auto" and (dtype in FLOATS or dtype in EIGHT_BITS):
        dtype = STORAGE_NAMES[config.dtype]
    return NewTensor(spec.name, dtype, spec.shape)
