"""`ppo --generator vllm` from end to end, with a stand-in that samples from what it was given."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from salsa_cli import ppo
from salsa_cli.devices import processes
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.models import assembly, loading, lora, saving
from salsa_cli.models.backbones import Placement
from salsa_cli.rl import preflight
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import Warned, silent
from tests.support import stand_in, tiny
from tests.support.adapters import AdapterWorld
from tests.support.agreement import same_metrics
from tests.support.parallel_runs import by_server, ppo_config
from tests.support.ppo_runs import configure, configure_adapted, rows_without_time, run, stopping_at
from tests.support.stand_in import StandIn
from tests.support.worlds import World

SAME = 1e-5
"""Nats a token that the same float32 weights may be apart in two programs, summed otherwise."""


def by(server: StandIn, world: World, output: Path, **changes: Any) -> ppo.PPOConfig:
    return configure(world, output, generator="vllm", vllm_url=server.url, **changes)


def test_the_server_samples_from_the_policy_of_every_update(world: World, tmp_path: Path) -> None:
    """It starts with another model, so that only weights that were taken over agree."""
    with stand_in.serving(world.b) as server:
        config = by(server, world, tmp_path / "policy")
        run(config)
        left = {name: weight.detach().clone() for name, weight in server.model.named_parameters()}
    rows = rows_without_time(config.output)
    assert [row["sampler_mismatch"] < SAME for row in rows] == [True] * 4
    assert [row["sampler_truncated"] for row in rows] == [0.0] * 4
    assert [row["ratio_error"] for row in rows] == [0.0] * 4
    assert all(row["approx_kl"] > 0 for row in rows)
    # Once an update, then eight answers.
    update = ["/collective_rpc", "/reset_prefix_cache", *["/v1/completions"] * 8]
    assert server.paths[:2] == ["/v1/models", "/server_info?config_format=json"]
    assert server.paths[2:] == ["/reset_prefix_cache", *update * 4]
    seeds = [body["seed"] for body in server.bodies("/v1/completions")]
    assert len(set(seeds)) == 32
    # What it holds is the policy before its last step: near the result, and not it.
    final, start = (load_file(one / "model.safetensors") for one in (config.output, world.a))
    for name, weight in left.items():
        steps = [float((weight.detach() - other[name]).abs().max()) for other in (final, start)]
        assert 0 < steps[0] < steps[1], name
    assert not list(config.output.glob("*handed*"))
    assert "Sampler and policy" in (config.output / "report.html").read_text()
    metrics = UpdateMetrics.of(rows[0] | {"time": {}})
    assert metrics.sampler_mismatch == rows[0]["sampler_mismatch"]


def test_the_answers_of_a_prompt_are_one_request(world: World, tmp_path: Path) -> None:
    with stand_in.serving(world.b) as server:
        config = by(server, world, tmp_path / "policy", advantage="rloo", updates=2)
        run(config)
    rows = rows_without_time(config.output)
    assert [row["sampler_mismatch"] < SAME for row in rows] == [True] * 2
    asked = server.bodies("/v1/completions")
    assert [body["n"] for body in asked] == [4] * 4  # two prompts an update
    assert len({body["seed"] for body in asked}) == 4
    assert [row["groups"] for row in rows] == [2, 2]


def test_importance_weights_near_one_change_nothing_to_speak_of(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers, learned from with the server's log-probabilities and without."""
    with stand_in.serving(world.b) as server:
        weighted = by(server, world, tmp_path / "weighted", kl_in="loss", kl_estimator="k2")
        run(weighted)
        monkeypatch.setattr(
            "salsa_cli.maths.importance.truncated_weights", lambda ours, theirs, mask: mask.float()
        )
        plain = replace(weighted, output=tmp_path / "plain")
        run(plain)
    for ours, theirs in zip(*(rows_without_time(c.output) for c in (weighted, plain)), strict=True):
        for name in ("policy_loss", "kl", "reward"):
            # weights within 1e-5 of 1; Adam magnifies where gradients vanish
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3), name


@pytest.mark.parametrize("fault", [{"stale": True}, {"keeps_cache": True}])
def test_a_server_that_stays_behind_shows_in_the_metrics(
    world: World, tmp_path: Path, fault: dict[str, bool]
) -> None:
    """It begins with the policy's weights, so the first update is right, and the next is not."""
    with stand_in.serving(world.a, **fault) as server:
        # steps so small that the run is not refused
        changes: dict[str, Any] = {"updates": 2, "batch_size": 24, "learning_rate": 1e-4}
        config = by(server, world, tmp_path / "policy", **changes)
        run(config)
    first, second = (row["sampler_mismatch"] for row in rows_without_time(config.output))
    assert first < SAME
    assert second > 100 * SAME


def test_another_model_is_refused_before_anything_is_learned(world: World, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "other", seed=9)
    with stand_in.serving(other, stale=True) as server:
        config = by(server, world, tmp_path / "policy")
        with pytest.raises(SalsaError) as caught:
            run(config)
    message = str(caught.value)
    assert message.startswith("update 1: the log-probabilities of --generator vllm and those of")
    assert "more than 0.2; the update was not made" in message
    assert "the server did not load the policy's weights" in message
    assert "processed_logprobs" not in message  # at temperature 1 it makes no difference
    assert not config.output.exists() and not run_folder.partial_folder(config.output).exists()


def test_log_probabilities_before_the_temperature_are_refused(world: World, tmp_path: Path) -> None:
    with stand_in.serving(world.b, mode="raw") as server:
        config = by(server, world, tmp_path / "policy", temperature=0.3, updates=1)
        with pytest.raises(SalsaError, match=r"--logprobs-mode processed_logprobs, which --temp"):
            run(config)
        server.mode = "processed"
        run(config)
    (row,) = rows_without_time(config.output)
    assert row["sampler_mismatch"] < 10 * SAME  # logits are divided by 0.3, and their errors


MERGED = "the adapters are merged and sent to the server as full weights, because it does not load"


BOTH = {"runtime_lora": True, "lora": True}


@pytest.mark.parametrize(
    ("policy", "started"),
    [("old", BOTH), ("new", BOTH), ("old", {}), ("new", {"runtime_lora": True})],
)
def test_adapters_go_to_the_server_as_adapters_where_it_loads_them(
    adapted: AdapterWorld, tmp_path: Path, policy: str, started: dict[str, bool]
) -> None:
    """A policy that is an adapter, and one whose adapter is new; neither changes by it."""
    plain: dict[str, Any] = {"ref": (str(adapted.base),), "policy": str(adapted.base)}
    changes = {"old": {}, "new": {**plain, "lora_rank": 2}}[policy]
    notes: list[str] = []
    # It begins with other weights of the base, as a run of the whole model would leave them.
    with stand_in.serving(adapted.base, **started) as server:
        with torch.no_grad():
            server.model.lm_head.weight.mul_(2.0)
        more = {"generator": "vllm", "vllm_url": server.url, **changes}
        config = configure_adapted(adapted, tmp_path / "policy", **more)
        run(config, lambda event: notes.append(getattr(event, "text", "")))
    rows = rows_without_time(config.output)
    # The base and the update are added here, and applied one after the other there.
    assert all(row["sampler_mismatch"] < 10 * SAME for row in rows)
    assert all(row["approx_kl"] > 0 for row in rows)
    said = [note for note in notes if note.startswith(MERGED)]
    weights = [body["kwargs"]["weights_path"] for body in server.bodies("/collective_rpc")]
    sent = server.bodies("/v1/load_lora_adapter")
    if started.get("lora"):
        assert weights == [str(adapted.base)] and not said
        assert len({body["lora_name"] for body in sent}) == 1 + len(rows)
        # Each update forgets the one before it.
        assert list(server.adapters) == [sent[-1]["lora_name"]]
        assert not list(config.output.glob("*handed*"))
    else:
        assert len(weights) == len(rows) and len(said) == 1
        reason = "HTTP 500: LoRA is not enabled." if started else 'HTTP 404: {"detail":"Not Found"}'
        assert reason in said[0] and "--enable-lora --max-lora-rank 8" in said[0]


def test_a_resumed_run_forgets_the_adapter_that_it_left_behind(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    with stand_in.serving(adapted.base, lora=True, runtime_lora=True) as server:
        config = configure_adapted(
            adapted, tmp_path / "policy", generator="vllm", vllm_url=server.url
        )
        with pytest.raises(KeyboardInterrupt):
            ppo.run(config, stopping_at(1))
        left = set(server.adapters)
        server.adapters["another"] = next(iter(server.adapters.values()))
        run(replace(config, resume=True))
        assert len(left) == 1 and not left & server.adapters.keys()
        assert "another" in server.adapters and len(server.adapters) == 2


def test_a_model_of_another_shape_is_refused_before_anything_is_sent(
    world: World, tmp_path: Path
) -> None:
    wide = tiny.save_language_model(tmp_path / "wide", seed=1, hidden_size=32)
    with stand_in.serving(wide) as server:
        config = by(server, world, tmp_path / "policy")
        for one in (config, replace(config, dry_run=True)):
            with pytest.raises(SalsaError) as caught:
                run(one)
            assert (
                f"serves {wide}, which does not fit the policy {world.a}: hidden_size is 32 "
                in str(caught.value)
            )
    assert "/collective_rpc" not in server.paths


@pytest.mark.parametrize(("dtype", "warned"), [("bfloat16", 1), ("float32", 0)])
def test_a_server_that_computes_less_precisely_is_mentioned(
    world: World, tmp_path: Path, dtype: str, warned: int
) -> None:
    told: list[str] = []
    with stand_in.serving(world.a, dtype=f"torch.{dtype}") as server:
        config = by(server, world, tmp_path / "policy", dry_run=True)
        ppo.run(config, lambda e: told.append(e.text) if isinstance(e, Warned) else None)
    found = [text for text in told if "computes in bfloat16 and this run in float32" in text]
    assert len(found) == warned
    assert all("start the server with --dtype float32" in text for text in found)


def test_what_is_handed_over_is_the_model_that_would_be_saved(
    adapted: AdapterWorld, tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    model = loading.load_language_model(adapted.base, Placement(torch.float32, cpu)).model
    lora.add(model, 2, 0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    saving.save_to_sample(model, tmp_path / "handed", like=adapted.base)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    saving.save_policy(model, tmp_path / "saved", like=adapted.base)
    ours, saved = (load_file(tmp_path / one / "model.safetensors") for one in ("handed", "saved"))
    assert ours.keys() == saved.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, saved[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tied_weights_are_handed_over_once_and_in_the_stored_type(
    tmp_path: Path, dtype: str
) -> None:
    folder = tiny.save_language_model(tmp_path / "tied", seed=1, tie_word_embeddings=True)
    kind = getattr(torch, dtype)
    stored = loading.load_language_model(folder, Placement(kind, torch.device("cpu"))).model
    stored.save_pretrained(folder)
    policy = loading.load_language_model(folder, Placement(torch.float32, torch.device("cpu")))
    saving.save_to_sample(policy.model, tmp_path / "handed", like=policy.folder)
    handed = load_file(tmp_path / "handed" / "model.safetensors")
    assert handed.keys() == load_file(folder / "model.safetensors").keys()
    assert {value.dtype for value in handed.values()} == {kind}
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float32}
    modes = [(tmp_path / "handed" / n).stat().st_mode for n in ("model.safetensors", "config.json")]
    assert modes[0] == modes[1]


@pytest.mark.slow
def test_two_processes_hand_over_once_and_ask_for_what_one_asks(
    world: World, tmp_path: Path
) -> None:
    for name in ("a", "b", "rm"):
        shutil.copytree(getattr(world, name), tmp_path / name)
    shutil.copy(world.prompts, tmp_path / "prompts.jsonl")
    (tmp_path / "gold.py").write_text(
        "def score(prompts, answers):\n    return map(len, answers)\n"
    )
    with stand_in.serving(world.b) as server:
        command = [sys.executable, "-m", "tests.support.parallel_runs", str(tmp_path), server.url]
        environments = [environment for _, environment in processes._places(2)]
        workers = [subprocess.Popen(command, env=one) for one in environments]
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
        asked, server.asked = server.asked, []
        ppo.run(ppo_config(tmp_path, tmp_path / "one", **by_server(server.url)), silent)
    paths = [path for path, _ in asked]
    assert sorted(paths) == sorted(server.paths)
    assert paths.count("/collective_rpc") == 1 + 2  # for the rewards' scale, and each update
    same_metrics(tmp_path / "one", tmp_path / "ppo-vllm")
    rows = rows_without_time(tmp_path / "ppo-vllm")
    assert all(row["sampler_mismatch"] < SAME for row in rows)


def test_the_rewards_scale_is_measured_on_answers_of_the_start(
    world: World, tmp_path: Path
) -> None:
    with stand_in.serving(world.b) as server:
        seen = []

        def watch(path: str, body: dict[str, Any]) -> None:
            if path == "/v1/completions" and not seen:
                seen.extend(weight.clone() for weight in server.model.parameters())

        server.instead = watch
        config = by(server, world, tmp_path / "policy", updates=1, normalize_reward=True)
        run(replace(config, batch_size=64))
    start = loading.load_language_model(
        world.a, Placement(torch.float32, torch.device("cpu"))
    ).model
    assert all(map(torch.equal, seen, start.parameters()))


def test_a_stopped_run_goes_on(world: World, tmp_path: Path) -> None:
    with stand_in.serving(world.b) as server:
        config = by(server, world, tmp_path / "policy")
        with pytest.raises(KeyboardInterrupt):
            ppo.run(config, stopping_at(3))
        with stand_in.serving(world.b) as other:  # a server started anew, and elsewhere
            run(replace(config, vllm_url=other.url, resume=True))
    rows = rows_without_time(config.output)
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert all(row["sampler_mismatch"] < SAME for row in rows)


def test_rows_of_other_generators_have_no_such_figures(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", updates=1)
    run(config)
    (row,) = rows_without_time(config.output)
    assert not [name for name in row if name.startswith("sampler")]
    assert UpdateMetrics.of(row | {"time": {}}).sampler_mismatch is None


def test_a_server_that_is_not_there_is_said_before_a_weight_is_loaded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in.serving(world.a) as server:
        gone = by(server, world, tmp_path / "policy")
        short = replace(gone, output=tmp_path / "short")
        monkeypatch.setattr(assembly, "load", lambda *a, **k: pytest.fail("a weight was loaded"))
        dry = ppo.run(replace(gone, dry_run=True), silent)
        phases = dry.record()["memory"]["phases"]  # type: ignore[index]
        assert "cache" not in phases["rollout"]
        server.context = 10  # the longest prompt has 5 tokens, an answer 6
        with pytest.raises(SalsaError, match=r"needs 11; start it with --max-model-len 11"):
            run(short)
    for config in (gone, replace(gone, dry_run=True)):
        with pytest.raises(SalsaError, match=r"no server is running; start one: VLLM_SERVER_DEV_"):
            run(config)
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000", "http://127.1.2.3", "http://localhost:1/", "http://[::1]:8000"],
)
def test_this_machine_may_sample(world: World, tmp_path: Path, url: str) -> None:
    config = configure(world, tmp_path / "policy", generator="vllm", vllm_url=url)
    assert config.server == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:8000",
        "http://example.com",
        "http://localhost.example.com:8000",
        "http://127.0.0.1@example.com",
        "http://0.0.0.0:8000",
        "http://[::2]:8000",
        "https://127.0.0.1:8000",
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:99999",
        "http://[::1",
        "127.0.0.1:8000",
        "",
    ],
)
def test_other_machines_and_other_texts_may_not(world: World, tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="expected a server on this machine, such as http://127"):
        configure(world, tmp_path / "policy", generator="vllm", vllm_url=url)


def test_the_settings_of_the_server(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", generator="vllm")
    assert config.server == "http://127.0.0.1:8000"
    assert configure(world, tmp_path / "policy").server is None
    with pytest.raises(UsageError, match="--vllm-url has no effect without --generator vllm"):
        configure(world, tmp_path / "policy", vllm_url="http://127.0.0.1:8000")


def test_processes_of_several_machines_are_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = start_runtime("cpu")
    monkeypatch.setattr(type(cpu), "processes", 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(
        UsageError, match="needs all processes on one machine; 2 of the 4 are on this"
    ):
        preflight.check_processes(configure(world, tmp_path / "p", generator="vllm"), cpu)


def test_a_folder_that_cannot_be_written_is_said(world: World, tmp_path: Path) -> None:
    with stand_in.serving(world.a) as server:
        server.instead = lambda path, body: (
            stand_in.told({"error": "no such file"}, 500) if path == "/collective_rpc" else None
        )
        config = by(server, world, tmp_path / "policy")
        with pytest.raises(SalsaError, match=r"update 1: .*no such file.* the same file system"):
            run(config)
    assert not run_folder.partial_folder(config.output).exists()
    shutil.rmtree(config.output, ignore_errors=True)
