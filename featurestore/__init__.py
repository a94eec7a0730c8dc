"""A feature store for clinical-note embeddings, with batch scoring, in one DuckDB file."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurestore.version import __version__ as __version__

# Patient data must not leave the machine: the libraries read these when they are imported.
os.environ.update(
    ORT_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    RAY_USAGE_STATS_ENABLED="0",
)

if TYPE_CHECKING:
    from batch.embedding.embed import embed_pending as embed_pending
    from batch.embedding.encoder import Encoder as Encoder
    from batch.embedding.encoder import OnnxEncoder as OnnxEncoder
    from batch.embedding.encoder import Windows as Windows
    from batch.embedding.encoder_registry import drop_encoder as drop_encoder
    from batch.embedding.encoder_registry import promote as promote
    from batch.nightly_job import nightly as nightly
    from batch.report.page import report as report
    from batch.scoring.compare import compare as compare
    from batch.scoring.explain import explain as explain
    from batch.scoring.outcomes import outcomes as outcomes
    from batch.scoring.replay import replay as replay
    from batch.scoring.score import score as score
    from batch.scoring.similar import similar as similar
    from batch.scoring.validation import evaluate_scorer as evaluate_scorer
    from batch.training.performance.estimates import evaluate_predictions as evaluate_predictions
    from batch.training.train import train as train
    from export.finetuning.finetune_job import finetune as finetune
    from export.onnx_export.exporter import export as export
    from featurestore.cohort.leakage import Finding as Finding
    from featurestore.cohort.leakage import accept_finding as accept_finding
    from featurestore.cohort.leakage import audit as audit
    from featurestore.cohort.task_registry import add_task as add_task
    from featurestore.cohort.task_registry import drop_task as drop_task
    from featurestore.cohort.tasks import list_tasks as list_tasks
    from featurestore.errors import EncryptionKeyError as EncryptionKeyError
    from featurestore.errors import FeatureStoreError as FeatureStoreError
    from featurestore.errors import ModelError as ModelError
    from featurestore.errors import NotEnoughDataError as NotEnoughDataError
    from featurestore.errors import QueryError as QueryError
    from featurestore.errors import SourceError as SourceError
    from featurestore.errors import StoreBusyError as StoreBusyError
    from featurestore.errors import StoreChangedWarning as StoreChangedWarning
    from featurestore.errors import StoreDamagedError as StoreDamagedError
    from featurestore.errors import StoreNotFoundError as StoreNotFoundError
    from featurestore.errors import UnknownNameError as UnknownNameError
    from featurestore.errors import UnusualNightError as UnusualNightError
    from featurestore.source.source import create_store as create_store
    from featurestore.source.source import read_texts as read_texts
    from featurestore.source.sync import change_source as change_source
    from featurestore.source.sync import sync as sync
    from featurestore.store.forget import forget as forget
    from featurestore.store.info import info as info
    from featurestore.store.integrity.verify import verify as verify
    from featurestore.store.store import Store as Store
    from featurestore.store.vectors import TrainingSet as TrainingSet
    from featurestore.synthetic.hospital import write_hospital as write_hospital

_MODULES = {
    "batch.embedding.embed": ("embed_pending",),
    "batch.embedding.encoder": ("Encoder", "OnnxEncoder", "Windows"),
    "batch.embedding.encoder_registry": ("drop_encoder", "promote"),
    "batch.nightly_job": ("nightly",),
    "batch.report.page": ("report",),
    "batch.scoring.compare": ("compare",),
    "batch.scoring.validation": ("evaluate_scorer",),
    "batch.scoring.explain": ("explain",),
    "batch.scoring.outcomes": ("outcomes",),
    "batch.scoring.replay": ("replay",),
    "batch.scoring.score": ("score",),
    "batch.scoring.similar": ("similar",),
    "batch.training.performance.estimates": ("evaluate_predictions",),
    "batch.training.train": ("train",),
    "export.finetuning.finetune_job": ("finetune",),
    "export.onnx_export.exporter": ("export",),
    "featurestore.cohort.leakage": ("audit", "accept_finding", "Finding"),
    "featurestore.cohort.task_registry": ("add_task", "drop_task"),
    "featurestore.cohort.tasks": ("list_tasks",),
    "featurestore.errors": (
        "FeatureStoreError",
        "StoreNotFoundError",
        "StoreBusyError",
        "StoreChangedWarning",
        "StoreDamagedError",
        "EncryptionKeyError",
        "SourceError",
        "ModelError",
        "UnknownNameError",
        "NotEnoughDataError",
        "UnusualNightError",
        "QueryError",
    ),
    "featurestore.source.source": ("create_store", "read_texts"),
    "featurestore.source.sync": ("change_source", "sync"),
    "featurestore.store.forget": ("forget",),
    "featurestore.store.info": ("info",),
    "featurestore.store.store": ("Store",),
    "featurestore.store.vectors": ("TrainingSet",),
    "featurestore.store.integrity.verify": ("verify",),
    "featurestore.synthetic.hospital": ("write_hospital",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562), so that `featurestore --help` answers at once."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
