"""What a folder or a config.json is, for errors that name it and say what to do instead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_runtime.errors import OmniError, UsageError

COMPLETE, THINKER = "qwen2_5_omni", "qwen2_5_omni_thinker"

PARTS = {
    "qwen2_5_omni_talker": "the Talker of Qwen2.5-Omni alone",
    "qwen2_5_omni_token2wav": "the Token2Wav of Qwen2.5-Omni alone",
    "qwen2_5_omni_text": "the decoder of Qwen2.5-Omni's Thinker alone",
}

QUANTIZED = {
    "awq": "an AWQ checkpoint",
    "gptq": "a GPTQ checkpoint",
    "bitsandbytes": "a bitsandbytes checkpoint",
    "fp8": "an fp8 checkpoint",
    "fbgemm_fp8": "an fp8 checkpoint",
    "compressed-tensors": "a compressed-tensors checkpoint",
    "auto-round": "an AutoRound checkpoint",
}

FILES = {
    "adapter_config.json": (
        "is an adapter of PEFT, not a model",
        "give --model the checkpoint it was trained on, and --adapter this folder",
    ),
    "manifest.json": ("is a bundle already", "omni run it"),
    "model_index.json": ("is a pipeline of diffusers", "only Qwen2.5-Omni can be exported"),
    "*.gguf": (
        "has GGUF files of llama.cpp",
        "give --model the Hugging Face checkpoint that they were made from",
    ),
    "global_step*": (
        "is a training state of DeepSpeed",
        "give --model the folder that save_pretrained wrote, or run zero_to_fp32.py",
    ),
    "*.distcp": (
        "is a distributed training state of torch",
        "write a checkpoint from it: accelerate merge-weights",
    ),
}
"""Files that tell what a folder without config.json is, and what to do."""


def name_of(config: dict[str, Any]) -> str:
    """Return what a config.json describes, for example "a GPTQ checkpoint"."""
    if (method := quantization(config)) is not None:
        return QUANTIZED.get(method, f"a checkpoint quantized by {method}")
    kind = config.get("model_type")
    known = {COMPLETE: "Qwen2.5-Omni", THINKER: "the Thinker of Qwen2.5-Omni", **PARTS}
    return known.get(str(kind), f"a model of type {kind!r}")


def quantization(config: dict[str, Any]) -> str | None:
    """Return the method of a quantized checkpoint, wherever its config.json has it; else None."""
    found = quantization_config(config)
    return None if found is None else method_of(found)


def quantization_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of a quantized checkpoint from its config.json; None without any."""
    thinker = config.get("thinker_config")
    decoder = thinker.get("text_config") if isinstance(thinker, dict) else None
    for section in (config, thinker, decoder):
        found = section.get("quantization_config") if isinstance(section, Mapping) else None
        if isinstance(found, dict):
            return dict(found)
    return None


def method_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the method, for example "gptq"."""
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method", "an unknown method")).lower()


def require_supported(config: dict[str, Any], folder: Path) -> None:
    """Raise UsageError unless the model is Qwen2.5-Omni or its Thinker."""
    if config.get("model_type") not in (COMPLETE, THINKER):
        raise UsageError(
            f"{folder} holds {name_of(config)}; only {COMPLETE!r} and its Thinker can be exported",
            fix="for example --model Qwen/Qwen2.5-Omni-3B",
        )


def missing(path: Path) -> OmniError:
    """Return the error for a folder that lacks a file; it says what the folder is."""
    folder = path.parent
    if path.name == "config.json":
        for pattern, (what, fix) in FILES.items():
            if next(folder.glob(pattern), None) is not None:
                return UsageError(f"{folder} {what}", fix=fix)
    return OmniError(
        f"{folder} has no {path.name}, so it is not a Hugging Face checkpoint",
        fix="give --model a folder with config.json and *.safetensors, or a hub id",
    )
