"""Benchmarks of whole replies: time to first text and first audio, real-time factor."""

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
"""Seconds. Replies of random weights rarely end by themselves."""


def typed() -> list[ContentPart]:
    """Return a text prompt."""
    return [Text(QUESTION)]


def spoken(model: Model) -> list[ContentPart]:
    """Return a prompt of `SPOKEN_SECONDS` of noise; the time does not depend on its content."""
    assert model.config.audio is not None
    rate = model.config.audio.sample_rate
    noise = np.random.default_rng(0).normal(0, 0.1, SPOKEN_SECONDS * rate)
    return [Audio((noise.astype(np.float32), rate))]


def prompts(model: Model) -> Iterator[tuple[str, list[ContentPart]]]:
    """Yield the prompts that this bundle accepts, with a name."""
    yield "typed", typed()
    if model.config.audio is not None:
        yield f"spoken {SPOKEN_SECONDS} s", spoken(model)


def scenarios(model: Model) -> Iterator[tuple[str, list[ContentPart], bool]]:
    """Yield (name, prompt, live). A live prompt is streamed and prefilled while it is recorded."""
    for name, parts in prompts(model):
        yield name, parts, False
        if isinstance(parts[-1], Audio):
            yield f"{name}, streamed", parts, True


def options(model: Model, preset: str | None = None) -> ReplyOptions:
    """Return the options of a short reply; `preset` None is the bundle's default."""
    if model.config.speech is None:
        return ReplyOptions(speech=None, max_tokens=MAX_TOKENS)
    codes = int(MAX_SPEECH * model.codes_per_second)
    speech = SpeechOptions(preset=preset, max_codes=codes, chunks="adaptive")
    return ReplyOptions(speech, max_tokens=MAX_TOKENS)


def ask(
    model: Model, parts: Sequence[ContentPart], *, live: bool = False, preset: str | None = None
) -> Timings:
    """Return the timings of one reply in a new conversation, from the end of the prompt."""
    conversation, wanted = Conversation(model), options(model, preset)
    if live:
        parts = _listen(conversation, parts)
    *_, done = conversation.send(parts, wanted)
    assert isinstance(done, TurnDone)
    return done.timings


def _listen(conversation: Conversation, parts: Sequence[ContentPart]) -> list[ContentPart]:
    """Stream the prompt in real time and prefill it meanwhile. Return it with the stream."""
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
    """Latency and speed of a reply to each prompt, with all graphs loaded."""
    for name, parts, live in scenarios(model):
        limits = f"at most {MAX_TOKENS} tokens"
        quantities = [Quantity(f"first text, {name}", "s", False, limits)]
        if model.config.speech is not None:
            limits = (
                f"{limits} and {MAX_SPEECH} s of speech, {preset or model.speech.default_preset}"
            )
            quantities += [
                Quantity(f"first audio, {name}", "s", False, limits),
                Quantity(
                    f"real-time factor, {name}", "x", True, "seconds of speech per second of work"
                ),
            ]

        def run(
            parts: list[ContentPart] = parts, live: bool = live, count: int = len(quantities)
        ) -> Sequence[float | None]:
            timings = ask(model, parts, live=live, preset=preset)
            return [timings.first_text, timings.first_audio, _realtime_factor(timings)][:count]

        yield BenchCase(tuple(quantities), run)


def _realtime_factor(timings: Timings) -> float | None:
    """Return the real-time factor of the whole reply, prefill included."""
    return timings.speech / timings.total if timings.speech else None
