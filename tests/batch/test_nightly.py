"""The nightly job: what it changes, and when the drift check stops it."""

import json
import random
import shutil

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

from batch.embedding.drift import NightlyStats
from featurestore import (
    Store,
    create_store,
    drop_encoder,
    embed_pending,
    nightly,
    promote,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.errors import FeatureStoreError, ModelError, UnusualNightError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

PATIENTS = 40


class Ward:
    """A hospital on disk, to which notes are added, and its store."""

    def __init__(self, folder, trained=None):
        self.folder = folder / "h"
        # Every second patient returns, and has notes of other words.
        self.stays = [admission(n, n, day(0), day(5)) for n in range(1, PATIENTS + 1)]
        self.stays += [admission(n + 1_000, n, day(20), day(25)) for n in range(1, PATIENTS, 2)]
        self.notes = [
            note(n, n, "pain pain alone" if n % 2 else "home quiet") for n in range(1, PATIENTS + 1)
        ]
        self.write()
        if trained:
            for name, data in trained.items():
                (folder / name).touch(mode=0o600)
                (folder / name).write_bytes(data)
            self.store = Store(folder / "w.duckdb")
            return
        self.store = create_store(folder / "w.duckdb", self.folder, "mimic3")
        sync(self.store)
        embed_pending(self.store, WordCounter())
        train(self.store, "readmit", baseline=False)

    def write(self):
        write_hospital(self.folder, self.stays, self.notes)

    def add(self, count, words=("home", "pain", "quiet"), **others):
        first = len(self.notes) + 1
        for n in range(first, first + count):
            text = " ".join(random.Random(n).choices(words, k=4))
            self.notes.append(note(n, 1 + n % PATIENTS, text, day(1), **others))
        self.write()

    def night(self, **options):
        return nightly(self.store, WordCounter(), "readmit", **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of the ward, and its trained store and seal as bytes."""
    folder = tmp_path_factory.mktemp("ward")
    Ward(folder)
    return folder, {name: (folder / name).read_bytes() for name in ("w.duckdb", "w.duckdb.seal")}


@pytest.fixture
def ward(trained):
    """Return the trained ward, in the folder whose path its store holds."""
    folder, store = trained
    shutil.rmtree(folder)
    folder.mkdir()
    return Ward(folder, store)


def last_runs(store):
    return [
        c
        for (c,) in store.sql(
            "SELECT command FROM runs WHERE run_id > 0 ORDER BY run_id"
        ).fetchall()
    ]


def test_a_night_is_one_commit_of_sync_embed_and_score(ward):
    first = ward.night()
    assert first["scored"] == ward.store.one("SELECT count(*) FROM latest_scores")[0] == PATIENTS
    ward.notes[1] |= {"TEXT": "pain pain pain"}
    ward.notes[2] |= {"ISERROR": 1}
    ward.notes.append(note(99, 5, "quiet home"))
    ward.write()
    result = ward.night()
    assert last_runs(ward.store) == ["sync", "embed", "train", "nightly", "nightly"]
    names = ("new", "changed", "withdrawn", "seen", "excluded", "embedded", "waiting", "windows")
    assert {name: result[name] for name in names} == {
        **{"new": 1, "changed": 2, "withdrawn": 0, "seen": 3, "excluded": 1},
        **{"embedded": 2, "waiting": 0, "windows": 2},
    }
    # Two stays have other vectors, and one has no note left: no other stay is scored again.
    assert result["scored"] == 2
    scored = ward.store.sql("SELECT hadm_id FROM scores WHERE run_id = 5 ORDER BY 1").fetchall()
    assert scored == [(2,), (5,)]
    assert result["run_id"] == 5
    assert set(result["seconds"]) == {"sync", "embed", "apply", "commit"}
    (counts,) = ward.store.one("SELECT counts FROM runs WHERE run_id = 5")
    assert json.loads(counts)["embedded"] == 2


def test_a_night_with_nothing_new_writes_nothing(ward):
    first = ward.night()
    before = ward.store.path.read_bytes()
    result = ward.night()
    assert (result["run_id"], result["embedded"], result["scored"]) == (None, 0, 0)
    assert result["unchanged"] == PATIENTS
    assert set(result) == set(first) and set(result["seconds"]) == set(first["seconds"])
    assert ward.store.path.read_bytes() == before


def test_a_live_stay_is_scored_once_its_prediction_time_has_come(ward):
    from datetime import datetime, timedelta

    with ward.store.transaction("test") as transaction:
        transaction.con.execute("UPDATE settings SET live = TRUE")
    result = ward.night()
    assert result["scored"] == 0  # these stays are of the year 2150
    now = datetime.now().replace(microsecond=0)
    ward.stays += [
        admission(501, 501, now - timedelta(days=4), now - timedelta(hours=1)),
        admission(502, 502, now - timedelta(days=1), now + timedelta(days=1)),
    ]
    for stay in (501, 502):
        ward.notes.append(note(stay, stay, "pain", now - timedelta(hours=20)))
    ward.notes[-2] |= {"STORETIME": now - timedelta(days=3), "CHARTTIME": now - timedelta(days=3)}
    ward.write()
    assert ward.night()["scored"] == 1
    assert ward.store.sql("SELECT hadm_id FROM latest_scores").fetchall() == [(501,)]


def test_a_scorer_of_another_encoder_is_refused_before_anything_is_read(ward):
    ward.add(3)
    other = WordCounter("other-00000000")
    with pytest.raises(ModelError, match="readmit-v1 was trained on counter-00000000, and"):
        nightly(ward.store, other, "readmit")
    assert other.texts_seen == []


@pytest.mark.slow
def test_far_more_notes_than_usual_are_a_warning(ward):
    for _ in range(5):
        ward.add(10)
        ward.night()
    ward.add(200)
    result = ward.night()
    assert result["warnings"] == ["200 notes are new or changed, usually 10"]
    assert result["unusual"] == []


def test_far_fewer_notes_than_usual_stop_the_commit_a_day_later_unless_forced(ward):
    for _ in range(5):
        ward.add(40)
        ward.night()
    ward.add(1)
    with ward.store.transaction("benchmark") as transaction:
        transaction.con.execute("UPDATE runs SET started_at = started_at - INTERVAL 23 HOURS")
    before = ward.store.path.read_bytes()
    with pytest.raises(UnusualNightError) as stopped:
        ward.night()
    assert (
        "the drift check failed: only 1 notes are new or changed, usually 40; nothing was changed"
        in str(stopped.value)
    )
    assert ward.store.path.read_bytes() == before
    result = ward.night(force=True)
    # The embedded window stayed staged.
    assert (result["resumed"], result["embedded"]) == (1, 0)
    assert result["unusual"] == ["only 1 notes are new or changed, usually 40"]


@pytest.mark.slow
@pytest.mark.parametrize("excluded_before", [0, 20])
def test_more_excluded_notes_than_usual_stop_the_commit_and_fewer_are_a_warning(
    ward, excluded_before
):
    for _ in range(5):
        ward.add(40 - excluded_before)
        ward.add(excluded_before, iserror=1)
        ward.night()
    if excluded_before:
        ward.add(40)
        warning = "0% of the new or changed notes are excluded, usually 50%"
        assert ward.night()["warnings"] == [warning]
        return
    ward.add(20)
    ward.add(20, iserror=1)
    with pytest.raises(
        UnusualNightError, match="50% of the new or changed notes are excluded, usually 0%"
    ):
        ward.night()


def test_drift_of_the_vectors_of_a_category_stops_the_commit(ward):
    for _ in range(5):
        ward.add(30)
        ward.add(30, ("alone", "quiet"), category="Radiology")
        ward.night()
    ward.add(30, ("alone", "quiet"), category="Radiology")
    ward.add(30, ("canary", "home"))
    with pytest.raises(UnusualNightError, match="mean vector of Nursing moved by") as stopped:
        ward.night()
    assert "Radiology" not in str(stopped.value)
    ward.night(force=True)


def test_mean_and_spread_equal_those_of_numpy():
    rng = np.random.default_rng(0)
    X = rng.normal(3, 2, (500, 8)).astype(np.float32)
    stats = NightlyStats("e", 8)
    for part in (slice(0, 100), slice(100, 500)):
        windows = duckdb.sql(
            f"SELECT CASE WHEN i % 5 < 3 THEN 'a' END AS c, i % 2 AS w "
            f"FROM range({part.start}, {part.stop}) AS t (i)"
        ).to_arrow_table()
        stats.add(windows["c"], windows["w"], X[part])
    by_category = stats.by_category()
    for name, rows in (
        ("a", X[np.arange(500) % 5 < 3]),
        ("", X[np.arange(500) % 5 >= 3]),
    ):
        assert (by_category[name].windows, by_category[name].notes) == (len(rows), len(rows) // 2)
        assert by_category[name].mean == pytest.approx(rows.mean(axis=0), abs=1e-5)
        spread = np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert by_category[name].spread == pytest.approx(spread, rel=1e-5)


def test_with_since_only_later_notes_are_compared_and_no_other_is_lost(ward):
    from datetime import date

    ward.night()
    ward.notes.append(note(98, 4, "pain late home", day(3)))
    ward.notes[0] |= {"TEXT": "pain home pain, an edit before that day"}
    del ward.notes[1]
    ward.write()
    result = ward.night(since=date(2150, 1, 4))
    assert (result["total"], result["new"], result["changed"], result["withdrawn"]) == (1, 1, 0, 0)
    assert ward.store.one("SELECT count(*) FROM notes") == (PATIENTS + 1,)
    result = ward.night()
    assert (result["new"], result["changed"], result["withdrawn"]) == (0, 1, 1)


def test_the_command_prints_one_json_line_and_info_lists_the_nights(ward, model):
    from featurestore import OnnxEncoder

    encoder = OnnxEncoder(model, "cpu")
    embed_pending(ward.store, encoder)
    train(ward.store, "readmit", encoder.id, baseline=False)
    command = ["nightly", str(ward.store.path), str(model), "readmit", "--device", "cpu"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    counts = json.loads(line)
    assert counts["scored"] == PATIENTS and counts["provider"] == "CPUExecutionProvider"
    info = json.loads(CliRunner().invoke(main, ["info", str(ward.store.path), "--json"]).stdout)
    assert [night["scored"] for night in info["nights"]] == [PATIENTS]


def test_an_encoder_is_dropped_with_its_vectors_only(ward):
    embed_pending(ward.store, WordCounter("new-00000000", dim=3))
    with pytest.raises(FeatureStoreError, match="counter-00000000 is the active encoder"):
        drop_encoder(ward.store, "counter-00000000")
    promote(ward.store, "new-00000000")
    with pytest.raises(FeatureStoreError, match="readmit-v1 cannot score without the vectors"):
        drop_encoder(ward.store, "counter-00000000")
    assert drop_encoder(ward.store, "counter-00000000", force=True) == PATIENTS
    for table in ("encoders", "embeddings", "admission_embeddings"):
        left = ward.store.sql(f"SELECT DISTINCT encoder_id FROM {table}").fetchall()
        assert left == [("new-00000000",)]
    with pytest.raises(ModelError, match="the encoder counter-00000000 was dropped from"):
        nightly(ward.store, WordCounter(), "readmit")  # It would embed all notes again.
    assert verify(ward.store) == []


def test_embedding_only_some_categories(ward):
    ward.add(3, category="Radiology")
    sync(ward.store)
    counts = embed_pending(ward.store, WordCounter("try-00000000"), categories=["Radiology"])
    assert (counts["embedded"], counts["waiting"]) == (3, PATIENTS)
    assert embed_pending(ward.store, WordCounter("try-00000000"))["embedded"] == PATIENTS


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("DELETE FROM notes WHERE note_id = '7'", "notes has 39 rows, the last run recorded 40"),
        ("UPDATE notes SET n_chars = 0 WHERE note_id = '7'", "notes is not as it was written"),
        ("INSERT INTO notes FROM notes LIMIT 1", "notes holds 1 duplicate rows (by note_id)"),
        (
            "UPDATE embeddings SET embedding = [9, 9, 9, 9] WHERE note_id = '7'",
            "embeddings holds 1 vectors that are not as they were written",
        ),
        ("UPDATE scorers SET intercept = 0", "scorers is not as it was written"),
        ("CREATE TABLE extra AS SELECT 1", "extra has no checksum in runs"),
    ],
)
def test_verify_detects_changes_by_other_programs(ward, tmp_path, statement, finding):
    assert verify(ward.store) == []
    copy = shutil.copy(ward.store.path, tmp_path / "copy.duckdb")
    with duckdb.connect(copy) as con:
        con.execute(statement)
    findings = verify(Store(copy))
    assert any(finding in line for line in findings), findings
    result = CliRunner().invoke(main, ["verify", str(copy)])
    assert result.exit_code == 1 and finding in result.stdout
