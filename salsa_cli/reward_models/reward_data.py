"""The pairs that a reward model is trained on and judged by, from the files that a run names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from salsa_cli import data
from salsa_cli.data import Source, stable_seed
from salsa_cli.errors import SalsaError
from salsa_cli.reports import Note, Report, Warned, counted
from salsa_cli.reward_models import pairs
from salsa_cli.reward_models.pairs import Dropped, EncodedPair, EncodedPairs
from salsa_cli.reward_models.preferences import (
    MARGIN,
    Contest,
    Preference,
    contests,
    has_contests,
    preferences,
)
from salsa_cli.reward_models.train_rm_config import TrainRMConfig
from salsa_cli.tokens import Tokenizer, template_warning

WIDE_MARGIN = 10.0
"""A lead in score from which on a pair is decided for good, and margins deserve a look."""


class RewardData(NamedTuple):
    """Pairs to train on, pairs held out, and what is to be known of the sources.

    `dropped` are the pairs that were left out of each source, `cut` the rows of which an answer
    lost its end, `warnings` what was said of the data.
    """

    training: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    dropped: Mapping[str, tuple[Dropped, ...]]
    cut: Mapping[str, tuple[int, ...]]
    warnings: tuple[str, ...]


class Reader:
    """Reads sources for one model, and remembers what it had to warn of."""

    def __init__(
        self, model: Path, tokenizer: Tokenizer, limit: int, config: TrainRMConfig, report: Report
    ) -> None:
        self.warnings: list[str] = []
        self._model = model
        self._tokenizer = tokenizer
        self._limit = limit
        self._config = config
        self._report = report

    def training_pairs(self, name: str) -> EncodedPairs:
        """The pairs of a source, encoded."""
        return self._pairs(data.read(name))

    def held_out_pairs(self, name: str) -> EncodedPairs:
        """The same; the source may also hold contests, as RewardBench 2 does."""
        source = data.read(name)
        return self._contests(source) if has_contests(source) else self._pairs(source)

    def warn(self, text: str) -> None:
        """Say it now, and keep it for the record."""
        self.warnings.append(text)
        self._report(Warned(text))

    def _contests(self, source: Source) -> EncodedPairs:
        given = contests(source)
        self._refuse_holes(source, given)
        config = self._config
        encoded = pairs.encode_contests(self._tokenizer, given, self._limit, config.on_long)
        return self._kept(source.name, encoded, len(given), "prompt")

    def _pairs(self, source: Source) -> EncodedPairs:
        config = self._config
        given = preferences(source, config.margin)
        self._refuse_holes(source, given)
        if config.margin is None and MARGIN in source.rows[0]:
            self._report(
                Note(f"{source.name} has a column '{MARGIN}'; --margin {MARGIN} would use it")
            )
        self._look_at(source.name, given)
        encoded = pairs.encode(self._tokenizer, given, self._limit, config.on_long)
        return self._kept(source.name, encoded, len(source.rows), "pair")

    def _refuse_holes(self, source: Source, given: Sequence[Preference | Contest]) -> None:
        holes = [one for one in given if one.hole]
        if self._config.on_empty == "drop" or not holes:
            return
        others = counted(len(holes) - 1, "more row")
        more = f" (as {'does' if len(holes) == 2 else 'do'} {others})" if len(holes) > 1 else ""
        raise source.error(
            holes[0].row - 1,
            f"column '{holes[0].hole}' holds an empty answer{more}; expected text. "
            "--on-empty drop leaves such pairs out",
        )

    def _look_at(self, name: str, given: Sequence[Preference]) -> None:
        """Warn of what is no error and may yet be one."""
        if warning := template_warning(self._model, self._tokenizer, [one.prompt for one in given]):
            self.warn(warning)
        if rows := [p.row for p in given if p.scores is not None and p.scores[0] < p.scores[1]]:
            self.warn(
                f"{name}: in {counted(len(rows), 'pair')} the rejected answer has the higher score "
                f"(first in row {rows[0]}); they are used as they are labelled"
            )
        if rows := [one.row for one in given if one.empty and not one.hole]:
            self.warn(
                f"{name}: {counted(len(rows), 'rejected answer')} without text, and scored by "
                f"raters (first in row {rows[0]}): the model learns that saying nothing is worse"
            )
        if rows := [one.row for one in given if abs(one.margin) > WIDE_MARGIN]:
            self.warn(
                f"{name}: {counted(len(rows), 'margin')} beyond {WIDE_MARGIN:g} (first in row "
                f"{rows[0]}); a lead of 10 is a probability of 99.995 %. Scale the column down"
            )

    def _kept(self, name: str, encoded: EncodedPairs, count: int, unit: str) -> EncodedPairs:
        """The same; says how many of `count` were left out, and why."""
        reasons = "; ".join(one.text() for one in encoded.dropped)
        left_out = sum(len(one.rows) for one in encoded.dropped)
        if not encoded.kept:
            raise SalsaError(f"{name}: nothing is left of {counted(count, unit)}: {reasons}")
        if left_out:
            self.warn(f"{name}: {left_out} of {counted(count, unit)} left out: {reasons}")
        if encoded.cut:
            self.warn(
                f"{name}: {len(encoded.cut)} of {counted(count, unit)} cut to {self._limit} tokens "
                f"(first in row {encoded.cut[0]}), so that their answers have no end"
            )
        return encoded


def load(
    model: Path, tokenizer: Tokenizer, limit: int, config: TrainRMConfig, report: Report
) -> RewardData:
    """Read, check, encode and split; longer pairs than `limit` tokens are too long.

    Raises:
        SalsaError: a file is missing or wrong, or no pair is left of it.
    """
    reader = Reader(model, tokenizer, limit, config, report)
    given = reader.training_pairs(config.data)
    dropped, cut = {config.data: given.dropped}, {config.data: given.cut}
    if config.eval_data is None:
        seed = stable_seed(config.seed, "held-out")
        sides = pairs.split_by_prompt(given.kept, config.held_out_share, seed)
        return RewardData(*sides, dropped, cut, tuple(reader.warnings))
    apart = reader.held_out_pairs(config.eval_data)
    dropped[config.eval_data], cut[config.eval_data] = apart.dropped, apart.cut
    seen = {pair.prompt for pair in given.kept}
    if shared := sum(pair.prompt in seen for pair in apart.kept):
        reader.warn(
            f"{shared} of {counted(len(apart.kept), 'pair')} of {config.eval_data} have a prompt "
            f"that is also in {config.data}; the accuracy will be too high for new prompts"
        )
    return RewardData(given.kept, apart.kept, dropped, cut, tuple(reader.warnings))
