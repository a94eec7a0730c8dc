"""Patients taken out of a store, to the last byte, and kept out of it."""

import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints
from featurestore.store.files import private_file
from featurestore.store.shard_seal import SUFFIX, ShardSeal
from featurestore.store.store import Store, Transaction

# A night's mean over so few notes is too near to the patient's own vectors to be kept: no cell
# below 11 is published by CMS either.
_FEWEST_NOTES = 11

_THEIRS = """
    CREATE TEMP TABLE their_stays AS
    SELECT hadm_id FROM admissions SEMI JOIN wanted USING (subject_id)
    UNION
    SELECT hadm_id FROM former_stays SEMI JOIN wanted USING (subject_id)
    UNION
    -- A note of theirs may name an admission that is nobody's.
    SELECT hadm_id
    FROM notes
    SEMI JOIN wanted USING (subject_id)
    ANTI JOIN admissions USING (hadm_id)
    ANTI JOIN former_stays USING (hadm_id)
    WHERE hadm_id IS NOT NULL;

    CREATE TEMP TABLE their_notes AS
    SELECT note_id FROM notes
    WHERE subject_id IN (FROM wanted) OR hadm_id IN (FROM their_stays);

    -- A note that came to them since it was embedded still counts in another stay's mean.
    CREATE TEMP TABLE their_means AS
    FROM their_stays
    UNION
    SELECT hadm_id FROM embeddings SEMI JOIN their_notes USING (note_id);
"""
# By what each table knows them.
_ROWS = {
    "admissions": "hadm_id IN (FROM their_stays)",
    "former_stays": "hadm_id IN (FROM their_stays)",
    "notes": "note_id IN (FROM their_notes)",
    "embeddings": "note_id IN (FROM their_notes) OR hadm_id IN (FROM their_stays)",
    "admission_embeddings": "hadm_id IN (FROM their_means)",
    "archived_admission_embeddings": "hadm_id IN (FROM their_means)",
    "scorer_admissions": "hadm_id IN (FROM their_stays)",
    "scores": "hadm_id IN (FROM their_stays)",
    "nightly_embedding_stats": f"n_notes < {_FEWEST_NOTES}",
}
_SCORERS = """
    SELECT
        scorer_id,
        count(*) FILTER (split = 'train') AS train,
        count(*) FILTER (split = 'valid') AS valid,
        count(*) FILTER (split = 'test') AS test
    FROM scorer_admissions SEMI JOIN their_stays USING (hadm_id)
    GROUP BY scorer_id ORDER BY scorer_id
"""
_NOBODYS = """
    SELECT count(*)
    FROM (SELECT hadm_id FROM scores UNION SELECT hadm_id FROM scorer_admissions)
    ANTI JOIN admissions USING (hadm_id)
    ANTI JOIN former_stays USING (hadm_id)
"""
# Fine-tuning leaves the test patients of a store out.
_ENCODERS = """
    SELECT encoder_id FROM encoders
    WHERE (manifest -> '$.checkpoint.finetune') IS NOT NULL AND (
        coalesce(manifest ->> '$.checkpoint.finetune.patients', '') NOT LIKE 'patient_split%'
        OR EXISTS (FROM wanted WHERE patient_split(subject_id) <> 'test')
    )
    ORDER BY encoder_id
"""


def forget(
    store: Store, subject_ids: Iterable[int], output: str | Path | None = None
) -> dict[str, Any]:
    """Take patients out of the store for ever; return the receipt, and write it to `output` (JSON).

    Their rows go from every table and their shards from staging, and the file is written anew, so
    that no byte of them is left in it. A keyed hash of each number stays, by which the next sync
    leaves them out. The receipt counts the rows that went, names the scorers that were trained on
    them and says what could not be reached; it names no patient. Raises FeatureStoreError, with
    nothing changed, where one of them is not in the store.
    """
    started_at = datetime.now()
    wanted = sorted(set(subject_ids))
    with store.lock("forget"), _receipt_file(output) as file:
        _check_known(store, wanted)
        with store.transaction("forget", started_at, rewrite=True) as transaction:
            con = transaction.con
            con.register("wanted", _numbers(wanted))
            con.execute(_THEIRS)
            scorers = con.execute(_SCORERS).fetchall()
            encoders = [encoder for (encoder,) in con.execute(_ENCODERS).fetchall()]
            rows = {table: _delete(con, table, theirs) for table, theirs in _ROWS.items()}
            not_reached = _not_reached(con, encoders)
            shards = _clear_shards(store, con)
            _keep_out(transaction, wanted)
            transaction.counts.update(patients=len(wanted), **rows, shards=shards)
        receipt = {
            "store": str(store.path),
            "run_id": transaction.run_id,
            "forgotten_at": datetime.now().isoformat(" ", "seconds"),
            "patients": len(wanted),
            "rows": rows,
            "shards": shards,
            "scorers": [
                dict(zip(("scorer_id", "train", "valid", "test"), row, strict=True))
                for row in scorers
            ],
            "encoders": encoders,
            "not_reached": not_reached,
        }
        if file:
            json.dump(receipt, file, indent=2)
    return receipt


def forgotten_test(store: Store) -> Callable[[int | None], bool] | None:
    """Was the patient of a number forgotten? None where nobody was."""
    rows = store.sql("SELECT key, patient_hash FROM forgotten").fetchall()
    hashes = {patient_hash for _, patient_hash in rows}
    return (lambda number: _hash(rows[0][0], number) in hashes) if rows else None


def _receipt_file(output: str | Path | None) -> AbstractContextManager[IO[Any] | None]:
    """Where the receipt goes, tried before there is anything to receipt."""
    if output is None:
        return nullcontext()
    output = Path(output)
    if output.exists() or not output.absolute().parent.is_dir():
        raise FeatureStoreError(
            f"{output} cannot be the receipt - name a new file in a folder that is there"
        )
    return private_file(output, encoding="utf-8")


def _check_known(store: Store, wanted: Sequence[int]) -> None:
    tables = ("admissions", "notes", "former_stays")
    known = " UNION ".join(f"SELECT subject_id FROM {table}" for table in tables)
    held = {number for (number,) in store.sql(known).fetchall()}
    if unknown := [number for number in wanted if number not in held]:
        raise FeatureStoreError(
            f"{len(unknown)} of {len(wanted)} patients are not in {store.path} (the first: "
            f"{unknown[0]}); nothing was changed - the table admissions has their subject_id"
        )


def _delete(con: duckdb.DuckDBPyConnection, table: str, theirs: str) -> int:
    failpoints.hit("clean")
    rows: int = con.execute(f"DELETE FROM {table} WHERE {theirs}").fetchall()[0][0]
    return rows


def _clear_shards(store: Store, con: duckdb.DuckDBPyConnection) -> int:
    """Remove what is staged of notes that the store does not hold (any more); return the shards.

    A shard goes as a whole, before the commit: its other notes are only embedded again, while after
    the commit nobody would know any more whose it was.
    """
    removed, seal = 0, ShardSeal(store)
    for folder in [path for path in store.staging.iterdir() if path.is_dir()]:
        for file in [path for path in folder.iterdir() if path.is_file()]:
            if file.suffix != SUFFIX or not _is_of_others(file, seal, con):
                failpoints.hit("clean")
                file.unlink()
                removed += file.suffix == SUFFIX
        if not any(folder.iterdir()):
            folder.rmdir()
    return removed


def _is_of_others(shard: Path, seal: ShardSeal, con: duckdb.DuckDBPyConnection) -> bool:
    """Whether all notes of a shard are notes of the store."""
    try:
        content = pa.BufferReader(seal.opened(shard))
    except FeatureStoreError:
        return False
    con.register("shard", pq.read_table(content, columns=["note_id"]))
    (unknown,) = con.execute(
        "SELECT count(*) FROM shard ANTI JOIN notes USING (note_id)"
    ).fetchall()[0]
    con.unregister("shard")
    return bool(unknown == 0)


def _keep_out(transaction: Transaction, wanted: Sequence[int]) -> None:
    known = transaction.con.execute("SELECT key FROM forgotten LIMIT 1").fetchone()
    key = known[0] if known else secrets.token_bytes(32)
    for number in wanted:
        transaction.con.execute(
            "INSERT INTO forgotten VALUES ($1, $2, $3)",
            [_hash(key, number), key, transaction.run_id],
        )


def _hash(key: bytes, number: int | None) -> str:
    return hmac.digest(key, str(number).encode(), "sha256").hex()


def _numbers(subject_ids: Sequence[int]) -> pa.Table:
    return pa.table({"subject_id": pa.array(subject_ids, pa.int64())})


def _not_reached(con: duckdb.DuckDBPyConnection, encoders: Sequence[str]) -> list[str]:
    """What may still know the patients, a sentence each."""
    (nights,) = con.execute("SELECT count(*) FROM nightly_embedding_stats").fetchall()[0]
    (nobodys,) = con.execute(_NOBODYS).fetchall()[0]
    which = f" ({', '.join(encoders)} may be one)" if encoders else ""
    places = [
        "the hospital's own database, which is only read",
        "backups, snapshots and copies of the store, and blocks that the disk has freed",
        "files written from it: of score -o, report -o, labels --meds, of queries, and logs",
        f"checkpoints and model folders that were fine-tuned on their notes{which}, and what an "
        "encoder learned of them before it came here",
        "the coefficients, calibration and metrics of the scorers that were fitted on them, until "
        "those are trained again and their old versions are no longer used",
        "readers that opened the version before and still hold it",
        "their numbers where they were typed: a shell's history, the list of processes",
    ]
    if nights:
        places.append(
            f"{nights:,} means in nightly_embedding_stats, each of {_FEWEST_NOTES} notes or more, "
            "which cannot be undone"
        )
    if nobodys:
        places.append(
            f"scores of {nobodys:,} stays that left the source before the store kept whose they are"
        )
    return places
