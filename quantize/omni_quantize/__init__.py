"""Recipes and methods for fewer bits: which weights, how, and what it costs."""

# Turns off telemetry, so it comes before onnxruntime and huggingface_hub.
from omni_runtime import NO_TELEMETRY as NO_TELEMETRY
