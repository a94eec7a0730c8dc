"""What `--json` prints has the shape that docs/cli.md shows, in a live hospital with a history.

tests/test_docs.py runs the examples of that page; here are the keys that those leave empty.
"""

import json
from datetime import datetime, timedelta

import click
import numpy as np
import pytest
from click.testing import CliRunner

from featurestore import Store, create_store, embed_pending, nightly, sync
from featurestore.cli.group import main
from featurestore.query.output import to_json
from tests.conftest import WordCounter
from tests.featurestore.cli.json_shapes import EXAMPLES, check_json, schema_of
from tests.hospital import admission, note, write_hospital

FIRST_DAY = datetime(2026, 1, 5)
PATIENTS = 500

pytestmark = pytest.mark.slow


def write_ward(folder, patients, seed):
    """Write a hospital in which those who live alone return more often."""
    rng = np.random.default_rng(seed)
    stays, notes = [], []
    for number in range(1, patients + 1):
        admitted = FIRST_DAY + timedelta(hours=6 * number)
        alone = int(rng.integers(0, 3))
        words = ["home"] * int(rng.integers(1, 4)) + ["alone"] * alone
        stays.append(admission(number, number, admitted, admitted + timedelta(days=4)))
        notes.append(note(number, number, " ".join(words), admitted, subject_id=number))
        if rng.random() < 0.1 + 0.2 * alone:
            back = admitted + timedelta(days=20)
            stays.append(admission(10_000 + number, number, back, back + timedelta(days=1)))
    return write_hospital(folder / "hospital", stays, notes)


def run_json(line, *, code=0):
    result = CliRunner().invoke(main, line.split()[1:])
    assert result.exit_code == code, (line, result.output)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """A folder with two live stores, a scorer with covariates and turns, its scores and a night."""
    folder = tmp_path_factory.mktemp("json")
    for name, seed in (("other", 1), ("ward", 0)):
        (folder / name).mkdir()
        hospital = write_ward(folder / name, PATIENTS, seed)
        store = create_store(folder / f"{name}.duckdb", hospital, "mimic3", live=True)
        sync(store)
        embed_pending(store, WordCounter())
    line = f"featurestore train {store.path} readmit --covariates demographics --turns"
    trained = run_json(f"{line} --aggregate mean --no-baseline --json")
    run_json(f"featurestore score {store.path} readmit --json")
    write_ward(folder / "ward", PATIENTS + 60, seed=0)
    return folder, trained, nightly(store, WordCounter(), "readmit")


def test_training_with_covariates_and_turns(ward):
    _, trained, _ = ward
    check_json(trained, schema_of("train"))
    assert trained["covariates"] and trained["turns"] and trained["stays_per_day"]


def test_a_night_with_new_notes(ward):
    _, _, night = ward
    check_json(to_json(night), schema_of("nightly"))
    assert night["monitoring"]["log_odds"] and night["monitoring"]["scores"]
    assert night["admissions"]["new"] >= 60


@pytest.mark.parametrize(
    "line",
    [
        "sync W",
        "task list W",
        "labels W --cutoff discharge",
        "audit W",
        "scorers W",
        "evaluate W readmit",
        "evaluate W readmit --from O",
        "compare W readmit covariates_alone --threshold 0.3",
        "score W readmit --hadm-id 7 --hadm-id 3",
        "explain W 7",
        "similar W 7 -n 3",
        "outcomes W readmit",
        "report W readmit -o R",
        "info W",
        "verify W",
        "forget W 9",
    ],
)
def test_a_command_prints_the_shape_of_its_page(ward, line):
    folder, _, _ = ward
    files = {"W": folder / "ward.duckdb", "O": folder / "other.duckdb", "R": folder / "r.html"}
    words = [str(files.get(word, word)) for word in line.split()]
    printed = run_json(" ".join(["featurestore", *words, "--json"]))
    name = " ".join(words[:2]) if words[0] == "task" else words[0]
    check_json(printed, schema_of(name))


def test_score_returns_the_scores_of_the_admissions_that_are_asked_for(ward):
    folder, _, _ = ward
    line = f"featurestore score {folder / 'ward.duckdb'} readmit --hadm-id 7 --hadm-id 3 --json"
    scores = run_json(line)["scores"]
    assert [row["hadm_id"] for row in scores] == [7, 3]
    recorded = Store(folder / "ward.duckdb").sql(
        "SELECT max_by(probability, run_id) FROM scores WHERE hadm_id IN (7, 3) GROUP BY hadm_id "
        "ORDER BY hadm_id DESC"
    )
    assert [(row["probability"],) for row in scores] == recorded.fetchall()


def test_a_store_with_findings_prints_them_and_fails(ward, tmp_path):
    folder, _, _ = ward
    path = tmp_path / "ward.duckdb"
    path.write_bytes((folder / "ward.duckdb").read_bytes())
    path.chmod(0o644)
    printed = run_json(f"featurestore verify {path} --json", code=1)
    check_json(printed, schema_of("verify"))
    assert printed["findings"]


def test_every_command_with_json_has_its_shape_in_the_page():
    def commands(group, name):
        for child in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), child)
            if isinstance(command, click.Group):
                yield from commands(command, f"{name} {child}")
            elif any(parameter.name == "as_json" for parameter in command.params):
                yield f"{name} {child}"

    shown = [line for line in EXAMPLES if "--json" in line]
    for name in commands(main, "featurestore"):
        assert any(line.startswith(f"{name} ") for line in shown), name
