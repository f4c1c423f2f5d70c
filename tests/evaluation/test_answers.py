"""Generation of answers: independent of batch and order, streamed, resumed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from salsa_cli.data import Message
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation import answers
from salsa_cli.evaluation.answers import Generation
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies, Reply
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.runs.events import Advanced, Event, silent
from tests.support.worlds import World

HOW = Generation(seed=0, batch_size=4, length=6)
WORDS = "the a cat dog bird sat ran sang on mat tree".split()


def user(*words: str) -> tuple[Message, ...]:
    return (Message("user", " ".join(words)),)


QUESTIONS = [
    Question(str(i), user(*WORDS[i : i + 1 + i % 4]), ("and then",) * (i % 3), temperature=t)
    for i, t in enumerate([None, 0.0, 0.7, None, 0.0, 0.7, None, 0.5])
]


def generate(
    world: World, file: Path, questions: Sequence[Question] = QUESTIONS, how: Generation = HOW
) -> Replies:
    return answers.generate("a", world.a, questions, how, file, start_runtime("cpu"), silent)


def test_neither_batch_size_nor_order_changes_an_answer(world: World, tmp_path: Path) -> None:
    made = generate(world, tmp_path / "a.jsonl")
    assert len({reply.text for turns in made.values() for reply in turns}) > 8
    for size in (1, 3, 8):
        other = generate(world, tmp_path / f"{size}.jsonl", how=replace(HOW, batch_size=size))
        assert other == made
    turned = generate(world, tmp_path / "turned.jsonl", QUESTIONS[::-1])
    assert turned == made
    assert [q.id for q in QUESTIONS[::-1]] == list(answer_files.stored(tmp_path / "turned.jsonl"))


def test_every_turn_is_answered_after_those_before_it(world: World, tmp_path: Path) -> None:
    made = generate(world, tmp_path / "a.jsonl")
    assert {q.id: len(made[q.id]) for q in QUESTIONS} == {q.id: q.turns for q in QUESTIONS}
    greedy = replace(QUESTIONS[2], temperature=0.0)
    first, second, _ = generate(world, tmp_path / "three.jsonl", [greedy])["2"]
    told = Question("2", greedy.conversation([first.text]), temperature=0.0)
    (alone,) = generate(world, tmp_path / "one.jsonl", [told])["2"]
    assert alone == second


def test_every_turn_has_a_seed_of_its_own(world: World, tmp_path: Path) -> None:
    # So hot that the tokens follow from the random numbers alone.
    hot = replace(HOW, temperature=1e6, length=20)
    question = Question("1", user("the", "cat"), ("the cat",) * 1)
    (turns,) = generate(world, tmp_path / "a.jsonl", [question], hot).values()
    assert turns[0].token_ids[:5] != turns[1].token_ids[:5]


def test_the_greedy_answer_does_not_depend_on_the_seed(world: World, tmp_path: Path) -> None:
    one = generate(world, tmp_path / "0.jsonl")
    two = generate(world, tmp_path / "1.jsonl", how=replace(HOW, seed=1))
    greedy = [q.id for q in QUESTIONS if q.temperature == 0]
    assert [one[i] for i in greedy] == [two[i] for i in greedy]
    assert one != two
    all_greedy = generate(world, tmp_path / "2.jsonl", how=replace(HOW, temperature=0.0))
    assert [all_greedy[i] for i in greedy] == [one[i] for i in greedy]


def test_a_run_that_stopped_goes_on(world: World, tmp_path: Path) -> None:
    whole = generate(world, tmp_path / "whole.jsonl")
    file = tmp_path / "a.jsonl"

    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Advanced):
            raise Stopped

    with pytest.raises(Stopped):
        answers.generate("a", world.a, QUESTIONS, HOW, file, start_runtime("cpu"), stop)
    first = answer_files.stored(file)
    assert 0 < len(first) < len(QUESTIONS)
    marked = file.read_text().replace('"finished": true', '"finished": false')
    file.write_text(marked)
    assert {i: made for i, made in generate(world, file).items() if i not in first} == {
        i: made for i, made in whole.items() if i not in first
    }
    # What was there is not made again: the mark is still on it.
    assert all(not reply.finished for i in first for reply in answer_files.stored(file)[i])


def test_the_room_is_for_the_answers_of_all_turns(world: World, tmp_path: Path) -> None:
    question = Question("7", user("the", "cat"), ("and then",))
    model = loading.load_language_model(world.a, Placement(torch.float32, torch.device("cpu")))
    prompt = len(answers.prompt_of(model, question, [Reply("")]))
    most = (64 - prompt) // 2
    fits = replace(HOW, length=most)
    assert generate(world, tmp_path / "fits.jsonl", [question], fits)
    with pytest.raises(SalsaError, match=f"prompt 7: {prompt} tokens and 2 times"):
        generate(world, tmp_path / "a.jsonl", [question], replace(HOW, length=most + 1))


def test_a_second_turn_that_leaves_no_room(world: World, tmp_path: Path) -> None:
    question = Question("7", user(*["the"] * 20), ("cat " * 40,))
    with pytest.raises(SalsaError, match=r"prompt 7: \d+ tokens and 2 times --response-length 6"):
        generate(world, tmp_path / "a.jsonl", [question])
