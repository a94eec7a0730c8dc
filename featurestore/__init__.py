"""The store of clinical-note embeddings: what it holds, what it reads from, how it is changed."""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Patient data: nothing may call home. These are read when the libraries are imported.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    RAY_USAGE_STATS_ENABLED="0",
)

if TYPE_CHECKING:
    from featurestore.index import sync as sync
    from featurestore.store import Store as Store
    from featurestore.synth import write_hospital as write_hospital

__all__ = ["Store", "sync", "write_hospital"]

_HOMES = {"Store": "store", "sync": "index", "write_hospital": "synth"}


def __getattr__(name: str) -> Any:
    """Load on first use, so that `featurestore --help` need not wait for DuckDB."""
    if name not in _HOMES:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"featurestore.{_HOMES[name]}"), name)
