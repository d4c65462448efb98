"""Recipes and methods for fewer bits: which weights, how, and what it costs."""

import omni_runtime  # noqa: F401 - turns off telemetry, so before onnxruntime and huggingface_hub
