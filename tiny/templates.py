"""The exam by template: ways of asking that no training sentence has.

Each template is a question with `{a}`, `{b}` or `{x}`, and the kind of its answer. They were
written apart from phrases.py; a test checks that none occurs there. Their spellings ("+", "whats",
"colour") are trained too, in other questions (`questions.SHORT`).
"""

import random
from collections.abc import Mapping

from tiny import blind_templates
from tiny import grammar as g
from tiny.questions import Turn

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plus": (
        "Whats {a} plus {b}", "{a} plus {b} equals", "what would {a} plus {b} be?",
        "Work out {a} plus {b} for me.", "I wonder what {a} plus {b} is.",
        "Got {a}, then {b} on top. What's the total?", "hey what is {a} + {b}",
        "If there are {a} birds and {b} others join them, how many birds is that?",
        "Mind telling me what {a} and {b} add up to?", "Do the sum: {a} plus {b}.",
        "Quickly now: {a} plus {b}!", "I bought {a} eggs, then {b} more. How many eggs have I got?",
    ),
    "minus": (
        "Whats {a} minus {b}", "{a} minus {b} equals", "what's left when {b} is taken from {a}?",
        "Work out {a} minus {b}, would you?", "I had {a} coins and spent {b}. How many remain?",
        "{a} less {b}, how much is it?", "hey what is {a} - {b}", "Deduct {b} from {a}.",
        "Be so kind and tell me what {a} minus {b} is.", "By subtracting {b} from {a} I get what?",
    ),
    "after": (
        "When counting, what do I say after {a}?", "which number do you get one after {a}",
        "What's the number following {a}?", "Right after {a} there is which number?",
        "Counting up, {a} is followed by what?",
    ),
    "before": (
        "When counting, what do I say before {a}?", "What's the number preceding {a}?",
        "which number do you get one before {a}", "Right before {a} there is which number?",
    ),
    "bigger": (
        "is {a} greater than {b}", "Would you say {a} is bigger than {b}?",
        "Of the numbers {a} and {b}, which one's bigger?", "Tell me the larger one: {a} or {b}.",
        "Between {a} and {b}, which is the bigger number?", "{a} is bigger than {b}, right?",
    ),
    "count": (
        "Count from {a} until {b}.", "I'd like you to count from {a} to {b}.",
        "Give me the numbers {a} to {b}.", "could you please count for me from {a} to {b}",
        "Go from {a} to {b}, counting aloud.",
    ),
    "sides": (
        "A {x} has got how many sides?", "How many sides would a {x} have?",
        "what's the number of sides in a {x}",
    ),
    "wheels": ("A {x} has got how many wheels?", "How many wheels would a {x} have?"),
    "colored": (
        "I forgot which color {x} is.", "Usually, what's the color of {x}?",
        "what colour is {x}", "So {x}, what color is that?",
    ),
    "opposite": (
        "Whats the opposite of {x}", "Tell me what the opposite of {x} is.", "Opposite of {x}?",
        "If I say {x}, what's the opposite?", "The opposite of {x} would be what?",
    ),
    "day after": (
        "It's {x} today, so what day is it tomorrow?", "Whats the day after {x}",
        "Which day of the week comes right after {x}?",
    ),
    "day before": (
        "It's {x} today, so what day was it yesterday?", "Whats the day before {x}",
    ),
    "repeat": ("Now repeat these words: {x}", "I want you to say: {x}"),
    "who": (
        "Who exactly are you?", "And your name would be?", "Who created you?",
        "Who am I speaking with?",
    ),
    "can": ("So what can you actually do?", "How could you be of help?", "what are you able to do"),
    "fine": ("How are you doing?", "Hi, how are you doing today?", "you okay?"),
    "welcome": ("Thanks so much for your help!", "thank you that was nice"),
    "goodbye": ("Bye, see you around!", "Okay, goodbye then."),
    "hello": ("Hello there, friend!", "hello, anybody there?"),
    "unknown": (
        "What's the tallest mountain?", "How do I bake a cake?", "Who won the game last night?",
        "Recommend me a restaurant.", "what is thirty plus fifty", "When does the shop close?",
        "Which planet is the largest?", "How do you say cat in French?",
    ),
}  # fmt: skip
FIXED = {
    "who": g.WHO, "can": g.CAN, "fine": g.FINE, "welcome": g.WELCOME, "goodbye": g.GOODBYE,
    "hello": g.HELLO, "unknown": g.UNKNOWN,
}  # fmt: skip
Way = tuple[str, str]
"""Kind and text."""


def _ways(templates: Mapping[str, tuple[str, ...]]) -> list[Way]:
    return [(kind, text) for kind, texts in templates.items() for text in texts]


ALL = _ways(TEMPLATES)
BLIND = _ways(blind_templates.TEMPLATES)


def ask(rng: random.Random, index: int, ways: list[Way] = ALL) -> Turn:
    """Return the question of template `index`, counted round and round, and its answer."""
    kind, text = ways[index % len(ways)]
    if kind in FIXED:
        return Turn(text, FIXED[kind])
    if kind in ("sides", "wheels", "colored", "opposite", "day after", "day before", "repeat"):
        choices, answer = {
            "sides": (list(g.SIDES), g.sides),
            "wheels": (list(g.WHEELS), g.wheels),
            "colored": (list(g.COLORED), g.colored),
            "opposite": (list(g.OPPOSITES), g.opposite),
            "day after": (list(g.DAYS), g.day_after),
            "day before": (list(g.DAYS), g.day_before),
            "repeat": ([g.place(where) for where in g.POSITIONS], str),
        }[kind]
        word = rng.choice(choices)
        return Turn(
            g.capital(text.format(x=word)) if text[0] == "{" else text.format(x=word), answer(word)
        )
    return _numbers(kind, text, rng)


def _numbers(kind: str, text: str, rng: random.Random) -> Turn:
    low, high = sorted(rng.sample(range(21), 2))
    a, b, answer = {
        "plus": (high - low, low, g.plus),
        "minus": (high, low, g.minus),
        "after": (low, high, lambda a, _: g.after(a)),
        "before": (high, low, lambda a, _: g.before(a)),
        "bigger": (*rng.sample((low, high), 2), g.bigger),
        "count": (low, min(high, low + g.MAX_COUNTED - 1), g.count_from),
    }[kind]
    asked = text.format(a=g.NUMBERS[a], b=g.NUMBERS[b])
    return Turn(g.capital(asked) if text[0] == "{" else asked, answer(a, b))
