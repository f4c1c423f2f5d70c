"""Data and models that have moved since a run began."""

import json
import shutil
from pathlib import Path

import pytest

from salsa_cli import data
from salsa_cli.config.eval import EvalConfig
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.record import record
from salsa_cli.errors import SalsaError
from salsa_cli.records import JSON
from salsa_cli.runs import checkpoints
from salsa_cli.runs.moved_inputs import content, with_moved_inputs
from salsa_cli.weights import folders


def described(path: Path) -> JSON:
    return folders.describe_files(str(path), data.local_files(str(path)))


def test_data_is_the_same_by_bytes_format_and_order(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("a", "b", "c"))
    for folder, names in ((first, "12"), (second, "12"), (other, "21")):
        folder.mkdir()
        for name, text in zip(names, ("one", "two"), strict=True):
            (folder / f"{name}.jsonl").write_text(text)
    assert content(described(first)) == content(described(second))
    assert content(described(first)) != content(described(other))
    for name, same in (("x.jsonl", True), ("x.json", False), ("x.jsonl.gz", False)):
        shutil.copyfile(first / "1.jsonl", tmp_path / name)
        found = content(described(tmp_path / name)) == content(described(first / "1.jsonl"))
        assert found is same, name


def test_data_of_the_hub_is_the_same_by_its_name() -> None:
    a, b = (folders.describe_files(name, ()) for name in ("org/a", "org/b"))
    assert content(a) != content(b) and content(a) == content(a)


def test_a_model_is_the_same_by_its_digests() -> None:
    model: dict[str, JSON] = {"path": "a", "weights_xxh3": "1", "settings_sha256": "2"}
    assert content(model) == content({**model, "path": "b"})
    assert content(model) != content({**model, "weights_xxh3": "3"})
    adapter = {**model, "base": model}
    assert content(adapter) == content({**adapter, "base": {**model, "path": "c"}})
    members: JSON = {"path": "a", "members": [model]}
    assert content(members) == content({"path": "b", "members": [{**model, "path": "b/0"}]})
    assert content({"path": "a"}) == {"path": "a"}  # nothing else is known of it


def test_only_what_is_the_same_takes_the_name_of_now(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path, text in zip(files, ("same", "same", "other"), strict=True):
        path.write_text(text)
    a, b, c = map(str, files)

    def configured(prompts: str, ref: str = "ref/") -> PPOConfig:
        return PPOConfig(ref=ref, reward="rm/", prompts=prompts, output="out")  # type: ignore[arg-type]

    settings, inputs = record(configured(a)), {"prompts": described(files[0])}
    assert with_moved_inputs(settings, inputs, configured(b))["prompts"] == b
    for other in (c, str(tmp_path / "missing.jsonl")):
        assert with_moved_inputs(settings, inputs, configured(other))["prompts"] == a
    assert with_moved_inputs(settings, {}, configured(b))["prompts"] == a  # no digest is known
    with pytest.raises(
        SalsaError, match=r"ref was .*make a link at its old place \(ln -s NEW OLD\)"
    ):
        checkpoints.check_same_settings(Path("x.pt"), settings, inputs, configured(b, "moved/"))


def test_answers_keep_their_names(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in files:
        path.write_text("same")

    def configured(*answers: str) -> EvalConfig:
        return EvalConfig(answers=answers, prompts="p.jsonl", judge="rm:rm/", output="out")  # type: ignore[arg-type]

    before = configured(f"x={files[0]}")
    inputs: dict[str, JSON] = {"answers": {"x": described(files[0])}}
    for now, same in ((f"x={files[1]}", True), (f"y={files[1]}", False)):
        settings = with_moved_inputs(
            record(before), json.loads(json.dumps(inputs)), configured(now)
        )
        assert (settings["answers"] == [now]) is same
