"""Whether covariates count what was known only after the prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isclose
from typing import Any

import duckdb

from featurestore.query.sandbox import check
from featurestore.store.database import open_duckdb
from featurestore.store.schema import OPTIONAL_TABLES, TABLES, VIEWS_AND_MACROS, make_objects
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

_SAMPLE = 30  # stays whose covariates are computed again
# Hospitals code after the discharge.
_NOT_OVER = "hadm_id NOT IN (SELECT hadm_id FROM admissions WHERE dischtime <= $t)"
# The rows of each table that came after a time.
_LATER = {
    "admissions": "admittime > $t",
    "notes": "available_at > $t",
    "icu_stays": "intime > $t",
    "ed_visits": "intime > $t",
    "diagnoses": _NOT_OVER,
    "hospital_score_items": _NOT_OVER,
    "embeddings": "note_id NOT IN (SELECT note_id FROM notes WHERE available_at <= $t)",
    "admission_embeddings": "prediction_time > $t",
    "task_labels_from_files": "coalesce(known_at > $t, TRUE)",
    "task_predictions": "prediction_time > $t",
}
_KEYS = ("hadm_id", "known_at")  # in capitals too
# What else a SELECT may read. All other tables are what was computed later, and stay empty.
_WHOLE = ("settings", "encoders", "tasks")
_OF_PATIENTS = ("admissions", "notes", *OPTIONAL_TABLES)


@dataclass(frozen=True)
class LaterData:
    """Stays whose covariates change when what came after their prediction is removed."""

    stays: int
    sampled: int
    columns: list[str]


def find_later_data(store: Store, queries: Sequence[str], cutoff: str) -> LaterData:
    """Compute the covariates of some stays again, without what came after their prediction.

    A copy of their patients' rows in memory is cut off at the prediction time of one stay after the
    other. `queries` are the SELECTs of the covariates, each keyed by hadm_id. Raises QueryError if
    one reads anything but the store, duckdb.Error if it fails.
    """
    for query in queries:
        check(store, store.connect(), query)
    sample: list[tuple[int, datetime]] = store.sql(
        "FROM prediction_times(cutoff := $cutoff) ORDER BY hash(hadm_id) LIMIT $n",
        cutoff=cutoff,
        n=_SAMPLE,
    ).fetchall()
    hadm_ids = [hadm_id for hadm_id, _ in sample]
    con = _copy_of_patients(store, hadm_ids)
    stays, predicted, columns = 0, 0, dict[str, None]()
    try:
        whole = _covariates(con, queries, cutoff, hadm_ids)
        for hadm_id, prediction_time in sample:
            con.begin()
            _cut_off(con, prediction_time)
            # A task that predicts at a time of its own may need more than the time.
            is_predicted = con.execute(
                "SELECT ($id, $t) IN (FROM prediction_times(cutoff := $cutoff))",
                {"id": hadm_id, "t": prediction_time, "cutoff": cutoff},
            ).fetchall()[0][0]
            then = _covariates(con, queries, cutoff, [hadm_id]).get(hadm_id, {})
            con.rollback()
            if is_predicted:
                now = whole.get(hadm_id, {})
                changed = [name for name in now | then if not _equal(now.get(name), then.get(name))]
                predicted, stays = predicted + 1, stays + bool(changed)
                columns |= dict.fromkeys(changed)
    finally:
        con.close()
    return LaterData(stays, predicted, list(columns))


def _copy_of_patients(store: Store, hadm_ids: list[int]) -> duckdb.DuckDBPyConnection:
    """Return a database in memory with the objects of the store and the rows of some patients."""
    con = open_duckdb()
    con.execute("ATTACH ':memory:' AS store")
    con.execute("USE store")
    make_objects(con, TABLES)
    of_patients = "subject_id IN (SELECT subject_id FROM admissions WHERE hadm_id IN $ids)"
    of_notes = f"note_id IN (SELECT note_id FROM notes WHERE {of_patients})"
    of_stays = f"hadm_id IN (SELECT hadm_id FROM admissions WHERE {of_patients})"
    conditions = {
        **dict.fromkeys(_WHOLE, "len($ids) >= 0"),
        **dict.fromkeys(_LATER, of_stays),
        **dict.fromkeys(_OF_PATIENTS, of_patients),
        "embeddings": of_notes,
    }
    for table, condition in conditions.items():
        rows = store.sql(f"FROM {table} WHERE {condition}", ids=hadm_ids).to_arrow_table()
        con.register("rows", rows)
        con.execute(f"INSERT INTO {table} BY NAME FROM rows")
        con.unregister("rows")
    make_objects(con, VIEWS_AND_MACROS)
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    return con


def _cut_off(con: duckdb.DuckDBPyConnection, at: datetime) -> None:
    """Remove what came after a time, as a store of that time would not have it."""
    con.execute("UPDATE settings SET observed_until = $t", {"t": at})
    for table, later in _LATER.items():
        con.execute(f"DELETE FROM {table} WHERE {later}", {"t": at})
    for table in ("icu_stays", "ed_visits"):
        con.execute(f"UPDATE {table} SET outtime = NULL WHERE outtime > $t", {"t": at})
    con.execute(read_sql("cohort/covariates/stays_at"), {"t": at})


def _covariates(
    con: duckdb.DuckDBPyConnection, queries: Sequence[str], cutoff: str, hadm_ids: list[int]
) -> dict[int, dict[str, Any]]:
    """Return the covariates of some stays by name."""
    values: dict[int, dict[str, Any]] = {}
    for query in queries:
        (statement,) = duckdb.extract_statements(query)
        parameters = dict.fromkeys(statement.named_parameters, cutoff)
        rows = con.execute(
            f"WITH rows AS (\n{query}\n) FROM rows WHERE hadm_id IN $sampled_ids",
            parameters | {"sampled_ids": hadm_ids},
        )
        names = [name.lower() if name.lower() in _KEYS else name for name, *_ in rows.description]
        for row in rows.fetchall():
            named = dict(zip(names, row, strict=True))
            of_stay = values.setdefault(named["hadm_id"], {})
            of_stay |= {name: named[name] for name in names if name not in _KEYS}
    return values


def _equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or isclose(one, other, rel_tol=1e-9)  # rows in another order
