"""What a failure tells: one line, and with --debug where it was; never a value."""

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
from featurestore.cli.redaction import sentence, trace
from featurestore.errors import FeatureStoreError
from tests.hospital import admission, note, write_hospital
from tests.privacy.test_private import COMMAND, ROOT

CANARY = "PHI_CANARY lives alone"


@pytest.fixture
def ward(tmp_path):
    folder = write_hospital(tmp_path / "hospital", [admission(7)], [note(1, 7, "text")])
    return create_store(tmp_path / "ward.duckdb", folder, "mimic3").path


@pytest.fixture
def sync_that(monkeypatch):
    """Puts a function in place of the sync."""

    def put(instead):
        monkeypatch.setattr(featurestore.source.sync, "sync", lambda *_: instead())

    return put


def quoting():
    try:
        raise KeyError(CANARY)
    except KeyError:
        raise ValueError(CANARY) from None


def test_debug_tells_the_chain_of_places_and_kinds_before_the_one_line(ward, sync_that):
    sync_that(quoting)
    result = CliRunner().invoke(main, ["--debug", "sync", str(ward)])
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    kinds = [line for line in told if not line.startswith("  ")]
    assert kinds[:-1] == ["KeyError", "which led to:", "ValueError"]
    assert kinds[-1].startswith("Error: ValueError in test_debug.py, line ")
    assert kinds[-1].endswith(" - please report this")
    frames = [line for line in told if line.startswith("  ")]
    assert frames[0].startswith(f"  {__file__}, line ") and frames[0].endswith(", in quoting")
    assert CANARY not in result.output


def test_without_debug_the_one_line_says_how_to_see_more(ward, sync_that):
    sync_that(quoting)
    result = CliRunner().invoke(main, ["sync", str(ward)])
    (line,) = result.stderr.splitlines()
    assert line.endswith(' - please report this ("featurestore --debug" shows where)')


def test_our_own_sentence_stands_in_the_chain(ward, sync_that):
    def refusing():
        try:
            quoting()
        except ValueError:
            raise FeatureStoreError("no such day - name another") from None

    sync_that(refusing)
    told = CliRunner().invoke(main, ["--debug", "sync", str(ward)]).stderr.splitlines()
    assert "featurestore.errors.FeatureStoreError: no such day - name another" in told
    assert told[-1] == "Error: no such day - name another"
    assert "KeyError" in told and CANARY not in "\n".join(told)


def test_a_group_of_errors_is_told_one_by_one_and_an_endless_one_once():
    def deeper():
        deeper()

    try:
        deeper()
    except RecursionError as error:
        told = trace(ExceptionGroup(CANARY, [error, KeyError(CANARY)])).splitlines()
    assert [line for line in told if not line.startswith("  ")] == [
        *("RecursionError", "which led to:", "KeyError", "which led to:", "ExceptionGroup"),
    ]
    assert sum("deeper" in line for line in told) == 1
    assert any(line.endswith(" times more") for line in told)
    assert len(told) < 10


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, CANARY), "No space left on device - see to it, then run this again"),
        (FileNotFoundError(2, CANARY, CANARY), "No such file or directory - see to it, then"),
        (OSError(CANARY), "OSError in test_debug.py, line "),
        (KeyboardInterrupt(CANARY), "stopped - the store is as it was; run this again to go on"),
        (SystemExit(CANARY), "SystemExit in test_debug.py, line "),
        (GeneratorExit(CANARY), "GeneratorExit in test_debug.py, line "),
    ],
)
def test_an_error_of_the_system_is_told_in_the_systems_words(ward, sync_that, error, said):
    def failing():
        raise error

    sync_that(failing)
    result = CliRunner().invoke(main, ["sync", str(ward)])
    assert result.stderr.startswith(f"Error: {said}")
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
def test_a_file_is_named_if_it_is_there_or_if_the_user_named_it(file, named):
    said = sentence(FileNotFoundError(2, CANARY, file), ["score", "-o", "nowhere/scores.csv"])
    assert said.endswith("No such file or directory - see to it, then run this again")
    assert (said[:2] != "No") == named


def test_a_warning_and_a_log_record_are_told_by_their_place_or_not_at_all(ward, tmp_path):
    script = """
        import logging, warnings
        warnings.warn(CANARY)
        logging.getLogger("library").error("%s", CANARY)
        logging.getLogger("library").warning(CANARY, exc_info=KeyError(CANARY), stack_info=True)
        raise FeatureStoreError("enough")
    """
    _, quiet = in_a_process(tmp_path, script, "sync", ward).communicate(timeout=60)
    assert quiet == "Error: enough\n"
    _, told = in_a_process(tmp_path, script, "--debug", "sync", ward).communicate(timeout=60)
    assert "UserWarning in <string>, line 9\n" in told
    assert told.count("library has something to say in <string>, line ") == 2
    assert CANARY not in told


def in_a_process(tmp_path, script, *arguments):
    """A command of the real program, whose sync is another."""
    ready = f"""
import ctypes, os, sys, threading, time
import featurestore.source.sync
from featurestore.errors import FeatureStoreError
CANARY = {CANARY!r}
def instead(*_):
{textwrap.indent(textwrap.dedent(script), "    ")}
featurestore.source.sync.sync = instead
from featurestore.cli import main
main()
"""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", ready, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_threads_finalizers_and_native_code_quote_nothing(ward, tmp_path, debug):
    process = in_a_process(
        tmp_path,
        """
        class Lost:
            def __del__(self):
                raise KeyError(CANARY)
        global kept
        kept = Lost()  # until the interpreter ends, when nobody is left to tell
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
    assert errors == ["Error: KeyError", "Error: KeyError", "Error: PanicException"]
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
def test_a_signal_ends_a_job_with_one_line(ward, tmp_path, busy, number, status):
    script = f"from featurestore import Store\nwith Store({str(ward)!r}).transaction('test'):\n"
    script += "    print('begun', flush=True)\n" + textwrap.indent(busy, "    ")
    process = in_a_process(tmp_path, script, "sync", ward)
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err == "Error: stopped - the store is as it was; run this again to go on\n"
    assert not Store(ward).staging.exists()


def test_a_reader_that_goes_away_is_no_error(ward):
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


def test_a_crash_tells_its_frames_with_debug(ward, tmp_path):
    process = in_a_process(tmp_path, "ctypes.string_at(0)", "--debug", "sync", ward)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in err and "in instead" in err
