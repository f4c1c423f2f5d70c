"""Break `salsa train-rm` in one place at a time and see which test notices (see `mutants.py`).

python -m tests.reward_mutants [WORD ...] [--jobs N]
"""

import sys

from tests.support.mutation import Mutant, main

NEAREST = [
    "maths/test_preference.py",
    "maths/test_rewardbench.py",
    "maths/test_calibration.py",
    "maths/test_masked.py",
    "models/test_tokenization.py",
    "reward_models",
    "end_to_end/test_reward_ensembles.py",
    "test_train_rm.py",
    "models/test_loading.py",
]

MUTANTS = [
    Mutant(
        "swapped signs",
        "maths/preference.py",
        "lead = _raised(chosen) - _raised(rejected)",
        "lead = _raised(rejected) - _raised(chosen)",
    ),
    Mutant("dropped margin", "maths/preference.py", "lead - _raised(margin)", "lead"),
    Mutant(
        "margin added", "maths/preference.py", "lead - _raised(margin)", "lead + _raised(margin)"
    ),
    Mutant(
        "smoothing on the wrong side",
        "maths/preference.py",
        """-(1 - label_smoothing) * functional.logsigmoid(
        lead
    ) - label_smoothing * functional.logsigmoid(-lead)""",
        """-label_smoothing * functional.logsigmoid(
        lead
    ) - (1 - label_smoothing) * functional.logsigmoid(-lead)""",
    ),
    Mutant(
        "centering of the difference",
        "maths/preference.py",
        "(_raised(chosen) + _raised(rejected)).square()",
        "(_raised(chosen) - _raised(rejected)).square()",
    ),
    Mutant(
        "the last place for the last token",
        "models/forward.py",
        "last = masked.last_index(tokens.mask)",
        "last = torch.full_like(tokens.ids[:, 0], tokens.ids.shape[1] - 1)",
    ),
    Mutant(
        "the token before the last",
        "models/forward.py",
        "last = masked.last_index(tokens.mask)",
        "last = masked.last_index(tokens.mask) - 1",
    ),
    Mutant(
        "the head's bias forgotten",
        "models/forward.py",
        "bias = None if head.bias is None else head.bias.float()",
        "bias = None",
    ),
    Mutant(
        "every part of a batch its own mean",
        "reward_models/fitting.py",
        "losses.sum() * (len(part) / len(given)) / len(batch)",
        "losses.mean()",
    ),
    Mutant(
        "a sum for the mean over pairs",
        "reward_models/fitting.py",
        "losses.sum() * (len(part) / len(given)) / len(batch)",
        "losses.sum()",
    ),
    Mutant(
        "scores of the evaluation out of order",
        "reward_models/fitting.py",
        "places += [mine[place] for place in order]",
        "places += sorted(mine[place] for place in order)",
    ),
    Mutant(
        "the optimiser not restored",
        "reward_models/fitting.py",
        "learner.restore(progress.learner)",
        "pass",
    ),
    Mutant(
        "members of one seed",
        "reward_models/fitting.py",
        'stable_seed(config.seed, "member", number) if number else config.seed',
        "config.seed",
    ),
    Mutant("no end token", "models/tokenization.py", "if not answer.finished:", "if True:"),
    Mutant(
        "an end token after a cut",
        "models/tokenization.py",
        "if not answer.finished:",
        "if False:",
    ),
    Mutant(
        "scores as they are",
        "models/loading.py",
        "(self.score_ids(rows) - self.mean) / self.std",
        "self.score_ids(rows)",
    ),
    Mutant(
        "equal scores trained on",
        "reward_models/pairs.py",
        "pair.scores[0] == pair.scores[1]:",
        "pair.scores[0] is pair.scores:",
    ),
    Mutant(
        "held-out prompts trained on",
        "reward_models/pairs.py",
        "tuple(pair for pair in pairs if pair.prompt not in held_out)",
        "tuple(pairs)",
    ),
    Mutant(
        "long answers never cut",
        "reward_models/pairs.py",
        "rejected[:max_length]",
        "rejected",
    ),
    Mutant(
        "identical answers dropped from contests",
        "reward_models/pairs.py",
        "EMPTY if one.missing_answer else _encode_within_limit(",
        "EMPTY if one.missing_answer else _encode_pair(",
    ),
    Mutant(
        "batches in the order of the file",
        "reward_models/pairs.py",
        "order = data.epoch_order(len(lengths), seed, epoch)",
        "order = np.arange(len(lengths))",
    ),
    Mutant(
        "a chosen answer may be empty",
        "reward_models/preferences.py",
        'or self.empty == "rejected"',
        "or True",
    ),
    Mutant(
        "a tie is right",
        "reward_models/assessment.py",
        "0.5 * (leads == 0)",
        "1.0 * (leads == 0)",
    ),
    Mutant(
        "members in scales of their own",
        "reward_models/assessment.py",
        "np.mean([(m.chosen - s.mean) / s.std for",
        "np.mean([m.chosen for",
    ),
    Mutant(
        "the best right answer of a contest",
        "reward_models/assessment.py",
        "min(places, key=lambda place: scores.chosen[place])",
        "max(places, key=lambda place: scores.chosen[place])",
    ),
    Mutant(
        "length bias the wrong way round",
        "reward_models/assessment.py",
        "len(pair.chosen) - len(pair.rejected)",
        "len(pair.rejected) - len(pair.chosen)",
    ),
    Mutant(
        "the scale of the chosen alone",
        "reward_models/held_out.py",
        "for side in (one.chosen, one.rejected)",
        "for side in (one.chosen,)",
    ),
    Mutant(
        "the probability of the other answer",
        "maths/calibration.py",
        "np.where(lead >= 0, 1.0, small)",
        "np.where(lead < 0, 1.0, small)",
    ),
    Mutant(
        "a shared best answer wins",
        "maths/rewardbench.py",
        "1 / (1 + self.wrong.count(best))",
        "1.0",
    ),
]

if __name__ == "__main__":
    sys.exit(main("Break salsa train-rm in one place at a time.", MUTANTS, NEAREST))
