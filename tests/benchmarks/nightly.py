"""Time of a nightly run without the model: `python -m tests.benchmarks.nightly [--notes 1000000]`.

Prints Markdown tables. The encoder takes no time and returns one 768-wide vector per note, so that
everything but the model is measured. Peak memory is measured in separate processes, with a small
BERT. `--flat 100000 500000` measures only a night with 20 new notes, in stores of these sizes, and
`--commit 200000` only a commit, against a bare INSERT of the same rows; `--dim` is the width.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import duckdb
import numpy as np

from batch.embedding.commit import commit_staged
from batch.embedding.staging import stage
from batch.training.reference import record_reference
from featurestore import create_store, embed_pending, nightly, sync, verify, write_hospital
from featurestore.cohort.tasks import find_task
from featurestore.store import failpoints, transaction
from featurestore.store.files import copy, fsync
from featurestore.store.integrity.checksums import COEF_HASH
from tests.benchmarks.common import hospital, row, timed

MEMORY = """
import sys
from featurestore import OnnxEncoder, embed_pending
from featurestore import Store
store, encoder = Store(sys.argv[1]), OnnxEncoder(sys.argv[2], "cpu")
encoder.encode(["chest pain"] * 8)
def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return line.split()[1]
before = peak()
counts = embed_pending(store, encoder)
print(before, peak(), counts["embedded"])
"""


class HashEncoder:
    """An encoder that makes a vector from the hash of a text."""

    id, provider, budget, classifier_head = "hash-00000000", "none", 65_536, None

    def __init__(self, dim=768):
        names = {"name": "hash", "fingerprint": "0" * 64, "precision": "fp32"}
        self.manifest = names | {"dim": dim, "max_tokens": 512, "stride": 0}

    def tokenize(self, texts):
        digests = (hashlib.sha256(text.encode()).digest()[:20] for text in texts)
        return [[np.frombuffer(digest, np.int32)] for digest in digests]

    def run(self, batch):
        rng = np.random.default_rng(int(np.abs(batch[0][0])))
        return rng.standard_normal((len(batch), self.manifest["dim"]), np.float32)


def write_tables(folder, notes, kind="parquet", text_words=None):
    folder.mkdir(exist_ok=True)
    with duckdb.connect() as con:
        for table, query in hospital(notes, text_words).items():
            con.execute(f"COPY ({query}) TO '{folder / table}.{kind}'")


def insert_scorer(store, dim=768):
    """Insert a scorer by hand: no patient of this hospital returns, so none can be trained."""
    with store.transaction("benchmark") as draft:
        draft.con.execute(
            "INSERT INTO scorers SELECT 'readmit-v1', 'readmit', 1, encoder_id, '72h', "
            "'readmission', 30, [0.01::FLOAT for x in range($2)], 0, '{}', '', now(), "
            "'mean', 1, 0, 0, 1, '', $1, '', NULL, NULL FROM encoders",
            [find_task(store).select, dim],
        )
        draft.con.execute(f"UPDATE scorers SET coef_hash = {COEF_HASH}")
        record_reference(draft.con, "readmit-v1")  # so that nights are compared with it


def night_without_changes(folder, notes, budget="", encrypt=False):
    """Embed the notes of a new store, then run a night with nothing new."""
    write_tables(folder / "hospital", notes)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3", encrypt=encrypt)
    sync(store)
    encoder = HashEncoder()
    first_hit = {}
    failpoints.hit = lambda name: first_hit.setdefault(name, time.perf_counter())
    seconds, counts = timed(lambda: embed_pending(store, encoder))
    commit_seconds = time.perf_counter() - first_hit["copy"]
    failpoints.hit = lambda name: None
    row(
        f"{counts['windows']:,} new windows, 768 wide: staged and committed",
        f"{seconds:.1f} s, of which the commit {commit_seconds:.1f} s",
    )
    insert_scorer(store)
    nightly(store, encoder, "readmit")
    seconds, counts = timed(lambda: nightly(store, encoder, "readmit"))
    assert counts["run_id"] is None and counts["seen"] == 0
    row(
        f"nightly with nothing new, {notes:,} notes in the store (Parquet)",
        f"{seconds:.1f} s (sync {counts['seconds']['sync']:.1f} s)",
        budget,
    )
    return store, encoder


def few_new_notes(folder, notes, dim):
    """Run a night with 20 new notes in a store with one window for each of many short notes."""
    write_tables(folder / "hospital", notes, text_words=3)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(store)
    encoder = HashEncoder(dim)
    embed_pending(store, encoder)
    insert_scorer(store, dim)
    nightly(store, encoder, "readmit")
    nights = []
    for night in range(1, 4):
        write_tables(folder / "hospital", notes + 20 * night, text_words=3)
        copied = []

        def timed_copy(*files, copied=copied):
            copied.append(timed(lambda: copy(*files))[0])

        with patch.object(transaction, "copy", timed_copy):
            seconds, counts = timed(lambda: nightly(store, encoder, "readmit", force=True))
        assert counts["new"] == 20 == counts["embedded"]
        nights.append((seconds - counts["seconds"]["sync"] - sum(copied), sum(copied), counts))
    rest, copied, counts = min(nights, key=lambda night: night[0])
    row(
        f"{notes:,} windows, {dim} wide, {store.path.stat().st_size / 1e6:,.0f} MB",
        f"index {counts['seconds']['sync']:.1f} s, copy {copied:.2f} s, rest {rest:.2f} s",
    )


def commit_against_insert(folder, notes, dim):
    """Commit staged windows, and insert the same rows into a table of their own."""
    write_tables(folder / "hospital", notes, text_words=3)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(store)
    encoder = HashEncoder(dim)
    with store.lock("embed"):
        staged = stage(store, encoder)
        seconds, _ = timed(lambda: _commit(store, encoder, staged))
    (ddl,) = store.one("SELECT sql FROM duckdb_tables() WHERE table_name = 'embeddings'")
    bare, _ = timed(lambda: _insert(folder, ddl, staged.shards))
    assert store.one("SELECT count(*) FROM embeddings") == (notes,)
    row(
        f"{notes:,} windows, {dim} wide",
        f"commit {seconds:.1f} s, bare INSERT {bare:.1f} s: {seconds / bare:.2f} times",
        "1.5 times",
    )


def _commit(store, encoder, staged):
    with store.transaction("embed") as draft:
        commit_staged(draft, encoder, staged)


def _insert(folder, ddl, shards):
    """Insert the rows of shards into a new file, with the settings of a commit, and write it."""
    con = transaction._open_writer(folder)
    con.execute(f"ATTACH '{folder / 'bare.duckdb'}' AS bare")
    con.execute("USE bare")
    con.execute(ddl)
    con.execute("PRAGMA force_compression = 'uncompressed'")
    con.execute("BEGIN")
    for rows in shards.tables():
        con.register("rows", rows)
        con.execute(
            "INSERT INTO embeddings SELECT 'hash-00000000', 1, note_id, window_no, n_tokens, "
            "TIMESTAMP '2150-01-01', text_hash, 0, embedding FROM rows"
        )
        con.unregister("rows")
    con.execute("COMMIT")
    con.execute("CHECKPOINT")
    con.close()
    fsync(folder / "bare.duckdb")


def nights_by_new_notes(folder, notes, encrypt=False):
    """Run nights with more and more new notes."""
    print(f"| **{'encrypted' if encrypt else 'plain'}** | | |")
    store, encoder = night_without_changes(folder, notes, encrypt=encrypt)
    for new in (20, 100, 1_000, 10_000):
        notes += new
        write_tables(folder / "hospital", notes)
        seconds, counts = timed(lambda: nightly(store, encoder, "readmit", force=True))
        assert counts["new"] == new == counts["embedded"]
        row(
            f"nightly with {new:,} new notes of {notes:,}",
            f"{seconds:.2f} s ({counts['seconds']})",
        )
    seconds, findings = timed(lambda: verify(store))
    assert findings == []
    row(f"verify of {store.path.stat().st_size / 1e6:,.0f} MB", f"{seconds:.1f} s")


def memory(folder):
    """Measure the peak memory of embedding 2,000 and 20,000 notes with a small BERT."""
    from batch.demo import training_texts, write_small_bert
    from export.onnx_export.exporter import export

    write_hospital(folder / "words", 400)
    words = create_store(folder / "words.duckdb", folder / "words", "mimic3")
    sync(words)
    write_small_bert(folder / "bert", training_texts(words), seed=0)
    export(folder / "bert", folder / "model", max_tokens=512)
    for notes in (2_000, 20_000):
        place = folder / str(notes)
        place.mkdir()
        write_tables(place / "hospital", notes, "csv")
        store = create_store(place / "w.duckdb", place / "hospital", "mimic3")
        sync(store)
        del store
        command = [sys.executable, "-c", MEMORY, str(place / "w.duckdb"), str(folder / "model")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        loaded, peak, embedded = map(int, output.split())
        row(
            f"peak memory of embedding {embedded:,} notes",
            f"{peak / 1e3:,.0f} MB, {(peak - loaded) / 1e3:,.0f} MB over the loaded model",
            "1 GB over it",
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notes", type=int, default=1_000_000)
    parser.add_argument("--flat", type=int, nargs="+", default=[])
    parser.add_argument("--commit", type=int, nargs="+", default=[])
    parser.add_argument("--dim", type=int, default=768)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores\n\n| what | measured | budget |\n| --- | --- | --- |")
    for measure, sizes in (
        (few_new_notes, arguments.flat),
        (commit_against_insert, arguments.commit),
    ):
        for notes in sizes:
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder), notes, arguments.dim)
    if arguments.flat or arguments.commit:
        return
    with tempfile.TemporaryDirectory() as folder:
        memory(Path(folder))
    os.environ["FEATURESTORE_KEY"] = "a key of the benchmark"
    for encrypt in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            nights_by_new_notes(Path(folder), 100_000, encrypt)
    with tempfile.TemporaryDirectory() as folder:
        night_without_changes(Path(folder), arguments.notes, "10 s")


if __name__ == "__main__":
    main()
