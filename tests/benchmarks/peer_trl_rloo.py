"""One run of TRL's RLOO or GRPO trainer (1.16); prints a JSON line an update and saves the policy.

Runs in a Python of its own, where `trl==1.16.0` is installed; `advantages.py` starts this. The
trainer's reference is the start; `--ref` is taken for the likeness of the command and must be it.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import datasets
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

warnings.filterwarnings("ignore")
try:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
except ImportError:
    sys.exit("this Python has no TRL with an RLOO trainer; expected trl==1.16.0")

ALGORITHMS = {"rloo": (RLOOConfig, RLOOTrainer), "grpo": (GRPOConfig, GRPOTrainer)}


class Lines(transformers.TrainerCallback):
    """The figures that both tools have, one JSON object an update."""

    def __init__(self, answers: int) -> None:
        self._answers = answers

    def on_log(self, args, state, control, logs=None, **rest):  # type: ignore[no-untyped-def]
        if logs and "reward" in logs:
            row = {
                "reward": logs["reward"],
                "kl": logs.get("kl", 0.0),
                "tokens": round(logs["completions/mean_length"] * self._answers),
            }
            print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("policy", "ref", "reward", "prompts", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("updates", "batch-size", "samples-per-prompt", "response-length", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("learning-rate", "kl-coef"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--algorithm", choices=ALGORITHMS, required=True)
    given = parser.parse_args()
    if given.ref != given.policy:
        sys.exit("TRL's RLOO and GRPO know no reference but the start")
    tokenizer = AutoTokenizer.from_pretrained(given.policy, padding_side="left")
    with Path(given.prompts).open(encoding="utf-8") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    config, trainer = ALGORITHMS[given.algorithm]
    settings = config(
        output_dir=given.output,
        max_steps=given.updates * given.epochs,
        logging_steps=given.epochs,
        per_device_train_batch_size=given.batch_size,
        gradient_accumulation_steps=1,
        num_generations=given.samples_per_prompt,
        num_iterations=given.epochs,
        max_completion_length=given.response_length,
        beta=given.kl_coef,
        learning_rate=given.learning_rate,
        lr_scheduler_type="constant",
        adam_epsilon=1e-5,
        weight_decay=0.0,
        max_grad_norm=1.0,
        temperature=1.0,
        seed=given.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    reward = AutoModelForSequenceClassification.from_pretrained(given.reward, num_labels=1)
    learning = trainer(
        model=AutoModelForCausalLM.from_pretrained(given.policy),
        reward_funcs=reward,
        args=settings,
        train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in prompts]),
        processing_class=tokenizer,
        reward_processing_classes=AutoTokenizer.from_pretrained(given.reward),
        callbacks=[Lines(given.batch_size)],
    )
    learning.remove_callback(transformers.PrinterCallback)  # its lines are no JSON
    learning.train()
    learning.save_model(given.output)
    tokenizer.save_pretrained(given.output)


if __name__ == "__main__":
    main()
