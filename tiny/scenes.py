"""Pictures and short videos of colored shapes, with questions and answers.

A scene is a list of shapes and places. Pixels, questions and right answers are computed from it,
so no data set is stored and no label can be wrong.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tiny import grammar as g
from tiny.questions import Turn, with_manner

PATCH = 14
MERGE = 2
CELL = PATCH * MERGE
"""Side of a cell of the 3 x 3 grid, in pixels; one token of the vision tower covers a cell."""
SIDE = 3 * CELL
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
SPREAD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
FRAMES_A_SECOND = 2
RGB = {
    "red": (205, 35, 35), "green": (35, 150, 55), "blue": (40, 70, 205),
    "yellow": (235, 215, 45), "white": (248, 248, 248), "black": (12, 12, 12),
}  # fmt: skip
PLACES = {"on the left": (0, 1), "on the right": (2, 1), "at the top": (1, 0),
          "at the bottom": (1, 2), "in the middle": (1, 1)}  # fmt: skip
STEPS = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}

COUNT = (
    "How many {x}s are there?", "How many {x}s do you see?", "Count the {x}s.",
    "How many {x}s are in the picture?", "What is the number of {x}s?",
)  # fmt: skip
SEE = ("What do you see?", "What is in the picture?", "Describe the picture.",
       "What does the picture show?", "What can you see here?")  # fmt: skip
COLOR = ("What color is the {x}?", "Which color does the {x} have?", "Name the color of the {x}.",
         "What is the color of the {x}?")  # fmt: skip
SHAPE = ("What shape is it?", "What shape do you see?", "Which shape is this?",
         "Which shape is in the picture?", "What kind of shape is that?")  # fmt: skip
PLACE = ("Where is the {x}?", "In which place is the {x}?", "Where do you see the {x}?")
AT = ("What is {x}?", "Which shape is {x}?", "What do you see {x}?")
ALL = ("Name everything you see.", "List all the shapes.", "What are all the shapes?",
       "Tell me everything that you see.")  # fmt: skip
PRESENT = ("Is there a {x}?", "Do you see a {x}?", "Is there a {x} in the picture?",
           "Can you see a {x}?")  # fmt: skip
RELATED = ("What is {x}?", "Which shape is {x}?", "What do you see {x}?")
MOVING = ("Which way does it move?", "Where does it move?", "In which direction does it move?",
          "How does it move?", "Which direction does it go?")  # fmt: skip
THING_MOVING = (
    "Which way does the {x} move?", "Where does the {x} move?", "What happens?",
    "How does the {x} move?", "What do you see?", "What does the {x} do?",
)  # fmt: skip
FIRST = (
    "What happens first?", "What comes first?", "Which shape comes first?",
    "What do you see first?", "In which order do the shapes come?", "What happens?",
)  # fmt: skip
SAID = ("What does the voice say?", "Which number do you hear?", "What do you hear?",
        "What is said?", "What number does the voice say?")  # fmt: skip
SAID_WHILE = (
    "What do you see and hear?", "What happens and what is said?",
    "What does the voice say while the shape moves?", "What happens while the voice speaks?",
)  # fmt: skip

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Placed:
    """A shape and its centre, both coordinates in cells from 0 to 2."""

    thing: g.Thing
    x: float
    y: float


@dataclass(frozen=True)
class Asked:
    """Frames (one for a picture) and the conversation about them."""

    frames: list[list[Placed]]
    turns: list[Turn]
    look: int
    """Seed of all that questions do not depend on: background, sizes, angles, noise."""
    word: str | None = None
    """The word that is spoken during the video."""


def outline(shape: str, x: float, y: float, size: float, angle: float) -> list[tuple[float, float]]:
    corners = {"square": 4, "triangle": 3, "star": 10}[shape]
    turn = {"square": 45.0, "triangle": -90.0, "star": -90.0}[shape] + angle
    points = []
    for index in range(corners):
        radius = size * (0.45 if shape == "star" and index % 2 else 1.15)
        phi = np.deg2rad(turn + 360 * index / corners)
        points.append((x + radius * np.cos(phi), y + radius * np.sin(phi)))
    return points


@dataclass(frozen=True)
class Look:
    """The random appearance of a scene with up to 16 shapes."""

    ground: NDArray[np.int64]
    sizes: NDArray[np.float64]
    angles: NDArray[np.float64]
    shift: NDArray[np.float64]
    paint: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, rng: np.random.Generator) -> "Look":
        ground = (rng.integers(105, 175) + rng.integers(-12, 13, 3)).clip(0, 255)
        sizes, angles = rng.uniform(8, 11.5, 16), rng.uniform(-12, 12, 16)
        shift = rng.uniform(-2.5, 2.5, (16, 2))
        shade = rng.integers(-12, 13, (len(RGB), 3))
        shaded = (np.array(list(RGB.values())) + shade).clip(0, 255)
        paint = {name: tuple(map(int, color)) for name, color in zip(RGB, shaded, strict=True)}
        return cls(ground, sizes, angles, shift, paint)

    def centre(self, index: int, item: Placed) -> tuple[float, float]:
        """Return the centre, in pixels, of the shape with this index in its frame."""
        x, y = (float(v + 0.5) * CELL for v in (item.x, item.y))
        return x + float(self.shift[index, 0]), y + float(self.shift[index, 1])


def chance(look: int) -> np.random.Generator:
    return np.random.default_rng(look)


def render(frames: list[list[Placed]], look: int) -> list[Pixels]:
    """Render each frame at twice the size, downsample it, and add a little noise."""
    rng = chance(look)
    looks = Look.of(rng)
    pictures = []
    for frame in frames:
        image = Image.new("RGB", (2 * SIDE, 2 * SIDE), tuple(map(int, looks.ground)))
        draw = ImageDraw.Draw(image)
        for index, item in enumerate(frame):
            x, y = (2 * v for v in looks.centre(index, item))
            size, fill = 2 * looks.sizes[index], looks.paint[item.thing[0]]
            if item.thing[1] == "circle":
                draw.ellipse((x - size, y - size, x + size, y + size), fill=fill)
            else:
                corners = outline(item.thing[1], x, y, size, looks.angles[index])
                draw.polygon(corners, fill=fill)
        small = np.asarray(image.reduce(2), np.float32) + rng.normal(0, 3, (SIDE, SIDE, 3))
        pictures.append(small.clip(0, 255).astype(np.uint8))
    return pictures


@dataclass(frozen=True)
class Sight:
    """The output of Qwen's image processor for a picture or video: rows in merged-window order."""

    rows: torch.Tensor
    grid: tuple[int, int, int]
    film: bool

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Merged squares in time, height and width."""
        t, h, w = self.grid
        return t, h // MERGE, w // MERGE


def patches(pictures: list[Pixels]) -> Sight:
    film = len(pictures) > 1
    if not film:
        pictures = pictures * 2
    pixels = (np.stack(pictures).astype(np.float32) / 255 - MEAN) / SPREAD
    across = SIDE // PATCH
    merged, times = across // MERGE, len(pictures) // 2
    cut = pixels.transpose(0, 3, 1, 2).reshape(
        times, 2, 3, merged, MERGE, PATCH, merged, MERGE, PATCH
    )
    rows = cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(times * across * across, -1)
    return Sight(torch.from_numpy(np.ascontiguousarray(rows)), (times, across, across), film)


def look_at(asked: Asked) -> Sight:
    return patches(render(asked.frames, asked.look))


def _cells(rng: random.Random, count: int) -> list[tuple[int, int]]:
    return rng.sample([(x, y) for x in range(3) for y in range(3)], count)


def counting(names: list[g.Thing], rng: random.Random) -> list[Turn]:
    some = rng.choice(names) if rng.random() < 0.85 else rng.choice(g.THINGS)
    totals = {
        "shape": len(names),
        some[1]: sum(n[1] == some[1] for n in names),
        " ".join(some): sum(n == some for n in names),
        f"{some[0]} shape": sum(n[0] == some[0] for n in names),
    }
    asked = rng.sample(list(totals), 2 if rng.random() < 0.25 else 1)
    turns = [Turn(rng.choice(COUNT).format(x=asked[0]), g.counted(totals[asked[0]], asked[0]))]
    return turns + [Turn(f"And how many {x}s?", g.counted(totals[x], x)) for x in asked[1:]]


def presence(names: list[g.Thing], rng: random.Random) -> list[Turn]:
    near = (rng.choice(names)[0], rng.choice(g.SHAPES))
    thing = rng.choice((rng.choice(names), near, rng.choice(g.THINGS)))
    return [Turn(rng.choice(PRESENT).format(x=" ".join(thing)), g.present(thing, thing in names))]


def traits(names: list[g.Thing], rng: random.Random) -> list[Turn]:
    """Ask for a shape or a color alone, an easier step toward asking for both."""
    wanted = (rng.choice(g.SHAPES),) if rng.random() < 0.5 else (rng.choice(g.COLORS), "shape")
    there = any(wanted[0] in name for name in names)
    return [Turn(rng.choice(PRESENT).format(x=" ".join(wanted)), g.present(wanted, there))]


def listing(things: list[Placed], rng: random.Random) -> list[Turn]:
    """Ask for all shapes in reading order. No other question trains perception as fast."""
    ordered = sorted(things, key=lambda p: (p.y, p.x))
    return [Turn(rng.choice(ALL), g.see([p.thing for p in ordered]))]


def finding(things: list[Placed], rng: random.Random) -> list[Turn]:
    """Ask for one shape by a property that only it has. Search and counting need the same skill."""
    one = rng.choice(things)
    others = [p.thing for p in things if p is not one]
    asked = []
    if all(one.thing[1] != shape for _, shape in others):
        asked += [Turn(rng.choice(COLOR).format(x=one.thing[1]), g.color(one.thing[0]))] * 2
    if all(one.thing[0] != color for color, _ in others):
        question = f"What shape is the {one.thing[0]} one?"
        asked += [Turn(question, g.shape(one.thing[1]))] * 2
    for where, place in PLACES.items():
        if place == (one.x, one.y):
            asked.append(Turn(rng.choice(AT).format(x=where), g.thing_place(one.thing, where)))
            if len(others) > 1 and one.thing not in others:  # for two: the relation
                asked += [Turn(rng.choice(PLACE).format(x=" ".join(one.thing)), g.place(where))] * 2
    return [rng.choice(asked)] if asked else listing(things, rng)


def attributes(thing: g.Thing, where: str, rng: random.Random) -> list[Turn]:
    name = rng.choice((thing[1], " ".join(thing)))
    turns = [
        Turn(rng.choice(COLOR).format(x=thing[1]), g.color(thing[0])),
        Turn(rng.choice(SHAPE), g.shape(thing[1])),
        Turn(rng.choice(PLACE).format(x=name), g.place(where)),
        Turn(rng.choice(AT).format(x=where), g.thing_place(thing, where)),
        Turn(rng.choice(SEE), g.see([thing])),
    ]
    follow = [
        Turn("And what color is it?", g.color(thing[0])),
        Turn("And where is it?", g.place(where)),
        Turn("And what shape is it?", g.shape(thing[1])),
    ]
    start = rng.choice(turns)
    rest = [turn for turn in follow if turn.answer != start.answer]
    return [start, *rng.sample(rest, rng.choice((0, 0, 1, 2)))]


def relations(one: g.Thing, other: g.Thing, how: tuple[str, str], rng: random.Random) -> list[Turn]:
    """Ask about two shapes; `how` has the relation of the first to the second, and the reverse."""
    forth, back = how
    kind = rng.randrange(4)
    if kind == 0:
        return [Turn(rng.choice(SEE), g.see([one, other]))]
    if kind == 1:
        asked = rng.choice(RELATED).format(x=f"{forth} {g.the_thing(other)}")
        return [Turn(asked, g.relation(one, forth, other))]
    if kind == 2:
        asked = rng.choice(RELATED).format(x=f"{back} {g.the_thing(one)}")
        return [Turn(asked, g.relation(other, back, one))]
    asked = rng.choice(PLACE).format(x=" ".join(one))
    return [Turn(asked, g.relation(one, forth, other))]


Asker = Callable[[random.Random], list[Turn]]
"""Samples one exchange about a given scene."""


def scattered(rng: random.Random) -> tuple[list[Placed], list[Asker]]:
    """Return one to five shapes of few colors and forms, so that counts above one are common."""
    palette, forms = rng.sample(g.COLORS, 2), rng.sample(g.SHAPES, 2)
    cells = _cells(rng, rng.randint(1, g.MAX_COUNT))
    things = [Placed((rng.choice(palette), rng.choice(forms)), x, y) for x, y in cells]
    names = [p.thing for p in things]
    return things, [partial(counting, names), partial(counting, names), partial(presence, names)]


def single(rng: random.Random) -> tuple[list[Placed], list[Asker]]:
    thing, where = rng.choice(g.THINGS), rng.choice(g.POSITIONS)
    return [Placed(thing, *PLACES[where])], [partial(attributes, thing, where)]


def double(rng: random.Random) -> tuple[list[Placed], list[Asker]]:
    """Return two shapes beside or above each other; ask which, and for their relation."""
    one, other = rng.sample(g.THINGS, 2)
    start, end = rng.choice(((0, 2), (0, 1), (1, 2)))
    line = rng.randrange(3)
    if rng.random() < 0.5:
        things = [Placed(one, start, line), Placed(other, end, line)]
        how = ("to the left of", "to the right of")
    else:
        things = [Placed(one, line, start), Placed(other, line, end)]
        how = ("above", "below")
    return things, [partial(relations, one, other, how)]


LISTED = 0.4
"""Share of the longer conversations that list all shapes."""


def picture(rng: random.Random, exchanges: int = 1) -> Asked:
    """Return a picture and `exchanges` exchanges about it; the first suits its layout."""
    scene = rng.choices((scattered, single, double), (2, 1, 1))[0]
    things, askers = scene(rng)
    names = [p.thing for p in things]
    turns = rng.choice(askers)(rng)
    search = [partial(ask, names) for ask in (counting, presence, traits)]
    more = [*askers, *search * 3, *[partial(finding, things)] * 2]
    if exchanges > 1 and rng.random() < LISTED:
        turns += listing(things, rng)
    for _ in range(exchanges - 1):
        turns += rng.choice(more)(rng)
    return _mannered(Asked([things], turns, rng.randrange(1 << 30)), rng)


def _moving(count: int, word: str | None, rng: random.Random) -> tuple[list[list[Placed]], Asker]:
    thing, move = rng.choice(g.THINGS), rng.choice(g.MOVES)
    dx, dy = STEPS[move]
    line = rng.uniform(0.4, 1.6)
    frames = []
    for index in range(count):
        along = 0.1 + 1.8 * index / (count - 1)
        x = along if dx > 0 else 2 - along if dx < 0 else line
        y = along if dy > 0 else 2 - along if dy < 0 else line
        frames.append([Placed(thing, x, y)])

    def ask(rng: random.Random) -> list[Turn]:
        if word and rng.random() < 0.75:
            if rng.random() < 0.4:
                return [Turn(rng.choice(SAID), g.said(word))]
            return [Turn(rng.choice(SAID_WHILE), g.said_while(word, thing, move))]
        if rng.random() < 0.5:
            turns = [Turn(rng.choice(MOVING), g.moves(move))]
        else:
            asked = rng.choice(THING_MOVING).format(x=" ".join(thing))
            turns = [Turn(asked, g.thing_moves(thing, move))]
        if rng.random() < 0.25:
            turns.append(Turn("And what color is it?", g.color(thing[0])))
        return turns

    return frames, ask


def _ordered(count: int, word: str | None, rng: random.Random) -> tuple[list[list[Placed]], Asker]:
    one, other = rng.sample(g.THINGS, 2)
    x, y = rng.uniform(0.3, 1.7), rng.uniform(0.3, 1.7)
    half = count // 2
    frames = [[Placed(one, x, y)]] * half + [[Placed(other, x, y)]] * (count - half)

    def ask(rng: random.Random) -> list[Turn]:
        if word and rng.random() < 0.5:
            return [Turn(rng.choice(SAID), g.said(word))]
        return [Turn(rng.choice(FIRST), g.first(one, other))]

    return frames, ask


def film(
    rng: random.Random, seconds: int = 2, exchanges: int = 1, word: str | None = None
) -> Asked:
    """Return one moving shape, or two shapes in sequence, at two frames per second.

    `word` is the word that is spoken in a video with audio.
    """
    make = _moving if rng.random() < 0.6 else _ordered
    frames, ask = make(seconds * FRAMES_A_SECOND, word, rng)
    names = list(dict.fromkeys(p.thing for frame in frames for p in frame))
    turns = ask(rng)
    for _ in range(exchanges - 1):
        turns += ask(rng) if rng.random() < 0.7 else presence(names, rng)
    return _mannered(Asked(frames, turns, rng.randrange(1 << 30), word), rng)


def _mannered(asked: Asked, rng: random.Random) -> Asked:
    turns = [Turn(with_manner(t.question, rng, typed=True), t.answer) for t in asked.turns]
    return replace(asked, turns=turns)


def belongs(asked: Asked, part: str) -> bool:
    """Return whether a scene belongs to `part`: questions are held out by their sentence.

    Pairs of question and answer are not held out. If "Is there a star?" had only the answer "no" in
    training, the model would learn that answer.
    """
    held = [g.held_out(turn.question) for turn in asked.turns]
    return held[0] if part == "test" else not any(held)


def picture_for(part: str, rng: random.Random, exchanges: int = 1) -> Asked:
    while not belongs(asked := picture(rng, exchanges), part):
        pass
    return asked


def film_for(
    part: str, rng: random.Random, seconds: int = 2, exchanges: int = 1, word: str | None = None
) -> Asked:
    while not belongs(asked := film(rng, seconds, exchanges, word), part):
        pass
    return asked
