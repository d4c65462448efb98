"""End-to-end parity with the reference: greedy text, greedy codes, and speech.

The reference stops its rows one token before its last one, so it is asked for one token more
than we make. It always drops its last code, so it is asked for one code more, too.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from conftest import Twin, relative
from inputs.samples import picture, sweep, write_media
from omni_runtime.conversation import Conversation
from omni_runtime.engine.code2wav import Code2Wav
from omni_runtime.engine.sampling import Sampling
from omni_runtime.events import AudioDelta, Event, TextDelta, TurnDone
from omni_runtime.inputs.pixels import Patches
from omni_runtime.inputs.prompt import Audio, ContentPart, Image, Prompt, Text, Video
from omni_runtime.options import ReplyOptions, SpeechOptions

TOKENS, CODES = 7, 40
GREEDY_CODES = Sampling(temperature=0.0, repetition_penalty=1.05)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ContentPart]:
    folder = tmp_path_factory.mktemp("media")
    PillowImage.fromarray(picture(90, 120)).save(folder / "picture.png")
    frames = [picture(64, 96, seed) for seed in range(12)]
    write_media(folder / "sound.wav", sound=sweep(2.6), rate=16000, audio_codec="pcm_s16le")
    write_media(folder / "silent.mp4", frames=frames, fps=6)
    write_media(folder / "clip.mp4", sound=sweep(2.0, 44100), rate=44100, frames=frames, fps=6)
    long = [picture(32, 32, seed) for seed in range(8)]
    write_media(folder / "long.mp4", sound=sweep(2.1, 44100), rate=44100, frames=long, fps=2)
    return {
        "long clip": Video(folder / "long.mp4"),
        "image": Image(folder / "picture.png"),
        "audio": Audio(folder / "sound.wav"),
        "video": Video(folder / "silent.mp4"),
        "clip": Video(folder / "clip.mp4"),
        "text": Text("What do you see and hear?"),
    }


class Recorder:
    """Records the prompts of a conversation, and provides its noise."""

    def __init__(self, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[Prompt] = []
        build = twin.model.prompts.build

        def record(*args: Any, **kwargs: Any) -> Prompt:
            self.prompts.append(build(*args, **kwargs))
            return self.prompts[-1]

        self.codes: list[int] = []
        push = Code2Wav.push

        def note(code2wav: Code2Wav, code: int) -> Any:
            self.codes.append(code)
            return push(code2wav, code)

        Conversation(twin.model).read_ahead()  # builds two prompts to find what all share
        monkeypatch.setattr(twin.model.prompts, "build", record)
        monkeypatch.setattr(Code2Wav, "push", note)
        self.noise = np.random.default_rng(5).standard_normal((1, 30000, 80)).astype(np.float32)

    def blocks(self, first: int, count: int) -> np.ndarray:
        return self.noise[0, first * 24 : (first + count) * 24]


def reply(
    conversation: Conversation, parts: list[ContentPart], recorder: Recorder
) -> tuple[list[Event], list[int]]:
    recorder.codes.clear()
    events = list(conversation.send(parts, spoken(recorder)))
    return events, conversation.last_tokens


def spoken(recorder: Recorder) -> ReplyOptions:
    return ReplyOptions(
        # The whole utterance as look-ahead: only then is the stream's mel the reference's.
        speech=SpeechOptions(
            "Ethan", "faithful", GREEDY_CODES, CODES, recorder.blocks, chunks="whole"
        ),
        max_tokens=TOKENS,
    )


def reference_inputs(prompts: list[Prompt], replies: list[list[int]]) -> dict[str, Any]:
    """Return all turns as one prompt for the reference."""
    ids: list[int] = []
    for prompt, tokens in zip(prompts, [*replies, []], strict=True):
        ids += [*prompt.ids.tolist(), *tokens]
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    slots = [slot for prompt in prompts for slot in prompt.media]
    mels = [slot.features for slot in slots if slot.kind == "audio"]
    if mels:
        longest = max(mel.shape[1] for mel in mels)  # type: ignore[union-attr]
        padded = np.zeros((len(mels), 128, longest), np.float32)
        mask = np.zeros((len(mels), longest), np.int64)
        for row, mel in enumerate(mels):
            padded[row, :, : mel.shape[1]] = mel  # type: ignore[union-attr]
            mask[row, : mel.shape[1]] = 1  # type: ignore[union-attr]
        inputs["input_features"] = torch.from_numpy(padded)
        inputs["feature_attention_mask"] = torch.from_numpy(mask)
    for kind, values, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        found = [s.features for s in slots if s.kind == kind and isinstance(s.features, Patches)]
        if found:
            inputs[values] = torch.from_numpy(np.concatenate([f.values for f in found]))
            inputs[grids] = torch.tensor([f.grid for f in found])
            if kind == "video":
                inputs["video_second_per_grid"] = torch.tensor([1.0] * len(found))
    return inputs


def check(
    twin: Twin,
    recorder: Recorder,
    events: list[Event],
    tokens: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    sound_in_video: bool = False,
) -> None:
    codes: list[int] = []
    token2wav = twin.reference.token2wav
    forward = type(token2wav).forward

    def spy(self: Any, code: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        codes.extend(code[0].tolist())
        return forward(self, code, *args, **kwargs)

    monkeypatch.setattr(type(token2wav), "forward", spy)
    monkeypatch.setattr(torch, "randn", lambda *a, **k: torch.from_numpy(recorder.noise))
    inputs = reference_inputs(recorder.prompts, tokens[:-1])
    sequences, wave = twin.reference.generate(
        **inputs,
        speaker="Ethan",
        use_audio_in_video=sound_in_video,
        thinker_max_new_tokens=TOKENS + 1,
        thinker_do_sample=False,
        talker_do_sample=False,
        talker_max_new_tokens=CODES + 1,
        talker_eos_token_id=list(twin.model.speech.talker.codec_eos),
    )
    assert tokens[-1] == sequences[0, inputs["input_ids"].shape[1] :].tolist()[:TOKENS]
    done = events[-1]
    assert isinstance(done, TurnDone)
    assert done.text == "".join(e.text for e in events if isinstance(e, TextDelta))
    assert codes == recorder.codes
    spoken = np.concatenate([e.samples for e in events if isinstance(e, AudioDelta)])
    assert len(spoken) == 480 * len(codes)
    assert relative(spoken, wave.numpy()) < 1e-3


PROMPTS = {
    "text": ["text"],
    "audio": ["audio"],
    "image": ["image", "text"],
    "video": ["video", "text"],
    "clip": ["clip", "text"],
    "mixed": ["image", "audio", "text", "image"],
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_reply_equals_reference(
    twin: Twin, kind: str, media: dict[str, ContentPart], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(twin, monkeypatch)
    conversation = Conversation(twin.model)
    events, tokens = reply(conversation, [media[name] for name in PROMPTS[kind]], recorder)
    check(
        twin,
        recorder,
        events,
        [tokens],
        monkeypatch,
        sound_in_video=kind == "clip",
    )


def test_pictures_that_outlast_the_sound(
    default_twin: Twin,
    media: dict[str, ContentPart],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The Talker's first rows continue the text, the following ones are behind the pictures."""
    recorder = Recorder(default_twin, monkeypatch)
    conversation = Conversation(default_twin.model)
    events, tokens = reply(conversation, [media["text"], media["long clip"]], recorder)
    positions, following = recorder.prompts[0].positions, recorder.prompts[0].next_position
    assert positions[0, -1] + 3 < following
    codes = [*recorder.codes]
    with monkeypatch.context() as patch:
        check(default_twin, recorder, events, [tokens], patch, sound_in_video=True)
    conversation.save(tmp_path / "saved")
    loaded = Conversation.load(tmp_path / "saved", default_twin.model)
    for again in (conversation, conversation.fork(), loaded):
        recorder.codes.clear()
        list(again.regenerate(spoken(recorder)))
        assert (again.last_tokens, recorder.codes) == (tokens, codes)


def test_three_turns_equal_reference(
    twin: Twin, media: dict[str, ContentPart], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(twin, monkeypatch)
    conversation = Conversation(twin.model)
    tokens: list[list[int]] = []
    for turn in (["image", "text"], ["audio"], ["text"]):
        events, said = reply(conversation, [media[name] for name in turn], recorder)
        tokens.append(said)
        with monkeypatch.context() as patch:
            check(twin, recorder, events, tokens, patch)
