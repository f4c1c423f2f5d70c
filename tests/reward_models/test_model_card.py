"""The card of a reward model; its recipe is run, and scores as salsa does."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salsa_cli import VERSION
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.data import Message, Prompt
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.models.loading import RewardModel
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models import held_out, model_card
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.pair_data import SourcePairs
from salsa_cli.reward_models.pairs import Dropped, EncodedPair
from salsa_cli.reward_models.report_page import TrainingReport
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.reward_models.worst_pairs import ScoreReport
from tests.support import tiny
from tests.support.worlds import World

PAIRS = tuple(
    EncodedPair("p", (1,) * (2 + n), (1,) * (5 - n), category=("easy", "<hard>")[n % 2])
    for n in range(4)
)
SCORES = PairScores(np.array([0.0, 1, 2, 3]), np.array([2.0, 1.5, 1, 0]))
SCALE = RewardScale(0.5, 2.0)
NOTHING = ScoreReport((), (), ())
CHAT = "{{ bos_token }} {% for m in messages %}{{ m.content }} {% endfor %}"


def card(name: str, template: str | None, pairs: int = 40) -> str:
    config = TrainRMConfig(model="sft", data="prefs.jsonl", output=Path("rm"))
    found = held_out.assess(PAIRS, [SCORES], [SCALE])
    trained = TrainingReport(config, pairs, (), (), found, NOTHING, [])
    return model_card.write(trained, found.together, SCALE, name, template)


def test_the_card_names_base_data_metrics_and_use() -> None:
    text = card("rm", None)
    assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    assert f"Trained from sft by `salsa train-rm` {VERSION} on" in text
    assert "    salsa train-rm sft --data prefs.jsonl -o rm\n" in text
    assert "base_model" not in text  # a local folder is no id of the hub
    assert "40 preference pairs of\nprefs.jsonl" in text
    assert "1 preference pair of\n" in card("rm", None, pairs=1)
    assert "| all | 4 | 50.0% | 15.0% to 85.0% |" in text
    assert "| easy | 2 |" in text
    assert "from_pretrained('rm')" in text and "return (raw - 0.5) / 2  #" in text
    assert "The accuracy is not significantly different from chance (4 pairs)." in text


def test_the_card_says_what_was_left_out_and_cut() -> None:
    config = TrainRMConfig(model="sft", data="p.jsonl", output=Path("rm"), max_length=9)
    source = SourcePairs("p.jsonl", PAIRS, (Dropped("equal scores", (3, 5)),), cut=(7,))
    found = held_out.assess(PAIRS, [SCORES], [SCALE])
    trained = TrainingReport(config, 40, (source,), (), found, NOTHING, [])
    text = model_card.write(trained, found.together, RewardScale(-0.5, 2.0), "rm", None)
    assert "- p.jsonl: left out equal scores: 2 (rows 3, 5).\n" in text
    assert "- p.jsonl: 1 pair cut to 9 tokens; the code below does not truncate.\n\n## How" in text
    assert "return (raw + 0.5) / 2  #" in text


@pytest.mark.parametrize("template", [None, CHAT])
@pytest.mark.parametrize("prompt", ["the cat", (Message("user", "the cat"),)])
def test_its_recipe_scores_as_salsa_does(
    world: World, tmp_path: Path, template: str | None, prompt: Prompt
) -> None:
    tokenizer = tiny.tokenizer(chat_template=template)
    tiny.save_reward_model(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    text = card(str(tmp_path / "rm"), template)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    recipe: Callable[[Any, str], float] = names["score"]
    loaded = loading.load_reward_model(
        tmp_path / "rm", Placement(torch.float32, torch.device("cpu"))
    )
    ours = RewardModel(loaded.folder, loaded.model, loaded.tokenizer, SCALE.mean, SCALE.std)
    given = prompt if isinstance(prompt, str) else [{"role": "user", "content": "the cat"}]
    for answer in (" sat happy", " ran"):
        expected = float(ours.score([prompt], [Answer(answer)]))
        assert recipe(given, answer) == pytest.approx(expected, abs=1e-6)
