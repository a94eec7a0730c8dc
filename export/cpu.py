"""What the CPU of this machine can do, as Linux lists it."""

import os
import platform
import re
from pathlib import Path

# Any of these flags of an x86-64 CPU. Without them OpenVINO computes the same more slowly.
_FLAGS = {
    "bf16": {"avx512_bf16", "amx_bf16"},
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8"},
}


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_features() -> frozenset[str]:
    """Return which of bf16 and int8 the CPU has instructions for."""
    flags = set(_cpu_info("flags").split())
    return frozenset(precision for precision, names in _FLAGS.items() if names & flags)


def cpu_name() -> str:
    """Return the model of the CPU and which of bf16 and int8 it has instructions for."""
    model = _cpu_info("model name") or platform.machine()
    return ", ".join([model, *sorted(cpu_features())])


def _cpu_info(key: str) -> str:
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    values = re.findall(rf"^{key}\s*:(.*)", text, re.MULTILINE)
    return values[0].strip() if values else ""
