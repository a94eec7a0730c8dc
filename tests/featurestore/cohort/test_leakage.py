"""The audit: every leak that it knows, planted one at a time in a store without any."""

import json

import numpy as np
import pytest

from featurestore import Store, create_store, embed_pending, sync, train
from featurestore.cohort.leakage import audit, read_before
from featurestore.errors import FeatureStoreError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

SPLIT = "patient_split: train to fit, valid to choose the best step"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store in which there is nothing to find, as bytes."""
    folder = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(1)
    stays, notes = [], []
    for patient in range(1, 201):
        alone = rng.random() < 0.5
        stays.append(admission(patient, patient, day(0), day(10)))
        if rng.random() < 0.3 + 0.2 * alone:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        said = ["alone"] * int(alone) + ["home"] * int(rng.integers(0, 3)) + [f"patient{patient}"]
        notes.append(note(patient, patient, " ".join(said)))
    store = create_store(
        folder / "w.duckdb", write_hospital(folder / "hospital", stays, notes), "mimic3"
    )
    sync(store)
    encoder = WordCounter()
    encoder.manifest["checkpoint"] = {"name": "ours", "finetune": {"patients": SPLIT, "base": "b"}}
    embed_pending(store, encoder)
    train(store, "readmit", baseline=False)
    with store.transaction(
        "test"
    ) as transaction:  # chance alone may lift so small a test over the band
        transaction.con.execute(
            "UPDATE scorers SET metrics = $1",
            [json.dumps({"test": {"scorer": {"auroc": [0.7, 0.6, 0.8]}}})],
        )
    return store.path.read_bytes()


@pytest.fixture
def store(template, tmp_path):
    (tmp_path / "w.duckdb").write_bytes(template)
    return Store(tmp_path / "w.duckdb")


def test_nothing_to_find(store):
    assert audit(store) == audit(store, "readmit") == audit(store, "readmit-v1") == []


def manifest(**checkpoint):
    text = json.dumps({"encoder_id": "e-1", "checkpoint": checkpoint})
    return f"UPDATE encoders SET manifest = '{text}'"


@pytest.mark.parametrize(
    ("leak", "finding"),
    [
        (
            "UPDATE scorer_admissions SET split = 'test' WHERE hadm_id = 1; "
            "INSERT INTO admissions SELECT * REPLACE (9999 AS hadm_id) FROM admissions "
            "WHERE hadm_id = 1; "
            "INSERT INTO scorer_admissions BY NAME "
            "SELECT 'readmit-v1' AS scorer_id, 9999 AS hadm_id, 'train' AS split, FALSE AS label",
            "readmit-v1: 1 patients are on both sides of its split",
        ),
        (
            "UPDATE notes SET text_hash = 'x' WHERE note_id IN ('1', '2', '3', '4', '5', '6', '7', "
            "'8', '9', '10', '11', '12', '13', '14', '15', '16', '17', '18', '19', '20')",
            "1 texts stand in notes of patients on both sides of the split",
        ),
        (
            "UPDATE notes SET available_at = available_at + INTERVAL 9 DAYS WHERE note_id = '5'",
            "readmit-v1: the means of 1 of its admissions are not those of the notes known",
        ),
        (
            "UPDATE notes SET time_basis = 'date' WHERE note_id IN ('5', '6')",
            "2 notes have a date and no time, and count as known when that day is over",
        ),
        (
            "UPDATE notes SET status = 'excluded', reason = 'flagged as an error' "
            "WHERE note_id = '5'",
            "1 notes that are excluded still have vectors - run featurestore embed",
        ),
        (
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-25'",
            "of its labels are not mature: the horizon is still running",
        ),
        (
            "UPDATE scorer_admissions SET label = NOT label WHERE hadm_id = 5",
            "readmit-v1: 1 of its labels are not what the rule says now - train it again",
        ),
        (
            """UPDATE scorers SET metrics = '{"test": {"scorer": {"auroc": [0.91, 0.9, 0.92]}}}'""",
            "its test AUROC of 0.910 is above 0.75, more than the literature reaches at 72h",
        ),
        (
            manifest(name="ours"),
            "on which patients e-1 was fine-tuned is not known",
        ),
        (
            manifest(name="ours", finetune={"patients": "train.csv"}),
            "e-1 was fine-tuned on patients who were not split as the scorer's are",
        ),
        (
            manifest(
                name="ours", finetune={"patients": SPLIT, "base": "emilyalsentzer/Bio_ClinicalBERT"}
            ),
            "e-1 comes from a model pretrained on MIMIC's notes and is tested on MIMIC",
        ),
    ],
)
def test_a_planted_leak_is_found(store, leak, finding):
    with store.transaction("test") as transaction:
        transaction.con.execute(leak)
    found = audit(store)
    assert any(finding in sentence and " - " in sentence for sentence in found), found
    assert any(finding in sentence for sentence in audit(store, "readmit"))


BY_HUB_NAME = {"finetune": {"base": "emilyalsentzer/Bio_ClinicalBERT"}}


@pytest.mark.parametrize(
    ("schema", "checkpoint", "expected"),
    [
        pytest.param("mimic3", BY_HUB_NAME, True, id="the very notes"),
        pytest.param("mimic4", BY_HUB_NAME, True, id="the same hospital"),
        pytest.param("/ours/mimic3", BY_HUB_NAME, True, id="the very notes, by our own SELECTs"),
        pytest.param("our-hospital", BY_HUB_NAME, False, id="other notes"),
        pytest.param("mimic3", {"name": "Bio_ClinicalBERT"}, True, id="a folder, not fine-tuned"),
        pytest.param("mimic3", {"name": "Clinical-Longformer"}, True, id="a longer model"),
        pytest.param("mimic3", {"name": "bluebert_pubmed_mimic"}, True, id="a bluer model"),
        pytest.param("mimic3", {"name": "bert-base-uncased"}, False, id="a model of no hospital"),
        pytest.param("mimic3", None, False, id="a model of no known checkpoint"),
    ],
)
def test_who_has_read_the_notes_before(schema, checkpoint, expected):
    assert read_before({"name": "ours", "checkpoint": checkpoint}, schema) is expected


def test_an_unknown_scorer(store):
    with pytest.raises(FeatureStoreError, match="holds no scorer nobody"):
        audit(store, "nobody")


def test_the_command_exits_1_on_a_finding(store):
    from click.testing import CliRunner

    from featurestore.cli.group import main

    clean = CliRunner().invoke(main, ["audit", str(store.path)])
    assert (clean.exit_code, clean.stdout) == (0, "nothing found\n")
    with store.transaction("test") as transaction:
        transaction.con.execute("UPDATE notes SET time_basis = 'date'")
    found = CliRunner().invoke(main, ["audit", str(store.path), "readmit"])
    assert found.exit_code == 1
    assert found.stdout.startswith("- 200 notes have a date and no time")
