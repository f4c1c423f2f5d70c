"""What the stages of an update of `salsa ppo` take on a GPU: rollout, scoring, update.

    python -m tests.benchmarks.ppo_gpu --shape 1b > result.json
    python -m tests.benchmarks.ppo_gpu --shape 7b --stages rollout --generators graphs,loop
    python -m tests.benchmarks.ppo_gpu --shape tiny --device cpu       # does the script still run?

Models of random weights in the shape of known ones, made on the spot: a policy, a reference, a
critic and a reward model. Prompts and answers have fixed lengths, as random weights never end an
answer. Each stage runs once to warm up and then `--repeats` times; the figures are medians. One
JSON object: seconds, answer tokens a second, model FLOP utilisation (2 FLOP a weight and token of a
forward pass, 6 with the backward pass, attention and recomputation not counted), peak memory of the
device in the stage. A generator that fails has its error in place of figures. With the stage
`update`, policy and critic are held in float32; without it, in bfloat16.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import SalsaError, one_line
from salsa_cli.generation import rollouts
from salsa_cli.generation.rollouts import Sampled
from salsa_cli.models import forward
from salsa_cli.models.learners import Learner
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import Tokens
from salsa_cli.reward_models.rewards import Ensemble
from salsa_cli.rl import experience, learning
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.run import Run
from tests.benchmarks import measure, shapes

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    **shapes.LLAMA,
}
STAGES = ("rollout", "scoring", "update")
END = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--generators", default="auto", help="of the rollout, each in turn")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--response-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the device, bfloat16")
    given = parser.parse_args()
    runtime = start_runtime(given.device)
    config = PPOConfig(
        ref=("random",),
        reward=("random",),
        prompts="random",
        output=Path("unused"),
        batch_size=given.batch_size,
        micro_batch_size=given.micro_batch_size,
        response_length=given.response_length,
        epochs=1,
    )
    result: dict[str, Any] = {
        "machine": measure.machine(Path.cwd()),
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        "versions": measure.versions("torch", "transformers"),
        "salsa": measure.commit(Path(__file__).parent),
        "arguments": vars(given),
    }
    wanted = given.stages.split(",")
    if unknown := set(wanted) - set(STAGES):
        sys.exit(f"--stages {','.join(sorted(unknown))}: expected some of {','.join(STAGES)}")
    bench = Bench(given, config, runtime, trained="update" in wanted)
    result["parameters"] = bench.parameters
    for stage in (one for one in bench.stages() if one.split(", ")[0] in wanted):
        try:
            result[stage] = bench.measured(*bench.stages()[stage])
        except (RuntimeError, SalsaError) as error:
            result[stage] = f"{type(error).__name__}: {one_line(str(error))[:300]}"
        print(f"{stage}: {result[stage]}", file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))


class Bench:
    """The models, and answers for the stages that come after the rollout."""

    def __init__(
        self, given: argparse.Namespace, config: PPOConfig, runtime: Runtime, *, trained: bool
    ) -> None:
        self._given = given
        self._run = Run(cast(Any, None), config, runtime, Path("unused"))
        # What learns is held in float32; what does not, in the device's type.
        learning_type = torch.float32 if trained else runtime.frozen_dtype
        model = random_model(LlamaForCausalLM, given.shape, learning_type, runtime)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        reference = random_model(LlamaForCausalLM, given.shape, runtime.frozen_dtype, runtime)
        critic = random_model(LlamaForSequenceClassification, given.shape, learning_type, runtime)
        frozen = runtime.frozen_dtype
        self._reward = random_model(LlamaForSequenceClassification, given.shape, frozen, runtime)
        nobody: Any = None  # no text is read or written here
        policy = LanguageModel(Path("random"), model, nobody, (END,), 0)
        learners: Any = (None, None)
        if trained:
            common = 1e-6, 1.0, runtime
            learners = (
                Learner("policy", model, forward.answer_logprobs, *common),
                Learner("critic", critic, forward.answer_values, *common),
            )
        rewards = Ensemble((), lambda scores: scores[0])
        self._actors = Actors(policy, (reference,), rewards, None, *learners)
        if not trained:
            self._values = critic
        shape = given.batch_size, given.prompt_length
        vocabulary = model.config.vocab_size
        ids = torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(0))
        self._prompts = ids.tolist()
        answers = torch.randint(3, vocabulary, (given.batch_size, given.response_length))
        inside = [torch.ones_like(one, dtype=torch.bool) for one in (ids, answers)]
        self._sampled = Sampled(
            Tokens(ids, inside[0]).to(runtime.device),
            Tokens(answers, inside[1]).to(runtime.device),
            torch.zeros(given.batch_size, dtype=torch.bool, device=runtime.device),
        )

    def stages(self) -> dict[str, tuple[Callable[[], Any], float]]:
        """Each stage, and its floating-point operations by the weights alone."""
        given = self._given
        tokens = given.batch_size * (given.prompt_length + given.response_length)
        forward = 2.0 * self.parameters * tokens
        # policy, reference, critic and reward model; then policy and critic, there and back
        return {
            **{
                f"rollout, {name}": (partial(self.rollout, name), forward)
                for name in given.generators.split(",")
            },
            "scoring": (self.scoring, 4 * forward),
            "update": (self.update, 2 * 3 * forward),
        }

    def rollout(self, generator: str) -> None:
        rollouts.sample(
            self._actors.policy,
            self._prompts,
            list(range(len(self._prompts))),
            length=self._given.response_length,
            temperature=1.0,
            runtime=self._run.runtime,
            generator=generator,
        )

    @torch.no_grad()
    def scoring(self) -> None:
        sampled = self._sampled
        joined = Tokens(
            torch.cat([sampled.prompts.ids, sampled.responses.ids], 1),
            torch.cat([sampled.prompts.mask, sampled.responses.mask], 1),
        )
        for rows in torch.arange(len(joined.ids)).split(self._run.config.forward_size):
            forward.last_scores(self._reward, joined[rows])
        if self._actors.critic is None:
            for model in (self._actors.policy.model, self._actors.references[0]):
                experience.logprobs_under(model, sampled, self._run)
            groups = list(torch.arange(len(joined.ids)).split(self._run.config.forward_size))
            rollouts.values(self._values, sampled, groups=groups, runtime=self._run.runtime)
        else:
            self._recalled()

    def update(self) -> None:
        rollout = self._recalled()
        penalty = learning.compute_penalties(
            rollout.logprobs, rollout.ref_logprobs, rollout.mask, self._run.config
        )
        targets = learning.compute_advantages(rollout, penalty, 0.05, self._run.config)
        learning.learn(0, rollout, targets, 0.05, self._actors, self._run)

    def _recalled(self) -> rollouts.Rollout:
        scores = torch.linspace(-1, 1, self._given.batch_size)
        return experience.compute_rollout(self._sampled, scores, self._actors, self._run)

    def measured(self, stage: Callable[[], None], operations: float) -> dict[str, Any]:
        """Run a stage, once for nothing and then for its figures."""
        on_gpu = self._given.device == "cuda"
        spent = []
        for _ in range(self._given.repeats + 1):
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            stage()
            if on_gpu:
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - began)
        seconds = median(spent[1:])
        answers = self._given.batch_size * self._given.response_length
        peak = self._given.peak_tflops * 1e12
        return {
            "seconds": round(seconds, 4),
            "answer tokens a second": round(answers / seconds),
            "model FLOP utilisation": round(operations / seconds / peak, 4) if on_gpu else None,
            "peak memory": torch.cuda.max_memory_allocated() if on_gpu else None,
        }


def random_model(kind: Any, shape: str, dtype: torch.dtype, runtime: Runtime) -> Any:
    """A model of small random weights, made where it will be used."""
    config = LlamaConfig(
        **SHAPES[shape],
        num_labels=1,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=END,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with runtime.device:
            model = kind(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
