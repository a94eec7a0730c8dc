"""Whatever a command writes is its user's alone, wherever it runs and whatever lies there."""

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
# What a folder that somebody else wrote into may hold.
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
    """Looks, again and again until the block ends, and a last time after it."""

    pause: float  # seconds between two looks

    def __init__(self):
        self._over = threading.Event()
        self._eye = threading.Thread(target=self._look)

    def __enter__(self):
        self._eye.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._eye.join()
        self.look_once()

    def look_once(self):
        raise NotImplementedError

    def _look(self):
        while not self._over.wait(self.pause):
            self.look_once()


class OpenToOthers(Watch):
    """Looks who may use the files under some folders."""

    pause = 0.005

    def __init__(self, *folders):
        super().__init__()
        self.folders = folders
        self.theirs = set(self._paths())
        self.seen, self.open_to_others = set(), set()

    def look_once(self):
        for path in self._paths():
            if path not in self.theirs:
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
    """Runs a command as the installed script does, with umask 000, in a folder."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir(mode=0o700)
    temporary.mkdir(mode=0o700)
    (home / ".duckdbrc").write_text(BAIT[".duckdbrc"])
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    # On small matrices threads cost ten times what they save.
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = kept | threads | {"PYTHONPATH": ROOT, "HOME": home, "TMPDIR": temporary}

    def run(*arguments, cwd):
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            umask=0,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done

    return run


@pytest.mark.slow
def test_every_file_of_every_command_is_private_from_its_first_byte(command, model, tmp_path):
    hostile, clean = tmp_path / "hostile", tmp_path / "clean"
    clean.mkdir()
    for name, content in BAIT.items():
        (hostile / name).parent.mkdir(parents=True, exist_ok=True)
        (hostile / name).write_text(content)
    (hostile / "theirs").write_text("theirs")
    for asked in ("scores.csv", "report.html", "answer.parquet"):
        (hostile / f".{asked}.partial").symlink_to(hostile / "theirs")
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

    # Links that stood in the way are gone, what they led to is as it was.
    assert {path for path in bait if not path.name.endswith(".partial")} <= set(hostile.rglob("*"))
    assert all(path.read_bytes() == was for path, was in bait.items() if path.exists())
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


def test_a_link_in_the_place_of_the_lock_is_not_followed(store, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    lock = tmp_path / "ward.duckdb.lock"
    lock.unlink()
    lock.symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError), store.transaction("test"):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_link_in_the_place_of_the_staging_folder_is_not_followed(store, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "next.duckdb").write_text("theirs")
    store.staging.symlink_to(tmp_path / "theirs")
    with (
        pytest.raises(FeatureStoreError, match="is not a folder"),
        store.transaction("test"),
    ):
        pass
    assert (tmp_path / "theirs" / "next.duckdb").read_text() == "theirs"


def test_a_job_of_the_library_is_private_whatever_the_umask(store, tmp_path):
    os.umask(0)
    with OpenToOthers(tmp_path) as watch:
        create_store(tmp_path / "new.duckdb", tmp_path / "hospital", "mimic3")
        for _ in range(3):
            with store.transaction("test") as transaction:
                transaction.counts["answer"] = 42
                watch.look_once()
    # DuckDB makes its log by the umask; it lies in the staging folder, which is the user's alone.
    inside = f"{store.staging}/", f"{tmp_path}/new.duckdb.staging/"
    assert [path for path, _ in watch.open_to_others if not path.startswith(inside)] == []
    assert store.staging in watch.seen
    assert stat.filemode(store.path.stat().st_mode) == "-rw-------"
