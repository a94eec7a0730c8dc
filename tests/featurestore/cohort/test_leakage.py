"""The leakage audit: each leak that it checks for, planted alone in a store without any."""

import json

import numpy as np
import pytest

from featurestore import Store, create_store, embed_pending, sync, train
from featurestore.cohort.leakage import audit, pretrained_on_source
from featurestore.errors import UnknownNameError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

SPLIT = "patient_split: train to fit, valid to choose the best step"
MIMIC_BASE = "emilyalsentzer/Bio_ClinicalBERT"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The bytes of a store without findings."""
    folder = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(1)
    stays, notes = [], []
    for patient in range(1, 201):
        lives_alone = rng.random() < 0.5
        stays.append(admission(patient, patient, day(0), day(10)))
        if rng.random() < 0.3 + 0.2 * lives_alone:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        words = ["alone"] * int(lives_alone) + ["home"] * int(rng.integers(0, 3))
        notes.append(note(patient, patient, " ".join([*words, f"patient{patient}"])))
    store = create_store(
        folder / "w.duckdb", write_hospital(folder / "hospital", stays, notes), "mimic3"
    )
    sync(store)
    encoder = WordCounter()
    encoder.manifest["checkpoint"] = {"name": "ours", "finetune": {"patients": SPLIT, "base": "b"}}
    embed_pending(store, encoder)
    train(store, "readmit", baseline=False)
    # On so few test patients, chance may lift the AUROC above the plausible range.
    with store.transaction("test") as transaction:
        transaction.con.execute(
            "UPDATE scorers SET metrics = $1",
            [json.dumps({"test": {"scorer": {"auroc": [0.7, 0.6, 0.8]}}})],
        )
    return store.path.read_bytes()


@pytest.fixture
def store(template, tmp_path):
    (tmp_path / "w.duckdb").write_bytes(template)
    return Store(tmp_path / "w.duckdb")


def test_a_store_without_leaks_has_no_findings(store):
    assert audit(store) == audit(store, "readmit") == audit(store, "readmit-v1") == []


def manifest(**checkpoint):
    text = json.dumps({"name": "counter", "checkpoint": checkpoint})
    return f"UPDATE encoders SET manifest = '{text}'"


@pytest.mark.parametrize(
    ("leak", "finding"),
    [
        (
            "UPDATE scorer_admissions SET split = 'test' WHERE hadm_id = 1; "
            "INSERT INTO admissions SELECT * REPLACE (9999 AS hadm_id) FROM admissions "
            "WHERE hadm_id = 1; "
            "INSERT INTO scorer_admissions BY NAME "
            "SELECT 'readmit-v1' AS scorer_id, 9999 AS hadm_id, 'train' AS split, FALSE AS label, "
            "1 AS subject_id",
            "readmit-v1: 1 patients are in several of its splits - train it again",
        ),
        (
            "UPDATE notes SET text_hash = 'x' WHERE note_id IN ('1', '2', '3', '4', '5', '6', '7', "
            "'8', '9', '10', '11', '12', '13', '14', '15', '16', '17', '18', '19', '20')",
            "1 identical texts are in notes of patients in different splits",
        ),
        (
            "UPDATE notes SET available_at = available_at + INTERVAL 9 DAYS WHERE note_id = '5'",
            "readmit-v1: the embeddings of 1 of its admissions are not the means of the notes",
        ),
        (
            "UPDATE notes SET time_basis = 'date' WHERE note_id IN ('5', '6')",
            "2 notes have a date but no time, so they count as known from the next day",
        ),
        (
            "UPDATE notes SET status = 'excluded', reason = 'flagged as an error' "
            "WHERE note_id = '5'",
            "1 excluded notes still have vectors - run featurestore embed",
        ),
        (
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-25'",
            "of its labels are immature, as their horizon is not over",
        ),
        (
            "UPDATE scorer_admissions SET label = NOT label WHERE hadm_id = 5",
            "readmit-v1: 1 of its labels differ from what the rule gives now - train it again",
        ),
        (
            """UPDATE scorers SET metrics = '{"test": {"scorer": {"auroc": [0.91, 0.9, 0.92]}}}'""",
            "its test AUROC of 0.910 is above 0.75, more than published models reach at 72h",
        ),
        (
            manifest(name="ours"),
            "the patients on which counter-00000000 was fine-tuned are unknown",
        ),
        (
            manifest(name="ours", finetune={"patients": "train.csv"}),
            "counter-00000000 was fine-tuned on patients with another split than the scorer's",
        ),
        (
            manifest(name="ours", finetune={"patients": SPLIT, "base": MIMIC_BASE}),
            "is based on a model pretrained on MIMIC's notes and is evaluated on MIMIC",
        ),
        (
            "DELETE FROM encoders",
            "readmit-v1: its encoder counter-00000000 was dropped, so it can score nothing",
        ),
    ],
    ids=[
        "a patient in two splits",
        "the same text in two splits",
        "a note from after the prediction time",
        "notes without a time",
        "an excluded note with vectors",
        "immature labels",
        "a label that the rule no longer gives",
        "an implausible AUROC",
        "unknown fine-tuning patients",
        "another split of the fine-tuning patients",
        "an encoder pretrained on the source's notes",
        "an encoder that was dropped",
    ],
)
def test_a_planted_leak_is_reported(store, leak, finding):
    with store.transaction("test") as transaction:
        transaction.con.execute(leak)
    findings = audit(store)
    assert any(finding in sentence and " - " in sentence for sentence in findings), findings
    assert any(finding in sentence for sentence in audit(store, "readmit"))


ON_MIMIC = {"finetune": {"base": MIMIC_BASE}}


@pytest.mark.parametrize(
    ("schema", "checkpoint", "expected"),
    [
        pytest.param("mimic3", ON_MIMIC, True, id="MIMIC-III"),
        pytest.param("mimic4", ON_MIMIC, True, id="MIMIC-IV, of the same hospital"),
        pytest.param("/ours/mimic3", ON_MIMIC, True, id="MIMIC-III with another schema"),
        pytest.param("our-hospital", ON_MIMIC, False, id="notes of another hospital"),
        pytest.param("mimic3", {"name": "Bio_ClinicalBERT"}, True, id="a local checkpoint"),
        pytest.param("mimic3", {"name": "Clinical-Longformer"}, True, id="Clinical-Longformer"),
        pytest.param("mimic3", {"name": "bluebert_pubmed_mimic"}, True, id="BlueBERT"),
        pytest.param("mimic3", {"name": "bert-base-uncased"}, False, id="a general model"),
        pytest.param("mimic3", None, False, id="an unknown checkpoint"),
    ],
)
def test_an_encoder_pretrained_on_the_source_is_recognised(schema, checkpoint, expected):
    assert pretrained_on_source({"name": "ours", "checkpoint": checkpoint}, schema) is expected


def test_an_unknown_scorer_is_named(store):
    with pytest.raises(UnknownNameError, match="has no scorer nobody"):
        audit(store, "nobody")


def test_the_command_exits_1_on_a_finding(store):
    from click.testing import CliRunner

    from featurestore.cli import main

    clean = CliRunner().invoke(main, ["audit", str(store.path)])
    assert (clean.exit_code, clean.stdout) == (0, "no findings\n")
    with store.transaction("test") as transaction:
        transaction.con.execute("UPDATE notes SET time_basis = 'date'")
    leaking = CliRunner().invoke(main, ["audit", str(store.path), "readmit"])
    assert leaking.exit_code == 1
    assert leaking.stdout.startswith("- 200 notes have a date but no time")
