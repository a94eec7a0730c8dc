"""Training with the Trainer of transformers, resumed from the newest step of a killed run."""

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from scipy.special import expit
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from export.finetuning.dataset import Datasets, LabelledWindows
from export.finetuning.resume import newest_step
from export.finetuning.validation import window_metrics
from export.tokenizer import padded
from featurestore.errors import ModelError

EVALUATION_STEPS = 500  # between two evaluations, unless an epoch is shorter
PATIENCE = 3  # evaluations without improvement
_BATCHES_SORTED_TOGETHER = 50

Progress = Callable[[int, int], None]


def train(
    model: Any, datasets: Datasets, folder: Path, plan: dict[str, Any], progress: Progress | None
) -> dict[str, Any]:
    """Train or resume; save the best model to the folder and return the plan with its results.

    Raises ModelError where a step of the killed run is damaged.
    """
    step = newest_step(folder, plan)
    trainer = _make_trainer(model, datasets, folder / "steps", plan, progress)
    try:
        trainer.train(resume_from_checkpoint=step and str(step))
    except (pickle.UnpicklingError, SafetensorError, UnicodeDecodeError):
        raise ModelError(f"{step} is damaged - remove {folder} and run this again") from None
    trainer.model.save_pretrained(folder)
    valid = datasets.valid
    logits = trainer.predict(valid).predictions if len(valid) else None
    return {
        **plan,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "valid": None if logits is None else window_metrics(valid, _probabilities(logits)),
    }


class EpochSampler:
    """The order of the windows in an epoch, a function of the seed and the epoch alone.

    So a resumed epoch continues where it was. With `balance`, an epoch has an equal number of
    windows of each label.
    """

    def __init__(self, train: LabelledWindows, batch_size: int, balance: bool, seed: int) -> None:
        self.length = np.array([len(ids) for ids in train.ids])
        self.rows_by_label = [np.flatnonzero(train.label == label) for label in (0, 1)]
        self.counts = [len(rows) for rows in self.rows_by_label]
        if balance:
            self.counts = [min(self.counts)] * 2
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __len__(self) -> int:
        return sum(self.counts)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        samples = [
            rng.permutation(rows)[:n]
            for rows, n in zip(self.rows_by_label, self.counts, strict=True)
        ]
        shuffled = rng.permutation(np.concatenate(samples))
        # Windows of similar length share a batch, so that it needs little padding.
        size = _BATCHES_SORTED_TOGETHER * self.batch_size
        parts = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        ordered = np.concatenate(
            [part[np.argsort(self.length[part], kind="stable")] for part in parts]
        )
        full = len(ordered) // self.batch_size
        batches = rng.permutation(ordered[: full * self.batch_size].reshape(full, -1))
        yield from batches.ravel().tolist()
        yield from ordered[full * self.batch_size :].tolist()


class _SampledTrainer(Trainer):
    """A Trainer that takes its training windows in the order of a sampler."""

    def __init__(self, sampler: EpochSampler, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sampler = sampler

    def get_train_dataloader(self) -> Any:
        loader: Any = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=self.args.train_batch_size,
            sampler=self.sampler,
            collate_fn=_collate,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps)


def _make_trainer(
    model: Any, datasets: Datasets, steps: Path, plan: dict[str, Any], progress: Progress | None
) -> Any:
    batch_size, balance = plan["batch_size"], plan["balance"] is not None
    bf16 = plan["mixed_precision"] == "bf16"
    on_cuda = torch.cuda.is_available()
    sampler = EpochSampler(datasets.train, batch_size, balance, plan["seed"])
    epoch = math.ceil(len(sampler) / batch_size)
    every = max(1, min(EVALUATION_STEPS, epoch, math.ceil(epoch * plan["epochs"])))
    has_valid = len(datasets.valid) > 0
    arguments = TrainingArguments(
        output_dir=str(steps),
        num_train_epochs=plan["epochs"],
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=max(32, batch_size),
        learning_rate=plan["learning_rate"],
        warmup_steps=0.1,
        eval_strategy="steps" if has_valid else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,  # with 1, the Trainer deletes the newest step at the end
        logging_strategy="no",
        load_best_model_at_end=has_valid,
        metric_for_best_model="balanced_loss" if balance else "loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        fp16=plan["mixed_precision"] == "fp16",
        bf16=bf16,
        use_cpu=bf16 and not on_cuda,
        dataloader_pin_memory=on_cuda,
        disable_tqdm=True,
        report_to="none",
        seed=plan["seed"],
    )
    callbacks: list[TrainerCallback] = []
    if progress:
        callbacks.append(_ProgressCallback(progress))
    if has_valid:
        callbacks.append(EarlyStoppingCallback(PATIENCE))
    trainer = _SampledTrainer(
        sampler,
        model=model,
        args=arguments,
        train_dataset=datasets.train,
        eval_dataset=datasets.valid if has_valid else None,
        data_collator=_collate,
        compute_metrics=balanced_loss if balance else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    input_ids, attention_mask = padded([example["input_ids"] for example in examples])
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


def _probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the probability (windows,) of the positive class, of logits (windows, 2)."""
    probability: npt.NDArray[np.float64] = expit(logits[:, 1].astype(np.float64) - logits[:, 0])
    return probability


def balanced_loss(predictions: Any) -> dict[str, float]:
    """Return the mean of the two labels' cross-entropies, for the Trainer's compute_metrics."""
    logits, label = predictions.predictions.astype(np.float64), predictions.label_ids
    margin = (logits[:, 1] - logits[:, 0]) * np.where(label == 1, 1, -1)
    loss = np.logaddexp(0, -margin)
    return {"balanced_loss": float(np.mean([loss[label == each].mean() for each in set(label)]))}
