"""Run a bundle of Qwen2.5-Omni on a CPU: text, sound, pictures in, text and speech out.

Importing this package turns off the telemetry of the libraries below it. It must be imported
before them, so `omni_export`, `omni_quantize` and `tiny` import it first.
"""

import os

NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""ONNX Runtime reads its variable when it is loaded. Its function `disable_telemetry_events` comes
too late: by then it has stored a device id, and it still sends. Child processes inherit both."""

os.environ.update(NO_TELEMETRY)
