"""From a Hugging Face checkpoint of Qwen2.5-Omni to a bundle of ONNX graphs."""
