"""Make preference pairs: two sampled answers to a prompt, put in order by a gold reward.

    python examples/preferences.py sft-a/ --prompts world/prompts.jsonl -o prefs.jsonl

writes {"prompt", "chosen", "rejected"} rows for `salsa train-rm`; "chosen_finished" and
"rejected_finished" say whether an answer came to its end or was cut. Pairs that the gold reward
does not tell apart are left out. In real work this is where people compare answers. GOLD is a
Python file with a function score(prompts, answers); without it, the quickstart's.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    prompts = [json.loads(line)["prompt"] for line in args.prompts.open(encoding="utf-8")]
    score = scorer(args.gold)
    started, pairs = time.perf_counter(), 0
    with args.output.open("w", encoding="utf-8") as file:
        for start in range(0, args.pairs, args.batch_size):
            batch = [prompts[i % len(prompts)] for i in range(start, start + args.batch_size)]
            first, second = (answers(model, tokenizer, batch, args.max_tokens) for _ in range(2))
            golds = [score(batch, [text for text, _ in each]) for each in (first, second)]
            sampled = zip(first, second, *golds, strict=True)
            for prompt, (one, other, gold, gold_of_other) in zip(batch, sampled, strict=True):
                better, worse = (one, other) if gold > gold_of_other else (other, one)
                if gold != gold_of_other and worse[0].strip():
                    row = {"prompt": prompt, "chosen": better[0], "rejected": worse[0]}
                    row |= {"chosen_finished": better[1], "rejected_finished": worse[1]}
                    file.write(json.dumps(row) + "\n")
                    pairs += 1
            if (start // args.batch_size) % 5 == 4:
                seconds = time.perf_counter() - started
                print(f"{pairs} pairs in {seconds:.0f} s", flush=True)
    print(f"saved {pairs} pairs to {args.output}", flush=True)


def scorer(path: Path) -> Callable[[list[str], list[str]], list[float]]:
    """Return the function `score` of a Python file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[list[str], list[str]], list[float]] = module.score
    return found


@torch.no_grad()
def answers(model, tokenizer, prompts: list[str], max_tokens: int) -> list[tuple[str, bool]]:  # type: ignore[no-untyped-def]
    """Sample one answer to each prompt at temperature 1; True where it came to its end."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    ids = model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=max_tokens,
    )
    new = ids[:, inputs.input_ids.shape[1] :]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    ends = torch.tensor(model.generation_config.eos_token_id).reshape(-1)
    finished = torch.isin(new, ends).any(dim=1).tolist()
    return list(zip(texts, finished, strict=True))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of the model that answers")
    parser.add_argument("--prompts", type=Path, required=True, help='JSON lines with a "prompt"')
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    parser.add_argument("--gold", type=Path, default=Path(__file__).with_name("gold.py"))
    parser.add_argument("--pairs", type=int, default=3000, help="pairs to sample")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer, in tokens")
    parser.add_argument("--batch-size", type=int, default=100, help="prompts at a time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the answers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
