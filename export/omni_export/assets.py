"""Files of the bundle besides the graphs: tokenizer, chat template, licence."""

import shutil
from pathlib import Path
from typing import Any

from omni_export.source import read_json
from omni_runtime.bundle.store import CHAT_TEMPLATE, LICENCE, TOKENIZER
from omni_runtime.errors import OmniError

NOTICE = "NOTICE"
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE")


def copy(checkpoint: Path, bundle: Path) -> str:
    """Copy the files from checkpoint to bundle. Return the licence in one line.

    Raises OmniError if the checkpoint has no tokenizer or no chat template.
    """
    _tokenizer(checkpoint, bundle / TOKENIZER)
    (bundle / CHAT_TEMPLATE).write_text(_chat_template(checkpoint), "utf-8")
    return _licence(checkpoint, bundle / LICENCE)


def _tokenizer(checkpoint: Path, destination: Path) -> None:
    if (checkpoint / "tokenizer.json").is_file():
        shutil.copyfile(checkpoint / "tokenizer.json", destination)
        return
    from transformers import AutoTokenizer  # noqa: PLC0415 - only for checkpoints without tokenizer.json

    try:
        slow: Any = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:
        raise OmniError(
            f"{checkpoint} has no readable tokenizer: {str(error).splitlines()[0]}",
            fix="download tokenizer.json, or vocab.json and merges.txt",
        ) from None
    slow.backend_tokenizer.save(str(destination))


def _chat_template(checkpoint: Path) -> str:
    jinja = checkpoint / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (checkpoint / name).is_file():
            template = read_json(checkpoint / name).get("chat_template")
            if isinstance(template, str):
                return template
    raise OmniError(f"{checkpoint} has no chat template", fix="download chat_template.json")


def licence_of(checkpoint: Path) -> str | None:
    """Return the first line of the checkpoint's licence file; None without one."""
    for name in LICENCE_FILES:
        if (checkpoint / name).is_file():
            lines = (checkpoint / name).read_text("utf-8", errors="replace").splitlines()
            return next((line.strip() for line in lines if line.strip()), None)
    return None


def _licence(checkpoint: Path, destination: Path) -> str:
    if (checkpoint / NOTICE).is_file():
        shutil.copyfile(checkpoint / NOTICE, destination.parent / NOTICE)
    for name in LICENCE_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, destination)
            return licence_of(checkpoint) or "unknown"
    destination.write_text(
        "The checkpoint has no licence file. The licence of its source applies.\n", "utf-8"
    )
    return "unknown: the checkpoint has no licence file"
