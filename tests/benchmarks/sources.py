"""How fast each database is synced and its notes are read, and with how much memory.

python -m tests.benchmarks.sources
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path

import duckdb

from featurestore import Store, create_store, sync
from featurestore.source import generic_reader
from featurestore.source.source import Source
from tests.benchmarks.common import hospital, peak_memory, timed
from tests.featurestore.source.mariadb import is_installed, running_server

_BLOCK = 10_000


def measure(location, what, reader, n_texts, store):
    """Return rows, seconds and peak MB of one job, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.sources", "--measure", location]
    result = subprocess.run(
        [*command, what, reader, str(n_texts), store], capture_output=True, check=True, text=True
    )
    return json.loads(result.stdout)


def work(location, what, reader, n_texts, store):
    """Sync, or read some texts, and print the rows, the seconds and the peak memory."""
    if reader == "generic":
        Source._reader = lambda *_: generic_reader
    if what == "sync":
        opened = Store(store) if Path(store).exists() else create_store(store, location, "mimic3")

        def job():
            return sync(opened)["notes"]["total"]
    else:
        source = Source(location, "mimic3")
        source.check()
        # Spread over the table, as pending notes may be.
        note_ids = [str(7 * number) for number in range(int(n_texts))]

        def job():
            return sum(len(texts) for texts in source.texts(note_ids))

    Path("/proc/self/clear_refs").write_text("5")  # from here on
    before = peak_memory()
    seconds, rows = timed(job)
    print(json.dumps([rows, seconds, peak_memory() - before]))


def fill_parquet(folder, notes):
    folder.mkdir()
    with duckdb.connect() as con:
        for table, query in hospital(notes).items():
            con.execute(f"COPY ({query}) TO '{folder / table}.parquet'")


def tables_of(notes):
    """Yield the name, the typed columns and the blocks of rows of each table."""
    with duckdb.connect() as con:
        for table, query in hospital(notes).items():
            columns = [row[:2] for row in con.execute(f"DESCRIBE {query}").fetchall()]
            con.execute(query)
            yield table, columns, iter(lambda: con.fetchmany(_BLOCK), [])


def fill_postgresql(uri, notes):
    import psycopg

    with psycopg.connect(uri) as con:
        con.execute("CREATE SCHEMA mimiciii")
        for table, columns, blocks in tables_of(notes):
            typed = ", ".join(f"{name} {kind.replace('VARCHAR', 'TEXT')}" for name, kind in columns)
            con.execute(f"CREATE TABLE mimiciii.{table} ({typed})")
            with con.cursor().copy(f"COPY mimiciii.{table} FROM STDIN") as copy:
                for values in chain.from_iterable(blocks):
                    copy.write_row(values)
        con.execute("CREATE INDEX ON mimiciii.NOTEEVENTS (ROW_ID)")
        con.execute("ANALYZE")  # as a running database does by itself


def fill_sqlite(file, notes):
    with sqlite3.connect(file) as con:
        for table, columns, blocks in tables_of(notes):
            con.execute(f"CREATE TABLE {table} ({', '.join(name for name, _ in columns)})")
            marks = ", ".join("?" * len(columns))
            for block in blocks:
                rows = [[v if isinstance(v, int) else v and str(v) for v in r] for r in block]
                con.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        con.execute("CREATE INDEX by_id ON NOTEEVENTS (ROW_ID)")
    con.close()


def fill_mariadb(url, notes):
    import sqlalchemy as sa

    types = {"VARCHAR": "MEDIUMTEXT", "INTEGER": "INT", "TIMESTAMP": "DATETIME"}
    engine = sa.create_engine(url.replace("mysql:", "mysql+pymysql:"))
    with engine.begin() as con:
        for table, columns, blocks in tables_of(notes):
            typed = ", ".join(f"{name} {types[kind]}" for name, kind in columns)
            con.exec_driver_sql(f"CREATE TABLE {table} ({typed})")
            marks = ", ".join(["%s"] * len(columns))
            for block in blocks:
                con.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", block)
        # Without the second one, MariaDB compares each admission with all patients.
        con.exec_driver_sql("CREATE INDEX by_id ON NOTEEVENTS (ROW_ID)")
        con.exec_driver_sql("CREATE INDEX by_id ON PATIENTS (SUBJECT_ID)")
        con.exec_driver_sql("ANALYZE TABLE NOTEEVENTS, PATIENTS")


def report(name, location, reader, notes, n_texts):
    """Print a row for a first sync, one without news, and the texts of some notes."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "w.duckdb")
        first, again = (measure(location, "sync", reader, 0, store) for _ in range(2))
        texts, text_seconds, text_memory = measure(location, "texts", reader, n_texts, store)
    assert (first[0], again[0], texts) == (notes, notes, n_texts)
    cells = [
        f"{rows / seconds:,.0f} rows/s, {memory:,.0f} MB"
        for rows, seconds, memory in (first, again, (texts, text_seconds, text_memory))
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--notes", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--measure", nargs=5)
    arguments = parser.parse_args()
    if arguments.measure:
        work(*arguments.measure)
        return
    notes, n_texts = arguments.notes, arguments.texts
    heads = ("first sync", "sync without news", f"texts of {n_texts:,} notes, by id")
    print(f"| source of {notes:,} notes | {' | '.join(heads)} |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        import pgserver

        fill_parquet(Path(name) / "parquet", notes)
        report("Parquet", str(Path(name) / "parquet"), "fast", notes, n_texts)
        server = pgserver.get_server(Path(name) / "postgres")
        fill_postgresql(server.get_uri(), notes)
        for reader in ("fast", "generic"):
            report(f"PostgreSQL, {reader} reader", server.get_uri(), reader, notes, n_texts)
        server.cleanup()
        fill_sqlite(Path(name) / "mimic.sqlite", notes)
        report("SQLite", str(Path(name) / "mimic.sqlite"), "generic", notes, n_texts)
    if is_installed():
        with running_server() as url:
            fill_mariadb(url, notes)
            report("MariaDB", url, "generic", notes, n_texts)


if __name__ == "__main__":
    main()
