"""Output formats of a query: table, CSV, JSON, Parquet."""

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
_WIDE = 40  # characters of a table's cell
_BATCH = 10_000  # rows of Parquet in memory
_CONTROLS = dict.fromkeys(
    [*range(32), *range(127, 160)], " "
)  # control characters would steer a terminal


@contextlib.contextmanager
def open_output(
    store: Store, output: Path | None, kind: str | None
) -> Iterator[tuple[IO[Any], str]]:
    """Open stdout or a private file, which appears only when complete; yield it and the format.

    Without a `kind` the extension of the file decides. Raises FeatureStoreError if the folder does
    not exist, or the file is one of the store.
    """
    if output is None:
        yield sys.stdout, kind or "table"
        return
    if not output.parent.is_dir():
        raise FeatureStoreError(f"{output.parent} is no folder - make it, or name another")
    own = (store.path, store.path.with_name(store.path.name + ".lock"))
    if output.resolve() in {file.resolve() for file in own}:
        raise FeatureStoreError(f"{output} is the store's own - name another file")
    named = output.suffix.removeprefix(".")
    kind = kind or (named if named in FORMATS else "table")
    text = {} if kind == "parquet" else {"encoding": "utf-8", "newline": ""}
    with private_file(output, **text) as stream:
        yield stream, kind


def write_rows(
    stream: IO[str], kind: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Write rows as a table, as csv with arrays in JSON, or as json: one list of objects."""
    if kind == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(_flat, rows))
    elif kind == "json":
        names = _unique(columns)
        objects = [dict(zip(names, map(plain, row), strict=True)) for row in rows]
        stream.write(json.dumps(objects, allow_nan=False) + "\n")
    elif list(columns) == ["explain_key", "explain_value"]:
        stream.writelines(f"{plan.rstrip()}\n" for _, plan in rows)
    else:
        stream.write(_table(columns, rows))


def write_parquet(stream: IO[bytes], answer: duckdb.DuckDBPyRelation, limit: int) -> bool:
    """Write at most `limit` rows (0: all) in batches; return whether there are more."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    seen = 0
    batches = answer.to_arrow_reader(_BATCH)
    try:
        with ParquetWriter(stream, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch[: max(limit - seen, 0)] if limit else batch)
                seen += len(batch)
    except pa.ArrowNotImplementedError:
        raise FeatureStoreError(
            "a column of the answer has a type that Parquet lacks - CAST it to VARCHAR"
        ) from None
    return 0 < limit < seen


def plain(value: Any) -> Any:
    """Return a value for JSON: NaN and infinity as null, dates as text, bytes in hexadecimal."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case bytes():
            return value.hex()
    return str(value)


def _flat(row: Sequence[Any]) -> list[Any]:
    """Return a row with arrays and structs as JSON, and bytes in hexadecimal."""
    flat = []
    for value in row:
        nested = isinstance(value, dict | list | tuple)
        cell = plain(value) if nested or isinstance(value, bytes) else value
        flat.append(json.dumps(cell) if nested else cell)
    return flat


def _unique(columns: Sequence[str]) -> list[str]:
    """Return unique names, as keys of an object: the second `n` becomes `n_2`."""
    unique: list[str] = []
    for name in columns:
        number = 2
        new = name
        while new in unique:
            new, number = f"{name}_{number}", number + 1
        unique.append(new)
    return unique


def _table(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> str:
    """Return an aligned table, numbers to the right, long cells truncated."""

    def text(value: Any) -> str:
        cell = "NULL" if value is None else str(value).translate(_CONTROLS)
        return cell if len(cell) <= _WIDE else cell[: _WIDE - 1] + "…"

    cells = [list(map(text, row)) for row in (columns, *map(_flat, rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    number = int | float | Decimal | None
    numbers = [all(isinstance(row[at], number) for row in rows) for at in range(len(columns))]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numbers, strict=True)
        )
        for line in cells
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)
