"""`train-rm` on real preference data: UltraFeedback, and LLMBar and PandaLM for evaluation alone.

What the command reports is computed again here, from the files and the saved model, by Transformers
and plain loops.
"""

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from salsa_cli import train_rm
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.records import read_json
from salsa_cli.reward_models import evaluation
from salsa_cli.reward_models.results import EvaluatedModelResult
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.real_data import shared_data

pytestmark = pytest.mark.long

LIMIT = 512
SUBSETS = ("natural", "adv_gptinst", "adv_manual", "mt_bench_human")


def rows_of(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def llmbar() -> Iterator[dict[str, str]]:
    """The pairs of each subset; the label says which output is the better one."""
    for subset in SUBSETS:
        for row in rows_of(shared_data("llmbar") / subset / "dataset.jsonl.gz"):
            better, worse = (1, 2) if row["label"] == 1 else (2, 1)
            yield {
                "prompt": row["input"] + "\n",
                "chosen": row[f"output_{better}"],
                "rejected": row[f"output_{worse}"],
                "subset": subset,
            }


def pandalm() -> Iterator[dict[str, str]]:
    """Pairs that most annotators did not call a tie, with the two models as their category.

    One "answer" of the file is no text but true; some are empty.
    """
    for row in rows_of(shared_data("pandalm") / "testset-v1.jsonl.gz"):
        votes = Counter(row[f"annotator{n}"] for n in (1, 2, 3))
        label = votes.most_common(1)[0][0]
        if label and all(isinstance(row[f"response{n}"], str) for n in (1, 2)):
            yield {
                "prompt": f"{row['instruction']}\n{row['input']}\n",
                "chosen": row[f"response{label}"],
                "rejected": row[f"response{3 - label}"],
                "category": row["cmp_key"],
            }


def wilson(points: float, n: int) -> tuple[float, float]:
    z, p = 1.959963984540054, points / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def recomputed(model_folder: Path, rows: list[dict[str, str]]) -> dict[str, list[float]]:
    """Outcomes by category, of the pairs that fit; one answer at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    found: dict[str, list[float]] = {}
    for row in rows:
        if not row["chosen"].strip() or not row["rejected"].strip():
            continue
        texts = [row["prompt"] + row[side] for side in ("chosen", "rejected")]
        ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
        if max(map(len, ids)) > LIMIT or ids[0] == ids[1]:
            continue
        with torch.no_grad():
            better, worse = (float(model(torch.tensor([one])).logits) for one in ids)
        name = row.get("subset") or row["category"]
        found.setdefault(name, []).append(float(better > worse) + 0.5 * (better == worse))
    return found


@pytest.fixture(scope="module")
def trained(stories_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of a little UltraFeedback."""
    folder = tmp_path_factory.mktemp("reward")
    rows = rows_of(shared_data("ultrafeedback_sample") / "train_prefs_700.jsonl.gz")[:60]
    config = TrainRMConfig(
        model=str(stories_model),
        data=str(tiny.write_rows(folder / "training.jsonl", rows)),
        output=folder / "rm",
        learning_rate=1e-4,
        batch_size=4,
        device="cpu",
    )
    train_rm.run(config, silent)
    return config.output


@pytest.mark.parametrize("source", [llmbar, pytest.param(pandalm, marks=pytest.mark.slow)])
def test_accuracy_by_subset_is_what_transformers_and_loops_find(
    trained: Path, tmp_path: Path, source: Any
) -> None:
    rows = list(source())
    config = TrainRMConfig(
        model=str(trained),
        eval_data=str(tiny.write_rows(tmp_path / "held-out.jsonl", rows)),
        on_empty="drop",
        output=tmp_path / "evaluation",
        device="cpu",
    )
    result = evaluation.run(config, silent)
    assert isinstance(result, EvaluatedModelResult)
    expected = recomputed(trained, rows)
    reported = {one.name: one for one in result.categories}
    assert reported.keys() == expected.keys()
    for name, outcomes in expected.items():
        assert reported[name].n == len(outcomes)
        assert reported[name].accuracy == pytest.approx(sum(outcomes) / len(outcomes)), name
        low, high = wilson(sum(outcomes), len(outcomes))
        assert (reported[name].low, reported[name].high) == pytest.approx((low, high))
    everything = [outcome for outcomes in expected.values() for outcome in outcomes]
    assert result.eval_pairs + result.dropped == len(rows)
    assert result.eval_pairs == len(everything)
    assert result.eval_accuracy == pytest.approx(sum(everything) / len(everything))


def test_ultrafeedback_runs_and_names_what_it_leaves_out(
    stories_model: Path, tmp_path: Path
) -> None:
    folder = shared_data("ultrafeedback_sample")
    files = (folder / "train_prefs_700.jsonl.gz", folder / "eval_prefs_100.jsonl.gz")
    config = TrainRMConfig(
        model=str(stories_model),
        data=str(files[0]),
        eval_data=str(files[1]),
        output=tmp_path / "rm",
        max_length=96,
        on_long="truncate",
        learning_rate=1e-4,
        device="cpu",
    )
    result = train_rm.run(config, silent)
    assert isinstance(result, train_rm.TrainRMResult)
    dropped = read_json(config.output / "salsa.json")["dropped"]
    for file in files:
        equal = [
            number
            for number, row in enumerate(rows_of(file), 1)
            if row["metadata"]["score_chosen"] == row["metadata"]["score_rejected"]
        ]
        (found,) = (one for one in dropped[str(file)] if one["reason"] == "equal scores")
        assert found["rows"] == equal
    assert result.pairs + result.eval_pairs + result.dropped == 800
    # The raters of row 479 saw an empty answer; it is no hole in the data.
    warnings = read_json(config.output / "salsa.json")["warnings"]
    assert any("1 rejected answer without text" in text and "row 479" in text for text in warnings)
    # A hundred rows prove little, and the result says so.
    assert result.eval_high - result.eval_low > 0.15
    assert "The accuracy is not significantly different from chance (" in result.summary()[0]
