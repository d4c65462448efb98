"""Evaluates ONNX models inside the emulator, for the host that started it.

It needs numpy and ONNX Runtime only. Requests and replies are pickles on standard input and output.
A request is a dictionary: `model`, `inputs`, `library` (path or None), `config` (entries of the
session), `repeat`. The reply is the list of outputs, or the text of an error.
"""

import ctypes
import os
import pickle
import sys
from typing import Any

import numpy as np
import onnxruntime as ort

MARK = 5050
"""Number of no system call: the plugin that counts instructions prints its count there."""


def evaluate(request: dict[str, Any]) -> list[np.ndarray]:
    """Evaluate a model `repeat` times; marks the beginning and the end of the last half."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = request.get("threads", 2)
    settings.log_severity_level = 3
    for key, value in request.get("config", {}).items():
        settings.add_session_config_entry(key, value)
    if request.get("library"):
        settings.register_custom_ops_library(request["library"])
    session = ort.InferenceSession(request["model"], settings)
    found = session.run(None, request["inputs"])
    if repeat := request.get("repeat", 0):
        mark = ctypes.CDLL(None).syscall
        mark(MARK)
        for _ in range(repeat):
            session.run(None, request["inputs"])
        mark(MARK)
    return found


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not be in a reply
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply: Any = evaluate(request)
        except Exception as error:
            reply = f"{type(error).__name__}: {error}"
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


if __name__ == "__main__":
    main()
