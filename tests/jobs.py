"""Jobs in processes of their own, which tests kill."""

import multiprocessing
import os
import signal
import time

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["batch", "sklearn.linear_model", "tests.conftest"])

# What a run leaves behind but for its time and number: a killed and repeated run must leave the
# same as an undisturbed one.
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


def contents(store):
    """Every row of every table, in an order of their own."""
    return {
        table: store.sql(f"SELECT {columns} FROM {table} ORDER BY ALL").fetchall()
        for table, columns in CONTENTS.items()
    }


def start(job, *arguments):
    """Begin a function of this module in another process."""
    process = _FORKS.Process(target=job, args=arguments)
    process.start()
    return process


def ended(process):
    """The exit status of a process, or minus the signal that ended it."""
    process.join(60)
    assert process.exitcode is not None, "the job hangs"
    return process.exitcode


def night(path):
    """One nightly run with the word counter."""
    from featurestore import Store, nightly
    from tests.conftest import WordCounter

    WordCounter.budget = 6  # few notes at a time, so that there is more than one shard
    nightly(Store(path), WordCounter(), "readmit")


def embedding(path):
    """One run of embed with the word counter."""
    from featurestore import Store, embed_pending
    from tests.conftest import WordCounter

    WordCounter.budget = 6
    embed_pending(Store(path), WordCounter())


def forgetting(path):
    """The store's first patient, forgotten."""
    from featurestore import Store
    from featurestore.store.forget import forget

    store = Store(path)
    forget(store, store.one("SELECT min(subject_id) FROM admissions"))


def killed_at(job, path, step, nth):
    """The same, killed before the n-th time that it begins a step."""
    from featurestore.store import failpoints

    begun = 0

    def kill(name):
        nonlocal begun
        begun += name == step
        if begun == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hit = kill
    job(path)


def with_small_disk(job, path, most):
    """The same, where no file can grow beyond `most` bytes; exit status 3 with the sentence."""
    import resource
    import sys

    from featurestore.errors import FeatureStoreError

    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        job(path)
    except FeatureStoreError as error:
        assert "\n" not in str(error), error
        assert "could not be changed" in str(error), error
        sys.exit(3)


def holding(path, started):
    """A night that stays in the middle of its first encoding."""
    from featurestore import Store, nightly
    from tests.conftest import WordCounter

    class Slow(WordCounter):
        def run(self, batch):
            started.set()
            time.sleep(60)

    nightly(Store(path), Slow(), "readmit")


def reading(path, whole_runs, stop, answers):
    """Open the store and read it, again and again; tell what was wrong, and how often it read."""
    import duckdb

    from featurestore import Store

    reads, wrong = 0, []
    while not stop.is_set():
        try:
            con = Store(path).connect()
            seen = con.execute(WHOLE).fetchall()[0]
            if seen not in whole_runs:
                wrong.append(seen)
            con.close()
            with duckdb.connect(path, read_only=True) as outside:
                seen = outside.execute(WHOLE).fetchall()[0]
            if seen not in whole_runs:
                wrong.append(seen)
        except Exception as error:
            wrong.append(repr(error))
        reads += 1
        time.sleep(0.3)  # the job under test needs a core too
    answers.put((reads, wrong))


# Notes, windows and the sum of the means' windows: a half commit would show between them.
WHOLE = """
    SELECT
        (SELECT count(*) FROM notes),
        (SELECT count(*) FROM embeddings),
        (SELECT sum(n_windows) FROM admission_embeddings WHERE cutoff = 'discharge')
"""


def readers(path, whole_runs, count):
    """So many processes that read; call the answer to stop them, and to hear what they saw."""
    stop, answers = _FORKS.Event(), _FORKS.Queue()
    processes = [start(reading, path, whole_runs, stop, answers) for _ in range(count)]

    def hear():
        stop.set()
        heard = [answers.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
        return heard

    return hear


def event():
    return _FORKS.Event()


def many(path, folder, stays, notes):
    """Ten syncs and ten runs of embed, each with one more note than the last."""
    from featurestore import Store, embed_pending, sync
    from tests.conftest import WordCounter
    from tests.hospital import write_hospital

    for number in range(10):
        write_hospital(folder, stays, notes[: len(notes) - 10 + number])
        sync(Store(path))
        embed_pending(Store(path), WordCounter())
