"""Training of the embedded default checkpoint: a Qwen2.5-Omni of 12 million parameters.

One module a stage, each run as `python -m tiny.<stage>`; see tiny/README.md for the order.
"""

# Turns off telemetry, so it comes before onnxruntime and huggingface_hub.
from omni_runtime import NO_TELEMETRY as NO_TELEMETRY
