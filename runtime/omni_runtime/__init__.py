"""Run a bundle of Qwen2.5-Omni on a CPU: text, sound, pictures in, text and speech out."""
