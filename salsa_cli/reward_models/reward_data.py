"""The pairs that a reward model is trained on and judged by, from the files that a run names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from salsa_cli import data
from salsa_cli.data import stable_seed
from salsa_cli.errors import SalsaError
from salsa_cli.reports import Note, Report, Warned
from salsa_cli.reward_models import pairs
from salsa_cli.reward_models.pairs import Dropped, EncodedPair, EncodedPairs
from salsa_cli.reward_models.preferences import MARGIN, contests, has_contests, preferences
from salsa_cli.reward_models.train_rm_config import TrainRMConfig
from salsa_cli.tokens import Tokenizer, template_warning


class RewardData(NamedTuple):
    """Pairs to train on, pairs held out, and what was left out of each file."""

    training: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    dropped: Mapping[str, tuple[Dropped, ...]]


def load(
    model: Path, tokenizer: Tokenizer, limit: int, config: TrainRMConfig, report: Report
) -> RewardData:
    """Read, check, encode and split; longer pairs than `limit` tokens are too long.

    Raises:
        SalsaError: a file is missing or wrong, or no pair is left of it.
    """
    given = _read(config.data, model, tokenizer, limit, config, report)
    dropped = {config.data: given.dropped}
    if config.eval_data is None:
        seed = stable_seed(config.seed, "held-out")
        return RewardData(*pairs.split_by_prompt(given.kept, config.eval_share, seed), dropped)
    apart = _read(config.eval_data, model, tokenizer, limit, config, report)
    _warn_of_overlap(given.kept, apart.kept, config, report)
    return RewardData(given.kept, apart.kept, {**dropped, config.eval_data: apart.dropped})


def _read(
    name: str,
    model: Path,
    tokenizer: Tokenizer,
    limit: int,
    config: TrainRMConfig,
    report: Report,
) -> EncodedPairs:
    """The pairs of one source, encoded; says what was dropped and what looks odd."""
    source = data.read(name)
    if name == config.eval_data and has_contests(source):
        given_contests = contests(source)
        encoded = pairs.encode_contests(tokenizer, given_contests, limit, config.on_long)
        return _kept(name, encoded, len(given_contests), "prompts", report)
    given = preferences(source, config.margin)
    if config.margin is None and MARGIN in source.rows[0]:
        report(Note(f"{name} has a column '{MARGIN}'; --margin {MARGIN} would use it"))
    if warning := template_warning(model, tokenizer, [pair.prompt for pair in given]):
        report(Warned(warning))
    reversed_rows = [p.row for p in given if p.scores is not None and p.scores[0] < p.scores[1]]
    if reversed_rows:
        report(
            Warned(
                f"{name}: in {len(reversed_rows)} pairs the rejected answer has the higher score "
                f"(first in row {reversed_rows[0]}); they are used as they are labelled"
            )
        )
    empty = [pair.row for pair in given if not pair.rejected.text.strip()]
    if empty:
        report(
            Warned(
                f"{name}: {len(empty)} rejected answers are empty (first in row {empty[0]}); "
                "the model learns that saying nothing is worse"
            )
        )
    encoded = pairs.encode(tokenizer, given, limit, config.on_long)
    return _kept(name, encoded, len(given), "pairs", report)


def _kept(name: str, encoded: EncodedPairs, count: int, unit: str, report: Report) -> EncodedPairs:
    """The same; says how many of `count` were left out, and why."""
    reasons = "; ".join(one.text() for one in encoded.dropped)
    left_out = sum(len(one.rows) for one in encoded.dropped)
    if not encoded.kept:
        raise SalsaError(f"{name}: no {unit} are left of {count}: {reasons}")
    if left_out:
        report(Warned(f"{name}: {left_out} of {count} {unit} are left out: {reasons}"))
    return encoded


def _warn_of_overlap(
    training: Sequence[EncodedPair],
    held_out: Sequence[EncodedPair],
    config: TrainRMConfig,
    report: Report,
) -> None:
    seen = {pair.prompt for pair in training}
    shared = sum(pair.prompt in seen for pair in held_out)
    if shared:
        report(
            Warned(
                f"{shared} of {len(held_out)} pairs of {config.eval_data} have a prompt that is "
                f"also in {config.data}; the accuracy will be too high for new prompts"
            )
        )
