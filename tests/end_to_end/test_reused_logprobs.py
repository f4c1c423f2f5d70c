"""`salsa ppo --reuse-logprobs`: the same run up to rounding, with a pass of the policy less."""

from pathlib import Path

import pytest
import torch

from salsa_cli.generation import rollouts
from salsa_cli.models.forward import Module
from salsa_cli.records import read_rows
from tests.support.ppo_runs import configure, run
from tests.support.worlds import World


def test_old_log_probabilities_come_from_generation(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Module] = []
    compute = rollouts.logprobs

    def counting(model: Module, *given: object, **more: object) -> torch.Tensor:
        passes.append(model)
        return compute(model, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(rollouts, "logprobs", counting)
    found = []
    for reuse in (False, True):
        passes.clear()
        changes = {"updates": 2, "anchor_every": 0, "reuse_logprobs": reuse}
        # The first pass of the policy is then one that recomputes, in which no trial may be made.
        config = configure(world, tmp_path / str(reuse), gradient_checkpointing=reuse, **changes)
        run(config)
        # Of the reference, and of the policy where nothing is reused; in each update.
        assert len(passes) == (2 if reuse else 4)
        found.append(read_rows(config.output / "metrics.jsonl"))
    plain, reused = found
    assert [row["ratio_error"] for row in plain] == [0.0, 0.0]
    assert all(0 < row["ratio_error"] < 1e-5 for row in reused)
    for name in ("reward", "kl", "entropy", "policy_loss", "value_loss", "policy_grad_norm"):
        # Rounding of float32, which a step of Adam at a rate of 1e-3 makes somewhat larger.
        theirs = [row[name] for row in plain]
        assert [row[name] for row in reused] == pytest.approx(theirs, rel=1e-3, abs=1e-4)
