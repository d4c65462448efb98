"""Training of the embedded default checkpoint: a Qwen2.5-Omni of 21 million parameters.

Each stage is one module, run as `python -m tiny.<stage>`. tiny/README.md has the order.
"""

# Disables telemetry, so it must precede the imports of onnxruntime and huggingface_hub.
from omni_runtime import NO_TELEMETRY as NO_TELEMETRY
