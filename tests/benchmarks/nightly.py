"""What a night costs, without the model: `python -m tests.benchmarks.nightly [--notes 1000000]`.

Prints a Markdown table. The encoder is a stand-in that takes no time and gives 768-wide vectors,
one window a note, so that everything is measured but the model; memory is that of processes of
their own, with a small BERT.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np

from featurestore import create_store, embed_pending, nightly, sync, write_hospital
from featurestore.store import failpoints
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


class StandIn:
    """A vector by the hash of a text, at once."""

    id, provider, budget, classifier_head = "stand-in-00000000", "none", 65_536, None

    def __init__(self, dim=768):
        names = {"name": "stand-in", "fingerprint": "0" * 64, "precision": "fp32"}
        self.manifest = names | {"dim": dim, "max_tokens": 512, "stride": 0}

    def tokenize(self, texts):
        digests = (hashlib.sha256(text.encode()).digest()[:20] for text in texts)
        return [[np.frombuffer(digest, np.int32)] for digest in digests]

    def run(self, batch):
        rng = np.random.default_rng(int(np.abs(batch[0][0])))
        return rng.standard_normal((len(batch), self.manifest["dim"]), np.float32)


def write_tables(folder, notes, kind="parquet"):
    folder.mkdir(exist_ok=True)
    with duckdb.connect() as con:
        for table, query in hospital(notes).items():
            con.execute(f"COPY ({query}) TO '{folder / table}.{kind}'")


def some_scorer(store):
    """A scorer for stays of which nobody came back: its rows are put in by hand."""
    with store.transaction("benchmark") as transaction:
        transaction.con.execute(
            "INSERT INTO scorers SELECT 'readmit-v1', 'readmit', 1, encoder_id, '72h', "
            "'readmission', 30, [0.01::FLOAT for x in range(768)], 0, '{}', '', now(), "
            "'mean', 1, 0, '' FROM encoders"
        )


def a_night(folder, notes, budget="", encrypt=False):
    """A store of so many notes, then a night with nothing new."""
    write_tables(folder / "hospital", notes)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3", encrypt=encrypt)
    sync(store)
    encoder = StandIn()
    begun = {}
    failpoints.hit = lambda name: begun.setdefault(name, time.perf_counter())
    seconds, counts = timed(lambda: embed_pending(store, encoder))
    copied = time.perf_counter() - begun["copy"]
    failpoints.hit = lambda name: None
    row(
        f"{counts['windows']:,} new windows, 768 wide: staged and committed",
        f"{seconds:.1f} s, of which the commit {copied:.1f} s",
    )
    some_scorer(store)
    nightly(store, encoder, "readmit")
    seconds, facts = timed(lambda: nightly(store, encoder, "readmit"))
    assert facts["run_id"] is None and facts["seen"] == 0
    row(
        f"nightly with nothing new, {notes:,} notes in the store (Parquet)",
        f"{seconds:.1f} s (sync {facts['seconds']['sync']:.1f} s)",
        budget,
    )
    return store, encoder


def by_new_notes(folder, notes, encrypt=False):
    """The same store, with more and more new notes a night."""
    print(f"| **{'encrypted' if encrypt else 'plain'}** | | |")
    store, encoder = a_night(folder, notes, encrypt=encrypt)
    for new in (20, 100, 1_000, 10_000):
        notes += new
        write_tables(folder / "hospital", notes)
        seconds, facts = timed(lambda: nightly(store, encoder, "readmit", force=True))
        assert facts["new"] == new == facts["embedded"]
        row(
            f"nightly with {new:,} new notes of {notes:,}",
            f"{seconds:.2f} s ({facts['seconds']})",
        )
    seconds, found = timed(store.verify)
    assert found == []
    row(f"verify of {store.path.stat().st_size / 1e6:,.0f} MB", f"{seconds:.1f} s")


def memory(folder):
    """Peak memory of embedding 2,000 and 20,000 notes from CSV files with a small BERT."""
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
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        loaded, peak, embedded = map(int, said)
        row(
            f"peak memory of embedding {embedded:,} notes",
            f"{peak / 1e3:,.0f} MB, {(peak - loaded) / 1e3:,.0f} MB over the loaded model",
            "1 GB over it",
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notes", type=int, default=1_000_000)
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores\n\n| what | measured | budget |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        memory(Path(folder))
    os.environ["FEATURESTORE_KEY"] = "a key of the benchmark"
    for encrypt in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            by_new_notes(Path(folder), 100_000, encrypt)
    with tempfile.TemporaryDirectory() as folder:
        a_night(Path(folder), chosen.notes, "10 s")


if __name__ == "__main__":
    main()
