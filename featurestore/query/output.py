"""Write the result of a query as a table, CSV, JSON or Parquet."""

import contextlib
import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import duckdb

from featurestore.errors import FeatureStoreError
from featurestore.store.files import private_file
from featurestore.store.store import Store

FORMATS = ("table", "csv", "json", "parquet")
_MAX_CELL = 40  # characters of a cell in a table
_BATCH_ROWS = 10_000  # of Parquet in memory
# Control characters are printed as spaces, because a terminal would obey them.
_CONTROL_CHARACTERS = dict.fromkeys([*range(32), *range(127, 160)], " ")


@contextlib.contextmanager
def open_output(
    store: Store, output: Path | None, kind: str | None
) -> Iterator[tuple[IO[Any], str]]:
    """Open stdout or a private file; yield the stream and the format.

    The file appears only when it is complete. Its extension gives the format if `kind` is None.
    Raises FeatureStoreError if the folder does not exist or the file belongs to the store.
    """
    if output is None:
        yield sys.stdout, kind or "table"
        return
    if not output.parent.is_dir():
        raise FeatureStoreError(f"{output.parent} is not a folder - create it, or name another")
    store_files = (store.path, store.path.with_name(store.path.name + ".lock"))
    if output.resolve() in {file.resolve() for file in store_files}:
        raise FeatureStoreError(f"{output} belongs to the store - name another file")
    extension = output.suffix.removeprefix(".")
    kind = kind or (extension if extension in FORMATS else "table")
    options = {} if kind == "parquet" else {"encoding": "utf-8", "newline": ""}
    with private_file(output, **options) as stream:
        yield stream, kind


def write_rows(
    stream: IO[str], kind: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Write rows as a table, as CSV with arrays in JSON, or as a JSON list of objects."""
    if kind == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(_flatten, rows))
    elif kind == "json":
        objects = [dict(zip(columns, map(to_json, row), strict=True)) for row in rows]
        stream.write(json.dumps(objects, allow_nan=False) + "\n")
    elif list(columns) == ["explain_key", "explain_value"]:
        stream.writelines(f"{plan.rstrip()}\n" for _, plan in rows)
    else:
        stream.write(_table(columns, rows))


def write_parquet(stream: IO[bytes], relation: duckdb.DuckDBPyRelation, limit: int) -> bool:
    """Write at most `limit` rows (0: all) in batches; return whether there are more."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    n_rows = 0
    batches = relation.to_arrow_reader(_BATCH_ROWS)
    try:
        with ParquetWriter(stream, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch[: max(limit - n_rows, 0)] if limit else batch)
                n_rows += len(batch)
    except pa.ArrowNotImplementedError:
        raise FeatureStoreError(
            "a column has a type that Parquet does not support - CAST it to VARCHAR"
        ) from None
    return 0 < limit < n_rows


def to_json(value: Any) -> Any:
    """Convert a value for JSON: NaN and infinity to null, dates to text, bytes to hexadecimal."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case dict():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
        case bytes():
            return value.hex()
    return str(value)


def _flatten(row: Sequence[Any]) -> list[Any]:
    """Convert arrays and structs of a row to JSON, and bytes to hexadecimal."""
    cells = []
    for value in row:
        is_nested = isinstance(value, dict | list | tuple)
        cell = to_json(value) if is_nested or isinstance(value, bytes) else value
        cells.append(json.dumps(cell) if is_nested else cell)
    return cells


def _table(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """Format an aligned table with numbers on the right and long cells truncated."""

    def text(value: Any) -> str:
        cell = "NULL" if value is None else str(value).translate(_CONTROL_CHARACTERS)
        return cell if len(cell) <= _MAX_CELL else cell[: _MAX_CELL - 1] + "…"

    cells = [list(map(text, row)) for row in (columns, *map(_flatten, rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    number = int | float | Decimal | None
    is_numeric = [all(isinstance(row[i], number) for row in rows) for i in range(len(columns))]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_numeric, strict=True)
        )
        for line in cells
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)
