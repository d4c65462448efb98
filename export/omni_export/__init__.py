"""From a Hugging Face checkpoint of Qwen2.5-Omni to a bundle of ONNX graphs."""

import omni_runtime  # noqa: F401 - turns off telemetry, so before onnxruntime and huggingface_hub
