"""Sessions that run an exported graph: ONNX Runtime on a CPU or a GPU, OpenVINO on a CPU.

None of them falls back in silence to another device or precision.
"""

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.cpu import available_cores, cpu_features
from featurestore.errors import ModelError

Ids = npt.NDArray[np.int64]  # (windows, tokens)
Vectors = npt.NDArray[np.float32]  # (windows, dim)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# What OpenVINO computes in, where weights and activations are not quantized.
_OPENVINO = {"bf16": "bf16", "int8": "f32"}
PRECISIONS_OF_CPUS = tuple(_OPENVINO)
GROUP = 64  # weights and activations that share an int8 scale


class Session(Protocol):
    """A loaded graph; `provider` names what it really runs on, `runtime` what runs it."""

    provider: str
    runtime: str

    def run(self, input_ids: Ids, attention_mask: Ids) -> Vectors: ...


def open_session(
    file: Path, device: str, precision: str = "fp32", threads: int | None = None
) -> Session:
    """Load a graph on `device` ("cpu" or "cuda"), with `threads` threads or one per core.

    bf16 and int8 graphs run in OpenVINO, others in ONNX Runtime. Raises ModelError where the file
    cannot be loaded, or where the device or what the precision needs is not available.
    """
    if precision in _OPENVINO:
        return _OpenVino(file, precision, threads)
    return _OnnxRuntime(file, device, threads)


class _OnnxRuntime:
    def __init__(self, file: Path, device: str, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or available_cores()
        name = _PROVIDERS[device]
        # TF32 would round fp32 models to ten bits.
        provider = (name, {"use_tf32": "0"}) if device == "cuda" else name
        onnxruntime.set_default_logger_severity(4)  # failures are reported below, in one line
        if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            with contextlib.redirect_stdout(None):
                onnxruntime.preload_dlls()
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
        except Exception as error:
            raise ModelError(
                f"{file} could not be loaded on {device} ({type(error).__name__}) - "
                + _next_step(device, file)
            ) from None
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        self.provider: str = self._session.get_providers()[0]
        # ONNX Runtime falls back to the CPU with only a warning.
        if self.provider != name:
            raise ModelError(f"{device} is not available for {file} - {_next_step(device, file)}")

    def run(self, input_ids: Ids, attention_mask: Ids) -> Vectors:
        if self.provider == _PROVIDERS["cpu"]:
            feed = {"input_ids": input_ids, "attention_mask": attention_mask}
            vectors: Vectors = self._session.run(["vectors"], feed)[0]
            return vectors
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", input_ids)
        binding.bind_cpu_input("attention_mask", attention_mask)
        binding.bind_output("vectors", "cpu")
        self._session.run_with_iobinding(binding)
        vectors = binding.copy_outputs_to_cpu()[0]
        return vectors


class _OpenVino:
    def __init__(self, file: Path, precision: str, threads: int | None) -> None:
        check_runtime(precision)
        # Its converter, which is not used here, would report its use over the network; without the
        # package that does so, openvino takes a stand-in of its own that does nothing.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino  # type: ignore[import-untyped]

        settings = {
            "INFERENCE_PRECISION_HINT": _OPENVINO[precision],
            "INFERENCE_NUM_THREADS": threads or available_cores(),
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP if precision == "int8" else 0,
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(file), "CPU", settings)
        except Exception as error:
            raise ModelError(
                f"{file} could not be loaded by OpenVINO ({type(error).__name__}) - "
                + _next_step("cpu", file)
            ) from None
        self._request: Any = compiled.create_infer_request()
        self._output = compiled.output(0)
        self.provider = f"OpenVINO {precision}"
        self.runtime = f"OpenVINO {openvino.__version__}"

    def run(self, input_ids: Ids, attention_mask: Ids) -> Vectors:
        results = self._request.infer([input_ids, attention_mask])
        # The result is memory of the request, which the next call writes over.
        vectors: Vectors = results[self._output].copy()
        return vectors


def check_runtime(precision: str) -> None:
    """Raise ModelError unless this machine has the instructions and the package for `precision`."""
    needed = {"bf16": "bfloat16", "int8": "8-bit integer (VNNI)"}
    if precision not in needed:
        return
    if precision not in cpu_features():
        raise ModelError(
            f"this CPU has no {needed[precision]} instructions, without which {precision} saves "
            "nothing - export the checkpoint as fp32"
        )
    if "openvino" not in sys.modules and not importlib.util.find_spec("openvino"):
        raise ModelError(
            f"{precision} models run in OpenVINO, which is not installed - "
            'pip install "clinical-featurestore[openvino]"'
        )


def has_gpu() -> bool:
    """Return whether the machine has an NVIDIA driver."""
    return any(Path(file).exists() for file in ("/proc/driver/nvidia/version", "/dev/dxg"))


def _next_step(device: str, file: Path) -> str:
    if device == "cuda":
        return 'install the CUDA libraries (pip install "clinical-featurestore[cuda]") or use cpu'
    return f"export {file.parent} again"
