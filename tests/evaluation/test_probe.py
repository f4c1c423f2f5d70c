"""Probes of pairs made on the spot, one of each kind, with transformers as the witness."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import probe
from salsa_cli.evaluation.probe_result import ProbeResult
from salsa_cli.runs.events import silent
from tests.support import tiny

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("probe") / "base", seed=1)


@pytest.fixture(scope="module")
def texts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the base itself says, so that no other model can say it better on average."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), tiny.tokenizer()
    torch.manual_seed(0)
    start = torch.tensor([[4 + place % 20] for place in range(40)])
    said = model.generate(start, do_sample=True, max_new_tokens=15, eos_token_id=[99])
    rows = [{"text": " ".join(tokenizer.convert_ids_to_tokens(ids))} for ids in said.tolist()]
    return tiny.write_rows(tmp_path_factory.mktemp("texts") / "texts.jsonl", rows)


def changed(base: Path, folder: Path, change: Callable[[Tensors], None]) -> Path:
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def noise(scale: float) -> Callable[[Tensors], None]:
    def add(tensors: Tensors) -> None:
        generator = torch.Generator().manual_seed(5)
        for tensor in tensors.values():
            tensor += scale * torch.randn(tensor.shape, generator=generator)

    return add


def permute(tensors: Tensors) -> None:
    """Other places for the units of every MLP: the same function."""
    for layer in range(2):
        mlp = f"model.layers.{layer}.mlp"
        order = torch.arange(31, -1, -1)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{mlp}.{name}.weight"] = tensors[f"{mlp}.{name}.weight"][order].contiguous()
        down = tensors[f"{mlp}.down_proj.weight"]
        tensors[f"{mlp}.down_proj.weight"] = down[:, order].contiguous()


def run(texts: Path, a: Path, b: Path, **changes: Any) -> ProbeResult:
    settings = {"output": Path(), "probe": str(texts), **changes}
    result = probe.run(SoupConfig(models=(str(a), str(b)), **settings), silent)
    assert isinstance(result, ProbeResult)
    return result


def by_transformers(texts: Path, a: Path, b: Path, alpha: float) -> tuple[float, float, float]:
    """NLL per token of the soup, and KL per token from both models to it, in float64."""
    models = [AutoModelForCausalLM.from_pretrained(x, dtype=torch.float64) for x in (a, b)]
    states = [model.state_dict() for model in models]
    soup = AutoModelForCausalLM.from_pretrained(a, dtype=torch.float64)
    soup.load_state_dict({k: (1 - alpha) * v + alpha * states[1][k] for k, v in states[0].items()})
    tokenizer = AutoTokenizer.from_pretrained(a)
    nll, kls, tokens = 0.0, [0.0, 0.0], 0
    for row in texts.read_text().splitlines():
        ids = tokenizer(json.loads(row)["text"], return_tensors="pt").input_ids
        with torch.no_grad():
            q = soup(ids).logits[0, :-1].log_softmax(-1)
            ps = [model(ids).logits[0, :-1].log_softmax(-1) for model in models]
        nll -= float(q.gather(1, ids[0, 1:, None]).sum())
        for place, p in enumerate(ps):
            kls[place] += float((p.exp() * (p - q)).sum())
        tokens += ids.shape[1] - 1
    return nll / tokens, kls[0] / tokens, kls[1] / tokens


@pytest.mark.parametrize(
    ("change", "verdict"),
    [(noise(1e-4), "too-close"), (noise(0.05), "good"), (permute, "not-connected")],
)
def test_a_pair_of_each_kind(
    base: Path,
    texts: Path,
    tmp_path: Path,
    change: Callable[[Tensors], None],
    verdict: str,
) -> None:
    other = changed(base, tmp_path / "other", change)
    found = run(texts, base, other)
    assert found.record()["verdict"] == found.verdict == verdict, found.sentence()
    assert found.texts == 40 and found.tokens == 40 * 15
    for point in found.line:
        nll, kl_a, kl_b = by_transformers(texts, base, other, point.alpha)
        # Float32 against float64; the soup of the one is rounded to float32 as well.
        assert point.nll == pytest.approx(nll, rel=1e-4)
        assert point.kl_a == pytest.approx(kl_a, rel=2e-3, abs=1e-6)
        assert point.kl_b == pytest.approx(kl_b, rel=2e-3, abs=1e-6)
        assert point.kl_a_per_answer == pytest.approx(15 * point.kl_a)
    ends = found.line[0].nll, found.line[-1].nll
    rises = [p.nll - (1 - p.alpha) * ends[0] - p.alpha * ends[1] for p in found.line[1:-1]]
    assert found.barrier == pytest.approx(max(rises), abs=1e-9)
    assert found.gain == pytest.approx(min(ends) - found.middle.nll, abs=1e-9)
    (table,) = [found.summary()[1]]
    assert table is not None and len(table.rows) == 5
    assert found.sentence() in found.summary()[0]


def test_a_folder_gets_a_report(base: Path, texts: Path, tmp_path: Path) -> None:
    other = changed(base, tmp_path / "other", noise(0.05))
    found = run(texts, base, other, output=tmp_path / "out", base=str(base))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["probe.json", "report.html", "salsa.json"]
    stored = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert stored["verdict"] == "good" and stored["output"] == str(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Good:" in page and found.sentence().removeprefix("good: ") in page
    # A is the base, so its change is zero and has no direction.
    assert all(one.cosine_of_changes == 0 for one in found.groups)


def test_sixteen_bits_that_differ_by_one_unit_are_a_staircase(
    base: Path, texts: Path, tmp_path: Path
) -> None:
    def narrow(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] = tensors[name].bfloat16()

    def one_unit_up(tensors: Tensors) -> None:
        for tensor in tensors.values():
            tensor.view(torch.int16)[..., ::2] += 1

    a = changed(base, tmp_path / "a", narrow)
    config = json.loads((a / "config.json").read_text()) | {"dtype": "bfloat16"}
    (a / "config.json").write_text(json.dumps(config))
    b = changed(a, tmp_path / "b", one_unit_up)
    found = run(texts, a, b)
    assert found.stored.is_staircase and found.stored.median_units == 1
    assert found.stored.equal == pytest.approx(0.5) == found.stored.one_unit
    assert "so the soup changes in steps" in found.summary()[0]
    # At a quarter the soup of stored numbers is A to the bit.
    assert found.line[1].nll == found.line[0].nll and found.line[1].kl_a == 0
    assert not run(texts, base, base).stored.is_staircase


def test_models_that_no_soup_can_be_made_of_are_refused(
    base: Path, texts: Path, tmp_path: Path
) -> None:
    other = tiny.save_language_model(tmp_path / "other", seed=3, hidden_size=24)
    with pytest.raises(SalsaError, match="these models cannot be averaged"):
        run(texts, base, other)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alpha": 0.3}, "--probe writes no model; remove --alpha"),
        ({"dtype": "float32", "verify": True}, "remove --dtype, --verify"),
        ({"models": ("a", "b", "c")}, "--probe compares two models; found 3"),
    ],
)
def test_what_has_no_effect_is_refused(changes: dict[str, Any], says: str) -> None:
    settings: dict[str, Any] = {"models": ("a", "b"), "output": Path(), "probe": "x", **changes}
    with pytest.raises(UsageError, match=says):
        SoupConfig(**settings)


@pytest.mark.parametrize("kind", ["T5ForConditionalGeneration", "BertForSequenceClassification"])
def test_another_kind_of_model_is_named(base: Path, texts: Path, tmp_path: Path, kind: str) -> None:
    pair = [shutil.copytree(base, tmp_path / name) for name in "ab"]
    for folder in pair:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [kind]}))
    with pytest.raises(UsageError, match=rf"causal language models only; .*/a is a {kind}"):
        run(texts, *pair)


def test_a_tied_model_and_one_with_a_head_of_its_own(texts: Path, tmp_path: Path) -> None:
    tied, own = (
        tiny.save_language_model(
            tmp_path / name, seed=7, scale=scale, tie_word_embeddings=name == "tied"
        )
        for name, scale in (("tied", 0.01), ("own", 0.02))
    )
    forth, back = run(texts, tied, own), run(texts, own, tied)
    for there, here in zip(forth.line, reversed(back.line), strict=True):
        nll, kl_own, kl_tied = by_transformers(texts, own, tied, here.alpha)
        assert here.nll == pytest.approx(nll, rel=1e-4) == there.nll
        assert here.kl_a == pytest.approx(kl_own, rel=2e-3, abs=1e-6) == there.kl_b
        assert here.kl_b == pytest.approx(kl_tied, rel=2e-3, abs=1e-6) == there.kl_a
