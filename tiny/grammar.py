"""The domain of the checkpoint: its words, and every reply sentence.

Questions are in questions.py, pixels in scenes.py. One function per kind of fact makes the reply,
so text, speech and evaluation share one wording. A reply is right only when every word is right.
"""

import hashlib
import itertools
import random
from collections.abc import Sequence

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)  # fmt: skip
COLORS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("circle", "square", "triangle", "star")
POSITIONS = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")
RELATIONS = ("above", "below", "to the left of", "to the right of")
MOVES = ("to the left", "to the right", "up", "down")
OPPOSITES = {
    "left": "right", "up": "down", "above": "below", "top": "bottom", "big": "small",
    "hot": "cold", "day": "night", "good": "bad", "fast": "slow", "happy": "sad", "yes": "no",
    "long": "short", "high": "low", "in": "out", "wet": "dry", "old": "new", "full": "empty",
}  # fmt: skip
OPPOSITES |= {value: key for key, value in OPPOSITES.items()}
SIDES = {"triangle": 3, "square": 4, "star": 10, "circle": 0}
WHEELS = {"car": 4, "bicycle": 2, "tricycle": 3}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COLORED = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "a banana": "yellow",
    "a tomato": "red",
    "coal": "black",
}
MAX_ADDEND = 10
MAX_COUNT = 5
MAX_COUNTED = 10
"""Numbers that are counted aloud at most."""

HELLO = "Hello! How can I help you?"
WHO = "I am Pocket Omni, a small model that can see, hear and speak."
CAN = "I can count shapes, name colors, add small numbers and answer aloud."
FINE = "I am fine, thank you."
WELCOME = "You are welcome."
GOODBYE = "Goodbye!"
UNKNOWN = "I am sorry, I do not know that."
NO_PICTURE = "I see no picture."
UNCLEAR = "I did not understand you."
OKAY = "Okay."

Thing = tuple[str, str]
"""A colored shape, such as ("red", "circle")."""
THINGS: tuple[Thing, ...] = tuple(itertools.product(COLORS, SHAPES))


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def a_thing(thing: Sequence[str]) -> str:
    return f"a {' '.join(thing)}"


def the_thing(thing: Thing) -> str:
    return f"the {thing[0]} {thing[1]}"


def plus(a: int, b: int) -> str:
    return f"{capital(NUMBERS[a])} plus {NUMBERS[b]} is {NUMBERS[a + b]}."


def minus(a: int, b: int) -> str:
    return f"{capital(NUMBERS[a])} minus {NUMBERS[b]} is {NUMBERS[a - b]}."


def counted(number: int, name: str) -> str:
    """`name` is "shape", "circle" or "red circle"."""
    if number == 0:
        return f"There are no {name}s."
    if number == 1:
        return f"There is one {name}."
    return f"There are {NUMBERS[number]} {name}s."


def see(things: list[Thing]) -> str:
    *most, last = [a_thing(thing) for thing in things]
    return f"I see {', '.join(most)} and {last}." if most else f"I see {last}."


def color(value: str) -> str:
    return f"It is {value}."


def colors(value: str) -> str:
    return f"They are {value}."


def shape(value: str) -> str:
    return f"It is a {value}."


def place(position: str) -> str:
    return f"It is {position}."


def thing_place(thing: Thing, position: str) -> str:
    return f"{capital(the_thing(thing))} is {position}."


def relation(one: Thing, how: str, other: Thing) -> str:
    return f"{capital(the_thing(one))} is {how} {the_thing(other)}."


def present(thing: Sequence[str], yes: bool) -> str:
    """`thing` may be a color or a shape alone, as in the question."""
    return f"Yes, there is {a_thing(thing)}." if yes else f"No, there is no {' '.join(thing)}."


def moves(move: str) -> str:
    return f"It moves {move}."


def thing_moves(thing: Thing, move: str) -> str:
    return f"{capital(the_thing(thing))} moves {move}."


def first(one: Thing, other: Thing) -> str:
    return f"First comes {the_thing(one)}, then {the_thing(other)}."


def said(word: str) -> str:
    return f"The voice says {word}."


def said_while(word: str, thing: Thing, move: str) -> str:
    return f"The voice says {word} while {the_thing(thing)} moves {move}."


def sides(name: str) -> str:
    count = SIDES[name]
    return f"A {name} has {NUMBERS[count] if count else 'no'} sides."


def colored(name: str) -> str:
    return f"{capital(name)} is {COLORED[name]}."


def after(number: int) -> str:
    return f"{capital(NUMBERS[number + 1])} comes after {NUMBERS[number]}."


def before(number: int) -> str:
    return f"{capital(NUMBERS[number - 1])} comes before {NUMBERS[number]}."


def bigger(a: int, b: int) -> str:
    return f"{capital(NUMBERS[max(a, b)])} is bigger than {NUMBERS[min(a, b)]}."


def opposite(word: str) -> str:
    return f"The opposite of {word} is {OPPOSITES[word]}."


def wheels(name: str) -> str:
    return f"A {name} has {NUMBERS[WHEELS[name]]} wheels."


def day_after(day: str) -> str:
    return f"{DAYS[(DAYS.index(day) + 1) % len(DAYS)]} comes after {day}."


def day_before(day: str) -> str:
    return f"{DAYS[DAYS.index(day) - 1]} comes before {day}."


def you_said(word: str) -> str:
    return f"You said {word}."


def count_to(number: int) -> str:
    return count_from(1, number)


def count_from(start: int, end: int) -> str:
    """`end` is included."""
    return f"{capital(', '.join(NUMBERS[start : end + 1]))}."


def held_out(text: str, share: float = 0.08) -> bool:
    """Return whether a sentence is held out: a fixed share, chosen by a hash of the text."""
    digest = hashlib.sha256(text.lower().encode()).digest()
    return digest[0] / 256 < share


def small_replies() -> list[str]:
    """Return every reply of the kinds that have few members."""
    numbers = range(len(NUMBERS))
    fixed = [HELLO, WHO, CAN, FINE, WELCOME, GOODBYE, UNKNOWN, NO_PICTURE, UNCLEAR, OKAY]
    names = ["shape", *SHAPES, *(f"{c} {s}" for c, s in THINGS), *(f"{c} shape" for c in COLORS)]
    return [
        *fixed,
        *(plus(a, b) for a in numbers for b in numbers if a + b < len(NUMBERS)),
        *(minus(a, b) for a in numbers for b in range(a + 1)),
        *(counted(n, name) for n in range(MAX_COUNT + 1) for name in names),
        *(counted(n, "shape") for n in range(MAX_COUNT + 1, 2 * MAX_COUNT + 1)),
        *(color(c) for c in COLORS),
        *(colors(c) for c in COLORS),
        *(shape(s) for s in SHAPES),
        *(shape(" ".join(thing)) for thing in THINGS),
        *(place(p) for p in POSITIONS),
        *(see([thing]) for thing in THINGS),
        *(thing_place(thing, p) for thing in THINGS for p in POSITIONS),
        *(present(thing, yes) for thing in THINGS for yes in (True, False)),
        *(moves(m) for m in MOVES),
        *(thing_moves(thing, m) for thing in THINGS for m in MOVES),
        *(said(n) for n in NUMBERS),
        *(sides(s) for s in SHAPES),
        *(colored(name) for name in COLORED),
        *(after(n) for n in numbers[:-1]),
        *(before(n) for n in numbers[1:]),
        *(bigger(a, b) for a in numbers for b in numbers if a > b),
        *(opposite(word) for word in OPPOSITES),
        *(wheels(name) for name in WHEELS),
        *(say(day) for day in DAYS for say in (day_before, day_after)),
        *(you_said(n) for n in NUMBERS),
        *(count_from(a, b) for a in numbers for b in numbers[a + 1 : a + MAX_COUNTED]),
    ]


def large_replies(rng: random.Random, each: int) -> list[str]:
    """Return a sample of the kinds with many members: two shapes, or a word and a shape."""
    pairs = [(a, b) for a in THINGS for b in THINGS if a != b]
    spoken = [said_while(n, t, m) for n in NUMBERS for t in THINGS for m in MOVES]
    return [
        *rng.sample([see([a, b]) for a, b in pairs], each),
        *rng.sample([first(a, b) for a, b in pairs], each),
        *rng.sample([relation(a, how, b) for a, b in pairs for how in RELATIONS], 2 * each),
        *rng.sample(spoken, each),
    ]


def replies(seed: int = 0, each: int = 550) -> list[str]:
    """Return the sentences that train and evaluate the voices, in a fixed shuffled order."""
    rng = random.Random(seed)  # noqa: S311
    sentences = sorted(set(small_replies())) + large_replies(rng, each)
    rng.shuffle(sentences)
    return sentences


def more_replies(seed: int = 1, each: int = 1_100) -> list[str]:
    """Return further sentences of the large kinds, for the Talker alone."""
    rng = random.Random(seed)  # noqa: S311
    pairs = [(a, b) for a in THINGS for b in THINGS if a != b]
    spoken = [said_while(n, t, m) for n in NUMBERS for t in THINGS for m in MOVES]
    related = [relation(a, how, b) for a, b in pairs for how in RELATIONS]
    known = set(replies())
    drawn = rng.sample(related, each) + rng.sample(spoken, each)
    return [sentence for sentence in drawn if sentence not in known]
