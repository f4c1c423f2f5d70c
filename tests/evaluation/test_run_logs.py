"""What runs logged: which figures, at which update, and what is refused."""

from math import isnan
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import arms, run_logs
from salsa_cli.evaluation.run_logs import Figure, RunLog
from salsa_cli.records import write_json
from tests.support import tiny


def row(update: int, **changes: Any) -> dict[str, Any]:
    figures = dict.fromkeys(run_logs.PLAIN, update / 10)
    return {"update": update, **figures, "watched": {}, "kl_anchors": {}, **changes}


def estimate(mean: float, error: float | None = 0.5) -> dict[str, float | None]:
    return {"mean": mean, "standard_error": error}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    return tiny.write_rows(folder / "metrics.jsonl", rows).parent


def read(*folders: Path) -> list[RunLog]:
    (arm,) = arms.parse([f"x={','.join(map(str, folders))}"])
    return run_logs.read(arm)


def test_the_figures_of_a_row(tmp_path: Path) -> None:
    held_out = {
        "reward": estimate(1.0),
        "watch": {"gold": estimate(2.0)},
        "kl": {"start": estimate(3.0, None)},
        "length": estimate(4.0),
        "finished": estimate(0.5),
    }
    rows = [
        row(1, watched={"gold": 7.0}, kl_anchors={"reference": 1.0, "p/sft": 2.0}),
        row(2, reward=None, watched={"gold": 8.0}, heldout=held_out),
    ]
    rows[0]["heldout_start"] = {**held_out, "reward": estimate(0.0)}
    (log,) = read(write(tmp_path / "run", rows))
    series = log.series
    assert series[Figure("kl")].updates == (1, 2) and series[Figure("kl")].values == (0.1, 0.2)
    assert series[Figure("kl")].errors is None
    assert series[Figure("watched", "gold")].values == (7.0, 8.0)
    assert series[Figure("kl_anchors", "p/sft")].updates == (1,)
    assert Figure("kl_anchors", "reference") not in series
    assert isnan(series[Figure("reward")].values[1])
    first = series[Figure("reward", "", True)]
    assert (first.updates, first.values, first.errors) == ((0, 2), (0.0, 1.0), (0.5, 0.5))
    assert str(Figure("kl", "start", True)) == "heldout/kl/start"
    assert str(Figure("watched", "gold")) == "watched/gold" and log.updates == 2


def test_a_run_that_goes_on_is_read_to_its_last_whole_row(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [row(1), row(2)])
    file = folder / "metrics.jsonl"
    file.write_text(file.read_text() + '{"update": 3, "rew')
    before = file.read_bytes()
    (log,) = read(folder)
    assert log.updates == 2 and file.read_bytes() == before


def test_settings_and_digests(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [row(1)])
    inputs = {
        "reference": {"path": "ref/", "weights_xxh3": "0123456789"},
        "rewards": [{"path": "a", "weights_xxh3": "aaaaaaaaaa"}, {"path": "b"}],
        "prompts": {"source": "p", "sha256": {"p": "fedcba98765"}},
    }
    settings = {"seed": 3, "kl_coef": 0.1, "gone": 1}
    made = {"command": "ppo", "settings": settings, "inputs": inputs}
    write_json(folder / "salsa.json", made)
    (log,) = read(folder)
    assert log.seed == 3 and log.settings["kl_coef"] == 0.1
    # A setting that an older version did not have was at its default.
    assert log.settings["clip"] == 0.2 and "gone" not in log.settings
    assert log.settings["contents of reference"] == "01234567"
    assert log.settings["contents of rewards"] == "aaaaaaaa"
    assert log.settings["contents of prompts"] == "fedcba98"


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(SalsaError, match=r"model has no metrics.jsonl.*add --prompts and --judge"):
        read(tmp_path / "model")
    with pytest.raises(SalsaError, match="no update is finished yet"):
        read(write(tmp_path / "new", []))
    with pytest.raises(SalsaError, match=r"metrics.jsonl, row 2: not a row of salsa ppo"):
        read(write(tmp_path / "other", [row(1), {"step": 1, "loss": 2.0}]))
    run = write(tmp_path / "run", [row(1)])
    (run / "snapshots" / "000001").mkdir(parents=True)
    (arm,) = arms.parse([f"{run}@1"])
    with pytest.raises(UsageError, match="a snapshot has no curves; pass the run"):
        run_logs.read(arm)
