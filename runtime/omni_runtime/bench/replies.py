"""Whole replies, as a user waits for them: first text, first sound, speech against real time."""

from collections.abc import Iterator, Sequence
from time import perf_counter, sleep

import numpy as np

from omni_runtime.bench.rows import BenchCase, Quantity
from omni_runtime.conversation import Conversation
from omni_runtime.events import Timings, TurnDone
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, ContentPart, Text
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

QUESTION = "Hello! Who are you, and what can you do?"
SPOKEN_SECONDS = 4
MAX_TOKENS = 48
MAX_SPEECH = 10
"""Seconds: bounds what random weights say, which seldom find an end."""


def typed() -> list[ContentPart]:
    """A question in writing."""
    return [Text(QUESTION)]


def spoken(model: Model) -> list[ContentPart]:
    """`SPOKEN_SECONDS` of noise: how long they take does not depend on what is heard in them."""
    assert model.config.audio is not None
    rate = model.config.audio.sample_rate
    noise = np.random.default_rng(0).normal(0, 0.1, SPOKEN_SECONDS * rate)
    return [Audio((noise.astype(np.float32), rate))]


def questions(model: Model) -> Iterator[tuple[str, list[ContentPart]]]:
    """What this bundle can be asked."""
    yield "typed", typed()
    if model.config.audio is not None:
        yield f"spoken {SPOKEN_SECONDS} s", spoken(model)


def ways(model: Model) -> Iterator[tuple[str, list[ContentPart], bool]]:
    """The questions, and whether they are heard while they are being spoken."""
    for name, parts in questions(model):
        yield name, parts, False
        if isinstance(parts[-1], Audio):
            yield f"{name}, heard live", parts, True


def options(model: Model, preset: str | None = None) -> ReplyOptions:
    """The same short reply every time; `preset` None is the bundle's default."""
    if model.config.speech is None:
        return ReplyOptions(speech=None, max_tokens=MAX_TOKENS)
    codes = int(MAX_SPEECH * model.codes_per_second)
    speech = SpeechOptions(preset=preset, max_codes=codes, chunks="adaptive")
    return ReplyOptions(speech, max_tokens=MAX_TOKENS)


def ask(
    model: Model, parts: Sequence[ContentPart], *, live: bool = False, preset: str | None = None
) -> Timings:
    """The numbers of one reply in a conversation of its own, from the end of the question on."""
    conversation, wanted = Conversation(model), options(model, preset)
    if live:
        parts = _listen(conversation, parts)
    *_, done = conversation.send(parts, wanted)
    assert isinstance(done, TurnDone)
    return done.timings


def _listen(conversation: Conversation, parts: Sequence[ContentPart]) -> list[ContentPart]:
    """Stream the question in real time and prefill it meanwhile; return it with the stream."""
    *before, last = parts
    config = conversation.model.config
    assert config.audio is not None and isinstance(last, Audio) and isinstance(last.source, tuple)
    samples, rate = last.source
    stream = AudioStream(config.audio, rate)
    streamed = [*before, Audio(stream)]
    speech = config.speech is not None
    conversation.read_ahead(before, speech=speech)
    started = perf_counter()
    for second in range(1, SPOKEN_SECONDS + 1):
        sleep(max(0.0, started + second - perf_counter()))
        stream.push(samples[(second - 1) * rate : second * rate])
        if second < SPOKEN_SECONDS:
            conversation.read_ahead(streamed, more=True, speech=speech)
    stream.finish()
    return streamed


def reply(model: Model, preset: str | None = None) -> Iterator[BenchCase]:
    """A reply to each kind of question, everything loaded."""
    for name, parts, live in ways(model):
        limits = f"at most {MAX_TOKENS} tokens"
        quantities = [Quantity(f"first text, {name}", "s", False, limits)]
        if model.config.speech is not None:
            limits = (
                f"{limits} and {MAX_SPEECH} s of speech, {preset or model.speech.default_preset}"
            )
            quantities += [
                Quantity(f"first sound, {name}", "s", False, limits),
                Quantity(f"real time, {name}", "x", True, "seconds of speech a second of work"),
            ]

        def run(
            parts: list[ContentPart] = parts, live: bool = live, count: int = len(quantities)
        ) -> Sequence[float | None]:
            timings = ask(model, parts, live=live, preset=preset)
            return [timings.first_text, timings.first_audio, _real_time(timings)][:count]

        yield BenchCase(tuple(quantities), run)


def _real_time(timings: Timings) -> float | None:
    """Of the whole reply, from the question to the last sound."""
    return timings.speech / timings.total if timings.speech else None
