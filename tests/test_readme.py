"""The README cannot lie: what it shows is run, on a small hospital and a small BERT."""

import base64
import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from featurestore import Store, create_store, sync, write_hospital
from featurestore.cli.group import main

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def blocks(language):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    return [block for written_in, block in fenced if written_in == language]


@pytest.fixture
def folder(tmp_path, monkeypatch, checkpoint):
    """A folder with what the README speaks of: a hospital, and something to start from."""
    monkeypatch.chdir(tmp_path)
    write_hospital("mimic-iii", patients=60)
    (tmp_path / "emilyalsentzer").mkdir()
    (tmp_path / "emilyalsentzer" / "Bio_ClinicalBERT").symlink_to(checkpoint)
    return tmp_path


def test_the_walk_through_and_the_five_lines_of_python(folder, capfd):
    (walk,) = (block for block in blocks("sh") if block.startswith("featurestore init"))
    commands = [shlex.split(line, comments=True) for line in walk.splitlines()]
    assert [words[1] for words in commands] == [
        *("init", "sync", "labels", "finetune", "export", "embed", "train", "score", "report"),
        "sql",
    ]
    for program, *arguments in commands:
        assert program == "featurestore"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert "readmit-72h-v1" in result.output
    assert len((folder / "scores.csv").read_text().splitlines()) > 20

    (nights,) = (block for block in blocks("sh") if "featurestore nightly" in block)
    for _, *arguments in map(shlex.split, nights.splitlines()):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert "CPUExecutionProvider" in result.output

    (story,) = (block for block in blocks("sh") if "featurestore outcomes" in block)
    hadm_id, run_id = Store("ward.duckdb").one("SELECT min(hadm_id), min(run_id) FROM scores")
    (folder / "demo").mkdir()
    for _, command, _, *arguments in map(shlex.split, story.splitlines()):
        arguments = [{"106520": str(hadm_id), "5": str(run_id)}.get(a, a) for a in arguments]
        result = CliRunner().invoke(main, [command, "ward.duckdb", *arguments])
        assert result.exit_code == 0, (command, arguments, result.output)
    assert (folder / "demo" / "report.html").is_file()

    (python,) = blocks("python")
    assert len([line for line in python.splitlines() if line]) == 6
    exec(compile(python, "README.md", "exec"), {})
    assert "probability" in capfd.readouterr().out


def test_an_encrypted_store_and_whether_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_hospital("mimic-iii", patients=5)
    (block,) = (block for block in blocks("sh") if "--encrypt" in block)
    key, name_it, init = block.splitlines()
    assert key.startswith("(umask 077; openssl rand") and name_it.startswith(
        "export FEATURESTORE_KEY_FILE="
    )
    (tmp_path / "ward.key").write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    (tmp_path / "ward.key").chmod(0o600)
    monkeypatch.setenv("FEATURESTORE_KEY_FILE", str(tmp_path / "ward.key"))
    (whole,) = (block for block in blocks("sh") if "featurestore verify" in block)
    for line in (init, *whole.splitlines()):
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    assert Store("ward.duckdb").is_encrypted()
    assert re.search(rf"0 +init +{os.getuid()} ", result.stdout)


def test_the_tests_of_the_promises_are_there():
    tests = Path(__file__).resolve().parent.rglob("test_*.py")
    there = set(re.findall(r"^def (test_\w+)", "\n".join(map(Path.read_text, tests)), re.M))
    page = README[README.index("## What we promise") : README.index("### An encrypted store")]
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    for row in rows:
        cited = re.findall(r"`(test_\w+)`", row)
        assert cited and set(cited) <= there, row


def test_the_labels_it_shows_are_those_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_hospital("hospital", patients=1_000)
    for command in ("init demo.duckdb --source hospital --schema mimic3", "sync demo.duckdb"):
        assert CliRunner().invoke(main, command.split()).exit_code == 0
    shown = [block.partition("\n") for block in blocks("console")]
    assert len(shown) == 3
    for command, _, output in shown:
        words = command.replace("demo/ward.duckdb", "demo.duckdb").split()
        assert words[:2] == ["$", "featurestore"]
        assert CliRunner().invoke(main, words[2:]).stdout == output


def test_a_hospital_with_tables_of_its_own(tmp_path):
    files = dict(re.match(r"-- (\S+)\n(.*)", block, re.S).groups() for block in blocks("sql"))
    assert sorted(files) == ["our-hospital/admissions.sql", "our-hospital/notes.sql"]
    (tmp_path / "our-hospital").mkdir()
    for name, select in files.items():
        (tmp_path / name).write_text(select)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "stays.csv").write_text(
        "stay,patient,arrived,left_at,died_at,urgency,destination,died_on,born,sex,payer\n"
        "7,1,2020-01-01 08:00,2020-01-05 12:00,,acute,HOME,,1950-06-01,F,public\n"
        "8,1,2020-01-09 08:00,2020-01-10 12:00,,elective,HOME,,1950-06-01,F,public\n"
    )
    (tmp_path / "source" / "documents.csv").write_text(
        "id,patient,stay,kind,written,signed,status,body\n"
        "a,1,7,Nursing,2020-01-02 10:00,2020-01-02 11:00,final,lives alone\n"
        "b,1,7,Nursing,2020-01-02 10:00,,withdrawn,wrong patient\n"
    )
    store = create_store(tmp_path / "w.duckdb", tmp_path / "source", tmp_path / "our-hospital")
    sync(store)
    assert store.sql(
        "SELECT hadm_id, label, reason FROM readmission_labels() ORDER BY 1"
    ).fetchall() == [
        (7, False, "planned return"),
        (8, False, None),
    ]
    assert store.sql("SELECT note_id, status FROM notes ORDER BY 1").fetchall() == [
        ("a", "ready"),
        ("b", "excluded"),
    ]


def test_the_front_page_says_the_two_commands():
    front = README[: README.index("\n## ")]
    assert re.findall(r"^make \w+", front, re.M) == ["make demo", "make test"]


def test_every_file_of_the_map_is_there():
    root = Path(__file__).resolve().parent.parent
    (tree,) = (block for block in blocks("") if block.startswith("featurestore/"))
    folder = root
    for line in tree.splitlines():
        if not line.startswith(" "):
            folder = root / line.split()[0]
            assert folder.is_dir()
        else:
            for name in re.findall(r"\w+\.py", line):
                assert (folder / name).is_file(), name
    for link in re.findall(r"\]\(([^):#]+)\)", README):
        assert (root / link).exists(), link
