"""How the policy's weights get to the server that samples. The runs are in
`end_to_end/test_ppo_vllm.py`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli.generation.vllm import Server
from salsa_cli.generation.vllm_model import ServedModel
from salsa_cli.rl import sampling_server
from salsa_cli.rl.actors import load_actors
from salsa_cli.runs.events import silent
from tests.support.ppo_runs import begun, configure
from tests.support.worlds import World


def test_without_a_server_no_weights_are_sent(world: World, tmp_path: Path) -> None:
    run = begun(configure(world, tmp_path / "o"), tmp_path / "run")
    actors = load_actors(run)
    assert sampling_server.prepare(actors, run, silent) is actors
    assert sampling_server.sync_weights(actors, run) is actors
    assert list(run.folder.iterdir()) == []


def test_the_weights_of_a_server_leave_nothing_behind(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(configure(world, tmp_path / "o"), tmp_path / "run")
    seen: list[str] = []

    def load(self: Server, place: Path) -> None:
        seen.extend(path.name for path in place.iterdir())
        raise RuntimeError("the server has gone")

    monkeypatch.setattr(Server, "load_weights", load)
    server = Server("http://127.0.0.1:1", ServedModel("x", None, None))
    with pytest.raises(RuntimeError, match="has gone"):
        sampling_server.sync_weights(replace(load_actors(run), server=server), run)
    assert "model.safetensors" in seen
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("served", "computes", "warns"),
    [
        ("bfloat16", torch.float32, True),
        ("float16", torch.bfloat16, True),
        ("bfloat16", torch.bfloat16, False),
        ("float32", torch.bfloat16, False),
        (None, torch.float32, False),
    ],
)
def test_which_precisions_are_worth_a_warning(
    served: str | None, computes: Any, warns: bool
) -> None:
    server = Server("http://127.0.0.1:1", ServedModel("x", None, None, served))
    assert (sampling_server._other_precision(server, computes) is not None) == warns
