"""Every file that a command writes is private, also in a folder with hostile files."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from featurestore import create_store
from featurestore.errors import FeatureStoreError
from tests.hospital import admission, note, write_hospital

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-P", "-c", "from featurestore.cli import main; main()"]
# Files that somebody else may have put into the working folder.
BAIT = {
    **{f"{name}.py": "open('taken', 'w')" for name in ("duckdb", "click", "tokenizers", "numpy")},
    **{f"{name}.py": "open('taken', 'w')" for name in ("csv", "sitecustomize", "usercustomize")},
    **{f"{name}/__init__.py": "open('taken', 'w')" for name in ("featurestore", "batch", "sql")},
    "sql/admissions.sql": "CREATE TABLE taken (hadm_id BIGINT);",
    "mimic3/admissions.sql": "SELECT 1 AS taken",
    "mimic3/notes.sql": "SELECT 1 AS taken",
    ".duckdbrc": "CREATE TABLE taken AS SELECT 1; .output taken",
    ".env": "FEATURESTORE_SOURCE=postgresql+psycopg://taken@127.0.0.1/taken",
    "matplotlibrc": "font.size: 40\nsvg.fonttype: path\nsavefig.bbox: tight\n",
    "pyproject.toml": "[tool.featurestore]\nsource = 'taken'\n",
}


class Watch:
    """Check something repeatedly while a block runs, and once after it."""

    pause: float  # seconds between two checks

    def __init__(self):
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._check_repeatedly)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.check()

    def check(self):
        raise NotImplementedError

    def _check_repeatedly(self):
        while not self._done.wait(self.pause):
            self.check()


class OpenToOthers(Watch):
    """Record files under some folders that others may read, write or execute."""

    pause = 0.005

    def __init__(self, *folders):
        super().__init__()
        self.folders = folders
        self.existing_paths = set(self._paths())
        self.seen, self.open_to_others = set(), set()

    def check(self):
        for path in self._paths():
            if path not in self.existing_paths:
                try:
                    mode = path.lstat().st_mode
                except FileNotFoundError:
                    continue
                self.seen.add(path)
                if mode & 0o077:
                    self.open_to_others.add((str(path), stat.filemode(mode)))

    def _paths(self):
        for top in self.folders:
            for folder, inner, files in os.walk(top):
                yield from (Path(folder, name) for name in (*inner, *files))


@pytest.fixture
def command(tmp_path):
    """Return a function that runs a command with umask 000 in a folder."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir(mode=0o700)
    temporary.mkdir(mode=0o700)
    (home / ".duckdbrc").write_text(BAIT[".duckdbrc"])
    inherited = {
        name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
    }
    # On small matrices threads cost ten times what they save.
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = inherited | threads | {"PYTHONPATH": ROOT, "HOME": home, "TMPDIR": temporary}

    def run(*arguments, cwd):
        result = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            umask=0,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result

    return run


@pytest.mark.slow
def test_every_file_of_every_command_is_private_from_its_first_byte(command, model, tmp_path):
    hostile, clean = tmp_path / "hostile", tmp_path / "clean"
    clean.mkdir()
    for name, content in BAIT.items():
        (hostile / name).parent.mkdir(parents=True, exist_ok=True)
        (hostile / name).write_text(content)
    (hostile / "theirs").write_text("theirs")
    for name in ("scores.csv", "report.html", "answer.parquet"):
        (hostile / f".{name}.partial").symlink_to(hostile / "theirs")
    (hostile / "ward.duckdb.staging").mkdir()
    (hostile / "ward.duckdb.staging").chmod(0o777)
    bait = {path: path.read_bytes() for path in hostile.rglob("*") if path.is_file()}

    folders = [hostile, tmp_path / "home", tmp_path / "temporary"]
    with OpenToOthers(*folders) as watch:
        for arguments in (
            ["synth", "hospital", "--patients", 60],
            ["synth", "hospital4", "--patients", 5, "--schema", "mimic4"],
            ["init", "ward.duckdb", "--source", "hospital", "--schema", "mimic3"],
            ["sync", "ward.duckdb"],
            ["labels", "ward.duckdb"],
            ["labels", "ward.duckdb", "--meds", "labels.parquet"],
            ["embed", "ward.duckdb", model, "--device", "cpu", "--category", "Physician"],
            ["train", "ward.duckdb", "readmit"],
            ["score", "ward.duckdb", "readmit", "-o", "scores.csv"],
            ["sql", "ward.duckdb", "FROM latest_scores", "-o", "answer.parquet"],
            ["report", "ward.duckdb", "readmit", "-o", "report.html"],
        ):
            command(*arguments, cwd=hostile)
    assert watch.open_to_others == set()
    assert any(path.parent.name == "ward.duckdb.staging" for path in watch.seen)

    # Links in place of partial files are gone; the files that they point to are unchanged.
    assert {path for path in bait if not path.name.endswith(".partial")} <= set(hostile.rglob("*"))
    assert all(path.read_bytes() == content for path, content in bait.items() if path.exists())
    assert {path.name for path in hostile.iterdir()} == {
        *(Path(name).parts[0] for name in BAIT),
        *("theirs", "hospital", "hospital4", "ward.duckdb", "ward.duckdb.lock", "ward.duckdb.seal"),
        *("labels.parquet", "scores.csv", "answer.parquet", "report.html"),
    }
    assert list((tmp_path / "temporary").iterdir()) == []

    command("report", hostile / "ward.duckdb", "readmit", "-o", "report.html", cwd=clean)
    assert (clean / "report.html").read_bytes() == (hostile / "report.html").read_bytes()


@pytest.fixture
def store(tmp_path):
    folder = write_hospital(tmp_path / "hospital", [admission(7)], [note(1, 7, "text")])
    return create_store(tmp_path / "ward.duckdb", folder, "mimic3")


def test_a_symlink_in_place_of_the_lock_is_not_followed(store, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    lock = tmp_path / "ward.duckdb.lock"
    lock.unlink()
    lock.symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError), store.transaction("test"):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_symlink_in_place_of_the_staging_folder_is_not_followed(store, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "next.duckdb").write_text("theirs")
    store.staging.symlink_to(tmp_path / "theirs")
    with (
        pytest.raises(FeatureStoreError, match="is not a folder"),
        store.transaction("test"),
    ):
        pass
    assert (tmp_path / "theirs" / "next.duckdb").read_text() == "theirs"


def test_the_python_api_writes_private_files_whatever_the_umask(store, tmp_path):
    os.umask(0)
    with OpenToOthers(tmp_path) as watch:
        create_store(tmp_path / "new.duckdb", tmp_path / "hospital", "mimic3")
        for _ in range(3):
            with store.transaction("test") as transaction:
                transaction.counts["answer"] = 42
                watch.check()
    # DuckDB creates its log with the umask, but inside the staging folder, which is private.
    inside = f"{store.staging}/", f"{tmp_path}/new.duckdb.staging/"
    assert [path for path, _ in watch.open_to_others if not path.startswith(inside)] == []
    assert store.staging in watch.seen
    assert stat.filemode(store.path.stat().st_mode) == "-rw-------"
