"""Run Qwen2.5-Omni bundles on a CPU: text, audio, images and video in, text and speech out.

The names listed here are the public interface. Each is imported on first use. Importing this
package turns off the telemetry of its dependencies. It must be imported before them, so
`omni_export`, `omni_quantize` and `tiny` import it first.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""ONNX Runtime reads its variable when it is loaded. `disable_telemetry_events` is too late: it is
called after a device id was stored, and does not stop all events. Child processes inherit both."""

os.environ.update(NO_TELEMETRY)

if TYPE_CHECKING:
    from omni_runtime.conversation import Conversation as Conversation
    from omni_runtime.engine.sampling import Sampling as Sampling
    from omni_runtime.engine.session import SessionOptions as SessionOptions
    from omni_runtime.errors import OmniError as OmniError
    from omni_runtime.events import AudioDelta as AudioDelta
    from omni_runtime.events import TextDelta as TextDelta
    from omni_runtime.events import TurnDone as TurnDone
    from omni_runtime.inputs.audio_stream import AudioStream as AudioStream
    from omni_runtime.inputs.messages import Audio as Audio
    from omni_runtime.inputs.messages import Image as Image
    from omni_runtime.inputs.messages import Message as Message
    from omni_runtime.inputs.messages import Text as Text
    from omni_runtime.inputs.messages import Video as Video
    from omni_runtime.model import Model as Model
    from omni_runtime.options import ReplyOptions as ReplyOptions
    from omni_runtime.options import SpeechOptions as SpeechOptions
    from omni_runtime.serving.engine import Engine as Engine

_MODULES = {
    "Audio": "inputs.messages",
    "AudioDelta": "events",
    "AudioStream": "inputs.audio_stream",
    "Conversation": "conversation",
    "Engine": "serving.engine",
    "Image": "inputs.messages",
    "Message": "inputs.messages",
    "Model": "model",
    "OmniError": "errors",
    "ReplyOptions": "options",
    "Sampling": "engine.sampling",
    "SessionOptions": "engine.session",
    "SpeechOptions": "options",
    "Text": "inputs.messages",
    "TextDelta": "events",
    "TurnDone": "events",
    "Video": "inputs.messages",
}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `omni --help` starts quickly."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
