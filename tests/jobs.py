"""Jobs that tests run, and kill, in processes of their own."""

import multiprocessing
import os
import signal
import time
from contextlib import contextmanager

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["batch", "sklearn.linear_model", "tests.conftest"])

# Everything that a run writes but its time and number.
CONTENTS = {
    "settings": "source, schema_name, live",
    "admissions": "*",
    "notes": "*",
    "encoders": "*",
    "embeddings": "*",
    "admission_embeddings": "*",
    "scorers": "scorer_id, encoder_id, coef, intercept",
    "scorer_admissions": "*",
    "scores": "scorer_id, hadm_id, probability, prediction_time",
    "nightly_embedding_stats": "encoder_id, category, n_notes, n_windows",
}


@contextmanager
def edited(store):
    """Yield a transaction in which any statement may change rows, as a sync would change them."""
    from featurestore.store.changes import log_all_changed
    from featurestore.store.integrity.checksums import NEW_ROWS, checksums, recorded_checksums

    with store.transaction("test") as transaction:
        con = transaction.con
        yield transaction
        log_all_changed(con)
        con.execute("DELETE FROM row_changes WHERE NOT is_before")
        old_rows = checksums(con, f"NOT {NEW_ROWS}")
        for table, before in recorded_checksums(con)[0].items():
            difference = int(old_rows[table]["rows_hash"]) - int(before["rows_hash"])
            con.execute(
                "INSERT INTO row_changes VALUES ($1, $2, $3::HUGEINT, FALSE)",
                [table, old_rows[table]["rows"] - before["rows"], str(difference)],
            )


def everything(store):
    """Return every row of every table, with its vectors, and every definition, as hashes."""
    from featurestore import Store
    from featurestore.store.sql_files import read_sql

    with Store(store.path) as again:
        con = again.connect()
        tables = con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store' ORDER BY 1"
        ).fetchall()
        query = read_sql("store/verify/definitions")
        return con.execute(query).fetchall(), [
            con.execute(f"SELECT count(*), sum(hash(t)) FROM {table} AS t").fetchall()
            for (table,) in tables
        ]


def contents(store):
    """Return the rows of every table, sorted."""
    return {
        table: store.sql(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()
        for table, columns in CONTENTS.items()
    }


def start(job, *arguments):
    """Start a function of this module in another process."""
    process = _FORKS.Process(target=job, args=arguments)
    process.start()
    return process


def ended(process):
    """Return the exit status of a process, or minus the signal that ended it."""
    process.join(60)
    assert process.exitcode is not None, "the job hangs"
    return process.exitcode


def night(path):
    """Run nightly with the word counter."""
    from featurestore import Store, nightly
    from tests.conftest import WordCounter

    WordCounter.budget = 6  # few notes at a time, so that there is more than one shard
    nightly(Store(path), WordCounter(), "readmit")


def embedding(path):
    """Run embed with the word counter."""
    from featurestore import Store, embed_pending
    from tests.conftest import WordCounter

    WordCounter.budget = 6
    embed_pending(Store(path), WordCounter())


def forgetting(path):
    """Forget the store's first patient."""
    from featurestore import Store
    from featurestore.store.forget import forget

    store = Store(path)
    forget(store, store.one("SELECT min(subject_id) FROM admissions"))


def killed_at(job, path, step, nth):
    """Run a job that is killed when it hits a failpoint for the n-th time."""
    from featurestore.store import failpoints

    n_hits = 0

    def kill(name):
        nonlocal n_hits
        n_hits += name == step
        if n_hits == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hit = kill
    job(path)


def with_small_disk(job, path, max_bytes):
    """Run a job while no file can exceed `max_bytes`; exit with status 3 if it fails."""
    import resource
    import sys

    from featurestore.errors import FeatureStoreError

    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    try:
        job(path)
    except FeatureStoreError as error:
        assert "\n" not in str(error), error
        assert "could not be changed" in str(error), error
        sys.exit(3)


def holding(path, started):
    """Run nightly with an encoder that hangs in its first batch."""
    from featurestore import Store, nightly
    from tests.conftest import WordCounter

    class Slow(WordCounter):
        def run(self, batch):
            started.set()
            time.sleep(60)

    nightly(Store(path), Slow(), "readmit")


def reading(path, complete_runs, stop, reports):
    """Open and read the store until stopped; report the number of reads and the errors."""
    import duckdb

    from featurestore import Store

    reads, errors = 0, []
    while not stop.is_set():
        try:
            con = Store(path).connect()
            seen = con.execute(TOTALS).fetchall()[0]
            if seen not in complete_runs:
                errors.append(seen)
            con.close()
            with duckdb.connect(path, read_only=True) as outside:
                seen = outside.execute(TOTALS).fetchall()[0]
            if seen not in complete_runs:
                errors.append(seen)
        except Exception as error:
            errors.append(repr(error))
        reads += 1
        time.sleep(0.3)  # the job under test needs a core too
    reports.put((reads, errors))


# Notes, windows and the windows of all means: they do not fit together in half a commit.
TOTALS = """
    SELECT
        (SELECT count(*) FROM notes),
        (SELECT count(*) FROM embeddings),
        (SELECT sum(n_windows) FROM admission_embeddings WHERE cutoff = 'discharge+48h')
"""


def readers(path, complete_runs, count):
    """Start reading processes; return a function that stops them and returns their reports."""
    stop, reports = _FORKS.Event(), _FORKS.Queue()
    processes = [start(reading, path, complete_runs, stop, reports) for _ in range(count)]

    def stop_all():
        stop.set()
        collected = [reports.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
        return collected

    return stop_all


def event():
    return _FORKS.Event()


def many(path, folder, stays, notes):
    """Sync and embed ten times, each with one more note."""
    from featurestore import Store, embed_pending, sync
    from tests.conftest import WordCounter
    from tests.hospital import write_hospital

    for number in range(10):
        write_hospital(folder, stays, notes[: len(notes) - 10 + number])
        sync(Store(path))
        embed_pending(Store(path), WordCounter())
