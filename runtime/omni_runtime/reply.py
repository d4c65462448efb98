"""One reply as a stream: Thinker, Talker, DiT and vocoder take turns in a single generator.

Each sampled token is shown before the Thinker reads it. For each token that was read the Talker
decodes one code, and whenever enough codes are there the DiT and the vocoder synthesize a chunk of
speech. So speech starts while the text is still being generated. Nothing runs between two steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np

from omni_runtime.arrays import FloatArray
from omni_runtime.context import Context
from omni_runtime.engine.chunk_scheduler import ChunkScheduler
from omni_runtime.engine.code2wav import Code2Wav
from omni_runtime.engine.dit import seeded_noise
from omni_runtime.engine.sampling import sample
from omni_runtime.engine.talker import CodecStream, TalkerSettings
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
from omni_runtime.timeline import SpeechTimeline, SpokenReply

AudioEvent = AudioDelta | PresetChosen | PlaybackUnderrun
ReplyEvent = TextDelta | AudioEvent

TEXT_STREAM, TALKER_STREAM = 0, 1
"""Independent random streams of one seed, so that speech never changes the text."""


class WorkClock:
    """Seconds of work since a turn began: the time a caller takes between events is left out."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._paused_at: float | None = None

    def restart(self) -> None:
        """Begin at 0."""
        self._started, self._paused_at = perf_counter(), None

    def __call__(self) -> float:
        """Seconds of work so far."""
        now = perf_counter() if self._paused_at is None else self._paused_at
        return now - self._started

    def pause(self) -> None:
        """Stop the clock: an event is with the caller."""
        self._paused_at = perf_counter()

    def resume(self) -> None:
        """Go on: the caller asked for the next event."""
        if self._paused_at is not None:
            self._started += perf_counter() - self._paused_at
            self._paused_at = None


@dataclass
class ReplyState:
    """What has become of a reply so far; true at every moment, also when it is stopped."""

    tokens: list[int] = field(default_factory=list[int])
    text: str = ""
    text_ends: list[int] = field(default_factory=list[int])
    """For each token the length of the text once it was decoded, in characters."""
    finish_reason: FinishReason = "interrupted"
    first_text: float | None = None
    last_text: float | None = None
    first_audio: float | None = None
    codes: int = 0


class Reply:
    """Streams the reply to a prompt at the end of a context."""

    def __init__(
        self,
        model: Model,
        options: ReplyOptions,
        speech: ResolvedSpeechOptions | None,
        context: Context,
        clock: WorkClock,
    ) -> None:
        self.state = ReplyState()
        rate = model.config.speech.vocoder.sample_rate if model.config.speech else 1
        self.timeline = SpeechTimeline(rate)
        self._model = model
        self._options = options
        self._speech_options = speech
        self._context = context
        self._start, self._first_position = context.mark(), context.text_position
        self._clock = clock
        self._text_random = np.random.default_rng([options.seed, TEXT_STREAM])
        self._decoder = StreamDecoder(model.tokenizer)
        given = None if options.text is None else model.tokenizer.encode(options.text)
        self._given = None if given is None else iter(given)
        self._speech: CodecStream | None = None
        self._sound: Code2Wav | None = None
        self._scheduler: ChunkScheduler | None = None
        self._underrun_reported = False
        self._reason: FinishReason = "interrupted"

    @property
    def speech_complete(self) -> bool | None:
        """Whether the Talker ended by itself; None when it did not speak."""
        return None if self._speech is None else self._speech.complete

    @property
    def spoken(self) -> SpokenReply | None:
        """What is needed to cut the reply to what was heard; None when nothing is spoken."""
        if self._speech_options is None:
            return None
        return SpokenReply(
            self.state.text,
            tuple(self.state.text_ends),
            self.timeline,
            bool(self.speech_complete),
            self._speech_options.voice,
        )

    def steps(self, logits: FloatArray) -> Iterator[ReplyEvent | None]:
        """The reply after a prefill that ended with `logits`; None where a step had no event."""
        while (token := self._next_token(logits)) is not None:
            if delta := self._decode(token):
                yield delta
            output = self._context.forward()
            logits = output.logits
            yield from self._speak(output.talker_rows[0])
            yield None
        if delta := self._decoder.finish():
            yield self._text(delta)
        if self._speech is not None and self._sound is not None:
            self._speech.end_text()
            while self._speech.ready:
                yield from self._next_code(self._speech, self._sound)
                yield None
            yield from self._audio(self._sound.finish())
        self.state.finish_reason = self._reason

    def _next_token(self, logits: FloatArray) -> int | None:
        """Sample the next token; None, with the reason noted, when the text has ended."""
        if len(self.state.tokens) >= self._options.max_tokens:
            self._reason = "length"
            return None
        if self._context.room == 0:
            self._reason = "context"
            return None
        if self._given is not None:
            token = next(self._given, None)
            self._reason = "stop" if token is None else self._reason
            return token
        seen = self._context.ids if self._options.sampling.repetition_penalty != 1.0 else ()
        token = sample(logits, self._options.sampling, seen, self._text_random)
        if token in self._model.config.thinker.tokens.eos:
            self._reason = "stop"
            return None
        return token

    def _decode(self, token: int) -> TextDelta | None:
        """Append a token to the context and to the text."""
        self._context.push(token)
        self.state.tokens.append(token)
        delta = self._decoder.push(token)
        event = self._text(delta) if delta else None
        self.state.text_ends.append(len(self.state.text))
        return event

    def _speak(self, row: FloatArray) -> Iterator[AudioEvent]:
        if self._speech_options is None:
            return
        if self._speech is None or self._sound is None:
            if self._speech_options.preset == AUTO:
                yield self._choose_preset(self._speech_options)
            speech, sound = self._begin_speech(self._speech_options, row)
        else:
            speech, sound = self._speech, self._sound
            speech.feed(row)
        if speech.ready:
            yield from self._next_code(speech, sound)

    def _choose_preset(self, options: ResolvedSpeechOptions) -> PresetChosen:
        speed, nfe = self._model.synthesis_speed, self._model.nfe
        preset = speed.affordable(nfe)
        self._speech_options = replace(options, preset=preset)
        realtime = {name: speed.realtime(count) for name, count in nfe.items()}
        return PresetChosen(preset, realtime, self._clock())

    def _begin_speech(
        self, options: ResolvedSpeechOptions, first_row: FloatArray
    ) -> tuple[CodecStream, Code2Wav]:
        model, seed = self._model, self._options.seed
        noise = options.noise or seeded_noise(seed, model.speech.dit)
        self._scheduler = model.chunk_scheduler(options.chunks, self._clock)
        self._sound = model.code2wav(options.voice, options.preset, noise, self._scheduler)
        self._speech = model.talker.start(
            self._context.begin_speech(),
            model.speech.voices[options.voice],
            first_row,
            self._first_position,
            TalkerSettings(
                options.sampling, options.max_codes, np.random.default_rng([seed, TALKER_STREAM])
            ),
            self._start.position,
        )
        return self._speech, self._sound

    def _next_code(self, speech: CodecStream, sound: Code2Wav) -> Iterator[AudioEvent]:
        code = speech.step()
        if code is not None:
            self.state.codes += 1
            yield from self._audio(sound.push(code))
            yield from self._underrun()

    def _text(self, delta: str) -> TextDelta:
        seconds = self._clock()
        self.state.text += delta
        self.state.last_text = seconds
        if self.state.first_text is None:
            self.state.first_text = seconds
        return TextDelta(delta, seconds)

    def _audio(self, samples: FloatArray | None) -> Iterator[AudioDelta]:
        if samples is None or not len(samples):
            return
        seconds, state = self._clock(), self.state
        if state.first_audio is None:
            state.first_audio = seconds
        first = self.timeline.samples
        self.timeline.add(samples)
        fed = min(state.codes, len(state.text_ends))  # each code consumed one row of text
        position = state.text_ends[fed - 1]
        yield AudioDelta(samples, self.timeline.sample_rate, seconds, first, position)

    def _underrun(self) -> Iterator[PlaybackUnderrun]:
        """Once, when a listener has heard that this machine cannot keep up."""
        if self._scheduler is None or self._speech_options is None or self._underrun_reported:
            return
        found = self._scheduler.underrun
        if found is None:
            return
        self._underrun_reported = True
        preset = self._speech_options.preset
        faster = self._model.faster_presets(preset)
        yield PlaybackUnderrun(found.realtime, found.codes, preset, faster, self._clock())

    def timings(self, prefill: float, prompt_tokens: int, cached_tokens: int) -> Timings:
        """The numbers of the reply so far."""
        state = self.state
        return Timings(
            total=self._clock(),
            prefill=prefill,
            first_text=state.first_text,
            first_audio=state.first_audio,
            last_text=state.last_text,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            reply_tokens=len(state.tokens),
            codes=state.codes,
            speech=self.timeline.samples / self.timeline.sample_rate,
        )
