"""Typed and spoken questions, each with its one right reply.

A question combines a kind of fact, a phrasing and a manner (please, hey, lower case). All three
are sampled, so held-out questions are new sentences about known facts. Questions about pictures
are in scenes.py; they use the same manners.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tiny import grammar as g
from tiny import phrases as p

THEMES = (
    "the moon", "France", "my cat", "the weather", "love", "gravity", "the president", "a tiger",
    "Shakespeare", "the stock market", "football", "my mother", "a computer", "history", "Berlin",
    "the ocean", "a guitar", "music", "Einstein", "the internet", "a volcano", "dinner", "Japan",
    "a doctor", "the war", "money", "chess", "a dragon", "the economy", "Mars", "poetry", "my dog",
    "the king", "a bicycle", "medicine", "Africa", "a castle", "the news", "happiness", "Rome",
    "the bank", "a rocket", "philosophy", "cooking", "a spider", "the law", "Canada", "a river",
    "the movie", "a teacher", "winter", "a horse", "my phone", "the train", "Napoleon", "a virus",
    "the universe", "coffee", "a lawyer", "sleep", "the school", "an elephant", "art", "time",
    "the city", "an airplane", "religion", "bread", "the brain", "an island", "water", "India",
    "the pyramids", "a novel", "the future", "salt", "a mountain", "the government", "gold", "rain",
)  # fmt: skip
FOREIGN = (
    "Who invented {x}?", "Where is {x}?", "Why is {x} important?", "Tell me about {x}.",
    "What is the capital of {x}?", "When was {x} born?", "How old is {x}?", "Who wrote about {x}?",
    "What do you think about {x}?", "How does {x} work?", "Can you explain {x}?",
    "What is the price of {x}?", "Write a story about {x}.", "What is the meaning of {x}?",
    "How do I find {x}?", "Is {x} dangerous?", "What happened to {x}?", "Who likes {x}?",
    "Describe {x}.", "What color is {x}?", "How tall is {x}?", "Do you like {x}?",
    "How many people know {x}?", "What is the opposite of {x}?", "When did {x} begin?",
    "Translate {x} into German.", "Sing a song about {x}.", "Where can I buy {x}?",
    "What comes after {x}?", "How much is {x}?", "Which is better, {x} or {y}?",
    "What is the difference between {x} and {y}?", "How far is {x} from {y}?",
    "When does {x} open?", "How do I make {x}?", "Who won {x}?", "Recommend {x} to me.",
    "How do you say {x} in Spanish?", "What is the largest {x}?", "Which {x} is the best?",
    "Can you buy {x} for me?", "How many people live in {x}?", "Who is {x}?", "What is {x}?",
    "When is {x}?", "Should I learn {x}?", "How long does {x} take?", "Play {x}.", "Call {x}.",
    "What did {x} say?", "Why does {x} like {y}?", "Did you read {x}?", "I am thinking of {x}.",
    "What is the weather like?", "What time is it?", "Tell me a joke.", "What day is it today?",
    "Is it going to rain?", "How old am I?", "What is my name?", "Where am I?", "Open {x}.",
    "Set a timer for {x}.", "Which is the highest {x}?", "Explain {x} to me.", "Define {x}.",
)  # fmt: skip
LARGE = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "a hundred",
         "a thousand", "a million")  # fmt: skip


SHORT = {
    "+": "plus", "-": "minus", "whats": "what is", "Whats": "What is", "colour": "color",
    "what's": "what is", "What's": "What is", "it's": "it is", "I'd": "I would", "let's": "let us",
    "who's": "who is", "how's": "how is", "I'm": "I am", "don't": "do not", "didn't": "did not",
}  # fmt: skip
"""How some people type."""


@dataclass(frozen=True)
class Turn:
    """A question and its reply, which must match word for word."""

    question: str
    answer: str


def lower_first(text: str) -> str:
    return text if text.startswith("I ") else text[0].lower() + text[1:]


def with_manner(question: str, rng: random.Random, *, typed: bool) -> str:
    """Return the question with a random manner, such as "please" or lower case."""
    if rng.random() < 0.25:
        lead = rng.choice(p.LEAD)
        question = lead + (question if lead[-2] == "." else lower_first(question))
    if question.endswith("?") and rng.random() < 0.12:
        question = question[:-1] + rng.choice(p.TAIL) + "?"
    if not typed:
        return question
    style = rng.random()
    if style < 0.15:
        question = question.lower()
    if style < 0.08 or style > 0.92:
        question = question.rstrip("?.!")
    for short, long in SHORT.items():
        if rng.random() < 0.1:
            question = question.replace(long, short)
    return question


def _number(value: int, rng: random.Random, *, typed: bool) -> str:
    return str(value) if typed and rng.random() < 0.2 else g.NUMBERS[value]


def _fill(phrase: str, **words: str) -> str:
    return g.capital(phrase.format(**words))


def _either(nouns: tuple[str, ...], asked: tuple[str, ...], rng: random.Random, **w: str) -> str:
    """Return a question with its own words, or one of the questions for a noun phrase."""
    if rng.random() < 0.4:
        return _fill(rng.choice(p.NOUN), x=rng.choice(nouns).format(**w))
    return _fill(rng.choice(asked), **w)


def _reckoning(
    nouns: tuple[str, ...], asked: tuple[str, ...], rng: random.Random, **words: str
) -> str:
    """Return a question for a sum or difference."""
    if rng.random() < 0.65:
        how = p.AMOUNT if rng.random() < 0.6 else p.NOUN
        return _fill(rng.choice(how), x=rng.choice(nouns).format(**words))
    return _fill(rng.choice(asked), **words)


Kind = Callable[[random.Random, bool], list[Turn]]


def _pair(rng: random.Random) -> tuple[int, int]:
    """Return two numbers with a sum of at most twenty, mostly up to ten each."""
    if rng.random() < 0.6:
        return rng.randint(0, g.MAX_ADDEND), rng.randint(0, g.MAX_ADDEND)
    a = rng.randint(0, 20)
    return a, rng.randint(0, 20 - a)


def sums(rng: random.Random, typed: bool) -> list[Turn]:
    a, b = _pair(rng)
    words = {"a": _number(a, rng, typed=typed), "b": _number(b, rng, typed=typed)}
    turns = [Turn(_reckoning(p.SUM, p.PLUS, rng, **words), g.plus(a, b))]
    if 0 < a + b < 20 and rng.random() < 0.3:
        more = rng.randint(1, min(g.MAX_ADDEND, 20 - a - b))
        follow = rng.choice(p.AND_PLUS).format(b=_number(more, rng, typed=typed))
        turns.append(Turn(follow, g.plus(a + b, more)))
    elif rng.random() < 0.1:
        other = rng.randint(0, min(g.MAX_ADDEND, 20 - a))
        follow = rng.choice(p.INSTEAD).format(b=_number(other, rng, typed=typed))
        turns.append(Turn(follow, g.plus(a, other)))
    return turns


def differences(rng: random.Random, typed: bool) -> list[Turn]:
    a = rng.randint(0, g.MAX_ADDEND if rng.random() < 0.5 else 20)
    b = rng.randint(0, a)
    words = {"a": _number(a, rng, typed=typed), "b": _number(b, rng, typed=typed)}
    return [Turn(_reckoning(p.DIFFERENCE, p.MINUS, rng, **words), g.minus(a, b))]


def order(rng: random.Random, typed: bool) -> list[Turn]:
    kind = rng.randrange(5)
    if kind == 0:
        a = rng.randint(0, 19)
        said = _number(a, rng, typed=typed)
        return [Turn(_either(p.AFTER_NOUN, p.AFTER, rng, a=said), g.after(a))]
    if kind == 1:
        a = rng.randint(1, 20)
        said = _number(a, rng, typed=typed)
        return [Turn(_either(p.BEFORE_NOUN, p.BEFORE, rng, a=said), g.before(a))]
    if kind == 2:
        b = rng.randint(2, 10)
        return [Turn(_fill(rng.choice(p.COUNT_TO), b=_number(b, rng, typed=typed)), g.count_to(b))]
    first, last = sorted(rng.sample(range(21), 2))
    if kind == 3:
        last = min(last, first + g.MAX_COUNTED - 1)
        words = {"a": _number(first, rng, typed=typed), "b": _number(last, rng, typed=typed)}
        return [Turn(_fill(rng.choice(p.COUNT_FROM), **words), g.count_from(first, last))]
    a, b = (first, last) if rng.random() < 0.5 else (last, first)
    words = {"a": _number(a, rng, typed=typed), "b": _number(b, rng, typed=typed)}
    return [Turn(_fill(rng.choice(p.BIGGER), **words), g.bigger(a, b))]


def facts(rng: random.Random, typed: bool) -> list[Turn]:
    del typed
    kind = rng.randrange(6)
    if kind < 2:
        name, part = rng.choice([(s, "sides") for s in g.SIDES] + [(s, "wheels") for s in g.WHEELS])
        answer = g.sides(name) if part == "sides" else g.wheels(name)
        return [Turn(_either(p.PARTS_NOUN, p.PARTS, rng, p=part, x=f"a {name}"), answer)]
    if kind == 2:
        name = rng.choice(list(g.COLORED))
        return [Turn(_either(p.COLOR_NOUN, p.COLORED, rng, x=name), g.colored(name))]
    if kind == 3:
        day = rng.choice(g.DAYS)
        if rng.random() < 0.5:
            return [Turn(_either(p.NEXT_DAY_NOUN, p.NEXT_DAY, rng, x=day), g.day_after(day))]
        return [Turn(_either(p.DAY_BEFORE_NOUN, p.DAY_BEFORE, rng, x=day), g.day_before(day))]
    word = rng.choice(list(g.OPPOSITES))
    return [Turn(_either(p.OPPOSITE_NOUN, p.OPPOSITE, rng, x=word), g.opposite(word))]


def small_talk(rng: random.Random, typed: bool) -> list[Turn]:
    del typed
    answer = rng.choice(list(p.SMALL_TALK))
    return [Turn(rng.choice(p.SMALL_TALK[answer]), answer)]


def repeating(rng: random.Random, typed: bool) -> list[Turn]:
    """Return a sentence to repeat, or a question and the request to repeat its reply."""
    if rng.random() < 0.5:
        sentence = rng.choice(_short_replies())
        return [Turn(rng.choice(p.REPEAT).format(x=sentence), sentence)]
    kind = rng.choice((sums, differences, order, facts, described))
    turns = kind(rng, typed)
    return [*turns, Turn(rng.choice(p.AGAIN), turns[-1].answer)]


@cache
def _short_replies() -> list[str]:
    return [text for text in g.small_replies() if len(text.split()) <= 7 and "," not in text]


def foreign(rng: random.Random, typed: bool) -> list[Turn]:
    """Return an out-of-domain question, or one that only resembles a known question."""
    del typed
    kind = rng.random()
    if kind < 0.75:
        x, y = rng.sample(THEMES, 2)
        return [Turn(rng.choice(FOREIGN).format(x=x, y=y), g.UNKNOWN)]
    if kind < 0.85:
        a, b = rng.sample(LARGE, 2)
        nouns, asked = rng.choice(((p.SUM, p.PLUS), (p.DIFFERENCE, p.MINUS)))
        return [Turn(_reckoning(nouns, asked, rng, a=a, b=b), g.UNKNOWN)]
    thing = rng.choice(g.THINGS)
    asked = ("What color is the {s}?", "Where is the {c} {s}?", "How many {s}s are there?",
             "What do you see?", "Is there a {c} {s}?", "Which way does it move?",
             "What is in the picture?", "How many {c} shapes do you see?")  # fmt: skip
    return [Turn(rng.choice(asked).format(c=thing[0], s=thing[1]), g.NO_PICTURE)]


def described(rng: random.Random, typed: bool) -> list[Turn]:
    """Return a small scene described in words, and one to three questions about it."""
    one, other = rng.sample(g.THINGS, 2)
    if rng.random() < 0.5:
        where = rng.choice(g.POSITIONS)
        told = f"{g.capital(g.a_thing(one))} is {where}."
        asked = [
            Turn(rng.choice(p.ITS_COLOR).format(x=one[1]), g.color(one[0])),
            Turn(rng.choice(p.ITS_PLACE).format(x=one[1]), g.place(where)),
            Turn(f"What is {where}?", g.thing_place(one, where)),
            Turn(rng.choice(p.ITS_SHAPE), g.shape(one[1])),
        ]
        follow = [
            Turn("And what color is it?", g.color(one[0])),
            Turn("And where is it?", g.place(where)),
            Turn("And what shape is it?", g.shape(one[1])),
        ]
    else:
        while other[1] == one[1]:
            other = rng.choice(g.THINGS)
        m, n = rng.randint(1, g.MAX_COUNT), rng.randint(1, g.MAX_COUNT)
        first = f"{_number(m, rng, typed=typed)} {' '.join(one)}{'s' * (m > 1)}"
        second = f"{_number(n, rng, typed=typed)} {' '.join(other)}{'s' * (n > 1)}"
        told = g.capital(rng.choice(p.TOLD).format(first, second))
        asked = [
            Turn(rng.choice(p.HOW_MANY).format(x=name), g.counted(count, name))
            for name, count in ((one[1], m), (other[1], n), ("shape", m + n))
        ]
        follow = [
            Turn(f"And what color are the {one[1]}s?", g.colors(one[0])),
            Turn(f"And how many {other[1]}s?", g.counted(n, other[1])),
            Turn("And how many shapes in all?", g.counted(m + n, "shape")),
        ]
    start = rng.choice(asked)
    turns = [Turn(f"{told} {start.question}", start.answer)]
    rest = [turn for turn in follow if turn.answer != start.answer]
    return turns + rng.sample(rest, rng.randint(0, min(2, len(rest))))


KINDS: dict[Kind, int] = {
    sums: 9, differences: 7, order: 7, facts: 5, small_talk: 3, foreign: 4, described: 7,
    repeating: 2,
}  # fmt: skip
PRACTICE = KINDS | {order: 9, facts: 9, small_talk: 4, described: 10, repeating: 6}
"""Weights for training: difficult kinds are sampled more often."""


def ask(rng: random.Random, *, typed: bool = True, kinds: dict[Kind, int] = KINDS) -> list[Turn]:
    """Return one exchange of one to three related turns."""
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    turns = kind(rng, typed)
    return [Turn(with_manner(t.question, rng, typed=typed), t.answer) for t in turns]


def ask_for(part: str, rng: random.Random, *, typed: bool = True) -> list[Turn]:
    """Return an exchange whose first sentence belongs to `part`, "train" or "test"."""
    while True:
        turns = ask(rng, typed=typed, kinds=PRACTICE if part == "train" else KINDS)
        if g.held_out(turns[0].question) == (part == "test"):
            return turns
