"""A seeded grammar of tiny stories: the text that the quickstart's world is made of.

A story is a prompt (who, and where) and a completion (what happens, and how it ends):

    Once upon a time there was a brave fox named Mila. Mila had a red ball.
    Mila and Tim sang in the forest. The ball was broken. "I am so sad," said Mila. ...

Each story has a mood, which most of its sentences follow: some stories are happy, some are
sad, some are plain, and some repeat themselves. So a model of them gives answers of all kinds,
and a reward has something to choose from.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

GIRLS = "Anna Bella Daisy Ella Fay Ivy Lily Mila Rose Sue".split()
BOYS = "Ben Carl Finn Hugo Jack Leo Max Paul Sam Tim".split()

# A {slot} of a sentence is filled from the story's cast (hero, friend, thing, ...), which stays
# the same through the story, or else with a fresh word from here.
WORDS: dict[str, list[str]] = {
    "beast": "bear bird bunny cat cow dog duck fish fox frog goat lion mouse owl pig wolf".split(),
    "trait": (
        "big brave busy clever curious funny hungry lazy little old polite quick quiet shy silly "
        "sleepy small strong tall young"
    ).split(),
    "place": (
        "barn beach cave city farm field forest garden hill house lake park river school town woods"
    ).split(),
    "thing": (
        "bag ball bell boat book box cake coat cup doll drum flower hat kite lamp map ring shoe "
        "star train"
    ).split(),
    "colour": "black blue brown golden green pink purple red white yellow".split(),
    "spot": (
        "behind the door|by the gate|by the water|in the grass|in the mud|near the old tree|"
        "on the road|on the table|under a leaf|under the bed"
    ).split("|"),
    "weather": "cloudy cool hot rainy snowy sunny".split(),
    "when": "At night,|In the morning,|Later,|Soon,|Then|The next day,".split("|"),
    "move": "climbed crawled hopped jumped marched ran walked".split(),
    "work": "cleaned fixed made packed painted washed".split(),
    "joy": "calm cheerful excited glad grateful happy joyful lucky merry proud safe".split(),
    "play": "cheered clapped danced giggled laughed played sang smiled".split(),
    "nice": "beautiful fine great lovely perfect pretty sweet wonderful".split(),
    "woe": "afraid angry ashamed hurt lonely sad scared sick sorry tired upset worried".split(),
    "weep": "cried fell hid screamed shouted sobbed wept".split(),
    "bad": "bad broken dirty horrible nasty rotten terrible".split(),
}

OPENINGS = [
    "Once upon a time there was a {trait} {kind} named {hero}.",
    "Once there was a {trait} {kind}. {His} name was {hero}.",
    "{hero} was a {trait} {kind} who lived near the {place}.",
    "There was a {trait} {kind} in the {place}. It was {hero}.",
    "One {weather} day, a {trait} {kind} named {hero} went to the {place}.",
    "On a {weather} day, {hero} the {kind} woke up in the {place}.",
]
SCENES = [
    "{hero} had a {colour} {thing}.",
    "{hero} wanted a {colour} {thing}.",
    "{hero} met {friend} in the {place}.",
    "{hero} and {friend} had a {thing}.",
    "{He} took a {thing} to the {place}.",
]
SENTENCES: dict[str, list[str]] = {
    "plain": [
        "{He} saw a {colour} {thing} {spot}.",
        "{when} {hero} {move} to the {place}.",
        "{hero} {move} over the {place} with {friend}.",
        "{when} {friend} came with a {thing}.",
        "{He} put the {thing} {spot}.",
        '"Is this your {thing}?" asked {friend}.',
        '"Let us go to the {place}," said {hero}.',
        "{hero} and {friend} {work} the {thing}.",
        "{when} {he} {work} a {colour} {thing}.",
        "It was a {weather} day in the {place}.",
    ],
    "happy": [
        "{hero} was {joy}.",
        "{He} found the {thing} and felt {joy}.",
        "{hero} and {friend} {play} in the {place}.",
        "{when} {friend} gave {hero} a {nice} {thing}.",
        "They {play} all day and it was {nice}.",
        '"I am so {joy}!" said {hero}.',
        '"What a {nice} {thing}!" said {friend}.',
        "{friend} was {joy} to see {hero}.",
        "{He} {play} because the {thing} was {nice}.",
        "{when} {hero} {play} with {friend}.",
    ],
    "sad": [
        "{hero} was {woe}.",
        "{He} lost the {thing} and felt {woe}.",
        "{hero} {weep} in the {place}.",
        "{when} {friend} took the {thing} and {hero} {weep}.",
        "The {thing} was {bad}.",
        '"I am so {woe}," said {hero}.',
        '"What a {bad} {thing}," said {friend}.',
        "{friend} was {woe} and {weep}.",
        "{when} a {bad} {beast} took the {thing}.",
        "It was a {bad} day and {he} {weep}.",
    ],
    "dull": [
        "{He} {again} and {again} and {again}.",
        "{hero} saw the {thing}. {hero} saw the {thing}.",
        "It was very, very, very, very {weather}.",
        "The {thing} was {colour}. The {thing} was {colour}.",
    ],
}
ENDINGS: dict[str, list[str]] = {
    "plain": ["Then {he} went home.", "{hero} went to sleep.", "That was the end of the day."],
    "happy": [
        "They were {joy} ever after.",
        "{hero} went home and {play}.",
        "It was a {nice} day.",
        "{hero} and {friend} were {joy} together.",
    ],
    "sad": [
        "{hero} went home and {weep}.",
        "It was a {bad} day.",
        "{hero} was {woe} and alone.",
        "Nobody came, and {he} was {woe}.",
    ],
    "dull": ["The end. The end. The end.", "{He} slept and slept and slept."],
}
MOODS = {"happy": 0.3, "sad": 0.3, "plain": 0.25, "dull": 0.15}
FAITHFUL = 0.6  # the share of a story's sentences that follow its mood


@dataclass(frozen=True)
class Story:
    """One story. The completion starts with a space: prompt + completion is the whole text."""

    prompt: str
    completion: str

    @property
    def text(self) -> str:
        return self.prompt + self.completion


def stories(rng: random.Random, unfinished: float = 0.0) -> Iterator[Story]:
    """Endless stories, no two with the same prompt; a share of them breaks off midway."""
    seen: set[str] = set()
    while True:
        story = make_story(rng)
        if story.prompt in seen:
            continue
        seen.add(story.prompt)
        yield break_off(story, rng) if rng.random() < unfinished else story


def make_story(rng: random.Random) -> Story:
    """Draw one story: a prompt of two or three sentences and a completion of two to five."""
    cast = draw_cast(rng)
    mood = rng.choices(list(MOODS), list(MOODS.values()))[0]
    moods = [mood if rng.random() < FAITHFUL else rng.choice(list(MOODS)) for _ in range(4)]
    body = [rng.choice(SENTENCES[each]) for each in moods[: rng.randint(1, 4)]]
    prompt = [rng.choice(OPENINGS), rng.choice(SCENES)]
    completion = ["", *body, rng.choice(ENDINGS[mood])]
    return Story(fill(" ".join(prompt), cast, rng), fill(" ".join(completion), cast, rng))


def draw_cast(rng: random.Random) -> dict[str, str]:
    """Choose what stays the same through one story."""
    girl = rng.random() < 0.5
    hero, friend = rng.choice(GIRLS if girl else BOYS), rng.choice(BOYS if girl else GIRLS)
    child = ["girl", "princess", "queen"] if girl else ["boy", "prince", "king"]
    return {
        "hero": hero,
        "friend": friend,
        "kind": rng.choice(child + WORDS["beast"]),
        "he": "she" if girl else "he",
        "He": "She" if girl else "He",
        "His": "Her" if girl else "His",
        "thing": rng.choice(WORDS["thing"]),
        "colour": rng.choice(WORDS["colour"]),
        "again": rng.choice(WORDS["move"]),
    }


def fill(text: str, cast: dict[str, str], rng: random.Random) -> str:
    """Replace every {slot} by the cast's word for it, or else by a random one."""
    return re.sub(r"\{(\w+)\}", lambda slot: cast.get(slot[1]) or rng.choice(WORDS[slot[1]]), text)


def break_off(story: Story, rng: random.Random) -> Story:
    """Cut the completion in its second half, as if the writer had stopped there."""
    words = story.completion.split(" ")
    return Story(story.prompt, " ".join(words[: rng.randint(len(words) // 2, len(words) - 1)]))
