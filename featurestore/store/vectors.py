"""The vectors of a store as numpy and Arrow, without copies where none is needed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import FeatureStoreError, NotEnoughDataError, UnknownNameError
from featurestore.store.database import ROW_GROUP
from featurestore.store.schema import check_label_options
from featurestore.store.sql_files import read_sql

if TYPE_CHECKING:
    from featurestore.store.store import Store

LEVELS = ("admission", "window")
_BATCH_ROWS = 65_536  # an Arrow list holds 2**31 numbers: enough for 32,768 dimensions
_UNKNOWN_NAME = re.compile(r"(unknown (?:encoder|task|cutoff)|the store keeps no embeddings) .*")


@dataclass(frozen=True, eq=False, repr=False)
class TrainingSet:
    """What a scorer is fitted on, ordered by hadm_id, as scikit-learn takes it."""

    X: npt.NDArray[np.float32]  # (admissions, dim)
    y: npt.NDArray[np.bool_]  # (admissions,) whether the outcome happened
    groups: npt.NDArray[np.int64]  # (admissions,) subject_id
    split: npt.NDArray[np.str_]  # (admissions,) train, valid or test, by patient
    hadm_id: npt.NDArray[np.int64]  # (admissions,)

    def __len__(self) -> int:
        return len(self.hadm_id)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{(self.split == s).sum():,} {s}" for s in ("train", "valid", "test"))
        return (
            f"<TrainingSet: {len(self):,} admission{'s' * (len(self) != 1)} ({sizes}), "
            f"{self.y.sum():,} positive, {self.X.shape[1]} dimensions>"
        )


def find_encoder(store: "Store", encoder: str | None = None) -> str:
    """Return an encoder's id: that encoder, or the active one if None.

    Raises UnknownNameError, or NotEnoughDataError if the store has no encoder at all.
    """
    is_active: dict[str, bool] = dict(
        store.sql("SELECT encoder_id, active FROM encoders").fetchall()
    )
    if not is_active:
        raise NotEnoughDataError(
            f'{store.path} holds no embeddings - "featurestore embed {store.path} MODEL" makes them'
        )
    if encoder is None:
        return next(encoder_id for encoder_id, active in is_active.items() if active)
    if encoder not in is_active:
        raise UnknownNameError(
            f"{store.path} holds no encoder {encoder} - it has {', '.join(sorted(is_active))}"
        )
    return encoder


def read_training_set(
    store: "Store", encoder: str | None, cutoff: str, task: str, horizon_days: int | None
) -> TrainingSet:
    """Return the rows of the macro training_set; see `Store.training_set`."""
    check_label_options(cutoff, horizon_days)
    encoder = find_encoder(store, encoder)
    with _unknown_names(store):
        if horizon_days is not None and _has_no_horizon(store, task):
            raise FeatureStoreError(f"the task {task} has no horizon - leave horizon_days out")
        table = store.sql(
            "FROM training_set(encoder := $encoder, cutoff := $cutoff, task := $task, "
            "horizon_days := $horizon_days) ORDER BY hadm_id",
            encoder=encoder,
            cutoff=cutoff,
            task=task,
            horizon_days=horizon_days,
        ).to_arrow_table(_BATCH_ROWS)
    if not len(table):
        raise NotEnoughDataError(
            f"no admission with vectors by {encoder} at {cutoff} has a mature label of the task "
            f'{task} - "featurestore labels {store.path} --task {task}" shows the reasons'
        )
    return TrainingSet(
        X=arrow_to_vectors(table["embedding"]),
        y=table["label"].to_numpy().astype(np.bool_),
        groups=table["subject_id"].to_numpy(),
        split=table["split"].to_numpy().astype(np.str_),
        hadm_id=table["hadm_id"].to_numpy(),
    )


def read_embeddings(
    store: "Store", level: str, encoder: str | None, cutoff: str | None
) -> pa.Table:
    """Return the vectors of admissions or windows; see `Store.embeddings`."""
    if level not in LEVELS:
        raise FeatureStoreError(f"unknown level {level} - use {' or '.join(LEVELS)}")
    encoder = find_encoder(store, encoder)
    params: dict[str, str | None] = {"encoder": encoder}
    if cutoff is not None:
        check_label_options(cutoff)
        with _unknown_names(store):
            (params["cutoff"],) = store.one("SELECT kept_cutoff($cutoff)", cutoff=cutoff)
    if level == "admission":
        query, params = "admissions", {"cutoff": None, **params}
    else:
        query = "windows" if cutoff is None else "known_windows"
    table = store.sql(read_sql(f"store/embeddings/{query}"), **params).to_arrow_table(_BATCH_ROWS)
    (dim,) = store.one("SELECT dim FROM encoders WHERE encoder_id = $e", e=encoder)
    vectors = _of_fixed_size(table["embedding"], dim)
    return table.set_column(table.schema.get_field_index("embedding"), "embedding", vectors)


def _has_no_horizon(store: "Store", task: str) -> bool:
    query = "SELECT task_select($task, 1) = task_select($task, 2)"
    return bool(store.one(query, task=task)[0])


@contextmanager
def _unknown_names(store: "Store") -> Iterator[None]:
    """Turn a macro's error about a name, which lists the known ones, into one of this project."""
    try:
        yield
    except duckdb.Error as error:
        if match := _UNKNOWN_NAME.search(str(error)):
            raise UnknownNameError(f"{store.path}: {match[0]}") from None
        raise


def vectors_to_arrow(vectors: npt.NDArray[np.floating[Any]]) -> pa.FixedSizeListArray:
    """Return a matrix (rows, dim) as an Arrow column that DuckDB reads without copying."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def by_row_group(rows: pa.Table) -> pa.Table:
    """Return rows in parts of which DuckDB makes a row group each, in parallel.

    It writes full row groups into the file at once; others are kept, spilled, and written again.
    """
    return pa.Table.from_batches(
        rows.combine_chunks().to_batches(max_chunksize=ROW_GROUP), rows.schema
    )


def arrow_to_vectors(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """Return a column of vectors as a float32 matrix (rows, dim).

    Raises ValueError unless all of them have the same width.
    """
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1:
        raise ValueError(f"a matrix needs vectors of one width, got widths {widths}")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate(parts).reshape(len(column), widths[0])


def _of_fixed_size(column: pa.ChunkedArray, dim: int) -> pa.ChunkedArray:
    """Return a column of lists as one of fixed-size lists over the same memory."""
    chunks = [pa.FixedSizeListArray.from_arrays(chunk.flatten(), dim) for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.list_(pa.float32(), dim))
