"""Break the algorithm in one place at a time and see which test notices.

    python -m tests.mutants [WORD ...] [--jobs N]     only the mutants whose name holds a word

Prints a table and exits 1 if a mutant survives.
"""

import sys

from tests.support.mutation import Mutant, main

# The fast and sharp ones first: a run ends with the first failure.
NEAREST = [
    "runs/test_interrupts.py",
    "rl/test_learning.py",
    "rl/test_objectives.py",
    "maths",
    "models/test_learners.py",
    "reward_models/test_rewards.py",
    "generation",
    "models/test_forward.py",
    "models/test_packed_attention.py",
    "models/test_loading.py",
    "models/test_tokenization.py",
    "rl/test_references.py",
    "rl/test_preflight.py",
    "evaluation/test_landscape.py",
    "test_ppo.py",
    "models/test_compilation.py",
]

MUTANTS = [
    Mutant(
        "gamma dropped from the trace",
        "maths/advantages.py",
        "delta + gamma * lam * advantage",
        "delta + lam * advantage",
    ),
    Mutant(
        "max for min in the surrogate",
        "maths/ppo_loss.py",
        "loss = torch.maximum(unclipped, clipped)\n    active",
        "loss = torch.minimum(unclipped, clipped)\n    active",
    ),
    Mutant(
        "max for min in the value loss",
        "maths/ppo_loss.py",
        "0.5 * torch.maximum(unclipped, clipped)",
        "0.5 * torch.minimum(unclipped, clipped)",
    ),
    Mutant(
        "sign of the KL",
        "maths/kl.py",
        "return logprobs - ref_logprobs",
        "return ref_logprobs - logprobs",
    ),
    Mutant(
        "sign of the penalty in the reward",
        "maths/advantages.py",
        "masked.zero_padding(-kl_coef * kl, mask)",
        "masked.zero_padding(kl_coef * kl, mask)",
    ),
    Mutant(
        "sign of the penalty in the loss",
        "rl/learning.py",
        "loss + coef * ppo_loss.divergence_loss",
        "loss - coef * ppo_loss.divergence_loss",
    ),
    Mutant(
        "score one place early",
        "maths/advantages.py",
        "masked.last_index(mask).unsqueeze(1)",
        "(masked.last_index(mask) - 1).clamp(min=0).unsqueeze(1)",
    ),
    Mutant(
        "score one place late",
        "maths/advantages.py",
        "positions == masked.last_index(mask).unsqueeze(1)",
        "positions == (masked.last_index(mask) + 1).unsqueeze(1)",
    ),
    Mutant(
        "whitening over pads",
        "maths/masked.py",
        "/ mask.sum().clamp(min=1)",
        "/ mask.numel()",
    ),
    Mutant(
        "whitened advantages in the returns",
        "rl/learning.py",
        "adv.returns(gae, rollout.values, mask)",
        "adv.returns(masked.whiten(gae, mask), rollout.values, mask)",
    ),
    Mutant(
        "temperature forgotten in training",
        "rl/learning.py",
        "network(part.sequences, config.temperature)",
        "network(part.sequences, 1.0)",
    ),
    Mutant(
        "temperature forgotten in the rollout",
        "rl/experience.py",
        "length=config.response_length,\n        temperature=config.temperature,",
        "length=config.response_length,\n        temperature=1.0,",
    ),
    Mutant(
        "temperature forgotten in the reference",
        "rl/experience.py",
        "temperature=config.temperature,\n        groups",
        "temperature=1.0,\n        groups",
    ),
    Mutant(
        "the state after the token",
        "models/sequences.py",
        "self.prompt_lengths - 1\n",
        "self.prompt_lengths\n",
    ),
    Mutant(
        "logits of the token after",
        "models/forward.py",
        "return logits[:, :-1]",
        "return logits[:, 1:]",
    ),
    Mutant(
        "rows given back in another order",
        "devices/runtime.py",
        "held[rows.to(device)] = values",
        "held[rows.to(device).sort().values] = values",
    ),
    Mutant(
        "the last chunk's gradient alone",
        "maths/chunked_logprobs.py",
        "of_weight.addmm_(narrow.t(), states)",
        "of_weight.copy_(narrow.t() @ states)",
    ),
    Mutant(
        "the bound on logits left out of the gradient",
        "maths/chunked_logprobs.py",
        "logits.mul_(slope)",
        "pass",
    ),
    Mutant(
        "the scale of the logits upside down",
        "models/lm_head.py",
        "temperature / self.scale",
        "temperature * self.scale",
    ),
    Mutant(
        "the packed state after the token",
        "models/sequences.py",
        "starts + self.prompt_lengths - 1)[:, None]",
        "starts + self.prompt_lengths)[:, None]",
    ),
    Mutant(
        "packed rows that see one another",
        "models/packed_attention.py",
        "packed.padded)",
        "packed.padded.sort().values)",
    ),
    Mutant(
        "packed rows of the wrong positions",
        "models/packed_attention.py",
        "position_ids=packed.positions.unsqueeze(0),",
        "position_ids=packed.positions.unsqueeze(0) + 1,",
    ),
    Mutant(
        "packed attention to what follows",
        "models/packed_attention.py",
        "is_causal=True",
        "is_causal=False",
    ),
    Mutant(
        "importance weights upside down",
        "maths/importance.py",
        "(logprobs - sampler_logprobs).detach(), mask)\n    return masked",
        "(sampler_logprobs - logprobs).detach(), mask)\n    return masked",
    ),
    Mutant(
        "padding attended to",
        "models/sequences.py",
        "ids.gather(1, order)[:, :width]",
        "ids[:, :width]",
    ),
    Mutant(
        "dropout on",
        "models/assembly.py",
        "model.eval().requires_grad_",
        "model.train().requires_grad_",
    ),
    Mutant(
        "only the first end token",
        "generation/rollouts.py",
        "_until_end(ids, policy.eos_ids)",
        "_until_end(ids, policy.eos_ids[:1])",
    ),
    Mutant(
        "the end token outside the answer",
        "generation/rollouts.py",
        "ends.long().cumsum(-1) - ends.long() == 0",
        "ends.long().cumsum(-1) == 0",
    ),
    Mutant(
        "generated tokens one position too far",
        "generation/loop.py",
        "(rows.lengths + step)",
        "(rows.lengths + step + 1)",
    ),
    Mutant(
        "padding read in generation",
        "generation/loop.py",
        "columns >= len(prompts[0]) - lengths.unsqueeze(-1)",
        "columns >= 0 * lengths.unsqueeze(-1)",
    ),
    Mutant(
        "rows leave the cache out of order",
        "generation/loop.py",
        "cache.batch_select_indices(kept)",
        "cache.batch_select_indices(kept.sort().values)",
    ),
    Mutant(
        "rows that move leave their states behind",
        "generation/kv_cache.py",
        "reserved[indices[moved], :, : self._width]",
        "reserved[moved, :, : self._width]",
    ),
    Mutant(
        "a graph's token stays in one place",
        "generation/cuda_graphs.py",
        "        self._positions.add_(1)\n",
        "",
    ),
    Mutant(
        "a graph's token hidden from the next",
        "generation/cuda_graphs.py",
        "        self._bias.index_fill_(3, self._column, 0.0)\n",
        "",
    ),
    Mutant(
        "a graph that reads padding",
        "generation/cuda_graphs.py",
        "visible = self._seen[:, : self.width] & (columns < self._column)",
        "visible = (columns < self._column).expand(len(self._seen), -1)",
    ),
    Mutant(
        "a graph that reads what is not written yet",
        "generation/cuda_graphs.py",
        "visible = self._seen[:, : self.width] & (columns < self._column)",
        "visible = self._seen[:, : self.width].clone()",
    ),
    Mutant(
        "a graph that is used up goes on",
        "generation/cuda_graphs.py",
        "if reader.width < len(ordered[0]) + number:",
        "if reader.width < number:",
    ),
    Mutant(
        "rows that leave a graph take the masks of others",
        "generation/cuda_graphs.py",
        "        self._bias = self._bias[rows]\n",
        "        self._bias = self._bias[: len(rows)]\n",
    ),
    Mutant(
        "rows that leave a graph take the draws of others",
        "generation/cuda_graphs.py",
        "self._places[rows], self._uniforms[rows]",
        "self._places[rows], self._uniforms[: len(rows)]",
    ),
    Mutant(
        "queries of other keys together",
        "generation/cuda_graphs.py",
        "query.reshape(rows, key.shape[1], -1, size)",
        "query.reshape(rows, -1, key.shape[1], size).transpose(1, 2)",
    ),
    Mutant(
        "any model is captured",
        "generation/cuda_graphs.py",
        "_checked[model] = known and _agrees(model)",
        "_checked[model] = known",
    ),
    Mutant(
        "the block after the right one",
        "maths/categorical.py",
        "block = torch.searchsorted(upper, bounds, right=True)",
        "block = torch.searchsorted(upper, bounds, right=True).add(1)",
    ),
    Mutant(
        "within its block a number counts from the start",
        "maths/categorical.py",
        "torch.minimum(bounds - before,",
        "torch.minimum(bounds,",
    ),
    Mutant(
        "no care for the last bits of a block",
        "maths/categorical.py",
        "cumulative[:, -1:] * _BELOW_ONE",
        "cumulative[:, -1:] * 2",
    ),
    Mutant(
        "buckets aligned at their beginning",
        "generation/kv_cache.py",
        "width - part.shape[2] : width] = part",
        ": part.shape[2]] = part",
    ),
    Mutant(
        "logits kept",
        "generation/loop.py",
        "logits = _next_logits(policy.model, tokens",
        "policy.model.kept = [*getattr(policy.model, 'kept', []), logits]\n"
        "        logits = _next_logits(policy.model, tokens",
    ),
    Mutant(
        "each pass divided by its own tokens",
        "rl/learning.py",
        "rows, mask = part.rows, part.mask\n",
        "rows, mask = part.rows, part.mask\n        tokens = mask.sum()\n",
    ),
    Mutant(
        "gradients not clipped",
        "models/learners.py",
        "clip_grads_with_norm_(self._parameters, self._max_grad_norm, total)",
        'clip_grads_with_norm_(self._parameters, float("inf"), total)',
    ),
    Mutant("epsilon of Adam", "models/learners.py", "eps=EPSILON, weight", "eps=1e-8, weight"),
    Mutant(
        "gradients of the critic's warm-up kept",
        "rl/learning.py",
        "actors.actor.drop()",
        "pass",
    ),
    Mutant(
        "dual clip on the wrong side",
        "maths/ppo_loss.py",
        "torch.where(advantages < 0, -advantages",
        "torch.where(advantages > 0, -advantages",
    ),
    Mutant(
        "k3 without its last term",
        "maths/kl.py",
        "torch.expm1(-difference) + difference",
        "torch.expm1(-difference)",
    ),
    Mutant(
        "chi2 the wrong way round",
        "maths/kl.py",
        "expm1(k1(logprobs, ref_logprobs).clamp",
        "expm1(k1(ref_logprobs, logprobs).clamp",
    ),
    Mutant(
        "uncertainty sought", "maths/ensembles.py", "- weight * scores.var", "+ weight * scores.var"
    ),
    Mutant(
        "adapting the wrong way",
        "maths/kl.py",
        "max(observed / target - 1, -0.2)",
        "max(1 - observed / target, -0.2)",
    ),
    Mutant(
        "the objective with the first weight",
        "rl/update_metrics.py",
        "adv.objective(rollout.scores, penalty_sums, kl_coef)",
        "adv.objective(rollout.scores, penalty_sums, config.kl_coef)",
    ),
    Mutant(
        "adapting to half the penalty",
        "ppo.py",
        "            metrics.penalty,\n",
        "            metrics.penalty / 2,\n",
    ),
    Mutant(
        "chi2 with half of its own gradient",
        "rl/learning.py",
        "kl.chi2_slope, rollout.logprobs",
        "lambda a, b: kl.chi2_slope(a, b) * 0, rollout.logprobs",
    ),
    Mutant(
        "a token's own KL twice with the loss",
        "rl/learning.py",
        "return -masked.zero_padding(penalty, rollout.mask)",
        "return None",
    ),
    Mutant(
        "no importance ratio on k3",
        "maths/kl.py",
        "torch.exp(logprobs - old_logprobs) * k3(",
        "1.0 * k3(",
    ),
    Mutant(
        "the weight in the loss without the advantages' unit",
        "rl/learning.py",
        "near = targets.unit * loss_penalties(",
        "near = loss_penalties(",
    ),
    Mutant(
        "the reference outruns",
        "rl/references.py",
        "theirs.to(ours), rate)",
        "theirs.to(ours), 1 - rate)",
    ),
    Mutant(
        "replace and subtract swapped",
        "rl/experience.py",
        'config.no_eos == "subtract"',
        'config.no_eos == "replace"',
    ),
    Mutant("the first pass shuffled", "rl/batching.py", "if epoch:\n", "if not epoch:\n"),
    Mutant(
        "the KL's weight not restored",
        "rl/actors.py",
        'State(saved.step, stored["kl_coef"])',
        "State(saved.step, config.kl_coef)",
    ),
    Mutant(
        "the moving reference not restored",
        "rl/actors.py",
        'actors.references[0].load_state_dict(stored["reference"])',
        "pass",
    ),
    Mutant(
        "the moments of Adam not restored",
        "models/learners.py",
        'self._spread_moments(state["optimiser"]["state"]),',
        "{},",
    ),
    Mutant(
        "a process stops for what it alone has heard",
        "runs/interrupts.py",
        "return self._agreed is not None",
        "return self._heard is not None",
    ),
    Mutant(
        "a signal after the last agreement lost",
        "runs/interrupts.py",
        "    if held.unanswered is not None:\n        raise held.unanswered\n",
        "",
    ),
    Mutant(
        "generation compiled too",
        "models/compilation.py",
        '    torch.compiler.set_stance("force_eager")\n',
        "",
    ),
    Mutant(
        "learning not compiled",
        "rl/actors.py",
        "with compiled_passes(config), ExitStack() as stack:",
        "with ExitStack() as stack:",
    ),
    Mutant(
        "passes before learning not compiled",
        "ppo.py",
        'with on_device(actors, "ref"), compiled_passes(config):',
        'with on_device(actors, "ref"):',
    ),
]

if __name__ == "__main__":
    sys.exit(main("Break salsa ppo in one place at a time.", MUTANTS, NEAREST))
