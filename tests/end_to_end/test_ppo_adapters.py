"""PPO with adapters: four models on one backbone compute what four models of their own do."""

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from salsa_cli import ppo, soup
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.soup import SoupConfig
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models import backbones, loading, lora, saving
from salsa_cli.models.backbones import Backbones, Placement
from salsa_cli.records import read_rows
from salsa_cli.rl.actors import Actors, load_actors
from salsa_cli.runs import checkpoints, run_folder
from salsa_cli.runs.events import Event, Measured, Note, silent
from tests.support import tiny
from tests.support.adapters import CPU, AdapterWorld, held_bytes, logits
from tests.support.ppo_runs import configure_adapted as configure
from tests.support.ppo_runs import rows_without_time


@dataclass(frozen=True)
class Ran:
    """A finished run: its rows without times, what it wrote, and the bytes its models held."""

    output: Path
    rows: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]
    held: int


def run(config: PPOConfig) -> Ran:
    held: list[int] = []
    load = load_actors

    def counted(*given: Any) -> Actors:
        cast = load(*given)
        held.append(held_bytes(*models_of(cast)))
        return cast

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "load_actors", counted)
        ppo.run(config, silent)
    name = "adapter_model.safetensors"
    file = config.output / (name if (config.output / name).exists() else "model.safetensors")
    return Ran(config.output, rows_without_time(config.output), load_file(file), held[0])


def models_of(cast: Actors) -> Iterator[Any]:
    yield cast.policy.model
    yield from cast.references
    yield cast.critic.model
    yield from (member.model for member in cast.reward.members)  # type: ignore[attr-defined]


def assert_same(one: Ran, other: Ran, tolerance: float) -> None:
    for ours, theirs in zip(one.rows, other.rows, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if value is None:
                assert theirs[name] is None, name
            else:
                assert theirs[name] == pytest.approx(value, abs=tolerance, rel=tolerance), name
    for name, tensor in one.weights.items():
        torch.testing.assert_close(other.weights[name], tensor, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def together(adapted: AdapterWorld, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(configure(adapted, tmp_path_factory.mktemp("together") / "policy"))


def test_the_shared_backbone_computes_what_four_models_do(
    adapted: AdapterWorld, together: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("load", "borrow"):
        monkeypatch.setattr(Backbones, name, staticmethod(backbones.unshared))
    apart = run(configure(adapted, tmp_path / "policy"))
    assert_same(together, apart, 1e-5)
    base = held_bytes(
        loading.load_language_model(adapted.base, Placement(torch.float32, CPU)).model
    )
    # Critic and reward model do without the output layer.
    unneeded = 2 * load_file(adapted.base / "model.safetensors")["lm_head.weight"].nbytes
    assert apart.held - together.held == 3 * base - unneeded
    moved = load_file(adapted.a / "adapter_model.safetensors")
    assert all(not torch.equal(moved[name], together.weights[name]) for name in moved)


def test_frozen_adapters_stand_for_the_whole_models_that_they_make(
    adapted: AdapterWorld, together: Ran, tmp_path: Path
) -> None:
    """Reference and reward model merged by other means; what learns keeps its adapter."""
    import peft

    pair = (str(adapted.a), str(adapted.b))
    whole = tmp_path / "whole"
    soup.run(SoupConfig(models=pair, output=whole, merge_into=str(adapted.base)), silent)
    merged = peft.AutoPeftModelForSequenceClassification.from_pretrained(adapted.rm, num_labels=1)
    merged = merged.merge_and_unload()
    merged.config.salsa_reward = {"mean": 0.5, "std": 2.0}
    merged.save_pretrained(tmp_path / "rm")
    tiny.tokenizer().save_pretrained(tmp_path / "rm")
    config = configure(
        adapted,
        tmp_path / "policy",
        ref=(str(whole),),
        reward=(str(tmp_path / "rm"),),
        policy=str(adapted.a),
        critic=str(adapted.rm),
        anchor_every=0,
    )
    apart = run(config)
    plain = [{**row, "kl_anchors": {}} for row in together.rows]
    without = [{**row, "kl_anchors": {}} for row in apart.rows]
    assert_same(replace(together, rows=plain), replace(apart, rows=without), 1e-5)


def test_the_result_is_an_adapter_that_peft_loads(adapted: AdapterWorld, together: Ran) -> None:
    import peft

    settings = json.loads((together.output / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(adapted.base)
    assert not (together.output / "config.json").exists()
    ours = loading.load_language_model(together.output, Placement(torch.float32, CPU)).model
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(together.output)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-6, rtol=0)
    # It is taken further: as a policy, and in a soup with the other ingredient.
    pair = (str(together.output), str(adapted.b))
    output = together.output.parent / "next"
    soup.run(SoupConfig(models=pair, output=output), silent)


def test_the_first_ingredient_is_the_policy_and_all_are_anchors(
    adapted: AdapterWorld, together: Ran
) -> None:
    made = json.loads((together.output / "salsa.json").read_text())
    assert made["inputs"]["policy"]["path"] == str(adapted.a)
    assert made["inputs"]["policy"]["base"]["path"] == str(adapted.base)
    assert made["inputs"]["critic"]["path"] == str(adapted.rm)
    anchors = together.rows[0]["kl_anchors"]
    assert set(anchors) == {"reference", "start", str(adapted.a), str(adapted.b)}
    assert anchors["start"] == anchors[str(adapted.a)] == pytest.approx(0, abs=1e-5)
    assert min(anchors["reference"], anchors[str(adapted.b)]) > 1e-3


def test_a_recipe_of_adapters_is_their_soup(
    adapted: AdapterWorld, together: Ran, tmp_path: Path
) -> None:
    recipe = f"soup({adapted.a},{adapted.b},alpha=0.5)"
    assert_same(together, run(configure(adapted, tmp_path / "policy", ref=(recipe,))), 1e-5)
    mixed = configure(adapted, tmp_path / "no", ref=(f"soup({adapted.a},{adapted.base})",))
    with pytest.raises(SalsaError, match="is an adapter, but not all of the models are"):
        ppo.run(mixed, silent)


def test_a_resumed_run_is_the_same_to_the_bit(
    adapted: AdapterWorld, together: Ran, tmp_path: Path
) -> None:
    config = configure(adapted, tmp_path / "policy")

    def stop(event: Event) -> None:
        if isinstance(event, Measured) and event.values["update"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ppo.run(config, stop)
    saved = checkpoints.latest_checkpoint(run_folder.partial_folder(config.output))
    assert saved is not None and saved.step == 2
    state = checkpoints.load_checkpoint(saved)
    for name in ("policy", "critic"):
        assert all("lora_" in key or key.startswith("score.") for key in state[name]["model"])
    resumed = run(replace(config, resume=True))
    assert resumed.rows == together.rows
    for name, tensor in together.weights.items():
        assert torch.equal(resumed.weights[name], tensor)


def test_a_whole_policy_learns_by_low_rank_updates_and_takes_them_in(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    notes: list[str] = []
    kept: list[Any] = []
    write = saving.save_policy

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    def keep(model: Any, folder: Path, *, like: Path) -> None:
        kept.append(copy.deepcopy(model))
        write(model, folder, like=like)

    base = str(adapted.base)
    config = configure(adapted, tmp_path / "policy", ref=(base,), critic="policy", lora_rank=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "save_policy", keep)
        ppo.run(config, listen)
    where = adapted.base.resolve()
    assert f"loaded once and shared by policy, critic, reference, reward: {where}" in notes
    before = load_file(adapted.base / "model.safetensors")
    after = load_file(config.output / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj" in name}
    result = loading.load_language_model(config.output, Placement(torch.float32, CPU)).model
    torch.testing.assert_close(logits(result), logits(kept[0]), atol=1e-5, rtol=0)
    rows = read_rows(config.output / "metrics.jsonl")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5) and rows[-1]["kl"] != 0
    assert [row["ratio_error"] for row in rows] == [0.0] * 3


def test_a_critic_gets_an_adapter_beside_the_policy_that_has_one(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    config = configure(
        adapted, tmp_path / "policy", critic=str(adapted.base), lora_rank=2, updates=1
    )
    ran = run(config)
    base = held_bytes(
        loading.load_language_model(adapted.base, Placement(torch.float32, CPU)).model
    )
    assert ran.held < 1.5 * base
    assert ran.weights.keys() == load_file(adapted.a / "adapter_model.safetensors").keys()


def test_bases_that_differ_are_loaded_apart(adapted: AdapterWorld, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "other", seed=2)
    foreign = Path(shutil.copytree(adapted.rm, tmp_path / "rm"))
    settings = json.loads((foreign / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(other)
    (foreign / "adapter_config.json").write_text(json.dumps(settings))
    notes: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    config = configure(adapted, tmp_path / "policy", reward=(str(foreign),), updates=1)
    ppo.run(config, listen)
    assert f"loaded once and shared by policy, reference: {adapted.base.resolve()}" in notes
    assert f"loaded once and shared by critic, reward: {other.resolve()}" in notes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora_rank": 2}, r"--lora-rank 2 has no effect: the policy .* keep their rank"),
        ({"ref_update": "ema"}, r"--ref-update ema updates full weights, and .* is an adapter"),
        ({"reward": ("SOUP",)}, "neither the adapter nor its base has a score head"),
    ],
)
def test_what_would_have_no_effect_or_go_wrong_is_refused(
    adapted: AdapterWorld, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    if "reward" in changes:
        changes = {"reward": (str(adapted.soup),)}
    with pytest.raises(SalsaError, match=says):
        ppo.run(configure(adapted, tmp_path / "policy", **changes), silent)
    assert not run_folder.partial_folder(tmp_path / "policy").exists()


def test_without_peft_one_message_says_so(
    adapted: AdapterWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise SalsaError("needs PEFT")

    monkeypatch.setattr(lora, "check", missing)
    with pytest.raises(SalsaError, match="needs PEFT"):
        ppo.run(configure(adapted, tmp_path / "policy"), silent)
    base = str(adapted.base)
    whole = configure(adapted, tmp_path / "policy", ref=(base,), critic=base, lora_rank=2)
    with pytest.raises(SalsaError, match="needs PEFT"):
        ppo.run(whole, silent)


def test_in_half_precision_the_base_is_narrow_and_what_learns_is_not(
    adapted: AdapterWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where frozen weights and products are bfloat16."""
    half = torch.bfloat16
    monkeypatch.setattr(Runtime, "frozen_dtype", property(lambda self: half))
    monkeypatch.setattr(Runtime, "autocast", lambda self: torch.autocast("cpu", dtype=half))
    casts: list[Actors] = []
    load = load_actors
    monkeypatch.setattr(ppo, "load_actors", lambda *given: casts.append(load(*given)) or casts[-1])
    ppo.run(configure(adapted, tmp_path / "policy"), silent)
    for model in models_of(casts[0]):
        for name, parameter in model.named_parameters():
            own = "lora_" in name or name.startswith("score.")
            assert parameter.dtype == (torch.float32 if own else half), name
    rows = read_rows(tmp_path / "policy" / "metrics.jsonl")
    assert [row["ratio_error"] for row in rows] == [0.0] * 3
    assert rows[0]["approx_kl"] > 0


def test_an_anchor_that_shares_nothing_is_not_kept(
    adapted: AdapterWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    casts: list[Actors] = []
    load = load_actors
    monkeypatch.setattr(ppo, "load_actors", lambda *given: casts.append(load(*given)) or casts[-1])
    start = tiny.save_language_model(tmp_path / "start", seed=3)
    ppo.run(configure(adapted, tmp_path / "policy", policy=str(start), updates=1), silent)
    assert [place for place, _, _ in casts[0].shared._held] == [adapted.base.resolve()]
