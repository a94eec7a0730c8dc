"""Folders of CSV, Parquet and ndjson files, and the repair of CSV files that are not UTF-8."""

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv as pa_csv

from featurestore.errors import SourceError
from featurestore.store.database import quoted

_MAX_LINE_BYTES = 32 * 1024 * 1024  # of a CSV file
# DuckDB reads lines of up to twice this size, and reserves as much memory for each thread.
_MAX_RESOURCE_BYTES = 64 * 1024 * 1024  # of an ndjson file


class RepairedCsv:
    """A CSV file as an Arrow stream of text columns; DuckDB can read it more than once.

    Each byte that is not valid UTF-8 becomes a replacement character.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        stream = pa.TransformInputStream(
            pa.input_stream(self.file), lambda part: decoder.decode(part).encode()
        )
        reader = pa_csv.open_csv(
            stream,
            read_options=pa_csv.ReadOptions(block_size=_MAX_LINE_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=as_text(_header(self.file), quoted_null=True),
        )
        return reader.__arrow_c_stream__(requested_schema)


def as_text(columns: Sequence[str], quoted_null: bool) -> pa_csv.ConvertOptions:
    """Return options that read all columns as text and empty fields as NULL.

    An empty field in quotes is NULL too if `quoted_null`, else an empty text.
    """
    return pa_csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=quoted_null,
    )


def folder_tables(folder: Path, repair: bool = False) -> dict[str, str | RepairedCsv]:
    """Map each table of a folder to the SQL that reads it, or to a repaired CSV file.

    All ndjson files with the same type of FHIR resource are one table with the column `json`. A
    CSV file without a header line is omitted. `repair` reads CSV files through RepairedCsv, which
    is slower. Raises SourceError where two files are the same table.
    """
    tables: dict[str, str | RepairedCsv] = {}
    for name, file in _files(folder).items():
        if file.suffix == ".parquet":
            tables[name] = f"read_parquet({quoted(file.resolve())})"
        elif header := _header(file):
            tables[name] = RepairedCsv(file) if repair else _read_csv(file, header)
    for name, files in _resources(folder).items():
        if name in tables:
            raise SourceError(
                f"{folder} contains the table {name} twice, also in {files[0].name} - remove one"
            )
        tables[name] = (
            f"read_ndjson_objects([{', '.join(quoted(file.resolve()) for file in files)}], "
            f"maximum_object_size = {_MAX_RESOURCE_BYTES})"
        )
    return tables


def first_invalid_json(folder: Path) -> str | None:
    """Return what is wrong with the first line of an ndjson file that cannot be read, and where."""
    for file in _ndjson_files(folder) if folder.is_dir() else ():
        number = 0
        try:
            with _open_lines(file) as lines:
                for number, line in enumerate(lines, 1):
                    if fault := _json_fault(line):
                        return f"{file.name}, line {number} {fault}"
        except (OSError, EOFError):
            return f"{file.name}, line {number + 1} cannot be read: the file is incomplete"
    return None


def first_line_not_utf8(folder: Path) -> str | None:
    """Return the file name and line number of the first line that is not UTF-8 in a CSV file."""
    for file in _files(folder).values() if folder.is_dir() else ():
        if file.suffix == ".parquet":
            continue
        with _open_lines(file) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    return f"{file.name}, line {number}"
    return None


def check_complete(folder: Path, select: str) -> None:
    """Raise SourceError if a compressed file of a table in a SELECT is damaged or cut short.

    DuckDB reads what comes before the cut, often without an error.
    """
    words = set(re.findall(r"\w+", select.lower()))
    tables = {name: [file] for name, file in _files(folder).items()} | _resources(folder)
    for file in chain.from_iterable(tables[name] for name in words & tables.keys()):
        if is_damaged_gzip(file):
            raise SourceError(damaged_gzip(folder, file))


def is_damaged_gzip(file: Path) -> bool:
    """Return whether a .gz file is cut short or fails its checksum; it is read to its end."""
    if file.suffix.lower() != ".gz":
        return False
    try:
        with gzip.open(file, "rb") as stream:
            while stream.read(1024 * 1024):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return True
    return False


def damaged_gzip(folder: Path, file: Path) -> str:
    """Return the message about a damaged .gz file."""
    return (
        f"{folder}: {file.name} is damaged or cut short - get it again, and compare it with "
        "its checksum (SHA256SUMS.txt of a download from PhysioNet); nothing was changed"
    )


def named_file(folder: Path, message: str) -> Path | None:
    """Return the file of a folder that a message of DuckDB names, if any."""
    files = _files(folder).values() if folder.is_dir() else ()
    return next((file for file in files if str(file.resolve()) in message), None)


def _files(folder: Path) -> dict[str, Path]:
    """Map lower-case table names to NAME.csv, NAME.csv.gz or NAME.parquet; subfolders included."""
    files: dict[str, Path] = {}
    for file in sorted([*folder.iterdir(), *folder.glob("*/*")]):
        name = re.sub(r"\.(csv|csv\.gz|parquet)$", "", file.name.lower())
        if name == file.name.lower():
            continue
        if name in files:
            raise SourceError(
                f"{folder} contains the table {name} twice, as {files[name].name} and "
                f"{file.name} - remove one"
            )
        files[name] = file
    return files


def _ndjson_files(folder: Path) -> list[Path]:
    """Return the files NAME.ndjson and NAME.ndjson.gz of a folder and its subfolders."""
    files = [*folder.iterdir(), *folder.glob("*/*")]
    return sorted(file for file in files if file.name.lower().endswith((".ndjson", ".ndjson.gz")))


def _resources(folder: Path) -> dict[str, list[Path]]:
    """Map the types of FHIR resources, in lower case, to their ndjson files.

    The first line of a file tells the type of all; files without one, such as logs, are omitted.
    """
    resources: dict[str, list[Path]] = {}
    for file in _ndjson_files(folder):
        try:
            with _open_lines(file) as lines:
                first = next((line for line in lines if line.strip()), b"{}")
            resource = json.loads(first)
        except (ValueError, OSError, EOFError):
            place = first_invalid_json(file.parent) or f"{file.name} cannot be read"
            raise SourceError(f"{place} - export that file again") from None
        if isinstance(resource, dict) and isinstance(resource.get("resourceType"), str):
            resources.setdefault(resource["resourceType"].lower(), []).append(file)
    return resources


def _json_fault(line: bytes) -> str | None:
    """Return what is wrong with a line of an ndjson file, in words that quote nothing of it."""
    if len(line) > _MAX_RESOURCE_BYTES:
        return f"is longer than {_MAX_RESOURCE_BYTES // 1024**2} MB"
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    try:
        # Half a surrogate pair cannot be encoded.
        json.dumps(json.loads(text.strip() or "0"), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return "is not valid JSON"
    return None


def _open_lines(file: Path) -> IO[bytes]:
    if file.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    return file.open("rb")


def _read_csv(file: Path, header: Sequence[str]) -> str:
    # The types and the dialect are given, so that DuckDB infers nothing from the first rows.
    columns = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header)
    return (
        f"read_csv({quoted(file.resolve())}, auto_detect = false, columns = {{{columns}}}, "
        "header = true, delim = ',', quote = '\"', escape = '\"', nullstr = '', "
        f"max_line_size = {_MAX_LINE_BYTES})"
    )


def _header(file: Path) -> list[str]:
    """Return a CSV file's column names; none if its first line is unreadable or repeats a name."""
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, EOFError, csv.Error):
        return []
    return header if len({name.lower() for name in header}) == len(header) else []
