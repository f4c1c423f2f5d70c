"""The names of judges: what each kind expects behind its colon."""

from pathlib import Path

import pytest

from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import judges
from tests.support.worlds import World


def test_a_reward_model_and_a_language_model_are_folders(world: World) -> None:
    scored = judges.parse(f"rm:{world.rm}")
    assert (scored.kind, scored.source, scored.scores) == ("rm", str(world.rm), True)
    written = judges.parse(f"hf:{world.a}")
    assert (written.kind, written.source, written.scores) == ("hf", str(world.a), False)
    assert written.name == f"hf:{world.a}"


def test_a_model_behind_an_api_is_not_looked_for() -> None:
    found = judges.parse("openai:org/model:free")
    assert (found.kind, found.source, found.scores) == ("openai", "org/model:free", False)


def test_a_function_is_a_file_and_a_name(tmp_path: Path) -> None:
    path = tmp_path / "taste.py"
    path.write_text("def score(prompts, answers):\n    return [0.0] * len(answers)\n")
    found = judges.parse(f"python:{path}:score")
    assert found.scores and found.source == f"{path}:score"


@pytest.mark.parametrize("name", ["who", "rm:", "human:me", ":x", ""])
def test_other_kinds_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=f"--judge {name}: expected rm:MODEL"):
        judges.parse(name)


def test_a_kind_with_a_source_of_another_kind(world: World, tmp_path: Path) -> None:
    path = tmp_path / "taste.py"
    path.write_text("def score(prompts, answers):\n    return [0.0] * len(answers)\n")
    with pytest.raises(UsageError, match="expected a model folder or hub id after 'rm:'"):
        judges.parse(f"rm:{path}:score")
    with pytest.raises(UsageError, match=r"expected FILE.py:FUNCTION after 'python:'"):
        judges.parse(f"python:{world.rm}")


@pytest.mark.parametrize("kind", ["rm", "hf"])
def test_a_folder_that_is_missing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SalsaError, match="no such folder"):
        judges.parse(f"{kind}:{tmp_path / 'none'}")
