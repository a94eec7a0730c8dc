"""An encrypted store: the same tables as a plain one, unreadable without its key."""

import os
import shutil
import threading

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

from batch.embedding.staging import stage
from featurestore import Store, create_store, embed_pending, nightly, score, sync, train, verify
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.query.execution import run_query
from featurestore.store import database, failpoints, transaction
from featurestore.store.forget import forget
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import contents, everything
from tests.timeline import day

KEY = "k4Zt'q0 a key with a ' in it"
PATIENTS = 40
FIRST = 987_654_321_000  # note and stay numbers that occur nowhere else
DIM = 512


class Wide(WordCounter):
    """Vectors that are known beforehand, and as wide as a model's."""

    def __init__(self):
        super().__init__(dim=DIM)

    def run(self, batch):
        return np.stack([vector(int(ids.sum())) for ids in batch])


def vector(seed):
    return np.random.default_rng(seed).normal(0, 1, DIM).astype(np.float32)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("FEATURESTORE_KEY", KEY)
    monkeypatch.delenv("FEATURESTORE_KEY_FILE", raising=False)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    stays = [admission(FIRST + n, n, day(0), day(5)) for n in range(PATIENTS)]
    stays += [admission(FIRST + 500 + n, n, day(20), day(25)) for n in range(0, PATIENTS, 2)]
    texts = ("home quiet home quiet home", "pain pain alone home quiet " * 4)
    notes = [note(FIRST + n, FIRST + n, texts[n % 2], subject_id=n) for n in range(1, PATIENTS)]
    return write_hospital(tmp_path_factory.mktemp("hospital") / "h", stays[1:], notes)


def make_store(hospital, file, encrypt=True):
    file.parent.mkdir(exist_ok=True)
    store = create_store(file, hospital, "mimic3", encrypt=encrypt)
    sync(store)
    return store


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert code is None or result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_an_encrypted_store_has_the_same_tables_as_a_plain_one(hospital, tmp_path):
    tables = []
    for encrypt in (True, False):
        file = tmp_path / f"{encrypt}" / "w.duckdb"
        store = make_store(hospital, file, encrypt)
        embed_pending(store, WordCounter())
        train(store, "readmit", baseline=False)
        score(store, "readmit")
        assert nightly(store, WordCounter(), "readmit")["embedded"] == 0
        forget(store, [7])
        assert verify(store) == []
        assert store.is_encrypted() == encrypt
        tables.append(contents(store))
        assert f"encrypted   {'yes' if encrypt else 'no'}\n" in run("info", file).stdout
    assert tables[0] == tables[1]


def test_duckdb_alone_reads_an_encrypted_store_with_the_key(hospital, tmp_path):
    store = make_store(hospital, tmp_path / "w.duckdb")
    quoted = KEY.replace("'", "''")
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{store.path}' AS ward (READ_ONLY, ENCRYPTION_KEY '{quoted}')")
        assert con.execute("SELECT count(*) FROM ward.notes").fetchone() == (PATIENTS - 1,)


# --- no readable byte


class FileScanner:
    """Reads every byte of every file under a folder before each step of a job."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.scans = {}  # by kind of file: number of files, needles in them
        monkeypatch.setattr(failpoints, "hit", lambda _: self.scan())
        self.needles = {b"%d" % (FIRST + 7), (FIRST + 7).to_bytes(8, "little")}
        for text in ("pain pain alone home", "quiet pain pain alone"):
            (ids,) = WordCounter().tokenize([text])[0]
            self.needles.add(vector(int(ids.sum())).tobytes())

    def scan(self):
        for file in self.folder.rglob("*"):
            try:
                data = file.read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                continue
            kind = "spill" if file.parent.name == "spill" else file.suffix
            count, matches = self.scans.get(kind, (0, set()))
            now = {needle for needle in self.needles if needle in data}
            self.scans[kind] = (count + bool(data), matches | now)


@pytest.mark.parametrize("encrypt", [True, False])
def test_no_id_and_no_vector_is_in_any_file_at_any_time(hospital, tmp_path, monkeypatch, encrypt):
    store = make_store(hospital, tmp_path / "ward" / "w.duckdb", encrypt)
    scanner = FileScanner(tmp_path / "ward", monkeypatch)
    stage(store, Wide())
    scanner.scan()
    assert scanner.scans[".shard"][0] > 0
    monkeypatch.setattr(transaction, "_COMMIT_MEMORY", "60MB")
    with store.transaction("spill") as draft:  # more than that
        draft.con.execute(
            # A number of the patient's in each row, among others that cannot be compressed.
            "CREATE TEMP TABLE much AS SELECT [$1] || [hash(i, k) for k in range(200)] AS numbers "
            "FROM range(60000) AS r(i)",
            [FIRST + 7],
        )
        scanner.scan()
    monkeypatch.undo()
    monkeypatch.setenv("FEATURESTORE_KEY", KEY)
    monkeypatch.setattr(failpoints, "hit", lambda _: scanner.scan())
    embed_pending(store, Wide())
    train(store, "readmit", baseline=False)
    forget(store, [9])
    scanner.scan()
    assert {".duckdb", ".shard", "spill", ".wal", ".seal", ".lock"} <= scanner.scans.keys()
    assert all(count for count, _ in scanner.scans.values())
    if encrypt:
        assert {kind: matches for kind, (_, matches) in scanner.scans.items() if matches} == {}
    else:  # The scanner does find them.
        assert scanner.scans[".duckdb"][1] == scanner.needles
        assert scanner.scans[".shard"][1] and scanner.scans["spill"][1]


# --- keys


@pytest.mark.parametrize(
    ("key", "key_file", "sentence"),
    [
        ("another key, that is long enough", None, "is encrypted with another key, or damaged"),
        (None, None, "neither is set - set one of them"),
        (KEY, KEY, "both are set - set one of them"),
        ("15 characters..", None, "the key of {store} is too short or has unsupported"),
        (
            "a tab\tin a long enough key",
            None,
            "the key of {store} is too short or has unsupported",
        ),
        (
            "a long enough key \N{SNOWMAN}",
            None,
            "the key of {store} is too short or has unsupported",
        ),
        ("a long enough key \\x41", None, "the key of {store} is too short or has unsupported"),
        (None, "", "the key of {store} is too short or has unsupported"),
        (None, "another key, that is long enough\n", "is encrypted with another key"),
    ],
)
def test_without_the_right_key_every_command_fails_with_one_line(
    hospital, tmp_path, monkeypatch, key, key_file, sentence
):
    store = make_store(hospital, tmp_path / "w.duckdb")
    before = store.path.read_bytes()
    monkeypatch.delenv("FEATURESTORE_KEY")
    if key is not None:
        monkeypatch.setenv("FEATURESTORE_KEY", key)
    if key_file is not None:
        (tmp_path / "key").write_text(key_file)
        (tmp_path / "key").chmod(0o600)
        monkeypatch.setenv("FEATURESTORE_KEY_FILE", str(tmp_path / "key"))
    for command in (["info"], ["sync"], ["sql", "FROM notes"], ["embed", tmp_path]):
        output = run(command[0], store.path, *command[1:], code=1).stderr
        assert output.count("\n") == 1 and output.startswith("Error: ")
        if command[0] != "embed":
            assert sentence.format(store=store.path) in output
        assert key is None or key not in output
    assert any(sentence.format(store=store.path) in line for line in verify(Store(store.path)))
    assert store.path.read_bytes() == before


def test_the_key_is_read_from_a_private_file(hospital, tmp_path, monkeypatch):
    monkeypatch.delenv("FEATURESTORE_KEY")
    monkeypatch.setenv("FEATURESTORE_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(FeatureStoreError, match="the key cannot be read from"):
        make_store(hospital, tmp_path / "w.duckdb")
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(FeatureStoreError, match="others can read the key in"):
        make_store(hospital, tmp_path / "w.duckdb")
    assert not (tmp_path / "w.duckdb").exists()
    (tmp_path / "key").chmod(0o600)
    assert verify(make_store(hospital, tmp_path / "w.duckdb")) == []
    monkeypatch.delenv("FEATURESTORE_KEY_FILE")
    monkeypatch.setenv("FEATURESTORE_KEY", KEY)
    assert verify(Store(tmp_path / "w.duckdb")) == []


def test_the_key_is_read_from_a_systemd_credential(hospital, tmp_path, monkeypatch):
    (tmp_path / "credentials").mkdir()
    file = tmp_path / "credentials" / "key"
    file.write_text(KEY)
    file.chmod(0o440)
    monkeypatch.delenv("FEATURESTORE_KEY")
    monkeypatch.setenv("FEATURESTORE_KEY_FILE", str(file))
    with pytest.raises(FeatureStoreError, match="others can read the key"):
        make_store(hospital, tmp_path / "w.duckdb")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(file.parent))
    if os.getuid() == 0:  # whose the file has to be
        assert verify(make_store(hospital, tmp_path / "w.duckdb")) == []
    monkeypatch.setenv("FEATURESTORE_KEY_FILE", str(file.parent))
    with pytest.raises(FeatureStoreError, match="the key cannot be read"):
        make_store(hospital, tmp_path / "other.duckdb")


def test_the_key_is_read_from_a_pipe(hospital, tmp_path, monkeypatch):
    monkeypatch.delenv("FEATURESTORE_KEY")
    os.mkfifo(tmp_path / "pipe", 0o600)
    monkeypatch.setenv("FEATURESTORE_KEY_FILE", str(tmp_path / "pipe"))
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=[f"{KEY}\r\n"])
    writer.start()
    assert verify(make_store(hospital, tmp_path / "w.duckdb")) == []
    writer.join()


def test_init_with_an_unusable_key_leaves_no_files(hospital, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_KEY", "short")
    with pytest.raises(FeatureStoreError, match=r"w.duckdb is too short"):
        make_store(hospital, tmp_path / "w.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_a_plain_store_ignores_the_key(hospital, tmp_path):
    assert verify(make_store(hospital, tmp_path / "w.duckdb", encrypt=False)) == []


def test_without_the_extra_the_error_says_what_to_install(hospital, tmp_path, monkeypatch):
    store = make_store(hospital, tmp_path / "w.duckdb")
    monkeypatch.setattr(database, "find_spec", lambda _: None)
    with pytest.raises(FeatureStoreError, match=r"clinical-featurestore.encryption."):
        Store(store.path).connect()


@pytest.mark.parametrize("encrypt", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_changed_byte_is_reported_in_one_line(hospital, tmp_path, encrypt):
    store = make_store(hospital, tmp_path / "w.duckdb", encrypt)
    original, as_written = store.path.read_bytes(), everything(store)
    messages = set()
    for at in range(60, len(original), len(original) // 9):
        data = bytearray(original)
        data[at] ^= 4
        store.path.write_bytes(data)
        output = verify(Store(store.path))
        # A bit in a part of the file that DuckDB does not use is not noticed.
        assert output or everything(store) == as_written, at
        assert not any("\n" in line for line in output), at
        for words in (["labels"], ["sql", "SELECT max(hash(n)) FROM notes AS n"], ["sync"]):
            answer = run(words[0], store.path, *words[1:], code=None)
            assert answer.stderr.count("\n") == answer.exit_code, answer.stderr
            messages |= {answer.stderr.strip().replace(str(store.path), "ward.duckdb")}
    messages.discard("")  # it is in a block that this command does not read
    assert messages and all("damaged" in line for line in messages), messages


def test_a_run_resumes_from_encrypted_shards_and_refuses_a_damaged_one(hospital, tmp_path):
    store = make_store(hospital, tmp_path / "w.duckdb")
    stage(store, WordCounter())
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    assert embed_pending(store, WordCounter())["resumed"] == PATIENTS - 1
    copy = Store(tmp_path.with_name("copy") / "w.duckdb")
    shard = next(copy.staging.rglob("*.shard"))
    data = bytearray(shard.read_bytes())
    data[-20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(FeatureStoreError, match="or not a shard of this store - delete it"):
        embed_pending(copy, WordCounter())


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_csv('https://localhost/x.csv')",
        "FROM read_parquet('s3://bucket/x.parquet')",
        "FROM 'http://localhost/x.parquet'",
        "SELECT * FROM duckdb_secrets()",
        "CREATE SECRET (TYPE s3)",
        "ATTACH 'https://localhost/x.duckdb'",
        "FROM which_secret('s3://bucket/x', 's3')",
    ],
)
def test_an_encrypted_store_gives_queries_no_network(hospital, tmp_path, query):
    store = make_store(hospital, tmp_path / "w.duckdb")
    with pytest.raises(FeatureStoreError), (tmp_path / "answer").open("w") as stream:
        run_query(store, query, stream)
    # The connection itself, too, of whoever uses the library.
    if "read_" in query or "ATTACH" in query:
        with pytest.raises(duckdb.PermissionException):
            store.connect().execute(query)
