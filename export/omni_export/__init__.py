"""Export of a Hugging Face checkpoint of Qwen2.5-Omni to a bundle of ONNX graphs."""

# Disables telemetry, so import it before onnxruntime and huggingface_hub.
from omni_runtime import NO_TELEMETRY as NO_TELEMETRY
