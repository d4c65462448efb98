"""A spoken conversation: microphone samples in; captions, speech and turn events out.

The session is one state machine over an engine's conversation. It knows no device, no socket and no
clock: time passes with the samples that it hears and with the playback that is reported to it. A
terminal, a web page or a phone is a thin shell around it.

While the user speaks, finished blocks of the recording are prefilled. After a short pause the turn
is answered speculatively: the reply is held until the turn has ended, and taken back if the voice
goes on. A voice during playback cuts the reply, in both KV caches, to what was heard.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import RLock
from typing import Any

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError
from omni_runtime.events import (
    AudioDelta,
    Event,
    PlaybackUnderrun,
    PresetChosen,
    TextDelta,
    TurnDone,
)
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Text
from omni_runtime.options import ReplyOptions
from omni_runtime.serving.commands import (
    Cancel,
    Command,
    Compose,
    Failed,
    MakeRoom,
    ReadAhead,
    Retract,
    Truncate,
)
from omni_runtime.serving.engine import EngineConversation
from omni_runtime.voice.capture import Capture
from omni_runtime.voice.events import (
    Caption,
    Forgotten,
    Interrupted,
    ReplyFailed,
    SessionEvent,
    Speech,
    State,
    StateChanged,
    TurnTaken,
)
from omni_runtime.voice.reply_progress import ReplyProgress, room_wanted
from omni_runtime.voice.smart_turn import SmartTurn
from omni_runtime.voice.turn_detector import (
    TurnDetector,
    TurnEnded,
    TurnEvent,
    TurnOptions,
    TurnPaused,
    TurnResumed,
    TurnStarted,
)
from omni_runtime.voice.vad import FRAME, SAMPLE_RATE, VoiceActivity

BLOCK_SECONDS = 2.0
"""The audio encoder's block: how often there is something new to prefill."""

ECHO_TAIL = 0.5
"""Seconds after a reply in which a room still echoes it: latency of devices, and reverberation."""


class VoiceSession:
    """One spoken conversation. Thread-safe; events are emitted while its lock is held."""

    def __init__(
        self,
        conversation: EngineConversation,
        emit: Callable[[SessionEvent], object],
        *,
        turns: TurnOptions | None = None,
        reply: ReplyOptions | None = None,
        full_duplex: bool = True,
        hands_free: bool = True,
        read_ahead: bool = True,
        smart_turn: SmartTurn | None = None,
        answers: bool = True,
    ) -> None:
        """`emit` receives all events, from the thread that causes them; it must not block.

        `full_duplex`: the microphone does not hear the reply (headphones or echo cancellation).
        Without it the microphone is ignored during playback. `hands_free` False is push-to-talk.
        `read_ahead` False prefills and answers a turn only when it has ended. `smart_turn` ends a
        turn at its first pause if the sentence is complete; otherwise `turns.end_silence` ends it.
        `answers` False keeps a spoken turn for `respond` instead of answering it.
        """
        self.turns = turns or TurnOptions()
        self.muted = False
        self.key_down = False
        self.full_duplex = full_duplex
        self.hands_free = hands_free
        self.answers = answers
        self.reply_options = reply or ReplyOptions()
        self._read_ahead = read_ahead
        self._smart_turn = smart_turn
        self._conversation = conversation
        self._engine = conversation.engine
        self._emit = emit
        self._lock = RLock()
        self._vad = VoiceActivity()
        self._detector = TurnDetector(self.turns)
        self._capture = Capture()
        self._deaf_until = 0
        self._stream: AudioStream | None = None
        self._stream_start = 0
        self._prefilled = 0.0
        self._ahead: Future[Any] | None = None
        self._snapshot: AudioStream | None = None
        self._reply: ReplyProgress | None = None
        self._speculative: ReplyProgress | None = None
        self._played = 0.0
        self._added: list[ContentPart] = []
        self._image: Image | None = None
        self._state = State.LISTENING
        self._submit(ReadAhead(conversation.id, speech=self._speaks))

    @property
    def state(self) -> State:
        """What the session is doing."""
        return self._state

    @property
    def seconds(self) -> float:
        """Seconds of microphone samples so far."""
        return self._capture.seconds

    @property
    def turn_seconds(self) -> float:
        """Seconds of the turn that is being heard; 0 without one."""
        return 0.0 if self._stream is None else self._stream.seconds

    def set_turns(self, turns: TurnOptions) -> None:
        """Change how turns are taken, from the next frame on."""
        with self._lock:
            self.turns = self._detector.options = turns

    def hear(self, samples: FloatArray) -> None:
        """Take microphone samples, float32 mono (n,) at 16 kHz."""
        with self._lock:
            for frame in self._capture.frames(samples):
                self._hear_frame(frame)

    def played(self, seconds: float) -> None:
        """Report how many seconds of the present reply have been heard by the user."""
        with self._lock:
            self._played = seconds
            if self._reply is not None and self._reply.over(seconds):
                self._end_reply()

    def see(self, image: Image | None) -> None:
        """Show a camera frame; only the newest one goes into a turn."""
        with self._lock:
            self._image = image

    def add(self, *parts: ContentPart) -> None:
        """Add parts to the next turn: text, pictures, files."""
        with self._lock:
            self._added += parts
            self._take_back()

    def take_added(self) -> list[ContentPart]:
        """Take back what was added to the next turn."""
        with self._lock:
            added, self._added = self._added, []
            self._take_back()
            return added

    def say(self, text: str) -> None:
        """Send a typed turn. A reply that is being played is interrupted."""
        with self._lock:
            self.interrupt()
            self._drop_turn()
            self.add(Text(text))
            self.respond()

    def respond(self) -> bool:
        """Answer what was added; False if that is nothing. Interrupts a reply in progress.

        A reply that is complete counts as heard.
        """
        with self._lock:
            if self._reply is not None and self._reply.done:
                self._end_reply()
            self.interrupt()
            if not self._added:
                return False
            self._respond(self._parts(), 0.0, 0.0)
            return True

    def key(self, down: bool) -> None:
        """Push-to-talk: the turn lasts while the key is down. It interrupts a reply."""
        with self._lock:
            if down and not self.key_down:
                self.interrupt()
                self._begin_turn(self._capture.samples)
            elif not down and self.key_down and self._stream is not None:
                self._end_turn(0.0)
            self.key_down = down

    def discard(self) -> None:
        """Forget the sound of a turn that has not ended."""
        with self._lock:
            self.key_down = False
            self._drop_turn()
            if self._reply is None:
                self._enter(State.LISTENING)

    def interrupt(self) -> None:
        """Stop the reply, and cut it to what was heard."""
        with self._lock:
            self._retract()
            reply = self._reply
            if reply is None:
                return
            self._reply = None
            self._engine.interrupt(self._conversation.id)
            try:
                heard = self._cut(reply)
            except OmniError as error:
                self._emit(ReplyFailed(error))
                heard = ""
            self._emit(Interrupted(heard, reply.text))
            self._enter(State.LISTENING)

    def truncate(self, heard_seconds: float) -> str:
        """Cut the last reply to what was heard; a reply in progress is interrupted.

        Returns the text that is left. Raises UsageError where there is no spoken reply.
        """
        with self._lock:
            self._played = min(self._played, heard_seconds)
            self.interrupt()
            return self._engine.call(Truncate(self._conversation.id, heard_seconds))

    def _cut(self, reply: ReplyProgress) -> str:
        """Keep what was heard of a reply: nothing is left of a turn without an answer."""
        number = self._conversation.id
        if not self._speaks and reply.text:
            self._engine.call(Cancel(number))
            return reply.text
        if reply.first_sound is None:
            self._engine.call(Retract(number))
            return ""
        return self._engine.call(Truncate(number, self._played))

    def close(self) -> None:
        """Stop everything and close the conversation."""
        with self._lock:
            self._reply = self._speculative = self._stream = None
            self._conversation.close()

    # The microphone

    def _hear_frame(self, frame: FloatArray) -> None:
        deaf = self.muted or self._hears_itself()
        if self._stream is not None and not deaf:
            self._stream.push(frame)
            self._prefill_blocks(self._stream)
        probability = 0.0 if deaf else float(self._vad.probabilities(frame)[0])
        if self.key_down or not self.hands_free:
            return
        needed = self.turns.interrupt if self._reply is not None else None
        for event in self._detector.push(probability, start=needed):
            self._turn_event(event)

    def _hears_itself(self) -> bool:
        """Half duplex: the reply is being played, or has only just left the room."""
        if self.full_duplex:
            return False
        if self._state is State.SPEAKING:
            self._deaf_until = self._capture.samples + round(ECHO_TAIL * SAMPLE_RATE)
        return self._capture.samples < self._deaf_until

    def _turn_event(self, event: TurnEvent) -> None:
        match event:
            case TurnStarted(frame):
                self._start_or_continue(frame * FRAME)
            case TurnPaused(frame):
                if self._complete():
                    self._end_turn((self._detector.frame - frame) * FRAME / SAMPLE_RATE)
                    self._detector.reset()
                else:
                    self._speculate()
            case TurnResumed():
                self._take_back()
            case TurnEnded(frame):
                if self._stream is not None:
                    self._end_turn((self._detector.frame - frame) * FRAME / SAMPLE_RATE)

    def _complete(self) -> bool:
        """Whether the turn, whose voice has just paused, is a whole sentence."""
        if self._smart_turn is None or self._stream is None:
            return False
        return self._smart_turn.complete(self._capture.since(self._stream_start)[1])

    def _start_or_continue(self, start: int) -> None:
        """A voice began at sample `start`: a new turn, or the last one goes on."""
        reply = self._reply
        if reply is not None and reply.first_sound is None and self._stream is not None:
            stream = self._stream  # nothing was heard of the reply: the user had only paused
            self.interrupt()
            self._stream, self._added = stream, [*reply.asked]
            self._take_back()
            self._enter(State.HEARING)
            return
        self.interrupt()
        self._begin_turn(start - round(self.turns.pre_roll * SAMPLE_RATE))

    def _begin_turn(self, start: int) -> None:
        """Begin a turn with the microphone samples from `start` on, as far as they are kept."""
        model = self._engine.model
        self._stream = model.audio_stream(SAMPLE_RATE)
        self._stream_start, samples = self._capture.since(start)
        self._stream.push(samples)
        self._prefilled = 0.0
        self._snapshot = None
        self._submit(Compose(self._conversation.id, self._parts(self._stream)))
        self._enter(State.HEARING)

    def _parts(self, *sound: AudioStream) -> list[ContentPart]:
        """The turn: what was added, the newest picture, and what the microphone heard."""
        image = [self._image] if self._image is not None else []
        return [*self._added, *image, *(Audio(stream) for stream in sound)]

    def _prefill_blocks(self, stream: AudioStream) -> None:
        """Prefill when another block is final, unless the engine is busy or a pause is near."""
        busy = self._ahead is not None and not self._ahead.done()
        replying = self._reply is not None or self._speculative is not None
        wanted = self._read_ahead and not (replying or busy or self._detector.silent)
        if wanted and stream.seconds - self._prefilled >= BLOCK_SECONDS:
            self._prefilled = stream.seconds // BLOCK_SECONDS * BLOCK_SECONDS
            self._submit(ReadAhead(self._conversation.id, speech=self._speaks))

    def _speculate(self) -> None:
        """Answer the turn as if it had ended, unless the engine has other replies to make."""
        if not self._read_ahead or self._stream is None or self._reply is not None:
            return
        self._snapshot = self._stream.snapshot()
        if self.answers and not self._engine.replying:
            self._speculative = self._start_reply(self._parts(self._snapshot))
        else:
            self._submit(Compose(self._conversation.id, self._parts(self._snapshot)))
            self._submit(ReadAhead(self._conversation.id, more=False, speech=self._speaks))

    def _take_back(self) -> None:
        """The turn goes on: the message is the running stream again."""
        self._retract()
        if self._stream is not None and self._reply is None:
            self._snapshot = None
            self._submit(Compose(self._conversation.id, self._parts(self._stream)))

    def _retract(self) -> None:
        """Drop the speculative reply; its prompt stays prefilled."""
        if self._speculative is not None:
            self._speculative = None
            self._engine.interrupt(self._conversation.id)
            self._submit(Retract(self._conversation.id))

    def _end_turn(self, silence: float) -> None:
        """Send the turn; its voice ended `silence` seconds ago."""
        assert self._stream is not None
        sound = self._snapshot or self._stream.snapshot()
        voice = max(0.0, (self._capture.samples - self._stream_start) / SAMPLE_RATE - silence)
        self._emit(TurnTaken(self._stream_start / SAMPLE_RATE, self.seconds - silence))
        if self.answers:
            self._respond(self._parts(sound), silence, voice)
        else:
            self._added.append(Audio(sound))
            self._stream = self._snapshot = None
            self._enter(State.LISTENING)

    def _drop_turn(self) -> None:
        self._retract()
        self._stream = self._snapshot = None
        self._detector.reset()
        self._submit(Compose(self._conversation.id))

    # The reply

    @property
    def _speaks(self) -> bool:
        return self.reply_options.speech is not None

    def _respond(self, parts: list[ContentPart], silence: float, voice: float) -> None:
        """Answer a turn; a speculative reply to it becomes the reply."""
        reply, self._speculative = self._speculative or self._start_reply(parts), None
        self._reply, self._played = reply, 0.0
        self._added = []
        if any(part is self._image for part in reply.asked):
            self._image = None
        self._enter(State.THINKING)
        for event in reply.decide(silence, voice):
            self._reply_event(reply, event)

    def _start_reply(self, parts: list[ContentPart]) -> ReplyProgress:
        self._submit(Compose(self._conversation.id, parts))
        reply = ReplyProgress(asked=self._parts())
        future = self._engine.submit_response(
            self._conversation.id,
            self.reply_options,
            lambda event: self._engine_event(reply, event.event),
        )
        future.add_done_callback(lambda done: self._check(reply, done))
        return reply

    @contextmanager
    def _while_current(self, reply: ReplyProgress) -> Generator[bool]:
        """Hold the lock on the engine's thread; False once the reply was cut.

        Whoever cuts a reply holds the lock while the engine carries that out. The engine's thread
        must not wait for the lock then.
        """
        while not self._lock.acquire(timeout=0.01):
            if not self._current(reply):
                yield False
                return
        try:
            yield self._current(reply)
        finally:
            self._lock.release()

    def _current(self, reply: ReplyProgress) -> bool:
        return reply is self._reply or reply is self._speculative

    def _check(self, reply: ReplyProgress, done: Future[int]) -> None:
        """Report an error that kept the reply from starting."""
        error = done.exception()
        if error is not None:
            self._engine_event(reply, Failed(error))

    def _engine_event(self, reply: ReplyProgress, event: Event | Failed) -> None:
        """On the engine's thread. Late events of a reply that was cut are dropped."""
        with self._while_current(reply) as current:
            if current and reply is self._speculative:
                reply.held.append(event)
            elif current:
                self._reply_event(reply, event)

    def _reply_event(self, reply: ReplyProgress, event: Event | Failed) -> None:
        match event:
            case TextDelta(text):
                reply.text += text
                self._emit(Caption(text))
            case AudioDelta() as audio:
                if reply.add(audio):
                    self._stream = None
                    self._enter(State.SPEAKING)
                self._emit(Speech(audio.samples, audio.rate, audio.first_sample))
            case PresetChosen() | PlaybackUnderrun() as note:
                self._emit(note)
            case TurnDone() as done:
                reply.done = True
                self._emit(reply.figures(done))
                self._keep_room(done)
                if not reply.samples:
                    self._end_reply()
            case Failed(error):
                self._fail(error)

    def _keep_room(self, done: TurnDone) -> None:
        """Forget the oldest turns while the reply is being played, so that the talk can go on."""
        if room := room_wanted(done):
            future = self._engine.submit(MakeRoom(self._conversation.id, room))
            future.add_done_callback(self._forgotten)

    def _forgotten(self, done: Future[int]) -> None:
        """On the engine's thread. An error comes again in the next turn."""
        if done.exception() is None and done.result():
            self._emit(Forgotten(done.result()))

    def _end_reply(self) -> None:
        self._reply = None
        if self._state is not State.HEARING:
            self._stream = None
            self._enter(State.LISTENING)

    def _fail(self, error: BaseException) -> None:
        self._reply = self._stream = None
        self._emit(ReplyFailed(error))
        self._enter(State.LISTENING)

    def _enter(self, state: State) -> None:
        if state is not self._state:
            self._state = state
            self._emit(StateChanged(state, self.seconds))

    def _submit(self, command: Command) -> None:
        """Queue a command. An error of a prefill is dropped: the response meets it again."""
        self._ahead = self._engine.submit(command)
