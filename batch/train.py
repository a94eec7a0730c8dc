"""X, y -> coefficients: a logistic regression on admission embeddings, kept in the store."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.embed import follow_sync
from batch.evaluate import WORD_GRID, bag_of_words, choose_c, fit, metrics
from batch.promote import find_encoder
from batch.shards import arrow_to_vectors, vectors_to_arrow
from featurestore.errors import FeatureStoreError
from featurestore.store import Store, check_question

LABEL_RULE = "readmission"


@dataclass
class TrainingSet:
    """What `training_set(...)` gives, ordered by hadm_id."""

    hadm_id: npt.NDArray[np.int64]  # (admissions,)
    subject_id: npt.NDArray[np.int64]  # (admissions,)
    split: npt.NDArray[np.str_]  # (admissions,) train, valid or test, by patient
    y: npt.NDArray[np.bool_]  # (admissions,)
    X: npt.NDArray[np.float32]  # (admissions, dim)


def train(
    store: Store,
    name: str,
    encoder: str | None = None,
    cutoff: str = "72h",
    horizon_days: int = 30,
    baseline: bool = True,
) -> dict[str, Any]:
    """Fit a scorer on the training patients, test it on the test patients, keep it in the store.

    C is chosen on the validation patients; standardisation is folded into the coefficients, so
    that a score is one inner product. Training a name again makes its next version. `encoder` is
    the active one where it is not given. With `baseline` a bag-of-words regression is fitted on
    the same admissions, its text streamed from the source. Returns scorer_id and metrics. Raises
    FeatureStoreError where there is nothing to learn from, and changes nothing then.
    """
    started_at = datetime.now()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(
            f"{name!r} is no name for a scorer - use letters, digits, - . and _"
        )
    with store.lock("train"):
        encoder = find_encoder(store, encoder)
        follow_sync(store)
        rows = training_set(store, encoder, cutoff, horizon_days)
        c, chosen_by = choose_c(rows.X, rows.y, rows.split, rows.subject_id)
        model = fit(rows.X[rows.split == "train"], rows.y[rows.split == "train"], c)
        scaler, regression = model.named_steps["scale"], model.named_steps["regression"]
        coef = regression.coef_[0] / scaler.scale_
        intercept = float(regression.intercept_[0] - coef @ scaler.mean_)
        measured: dict[str, Any] = {
            "c": c,
            "chosen_by": chosen_by,
            "admissions": _counts(rows.split),
            "positives": _counts(rows.split[rows.y]),
            "embeddings": metrics(rows.X, rows.y, rows.split, model),
        }
        if baseline:
            words = bag_of_words(store, rows.hadm_id, cutoff)
            words_c, _ = choose_c(words, rows.y, rows.split, rows.subject_id, WORD_GRID)
            words_model = fit(words[rows.split == "train"], rows.y[rows.split == "train"], words_c)
            measured["bag_of_words"] = metrics(words, rows.y, rows.split, words_model)
        with store.change("train", started_at) as change:
            version = change.con.execute(
                "SELECT coalesce(max(version), 0) + 1 FROM scorers WHERE name = $1", [name]
            ).fetchall()[0][0]
            scorer_id = f"{name}-v{version}"
            change.con.register("coefficients", _column(coef))
            change.con.execute(
                "INSERT INTO scorers SELECT $id, $name, $version, $encoder, $cutoff, $rule, "
                "$horizon, coef, $intercept, $metrics, $hash, $now FROM coefficients",
                {
                    "id": scorer_id,
                    "name": name,
                    "version": version,
                    "encoder": encoder,
                    "cutoff": cutoff,
                    "rule": LABEL_RULE,
                    "horizon": horizon_days,
                    "intercept": intercept,
                    "metrics": json.dumps(measured),
                    "hash": _training_hash(rows),
                    "now": started_at,
                },
            )
            change.con.register("rows", _rows_table(rows))
            change.con.execute(
                "INSERT INTO scorer_rows SELECT $1, hadm_id, split, label FROM rows", [scorer_id]
            )
            change.counts.update(scorer=scorer_id, admissions=len(rows.y))
    return {"scorer_id": scorer_id, **measured}


def training_set(store: Store, encoder: str, cutoff: str, horizon_days: int) -> TrainingSet:
    """Read the labelled admissions of an encoder; raises FeatureStoreError where none can be."""
    check_question(cutoff, horizon_days)
    table = store.sql(
        "FROM training_set($encoder, cutoff := $cutoff, horizon_days := $horizon) ORDER BY hadm_id",
        encoder=encoder,
        cutoff=cutoff,
        horizon=horizon_days,
    ).to_arrow_table()
    rows = TrainingSet(
        hadm_id=table["hadm_id"].to_numpy(),
        subject_id=table["subject_id"].to_numpy(),
        split=np.array(table["split"].to_pylist(), dtype=str),
        y=np.array(table["label"].to_pylist(), dtype=bool),
        X=arrow_to_vectors(table["embedding"]),
    )
    of_train = rows.y[rows.split == "train"]
    if of_train.sum() < 2 or (~of_train).sum() < 2:
        raise FeatureStoreError(
            f"the training patients have {int(of_train.sum())} returns among {len(of_train)} "
            f"labelled stays at {cutoff} - embed more notes, or choose another cutoff or horizon"
        )
    return rows


def _counts(values: npt.NDArray[np.str_]) -> dict[str, int]:
    return {split: int((values == split).sum()) for split in ("train", "valid", "test")}


def _column(coef: npt.NDArray[np.float64]) -> Any:
    import pyarrow as pa

    return pa.table({"coef": vectors_to_arrow(coef.astype(np.float32)[None, :])})


def _rows_table(rows: TrainingSet) -> Any:
    import pyarrow as pa

    return pa.table({"hadm_id": rows.hadm_id, "split": rows.split.tolist(), "label": rows.y})


def _training_hash(rows: TrainingSet) -> str:
    """A SHA-256 over the frozen training set, in the order of hadm_id."""
    digest = hashlib.sha256()
    for column in (rows.hadm_id, rows.y, rows.X):
        digest.update(np.ascontiguousarray(column).tobytes())
    digest.update("\n".join(rows.split.tolist()).encode())
    return digest.hexdigest()
