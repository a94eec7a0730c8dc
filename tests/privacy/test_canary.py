"""Canaries in notes, passwords, keys and errors: no command reveals one, whatever happens.

Each command must be in the plan below: a new one fails this test until it is added.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import traceback
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batch.demo import train_tokenizer
from featurestore import (
    FeatureStoreError,
    SourceError,
    create_store,
    embed_pending,
    read_texts,
    similar,
    sync,
)
from featurestore.cli.group import COMMANDS
from tests import failing
from tests.batch.embedding.test_poison import NOT_UTF8, POISON
from tests.conftest import WordCounter
from tests.hospital import NOTES, admission, note, own_schema, write_hospital
from tests.privacy.test_private import ROOT, Watch
from tests.timeline import day

CANARY, PASSWORD, KEY = "PHI_CANARY", "PW_CANARY", "KEY_CANARY"  # of notes, URLs, encryption


def spaced(word):
    """Return a pattern of a word in an encoding of one, two or four bytes per letter."""
    return rb"\0{0,3}".join(re.escape(letter).encode() for letter in word)


# Also as one word, which a tokenizer does not split.
CANARY_PATTERN = re.compile(b"(?i)" + b"|".join(map(spaced, (CANARY, "PHICANARY", PASSWORD, KEY))))


def canaries(data):
    """Return the canaries in bytes: plain, as UTF-16 or compressed."""
    matches = CANARY_PATTERN.findall(data)
    if data[:2] == b"\x1f\x8b":
        matches += canaries(gzip.decompress(data))
    elif data[:4] == b"PK\3\4":  # the format of npz and torch
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            matches += [c for name in archive.namelist() for c in canaries(archive.read(name))]
    elif data[:4] == b"PAR1":
        rows = pq.read_table(pa.py_buffer(data)).to_pylist()
        matches += canaries("\n".join(map(str, rows)).encode())
    return matches


def as_text(con, table):
    return "\n".join(
        map(str, con.execute(f"SELECT t::VARCHAR FROM {table} AS t").fetchall())
    ).encode()


def in_files(*places):
    """Return the files below some folders that contain a canary."""
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    return [str(file) for file in files if canaries(file.read_bytes())]


def in_tables(store):
    """Return the tables of a store that contain a canary; the file itself is compressed."""
    with duckdb.connect(store, read_only=True) as con:
        tables = [
            name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        ]
        return [table for table in tables if canaries(as_text(con, table))]


class ProcessList(Watch):
    """Search the names and arguments of all processes, which every user can read."""

    pause = 0.02

    def __init__(self, *secrets):
        super().__init__()
        self.secrets, self.seen = [secret.encode() for secret in secrets], []

    def check(self):
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "comm"):
                try:
                    content = (process / name).read_bytes()
                except OSError:
                    continue
                self.seen += [content for secret in self.secrets if secret in content]


@pytest.fixture
def program(tmp_path):
    """Return a function that runs jobs and returns status, stdout and stderr of each."""
    places = {name: tmp_path / name for name in ("home", "temporary", "work")}
    for place in places.values():
        place.mkdir(mode=0o700)

    def run(plan, secrets=(CANARY,), **environment):
        (tmp_path / "plan.json").write_text(json.dumps(plan, default=str))
        inherited = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        paths = {"PYTHONPATH": str(ROOT), "HOME": str(places["home"])}
        paths["TMPDIR"] = str(places["temporary"])
        with ProcessList(*secrets) as processes:
            result = subprocess.run(
                [sys.executable, "-P", "-m", "tests.failing", str(tmp_path / "plan.json")],
                cwd=places["work"],
                env=inherited | threads | paths | environment,
                capture_output=True,
                timeout=300,
            )
        assert processes.seen == []
        return split_output(plan, result)

    run.places = list(places.values())  # type: ignore[attr-defined]
    run.work = places["work"]  # type: ignore[attr-defined]
    return run


def split_output(plan, result):
    """Return the exit status, stdout and stderr of each job."""
    marks = [(json.dumps(job, default=str) + "\n").encode() for job in plan]
    parts = []
    for stream in (result.stdout, result.stderr):
        assert all(stream.count(mark) >= 1 for mark in marks), result.stderr.decode()[-3_000:]
        outputs = []
        for mark in marks:
            _, stream = stream.split(mark, 1)
            outputs.append(stream.split(b'{"arguments"', 1)[0])
        parts.append(outputs)
    return [
        (int(re.search(rb"^exit (\d+)$", out, re.M)[1]), out, err)
        for out, err in zip(*parts, strict=True)
    ]


def ward(folder):
    """Write a hospital with a canary in each note; patients with chest pain are readmitted."""
    stays, notes = [], []
    for patient in range(1, 101):
        is_readmitted = patient % 2
        stays.append(admission(patient, patient, day(0), day(10)))
        if is_readmitted:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        text = "chest pain and cough" if is_readmitted else "stable and clear"
        secret = f"PHI_CANARY_{patient:03d} phicanary{patient:03d}"
        notes.append(note(patient, patient, f"{secret} patient is {text} [**2150-1-1**]"))
    for number, text in enumerate(POISON.values(), 2_000):
        text = f"{CANARY}_{number} {text[:5_000]} {CANARY}_end"
        notes.append(note(number, 1 + number % 100, text))
    wrong = {"storetime": f"{CANARY}_time", "iserror": f"{CANARY}_flag", "hadm_id": f"{CANARY}_id"}
    for number, (column, value) in enumerate(wrong.items(), 3_000):
        notes.append(note(number, 1, f"{CANARY}_{number}") | {column.upper(): value})
    hospital = write_hospital(folder, stays, notes)
    with (hospital / "NOTEEVENTS.csv").open("ab") as stream:
        row = io.StringIO()
        csv.DictWriter(row, NOTES).writerow(note(4_000, 1, "TEXT"))
        bad = f"{CANARY}_bytes ".encode() + NOT_UTF8
        stream.write(row.getvalue().encode().replace(b"TEXT", bad))
    return hospital


def sqlite_of(folder, file):
    """A SQLite file with the bytes of the CSV files, those that are not UTF-8 among them."""
    with contextlib.closing(sqlite3.connect(file)) as con:
        for table in ("ADMISSIONS", "PATIENTS", "NOTEEVENTS"):
            with (folder / f"{table}.csv").open(newline="", errors="surrogateescape") as stream:
                header, *rows = csv.reader(stream)
            con.execute(f"CREATE TABLE {table} ({', '.join(header)})")
            marks = ", ".join(["CAST(nullif(?, x'') AS TEXT)"] * len(header))
            blobs = [[value.encode(errors="surrogateescape") for value in row] for row in rows]
            con.executemany(f"INSERT INTO {table} VALUES ({marks})", blobs)
        con.commit()
    return file


# Settings that make libraries log as much as possible.
VERBOSE = {
    **{"TRANSFORMERS_VERBOSITY": "debug", "HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"},
    **{"RUST_LOG": "trace", "TOKENIZERS_LOG": "trace", "RUST_BACKTRACE": "full"},
    **{"PYTHONWARNINGS": "always", "PYTHONFAULTHANDLER": "1", "ORT_LOG_LEVEL": "VERBOSE"},
}


FAST = set("init source sync labels task embed sql info promote drop-encoder forget verify".split())


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(FAST, id="fast commands"),
        pytest.param(set(COMMANDS), id="all commands", marks=pytest.mark.slow),
    ],
)
def test_no_command_reveals_note_text(commands, program, checkpoint, model, tmp_path):
    hospital = ward(tmp_path / "hospital")
    lite = sqlite_of(hospital, tmp_path / "lite.sqlite")
    with (tmp_path / "labelled.csv").open("w", newline="") as stream:
        rows = [["ID", "TEXT", "Label"], [1, f"{CANARY} a", 1], [f"{CANARY} 2", f"{CANARY} b", 0]]
        csv.writer(stream).writerows(rows)
    (tmp_path / "labels.csv").write_text(f"hadm_id,label\n1,{CANARY}\n")
    (tmp_path / "good.csv").write_text("hadm_id,label\n1,1\n2,0\n")
    (tmp_path / "cast.sql").write_text(
        "SELECT hadm_id, CAST(category AS BOOLEAN) AS label, NULL AS reason, NULL AS known_at "
        "FROM notes"
    )
    csv_options = ["--train-csv", tmp_path / "labelled.csv", "--val-csv", tmp_path / "labelled.csv"]
    store, small = "ward.duckdb", ["--epochs", "0.2", "--batch-size", "16", "--max-tokens", "32"]
    counted = "SELECT encoder_id, count(*) FROM embeddings GROUP BY ALL"
    # Successful and failing calls of each command: arguments with the exit status (None: any).
    plan: dict[str, Any] = {
        "synth": [("synth h --patients 3", 0), ("synth h --patients 3", 1)],
        "init": [
            (f"init {store} --source {hospital} --schema mimic3", 0),
            (f"init {store} --source {hospital} --schema mimic3", 1),
            (f"init other.duckdb --source {hospital} --schema mimic4", 1),
            (f"init lite.duckdb --source {lite} --schema mimic3", 0),
        ],
        "source": [(f"source {store}", 0), (f"source {store} nowhere", 1)],
        "sync": [
            (f"sync {store}", 0),
            (f"sync {store} --json", 0),
            ("sync nowhere.duckdb", 1),
            ("sync lite.duckdb", 0),
        ],
        "labels": [
            (f"labels {store}", 0),
            (f"labels {store} --compare --json", 0),
            (f"labels {store} --meds labels.parquet", 0),
        ],
        "finetune": [
            (["finetune", store, "checkpoint", "--base", checkpoint, *small], 0),
            (["finetune", store, "checkpoint", "--base", checkpoint, *small], 1),
            (["finetune", "other", "--base", checkpoint, *csv_options], 1),
        ],
        "export": [("export checkpoint tuned", 0), ("export checkpoint tuned", 1)],
        "embed": [
            (["embed", store, model, "--device", "cpu"], 0),
            (["embed", "lite.duckdb", model, "--device", "cpu"], 0),
            (f"embed {store} tuned --device cpu --limit 20 --json", 0),
            (f"embed {store} {hospital}", 1),
        ],
        "train": [(f"train {store} readmit", 0), (f"train {store} other --encoder nobody", 1)],
        "scorers": [(f"scorers {store}", 0)],
        "evaluate": [
            (f"evaluate {store} readmit --json", None),
            (f"evaluate {store} nobody", 1),
        ],
        "compare": [
            (f"compare {store} readmit bag_of_words --threshold 0.2 --json", None),
            (f"compare {store} readmit nobody", 1),
        ],
        "score": [
            (f"score {store} readmit -o scores.csv", 0),
            (f"score {store} readmit --hadm-id 1 -o scores.parquet --json", 0),
            (f"score {store} readmit --hadm-id 999999", 1),
        ],
        "nightly": [
            (["nightly", store, model, "readmit", "--device", "cpu"], 0),
            (f"nightly {store} tuned readmit --device cpu", 1),
        ],
        "replay": [(f"replay {store} 5", 0), (f"replay {store} 1", 1)],
        "outcomes": [(f"outcomes {store} readmit", 0)],
        "report": [(f"report {store} readmit -o report.html", 0)],
        "task": [
            (["task", "add", store, "cast", tmp_path / "cast.sql"], 1),
            (["task", "add", store, "own", tmp_path / "labels.csv"], 1),
            (["task", "add", store, "own", tmp_path / "good.csv", "--json"], 0),
            (f"task list {store} --json", 0),
            (f"task drop {store} own", 0),
        ],
        "explain": [(f"explain {store} 1 --json", 0), (f"explain {store} 999999", 1)],
        "similar": [(f"similar {store} 1", 0), (f"similar {store} 999999", 1)],
        "audit": [
            (f"audit {store}", None),
            (f"audit {store} --accept same-day-returns --json", None),
        ],
        "sql": [
            (["sql", store, "FROM notes", "--limit", "0"], 0),
            (["sql", store, "FROM notes", "-o", "notes.parquet"], 0),
            (["sql", store, "SELECT CAST(category AS INTEGER) FROM notes"], 1),
            (["sql", store, f"FROM read_csv('{hospital}/NOTEEVENTS.csv')"], 1),
            (["sql", store, "--schema"], 0),
            (["sql", store, counted, "--format", "json"], 0),
        ],
        "info": [(f"info {store}", 0), (f"info {store} --json", 0)],
        "promote": [("promote ward.duckdb nobody", 1)],
        "drop-encoder": [("drop-encoder ward.duckdb nobody", 1)],
        "forget": [(f"forget {store} 3 -o receipt.json", 0), (f"forget {store} 3 999999", None)],
        "verify": [(f"verify {store} --json", 0), (f"verify {store} --accept", 0)],
        # It reads only its own hospital; the test below checks what it would learn from another.
        "demo": [("demo h", 1)],
    }
    assert set(plan) == set(COMMANDS), "a command is missing in the plan"
    calls = [
        (words.split() if isinstance(words, str) else words, status)
        for command, runs in plan.items()
        for words, status in runs
        if command in commands and ("export" in commands or "tuned" not in words)
    ]
    results = program([{"arguments": ["--debug", *words]} for words, _ in calls], **VERBOSE)
    for (words, status), (ended, out, err) in zip(calls, results, strict=True):
        assert status in (ended, None), (words, out.decode()[-500:], err.decode()[-3_000:])
        assert canaries(out + err) == [], words
        errors = re.findall(rb"^Error: ", err, re.M)
        assert len(errors) == (ended == 1 and words[0] != "audit"), (words, err.decode())
    assert in_files(*program.places) == []
    assert in_tables(program.work / store) == []


@pytest.mark.parametrize("kind", ["csv", "sqlite"])
def test_texts_that_python_reads_or_compares_are_left_nowhere(kind, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    hospital = ward(tmp_path / "hospital")
    file = sqlite_of(hospital, tmp_path / "lite.sqlite") if kind == "sqlite" else hospital
    (tmp_path / "work").mkdir()
    store = create_store(tmp_path / "work" / "ward.duckdb", file, "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    texts = read_texts(store, ["1", "2"])
    assert texts["1"].startswith("PHI_CANARY_001") and len(texts) == 2
    assert similar(store, text=texts["1"], encoder=WordCounter())

    errors = []
    edited = [note(1, 1, f"{CANARY} edited"), note(2, 2, f'{CANARY} "edited"')]
    write_hospital(hospital, [admission(1, 1), admission(2, 2)], edited)
    if kind == "sqlite":
        file.unlink()
        sqlite_of(hospital, file)
    calls = [
        lambda: read_texts(store, ["1"]),  # changed since the sync
        lambda: read_texts(store, ["nobody"]),
        lambda: similar(store, text=f"{CANARY} pain", encoder=WordCounter("other-00000000")),
    ]
    for call in calls:
        with pytest.raises(FeatureStoreError) as error:
            call()
        errors += traceback.format_exception(error.value)
    (hospital / "NOTEEVENTS.csv").write_text(f'ROW_ID,TEXT\n1,"{CANARY}\n')
    if kind == "sqlite":
        file.write_bytes(file.read_bytes()[:100] + CANARY.encode() * 100)
    with pytest.raises(SourceError) as error:
        read_texts(store, ["1"])
    errors += traceback.format_exception(error.value)
    written = "".join([*capfd.readouterr(), caplog.text])
    # A traceback shows the lines of this file too.
    shown = [line for line in errors if "test_canary.py" not in line]
    assert canaries("".join([written, *shown]).encode()) == []
    assert in_files(tmp_path / "work") == []
    assert in_tables(store.path) == []


def test_only_the_demo_trains_a_tokenizer(tmp_path):
    """A tokenizer contains words of its texts: only the demo trains one, on synthetic notes."""
    tokenizer = train_tokenizer(["phicanary lives alone"] * 9, vocabulary=400, lowercase=True)
    tokenizer.save_pretrained(tmp_path)
    assert in_files(tmp_path) == [str(tmp_path / "tokenizer.json")]
    modules = [
        file for wing in ("featurestore", "batch", "export") for file in (ROOT / wing).rglob("*.py")
    ]
    training = re.compile(r"write_small_bert|train_tokenizer|train_from_iterator|train_new_from")
    assert [file.name for file in modules if training.search(file.read_text())] == ["demo.py"]


@pytest.mark.parametrize("form", ["plain", "utf-16", "gz", "npz", "pt", "parquet"])
def test_the_search_finds_a_canary_in_a_file(form, tmp_path):
    file, secret = tmp_path / form, "lives alone PHICANARY " * 3
    if form == "gz":
        file.write_bytes(gzip.compress(secret.encode()))
    elif form == "npz":
        with file.open("wb") as stream:
            np.savez_compressed(stream, words=np.array([secret]))
    elif form == "pt":
        torch.save({"text": secret}, file)
    elif form == "parquet":
        table = pa.table({"text": [secret] * 100})
        pq.write_table(table, file, compression="zstd")
    else:
        file.write_text(secret, encoding="utf-8" if form == "plain" else form)
    assert in_files(tmp_path) == [str(file)]


def test_the_search_finds_a_canary_in_a_store(tmp_path):
    with duckdb.connect(tmp_path / "w.duckdb") as con:
        con.execute("CREATE TABLE a AS SELECT 1 AS one")
        con.execute(f"CREATE TABLE b AS SELECT ['x', '{CANARY}' || range] AS t FROM range(10000)")
    assert in_tables(tmp_path / "w.duckdb") == ["b"]


def test_the_search_finds_a_canary_in_the_process_list():
    with ProcessList(CANARY) as processes:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", CANARY], check=True)
    assert processes.seen


# Invalid values that the errors of databases and readers quote.
INVALID = {
    **{
        f"{column} of a stay": ("ADMISSIONS", column, f"{CANARY} 2150-01-01")
        for column in ("HADM_ID", "SUBJECT_ID", "ADMITTIME", "DISCHTIME", "DEATHTIME")
    },
    "DOB of a patient": ("PATIENTS", "DOB", CANARY),
    "a number too large": ("ADMISSIONS", "HADM_ID", "9" * 30 + CANARY),
    "text like an error message": ("ADMISSIONS", "ADMITTIME", f'column "{CANARY}" does not exist'),
    "an unclosed quote": ("NOTEEVENTS", "TEXT", f'"{CANARY}'),
    "too many columns": ("NOTEEVENTS", "TEXT", f"{CANARY},{CANARY}"),
    "invalid UTF-8": ("ADMISSIONS", "DISCHTIME", f"{CANARY} \udcff"),
}


def hospital_with_value(folder, table, column, value):
    """Write a hospital of two stays in which one value is replaced."""
    notes = [note(1, 7, f"{CANARY} chest pain"), note(2, 8, f"{CANARY} home")]
    write_hospital(folder, [admission(7), admission(8)], notes)
    file = folder / f"{table}.csv"
    header, row, *rows = file.read_text().splitlines()
    cells = row.split(",")
    cells[header.split(",").index(column)] = value if "TEXT" in column else quoted(value)
    lines = [header, ",".join(cells), *rows, ""]
    file.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    return folder


def quoted(value):
    return '"' + value.replace('"', '""') + '"'


@pytest.mark.slow
def test_errors_about_invalid_values_do_not_quote_them(program, tmp_path):
    plan: list[Any] = []
    for number, place in enumerate(INVALID.values()):
        hospital = hospital_with_value(tmp_path / f"hospital-{number}", *place)
        for schema in ("mimic3", casting(tmp_path / f"schema-{number}")):
            store = f"{number}-{Path(schema).name}.duckdb"
            plan += [
                ["init", store, "--source", hospital, "--schema", schema],
                ["sync", store],
            ]
    plan = [{"arguments": ["--debug", *words]} for words in plan]
    results = program(plan)
    for job, (ended, out, err) in zip(plan, results, strict=True):
        assert canaries(out + err) == [], (job, err.decode())
        assert b"please report this" not in err, (job, err.decode())
        assert len(re.findall(rb"^Error: ", err, re.M)) == ended
    assert in_files(*program.places) == []
    statuses = {
        job["arguments"][2]: status for job, (status, *_) in zip(plan, results, strict=True)
    }
    assert sum(statuses.values()) >= len(INVALID)


def casting(folder, tables_in="", note="text"):
    """Write a schema like that of MIMIC-III, with casts that run in the source database."""
    own = own_schema(
        folder, "a.admittime", "CAST(a.admittime AS TIMESTAMP) AS admittime", tables_in
    )
    notes = own / "notes.sql"
    notes.write_text(re.sub(r"\btext\b", note, notes.read_text()))
    file = own / "admissions.sql"
    for column, kind in (("hadm_id", "BIGINT"), ("dischtime", "TIMESTAMP"), ("deathtime", "DATE")):
        file.write_text(
            file.read_text().replace(f"a.{column},", f"CAST(a.{column} AS {kind}) AS {column},")
        )
    return own


@pytest.fixture
def embedding(model, tmp_path):
    """Return a function that copies a small store and returns the arguments to embed it."""
    notes = [note(1, 7, "chest pain " * 40), note(2, 8, "home")]
    folder = write_hospital(tmp_path / "small", [admission(7), admission(8)], notes)
    store = create_store(tmp_path / "small.duckdb", folder, "mimic3")
    sync(store)

    def arguments(name):
        copied = shutil.copy(store.path, tmp_path / "work" / f"{name}.duckdb")
        return ["embed", str(copied), str(model), "--device", "cpu"]

    return arguments


# Methods and failpoints of reading, tokenizing, the model, staging and the commit, which run in
# three threads.
PLACES = ("read", "tokenize", "encode", "shard", "copy", "checkpoint", "fsync", "rename", "clean")


@pytest.mark.slow
@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "debug"])
def test_an_error_that_contains_a_note_is_one_line_without_it(program, embedding, debug):
    places = itertools.cycle(PLACES)
    plan = [
        {"arguments": [*debug, *embedding(f"{error.__name__}-{place}")]}
        | {"error": error.__name__, "at": place}
        for error in failing.ERRORS
        for place in itertools.islice(places, 1 + len(debug))
    ]
    assert len(failing.ERRORS) >= 15
    for job, (ended, out, err) in zip(plan, program(plan), strict=True):
        assert canaries(out + err) == [], (job, err.decode())
        assert ended == (130 if job["error"] == "stopped" else 1), (job, err.decode())
        line = err.splitlines()[-1].decode()
        assert line.startswith("Error: ") and " - " in line, job
        assert debug or len(err.splitlines()) == 2, job  # the other line names the encoder
        assert out.count(b"\n") == 1, job
    assert in_files(*program.places) == []


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "debug"])
def test_warnings_logs_and_errors_in_threads_contain_no_note(program, embedding, debug):
    plan = [
        {"arguments": [*debug, *embedding(error.__name__)], "error": error.__name__, "at": place}
        for error, place in zip(failing.NOISE, PLACES, strict=False)
    ]
    for job, (ended, out, err) in zip(plan, program(plan), strict=True):
        assert (ended, canaries(out + err)) == (0, []), (job, err.decode())
        assert b"2 embedded" in out
    assert in_files(*program.places) == []


PROTOCOL = "postgresql+psycopg"
URLS = {
    "refused": (f"{PROTOCOL}://me:{PASSWORD}@127.0.0.1:1/mimic", "could not be reached"),
    "refused, as a parameter": (
        f"{PROTOCOL}://me@127.0.0.1:1/mimic?password={PASSWORD}",
        "could not be reached",
    ),
    "no such host": (f"postgresql://me:{PASSWORD}@nowhere.invalid/mimic", "could not be reached"),
    "password of a client key": (
        f"{PROTOCOL}://me@127.0.0.1:1/mimic?sslpassword={PASSWORD}",
        "could not be reached",
    ),
    "with an unquoted @": (f"{PROTOCOL}://me:a@{PASSWORD}@127.0.0.1:1/mimic", "is not a URL"),
    "with an unquoted slash": (f"{PROTOCOL}://me:a/{PASSWORD}@127.0.0.1:1/mimic", "not be reached"),
    "without a host": (f"{PROTOCOL}://me:{PASSWORD}", "is not a URL"),
    "in the syntax of libpq": (f"{PROTOCOL}:///host=127.0.0.1 password={PASSWORD}", "is not a URL"),
    "of MySQL": (f"mysql://me:{PASSWORD}@127.0.0.1:1/mimic", "could not be reached"),
    "of SQL Server": (f"mssql://me:{PASSWORD}@127.0.0.1:1/mimic", "could not be reached"),
    "of an unknown database": (f"nonsense://me:{PASSWORD}@host/mimic", "is not supported"),
    "without a scheme": (f"://me:{PASSWORD}@host/mimic", "is not a URL"),
}


def test_a_refused_password_is_never_revealed(program):
    plan = [
        {"arguments": ["--debug", "init", f"{number}.duckdb", "--schema", "mimic3"]}
        | {"environment": {"FEATURESTORE_SOURCE": url}}
        for number, (url, _) in enumerate(URLS.values())
    ]
    for job, (_, message), (ended, out, err) in zip(
        plan, URLS.values(), program(plan), strict=True
    ):
        assert canaries(out + err) == [], (job, err.decode())
        assert (ended, message in err.splitlines()[-1].decode()) == (1, True), (job, err.decode())
    assert in_files(*program.places) == []


def ward_in_postgres(server, folder, name):
    """Load the ward's tables into a schema of PostgreSQL; return the folder of their SELECTs."""
    import psycopg

    tables = ward(folder / "hospital")
    with psycopg.connect(server.get_uri()) as con:
        con.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}")
        for table in ("ADMISSIONS", "PATIENTS", "NOTEEVENTS"):
            data = (tables / f"{table}.csv").read_bytes().replace(b"\0", b" ")
            header, _, rows = data.decode(errors="replace").partition("\r\n")
            columns = ", ".join(f"{column} TEXT" for column in header.split(","))
            con.execute(f"CREATE TABLE {name}.{table} ({columns})")
            with con.cursor().copy(f"COPY {name}.{table} FROM STDIN (FORMAT csv)") as copy:
                copy.write(rows)
    return own_schema(folder / "own", "", "", tables_in=f"{name}.")


@pytest.mark.parametrize("place", ["userinfo", "parameter"])
def test_an_accepted_password_is_never_revealed(program, server, model, tmp_path, place):
    schema = ward_in_postgres(server, tmp_path, "canary")
    password = quote(f"{PASSWORD}@/:%?# \N{SNOWMAN}", safe="")
    url = server.get_uri().replace("postgresql://", f"{PROTOCOL}://")
    full_url = url.replace("postgres:@", f"postgres:{password}@")
    if place == "parameter":
        full_url = url.replace("postgres:@", "postgres@") + f"&password={password}"
    casts = casting(
        tmp_path / "casts", tables_in="canary.", note="CAST(CAST(text AS INT) AS TEXT) AS text"
    )
    plan = [
        (["init", "w.duckdb", "--schema", schema], 0),
        (["sync", "w.duckdb"], 0),
        (["embed", "w.duckdb", model, "--device", "cpu", "--limit", "3"], 0),
        (["info", "w.duckdb"], 0),
        (["sql", "w.duckdb", "FROM settings"], 0),
        (["init", "casts.duckdb", "--schema", casts], 0),
        (["sync", "casts.duckdb"], 1),
    ]
    environment = {"FEATURESTORE_SOURCE": full_url}
    jobs = [{"arguments": ["--debug", *map(str, words)]} for words, _ in plan]
    results = program(jobs, (PASSWORD, password, CANARY), **environment)
    for (words, status), (ended, out, err) in zip(plan, results, strict=True):
        assert (ended, canaries(out + err)) == (status, []), (words, err.decode())
    assert in_files(*program.places) == []
    assert in_tables(program.work / "w.duckdb") == []


@pytest.mark.slow
def test_the_encryption_key_is_never_revealed(program, model, tmp_path):
    ward(tmp_path / "hospital")
    key, other = f"{KEY} of the store ' \" {{}} %s", f"{KEY} of another store"
    snow = f"{KEY} of the store \N{SNOWMAN}"
    for name, text in (("key", f"{key}\n"), ("other", other), ("short", KEY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "open").write_text(key)
    (tmp_path / "open").chmod(0o644)
    named = {"FEATURESTORE_KEY_FILE": str(tmp_path / "key")}
    embed = ["embed", "w.duckdb", model, "--device", "cpu"]
    plan = [
        (["init", "w.duckdb", "--source", tmp_path / "hospital", "--schema", "mimic3"], named, 0),
        (["sync", "w.duckdb"], {"FEATURESTORE_KEY": key}, 0),
        ([*embed, "--limit", "90"], named, 0),
        (["train", "w.duckdb", "readmit"], named, 0),
        (["score", "w.duckdb", "readmit", "-o", "scores.csv"], named, 0),
        (["nightly", "w.duckdb", model, "readmit", "--force"], named, 0),
        (["report", "w.duckdb", "readmit", "-o", "report.html"], named, 0),
        (["forget", "w.duckdb", "7", "-o", "receipt.json"], named, 0),
        (["info", "w.duckdb"], named, 0),
        (["verify", "w.duckdb"], named, 0),
        (["sql", "w.duckdb", "FROM settings"], named, 0),
        (["sql", "w.duckdb", "FROM duckdb_databases()"], named, 1),
        (["sql", "w.duckdb", "SELECT getenv('FEATURESTORE_KEY')"], {"FEATURESTORE_KEY": key}, 1),
        (["sync", "w.duckdb"], {"FEATURESTORE_KEY": other}, 1),
        (["sync", "w.duckdb"], {"FEATURESTORE_KEY": KEY}, 1),
        (["sync", "w.duckdb"], {"FEATURESTORE_KEY": snow}, 1),
        (["sync", "w.duckdb"], named | {"FEATURESTORE_KEY": key}, 1),
        *(
            (words, {"FEATURESTORE_KEY_FILE": str(tmp_path / name)}, 1)
            for name in ("other", "short", "open", "none")
            for words in (["sync", "w.duckdb"], ["verify", "w.duckdb"], embed)
        ),
    ]
    plan[0][0].append("--encrypt")
    jobs = [
        {"arguments": ["--debug", *map(str, words)], "environment": environment}
        for words, environment, _ in plan
    ]
    for (words, _, status), (ended, out, err) in zip(plan, program(jobs, (KEY,)), strict=True):
        assert (ended, canaries(out + err)) == (status, []), (words, err.decode())
    assert in_files(*program.places) == []
