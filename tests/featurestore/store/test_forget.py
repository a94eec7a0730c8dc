"""A forgotten patient is in no byte of the store, and no sync adds them again."""

import itertools
import json
import shutil
import signal
import stat
import struct
import zlib

import numpy as np
import pytest
from click.testing import CliRunner

from batch.embedding.staging import stage
from featurestore import (
    Store,
    add_task,
    create_store,
    embed_pending,
    nightly,
    outcomes,
    score,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints
from featurestore.store.forget import forget
from featurestore.store.integrity.checksums import delete_rows, update_rows
from featurestore.store.schema import OPTIONAL_TABLES, TABLES, VIEWS_AND_MACROS
from tests import jobs
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

PATIENTS = 40
OTHER_COLUMNS = {
    "icu_stays": "(SELECT '1' AS icu_stay_id, now() AS intime)",
    "diagnoses": "(SELECT 'ICD9CM' AS vocabulary, '4280' AS code)",
    "ed_visits": "(SELECT now() AS intime)",
    "hospital_score_items": "(SELECT 11 AS hemoglobin)",
}
DIM = 5  # not the 768 of the schema


class Distinct(WordCounter):
    """The word counter, whose vectors also tell every text from every other."""

    def __init__(self):
        super().__init__(dim=DIM)

    def run(self, batch):
        counted = np.hstack([super().run(batch), np.ones((len(batch), 1))])
        own = [np.random.default_rng(ids).normal(0, 0.01, DIM) for ids in batch]
        return (counted + own).astype(np.float32)

    def _number(self, word):
        known = word in self.COUNTED
        return super()._number(word) if known else 6 + zlib.crc32(word.encode()) % 1_000_000


def patient(n):
    """A number that no other eight bytes look like."""
    return 0x1122_3344_5566_0000 + n


def stay(n, again=0):
    return 0x2233_4455_6677_0000 + 100 * n + again


FORGOTTEN, OTHER = 1, 3


class Ward:
    """A hospital that edits, withdraws and adds notes, and its store."""

    needles: dict

    def __init__(self, folder):
        self.hospital = folder / "hospital"
        self.folder = folder / "ward"
        self.folder.mkdir()
        self.stays, self.notes, self.numbers = [], [], itertools.count(4_400_000_000_000_000)
        for n in range(1, PATIENTS + 1):
            self.stays.append(admission(stay(n), patient(n), day(0), day(10)))
            if n % 2:  # comes back
                self.stays.append(admission(stay(n, 1), patient(n), day(20), day(25)))
                self.add(n, "pain alone", day(21), again=1)
            self.add(n, "pain pain" if n % 2 else "home", day(1))
        self.store = create_store(self.folder / "w.duckdb", self.write(), "mimic3")

    def add(self, n, text, at, again=0, **others):
        """Add a note of unique words, five windows long."""
        number = next(self.numbers)
        words = " ".join(f"word{number}x{k}" for k in range(16))
        row = note(number, stay(n, again), f"{text} {words}", at, subject_id=patient(n))
        self.notes.append(row | {name.upper(): value for name, value in others.items()})

    def write(self):
        return write_hospital(self.hospital, self.stays, self.notes)

    def night(self):
        self.write()
        return nightly(self.store, Distinct(), "readmit")


def used_ward(folder):
    """Make a store with all that it can hold of a patient: old means, withdrawn stays, shards."""
    ward = Ward(folder)
    sync(ward.store)
    embed_pending(ward.store, Distinct())
    train(ward.store, "readmit", baseline=False, aggregate="mean", covariates=["demographics"])
    file = folder / "labels.csv"
    lines = [f"{row['HADM_ID']},{n % 2},{day(22)}" for n, row in enumerate(ward.stays)]
    file.write_text("\n".join(["hadm_id,label,prediction_time", *lines]))
    add_task(ward.store, "given", file)
    for n in range(1, 13):
        ward.add(n, "quiet", day(1))
    ward.night()
    # Means and covariates that were scored change, and are archived for replay.
    for row in ward.stays:
        if row["HADM_ID"] == stay(FORGOTTEN):
            row["ADMISSION_TYPE"] = "ELECTIVE"
    for row in ward.notes:
        if row["SUBJECT_ID"] in (patient(FORGOTTEN), patient(OTHER)):
            row["TEXT"] += " edited"
    ward.add(FORGOTTEN, "to no stay", day(1), hadm_id="")
    ward.add(OTHER, "on a stay of another", day(1), hadm_id=stay(FORGOTTEN))
    ward.night()
    # A stay is withdrawn; its scores are kept.
    ward.stays = [row for row in ward.stays if row["HADM_ID"] != stay(FORGOTTEN, 1)]
    ward.notes = [row for row in ward.notes if row["HADM_ID"] != stay(FORGOTTEN, 1)]
    ward.night()
    ward.add(FORGOTTEN, "waits", day(1))
    for n in (OTHER, OTHER + 1):
        ward.add(n, "waits", day(1))
    ward.write()
    sync(ward.store)
    for limit in (1, 2, 3):
        stage(ward.store, Distinct(), limit)  # a job that was killed before its commit
    # uncompressed, so that every number can be count_needles
    with ward.store.transaction("test", rewrite=True) as transaction:
        for n in (FORGOTTEN, OTHER):
            transaction.con.execute(
                "INSERT INTO nightly_log_odds VALUES (4, 'readmit-v1', $1, $2, 'Nursing', 1, 0.5)",
                [stay(n), patient(n)],
            )
    return ward


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    ward = used_ward(tmp_path_factory.mktemp("lived"))
    ward.needles = {n: needles(ward.store, n) for n in (FORGOTTEN, OTHER)}
    return ward


@pytest.fixture
def ward(template, tmp_path):
    """Copy the template, with a hospital that the test may change."""
    shutil.copytree(template.hospital, tmp_path / "hospital")
    shutil.copytree(template.folder, tmp_path / "ward")
    copy = object.__new__(Ward)
    copy.hospital, copy.folder = tmp_path / "hospital", tmp_path / "ward"
    copy.stays, copy.notes = [list(map(dict, rows)) for rows in (template.stays, template.notes)]
    copy.store = Store(copy.folder / "w.duckdb")
    with copy.store.transaction("move", rewrite=True) as transaction:
        transaction.con.execute("UPDATE settings SET source = $1", [str(copy.hospital)])
    copy.needles, copy.numbers = template.needles, itertools.count(4_500_000_000_000_000)
    return copy


def needles(store, n):
    """Return the bytes that only this patient has, by kind."""
    stays = [stay(n), stay(n, 1)]
    by_kind = {"subject_id": {struct.pack("<q", patient(n)), str(patient(n)).encode()}}
    by_kind["hadm_id"] = {struct.pack("<q", stays[0]), struct.pack("<q", stays[1])}
    rows = store.sql(
        "SELECT note_id, text_hash FROM notes WHERE subject_id = $s OR list_contains($h, hadm_id)",
        s=patient(n),
        h=stays,
    ).fetchall()
    by_kind["note_id"] = {note_id.encode() for note_id, _ in rows}
    by_kind["text_hash"] = {text_hash.encode() for _, text_hash in rows}
    for table in ("embeddings", "admission_embeddings", "archived_admission_embeddings"):
        vectors = store.sql(
            f"SELECT embedding, vector_hash FROM {table} WHERE list_contains($h, hadm_id)", h=stays
        ).fetchall()
        by_kind[table] = {np.array(vector, np.float32).tobytes() for vector, _ in vectors}
        by_kind["vector_hash"] = {struct.pack("<Q", h) for _, h in vectors} | by_kind.get(
            "vector_hash", set()
        )
    for shard in store.staging.rglob("*.shard"):
        rows = store.shard_seal().read_table(shard).select(["note_id", "embedding"])
        staged = zip(*rows.to_pydict().values(), strict=True)
        by_kind["staged"] = {
            np.array(vector, np.float32).tobytes()
            for note_id, vector in staged
            if note_id.encode() in by_kind["note_id"]
        } | by_kind.get("staged", set())
    return by_kind


def count_needles(folder, needles):
    """Count the needles that are in a file under a folder."""
    everything = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    return {
        what: sum(any(needle in content for content in everything) for needle in values)
        for what, values in needles.items()
    }


def patient_rows(store):
    """Count the rows of the forgotten patient by table."""
    stays = f"hadm_id IN ({stay(FORGOTTEN)}, {stay(FORGOTTEN, 1)})"
    theirs = f"subject_id = {patient(FORGOTTEN)}"
    where = dict.fromkeys(
        (
            "embeddings",
            "admission_embeddings",
            "archived_admission_embeddings",
            "admission_covariates",
            "archived_admission_covariates",
            "scorer_admissions",
            "scores",
            "reference_scores",
            "nightly_log_odds",
            "changed_admissions",
            "task_labels_from_files",
            "task_predictions",
        ),
        stays,
    )
    where |= dict.fromkeys(OPTIONAL_TABLES, theirs)
    where |= {"admissions": theirs, "notes": f"{theirs} OR {stays}"}
    where["nightly_embedding_stats"] = "n_notes < 11"
    return {
        table: store.one(f"SELECT count(*) FROM {table} WHERE {condition}")[0]
        for table, condition in where.items()
    }


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_forget_removes_every_byte_of_the_patient_and_none_of_another(ward):
    before = {
        n: {what: len(values) for what, values in ward.needles[n].items()} for n in ward.needles
    }
    for counts in before.values():
        assert all(counts.values()), "the story lacks something"
    for n in (FORGOTTEN, OTHER):
        assert count_needles(ward.folder, ward.needles[n]) == before[n] | {"subject_id": 1}
    receipt = forget(ward.store, [patient(FORGOTTEN)], ward.folder / "receipt.json")
    left = count_needles(ward.folder, ward.needles[FORGOTTEN])
    assert left == dict.fromkeys(left, 0)
    # One of the other's notes stood on the forgotten patient's stay; all others remain.
    other = count_needles(ward.folder, ward.needles[OTHER])
    lost = {what: before[OTHER][what] - count for what, count in other.items()}
    assert lost | {"subject_id": 0} == dict.fromkeys(lost, 0) | {"note_id": 1, "text_hash": 1}
    assert receipt["shards"] == 1
    assert verify(ward.store) == []
    assert ward.store.one("SELECT max(len(embedding)) FROM embeddings") == (DIM,)


def test_a_plain_delete_leaves_bytes_in_the_file(ward):
    with ward.store.transaction("test") as transaction:
        delete_rows(transaction.con, "embeddings", "hadm_id = $1", [stay(FORGOTTEN)])
    assert count_needles(ward.folder, ward.needles[FORGOTTEN])["embeddings"] > 0


def test_the_receipt_counts_the_deleted_rows_and_names_no_patient(ward):
    with ward.store.transaction("test") as transaction:
        for table in OPTIONAL_TABLES:  # the test's hospital has none of them
            transaction.con.execute(
                f"INSERT INTO {table} BY NAME SELECT * FROM (SELECT $1 AS hadm_id, $2 AS "
                "subject_id), " + OTHER_COLUMNS[table],
                [stay(FORGOTTEN), patient(FORGOTTEN)],
            )
    rows = patient_rows(ward.store)
    assert min(rows.values()) > 0
    receipt = forget(ward.store, [patient(FORGOTTEN)], ward.folder / "receipt.json")
    assert receipt["rows"] == rows
    assert set(patient_rows(ward.store).values()) == {0}
    assert [scorer["scorer_id"] for scorer in receipt["scorers"]] == ["readmit-v1"]
    assert (
        sum(receipt["scorers"][0][s] for s in ("train", "valid", "test"))
        == rows["scorer_admissions"]
    )
    file = ward.folder / "receipt.json"
    assert json.loads(file.read_text()) == receipt
    assert stat.filemode(file.stat().st_mode) == "-rw-------"
    assert receipt["not_reached"][-2].startswith("the SELECTs of 1 tasks of your own")
    assert receipt["not_reached"][-1].startswith(
        "1 means in nightly_embedding_stats, each of 11 notes or more"
    )
    command, counts = ward.store.sql(
        "SELECT command, counts FROM runs ORDER BY run_id DESC LIMIT 1"
    ).fetchone()
    assert (command, json.loads(counts)) == ("forget", {"patients": 1, **rows, "shards": 1})


def test_sync_and_nightly_exclude_a_forgotten_patient(ward):
    forget(ward.store, [patient(FORGOTTEN)])
    counts = sync(ward.store)
    assert counts["admissions"]["forgotten"] == 1
    assert counts["notes"]["forgotten"] == sum(
        row["SUBJECT_ID"] == patient(FORGOTTEN) or row["HADM_ID"] == stay(FORGOTTEN)
        for row in ward.notes
    )
    embed_pending(ward.store, Distinct())
    # Notes change, come in without an admission, and a stay comes back.
    for row in ward.notes:
        row["TEXT"] += " again"
    ward.add(FORGOTTEN, "new", day(2))
    ward.add(FORGOTTEN, "without a stay", day(2), hadm_id="")
    ward.stays.append(admission(stay(FORGOTTEN, 1), patient(FORGOTTEN), day(20), day(25)))
    result = ward.night()
    assert result["forgotten"] == counts["notes"]["forgotten"] + 2
    assert result["scored"] > 0
    assert set(patient_rows(ward.store).values()) == {
        0,
        patient_rows(ward.store)["nightly_embedding_stats"],
    }
    ids = {what: ward.needles[FORGOTTEN][what] for what in ("subject_id", "hadm_id", "note_id")}
    with ward.store.transaction("test", rewrite=True):
        pass
    assert set(count_needles(ward.folder, ids).values()) == {0}
    assert verify(ward.store) == []
    assert "forgotten" in run("sync", ward.store.path).stdout


def test_score_outcomes_and_train_work_after_forget(ward):
    forget(ward.store, [patient(FORGOTTEN), patient(OTHER)])
    (stays,) = ward.store.one("SELECT count(*) FROM prediction_times()")
    assert score(ward.store, "readmit")["scored"] == stays > PATIENTS
    result = outcomes(ward.store, "readmit")
    assert result["fitted_on"] + result["scored"] == stays
    assert train(ward.store, "readmit", baseline=False)["scorer_id"] == "readmit-v2"
    assert forget(ward.store, [patient(OTHER + 2)])["scorers"][-1]["scorer_id"] == "readmit-v2"
    assert ward.store.one("SELECT count(*), count(DISTINCT key) FROM forgotten") == (3, 1)


def test_vectors_of_a_note_that_was_moved_to_the_patient_are_deleted(ward):
    moved = next(row for row in ward.notes if row["HADM_ID"] == stay(OTHER + 2))
    moved["SUBJECT_ID"] = patient(FORGOTTEN)
    ward.write()
    sync(ward.store)
    vectors = ward.store.sql(
        f"SELECT embedding FROM embeddings WHERE note_id = '{moved['ROW_ID']}' "
        f"UNION ALL SELECT embedding FROM admission_embeddings WHERE hadm_id = {stay(OTHER + 2)}"
    ).fetchall()
    theirs = {"vectors": {np.array(vector, np.float32).tobytes() for (vector,) in vectors}}
    assert count_needles(ward.folder, theirs)["vectors"] == len(theirs["vectors"]) > 5
    forget(ward.store, [patient(FORGOTTEN)])
    assert count_needles(ward.folder, theirs) == {"vectors": 0}
    # The other patient's mean comes back, without it.
    embed_pending(ward.store, Distinct())
    means = f"SELECT count(*) FROM admission_embeddings WHERE hadm_id = {stay(OTHER + 2)}"
    assert ward.store.one(means)[0] > 0
    assert count_needles(ward.folder, theirs) == {"vectors": 0}


def test_a_patient_with_only_a_note_and_no_stay_is_forgotten(ward):
    ward.add(77, "to no stay", day(1), hadm_id="")
    ward.write()
    sync(ward.store)
    rows = forget(ward.store, [patient(77)])["rows"]
    assert {table: count for table, count in rows.items() if count} == {
        "notes": 1,
        "nightly_embedding_stats": 1,
    }
    assert sync(ward.store)["notes"]["forgotten"] == 1


def test_forget_keeps_tables_constraints_macros_and_file_mode(ward):
    catalog = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default "
        "FROM duckdb_columns() WHERE database_name = 'store' AND NOT internal ORDER BY ALL",
        "SELECT table_name, constraint_text FROM duckdb_constraints() "
        "WHERE database_name = 'store' ORDER BY ALL",
        "SELECT function_name, parameters, macro_definition FROM duckdb_functions() "
        "WHERE database_name = 'store' AND NOT internal ORDER BY ALL",
        "SELECT view_name FROM duckdb_views() WHERE database_name = 'store' AND NOT internal",
    )
    before = [ward.store.sql(query).fetchall() for query in catalog]
    assert {row[0] for row in before[0]} >= set(TABLES)
    assert {row[0] for row in before[2] + before[3]} >= set(VIEWS_AND_MACROS)
    ward.store.path.chmod(0o640)
    forget(ward.store, [patient(FORGOTTEN)])
    assert [ward.store.sql(query).fetchall() for query in catalog] == before
    assert stat.filemode(ward.store.path.stat().st_mode) == "-rw-r-----"


@pytest.mark.parametrize("others", [[], [FORGOTTEN]], ids=["alone", "with a known one"])
def test_an_unknown_patient_is_an_error_and_nothing_changes(ward, others):
    def files():
        paths = [file for file in ward.folder.rglob("*") if file.suffix != ".lock"]
        return {file: file.read_bytes() for file in paths if file.is_file()}

    before = files()
    result = run("forget", ward.store.path, *map(patient, others), 99, 98)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: 2 of {2 + len(others)} patients are not in {ward.store.path} (the first: 98); "
        "nothing was changed - the table admissions has their subject_id\n"
    )
    assert files() == before


def test_a_forgotten_patient_is_unknown_the_second_time(ward):
    result = run("forget", ward.store.path, patient(FORGOTTEN), "--json")
    assert json.loads(result.stdout)["patients"] == 1
    result = run("forget", ward.store.path, patient(FORGOTTEN))
    assert result.exit_code == 1
    assert "1 of 1 patients are not in" in result.stderr


def test_the_command_prints_a_readable_receipt(ward):
    output = run("forget", ward.store.path, patient(FORGOTTEN)).stdout
    lines = output.splitlines()
    assert lines[0].startswith("1 patient forgotten: run ")
    assert "  admissions                    1" in lines
    assert "readmit-v1 was tested on them (2 test)" in lines
    assert "- readers that still have the previous version open" in lines
    (fitted_on, stays) = ward.store.one(
        "SELECT subject_id, count(*) FROM scorer_admissions WHERE split = 'train' GROUP BY 1 "
        "ORDER BY 1 LIMIT 1"
    )
    output = run("forget", ward.store.path, fitted_on).stdout
    assert f"readmit-v1 was fitted on them ({stays} train) - train it again\n" in output


def test_an_unwritable_receipt_is_refused_before_anything_changes(ward):
    before = ward.store.path.read_bytes()
    for output in (ward.folder / "no" / "r.json", ward.folder, ward.store.path):
        result = run("forget", ward.store.path, patient(FORGOTTEN), "-o", output)
        assert result.exit_code == 1
        assert "cannot be the receipt - name a new file" in result.stderr
    assert ward.store.path.read_bytes() == before


def test_earlier_damage_does_not_prevent_forget(ward):
    with ward.store.transaction("test") as transaction:
        update_rows(transaction.con, "embeddings", "vector_hash = 7", f"hadm_id = {stay(9)}")
    damaged = verify(ward.store)
    assert len(damaged) == 1
    forget(ward.store, [patient(FORGOTTEN)])
    assert verify(ward.store) == damaged


def test_an_encoder_fine_tuned_on_the_patient_is_listed(ward):
    (split,) = ward.store.one(f"SELECT patient_split({patient(FORGOTTEN)})")
    finetuned = {"patients": "patient_split: train to fit, valid to choose the best step"}
    manifest = json.dumps({"checkpoint": {"finetune": finetuned}})
    with ward.store.transaction("test") as transaction:
        transaction.con.execute("UPDATE encoders SET manifest = $1", [manifest])
    expected = [] if split == "test" else ["counter-00000000"]
    assert forget(ward.store, [patient(FORGOTTEN)])["encoders"] == expected
    sides = dict(
        ward.store.sql(
            "SELECT patient_split(subject_id), max(subject_id) FROM admissions GROUP BY 1"
        ).fetchall()
    )
    assert forget(ward.store, [sides["test"]])["encoders"] == []
    assert forget(ward.store, [sides["train"]])["encoders"] == ["counter-00000000"]


def test_a_score_of_a_stay_that_now_is_another_patients_is_deleted_without_the_stay(ward):
    n = OTHER + 2
    for row in [*ward.stays, *ward.notes]:
        if row["SUBJECT_ID"] == patient(n):
            row["SUBJECT_ID"] = patient(90)
    ward.write()
    sync(ward.store)
    stays = ward.store.one(f"SELECT count(*) FROM admissions WHERE subject_id = {patient(90)}")[0]
    rows = forget(ward.store, [patient(n)])["rows"]
    assert rows["scores"] >= rows["scorer_admissions"] > 0
    assert rows["admissions"] == rows["notes"] == rows["embeddings"] == 0
    assert forget(ward.store, [patient(90)])["rows"]["admissions"] == stays == 2


def test_a_stay_withdrawn_before_it_was_scored_leaves_no_vectors(ward):
    ward.stays.append(admission(stay(78), patient(78), day(0), day(10)))
    ward.add(78, "alone", day(1))
    ward.write()
    sync(ward.store)
    embed_pending(ward.store, Distinct())
    counts = (
        f"SELECT (SELECT count(*) FROM embeddings WHERE hadm_id = {stay(78)}), "
        f"(SELECT count(*) FROM admission_embeddings WHERE hadm_id = {stay(78)})"
    )
    assert min(ward.store.one(counts)) > 0
    ward.stays = [row for row in ward.stays if row["HADM_ID"] != stay(78)]
    ward.notes = [row for row in ward.notes if row["HADM_ID"] != stay(78)]
    ward.write()
    sync(ward.store)
    assert ward.store.one(counts) == (0, 0)  # No row names the patient: forget cannot find them.


KILL_POINTS = ("copy", "clean", "checkpoint", "fsync", "rename")


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["once", "every time"]
)
@pytest.mark.parametrize("step", KILL_POINTS)
def test_a_kill_at_any_failpoint_leaves_the_old_or_the_new_version(ward, tmp_path, step, every):
    def contents(path):
        return {
            table: Store(path).sql(f"FROM {table} ORDER BY ALL").fetchall()
            for table in TABLES
            if table not in ("runs", "forgotten")
        }

    def fresh(name):
        shutil.copytree(ward.folder, tmp_path / name)
        return tmp_path / name / "w.duckdb"

    before = contents(ward.store.path)
    quiet = fresh("quiet")
    jobs.forgetting(quiet)
    after = contents(quiet)
    for nth in itertools.count(1):
        path = fresh(f"killed-{nth}")
        status = jobs.ended(jobs.start(jobs.killed_at, jobs.forgetting, path, step, nth))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert contents(path) in (before, after)
        assert verify(Store(path)) == []
        if contents(path) == before:
            jobs.forgetting(path)
        assert contents(path) == after
        assert set(count_needles(path.parent, ward.needles[FORGOTTEN]).values()) == {0}
        shutil.rmtree(path.parent)
        if not every:
            return
    assert nth > 1, f"forget has no step {step}"


def test_the_failpoints_of_the_kill_test_exist():
    assert set(KILL_POINTS) <= set(failpoints.FAILPOINTS)


def test_forget_exits_with_75_while_another_job_runs(ward):
    with Store(ward.store.path).lock("nightly"):
        assert run("forget", ward.store.path, patient(FORGOTTEN)).exit_code == 75
    with pytest.raises(FeatureStoreError, match="not in"):
        forget(ward.store, [0])
