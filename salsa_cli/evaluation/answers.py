"""Generate the answers of a model, appended to a file so that a killed run can resume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies, Reply
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.generation import rollouts
from salsa_cli.models import loading, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import prompt_ids, template_warning
from salsa_cli.runs.events import Advanced, Report, Warned, Working, silent


@dataclass(frozen=True)
class Generation:
    """How answers are generated.

    Attributes:
        length: longest answer in tokens; None takes each question's own.
        temperature: divides the logits, 0 takes the likeliest token; None takes each question's
            own, or 1.
    """

    seed: int
    batch_size: int
    length: int | None = None
    temperature: float | None = None

    def length_of(self, question: Question) -> int:
        """The longest answer to a question, in tokens."""
        return question.length if self.length is None else self.length

    def temperature_of(self, question: Question) -> float:
        """The temperature at which a question is answered."""
        own = 1.0 if question.temperature is None else question.temperature
        return own if self.temperature is None else self.temperature


def generate(
    name: str,
    folder: Path,
    questions: Sequence[Question],
    how: Generation,
    file: Path,
    runtime: Runtime,
    report: Report,
) -> Replies:
    """A model's answers to all turns of all questions; those in `file` are not made again.

    Every batch is in `file` when it is finished. The seed of an answer is that of its question and
    turn, the same for all models.

    Raises:
        SalsaError: a question leaves the model no room for an answer.
    """
    replies = answer_files.stored(file)
    pending = [question for question in questions if question.id not in replies]
    if pending:
        report(Working(f"loading {folder}"))
        model = loading.load_language_model(folder, Placement(runtime.frozen_dtype, runtime.device))
        if warning := template_warning(name, model.tokenizer, [q.opening for q in pending]):
            report(Warned(warning))
        _check_room(name, model, pending, how)
        for batch, said in answer(model, pending, how, runtime, report):
            answer_files.append(file, [answer_files.row(one, said[one.id]) for one in batch])
            replies |= said
            report(Advanced(f"answers of {name}", len(replies), len(questions), "answers"))
    answer_files.write(file, questions, replies)
    return replies


def answer(
    model: LanguageModel,
    questions: Sequence[Question],
    how: Generation,
    runtime: Runtime,
    report: Report = silent,
) -> Iterator[tuple[list[Question], dict[str, tuple[Reply, ...]]]]:
    """The answers of a model, batch by batch, all turns of a question in one batch."""
    for batch in _batches(model, questions, how):
        said: dict[str, tuple[Reply, ...]] = {question.id: () for question in batch}
        for turn in range(max(question.turns for question in batch)):
            asked = [question for question in batch if question.turns > turn]
            for question, reply in zip(
                asked, _answer_turn(model, asked, said, how, runtime, report), strict=True
            ):
                said[question.id] = (*said[question.id], reply)
        yield batch, said


def prompt_of(model: LanguageModel, question: Question, replies: Sequence[Reply]) -> list[int]:
    """Token ids of the turn that follows `replies`."""
    return prompt_ids(model.tokenizer, question.conversation([reply.text for reply in replies]))


def _answer_turn(
    model: LanguageModel,
    asked: Sequence[Question],
    said: Replies,
    how: Generation,
    runtime: Runtime,
    report: Report,
) -> list[Reply]:
    """One more reply to each question; they share length and temperature (see `_batches`)."""
    sampled = rollouts.sample(
        model,
        [prompt_of(model, question, said[question.id]) for question in asked],
        [question.seed(how.seed, len(said[question.id])) for question in asked],
        length=how.length_of(asked[0]),
        temperature=how.temperature_of(asked[0]),
        runtime=runtime,
        report=report,
    )
    lengths = sampled.lengths.tolist()
    return [
        Reply(text.text, text.finished, length, tuple(ids[:length]))
        for text, length, ids in zip(
            rollouts.texts(model, sampled), lengths, sampled.responses.ids.tolist(), strict=True
        )
    ]


def _batches(
    model: LanguageModel, questions: Sequence[Question], how: Generation
) -> list[list[Question]]:
    """Questions of one temperature and nearly one length together, the longest first.

    Equal lengths waste nothing on padding, and what does not fit the memory fails at once.
    """
    lengths = {question.id: len(prompt_of(model, question, ())) for question in questions}
    groups: dict[tuple[float, int], list[Question]] = {}
    for question in sorted(questions, key=lambda q: lengths[q.id], reverse=True):
        key = (how.temperature_of(question), how.length_of(question))
        groups.setdefault(key, []).append(question)
    return [
        group[first : first + how.batch_size]
        for group in groups.values()
        for first in range(0, len(group), how.batch_size)
    ]


def _check_room(
    name: str, model: LanguageModel, questions: Sequence[Question], how: Generation
) -> None:
    """Refuse before the first answer what would not fit the model at the last."""
    context = shapes.context_length(model.folder)
    if context is None:
        return
    for question in questions:
        prompt = len(prompt_of(model, question, [Reply("")] * len(question.followups)))
        length = how.length_of(question)
        if prompt + question.turns * length > context:
            raise SalsaError(
                f"prompt {question.id}: {prompt} tokens and {_times(question.turns)}"
                f"--response-length {length} exceed the {context} tokens of {name}; "
                "shorten one of them"
            )


def _times(turns: int) -> str:
    return "" if turns == 1 else f"{turns} times "
