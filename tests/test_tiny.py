"""The small trained checkpoint: its int4 bundle answers typed questions as its fp32 bundle does."""

from pathlib import Path

import numpy as np
import pytest

from conftest import export_to
from omni_runtime.conversation import Conversation
from omni_runtime.events import AudioDelta, TurnDone
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

CHECKPOINT = Path(__file__).parent.parent / "tiny" / "checkpoint"
ANSWERS = {
    "Hello!": "Hello! How can I help you?",
    "What is seven plus five?": "Seven plus five is twelve.",
    "What is ten minus four?": "Ten minus four is six.",
    "Who are you?": "I am Pocket Omni, a small model that can see, hear and speak.",
    "What is the capital of France?": "I am sorry, I do not know that.",
}


@pytest.fixture(scope="module", params=["fp32", "int4"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("tiny") / request.param
    return Model(export_to(CHECKPOINT, folder, request.param))


@pytest.mark.parametrize("question", ANSWERS)
def test_typed_questions(model: Model, question: str) -> None:
    *_, done = Conversation(model).send(question, ReplyOptions(speech=None))
    assert isinstance(done, TurnDone)
    assert done.text == ANSWERS[question]


@pytest.mark.parametrize("voice", ["Joe", "Ada"])
def test_the_reply_is_spoken_to_its_end(model: Model, voice: str) -> None:
    options = ReplyOptions(SpeechOptions(voice, "fast"))
    events = list(Conversation(model).send("What is seven plus five?", options))
    done = events[-1]
    assert isinstance(done, TurnDone)
    assert done.speech_complete
    assert 1.0 < done.timings.speech < 4.0, "eight syllables"
    sound = np.concatenate([e.samples for e in events if isinstance(e, AudioDelta)])
    assert 0.02 < np.sqrt(np.mean(sound**2)) < 0.5
