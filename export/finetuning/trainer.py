"""A checkpoint from labelled windows: the Hugging Face Trainer, resumed where it was killed."""

import hashlib
import math
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checkpoint import load_checkpoint
from export.finetuning.dataset import LabelledWindows, csv_windows, labelled_windows
from export.finetuning.resume import newest_step, read_json, resumable_folder, write_json
from export.model_folder import sha256
from export.tokenizer import WindowTokenizer, make_window_tokenizer, padded
from featurestore import __version__
from featurestore.errors import FeatureStoreError
from featurestore.store.files import fsync
from featurestore.store.store import Store, check_question

EVERY = 500  # steps between two evaluations
PATIENCE = 3  # evaluations without a better one
_BALANCE = "each epoch takes the windows of the rarer outcome, and as many of the other, drawn anew"


def finetune(
    data: Store | tuple[Path, Path],
    checkpoint: str | Path,
    base: str | Path,
    cutoff: str = "72h",
    horizon_days: int = 30,
    epochs: float = 3,
    batch_size: int = 8,
    learning_rate: float = 5e-5,
    max_tokens: int = 512,
    seed: int = 0,
    balance: bool = False,
    bf16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune `base` (a hub name or a folder) to tell readmissions; write it to `checkpoint`.

    `data` is a store, or two CSV files (training, validation) as ClinicalBERT's, with columns ID
    (of the admission), TEXT and Label (0 or 1); cutoff and horizon are then the files' own. Of a
    store, each window of the notes known at the prediction time is one example, labelled by its
    admission: training patients are fitted to, validation patients choose the best step
    (evaluated every 500 steps, or each epoch where that comes sooner; patience 3), test patients
    are never read. With `balance` each epoch takes the windows of the rarer outcome and as many
    of the other, drawn anew (ClinicalBERT drops the others for good); validation keeps its
    prevalence, and the best step is the one with the least loss averaged over the two outcomes.

    The weights are kept in single precision. Products are taken in half precision on a GPU, and
    with `bf16` in bfloat16, on a GPU or on a CPU: worth it where the processor multiplies it (AMX
    on Intel's), slower where not.

    Until it has its name, the checkpoint is made in the private folder `.NAME.unfinished` beside
    it. Killed at any moment, the same call goes on from the newest whole step there; a call with
    other data, base, settings or versions starts anew. `progress` is called with the steps done
    and to do. Returns what finetune.json holds. Raises FeatureStoreError, and StoreBusyError
    where another process makes the same checkpoint.
    """
    import torch
    import transformers

    from export.onnx_export.graph import FAMILIES, position_limit

    checkpoint = Path(checkpoint)
    _check_new(checkpoint)
    if isinstance(data, Store):
        check_question(cutoff, horizon_days)
    transformers.set_seed(seed)
    model, tokenizer = load_checkpoint(
        base,
        transformers.AutoModelForSequenceClassification,
        num_labels=2,
        dtype=torch.float32,  # a base that is kept in half precision is trained in single
    )
    if model.config.model_type not in FAMILIES:
        raise FeatureStoreError(
            f"{base} is of the kind {model.config.model_type}, which could not be exported "
            f"afterwards - start from a model of the kind {', '.join(FAMILIES)}"
        )
    longest = min(max_tokens, position_limit(model.config))
    cut = make_window_tokenizer(tokenizer.backend_tokenizer, longest, 0)
    train, valid, trained_on = _examples(data, cut, cutoff, horizon_days)
    plan = {
        "base": Path(str(base)).name if Path(str(base)).exists() else str(base),
        "base_files": _files(Path(base)),
        "base_revision": getattr(model.config, "_commit_hash", None),
        **trained_on,
        "data": {"train": _counts(train), "valid": _counts(valid)},
        "windows": {"train": len(train), "valid": len(valid)},
        "positives": {"train": int(train.label.sum()), "valid": int(valid.label.sum())},
        "windows_sha256": _windows_sha256(train, valid),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_tokens": longest,
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
        facts = read_json(folder / "finetune.json")
        if facts is None or any(facts.get(key) != value for key, value in plan.items()):
            facts = _train(model, train, valid, folder, plan, progress)
            tokenizer.save_pretrained(folder)
            for file in folder.iterdir():
                fsync(file)
            # Once this is there the rest is whole, and nothing but its name is to come.
            write_json(folder / "finetune.json", facts)
        shutil.rmtree(folder / "steps", ignore_errors=True)
        _check_new(checkpoint)
        folder.rename(checkpoint)
    return facts


def window_metrics(
    valid: LabelledWindows, probability: npt.NDArray[np.float64]
) -> dict[str, float | None]:
    """AUROC and accuracy (at 0.5) of windows' probabilities (windows,), and of their admissions'.

    An admission's probability is the mean of its windows', and beside it ClinicalBERT's
    (Pmax + Pmean n/2) / (1 + n/2) of its n windows (arXiv 1904.05342). An AUROC is
    None where all outcomes are the same.
    """
    admissions, first, of_window = np.unique(valid.hadm_id, return_index=True, return_inverse=True)
    n = np.bincount(of_window)
    mean = np.bincount(of_window, probability) / n
    most = np.zeros(len(n))
    np.maximum.at(most, of_window, probability)
    label = valid.label[first]
    return {
        "windows_auroc": _auroc(valid.label, probability),
        "windows_accuracy": float(((probability > 0.5) == valid.label).mean()),
        "admissions": len(admissions),
        "admissions_auroc": _auroc(label, mean),
        "admissions_accuracy": float(((mean > 0.5) == label).mean()),
        "admissions_clinicalbert_auroc": _auroc(label, (most + mean * n / 2) / (1 + n / 2)),
        "admissions_clinicalbert_accuracy": float(
            (((most + mean * n / 2) / (1 + n / 2) > 0.5) == label).mean()
        ),
    }


def _auroc(label: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, probability)) if len(set(label.tolist())) == 2 else None


def _examples(
    data: Store | tuple[Path, Path], cut: WindowTokenizer, cutoff: str, horizon_days: int
) -> tuple[LabelledWindows, LabelledWindows, dict[str, Any]]:
    """What to fit to, what to choose the step by, and where both come from."""
    if isinstance(data, Store):
        train = labelled_windows(data, cut, "train", cutoff, horizon_days)
        valid = labelled_windows(data, cut, "valid", cutoff, horizon_days)
        _check_labels(train, cutoff)
        return (
            train,
            valid,
            {
                "label_rule": "readmission",
                "cutoff": cutoff,
                "horizon_days": horizon_days,
                "patients": "patient_split: train to fit, valid to choose the best step",
            },
        )
    train, valid = (csv_windows(file, cut) for file in data)
    _check_apart(train, valid, *data)
    return (
        train,
        valid,
        {
            "label_rule": "as the files give it",
            "cutoff": None,
            "horizon_days": None,
            "patients": "unknown: two files, split by whoever made them",
            "files": {
                split: {"name": file.name, "sha256": sha256(file)}
                for split, file in zip(("train", "valid"), data, strict=True)
            },
        },
    )


def _train(
    model: Any,
    train: LabelledWindows,
    valid: LabelledWindows,
    folder: Path,
    plan: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Train, or go on training; leave the best model in the folder and return its facts."""
    from safetensors import SafetensorError

    step = newest_step(folder, plan)
    trainer = _trainer(model, train, valid, folder / "steps", plan, progress)
    try:
        trainer.train(resume_from_checkpoint=step and str(step))
    except (pickle.UnpicklingError, SafetensorError, UnicodeDecodeError):
        raise FeatureStoreError(
            f"{step} is damaged - remove {folder}, and run this again"
        ) from None
    trainer.model.save_pretrained(folder)
    logits = trainer.predict(valid).predictions if len(valid) else None
    return {
        **plan,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "valid": None if logits is None else window_metrics(valid, _probabilities(logits)),
    }


def _check_new(checkpoint: Path) -> None:
    if checkpoint.exists():
        raise FeatureStoreError(f"{checkpoint} exists already - give the checkpoint another folder")


def _check_labels(train: LabelledWindows, cutoff: str) -> None:
    if len(set(train.label.tolist())) < 2:
        raise FeatureStoreError(
            f"the training patients have {int(train.label.sum())} windows of returns among "
            f"{len(train)} at {cutoff} - sync more admissions, or choose another cutoff or horizon"
        )


def _check_apart(train: LabelledWindows, valid: LabelledWindows, *files: Path) -> None:
    if n := len(np.intersect1d(train.hadm_id, valid.hadm_id)):
        raise FeatureStoreError(
            f"{n:,} admissions are in {files[0]} and in {files[1]} - leave them out of one, or the "
            "validation knows the answers"
        )


def _counts(part: LabelledWindows) -> dict[str, Any]:
    return {
        "notes": part.notes,
        "admissions": len(np.unique(part.hadm_id)),
        "rows_sha256": part.rows_sha256,
    }


def _files(base: Path) -> dict[str, str] | None:
    """The SHA-256 of a base folder's weights and shape; None for a model of a hub."""
    if not base.is_dir():
        return None
    patterns = ("*.safetensors", "pytorch_model*.bin", "config.json")
    return {file.name: sha256(file) for pattern in patterns for file in sorted(base.glob(pattern))}


def _windows_sha256(*parts: LabelledWindows) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for ids in part.ids:
            digest.update(np.int64(len(ids)).tobytes() + ids.tobytes())
        digest.update(part.label.tobytes() + part.hadm_id.tobytes())
    return digest.hexdigest()


class _Order:
    """The windows of an epoch, in an order that depends on the seed and the epoch alone.

    So a resumed epoch goes on where it was. `balance`: as many windows of each outcome.
    """

    def __init__(self, train: LabelledWindows, batch_size: int, balance: bool, seed: int) -> None:
        self.length = np.array([len(ids) for ids in train.ids])
        self.outcomes = [np.flatnonzero(train.label == outcome) for outcome in (0, 1)]
        self.taken = [len(rows) for rows in self.outcomes]
        if balance:
            self.taken = [min(self.taken)] * 2
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __len__(self) -> int:
        return sum(self.taken)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        drawn = [
            rng.permutation(rows)[:n] for rows, n in zip(self.outcomes, self.taken, strict=True)
        ]
        shuffled = rng.permutation(np.concatenate(drawn))
        # Like lengths share a batch, so that little of it is padding.
        some = 50 * self.batch_size
        ordered = np.concatenate(
            [
                part[np.argsort(self.length[part], kind="stable")]
                for part in (shuffled[at : at + some] for at in range(0, len(shuffled), some))
            ]
        )
        full = len(ordered) // self.batch_size
        batches = rng.permutation(ordered[: full * self.batch_size].reshape(full, -1))
        yield from batches.ravel().tolist()
        yield from ordered[full * self.batch_size :].tolist()


def _trainer(
    model: Any,
    train: LabelledWindows,
    valid: LabelledWindows,
    steps: Path,
    plan: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> Any:
    import torch
    from torch.utils.data import DataLoader
    from transformers import (
        EarlyStoppingCallback,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Progress(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if progress:
                progress(state.global_step, state.max_steps)

    class InOurOrder(Trainer):
        def get_train_dataloader(self) -> Any:
            loader: Any = DataLoader(
                train,  # type: ignore[arg-type]
                batch_size=self.args.train_batch_size,
                sampler=order,
                collate_fn=_collate,
                pin_memory=self.args.dataloader_pin_memory,
            )
            return self.accelerator.prepare(loader)

    batch_size, balance = plan["batch_size"], plan["balance"] is not None
    bf16 = plan["mixed_precision"] == "bf16"
    order = _Order(train, batch_size, balance, plan["seed"])
    epoch = math.ceil(len(order) / batch_size)
    every = max(1, min(EVERY, epoch, math.ceil(epoch * plan["epochs"])))
    evaluated = len(valid) > 0
    arguments = TrainingArguments(
        output_dir=str(steps),
        num_train_epochs=plan["epochs"],
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=max(32, batch_size),
        learning_rate=plan["learning_rate"],
        warmup_steps=0.1,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,  # with 1 the Trainer ends by deleting the newest step
        logging_strategy="no",
        load_best_model_at_end=evaluated,
        metric_for_best_model="balanced_loss" if balance else "loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        fp16=plan["mixed_precision"] == "fp16",
        bf16=bf16,
        use_cpu=bf16 and not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        seed=plan["seed"],
    )
    trainer = InOurOrder(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=valid if evaluated else None,
        data_collator=_collate,
        compute_metrics=_balanced_loss if balance else None,
        callbacks=[Progress(), *([EarlyStoppingCallback(PATIENCE)] if evaluated else [])],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    input_ids, attention_mask = padded([example["input_ids"] for example in examples])
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


def _probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of logits (windows, 2), the probability of the second (windows,)."""
    from scipy.special import expit

    probability: npt.NDArray[np.float64] = expit(logits[:, 1].astype(np.float64) - logits[:, 0])
    return probability


def _balanced_loss(predicted: Any) -> dict[str, float]:
    """The cross-entropy as it would be with as many windows of each outcome."""
    logits, label = predicted.predictions.astype(np.float64), predicted.label_ids
    margin = (logits[:, 1] - logits[:, 0]) * np.where(label == 1, 1, -1)
    loss = np.logaddexp(0, -margin)
    return {"balanced_loss": float(np.mean([loss[label == each].mean() for each in set(label)]))}
