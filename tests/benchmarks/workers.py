"""Measure embedding on Ray against one process, and how many workers one driver can serve.

`python -m tests.benchmarks.workers` embeds notes of the synthetic hospital with a small BERT, which
is the worst case: the smaller the model, the more of the time is everything else. `--bert-base`
takes a random BERT of Bio_ClinicalBERT's shape. `--stand-ins` has workers that compute nothing and
return vectors at the rate of a GPU.
"""

import argparse
import os
import pickle
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from batch.demo import write_small_bert
from batch.embedding import staging
from batch.embedding.chunks import EmbeddedNotes, embed_notes
from batch.embedding.cluster import distribution
from batch.embedding.cluster.worker import Chunk, EmbeddingWorker, Job, Opened
from batch.embedding.encoder import Windows
from batch.embedding.staging import stage
from export.onnx_export.exporter import export
from featurestore import OnnxEncoder, create_store, sync, write_hospital
from featurestore.source.source import open_source
from tests.benchmarks.common import random_bert, row, timed

RATE = 4_000  # windows of a GPU in a second
NOTES, WINDOWS = 2_200, 3_300  # of a chunk of a GPU
SECONDS = 6  # that a stand-in works
DIM = 768


class StandIn(EmbeddingWorker):
    """A worker that returns the same vectors again and again, at the rate of a GPU."""

    def open(self, job, files=None):
        self.folder = Path(job.schema)
        (self.folder / str(os.getpid())).touch()
        rng = np.random.default_rng(os.getpid())
        self.windows = Windows(
            (np.arange(WINDOWS) * NOTES // WINDOWS).astype(np.int32),
            np.zeros(WINDOWS, np.int32),
            np.full(WINDOWS, 352, np.int32),
            rng.standard_normal((WINDOWS, DIM), np.float32),
        )
        return Opened("stand-in")

    def embed(self, to_embed):
        while len(list(self.folder.iterdir())) < int((self.folder.parent / "workers").read_text()):
            time.sleep(0.01)  # all begin together
        due = time.monotonic()
        for first in range(0, len(to_embed), NOTES):
            note_ids, hashes = (column.to_pylist() for column in to_embed.slice(first, NOTES))
            due += WINDOWS / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            yield Chunk(EmbeddedNotes(note_ids, hashes, self.windows, [], []), 352 * WINDOWS, 0)


def stand_ins(store, encoder, folder, workers):
    """Return the windows/s that so many stand-ins deliver to the shards, and the driver's cores."""
    ready = folder / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    (folder / "workers").write_text(str(workers))
    chunks = workers * (SECONDS * RATE // WINDOWS)
    ids = pa.array([f"{number:09d}" for number in range(chunks * NOTES)])
    pending = pa.table({"note_id": ids, "text_hash": pa.array(["0" * 32] * len(ids))})
    setattr(staging, "pending_notes", lambda *_: pending.append_column("category", ids))  # noqa: B010
    distribution.RayWorkers.resources = lambda *_: distribution._Resources(
        "cpu", 1, {"num_cpus": 0}, workers
    )
    distribution.RayWorkers.job = lambda *_: Job("", str(ready), "", "", "cpu", 1)
    arrivals = []

    def progress(done, total, throughput):
        arrivals.append((time.perf_counter(), time.process_time(), throughput.windows))

    staged = stage(store, encoder, progress=progress, ray="local")
    staged.shards.clear()
    (first, cpu, _), (end, cpu_end, windows) = arrivals[0], arrivals[-1]
    seconds = end - first + WINDOWS / RATE  # which the first chunk took
    return windows / seconds, (cpu_end - cpu) / seconds


def measure_stand_ins(folder, counts):
    from featurestore.store.store import Store

    write_small_bert(folder / "bert", ["lives alone with pain"] * 20, seed=0)
    export(folder / "bert", folder / "model", max_tokens=64)
    store = Store.create(folder / "w.duckdb", "nowhere", "mimic3")
    encoder = OnnxEncoder(folder / "model", load=False)
    distribution.WORKER = StandIn
    for workers in counts:
        rate, cores = stand_ins(store, encoder, folder, workers)
        row(
            f"{workers} stand-ins at {RATE:,} windows/s",
            f"{rate:,.0f} windows/s ({rate / (workers * RATE):.0%}), driver {cores:.1f} cores",
        )


def measure_workers(folder, patients, notes, is_bert_base):
    write_hospital(folder / "hospital", patients)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(store)
    ready = store.sql("SELECT note_id, text_hash FROM notes WHERE status = 'ready'")
    to_embed = ready.to_arrow_table().slice(0, notes)
    texts = [
        text for pairs in open_source(store).texts(to_embed["note_id"].to_pylist())
        for _, text in pairs
    ]  # fmt: skip
    if is_bert_base:
        random_bert(folder / "bert", texts)
        export(folder / "bert", folder / "model")
    else:
        write_small_bert(folder / "bert", texts, seed=0)
        export(folder / "bert", folder / "model", max_tokens=64)

    def run_one_note():
        encoder = OnnxEncoder(folder / "model", "cpu", load=False)
        stage(store, encoder, 1, ray="local").shards.clear()

    for turn in (1, 2):
        start_up, _ = timed(run_one_note)
        rates = {}
        for name, ray in (("one process of two threads", None), ("two workers of one", "local")):
            windows = []
            encoder = OnnxEncoder(folder / "model", "cpu", load=ray is None)
            started = time.perf_counter()
            staged = stage(
                store, encoder, notes, lambda *call, to=windows: to.append(call[2].windows), ray=ray
            )
            seconds = time.perf_counter() - started
            staged.shards.clear()
            rates[name] = windows[-1] / (seconds - (start_up if ray else 0))
            row(f"{name}, round {turn}", f"{rates[name]:,.1f} windows/s of {windows[-1]:,}")
        plain, workers = rates.values()
        row("two workers, times one process", f"{workers / plain:.2f}", "within 10%")
        row("start and end of Ray, one note", f"{start_up:.1f} s")
    encoder = OnnxEncoder(folder / "model", "cpu")
    sizes = [
        (len(pickle.dumps(notes, protocol=5)), len(notes.windows.text_no))
        for notes in embed_notes(open_source(store), encoder, to_embed.slice(0, 300))
    ]
    size, n_windows = (sum(column) for column in zip(*sizes, strict=True))
    width = encoder.manifest["dim"]
    row(
        f"bytes through Ray a window, {width} wide",
        f"{size / n_windows:,.0f}, {width * 4} of them the vector",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=400)
    parser.add_argument("--notes", type=int, default=3_000)
    parser.add_argument("--bert-base", action="store_true")
    parser.add_argument("--stand-ins", type=int, nargs="+")
    options = parser.parse_args()
    print("| what | measured | target |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        if options.stand_ins:
            measure_stand_ins(Path(temporary), options.stand_ins)
        else:
            measure_workers(Path(temporary), options.patients, options.notes, options.bert_base)
