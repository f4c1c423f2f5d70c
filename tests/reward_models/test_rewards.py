"""Rewards: their sources, ensembles and scales, own tokenizers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.maths import ensembles
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models import rewards
from salsa_cli.reward_models.rewards import Ensemble, RewardScale
from tests.support import tiny
from tests.support.ppo_runs import configure_anchored as configure
from tests.support.ppo_runs import rows_of
from tests.support.worlds import World

SCORES = torch.tensor([[1.0, 2.0], [3.0, 2.0], [8.0, -1.0]])


def functions(folder: Path, **bodies: str) -> dict[str, str]:
    """Reward functions by name, in one file: each body is an expression of an answer `a`."""
    lines = [
        f"def {n}(prompts, answers):\n    return [{b} for a in answers]\n"
        for n, b in bodies.items()
    ]
    (folder / "taste.py").write_text("".join(lines))
    return {name: f"{folder / 'taste.py'}:{name}" for name in bodies}


def test_ensembles_by_hand() -> None:
    assert ensembles.mean(SCORES).tolist() == [4.0, 1.0]
    assert ensembles.least(SCORES).tolist() == [1.0, -1.0]
    # variances 26/3 and 2
    expected = [4 - 0.1 * 26 / 3, 1 - 0.1 * 2]
    assert ensembles.uncertainty_weighted(SCORES, 0.1).tolist() == pytest.approx(expected)
    torch.testing.assert_close(ensembles.uncertainty_weighted(SCORES, 0.0), ensembles.mean(SCORES))


@pytest.mark.parametrize(
    ("rule", "expected"), [("mean", 2.0), ("min", 1.0), ("uncertainty", 2.0 - 0.5 * 1.0)]
)
def test_an_ensemble_is_what_the_policy_is_trained_on(
    world: World, tmp_path: Path, rule: str, expected: float
) -> None:
    names = functions(tmp_path, one="1.0", three="3.0", watched="7.0")
    weight = {"uncertainty_weight": 0.5} if rule == "uncertainty" else {}
    row = rows_of(
        configure(
            world,
            tmp_path / "policy",
            reward=(names["one"], names["three"]),
            watch_reward=(names["watched"],),
            ensemble=rule,
            updates=1,
            **weight,
        )
    )[0]
    assert row["reward"] == pytest.approx(expected)
    assert row["rewards"] == {names["one"]: 1.0, names["three"]: 3.0}
    assert row["watched"] == {names["watched"]: 7.0}


def test_a_watched_reward_changes_nothing(world: World, tmp_path: Path) -> None:
    names = functions(tmp_path, length="float(len(a))")
    plain = rows_of(configure(world, tmp_path / "plain"))
    watching = rows_of(configure(world, tmp_path / "watching", watch_reward=(names["length"],)))
    for ours, theirs in zip(watching, plain, strict=True):
        assert ours["watched"] and {**ours, "watched": {}, "time": 0} == {**theirs, "time": 0}


def test_the_scale_makes_the_starts_answers_standard(world: World, tmp_path: Path) -> None:
    names = functions(tmp_path, length="100.0 + 10 * len(a)", other="0.001 * len(a)")
    config = configure(
        world,
        tmp_path / "policy",
        reward=tuple(names.values()),
        normalize_reward=True,
        updates=1,
        batch_size=64,
    )
    row = rows_of(config)[0]
    # 64 fresh answers: the mean of a standard variable has the error 1/8, so 4 of them.
    assert abs(row["reward"]) < 0.5
    assert 0.7 < row["reward_std"] < 1.3
    made = json.loads((config.output / "salsa.json").read_text())
    first, second = (made["reward_scale"][name] for name in names.values())
    assert first["mean"] > 100 and first["std"] == pytest.approx(10_000 * second["std"], rel=1e-4)


def test_scores_are_scaled_member_by_member() -> None:
    class Given:
        def __init__(self, values: list[float]) -> None:
            self.values = values

        def score(self, prompts: Any, answers: Any) -> torch.Tensor:
            return torch.tensor(self.values)

    members = (Given([1.0, 3.0]), Given([10.0, 20.0]))
    made = Ensemble(members, ensembles.mean, (RewardScale(1.0, 2.0), RewardScale(10.0, 5.0)))
    scores = made.score(["p", "p"], [Answer("a"), Answer("b")])
    assert scores.members.tolist() == [[0.0, 1.0], [0.0, 2.0]]
    assert scores.total.tolist() == [0.0, 1.5]


def test_equal_scores_keep_their_size() -> None:
    assert RewardScale.of(torch.tensor([3.0, 3.0])) == RewardScale(3.0, 1.0)


def test_a_reward_model_reads_the_text_with_its_own_tokens(world: World, tmp_path: Path) -> None:
    """The same words under other ids, permuted with the embedding: the same scores."""
    from safetensors.torch import load_file, save_file

    other = tiny.save_reward_model(tmp_path / "other")
    words = tiny.WORDS[::-1]
    tiny.tokenizer(words=words).save_pretrained(other)
    tensors = load_file(other / "model.safetensors")
    name = "model.embed_tokens.weight"
    order = [*range(4), *(4 + tiny.WORDS.index(word) for word in words)]
    tensors[name] = tensors[name][order].contiguous()
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    own = rows_of(configure(world, tmp_path / "own", critic="policy"))
    theirs = rows_of(configure(world, tmp_path / "theirs", critic="policy", reward=(str(other),)))
    assert [row["reward"] for row in own] == pytest.approx([row["reward"] for row in theirs])
    made = json.loads((tmp_path / "theirs" / "salsa.json").read_text())
    assert made["inputs"]["critic"]["path"] == str(world.a)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("float('nan')", "returned a score that is not a finite"),
        ("1 / 0", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_fails_is_named(tmp_path: Path, body: str, words: str) -> None:
    name = functions(tmp_path, bad=body)["bad"]
    with pytest.raises(SalsaError) as caught:
        rewards.load(name, start_runtime("cpu")).score(["p"], [Answer("a")])
    assert words in str(caught.value) and "taste.py:bad" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return '1234'[: len(a)]", "returned str; expected a list with one number per answer"),
        ("return {0: 1.0, 1: 2.0}", "returned dict; expected a list with one number per answer"),
        ("return {1.0, 2.0}", "returned set; expected"),
        ("return ['1.0', '2.0']", "returned texts; expected a list with one number per answer"),
        ("return [1e300, 1.0]", "not a finite float32 number"),
        ("return None", "returned None; expected a list with one number per answer"),
        ("return 1.0", "returned float; expected a list with one number per answer"),
        (
            "import torch; return torch.ones(2, 2)",
            "returned Tensor of shape [2, 2]; expected a list",
        ),
        ("import torch; return torch.tensor(1.0)", "returned Tensor of shape []; expected a list"),
        ("import numpy; return numpy.ones((2, 3))", "returned ndarray of shape [2, 3]; expected"),
        (
            "return [[1.0, 2.0], [3.0, 4.0]]",
            "returned list of list; expected a list with one number",
        ),
        ("return [None, 1.0]", "returned list of None, float; expected a list with one number"),
        ("return (float(x) for x in ['1', 'one'])", "failed: ValueError: could not convert"),
        ("return [1.0]", "returned 1 score for 2 answers"),
        ("a.clear(); return []", "returned 0 scores for 2 answers"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("raise GeneratorExit", "failed: GeneratorExit"),
    ],
)
def test_what_is_no_list_of_scores_is_refused(tmp_path: Path, body: str, words: str) -> None:
    file = tmp_path / "odd.py"
    file.write_text(f"def score(p, a):\n    {body}\n")
    name = rewards.resolve(f"{file}:score")
    with pytest.raises(SalsaError) as caught:
        rewards.load(name, start_runtime("cpu")).score(["p", "q"], [Answer("a"), Answer("b")])
    assert words in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_a_coroutine_is_refused_without_a_warning_of_python(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("async def score(p, a):\n    return [1.0]\n")
    scorer = rewards.load(f"{tmp_path / 'odd.py'}:score", start_runtime("cpu"))
    with pytest.raises(
        SalsaError, match="returned coroutine; expected a list with one number per a"
    ):
        scorer.score(["p"], [Answer("a")])


@pytest.mark.parametrize("made", ["torch.tensor([1.0, 2.0], requires_grad=True)", "[[1.0], [2.0]]"])
def test_tensors_of_one_number_per_answer_are_scores(tmp_path: Path, made: str) -> None:
    file = tmp_path / "odd.py"
    given = made if made.startswith("torch") else f"torch.tensor({made})"
    file.write_text(f"import torch\ndef score(p, a):\n    return {given}\n")
    scorer = rewards.load(f"{file}:score", start_runtime("cpu"))
    assert scorer.score(["p", "q"], [Answer("a"), Answer("b")]).tolist() == [1.0, 2.0]


def test_what_a_function_prints_stays_off_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--json` is one object whatever the function says while it is imported and called."""
    file = tmp_path / "loud.py"
    file.write_text("print('hello')\ndef score(p, a):\n    print(a)\n    return [0.0] * len(a)\n")
    name = rewards.resolve(f"{file}:score")
    rewards.load(name, start_runtime("cpu")).score(["the"], [Answer("cat", True)])
    said = capfd.readouterr()
    assert said.out == "" and "hello" in said.err and "['cat']" in said.err


def test_the_length_correlation_is_numpys(world: World, tmp_path: Path) -> None:
    name = functions(tmp_path, words="float(len(a.split()) ** 2)")["words"]
    row = rows_of(configure(world, tmp_path / "policy", reward=(name,), updates=1))[0]
    assert 0.5 < row["length_reward_correlation"] <= 1
    assert math.isfinite(row["length_reward_correlation"])
    constant = functions(tmp_path, same="1.0")["same"]
    row = rows_of(configure(world, tmp_path / "flat", reward=(constant,), updates=1))[0]
    assert row["length_reward_correlation"] == 0.0
    assert np.isfinite([row["policy_loss"], row["value_loss"], row["objective"]]).all()
