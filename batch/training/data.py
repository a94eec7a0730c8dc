"""X and y of a scorer: who is labelled, and the vectors of what was known then."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.model_selection import Cohort, Vectors
from featurestore.errors import FeatureStoreError
from featurestore.store.schema import check_label_options
from featurestore.store.store import Store
from featurestore.store.vectors import arrow_to_vectors

_FEWEST = 10  # labelled admissions of training patients


@dataclass
class TrainingSet:
    """What `training_set(...)` gives, ordered by hadm_id."""

    hadm_id: npt.NDArray[np.int64]  # (admissions,)
    subject_id: npt.NDArray[np.int64]  # (admissions,)
    split: npt.NDArray[np.str_]  # (admissions,) train, valid or test, by patient
    y: npt.NDArray[np.bool_]  # (admissions,)
    X: npt.NDArray[np.float32]  # (admissions, dim)

    @property
    def cohort(self) -> Cohort:
        return Cohort(self.y, self.split, self.subject_id)


def training_set(store: Store, encoder: str, cutoff: str, horizon_days: int) -> TrainingSet:
    """Read the labelled admissions of an encoder; raises FeatureStoreError where none can be."""
    check_label_options(cutoff, horizon_days)
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
    if not len(rows.y):
        raise FeatureStoreError(_why_no_labels(store, encoder, cutoff, horizon_days))
    _check_it_teaches(rows, encoder, cutoff)
    return rows


def _check_it_teaches(rows: TrainingSet, encoder: str, cutoff: str) -> None:
    of_train = rows.y[rows.split == "train"]
    if of_train.sum() < 2 or (~of_train).sum() < 2 or len(of_train) < _FEWEST:
        raise FeatureStoreError(
            f"the training patients have {int(of_train.sum())} returns among {len(of_train)} "
            f"labelled stays at {cutoff}, and {_FEWEST} stays with 2 returns are the fewest - "
            "embed more notes, or choose another cutoff or horizon"
        )
    if (np.ptp(rows.X, axis=0) <= 1e-6 * np.abs(rows.X).max(axis=0)).all():
        raise FeatureStoreError(
            f"all {len(rows.y):,} admissions have the same embedding by {encoder} - export the "
            "model again, from its last layer"
        )


def _why_no_labels(store: Store, encoder: str, cutoff: str, horizon_days: int) -> str:
    reasons = store.sql(
        r"""
        SELECT regexp_replace(coalesce(l.reason, 'labelled'), ' by \d+$', ''), count(*)
        FROM admission_embeddings AS m
        INNER JOIN readmission_labels(horizon_days := $horizon) AS l USING (hadm_id)
        WHERE (m.encoder_id, m.cutoff) = ($encoder, $cutoff)
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1
        """,
        horizon=horizon_days,
        encoder=encoder,
        cutoff=cutoff,
    ).fetchall()
    if not reasons:
        return (
            f"{encoder} has no vectors of notes known at {cutoff} - embed more notes, or choose "
            "another cutoff"
        )
    ((reason, count),) = reasons
    return (
        f"no admission with vectors at {cutoff} has a label: {count:,} say {reason!r} - wait until "
        f"outcomes are known, or choose a shorter horizon (featurestore labels {store.path} shows "
        "all reasons)"
    )


def admission_windows_of(
    store: Store, encoder: str, cutoff: str, hadm_id: npt.NDArray[np.int64]
) -> Vectors | None:
    """The windows that the admissions' means are taken over; None where each has just one."""
    con = store.connect()
    con.register("wanted", ids(hadm_id))
    from_windows = """
        FROM known_notes(cutoff := $cutoff) AS k
        SEMI JOIN wanted USING (hadm_id)
        INNER JOIN embeddings AS e ON k.note_id = e.note_id AND k.text_hash = e.text_hash
        WHERE e.encoder_id = $encoder
    """
    asked = {"cutoff": cutoff, "encoder": encoder}
    count, dim = con.execute(
        f"SELECT count(*), max(len(e.embedding)) {from_windows}", asked
    ).fetchall()[0]
    X = np.empty((count, dim), np.float32)
    of = np.empty(count, np.int64)
    at = 0
    for batch in con.execute(
        f"SELECT k.hadm_id, e.embedding {from_windows} ORDER BY 1, k.note_id, e.window_no", asked
    ).to_arrow_reader(8_192):
        here = slice(at, at + len(batch))
        X[here] = arrow_to_vectors(batch.column("embedding"))
        of[here] = np.searchsorted(hadm_id, batch.column("hadm_id").to_numpy())
        at += len(batch)
    con.unregister("wanted")
    return Vectors("clinicalbert", X, of)


def ids(hadm_id: npt.NDArray[np.int64]) -> Any:
    """Admissions as a table, to be joined with."""
    import pyarrow as pa

    return pa.table({"hadm_id": hadm_id})
