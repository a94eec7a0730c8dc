"""Delete patients from a store, to the last byte, and keep the next sync from adding them again."""

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

from featurestore.errors import FeatureStoreError, StoreDamagedError, UnknownNameError
from featurestore.store import failpoints
from featurestore.store.changes import log_changes
from featurestore.store.files import private_file
from featurestore.store.integrity.checksums import delete_rows
from featurestore.store.integrity.shard_seal import SUFFIX, ShardSeal
from featurestore.store.schema import OPTIONAL_TABLES
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction

# A night's mean over fewer notes is too close to the patient's own vectors. CMS publishes no cell
# below 11 either.
_FEWEST_NOTES = 11

# The rows of the patients, by table; sql/store/forget/patient_rows.sql makes the temporary tables.
_PATIENT_ROWS = {
    "admissions": "hadm_id IN (FROM patient_stays)",
    "notes": "note_id IN (FROM patient_notes)",
    **dict.fromkeys(OPTIONAL_TABLES, "subject_id IN (FROM patients)"),
    "embeddings": "note_id IN (FROM patient_notes) OR hadm_id IN (FROM patient_stays)",
    "admission_embeddings": "hadm_id IN (FROM patient_means)",
    "archived_admission_embeddings": "hadm_id IN (FROM patient_means)",
    "admission_covariates": "hadm_id IN (FROM patient_stays)",
    "archived_admission_covariates": "hadm_id IN (FROM patient_stays)",
    "scorer_admissions": "hadm_id IN (FROM patient_stays) OR subject_id IN (FROM patients)",
    "scores": "hadm_id IN (FROM patient_stays) OR subject_id IN (FROM patients)",
    "nightly_log_odds": "hadm_id IN (FROM patient_stays) OR subject_id IN (FROM patients)",
    "reference_scores": "hadm_id IN (FROM patient_stays) OR subject_id IN (FROM patients)",
    "task_labels_from_files": "hadm_id IN (FROM patient_stays)",
    "task_predictions": "hadm_id IN (FROM patient_stays)",
    "changed_admissions": "hadm_id IN (FROM patient_stays) OR subject_id IN (FROM patients)",
    "nightly_embedding_stats": f"n_notes < {_FEWEST_NOTES}",
}


def forget(
    store: Store, subject_ids: Iterable[int], output: str | Path | None = None
) -> dict[str, Any]:
    """Delete patients from the store; return the receipt, and write it to `output` as JSON.

    Their rows are deleted from every table and their shards from staging. The file is rewritten, so
    that no byte of them is left in it. A keyed hash of each number stays, by which the next sync
    excludes them. The receipt counts the deleted rows, names the scorers that were trained on the
    patients and lists what could not be reached. It names no patient. Raises UnknownNameError, and
    changes nothing, if a patient is not in the store.
    """
    started_at = datetime.now()
    patients = sorted(set(subject_ids))
    with store.lock("forget"), _receipt_file(output) as file:
        _check_known(store, patients)
        with store.transaction("forget", started_at, rewrite=True) as transaction:
            con = transaction.con
            con.register("patients", pa.table({"subject_id": pa.array(patients, pa.int64())}))
            con.execute(read_sql("store/forget/patient_rows"))
            scorers = con.execute(read_sql("store/forget/affected_scorers")).fetchall()
            encoders = [
                encoder
                for (encoder,) in con.execute(read_sql("store/forget/affected_encoders")).fetchall()
            ]
            # The means of others, over a note that was moved to these patients, are computed again.
            log_changes(con, "FROM patient_means ANTI JOIN patient_stays USING (hadm_id)")
            rows = {table: _delete(con, table, where) for table, where in _PATIENT_ROWS.items()}
            not_reached = _not_reached(con, encoders)
            shards = _remove_shards(store, con)
            _add_hashes(transaction, patients)
            transaction.counts.update(patients=len(patients), **rows, shards=shards)
        receipt = {
            "store": str(store.path),
            "run_id": transaction.run_id,
            "forgotten_at": datetime.now().isoformat(" ", "seconds"),
            "patients": len(patients),
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
    """Return a function that tells whether a patient was forgotten, None if nobody was."""
    rows = store.sql("SELECT key, patient_hash FROM forgotten").fetchall()
    hashes = {patient_hash for _, patient_hash in rows}
    return (lambda subject_id: _hash(rows[0][0], subject_id) in hashes) if rows else None


def _receipt_file(output: str | Path | None) -> AbstractContextManager[IO[Any] | None]:
    """Open the receipt before anything is changed."""
    if output is None:
        return nullcontext()
    output = Path(output)
    if output.exists() or not output.absolute().parent.is_dir():
        raise FeatureStoreError(
            f"{output} cannot be the receipt - name a new file in an existing folder"
        )
    return private_file(output, encoding="utf-8")


def _check_known(store: Store, patients: Sequence[int]) -> None:
    unknown = store.sql(read_sql("store/forget/unknown_patients"), subject_ids=patients).fetchall()
    if unknown:
        raise UnknownNameError(
            f"{len(unknown)} of {len(patients)} patients are not in {store.path} (the first: "
            f"{unknown[0][0]}); nothing was changed - the table admissions has their subject_id"
        )


def _delete(con: duckdb.DuckDBPyConnection, table: str, where: str) -> int:
    failpoints.hit("clean")
    return delete_rows(con, table, where)


def _remove_shards(store: Store, con: duckdb.DuckDBPyConnection) -> int:
    """Remove each shard that has notes which are not in the store (any more); return how many.

    This comes before the commit, after which nobody could tell whose notes they are. The other
    notes of such a shard are embedded again.
    """
    removed, seal = 0, store.shard_seal()
    for folder in [path for path in store.staging.iterdir() if path.is_dir()]:
        for file in [path for path in folder.iterdir() if path.is_file()]:
            if file.suffix != SUFFIX or not _is_known(file, seal, con):
                failpoints.hit("clean")
                file.unlink()
                removed += file.suffix == SUFFIX
        if not any(folder.iterdir()):
            folder.rmdir()
    return removed


def _is_known(shard: Path, seal: ShardSeal, con: duckdb.DuckDBPyConnection) -> bool:
    """Return whether all notes of a shard are in the store."""
    try:
        notes = seal.read_table(shard).select(["note_id"])
    except StoreDamagedError:
        return False
    con.register("shard", notes)
    query = "SELECT count(*) FROM shard ANTI JOIN notes USING (note_id)"
    (unknown,) = con.execute(query).fetchall()[0]
    con.unregister("shard")
    return bool(unknown == 0)


def _add_hashes(transaction: Transaction, patients: Sequence[int]) -> None:
    first = transaction.con.execute("SELECT key FROM forgotten LIMIT 1").fetchone()
    key = first[0] if first else secrets.token_bytes(32)
    for subject_id in patients:
        transaction.con.execute(
            "INSERT INTO forgotten VALUES ($1, $2, $3)",
            [_hash(key, subject_id), key, transaction.run_id],
        )


def _hash(key: bytes, subject_id: int | None) -> str:
    return hmac.digest(key, str(subject_id).encode(), "sha256").hex()


def _not_reached(con: duckdb.DuckDBPyConnection, encoders: Sequence[str]) -> list[str]:
    """Return what may still hold information about the patients, a sentence each."""
    (means,) = con.execute("SELECT count(*) FROM nightly_embedding_stats").fetchall()[0]
    which = f" (perhaps {', '.join(encoders)})" if encoders else ""
    not_reached = [
        "the hospital's own database, which is only read",
        "backups, snapshots and copies of the store, and blocks that the disk has freed",
        "files written from it: score -o, report -o, labels --meds, query results and logs",
        f"checkpoints and model folders that were fine-tuned on their notes{which}, and what an "
        "encoder learned from them before it came to this store",
        "the coefficients, calibration, metrics and reference log odds of the scorers that were "
        "fitted on them, until those are trained again and their old versions are no longer used",
        "readers that still have the previous version open",
        "their numbers where they were typed: the shell history, the list of processes",
    ]
    (tasks,) = con.execute("SELECT count(*) FROM tasks").fetchall()[0]
    if tasks:
        not_reached.append(
            f"the SELECTs of {tasks:,} tasks of your own, in tasks and scorers, if they name them"
        )
    if means:
        not_reached.append(
            f"{means:,} means in nightly_embedding_stats, each of {_FEWEST_NOTES} notes or more, "
            "which cannot be undone"
        )
    return not_reached
