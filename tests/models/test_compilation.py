"""Layers compiled for training: the same results, and nothing else is compiled."""

from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from salsa_cli import ppo
from salsa_cli.devices.runtime import Runtime
from salsa_cli.devices.sharding import Sharding
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.generation import rollouts
from salsa_cli.models import compilation
from salsa_cli.records import read_rows
from salsa_cli.rl import experience, learning, preflight
from salsa_cli.runs.events import Event, Note, silent
from tests.support import ppo_runs
from tests.support.worlds import World


@pytest.mark.slow
def test_a_compiled_run_is_the_plain_one_and_generates_uncompiled(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers are traced as ever, and not made C++, which would take half a minute."""
    from torch._dynamo.backends.debugging import aot_eager
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", aot_eager)
    made: Counter[str] = Counter()

    def count(room: ModuleType, name: str) -> None:
        work = getattr(room, name)

        def counting(*given: Any, **options: Any) -> object:
            before = counters["stats"]["unique_graphs"]
            found = work(*given, **options)
            made[name] += counters["stats"]["unique_graphs"] - before
            return found

        monkeypatch.setattr(room, name, counting)

    count(rollouts, "sample")
    count(experience, "compute_rollout")
    count(learning, "learn")
    folders = [tmp_path / name for name in ("plain", "compiled")]
    for folder in folders:
        changes: dict[str, Any] = {"updates": 2, "compile": folder.name == "compiled"}
        config = ppo_runs.configure(world, folder, **changes)
        heard: list[Event] = []
        ppo.run(config, heard.append)
        said = any(isinstance(event, Note) and "compiles" in event.text for event in heard)
        assert said == config.compile == bool(made["compute_rollout"]) == bool(made["learn"])
    assert made["sample"] == 0
    rows = [read_rows(folder / "metrics.jsonl") for folder in folders]
    for plain, ours in zip(*rows, strict=True):
        assert ours["ratio_error"] == 0.0
        figures = {name: value for name, value in plain.items() if isinstance(value, float)}
        assert {name: ours[name] for name in figures} == pytest.approx(figures, abs=1e-5, rel=1e-5)
    weights, ours = (load_file(folder / "model.safetensors") for folder in folders)
    for name, weight in weights.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=0, msg=name)


def test_a_model_that_cannot_be_compiled_is_one_clear_error(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object, **options: object) -> None:
        raise ValueError("no such instruction")

    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    config = ppo_runs.configure(world, tmp_path / "policy", compile=True)
    with pytest.raises(SalsaError, match=r"PyTorch cannot compile .*no such instruction"):
        ppo.run(config, silent)
    assert not config.output.exists()


def test_without_a_compiler_of_cpp_nothing_is_begun(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SalsaError, match=r"--compile needs a C\+\+ compiler"):
        ppo.run(ppo_runs.configure(world, tmp_path / "policy", compile=True), silent)
    compilation.check(torch.device("cuda"))  # Triton brings its own


def test_spread_layers_are_not_compiled(world: World, tmp_path: Path) -> None:
    config = ppo_runs.configure(world, tmp_path / "policy", compile=True)
    spread = SimpleNamespace(processes=2, nearby=2, sharding=Sharding())
    with pytest.raises(UsageError, match="--compile and --shard"):
        preflight.check_processes(config, cast("Runtime", spread))
