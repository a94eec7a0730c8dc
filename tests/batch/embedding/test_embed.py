"""Which notes are embedded, what is stored, and how edits change it."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from batch.embedding.encoder import encode
from batch.embedding.shards import Shards
from featurestore import OnnxEncoder, Store, create_store, embed_pending, sync
from featurestore.errors import FeatureStoreError, ModelError, UnknownNameError
from featurestore.source.note_texts import text_hash
from featurestore.store.vectors import arrow_to_vectors
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

STAYS = [admission(7), admission(8)]
NOTES = [
    note(1, 7, "lives alone with pain and pain", day(1)),
    note(2, 7, "home", day(2)),
    note(3, 7, "pain pain pain pain", day(4)),
    note(4, 8, "alone", day(1)),
]


@pytest.fixture
def ward(tmp_path):
    """Return a function that writes the hospital and syncs its store."""

    def write_and_sync(notes, admissions=STAYS):
        folder = write_hospital(tmp_path / "hospital", admissions, notes)
        path = tmp_path / "ward.duckdb"
        store = Store(path) if path.exists() else create_store(path, folder, "mimic3")
        sync(store)
        return store

    return write_and_sync


def stored(store):
    rows = store.sql(
        "SELECT note_id, window_no, hadm_id, n_tokens, embedding FROM embeddings ORDER BY ALL"
    ).fetchall()
    return [(*row, tuple(vector)) for *row, vector in rows]


def means(store, cutoff="72h"):
    rows = store.sql(
        "SELECT hadm_id, n_notes, n_windows, embedding FROM admission_embeddings "
        "WHERE cutoff = $cutoff ORDER BY ALL",
        cutoff=cutoff,
    )
    return {
        hadm: (notes, windows, tuple(vector)) for hadm, notes, windows, vector in rows.fetchall()
    }


def test_every_window_of_every_ready_note_is_stored_once(ward, counter):
    store = ward(NOTES)
    counts = embed_pending(store, counter())
    assert stored(store) == [
        ("1", 0, 7, 6, (2.0, 2.0, 1.0, 1.0)),
        ("1", 1, 7, 4, (1.0, 2.0, 1.0, 1.0)),
        ("2", 0, 7, 3, (1.0, 1.0, 2.0, 1.0)),
        ("3", 0, 7, 6, (1.0, 5.0, 1.0, 1.0)),
        ("4", 0, 8, 3, (2.0, 1.0, 1.0, 1.0)),
    ]
    assert (counts["pending"], counts["embedded"], counts["windows"]) == (4, 4, 5)


def test_the_mean_of_an_admission_is_over_the_windows_known_at_the_prediction(ward, counter):
    store = ward(NOTES)
    embed_pending(store, counter())
    assert means(store, "24h") == {
        7: (1, 2, (1.5, 2.0, 1.0, 1.0)),
        8: (1, 1, (2.0, 1.0, 1.0, 1.0)),
    }
    third = np.float32(4 / 3)
    assert means(store, "72h")[7] == (2, 3, (third, np.float32(5 / 3), third, 1.0))
    assert means(store, "discharge+48h")[7] == (3, 4, (1.25, 2.5, 1.25, 1.0))


def test_means_equal_those_of_numpy(ward, model, write_prose):
    notes = [note(n, 7 + n % 2, write_prose(20 * n, n), day(n % 5)) for n in range(1, 20)]
    store = ward(notes)
    embed_pending(store, OnnxEncoder(model, "cpu"))
    table = store.sql("SELECT hadm_id, available_at, embedding FROM embeddings").to_arrow_table()
    vectors = arrow_to_vectors(table["embedding"])
    for hadm_id, (_, n_windows, mean) in means(store, "72h").items():
        rows = (table["hadm_id"].to_numpy() == hadm_id) & (
            table["available_at"].to_numpy() <= np.datetime64(day(3))
        )
        assert n_windows == rows.sum()
        assert np.array(mean) == pytest.approx(
            vectors[rows].mean(axis=0, dtype=np.float64), abs=1e-6
        )


def test_a_second_run_embeds_nothing_and_writes_nothing(ward, counter):
    store = ward(NOTES)
    embed_pending(store, counter())
    version = store.path.stat().st_mtime_ns
    again = counter()
    counts = embed_pending(store, again)
    assert (counts["pending"], counts["embedded"], again.texts_seen) == (0, 0, [])
    assert store.path.stat().st_mtime_ns == version


def test_only_new_and_changed_notes_are_embedded(ward, counter):
    embed_pending(ward(NOTES), counter())
    store = ward([*NOTES[:3], NOTES[3] | {"TEXT": "home home"}, note(5, 8, "pain")])
    again = counter()
    embed_pending(store, again)
    assert sorted(again.texts_seen) == ["home home", "pain"]
    assert [row[-1] for row in stored(store) if row[2] == 8] == [
        (1.0, 1.0, 3.0, 1.0),
        (1.0, 2.0, 1.0, 1.0),
    ]
    assert means(store)[8] == (2, 2, (1.0, 1.5, 2.0, 1.0))


@pytest.mark.parametrize("windows", [1, 2, 3, 4])
def test_the_mean_changes_with_an_edit_that_keeps_the_number_of_windows(ward, counter, windows):
    # DuckDB's hash of several columns is linear in the last one: over an even number of windows the
    # hashes of their text cancel out, unless they are hashed again.
    texts = ["home quiet quiet quiet " * windows, "home pain quiet quiet " * windows]
    for text in texts:
        store = ward([note(1, 7, text, day(1))])
        embed_pending(store, counter())
    assert means(store) == {7: (1, windows, (1.0, 2.0, 2.0, 1.0))}


def test_vectors_of_flagged_and_withdrawn_notes_are_deleted_and_the_means_change(ward, counter):
    embed_pending(ward(NOTES), counter())
    store = ward([NOTES[0] | {"ISERROR": 1}, NOTES[1], NOTES[3]])
    # A flagged note does not count from the sync on, before the next embed.
    assert store.one("SELECT count(*) FROM known_notes(cutoff := 'discharge')") == (2,)
    embed_pending(store, counter())
    assert [row[0] for row in stored(store)] == ["2", "4"]
    assert means(store)[7] == (1, 1, (1.0, 1.0, 2.0, 1.0))


def test_the_vector_of_an_edited_note_does_not_count_from_the_sync_on(ward, counter):
    embed_pending(ward(NOTES), counter())
    store = ward([NOTES[0] | {"TEXT": "edited"}, *NOTES[1:]])
    windows = store.sql(
        "SELECT hadm_id, n_notes FROM admission_windows(cutoff := 'discharge') ORDER BY 1"
    )
    assert windows.fetchall() == [(7, 2), (8, 1)]


def test_a_note_that_moves_to_another_admission_keeps_its_vectors(ward, counter):
    embed_pending(ward(NOTES), counter())
    moved = NOTES[1] | {"HADM_ID": 8, "SUBJECT_ID": 8}
    store = ward([NOTES[0], moved, *NOTES[2:]])
    again = counter()
    embed_pending(store, again)
    assert again.texts_seen == []
    assert [row[2] for row in stored(store) if row[0] == "2"] == [8]
    assert (means(store)[7][0], means(store)[8][0]) == (1, 2)


def test_a_stay_that_becomes_too_short_loses_its_mean(ward, counter):
    embed_pending(ward(NOTES), counter())
    store = ward(NOTES, [admission(7, discharged=day(2)), admission(8)])
    embed_pending(store, counter())
    assert set(means(store, "72h")) == {8}
    assert set(means(store, "24h")) == {7, 8}


def test_a_note_one_second_after_the_prediction_time_changes_nothing(ward, counter):
    embed_pending(ward(NOTES), counter())
    before = means(ward(NOTES), "72h")
    store = ward([*NOTES, note(9, 7, "canary canary", day(3, 12, 0, 1))])
    embed_pending(store, counter())
    assert means(store, "72h") == before
    assert means(store, "discharge+48h")[7][0] == 4


def test_a_note_without_tokens_stays_excluded_until_its_text_changes(ward, counter):
    blank = note(5, 8, "\N{ZERO WIDTH SPACE}")

    class SkipsZeroWidth(counter):
        def tokenize(self, texts):
            return super().tokenize([text.replace("\N{ZERO WIDTH SPACE}", "") for text in texts])

    store = ward([*NOTES, blank])
    assert embed_pending(store, SkipsZeroWidth())["no_words"] == 1
    store = ward([*NOTES, blank])
    assert store.sql("SELECT reason FROM notes WHERE note_id = '5'").fetchall() == [("no words",)]
    assert embed_pending(store, SkipsZeroWidth())["pending"] == 0
    store = ward([*NOTES, blank | {"TEXT": "pain"}])
    assert embed_pending(store, SkipsZeroWidth())["embedded"] == 1


def test_encoders_of_several_widths_in_one_store_never_mix(ward, counter):
    class Tenfold(counter):
        def run(self, batch):
            return super().run(batch) * 10

    store = ward(NOTES)
    embed_pending(store, counter("one-00000000"))
    embed_pending(store, Tenfold("ten-00000000", dim=3))
    embed_pending(store, counter("two-00000000"))
    rows = store.sql("FROM encoders SELECT encoder_id, active ORDER BY 1").fetchall()
    assert rows == [("one-00000000", True), ("ten-00000000", False), ("two-00000000", False)]
    for cutoff in ("24h", "72h", "discharge+48h"):
        pairs = store.sql(
            """
            SELECT a.n_windows, b.n_windows, a.embedding, b.embedding
            FROM admission_embeddings AS a
            INNER JOIN admission_embeddings AS b USING (hadm_id, cutoff)
            WHERE a.encoder_id = 'one-00000000' AND b.encoder_id = 'ten-00000000'
                AND cutoff = $cutoff
            """,
            cutoff=cutoff,
        ).fetchall()
        assert len(pairs) == 2
        for ones, tens, one, ten in pairs:
            assert ones == tens
            assert np.array(one[:3]) * 10 == pytest.approx(np.array(ten), rel=1e-6)
    # An edit removes the vectors of all; each encoder embeds the new text in its own run.
    store = ward([NOTES[0] | {"TEXT": "home"}, *NOTES[1:]])
    embed_pending(store, counter("one-00000000"))
    counts = store.sql(
        "SELECT encoder_id, count(*) FROM embeddings GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert counts == [("one-00000000", 4), ("ten-00000000", 3), ("two-00000000", 3)]
    # Without the first note: the other two means are over "home" and "pain pain pain pain".
    assert store.sql(
        "SELECT encoder_id, embedding FROM admission_embeddings "
        "WHERE (hadm_id, cutoff) = (7, 'discharge+48h') AND encoder_id <> 'one-00000000' ORDER BY 1"
    ).fetchall() == [("ten-00000000", [10.0, 30.0, 15.0]), ("two-00000000", [1.0, 3.0, 1.5, 1.0])]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda vectors: vectors[:, :3], r"made vectors of shape \(5, 3\) where \(5, 4\)"),
        (lambda vectors: vectors * np.float32("nan"), "made vectors with NaN or infinity"),
        (lambda vectors: vectors / np.float32(0), "made vectors with NaN or infinity"),
        (lambda vectors: vectors * 0 + 1, "gives every note the same vector"),
    ],
    ids=["of a wrong width", "not a number", "infinite", "the same for every note"],
)
def test_bad_vectors_are_refused_and_nothing_is_stored(ward, counter, spoil, message):
    class Broken(counter):
        def run(self, batch):
            with np.errstate(all="ignore"):
                return spoil(super().run(batch))

    store = ward([*NOTES[:3], note(4, 8, "alone alone")])
    with pytest.raises(ModelError, match=message):
        embed_pending(store, Broken())
    assert stored(store) == []
    assert not store.staging.exists()


def test_a_category_that_no_note_has_is_an_error(ward, counter):
    store = ward([note(1, 7, "home", category="Nursing")])
    with pytest.raises(UnknownNameError, match=r"no note of .* has the category Nursin - .* lists"):
        embed_pending(store, counter(), categories=["Nursing", "Nursin"])
    assert embed_pending(store, counter(), categories=["Nursing"])["embedded"] == 1


def test_limit_leaves_the_rest_to_the_next_run(ward, counter):
    store = ward(NOTES)
    assert embed_pending(store, counter(), limit=3)["embedded"] == 3
    assert embed_pending(store, counter())["embedded"] == 1
    assert len(stored(store)) == 5


def test_a_text_that_changed_since_the_sync_waits_for_the_next_sync(ward, counter, tmp_path):
    store = ward(NOTES)
    write_hospital(tmp_path / "hospital", STAYS, [NOTES[0] | {"TEXT": "newer"}, *NOTES[1:3]])
    seen = counter()
    counts = embed_pending(store, seen)
    assert (counts["changed_since_sync"], counts["withdrawn_since_sync"]) == (1, 1)
    assert "newer" not in seen.texts_seen
    assert counts["embedded"] == 2


def test_a_note_that_is_skipped_in_two_runs_is_counted(ward, counter, tmp_path):
    store = ward(NOTES[:3])
    write_hospital(tmp_path / "hospital", STAYS, [NOTES[0] | {"TEXT": "newer"}, *NOTES[1:3]])
    for expected in ((1, 0), (1, 1), (1, 1)):
        counts = embed_pending(store, counter())
        assert (counts["changed_since_sync"], counts["changed_again"]) == expected
    (last,) = store.sql("SELECT max(run_id) FROM runs").fetchone()
    embed_pending(store, counter())
    assert store.sql("SELECT max(run_id) FROM runs").fetchone() == (last,)
    sync(store)
    counts = embed_pending(store, counter())
    assert (counts["embedded"], counts["changed_since_sync"]) == (1, 0)


def test_a_killed_run_resumes_from_its_shards(ward, counter, tmp_path):
    many = [note(n, 7, f"pain {n} home " * 900, day(1)) for n in range(1, 90)]
    store = ward(many)
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path.cwd())!r})
        from featurestore import embed_pending
        from featurestore import Store
        from tests.conftest import WordCounter
        def kill_after_the_first_shard(done, total, throughput):
            if len(list(store.staging.rglob("*.shard"))):
                os.kill(os.getpid(), signal.SIGKILL)
        store = Store({str(store.path)!r})
        WordCounter.budget = 100
        embed_pending(store, WordCounter(), progress=kill_after_the_first_shard)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert stored(store) == []
    again = counter()
    counts = embed_pending(store, again)
    assert counts["resumed"] > 0
    assert counts["resumed"] + counts["embedded"] == 89
    assert len(again.texts_seen) == counts["embedded"]
    undisturbed = create_store(tmp_path / "other.duckdb", tmp_path / "hospital", "mimic3")
    sync(undisturbed)
    embed_pending(undisturbed, counter())
    assert stored(store) == stored(undisturbed)
    assert means(store) == means(undisturbed)
    assert not store.staging.exists()


def test_staged_windows_of_a_note_withdrawn_before_the_commit_are_not_stored(ward, counter):
    store = ward(NOTES)
    shards = Shards(store.staging / "counter-00000000", store.shard_seal())
    shards.write(["4"], [text_hash("alone")], encode(counter(), counter().tokenize(["alone"])))
    store = ward([*NOTES[:3], note(5, 8, "home")])
    counts = embed_pending(store, counter())
    assert (counts["resumed"], counts["embedded"]) == (0, 4)
    assert [row[0] for row in stored(store)] == ["1", "1", "2", "3", "5"]
    assert not store.staging.exists()


def test_a_shard_is_private_and_complete_or_absent(ward, tmp_path, counter):
    shards = Shards(tmp_path / "staging" / "encoder", ward(NOTES).shard_seal())
    shards.write(["1"], ["h"], encode(counter(), counter().tokenize(["chest pain"])))
    (shards.folder / ".000001.shard.partial").write_bytes(b"half")
    assert [path.name for path in shards.files()] == ["000000.shard"]
    assert shards.notes().to_pylist() == [{"note_id": "1", "text_hash": "h"}]
    assert shards.files()[0].stat().st_mode & 0o777 == 0o600
    assert shards.folder.stat().st_mode & 0o777 == 0o700
    data = bytearray(shards.files()[0].read_bytes())
    data[30] ^= 1
    shards.files()[0].write_bytes(data)
    with pytest.raises(
        FeatureStoreError,
        match=r"000000.shard is damaged, or not a shard of this store",
    ):
        list(shards.tables())


def test_note_text_is_nowhere_on_disk(ward, counter, tmp_path):
    store = ward([note(1, 7, "canary PHI_CANARY_7f3a lives here", day(1))])
    embed_pending(store, counter())
    files = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and "hospital" not in path.parts and b"PHI_CANARY" in path.read_bytes()
    ]
    assert files == []
