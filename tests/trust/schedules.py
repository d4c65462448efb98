"""Random schedules of the public API on several threads: each conversation is what it is alone.

    python -m tests.trust.schedules [BUNDLE] --runs 1000 [--seed N]

A script is a list of calls on one conversation. A schedule runs several scripts at once: a seeded
scheduler decides which call is next; any thread makes it, and up to two calls of different
conversations overlap. The results are compared with those of the same script alone. One line a
fault, with the seed that repeats the schedule.
"""

import random
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from tests.trust.campaign import Campaign, bundle_argument

from omni_runtime.conversation import Conversation
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.events import AudioDelta, Event, TextDelta, TurnDone
from omni_runtime.inputs.messages import Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions
from omni_runtime.serving.engine import Engine

PROMPTS = ("Hello", "Tell me more about it, and why.", "Seven plus five?", "x")
SCRIPTS, THREADS, SLOW = 60, 4, 20


class Player:
    """Carries out the calls of a script on a conversation, and notes what each gave."""

    def __init__(self, model: Model, script: int) -> None:
        self.model = model
        self.talk = Conversation(model)
        self.response: Any = None
        self.calls = calls(script)
        self.heard: list[object] = []

    def call(self, name: str, number: int) -> None:
        """Make one call; an OmniError is a result, too."""
        try:
            self.heard.append((name, getattr(self, name)(number)))
        except StopIteration:
            self.heard.append((name, "end"))
        except OmniError as error:
            self.heard.append((name, error.message))

    def send(self, number: int) -> None:
        self.response = self.talk.send(PROMPTS[number % len(PROMPTS)], options(number))

    def regenerate(self, number: int) -> None:
        self.response = self.talk.regenerate(options(number))

    def step(self, number: int) -> object:
        return None if self.response is None else said(next(self.response))

    def finish(self, number: int) -> object:
        return None if self.response is None else [said(event) for event in self.response]

    def cancel(self, number: int) -> None:
        self.talk.cancel()

    def undo(self, number: int) -> None:
        self.talk.undo()

    def truncate(self, number: int) -> str:
        return self.talk.truncate(number / 20)

    def read_ahead(self, number: int) -> None:
        self.talk.read_ahead([Text(PROMPTS[number % len(PROMPTS)])])

    def make_room(self, number: int) -> object:
        return self.talk.make_room(10 * number)

    def fork(self, number: int) -> None:
        self.talk = self.talk.fork()

    def messages(self, number: int) -> object:
        return [repr(message) for message in self.talk.messages]


def options(number: int) -> ReplyOptions:
    """Return options that are short; every third reply is spoken."""
    speech = SpeechOptions(preset="fast", max_codes=20) if number % 3 == 0 else None
    sampling = Sampling(temperature=0.5 * (number % 2))
    return ReplyOptions(speech, sampling=sampling, seed=number, max_tokens=1 + number % 7)


def said(event: Event) -> object:
    """Return what must not depend on the schedule."""
    match event:
        case TextDelta(text):
            return text
        case AudioDelta(samples):
            return len(samples), float(abs(samples).sum())
        case TurnDone():
            return event.text, event.finish_reason, event.context_used
        case _:
            return type(event).__name__


def calls(script: int) -> list[tuple[str, int]]:
    """Return the calls of a script."""
    r = random.Random(script)
    names = ("send", "step", "step", "step", "finish", "finish", "cancel", "undo", "truncate",
             "regenerate", "read_ahead", "make_room", "fork")  # fmt: skip
    made = [("send", r.randrange(100)), ("step", 0)]
    made += [(r.choice(names), r.randrange(100)) for _ in range(r.randint(3, 12))]
    return [*made, ("finish", 0), ("messages", 0)]


def alone(model: Model, script: int) -> list[object]:
    """Return what the calls give with nothing beside them."""
    player = Player(model, script)
    for call in player.calls:
        player.call(*call)
    return player.heard


def on_conversations(model: Model, expected: Callable[[int], list[object]], seed: int) -> str:
    """Run one schedule of conversations on one model. Return the fault, or nothing."""
    r = random.Random(seed)
    scripts = [r.randrange(SCRIPTS) for _ in range(r.randint(2, 4))]
    players = [Player(model, script) for script in scripts]
    left = [list(player.calls) for player in players]
    running: dict[int, Future[None]] = {}
    with ThreadPoolExecutor(THREADS) as threads:  # any of them makes any call
        while any(left) or running:
            free = [i for i, mine in enumerate(left) if mine and i not in running]
            if free and len(running) < 2 and r.random() < 0.8:
                i = r.choice(free)
                running[i] = threads.submit(players[i].call, *left[i].pop(0))
            elif running:
                running.pop(r.choice(list(running))).result(SLOW)
    for script, player in zip(scripts, players, strict=True):
        if player.heard != (wanted := expected(script)):
            pairs = zip(player.heard, wanted, strict=True)
            where = next(i for i, (one, other) in enumerate(pairs) if one != other)
            return f"script {script}, call {where}: {player.heard[where]!r} != {wanted[where]!r}"
    return ""


def on_engine(model: Model, seed: int) -> str:
    """Run one schedule on an engine: replies that end are exact, cancelled ones a beginning."""
    r = random.Random(seed)
    plans = [(r.randrange(100), r.random() < 0.4, r.randrange(6)) for _ in range(r.randint(2, 5))]
    wanted = []
    for number, _, _ in plans:
        events = list(Conversation(model).send(PROMPTS[number % len(PROMPTS)], options(number)))
        wanted.append(events[-1].text)

    def talk(plan: tuple[int, bool, int]) -> str:
        number, cancels, steps = plan
        conversation = engine.open()
        prompt = Text(PROMPTS[number % len(PROMPTS)])
        response = conversation.send(prompt, options=options(number))
        events = [next(response, None) for _ in range(steps)]
        if cancels:
            threads.submit(response.cancel).result(SLOW)
        events += response
        (text,) = (event.text for event in events if isinstance(event, TurnDone))
        (conversation.fork() if steps % 2 else conversation).close()
        return text

    with Engine(model) as engine, ThreadPoolExecutor(2 * len(plans)) as threads:
        futures = [threads.submit(talk, plan) for plan in plans]
        found = [future.result(SLOW) for future in futures]
    for (number, cancels, _), text, full in zip(plans, found, wanted, strict=True):
        if not (full.startswith(text) if cancels else text == full):
            return f"options {number}: {text!r} instead of {full!r}"
    return ""


def check(model: Model, seed: int, expected: Callable[[int], list[object]]) -> str:
    """Run schedule `seed`. Return the fault, or nothing."""
    return on_engine(model, seed) if seed % 4 == 3 else on_conversations(model, expected, seed)


def main() -> int:
    """Run, print the faults, and count."""
    campaign = Campaign("schedules", __doc__, bundle_argument, runs=1000)
    model = Model(campaign.options.bundle, SessionOptions(threads=1))
    expected = cache(lambda script: alone(model, script))
    for seed in campaign:
        try:
            fault = check(model, seed, expected)
        except Exception as error:  # also a call that did not return
            fault = f"{type(error).__name__}: {error}"
        campaign.note("wrong" if fault else "right", fault)
    return campaign.result()


if __name__ == "__main__":
    sys.exit(main())
