"""Training of the embedded default checkpoint: a Qwen2.5-Omni of 12 million parameters.

One module a stage, each run as `python -m tiny.<stage>`; see tiny/README.md for the order.
"""

import omni_runtime  # noqa: F401 - turns off telemetry, so before onnxruntime and huggingface_hub
