"""The folder of an unfinished run, and what it tells of its end."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import Halted, SalsaError
from salsa_cli.runs import run_folder, stops
from salsa_cli.runs.events import Event, Note
from salsa_cli.runs.signals import HungUp
from salsa_cli.runs.unfinished import working_folder


def configure(output: Path, **settings: object) -> PPOConfig:
    given = {"ref": "ref/", "reward": "rm/", "prompts": "p.jsonl", "output": output, **settings}
    return PPOConfig(**given)  # type: ignore[arg-type]


def kept(folder: Path) -> str | None:
    return "2 answers" if (folder / "answers").exists() else None


def work(
    config: PPOConfig,
    end: BaseException | None,
    *,
    saves: bool = True,
    write_page: Callable[[Path], None] | None = None,
) -> list[Event]:
    events: list[Event] = []
    with working_folder(
        "ppo", config, events.append, resume=config.resume, kept=kept, write_page=write_page
    ) as folder:
        assert json.loads((folder / stops.FILE).read_text())["state"] == "running"
        if saves:
            (folder / "answers").touch()
        if end is not None:
            raise end
    return events


def test_a_stopped_run_tells_why_and_how_to_go_on_until_it_is_finished(tmp_path: Path) -> None:
    output = tmp_path / "out"
    partial = tmp_path / "out.partial"
    with pytest.raises(HungUp, match=r"SIGHUP.*keeps 2 answers; continue it with --resume"):
        work(configure(output, processes=2), HungUp())
    line = f"salsa ppo --ref ref/ --reward rm/ --prompts p.jsonl -o {output} --processes 2 --resume"
    stop = stops.read(partial)
    assert stop is not None and stop.resume == line
    page = re.sub("<[^>]*>", "", (partial / "report.html").read_text())
    assert page.index("This run is not finished") < page.index("SIGHUP") < page.index(line)
    assert page.index(line) < page.index("How it was made")
    with pytest.raises(SalsaError, match=r"an unfinished run \(20.* UTC: stopped by SIGHUP, .*\);"):
        work(configure(output), None)
    (note,) = work(configure(output, resume=True), None)
    assert isinstance(note, Note)
    assert note.text.startswith("continuing a run that ended early, 20") and "SIGHUP" in note.text
    assert [path.name for path in output.iterdir()] == ["answers"]


def test_the_command_goes_on_without_the_setting_that_stopped_the_run(tmp_path: Path) -> None:
    for origin, first in (
        ("--stop-on", ""),
        ("salsa.toml [ppo]", "Change salsa.toml [ppo] first."),
    ):
        names = ("kl-jump", "missing-end")
        settings = {"stop_on": names, "origins": {"stop_on": origin}, "force": True}
        config = configure(tmp_path / "out", **settings)
        with pytest.raises(Halted):
            work(config, Halted("stopped by kl-jump", {"stop_on": ("missing-end",)}))
        stop = stops.read(tmp_path / "out.partial")
        assert stop is not None and stop.first == first
        assert stop.resume.endswith(f"--stop-on missing-end -o {tmp_path / 'out'} --resume")


def test_a_result_that_the_run_will_replace_stays_to_be_replaced(tmp_path: Path) -> None:
    """Without --force, --resume would take it for the end of this run."""
    output = tmp_path / "out"
    work(configure(output), None)
    (output / "salsa.json").touch()
    with pytest.raises(KeyboardInterrupt, match="continue it with --resume --force"):
        work(configure(output, force=True), KeyboardInterrupt())
    stop = stops.read(tmp_path / "out.partial")
    assert stop is not None and stop.resume.endswith("--force --resume")
    (output / "salsa.json").write_text('{"settings": {}, "result": {}}')
    with pytest.raises(SalsaError, match=r"is complete, and .*Continue that one with --resume --f"):
        run_folder.finished("salsa.json", configure(output, resume=True))


def test_a_run_with_nothing_worth_keeping_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SalsaError):
        work(configure(tmp_path / "out"), SalsaError("no"), saves=False)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise ValueError("half a line")

    with pytest.raises(SalsaError, match="the cause"):
        work(configure(tmp_path / "out"), SalsaError("the cause"), write_page=fail)
    assert stops.read(tmp_path / "out.partial") is not None
