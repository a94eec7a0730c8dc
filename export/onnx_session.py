"""ONNX Runtime sessions on the requested device, without a silent fallback to the CPU."""

import contextlib
import os
from pathlib import Path
from typing import Any

from featurestore.errors import ModelError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(file: Path, device: str, threads: int | None = None) -> Any:
    """Load an ONNX file on `device` ("cpu" or "cuda"), with `threads` threads or one per core.

    Raises ModelError where the file cannot be loaded, or where CUDA is not available.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or _available_cores()
    name = _PROVIDERS[device]
    # TF32 would round fp32 models to ten bits.
    provider = (name, {"use_tf32": "0"}) if device == "cuda" else name
    onnxruntime.set_default_logger_severity(4)  # failures are reported below, in one line
    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(None):
            onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    except Exception as error:
        raise ModelError(
            f"{file} could not be loaded on {device} ({type(error).__name__}) - "
            + _next_step(device, file)
        ) from None
    # ONNX Runtime falls back to the CPU with only a warning.
    if session.get_providers()[0] != name:
        raise ModelError(f"{device} is not available for {file} - {_next_step(device, file)}")
    return session


def _available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _next_step(device: str, file: Path) -> str:
    if device == "cuda":
        return 'install the CUDA libraries (pip install "clinical-featurestore[cuda]") or use cpu'
    return f"export {file.parent} again"
