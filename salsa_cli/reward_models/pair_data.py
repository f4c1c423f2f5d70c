"""Reads the pairs that a reward model is trained and evaluated on from a run's data sources."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from salsa_cli import data
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.data import Source, stable_seed
from salsa_cli.errors import SalsaError, during
from salsa_cli.formatting import counted
from salsa_cli.models import shapes
from salsa_cli.models.input_limits import Limits
from salsa_cli.models.tokenization import Tokenizer, template_warning
from salsa_cli.reward_models import pairs
from salsa_cli.reward_models.pairs import TOO_LONG, Dropped, EncodedPair, EncodedPairs
from salsa_cli.reward_models.preferences import (
    MARGIN,
    AnswerSet,
    Preference,
    answer_sets,
    has_answer_sets,
    preferences,
)
from salsa_cli.runs.events import Note, Report, Warned

WIDE_MARGIN = 10.0
"""Margins above this are warned of: a difference of 10 is a probability of 99.995%."""


@dataclass(frozen=True)
class SourcePairs:
    """The pairs of one source: those that are kept, and those that are dropped, with reasons.

    `cut` are the rows with a truncated answer, `warnings` the warnings about this source.
    """

    name: str
    kept: tuple[EncodedPair, ...]
    dropped: tuple[Dropped, ...] = ()
    cut: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """Number of rows that are dropped."""
        return sum(len(one.rows) for one in self.dropped)


@dataclass(frozen=True)
class RewardData:
    """Training pairs, held-out pairs, the sources they come from, and all warnings."""

    training: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    sources: tuple[SourcePairs, ...]
    warnings: tuple[str, ...]


class PairReader:
    """Reads and encodes the pairs of data sources for one model."""

    def __init__(
        self, model: Path, tokenizer: Tokenizer, limit: int, config: TrainRMConfig, report: Report
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._limit = limit
        self._config = config
        self._report = report

    def training_pairs(self, name: str) -> SourcePairs:
        """The pairs of a source, encoded."""
        return self._pairs(data.read(name))

    def held_out_pairs(self, name: str) -> SourcePairs:
        """The same; the source may also hold lists of answers, as RewardBench 2 does."""
        source = data.read(name)
        return self._contests(source) if has_answer_sets(source) else self._pairs(source)

    def _contests(self, source: Source) -> SourcePairs:
        given = answer_sets(source)
        self._refuse_missing_answers(source, given)
        config = self._config
        with during(source.name):
            encoded = pairs.encode_contests(self._tokenizer, given, self._limit, config.on_long)
        return self._kept(source, encoded, "prompt")

    def _pairs(self, source: Source) -> SourcePairs:
        config = self._config
        given = preferences(source, config.margin)
        self._refuse_missing_answers(source, given)
        if config.margin is None and MARGIN in source.rows[0]:
            self._report(
                Note(
                    f"{source.name} has a column '{MARGIN}', which is not used; pass --margin "
                    f"{MARGIN} to use it"
                )
            )
        with during(source.name):
            encoded = pairs.encode(self._tokenizer, given, self._limit, config.on_long)
        return self._kept(source, encoded, "pair", self._warnings(source.name, given))

    def _refuse_missing_answers(
        self, source: Source, given: Sequence[Preference | AnswerSet]
    ) -> None:
        missing = [one for one in given if one.missing_answer]
        if self._config.on_empty == "drop" or not missing:
            return
        others = counted(len(missing) - 1, "more row")
        more = f" (as {'does' if len(missing) == 2 else 'do'} {others})" if len(missing) > 1 else ""
        raise source.error(
            missing[0].row - 1,
            f"column '{missing[0].missing_answer}' contains an empty answer{more}; expected text. "
            "--on-empty drop removes such pairs",
        )

    def _refuse_unknown_tokens(self, name: str, given: Sequence[EncodedPair]) -> None:
        size = shapes.vocabulary_size(self._model)
        for pair in given:
            if (token := max(*pair.chosen, *pair.rejected)) >= size:
                raise SalsaError(
                    f"{name}, row {pair.row}: the tokenizer writes token {token} "
                    f"({self._tokenizer.decode([token])}), and {self._model} has {size} tokens; "
                    "expected a tokenizer and a model with the same vocabulary"
                )

    def _warnings(self, name: str, given: Sequence[Preference]) -> Iterator[str]:
        """What is allowed, but likely to be a mistake in the data."""
        if warning := template_warning(self._model, self._tokenizer, [one.prompt for one in given]):
            yield warning
        if rows := [one.row for one in given if one.repeats_prompt]:
            yield (
                f"{name}: in {counted(len(rows), 'pair')} both answers begin with the prompt "
                f"(first in row {rows[0]}); it is used only once"
            )
        if rows := [p.row for p in given if p.scores is not None and p.scores[0] < p.scores[1]]:
            yield (
                f"{name}: in {counted(len(rows), 'pair')} the rejected answer has the higher score "
                f"(first in row {rows[0]}); the labels are used"
            )
        if rows := [one.row for one in given if one.empty and not one.missing_answer]:
            yield (
                f"{name}: {counted(len(rows), 'rejected answer')} without text, but with a score "
                f"from raters (first in row {rows[0]}): the model learns that an empty answer is "
                "worse"
            )
        if rows := [one.row for one in given if abs(one.margin) > WIDE_MARGIN]:
            yield (
                f"{name}: {counted(len(rows), 'margin')} beyond {WIDE_MARGIN:g} (first in row "
                f"{rows[0]}); a score difference of 10 is a probability of 99.995%. Scale the "
                "column down"
            )

    def _kept(
        self, source: Source, encoded: EncodedPairs, unit: str, more_warnings: Iterable[str] = ()
    ) -> SourcePairs:
        """The pairs of a source; warns of what is dropped or cut, and why."""
        name, all_of_them = source.name, counted(len(source.rows), unit)
        reasons = "; ".join(one.text() for one in encoded.dropped)
        long = TOO_LONG.format(limit=self._limit) in {one.reason for one in encoded.dropped}
        hint = ". --on-long truncate keeps and truncates those that are too long" if long else ""
        if not encoded.kept:
            raise SalsaError(f"{name}: all of {all_of_them} were dropped: {reasons}{hint}")
        self._refuse_unknown_tokens(name, encoded.kept)
        warnings = list(more_warnings)
        if reasons:
            left_out = sum(len(one.rows) for one in encoded.dropped)
            warnings.append(f"{name}: dropped {left_out} of {all_of_them}: {reasons}{hint}")
        if encoded.cut:
            warnings.append(
                f"{name}: {len(encoded.cut)} of {all_of_them} truncated to {self._limit} tokens "
                f"(first in row {encoded.cut[0]}), so their answers have no end token"
            )
        _warn(warnings, self._report)
        return SourcePairs(name, encoded.kept, encoded.dropped, encoded.cut, tuple(warnings))


def load(
    model: Path, tokenizer: Tokenizer, limit: int, config: TrainRMConfig, report: Report
) -> RewardData:
    """Read, check, encode and split the pairs; `limit` is the maximum length in tokens.

    Raises:
        SalsaError: a file is missing or malformed, or no pair of it is left.
    """
    reader = PairReader(model, tokenizer, limit, config, report)
    given = reader.training_pairs(str(config.data))
    if config.eval_data is None:
        seed = stable_seed(config.seed, "held-out")
        sides = pairs.split_by_prompt(given.kept, config.held_out_share, seed)
        return RewardData(*sides, (given,), given.warnings)
    apart = reader.held_out_pairs(config.eval_data)
    shared = _overlap(given, apart)
    _warn(shared, report)
    warnings = (*given.warnings, *apart.warnings, *shared)
    return RewardData(given.kept, apart.kept, (given, apart), warnings)


def load_held_out(
    model: Path, tokenizer: Tokenizer, limit: int, config: TrainRMConfig, report: Report
) -> SourcePairs:
    """Read, check and encode only the pairs of `eval_data`.

    Raises:
        SalsaError: the file is missing or malformed, or no pair of it is left.
    """
    return PairReader(model, tokenizer, limit, config, report).held_out_pairs(str(config.eval_data))


def check_lengths(model: Path, tokenizer: Tokenizer, pairs: Sequence[EncodedPair]) -> None:
    """Refuse pairs that the model in this folder cannot read.

    Raises:
        SalsaError: names the model and the token or the length.
    """
    rows = [ids for pair in pairs for ids in (pair.chosen, pair.rejected)]
    with during(f"{model} (--max-length)"):
        Limits.of(model).check(tokenizer, rows)


def _overlap(training: SourcePairs, held_out: SourcePairs) -> list[str]:
    """A warning if prompts of the training pairs are also held out."""
    seen = {pair.prompt for pair in training.kept}
    shared = sum(pair.prompt in seen for pair in held_out.kept)
    if not shared:
        return []
    return [
        f"{shared} of {counted(len(held_out.kept), 'pair')} of {held_out.name} have a prompt that "
        f"is also in {training.name}; the accuracy on new prompts will be lower"
    ]


def _warn(texts: Iterable[str], report: Report) -> None:
    for text in texts:
        report(Warned(text))
