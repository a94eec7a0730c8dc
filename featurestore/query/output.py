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

# The formats of a result, by the extension of the file.
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "table",
}
BINARY = ("parquet", "arrow")
_MAX_CELL = 40  # characters of a cell in a table
_BATCH_ROWS = 10_000  # of Parquet or Arrow in memory
# Control characters are printed as spaces, because a terminal would obey them.
_CONTROL_CHARACTERS = dict.fromkeys([*range(32), *range(127, 160)], " ")


@contextlib.contextmanager
def open_output(
    store: Store, output: Path | None, kind: str | None
) -> Iterator[tuple[IO[Any], str]]:
    """Open stdout or a private file; yield the stream and the format.

    The file appears only when it is complete. Its extension gives the format. Raises
    FeatureStoreError if `kind` is another format, or if the file cannot be written.
    """
    if output is None:
        yield sys.stdout, kind or "table"
        return
    by_extension = FORMATS[store.output_file(output, *FORMATS).suffix]
    if kind not in (None, by_extension):
        raise FeatureStoreError(
            f"{output} is a file of the format {by_extension}, not {kind} - omit --format, or name "
            "a file with another extension"
        )
    kind = by_extension
    options = {} if kind in BINARY else {"encoding": "utf-8", "newline": ""}
    with private_file(output, **options) as stream:
        yield stream, kind


def write_rows(
    stream: IO[str], kind: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Write rows as a table, CSV or TSV with arrays in JSON, or JSON objects.

    `json` is one list, `jsonl` an object a line. Only a table on stdout has its long cells cut.
    """
    if kind in ("csv", "tsv"):
        writer = csv.writer(stream, lineterminator="\n", delimiter="," if kind == "csv" else "\t")
        writer.writerow(columns)
        writer.writerows(map(_flatten, rows))
    elif kind in ("json", "jsonl"):
        objects = [dict(zip(columns, map(to_json, row), strict=True)) for row in rows]
        for value in objects if kind == "jsonl" else [objects]:
            stream.write(json.dumps(value, allow_nan=False) + "\n")
    elif list(columns) == ["explain_key", "explain_value"]:
        stream.writelines(f"{plan.rstrip()}\n" for _, plan in rows)
    else:
        stream.write(_table(columns, rows, _MAX_CELL if stream is sys.stdout else None))


def write_arrow(
    stream: IO[bytes], kind: str, relation: duckdb.DuckDBPyRelation, limit: int
) -> bool:
    """Write at most `limit` rows (0: all) in batches; return whether there are more.

    `kind` is parquet, or arrow: a file in the IPC format.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    n_rows = 0
    batches = relation.to_arrow_reader(_BATCH_ROWS)
    new_file = ParquetWriter if kind == "parquet" else pa.ipc.new_file
    try:
        with new_file(stream, batches.schema) as writer:
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


def _table(columns: Sequence[str], rows: Sequence[tuple[Any, ...]], max_cell: int | None) -> str:
    """Format an aligned table with numbers on the right; cut cells of over max_cell characters."""

    def text(value: Any) -> str:
        cell = "NULL" if value is None else str(value).translate(_CONTROL_CHARACTERS)
        return cell if not max_cell or len(cell) <= max_cell else cell[: max_cell - 1] + "…"

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
