"""The child of `tests.trust.fuzz`: one damaged medium or strange prompt for each seed on stdin.

    python -m tests.trust.fuzz_worker BUNDLE media|prompts FOLDER

Prints one JSON line a seed: [result, recipe].
"""

import json
import logging
import random
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tests.inputs.samples import frame, picture, sweep, write_media

from omni_runtime.conversation import Conversation
from omni_runtime.engine.sampling import Sampling
from omni_runtime.engine.session import SessionOptions
from omni_runtime.errors import OmniError
from omni_runtime.inputs.image import load_image
from omni_runtime.inputs.media import load_audio
from omni_runtime.inputs.messages import Message, Text
from omni_runtime.inputs.video import load_video
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

PHOTOS = Path(__file__).parents[1] / "data"
MEMORY = 2**29 * 11 // 10
"""Bytes that one medium may take: half a gigabyte and a tenth."""

AUDIO = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "m4a": "aac",
         "mka": "pcm_f32le", "aiff": "pcm_s16be", "ac3": "ac3"}  # fmt: skip
VIDEO = {"mp4": "libx264", "webm": "libvpx", "avi": "mpeg4", "gif": "gif", "ts": "mpeg2video",
         "flv": "flv", "h264": "libx264", "mkv": "mpeg4"}  # fmt: skip
IMAGES = ("png", "jpg", "webp", "gif", "bmp", "tiff", "tga", "pcx", "ico", "jp2", "ppm", "avif")
PIECES = (
    "Hello", " ", "\n", "<|im_end|>", "<|im_start|>assistant\n", "<|AUDIO|>", "<|IMAGE|>", "\u00e9",
    "\ud800", "\0", "\x1b[31m", "\ue0000\ue001", "\ue000", "{{ 1 }}", "{% for", "\u202e", "</s>",
    "a" * 300, "\ufffd", "7 + 5 = ", "\r\n", "\u0300" * 20, "\U0001f469\u200d\U0001f467", "\u4e2d",
)  # fmt: skip


def make_media(folder: Path) -> None:
    """Write one small intact file of each format that this libav and Pillow can write."""
    sound, frames = sweep(0.4, 48000), [frame(i, 32, 32) for i in range(12)]
    for suffix, codec in AUDIO.items():
        write_media(folder / f"a.{suffix}", sound=sound, audio_codec=codec)
    for suffix, codec in VIDEO.items():
        both = {"sound": sound, "audio_codec": "aac"} if suffix in ("mp4", "mkv", "ts") else {}
        write_media(folder / f"v.{suffix}", frames=frames, video_codec=codec, **both)
    image = Image.fromarray(picture(24, 30))
    for suffix in IMAGES:
        image.save(folder / f"i.{suffix}")
    image.convert("RGBA").save(folder / "alpha.png")
    image.save(folder / "moving.webp", save_all=True, append_images=[image] * 5)
    for photo in PHOTOS.glob("*.heic"):
        shutil.copy(photo, folder / f"i.{photo.name}")


def mutate(data: bytes, other: bytes, r: random.Random) -> tuple[bytes, str]:
    """Damage a file in one of the ways that files get damaged, or are forged."""
    made, how = bytearray(data), r.choice(("flip", "flip", "number", "cut", "insert", "join", "ff"))
    head = len(made) if r.random() < 0.5 else min(len(made), 200)
    at = r.randrange(head)
    match how:
        case "flip":
            for _ in range(r.choice((1, 1, 3, 12, 60))):
                made[r.randrange(head)] ^= 1 << r.randrange(8)
        case "number":
            width = r.choice((1, 2, 4, 8))
            value = r.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63, 2**16, 9400, 2**14))
            order = r.choice(("big", "little"))
            made[at : at + width] = (value % 256**width).to_bytes(width, order)
        case "cut":
            del made[at : at + r.choice((1, 7, len(made)))]
        case "insert":
            made[at:at] = r.randbytes(r.choice((1, 8, 1000)))
        case "join":
            made[at:] = other[r.randrange(len(other)) :]
        case _:
            made[at : at + 40] = r.choice((b"\xff", b"\0")) * 40
    return bytes(made), f"{how} at {at}"


def media(model: Model, folder: Path) -> Callable[[random.Random], str]:
    """Return the run of one damaged file; it returns the recipe."""
    files = sorted(folder.iterdir())
    vision = model.config.vision
    assert vision is not None

    def run(r: random.Random) -> str:
        path, other = r.choice(files), r.choice(files)
        data, how = mutate(path.read_bytes(), other.read_bytes(), r)
        kinds = {"i": load_image, "a": load_audio, "m": load_image, "v": load_audio}
        load = kinds[path.name[0]]
        if r.random() < 0.5 and path.name[0] in "vm":
            load = lambda source: load_video(source, vision, max_tokens=4096)  # noqa: E731
        run.recipe = f"{path.name}, {how}"
        load(data)
        return run.recipe

    return run


def prompts(model: Model, folder: Path) -> Callable[[random.Random], str]:
    """Return the run of one strange prompt; it returns the recipe."""

    def run(r: random.Random) -> str:
        texts = ["".join(r.choices(PIECES, k=r.choice((0, 1, 3, 20)))) for _ in range(4)]
        history = [Message("user", [Text(texts[0])]), Message("assistant", [Text(texts[1])])]
        number = r.choice((0.0, 0.7, 1.0, -1.0, float("nan"), 1e300, 5e-324))
        run.recipe = f"{texts} {number}"
        speech = (
            SpeechOptions(preset="fast", max_codes=r.choice((0, 3))) if r.random() < 0.1 else None
        )
        sampling = Sampling(temperature=number, top_p=r.choice((1.0, 0.5, number)))
        talk = Conversation(model, system=texts[2], history=history * r.choice((0, 0, 1, 3)))
        options = ReplyOptions(
            speech, sampling=sampling, max_tokens=2, seed=r.choice((0, 2**64 - 1))
        )
        list(talk.send([Text(texts[3])] * r.choice((1, 1, 2)), options))
        return run.recipe

    return run


def peak() -> int:
    """Return the peak resident bytes since the last reset."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))


def reset_peak() -> None:
    """Let `peak` begin again."""
    Path("/proc/self/clear_refs").write_text("5")


def main(bundle: str, kind: str, folder: Path) -> None:
    """Answer each seed."""
    model = Model(bundle, SessionOptions(threads=1))
    run = {"media": media, "prompts": prompts}[kind](model, folder)
    if kind == "prompts":  # open the graphs
        list(Conversation(model).send("Hello", ReplyOptions(None, max_tokens=2)))
    logging.disable()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        reset_peak()
        before, result, detail = peak(), "answered", ""
        try:
            run(random.Random(int(line)))
        except OmniError as error:
            result = "refused" if "\n" not in str(error) else "lines"
        except Exception:
            result, detail = "traceback", traceback.format_exc().splitlines()[-1]
        if kind == "media" and (taken := peak() - before) > MEMORY:
            result, detail = "memory", f"{taken:,} bytes"
        recipe = f"{kind}: {getattr(run, 'recipe', '')}: {detail}"
        sys.stdout.write(json.dumps([result, recipe]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    np.seterr(all="ignore")
    av.logging.set_level(None)
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
