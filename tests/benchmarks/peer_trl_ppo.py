"""One PPO run by TRL 1.12.0, the last with a PPO trainer; prints a JSON line an update.

Runs in a Python of its own, where `trl==1.12.0` is installed; `ppo_vs_trl.py` makes it and starts
this. Beside what was learned, a line has the answers' real tokens, and the seconds of generation
and of TRL's own calls of gc.collect (two an update).
"""

import argparse
import gc
import json
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

warnings.filterwarnings("ignore")
try:
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
except ImportError:
    sys.exit("this Python has no TRL with a PPO trainer; expected trl==1.12.0")

LOGGED = {
    "reward": "objective/scores",
    "kl": "objective/kl",
    "approx_kl": "policy/approxkl_avg",
    "clip_share": "policy/clipfrac_avg",
    "ratio": "val/ratio",
}


class Watch:
    """What TRL does not log: tokens, and where the time goes."""

    def __init__(self, pad_id: int) -> None:
        self.figures = {"tokens": 0, "rollout": 0.0, "collecting": 0.0}
        self._pad_id = pad_id
        self._generate = ppo_trainer.batch_generation
        ppo_trainer.batch_generation = self._generation
        ppo_trainer.gc = SimpleNamespace(collect=self._collect)

    def _generation(self, model: Any, queries: Any, *rest: Any) -> Any:
        began = time.perf_counter()
        found = self._generate(model, queries, *rest)
        self.figures["rollout"] += time.perf_counter() - began
        answers = found[0][:, queries.shape[1] :]
        self.figures["tokens"] += int((answers != self._pad_id).sum())
        return found

    def _collect(self, *generation: int) -> int:
        began = time.perf_counter()
        found = gc.collect(*generation)
        self.figures["collecting"] += time.perf_counter() - began
        return found


class Lines(transformers.TrainerCallback):
    """The figures that both tools have, one JSON object an update."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_log(self, args, state, control, logs=None, **rest):  # type: ignore[no-untyped-def]
        if logs and "objective/kl" in logs:
            row = {name: logs[key] for name, key in LOGGED.items()}
            print(json.dumps(row | self._watch.figures), flush=True)
            self._watch.figures |= {"tokens": 0, "rollout": 0.0, "collecting": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("policy", "ref", "reward", "prompts", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("updates", "batch-size", "micro-batch-size", "response-length", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("learning-rate", "kl-coef"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    # What learns in float32 is multiplied in bfloat16 on a GPU, and what does not is held so.
    mixed = given.device == "cuda" and given.dtype == "float32"
    frozen = "bfloat16" if given.device == "cuda" else given.dtype

    tokenizer = AutoTokenizer.from_pretrained(given.policy, padding_side="left")
    with Path(given.prompts).open(encoding="utf-8") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    data = datasets.Dataset.from_list(
        [{"input_ids": tokenizer(text).input_ids} for text in prompts]
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(given.reward, num_labels=1, dtype=dtype)
        for dtype in (frozen, given.dtype)
    )
    settings = PPOConfig(
        output_dir=given.output,
        total_episodes=given.updates * given.batch_size,
        per_device_train_batch_size=given.micro_batch_size,
        gradient_accumulation_steps=given.batch_size // given.micro_batch_size,
        num_mini_batches=1,
        num_ppo_epochs=4,
        response_length=given.response_length,
        stop_token="eos",
        learning_rate=given.learning_rate,
        lr_scheduler_type="constant",
        adam_epsilon=1e-5,
        weight_decay=0.0,
        kl_coef=given.kl_coef,
        gamma=1.0,
        lam=1.0,
        temperature=1.0,
        seed=given.seed,
        bf16=mixed,
        use_cpu=given.device == "cpu",
        num_sample_generations=0,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(given.policy, dtype=given.dtype),
        ref_model=AutoModelForCausalLM.from_pretrained(given.ref, dtype=frozen),
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        callbacks=[Lines(Watch(tokenizer.pad_token_id))],
    )
    trainer.remove_callback(transformers.PrinterCallback)  # its lines are no JSON
    trainer.train()


if __name__ == "__main__":
    main()
