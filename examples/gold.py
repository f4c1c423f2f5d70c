"""The gold reward of the quickstart: a fixed rule that says how good an answer is.

In real work the judge is a person. Here it is a small function of the text, so that preference
pairs can be labelled for nothing, and what PPO has really gained can be measured with the very
yardstick that the labels came from: a reward model only estimates it.

    happy words   +0.6 for the first, a little less for each further, different one; at most one
                  counts in a sentence, and a sentence has at least three words
    sad words     -0.5 each, down to -2 in all
    repetition    -0.2 for every pair of neighbouring words that was there before, down to -2
    the end       +0.5 where the last sentence is finished, -0.5 where it breaks off
    length        -0.1 for every word under 8 or over 45, down to -1

So the best answer is a cheerful little story: several whole sentences, each happy in its own
words. A list of happy words, or one happy sentence said over and over, does not score well.
"""

import itertools
import re

HAPPY = frozenset(
    "beautiful best calm cheered cheerful clapped danced delighted enjoyed excited fine "
    "friendly fun giggled glad good grateful great happily happy hugged joy joyful kind "
    "laughed love loved lovely lucky merry nice perfect played pleased pretty proud safe "
    "sang smile smiled sweet thankful wonderful".split()
)
SAD = frozenset(
    "afraid alone angry ashamed awful bad cried cry died fell fight fought hid horrible "
    "hurt lonely lost mad mean nasty rotten sad scared screamed shouted sick sobbed sorry "
    "terrible tired ugly upset wept worried".split()
)


def reward(prompt: str, answer: str) -> float:
    """Return the gold reward of one answer, about -4 to +3 (this rule ignores the prompt)."""
    words = words_of(answer)
    finished = answer.rstrip().rstrip("\"'").endswith((".", "!", "?"))
    return (
        0.6 * diminishing(happy_sentences(answer))
        - min(0.5 * sum(word in SAD for word in words), 2.0)
        - min(0.2 * repeated_pairs(words), 2.0)
        + (0.5 if finished else -0.5)
        - min(0.1 * (max(8 - len(words), 0) + max(len(words) - 45, 0)), 1.0)
    )


def score(prompts: list[str], answers: list[str]) -> list[float]:
    """Return the gold reward of each answer to the prompt at the same index."""
    return [reward(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def happy_sentences(text: str) -> int:
    """Count the sentences of three words or more that bring a happy word not used before."""
    used: set[str] = set()
    count = 0
    for sentence in re.split(r"[.!?]+", text):
        words = words_of(sentence)
        new = HAPPY.intersection(words) - used
        if new and len(words) >= 3:
            used |= new
            count += 1
    return count


def diminishing(count: int, ratio: float = 0.85) -> float:
    """Return 1 + ratio + ratio**2 + ..., with `count` terms."""
    return (1 - ratio**count) / (1 - ratio)


def repeated_pairs(words: list[str]) -> int:
    """Count the pairs of neighbouring words that occurred earlier in the text."""
    pairs = list(itertools.pairwise(words))
    return len(pairs) - len(set(pairs))
