"""Move a model in a random direction until it is as far away as another: the control of arm 8.

    python perturb.py a/ soup/ --prompts tune.jsonl --seed 1 -o perturbed/

Adds normal noise to each weight matrix of A, in proportion to the matrix's own spread, and scales
it by bisection until the mean KL(A || perturbed) of a whole answer is KL(A || soup). Both are exact
over the vocabulary, summed over the tokens of answers that A samples.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS = 20  # of the bisection: the scale is then known to 1e-6 of its range


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="A, which is perturbed")
    parser.add_argument("other", help="the model whose KL is matched")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=56)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.model, padding_side="left")
    model, other = (
        AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        for place in (given.model, given.other)
    )
    prompts = [json.loads(line)["prompt"] for line in given.prompts.open(encoding="utf-8")]
    answers = sampled(model, tokenizer, prompts, given.max_tokens)
    wanted = divergence(model, other, answers)
    noise = {
        name: torch.randn_like(weight) * weight.std()
        for name, weight in model.named_parameters()
        if weight.ndim > 1
    }
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        scale = (low + high) / 2
        if divergence(model, moved(model, noise, scale), answers) < wanted:
            low = scale
        else:
            high = scale
    result = moved(model, noise, low)
    reached = divergence(model, result, answers)
    print(f"KL of an answer: {reached:.4f} at scale {low:.5f}; wanted {wanted:.4f}")
    result.save_pretrained(given.output)
    tokenizer.save_pretrained(given.output)


def moved(model: Any, noise: dict[str, torch.Tensor], scale: float) -> Any:
    """A copy of the model with the scaled noise added."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in result.named_parameters():
            if name in noise:
                weight += scale * noise[name]
    return result


@torch.inference_mode()
def sampled(
    model: Any, tokenizer: Any, prompts: list[str], length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, attention mask, and which tokens are of the answer, each of shape (rows, length)."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    tokens = model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=length,
    )
    ends = torch.tensor(model.generation_config.eos_token_id).reshape(-1)
    width = inputs.input_ids.shape[1]
    ended = torch.isin(tokens[:, width:], ends).int().cumsum(1)
    # The end token itself counts, what comes after it does not.
    real = torch.cat([torch.ones_like(ended[:, :1]), (ended[:, :-1] == 0).int()], dim=1)
    mask = torch.cat([inputs.attention_mask, real], dim=1)
    answer = torch.cat([torch.zeros_like(inputs.attention_mask), real], dim=1).bool()
    return tokens, mask, answer


@torch.inference_mode()
def divergence(model: Any, other: Any, answers: tuple[torch.Tensor, ...]) -> float:
    """Mean KL(model || other) of an answer, in nats."""
    tokens, mask, of_answer = answers
    places = (mask.cumsum(1) - 1).clamp(min=0)
    given = {"input_ids": tokens, "attention_mask": mask, "position_ids": places}
    ours, theirs = (one(**given).logits[:, :-1].log_softmax(-1) for one in (model, other))
    kl = (ours.exp() * (ours - theirs)).sum(-1) * of_answer[:, 1:]
    return float(kl.sum(1).mean())


if __name__ == "__main__":
    main()
