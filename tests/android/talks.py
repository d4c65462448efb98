"""Random conversations: text, pictures, sounds, films, several turns, cuts."""

import io
import wave
from typing import Any

import numpy as np
from PIL import Image as Picture

from omni_runtime.bundle.config import ModelConfig
from omni_runtime.golden.vectors import File, Tensor, Values

TEXT = "what is seven plus five the blue dog sees 42 birds? Grüße, 你好 more!"
WORDS = [*TEXT.split(" "), "\n"]
SIZES = [(61, 90), (33, 140), (200, 101), (84, 84), (29, 31)]


class Script:
    """Draws the operations of one conversation."""

    def __init__(self, seed: int, config: ModelConfig) -> None:
        self._random = np.random.default_rng(seed)
        self._config = config

    def turn(self, parts: list[Values]) -> Values:
        """Return the request of a turn; one in four is stopped early."""
        cancel = None
        if self._random.random() < 0.25:
            kind = str(self._random.choice(["text", "audio"]))
            cancel = {
                "event": kind,
                "count": int(self._random.integers(1, 6 if kind == "text" else 3)),
            }
        return {"parts": parts, "options": self.options(), "cancel_after": cancel}

    def options(self) -> Values:
        """Return reply options: greedy and sampled ones, with and without speech."""
        draw = self._random
        greedy = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        loose = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1}
        speech = None
        if self._config.speech is not None and draw.random() < 0.85:
            own = draw.random() < 0.4
            penalized = {**greedy, "repetition_penalty": 1.05}
            speech = {
                "voice": str(draw.choice(list(self._config.speech.voices))),
                "preset": str(draw.choice(list(self._config.speech.presets))),
                "sampling": None if own else penalized,
                "max_codes": int(draw.integers(10, 90)),
                "chunks": str(draw.choice(["fixed", "fixed", "whole"])),
            }
        return {
            "speech": speech,
            "sampling": loose if draw.random() < 0.3 else greedy,
            "max_tokens": int(draw.integers(4, 30)),
            "seed": int(draw.integers(0, 2**40)),
        }

    def parts(self) -> list[Values]:
        """Return the parts of a message: a text, and often a medium before or behind it."""
        draw = self._random
        parts: list[Values] = [{"text": self.text()}]
        if draw.random() < 0.7:
            kinds = [self.picture, self.sound, self.film, lambda: self.film(with_sound=False)]
            parts.insert(int(draw.integers(0, 2)), kinds[draw.integers(0, 4)]())
        return parts

    def text(self) -> str:
        return " ".join(map(str, self._random.choice(WORDS, self._random.integers(1, 12))))

    def sound(self) -> Values:
        return {"sound": self.wav(float(self._random.uniform(0.05, 5)))}

    def picture(self) -> Values:
        height, width = SIZES[self._random.integers(0, len(SIZES))]
        data = io.BytesIO()
        Picture.fromarray(self._pixels(1, height, width)[0]).save(data, "PNG")
        return {"picture": File("picture.png", data.getvalue())}

    def film(self, *, with_sound: bool = True) -> Values:
        frames = int(self._random.integers(1, 20))
        rate = int(self._random.integers(1, 6))
        part = float(self._random.choice([1, 0.55]))  # the pictures may outlast the sound
        sound = self.wav(part * frames / rate) if with_sound else None
        return {
            "video": {"frames": Tensor(self._pixels(frames, 16, 24)), "rate": rate, "sound": sound}
        }

    def wav(self, seconds: float) -> File:
        """Return a wav file at the model's rate: tones that come and go."""
        assert self._config.audio is not None
        rate = self._config.audio.sample_rate
        time = np.arange(max(int(seconds * rate), 1)) / rate
        tone = np.sin(2 * np.pi * self._random.uniform(80, 3000) * time)
        tone *= np.sin(2 * np.pi * self._random.uniform(0.2, 3) * time) ** 2
        data = io.BytesIO()
        with wave.open(data, "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(np.rint(tone * 12000).astype("<i2").tobytes())
        return File("sound.wav", data.getvalue())

    def _pixels(self, frames: int, height: int, width: int) -> Any:
        coarse = self._random.integers(0, 256, (frames, 4, 5, 3)).astype(np.uint8)
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
        return np.ascontiguousarray(coarse[:, rows][:, :, columns])

    def after(self) -> str:
        """Return what happens behind a turn."""
        return str(self._random.choice(["", "", "interrupt", "undo", "regenerate", "fork", "room"]))

    def heard(self) -> float:
        return float(self._random.uniform(0, 3))

    def reads_ahead(self) -> bool:
        return bool(self._random.random() < 0.3)


def run(script: Script, talk: Any, given: Any, turns: int = 3) -> list[Any]:
    """Carry a conversation out on one of the two runtimes; `given` converts requests for it."""
    results: list[Any] = []

    def ask(name: str, **request: Any) -> Any:
        results.append(talk.ask(name, **given(request)))
        return results[-1]

    for _ in range(turns):
        parts = script.parts()
        if script.reads_ahead():
            ask("read_ahead", parts=parts, more=False, speech=True)
        said = ask("send", **script.turn(parts))
        after, heard, options = script.after(), script.heard(), script.options()
        if "error" in said:
            continue
        if after == "interrupt" and said["speech_complete"] is not None:
            ask("interrupt", heard=heard)
        elif after == "undo":
            ask("undo")
        elif after == "regenerate":
            ask("regenerate", options=options)
        elif after == "room":
            ask("make_room", tokens=said["limit"] - said["used"] + 1)
        elif after == "fork":
            talk = talk.fork()
    talk.ask("close")
    return results
