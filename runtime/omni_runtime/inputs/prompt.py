"""From messages to a prompt: token ids, TMRoPE positions and the media that fill some of its rows.

Not a conversation: which turns there are, and what is in a KV cache, is known elsewhere. The one
idea: a prompt is a flat list of tokens and media, from which ids, positions and rows are laid out
in one pass; what follows the last reply is just a cut of that list.

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
from omni_runtime.inputs.media import load_audio, load_image, too_long
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
    Picture,
    PictureWithSound,
    Run,
    Sequential,
    Shared,
    interleave,
    walk,
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

_NOUNS: dict[Kind, str] = {"audio": "sound", "image": "pictures", "video": "video"}
_Config = TypeVar("_Config", AudioConfig, VisionConfig)


@dataclass(frozen=True)
class MediaSlot:
    """Rows of a prompt whose embeddings come from an encoder.

    `rows` int64 (k,) index the prompt's tokens, in the order of the encoder's output. `features`
    is the log-mel of a clip, or the Patches of a picture or video.
    """

    kind: Kind
    rows: IntArray
    features: MelFeatures | Patches


@dataclass(frozen=True)
class Prompt:
    """What the Thinker is fed with: `ids` int64 (n,) and `positions` int64 (3, n).

    `media` fill rows of it, in their order of appearance (of a video with sound first the
    picture). `next_position` is the position of the first token that follows.
    """

    ids: IntArray
    positions: IntArray
    media: list[MediaSlot]
    next_position: int


@dataclass(frozen=True)
class _Sound:
    mel: MelFeatures
    running: bool


@dataclass(frozen=True)
class _Sight:
    kind: Kind
    patches: Patches
    seconds: float
    mel: MelFeatures | None


_Item = int | tuple[int, int] | _Sound | _Sight
"""A token, two tokens that share a position, or a medium."""


class PromptBuilder:
    """Builds prompts for one bundle."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str, config: ModelConfig) -> None:
        """`chat_template` is the checkpoint's own Jinja text; BundleError when it's broken."""
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
        """The prompt for a reply to `messages`, the default system message put in front if need be.

        With `since_last_reply` only what follows the text of the last assistant message is built
        (from the template's own end of that turn), for a KV cache that holds everything before;
        `start_position` is then where the cache stopped. Media before it aren't read again.

        A running AudioStream is allowed with `partial` only: the prompt ends with its final blocks.

        Raises UsageError for a request that the model can't meet, MediaError for a medium that
        can't be read, BundleError for a template that loses a part of a message.
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
        """Special tokens, plain text and media in order; only what follows part `after`, if given.

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
                    pieces.append(_taken(media, kind) if kind else piece)
            elif segment == after:
                pieces.clear()
            elif isinstance(part := parts[segment], Text):
                pieces.append(part.text)
        if (left := next(media, None)) is not None:
            raise _no_place(left)
        return pieces

    def _items(self, pieces: Sequence[int | str | MediaPart], *, partial: bool) -> Iterator[_Item]:
        """Tokens and loaded media; text between special tokens is joined before it is encoded."""
        plain = ""
        for piece in pieces:
            if isinstance(piece, str):
                plain += piece
                continue
            yield from self._tokenizer.encode(plain)
            plain = ""
            item = piece if isinstance(piece, int) else self._load(piece)
            running = isinstance(item, _Sound) and item.running
            if running and not partial:
                raise UsageError("the audio stream is still running", fix="call its finish() first")
            yield item
            if running:
                return
        yield from self._tokenizer.encode(plain)

    def _load(self, part: MediaPart) -> _Sound | _Sight:
        audio, vision = self._config.audio, self._config.vision
        context = self._config.thinker.decoder.max_context
        match part:
            case Audio(source):
                audio = _able(audio, "audio")
                if isinstance(source, AudioStream):
                    return _read(source, audio, _seconds(context, audio))
                seconds = _seconds(context, audio)
                samples = load_audio(source, audio.sample_rate, max_seconds=seconds)
                return _Sound(log_mel(samples, audio), running=False)
            case Image(source):
                vision = _able(vision, "image")
                return _Sight("image", image_patches(load_image(source), vision), 0.0, None)
            case Video(source, use_audio):
                return self._load_video(source, use_audio, _able(vision, "video"), context)

    def _load_video(
        self, source: Source, use_audio: bool, vision: VisionConfig, context: int
    ) -> _Sight:
        audio = self._config.audio if use_audio else None
        clip = load_video(
            source,
            vision,
            sample_rate=audio.sample_rate if audio else None,
            max_tokens=context,
            max_seconds=_seconds(context, audio) if audio else 0.0,
        )
        mel = log_mel(clip.audio, audio) if audio and clip.audio is not None else None
        seconds = vision.temporal_patch_size / clip.fps
        return _Sight("video", patches(clip.frames, vision), seconds, mel)

    def _pair_markers(self, items: list[_Item]) -> None:
        """Double the markers around each video with sound: vision outside, sound inside."""
        tokens = self._tokens
        for i, item in enumerate(items):
            if not isinstance(item, _Sight) or item.mel is None:
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
                    layout.token(item)
                case tuple():
                    layout.pair(item)
                case _Sound(mel):
                    layout.sound(mel)
                case _Sight():
                    layout.sight(item)
        positions, following = walk(layout.runs, self._config.thinker.positions, start)
        return Prompt(np.array(layout.ids, np.int64), positions, layout.media, following)


class _Layout:
    """A prompt as it grows: ids, runs for the positions, rows of media."""

    def __init__(self, config: ModelConfig) -> None:
        self._tokens = config.thinker.tokens
        self._positions = config.thinker.positions
        self._merge = config.vision.merge_size if config.vision else 1
        self.ids: list[int] = []
        self.runs: list[Run] = []
        self.media: list[MediaSlot] = []

    def token(self, token: int) -> None:
        self._fill(token, 1)
        self._along(1)

    def pair(self, tokens: tuple[int, int]) -> None:
        self.ids += tokens
        self.runs.append(Shared(2))

    def sound(self, mel: MelFeatures) -> None:
        count = audio_tokens(mel.frames)
        if count:
            self._along(count)
            self.media.append(MediaSlot("audio", self._fill(self._tokens.audio, count), mel))

    def sight(self, sight: _Sight) -> None:
        t, h, w = sight.patches.grid
        picture = Picture((t, h // self._merge, w // self._merge), sight.seconds)
        if sight.mel is not None:
            self._sight_with_sound(sight.patches, sight.mel, picture)
            return
        token = self._tokens.image if sight.kind == "image" else self._tokens.video
        self.runs.append(picture)
        self.media.append(MediaSlot(sight.kind, self._fill(token, picture.tokens), sight.patches))

    def _sight_with_sound(self, frames: Patches, mel: MelFeatures, picture: Picture) -> None:
        run = PictureWithSound(picture, audio_tokens(mel.frames))
        self.runs.append(run)
        rows: dict[str, list[IntArray]] = {"video": [], "audio": []}
        for track, start, stop in interleave(run, self._positions):
            token = self._tokens.video if track == "video" else self._tokens.audio
            rows[track].append(self._fill(token, stop - start))
        self.media.append(MediaSlot("video", np.concatenate(rows["video"]), frames))
        self.media.append(MediaSlot("audio", np.concatenate(rows["audio"]), mel))

    def _along(self, count: int) -> None:
        """Go on by `count` positions; neighbouring runs of this sort become one."""
        before = self.runs[-1] if self.runs else None
        if isinstance(before, Sequential):
            self.runs.pop()
            count += before.length
        self.runs.append(Sequential(count))

    def _fill(self, token: int, count: int) -> IntArray:
        rows = np.arange(len(self.ids), len(self.ids) + count)
        self.ids += [token] * count
        return rows


def _able(config: _Config | None, kind: Kind) -> _Config:
    if config is None:
        verb = "hear" if kind == "audio" else "see"
        raise UsageError(
            f"this bundle can't {verb}: it has no encoder for {_NOUNS[kind]}",
            fix="use one exported from a checkpoint that has it",
        )
    return config


def _read(stream: AudioStream, config: AudioConfig, max_seconds: float) -> _Sound:
    if stream.config != config:
        raise UsageError(
            "the audio stream was made for another model", fix="AudioStream(model.config.audio)"
        )
    if stream.seconds > max_seconds:
        raise too_long("the audio stream", max_seconds)
    # Asked first: a stream that is finished in between counts as running, which is safe.
    running = stream.running
    return _Sound(stream.features(), running)


def _taken(media: Iterator[MediaPart], kind: Kind) -> MediaPart:
    """The next medium, for which the template has a marker of this kind."""
    part = next(media, None)
    if part is None or kind_of(part) != kind:
        raise _no_place(part)
    return part


def _no_place(part: MediaPart | None) -> BundleError:
    noun = _NOUNS[kind_of(part)] if part else "media that nobody gave"
    return BundleError(f"the chat template has no place, or a wrong one, for {noun}", fix=RE_EXPORT)


def _seconds(context: int, audio: AudioConfig) -> float:
    """How much sound would fill the whole context; a token is four mel frames."""
    return context * 4 * audio.hop_length / audio.sample_rate
