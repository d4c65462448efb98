"""Typed and spoken questions, each with its one right reply.

A question combines a kind of fact, a phrasing and a manner (please, hey, lower case). All three
are sampled, so held-out questions are new sentences about known facts. Questions about pictures
are in scenes.py; they use the same manners.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tiny import grammar as g

PLUS = (
    "What is {a} plus {b}?", "How much is {a} plus {b}?", "What does {a} plus {b} make?",
    "Add {a} and {b}.", "What is the sum of {a} and {b}?", "{a} plus {b}?",
    "What do you get if you add {a} and {b}?", "Calculate {a} plus {b}.",
    "I have {a} and you give me {b} more. How many is that?",
)  # fmt: skip
MINUS = (
    "What is {a} minus {b}?", "How much is {a} minus {b}?", "Take {b} from {a}.",
    "{a} minus {b}?", "What is {a} take away {b}?", "Calculate {a} minus {b}.",
    "I have {a} and give away {b}. How many are left?", "Subtract {b} from {a}.",
)  # fmt: skip
AND_PLUS = ("And {b} more?", "Plus {b}?", "And plus {b}?", "Now add {b}.", "And if you add {b}?")
AFTER = (
    "What comes after {a}?", "Which number comes after {a}?", "What number follows {a}?",
    "What is the next number after {a}?", "What comes next after {a}?",
)  # fmt: skip
BEFORE = (
    "What comes before {a}?", "Which number comes before {a}?",
    "What number is just before {a}?", "Which number is right before {a}?",
)  # fmt: skip
BIGGER = (
    "Which is bigger, {a} or {b}?", "What is more, {a} or {b}?", "Which is larger, {a} or {b}?",
    "Which number is bigger, {a} or {b}?", "Is {a} bigger than {b}?",
)  # fmt: skip
COUNT_TO = ("Count to {a}.", "Can you count to {a}?", "Count up to {a}.", "Count from one to {a}.")
SIDES = (
    "How many sides does a {x} have?", "How many sides has a {x}?",
    "What number of sides does a {x} have?", "Count the sides of a {x}.",
)  # fmt: skip
COLORED = (
    "What color is {x}?", "What color does {x} have?", "Which color is {x}?",
    "Name the color of {x}.", "What is the color of {x}?",
)  # fmt: skip
OPPOSITE = (
    "What is the opposite of {x}?", "Name the opposite of {x}.", "Tell me the opposite of {x}.",
    "What is the reverse of {x}?",
)  # fmt: skip
SMALL_TALK = {
    g.HELLO: ("Hello!", "Hi!", "Hello there!", "Hi there!", "Good morning!", "Good evening!",
              "Good afternoon!", "Hey!", "Hello, model!", "Greetings!"),
    g.WHO: ("Who are you?", "What are you?", "What is your name?", "Tell me who you are.",
            "Introduce yourself.", "Who am I talking to?", "Are you a person?",
            "Say something about yourself."),
    g.CAN: ("What can you do?", "What can I ask you?", "How can you help me?",
            "What are you good at?", "Tell me what you can do.", "What do you know?",
            "What are your skills?"),
    g.FINE: ("How are you?", "How are you today?", "How do you do?", "How is it going?",
             "Are you well?", "How do you feel?"),
    g.WELCOME: ("Thank you!", "Thanks!", "Thank you very much!", "Many thanks!",
                "Thanks a lot!", "Great, thank you!"),
    g.GOODBYE: ("Goodbye!", "Bye!", "See you later!", "Bye bye!", "See you soon!", "Good night!"),
}  # fmt: skip
LEAD = ("Please tell me, ", "Hey, ", "So, ", "Tell me, ", "Well, ", "Now, ", "Okay, ", "Quick, ")
TAIL = (" please", " now", " then", " for me", " again")

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
)  # fmt: skip
LARGE = ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "a hundred",
         "a thousand", "a million")  # fmt: skip


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
        question = rng.choice(LEAD) + lower_first(question)
    if question.endswith("?") and rng.random() < 0.12:
        question = question[:-1] + rng.choice(TAIL) + "?"
    if not typed:
        return question
    style = rng.random()
    if style < 0.12:
        question = question.lower()
    if style < 0.06 or style > 0.94:
        question = question.rstrip("?.!")
    return question.replace("What is", "What's") if rng.random() < 0.08 else question


def _number(value: int, rng: random.Random, *, typed: bool) -> str:
    return str(value) if typed and rng.random() < 0.15 else g.NUMBERS[value]


def _fill(phrase: str, **words: str) -> str:
    return g.capital(phrase.format(**words))


Kind = Callable[[random.Random, bool], list[Turn]]


def sums(rng: random.Random, typed: bool) -> list[Turn]:
    a, b = rng.randint(0, g.MAX_ADDEND), rng.randint(0, g.MAX_ADDEND)
    words = {"a": _number(a, rng, typed=typed), "b": _number(b, rng, typed=typed)}
    turns = [Turn(_fill(rng.choice(PLUS), **words), g.plus(a, b))]
    if 0 < a + b < 20 and rng.random() < 0.3:
        more = rng.randint(1, min(g.MAX_ADDEND, 20 - a - b))
        follow = rng.choice(AND_PLUS).format(b=_number(more, rng, typed=typed))
        turns.append(Turn(follow, g.plus(a + b, more)))
    return turns


def differences(rng: random.Random, typed: bool) -> list[Turn]:
    a = rng.randint(0, g.MAX_ADDEND)
    b = rng.randint(0, a)
    words = {"a": _number(a, rng, typed=typed), "b": _number(b, rng, typed=typed)}
    return [Turn(_fill(rng.choice(MINUS), **words), g.minus(a, b))]


def order(rng: random.Random, typed: bool) -> list[Turn]:
    kind = rng.randrange(4)
    if kind == 0:
        a = rng.randint(0, 19)
        return [Turn(_fill(rng.choice(AFTER), a=_number(a, rng, typed=typed)), g.after(a))]
    if kind == 1:
        a = rng.randint(1, 20)
        return [Turn(_fill(rng.choice(BEFORE), a=_number(a, rng, typed=typed)), g.before(a))]
    if kind == 2:
        a = rng.randint(2, 10)
        return [Turn(_fill(rng.choice(COUNT_TO), a=_number(a, rng, typed=typed)), g.count_to(a))]
    a, b = rng.sample(range(21), 2)
    words = {"a": _number(a, rng, typed=typed), "b": _number(b, rng, typed=typed)}
    return [Turn(_fill(rng.choice(BIGGER), **words), g.bigger(a, b))]


def facts(rng: random.Random, typed: bool) -> list[Turn]:
    del typed
    kind = rng.randrange(3)
    if kind == 0:
        name = rng.choice(g.SHAPES)
        return [Turn(rng.choice(SIDES).format(x=name), g.sides(name))]
    if kind == 1:
        name = rng.choice(list(g.COLORED))
        return [Turn(rng.choice(COLORED).format(x=name), g.colored(name))]
    word = rng.choice(list(g.OPPOSITES))
    return [Turn(rng.choice(OPPOSITE).format(x=word), g.opposite(word))]


def small_talk(rng: random.Random, typed: bool) -> list[Turn]:
    del typed
    answer = rng.choice(list(SMALL_TALK))
    return [Turn(rng.choice(SMALL_TALK[answer]), answer)]


def foreign(rng: random.Random, typed: bool) -> list[Turn]:
    """Return an out-of-domain question, or one that only resembles a known question."""
    del typed
    kind = rng.random()
    if kind < 0.75:
        x, y = rng.sample(THEMES, 2)
        return [Turn(rng.choice(FOREIGN).format(x=x, y=y), g.UNKNOWN)]
    if kind < 0.85:
        a, b = rng.sample(LARGE, 2)
        return [Turn(_fill(rng.choice(PLUS[:6] + MINUS[:4]), a=a, b=b), g.UNKNOWN)]
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
            Turn(f"What color is the {one[1]}?", g.color(one[0])),
            Turn(f"Where is the {one[1]}?", g.place(where)),
            Turn(f"What is {where}?", g.thing_place(one, where)),
            Turn("What shape is it?", g.shape(one[1])),
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
        told = rng.choice(("There are {} and {}.", "I have {} and {}.", "I drew {} and {}."))
        told = told.format(first, second)
        asked = [
            Turn(f"How many {one[1]}s are there?", g.counted(m, one[1])),
            Turn(f"How many {other[1]}s are there?", g.counted(n, other[1])),
            Turn("How many shapes are there?", g.counted(m + n, "shape")),
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
    sums: 9, differences: 7, order: 6, facts: 3, small_talk: 2, foreign: 4, described: 7,
}  # fmt: skip
PRACTICE = KINDS | {order: 8, described: 16}
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
