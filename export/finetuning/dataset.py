"""Labelled windows of notes, read from a store or from CSV files as ClinicalBERT publishes them."""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from export.model_folder import sha256
from export.tokenizer import Ids, WindowTokenizer, clean
from featurestore.cohort.tasks import Task, check_known_after_prediction, find_task
from featurestore.errors import FeatureStoreError, NotEnoughDataError
from featurestore.source.note_texts import text_hash
from featurestore.source.source import open_source
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

_LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
_CSV_COLUMNS = ("ID", "TEXT", "LABEL")
_NOTES_PER_BATCH = 256


class LabelledNote(NamedTuple):
    """A note with the label of its admission."""

    note_id: str
    hadm_id: int
    label: int
    text: str


@dataclass
class LabelledWindows:
    """Windows of tokens, each with the label of its admission."""

    ids: list[Ids]
    label: npt.NDArray[np.int64]  # (windows,) 0 or 1
    hadm_id: npt.NDArray[np.int64]  # (windows,)
    notes: int = 0
    rows_sha256: str = ""  # of note, MD5 of its text, admission and label

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "labels": int(self.label[index])}


@dataclass
class Datasets:
    """The windows to train on, the windows to choose the best step by, and their origin."""

    train: LabelledWindows
    valid: LabelledWindows
    origin: dict[str, Any]  # the entries of finetune.json that describe labels and patients


def read_datasets(
    data: Store | tuple[Path, Path],
    window_tokenizer: WindowTokenizer,
    task: Task | None,
    cutoff: str | None,
) -> Datasets:
    """Read all labelled windows: of a store, or of two CSV files (training, validation)."""
    if isinstance(data, Store):
        task = task or find_task(data)
        cutoff = task.cutoff(data, cutoff)
        check_known_after_prediction(data, task, cutoff)
        return Datasets(
            store_windows(data, window_tokenizer, "train", task, cutoff),
            store_windows(data, window_tokenizer, "valid", task, cutoff),
            {
                "label_rule": task.name,
                "task_hash": task.hash,
                "cutoff": cutoff,
                "horizon_days": task.horizon_days,
                "patients": "patient_split: train to fit, valid to choose the best step",
            },
        )
    train, valid = data
    return Datasets(
        csv_windows(train, window_tokenizer),
        csv_windows(valid, window_tokenizer),
        {
            "label_rule": "from the files",
            "cutoff": None,
            "horizon_days": None,
            "patients": "unknown: the two files were split elsewhere",
            "files": {
                split: {"name": file.name, "sha256": sha256(file)}
                for split, file in (("train", train), ("valid", valid))
            },
        },
    )


def store_windows(
    store: Store, window_tokenizer: WindowTokenizer, split: str, task: Task, cutoff: str
) -> LabelledWindows:
    """Return the windows of the notes known at the prediction time, of one split's patients.

    A note whose text changed or was deleted in the source since the last sync is excluded.
    """
    rows = store.sql(
        read_sql("training/labelled_notes"),
        split=split,
        cutoff=cutoff,
        labels=task.labels,
    ).fetchall()
    synced = {note_id: columns for note_id, *columns in rows}  # text_hash, hadm_id, label

    def unchanged_notes() -> Iterator[LabelledNote]:
        for batch in open_source(store).texts(list(synced)):
            for note_id, text in batch:
                hash_at_sync, hadm_id, label = synced[note_id]
                if text_hash(text) == hash_at_sync:
                    yield LabelledNote(note_id, hadm_id, label, text)

    return _to_windows(unchanged_notes(), window_tokenizer)


def csv_windows(file: Path, window_tokenizer: WindowTokenizer) -> LabelledWindows:
    """Return the windows of a CSV file with columns ID, TEXT and Label, in any case and order.

    Raises FeatureStoreError, which names the line and quotes nothing, where a line is invalid, and
    NotEnoughDataError where all labels are equal.
    """
    dataset = _to_windows(_csv_notes(file), window_tokenizer)
    if len(np.unique(dataset.label)) < 2:
        raise NotEnoughDataError(
            f"{file}: Label has fewer than two values in {dataset.notes} lines with text - "
            "use a file with both 0 and 1"
        )
    return dataset


def _to_windows(
    notes: Iterable[LabelledNote], window_tokenizer: WindowTokenizer
) -> LabelledWindows:
    """Tokenize notes; the result does not depend on their order."""
    tokenized: list[tuple[str, str, int, int, list[Ids]]] = []
    batch: list[LabelledNote] = []

    def tokenize_batch() -> None:
        texts = [clean(note.text, "deid-v1") for note in batch]
        for note, ids in zip(batch, window_tokenizer.windows(texts), strict=True):
            tokenized.append((note.note_id, text_hash(note.text), note.hadm_id, note.label, ids))
        batch.clear()

    for note in notes:
        batch.append(note)
        if len(batch) == _NOTES_PER_BATCH:
            tokenize_batch()
    tokenize_batch()
    tokenized.sort(key=lambda row: row[0])
    digest = hashlib.sha256()
    for row in tokenized:
        digest.update(json.dumps(row[:4]).encode())
    flat = [(ids, hadm_id, label) for *_, hadm_id, label, of_note in tokenized for ids in of_note]
    flat.sort(key=lambda window: len(window[0]))  # batches of evaluation need little padding
    return LabelledWindows(
        ids=[ids for ids, _, _ in flat],
        label=np.array([label for _, _, label in flat], np.int64),
        hadm_id=np.array([hadm_id for _, hadm_id, _ in flat], np.int64),
        notes=len(tokenized),
        rows_sha256=digest.hexdigest(),
    )


def _csv_notes(file: Path) -> Iterator[LabelledNote]:
    label_of: dict[int, int] = {}
    for line, row in _csv_rows(file):
        place = f"{file}, line {line}:"
        number, text, label_text = (value.strip() for value in row)
        if not re.fullmatch(r"\d{1,18}(\.0)?", number):
            raise FeatureStoreError(
                f"{place} ID is not a whole number - use the number of the admission"
            )
        if not text:
            raise FeatureStoreError(f"{place} TEXT is empty - remove the line")
        if label_text.lower() not in _LABELS:
            raise FeatureStoreError(f"{place} Label is neither 0 nor 1 - correct the line")
        hadm_id, label = int(number.partition(".")[0]), _LABELS[label_text.lower()]
        if label_of.setdefault(hadm_id, label) != label:
            raise FeatureStoreError(
                f"{place} Label differs from an earlier line with the same ID - give all lines of "
                "an admission the same label"
            )
        yield LabelledNote(f"{line:012d}", hadm_id, label, text)


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield ID, TEXT and Label of each row, with the number of its first line."""
    if not file.is_file():
        raise FeatureStoreError(f"{file} does not exist - name a CSV file")
    csv.field_size_limit(2**31 - 1)  # notes are longer than the default limit
    line = 1
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = [name.strip().upper() for name in next(reader, [])]
            if missing := [name for name in _CSV_COLUMNS if name not in header]:
                raise FeatureStoreError(
                    f"{file}, line 1: no column {' and no '.join(missing)} - use a file with "
                    "columns ID, TEXT and Label"
                )
            indices = [header.index(name) for name in _CSV_COLUMNS]
            line = reader.line_num + 1
            for row in reader:
                if row:
                    yield line, [row[index] if index < len(row) else "" for index in indices]
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not valid CSV"
            raise FeatureStoreError(
                f"{file}, line {line} or after is {problem} - correct the file"
            ) from None
