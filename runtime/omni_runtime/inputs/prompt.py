"""Build prompts from messages: token ids, TMRoPE positions, and media with their rows.

Not a conversation: turns and KV caches are managed in `conversation.py`. A prompt is first a flat
list of tokens and media. Ids, positions and rows are computed from that list in one pass. A prompt
that continues after the last reply is the end of the same list.

Source: Qwen2_5OmniProcessor.replace_multimodal_special_tokens, without its search in user text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from omni_runtime.arrays import IntArray
from omni_runtime.bundle.config import AudioConfig, ModelConfig, VisionConfig
from omni_runtime.errors import BundleError, UsageError
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.media import audio_too_long, load_audio
from omni_runtime.inputs.mel import audio_tokens
from omni_runtime.inputs.mel_features import MelFeatures, log_mel
from omni_runtime.inputs.messages import (
    Audio,
    ContentPart,
    Image,
    Kind,
    MediaPart,
    Message,
    Text,
    Video,
    kind_of,
)
from omni_runtime.inputs.pixels import Patches, image_patches, patches
from omni_runtime.inputs.positions import (
    SequentialRun,
    SharedRun,
    TokenRun,
    VideoWithAudioRun,
    VisionRun,
    interleave,
    token_positions,
)
from omni_runtime.inputs.source import Source
from omni_runtime.inputs.template import RE_EXPORT, ChatTemplate, Segment, last_reply
from omni_runtime.inputs.tokenizer import Tokenizer
from omni_runtime.inputs.video import load_video

__all__ = [
    "Audio",
    "ContentPart",
    "Image",
    "MediaSlot",
    "Message",
    "Prompt",
    "PromptBuilder",
    "Text",
    "Video",
]

_NOUNS: dict[Kind, str] = {"audio": "audio", "image": "images", "video": "video"}
_Config = TypeVar("_Config", AudioConfig, VisionConfig)


@dataclass(frozen=True)
class MediaSlot:
    """Tokens of a prompt whose embeddings come from an encoder.

    `rows` int64 (k,) are their indices in the prompt, in the order of the encoder's output.
    `features` is the log-mel of a clip, or the patches of an image or video.
    """

    kind: Kind
    rows: IntArray
    features: MelFeatures | Patches


@dataclass(frozen=True)
class Prompt:
    """Input of the Thinker: `ids` int64 (n,) and `positions` int64 (3, n).

    `media` are in order of appearance; the frames of a video come before its audio.
    `next_position` is the position of the first token of the reply.
    """

    ids: IntArray
    positions: IntArray
    media: list[MediaSlot]
    next_position: int


@dataclass(frozen=True)
class _LoadedAudio:
    mel: MelFeatures
    running: bool


@dataclass(frozen=True)
class _LoadedVision:
    kind: Kind
    patches: Patches
    seconds: float
    mel: MelFeatures | None


_Item = int | tuple[int, int] | _LoadedAudio | _LoadedVision
"""A token, two tokens that share a position, or loaded media."""


class PromptBuilder:
    """Builds the prompts of one bundle."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str, config: ModelConfig) -> None:
        """`chat_template` is the Jinja text of the checkpoint. Raises BundleError when invalid."""
        self._tokenizer = tokenizer
        self._template = ChatTemplate(chat_template)
        self._config = config
        self._tokens = config.thinker.tokens

    def build(
        self,
        messages: Sequence[Message],
        *,
        start_position: int = 0,
        since_last_reply: bool = False,
        partial: bool = False,
    ) -> Prompt:
        """Build the prompt for a reply to `messages`.

        The default system message is added if the first message has another role.

        With `since_last_reply` the prompt starts after the text of the last assistant message, with
        the template's end of that turn. The KV cache must hold everything before, and
        `start_position` is its next position. Earlier media are not loaded.

        `partial` allows a running AudioStream; the prompt then ends with its final blocks.

        Raises UsageError for media without an encoder, for a stream of another model or one that is
        still running; MediaError for media that cannot be read; BundleError when the chat template
        drops a part of a message.
        """
        if not messages or messages[0].role != "system":
            messages = [Message("system", [Text(self._config.system_prompt)]), *messages]
        after = last_reply(messages) if since_last_reply else None
        parts = [part for message in messages for part in message.parts]
        pieces = self._flatten(self._template.render(messages), parts, after)
        items = list(self._items(pieces, partial=partial))
        self._pair_markers(items)
        return self._assemble(items, start_position)

    def _flatten(
        self, segments: Sequence[Segment], parts: Sequence[ContentPart], after: int | None
    ) -> list[int | str | MediaPart]:
        """Return special tokens, plain text and media in order; only those after part `after`.

        The nth media marker in template text stands for the nth media part.
        """
        tokens = self._tokens
        markers: dict[int, Kind] = {tokens.audio: "audio", tokens.image: "image"}
        markers[tokens.video] = "video"
        media = iter([part for part in parts if not isinstance(part, Text)])
        pieces: list[int | str | MediaPart] = []
        for segment in segments:
            if isinstance(segment, str):
                for piece in self._tokenizer.split(segment):
                    kind = markers.get(piece) if isinstance(piece, int) else None
                    pieces.append(_next_media(media, kind) if kind else piece)
            elif segment == after:
                pieces.clear()
            elif isinstance(part := parts[segment], Text):
                pieces.append(part.text)
        if (left := next(media, None)) is not None:
            raise _no_marker(left)
        return pieces

    def _items(self, pieces: Sequence[int | str | MediaPart], *, partial: bool) -> Iterator[_Item]:
        """Yield tokens and loaded media. Text between special tokens is joined, then encoded."""
        context, plain = self._config.thinker.decoder.max_context, ""
        for piece in pieces:
            if isinstance(piece, str):
                plain += piece
                continue
            yield from self._tokenizer.encode(plain, context)
            plain = ""
            item = piece if isinstance(piece, int) else self._load(piece)
            running = isinstance(item, _LoadedAudio) and item.running
            if running and not partial:
                raise UsageError("the audio stream is still running", fix="call its finish() first")
            yield item
            if running:
                return
        yield from self._tokenizer.encode(plain, context)

    def _load(self, part: MediaPart) -> _LoadedAudio | _LoadedVision:
        audio, vision = self._config.audio, self._config.vision
        context = self._config.thinker.decoder.max_context
        match part:
            case Audio(source):
                audio = _require_encoder(audio, "audio")
                if isinstance(source, AudioStream):
                    return _load_stream(source, audio, _max_audio_seconds(context, audio))
                seconds = _max_audio_seconds(context, audio)
                samples = load_audio(source, audio.sample_rate, max_seconds=seconds)
                return _LoadedAudio(log_mel(samples, audio), running=False)
            case Image(source):
                vision = _require_encoder(vision, "image")
                return _LoadedVision("image", image_patches(load_image(source), vision), 0.0, None)
            case Video(source, use_audio):
                return self._load_video(
                    source, use_audio, _require_encoder(vision, "video"), context
                )

    def _load_video(
        self, source: Source, use_audio: bool, vision: VisionConfig, context: int
    ) -> _LoadedVision:
        audio = self._config.audio if use_audio else None
        clip = load_video(
            source,
            vision,
            sample_rate=audio.sample_rate if audio else None,
            max_tokens=context,
            max_seconds=_max_audio_seconds(context, audio) if audio else 0.0,
        )
        mel = log_mel(clip.audio, audio) if audio and clip.audio is not None else None
        seconds = vision.temporal_patch_size / clip.fps
        return _LoadedVision("video", patches(clip.frames, vision), seconds, mel)

    def _pair_markers(self, items: list[_Item]) -> None:
        """Double the markers around each video with audio: vision outside, audio inside."""
        tokens = self._tokens
        for i, item in enumerate(items):
            if not isinstance(item, _LoadedVision) or item.mel is None:
                continue
            if items[i - 1 : i] + items[i + 1 : i + 2] != [tokens.vision_bos, tokens.vision_eos]:
                raise BundleError("the chat template has no markers around video", fix=RE_EXPORT)
            items[i - 1] = (tokens.vision_bos, tokens.audio_bos)
            items[i + 1] = (tokens.audio_eos, tokens.vision_eos)

    def _assemble(self, items: list[_Item], start: int) -> Prompt:
        layout = _Layout(self._config)
        for item in items:
            match item:
                case int():
                    layout.add_token(item)
                case tuple():
                    layout.add_pair(item)
                case _LoadedAudio(mel):
                    layout.add_audio(mel)
                case _LoadedVision():
                    layout.add_vision(item)
        positions, following = token_positions(layout.runs, self._config.thinker.positions, start)
        return Prompt(np.array(layout.ids, np.int64), positions, layout.media, following)


class _Layout:
    """A prompt under construction: ids, runs of tokens, and media with their rows."""

    def __init__(self, config: ModelConfig) -> None:
        self._tokens = config.thinker.tokens
        self._positions = config.thinker.positions
        self._merge = config.vision.merge_size if config.vision else 1
        self.ids: list[int] = []
        self.runs: list[TokenRun] = []
        self.media: list[MediaSlot] = []

    def add_token(self, token: int) -> None:
        self._add_rows(token, 1)
        self._add_sequential(1)

    def add_pair(self, tokens: tuple[int, int]) -> None:
        self.ids += tokens
        self.runs.append(SharedRun(2))

    def add_audio(self, mel: MelFeatures) -> None:
        count = audio_tokens(mel.frames)
        if count:
            self._add_sequential(count)
            self.media.append(MediaSlot("audio", self._add_rows(self._tokens.audio, count), mel))

    def add_vision(self, vision: _LoadedVision) -> None:
        t, h, w = vision.patches.grid
        run = VisionRun((t, h // self._merge, w // self._merge), vision.seconds)
        if vision.mel is not None:
            self._add_video_with_audio(vision.patches, vision.mel, run)
            return
        token = self._tokens.image if vision.kind == "image" else self._tokens.video
        self.runs.append(run)
        self.media.append(MediaSlot(vision.kind, self._add_rows(token, run.tokens), vision.patches))

    def _add_video_with_audio(self, frames: Patches, mel: MelFeatures, video: VisionRun) -> None:
        run = VideoWithAudioRun(video, audio_tokens(mel.frames))
        self.runs.append(run)
        rows: dict[str, list[IntArray]] = {"video": [], "audio": []}
        for track, start, stop in interleave(run, self._positions):
            token = self._tokens.video if track == "video" else self._tokens.audio
            rows[track].append(self._add_rows(token, stop - start))
        self.media.append(MediaSlot("video", np.concatenate(rows["video"]), frames))
        self.media.append(MediaSlot("audio", np.concatenate(rows["audio"]), mel))

    def _add_sequential(self, count: int) -> None:
        """Append `count` sequential positions; adjacent sequential runs are merged."""
        before = self.runs[-1] if self.runs else None
        if isinstance(before, SequentialRun):
            self.runs.pop()
            count += before.length
        self.runs.append(SequentialRun(count))

    def _add_rows(self, token: int, count: int) -> IntArray:
        rows = np.arange(len(self.ids), len(self.ids) + count)
        self.ids += [token] * count
        return rows


def _require_encoder(config: _Config | None, kind: Kind) -> _Config:
    if config is None:
        raise UsageError(
            f"this bundle has no encoder for {_NOUNS[kind]}",
            fix="use a bundle of a checkpoint that has one",
        )
    return config


def _load_stream(stream: AudioStream, config: AudioConfig, max_seconds: float) -> _LoadedAudio:
    if stream.config != config:
        raise UsageError(
            "the audio stream belongs to another model",
            fix="create it with AudioStream(model.config.audio)",
        )
    if stream.seconds > max_seconds:
        raise audio_too_long("the audio stream", max_seconds)
    # Read first: a stream that finishes in between counts as running, which is safe.
    running = stream.running
    return _LoadedAudio(stream.features(), running)


def _next_media(media: Iterator[MediaPart], kind: Kind) -> MediaPart:
    """Return the next media part. Raises BundleError when the marker is of another kind."""
    part = next(media, None)
    if part is None or kind_of(part) != kind:
        raise _no_marker(part)
    return part


def _no_marker(part: MediaPart | None) -> BundleError:
    noun = _NOUNS[kind_of(part)] if part else "media that are not in the message"
    return BundleError(
        f"the chat template has no marker, or a wrong one, for {noun}", fix=RE_EXPORT
    )


def _max_audio_seconds(context: int, audio: AudioConfig) -> float:
    """Return the seconds of audio that fill the context; a token is four mel frames."""
    return context * 4 * audio.hop_length / audio.sample_rate
