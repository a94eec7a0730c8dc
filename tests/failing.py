"""A process that runs commands one after the other, some of which are made to fail.

`python -m tests.failing PLAN.json`: a list of {"arguments": [...]}, each perhaps with an "error"
and the step "at" which it comes, and with an "environment".
Every error holds the canary, as the errors of libraries hold values.
"""

import csv
import json
import logging
import os
import sys
import threading
import warnings
from pathlib import Path

CANARY = "PHI_CANARY_of_an_error lives alone"


def bad_conversion():
    import duckdb

    duckdb.sql(f"SELECT CAST('{CANARY}' AS INTEGER)").fetchall()


def bad_conversion_by_sqlalchemy():
    import sqlalchemy as sa

    with sa.create_engine("duckdb:///:memory:").connect() as con:
        con.execute(sa.text("SELECT CAST(:text AS INTEGER)"), {"text": CANARY}).fetchall()


def bad_letters():
    (CANARY.encode() + b"\xff").decode()


def no_such_key():
    dict[str, str]()[CANARY]


def no_such_key_in_our_own_words():
    from featurestore.errors import FeatureStoreError

    try:
        no_such_key()
    except KeyError as error:
        raise FeatureStoreError("a key is missing - report this") from error


def bad_cast_by_arrow():
    import pyarrow as pa

    pa.array([CANARY]).cast(pa.int64())


def bad_csv_by_arrow():
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    pa_csv.read_csv(pa.py_buffer(f"a,b\n{CANARY}\n".encode()))


def onnx_runtime_fails():
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    raise Fail(f"Non-zero status code returned while running node {CANARY}")


def text_taken_for_a_file():
    Path(CANARY).read_text()


def text_in_the_systems_words():
    raise OSError(28, CANARY, CANARY)


def error_of_no_number():
    raise OSError(CANARY)


def out_of_memory():
    raise MemoryError(CANARY)


def endless(text=CANARY):
    return endless(text) + CANARY


def system_error():
    raise SystemError(CANARY)


def exits_with_words():
    sys.exit(CANARY)


def bad_json():
    json.loads(CANARY)


def bad_csv():
    list(csv.reader([f'"{CANARY}'], strict=True))


def fails_with_notes():
    error = AssertionError(CANARY)
    error.add_note(CANARY)
    raise error


def many_fail():
    raise BaseExceptionGroup(CANARY, [KeyError(CANARY), SystemExit(CANARY)])


def whose_words_fail():
    class OddError(Exception):
        def __str__(self):
            raise ValueError(CANARY)

        __repr__ = __str__

    raise OddError(CANARY)


def rust_panics():
    from tokenizers import NormalizedString

    NormalizedString(CANARY).for_each(lambda letter: dict[str, str]()[CANARY])


def stopped():
    raise KeyboardInterrupt(CANARY)


def warns():
    warnings.warn(CANARY, stacklevel=1)


def logs():
    try:
        no_such_key()
    except KeyError:
        for name in ("sqlalchemy.engine", "transformers", "onnxruntime", "root"):
            logging.getLogger(name).exception("%s", CANARY)
            logging.getLogger(name).critical("%d", CANARY)  # which cannot be written


def fails_in_a_thread():
    thread = threading.Thread(target=no_such_key)
    thread.start()
    thread.join()


def fails_in_a_finalizer():
    class Lost:
        def __del__(self):
            no_such_key()

    Lost()


def chatters_natively():
    os.write(2, CANARY.encode())


# Those that stop a job, and those that a job outlives.
ERRORS = (
    *(bad_conversion, bad_conversion_by_sqlalchemy, bad_letters, no_such_key, bad_cast_by_arrow),
    *(no_such_key_in_our_own_words, bad_csv_by_arrow, onnx_runtime_fails, text_taken_for_a_file),
    *(text_in_the_systems_words, error_of_no_number, out_of_memory, endless, system_error),
    *(exits_with_words, bad_json, bad_csv, fails_with_notes, many_fail, whose_words_fail),
    *(rust_panics, stopped),
)
CHATTER = (warns, logs, fails_in_a_thread, fails_in_a_finalizer, chatters_natively)
NAMED = {error.__name__: error for error in (*ERRORS, *CHATTER)}


def run(plan):
    from featurestore.cli import main
    from featurestore.store import failpoints

    nothing, own = failpoints.hit, dict(os.environ)
    for job in plan:
        failpoints.hit = nothing
        os.environ.clear()
        os.environ.update(own)
        if "error" in job:
            put(job["at"], NAMED[job["error"]])
        os.environ.update(job.get("environment", {}))
        said = f"{json.dumps(job)}\n"
        for stream in (sys.stdout, sys.stderr):
            stream.write(said)
            stream.flush()
        try:
            main(job["arguments"])
        except SystemExit as end:
            sys.stdout.write(f"exit {end.code}\n")


def put(at, error):
    """Let an error come at a step, or where texts are tokenized or encoded."""
    from featurestore.store import failpoints

    if at in failpoints.FAILPOINTS:
        failpoints.hit = lambda name: error() if name == at else None
        return
    from featurestore import OnnxEncoder

    method = getattr(OnnxEncoder, at)

    def instead(self, texts):
        setattr(OnnxEncoder, at, method)
        error()
        return method(self, texts)

    setattr(OnnxEncoder, at, instead)


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
