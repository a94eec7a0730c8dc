"""Verify finds whatever is not as the last job left it."""

import json
import os
import pwd
import random
import re
import shutil
import signal
import subprocess
import sys

import duckdb
import pytest
from click.testing import CliRunner

from batch.embedding.shards import Shards
from batch.embedding.staging import stage
from featurestore import (
    OnnxEncoder,
    Store,
    create_store,
    embed_pending,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.errors import FeatureStoreError, StoreChangedWarning
from featurestore.store.integrity.audit_log import last_run, seal_line
from featurestore.store.integrity.checksums import checksums
from tests import jobs
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import everything
from tests.timeline import day

PATIENTS = 40
PROGRAM = "from featurestore.cli import main; main()"
OLDER = "the file was replaced by an older or another one"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store with a scorer, and shards of notes that are not committed yet."""
    folder = tmp_path_factory.mktemp("template")
    stays = [admission(n, n, day(0), day(5)) for n in range(1, PATIENTS + 1)]
    stays += [admission(n + 1_000, n, day(20), day(25)) for n in range(1, PATIENTS, 2)]
    texts = ("home quiet home quiet home", "pain pain alone home quiet")
    notes = [note(n, n, texts[n % 2]) for n in range(1, PATIENTS + 1)]
    store = create_store(
        folder / "w.duckdb", write_hospital(folder / "h", stays, notes[:-3]), "mimic3"
    )
    sync(store)
    embed_pending(store, WordCounter())
    train(store, "readmit", baseline=False)
    shutil.copy(store.path, folder / "older.duckdb")
    write_hospital(folder / "h", stays, notes)
    sync(store)
    stage(store, WordCounter())
    return folder


@pytest.fixture
def ward(template, tmp_path):
    shutil.copytree(template, tmp_path / "ward")
    return tmp_path / "ward"


@pytest.fixture
def store(ward):
    return Store(ward / "w.duckdb")


def findings(store):
    return verify(Store(store.path))


def changed_since(store, run):
    return (
        f"another program has changed the store since run {run} - if that was meant, "
        f'"featurestore verify {store.path} --accept" records it'
    )


def change_without_a_job(store, *changes, forged=False):
    """Change the file without a job; `forged` also rewrites its checksums and its seal."""
    with duckdb.connect(store.path) as con:
        for statement in changes:
            con.execute(statement)
        if forged:
            con.execute(
                "UPDATE runs SET contents = $1 WHERE run_id = $2",
                [json.dumps(checksums(con)), last_run(con)[0]],
            )
        last = last_run(con)
    if forged:
        seal = store.path.with_name("w.duckdb.seal")
        seal.write_text(seal_line(last, store.path))


def test_verify_finds_nothing_in_a_fresh_store_and_prints_its_last_run(store):
    assert verify(store) == []
    link = store.one("SELECT chain FROM runs WHERE run_id = 4")[0]
    result = CliRunner().invoke(main, ["verify", str(store.path)])
    assert (result.exit_code, result.stdout) == (0, f"no findings: run 4, {link}\n")
    assert re.fullmatch("[0-9a-f]{64}", link)


def test_an_older_file_that_is_put_back_is_found_and_every_job_refuses_it(store, ward):
    shutil.copy(ward / "older.duckdb", store.path)
    sentence = f"{store.path} is at run 3, but its seal is of run 4: {OLDER}"
    assert [line.partition(" - ")[0] for line in findings(store)] == [sentence]
    encoder = WordCounter()
    for job in (lambda: sync(Store(store.path)), lambda: embed_pending(Store(store.path), encoder)):
        with pytest.raises(FeatureStoreError, match=OLDER):
            job()
    assert encoder.texts_seen == []
    # A backup that was meant.
    (ward / "w.duckdb.seal").unlink()
    sync(Store(store.path))
    assert findings(store) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_job_run_by_root_keeps_the_owner_of_the_store(store, ward):
    for name in ("w.duckdb", "w.duckdb.seal"):
        os.chown(ward / name, 65534, 65534)
    embed_pending(store, WordCounter())
    owners = {name: (ward / name).stat().st_uid for name in ("w.duckdb", "w.duckdb.seal")}
    assert owners == {"w.duckdb": 65534, "w.duckdb.seal": 65534}


def test_the_file_of_another_store_in_its_place_is_found(store, ward):
    create_store(ward / "other.duckdb", ward / "h", "mimic3")
    shutil.copy(ward / "other.duckdb", store.path)
    assert any(OLDER in line for line in findings(store))


@pytest.mark.slow
def test_verify_finds_nothing_while_jobs_replace_the_store(tmp_path):
    stays = [admission(n, n, day(0), day(5)) for n in range(1, 31)]
    notes = [note(n, n, "pain home " * n) for n in range(1, 31)]
    store = create_store(
        tmp_path / "w.duckdb", write_hospital(tmp_path / "h", stays, notes[:5]), "mimic3"
    )
    process = jobs.start(jobs.many, store.path, tmp_path / "h", stays, notes)
    times = 0
    while process.exitcode is None or not times:
        assert findings(store) == []
        times += 1
    assert jobs.ended(process) == 0
    assert store.one("SELECT max(run_id) FROM runs") == (20,)
    assert times > 5


def test_a_write_ahead_log_is_found_and_every_job_refuses_it(store):
    script = (
        "import duckdb, os, signal, sys; con = duckdb.connect(sys.argv[1]); "
        "con.execute('DELETE FROM notes'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, store.path], check=False)
    assert killed.returncode == -signal.SIGKILL
    log = store.path.with_name("w.duckdb.wal")
    assert log.exists()
    assert any(f"{log} is a write-ahead log" in line for line in findings(store))
    with pytest.raises(FeatureStoreError, match="is a write-ahead log"):
        sync(Store(store.path))
    # What it would have done was never the store's: without the log it is as the last job left it.
    log.unlink()
    assert findings(store) == []


@pytest.mark.parametrize("name", ["", ".seal", ".lock", ".staging"])
def test_a_file_that_others_may_read_is_found(store, ward, name):
    path = ward / f"w.duckdb{name}"
    path.chmod(0o755 if path.is_dir() else 0o644)
    assert [line.partition(" (")[0] for line in findings(store)] == [f"{path} is open to others"]


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        pytest.param(["DELETE FROM runs WHERE run_id = 2"], "runs lacks the runs between 1"
            " and 3", id="a run in the middle is deleted"),
        pytest.param(["DELETE FROM runs WHERE run_id = 4"], "the checksums in runs are not those "
            "that run 3 recorded", id="the last run is deleted"),
        pytest.param(["UPDATE runs SET uid = 1 WHERE run_id = 2"], "run 2 in runs was changed",
            id="the user of a run is changed"),
        pytest.param(["UPDATE runs SET chain = '' WHERE run_id = 2"], "run 2 in runs was changed",
            id="a chain hash is deleted"),
        pytest.param(["UPDATE notes SET n_chars = 0"], "the checksums in runs are not "
            "those that run 4 recorded", id="notes are changed"),
        pytest.param(["UPDATE scorers SET intercept = 0"], "the coefficients of readmit-v1 are not "
            "those that were fitted", id="an intercept is changed"),
        pytest.param(["CREATE OR REPLACE TABLE notes AS SELECT * REPLACE (if(note_id = '7', "
            "'lost', status) AS status) FROM notes"],
            "1 notes are neither ready nor excluded with a reason", id="a note is unaccounted for"),
        pytest.param(["DELETE FROM embeddings WHERE note_id = '7' AND window_no = 0"],
            "1 notes lack some of their windows", id="a window is missing"),
        pytest.param(["INSERT INTO embeddings FROM embeddings WHERE note_id = '7' LIMIT 1"],
            "embeddings holds 1 duplicate rows", id="a window is duplicated"),
        pytest.param(["CREATE OR REPLACE TABLE embeddings AS FROM embeddings",
            "UPDATE embeddings SET embedding = ['nan', '1', '1', '1']::FLOAT[4] "
            "WHERE note_id = '7'"],
            "embeddings holds 2 vectors that are not finite", id="a vector is not finite"),
        pytest.param(["CREATE OR REPLACE TABLE embeddings AS SELECT * REPLACE (embedding[1:3]::"
            "FLOAT[3] AS embedding) FROM embeddings"],
            "embeddings holds 74 vectors of counter-00000000 that are not 4 wide",
            id="vectors have another width"),
        pytest.param(["UPDATE admission_embeddings SET embedding = [9, 9, 9, 9]::FLOAT[4] "
            "WHERE hadm_id = 7 AND cutoff = '72h'",
            "UPDATE admission_embeddings SET vector_hash = hash(embedding)"],
            "1 means of a sample are not those of their windows", id="a mean is changed"),
    ],
)  # fmt: skip
def test_a_change_by_another_program_is_found_even_with_forged_checksums_and_seal(
    store, changes, finding
):
    change_without_a_job(store, *changes, forged=True)
    assert any(line.startswith(finding) for line in findings(store)), findings(store)


def test_a_change_by_another_program_is_found_after_the_next_jobs_too(store, ward):
    change_without_a_job(store, "UPDATE notes SET n_chars = 0 WHERE note_id = '7'")
    with pytest.warns(StoreChangedWarning, match=f"has changed {store.path} since run 4"):
        embed_pending(Store(store.path), WordCounter())
    # The job has added what it wrote to the sums, and did not read the rest again.
    assert findings(store) == [changed_since(store, 4), "notes is not as it was written"]
    # Not even a job that replaces the row makes it good.
    write_hospital(ward / "h", [admission(n, n, day(0), day(5)) for n in range(1, 41)], [])
    with pytest.warns(StoreChangedWarning, match="since run 4"):
        sync(Store(store.path), force=True)
    assert findings(store) == [changed_since(store, 4), "notes is not as it was written"]


ACCEPTED = [
    pytest.param(["UPDATE notes SET n_chars = 0 WHERE note_id = '7'"],
        ["notes is not as it was written"], id="a note is changed"),
    pytest.param(["DELETE FROM scorer_admissions WHERE hadm_id = 2"],
        ["scorer_admissions has 36 rows, the last run recorded 37"], id="a row is deleted"),
    pytest.param(["DELETE FROM evaluations"], ["evaluations has 0 rows, the last run recorded 1"],
        id="the ledger of evaluations is emptied"),
    pytest.param(["CREATE OR REPLACE VIEW latest_scores AS SELECT 1",
        "DROP MACRO TABLE explain_admission"],
        ["explain_admission is missing", "latest_scores is not defined as this program defines it"],
        id="a view is replaced and a macro dropped"),
    pytest.param(["CREATE VIEW riskiest AS SELECT 1", "DROP VIEW riskiest"], [],
        id="a view comes and goes"),
]  # fmt: skip


def accept(store):
    with pytest.warns(StoreChangedWarning):
        return verify(Store(store.path), accept=True)


@pytest.mark.parametrize(("changes", "sentences"), ACCEPTED)
@pytest.mark.parametrize("jobs_between", [0, 1], ids=["at once", "after a job"])
def test_a_change_by_another_program_is_found_until_a_user_accepts_it(
    store, changes, sentences, jobs_between
):
    change_without_a_job(store, *changes)
    assert findings(store) == [changed_since(store, 4), *sentences]
    for _ in range(jobs_between):
        with pytest.warns(StoreChangedWarning, match="since run 4"):
            train(Store(store.path), "again", baseline=False)
    accepted = findings(store)
    assert accepted[0] == changed_since(store, 4)
    assert accept(store) == []
    (counts,) = Store(store.path).sql("SELECT counts FROM runs WHERE command = 'verify'").fetchall()
    user = pwd.getpwuid(os.getuid()).pw_name
    assert json.loads(counts[0]) == {"accepted_by": user, "changed_since": 4, "accepted": accepted}
    # Clean again, and no job warns.
    train(Store(store.path), "later", baseline=False)
    assert findings(store) == []


def test_what_was_computed_from_an_accepted_row_is_computed_again(store):
    embed_pending(store, WordCounter())
    store.close()
    change_without_a_job(
        store, "UPDATE admissions SET admittime = admittime + INTERVAL 3 DAY WHERE hadm_id = 7"
    )
    assert accept(store) == []
    embed_pending(Store(store.path), WordCounter())
    # The stay is of two days now, and not predicted at 72 hours any more.
    (cutoffs,) = Store(store.path).one(
        "SELECT list(cutoff ORDER BY cutoff) FROM admission_embeddings WHERE hadm_id = 7"
    )
    assert cutoffs == ["24h", "48h", "discharge+48h"]
    assert findings(store) == []


def test_verify_accepts_nothing_in_a_store_that_only_jobs_have_changed(store):
    assert verify(store, accept=True) == []
    assert Store(store.path).one("SELECT max(run_id) FROM runs") == (4,)


@pytest.mark.parametrize(
    ("changes", "damage"),
    [
        pytest.param(["CREATE OR REPLACE TABLE embeddings AS FROM embeddings",
            "UPDATE embeddings SET embedding = ['nan', '1', '1', '1']::FLOAT[], "
            "vector_hash = hash(['nan', '1', '1', '1']::FLOAT[]) WHERE note_id = '7'"],
            "embeddings holds 2 vectors that are not finite", id="vectors are not finite"),
        pytest.param(["DELETE FROM embeddings WHERE note_id = '7' AND window_no = 0"],
            "1 notes lack some of their windows", id="the first window of a note is missing"),
        pytest.param(["DELETE FROM embeddings WHERE note_id = '7' AND window_no = 1"],
            "embeddings has 73 rows, the last run recorded 74", id="the last window is missing"),
        pytest.param(["UPDATE admission_embeddings SET embedding = [9, 9, 9, 9]",
            "UPDATE admission_embeddings SET vector_hash = hash(embedding)"],
            "admission_embeddings is not as it was written", id="means are changed"),
        pytest.param(["UPDATE scorers SET intercept = 0"],
            "the coefficients of readmit-v1 are not those that were fitted", id="a scorer"),
        pytest.param(["UPDATE runs SET uid = 1 WHERE run_id = 2"],
            "run 2 in runs was changed, or does not follow from the run before", id="a logged run"),
        pytest.param(["UPDATE runs SET contents = '{}'"],
            "the checksums in runs are not those that run 4 recorded", id="recorded checksums"),
        pytest.param(["INSERT INTO notes FROM notes WHERE note_id = '7'"],
            "notes holds 1 duplicate rows (by note_id)", id="a duplicate"),
        pytest.param(["ALTER TABLE notes ADD COLUMN text VARCHAR"],
            "notes does not have the columns that were written", id="a column"),
        pytest.param(["CREATE TABLE cohort AS SELECT subject_id FROM admissions"],
            "cohort has no checksum in runs", id="a table that forget would not reach"),
        pytest.param(["CREATE VIEW riskiest AS FROM latest_scores"],
            "riskiest is not a table, view, macro or schema of this program: another one made it - "
            "drop it with that program", id="a view"),
        pytest.param(["CREATE MACRO isfinite(x) AS TRUE"],
            "isfinite is a macro of another program, which could hide anything, so the contents "
            "were not checked - drop it with that program", id="a macro named like a function"),
    ],
)  # fmt: skip
def test_accept_records_nothing_where_there_is_damage(store, changes, damage):
    change_without_a_job(store, "DELETE FROM evaluations", *changes)
    before = store.path.read_bytes()
    first, *others = accept(store)
    assert first.startswith("nothing was accepted: ")
    assert damage in others
    assert store.path.read_bytes() == before
    assert findings(store) == others


def test_no_older_version_is_accepted_in_place_of_the_store(store, ward):
    shutil.copy(ward / "older.duckdb", store.path)
    with pytest.raises(FeatureStoreError, match=OLDER):
        verify(Store(store.path), accept=True)
    # Nor without the seal that gives it away, if it was changed too.
    (ward / "w.duckdb.seal").unlink()
    change_without_a_job(store, "DELETE FROM evaluations")
    first, missing, *_ = accept(store)
    assert first.startswith("nothing was accepted: ")
    assert "w.duckdb.seal is missing" in missing


@pytest.mark.parametrize("forger", ["without a seal", "without checksums"])
def test_a_job_does_not_take_over_a_change_that_no_seal_shows(store, ward, forger):
    change_without_a_job(
        store,
        "DELETE FROM evaluations",
        *(["UPDATE runs SET contents = '{}'"] if forger == "without checksums" else []),
    )
    (ward / "w.duckdb.seal").unlink()
    with pytest.warns(StoreChangedWarning, match="since run 4"):
        embed_pending(Store(store.path), WordCounter())
    assert findings(store) == [changed_since(store, 4)]


def test_a_program_that_writes_while_the_store_is_verified_stops_the_acceptance(store, monkeypatch):
    change_without_a_job(store, "DELETE FROM evaluations")
    transaction = Store.transaction

    def after_another_change(self, *arguments):
        self.path.touch()
        return transaction(self, *arguments)

    monkeypatch.setattr(Store, "transaction", after_another_change)
    with (
        pytest.warns(StoreChangedWarning),
        pytest.raises(FeatureStoreError, match="was changed while it was verified"),
    ):
        verify(Store(store.path), accept=True)
    assert findings(store)[0] == changed_since(store, 4)


def test_every_job_says_on_stderr_that_another_program_changed_the_store(store):
    def run(*arguments):
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    change_without_a_job(store, "DELETE FROM evaluations")
    warning = (
        f"warning: another program has changed {store.path} since run 4 - "
        f'"featurestore verify {store.path}" says what, and with --accept records that it was '
        "meant\n"
    )
    for command in (["sync", store.path], ["score", store.path, "readmit"]):
        assert run(*command).stderr.count(warning) == 1
    assert run("verify", store.path).returncode == 1
    assert run("verify", store.path, "--accept").stdout.startswith("no findings: run ")
    assert "warning" not in run("score", store.path, "readmit").stderr


def test_the_audit_log_says_who_did_what(store):
    rows = store.sql("SELECT run_id, command, uid FROM runs").fetchall()
    assert rows == [
        (number, command, os.getuid())
        for number, command in enumerate(["init", "sync", "embed", "train", "sync"])
    ]


def test_links_and_folders_in_place_of_seal_and_shards_are_found(store, ward):
    (ward / "elsewhere").mkdir(mode=0o700)
    seal = ward / "w.duckdb.seal"
    seal.rename(ward / "elsewhere" / "seal")
    seal.symlink_to(ward / "elsewhere" / "seal")
    junk = store.staging / "counter-00000000" / "junk.shard"
    junk.mkdir(mode=0o700)
    assert findings(store) == [
        f"{seal} is not what a job makes (lrwxrwxrwx) - remove it",
        f"{junk} is not what a job makes (drwx------) - remove it",
        f"{junk} is not a shard (Is a directory) - remove it",
    ]


def test_a_job_on_a_link_changes_the_store_that_it_points_to(store, ward):
    (ward / "link.duckdb").symlink_to(store.path)
    embed_pending(Store(ward / "link.duckdb"), WordCounter())
    assert (ward / "link.duckdb").is_symlink()
    assert Store(store.path).one("SELECT max(run_id) FROM runs") == (5,)
    assert findings(store) == []


def test_renamed_columns_are_found(store):
    names = ("dischtime TO x", "deathtime TO dischtime", "x TO deathtime")
    change_without_a_job(
        store, *(f"ALTER TABLE admissions RENAME {name}" for name in names), forged=True
    )
    assert findings(store)[:2] == [
        "admissions is not defined as this program defines it",
        "the checksums in runs are not those that run 4 recorded",
    ]


def test_a_schema_of_another_program_is_found(store):
    change_without_a_job(store, "CREATE SCHEMA s", "CREATE TABLE s.notes AS SELECT 1", forged=True)
    assert [line.partition(":")[0] for line in findings(store)] == [
        "s is not a table, view, macro or schema of this program"
    ]


def test_verify_does_not_hang_on_a_pipe_in_place_of_the_seal(store, ward):
    (ward / "w.duckdb.seal").unlink()
    os.mkfifo(ward / "w.duckdb.seal", 0o600)
    assert any("w.duckdb.seal cannot be read" in line for line in findings(store))


def test_a_view_of_another_program_is_found(store):
    change_without_a_job(store, "CREATE VIEW riskiest AS FROM latest_scores", forged=True)
    sentence = "riskiest is not a table, view, macro or schema of this program: another one made it"
    assert [line.partition(" - ")[0] for line in findings(store)] == [sentence]


def test_a_rule_that_another_program_changed_is_found(store):
    change_without_a_job(
        store,
        "CREATE OR REPLACE MACRO patient_split(subject_id, turn := 0) AS 'train'",
        "CREATE OR REPLACE VIEW episodes AS SELECT 1 AS hadm_id",
        forged=True,
    )
    ending = "is not defined as this program defines it"
    assert findings(store) == [f"episodes {ending}", f"patient_split {ending}"]


def smuggled_from_another_store(store, shard):
    other = create_store(store.path.with_name("other.duckdb"), store.path.parent / "h", "mimic3")
    shards = Shards(other.staging / "counter-00000000", other.shard_seal())
    for file in store.staging.rglob("*.shard"):
        content = store.shard_seal().open(file)
        (shards.folder).mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"".join(other.shard_seal().seal(file, content)))


def moved_to_another_encoder(store, shard):
    (store.staging / "other-00000000").mkdir(mode=0o700)
    shard.rename(store.staging / "other-00000000" / shard.name)


def given_another_number(store, shard):
    shard.rename(shard.with_name("000777.shard"))


def without_its_mark(store, shard):
    shard.write_bytes(shard.read_bytes()[:-32])


@pytest.mark.parametrize(
    "smuggle",
    [
        smuggled_from_another_store,
        moved_to_another_encoder,
        given_another_number,
        without_its_mark,
    ],
)
def test_a_shard_of_another_origin_is_found_and_never_committed(store, smuggle):
    (shard,) = store.staging.rglob("*.shard")
    smuggle(store, shard)
    assert any("or not a shard of this store - delete it" in line for line in findings(store))
    encoder = WordCounter(next(store.staging.rglob("*.shard")).parent.name)
    with pytest.raises(FeatureStoreError, match="or not a shard of this store - delete it"):
        embed_pending(Store(store.path), encoder)


@pytest.mark.parametrize("flips", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_random_flips_of_a_bit_are_found_or_change_nothing(store, model, tmp_path, flips):
    """A bit in a part of the store that DuckDB does not use may stay unnoticed; nothing else."""
    as_written = everything(store)
    model = shutil.copytree(model, tmp_path / "model")
    (shard,) = store.staging.rglob("*.shard")
    files = [store.path, shard, store.path.with_name("w.duckdb.seal"), *sorted(model.iterdir())]
    rng = random.Random(7)
    missed = []
    for number in range(flips):
        file = files[number % len(files)]
        content = file.read_bytes()
        at, bit = rng.randrange(len(content)), rng.randrange(8)
        data = bytearray(content)
        data[at] ^= 1 << bit
        file.write_bytes(data)
        try:
            if file.parent == model:
                OnnxEncoder(model, device="cpu")
                missed.append((file.name, at, bit))
            elif not findings(store) and (file != store.path or everything(store) != as_written):
                missed.append((file.name, at, bit))
        except FeatureStoreError as error:
            assert "\n" not in str(error)
        file.write_bytes(content)
    assert missed == []
    assert findings(store) == []
    assert json.loads((model / "encoder.json").read_text())["dim"] == 128
