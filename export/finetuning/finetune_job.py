"""Fine-tune a BERT on labelled notes: read the datasets, train, write one checkpoint."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.checkpoint import load_checkpoint
from export.finetuning.dataset import Datasets, LabelledWindows, read_datasets
from export.finetuning.resume import read_json, resumable_folder
from export.finetuning.validation import check_datasets
from export.model_folder import sha256
from export.tokenizer import WindowTokenizer
from featurestore.cohort.tasks import find_task
from featurestore.errors import FeatureStoreError, ModelError
from featurestore.store.files import fsync, write_json
from featurestore.store.store import Store
from featurestore.version import __version__

_BALANCE = (
    "each epoch takes all windows of the rarer label and an equal number of the other, drawn again"
)


def finetune(
    data: Store | tuple[Path, Path],
    checkpoint: str | Path,
    base: str | Path,
    cutoff: str | None = None,
    horizon_days: int | None = None,
    epochs: float = 3,
    batch_size: int = 8,
    learning_rate: float = 5e-5,
    max_tokens: int = 512,
    seed: int = 0,
    balance: bool = False,
    bf16: bool = False,
    progress: Callable[[int, int], None] | None = None,
    task: str | None = None,
    rule: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tune `base` (a hub name or a folder) to predict a task; write it to `checkpoint`.

    `data` is a store, or two CSV files (training, validation) as ClinicalBERT publishes them, with
    columns ID (of the admission), TEXT and Label (0 or 1), for which task and cutoff do not apply.
    `task` is readmission by default; `cutoff`, `horizon_days` and `rule` are as in `train`. Of a
    store, each window of the notes known at the prediction time is one example with the label of
    its admission. The model is trained on the training patients, validation patients choose the
    best step (evaluated every 500 steps or every epoch, whichever is shorter, with a patience of
    3), and test patients are never read. With `balance`, each epoch takes all windows of the rarer
    label and an equal number of the other, drawn again for each epoch, and the best step is the one
    with the smallest mean loss of the two labels; validation data is not balanced.

    Weights are kept in fp32. Matrix products are computed in fp16 on a GPU, or with `bf16` in
    bfloat16 on a GPU or a CPU, which is faster on CPUs with AMX and slower on others.

    Until it is complete, the checkpoint is written to the private folder `.NAME.training`. If a
    run is killed, the same call resumes from its newest complete step; a call with other data,
    base, settings or versions starts again. `progress` is called with the steps done and the total.

    Returns the content of finetune.json. Raises ModelError for an unsuitable base,
    NotEnoughDataError for fewer than two labels, FeatureStoreError for wrong data, and
    StoreBusyError while another process writes the same checkpoint.
    """
    import torch
    import transformers

    from export.finetuning.trainer import train
    from export.onnx_export.graph import FAMILIES, position_limit

    checkpoint = Path(checkpoint)
    _check_new(checkpoint)
    question = find_task(data, task, horizon_days, rule) if isinstance(data, Store) else None
    if question and isinstance(data, Store):
        cutoff = question.cutoff(data, cutoff)
    transformers.set_seed(seed)
    model, tokenizer = load_checkpoint(
        base,
        transformers.AutoModelForSequenceClassification,
        num_labels=2,
    )
    if model.config.model_type not in FAMILIES:
        raise ModelError(
            f"{base} is of type {model.config.model_type}, which is not supported - start from a "
            f"model of type {', '.join(FAMILIES)}"
        )
    max_tokens = min(max_tokens, position_limit(model) or max_tokens)
    window_tokenizer = WindowTokenizer(tokenizer.backend_tokenizer, max_tokens)
    datasets = read_datasets(data, window_tokenizer, question, cutoff)
    check_datasets(datasets)
    plan = {
        **_base_info(base, model.config),
        **_data_info(datasets),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_tokens": max_tokens,
        "balance": _BALANCE if balance else None,
        "mixed_precision": "bf16" if bf16 else "fp16" if torch.cuda.is_available() else None,
        "seed": seed,
        "versions": {
            "clinical-featurestore": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    with resumable_folder(checkpoint) as folder:
        info = read_json(folder / "finetune.json")
        if info is None or any(info.get(key) != value for key, value in plan.items()):
            info = train(model, datasets, folder, plan, progress)
            tokenizer.save_pretrained(folder)
            for file in folder.iterdir():
                fsync(file)
            # Written last: with this file, the checkpoint is complete.
            write_json(folder / "finetune.json", info)
        shutil.rmtree(folder / "steps", ignore_errors=True)
        _check_new(checkpoint)
        folder.rename(checkpoint)
    return info


def _check_new(checkpoint: Path) -> None:
    if checkpoint.exists():
        raise FeatureStoreError(f"{checkpoint} already exists - choose another folder")


def _base_info(base: str | Path, config: Any) -> dict[str, Any]:
    """Return name and revision of the base, and the SHA-256 of a folder's weights and config."""
    folder = Path(base)
    patterns = ("*.safetensors", "pytorch_model*.bin", "config.json")
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return {
        "base": folder.name if folder.exists() else str(base),
        "base_files": {file.name: sha256(file) for file in files} if folder.is_dir() else None,
        "base_revision": getattr(config, "_commit_hash", None),
    }


def _data_info(datasets: Datasets) -> dict[str, Any]:
    """Return origin, counts and hashes of the datasets."""
    splits = {"train": datasets.train, "valid": datasets.valid}
    return {
        **datasets.origin,
        "data": {
            split: {
                "notes": part.notes,
                "admissions": len(np.unique(part.hadm_id)),
                "rows_sha256": part.rows_sha256,
            }
            for split, part in splits.items()
        },
        "windows": {split: len(part) for split, part in splits.items()},
        "positives": {split: int(part.label.sum()) for split, part in splits.items()},
        "windows_sha256": _windows_sha256(splits.values()),
    }


def _windows_sha256(parts: Iterable[LabelledWindows]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for ids in part.ids:
            digest.update(np.int64(len(ids)).tobytes() + ids.tobytes())
        digest.update(part.label.tobytes() + part.hadm_id.tobytes())
    return digest.hexdigest()
