"""What a user of the command line can do about an error, by the error's code.

The library does not know the flags. A hint replaces the `fix` of an error that has one of these
codes. `{name}` stands for a value of the error's `details`.
"""

from omni_runtime.errors import OmniError

EXPORT_AGAIN = "export it again: python export/run.py --model CHECKPOINT"

HINTS = {
    "benchmark_process": "omni doctor BUNDLE",
    "context_too_short": "a larger --context or --memory",
    "golden_folder": "give another --output",
    "invalid_bundle": EXPORT_AGAIN,
    "invalid_vectors": "make it again: omni golden BUNDLE --output FOLDER",
    "kv_cache_type": "--kv-cache {dtype}",
    "no_bundle": "python export/run.py makes one",
    "no_int8_cache": "leave out --kv-cache, or export it again where there is room for a reply",
    "no_smart_turn": "omni download smart-turn",
    "no_speech": "--no-speech",
    "other_bundle": "omni run with {bundle}, or start a new conversation",
    "out_of_memory": "--memory {needed}, a shorter --context, --no-speech for text only, "
    "or a bundle of a smaller recipe (--quant int4)",
    "unknown_benchmark": "--only {known}",
}


def hint(error: OmniError) -> str | None:
    """Return the hint for an error, or the error's own `fix` if there is none."""
    template = HINTS.get(error.code)
    return error.fix if template is None else template.format_map(error.details)
