"""The log-probabilities of given tokens: over chunks of the logits, and over all logits at once.

    python -m tests.benchmarks.chunked_logprobs > result.json
    python -m tests.benchmarks.chunked_logprobs --vocabulary 128000 --tokens 512 --runs 1

A forward and a backward pass of the output layer alone, `maths.chunked_logprobs` and plain PyTorch,
each in a process of its own, in turn. Prints JSON: processor seconds of the passes, the peak of
anonymous memory above that of a process that makes no pass, and the norm of the gradient.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from salsa_cli.maths.categorical import token_logprobs
from salsa_cli.maths.chunked_logprobs import projected_logprobs
from tests.benchmarks import measure

WAYS = ("none", "plain", "chunked")
HIDDEN, TEMPERATURE = 512, 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=64_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--way", choices=WAYS, help="make this pass here; used by the script itself"
    )
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.way:
        print(json.dumps(passes(given.way, given.tokens, given.vocabulary)))
        return
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    shape = ["--tokens", str(given.tokens), "--vocabulary", str(given.vocabulary)]
    for _ in range(given.runs):
        for way, rows in found.items():
            command = [sys.executable, "-m", "tests.benchmarks.chunked_logprobs", "--way", way]
            done = measure.run([*command, *shape], {**os.environ})
            rows.append({**json.loads(done.output), "peak": done.peak_anonymous})
    base = min(row["peak"] for row in found.pop("none"))
    for rows in found.values():
        for row in rows:
            row["peak"] -= base
    with tempfile.TemporaryDirectory() as folder:
        machine = measure.machine(Path(folder))
    print(json.dumps({"machine": machine, **vars(given), **found}, indent=1))


def passes(way: str, count: int, vocabulary: int) -> dict[str, float]:
    """Make the passes of one way."""
    torch.manual_seed(0)
    hidden = torch.randn(count, HIDDEN, requires_grad=True)
    weight = (0.02 * torch.randn(vocabulary, HIDDEN)).requires_grad_()
    tokens = torch.randint(0, vocabulary, (count,))
    began = time.process_time()
    if way == "plain":
        logits = functional.linear(hidden, weight)
        torch.autograd.backward(token_logprobs(logits, tokens, TEMPERATURE).sum())
    elif way == "chunked":
        found = projected_logprobs(hidden, weight, tokens, TEMPERATURE)
        torch.autograd.backward(found.sum())
    seconds = time.process_time() - began
    norm = 0.0 if weight.grad is None else float(weight.grad.norm())
    return {"processor seconds": round(seconds, 2), "norm of the gradient": norm}


if __name__ == "__main__":
    main()
