"""Errors show one line, with --debug also their place, and never a data value."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from click.testing import CliRunner

import featurestore.source.sync
from featurestore import Store, create_store
from featurestore.cli import main
from featurestore.cli.redaction import describe, trace
from featurestore.errors import FeatureStoreError
from tests.hospital import admission, note, write_hospital
from tests.privacy.test_private import COMMAND, ROOT

CANARY = "PHI_CANARY lives alone"


@pytest.fixture
def ward(tmp_path):
    folder = write_hospital(tmp_path / "hospital", [admission(7)], [note(1, 7, "text")])
    return create_store(tmp_path / "ward.duckdb", folder, "mimic3").path


@pytest.fixture
def replace_sync(monkeypatch):
    """Return a function that replaces the sync by another function."""

    def replace(function):
        monkeypatch.setattr(featurestore.source.sync, "sync", lambda *_: function())

    return replace


def raise_chained():
    try:
        raise KeyError(CANARY)
    except KeyError:
        raise ValueError(CANARY) from None


def test_debug_shows_the_chain_of_errors_without_values(ward, replace_sync):
    replace_sync(raise_chained)
    result = CliRunner().invoke(main, ["--debug", "sync", str(ward)])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    kinds = [line for line in lines if not line.startswith("  ")]
    assert kinds[:-1] == ["KeyError", "which led to:", "ValueError"]
    assert kinds[-1].startswith("Error: ValueError in test_redaction.py, line ")
    assert kinds[-1].endswith(" - please report this")
    frames = [line for line in lines if line.startswith("  ")]
    assert frames[0].startswith(f"  {__file__}, line ") and frames[0].endswith(", in raise_chained")
    assert CANARY not in result.output


def test_without_debug_the_message_recommends_it(ward, replace_sync):
    replace_sync(raise_chained)
    result = CliRunner().invoke(main, ["sync", str(ward)])
    (line,) = result.stderr.splitlines()
    assert line.endswith(' - please report this ("featurestore --debug" shows where)')


def test_the_chain_contains_messages_of_the_project(ward, replace_sync):
    def failing():
        try:
            raise_chained()
        except ValueError:
            raise FeatureStoreError("no such day - name another") from None

    replace_sync(failing)
    lines = CliRunner().invoke(main, ["--debug", "sync", str(ward)]).stderr.splitlines()
    assert "featurestore.errors.FeatureStoreError: no such day - name another" in lines
    assert lines[-1] == "Error: no such day - name another"
    assert "KeyError" in lines and CANARY not in "\n".join(lines)


def test_a_trace_lists_each_error_of_a_group_and_folds_repeated_frames():
    def recurse():
        recurse()

    try:
        recurse()
    except RecursionError as error:
        lines = trace(ExceptionGroup(CANARY, [error, KeyError(CANARY)])).splitlines()
    assert [line for line in lines if not line.startswith("  ")] == [
        *("RecursionError", "which led to:", "KeyError", "which led to:", "ExceptionGroup"),
    ]
    assert sum("recurse" in line for line in lines) == 1
    assert any(line.endswith(" more times") for line in lines)
    assert len(lines) < 10


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, CANARY), "No space left on device - fix this, then run the command again"),
        (FileNotFoundError(2, CANARY, CANARY), "No such file or directory - fix this, then"),
        (OSError(CANARY), "OSError in test_redaction.py, line "),
        (
            KeyboardInterrupt(CANARY),
            "stopped - the store is unchanged; run the command again to continue",
        ),
        (SystemExit(CANARY), "SystemExit in test_redaction.py, line "),
        (GeneratorExit(CANARY), "GeneratorExit in test_redaction.py, line "),
    ],
)
def test_an_error_of_the_system_is_described_by_its_number(ward, replace_sync, error, expected):
    def failing():
        raise error

    replace_sync(failing)
    result = CliRunner().invoke(main, ["sync", str(ward)])
    assert result.stderr.startswith(f"Error: {expected}")
    assert result.stderr.count("\n") == 1
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        (__file__, True),
        ("nowhere/scores.csv", True),
        ("nowhere/.scores.csv.partial", True),
        ("elsewhere/scores.csv", False),
        (f"nowhere/{CANARY}", False),
        (f"{CANARY} nowhere/scores.csv", False),
        (b"nowhere/scores.csv", True),
        (CANARY + "\0", False),
        (7, False),
    ],
)
def test_a_file_is_named_only_if_it_exists_or_is_an_argument(file, named):
    message = describe(FileNotFoundError(2, CANARY, file), ["score", "-o", "nowhere/scores.csv"])
    assert message.endswith("No such file or directory - fix this, then run the command again")
    assert (message[:2] != "No") == named


def test_warnings_and_log_records_show_at_most_their_place(ward, tmp_path):
    script = """
        import logging, warnings
        warnings.warn(CANARY)
        logging.getLogger("library").error("%s", CANARY)
        logging.getLogger("library").warning(CANARY, exc_info=KeyError(CANARY), stack_info=True)
        raise FeatureStoreError("enough")
    """
    _, stderr = start_process(tmp_path, script, "sync", ward).communicate(timeout=60)
    assert stderr == "Error: enough\n"
    _, stderr = start_process(tmp_path, script, "--debug", "sync", ward).communicate(timeout=60)
    assert "UserWarning in <string>, line 9\n" in stderr
    assert stderr.count("library logged a message in <string>, line ") == 2
    assert CANARY not in stderr


def start_process(tmp_path, script, *arguments):
    """Start the program with a script in place of its sync."""
    program = f"""
import ctypes, os, sys, threading, time
import featurestore.source.sync
from featurestore.errors import FeatureStoreError
CANARY = {CANARY!r}
def replaced_sync(*_):
{textwrap.indent(textwrap.dedent(script), "    ")}
featurestore.source.sync.sync = replaced_sync
from featurestore.cli import main
main()
"""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_threads_finalizers_and_native_code_show_no_value(ward, tmp_path, debug):
    process = start_process(
        tmp_path,
        """
        class Lost:
            def __del__(self):
                raise KeyError(CANARY)
        global survivor
        survivor = Lost()  # finalized when the interpreter ends and no hook is left
        Lost()
        thread = threading.Thread(target=lambda: {}[CANARY])
        thread.start()
        thread.join()
        os.write(2, CANARY.encode())  # as native code does
        from tokenizers import NormalizedString
        def panic(letter):
            raise KeyError(CANARY)
        NormalizedString(CANARY).for_each(panic)
        """,
        *debug,
        *("sync", ward),
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert CANARY not in out + err
    errors = [line.split(" in ")[0] for line in err.splitlines() if line.startswith("Error: ")]
    # Python ignores an error in a finalizer, so only --debug shows it.
    finalizer = ["Error: KeyError"] if debug else []
    assert errors == [*finalizer, "Error: KeyError", "Error: PanicException"]
    assert ("pyo3_runtime.PanicException" in err) == bool(debug)


@pytest.mark.parametrize(
    "busy",
    [
        "time.sleep(60)",
        "import duckdb\n"
        "duckdb.sql('SELECT count(*) FROM range(10000000000) WHERE sqrt(range) > 3e9').fetchall()",
    ],
    ids=["in Python", "in DuckDB"],
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_job_with_a_message_of_one_line(ward, tmp_path, busy, number, status):
    script = f"from featurestore import Store\nwith Store({str(ward)!r}).transaction('test'):\n"
    script += "    print('begun', flush=True)\n" + textwrap.indent(busy, "    ")
    process = start_process(tmp_path, script, "sync", ward)
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err == "Error: stopped - the store is unchanged; run the command again to continue\n"
    assert not Store(ward).staging.exists()


def test_a_closed_pipe_is_not_an_error(ward):
    process = subprocess.Popen(
        [*COMMAND, "sql", str(ward), "SELECT range FROM range(100000)", "--limit", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == 1


def test_debug_shows_the_frames_of_a_crash(ward, tmp_path):
    process = start_process(tmp_path, "ctypes.string_at(0)", "--debug", "sync", ward)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in err and "in replaced_sync" in err
