"""The index of the hospital's admissions and notes, brought up to date."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import duckdb
import pyarrow as pa

from featurestore.errors import SourceError
from featurestore.source.source import open_source
from featurestore.store.checksums import KEYS
from featurestore.store.database import attach, open_duckdb
from featurestore.store.forget import forgotten_test
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store, Transaction

_NUMBERS = ("hadm_id", "subject_id")
_TIMES = ("admittime", "dischtime", "deathtime", "dod", "dob")
_FLAGS = ("died_in_hospital", "planned")

# No hospital's date: MIMIC shifts births back to 1800 and stays forward to 2210, while a year 21
# or 9999 is a slip of the pen or means "open".
_ABSURD = "CREATE MACRO absurd(t) AS coalesce(year(t) NOT BETWEEN 1700 AND 2399, FALSE)"

_ADMISSIONS = """
    SELECT
        CAST(hadm_id AS BIGINT) AS hadm_id,
        CAST(subject_id AS BIGINT) AS subject_id,
        CAST(admittime AS TIMESTAMP) AS admittime,
        CAST(dischtime AS TIMESTAMP) AS dischtime,
        CAST(deathtime AS TIMESTAMP) AS deathtime,
        coalesce(CAST(died_in_hospital AS BOOLEAN), FALSE) AS died_in_hospital,
        upper(trim(CAST(admission_type AS VARCHAR))) AS admission_type,
        coalesce(CAST(planned AS BOOLEAN), FALSE) AS planned,
        upper(trim(CAST(discharge_location AS VARCHAR))) AS discharge_location,
        CAST(CAST(dod AS TIMESTAMP) AS DATE) AS dod,
        CAST(gender AS VARCHAR) AS gender,
        -- MIMIC shifts the birth of patients over 89; their median age is 91.
        CASE
            WHEN date_sub('year', CAST(dob AS TIMESTAMP), CAST(admittime AS TIMESTAMP)) > 89
                THEN 91
            ELSE date_sub('year', CAST(dob AS TIMESTAMP), CAST(admittime AS TIMESTAMP))
        END AS age,
        CAST(ethnicity AS VARCHAR) AS ethnicity,
        CAST(insurance AS VARCHAR) AS insurance
    FROM source_admissions
"""

# One bad note never stops a run: it is excluded, with the first reason that holds.
_NOTES = """
    WITH typed AS (
        SELECT
            CAST(note_id AS VARCHAR) AS note_id,
            TRY_CAST(hadm_id AS BIGINT) AS hadm_id,
            TRY_CAST(subject_id AS BIGINT) AS subject_id,
            trim(CAST(category AS VARCHAR)) AS category,
            TRY_CAST(TRY_CAST(chartdate AS TIMESTAMP) AS DATE) AS chartdate,
            TRY_CAST(charttime AS TIMESTAMP) AS charttime,
            TRY_CAST(storetime AS TIMESTAMP) AS storetime,
            (chartdate IS NOT NULL AND TRY_CAST(chartdate AS TIMESTAMP) IS NULL)
            OR (charttime IS NOT NULL AND TRY_CAST(charttime AS TIMESTAMP) IS NULL)
            OR (storetime IS NOT NULL AND TRY_CAST(storetime AS TIMESTAMP) IS NULL) AS bad_date,
            -- A flag that is not a plain no is one.
            coalesce(TRY_CAST(is_error AS BOOLEAN), is_error IS NOT NULL) AS is_error,
            text_hash,
            CAST(n_chars AS BIGINT) AS n_chars,
            CAST(is_blank AS BOOLEAN) AS is_blank,
            count(DISTINCT text_hash) OVER (PARTITION BY note_id) AS n_texts
        FROM source_notes
        QUALIFY row_number() OVER (PARTITION BY note_id ORDER BY text_hash, hadm_id) = 1
    ),

    judged AS (
        SELECT
            n.note_id,
            n.hadm_id,
            coalesce(n.subject_id, a.subject_id) AS subject_id,
            n.category,
            available_at(n.storetime, n.charttime, n.chartdate) AS available_at,
            CASE
                WHEN n.storetime IS NOT NULL THEN 'storetime'
                WHEN n.charttime IS NOT NULL THEN 'charttime'
                WHEN n.chartdate IS NOT NULL THEN 'date'
            END AS time_basis,
            n.text_hash,
            n.n_chars,
            CASE
                WHEN n.is_error THEN 'flagged as an error'
                WHEN
                    n.n_texts > 1
                    -- Of a partial scan the other texts may lie before it.
                    OR (asked.partly AND old.reason = 'several texts under one note_id')
                    THEN 'several texts under one note_id'
                WHEN n.hadm_id IS NULL THEN 'no admission'
                WHEN a.hadm_id IS NULL THEN 'unknown admission'
                WHEN n.subject_id <> a.subject_id THEN 'admission of another patient'
                WHEN n.bad_date THEN 'unreadable date'
                WHEN absurd(n.chartdate) OR absurd(n.charttime) OR absurd(n.storetime)
                    THEN 'absurd date'
                WHEN coalesce(n.storetime, n.charttime, n.chartdate) IS NULL THEN 'no date'
                WHEN n.is_blank THEN 'empty text'
                -- Found by an encoder in this very text.
                WHEN old.reason = 'no words' AND old.text_hash = n.text_hash THEN old.reason
            END AS reason
        FROM typed AS n
        LEFT JOIN incoming_admissions AS a ON n.hadm_id = a.hadm_id
        LEFT JOIN notes AS old ON n.note_id = old.note_id
        CROSS JOIN asked
    )

    SELECT
        note_id, hadm_id, subject_id, category, available_at, time_basis, text_hash, n_chars,
        CASE WHEN reason IS NULL THEN 'ready' ELSE 'excluded' END AS status,
        reason
    FROM judged
"""


@dataclass
class SourceDiff:
    """What the source has that the store has not, and what it has no longer, by table."""

    counts: dict[str, Any]
    rows: dict[str, pa.Table]  # new or changed, whole
    deleted: dict[str, pa.Table]  # their keys
    observed_until: datetime | None  # of a live hospital

    def __bool__(self) -> bool:
        """Whether the store has anything to follow."""
        found = any(map(len, (*self.rows.values(), *self.deleted.values())))
        return found or self.observed_until is not None


def sync(store: Store, force: bool = False, since: date | None = None) -> dict[str, Any]:
    """Bring admissions and the index of notes up to date with the source; return the counts.

    New, changed and withdrawn rows are followed; where nothing changed, nothing is written. A
    live store is observed up to the moment at which the sync began. With `since`, only notes
    dated that day or later are looked at, and those that were withdrawn wait for a whole sync.
    Raises SourceError, with nothing changed, where the source lacks a table or column, or
    an admission its numbers or dates, and, unless `force` is given, where more than half of what
    was there is gone.
    """
    started_at = datetime.now()
    with store.lock("sync"):
        diff = diff_source(store, force, since)
        if diff:
            with store.transaction("sync", started_at) as transaction:
                apply_diff(transaction, diff)
                transaction.counts.update(diff.counts)
    return diff.counts


def diff_source(store: Store, force: bool = False, since: date | None = None) -> SourceDiff:
    """What `sync` would follow, found by one pass over the source; nothing is changed."""
    started_at = datetime.now()
    source = open_source(store)
    tables = ("admissions", "notes")
    with open_duckdb() as con:
        forgotten = _load(con, store, source.admissions(), source.note_index(since), since)
        differences = {table: _difference(con, table) for table in tables}
        if since:
            _, gone = differences["notes"]
            differences["notes"] = (differences["notes"][0], gone.slice(0, 0))
        counts = {table: _count(con, table, *differences[table]) for table in tables}
        counts["notes"]["excluded"] = dict(
            con.execute(
                "SELECT reason, count(*) FROM incoming_notes WHERE status = 'excluded' "
                "GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        )
    for table, (_, gone) in differences.items():
        held = store.one(f"SELECT count(*) FROM {table}")[0]
        if len(gone) > max(10, held / 2) and not force:
            raise SourceError(
                f"{len(gone):,} of {held:,} {table} are no longer in the source, which looks "
                "like half a download; nothing was changed - complete it, or say "
                "sync --force where they are really withdrawn"
            )
    for table, left_out in forgotten.items():
        counts[table]["forgotten"] = left_out
    if source.not_utf8:
        counts["notes"]["not_utf8"] = source.not_utf8
    (live,) = store.one("SELECT live FROM settings")
    return SourceDiff(
        counts,
        {table: rows for table, (rows, _) in differences.items()},
        {table: gone for table, (_, gone) in differences.items()},
        started_at if live else None,
    )


def apply_diff(transaction: Transaction, diff: SourceDiff) -> None:
    """Bring the next version of the store in line with the source."""
    _remember_whose(transaction, diff.deleted["admissions"])
    for table, rows in diff.rows.items():
        _apply(transaction, table, rows, diff.deleted[table])
    transaction.con.execute(
        "DELETE FROM former_stays WHERE hadm_id IN (SELECT hadm_id FROM admissions)"
    )
    if diff.observed_until:
        transaction.con.execute("UPDATE settings SET observed_until = $1", [diff.observed_until])


def _load(
    con: duckdb.DuckDBPyConnection,
    store: Store,
    admissions: pa.Table,
    notes: pa.Table,
    since: date | None,
) -> dict[str, int]:
    """Make incoming_admissions and incoming_notes, beside the store's own as they are now.

    Returns how many rows of each were left out, as those of patients whom the store forgot.
    """
    con.execute("CREATE VIEW asked AS SELECT " + ("TRUE" if since else "FALSE") + " AS partly")
    forgotten = _leave_out_forgotten(con, store, admissions, notes)
    attach(con, store.path, "store")
    con.execute("CREATE VIEW notes AS FROM store.notes")
    con.execute(_ABSURD)
    _check_admissions(con)
    con.execute(f"CREATE TABLE incoming_admissions AS {_ADMISSIONS}")
    (nameless,) = con.execute("SELECT count(*) FROM source_notes WHERE note_id IS NULL").fetchall()[
        0
    ]
    if nameless:
        raise SourceError(
            f"{nameless} notes have no note_id, so that they could not be told apart - "
            "complete them in the source"
        )
    con.execute(read_sql("macros/available_at"))
    con.execute(f"CREATE TABLE incoming_notes AS {_NOTES}")
    return forgotten


def _leave_out_forgotten(
    con: duckdb.DuckDBPyConnection, store: Store, admissions: pa.Table, notes: pa.Table
) -> dict[str, int]:
    """Make source_admissions and source_notes, without the patients whom the store forgot.

    Returns how many rows of each were left out; nothing where nobody was forgotten.
    """
    is_forgotten = forgotten_test(store)
    if is_forgotten is None:
        con.register("source_admissions", admissions)
        con.register("source_notes", notes)
        return {}
    con.register("all_admissions", admissions)
    con.register("all_notes", notes)
    patients = con.execute(
        "SELECT TRY_CAST(subject_id AS BIGINT) FROM all_admissions "
        "UNION SELECT TRY_CAST(subject_id AS BIGINT) FROM all_notes"
    ).fetchall()
    forgotten = [number for (number,) in patients if is_forgotten(number)]
    con.register("forgotten", pa.table({"subject_id": pa.array(forgotten, pa.int64())}))
    con.execute(
        """
        CREATE TABLE forgotten_stays AS
        SELECT DISTINCT TRY_CAST(a.hadm_id AS BIGINT) AS hadm_id
        FROM all_admissions AS a
        SEMI JOIN forgotten AS f ON TRY_CAST(a.subject_id AS BIGINT) = f.subject_id;

        CREATE VIEW source_admissions AS
        FROM all_admissions AS a
        ANTI JOIN forgotten AS f ON TRY_CAST(a.subject_id AS BIGINT) = f.subject_id;

        -- A note on a stay of theirs is theirs too, whomever it names.
        CREATE VIEW source_notes AS
        FROM all_notes AS n
        ANTI JOIN forgotten AS f ON TRY_CAST(n.subject_id AS BIGINT) = f.subject_id
        ANTI JOIN forgotten_stays AS s ON TRY_CAST(n.hadm_id AS BIGINT) = s.hadm_id;
        """
    )
    left = [
        con.execute(f"SELECT count(*) FROM source_{table}").fetchall()[0][0]
        for table in ("admissions", "notes")
    ]
    return {"admissions": len(admissions) - left[0], "notes": len(notes) - left[1]}


def _check_admissions(con: duckdb.DuckDBPyConnection) -> None:
    faults = []
    for column in (*_NUMBERS, *_TIMES, *_FLAGS):
        kind, what = "TIMESTAMP", "a date"
        if column in _NUMBERS:
            kind, what = "BIGINT", "a number"
        elif column in _FLAGS:
            kind, what = "BOOLEAN", "TRUE or FALSE"
        value = f"TRY_CAST({column} AS {kind})"
        required = column in (*_NUMBERS, "admittime")
        unread = f"{value} IS NULL" + ("" if required else f" AND {column} IS NOT NULL")
        faults.append((unread, column, f"not {what}"))
        if column in _TIMES:
            advice = "before 1700 or after 2399 (a stay that has not ended has none)"
            faults.append((f"absurd({value})", column, advice))
    for condition, column, fault in faults:
        count, example = con.execute(
            f"SELECT count(*), min(TRY_CAST(hadm_id AS BIGINT)) FROM source_admissions "
            f"WHERE {condition}"
        ).fetchall()[0]
        if count:
            where = f" (hadm_id {example})" if example is not None else ""
            raise SourceError(
                f"{column.upper()} is {fault} in {count:,} admissions{where} - correct it in "
                "the source; nothing was changed"
            )
    twice = con.execute(
        "SELECT hadm_id, count(*) FROM source_admissions GROUP BY 1 HAVING count(*) > 1 ORDER BY 1"
    ).fetchall()
    if twice:
        raise SourceError(
            f"{len(twice)} admissions stand more than once (hadm_id {twice[0][0]}) - correct it "
            "in the source; nothing was changed"
        )


def _difference(con: duckdb.DuckDBPyConnection, table: str) -> tuple[pa.Table, pa.Table]:
    """The rows that are new or changed, and the keys of those that are gone."""
    key = KEYS[table]
    rows = con.execute(f"FROM incoming_{table} EXCEPT FROM store.{table}").to_arrow_table()
    gone = con.execute(
        f"SELECT {key} FROM store.{table} ANTI JOIN incoming_{table} USING ({key})"
    ).to_arrow_table()
    return rows, gone


def _count(
    con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table, gone: pa.Table
) -> dict[str, Any]:
    con.register("changed_rows", rows)
    key = KEYS[table]
    total, new = con.execute(
        f"SELECT (SELECT count(*) FROM incoming_{table}), "
        f"(SELECT count(*) FROM changed_rows ANTI JOIN store.{table} USING ({key}))"
    ).fetchall()[0]
    return {"total": total, "new": new, "changed": len(rows) - new, "withdrawn": len(gone)}


def _remember_whose(transaction: Transaction, gone: pa.Table) -> None:
    """Keep the patients of stays that go while scores of them stay: forget asks for them."""
    transaction.con.register("gone_rows", gone)
    transaction.con.execute(
        """
        INSERT INTO former_stays
        SELECT hadm_id, subject_id
        FROM admissions
        SEMI JOIN gone_rows USING (hadm_id)
        WHERE hadm_id IN (
            SELECT hadm_id FROM scores
            UNION ALL SELECT hadm_id FROM scorer_admissions
            UNION ALL SELECT hadm_id FROM embeddings
        )
        """
    )
    transaction.con.unregister("gone_rows")


def _apply(transaction: Transaction, table: str, rows: pa.Table, gone: pa.Table) -> None:
    key = KEYS[table]
    transaction.con.register("changed_rows", rows)
    transaction.con.register("gone_rows", gone)
    transaction.con.execute(
        f"DELETE FROM {table} WHERE {key} IN "
        f"(SELECT {key} FROM changed_rows UNION ALL SELECT {key} FROM gone_rows)"
    )
    transaction.con.execute(f"INSERT INTO {table} SELECT * FROM changed_rows ORDER BY {key}")
    transaction.con.unregister("changed_rows")
    transaction.con.unregister("gone_rows")
