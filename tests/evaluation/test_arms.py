"""Arms, their runs and policies, and which of them are compared."""

import json
from pathlib import Path

import pytest

from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import arms


def make_run(
    folder: Path, seed: int | None, snapshots: tuple[int, ...] = (), best: bool = False
) -> None:
    folder.mkdir(parents=True)
    if seed is not None:
        record = {"command": "ppo", "settings": {"seed": seed}}
        (folder / "salsa.json").write_text(json.dumps(record))
    for update in snapshots:
        (folder / "snapshots" / f"{update:06d}").mkdir(parents=True)
    if best:
        (folder / "best").mkdir()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 3):
        make_run(tmp_path / f"s{seed}", seed, (10, 20), best=True)
        make_run(tmp_path / f"p{seed}", 4 - seed)
        make_run(tmp_path / "deep" / f"seed-{seed}" / "salsa", seed)
    make_run(tmp_path / "plain", None)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_single_models_keep_their_names() -> None:
    found = arms.parse(["s1", "org/model", "x=plain", "s1@10", "s1@best"])
    assert arms.by_name(found) == {
        "s1": "s1",
        "org--model": "org/model",
        "x": "plain",
        "s1@10": "s1/snapshots/000010",
        "s1@best": "s1/best",
    }
    assert not arms.compared(found)


@pytest.mark.usefixtures("here")
def test_runs_and_points_of_an_arm() -> None:
    salsa, ppo = arms.parse(["salsa=s1@all,s2@20,s2", "ppo=p1"])
    assert [(run.name, run.seed) for run in salsa.runs] == [("salsa/s1", 1), ("salsa/s2", 2)]
    assert [point.name for point in salsa.points] == [
        "salsa/s1@10",
        "salsa/s1@20",
        "salsa/s1",
        "salsa/s2@20",
        "salsa/s2",
    ]
    assert [run.last for run in salsa.runs] == ["salsa/s1", "salsa/s2"]
    assert [point.source for point in salsa.points][:3] == [
        "s1/snapshots/000010",
        "s1/snapshots/000020",
        "s1",
    ]
    assert [point.name for point in ppo.points] == ["ppo"]
    assert arms.compared([salsa, ppo])


@pytest.mark.usefixtures("here")
def test_runs_whose_folders_have_one_name_are_told_apart_by_what_differs() -> None:
    (arm,) = arms.parse(["x=deep/*/salsa"])
    assert [run.name for run in arm.runs] == ["x/seed-1", "x/seed-2", "x/seed-3"]


@pytest.mark.usefixtures("here")
def test_runs_of_one_seed_are_matched() -> None:
    a, b = arms.parse(["a=s1,s2,s3", "b=p1,p2,p3"])  # p1 has seed 3
    assert arms.paired(a, b)
    assert [(x.source, y.source) for x, y in arms.matched(a, b)] == [
        ("s1", "p3"),
        ("s2", "p2"),
        ("s3", "p1"),
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("first", "second"), [("s1,s2", "p1,p2,p3"), ("s1,s2", "p1,plain")])
def test_other_seeds_are_matched_in_the_given_order(first: str, second: str) -> None:
    a, b = arms.parse([f"a={first}", f"b={second}"])
    assert not arms.paired(a, b)
    assert [x.source for x, _ in arms.matched(a, b)] == ["s1", "s2"]
    assert [y.source for _, y in arms.matched(a, b)] == second.split(",")[:2]


@pytest.mark.usefixtures("here")
def test_pairs_and_the_baseline() -> None:
    found = arms.parse(["a=s1,s2", "b=p3,p2", "c=plain"])
    assert arms.pairs(found, None) == [
        ("a/s1", "b/p3"),
        ("a/s2", "b/p2"),
        ("a/s1", "c"),
        ("b/p3", "c"),
    ]
    assert arms.pairs(found, "b") == [("a/s1", "b/p3"), ("a/s2", "b/p2"), ("b/p3", "c")]
    assert [(x.name, y.name) for x, y in arms.arm_pairs(found, "b")] == [("a", "b"), ("c", "b")]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["s1,s2"], "matches 2 runs; name them: NAME=s1,s2"),
        (["s*"], "matches 3 runs"),
        (["s1", "x=s2", "x=s3"], "two models are called 'x'.* for example x-2=s3"),
        (["s1", "./s1"], "for example s1-2=./s1"),
        (["x=s1@30"], "s1@30: no such snapshot; s1/snapshots has 10, 20"),
        (["x=p1@20"], "p1 has no snapshots/; salsa ppo --snapshot-every writes it"),
        (["p1@best"], "p1 has no best/; salsa ppo --keep-best writes it"),
        (["x=nowhere@all"], "no such folder: nowhere"),
    ],
)
def test_what_cannot_be_is_refused(given: list[str], words: str) -> None:
    with pytest.raises((SalsaError, UsageError), match=words):
        arms.parse(given)


def test_given_answers_are_an_arm_of_one() -> None:
    arm = arms.of_answers("x")
    assert (arm.name, arm.runs[0].last, arm.seeds) == ("x", "x", None)


@pytest.mark.usefixtures("here")
def test_the_snapshot_at_the_end_is_the_end() -> None:
    record = {"command": "ppo", "settings": {"seed": 1, "updates": 20}}
    Path("s1/salsa.json").write_text(json.dumps(record))
    (arm,) = arms.parse(["s1@all"])
    assert [point.source for point in arm.points] == ["s1/snapshots/000010", "s1"]
    (arm,) = arms.parse(["s1@20"])
    assert [point.source for point in arm.points] == ["s1/snapshots/000020"]


@pytest.mark.usefixtures("here")
def test_runs_with_another_limit_of_answers_in_training_are_named() -> None:
    for name, length in (("s1", 64), ("s2", 64), ("p1", 256), ("p2", 128)):
        path = Path(name) / "salsa.json"
        record = json.loads(path.read_text())
        record["settings"]["response_length"] = length
        path.write_text(json.dumps(record))
    given = (*arms.parse(["salsa=s1,s2", "ppo=p1,p2", "org/model", "plain"]), arms.of_answers("x"))
    more, fewer = arms.trained_with_other_lengths(given, 128)
    assert more.startswith("salsa/s1, salsa/s2 have been trained with --response-length 64, and")
    assert "128 tokens, more than in training" in more and "--response-length 64 answers" in more
    assert fewer.startswith("ppo/p1 has been trained with --response-length 256, and here")
    assert "128 tokens, fewer than in training" in fewer
