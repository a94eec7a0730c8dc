"""Death and a long stay, from the notes to the report, against the planted risks; planted leaks."""

import csv
import re

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from featurestore import (
    add_task,
    audit,
    create_store,
    drop_task,
    embed_pending,
    list_tasks,
    report,
    score,
    sync,
    train,
    write_hospital,
)
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.synthetic.vocabulary import DENIED, FILLERS, STATED
from tests.batch.training.test_train import copy_of
from tests.conftest import WordCounter
from tests.hospital import admission, note
from tests.hospital import write_hospital as write_rows
from tests.jobs import edited
from tests.timeline import day

ENCODER = "traits-00000000"


def words(sentences):
    return set(re.findall(r"[a-z]+", re.sub(r"{\w+}", " ", " ".join(sentences).lower())))


class TraitReader(WordCounter):
    """An encoder of a window by the words that only one trait uses, stated or denied.

    It knows the language of the notes, as a good model would, but no outcome.
    """

    def __init__(self):
        topics = [*STATED.values(), *DENIED.values(), *FILLERS.values()]
        vocabularies = [words(sentences) for sentences in topics]
        self.number_of = {}
        for number, vocabulary in enumerate(vocabularies[: len(STATED) + len(DENIED)]):
            others = set().union(*(v for no, v in enumerate(vocabularies) if no != number))
            self.number_of |= dict.fromkeys(vocabulary - others, number + 2)
        super().__init__(ENCODER, len(STATED) + len(DENIED))
        self.manifest["max_tokens"] = 514

    def tokenize(self, texts):
        numbers = [
            [self.number_of.get(word, 1) for word in re.findall(r"[a-z]+", text.lower())]
            for text in texts
        ]
        return [
            [
                np.array([0, *of_note[at : at + 512], 1], np.int32)
                for at in range(0, len(of_note), 512)
            ]
            for of_note in numbers
        ]

    def run(self, batch):
        present = np.array([np.isin(np.arange(self.dim) + 2, ids) for ids in batch], np.float32)
        return present + 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "cutoff", "risk"),
    [("in_hospital_mortality", "24h", "DEATH_RISK"), ("long_stay", "48h", "LONG_STAY_RISK")],
)
def test_planted_risks_are_recovered(embedded, tmp_path, task, cutoff, risk):
    store = copy_of(embedded, tmp_path)
    own = tmp_path / "own.sql"
    (select,) = (row["sql"] for row in list_tasks(store) if row["name"] == task)
    own.write_text(select)
    add_task(store, "own", own)  # as a user adds one
    result = train(store, "risk", task="own", cutoff=cutoff, baseline=False)
    rows = store.sql(
        "SELECT hadm_id, label, probability FROM scorer_admissions "
        "WHERE split = 'test' AND label IS NOT NULL"
    ).fetchall()
    with (embedded.path.parent / "hospital" / "PLANTED_RISK.csv").open() as stream:
        planted = {int(row["HADM_ID"]): float(row[risk]) for row in csv.DictReader(stream)}
    y = [label for _, label, _ in rows]
    ideal = roc_auc_score(y, [planted[hadm_id] for hadm_id, _, _ in rows])
    ours = roc_auc_score(y, [probability for _, _, probability in rows])
    assert result["no_signal"] is None
    assert ideal > 0.7
    assert ours > ideal - 0.05
    assert score(store, "risk")["scored"] > len(rows)
    page = tmp_path / "report.html"
    report(store, "risk", page)
    assert "own" in page.read_text()
    assert not [f for f in audit(store) if f.severity == "error"]


@pytest.mark.slow
def test_a_return_to_intensive_care_is_predicted_when_the_patient_leaves_it(embedded, tmp_path):
    store = copy_of(embedded, tmp_path)
    result = train(store, "icu", task="icu_readmission", baseline=False)
    rows = store.sql(
        "SELECT label, probability, coalesce(lung, FALSE) FROM scorer_admissions LEFT JOIN "
        "(SELECT hadm_id, bool_or(code = '4928') AS lung FROM diagnoses GROUP BY ALL) "
        "USING (hadm_id) WHERE split = 'test' AND label IS NOT NULL"
    ).fetchall()
    y, ours, has_lung_disease = zip(*rows, strict=True)
    # Whoever has a lung disease returns more often; the reader also sees what it does not need.
    ideal = roc_auc_score(y, has_lung_disease)
    assert ideal > 0.7
    assert roc_auc_score(y, ours) > ideal - 0.1
    assert result["no_signal"] is None
    assert score(store, "icu")["scored"] > len(rows)
    cutoffs = store.sql("SELECT cutoff FROM kept_cutoffs").fetchall()
    assert ("task:icu_readmission",) in cutoffs
    assert not [f for f in audit(store) if f.severity == "error"]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    write_hospital(folder / "hospital", 4_000, notes_per_stay=4)
    store = create_store(folder / "w.duckdb", folder / "hospital", "mimic3")
    sync(store)
    embed_pending(store, TraitReader())
    return store


CANARY = "zebrafish"
DIES = (
    "SELECT hadm_id, died_in_hospital AS label, NULL AS reason, {known_at} AS known_at, "
    "admittime + INTERVAL {hours} HOURS AS prediction_time FROM admissions"
)


@pytest.fixture
def ward(tmp_path):
    """Stays of five days; a note on the fourth day says who will die, earlier notes do not."""
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for patient in range(1, 401):
        dies = bool(rng.random() < 0.4)
        stays.append(admission(patient, patient, day(0), day(5), hospital_expire_flag=int(dies)))
        home = " ".join(["home"] * int(rng.integers(1, 4)))
        notes.append(note(patient, patient, f"{CANARY} {home}", day(0, 20)))
        notes.append(note(1000 + patient, patient, "pain" if dies else "alone", day(4)))
    write_rows(tmp_path / "hospital", stays, notes)
    store = create_store(tmp_path / "w.duckdb", tmp_path / "hospital", "mimic3")
    sync(store)
    embed_pending(store, WordCounter(ENCODER))
    return store


def add_deaths(store, hours, known_at="dischtime"):
    file = store.path.parent / "dies.sql"
    file.write_text(DIES.format(hours=hours, known_at=known_at))
    add_task(store, "dies", file)


def findings(store):
    return {(finding.severity, finding.code) for finding in audit(store)}


def test_a_prediction_time_that_moves_behind_the_notes_is_found(ward):
    """At 24 hours nothing is known; at 110 hours the last note says it all."""
    add_deaths(ward, 24)
    assert train(ward, "risk", task="dies", baseline=False)["no_signal"]
    assert not {("error", "changed-task")} & findings(ward)
    drop_task(ward, "dies")
    add_deaths(ward, 110)
    embed_pending(ward, WordCounter(ENCODER))
    assert ("error", "changed-task") in findings(ward)
    late = train(ward, "late", task="dies", baseline=False)
    assert late["test"]["scorer"]["auroc"][0] == 1
    assert "separated completely, which suggests a leak" in " ".join(late["warnings"])
    result = CliRunner().invoke(main, ["audit", str(ward.path), "risk"])
    assert result.exit_code == 1


def test_means_of_later_notes_are_found(ward):
    train(ward, "risk", task="in_hospital_mortality", cutoff="24h", baseline=False)
    with edited(ward) as transaction:
        transaction.con.execute(
            "UPDATE admission_embeddings SET embedding = late.embedding, "
            "windows_hash = late.windows_hash, vector_hash = late.vector_hash "
            "FROM (FROM admission_embeddings WHERE cutoff = 'discharge+48h') AS late "
            "WHERE admission_embeddings.cutoff = '24h' "
            "AND admission_embeddings.hadm_id = late.hadm_id"
        )
    assert ("error", "outdated-admission-embeddings") in findings(ward)


def test_stays_that_are_over_at_the_prediction_are_refused_or_found(ward):
    with pytest.raises(FeatureStoreError, match="knows the label of admission 1 before its pred"):
        add_deaths(ward, 121)
    # With a time that claims that nobody knew.
    add_deaths(ward, 121, "dischtime + INTERVAL 9 DAYS")
    train(ward, "risk", task="dies", baseline=False)
    assert ("warning", "stays-over-at-prediction") in findings(ward)


def test_an_outcome_that_becomes_known_before_the_prediction_is_found(ward):
    """The source corrects the discharges of stays that a scorer was trained on."""
    add_deaths(ward, 30)
    train(ward, "risk", task="dies", baseline=False)
    with edited(ward) as transaction:
        transaction.con.execute("UPDATE admissions SET dischtime = admittime + INTERVAL 20 HOURS")
    assert ("error", "outcome-known-at-prediction") in findings(ward)


def test_no_note_text_is_kept(ward):
    add_deaths(ward, 24)
    path = str(ward.path)
    for command in (["labels", path, "--task", "dies"], ["task", "list", path], ["audit", path]):
        assert CANARY not in CliRunner().invoke(main, command).output
    for file in ward.path.parent.iterdir():
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes()
