"""Windows with the label of their admission, from a store or from CSV files as ClinicalBERT's."""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.tokenizer import Ids, WindowTokenizer, clean, windows
from featurestore.errors import FeatureStoreError
from featurestore.source.source import open_source, text_hash
from featurestore.store.store import Store

_LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
_TEXTS_AT_ONCE = 256


@dataclass
class LabelledWindows:
    """Windows of word pieces, each with the label of its admission."""

    ids: list[Ids]
    label: npt.NDArray[np.int64]  # (windows,) 0 or 1
    hadm_id: npt.NDArray[np.int64]  # (windows,)
    notes: int = 0
    rows_sha256: str = ""  # over note, MD5 of its text, admission and label

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, no: int) -> dict[str, Any]:
        return {"input_ids": self.ids[no], "labels": int(self.label[no])}


def labelled_windows(
    store: Store, window_tokenizer: WindowTokenizer, split: str, cutoff: str, horizon_days: int
) -> LabelledWindows:
    """The windows of the notes that a prediction may see, for the patients of one split.

    A note whose text changed or vanished in the source since the last sync is left out.
    """
    rows = store.sql(
        """
        SELECT k.note_id, k.text_hash, k.hadm_id, CAST(l.label AS INTEGER)
        FROM known_notes(cutoff := $cutoff) AS k
        INNER JOIN readmission_labels(horizon_days := $horizon) AS l ON k.hadm_id = l.hadm_id
        WHERE l.label IS NOT NULL AND patient_split(l.subject_id) = $split
        """,
        cutoff=cutoff,
        horizon=horizon_days,
        split=split,
    ).fetchall()
    known = {note_id: (text_hash, hadm_id, label) for note_id, text_hash, hadm_id, label in rows}
    found = (
        (note_id, *known[note_id][1:], text)
        for notes in open_source(store).texts(list(known))
        for note_id, text in notes
        if text_hash(text) == known[note_id][0]
    )
    return _cut(found, window_tokenizer)


def csv_windows(file: Path, window_tokenizer: WindowTokenizer) -> LabelledWindows:
    """The windows of a CSV file with columns ID, TEXT and Label, in any case and order.

    Raises FeatureStoreError, which names the line and quotes nothing, where one cannot be used.
    """
    label_of: dict[int, int] = {}

    def checked() -> Iterator[tuple[str, int, int, str]]:
        for line, row in _csv_rows(file, ("ID", "TEXT", "LABEL")):
            where = f"{file}, line {line}:"
            number, text, label = (value.strip() for value in row)
            if not re.fullmatch(r"\d{1,18}(\.0)?", number):
                raise FeatureStoreError(f"{where} ID is no whole number - give the admission's")
            if not text:
                raise FeatureStoreError(f"{where} TEXT is empty - leave the line out")
            if label.lower() not in _LABELS:
                raise FeatureStoreError(f"{where} Label is neither 0 nor 1 - mend that line")
            hadm_id, outcome = int(number.partition(".")[0]), _LABELS[label.lower()]
            if label_of.setdefault(hadm_id, outcome) != outcome:
                raise FeatureStoreError(
                    f"{where} Label is not that of an earlier line with the same ID - an admission "
                    "has one outcome"
                )
            yield f"{line:012d}", hadm_id, outcome, text

    found = _cut(checked(), window_tokenizer)
    if len(set(found.label.tolist())) < 2:
        raise FeatureStoreError(
            f"{file}: Label has fewer than two values in its {found.notes} lines with text - "
            "give a file with both outcomes"
        )
    return found


def _cut(
    notes: Iterable[tuple[str, int, int, str]], window_tokenizer: WindowTokenizer
) -> LabelledWindows:
    """Windows of (note, admission, label, text), in the order of the notes' names."""
    rows: list[tuple[str, str, int, int, list[Ids]]] = []
    batch: list[tuple[str, int, int, str]] = []

    def add() -> None:
        cut = windows(window_tokenizer, [clean(text, "deid-v1") for *_, text in batch])
        for (note, hadm_id, label, text), ids in zip(batch, cut, strict=True):
            rows.append((note, text_hash(text), hadm_id, label, ids))
        batch.clear()

    for note in notes:
        batch.append(note)
        if len(batch) == _TEXTS_AT_ONCE:
            add()
    add()
    rows.sort(key=lambda row: row[0])  # whatever order the source gave them in
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row[:4]).encode())
    cuts = [(ids, hadm_id, label) for *_, hadm_id, label, cut in rows for ids in cut]
    cuts.sort(key=lambda cut: len(cut[0]))  # so that little of an evaluated batch is padding
    return LabelledWindows(
        ids=[ids for ids, _, _ in cuts],
        label=np.array([label for _, _, label in cuts], np.int64),
        hadm_id=np.array([hadm_id for _, hadm_id, _ in cuts], np.int64),
        notes=len(rows),
        rows_sha256=digest.hexdigest(),
    )


def _csv_rows(file: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of each row, with the line on which the row begins."""
    if not file.is_file():
        raise FeatureStoreError(f"{file} does not exist - name a CSV file")
    csv.field_size_limit(2**31 - 1)  # a note is longer than the module's own limit
    line = 1
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = [name.strip().upper() for name in next(reader, [])]
            if missing := [name for name in wanted if name not in header]:
                raise FeatureStoreError(
                    f"{file}, line 1: there is no column {' and no '.join(missing)} - name a file "
                    "with columns ID, TEXT and Label"
                )
            places = [header.index(name) for name in wanted]
            line = reader.line_num + 1
            for row in reader:
                if row:
                    yield line, [row[place] if place < len(row) else "" for place in places]
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            fault = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "is no CSV"
            raise FeatureStoreError(f"{file}, line {line} or after {fault} - mend it") from None
