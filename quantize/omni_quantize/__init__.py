"""Quantization: recipes, methods, and the measurement of their error."""

# Disables telemetry, so import it before onnxruntime and huggingface_hub.
from omni_runtime import NO_TELEMETRY as NO_TELEMETRY
