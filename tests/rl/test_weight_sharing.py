"""What models have of their own, by their files, beside what they have when they are loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli.models import loading, lora
from salsa_cli.models.backbones import Placement
from salsa_cli.rl import references, weight_sharing
from salsa_cli.rl.weight_sharing import Role
from tests.support import tiny
from tests.support.adapters import CPU, AdapterWorld, make


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> AdapterWorld:
    pytest.importorskip("peft", reason="peft is not installed")
    return make(tmp_path_factory.mktemp("adapted"))


def cast(
    adapted: AdapterWorld, policy: Path, critic: Path, rank: int | None = None
) -> tuple[Role, ...]:
    reference = references.find(references.parse(str(adapted.soup)))
    reward = (str(adapted.rm),)
    return weight_sharing.assign_roles(
        policy, critic, [reference], reward, (), rank=rank, moving=False
    )


def trained(model: Any) -> int:
    return sum(one.numel() for one in loading.trainable(model))


def test_adapters_have_their_factors_and_the_base_is_common(adapted: AdapterWorld) -> None:
    found = cast(adapted, adapted.a, adapted.rm)
    policy = loading.load_language_model(adapted.a, Placement(torch.float32, CPU)).model
    critic = loading.load_critic(adapted.rm, Placement(torch.float32, CPU))
    learners = [role for role in found if role.learns]
    assert [role.own for role in learners] == [trained(policy), trained(critic) - 1]  # its bias
    assert [role.part for role in found] == ["policy", "critic", "reference", "reward"]
    assert weight_sharing.shared_backbones(found) == {adapted.base.resolve(): found}


def test_whole_models_are_their_own_and_new_adapters_are_counted(adapted: AdapterWorld) -> None:
    policy, critic = cast(adapted, adapted.base, adapted.base)[:2]
    assert policy.backbone is critic.backbone is None
    assert policy.own == trained(
        loading.load_language_model(adapted.base, Placement(None, CPU)).model
    )
    assert (
        critic.own == trained(loading.load_critic(adapted.base, Placement(torch.float32, CPU))) - 16
    )  # the new head
    policy, critic = cast(adapted, adapted.base, adapted.base, rank=3)[:2]
    for role, model in (
        (policy, loading.load_language_model(adapted.base, Placement(None, CPU)).model),
        (critic, loading.load_critic(adapted.base, Placement(torch.float32, CPU))),
    ):
        lora.add(model, 3, seed=0)
        assert role.own == trained(model)
        assert role.backbone == adapted.base


def test_a_whole_reference_of_that_folder_shares_it_and_others_do_not(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    other = tiny.save_language_model(tmp_path / "other", seed=2)
    held = [references.find(references.parse(str(one))) for one in (adapted.base, other)]
    found = weight_sharing.assign_roles(adapted.a, other, held, (), (), rank=None, moving=False)
    (users,) = weight_sharing.shared_backbones(found).values()
    assert [(role.part, role.own > 0) for role in users] == [("policy", True), ("reference", False)]
