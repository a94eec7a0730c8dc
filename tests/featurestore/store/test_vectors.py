"""Labels and vectors of a store as numpy and Arrow, and a store as Python shows it."""

import doctest

import numpy as np
import pyarrow as pa
import pytest

from featurestore import Store, create_store, embed_pending, promote, sync
from featurestore.errors import FeatureStoreError, NotEnoughDataError
from featurestore.store import store as store_module
from featurestore.store.database import attach, open_duckdb
from featurestore.store.integrity.checksums import insert_rows
from featurestore.store.vectors import arrow_to_vectors, by_row_group
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

STAYS = [
    admission(7, 1, day(0), day(10)),
    admission(8, 1, day(15), day(20)),
    admission(9, 2, day(0), day(10), hospital_expire_flag=1),
    admission(3, 3, day(0), day(10)),
]
NOTES = [
    # Two windows, of which the second is "pain"; and a note that is too late for 72h.
    note(70, 7, "lives alone at home pain", subject_id=1),
    note(71, 7, "pain pain pain", day(9), subject_id=1),
    note(90, 9, "alone", subject_id=2),
    note(30, 3, "pain pain", subject_id=3),
]
ALONE, HOME, PAIN = [2, 1, 2, 1], None, [1, 2, 1, 1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three stays with a label at 72h, two of them with notes, and two encoders of two widths."""
    folder = tmp_path_factory.mktemp("arrays")
    store = create_store(
        folder / "w.duckdb", write_hospital(folder / "hospital", STAYS, NOTES), "mimic3"
    )
    sync(store)
    for encoder in (WordCounter("four-00000000"), WordCounter("two-00000000", dim=2)):
        embed_pending(store, encoder)
    promote(store, "four-00000000")
    return store


def test_a_training_set_has_the_labels_vectors_patients_and_splits_in_the_order_of_hadm_id(store):
    data = store.training_set()
    splits = dict(
        store.sql("SELECT subject_id, patient_split(subject_id) FROM admissions").fetchall()
    )
    assert (data.hadm_id.tolist(), data.groups.tolist()) == ([3, 7], [3, 1])
    assert (data.y.tolist(), data.split.tolist()) == ([False, True], [splits[3], splits[1]])
    assert data.X.tolist() == [[1, 3, 1, 1], [1.5, 1.5, 1.5, 1]]
    assert (data.X.dtype, data.y.dtype, data.hadm_id.dtype) == (np.float32, bool, np.int64)
    assert len(data) == 2
    assert repr(data).startswith("<TrainingSet: 2 admissions (")
    assert repr(data).endswith(", 1 positive, 4 dimensions>")


def test_a_training_set_follows_encoder_cutoff_task_and_horizon(store):
    assert store.training_set("two-00000000").X.tolist() == [[1, 3], [1.5, 1.5]]
    # At discharge the late note is known.
    assert store.training_set(cutoff="discharge").X[1].tolist() == pytest.approx(
        [4 / 3, 7 / 3, 4 / 3, 1]
    )
    assert store.training_set(horizon_days=4).y.tolist() == [False, False]
    died = store.training_set(cutoff="24h", task="in_hospital_mortality")
    assert dict(zip(died.hadm_id.tolist(), died.y.tolist(), strict=True)) == {
        3: False,
        7: False,
        9: True,
    }


def test_vectors_of_admissions_are_an_arrow_table(store):
    table = store.embeddings()
    assert table.column_names == [
        *("hadm_id", "subject_id", "split", "cutoff", "prediction_time", "n_notes", "n_windows"),
        "embedding",
    ]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 4)
    columns = table.select(["hadm_id", "prediction_time", "n_notes", "n_windows", "embedding"])
    assert [tuple(row.values()) for row in columns.to_pylist()] == [
        (3, day(3), 1, 1, [1, 3, 1, 1]),
        (7, day(3), 1, 2, [1.5, 1.5, 1.5, 1]),
        (9, day(3), 1, 1, [2, 1, 1, 1]),
    ]
    assert store.embeddings(encoder="two-00000000")["embedding"].to_pylist()[0] == [1, 3]
    every = store.embeddings(cutoff=None)
    assert set(every["cutoff"].to_pylist()) >= {"24h", "48h", "72h"}
    assert len(every) > len(table)


def test_vectors_of_windows_are_those_known_at_the_cutoff_or_all(store):
    table = store.embeddings("window")
    rows = table.select(["hadm_id", "note_id", "window_no", "embedding"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (3, "30", 0, [1, 3, 1, 1]),
        (7, "70", 0, [2, 1, 2, 1]),
        (7, "70", 1, [1, 2, 1, 1]),
        (9, "90", 0, [2, 1, 1, 1]),
    ]
    assert "71" in store.embeddings("window", cutoff=None)["note_id"].to_pylist()
    assert "71" in store.embeddings("window", cutoff="discharge")["note_id"].to_pylist()


def test_the_matrix_of_an_arrow_column_shares_its_memory(store):
    (chunk,) = store.embeddings()["embedding"].chunks
    matrix = chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, 4)
    assert matrix.tolist() == arrow_to_vectors(chunk).tolist()
    assert matrix.ctypes.data == chunk.values.buffers()[1].address


def test_a_table_without_rows_has_the_type_of_the_others(tmp_path):
    stays = [admission(7, 7, day(0), day(2))]  # too short for 72h
    hospital = write_hospital(tmp_path / "hospital", stays, [note(1, 7, "alone")])
    store = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    for level in ("admission", "window"):
        table = store.embeddings(level)
        assert (len(table), len(store.embeddings(level, cutoff="24h"))) == (0, 1)
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"encoder": "three-00000000"},
            "holds no encoder three-00000000 - it has four-00000000, two-00000000",
            id="encoder",
        ),
        pytest.param(
            {"cutoff": "tomorrow"}, "unknown cutoff tomorrow - use hours after", id="cutoff"
        ),
        pytest.param({"cutoff": "36h"}, "36h .* kept: 24h, 48h, 72h", id="cutoff not kept"),
        pytest.param({"task": "sepsis"}, "unknown task sepsis - known: .*readmission", id="task"),
        pytest.param(
            {"task": "long_stay", "horizon_days": 7},
            "the task long_stay has no horizon - leave horizon_days out",
            id="horizon of a task without one",
        ),
        pytest.param({"horizon_days": 0}, "horizon must be at least 1 day, got 0", id="horizon"),
    ],
)
def test_an_unknown_name_is_one_line_that_names_the_known_ones(store, options, message):
    with pytest.raises(FeatureStoreError, match=message) as error:
        store.training_set(**options)
    assert "\n" not in str(error.value)
    if options.keys() & {"encoder", "cutoff"}:
        with pytest.raises(FeatureStoreError, match=message):
            store.embeddings(**options)


def test_an_unknown_level_is_an_error(store):
    with pytest.raises(FeatureStoreError, match="unknown level note - use admission or window"):
        store.embeddings("note")


def test_a_store_without_vectors_or_labels_says_so(store, tmp_path):
    hospital = write_hospital(tmp_path / "hospital", STAYS[2:3], NOTES[2:3])
    empty = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    for read in (empty.training_set, empty.embeddings):
        with pytest.raises(NotEnoughDataError, match=r"holds no embeddings - .* makes them"):
            read()
    sync(empty)
    embed_pending(empty, WordCounter())
    message = "no admission with vectors by counter-00000000 at 72h has a mature label of the task"
    with pytest.raises(NotEnoughDataError, match=message):
        empty.training_set()


def test_a_store_closes_its_connection_and_opens_it_again(store):
    with Store(store.path) as opened:
        connection = opened.connect()
        assert opened.one("SELECT count(*) FROM notes") == (4,)
    with pytest.raises(Exception, match=r"[Cc]onnection"):
        connection.execute("SELECT 1")
    assert opened.one("SELECT count(*) FROM notes") == (4,)
    opened.close()
    opened.close()


def test_a_store_shows_what_it_holds(store, tmp_path):
    assert repr(store) == f"<Store {store.path}: 4 admissions, 4 notes, encoder four-00000000>"
    new = create_store(tmp_path / "new.duckdb", write_hospital(tmp_path / "h", [], []), "mimic3")
    assert repr(new) == f"<Store {new.path}: 0 admissions, 0 notes, no encoder>"
    new.close()
    new.path.write_bytes(b"")
    assert repr(new) == f"<Store {new.path}: cannot be read (StoreDamagedError)>"
    new.path.unlink()
    assert repr(new) == f"<Store {new.path}: cannot be read (FileNotFoundError)>"


def test_the_example_of_a_store_is_what_python_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stays = [admission(7, 1, day(0), day(10)), admission(8, 1, day(15), day(16))]
    hospital = write_hospital(
        tmp_path / "hospital", stays, [note(1, 7, "alone at home in pain", subject_id=1)]
    )
    embedded = create_store("ward.duckdb", hospital, "mimic3")
    sync(embedded)
    embed_pending(embedded, WordCounter())
    (example,) = (
        test for test in doctest.DocTestFinder().find(store_module) if test.name.endswith(".Store")
    )
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=3)


def test_row_groups_are_full_when_windows_are_written_so_that_none_is_written_twice(tmp_path):
    with open_duckdb() as con:
        attach(con, tmp_path / "w.duckdb", "w", read_only=False)
        con.execute("USE w")
        con.execute("CREATE TABLE windows (note_no INTEGER)")
        rows = pa.table({"note_no": pa.chunked_array([range(1_000)] * 40, pa.int32())})
        parts = by_row_group(rows)
        con.register("parts", parts)
        con.execute("INSERT INTO windows FROM parts")
        con.execute("CHECKPOINT")
        assert con.execute("FROM windows").to_arrow_table()["note_no"] == rows["note_no"]
        stored = con.execute(
            "SELECT max(count) FROM pragma_storage_info('windows') GROUP BY row_group_id ORDER BY 1"
        ).fetchall()
    assert stored == [(7_232,), (16_384,), (16_384,)]


def test_rows_are_not_lost_after_an_insert_that_has_none(tmp_path):
    """DuckDB 1.5 loses them, if they fill a row group; version 2.0 does not."""
    with open_duckdb() as con:
        attach(con, tmp_path / "w.duckdb", "w", read_only=False)
        con.execute("USE w")
        con.execute("CREATE TABLE windows (note_no BIGINT)")
        con.register("none", pa.table({"note_no": pa.array([], pa.int64())}))
        con.execute("BEGIN")
        assert insert_rows(con, "windows", "FROM none") == 0
        assert insert_rows(con, "windows", "FROM range(40_000) ORDER BY 1") == 40_000
        con.execute("COMMIT")
        assert con.execute("SELECT count(*), max(note_no) FROM windows").fetchone() == (
            40_000,
            39_999,
        )


def test_lost_rows_are_an_error(tmp_path):
    with open_duckdb() as con:
        attach(con, tmp_path / "w.duckdb", "w", read_only=False)
        con.execute("USE w")
        con.execute("CREATE TABLE windows (note_no BIGINT)")
        con.register("none", pa.table({"note_no": pa.array([], pa.int64())}))
        con.execute("BEGIN")
        con.execute("INSERT INTO windows FROM none")
        with pytest.raises(FeatureStoreError, match="DuckDB lost rows of windows; nothing was"):
            insert_rows(con, "windows", "FROM range(40_000) ORDER BY 1")
