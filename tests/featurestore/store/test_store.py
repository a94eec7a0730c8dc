"""The store: versions replaced by rename, one job at a time, readers that never wait."""

import errno
import os
import pwd
import re
import stat
import subprocess
import sys
import textwrap

import duckdb
import pytest

from featurestore import Store, create_store, info, verify
from featurestore.cli.text_tables import info_table
from featurestore.errors import (
    FeatureStoreError,
    StoreBusyError,
    StoreDamagedError,
    StoreNotFoundError,
)
from featurestore.store.changes import log_changes
from featurestore.store.integrity.checksums import (
    checksums,
    delete_rows,
    recorded_checksums,
    update_rows,
)
from tests.hospital import admission, note, write_hospital


@pytest.fixture
def store(tmp_path):
    folder = write_hospital(tmp_path / "hospital", [admission(7)], [note(1, 7, "text")])
    return create_store(tmp_path / "ward.duckdb", folder, "mimic3")


def add_run(store, command="test"):
    with store.transaction(command) as transaction:
        transaction.counts["answer"] = 42


def runs(store):
    return store.one("SELECT count(*) FROM runs WHERE command <> 'init'")[0]


def test_a_transaction_makes_a_new_version_and_records_a_run(store):
    add_run(store)
    add_run(store, "again")
    rows = store.sql("SELECT run_id, command, status, counts FROM runs ORDER BY 1").fetchall()
    assert rows == [
        (0, "init", "done", "{}"),
        (1, "test", "done", '{"answer": 42}'),
        (2, "again", "done", '{"answer": 42}'),
    ]


def test_a_failed_transaction_leaves_the_store_unchanged(store):
    before = store.path.read_bytes()
    with pytest.raises(RuntimeError, match="half way"), store.transaction("test") as transaction:
        transaction.con.execute("DELETE FROM settings")
        raise RuntimeError("half way")
    assert store.path.read_bytes() == before
    assert not store.staging.exists()
    add_run(store)
    assert runs(store) == 1


def test_a_reader_keeps_the_version_it_opened_and_the_next_sees_the_new_one(store):
    outside = duckdb.connect(store.path, read_only=True)
    relation = store.sql("SELECT max(run_id) FROM runs")
    add_run(store)
    assert outside.execute("SELECT max(run_id) FROM runs").fetchone() == (0,)
    assert relation.fetchone() == (0,)
    assert store.one("SELECT max(run_id) FROM runs") == (1,)


def test_a_version_with_duplicate_keys_is_refused(store):
    refused = pytest.raises(
        FeatureStoreError, match=r"scorers holds 1 duplicate rows .*; nothing was changed"
    )
    with refused, store.transaction("test") as transaction:
        for _ in range(2):
            transaction.con.execute(
                "INSERT INTO scorers SELECT 's-v1', 's', 1, 'e', '72h', 'readmission', 30, "
                "list_value(0.5)::FLOAT[] || [0.5 for x in range(767)], 0, '{}', 'h', now(), "
                "'mean', 1, 0, 0, 1, '', '', '', NULL, NULL"
            )
    assert store.one("SELECT count(*) FROM scorers") == (0,)


@pytest.mark.parametrize(
    "insert",
    [
        "embeddings SELECT 'e-3', 7, '1', 0, 3, now(), 'h', 0, {}",
        "admission_embeddings SELECT 'e-3', 7, '72h', now(), 1, 1, 0, 0, {}",
        "archived_admission_embeddings SELECT 'e-3', 7, '72h', 0, {}",
        "nightly_embedding_stats SELECT 1, 'e-3', 'Nursing', 1, 1, 0, {}",
        "scorers SELECT 's-v1', 's', 1, 'e-3', '72h', 'readmission', 30, {}, 0, '{{}}', 'h', "
        "now(), 'mean', 1, 0, 0, 1, '', '', '', NULL, NULL",
    ],
    ids=lambda insert: insert.split()[0],
)
def test_a_version_with_a_vector_that_is_not_as_wide_as_its_encoders_is_refused(store, insert):
    with store.transaction("test") as transaction:
        for dim in (2, 3):
            transaction.con.execute(
                f"INSERT INTO encoders VALUES ('e-{dim}', 'e', 'f', {dim}, 'fp32', 8, 0, '{{}}', "
                "FALSE, NULL)"
            )
        transaction.con.execute(f"INSERT INTO {insert.format([1, 2, 3])}")
    table = insert.split()[0]
    refused = pytest.raises(
        FeatureStoreError, match=f"{table} holds 1 vectors of e-3 that are not 3 wide; nothing was"
    )
    with refused, store.transaction("test") as transaction:
        delete_rows(transaction.con, table, "TRUE")
        transaction.con.execute(f"INSERT INTO {insert.format([1, 2])}")
    assert store.one(f"SELECT count(*) FROM {table}") == (1,)


@pytest.mark.parametrize("rows", ["TRUE", "note_id = '7'"])
def test_a_version_whose_rows_were_deleted_without_being_counted_is_refused(store, rows):
    with store.transaction("test") as transaction:
        transaction.con.execute(
            "INSERT INTO notes SELECT n, 1, 1, '', now(), '', '', 1, 'ready', NULL "
            "FROM (SELECT unnest(['7', '8']) AS n)"
        )
    refused = pytest.raises(FeatureStoreError, match="rows of notes were changed unnoticed")
    with refused, store.transaction("test") as transaction:
        transaction.con.execute(f"DELETE FROM notes WHERE {rows}")
    assert store.one("SELECT count(*) FROM notes") == (2,)


def test_checksums_by_difference_are_those_of_the_whole_tables(store):
    def recorded():
        return recorded_checksums(store.connect())[0], checksums(store.connect())

    with store.transaction("test") as transaction:
        con = transaction.con
        con.execute(
            "INSERT INTO notes SELECT range, range % 9, 1, '', now(), '', '', 1, 'ready', NULL "
            "FROM range(1000)"
        )
        # Rows of this transaction are deleted and updated again.
        assert delete_rows(con, "notes", "hadm_id = 3") == 111
        assert update_rows(con, "notes", "n_chars = 5", "hadm_id = 4") == 111
    assert len(set(map(str, recorded()))) == 1
    with store.transaction("test") as transaction:
        con = transaction.con
        con.execute("CREATE TEMP TABLE moved AS SELECT '7' AS note_id, 70 AS hadm_id")
        assert delete_rows(con, "notes", "hadm_id = $1", [4]) == 111
        assert (
            update_rows(
                con, "notes", "n_chars = 6, reason = 'x', status = 'excluded'", "hadm_id = 5"
            )
            == 111
        )
        assert (
            update_rows(
                con,
                "notes",
                "hadm_id = m.hadm_id FROM moved AS m",
                "note_id = '7'",
                "notes.note_id = m.note_id",
            )
            == 1
        )
        assert update_rows(con, "notes", "n_chars = 7", "hadm_id = 70 OR hadm_id = 5") == 112
        con.execute("INSERT INTO notes SELECT 'new', 4, 1, '', now(), '', '', 1, 'ready', NULL")
    assert store.one("SELECT count(*), sum(n_chars) FROM notes") == (779, 667 + 7 * 112)
    assert len(set(map(str, recorded()))) == 1


def test_many_changes_are_logged_after_a_step_without_any(store):
    """DuckDB 1.5 loses rows that are inserted after an INSERT ... ORDER BY of none."""
    with store.transaction("test") as transaction:
        con = transaction.con
        con.execute(
            "INSERT INTO admissions (hadm_id, subject_id, admittime, died_in_hospital, planned) "
            "SELECT range, range, now(), FALSE, FALSE FROM range(1000, 201000)"
        )
        log_changes(con, "SELECT hadm_id FROM admissions WHERE FALSE")
        log_changes(con, "SELECT hadm_id FROM admissions WHERE hadm_id BETWEEN 1000 AND 18999")
        logged = con.execute("SELECT count(hadm_id) FROM changed_admissions").fetchone()
    assert logged == (18_000,)


def test_a_row_with_the_key_of_an_older_row_is_refused(store):
    insert = "INSERT INTO notes SELECT '7', 1, 1, '', now(), '', '', 1, 'ready', NULL"
    with store.transaction("test") as transaction:
        transaction.con.execute(insert)
    refused = pytest.raises(FeatureStoreError, match="notes holds 1 duplicate rows")
    with refused, store.transaction("test") as transaction:
        transaction.con.execute(insert)


def test_info_says_how_the_file_is_copied(store, monkeypatch):
    assert info(store)["copied"] is None
    add_run(store)
    assert info(store)["copied"] in ("bytes", "reflink")

    def share_blocks(target, request, source):
        os.write(target, os.pread(source, os.fstat(source).st_size, 0))

    # As the kernel does on XFS.
    monkeypatch.setattr("fcntl.ioctl", share_blocks)
    add_run(store)
    assert info(store)["copied"] == "reflink"
    lines = info_table(info(store)).splitlines()
    assert "copied      in no time: the file system shares blocks (reflink)" in lines
    assert re.search(r"finished_at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", lines[-1])  # no microseconds
    monkeypatch.undo()
    assert verify(store) == []


def test_a_vector_that_is_not_finite_is_refused_by_the_schema(store):
    for bad in ("nan", "inf"):
        with pytest.raises(duckdb.ConstraintException), store.transaction("test") as transaction:
            transaction.con.execute(
                "INSERT INTO embeddings SELECT 'e', 7, '1', 0, 3, now(), 'h', 0, "
                f"['{bad}'::FLOAT] || [0.5::FLOAT for x in range(767)]"
            )


def test_the_error_of_a_second_job_names_the_holder_of_the_lock(store):
    other = Store(store.path)
    with store.lock("embed"):
        with pytest.raises(StoreBusyError) as busy, other.lock("train"):
            pass
        assert f"being changed by featurestore embed (pid {os.getpid()}, since" in str(busy.value)
        assert runs(other) == 0  # reading goes on
    with other.lock("train"):
        pass


def test_a_job_of_a_user_who_may_only_read_names_the_owner(store, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    owner = pwd.getpwuid(os.getuid()).pw_name
    with (
        pytest.raises(FeatureStoreError, match=f"is changed by the jobs of {owner} only"),
        store.lock("sync"),
    ):
        pass


def test_a_killed_job_leaves_the_old_version_and_a_free_lock(store):
    script = f"""
        import os, signal
        from featurestore import Store
        with Store({str(store.path)!r}).transaction("doomed") as transaction:
            transaction.con.execute("DELETE FROM settings")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9
    assert store.one("SELECT count(*) FROM settings") == (1,)
    add_run(store)
    assert runs(store) == 1
    assert not store.staging.exists()


def test_the_next_job_removes_what_a_killed_job_spilled(store):
    (store.staging / "spill").mkdir(parents=True)
    (store.staging / "spill" / "duckdb_temp_storage-0.tmp").write_bytes(b"vectors")
    add_run(store)
    assert not store.staging.exists()


def test_files_are_private_whatever_the_umask(store, tmp_path):
    os.umask(0)
    modes = {}
    with store.transaction("test") as transaction:
        transaction.con.execute("CREATE TEMP TABLE t AS SELECT 1")
        modes = {path.name: path.stat().st_mode for path in store.staging.iterdir()}
        modes |= {store.staging.name: store.staging.stat().st_mode}
    modes |= {path.name: path.stat().st_mode for path in tmp_path.glob("ward.duckdb*")}
    private = {name: stat.filemode(mode) for name, mode in modes.items()}
    assert private["ward.duckdb"] == private["ward.duckdb.lock"] == "-rw-------"
    assert private["ward.duckdb.staging"] == "drwx------"
    assert "next.duckdb" in private


def test_init_with_a_group_lets_the_group_read(store, tmp_path):
    import grp

    group = grp.getgrgid(os.getgid()).gr_name
    folder = tmp_path / "hospital"
    shared = create_store(tmp_path / "team.duckdb", folder, "mimic3", group=group)
    add_run(shared)
    assert stat.filemode(shared.path.stat().st_mode) == "-rw-r-----"
    with pytest.raises(FeatureStoreError, match="there is no group no-such-team"):
        create_store(tmp_path / "x.duckdb", folder, "mimic3", group="no-such-team")


@pytest.mark.parametrize(
    "escape",
    [
        "FROM read_text('/etc/hostname')",
        "COPY notes TO 'stolen.csv'",
        "ATTACH 'other.duckdb'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "DELETE FROM store.notes",
        "FROM escape",
    ],
)
def test_a_query_can_read_the_store_and_nothing_else(store, escape):
    with pytest.raises(duckdb.Error):
        store.sql(escape).fetchall()


def test_a_missing_file_raises_store_not_found(tmp_path):
    with pytest.raises(
        StoreNotFoundError, match=r"nowhere.duckdb does not exist - \"featurestore init"
    ):
        Store(tmp_path / "nowhere.duckdb")


def test_a_file_that_is_not_a_store_is_refused(tmp_path):
    (tmp_path / "text.duckdb").write_text("not a database")
    with pytest.raises(StoreDamagedError, match="cannot be opened as a store"):
        Store(tmp_path / "text.duckdb").connect()
    duckdb.connect(tmp_path / "other.duckdb").close()
    with pytest.raises(StoreDamagedError, match="is a DuckDB file but not a feature store"):
        Store(tmp_path / "other.duckdb").connect()


def test_a_failed_init_leaves_no_files(store, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(FeatureStoreError, match="exists already"):
        create_store(store.path, tmp_path / "hospital", "mimic3")
    (tmp_path / "hospital" / "ADMISSIONS.csv").unlink()
    with pytest.raises(FeatureStoreError, match="name admissions does not exist"):
        create_store(tmp_path / "new.duckdb", tmp_path / "hospital", "mimic3")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_next_job_restores_a_missing_macro(store):
    with store.transaction("test") as transaction:
        transaction.con.execute("DROP MACRO TABLE clinicalbert_labels")
    with pytest.raises(duckdb.CatalogException):
        store.sql("FROM clinicalbert_labels()")
    add_run(store)
    assert store.sql("FROM clinicalbert_labels()").fetchall() == []
