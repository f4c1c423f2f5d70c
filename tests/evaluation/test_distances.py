"""Snapshots of runs, their KL to anchors, and the frontier, by the real command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from salsa_cli import evaluate
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation import distances
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.records import read_rows
from salsa_cli.runs.events import Event, silent
from tests.support import tiny
from tests.support.worlds import World


def make_run(world: World, folder: Path, seed: int) -> Path:
    """A run of `salsa ppo` with two snapshots and its end; its weights are random."""
    tiny.save_language_model(folder, seed=10 * seed, scale=0.1)
    for update in (10, 20):
        snapshot = folder / "snapshots" / f"{update:06d}"
        snapshot.mkdir(parents=True)
        tiny.save_language_model(snapshot, seed=10 * seed + update, scale=0.05 + update / 1000)
    record = {
        "command": "ppo",
        "settings": {"seed": seed},
        "inputs": {"policy": {"path": str(world.a)}, "reference": {"path": str(world.soup)}},
    }
    (folder / "salsa.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for arm, seeds in (("salsa", (1, 2)), ("ppo", (1, 2))):
        for seed in seeds:
            make_run(world, root / f"{arm}-{seed}", seed + (2 if arm == "ppo" else 0))
            record = root / f"{arm}-{seed}" / "salsa.json"
            told = json.loads(record.read_text())
            record.write_text(json.dumps({**told, "settings": {"seed": seed}}))
    return root


def configure(world: World, output: Path, *models: str, **changes: object) -> EvalConfig:
    config = EvalConfig(
        models=models,
        prompts=str(world.prompts),
        judge=(f"rm:{world.rm}",),
        output=output,
        response_length=6,
        draws=200,
        device="cpu",
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def run(config: EvalConfig) -> EvalResult:
    result = evaluate.run(config, silent)
    assert isinstance(result, EvalResult)
    return result


def test_the_frontier_of_two_arms(world: World, runs: Path, tmp_path: Path) -> None:
    config = configure(
        world,
        tmp_path / "r",
        f"salsa={runs}/salsa-*@all",
        f"ppo={runs}/ppo-*@all",
        anchors=(str(world.a), "@start,@ref"),
    )
    result = run(config)
    found = result.frontier
    # Two arms, two runs, three points; three axes.
    assert len(found.points) == 2 * 2 * 3 * 3
    anchors = dict.fromkeys(point.anchor for point in found.points)
    assert list(anchors) == ["a", "its own start", "its own reference"]
    by_anchor = [[p.kl for p in found.points if p.anchor == name] for name in anchors]
    assert by_anchor[0] == by_anchor[1] != by_anchor[2]  # every run started from a
    means = {row.model: row.score for row in result.scores}
    assert all(point.score == pytest.approx(means[point.model]) for point in found.points)
    # The arms' last policies are compared, seed by seed.
    assert [(row.a, row.b) for row in result.pairs] == [
        ("salsa/salsa-1", "ppo/ppo-1"),
        ("salsa/salsa-2", "ppo/ppo-2"),
    ]
    for curve in found.curves:
        at = dict(zip(curve.kl, curve.score, strict=True))
        assert list(at) == sorted(at)
        assert all(
            low <= score <= high
            for low, score, high in zip(curve.low, curve.score, curve.high, strict=True)
        )
    text, _ = result.summary()
    assert "nats from a" in text
    assert run(replace(config, resume=True)) == result
    assert "Score against KL" in (tmp_path / "r" / "report.html").read_text()


def test_a_point_is_the_model_in_its_folder(world: World, runs: Path, tmp_path: Path) -> None:
    snapshot = runs / "salsa-1" / "snapshots" / "000020"
    one = run(configure(world, tmp_path / "one", f"{runs}/salsa-1@20", anchors=(str(world.a),)))
    two = run(configure(world, tmp_path / "two", f"x={snapshot}", anchors=(str(world.a),)))
    assert [row.model for row in one.scores] == ["salsa-1@20"]
    assert (one.scores[0].score, one.kl[0].kl) == (two.scores[0].score, two.kl[0].kl)


def test_what_was_measured_is_not_measured_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(world, tmp_path / "r", str(world.b), anchors=(f"{world.a},{world.soup}",))
    whole = run(replace(config, output=tmp_path / "whole"))

    def stop(event: Event) -> None:
        if "KL of b to soup" in str(event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate.run(config, stop)
    measured: list[str] = []
    along = distances.along

    def counted(*given: object) -> object:
        measured.append(str(given[4]))
        return along(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(distances, "along", counted)
    resumed = run(replace(config, resume=True))
    assert measured == ["KL of b to soup"]
    assert resumed.kl == whole.kl
    assert read_rows(tmp_path / "r" / "kl.jsonl") == read_rows(tmp_path / "whole" / "kl.jsonl")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "has no salsa.json from salsa ppo; name the model instead"),
        ({"command": "soup"}, "has no salsa.json from salsa ppo"),
        (
            {"command": "ppo", "inputs": {"reference": [{"path": "p"}, {"path": "q"}]}},
            r"has 2 references or ingredients \(p, q\); name one of them",
        ),
        (
            {"command": "ppo", "inputs": {"reference": {"path": "gone/"}}},
            "gone",
        ),
    ],
)
def test_a_reference_that_is_not_known(
    world: World, tmp_path: Path, record: object, words: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(world.a, folder)
    if record is not None:
        (folder / "salsa.json").write_text(json.dumps(record))
    with pytest.raises(SalsaError, match=words):
        run(configure(world, tmp_path / "r", str(folder), anchors=("@ref",)))
