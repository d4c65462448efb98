"""ONNX Runtime sessions: their options, the check against the contract, and cancellable runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

from omni_runtime.bundle.contracts import CacheType, GraphContract, TensorSpec
from omni_runtime.bundle.manifest import EXPORT_AGAIN
from omni_runtime.engine import kernels, prepack_cache
from omni_runtime.engine.cancellation import CancelledError, RunControl
from omni_runtime.errors import BundleError, OmniError, UsageError

DTYPES = {
    "tensor(float)": "float32",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}

MAX_THREADS = max(64, os.cpu_count() or 1)
"""Threads beyond the number of processors only cost time; thousands stop the machine."""


@dataclass(frozen=True)
class SessionOptions:
    """How graphs run. `threads` 0 uses one thread per available core; MAX_THREADS is the most.

    `memory` limits the estimated memory of the process, in bytes; None sets no limit.
    `native` runs custom operators as compiled kernels where possible (engine/kernels.py).
    `prepack_cache` caches prepacked weights for the next start (engine/prepack_cache.py).
    `kv_cache` is the type of the KV cache.
    `profile` is the file name prefix of ONNX Runtime's profile; None writes no profile.
    """

    threads: int = 0
    memory: int | None = None
    native: bool = True
    prepack_cache: bool = True
    kv_cache: CacheType = "float32"
    profile: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a number of threads or a memory limit that is out of range."""
        if not 0 <= self.threads <= MAX_THREADS:
            raise UsageError(f"{self.threads} threads are out of range", fix=f"1 to {MAX_THREADS}")
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"a memory limit of {self.memory} bytes", fix="at least 1 byte")

    def resolved_threads(self) -> int:
        return self.threads or available_cores()


class Graph:
    """An open graph. Every run can be cancelled through the token of the current request."""

    def __init__(self, session: ort.InferenceSession, control: RunControl) -> None:
        self.session = session
        self._control = control

    def run(self, feeds: dict[str, npt.NDArray[Any]]) -> Any:
        """Return all outputs in the order of the contract.

        Raises CancelledError, and OmniError when ONNX Runtime fails.
        """
        options = self._control.run_options()
        try:
            return self.session.run(None, feeds, options)
        except Exception as error:
            self._raise_if_cancelled()
            raise _failure(error) from error

    def run_with_iobinding(self, binding: Any) -> None:
        """Run on bound inputs and outputs. Raises as `run` does."""
        options = self._control.run_options()
        try:
            self.session.run_with_iobinding(binding, options)
        except Exception as error:
            self._raise_if_cancelled()
            raise _failure(error) from error

    def _raise_if_cancelled(self) -> None:
        """Raise CancelledError: ONNX Runtime reports a terminated run as an ordinary failure."""
        token = self._control.token
        if token is not None and token.cancelled:
            raise CancelledError from None


def _failure(error: Exception) -> Exception:
    """Return the OmniError for a failure of ONNX Runtime, and any other exception as it is.

    Its classes have no common base but Exception, and bound runs raise RuntimeError.
    """
    if not isinstance(error, RuntimeError) and "onnxruntime" not in type(error).__module__:
        return error
    reason = " ".join(str(error).split())
    return OmniError(
        f"ONNX Runtime failed: {reason}",
        fix="check the files of the bundle and the free memory",
        code="inference_failed",
    )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)


def open_session(
    path: Path, contract: GraphContract, options: SessionOptions, copy: Path | None = None
) -> ort.InferenceSession:
    """Load a graph on the CPU, from its prepacked copy at `copy` if that is given.

    Raises BundleError when the graph cannot be loaded or does not match its contract.
    """

    def settings() -> Any:
        return _settings(options)

    try:
        session = (
            prepack_cache.opened(path, copy, settings)
            if copy
            else prepack_cache.load(path, settings())
        )
    except Exception as error:  # ORT's exceptions have no common base below Exception
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path} cannot be loaded: {reason}", fix=EXPORT_AGAIN) from None
    _check(path, session, contract)
    return session


def _settings(options: SessionOptions) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.resolved_threads()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors; they also arrive as exceptions
    # Sessions alternate on few cores: threads of an idle one must not spin.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1")
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    if options.native and (library := kernels.build().library):
        settings.register_custom_ops_library(str(library))
    if options.profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(options.profile)
    return settings


def _check(path: Path, session: ort.InferenceSession, contract: GraphContract) -> None:
    for kind, specs, found in (
        ("input", contract.inputs, session.get_inputs()),
        ("output", contract.outputs, session.get_outputs()),
    ):
        names = [node.name for node in found]
        if names != [spec.name for spec in specs]:
            raise BundleError(
                f"{path} has other {kind}s than this runtime expects", fix=EXPORT_AGAIN
            )
        for spec, node in zip(specs, found, strict=True):
            if DTYPES.get(node.type) != spec.dtype or not _fits(spec, node.shape):
                raise BundleError(
                    f"{path}: {kind} {spec.name} is {node.type} {node.shape}, expected "
                    f"{spec.dtype} {list(spec.shape)}",
                    fix=EXPORT_AGAIN,
                )


def _fits(spec: TensorSpec, shape: list[int | str]) -> bool:
    return len(shape) == len(spec.shape) and all(
        not isinstance(wanted, int) or wanted == found
        for wanted, found in zip(spec.shape, shape, strict=True)
    )
