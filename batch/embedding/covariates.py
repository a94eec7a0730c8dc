"""Covariates: numbers of an admission beside its vector, known at the prediction time."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import FeatureStoreError, QueryError
from featurestore.query.execution import describe, read_select
from featurestore.query.sandbox import check
from featurestore.store.changes import log_changes
from featurestore.store.integrity.checksums import delete_rows, insert_rows
from featurestore.store.sql_files import SQL, read_sql
from featurestore.store.store import Store
from featurestore.store.vectors import vectors_to_arrow

_NUMBERS = r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)"
_KEYS = ("hadm_id", "known_at")  # in capitals too
_TIMES = ("TIMESTAMP", "DATE")
_LARGEST = 1e100  # whose square is a number
_COLUMNS = "covariates_id, cutoff, hadm_id, prediction_time, design"
_STORED = f"SELECT {_COLUMNS} FROM admission_covariates"
_EXPECTED = f"SELECT {_COLUMNS} FROM expected_covariates"


@dataclass(frozen=True)
class Covariates:
    """A set of covariates: one or more SELECTs, each keyed by hadm_id."""

    name: str  # of the shipped sets and files, joined by +
    queries: tuple[str, ...]
    columns: tuple[str, ...]  # the covariates of all SELECTs
    unlimited: tuple[str, ...] = ()  # those of SELECTs that neither use $cutoff nor give known_at

    @property
    def id(self) -> str:
        """The name and 8 hex digits of the hash of the SELECTs."""
        digest = hashlib.sha256(json.dumps(self.queries).encode()).hexdigest()
        return f"{self.name}-{digest[:8]}"


def find_covariates(store: Store, names: Sequence[str]) -> Covariates | None:
    """Return the set of some shipped names and .sql files; None without any.

    Raises FeatureStoreError where a SELECT fails, reads anything but the store, or gives something
    that is not a number.
    """
    if not names:
        return None
    queries = {Path(name).stem: _read(name) for name in names}
    if len(queries) < len(names):
        raise FeatureStoreError("covariates have the same name - rename a file")
    con = store.connect()
    columns, unlimited = [], []
    for name, query in queries.items():
        given = _columns(store, con, name, query)
        of_query = [column for column in given if column != "known_at"]
        columns += of_query
        if "known_at" not in given and "cutoff" not in _parameters(query):
            unlimited += of_query
    for column in columns:
        if columns.count(column) > 1:
            raise FeatureStoreError(f"two sets of covariates have a column {column} - rename one")
    return Covariates("+".join(queries), tuple(queries.values()), tuple(columns), tuple(unlimited))


def shipped_sets() -> list[str]:
    """Return the names of the sets that come with the program."""
    return sorted(file.stem for file in (SQL / "covariates").glob("*.sql"))


def design_rows(
    store: Store, con: duckdb.DuckDBPyConnection, covariates: Covariates, cutoff: str
) -> pa.Table:
    """Return the covariates of every admission that is predicted at a cutoff, by hadm_id.

    Columns: hadm_id, prediction_time, design: for each covariate its value, 0 where it is missing,
    and whether it is missing. Raises FeatureStoreError where an admission comes twice, a value is
    not finite, or a row was known only after its prediction time.
    """
    query = "FROM prediction_times(cutoff := $1) ORDER BY hadm_id"
    predicted = con.execute(query, [cutoff]).to_arrow_table()
    designs = [
        _design(store, con, name, query, cutoff, predicted)
        for name, query in zip(covariates.name.split("+"), covariates.queries, strict=True)
    ]
    return predicted.append_column("design", vectors_to_arrow(np.hstack(designs)))


def refresh_covariates(store: Store, con: duckdb.DuckDBPyConnection) -> None:
    """Bring admission_covariates up to date, for the sets of scorers at their cutoffs.

    Rows that a recorded score may depend on are archived. Raises FeatureStoreError where a SELECT
    does not give valid rows any more.
    """
    con.execute(
        "CREATE OR REPLACE TEMP TABLE expected_covariates AS "
        "SELECT * EXCLUDE (design_hash) FROM admission_covariates LIMIT 0"
    )
    for covariates, cutoff in _used_sets(con):
        rows = design_rows(store, con, covariates, cutoff)
        con.register("rows", rows)
        insert_rows(
            con,
            "expected_covariates",
            "SELECT $1 AS covariates_id, $2 AS cutoff, * FROM rows",
            [covariates.id, cutoff],
            by_name=True,
        )
        con.unregister("rows")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE outdated_covariates AS "
        f"SELECT covariates_id, cutoff, hadm_id FROM ({_STORED} EXCEPT {_EXPECTED})"
    )
    insert_rows(con, "archived_admission_covariates", read_sql("embedding/archive_covariates"))
    log_changes(
        con,
        "SELECT hadm_id FROM outdated_covariates UNION ALL "
        f"SELECT hadm_id FROM ({_EXPECTED} EXCEPT {_STORED})",
    )
    delete_rows(
        con,
        "admission_covariates",
        "(covariates_id, cutoff, hadm_id) IN "
        "(SELECT (covariates_id, cutoff, hadm_id) FROM outdated_covariates)",
    )
    insert_rows(
        con,
        "admission_covariates",
        f"SELECT *, hash(design) AS design_hash FROM ({_EXPECTED} EXCEPT {_STORED}) "
        "ORDER BY covariates_id, cutoff, hadm_id",
        by_name=True,
    )
    # What was archived can come back.
    delete_rows(
        con,
        "archived_admission_covariates",
        "(covariates_id, cutoff, hadm_id, design_hash) IN "
        "(SELECT (covariates_id, cutoff, hadm_id, design_hash) FROM admission_covariates)",
    )


def covariates_are_stale(store: Store) -> bool:
    """Return whether admission_covariates differs from what the SELECTs give now."""
    con = store.connect()
    count = "SELECT count(*), sum(hash(t)) FROM (SELECT hadm_id, prediction_time, design"
    for covariates, cutoff in _used_sets(con):
        con.register("rows", design_rows(store, con, covariates, cutoff))
        (expected,) = con.execute(f"{count} FROM rows) AS t").fetchall()
        con.unregister("rows")
        query = f"{count} FROM admission_covariates WHERE (covariates_id, cutoff) = ($1, $2)) AS t"
        if con.execute(query, [covariates.id, cutoff]).fetchall() != [expected]:
            return True
    return False


def insert_set(con: duckdb.DuckDBPyConnection, covariates: Covariates) -> None:
    """Record a set, unless the store has it already."""
    con.execute(
        "INSERT INTO covariate_sets SELECT $1, $2, $3, $4 "
        "WHERE $1 NOT IN (SELECT covariates_id FROM covariate_sets)",
        [covariates.id, covariates.name, list(covariates.queries), list(covariates.columns)],
    )


def stored_set(store: Store, covariates_id: str | None) -> Covariates | None:
    """Return a set that the store recorded; None without an id."""
    if covariates_id is None:
        return None
    name, queries, columns = store.one(
        "SELECT name, queries, columns FROM covariate_sets WHERE covariates_id = $c",
        c=covariates_id,
    )
    return Covariates(name, tuple(queries), tuple(columns))


def _used_sets(con: duckdb.DuckDBPyConnection) -> list[tuple[Covariates, str]]:
    """Return the sets of covariates that scorers use, with the cutoffs of these."""
    rows = con.execute(
        "SELECT DISTINCT c.name, c.queries, c.columns, s.cutoff FROM covariate_sets AS c "
        "INNER JOIN scorers AS s USING (covariates_id) ORDER BY ALL"
    ).fetchall()
    return [
        (Covariates(name, tuple(queries), tuple(columns)), cutoff)
        for name, queries, columns, cutoff in rows
    ]


def _read(name: str) -> str:
    """Return the SELECT of a shipped set or of a file."""
    if name in shipped_sets():
        return read_sql(f"covariates/{name}").strip()
    file = Path(name)
    if file.suffix != ".sql" or not re.fullmatch(r"[\w.-]+", file.stem) or not file.is_file():
        raise FeatureStoreError(
            f"there are no covariates {name} - use {', '.join(shipped_sets())} or an .sql file "
            "that exists"
        )
    return read_select(file)


def _columns(store: Store, con: duckdb.DuckDBPyConnection, name: str, query: str) -> list[str]:
    """Return the covariates of a SELECT, and known_at if it has that.

    Raises FeatureStoreError if the SELECT or the type of a column is not valid.
    """
    result = _run(store, con, name, query, "72h", "* FROM rows LIMIT 0")
    types = {
        column.lower() if column.lower() in _KEYS else column: str(type_)
        for column, type_, *_ in result.description
    }
    if not re.fullmatch("U?(BIG|HUGE)?INT(EGER)?", types.pop("hadm_id", "")):
        raise FeatureStoreError(f"the covariates {name} have no integer column hadm_id - add it")
    if types.get("known_at", _TIMES[0]) not in _TIMES:
        raise FeatureStoreError(f"known_at of the covariates {name} is not a TIMESTAMP - CAST it")
    for column, type_ in types.items():
        if column != "known_at" and not re.fullmatch(_NUMBERS, type_):
            raise FeatureStoreError(
                f"the covariate {column} of {name} is {type_}, not a number or BOOLEAN - use a "
                "column for each value that it can have"
            )
    if not types.keys() - {"known_at"}:
        raise FeatureStoreError(f"{name} has no covariate beside hadm_id - select at least one")
    return list(types)


def _parameters(query: str) -> set[str]:
    """Return the names of the parameters of a SELECT; raise ValueError if it is not one."""
    (statement,) = duckdb.extract_statements(query)
    return set(statement.named_parameters)


def _run(
    store: Store, con: duckdb.DuckDBPyConnection, name: str, query: str, cutoff: str, select: str
) -> duckdb.DuckDBPyConnection:
    """Execute `SELECT {select}` where rows is the SELECT of some covariates, in the sandbox."""
    try:
        parameters = _parameters(query)
        if unknown := parameters - {"cutoff"}:
            raise QueryError(f"an unknown parameter ${min(unknown)} - use $cutoff")
        check(store, con, query)
        values = {"cutoff": cutoff} if parameters else None
        return con.execute(f"WITH rows AS (\n{query}\n) SELECT {select}", values)
    except ValueError:
        raise FeatureStoreError(f"the covariates {name} are not one SELECT") from None
    except QueryError as error:
        raise FeatureStoreError(f"the SELECT of the covariates {name} fails: {error}") from None
    except duckdb.Error as error:
        message = describe(error, query)
        raise FeatureStoreError(f"the SELECT of the covariates {name} fails: {message}") from None


def _design(
    store: Store,
    con: duckdb.DuckDBPyConnection,
    name: str,
    query: str,
    cutoff: str,
    predicted: pa.Table,
) -> npt.NDArray[np.float64]:
    """Return two columns per covariate of a SELECT (predicted admissions, 2 * covariates)."""
    columns = _columns(store, con, name, query)
    has_known_at = "known_at" in columns
    known_at = "known_at" if has_known_at else "NULL"
    columns = [column for column in columns if column != "known_at"]
    select = f"CAST(hadm_id AS BIGINT) AS hadm_id, CAST({known_at} AS TIMESTAMP) AS known_at"
    for column in columns:
        quoted = '"' + column.replace('"', '""') + '"'
        select += f", CAST({quoted} AS DOUBLE) AS {quoted}"
    select += " FROM rows ORDER BY hadm_id"
    rows = _run(store, con, name, query, cutoff, select).to_arrow_table()
    hadm_id = rows["hadm_id"].drop_null().to_numpy()
    if len(hadm_id) < len(rows):
        raise FeatureStoreError(f"the covariates {name} give a row without a hadm_id")
    if (repeated := hadm_id[1:][np.diff(hadm_id) == 0]).size:
        raise FeatureStoreError(
            f"the covariates {name} give admission {repeated[0]} more than once - one row per "
            "admission is needed"
        )
    ids = predicted["hadm_id"].to_numpy()
    is_used = np.isin(hadm_id, ids)
    row_of = np.searchsorted(ids, hadm_id[is_used])
    late = rows["known_at"].to_numpy()[is_used] > predicted["prediction_time"].to_numpy()[row_of]
    if late.any():
        raise FeatureStoreError(
            f"the covariates {name} of {late.sum():,} admissions were known only after the "
            f"prediction at {cutoff} (the first: {hadm_id[is_used][late][0]}) - select what was "
            "known at prediction_times(cutoff := $cutoff)"
        )
    _check_known_at(name, rows, is_used, has_known_at)
    design = np.tile([0.0, 1.0], (len(ids), len(columns)))
    for number, column in enumerate(columns):
        is_missing = rows[column].is_null().to_numpy()[is_used]
        value = rows[column].fill_null(0.0).to_numpy()[is_used]
        if not (np.abs(value) <= _LARGEST).all():
            raise FeatureStoreError(
                f"the covariate {column} of {name} has a value that is infinite or not a number, "
                f"or beyond {_LARGEST:g} - give NULL where it is missing"
            )
        design[row_of, 2 * number] = value
        design[row_of, 2 * number + 1] = is_missing
    return design


def _check_known_at(
    name: str, rows: pa.Table, is_used: npt.NDArray[np.bool_], has_known_at: bool
) -> None:
    """Raise FeatureStoreError if a predicted admission has a covariate, but no known_at."""
    if not has_known_at:
        return
    covariates = [c for c in rows.column_names if c not in _KEYS]
    has_value = np.any([rows[column].is_valid().to_numpy() for column in covariates], axis=0)
    unchecked = rows["known_at"].is_null().to_numpy() & has_value & is_used
    if unchecked.any():
        first = rows["hadm_id"].to_numpy()[unchecked][0]
        raise FeatureStoreError(
            f"the covariates {name} of {unchecked.sum():,} admissions have no known_at (the first: "
            f"{first}) - give it, or NULL covariates; of what is always known, the prediction time"
        )
