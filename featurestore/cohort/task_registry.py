"""Add tasks to a store and drop them, and keep their prediction times."""

import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from featurestore.cohort.label_files import insert_labels
from featurestore.cohort.tasks import Task, check_labels, outcome_of, stored_task, task_names
from featurestore.errors import FeatureStoreError, QueryError
from featurestore.query.execution import describe, read_select
from featurestore.query.sandbox import check
from featurestore.store.changes import forget_up_to_date, log_changes
from featurestore.store.integrity.checksums import delete_rows, insert_rows
from featurestore.store.schema import make_objects
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.task_select import PARAMETERS, SHIPPED, fill_in, literal, parameters_of

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# A task cannot be made of macros that read the tasks.
_READ_TASKS = ("task_labels", "task_select", "training_set")
_REQUIRED = ("hadm_id", "label", "reason", "known_at")
_TYPES = {
    "hadm_id": "BIGINT",
    "label": "BOOLEAN",
    "reason": "VARCHAR",
    "known_at": "TIMESTAMP",
    "prediction_time": "TIMESTAMP",
    "event_at": "TIMESTAMP",
    "died_within_horizon": "BOOLEAN",
}


def add_task(store: Store, name: str, file: str | Path) -> dict[str, Any]:
    """Add a task from a SELECT (.sql), or from labels in a .csv or .parquet file.

    The columns are hadm_id, label, reason and known_at, and prediction_time where the task decides
    when it predicts; a file of labels needs only the first two, or those of MEDS (subject_id,
    prediction_time, boolean_value). The SELECT can read the store and nothing else. A comment
    "-- outcome: died in hospital" says what a positive patient did. Returns the counts: labels,
    positive, negative, unlabelled, and of a file not_in_store, labels of no stay of the store,
    which are not kept.

    Raises FeatureStoreError, and adds nothing, if the name is taken, an admission comes twice, a
    column is missing or of another type, a label is known before its prediction time, or none is
    positive.
    """
    started_at, file = datetime.now(), Path(file)
    if not _NAME.fullmatch(name):
        raise FeatureStoreError(
            f"{name!r} is not a valid name of a task - use a lower-case letter, then letters, "
            "digits and _"
        )
    if file.suffix not in (".sql", ".csv", ".parquet") or not file.is_file():
        raise FeatureStoreError(f"{file} is not an existing .sql, .csv or .parquet file")
    with store.lock("task"):
        if name in task_names(store):
            how = "" if name in SHIPPED else '"featurestore task drop" removes it, or '
            raise FeatureStoreError(
                f"{store.path} has a task {name} already - {how}give this one another name"
            )
        if file.suffix == ".sql":
            select = read_select(file)
            _check_select(store, name, select)
        with store.transaction("task", started_at) as transaction:
            con, counts = transaction.con, {}
            if file.suffix != ".sql":
                counts = insert_labels(con, name, file)
                columns = "hadm_id, label, reason, known_at"
                columns += ", prediction_time" if counts.pop("predictions") else ""
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                select = (
                    f"-- the labels of a file with the SHA-256 {digest}\n"
                    f"SELECT {columns}\nFROM task_labels_from_files\nWHERE task = {literal(name)}"
                )
            task = _default_task(name, select, "prediction_time" in _columns(con, select))
            counts = {**check_labels(con, task, is_new=True), **counts}
            con.execute(
                "INSERT INTO tasks VALUES ($1, $2, $3, $4)",
                [name, select, task.gives_prediction_time, started_at],
            )
            make_objects(con, ("task_select",))
            forget_up_to_date(con, "means", [f"task:{name}"])  # of a dropped task of this name
            refresh_predictions(con)
            transaction.counts.update(task=name, **counts)
    return {"task": name, "cutoff": task.own_cutoff, **counts}


def drop_task(store: Store, name: str) -> list[str]:
    """Remove a task from the store; return the scorers that were trained on it.

    They keep its SELECT. Raises UnknownNameError if the store has no such task of its own, and
    FeatureStoreError if another task uses its prediction times.
    """
    with store.lock("task"):
        if name in SHIPPED:
            raise FeatureStoreError(f"{name} is a task of the program and cannot be dropped")
        stored_task(store, name)
        for user, select in store.sql("SELECT name, sql FROM tasks ORDER BY name").fetchall():
            if re.search(rf"\btask:{name}\b", select):
                raise FeatureStoreError(
                    f"the task {user} uses the prediction times of {name} - drop {user} first"
                )
        scorers = store.sql(
            "SELECT scorer_id FROM scorers WHERE label_rule = $n ORDER BY scorer_id", n=name
        ).fetchall()
        with store.transaction("task") as transaction:
            con = transaction.con
            con.execute("DELETE FROM tasks WHERE name = $1", [name])
            delete_rows(con, "task_labels_from_files", "task = $1", [name])
            delete_rows(con, "task_predictions", "task = $1", [name])
            make_objects(con, ("task_select",))
            transaction.counts.update(dropped=name)
    return [scorer_id for (scorer_id,) in scorers]


def refresh_predictions(con: duckdb.DuckDBPyConnection) -> None:
    """Write the prediction times of the tasks that give their own."""
    con.execute("CREATE OR REPLACE TEMP TABLE new_predictions AS FROM task_predictions LIMIT 0")
    for name, select in _self_timed(con):
        task = _default_task(name, select, True)
        check_labels(con, task)
        query = read_sql("cohort/tasks/task_predictions")
        insert_rows(con, "new_predictions", query, {"task": name, "labels": task.labels})
    log_changes(
        con,
        "(FROM task_predictions EXCEPT FROM new_predictions) UNION ALL "
        "(FROM new_predictions EXCEPT FROM task_predictions)",
    )
    delete_rows(
        con,
        "task_predictions",
        "(task, hadm_id, prediction_time) NOT IN "
        "(SELECT (task, hadm_id, prediction_time) FROM new_predictions)",
    )
    insert_rows(
        con,
        "task_predictions",
        "FROM new_predictions EXCEPT FROM task_predictions ORDER BY task, hadm_id",
    )


def predictions_are_stale(con: duckdb.DuckDBPyConnection) -> bool:
    """Return whether a task now gives other prediction times than the store holds."""
    for name, select in _self_timed(con):
        task = _default_task(name, select, True)
        check_labels(con, task)
        query = read_sql("cohort/tasks/changed_predictions")
        if con.execute(query, {"task": name, "labels": task.labels}).fetchall()[0][0]:
            return True
    return False


def _self_timed(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """Return the name and the SELECT of each task that gives its own prediction times."""
    query = "SELECT name, sql FROM self_timed_tasks LEFT JOIN tasks USING (name) ORDER BY name"
    return [
        (name, select or read_sql(f"tasks/{name}").strip())
        for name, select in con.execute(query).fetchall()
    ]


def _default_task(name: str, select: str, gives_prediction_time: bool) -> Task:
    filled = fill_in(select, **PARAMETERS)
    return Task(name, filled, outcome_of(select), None, gives_prediction_time)


def _columns(con: duckdb.DuckDBPyConnection, select: str) -> list[str]:
    columns = con.sql(f"FROM query({literal(fill_in(select, **PARAMETERS))})").columns
    return [column.lower() for column in columns]


def _check_select(store: Store, name: str, select: str) -> None:
    """Raise FeatureStoreError unless a SELECT reads the store only and gives the columns."""
    for parameter in sorted(parameters_of(select) - {"horizon_days"}):
        raise FeatureStoreError(
            f"the SELECT of the task {name} has an unknown parameter ${parameter} - only "
            "$horizon_days can be used"
        )
    filled = fill_in(select, **PARAMETERS)
    con = store.connect()
    try:
        check(store, con, filled, forbidden=_READ_TASKS)
        columns = _columns(con, select)
        for column in _REQUIRED:
            if column not in columns:
                raise FeatureStoreError(
                    f"the task {name} has no column {column} - it must give {', '.join(_REQUIRED)}"
                )
        # The labels are a union with typed columns: what does not fit changes their types.
        labels = con.sql(_default_task(name, select, False).labels)
    except (duckdb.Error, QueryError) as error:
        message = error if isinstance(error, QueryError) else describe(error, filled)
        raise FeatureStoreError(f"the SELECT of the task {name} fails: {message}") from None
    types = dict(zip(labels.columns, map(str, labels.types), strict=True))
    for column, expected in _TYPES.items():
        if types[column] != expected:
            raise FeatureStoreError(
                f"the column {column} of the task {name} is {types[column]}, not {expected} - "
                "CAST it"
            )
