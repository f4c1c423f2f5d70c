"""What one 80 GB card does at 7B: full fine-tuning, LoRA, and decoding, with random weights.

    python -m tests.benchmarks.full_7b_gpu > result.json                        # under 5 minutes
    python -m tests.benchmarks.full_7b_gpu --stages full --shape 7b --seconds 200
    python -m tests.benchmarks.full_7b_gpu --shape tiny --device cpu            # does it still run?

Stages, each in a process of its own with a time limit, so that a failure loses that stage alone:

- full: three updates of policy and critic with `--weights bfloat16 --optimiser adamw-8bit
  --gradient-checkpointing`, the reference and the reward model in the CPU's memory when not needed;
- lora: three updates of adapters of rank 16 on one backbone that all four models share;
- decode: 64 answers, without learning.

Prompts and answers have fixed lengths, as random weights seldom end an answer. One JSON object: per
stage the seconds of each phase, answer tokens a second, and peak memory of each phase.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.generation import rollouts
from salsa_cli.generation.rollouts import Sampled
from salsa_cli.models import forward, lora
from salsa_cli.models.learners import Learner, MomentStorage
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import Tokens
from salsa_cli.reward_models.rewards import Ensemble
from salsa_cli.rl import experience, learning
from salsa_cli.rl.actors import Actors, learning_mode
from salsa_cli.rl.offload import Parked
from salsa_cli.rl.run import Run
from tests.benchmarks import measure
from tests.benchmarks.ppo_gpu import END, SHAPES, random_model

STAGES = {"full": 150, "lora": 90, "decode": 50}
"""Stages, with the most seconds of each."""

UPDATES = 3
ANSWERS = 64
TOKENS = 128
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--micro-batch-size", type=int, default=8, help="of the stage full")
    parser.add_argument("--offload-moments", action="store_true", help="in the stage full")
    parser.add_argument("--seconds", type=int, help="limit of each stage, in place of its own")
    parser.add_argument("--alone", choices=STAGES, help="run a stage in this process")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(alone(given)))
        return
    result: dict[str, Any] = {
        "machine": measure.machine(Path.cwd()),
        "versions": measure.versions("torch", "transformers"),
        "salsa": measure.commit(Path(__file__).parent),
        "arguments": vars(given),
    }
    for stage in given.stages.split(","):
        began = time.perf_counter()
        result[stage] = apart(stage, given.seconds or STAGES[stage])
        result[stage]["whole seconds"] = round(time.perf_counter() - began, 1)
        print(f"{stage}: {json.dumps(result[stage])}", file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))


def apart(stage: str, seconds: int) -> dict[str, Any]:
    """A stage in a process of its own, with a time limit.

    What it has measured by the end of it counts: it prints a line of JSON after each update.
    """
    command = [sys.executable, "-m", "tests.benchmarks.full_7b_gpu", *sys.argv[1:]]
    try:
        done = subprocess.run(
            [*command, "--alone", stage], capture_output=True, text=True, timeout=seconds
        )
        found, errors, state = done.stdout, done.stderr, f"exit {done.returncode}"
    except subprocess.TimeoutExpired as error:
        found, errors = _text(error.stdout), _text(error.stderr)
        state = f"stopped after {seconds} s"
    lines = found.strip().splitlines()
    try:
        measured: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    except ValueError:
        measured = {}
    if state != "exit 0":
        measured["error"] = f"{state}: {errors.strip()[-600:]}"
    return measured


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def alone(given: argparse.Namespace) -> dict[str, Any]:
    """The stage, with an error in place of what it did not come to."""
    found: dict[str, Any] = {"shape": given.shape}
    try:
        if given.device == "cuda":
            found["device"] = torch.cuda.get_device_name()
            found["device memory"] = torch.cuda.get_device_properties(0).total_memory
        Bench(given, found).run()
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {str(error)[:600]}"
    return found


class Bench:
    """The models of a stage, and what was measured of them so far."""

    def __init__(self, given: argparse.Namespace, found: dict[str, Any]) -> None:
        self._given, self._found = given, found
        self._runtime: Runtime = start_runtime(given.device)
        self._cuda = given.device == "cuda"
        full = given.alone == "full"
        tiny = given.shape == "tiny"
        self._answers, self._tokens = (8, 8) if tiny else (ANSWERS, TOKENS)
        self._config = PPOConfig(
            ref=("random",),
            reward=("random",),
            prompts="random",
            output=Path("unused"),
            batch_size=self._answers,
            micro_batch_size=min(given.micro_batch_size if full else ANSWERS, self._answers),
            response_length=self._tokens,
            epochs=1,
            weights="bfloat16" if full else "float32",
            optimiser="adamw-8bit" if full else "adamw",
            gradient_checkpointing=full,
            lora_rank=RANK if given.alone == "lora" else None,
        )

    def run(self) -> None:
        """Warm up by an answer of a few tokens, then measure."""
        stage = self._given.alone
        shape = self._answers, self._tokens
        generator = torch.Generator().manual_seed(0)
        vocabulary = SHAPES[self._given.shape]["vocab_size"]
        self._prompts = torch.randint(3, vocabulary, shape, generator=generator).tolist()
        if stage == "decode":
            model = self._model(LlamaForCausalLM)
            self._found["parameters"] = sum(one.numel() for one in model.parameters())
            policy = self._policy(model)
            for _ in range(2):  # the first captures the graphs
                self._found["rollout"] = self._measured(lambda: self._sample(policy))[1]
                self._report()
            return
        actors, parked = self._lora() if stage == "lora" else self._full()
        self._found["parameters"] = sum(one.numel() for one in actors.policy.model.parameters())
        self._found["memory after loading"] = self._held()
        run = Run(None, self._config, self._runtime, Path("unused"))  # type: ignore[arg-type]
        self._found["updates"] = []
        for update in range(UPDATES):
            self._found["updates"].append(self._update(update, actors, parked, run))
            self._report()

    def _report(self) -> None:
        print(json.dumps(self._found), flush=True)

    def _model(self, kind: Any, dtype: torch.dtype | None = None) -> Any:
        given = self._given.shape, dtype or self._runtime.frozen_dtype, self._runtime
        return random_model(kind, *given)

    def _policy(self, model: Any) -> LanguageModel:
        nobody: Any = None  # no text is read or written here
        return LanguageModel(Path("random"), model, nobody, (END,), 0)

    def _full(self) -> tuple[Actors, dict[str, Parked]]:
        """Policy and critic in bfloat16; what is frozen is moved out before the next is made."""
        device = self._runtime.device
        reference = self._model(LlamaForCausalLM)
        parked = {"reference": Parked(reference, device)}
        self._reward = self._model(LlamaForSequenceClassification)
        parked["reward"] = Parked(self._reward, device)
        policy = self._model(LlamaForCausalLM, torch.bfloat16)
        critic = self._model(LlamaForSequenceClassification, torch.bfloat16)
        return self._actors(policy, reference, critic), parked

    def _lora(self) -> tuple[Actors, dict[str, Parked]]:
        """Four models on one backbone: reference and reward model are frozen parts of it."""
        reference = self._model(LlamaForCausalLM)
        made = []
        for kind in (LlamaForCausalLM, *[LlamaForSequenceClassification] * 2):
            made.append(self._model(kind))
            _share(reference, made[-1])
        policy, critic, self._reward = made
        lora.add(policy, RANK, 1)
        lora.add(critic, RANK, 2)
        critic.score.float()
        return self._actors(policy, reference, critic), {}

    def _actors(self, policy: Any, reference: Any, critic: Any) -> Actors:
        storage = MomentStorage.of(
            self._config.optimiser, offload=self._given.offload_moments and self._cuda, seed=0
        )
        common = 1e-6, 1.0, self._runtime, storage
        return Actors(
            self._policy(policy),
            (reference,),
            Ensemble((), lambda scores: scores[0]),
            None,
            Learner("policy", policy, forward.answer_logprobs, *common),
            Learner("critic", critic, forward.answer_values, *common),
        )

    def _sample(self, policy: LanguageModel) -> Sampled:
        return rollouts.sample(
            policy,
            self._prompts,
            list(range(self._answers)),
            length=self._tokens,
            temperature=1.0,
            runtime=self._runtime,
            generator="auto",
        )

    def _update(
        self, update: int, actors: Actors, parked: dict[str, Parked], run: Run
    ) -> dict[str, Any]:
        """The phases of `salsa ppo`: rollout, rewards, log-probabilities, learning."""
        row: dict[str, Any] = {}
        began = time.perf_counter()
        sampled, row["rollout"] = self._measured(lambda: self._sample(actors.policy))
        scores, row["scoring"] = self._measured(lambda: self._scores(sampled, parked))
        rollout, row["log-probabilities"] = self._measured(
            lambda: self._recalled(sampled, scores, actors, parked, run)
        )
        learned, row["learning"] = self._measured(
            lambda: self._learned(update, rollout, actors, run)
        )
        seconds = time.perf_counter() - began
        answered = int(sampled.lengths.sum())
        row["seconds"] = round(seconds, 2)
        row["answer tokens a second"] = round(answered / seconds)
        row["ratio error"] = learned.ratio_error
        row["peak memory"] = max((row[name].get("peak memory") or 0) for name in list(row)[:4])
        return row

    @torch.no_grad()
    def _scores(self, sampled: Sampled, parked: dict[str, Parked]) -> torch.Tensor:
        joined = Tokens(
            torch.cat([sampled.prompts.ids, sampled.responses.ids], 1),
            torch.cat([sampled.prompts.mask, sampled.responses.mask], 1),
        )
        with _present(parked, "reward"):
            parts = torch.arange(len(joined.ids)).split(16)
            return torch.cat([forward.last_scores(self._reward, joined[rows]) for rows in parts])

    def _recalled(
        self,
        sampled: Sampled,
        scores: torch.Tensor,
        actors: Actors,
        parked: dict[str, Parked],
        run: Run,
    ) -> rollouts.Rollout:
        with _present(parked, "reference"):
            return experience.compute_rollout(sampled, scores.cpu(), actors, run)

    def _learned(
        self, update: int, rollout: rollouts.Rollout, actors: Actors, run: Run
    ) -> learning.LearningMetrics:
        config = run.config
        penalty = learning.compute_penalties(
            rollout.logprobs, rollout.ref_logprobs, rollout.mask, config
        )
        targets = learning.compute_advantages(rollout, penalty, 0.05, config)
        with learning_mode(actors, config):
            return learning.learn(update, rollout, targets, 0.05, actors, run)

    def _measured(self, work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
        """What `work` returns; its seconds, and the most memory meanwhile."""
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        found = work()
        if self._cuda:
            torch.cuda.synchronize()
        row: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 3)}
        if self._cuda:
            row["peak memory"] = torch.cuda.max_memory_allocated()
            row["reserved"] = torch.cuda.max_memory_reserved()
        if isinstance(found, Sampled):
            row["answer tokens a second"] = round(int(found.lengths.sum()) / row["seconds"])
        return found, row

    def _held(self) -> int | None:
        return torch.cuda.memory_allocated() if self._cuda else None


def _present(parked: dict[str, Parked], name: str) -> AbstractContextManager[None]:
    return parked[name].present() if name in parked else nullcontext()


def _share(source: Any, model: Any) -> None:
    """Make the weights that a model has in common with another the other's."""
    held = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        if name in held:
            parameter.data = held[name].data


if __name__ == "__main__":
    main()
