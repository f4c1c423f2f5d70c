"""Read the label or the grade in the text of a judge: the one reader of judges and stored files.

A judge closes with `[[A>B]]` or `[[7]]`. Models write it in other ways (`**[[a > b]]**`,
`\\[\\[Tie\\]\\]`, `Rating: 7/10`). They also write labels that are no verdict: they think aloud,
repeat the list of options, quote the prompt, or name what they do not choose. `read_label` and
`read_grade` return what the text decides, and None where it decides nothing or two things.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

LOWEST_GRADE, HIGHEST_GRADE = 1.0, 10.0


@dataclass(frozen=True)
class Label:
    """The outcome for the answer shown first: 1, 0.5 or 0.

    `strong` says that the winner is much better (Arena-Hard's `>>`).
    """

    outcome: float
    strong: bool = False

    @property
    def swapped(self) -> "Label":
        """The same label seen from the answer shown second."""
        return Label(1.0 - self.outcome, self.strong)


@dataclass(frozen=True)
class _Found(Generic[T]):
    """A label or grade in a text, and the place of its brackets."""

    value: T
    start: int
    end: int


_THOUGHTS = r"think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad"
# Opening and closing tags: of most models; Cohere's and others'; Mistral's; Kimi's; MedGemma's;
# Gemma's.
_TAGS = (
    (rf"<\s*(?:\w+:)?(?:{_THOUGHTS})(?:\s[^<>]*)?>", rf"<\s*/\s*(?:\w+:)?(?:{_THOUGHTS})\s*>"),
    (
        rf"<\|\s*(?:start_|begin_of_|start_of_)?(?:{_THOUGHTS})\s*\|>",
        rf"<\|\s*(?:/\s*|end_|end_of_)(?:{_THOUGHTS})\s*\|>",
    ),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"\u25c1think\u25b7", r"\u25c1/think\u25b7"),
    (r"<unused94>(?:thought)?", r"<unused95>"),
    (r"<\|channel>\s*thought", r"<channel\|>"),
)
_TAG = re.compile("|".join(f"({tag})" for pair in _TAGS for tag in pair), re.IGNORECASE)
# gpt-oss answers in channels; without its special tokens, their names run into the text.
_FINAL_CHANNEL = re.compile(
    r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"|(?<=[\w.!?\])])assistantfinal"
)
_OTHER_CHANNEL = re.compile(
    r"<\|channel\|>\s*(?!final\b)\w.*?(?:<\|(?:end|call|return|start)\|>|\Z)"
    r"|\Aanalysis(?=[A-Z\[]).*",
    re.DOTALL,
)

_BRACKETED = re.compile(r"\[ ?\[([^\[\]\n]{1,60})\] ?\]")
_STRUCK_OUT = re.compile(r"~~[^~\n]{1,80}~~")
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")
# Signs that NFKC leaves as they are: double angles, curly quotes, dashes, CJK brackets.
_SIGNS = str.maketrans(
    {"\u226b": ">>", "\u226a": "<<", "\u2248": "=", "\u3010": "[[", "\u3011": "]]"}
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014", "-")
)

_SIDE = r"(?:(?:assistant|model|response|answer|reply|output)s?\s*)?\(?([ab])\)?"
_COMPARED = re.compile(rf"{_SIDE}\s*(>>|<<|>|<|={{1,3}})\s*{_SIDE}")
_WINNER = re.compile(
    rf"{_SIDE}(?:\s*(?:wins?|is (?:the )?(?P<much>much |significantly )?better(?: one)?))?"
)
_TIE = re.compile(
    r"c|tie|tied|a tie|draw|a draw|equal|both equal|equally good|unentschieden|gleichstand"
    r"|\u00e9galit\u00e9|empate|pareggio|remis|gelijkspel|\u043d\u0438\u0447\u044c\u044f"
    r"|\u5e73\u5c40|\u5f15\u304d\u5206\u3051|\ubb34\uc2b9\ubd80"
)
_NAMED = re.compile(
    r"^(?:my |the )?(?:final )?(?:verdict|winner|choice|label|answer)\s*(?:is|:|=)\s*"
)

_NUMBER = r"(\d{1,3}(?:\.\d{1,3})?)"
_OF_TEN = r"(?:\s*(?:/|out of)\s*10)?"
_NAME_OF_GRADE = r"(?:(?:final |overall )?(?:rating|score|grade)\s*[:=]?\s*)?"
_GRADE = re.compile(_NAME_OF_GRADE + _NUMBER + _OF_TEN)
_WORDED_GRADE = re.compile(
    r"\b(?:rating|score|grade)\"?(?: is| of|\s*[:=])\s*"
    rf"[\[(]?\s*{_NUMBER}{_OF_TEN}(?![\d.]*\d|\s*(?:[-/%]|to\b|or\b|out\b|and\b|,\s*\d))",
    re.IGNORECASE,
)

# What makes a label no verdict: the words right after it, or right before it.
_CONDITION = re.compile(
    r"[\"')\s]*(?:,\s*)?(?:if|when|where|in case|means|indicates|denotes"
    r"|at first|initially)\b",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(
    r"\b(?:example(?: output)?|for instance|e\.g\.|such as|as in|(?:form|format)(?: of)?"
    r"|(?:asks|asked|told|instructed|required|supposed|says|said)(?: me| you| us)?(?: to)?"
    r"(?: [\"']?(?:write|output|say|answer|use"
    r"|(?:end|close|conclude|respond|reply|answer) with))?)"
    r"[:,]?[\s\"'(]*(?:my final verdict is(?: a)?(?: tie)?|rating|verdict)?[\s:\"'(]*$",
    re.IGNORECASE,
)
_NOT_CHOSEN = re.compile(
    r"(?:\b(?:not|rather than|instead of|never|neither|nor|no longer|could be|might be|may be"
    r"|would be|perhaps|maybe|either|whether|between|at first|initially|leaning(?: towards?)?)"
    r"|n't)(?: to)?(?: an?| be| give| say| choose| pick)?[\s\"'(]*$",
    re.IGNORECASE,
)
_REVISION = re.compile(
    r"\b(?:wait|actually|on (?:second thought|reflection|balance)|hmm+|correction|reconsider\w*"
    r"|revis\w*|change my|instead|rather|final(?:ly)?|overall|therefore|thus|hence|conclu\w+"
    r"|ultimately|verdict|in the end|all in all|however|but|no,|so)\b",
    re.IGNORECASE,
)
_CONNECTOR = re.compile(r"[\s,;:/|&\"'()-]*(?:(?:or|and|vs\.?|versus)[\s,;:\"'(]*)?", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"\n]*"')
_OWN_WORDS = re.compile(
    r"\b(?:my|the|final|overall|verdict|rating|score|grade|winner|is|a|tie|so|assistant|answer)\b",
    re.IGNORECASE,
)

# Labels of a list of options stand at most this many characters apart.
_OPTION_GAP = 120
_CONTEXT = 90


def without_thinking(text: str) -> str:
    """The text without what a reasoning model thinks before it answers.

    Removes `<think>...</think>` and its kin; a block that is never closed ends with the text. A
    closing tag alone (its opening tag was in the prompt) ends the thinking before it.
    """
    if final := list(_FINAL_CHANNEL.finditer(text)):
        text = text[final[-1].end() :]
    else:
        text = _OTHER_CHANNEL.sub("", text)
    kept: list[str] = []
    opened, start = None, 0
    for tag in _TAG.finditer(text):
        kind, closes = divmod((tag.lastindex or 1) - 1, 2)
        if not closes:
            if opened is None:
                kept.append(text[start : tag.start()])
                opened = kind
        elif opened in (None, kind):
            if opened is None:  # all before it was thinking
                kept.clear()
            opened, start = None, tag.end()
    if opened is None:
        kept.append(text[start:])
    return "".join(kept).strip()


def parse_label(content: str) -> Label | None:
    """The label between the brackets: `A>>B`, `b > a`, `Tie`, `Assistant A`; None if it is none."""
    words = _spelled(content).strip(" .,;!*_`\"'“”()").lower()
    words = _NAMED.sub("", " ".join(words.replace("*", "").replace("_", "").split()))
    if match := _COMPARED.fullmatch(words):
        first, sign, second = match.groups()
        if first == second:
            return None
        if sign.startswith("="):
            return Label(0.5)
        won = (first == "a") == sign.startswith(">")
        return Label(1.0 if won else 0.0, strong=len(sign) == 2)
    if match := _WINNER.fullmatch(words):
        return Label(1.0 if match[1] == "a" else 0.0, strong=match["much"] is not None)
    return Label(0.5) if _TIE.fullmatch(words) else None


def read_label(text: str) -> Label | None:
    """The label that a judgement closes with; None where it has none, or does not decide."""
    plain = _plain(text)
    return _decided(plain, _bracketed(plain, parse_label))


def read_grade(text: str) -> float | None:
    """The grade in a judgement, which may lie outside 1 to 10; None where it has none.

    `[[7]]` counts before `Rating: 7/10`.
    """
    plain = _plain(text)
    bracketed = _decided(plain, _bracketed(plain, _parse_grade))
    if bracketed is not None or _bracketed(plain, _parse_grade):
        return bracketed
    worded = [_Found(float(m[1]), m.start(), m.end()) for m in _WORDED_GRADE.finditer(plain)]
    return _decided(plain, worded)


def _parse_grade(content: str) -> float | None:
    match = _GRADE.fullmatch(content.strip().lower())
    return float(match[1]) if match else None


def _spelled(text: str) -> str:
    """One spelling of signs: no entities, invisible characters, full-width letters or escapes."""
    text = _INVISIBLE.sub("", html.unescape(text))
    return re.sub(r"\\+(?=[\[\]<>=*_`])", "", unicodedata.normalize("NFKC", text).translate(_SIGNS))


def _plain(text: str) -> str:
    """The answer of a judge without thinking, escapes, emphasis and what is struck out."""
    spelled = _spelled(without_thinking(text))
    return _STRUCK_OUT.sub("", spelled).replace("*", "").replace("`", "")


def _bracketed(text: str, parse: Callable[[str], T | None]) -> list[_Found[T]]:
    found = ((parse(match[1]), match) for match in _BRACKETED.finditer(text))
    return [_Found(value, m.start(), m.end()) for value, m in found if value is not None]


def _decided(text: str, found: Sequence[_Found[T]]) -> T | None:
    """The one value that the text decides on, or the last if it revises itself; else None."""
    stated = [one for one in _without_options(text, found) if _is_stated(text, one)]
    if not stated:
        return None
    last = stated[-1]
    others = [one for one in stated if one.value != last.value]
    if not others or _is_revised(text, others[-1], last):
        return last.value
    return None


def _without_options(text: str, found: Sequence[_Found[T]]) -> list[_Found[T]]:
    """Without runs of different labels that follow one another closely: a list of options."""
    runs: list[list[_Found[T]]] = []
    for one in found:
        gap = text[runs[-1][-1].end : one.start] if runs else ""
        if runs and one.value not in [earlier.value for earlier in runs[-1]] and _adjoins(gap):
            runs[-1].append(one)
        else:
            runs.append([one])
    return [one for run in runs if not _is_list(text, run) for one in run]


def _adjoins(gap: str) -> bool:
    return len(gap) <= _OPTION_GAP and "\n\n" not in gap and not _REVISION.search(gap)


def _is_list(text: str, run: Sequence[_Found[T]]) -> bool:
    """Three options or more, or two with nothing between them but `or`, `and` or a comma."""
    if len(run) == 2:
        return _CONNECTOR.fullmatch(text[run[0].end : run[1].start]) is not None
    return len(run) > 2


def _is_stated(text: str, one: _Found[T]) -> bool:
    """Whether a label is the judge's own: not a condition, an example, a quotation or a denial."""
    before, after = text[max(0, one.start - _CONTEXT) : one.start], text[one.end : one.end + 40]
    if _CONDITION.match(after) or _EXAMPLE.search(before) or _NOT_CHOSEN.search(before):
        return False
    start = text.rfind("\n", 0, one.start) + 1
    end = text.find("\n", one.end)
    line = text[start : end if end >= 0 else len(text)]
    return not _is_quoted(line, one.start - start, one.end - start)


def _is_quoted(line: str, start: int, end: int) -> bool:
    """Whether the label stands in a quotation with other words that is only part of its line."""
    bare = line.strip(" #>-.")
    if line.lstrip().startswith("> ") and bare != line[start:end]:
        return True
    for quote in _QUOTED.finditer(line):
        if quote.start() <= start and end <= quote.end():
            words = line[quote.start() : start] + line[end : quote.end()]
            return any(map(str.isalpha, _OWN_WORDS.sub("", words))) and quote[0] != bare
    return False


def _is_revised(text: str, earlier: _Found[T], last: _Found[T]) -> bool:
    """Whether the text goes from one label to another on purpose: it says so, or ends with it."""
    if _REVISION.search(text, earlier.end, last.start):
        return True
    line = text[text.rfind("\n", 0, last.start) + 1 :].strip(" .\n#>-")
    return line == text[last.start : last.end] and "\n" in text[earlier.end : last.start]
