"""Models that share the weights of one base: what they compute, and what they hold.

PEFT is the witness: it loads the same adapters by itself.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models import assembly, backbones, loading
from salsa_cli.models.backbones import Backbones, Placement
from salsa_cli.reward_models import rewards
from salsa_cli.runs.events import Event, Warned, silent
from salsa_cli.weights import folders
from tests.support import tiny
from tests.support.adapters import (
    CPU,
    DOWN,
    IDS,
    PREFIX,
    AdapterWorld,
    Q,
    held_bytes,
    logits,
    save_adapter,
)

ROWS = [[4, 6, 9, 2], [5, 2], [7, 8, 10, 11, 12, 2]]


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_peft_loads_the_same_policy_and_the_same_scores(adapted: AdapterWorld) -> None:
    import peft

    ours = loading.load_language_model(adapted.a, Placement(torch.float32, CPU))
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(adapted.a)
    torch.testing.assert_close(logits(ours.model), logits(theirs), atol=1e-6, rtol=0)
    plain = loading.load_language_model(adapted.base, Placement(torch.float32, CPU))
    assert (logits(ours.model) - logits(plain.model)).abs().max() > 0.1
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(logits(ours.model), logits(merged), atol=1e-5, rtol=0)

    reward = loading.load_reward_model(adapted.rm, Placement(torch.float32, CPU))
    judge = peft.AutoPeftModelForSequenceClassification.from_pretrained(adapted.rm, num_labels=1)
    with torch.no_grad():
        scores = torch.cat([judge.eval()(torch.tensor([row])).logits[0] for row in ROWS])
    torch.testing.assert_close(reward.score_ids(ROWS), scores, atol=1e-6, rtol=0)
    assert (reward.mean, reward.std) == (0.5, 2.0)


def test_a_soup_of_adapters_is_the_mean_of_the_updates(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    pair = (str(adapted.a), str(adapted.b))
    config = SoupConfig(models=pair, alpha=0.5, output=whole, merge_into=str(adapted.base))
    soup.run(config, silent)
    merged = loading.load_language_model(whole, Placement(torch.float32, CPU))
    beside = loading.load_language_model(adapted.soup, Placement(torch.float32, CPU))
    torch.testing.assert_close(logits(beside.model), logits(merged.model), atol=1e-5, rtol=0)


def test_a_soup_in_memory_is_the_soup_on_disk(adapted: AdapterWorld, tmp_path: Path) -> None:
    pair, weights = (adapted.a, adapted.b), (0.7, 0.3)
    names = (str(adapted.a), str(adapted.b))
    soup.run(SoupConfig(models=names, weights=weights, output=tmp_path / "ref"), silent)
    stored = loading.load_language_model(tmp_path / "ref", Placement(torch.float32, CPU)).model
    made = assembly.soup_of_adapters(
        pair, weights, Placement(torch.float32, CPU, backbones.unshared)
    )
    assert torch.equal(logits(made), logits(stored))
    alone = assembly.soup_of_adapters(
        pair, (0.0, 1.0), Placement(torch.float32, CPU, backbones.unshared)
    )
    second = loading.load_language_model(adapted.b, Placement(torch.float32, CPU)).model
    torch.testing.assert_close(logits(alone), logits(second), atol=1e-6, rtol=0)


def test_the_base_is_held_once(adapted: AdapterWorld) -> None:
    shared = Backbones(backbones.representatives([adapted.base]))
    policy = loading.load_language_model(
        adapted.a, Placement(torch.float32, CPU, shared.load)
    ).model
    reference = loading.load_language_model(
        adapted.soup, Placement(torch.float32, CPU, shared.load)
    ).model
    critic = loading.load_critic(adapted.rm, Placement(torch.float32, CPU, shared.load))
    reward = loading.load_reward_model(adapted.rm, Placement(torch.float32, CPU, shared.load)).model
    base = loading.load_language_model(adapted.base, Placement(torch.float32, CPU)).model
    one = held_bytes(base)
    given = (policy, reference, critic, reward)
    apart = sum(held_bytes(model) for model in given)
    own = sum(
        p.nbytes for m in given for n, p in m.named_parameters() if "lora_" in n or "score" in n
    )
    assert held_bytes(*given) == one + own
    # Only the two causal models need the output layer.
    assert apart == 4 * one + own - 2 * base.lm_head.weight.nbytes
    modules = [id(module) for model in given for module in model.modules()]
    assert len(set(modules)) == len(modules)


def test_what_one_model_learns_stays_with_it(adapted: AdapterWorld) -> None:
    shared = Backbones(backbones.representatives([adapted.base]))
    policy = loading.load_language_model(
        adapted.a, Placement(torch.float32, CPU, shared.load)
    ).model
    reference = loading.load_language_model(
        adapted.a, Placement(torch.float32, CPU, shared.load)
    ).model
    before = logits(reference)
    assert torch.equal(logits(policy), before)
    trained = loading.trainable(policy)
    assert not any(p.requires_grad for p in reference.parameters())
    policy(IDS).logits.sum().backward()
    with torch.no_grad():
        for parameter in trained:
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
    assert torch.equal(logits(reference), before)
    assert (logits(policy) - before).abs().max() > 1e-3
    assert all(p.grad is None for p in policy.parameters() if not p.requires_grad)


def test_a_critic_starts_in_the_scale_of_the_rewards(adapted: AdapterWorld) -> None:
    critic = loading.load_critic(adapted.rm, Placement(torch.float32, CPU))
    reward = loading.load_reward_model(adapted.rm, Placement(torch.float32, CPU))
    last = critic.score(critic.model(torch.tensor([ROWS[0]])).last_hidden_state)[0, -1, 0]
    expected = (reward.score_ids(ROWS[:1])[0] - 0.5) / 2.0
    torch.testing.assert_close(last, expected, atol=1e-6, rtol=0)
    blank = loading.load_critic(adapted.a, Placement(torch.float32, CPU))
    assert blank.score.weight.count_nonzero() == 0
    policy = loading.load_language_model(adapted.a, Placement(torch.float32, CPU)).model
    ours = blank.model(IDS).last_hidden_state
    assert torch.equal(ours, policy.model(IDS).last_hidden_state)


def test_the_dropout_of_an_adapter_is_off(adapted: AdapterWorld, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapted.a, tmp_path / "dropping"))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_dropout": 0.5}))
    dropping = loading.load_language_model(folder, Placement(torch.float32, CPU)).model
    plain = loading.load_language_model(adapted.a, Placement(torch.float32, CPU)).model
    loading.trainable(dropping)
    assert torch.equal(logits(dropping), logits(plain))


def test_a_model_that_is_lent_is_not_kept(adapted: AdapterWorld) -> None:
    shared = Backbones(backbones.representatives([adapted.base]))
    held = loading.load_language_model(adapted.a, Placement(torch.float32, CPU, shared.load)).model
    lent = loading.load_language_model(
        adapted.b, Placement(torch.float32, CPU, shared.borrow)
    ).model
    assert held.lm_head.weight is lent.lm_head.weight
    for _ in range(2):
        other = loading.load_language_model(
            adapted.b, Placement(torch.float64, CPU, shared.borrow)
        ).model
        assert other.lm_head.weight is not held.lm_head.weight
    assert len(shared._held) == 1


def test_equal_bases_are_one_wherever_they_lie(adapted: AdapterWorld, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(adapted.base, tmp_path / "copied"))
    other = tiny.save_language_model(tmp_path / "other", seed=2)
    found = backbones.representatives([adapted.base, copied, other, copied])
    base = adapted.base.resolve()
    assert found == {base: base, copied.resolve(): base, other.resolve(): other.resolve()}
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 1e-3}))
    assert len(set(backbones.representatives([adapted.base, copied]).values())) == 2


def test_a_base_may_lie_beside_its_adapter(
    adapted: AdapterWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A relative path is tried from the working directory first: let nothing lie there.
    (tmp_path / "elsewhere" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere" / "empty")
    shutil.copytree(adapted.base, tmp_path / "base")
    moved = Path(shutil.copytree(adapted.a, tmp_path / "moved"))
    path = moved / "adapter_config.json"
    settings = json.loads(path.read_text())
    for name in ("base", "../base", str(tmp_path / "base")):
        path.write_text(json.dumps(settings | {"base_model_name_or_path": name}))
        assert folders.base(moved).samefile(tmp_path / "base")
    assert folders.base(adapted.base) == adapted.base
    assert folders.tokenizer(moved).samefile(tmp_path / "base")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_model_name_or_path": None}, "no base_model_name_or_path; expected the folder or"),
        ({"base_model_name_or_path": "/gone"}, r"the base of the adapter .* cannot be used: /gone"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "changes the base model too"),
    ],
)
def test_adapters_that_cannot_be_put_in_are_refused(
    adapted: AdapterWorld, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = Path(shutil.copytree(adapted.a, tmp_path / "adapter"))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SalsaError, match=says):
        loading.find(str(folder))


def test_an_adapter_of_another_shape_or_with_whole_layers_is_refused(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    narrow = tiny.save_language_model(tmp_path / "narrow", seed=1, hidden_size=8)
    misfit = save_adapter(tmp_path / "misfit", narrow, {Q: 2}, seed=1)
    with pytest.raises(SalsaError, match=r"misfit does not fit its base, a LlamaForCausalLM: "):
        loading.load_language_model(misfit, Placement(torch.float32, CPU))
    shallow = tiny.save_language_model(tmp_path / "shallow", seed=1, num_hidden_layers=1)
    lost = save_adapter(tmp_path / "lost", shallow, {DOWN: 2}, seed=1)
    with pytest.raises(SalsaError, match="an adapter does not fit a LlamaForCausalLM: "):
        loading.load_language_model(lost, Placement(torch.float32, CPU))
    norm = {f"{PREFIX}model.norm.weight": torch.ones(16)}
    whole = save_adapter(tmp_path / "whole", adapted.base, {Q: 2}, seed=1, extra=norm)
    with pytest.raises(SalsaError, match=r"more than low-rank updates, .*model\.norm\.weight"):
        loading.find(str(whole))


def test_an_ensemble_may_be_of_adapters(adapted: AdapterWorld, tmp_path: Path) -> None:
    for number in (0, 1):
        shutil.copytree(adapted.rm, tmp_path / "rms" / str(number))
    assert len(folders.members(tmp_path / "rms")) == 2
    scorer = rewards.load(rewards.resolve(str(tmp_path / "rms")), start_runtime("cpu"))
    assert isinstance(scorer, rewards.MeanScorer)


def test_a_soup_of_reward_adapters_has_no_scale_and_says_so(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    events: list[Event] = []
    pair = (str(adapted.rm), str(adapted.rm))
    soup.run(SoupConfig(models=pair, output=tmp_path / "rm"), events.append)
    assert any(isinstance(one, Warned) and "so its scores are raw" in one.text for one in events)
    mixed = loading.load_reward_model(tmp_path / "rm", Placement(torch.float32, CPU))
    single = loading.load_reward_model(adapted.rm, Placement(torch.float32, CPU))
    assert (mixed.mean, mixed.std) == (0.0, 1.0)
    torch.testing.assert_close(mixed.score_ids(ROWS), single.score_ids(ROWS), atol=1e-5, rtol=0)


def test_the_soup_names_a_base_that_lies_beside_its_ingredients(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    shutil.copytree(adapted.base, tmp_path / "there" / "base")
    pair = []
    for name in ("a", "b"):
        folder = Path(shutil.copytree(getattr(adapted, name), tmp_path / "there" / name))
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps(settings | {"base_model_name_or_path": "base"}))
        pair.append(str(folder))
    soup.run(SoupConfig(models=tuple(pair), output=tmp_path / "ref"), silent)
    assert folders.base(tmp_path / "ref").samefile(tmp_path / "there" / "base")
