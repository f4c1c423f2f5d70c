"""What somebody meant who mistyped a name."""

import difflib
from collections.abc import Iterable

_MEANT = {
    "lr": "learning-rate",
    "bs": "batch-size",
    "steps": "updates",
    "beta": "kl-coef",
    "kl": "kl-coef",
    "dataset": "data",
    "out": "output",
    "model": "policy",
    "max-new-tokens": "response-length",
    "max-tokens": "response-length",
    "gae-lambda": "lambda",
    "cliprange": "clip",
    "rank": "lora-rank",
    "num-train-epochs": "epochs",
    "gpus": "processes",
}
"""Names that other programs have for our options."""


def suggest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that `name` may stand for, the best first; at most three.

    It may be what another program calls it, the initials of its words (`wu` for `warmup-updates`),
    a name that is spelled alike, or a part of it.
    """
    plain = {_plain(one): one for one in known}
    asked = _plain(name)
    if _MEANT.get(asked) in plain:
        return [plain[_MEANT[asked]]]
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
