"""Read the labels of a task from a .csv or .parquet file, also those of MEDS."""

import csv
from pathlib import Path
from typing import Any

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.sql_files import read_sql

_MEDS = ("subject_id", "prediction_time", "boolean_value")
_COLUMNS = ("hadm_id", "subject_id", "label", "reason", "known_at", "prediction_time")


def insert_labels(con: duckdb.DuckDBPyConnection, task: str, file: Path) -> dict[str, int]:
    """Insert the labels of a file; return how many have a prediction time, and how many no stay.

    A file has the columns hadm_id and label, and maybe reason, known_at and prediction_time; or
    those of MEDS, subject_id, prediction_time and boolean_value, whose labels belong to the stay
    that the prediction time falls into, or that ended at most 48 hours before. Counts:
    predictions, not_in_store (labels without such a stay, which are not kept). Raises
    FeatureStoreError where a column is missing or a value has another type; it names the row.
    """
    rows, is_meds = _read(file)
    con.register("file_rows", rows)
    con.execute(read_sql("cohort/tasks/file_labels"))
    con.unregister("file_rows")
    invalid = con.execute(
        "SELECT row_no, invalid_column FROM file_labels WHERE invalid_column IS NOT NULL "
        "ORDER BY row_no LIMIT 1"
    ).fetchone()
    if invalid:
        row_no, column = invalid
        if is_meds and column == "label":
            column = "boolean_value"
        kinds = {"label": "a boolean", "boolean_value": "a boolean"}
        kind = kinds.get(column, "a number" if column.endswith("id") else "a time")
        raise FeatureStoreError(
            f"{column} in row {row_no:,} of {file} is not {kind} - correct the file"
        )
    if is_meds:
        con.execute(
            "UPDATE file_labels SET hadm_id = s.hadm_id "
            f"FROM ({read_sql('cohort/tasks/meds_stays')}) AS s WHERE file_labels.row_no = s.row_no"
        )
    con.execute(read_sql("cohort/tasks/insert_file_labels"), {"task": task})
    kept, predictions = con.execute(
        "SELECT count(*), count(prediction_time) FROM task_labels_from_files WHERE task = $1",
        [task],
    ).fetchall()[0]
    return {"predictions": predictions, "not_in_store": len(rows) - kept}


def _read(file: Path) -> tuple[Any, bool]:
    """Return the columns as texts, NULL where they are missing, and whether they are MEDS's."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            table = pq.read_table(file)
        else:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                table = pa.Table.from_pylist(list(csv.DictReader(stream, restkey="")))
    except (pa.ArrowException, UnicodeDecodeError, csv.Error):  # whose message may quote a value
        raise FeatureStoreError(f"{file} cannot be read as {file.suffix[1:]}") from None
    is_meds = set(_MEDS) <= set(table.column_names)
    if is_meds:
        table = table.select(_MEDS).rename_columns(["subject_id", "prediction_time", "label"])
    for column in () if is_meds else ("hadm_id", "label"):
        if column not in table.column_names:
            raise FeatureStoreError(
                f"{file} has no column {column} - it must have hadm_id and label, or those of "
                f"MEDS: {', '.join(_MEDS)}"
            )
    columns = {
        name: pc.cast(table[name], pa.string())
        if name in table.column_names
        else pa.nulls(len(table), pa.string())
        for name in _COLUMNS
    }
    columns |= {
        "row_no": pa.array(range(1, len(table) + 1)),
        "is_meds": pa.array([is_meds] * len(table), pa.bool_()),
    }
    return pa.table(columns), is_meds
