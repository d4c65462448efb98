"""A spoken conversation: microphone samples in; captions, speech and turn events out.

The session is one state machine over an engine's conversation. It knows no device, no socket and no
clock: time passes with the samples that it hears and with the playback that is reported to it. A
terminal, a web page or a phone is a thin shell around it.

While the user speaks, finished blocks of the recording are prefilled. After a short pause the turn
is answered speculatively: the reply is held until the turn has ended, and taken back if the voice
goes on. A voice during playback cuts the reply, in both KV caches, to what was heard. A question
whose reply is stopped before it begins waits for the next turn.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import RLock

from omni_runtime.arrays import FloatArray
from omni_runtime.errors import OmniError, UsageError
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
from omni_runtime.serving.commands import Failed
from omni_runtime.serving.engine import EngineConversation
from omni_runtime.voice.engine_side import EngineSide
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
from omni_runtime.voice.heard_turn import HeardTurn
from omni_runtime.voice.microphone import Microphone
from omni_runtime.voice.pending import require_room
from omni_runtime.voice.reply_progress import ReplyProgress, room_wanted
from omni_runtime.voice.smart_turn import SmartTurn
from omni_runtime.voice.turn_detector import (
    TurnEnded,
    TurnEvent,
    TurnOptions,
    TurnPaused,
    TurnResumed,
    TurnStarted,
)
from omni_runtime.voice.vad import FRAME, SAMPLE_RATE


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
        interruptible: bool = True,
    ) -> None:
        """`emit` receives all events, from the thread that causes them; it must not block.

        `full_duplex`: the microphone does not hear the reply (headphones or echo cancellation).
        Without it the microphone is ignored during playback. `hands_free` False is push-to-talk.
        `read_ahead` False prefills and answers a turn only when it has ended. `smart_turn` ends a
        turn at its first pause if the sentence is complete; otherwise `turns.end_silence` ends it.
        `answers` False keeps a spoken turn for `respond` instead of answering it. Not
        `interruptible`, the session does not listen while a reply is made or played.
        """
        self.turns = turns or TurnOptions()
        self.muted = False
        self.key_down = False
        self.full_duplex = full_duplex
        self.hands_free = hands_free
        self.answers = answers
        self.interruptible = interruptible
        self.reply_options = reply or ReplyOptions()
        self._read_ahead = read_ahead
        self._smart_turn = smart_turn
        self._engine = EngineSide(conversation)
        self._emit = emit
        self._lock = RLock()
        self._microphone = Microphone(self.turns)
        self._turn: HeardTurn | None = None
        self._reply: ReplyProgress | None = None
        self._speculative: ReplyProgress | None = None
        self._played = 0.0
        self._added: list[ContentPart] = []
        self._image: Image | None = None
        self._state = State.LISTENING
        self._engine.read_ahead([], speech=self._speaks)

    @property
    def state(self) -> State:
        """What the session is doing."""
        return self._state

    @property
    def seconds(self) -> float:
        """Seconds of microphone samples so far."""
        return self._microphone.seconds

    @property
    def turn_seconds(self) -> float:
        """Seconds of the turn that is being heard; 0 without one."""
        return 0.0 if self._turn is None else self._turn.seconds

    def set_turns(self, turns: TurnOptions) -> None:
        """Change how turns are taken, from the next frame on."""
        with self._lock:
            self.turns = self._microphone.detector.options = turns

    def set_hands_free(self, hands_free: bool) -> None:
        """Change between turns that are detected and push-to-talk. An open turn is discarded."""
        with self._lock:
            if hands_free != self.hands_free:
                self.hands_free = hands_free
                self.discard()

    def hear(self, samples: FloatArray) -> None:
        """Take microphone samples, float32 mono (n,) at 16 kHz."""
        with self._lock:
            for frame in self._microphone.frames(samples):
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
        """Add parts to the next turn: text, pictures, files. Raises UsageError for too many."""
        with self._lock:
            require_room([*self._added, *parts])
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

    def respond(self, options: ReplyOptions | None = None) -> bool:
        """Answer what was added; False if that is nothing. Interrupts a reply in progress.

        A reply that is complete counts as heard. `options` are those of this reply only.
        """
        with self._lock:
            if self._reply is not None and self._reply.done:
                self._end_reply()
            self.interrupt()
            if not self._added:
                return False
            self._respond(ReplyProgress(self._parts(), options or self.reply_options))
            return True

    def key(self, down: bool) -> None:
        """Push-to-talk: the turn lasts while the key is down. It interrupts a reply to replace it.

        Without `answers` it does not: the turn may be meant for later.
        """
        with self._lock:
            if down and not self.key_down:
                if self.answers:
                    self.interrupt()
                self._begin_turn(self._microphone.samples)
            elif not down and self.key_down and self._turn is not None:
                self._end_turn(0.0)
            self.key_down = down

    def discard(self) -> None:
        """Forget the sound of a turn that has not ended."""
        with self._lock:
            self.key_down = False
            self._drop_turn()
            if self._reply is not None:
                self._reply.turn = None
            self._settle()

    def interrupt(self) -> None:
        """Stop the reply, and cut it to what was heard; if that is nothing, its question waits."""
        with self._lock:
            self._retract()
            reply = self._reply
            if reply is None:
                return
            self._stop(reply)
            if not reply.begun:
                self._added = [*reply.parts, *self._added]
            self._settle()

    def truncate(self, heard_seconds: float) -> str:
        """Cut the last reply to what was heard; a reply in progress is interrupted.

        Returns the text that is left. Raises UsageError where there is no spoken reply.
        """
        with self._lock:
            self._played = min(self._played, heard_seconds)
            self.interrupt()
            return self._engine.truncate(heard_seconds)

    def _stop(self, reply: ReplyProgress, *, goes_on: bool = False) -> None:
        self._reply = None
        heard = ""
        try:
            heard = self._engine.cut(reply, self._played)
        except OmniError as error:
            self._emit(ReplyFailed(error))
        self._emit(Interrupted(heard, reply.text, goes_on))

    def close(self) -> None:
        """Stop everything and close the conversation."""
        with self._lock:
            self._reply = self._speculative = self._turn = None
            self._engine.close()

    # The microphone

    def _hear_frame(self, frame: FloatArray) -> None:
        deaf = self._deaf()
        turn = self._turn
        if turn is None and self._reply is not None:
            turn = self._reply.open_turn
        if turn is not None and not deaf:
            turn.push(frame)
            self._prefill_block()
        events = self._microphone.turn_events(
            frame,
            deaf=deaf,
            hands_free=self.hands_free and not self.key_down,
            start=self.turns.interrupt if self._reply is not None else None,
        )
        for event in events:
            self._turn_event(event)

    def _deaf(self) -> bool:
        """Whether nothing is heard: muted, not to be interrupted, or half duplex."""
        if self.muted or not (self.interruptible or self._reply is None):
            return True
        speaking = self._state is State.SPEAKING
        return not self.full_duplex and self._microphone.echoes(speaking=speaking)

    def _turn_event(self, event: TurnEvent) -> None:
        match event:
            case TurnStarted(frame):
                self._start_or_continue(frame * FRAME)
            case TurnPaused(frame):
                if self._complete():
                    self._end_turn(self._microphone.seconds_since(frame))
                    self._microphone.detector.reset()
                else:
                    self._speculate()
            case TurnResumed():
                self._take_back()
            case TurnEnded(frame):
                if self._turn is not None:
                    self._end_turn(self._microphone.seconds_since(frame))

    def _complete(self) -> bool:
        """Whether the turn, whose voice has just paused, is a whole sentence."""
        if self._smart_turn is None or self._turn is None:
            return False
        return self._smart_turn.complete(self._microphone.since(self._turn.start)[1])

    def _start_or_continue(self, start: int) -> None:
        """A voice began at sample `start`: a new turn, or the last one goes on."""
        reply = self._reply
        turn = None if reply is None else reply.open_turn
        if reply is None or turn is None:
            self.interrupt()
            self._begin_turn(start - round(self.turns.pre_roll * SAMPLE_RATE))
            return
        self._stop(reply, goes_on=True)  # the user had only paused
        turn.resume()
        self._turn, self._added = turn, [*reply.parts[:-1], *self._added]
        self._settle()

    def _begin_turn(self, start: int) -> None:
        """Begin a turn with the microphone samples from `start` on, as far as they are kept."""
        first, samples = self._microphone.since(start)
        self._turn = HeardTurn(self._engine.audio_stream(), first, samples)
        self._settle()

    def _parts(self, *sound: AudioStream) -> list[ContentPart]:
        """The turn: what was added, the newest picture, and what the microphone heard."""
        image = [self._image] if self._image is not None else []
        return [*self._added, *image, *(Audio(stream) for stream in sound)]

    def _prefill_block(self) -> None:
        """Prefill when another block is final, unless the engine is busy or a pause is near."""
        turn = self._turn
        replying = self._reply is not None or self._speculative is not None
        if turn is None or not self._read_ahead or replying or self._engine.busy:
            return
        if not self._microphone.detector.silent and turn.take_block():
            self._engine.read_ahead(self._parts(turn.stream), speech=self._speaks)

    def _speculate(self) -> None:
        """Answer the turn as if it had ended, unless the engine has other replies to make."""
        turn = self._turn
        if not self._read_ahead or turn is None or self._reply is not None:
            return
        parts = self._parts(turn.pause())
        if self.answers and not self._engine.replying:
            self._speculative = ReplyProgress(parts, self.reply_options, turn)
            self._send(self._speculative)
        else:
            self._engine.read_ahead(parts, speech=self._speaks, more=False)

    def _take_back(self) -> None:
        """The turn goes on."""
        self._retract()
        if self._turn is not None:
            self._turn.resume()

    def _retract(self) -> None:
        """Drop the speculative reply; its prompt stays prefilled."""
        if self._speculative is not None:
            self._speculative = None
            self._engine.retract()

    def _end_turn(self, silence: float) -> None:
        """Send the turn, or keep it; its voice ended `silence` seconds ago."""
        turn = self._turn
        assert turn is not None
        sound = turn.whole()
        taken = TurnTaken(turn.start / SAMPLE_RATE, self.seconds - silence)
        if self.answers and (self.interruptible or self._reply is None):
            self._emit(taken)
            if self._reply is not None:  # to what was typed meanwhile
                self.interrupt()
            reply = self._speculative or ReplyProgress(self._parts(sound), self.reply_options, turn)
            self._turn = None
            voice = turn.voice_seconds(self._microphone.samples, silence)
            self._respond(reply, silence, voice)
            return
        self._retract()
        self._turn = None
        try:
            self.add(Audio(sound))
            self._emit(taken)
        except UsageError as error:
            self._emit(ReplyFailed(error))
        self._settle()

    def _drop_turn(self) -> None:
        self._retract()
        self._turn = None
        self._microphone.detector.reset()
        self._engine.discard()

    # The reply

    @property
    def _speaks(self) -> bool:
        return self.reply_options.speech is not None

    def _respond(self, reply: ReplyProgress, silence: float = 0.0, voice: float = 0.0) -> None:
        """Answer a turn; a speculative reply to it becomes the reply."""
        speculative, self._speculative = self._speculative, None
        self._reply, self._played = reply, 0.0
        self._added = []
        if any(part is self._image for part in reply.parts):
            self._image = None
        held = reply.decide(silence, voice)
        self._enter(State.THINKING)
        if reply is not speculative:
            self._send(reply)
        for event in held:
            self._reply_event(reply, event)

    def _send(self, reply: ReplyProgress) -> None:
        """Have a reply made. Its events count only if it is the current one already."""
        self._engine.respond(reply, lambda event: self._engine_event(reply, event))

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
            self._engine.make_room(room, lambda turns: self._emit(Forgotten(turns)))

    def _end_reply(self) -> None:
        self._reply = None
        self._settle()

    def _fail(self, error: BaseException) -> None:
        """Take the turn back, as far as it came: the conversation is as it was before it."""
        self._reply = None
        self._engine.retract()
        self._emit(ReplyFailed(error))
        self._settle()

    def _settle(self) -> None:
        """Enter the state that holds without a reply."""
        if self._reply is None:
            self._enter(State.LISTENING if self._turn is None else State.HEARING)

    def _enter(self, state: State) -> None:
        if state is not self._state:
            self._state = state
            self._emit(StateChanged(state, self.seconds))
