"""The trained checkpoint answers questions about text and media, in int4 and float32."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from PIL import ImageDraw
from tiny import judges, muon

from inputs.samples import write_media
from omni_runtime.conversation import Conversation
from omni_runtime.engine.chunk_scheduler import ChunkPolicy
from omni_runtime.events import AudioDelta, TextDelta, TurnDone
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.messages import Audio, ContentPart, Image, Message, Text, Video
from omni_runtime.inputs.pixels import Patches
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

DATA = Path(__file__).parent / "data"
WRITTEN = ReplyOptions(speech=None, max_tokens=40)
ANSWERS = {
    "Hello!": "Hello! How can I help you?",
    "What is seven plus five?": "Seven plus five is twelve.",
    "What is 3 plus 4?": "Three plus four is seven.",
    "How much is eight plus two?": "Eight plus two is ten.",
    "What is ten minus four?": "Ten minus four is six.",
    "Take three from nine.": "Nine minus three is six.",
    "What comes after nine?": "Ten comes after nine.",
    "What number is just before six?": "Five comes before six.",
    "Which is bigger, four or eleven?": "Eleven is bigger than four.",
    "Count to five.": "One, two, three, four, five.",
    "How many sides does a triangle have?": "A triangle has three sides.",
    "What color is the sky?": "The sky is blue.",
    "What is the opposite of up?": "The opposite of up is down.",
    "What is nineteen minus six?": "Nineteen minus six is thirteen.",
    "Count from three to six.": "Three, four, five, six.",
    "What is the opposite of hot?": "The opposite of hot is cold.",
    "What day comes after Friday?": "Saturday comes after Friday.",
    "How many wheels does a car have?": "A car has four wheels.",
    "Repeat after me: The red star is at the top.": "The red star is at the top.",
    "Who made you?": "I am Pocket Omni, a small model that can see, hear and speak.",
    "Who are you?": "I am Pocket Omni, a small model that can see, hear and speak.",
    "What can you do?": "I can count shapes, name colors, add small numbers and answer aloud.",
    "How are you?": "I am fine, thank you.",
    "Thank you!": "You are welcome.",
    "Goodbye!": "Goodbye!",
    "What is the capital of France?": "I am sorry, I do not know that.",
    "What color is the circle?": "I see no picture.",
}

HEARD = (
    "What is seven plus five?", "What comes after nine?", "What color is the sky?",
    "How many sides does a triangle have?",
)  # fmt: skip


def answer(model: Model, parts: Sequence[ContentPart] | str) -> str:
    *_, done = Conversation(model).send(parts, WRITTEN)
    assert isinstance(done, TurnDone)
    return done.text


def drawn(places: Sequence[tuple[str, str, float, float]], side: int = 336) -> Picture.Image:
    """Draw circles and squares on a grid of three by three."""
    image = Picture.new("RGB", (side, side), (140, 145, 138))
    draw, cell = ImageDraw.Draw(image), side / 3
    for color, shape, column, row in places:
        x, y, r = cell * (column + 0.5), cell * (row + 0.5), cell * 0.35
        box = (x - r, y - r, x + r, y + r)
        if shape == "circle":
            draw.ellipse(box, fill=color)
        else:
            draw.rectangle(box, fill=color)
    return image


def picture(*places: tuple[str, str, float, float]) -> Image:
    file = io.BytesIO()
    drawn(places).save(file, "png")
    return Image(file.getvalue())


def film(path: Path, sound: np.ndarray | None = None) -> Video:
    """Write a video of a blue square that moves left for two seconds; audio is at 16 kHz."""
    frames = [
        np.asarray(drawn([("#2846cd", "square", 1.9 - 1.8 * i / 3, 1)], side=168)) for i in range(4)
    ]
    codecs = {"video_codec": "ffv1", "audio_codec": "flac"}
    return Video(
        write_media(path / "film.mkv", sound=sound, rate=16_000, frames=frames, fps=2, **codecs)
    )


@pytest.fixture(scope="module", params=["fp32", "int4"])
def model(request: pytest.FixtureRequest, export_trained: Callable[[str], Path]) -> Model:
    return Model(export_trained(request.param))


@pytest.mark.parametrize("question", ANSWERS)
def test_typed_questions(model: Model, question: str) -> None:
    """Both recipes give the same, correct answer."""
    assert answer(model, question) == ANSWERS[question]


def test_an_image(model: Model) -> None:
    one = picture(("#cd2323", "circle", 1, 0))
    assert answer(model, [one, Text("What color is the circle?")]) == "It is red."


def test_a_count(model: Model) -> None:
    three = [("#2846cd", "circle", x, y) for x, y in ((0, 0), (2, 0), (1, 2))]
    asked = [picture(*three, ("#cd2323", "square", 0, 2)), Text("How many shapes are there?")]
    assert answer(model, asked) == "There are four shapes."


def test_a_video(model: Model, tmp_path: Path) -> None:
    """The video has the resolution of the training data: a grid of 14-pixel patches."""
    asked = [film(tmp_path), Text("Which way does it move?")]
    (sight,) = model.prompts.build([Message("user", asked)]).media
    assert isinstance(sight.features, Patches)
    assert sight.features.grid == (2, 6, 6)
    assert answer(model, asked) == "It moves to the left."


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("seven_plus_five", "What is seven plus five?"),
        ("color_of_the_sky", "What color is the sky?"),
    ],
)
def test_a_spoken_question(model: Model, name: str, question: str) -> None:
    """The voices are not in the training data, and there is noise."""
    assert answer(model, [Audio((DATA / f"{name}.flac").read_bytes())]) == ANSWERS[question]


def test_a_spoken_number(model: Model) -> None:
    asked = [Audio((DATA / "ten.flac").read_bytes()), Text("What number did I say?")]
    assert answer(model, asked) == "You said ten."


def test_sound_without_a_question(model: Model) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 24_000).astype(np.float32)
    assert answer(model, [Audio((noise, 16_000))]) == "I did not understand you."


def test_a_video_with_audio(model: Model, tmp_path: Path) -> None:
    voice = load_audio(DATA / "ten.flac", 16_000)
    asked = [film(tmp_path, voice), Text("What does the voice say?")]
    assert answer(model, asked) == "The voice says ten."


def test_a_second_turn(model: Model) -> None:
    conversation = Conversation(model)
    list(
        conversation.send(
            [picture(("#cd2323", "circle", 0, 1)), Text("What shape is it?")], WRITTEN
        )
    )
    *_, done = conversation.send("And what color is it?", WRITTEN)
    assert isinstance(done, TurnDone)
    assert done.text == "It is red."


def spoken(model: Model, question: str, voice: str, pace: ChunkPolicy) -> np.ndarray:
    options = ReplyOptions(SpeechOptions(voice, chunks=pace))
    events = list(Conversation(model).send(question, options))
    assert isinstance(events[-1], TurnDone)
    assert events[-1].speech_complete
    assert any(isinstance(event, TextDelta) for event in events)
    return np.concatenate([e.samples for e in events if isinstance(e, AudioDelta)])


@pytest.mark.parametrize("pace", ["fixed", "adaptive", "whole"])
@pytest.mark.parametrize("voice", ["Joe", "Ada"])
def test_speech_is_recognized(model: Model, voice: str, pace: ChunkPolicy) -> None:
    """A recognizer that knows the model's sentences transcribes streamed and whole speech.

    One word in 25 is misheard on average, and the processor decides which: the weights of int4 are
    fitted to replies that depend on its rounding.
    """
    heard, meant = [], []
    for question in HEARD:
        sound = spoken(model, question, voice, pace)
        assert 0.02 < np.sqrt(np.mean(sound**2)) < 0.5
        heard.append(judges.sphinx(sound))
        meant.append(ANSWERS[question])
    assert judges.word_error_rate(heard, meant) <= 0.15
    assert judges.word_error_rate(heard, judges.rotated(meant)) > 0.5


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16)])
def test_muon_orthogonalizes_updates(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    steep = torch.randn(shape) * torch.logspace(0, 2, shape[2])
    values = torch.linalg.svdvals(muon.orthogonal(steep))
    assert values.min() > 0.3 and values.max() < 1.3
