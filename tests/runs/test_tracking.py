"""Trackers: what TensorBoard holds after a run and after a resumed one; missing packages."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from salsa_cli.errors import SalsaError
from salsa_cli.records import JSON
from salsa_cli.runs import tracking
from salsa_cli.runs.events import Event, Measured, Note, Warned, silent
from salsa_cli.runs.tracking import TrackedRun
from tests.support import tiny
from tests.support.trackers import scalars, texts


def run(settings: dict[str, JSON] | None = None, done: int = 0) -> TrackedRun:
    return TrackedRun("salsa-test", None, "run", settings or {}, done)


def row(update: int, **more: Any) -> Measured:
    return Measured({"update": update, "reward": update / 4, "kl_anchors": {"a": 2.0}, **more})


def test_the_numbers_of_a_row_are_flat() -> None:
    values = {"reward": 0.5, "time": {"rollout": 1.5}, "reference_end": None, "name": "x"}
    assert tracking.flat(values) == {"reward": 0.5, "time/rollout": 1.5}
    paths = {"kl_anchors": {"sft-a/": 1.0, "/models/b/": 2.0}}
    assert tracking.flat(paths) == {"kl_anchors/sft-a": 1.0, "kl_anchors/models/b": 2.0}


class Wandb(tracking.WandBTracker):  # type: ignore[misc]
    """Records what the tracker of accelerate would hand to wandb."""

    made: ClassVar[list["Wandb"]] = []

    def __init__(self, project: str, **more: Any) -> None:
        self.project, self.more, self.tables = project, more, {}
        self.made.append(self)

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, float], step: int) -> None: ...

    def log_table(self, name: str, columns: list[str], data: list[list[Any]]) -> None:
        self.tables[name] = (columns, data)

    def finish(self) -> None: ...


@pytest.mark.parametrize(
    ("name", "environment", "expected"),
    [
        (None, {}, ("salsa-test", "run")),
        (None, {"WANDB_PROJECT": "mine", "WANDB_NAME": "try"}, ("mine", "try")),
        ("asked", {"WANDB_NAME": "try"}, ("salsa-test", "asked")),
    ],
)
def test_wandb_obeys_its_variables_and_the_option(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    environment: dict[str, str],
    expected: tuple[str, str],
) -> None:
    for variable in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(tracking, "WandBTracker", Wandb)
    with tracking.tracking(["wandb"], tmp_path, replace(run(), name=name), silent):
        pass
    assert (Wandb.made[-1].project, Wandb.made[-1].more) == (expected[0], {"name": expected[1]})


def test_samples_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WandBTracker", Wandb)
    rows = [
        {"update": 1, "prompt": "why", "answer": "a | b\nc", "reward": 0.5},
        {"update": 2, "prompt": [{"role": "user"}], "answer": "d", "reward": 1.0},
    ]
    tiny.write_rows(tmp_path / "samples.jsonl", rows)
    with tracking.tracking(["wandb", "tensorboard"], tmp_path, run(), silent) as listen:
        listen(row(1))
    columns, data = Wandb.made[-1].tables["samples"]
    assert columns == ["update", "prompt", "answer", "reward"]
    assert data == [[1, "why", "a | b\nc", 0.5], [2, '[{"role": "user"}]', "d", 1.0]]
    (text,) = texts(tmp_path / "tensorboard")["samples/text_summary"]
    assert text.splitlines()[2] == "| 1 | why | a \\| b c | 0.5 |"


def test_tensorboard_holds_every_row(tmp_path: Path) -> None:
    settings = {"ref": ["a", "b"], "kl_coef": 0.05, "policy": None}
    with tracking.tracking(["tensorboard"], tmp_path, run(settings), silent) as listen:
        for update in (1, 2, 3):
            listen(row(update))
        listen(Note("not a metric"))
    found = scalars(tmp_path / "tensorboard")
    assert found["reward"] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert found["kl_anchors/a"] == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_a_resumed_run_replaces_what_it_repeats(tmp_path: Path) -> None:
    for done, updates in ((0, (1, 2, 3)), (1, (2, 3, 4))):
        with tracking.tracking(["tensorboard"], tmp_path, run(done=done), silent) as listen:
            for update in updates:
                listen(row(update))
    assert [step for step, _ in scalars(tmp_path / "tensorboard")["reward"]] == [1, 2, 3, 4]


def test_no_tracker_listens_and_writes_nothing(tmp_path: Path) -> None:
    with tracking.tracking([], tmp_path, run(), silent) as listen:
        listen(row(1))
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_installed", lambda package: package == "tensorboardX")
    tracking.check(["tensorboard"])
    with pytest.raises(SalsaError) as found:
        tracking.check(["tensorboard", "wandb", "trackio"])
    assert str(found.value) == (
        "--track wandb --track trackio: not installed in this Python; run "
        "`pip install wandb trackio`, or remove the option"
    )


def test_what_a_tracker_prints_stays_off_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Talkative:
        def start(self) -> None:
            print("welcome")

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, float], step: int) -> None: ...

        def finish(self) -> None:
            print("goodbye")

    monkeypatch.setattr(tracking, "_tracker", lambda *_: Talkative())
    with tracking.tracking(["wandb"], tmp_path, run(), silent) as listen:
        listen(row(1))
    out, err = capsys.readouterr()
    assert (out, err) == ("", "welcome\ngoodbye\n")


def test_a_tracker_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file is in the way")
    with (
        pytest.raises(SalsaError, match="--track tensorboard: failed to start"),
        tracking.tracking(["tensorboard"], tmp_path, run(), silent),
    ):
        pass


def test_the_members_of_an_ensemble_have_curves_of_their_own(tmp_path: Path) -> None:
    rows = [{"member": member, "step": step, "loss": 1.0} for member in (0, 1) for step in (1, 2)]
    with tracking.tracking(["tensorboard"], tmp_path, run(), silent) as listen:
        for one in rows:
            listen(Measured(one))
    found = scalars(tmp_path / "tensorboard")
    assert [step for step, _ in found["member-0/loss"]] == [1, 2]
    assert [step for step, _ in found["member-1/loss"]] == [3, 4]
    assert "member" not in found


@pytest.mark.parametrize("broken", ["log", "finish"])
def test_a_tracker_that_fails_on_the_way_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    logged: list[int] = []

    class Failing:
        def start(self) -> None: ...

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, float], step: int) -> None:
            logged.append(step)
            if broken == "log" and step == 2:
                raise ConnectionError("the server went away")

        def finish(self) -> None:
            if broken == "finish":
                raise ConnectionError("the server went away")

    said: list[Event] = []
    monkeypatch.setattr(tracking, "_tracker", lambda *_: Failing())
    with tracking.tracking(["wandb"], tmp_path, run(), said.append) as listen:
        for update in (1, 2, 3):
            listen(row(update))
    assert logged == ([1, 2] if broken == "log" else [1, 2, 3])
    when = "at step 2" if broken == "log" else "when finishing"
    assert said == [
        Warned(
            f"--track wandb failed {when} (the server went away) and is disabled; metrics.jsonl "
            "has every row"
        )
    ]
