"""A checkpoint from labelled windows: the Hugging Face Trainer on the notes of a store."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.to_onnx import half_made, load_checkpoint
from export.windows import Ids, clean, cut_windows, padded, windows
from featurestore.errors import FeatureStoreError
from featurestore.store import Store, check_question


@dataclass
class LabelledWindows:
    """Windows of word pieces, each with the label of its admission."""

    ids: list[Ids]
    label: npt.NDArray[np.int64]  # (windows,) 0 or 1
    hadm_id: npt.NDArray[np.int64]  # (windows,)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, no: int) -> dict[str, Any]:
        return {"input_ids": self.ids[no], "labels": int(self.label[no])}


def finetune(
    store: Store,
    checkpoint: str | Path,
    base: str | Path,
    cutoff: str = "72h",
    horizon_days: int = 30,
    epochs: float = 3,
    batch_size: int = 8,
    learning_rate: float = 5e-5,
    max_tokens: int = 512,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune `base` (a hub name or a folder) to tell readmissions; write it to `checkpoint`.

    Each window of the notes known at the prediction time is one example, labelled by its
    admission; it is trained on the training patients and the best model on the validation
    patients is kept (evaluated every 500 steps, or each epoch where that comes sooner; patience
    3). Test patients are never read. `progress` is called with the steps done and to do. Returns
    what finetune.json holds. Raises FeatureStoreError.
    """
    import torch
    import transformers

    checkpoint = Path(checkpoint)
    check_question(cutoff, horizon_days)
    if checkpoint.exists():
        raise FeatureStoreError(f"{checkpoint} exists already - give the checkpoint another folder")
    transformers.set_seed(seed)
    model, tokenizer = load_checkpoint(
        base, transformers.AutoModelForSequenceClassification, num_labels=2
    )
    longest = min(max_tokens, int(model.config.max_position_embeddings))
    cut = cut_windows(tokenizer.backend_tokenizer, longest, 0)
    train, valid = (
        labelled_windows(store, cut, split, cutoff, horizon_days) for split in ("train", "valid")
    )
    _check_labels(train, cutoff)

    with half_made(checkpoint) as draft:
        trainer = _trainer(
            model, train, valid, draft / "steps", epochs, batch_size, learning_rate, seed, progress
        )
        trainer.train()
        facts = {
            "base": Path(str(base)).name if Path(str(base)).exists() else str(base),
            "label_rule": "readmission",
            "cutoff": cutoff,
            "horizon_days": horizon_days,
            "patients": "patient_split: train to fit, valid to choose the best step",
            "windows": {"train": len(train), "valid": len(valid)},
            "positives": {"train": int(train.label.sum()), "valid": int(valid.label.sum())},
            "steps": trainer.state.global_step,
            "best_step": trainer.state.best_global_step,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "max_tokens": longest,
            "seed": seed,
            "valid": _evaluate(trainer, valid),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        shutil.rmtree(draft / "steps", ignore_errors=True)
        trainer.model.save_pretrained(draft)
        cut.no_truncation()
        tokenizer.save_pretrained(draft)
        (draft / "finetune.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def labelled_windows(
    store: Store, tokenizer: Any, split: str, cutoff: str, horizon_days: int
) -> LabelledWindows:
    """The windows of the notes that a prediction may see, for the patients of one split."""
    labels = {
        note_id: (hadm_id, label)
        for note_id, hadm_id, label in store.sql(
            """
            SELECT k.note_id, k.hadm_id, CAST(l.label AS INTEGER)
            FROM known_notes(cutoff := $cutoff) AS k
            INNER JOIN readmission_labels(horizon_days := $horizon) AS l ON k.hadm_id = l.hadm_id
            WHERE l.label IS NOT NULL AND patient_split(l.subject_id) = $split
            ORDER BY k.note_id
            """,
            cutoff=cutoff,
            horizon=horizon_days,
            split=split,
        ).fetchall()
    }
    found: dict[str, list[Ids]] = {}
    for notes in store.source().texts(list(labels)):
        cut = windows(tokenizer, [clean(text, "deid-v1") for _, text in notes])
        found.update(zip((note_id for note_id, _ in notes), cut, strict=True))
    # In the order of the notes' ids, whatever order the source gave them in.
    rows = [(ids, *labels[note_id]) for note_id in sorted(found) for ids in found[note_id]]
    return LabelledWindows(
        ids=[ids for ids, _, _ in rows],
        label=np.array([label for _, _, label in rows], np.int64),
        hadm_id=np.array([hadm_id for _, hadm_id, _ in rows], np.int64),
    )


def _check_labels(train: LabelledWindows, cutoff: str) -> None:
    if len(set(train.label.tolist())) < 2:
        raise FeatureStoreError(
            f"the training patients have {int(train.label.sum())} windows of returns among "
            f"{len(train)} at {cutoff} - sync more admissions, or choose another cutoff or horizon"
        )


def _trainer(
    model: Any,
    train: LabelledWindows,
    valid: LabelledWindows,
    steps: Path,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Any:
    import torch
    from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

    class Progress(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if progress:
                progress(state.global_step, state.max_steps)

    every = max(1, min(500, len(train) // batch_size))
    evaluated = len(valid) > 0
    arguments = TrainingArguments(
        output_dir=str(steps),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=max(32, batch_size),
        learning_rate=learning_rate,
        warmup_steps=0.1,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=1,
        logging_strategy="no",
        load_best_model_at_end=evaluated,
        metric_for_best_model="loss",
        greater_is_better=False,
        train_sampling_strategy="group_by_length",
        fp16=torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        seed=seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=valid if evaluated else None,
        data_collator=_collate,
        callbacks=[Progress(), *([EarlyStoppingCallback(3)] if evaluated else [])],
    )
    from transformers import PrinterCallback

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


def _evaluate(trainer: Any, valid: LabelledWindows) -> dict[str, float] | None:
    """AUROC and accuracy on the validation patients, per window and per admission (mean)."""
    from sklearn.metrics import roc_auc_score

    if len(set(valid.label.tolist())) < 2:
        return None
    trainer.args.train_sampling_strategy = "random"  # by length, predictions are out of order too
    logits = trainer.predict(valid).predictions  # (windows, 2)
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    admissions, first, of_window = np.unique(valid.hadm_id, return_index=True, return_inverse=True)
    mean = np.bincount(of_window, probability) / np.bincount(of_window)
    label = valid.label[first]
    return {
        "windows_auroc": float(roc_auc_score(valid.label, probability)),
        "windows_accuracy": float(((probability > 0.5) == valid.label).mean()),
        "admissions": len(admissions),
        "admissions_auroc": float(roc_auc_score(label, mean)),
        "admissions_accuracy": float(((mean > 0.5) == label).mean()),
    }
