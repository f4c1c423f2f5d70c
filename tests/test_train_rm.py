"""The story of `train-rm` on a model of a few thousand weights."""

import json
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from salsa_cli import train_rm
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.models import loading, saving
from salsa_cli.models.backbones import Placement
from salsa_cli.models.tokenization import Answer
from salsa_cli.records import read_rows
from salsa_cli.runs import checkpoints, run_folder
from salsa_cli.runs.events import Event, Measured, Warned, silent
from tests.support import architectures, commands, tiny
from tests.support.trackers import scalars
from tests.support.worlds import World


def configure(world: World, output: Path, **changes: Any) -> TrainRMConfig:
    settings: dict[str, Any] = {
        "model": str(world.a),
        "data": str(world.preferences),
        "output": output,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "save_every": 4,
        "device": "cpu",
    }
    return TrainRMConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> TrainRMConfig:
    config = configure(world, tmp_path_factory.mktemp("rm") / "rm")
    result = train_rm.run(config, silent)
    assert isinstance(result, train_rm.TrainRMResult)
    assert result.pairs == 36 and result.eval_pairs == 4
    assert result.eval_accuracy == 1.0
    assert 0.5 < result.eval_low < 0.52 and result.eval_high == 1.0  # Wilson: 4 of 4
    return config


def test_it_learns_and_says_so(trained: TrainRMConfig) -> None:
    rows = read_rows(trained.output / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[-1]["loss"] < 0.2 < rows[0]["loss"]
    assert not (trained.output / "checkpoints").exists()
    modes = {path.name: path.stat().st_mode & 0o777 for path in trained.output.iterdir()}
    assert len(set(modes.values())) == 1, modes  # the weights, too, are as the umask has it


def test_the_result_loads_in_transformers_and_scores_the_same(trained: TrainRMConfig) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained.output).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.output)
    texts = ["the cat sat happy", "the dog ran sad"]
    ids = [tokenizer(text + tokenizer.eos_token).input_ids for text in texts]
    ours = loading.load_reward_model(trained.output, Placement(torch.float32, torch.device("cpu")))
    with torch.no_grad():
        raw = torch.cat([model(torch.tensor([row])).logits[0] for row in ids])
        padded = tokenizer(
            [t + tokenizer.eos_token for t in texts], return_tensors="pt", padding=True
        )
        together = model(**padded).logits[:, 0]
    scores = ours.score(["the cat", "the dog"], [Answer(" sat happy"), Answer(" ran sad")])
    torch.testing.assert_close(scores, (raw - ours.mean) / ours.std, atol=1e-5, rtol=0)
    torch.testing.assert_close(raw, together, atol=1e-5, rtol=0)
    assert scores[0] > 0 > scores[1]


def test_the_scale_makes_scores_of_the_reference_answers_standard(trained: TrainRMConfig) -> None:
    model = loading.load_reward_model(trained.output, Placement(torch.float32, torch.device("cpu")))
    plan = train_rm.prepare(trained, silent)
    pairs = plan.held_out + plan.training  # few held-out pairs: the training pairs help out
    with torch.no_grad():
        raw = model.score_ids([ids for pair in pairs for ids in (pair.chosen, pair.rejected)])
    assert model.std > 0.1
    assert float(raw.mean()) == pytest.approx(model.mean, abs=1e-4)
    assert float(raw.std(unbiased=False)) == pytest.approx(model.std, abs=1e-4)


def test_a_run_that_was_stopped_resumes_to_the_same_bits(
    world: World, trained: TrainRMConfig, tmp_path: Path
) -> None:
    config = configure(world, tmp_path / "rm")

    def stopping(event: Event) -> None:
        if isinstance(event, Measured) and event.values["step"] == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rm.run(config, stopping)
    saved = checkpoints.latest_checkpoint(run_folder.partial_folder(config.output))
    assert saved is not None and saved.step == 8
    other = tiny.write_rows(tmp_path / "other.jsonl", read_rows(world.preferences)[1:])
    moved = shutil.copyfile(world.preferences, tmp_path / "moved.jsonl")
    model = shutil.copytree(world.a, tmp_path / "sft")
    with pytest.raises(SalsaError, match="other settings: data was"):
        train_rm.run(replace(config, resume=True, data=str(other)), silent)
    train_rm.run(replace(config, resume=True, data=str(moved), model=str(model)), silent)
    first, second = ((c.output / "model.safetensors").read_bytes() for c in (config, trained))
    assert first == second
    untimed = [
        [
            {k: v for k, v in row.items() if k != "time"}
            for row in read_rows(c.output / "metrics.jsonl")
        ]
        for c in (config, trained)
    ]
    assert untimed[0] == untimed[1]


def warnings_of(config: TrainRMConfig) -> list[str]:
    found: list[str] = []
    train_rm.prepare(
        config, lambda event: found.append(event.text) if isinstance(event, Warned) else None
    )
    return found


def test_what_is_left_out_is_counted_and_named(world: World, tmp_path: Path) -> None:
    rows = [
        {"prompt": "on on", "chosen": " sat happy", "rejected": " sat sad"},
        {"prompt": "on on", "chosen": " sat happy and happy", "rejected": " sad"},
        {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1, "score_rejected": 1},
    ]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    config = configure(world, tmp_path / "rm", eval_data=str(path), max_length=5)
    assert warnings_of(config) == [
        f"{path}: dropped 2 of 3 pairs: longer than 5 tokens: 1 (row 2); equal scores: 1 (row 3). "
        "--on-long truncate keeps and truncates those that are too long"
    ]
    assert len(train_rm.prepare(config, silent).held_out) == 1
    with pytest.raises(
        SalsaError, match=r"all of 40 pairs were dropped: longer than 4 tokens: 40 \(rows"
    ):
        train_rm.prepare(replace(config, max_length=4), silent)


def test_what_looks_odd_is_said(world: World, tmp_path: Path) -> None:
    rows = [{"prompt": "the cat", "chosen": " sat", "rejected": " ran"}]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    config = configure(world, tmp_path / "rm", data=str(path), eval_data=str(path))
    (warning,) = warnings_of(config)
    assert "1 of 1 pair of" in warning and "have a prompt that is also in" in warning
    scored = [{**row, "score_chosen": 1, "score_rejected": 2} for row in rows * 2]
    other = tiny.write_rows(tmp_path / "scored.jsonl", [{**scored[0], "prompt": "x"}, scored[1]])
    (warning,) = warnings_of(configure(world, tmp_path / "rm", data=str(other)))
    assert "in 2 pairs the rejected answer has the higher score (first in row 1)" in warning


def test_an_empty_answer_stops_the_run_unless_it_may_be_left_out(
    world: World, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"the {word}", "chosen": " happy", "rejected": " sad"} for word in tiny.WORDS
    ]
    rows[2]["rejected"] = rows[4]["chosen"] = ""
    rows[6] |= {"rejected": "", "score_chosen": 7.5, "score_rejected": 1}
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    config = configure(world, tmp_path / "rm", data=str(path))
    with pytest.raises(SalsaError) as caught:
        train_rm.run(config, silent)
    assert str(caught.value) == (
        f"{path}, row 3: column 'rejected' contains an empty answer (as does 1 more row); expected "
        "text. --on-empty drop removes such pairs"
    )
    assert list(tmp_path.iterdir()) == [path]
    assert warnings_of(replace(config, on_empty="drop")) == [
        f"{path}: 1 rejected answer without text, but with a score from raters (first in row 7): "
        "the model "
        "learns that an empty answer is worse",
        f"{path}: dropped 2 of 20 pairs: an empty answer: 2 (rows 3, 5)",
    ]


def test_margins_that_decide_everything_are_a_warning(world: World, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"the {word}", "chosen": " happy", "rejected": " sad", "margin": 9 + place}
        for place, word in enumerate(tiny.WORDS)
    ]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    (warning,) = warnings_of(configure(world, tmp_path, data=str(path), margin="margin"))
    assert f"{path}: 18 margins beyond 10 (first in row 3)" in warning


def test_what_is_cut_and_what_was_said_of_the_data_stays_with_the_result(
    world: World, tmp_path: Path
) -> None:
    rows = [{"prompt": "the cat", "chosen": " sat happy and happy", "rejected": " sad"}]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows * 3)
    held_out = tiny.write_rows(tmp_path / "held-out.jsonl", rows)
    changes = {"eval_data": str(held_out), "max_length": 5, "on_long": "truncate", "epochs": 1}
    config = configure(world, tmp_path / "rm", data=str(path), **changes)
    result = train_rm.run(config, silent)
    assert isinstance(result, train_rm.TrainRMResult) and result.truncated == 4
    made = json.loads((config.output / "salsa.json").read_text())
    assert made["cut"] == {str(path): [1, 2, 3], str(held_out): [1]}
    cut, also_cut, overlap = made["warnings"]
    assert "3 of 3 pairs truncated to 5 tokens (first in row 1)" in cut
    assert "1 of 1 pair truncated to 5 tokens (first in row 1)" in also_cut
    assert "1 of 1 pair of" in overlap and "have a prompt that is also in" in overlap


def test_a_share_beside_given_pairs_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--eval-share has no effect with --eval-data"):
        configure(world, tmp_path, eval_data="held-out.jsonl", eval_share=0.2)


def test_the_held_out_pairs_are_never_trained_on(world: World, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"the {word}", "chosen": " happy", "rejected": " sad"} for word in tiny.WORDS
    ]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    plan = train_rm.prepare(configure(world, tmp_path, data=str(path), eval_share=0.3), silent)
    assert len(plan.held_out) == 6 and len(plan.training) == 14
    assert not {pair.chosen for pair in plan.held_out} & {pair.chosen for pair in plan.training}


def test_stored_weights_that_are_no_numbers_are_named_before_training(
    world: World, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(world.a, tmp_path / "model"))
    tensors = load_file(broken / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name][0, :2] = torch.inf
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    words = rf"{broken}/model.safetensors: 2 of \d+ values of {name} are NaN or infinite"
    with pytest.raises(SalsaError, match=words) as caught:
        train_rm.run(configure(world, tmp_path / "rm", model=str(broken)), silent)
    assert "learning rate" not in str(caught.value)


def test_one_pair_is_too_few(world: World, tmp_path: Path) -> None:
    path = tiny.preferences(tmp_path / "p.jsonl", 1)
    with pytest.raises(SalsaError, match=r"the data has only one prompt \(1 pair\)"):
        train_rm.prepare(configure(world, tmp_path, data=str(path)), silent)


def test_a_dry_run_counts_and_writes_nothing(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "rm", dry_run=True)
    record = train_rm.run(config, silent).record()
    assert record["training_pairs"] == 36 and record["steps"] == 20
    assert str(record["training_time_about"]).endswith(" s")
    assert {"memory_in_total", "memory_of_the_device", "disk", "disk_free"} <= record.keys()
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_does_not_fit_is_refused_before_it_begins(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "memory", 10**4)
    config = configure(world, tmp_path / "rm")
    with pytest.raises(SalsaError, match="and the device has 10kB; try a smaller --micro-batch"):
        train_rm.run(config, silent)
    assert list(tmp_path.iterdir()) == []
    dry = train_rm.run(replace(config, dry_run=True), silent).record()
    assert dry["training_time_about"] == "unknown, because it does not fit in memory"


def test_a_token_that_the_model_does_not_know_is_named(world: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.a, tmp_path / "a"))
    tiny.tokenizer([*tiny.WORDS, "wolf"]).save_pretrained(folder)
    rows = [
        {"prompt": f"the {word}", "chosen": " happy", "rejected": " sad"} for word in tiny.WORDS
    ]
    rows[3]["rejected"] = " wolf"
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    config = configure(world, tmp_path / "rm", model=str(folder), data=str(path))
    with pytest.raises(SalsaError, match=r"p\.jsonl, row 4: .* token 24 \(wolf\), and .* has 24 t"):
        train_rm.prepare(config, silent)
    tiny.tokenizer([*tiny.WORDS, "<new>"], pad_token="<new>").save_pretrained(folder)
    with pytest.raises(SalsaError, match="has pad token 24 but only 24 tokens; choose another"):
        train_rm.prepare(replace(config, data=str(world.preferences)), silent)


def test_label_smoothing_holds_the_margin_back(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "rm", label_smoothing=0.3, epochs=8)
    train_rm.run(config, silent)
    last = read_rows(config.output / "metrics.jsonl")[-1]
    # The optimum of the smoothed loss is the margin log(0.7 / 0.3) = 0.85.
    assert last["margin"] == pytest.approx(0.85, abs=0.4)
    assert (
        json.loads((config.output / "salsa.json").read_text())["settings"]["label_smoothing"] == 0.3
    )


def test_an_ensemble_is_k_models_and_one_summary(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "rm", ensemble=3, epochs=2)
    result = train_rm.run(config, silent)
    assert isinstance(result, train_rm.TrainRMResult) and len(result.members) == 3
    assert sorted(path.name for path in config.output.iterdir()) == [
        *("0", "1", "2", "evaluation.json", "metrics.jsonl", "report.html", "salsa.json")
    ]
    single = configure(world, tmp_path / "one", epochs=2)
    train_rm.run(single, silent)
    weights = [
        (folder / "model.safetensors").read_bytes()
        for folder in (single.output, *(config.output / str(k) for k in range(3)))
    ]
    assert weights[0] == weights[1]  # the first member is the model of a run of one
    assert len(set(weights)) == 3
    rows = read_rows(config.output / "metrics.jsonl")
    assert [row["member"] for row in rows] == [0] * 10 + [1] * 10 + [2] * 10


def test_trackers_get_every_row_once_through_an_interruption(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "rm", ensemble=2, epochs=1, track=("tensorboard",))

    def stopping(event: Event) -> None:
        if isinstance(event, Measured) and (event.values["member"], event.values["step"]) == (1, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rm.run(config, stopping)
    # TensorBoard orders the files of a folder by the second of their beginning.
    time.sleep(1.0)
    train_rm.run(replace(config, resume=True), silent)
    found = scalars(config.output / "tensorboard")
    rows = read_rows(config.output / "metrics.jsonl")
    for member, steps in ((0, range(1, 6)), (1, range(6, 11))):
        losses = [row["loss"] for row in rows if row["member"] == member]
        told = found[f"member-{member}/loss"]
        assert [step for step, _ in told] == list(steps)
        assert [loss for _, loss in told] == pytest.approx(losses, rel=1e-6)
    with pytest.raises(UsageError, match="--track paper: expected one of tensorboard, wandb"):
        replace(config, track=("paper",))


@pytest.mark.parametrize(("member", "step", "saved_step"), [(0, 7, 4), (1, 2, 11), (1, 6, 15)])
def test_an_ensemble_that_was_stopped_resumes_to_the_same_bits(
    world: World, tmp_path: Path, member: int, step: int, saved_step: int
) -> None:
    whole = configure(world, tmp_path / "whole", ensemble=2, epochs=2)
    train_rm.run(whole, silent)
    config = configure(world, tmp_path / "rm", ensemble=2, epochs=2)

    def stopping(event: Event) -> None:
        values = event.values if isinstance(event, Measured) else {}
        if (values.get("member"), values.get("step")) == (member, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rm.run(config, stopping)
    saved = checkpoints.latest_checkpoint(run_folder.partial_folder(config.output))
    assert saved is not None and saved.step == saved_step
    train_rm.run(replace(config, resume=True), silent)
    for name in ("0/model.safetensors", "1/model.safetensors", "0/config.json", "1/config.json"):
        assert (config.output / name).read_bytes() == (whole.output / name).read_bytes(), name
    assert (config.output / "evaluation.json").read_text() == (
        whole.output / "evaluation.json"
    ).read_text()
    untimed = [
        [
            {k: v for k, v in row.items() if k != "time"}
            for row in read_rows(c.output / "metrics.jsonl")
        ]
        for c in (config, whole)
    ]
    assert untimed[0] == untimed[1]


def test_a_model_without_a_pad_token_of_its_own_is_refused(world: World, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.a, tmp_path / "a"))
    tiny.tokenizer(pad_token=None).save_pretrained(folder)
    config = configure(world, tmp_path / "rm", model=str(folder), epochs=1)
    with pytest.raises(
        SalsaError, match=r"has no pad token; expected .* Choose one with --pad-token"
    ):
        train_rm.prepare(config, silent)
    tiny.tokenizer(pad_token="</s>").save_pretrained(folder)
    with pytest.raises(SalsaError, match="has its end token </s> as pad token"):
        train_rm.prepare(config, silent)
    with pytest.raises(SalsaError, match="--pad-token </s> is its end token"):
        train_rm.prepare(replace(config, pad_token="</s>"), silent)
    with pytest.raises(SalsaError, match="--pad-token <nix> is not in its vocabulary"):
        train_rm.prepare(replace(config, pad_token="<nix>"), silent)
    train_rm.run(replace(config, pad_token="<unk>"), silent)
    tokenizer = AutoTokenizer.from_pretrained(config.output)
    model = AutoModelForSequenceClassification.from_pretrained(config.output)
    assert tokenizer.pad_token == "<unk>"
    assert model.config.pad_token_id == tokenizer.pad_token_id == 3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"save_every": 7},
        {"track": ("tensorboard",)},
        {"output": Path("rm")},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_a_result_that_is_complete_is_read_back(
    trained: TrainRMConfig, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.output.parent)
    result = train_rm.run(replace(trained, resume=True, **changes), silent)
    assert isinstance(result, train_rm.TrainRMResult)
    assert result.eval_pairs == 4 and result.members == (1.0,)
    made = json.loads((trained.output / "salsa.json").read_text())
    assert made["result"] == json.loads(json.dumps(result.record()))


@pytest.mark.parametrize("changes", [{"seed": 1}, {"lora_save": "adapter", "lora_rank": 2}])
def test_a_complete_result_of_other_settings_is_refused(
    trained: TrainRMConfig, changes: dict[str, Any]
) -> None:
    with pytest.raises(SalsaError, match=r"is complete, but .* was .*, is ") as caught:
        train_rm.run(replace(trained, resume=True, **changes), silent)
    assert all(name in str(caught.value) for name in changes)


def test_recomputed_activations_change_no_bit(trained: TrainRMConfig, tmp_path: Path) -> None:
    """So a run that does not fit may be resumed with --gradient-checkpointing."""
    config = replace(trained, output=tmp_path / "rm", gradient_checkpointing=True)
    train_rm.run(config, silent)
    names = ("model.safetensors", "config.json")
    for name in names:
        assert (config.output / name).read_bytes() == (trained.output / name).read_bytes()


def test_a_disk_that_is_full_ends_with_one_message_and_keeps_the_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filling(*given: Any, **more: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))  # less than the weights take
        save(*given, **more)

    config = configure(world, tmp_path / "rm")
    save, (soft, hard) = saving.save_model, resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(saving, "save_model", filling)
    try:
        with pytest.raises(SalsaError) as caught:
            train_rm.run(config, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    first, second = str(caught.value).split("\n")
    assert "rm.partial: cannot write it: " in first and "File too large" in first
    assert "keeps the run up to step 20; continue it with --resume" in second
    monkeypatch.undo()
    steps: list[int] = []
    train_rm.run(
        replace(config, resume=True),
        lambda event: steps.append(event.values["step"]) if isinstance(event, Measured) else None,  # type: ignore[arg-type]
    )
    assert steps == []  # nothing had to be trained again
    assert (config.output / "model.safetensors").exists()


def test_rewardbench_2_is_judged_by_its_own_rules(world: World, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "the cat",
            "chosen": [" sat happy"],
            "rejected": [" sat sad", " ran sad", " sang sad"],
            "subset": subset,
            "id": f"{subset} {n}",
        }
        for subset in ("Math", "Safety")
        for n in range(2)
    ]
    path = tiny.write_rows(tmp_path / "rb2.jsonl", rows)
    config = configure(world, tmp_path / "rm", eval_data=str(path))
    result = train_rm.run(config, silent)
    assert isinstance(result, train_rm.TrainRMResult)
    assert (result.eval_pairs, result.eval_accuracy) == (4, 1.0)
    assert "RewardBench scores: Math 100.0%, Safety 100.0%, Overall 100.0%" in result.summary()[0]
    assert train_rm.run(replace(config, resume=True), silent) == result
    evaluation = json.loads((config.output / "evaluation.json").read_text())["evaluation"]
    assert [(one["name"], one["n"], one["score"]) for one in evaluation["sections"]] == [
        ("Math", 2, 1.0),
        ("Safety", 2, 1.0),
        ("Overall", 4, 1.0),
    ]


def test_a_run_that_was_killed_resumes_to_the_same_bits(
    world: World, trained: TrainRMConfig, tmp_path: Path
) -> None:
    """SIGKILL at any moment: nothing can be cleaned up, and nothing needs to be."""
    settings = "--epochs 4 --batch-size 8 --learning-rate 3e-3 --save-every 1 --device cpu -q"
    command = ["train-rm", world.a, "--data", world.preferences, "-o", tmp_path / "rm"]
    command += settings.split()
    process = commands.Command(*command)
    while len(list(tmp_path.glob("rm.partial/checkpoints/*.pt"))) < 2 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "rm").exists() and (tmp_path / "rm.partial").exists()
    again = commands.run(*command)
    assert again.returncode == 1 and "continue it with --resume" in again.stderr
    assert commands.run(*command, "--resume").returncode == 0
    first, second = (
        (folder / "model.safetensors").read_bytes() for folder in (tmp_path / "rm", trained.output)
    )
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == ["rm"]


@pytest.mark.parametrize("kind", ["falcon", "opt"])
def test_dropout_is_off_with_gradient_checkpointing_and_kept_in_the_config(
    kind: str, world: World, tmp_path: Path
) -> None:
    """Their layers drop out by rates that they read themselves where they are in training mode."""
    folder = architectures.save(tmp_path / "model", kind, 1)
    before = json.loads((folder / "config.json").read_text())
    rates = {name: value for name, value in before.items() if "drop" in name}
    assert any(rates.values())
    losses = []
    for again in (False, True):
        config = configure(
            world,
            tmp_path / f"rm-{again}",
            model=str(folder),
            epochs=1,
            gradient_checkpointing=again,
        )
        train_rm.run(config, silent)
        losses.append([row["loss"] for row in read_rows(config.output / "metrics.jsonl")])
        after = json.loads((config.output / "config.json").read_text())
        assert {name: value for name, value in after.items() if "drop" in name} == rates
    # Recomputed activations round alike on a CPU; steps of 3e-3 make more of the last digits.
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
