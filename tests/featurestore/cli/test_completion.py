"""What a shell completes after TAB."""

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from featurestore import create_store
from featurestore.cli import main
from tests.hospital import admission, note, write_hospital


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with an encoder, two versions of a scorer, and the scores of three stays."""
    folder = tmp_path_factory.mktemp("completion")
    hospital = write_hospital(folder / "hospital", [admission(4)], [note(1, 4, "home")])
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    with store.transaction("test") as transaction:
        transaction.con.execute(
            "INSERT INTO encoders "
            "VALUES ('counter-00000000', 'counter', '', 1, 'fp32', 6, 0, '{}', TRUE, NULL)"
        )
        transaction.con.execute(
            "INSERT INTO scorers SELECT 'readmit-v' || version, 'readmit', version, "
            "'counter-00000000', '72h', 'readmission', 30, [0], 0, '{}', '', now(), 'mean', "
            "1, 0, 0, 1, '', '', '', NULL, NULL FROM range(1, 3) AS t(version)"
        )
        transaction.con.execute(
            "INSERT INTO scores SELECT 'readmit-v2', unnest([4, 41, 42]), 1, 0.5, now(), "
            "now(), 0, 7"
        )
    return store


def complete(line, begun, store=None):
    arguments = [str(store.path) if word == "STORE" else word for word in line.split()]
    shell = ShellComplete(main, {}, "featurestore", "_FEATURESTORE_COMPLETE")
    return [item.value for item in shell.get_completions(arguments, begun)]


VERSIONS = ["readmit", "readmit-v1", "readmit-v2"]


@pytest.mark.parametrize(
    ("line", "begun", "values"),
    [
        ("score STORE", "re", VERSIONS),
        ("score STORE", "readmit-v2", ["readmit-v2"]),
        ("score STORE", "nobody", []),
        ("audit STORE", "", VERSIONS),
        ("compare STORE readmit-v1", "r", VERSIONS),
        ("explain STORE 4 --scorer", "r", VERSIONS),
        ("explain STORE", "4", ["4", "41", "42"]),
        ("similar STORE", "5", []),
        ("score STORE readmit --hadm-id", "42", ["42"]),
        ("promote STORE", "", ["counter-00000000"]),
        ("train STORE new --encoder", "c", ["counter-00000000"]),
    ],
)
def test_names_and_ids_of_the_store_are_completed(line, begun, values, store):
    assert complete(line, begun, store) == values


def test_built_in_schemas_are_completed():
    assert complete("init new.duckdb --schema", "o") == ["omop", "omop53"]


@pytest.mark.parametrize("content", [None, b"not a store"], ids=["missing", "damaged"])
def test_a_store_that_cannot_be_read_completes_nothing(content, tmp_path, capfd):
    if content:
        (tmp_path / "w.duckdb").write_bytes(content)
    assert complete(f"score {tmp_path / 'w.duckdb'}", "r") == []
    assert capfd.readouterr() == ("", "")


def test_the_shell_gets_the_names_of_scorers(store):
    result = subprocess.run(
        [sys.executable, "-c", "from featurestore.cli import main; main(prog_name='featurestore')"],
        env=os.environ
        | {
            "_FEATURESTORE_COMPLETE": "bash_complete",
            "COMP_WORDS": f"featurestore score {store.path} r",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [f"plain,{value}" for value in VERSIONS]
