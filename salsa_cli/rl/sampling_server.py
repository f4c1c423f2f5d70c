"""A vLLM server that samples for PPO: whether its model fits, and how it gets the policy's weights.

A policy with adapters is sent as adapters if the server can load them, some megabytes per update.
Any other policy, or one whose adapters the server refuses, is sent as full weights.
"""

import hashlib
import secrets
import shutil
from dataclasses import replace

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.generation import vllm, vllm_model
from salsa_cli.generation.vllm import Server
from salsa_cli.generation.vllm_http import Refusal
from salsa_cli.models import lora, saving
from salsa_cli.models.forward import Module
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.plan import PPOPlan
from salsa_cli.rl.run import Run
from salsa_cli.runs.events import Note, Report, Warned
from salsa_cli.weights import folders

FOLDER = "handed-over"
"""Folder in a run's folder from which the server loads weights or adapters."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's --max-lora-rank."""


def connect(plan: PPOPlan, config: PPOConfig, runtime: Runtime, report: Report) -> Server | None:
    """Connect to the server, if there is one; check its context length and its model's shape.

    Raises:
        SalsaError: it does not answer, or cannot do what is needed.
    """
    if config.server is None:
        return None
    server = vllm.connect(config.server)
    server.check_context(max(map(len, plan.prompt_ids)) + config.response_length)
    base = folders.base(plan.policy)
    if not vllm_model.check_fits(server.url, server.model, base):
        report(
            Note(
                f"the configuration of {server.model.root or server.model.name}, which "
                f"{server.url} serves, cannot be read here; expected a model of the shape of {base}"
            )
        )
    if warning := _other_precision(server, runtime.frozen_dtype):
        report(Warned(warning))
    return server


def prepare(actors: Actors, run: Run, report: Report) -> Actors:
    """Find out whether the server can load the policy's adapters; if so, load their base there.

    Every process must call it.

    Raises:
        SalsaError: the server fails to load the base.
    """
    server = actors.server
    if server is None or not lora.has_adapters(actors.policy.model):
        return actors
    rank = _rank(actors.policy.model)
    prepared = run.runtime.from_main(lambda: _with_adapters(server, actors, run, rank, report))
    return replace(actors, server=prepared)


def sync_weights(actors: Actors, run: Run) -> Actors:
    """Send the policy's weights to the server, if there is one; returns the actors that use them.

    Every process must call it. The main process sends them while the others wait.

    Raises:
        SalsaError: the disk is full, or the server does not load them.
    """
    server = actors.server
    if server is None:
        return actors
    send = _send_adapters if server.takes_adapters else _send_weights
    synced = run.runtime.from_main(lambda: send(server, actors, run))
    return replace(actors, server=synced)


def _with_adapters(server: Server, actors: Actors, run: Run, rank: int, report: Report) -> Server:
    try:
        _send_adapters(server, actors, run)
    except Refusal as refused:
        most = next((one for one in RANKS if one >= rank), rank)
        if run.runtime.sharding is not None:
            raise SalsaError(
                "the adapters of a policy whose base is sharded (--shard) cannot be merged, and "
                f"the server does not load adapters (HTTP {refused.status}: {refused.reason}). "
                "Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora "
                f"--max-lora-rank {most}"
            ) from refused
        report(
            Note(
                "the adapters are merged and sent to the server as full weights, because it does "
                f"not load adapters (HTTP {refused.status}: {refused.reason}). To send only the "
                "adapters, start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora "
                f"--max-lora-rank {most}"
            )
        )
        return server
    # Another run may have left the weights of its own policy there.
    server.load_weights(folders.base(actors.policy.folder))
    return replace(server, takes_adapters=True)


def _send_adapters(server: Server, actors: Actors, run: Run) -> Server:
    # An adapter of an earlier start of this run, or of its last update, has the same prefix.
    prefix = f"salsa-{hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:8]}-"
    place = run.folder / FOLDER
    try:
        saving.save_adapters(actors.policy.model, place, like=actors.policy.folder)
        loaded = server.load_adapter(place, prefix + secrets.token_hex(6))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    loaded.unload_adapters(prefix)
    return loaded


def _send_weights(server: Server, actors: Actors, run: Run) -> Server:
    place = run.folder / FOLDER
    try:
        saving.save_to_sample(actors.policy.model, place, like=actors.policy.folder)
        server.load_weights(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return server


def _rank(model: Module) -> int:
    return max(
        int(factor.shape[0]) for name, factor in model.named_parameters() if ".lora_A." in name
    )


def _other_precision(server: Server, computes: torch.dtype) -> str | None:
    """A warning if the server computes less precisely than the run; None otherwise."""
    served = server.model.dtype
    ours = str(computes).removeprefix("torch.")
    if served in (None, ours, "float32"):
        return None
    return (
        f"{server.url} computes in {served} and this run in {ours}: the log-probabilities will "
        "differ by some thousandths of a nat per token (sampler_mismatch in metrics.jsonl). To "
        f"avoid it, start the server with --dtype {ours}"
    )
