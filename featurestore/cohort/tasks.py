"""Tasks: the questions that a store can be asked, each a SELECT of a label per admission."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import duckdb

from featurestore.errors import FeatureStoreError, NotEnoughDataError, UnknownNameError
from featurestore.query.execution import describe
from featurestore.store.schema import canonical_cutoff, check_label_options
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.task_select import (
    PARAMETERS,
    SELF_TIMED,
    SHIPPED,
    fill_in,
    literal,
    parameters_of,
)

DEFAULT_TASK = "readmission"
DEFAULT_CUTOFF = "72h"
_OUTCOME = re.compile(r"^--\s*outcome:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """A question with the values of its parameters."""

    name: str
    select: str  # gives hadm_id, label, reason, known_at and maybe prediction_time
    outcome: str  # what a positive patient did, such as "returned"
    horizon_days: int | None  # None for a task without a horizon
    gives_prediction_time: bool

    @property
    def hash(self) -> str:
        """SHA-256 of the SELECT."""
        return hashlib.sha256(self.select.encode()).hexdigest()

    @cached_property
    def labels(self) -> str:
        """The SELECT of hadm_id, subject_id, label, reason, mature, known_at, ...

        For `query($labels)` in the SQL files; sql/macros/labels/task_labels.sql says what it gives.
        """
        body = read_sql("macros/labels/task_labels").partition(" AS TABLE\n")[2].partition(";")[0]
        return body.replace("task_select(task, horizon_days)", literal(self.select))

    def with_select(self, select: str) -> "Task":
        """Return the task with another SELECT, and the same horizon."""
        values = {**PARAMETERS, "horizon_days": self.horizon_days or PARAMETERS["horizon_days"]}
        return replace(self, select=fill_in(select, **values))

    @property
    def own_cutoff(self) -> str | None:
        """The cutoff of a task that gives its own prediction times."""
        return f"task:{self.name}" if self.gives_prediction_time else None

    def cutoff(self, store: Store, requested: str | None = None) -> str:
        """Return the canonical name of a cutoff, 72h by default, or that of the task's own times.

        Raises FeatureStoreError if there is no such cutoff, or a task that gives its own prediction
        times is requested at another.
        """
        if own := self.own_cutoff:
            if requested not in (None, own):
                raise FeatureStoreError(
                    f"the task {self.name} gives its own prediction times, so it cannot be "
                    f"predicted at {requested} - leave the cutoff out"
                )
            return own
        cutoff = canonical_cutoff(requested or DEFAULT_CUTOFF)
        if cutoff.startswith("task:"):  # the prediction times of another task
            timed = store.sql("SELECT name FROM tasks WHERE gives_prediction_time").fetchall()
            if cutoff not in (known := sorted(f"task:{name}" for (name,) in timed)):
                raise UnknownNameError(
                    f"{store.path} has no task with prediction times of its own for the cutoff "
                    f"{cutoff} - it has {', '.join(known) or 'none'}"
                )
        return cutoff


def find_task(
    store: Store,
    name: str | None = None,
    horizon_days: int | None = None,
    rule: Mapping[str, Any] | None = None,
) -> Task:
    """Return a task of the program or of the store, with the values of its parameters.

    `horizon_days` and `rule` (min_age, planned_types, same_day, deaths; see
    sql/macros/labels/readmission_labels.sql) replace defaults where they are not None. Raises
    UnknownNameError, NotEnoughDataError where the source has not the tables of the task, and
    FeatureStoreError where the task has no such parameter, or its labels are not valid.
    """
    name = name or DEFAULT_TASK
    if name == "icu_readmission" and not store.sql("FROM icu_stays LIMIT 1").fetchall():
        raise NotEnoughDataError(
            f"{store.path} has no stays in intensive care, which the task {name} needs - sync from "
            "a source with ICU stays, or add icu_stays.sql to the schema (docs/sources.md)"
        )
    select, gives_time = stored_task(store, name)
    given = {key: value for key, value in (rule or {}).items() if value not in (None, ())}
    if horizon_days is not None:
        check_label_options(horizon_days=horizon_days)
        given["horizon_days"] = horizon_days
    names = parameters_of(select)
    for parameter in given.keys() - names:
        raise FeatureStoreError(
            f"the task {name} has no parameter {parameter} - leave it out"
            + (f"; it has {', '.join(sorted(names))}" if names else "")
        )
    values, outcome = {**PARAMETERS, **given}, outcome_of(select)
    if "deaths" in names and values["deaths"] == "positive":
        outcome = "returned or died"
    horizon = values["horizon_days"] if "horizon_days" in names else None
    task = Task(name, fill_in(select, **values), outcome, horizon, gives_time)
    if name not in SHIPPED:  # data change, and what its SELECT gives with them
        check_labels(store.connect(), task)
    return task


def scorer_task(store: Store, scorer_id: str) -> Task:
    """Return the task that a scorer was fitted on, as it was then.

    Raises FeatureStoreError where its SELECT does not give valid labels any more.
    """
    name, select, outcome, horizon, cutoff = store.one(
        "SELECT label_rule, task_sql, metrics ->> '$.outcome', horizon_days, cutoff FROM scorers "
        "WHERE scorer_id = $s",
        s=scorer_id,
    )
    task = Task(name, select, outcome, horizon, cutoff == f"task:{name}")
    if name not in SHIPPED:
        try:
            _count_labels(store.connect(), task)
        except FeatureStoreError as error:
            what = str(error).partition(" - ")[0]
            raise FeatureStoreError(
                f"the labels of {scorer_id} are no longer valid: {what} - correct the data, or "
                "train it again on another task"
            ) from None
    return task


def list_tasks(store: Store) -> list[dict[str, Any]]:
    """Return name, outcome, cutoff (of a task with its own times), scorers and SELECT of each task.

    The tasks of the program come first.
    """
    scorers: dict[str, list[str]] = {}
    for scorer_id, name in store.sql("SELECT scorer_id, label_rule FROM scorers").fetchall():
        scorers.setdefault(name, []).append(scorer_id)
    tasks = []
    for name in task_names(store):
        select, gives_time = stored_task(store, name)
        tasks.append(
            {
                "name": name,
                "outcome": outcome_of(select),
                "shipped": name in SHIPPED,
                "cutoff": f"task:{name}" if gives_time else None,
                "parameters": sorted(parameters_of(select)),
                "scorers": scorers.get(name, []),
                "sql": select,
            }
        )
    return tasks


def check_labels(
    con: duckdb.DuckDBPyConnection, task: Task, is_new: bool = False
) -> dict[str, int]:
    """Return the counts of the labels of a task; raise FeatureStoreError if some are not valid.

    A new task must also have positives, a prediction if it decides when it predicts, and in a live
    hospital a label that can become mature.
    """
    counts = _count_labels(con, task, is_new)
    if counts["early_hadm_id"] is not None:
        raise FeatureStoreError(
            f"the task {task.name} knows the label of admission {counts['early_hadm_id']} before "
            "its prediction time - known_at must not be earlier than prediction_time"
        )
    n_labels = counts["positive"] + counts["negative"]
    if is_new:
        if not counts["positive"]:
            raise NotEnoughDataError(
                f"none of the {counts['labels']:,} labels of the task {task.name} is TRUE - a task "
                "needs positives"
            )
        if task.gives_prediction_time and not counts["predictions"]:
            raise NotEnoughDataError(
                f"the task {task.name} predicts no admission, as every prediction_time is NULL - "
                "give it, or leave the column out"
            )
        if counts["never_mature"] == n_labels:
            raise NotEnoughDataError(
                f"no label of the task {task.name} has a known_at, so in a live hospital none is "
                "ever mature - give the time when the label is known"
            )
    return {
        "labels": n_labels,
        "positive": counts["positive"],
        "negative": counts["negative"],
        "unlabelled": counts["labels"] - n_labels,
    }


def _count_labels(
    con: duckdb.DuckDBPyConnection, task: Task, is_new: bool = False
) -> dict[str, Any]:
    """Return the row of sql/cohort/tasks/task_counts.sql.

    Raises FeatureStoreError where the SELECT fails, an admission comes twice, or a time is
    infinite.
    """
    try:
        result = con.execute(read_sql("cohort/tasks/task_counts"), {"labels": task.labels})
    except duckdb.Error as error:
        raise FeatureStoreError(
            f"the SELECT of the task {task.name} fails: {describe(error, task.select)}"
            + ("" if is_new else ' - "featurestore task drop" removes it')
        ) from None
    names = [name for name, *_ in result.description]
    counts = dict(zip(names, result.fetchall()[0], strict=True))
    if counts["repeated_hadm_id"] is not None:
        raise FeatureStoreError(
            f"the task {task.name} gives admission {counts['repeated_hadm_id']} more than once - "
            "correct it: one row per admission is needed"
        )
    if counts["infinite_hadm_id"] is not None:
        raise FeatureStoreError(
            f"the task {task.name} gives admission {counts['infinite_hadm_id']} an infinite time - "
            "give NULL where there is no time"
        )
    return counts


def check_known_after_prediction(store: Store, task: Task, cutoff: str) -> None:
    """Raise FeatureStoreError if a label of the task is known before its prediction at a cutoff."""
    (known,) = store.one(read_sql("cohort/tasks/known_outcomes"), labels=task.labels, cutoff=cutoff)
    if known:
        raise FeatureStoreError(
            f"{known:,} labels of the task {task.name} are known before their prediction at "
            f"{cutoff} - choose an earlier cutoff"
        )


def outcome_of(select: str) -> str:
    """Return what a positive patient did, as a comment "-- outcome: ..." of the SELECT says."""
    outcome = _OUTCOME.search(select)
    return outcome[1] if outcome else "had the outcome"


def task_names(store: Store) -> list[str]:
    """Return the names of the tasks of the program and of the store."""
    names = store.sql("SELECT name FROM tasks ORDER BY name").fetchall()
    return [*SHIPPED, *(name for (name,) in names)]


def stored_task(store: Store, name: str) -> tuple[str, bool]:
    """Return the SELECT of a task and whether it gives prediction times, by name."""
    if name in SHIPPED:
        return read_sql(f"tasks/{name}").strip(), name in SELF_TIMED
    row = store.sql(
        "SELECT sql, gives_prediction_time FROM tasks WHERE name = $n", n=name
    ).fetchone()
    if row is None:
        raise UnknownNameError(
            f"{store.path} has no task {name} - it has {', '.join(task_names(store))}; "
            f'"featurestore task add" adds one'
        )
    select, gives_time = row
    return select, gives_time
