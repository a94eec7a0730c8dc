"""The leakage audit: each leak that it checks for, planted alone in a store without any."""

import json
import os
import pwd
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from featurestore import (
    Store,
    accept_finding,
    audit,
    create_store,
    embed_pending,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.cohort.caveats import _OF_SCHEMA, _OF_TASK, caveats
from featurestore.cohort.leakage import SEVERITY_OF, pretrained_on_source
from featurestore.errors import UnknownNameError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import edited
from tests.timeline import day

PAGE = Path(__file__).resolve().parents[3] / "docs" / "scorers.md"
SCORER = (
    "SELECT 'leave-v1' AS scorer_id, 'leave' AS name, 1 AS version, 'gone' AS encoder_id, "
    "'72h' AS cutoff, 'readmission' AS label_rule, 30 AS horizon_days, "
    "CAST(list_value(0) || repeat([0], 767) AS DOUBLE[768]) AS coef, 0 AS intercept, "
    "$1 AS metrics, '' AS training_hash, now()::TIMESTAMP AS created_at, 'mean' AS aggregate, "
    "1 AS calibration_slope, 0 AS calibration_intercept, "
    "0.01 AS min_probability, 0.99 AS max_probability, '' AS coef_hash, "
    "task_select('readmission', 30) AS task_sql, '' AS task_hash"
)
# A note that is not embedded yet, and that no prediction may use.
LATE_NOTE = (
    "INSERT INTO notes SELECT * REPLACE ('late' AS note_id, md5('late') AS text_hash, "
    "available_at + INTERVAL 9 DAYS AS available_at) FROM notes WHERE note_id = '6'"
)
SPLIT = "patient_split: train to fit, valid to choose the best step"
MIMIC_BASE = "emilyalsentzer/Bio_ClinicalBERT"


def metrics(*auroc):
    """The metrics of a scorer with this test AUROC."""
    return json.dumps({"test": {"scorer": {"auroc": auroc}}, "outcome": "returned"})


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The bytes of a store without findings but the caveats of MIMIC-III and of the rule."""
    folder = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(1)
    stays, notes = [], []
    for patient in range(1, 201):
        lives_alone = rng.random() < 0.5
        kind = "ELECTIVE" if patient % 10 == 0 else "EMERGENCY"
        stays.append(admission(patient, patient, day(0), day(10), admission_type=kind))
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
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE scorers SET metrics = $1",
            [metrics(0.7, 0.6, 0.8)],
        )
    return store.path.read_bytes()


@pytest.fixture
def store(template, tmp_path):
    (tmp_path / "w.duckdb").touch(mode=0o600)
    (tmp_path / "w.duckdb").write_bytes(template)
    return Store(tmp_path / "w.duckdb")


def execute(store, sql, *parameters):
    with edited(store) as transaction:
        transaction.con.execute(sql, list(parameters) or None)


def leaks(store, scorer=None):
    """The findings but the caveats, as (severity, code, scorer_id, count)."""
    known = caveats(store, "readmission")
    return [
        (finding.severity, finding.code, finding.scorer_id, finding.count)
        for finding in audit(store, scorer)
        if finding.code not in known
    ]


def test_a_store_without_leaks_has_only_the_caveats_of_its_schema_and_rule(store):
    assert leaks(store) == leaks(store, "readmit") == leaks(store, "readmit-v1") == []
    notes = {finding.code: finding for finding in audit(store)}
    assert {*notes} == {
        *("mimic3-cohort", "same-day-returns", "planned-by-admission-type"),
        "no-excluded-diagnoses",
    }
    assert {(n.severity, n.scorer_id, n.count, n.accepted) for n in notes.values()} == {
        ("note", None, None, None)
    }


def manifest(**checkpoint):
    text = json.dumps({"name": "counter", "checkpoint": checkpoint})
    return f"UPDATE encoders SET manifest = '{text}'"


@pytest.mark.parametrize(
    ("leak", "severity", "code", "finding"),
    [
        pytest.param(
            "UPDATE scorer_admissions SET split = 'test' WHERE hadm_id = 1; "
            "INSERT INTO admissions SELECT * REPLACE (9999 AS hadm_id) FROM admissions "
            "WHERE hadm_id = 1; "
            "INSERT INTO scorer_admissions BY NAME "
            "SELECT 'readmit-v1' AS scorer_id, 9999 AS hadm_id, 'train' AS split, FALSE AS label, "
            "1 AS subject_id",
            *("error", "patients-in-several-splits"),
            "1 patients are in several of its splits - train it again",
            id="a patient in two splits",
        ),
        pytest.param(
            "UPDATE notes SET text_hash = 'x' WHERE CAST(note_id AS INTEGER) <= 20; "
            "UPDATE embeddings SET text_hash = 'x' WHERE CAST(note_id AS INTEGER) <= 20",
            *("warning", "texts-in-several-splits"),
            "1 identical texts are in notes of patients in different splits",
            id="the same text in two splits",
        ),
        pytest.param(
            "UPDATE notes SET available_at = available_at + INTERVAL 9 DAYS WHERE note_id = '5'",
            *("error", "outdated-admission-embeddings"),
            "the embeddings of 1 of its admissions are not the means of the notes",
            id="a note from after the prediction time",
        ),
        pytest.param(
            "UPDATE notes SET time_basis = 'date' WHERE note_id IN ('5', '6')",
            *("note", "notes-without-time"),
            "2 notes have a date but no time, so they count as known from the next day",
            id="notes without a time",
        ),
        pytest.param(
            "UPDATE notes SET time_basis = 'charttime' WHERE note_id IN ('5', '6', '7'); "
            "UPDATE notes SET category = 'Radiology' WHERE note_id IN ('6', '7', '8')",
            *("note", "radiology-exam-time"),
            "2 radiology reports have no storetime and count as known at their charttime",
            id="radiology reports that count as known at the exam",
        ),
        pytest.param(
            "UPDATE notes SET status = 'excluded', reason = 'flagged as an error' "
            "WHERE note_id = '5'",
            *("error", "excluded-notes-with-vectors"),
            "1 excluded notes still have vectors - run featurestore embed",
            id="an excluded note with vectors",
        ),
        pytest.param(
            "DELETE FROM embeddings WHERE note_id IN ('5', '6', '7')",
            *("warning", "pending-notes"),
            "3 of 200 ready notes are not embedded by counter-00000000 - ",
            id="notes without a vector",
        ),
        pytest.param(
            "UPDATE scorer_admissions SET label = NOT label WHERE hadm_id = 5",
            *("error", "changed-labels"),
            "1 of its labels differ from what the rule gives now - train it again",
            id="a label that the rule no longer gives",
        ),
        pytest.param(
            """UPDATE scorers SET metrics = '{"test": {"scorer": {"auroc": [0.91, 0.8, 0.95]}}}'""",
            *("warning", "implausible-auroc"),
            "the interval of its test AUROC, 0.910 (0.800 to 0.950), lies above 0.75, more than",
            id="an implausible AUROC",
        ),
        pytest.param(
            manifest(name="ours"),
            *("warning", "unknown-finetuning-patients"),
            "the patients on which counter-00000000 was fine-tuned are unknown",
            id="unknown fine-tuning patients",
        ),
        pytest.param(
            manifest(name="ours", finetune={"patients": "train.csv"}),
            *("error", "other-finetuning-split"),
            "counter-00000000 was fine-tuned on patients with another split than the scorer's",
            id="another split of the fine-tuning patients",
        ),
        pytest.param(
            manifest(name="ours", finetune={"patients": SPLIT, "base": MIMIC_BASE}),
            *("warning", "pretrained-on-source"),
            "is based on a model pretrained on MIMIC's notes and is evaluated on MIMIC",
            id="an encoder pretrained on the source's notes",
        ),
        pytest.param(
            "UPDATE admissions SET planned = FALSE",
            *("warning", "no-planned-stays"),
            "stays is planned, so a planned return counts as a readmission",
            id="no planned stay",
        ),
        pytest.param(
            "DELETE FROM encoders",
            *("error", "dropped-encoder"),
            "its encoder counter-00000000 was dropped, so it can score nothing",
            id="an encoder that was dropped",
        ),
    ],
)
def test_a_planted_leak_is_reported(store, leak, severity, code, finding):
    execute(store, leak)
    for findings in (audit(store), audit(store, "readmit")):
        (only,) = [f for f in findings if f.code == code]
        assert finding in only.message and " - " in only.message
        assert (only.severity, only.accepted) == (severity, None)
        assert only.count is None or f"{only.count} " in only.message


def test_the_page_lists_every_code_with_its_severity():
    rows = re.findall(r"^\| (error|warning|note) \| (.+?) \|", PAGE.read_text(), re.M)
    codes = {code: severity for severity, cell in rows for code in re.findall(r"`(\S+)`", cell)}
    of_caveats = [*_OF_SCHEMA.values(), *_OF_TASK.values()]
    assert codes == SEVERITY_OF | {code: "note" for caveat in of_caveats for code in caveat}


def test_immature_labels_are_an_error_early_returns_included(store):
    execute(store, "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-25'")
    rows, returned = store.one("SELECT count(*), count(*) FILTER (label) FROM scorer_admissions")
    assert returned > 0
    assert leaks(store) == [("error", "immature-labels", "readmit-v1", rows)]


def test_a_test_stay_without_a_label_is_changed_only_if_the_rule_now_gives_it_one(store):
    # Two patients had died in hospital when the scorer was trained. One of them, the source says
    # later, went home.
    two_stays = (
        "CREATE TEMP TABLE two_stays AS SELECT hadm_id FROM scorer_admissions "
        "WHERE split = 'test' ORDER BY hadm_id LIMIT 2; "
    )
    execute(
        store,
        f"{two_stays}UPDATE scorer_admissions SET label = NULL, reason = 'died in hospital' "
        "WHERE hadm_id IN (FROM two_stays); "
        "UPDATE admissions SET died_in_hospital = TRUE WHERE hadm_id IN (FROM two_stays)",
    )
    assert leaks(store) == []
    execute(
        store,
        f"{two_stays}UPDATE admissions SET died_in_hospital = FALSE "
        "WHERE hadm_id IN (SELECT min(hadm_id) FROM two_stays)",
    )
    assert leaks(store) == [("error", "changed-labels", "readmit-v1", 1)]
    # In a live hospital nothing that is not mature counts as changed, and no stay without a label
    # as immature.
    execute(store, "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-25'")
    (n_labels,) = store.one("SELECT count(label) FROM scorer_admissions")
    assert leaks(store) == [("error", "immature-labels", "readmit-v1", n_labels)]


def test_an_auroc_is_compared_by_the_lower_end_of_its_interval(store):
    execute(store, "UPDATE scorers SET metrics = $1", metrics(0.91, 0.74, 0.97))
    assert leaks(store) == []
    execute(store, "UPDATE scorers SET metrics = $1", metrics(0.91, 0.76, 0.97))
    assert leaks(store) == [("warning", "implausible-auroc", "readmit-v1", None)]


def test_errors_come_first_then_warnings_then_notes(store):
    execute(
        store,
        "UPDATE notes SET time_basis = 'date' WHERE note_id = '5'; "
        "UPDATE scorer_admissions SET label = NOT label WHERE hadm_id = 7; " + LATE_NOTE,
    )
    assert leaks(store) == [
        ("error", "changed-labels", "readmit-v1", 1),
        ("warning", "pending-notes", None, 1),
        ("note", "notes-without-time", None, 1),
    ]


def test_pending_notes_of_another_encoder_are_a_finding_of_its_scorer(store):
    execute(
        store,
        "UPDATE encoders SET active = FALSE; "
        "INSERT INTO encoders SELECT * REPLACE ('new-00000000' AS encoder_id, TRUE AS active) "
        "FROM encoders; " + LATE_NOTE,
    )
    assert leaks(store) == [
        ("warning", "pending-notes", None, 201),
        ("warning", "pending-notes", "readmit-v1", 1),
    ]


def returns_of(hours):
    """A patient per entry: a stay, and a return so many hours after its discharge, or none."""
    stays = []
    for patient, hour in enumerate(hours, 1):
        stays.append(admission(patient, patient, day(0), day(10)))
        if hour:
            back = day(10) + timedelta(hours=hour)
            stays.append(admission(1000 + patient, patient, back, back + timedelta(days=1)))
    return stays


def test_returns_before_the_prediction_at_discharge_are_counted(store, tmp_path):
    # Of 11 returns two come within 48 hours of the discharge, when nothing was predicted yet.
    stays = returns_of([30, 48, *[49, 100, 200, 300, 400, 500, 600, 650, 700], None, None])
    folder = write_hospital(tmp_path / "early", stays, [note(1, 1, "home")])
    sync(early := create_store(tmp_path / "early.duckdb", folder, "mimic3"))
    execute(early, "INSERT INTO scorers BY NAME " + SCORER, metrics(0.7, 0.6, 0.8))
    execute(early, "UPDATE scorers SET cutoff = '72h', scorer_id = 'by-72h-v1'")
    assert "early-returns-before-prediction" not in {finding.code for finding in audit(early)}
    execute(early, "UPDATE scorers SET cutoff = 'discharge+48h'")
    (finding,) = [f for f in audit(early) if f.code == "early-returns-before-prediction"]
    assert (finding.severity, finding.scorer_id, finding.count) == ("warning", "by-72h-v1", 2)
    assert finding.message.startswith(
        "2 of 11 returns within 30 days (18%) come before the prediction 48 hours after discharge"
    )
    # One of eleven is below 10%.
    execute(early, "UPDATE admissions SET admittime = TIMESTAMP '2150-01-15' WHERE hadm_id = 1002")
    assert "early-returns-before-prediction" not in {f.code for f in audit(early)}


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


USER = pwd.getpwuid(os.getuid()).pw_name


def test_a_label_that_was_immature_when_the_scorer_was_fitted_stays_a_finding(store):
    """By now its horizon is over and the label is the same, but it was chosen by its outcome."""
    fitted = (
        """UPDATE scorers SET metrics = json_merge_patch(metrics, '{"observed_until": "%s"}')"""
    )
    assert not [f for f in audit(store) if f.code == "immature-labels"]
    execute(store, fitted % "2150-02-25T00:00:00")
    assert not [f for f in audit(store) if f.code == "immature-labels"]
    execute(store, fitted % "2150-01-30T00:00:00")
    (finding,) = [f for f in audit(store) if f.code == "immature-labels"]
    (n_labels,) = store.one("SELECT count(*) FROM scorer_admissions WHERE label IS NOT NULL")
    assert (finding.severity, finding.count) == ("error", n_labels)


def test_a_note_is_accepted_though_its_count_grows_every_night(store):
    execute(store, "UPDATE notes SET time_basis = 'date' WHERE note_id IN ('5', '6')")
    accept_finding(store, "notes-without-time")
    execute(store, "UPDATE notes SET time_basis = 'date' WHERE note_id IN ('7', '8')")
    assert "notes-without-time" in codes_accepted(store)


LABELS_OF = "UPDATE scorer_admissions SET label = NOT label WHERE hadm_id <= "


def codes_accepted(store, scorer=None):
    return {f.code for f in audit(store, scorer) if f.accepted}


def test_an_accepted_finding_says_who_and_when_until_its_count_grows(store):
    execute(store, LABELS_OF + "3")
    before = datetime.now()
    accept_finding(store, "changed-labels", "readmit")
    (finding,) = [f for f in audit(store) if f.code == "changed-labels"]
    assert (finding.count, finding.accepted.by) == (3, USER)
    assert before <= finding.accepted.at <= datetime.now()
    assert store.rows("SELECT * EXCLUDE (accepted_at) FROM accepted_findings") == [
        {
            "code": "changed-labels",
            "scorer_id": "readmit-v1",
            "finding_count": 3,
            "accepted_by": USER,
        }
    ]
    assert store.one("SELECT command, counts FROM runs ORDER BY run_id DESC LIMIT 1") == (
        "audit",
        '{"accepted": "changed-labels", "findings": 1}',
    )
    assert verify(store) == []

    execute(store, LABELS_OF + "1")  # two are left
    assert codes_accepted(store) == {"changed-labels"}
    execute(store, LABELS_OF + "1 OR hadm_id = 4")
    assert codes_accepted(store) == set()
    accept_finding(store, "changed-labels")
    assert codes_accepted(store) == {"changed-labels"}
    assert store.one("SELECT count(*) FROM accepted_findings") == (2,)


def test_an_acceptance_with_a_scorer_holds_for_that_scorer_only(store):
    execute(store, LABELS_OF + "3")
    execute(
        store,
        "INSERT INTO scorers SELECT * REPLACE ('other-v1' AS scorer_id, 'other' AS name) "
        "FROM scorers; "
        "INSERT INTO scorer_admissions SELECT * REPLACE ('other-v1' AS scorer_id) "
        "FROM scorer_admissions",
    )
    accept_finding(store, "changed-labels", "other")
    assert codes_accepted(store, "other") == {"changed-labels"}
    assert codes_accepted(store, "readmit") == set()
    accept_finding(store, "changed-labels")
    assert codes_accepted(store, "readmit") == {"changed-labels"}


def test_a_note_without_a_count_stays_accepted(store):
    accept_finding(store, "mimic3-cohort")
    assert codes_accepted(store) == {"mimic3-cohort"}


@pytest.mark.parametrize(
    ("code", "scorer", "message"),
    [
        pytest.param(
            "no-such-code",
            None,
            r"w.duckdb has no finding no-such-code, so nothing was accepted - its findings now: "
            "changed-labels, mimic3-cohort, same-day-returns, planned-by-admission-type, "
            "no-excluded-diagnoses$",
            id="an unknown code",
        ),
        pytest.param(
            "immature-labels", None, "has no finding immature-labels", id="no finding of the code"
        ),
        pytest.param(
            "mimic3-cohort",
            "readmit",
            "the scorer readmit has no finding mimic3-cohort, so nothing was accepted - its "
            "findings now: changed-labels; those of the store are accepted without SCORER",
            id="a finding of the store, not of the scorer",
        ),
        pytest.param("changed-labels", "nobody", "has no scorer nobody", id="an unknown scorer"),
    ],
)
def test_what_is_not_found_cannot_be_accepted(store, code, scorer, message):
    execute(store, LABELS_OF + "3")
    runs = store.one("SELECT count(*) FROM runs")
    with pytest.raises(UnknownNameError, match=message):
        accept_finding(store, code, scorer)
    assert store.one("SELECT count(*) FROM accepted_findings") == (0,)
    assert store.one("SELECT count(*) FROM runs") == runs


def test_the_command_exits_1_until_every_error_is_accepted(store):
    def run(*words):
        result = CliRunner().invoke(main, ["audit", str(store.path), *words])
        return result.exit_code, result.stdout.splitlines()

    status, lines = run()
    assert status == 0 and {line.split()[0] for line in lines} == {"note"}
    execute(store, LABELS_OF + "3")
    line = (
        "error    changed-labels  readmit-v1: 3 of its labels differ from what the rule gives now "
        "- train it again"
    )
    status, lines = run()
    assert (status, lines[0]) == (1, line)
    status, lines = run("readmit", "--accept", "changed-labels")
    assert (status, lines[0]) == (0, f"{line} (accepted by {USER} on {datetime.now():%Y-%m-%d})")
    failed = CliRunner().invoke(main, ["audit", str(store.path), "--accept", "immature-labels"])
    assert failed.exit_code == 1 and failed.stdout == ""
    assert failed.stderr.startswith(f"Error: {store.path} has no finding immature-labels, ")


def test_the_command_prints_json(store):
    execute(store, LABELS_OF + "3")
    result = CliRunner().invoke(main, ["audit", str(store.path), "--json"])
    finding = json.loads(result.stdout)[0]
    assert result.exit_code == 1
    assert finding == {
        "code": "changed-labels",
        "severity": "error",
        "scorer_id": "readmit-v1",
        "count": 3,
        "message": "3 of its labels differ from what the rule gives now - train it again",
        "accepted": None,
    }
    accepted = CliRunner().invoke(
        main, ["audit", str(store.path), "--accept", "changed-labels", "--json"]
    )
    finding = json.loads(accepted.stdout)[0]
    assert accepted.exit_code == 0
    assert finding["accepted"]["by"] == USER
    assert datetime.fromisoformat(finding["accepted"]["at"]) <= datetime.now()


def test_train_report_and_promote_say_that_notes_are_pending(store, tmp_path):
    sentence = (
        "2 of 200 ready notes are not embedded by counter-00000000 - "
        f'"featurestore embed {store.path} MODEL" embeds them\n'
    )
    execute(store, "DELETE FROM embeddings WHERE note_id IN ('5', '6')")
    for words in (
        ["train", "again", "--no-baseline"],
        ["report", "again", "-o", str(tmp_path / "report.html")],
        ["promote", "counter-00000000"],
    ):
        result = CliRunner().invoke(main, [words[0], str(store.path), *words[1:]])
        assert result.exit_code == 0, result.output
        assert result.stderr == sentence
