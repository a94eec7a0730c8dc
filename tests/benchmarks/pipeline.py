"""Measure the main path against the budgets, side by side in one run; prints a Markdown table.

`make bench` runs it (about seven minutes on two cores). Model and notes are made here: a random
BERT of Bio_ClinicalBERT's shape, and notes of the synthetic hospital.
"""

import argparse
import os
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from export.onnx_export.exporter import export
from featurestore import OnnxEncoder, create_store, embed_pending, sync, write_hospital
from featurestore.source.source import open_source
from featurestore.store.vectors import vectors_to_arrow
from tests.benchmarks.common import hospital, random_bert, row, timed
from tests.timeline import empty_store


def labels(admissions):
    """Time the labels of so many stays."""
    rng = np.random.default_rng(0)
    con = empty_store()
    stays = pa.table(
        {
            "hadm_id": np.arange(admissions),
            "subject_id": rng.integers(0, admissions // 2, admissions),
            "start": rng.integers(0, 3_000 * 24, admissions),
            "hours": rng.integers(1, 400, admissions),
        }
    )
    con.register("stays", stays)
    con.execute(
        "INSERT INTO admissions (hadm_id, subject_id, admittime, dischtime, died_in_hospital, "
        "admission_type, planned, discharge_location) SELECT hadm_id, subject_id, "
        "TIMESTAMP '2150-01-01' + to_hours(start), "
        "TIMESTAMP '2150-01-01' + to_hours(start + hours), FALSE, 'EMERGENCY', FALSE, 'HOME' "
        "FROM stays"
    )
    seconds, _ = timed(lambda: con.execute("CREATE TABLE answer AS FROM readmission_labels()"))
    row(f"labels of {admissions:,} admissions", f"{seconds:.2f} s", "2 s")


def scores(admissions, dim=768):
    """Time the scores of so many admissions, and the ten most similar to one."""
    con = empty_store()
    rng = np.random.default_rng(0)
    for first in range(0, admissions, 100_000):
        count = min(100_000, admissions - first)
        vectors = rng.standard_normal((count, dim), np.float32)
        block = pa.table({"h": np.arange(first, first + count), "v": vectors_to_arrow(vectors)})
        con.register("block", block)
        con.execute(
            "INSERT INTO admission_embeddings "
            "SELECT 'e', h, '72h', now(), 1, 1, 0, hash(v), v FROM block"
        )
        con.execute(
            "INSERT INTO admissions (hadm_id, subject_id, admittime, died_in_hospital, planned) "
            "SELECT h, h, now(), FALSE, FALSE FROM block"
        )
    con.execute("INSERT INTO encoders VALUES ('e', 'e', '', 768, 'fp32', 512, 0, '{}', TRUE, NULL)")
    coef = pa.table({"c": vectors_to_arrow(rng.standard_normal((1, dim), np.float32) / 30)})
    con.register("coef", coef)
    con.execute(
        "INSERT INTO scorers SELECT 's', 's', 1, 'e', '72h', 'readmission', 30, c, 0, '{}', '', "
        "now(), 'mean', 1, 0, 0, 1, '', '', '', NULL, NULL FROM coef"
    )
    seconds, _ = timed(lambda: con.execute("CREATE TABLE t AS FROM score_admissions('s')"))
    row(f"scores of {admissions:,} admissions ({dim} wide)", f"{seconds:.2f} s", "3 s per 1 M")
    seconds, _ = timed(lambda: con.execute("FROM similar_admissions(7)").fetchall())
    row(f"the 10 nearest of {admissions:,} to one", f"{seconds:.2f} s", "2 s per 1 M")


def sync_without_changes(folder, notes):
    """Time a sync with nothing new, from Parquet and PostgreSQL."""
    tables = hospital(notes)
    import pgserver
    import psycopg

    server = pgserver.get_server(folder / "postgres")
    files = folder / "parquet"
    files.mkdir()
    with duckdb.connect() as con, psycopg.connect(server.get_uri()) as postgres:
        postgres.execute("CREATE SCHEMA mimiciii")
        for table, query in tables.items():
            con.execute(f"COPY ({query}) TO '{files / table}.parquet'")
            columns = ", ".join(
                f"{name} {kind.replace('VARCHAR', 'TEXT')}"
                for name, kind, *_ in con.execute(f"DESCRIBE {query}").fetchall()
            )
            postgres.execute(f"CREATE TABLE mimiciii.{table} ({columns})")
            rows = con.execute(query)
            with postgres.cursor().copy(f"COPY mimiciii.{table} FROM STDIN") as copy:
                while block := rows.fetchmany(10_000):
                    for values in block:
                        copy.write_row(values)
    for where, location in (
        ("Parquet", files),
        ("PostgreSQL on the same cores", server.get_uri()),
    ):
        store = create_store(folder / f"{where[:4]}.duckdb", location, "mimic3")
        first, counts = timed(lambda store=store: sync(store))
        again, after = timed(lambda store=store: sync(store))
        assert counts["notes"]["new"] == notes
        assert after["notes"]["total"] == notes
        assert after["notes"]["new"] == after["notes"]["changed"] == 0
        row(
            f"sync of {notes:,} notes with nothing new, {where}",
            f"{again:.1f} s (first sync {first:.1f} s)",
            "10 s",
        )
    server.cleanup()


def embedding(folder, patients):
    """Time embedding in fp32 from source to commit, and the fraction outside the model."""
    write_hospital(folder / "hospital", patients)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(store)
    note_ids = [
        n for (n,) in store.sql("SELECT note_id FROM notes WHERE status = 'ready'").fetchall()
    ]
    texts = [text for notes in open_source(store).texts(note_ids) for _, text in notes]

    random_bert(folder / "bert", texts)
    export(folder / "bert", folder / "model", cleaning="none")

    encoder = OnnxEncoder(folder / "model", "cpu")
    in_model = 0.0
    run = encoder._session.run

    def timed_run(*arguments):
        nonlocal in_model
        seconds, result = timed(lambda: run(*arguments))
        in_model += seconds
        return result

    encoder._session = type("Timed", (), {"run": staticmethod(timed_run)})()
    progress = []
    seconds, counts = timed(
        lambda: embed_pending(store, encoder, progress=lambda *call: progress.append(call))
    )
    windows = counts["windows"]
    row(
        f"{windows:,} windows of {len(texts):,} notes, source to commit",
        f"{windows / seconds:.2f} windows/s",
        "",
    )
    _, _, throughput = progress[-1]
    padding = throughput.padding / (throughput.tokens + throughput.padding)
    row("padding", f"{padding:.1%} of the tokens", "5%")
    row("outside the model", f"{1 - in_model / seconds:.1%} of the wall time", "5%")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--admissions", type=int, default=1_000_000, help="to score")
    parser.add_argument("--notes", type=int, default=1_000_000, help="to index")
    parser.add_argument("--patients", type=int, default=15, help="whose notes are embedded")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores\n\n| what | measured | budget |\n| --- | --- | --- |")
    labels(500_000)
    scores(arguments.admissions)
    with tempfile.TemporaryDirectory() as folder:
        sync_without_changes(Path(folder), arguments.notes)
    with tempfile.TemporaryDirectory() as folder:
        embedding(Path(folder), arguments.patients)


if __name__ == "__main__":
    main()
