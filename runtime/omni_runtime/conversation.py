"""A conversation: messages, and a context that holds exactly what was said.

Each turn appends its prompt to the context, streams a reply, and leaves the context holding the
reply's tokens, whether it ended, failed or was stopped. A turn that ends so before its reply begins
leaves the conversation as it was; of a regenerated turn the question stays, with an empty reply.
Undo, regenerate and cuts are truncations of the context.

`read_ahead` prefills the start of a message that is still being recorded, and `send` prefills the
rest. Every other operation on the context first discards the read-ahead prefix.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from statistics import fmean
from weakref import ReferenceType, ref

import numpy as np

from omni_runtime import persistence, system_prefix
from omni_runtime.arrays import FloatArray
from omni_runtime.context import Context, ContextMark
from omni_runtime.engine.decoder import complete
from omni_runtime.errors import UsageError
from omni_runtime.events import Timings, TurnDone
from omni_runtime.inputs import prefix
from omni_runtime.inputs.messages import without_streams
from omni_runtime.inputs.prompt import ContentPart, Message, Prompt, Text
from omni_runtime.machine import peak_memory
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, ResolvedSpeechOptions
from omni_runtime.persistence import Saved
from omni_runtime.reply import Reply
from omni_runtime.response import Progress, Response, Steps
from omni_runtime.timeline import USUAL_SPEED, SpokenReply
from omni_runtime.turns import Mark, Turn

LATEST_SPEEDS = 8


class Conversation:
    """Several turns with one model. One reply at a time; any thread may cancel it."""

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        context: int | None = None,
        history: Sequence[Message] = (),
    ) -> None:
        """`system` replaces the model's own system prompt; `context` lowers its context length.

        `history` are turns that took place elsewhere, user and assistant messages in turn; the
        first `send` reads them. Under a memory budget the context is as long as fits, unless
        `context` says how long. Raises AdmissionError when that does not fit.
        """
        self.model = model
        text = model.config.system_prompt if system is None else system
        self.messages: list[Message] = [Message("system", [Text(text)]), *history]
        self.requested_context = context
        with model.lock:
            self._lease = model.budget.lease(context)
            self._context = Context(model, self._lease.tokens)
        self._turns: list[Turn] = []
        self._last_tokens: list[int] = []
        self._spoken: SpokenReply | None = None
        self._speeds: dict[str, tuple[float, ...]] = {}
        """Speaking speeds of the latest complete replies, by voice."""
        self._end = self._context.mark()
        """The end of the last turn, or of the prompt while its reply is in progress."""
        self._ahead: Prompt | None = None
        """What the context holds behind it."""
        self._prompt: Prompt | None = None
        """The prompt of the last turn of this process."""
        self._active: ReferenceType[Response] | None = None
        self._closed = False

    @property
    def context_used(self) -> int:
        """Tokens of the turns so far."""
        return self._end.length

    @property
    def turn_count(self) -> int:
        """Turns that can be taken back."""
        return len(self._turns)

    @property
    def context_limit(self) -> int:
        """Tokens that fit."""
        return self._context.limit

    @property
    def last_tokens(self) -> list[int]:
        """Token ids of the last reply."""
        return self._last_tokens

    @property
    def cache_bytes(self) -> int:
        """Bytes of both caches."""
        return self._context.nbytes

    def send(
        self, parts: Sequence[ContentPart] | str, options: ReplyOptions | None = None
    ) -> Response:
        """Add a user turn and stream the reply: iterate the response for its events.

        Closing the response stops all work; what was said until then stays in the conversation.
        UsageError, MediaError or ContextFullError come before the first event and leave the
        conversation as it was.
        """
        options, speech = self._resolved(options)
        content = [Text(parts)] if isinstance(parts, str) else list(parts)
        if not content:
            raise UsageError("the message is empty", fix="give a prompt, a file, or both")

        def start(response: Response, progress: Progress) -> Steps:
            self._begin(response)
            return self._turn(progress, Message("user", content), options, speech)

        return Response(self.model, start, self._done)

    def regenerate(self, options: ReplyOptions | None = None) -> Response:
        """Replace the last reply by another one to the same question; no prompt is read again.

        Stopped before it begins, the new reply is empty; the old one is gone.
        Raises UsageError if there is no reply yet.
        """
        options, speech = self._resolved(options)
        self._last_turn()

        def start(response: Response, progress: Progress) -> Steps:
            self._begin(response)
            turn = self._last_turn()
            self._forget_ahead()
            return self._again(progress, turn, options, speech)

        return Response(self.model, start, self._done)

    def cancel(self) -> None:
        """Stop the reply in progress, if there is one; any thread may call this."""
        response = self._response()
        if response is not None:
            response.cancel()

    def read_ahead(
        self, parts: Sequence[ContentPart] = (), *, more: bool = False, speech: bool = True
    ) -> None:
        """Read the beginning of a message that is still being made; `send` then takes less time.

        Without parts it is the system prompt. With `more` a recording at the end of `parts` is
        still going on, for example an AudioStream: its final blocks are read. What is sent in the
        end need not be what was announced: only what both share counts as read. `speech`: the
        reply will be spoken. Raises as `send` does, and then nothing is read ahead.
        """
        with self.model.lock:
            self._require_rest()
            start = self._mark()
            try:
                prompt = self._build(Message("user", [*parts]), partial=more)
                count = prefix.stable_length(prompt) if more else len(prompt.ids)
                if count:
                    head = prefix.split(prompt, count)[0]
                    complete(self._read(head, whole=False, speech=speech))
                if speech and self.model.config.speech is not None:
                    complete(self._context.read_unread())
            except BaseException:
                self._return_to(start)
                raise

    def undo(self, *, keep_prompt: bool = False) -> None:
        """Take back the last turn, question and reply. Raises UsageError if there is none.

        `keep_prompt`: its prompt then counts as read ahead, for a question that goes on.
        """
        with self.model.lock:
            self._require_rest()
            if not self._turns:
                raise UsageError("there is no turn to take back", fix="say something first")
            self._forget_ahead()
            self._ahead = self._prompt if keep_prompt else None
            self._rewind(self._turns.pop().start)
            self._prompt = self._spoken = None

    def truncate(self, heard_seconds: float) -> str:
        """Cut the last reply to what was heard in its first `heard_seconds` of speech.

        Stops the reply if it is still in progress. Message, text and both caches then end with the
        last word that was heard, so the next turn is that of a conversation which was never
        longer. Which word that is, is an estimate (`timeline`). Returns the text that is left.
        Raises UsageError when the last reply was not spoken in this process.
        """
        self.cancel()
        with self.model.lock:
            self._require_rest()
            if self._spoken is None or not self._turns:
                raise UsageError(
                    "there is no spoken reply to cut", fix="cut it before the next turn or undo"
                )
            self._forget_ahead()
            reply = self._spoken
            speeds = [USUAL_SPEED, *self._speeds.get(reply.voice, ())]
            tokens = reply.heard_tokens(heard_seconds, fmean(speeds))
            if tokens < len(self._last_tokens):
                self._cut(reply, tokens)
            return self._spoken.text

    def make_room(self, tokens: int) -> int:
        """Forget the oldest turns until `tokens` more tokens fit; returns how many turns.

        The system prompt and the last turn stay. No turn that stays is read again: its cached
        states were computed while the forgotten turns were there. Positions go on, so the distances
        between tokens are those of a conversation without the forgotten turns.
        """
        with self.model.lock:
            self._require_rest()
            self._forget_ahead()
            excess = self._end.length + tokens - self.context_limit
            starts = [turn.start.context.length for turn in self._turns]
            count = next((n for n, start in enumerate(starts) if start >= excess), len(starts) - 1)
            return count if count > 0 and self._forget_turns(count) else 0

    def fork(self) -> "Conversation":
        """Return an independent copy that goes on from here. Raises AdmissionError."""
        with self.model.lock:
            self._require_rest()
            copy = Conversation(self.model, context=self.requested_context)
            copy._context = self._context.fork(copy.context_limit)
            copy._context.truncate(self._end)
            copy._end = self._end
            copy.messages, copy._turns = [*self.messages], [*self._turns]
            copy._last_tokens, copy._speeds = self._last_tokens, {**self._speeds}
            copy._spoken = self._spoken
            return copy

    def close(self) -> None:
        """Stop the reply in progress and give the memory of the context back."""
        self.cancel()
        with self.model.lock:
            self._lease.release()
            self._context, self._closed = Context(self.model, 1), True

    def save(self, folder: str | Path) -> None:
        """Write the conversation into a folder, whole or not at all. Raises OmniError."""
        with self.model.lock:
            self._require_rest()
            self._forget_ahead()
            self._context.read_pending()
            saved = Saved(self.messages, self._turns, self.requested_context, self._last_tokens)
            persistence.write(Path(folder), saved, self._context, self.model)

    @classmethod
    def load(cls, folder: str | Path, model: Model) -> "Conversation":
        """Go on where `save` was called. Raises OmniError for another bundle's or a damaged save.

        Media among the messages are names only: the caches hold what they meant.
        """
        with model.lock:
            saved, load_context = persistence.read(Path(folder), model)
            conversation = cls(model, context=saved.context)
            conversation._context = load_context(conversation._lease.tokens)
            conversation._end = conversation._context.mark()
            conversation.messages, conversation._turns = saved.messages, saved.turns
            conversation._last_tokens = saved.last_tokens
            return conversation

    # Turns

    def _resolved(
        self, options: ReplyOptions | None
    ) -> tuple[ReplyOptions, ResolvedSpeechOptions | None]:
        options = options or ReplyOptions()
        return options, options.speech.resolved(self.model.speech) if options.speech else None

    def _response(self) -> Response | None:
        """The response in progress."""
        response = self._active() if self._active is not None else None
        return response if response is not None and response.in_progress else None

    def _require_rest(self) -> None:
        if self._closed:
            raise UsageError("the conversation is closed", fix="start a new one", code="closed")
        if self._response() is not None:
            raise UsageError(
                "a reply of this conversation is in progress",
                fix="read it to its end, or cancel it",
                code="reply_in_progress",
            )

    def _begin(self, response: Response) -> None:
        self._require_rest()
        self._active = ref(response)

    def _last_turn(self) -> Turn:
        if not self._turns:
            raise UsageError("there is no reply to make anew", fix="say something first")
        return self._turns[-1]

    def _turn(
        self,
        progress: Progress,
        message: Message,
        options: ReplyOptions,
        speech: ResolvedSpeechOptions | None,
    ) -> Steps:
        start = self._mark()
        try:
            prompt = self._build(message)
            self.messages.append(message)
            yield None
            logits = yield from self._prefill(progress, prompt, speech is not None)
            turn = Turn(start, self._mark())
            reply = Reply(self.model, options, speech, self._context, progress.clock)
        except BaseException:
            self._rewind(start)
            raise
        self._turns.append(turn)
        yield from self._stream(progress, reply, logits)

    def _again(
        self,
        progress: Progress,
        turn: Turn,
        options: ReplyOptions,
        speech: ResolvedSpeechOptions | None,
    ) -> Steps:
        asked = turn.asked
        if speech is not None:
            self._context.check_speech_room(asked.context)
        try:
            self._return_to(asked)
            progress.prompt_tokens, progress.cached_tokens = 1, 0
            output = self._context.reread_last()
            if speech is not None:
                yield from self._context.read_unread()
            reply = Reply(self.model, options, speech, self._context, progress.clock)
        except BaseException:
            self._return_to(asked)
            self.messages.append(Message("assistant", [Text("")]))
            self._last_tokens, self._spoken = [], None
            raise
        yield from self._stream(progress, reply, output.logits)

    def _stream(self, progress: Progress, reply: Reply, logits: FloatArray) -> Steps:
        """Stream the reply to the prompt at the end of the context, and keep it."""
        progress.reply, progress.prefill = reply, progress.clock()
        try:
            yield from reply.steps(logits)
        finally:
            self._keep(reply)
        yield self._done(progress)

    def _done(self, progress: Progress) -> TurnDone:
        reply = progress.reply
        timings = (
            reply.timings(progress.prefill, progress.prompt_tokens, progress.cached_tokens)
            if reply is not None
            else Timings.of_prefill(progress.clock(), progress.prompt_tokens)
        )
        return TurnDone(
            text=reply.state.text if reply else "",
            finish_reason=reply.state.finish_reason if reply else "interrupted",
            speech_complete=reply.speech_complete if reply else None,
            timings=timings,
            context_used=self.context_used,
            context_limit=self.context_limit,
            cache_bytes=self.cache_bytes,
            peak_memory=peak_memory(),
        )

    def _keep(self, reply: Reply) -> None:
        """Make the reply, as far as it came, a part of the conversation."""
        self._active = None
        self._end = self._context.mark()
        self._context.truncate(self._end)  # which mends a step that was interrupted
        self._last_tokens = reply.state.tokens
        self.messages[-1] = without_streams(self.messages[-1])  # the caches hold what was heard
        self.messages.append(Message("assistant", [Text(reply.state.text)]))
        self._spoken = reply.spoken
        if reply.spoken is not None and reply.spoken.complete:
            voice, speed = reply.spoken.voice, reply.spoken.speed
            self._speeds[voice] = (*self._speeds.get(voice, ()), speed)[-LATEST_SPEEDS:]

    def _cut(self, reply: SpokenReply, tokens: int) -> None:
        """Keep the first `tokens` tokens of the last reply."""
        asked = self._turns[-1].asked.context
        self._spoken = reply.cut(tokens)
        self._last_tokens = self._last_tokens[:tokens]
        self._end = ContextMark(asked.length + tokens, asked.position + tokens)
        self._context.truncate(self._end)
        self.messages[-1] = Message("assistant", [Text(self._spoken.text)])

    def _forget_turns(self, count: int) -> bool:
        """Replace everything before turn `count` by the system prompt, if it ends like a turn."""
        first = self._turns[count].start
        self._context.read_pending()
        head = system_prefix.before(
            self.model,
            self.messages[0],
            self._context.ids[first.context.length :],
            first.context.position,
        )
        if head is None:
            return False
        complete(self._context.replace_start(first.context.length, head))
        messages, tokens = first.messages - 1, first.context.length - head.length
        self.messages[1 : first.messages] = []
        self._turns = [turn.earlier(messages, tokens) for turn in self._turns[count:]]
        self._end = ContextMark(self._end.length - tokens, self._end.position)
        return True

    # The context

    def _build(self, message: Message, *, partial: bool = False) -> Prompt:
        return self.model.prompts.build(
            [*self.messages, message],
            start_position=self._end.position,
            since_last_reply=bool(self._turns),
            partial=partial,
        )

    def _prefill(
        self, progress: Progress, prompt: Prompt, speech: bool
    ) -> Generator[None, None, FloatArray]:
        """Append the prompt to the Thinker's cache, and to the Talker's if it is to speak."""
        progress.prompt_tokens = len(prompt.ids)
        logits, progress.cached_tokens = yield from self._read(prompt, whole=True, speech=speech)
        if speech:
            yield from self._context.read_unread()
        self._prompt, self._ahead, self._end = prompt, None, self._context.mark()
        return logits

    def _read(
        self, prompt: Prompt, *, whole: bool, speech: bool
    ) -> Generator[None, None, tuple[FloatArray, int]]:
        """Let the context hold this prompt behind the last turn.

        What was read ahead of it is kept. Of a `whole` prompt at least the last token is read, for
        its logits; of a beginning nothing may be left to read, and its logits mean nothing. Returns
        the logits and how many tokens were known.
        """
        self._adopt_system_prefix(prompt, speech=speech)
        start, known = self._end, 0
        if self._ahead is not None:
            known = prefix.common_prefix(self._ahead, prompt)
            known = min(known, len(prompt.ids) - 1) if whole else known
            self._context.truncate(_behind(start, prompt, known))
        if known == len(prompt.ids):
            self._ahead = prompt  # what was read may have been longer
            return np.zeros(0, np.float32), known
        rest = prefix.split(prompt, known)[1] if known else prompt
        self._ahead = prefix.split(prompt, known)[0] if known else None
        logits = yield from self._context.append(rest)
        self._ahead = prompt
        return logits, known

    def _adopt_system_prefix(self, prompt: Prompt, *, speech: bool) -> None:
        """Start an empty context as a copy of one that has read the system prompt."""
        if self._context.length:
            return
        speech = speech and self.model.config.speech is not None
        system, limit = self.messages[0], self.context_limit
        found = system_prefix.fork(self.model, system, prompt, limit, speech=speech)
        if found is not None:
            self._context, count = found
            self._ahead = prefix.split(prompt, count)[0]

    def _forget_ahead(self) -> None:
        self._ahead = None
        self._context.truncate(self._end)

    def _mark(self) -> Mark:
        """The end of the last turn."""
        return Mark(len(self.messages), self._end)

    def _return_to(self, mark: Mark) -> None:
        self._ahead = None
        self._rewind(mark)

    def _rewind(self, mark: Mark) -> None:
        """Return to a mark; what was read ahead behind it stays."""
        del self.messages[mark.messages :]
        self._end, ahead = mark.context, self._ahead
        kept = _behind(self._end, ahead, len(ahead.ids)) if ahead is not None else self._end
        self._context.truncate(kept)


def _behind(mark: ContextMark, prompt: Prompt, count: int) -> ContextMark:
    """The mark behind the first `count` tokens of a prompt that begins at `mark`."""
    position = int(prompt.positions[:, :count].max()) + 1 if count else mark.position
    return ContextMark(mark.length + count, position)
