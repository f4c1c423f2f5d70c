"""What somebody meant who mistyped a name."""

import difflib
from collections.abc import Iterable, Mapping

_PEERS: Mapping[str, str] = {
    "anchors": "anchor",
    "batch-size": "bs rollout-batch-size train-batch-size per-device-train-batch-size",
    "clip": "cliprange eps-clip clip-range clip-ratio epsilon",
    "data": "dataset dataset-name train-data train-file preferences pairs",
    "epochs": "num-epochs num-train-epochs num-ppo-epochs ppo-epochs max-epochs",
    "eval-data": "val validation held-out heldout eval-dataset",
    "eval-every": "eval-steps",
    "eval-prompts": "val validation held-out heldout eval-dataset eval-data",
    "kl-coef": "beta kl init-kl-coef kl-loss-coef",
    "judge": "judge-model grader",
    "lambda": "gae-lambda lam lambd",
    "learning-rate": "lr actor-learning-rate",
    "lora-rank": "rank lora-r lora",
    "max-length": "max-len max-seq-length",
    "micro-batch-size": "gradient-accumulation-steps micro-train-batch-size mbs",
    "minibatches": "num-mini-batches mini-batch-size ppo-mini-batch-size",
    "no-eos-value": "missing-eos-penalty",
    "output": "out output-dir save-path output-path",
    "policy": "start init model sft actor pretrain init-model base-model sft-model-path"
    " model-name-or-path",
    "processes": "gpus num-processes nproc nproc-per-node world-size",
    "prompts": "data dataset dataset-name prompt-data questions",
    "ref": "reference ref-model ref-policy base anchor",
    "response-length": "max-new-tokens max-tokens generate-max-len max-completion-length"
    " max-response-length",
    "resume": "resume-from-checkpoint continue",
    "reward": "rm reward-model reward-model-path reward-funcs",
    "samples-per-prompt": "num-generations n-samples-per-prompt rollout-n group-size",
    "save-every": "save-steps save-interval checkpoint-every",
    "schedule": "lr-scheduler-type lr-scheduler scheduler",
    "temperature": "temp",
    "track": "report-to wandb logger",
    "updates": "steps max-steps iterations iters num-updates total-episodes num-episodes",
    "warmup": "warmup-ratio warmup-steps",
}
"""Names that other programs have for our options, by the option; one name may mean several."""


def suggest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that `name` may stand for, the best first; at most three.

    It may be what another program calls it, the initials of its words (`wu` for `warmup-updates`),
    a name that is spelled alike, or a part of it.
    """
    plain = {_plain(one): one for one in known}
    asked = _plain(name)
    meant = [plain[one] for one in _PEERS if one in plain and asked in _PEERS[one].split()]
    if meant and asked not in plain:
        return meant[:3]
    found = [one for key, one in plain.items() if _initials(key) == asked]
    found += [plain[key] for key in _alike(asked, plain)]
    if not found and len(asked) > 2:
        found = [one for key, one in plain.items() if asked in key]
    return list(dict.fromkeys(found))[:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean X or Y?)`, or nothing."""
    found = suggest(name, known)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def _alike(asked: str, known: Iterable[str]) -> list[str]:
    """Names spelled like it, those that are clearly less like it than the best left out."""
    close = difflib.get_close_matches(asked, known, n=3, cutoff=0.65)
    ratios = {one: difflib.SequenceMatcher(None, one, asked).ratio() for one in close}
    return [one for one in close if ratios[one] > max(ratios.values()) - 0.05]


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()


def _initials(key: str) -> str:
    return "".join(word[0] for word in key.split("-") if word)
