"""The KL of each compared model to each anchor, along the answers that it gave."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from salsa_cli.devices.runtime import Runtime
from salsa_cli.evaluation import answers
from salsa_cli.evaluation.anchors import Anchor
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.generation import divergence
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.models.loading import LanguageModel
from salsa_cli.runs.events import Advanced, Report, Working

TEMPERATURE = 1.0
"""Temperature of both models in a KL to an anchor."""

Distances = dict[str, dict[str, dict[str, float]]]
"""KL in nats per answer, by anchor, model and question."""


def measure(
    models: Mapping[str, Path],
    anchors: Sequence[Anchor],
    questions: Sequence[Question],
    answered: Mapping[str, Replies],
    file: Path,
    runtime: Runtime,
    report: Report,
) -> Distances:
    """The KL of each question's answers; those in `file` are not measured again.

    A row is in `file` as soon as a model and an anchor are done.
    """
    found: Distances = {anchor.name: {} for anchor in anchors}
    stored = {(row["model"], row["anchor"]): row["kl"] for row in answer_files.whole_rows(file)}
    placement = Placement(runtime.frozen_dtype, runtime.device)
    for name, folder in models.items():
        measured = [anchor for anchor in anchors if name in anchor.folders]
        missing = [anchor for anchor in measured if (name, anchor.name) not in stored]
        if missing:
            report(Working(f"loading {folder}"))
        model = loading.load_language_model(folder, placement) if missing else None
        for anchor in measured:
            if model is not None and anchor in missing:
                other = loading.load_language_model(anchor.folders[name], placement)
                stage = f"KL of {name} to {anchor.name}"
                values = along(model, other, questions, answered[name], stage, runtime, report)
                stored[name, anchor.name] = values
                row = {"model": name, "anchor": anchor.name, "kl": values}
                answer_files.append(file, [row])
            found[anchor.name][name] = stored[name, anchor.name]
    return found


def along(
    model: LanguageModel,
    anchor: LanguageModel,
    questions: Sequence[Question],
    given: Replies,
    stage: str,
    runtime: Runtime,
    report: Report,
) -> dict[str, float]:
    """KL in nats of each question's answers from a model to an anchor: the mean over its turns.

    For every answer the exact KL between the two next-token distributions is summed over its
    tokens. Both models are taken at `TEMPERATURE`, whatever temperature an answer was sampled at: a
    benchmark samples its questions at different ones, and KLs at different temperatures have no
    common mean. Of answers sampled at that temperature, the mean estimates the KL of whole answers;
    of others, it is the KL along the answers that the model gives.
    """
    rows = [
        (question.id, answers.prompt_of(model, question, turns[:turn]), reply.token_ids)
        for question in questions
        for turns in [given[question.id]]
        for turn, reply in enumerate(turns)
    ]
    sums: dict[str, list[float]] = {question.id: [] for question in questions}
    done = 0
    for places in divergence.passes([answer for _, _, answer in rows]):
        kls = divergence.answer_kls(
            model.model,
            [anchor.model],
            [rows[place][1] for place in places],
            [rows[place][2] for place in places],
            temperature=TEMPERATURE,
            runtime=runtime,
        )
        for place, value in zip(places, kls[:, 0].tolist(), strict=True):
            sums[rows[place][0]].append(value)
        done += len(places)
        report(Advanced(stage, done, len(rows), "answers"))
    return {name: float(np.mean(values)) for name, values in sums.items()}
