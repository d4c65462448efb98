"""One reply as a stream: Thinker, Talker, DiT and vocoder take turns in a single generator.

For each token of text the Talker draws one code (it can't do more: each code needs the next
row), and whenever enough codes are there the DiT and the vocoder make sound of them. So speech
starts while text is still being written. Nothing runs but while the caller asks for an event:
to stop asking is to stop all work.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.engine.chunk_scheduler import ChunkScheduler
from omni_runtime.engine.code2wav import Code2Wav
from omni_runtime.engine.dit import seeded_noise
from omni_runtime.engine.kv_cache import KVCache
from omni_runtime.engine.sampling import sample
from omni_runtime.engine.talker import CodecStream, TalkerSettings
from omni_runtime.engine.thinker import ThinkerOutput
from omni_runtime.events import (
    AudioDelta,
    FinishReason,
    PlaybackUnderrun,
    PresetChosen,
    TextDelta,
    Timings,
)
from omni_runtime.inputs.tokenizer import StreamDecoder
from omni_runtime.model import Model
from omni_runtime.options import AUTO, ReplyOptions, ResolvedSpeechOptions

AudioEvent = AudioDelta | PresetChosen | PlaybackUnderrun
ReplyEvent = TextDelta | AudioEvent

TEXT_STREAM, TALKER_STREAM = 0, 1
"""Independent random streams of one seed, so that speech never changes the text."""


@dataclass
class ReplyState:
    """What became of a reply so far; true at every moment, also when it is stopped."""

    tokens: list[int] = field(default_factory=list[int])
    rows: list[FloatArray] = field(default_factory=list[FloatArray])
    text: str = ""
    finish_reason: FinishReason = "interrupted"
    first_text: float | None = None
    last_text: float | None = None
    first_audio: float | None = None
    codes: int = 0
    samples: int = 0


class Reply:
    """Streams the reply to a prompt that is already in the caches."""

    def __init__(
        self,
        model: Model,
        options: ReplyOptions,
        speech: ResolvedSpeechOptions | None,
        cache: KVCache,
        talker_cache: KVCache | None,
        position: int,
        started: float,
    ) -> None:
        """`position` is that of the reply's first token, `started` when the turn began."""
        self.state = ReplyState()
        self._model = model
        self._options = options
        self._speech_options = speech
        self._cache = cache
        self._talker_cache = talker_cache
        self._position = position
        self._started = started
        self._text_random = np.random.default_rng([options.seed, TEXT_STREAM])
        self._decoder = StreamDecoder(model.tokenizer)
        self._speech: CodecStream | None = None
        self._sound: Code2Wav | None = None
        self._scheduler: ChunkScheduler | None = None
        self._slow_told = False
        self._idle = 0.0  # seconds for which nobody asked for more
        self._reason: FinishReason = "interrupted"

    @property
    def speech_complete(self) -> bool | None:
        """Whether the Talker ended by itself; None when it did not speak."""
        return None if self._speech is None else self._speech.complete

    @property
    def position(self) -> int:
        """Position of the token that would follow the reply."""
        return self._position + len(self.state.tokens)

    def stream(self, logits: FloatArray) -> Iterator[ReplyEvent]:
        """The reply after a prefill that ended with `logits`."""
        for event in self._events(logits):
            left = perf_counter()
            yield event
            self._idle += perf_counter() - left

    def _events(self, logits: FloatArray) -> Iterator[ReplyEvent]:
        state = self.state
        while (token := self._next_token(logits)) is not None:
            output = self._think(token)
            if delta := self._decoder.push(token):
                yield self._text(delta)
            logits = output.logits
            yield from self._speak(output.talker_rows[0])
        if delta := self._decoder.finish():
            yield self._text(delta)
        if self._speech is not None and self._sound is not None:
            self._speech.end_text()
            while self._speech.ready:
                yield from self._next_code(self._speech, self._sound)
            yield from self._audio(self._sound.finish())
        state.finish_reason = self._reason

    def _next_token(self, logits: FloatArray) -> int | None:
        """The next token of the text, or None, with the reason noted, when it has ended."""
        if len(self.state.tokens) >= self._options.max_tokens:
            self._reason = "length"
            return None
        if self._cache.room == 0:
            self._reason = "context"
            return None
        token = sample(logits, self._options.sampling, self.state.tokens, self._text_random)
        if token in self._model.config.thinker.tokens.eos:
            self._reason = "stop"
            return None
        return token

    def _think(self, token: int) -> ThinkerOutput:
        output = self._model.thinker.step(self._cache, token, self.position)
        self.state.rows.append(output.talker_rows)
        self.state.tokens.append(token)  # last: whoever interrupts here finds a row for each token
        return output

    def _speak(self, row: FloatArray) -> Iterator[AudioEvent]:
        if self._speech_options is None:
            return
        if self._speech is None or self._sound is None:
            if self._speech_options.preset == AUTO:
                yield self._choose_preset(self._speech_options)
            self._begin_speech(self._speech_options, row)
            return
        self._speech.feed(row)
        if self._speech.ready:
            yield from self._next_code(self._speech, self._sound)

    def _choose_preset(self, options: ResolvedSpeechOptions) -> PresetChosen:
        speed, nfe = self._model.synthesis_speed, self._model.nfe
        preset = speed.affordable(nfe)
        self._speech_options = replace(options, preset=preset)
        realtime = {name: speed.realtime(count) for name, count in nfe.items()}
        return PresetChosen(preset, realtime, self._elapsed())

    def _begin_speech(self, options: ResolvedSpeechOptions, first_row: FloatArray) -> None:
        model, seed = self._model, self._options.seed
        assert self._talker_cache is not None
        noise = options.noise or seeded_noise(seed, model.speech.dit)
        # What the caller does between two events is no work: it must not look like a slow machine.
        self._scheduler = model.chunk_scheduler(options.chunks, lambda: perf_counter() - self._idle)
        self._sound = model.code2wav(options.voice, options.preset, noise, self._scheduler)
        self._speech = model.talker.start(
            self._talker_cache,
            model.speech.voices[options.voice],
            first_row,
            self._position,
            TalkerSettings(
                options.sampling, options.max_codes, np.random.default_rng([seed, TALKER_STREAM])
            ),
        )

    def _next_code(self, speech: CodecStream, sound: Code2Wav) -> Iterator[AudioEvent]:
        code = speech.step()
        if code is not None:
            self.state.codes += 1
            yield from self._audio(sound.push(code))
            yield from self._slow()

    def _text(self, delta: str) -> TextDelta:
        seconds = self._elapsed()
        self.state.text += delta
        self.state.last_text = seconds
        if self.state.first_text is None:
            self.state.first_text = seconds
        return TextDelta(delta, seconds)

    def _audio(self, samples: FloatArray | None) -> Iterator[AudioDelta]:
        if samples is None or not len(samples):
            return
        seconds = self._elapsed()
        if self.state.first_audio is None:
            self.state.first_audio = seconds
        self.state.samples += len(samples)
        yield AudioDelta(samples, self._model.speech.vocoder.sample_rate, seconds)

    def _slow(self) -> Iterator[PlaybackUnderrun]:
        """Once, when a listener has heard that this machine can't keep up."""
        slow = self._scheduler.slow if self._scheduler is not None and not self._slow_told else None
        if slow is None or self._speech_options is None:
            return
        self._slow_told = True
        preset = self._speech_options.preset
        faster = self._model.faster_presets(preset)
        yield PlaybackUnderrun(slow.realtime, slow.codes, preset, faster, self._elapsed())

    def _elapsed(self) -> float:
        return perf_counter() - self._started

    def timings(self, prefill: float, prompt_tokens: int) -> Timings:
        """The numbers of the reply so far."""
        state = self.state
        rate = self._model.config.speech.vocoder.sample_rate if self._model.config.speech else 1
        return Timings(
            total=self._elapsed(),
            prefill=prefill,
            first_text=state.first_text,
            first_audio=state.first_audio,
            last_text=state.last_text,
            prompt_tokens=prompt_tokens,
            reply_tokens=len(state.tokens),
            codes=state.codes,
            speech=state.samples / rate,
        )
