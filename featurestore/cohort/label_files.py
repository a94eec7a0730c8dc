"""Read the labels of a task from a .csv or .parquet file, also those of MEDS."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from featurestore.errors import FeatureStoreError, NotEnoughDataError
from featurestore.store.integrity.checksums import insert_rows
from featurestore.store.sql_files import read_sql

if TYPE_CHECKING:
    import pyarrow as pa

_MEDS = ("subject_id", "prediction_time", "boolean_value")
_COLUMNS = ("hadm_id", "subject_id", "label", "reason", "known_at", "prediction_time")


def insert_labels(con: duckdb.DuckDBPyConnection, task: str, file: Path) -> dict[str, int]:
    """Insert the labels of a file; return how many have a prediction time, and how many no stay.

    A file has the columns hadm_id and label, and maybe reason, known_at and prediction_time; or
    those of MEDS, subject_id, prediction_time and boolean_value, whose labels belong to the stay
    that the prediction time falls into, or that ended at most 48 hours before. Ids may also be
    those of a source with texts as ids. Counts: predictions, not_in_store (labels without such a
    stay, which are not kept). Raises FeatureStoreError where a column is missing or a value has
    another type; it names the row.
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
        time = "a time without a zone, such as 2150-01-31 18:30"
        kind = kinds.get(column, "a number" if column.endswith("id") else time)
        raise FeatureStoreError(
            f"{column} in row {row_no:,} of {file} is not {kind} - correct the file"
        )
    if is_meds:
        con.execute(
            "UPDATE file_labels SET hadm_id = s.hadm_id "
            f"FROM ({read_sql('cohort/tasks/meds_stays')}) AS s WHERE file_labels.row_no = s.row_no"
        )
    query = read_sql("cohort/tasks/labels_from_file")
    insert_rows(con, "task_labels_from_files", query, {"task": task})
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
        table = pq.read_table(file) if file.suffix == ".parquet" else _read_csv(file)
        names = [name.strip().lower() for name in table.column_names]
        table = table.rename_columns(names)
    except (pa.ArrowException, UnicodeDecodeError, csv.Error):  # whose message may quote a value
        raise FeatureStoreError(f"{file} cannot be read as {file.suffix[1:]}") from None
    for name in (*_COLUMNS, *_MEDS):
        if names.count(name) > 1:
            raise FeatureStoreError(f"{file} has two columns {name} - rename one")
    is_meds = set(_MEDS) <= set(table.column_names)
    if is_meds:
        table = table.select(_MEDS).rename_columns(["subject_id", "prediction_time", "label"])
    for column in () if is_meds else ("hadm_id", "label"):
        if column not in table.column_names:
            raise FeatureStoreError(
                f"{file} has no column {column} - it must have hadm_id and label, or those of "
                f"MEDS: {', '.join(_MEDS)}"
            )
    if not len(table):
        raise NotEnoughDataError(f"{file} has no rows")
    columns: dict[str, Any] = {
        "row_no": pa.array(range(1, len(table) + 1)),
        "is_meds": pa.array([is_meds] * len(table), pa.bool_()),
    }
    for name in _COLUMNS:
        if name not in table.column_names:
            columns[name] = pa.nulls(len(table), pa.string())
            continue
        try:
            columns[name] = pc.cast(table[name], pa.string())
        except pa.ArrowException:
            raise FeatureStoreError(
                f"the column {name} of {file} is {table[name].type}, which is not a number, text, "
                "boolean or time - convert it"
            ) from None
    return pa.table(columns), is_meds


def _read_csv(file: Path) -> "pa.Table":
    """Return the columns of a .csv file as texts; raise FeatureStoreError if a row is too long."""
    import pyarrow as pa

    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        rows = [row for row in reader if row]
    for number, row in enumerate(rows, 1):
        if len(row) > len(header):
            raise FeatureStoreError(
                f"row {number:,} of {file} has more values than there are columns - quote values "
                "with a comma"
            )
        row += [""] * (len(header) - len(row))
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return pa.table([pa.array(column, pa.string()) for column in columns], names=header)
