"""Answers questions with a bundle inside the emulator.

    answers.py QUESTIONS ANSWERS BUNDLE ours|kleidiai|mlas

QUESTIONS is a pickle of pairs (messages before, parts of the question). Writes their texts to
ANSWERS. `ours` compiles our kernels first, as on a laptop; the others are ONNX Runtime's operators
with and without KleidiAI.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort

from omni_runtime.conversation import Conversation
from omni_runtime.engine import kernels
from omni_runtime.engine.session import SessionOptions
from omni_runtime.events import TextDelta
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions


class WithoutKleidiAI(ort.SessionOptions):
    """Options of sessions that run MLAS' own products."""

    def __init__(self) -> None:
        super().__init__()
        self.add_session_config_entry("mlas.disable_kleidiai", "1")


def open_model(bundle: Path, how: str) -> Model:
    """Open a bundle with one kind of kernels. Raises RuntimeError if ours cannot be compiled."""
    if how == "ours":
        found = kernels.build()
        if found.library is None:
            raise RuntimeError(f"{found.problem} ({found.fix})")
        sys.stderr.write(f"{found.library.name}, int8 products by {kernels.products()}\n")
    if how == "mlas":
        ort.SessionOptions = WithoutKleidiAI
    options: Any = {"threads": 1, "native": how == "ours", "prepack_cache": False}
    return Model(bundle, SessionOptions(**options))


def main() -> None:
    """Answer all questions."""
    questions, answers, bundle, how = sys.argv[1:]
    model = open_model(Path(bundle), how)
    texts: list[str] = []
    for before, parts in pickle.loads(Path(questions).read_bytes()):
        conversation = Conversation(model)
        conversation.messages.extend(before)
        events = conversation.send(parts, ReplyOptions(speech=None, max_tokens=40))
        texts.append("".join(one.text for one in events if isinstance(one, TextDelta)).strip())
        if len(texts) % 20 == 0:
            sys.stderr.write(f"{how}: {len(texts)} answers\n")
    Path(answers).write_bytes(pickle.dumps(texts))


if __name__ == "__main__":
    main()
