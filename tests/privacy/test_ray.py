"""What Ray shows of a run: no text, password or key in its files, processes and environments."""

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from featurestore import Store
from tests.batch.embedding.cluster.test_faults import children
from tests.privacy.test_canary import (
    CANARY,
    KEY,
    PASSWORD,
    PROTOCOL,
    canaries,
    in_files,
    sqlite_of,
    ward,
    ward_in_postgres,
)
from tests.privacy.test_private import BAIT, ROOT, Watch

FOLDERS = [folder for folder in (Path("/dev/shm"), Path("/tmp")) if folder.is_dir()]
LOOPBACK = re.compile(r"0100007F|0{16}FFFF00000100007F|0{24}01000000")
LISTENING = "0A"
pytestmark = pytest.mark.slow


class RayWatch(Watch):
    """Look at the files, environments, arguments and sockets of a run's processes and of Ray's."""

    pause = 0.1

    def __init__(self, process, *secrets):
        super().__init__()
        self.process, self.secrets = process, [secret.encode() for secret in secrets]
        self.names, self.files, self.leaks = set(), set(), set()
        self.open_folders, self.listening, self.outside = set(), set(), set()

    def check(self):
        for folder in self.folders():
            with contextlib.suppress(FileNotFoundError):
                if stat.S_IMODE(folder.stat().st_mode) != 0o700:
                    self.open_folders.add(str(folder))
                for file in folder.rglob("*"):
                    if file.is_file():
                        self.files.add(file.name)
                        self._search(str(file), file.read_bytes())
        descendants = self._descendants(self.process.pid)
        for pid in descendants:
            with contextlib.suppress(OSError):
                folder = Path(f"/proc/{pid}")
                arguments = (folder / "cmdline").read_bytes()
                self.names.add(Path(arguments.split(b"\0")[0].decode()).name)
                self._search(f"arguments of {pid}", arguments + (folder / "comm").read_bytes())
                if pid != self.process.pid:
                    self._search(f"environment of {pid}", (folder / "environ").read_bytes())
        self._look_at_sockets(descendants)

    def folders(self):
        """Return the folders of the Ray that the run has started."""
        return [path for top in FOLDERS for path in top.glob(f"fs-ray-{self.process.pid}-*")]

    def _search(self, place, data):
        if canaries(data) or any(secret in data for secret in self.secrets):
            self.leaks.add(place)

    def _descendants(self, pid):
        return [pid, *(one for child in children(pid) for one in self._descendants(child))]

    def _look_at_sockets(self, pids):
        """Record addresses other than those of the loopback interface."""
        inodes = set()
        for pid in pids:
            with contextlib.suppress(OSError):
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        inodes |= set(re.findall(r"^socket:\[(\d+)\]", str(descriptor.readlink())))
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, remote, state, *_ = words = line.split()
                if words[9] not in inodes:
                    continue
                if state == LISTENING:
                    self.listening.add(local)
                for address in (local, *([] if state == LISTENING else [remote])):
                    if not LOOPBACK.fullmatch(address.partition(":")[0]):
                        self.outside.add((table, local, remote, state))


@pytest.fixture
def watched(tmp_path):
    """Return a function that runs a command under the watch: status, output, and the watch."""
    places = {name: tmp_path / name for name in ("home", "temporary", "work")}
    for place in places.values():
        place.mkdir(mode=0o700)

    def run(*arguments, secrets=(), fault="none", within=(), **environment):
        inherited = {
            name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ
        }
        paths = {"HOME": str(places["home"]), "TMPDIR": str(places["temporary"])}
        command = [sys.executable, "-P", "-m", "tests.batch.embedding.cluster.faulty", fault]
        process = subprocess.Popen(
            [*within, *command, "--debug", *map(str, arguments)],
            cwd=places["work"],
            env={**inherited, **paths, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with RayWatch(process, *secrets) as watch:
            out, err = process.communicate(timeout=240)
        return process.returncode, out, err, watch

    run.places, run.work = list(places.values()), places["work"]  # type: ignore[attr-defined]
    return run


def assert_private(watch, out, err, places):
    """Raise AssertionError if the watch saw a canary, an open folder or a strange address."""
    assert canaries(out + err) == [], err.decode()
    assert watch.leaks == set()
    assert watch.open_folders == set()
    assert watch.outside == set()
    assert in_files(*places) == []
    assert watch.folders() == []


def test_a_run_on_ray_reveals_no_text_password_or_key(watched, server, model, tmp_path):
    schema = ward_in_postgres(server, tmp_path, "onray")
    password = quote(f"{PASSWORD}@/:%?# \N{SNOWMAN}", safe="")
    url = server.get_uri().replace("postgresql://", f"{PROTOCOL}://")
    environment = {
        "FEATURESTORE_SOURCE": url.replace("postgres:@", f"postgres:{password}@"),
        "FEATURESTORE_KEY": f"{KEY} of the encrypted store",
    }
    for words in (["init", "w.duckdb", "--schema", schema, "--encrypt"], ["sync", "w.duckdb"]):
        status, _, err, _ = watched(*words, **environment)
        assert status == 0, err.decode()
    embed = ["embed", "w.duckdb", model, "--device", "cpu", "--ray", "--json"]
    secrets = (password,)
    status, out, err, watch = watched(*embed, secrets=secrets, **environment)
    assert (status, len(out.splitlines())) == (0, 1), err.decode()
    assert_private(watch, out, err, watched.places)
    # It did look: at Ray's files, its processes and their sockets.
    assert {"raylet", "gcs_server", "ray::EmbeddingWorker.embed"} <= watch.names
    assert "debug_state.txt" in watch.files
    assert len(watch.listening) >= 4


@pytest.mark.parametrize("fault", ["Talkative", "KilledByANote"])
def test_a_worker_that_fails_on_ray_reveals_no_text(watched, model, tmp_path, fault):
    lite = sqlite_of(ward(tmp_path / "hospital"), tmp_path / "lite.sqlite")
    for words in (
        ["init", "w.duckdb", "--source", lite, "--schema", "mimic3"],
        ["sync", "w.duckdb"],
    ):
        assert watched(*words)[0] == 0
    embed = ["embed", "w.duckdb", model, "--device", "cpu", "--ray", "--json"]
    status, out, err, watch = watched(*embed, fault=fault, POISON="chest&nbsp;pain")
    assert status == (1 if fault == "Talkative" else 0), err.decode()
    assert (b"1 note ended its worker" in err) == (fault == "KilledByANote")
    assert_private(watch, out, err, watched.places)


def test_the_watch_finds_a_canary_in_an_environment_and_an_address_outside(watched):
    script = (
        "import os, subprocess, sys\n"
        "inner = 'import socket, time; s = socket.create_server((\"0.0.0.0\", 0)); time.sleep(2)'\n"
        f"subprocess.run([sys.executable, '-c', inner], env=os.environ | {{'X': '{CANARY}'}})"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    with RayWatch(process) as watch:
        process.wait()
    assert [place for place in watch.leaks if place.startswith("environment")]
    assert [local for _, local, _, _ in watch.outside if local.startswith("00000000:")]


def test_files_in_the_working_folder_are_not_imported_by_workers(watched, model, tmp_path):
    hospital = ward(tmp_path / "hospital")
    for words in (
        ["init", "w.duckdb", "--source", hospital, "--schema", "mimic3"],
        ["sync", "w.duckdb"],
    ):
        assert watched(*words)[0] == 0
    for name, content in BAIT.items():
        (watched.work / name).parent.mkdir(parents=True, exist_ok=True)
        (watched.work / name).write_text(content)
    status, _, err, _ = watched("embed", "w.duckdb", model, "--device", "cpu", "--ray")
    assert status == 0, err.decode()
    assert list(tmp_path.rglob("taken")) == []


def test_a_run_on_ray_needs_no_network(watched, model, tmp_path):
    prefix = [
        "unshare",
        "--map-root-user",
        "--net",
        "sh",
        "-c",
        'ip link set lo up; exec "$@"',
        "sh",
    ]
    if not shutil.which("ip") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not allow network namespaces, or has no ip")
    hospital = ward(tmp_path / "hospital")
    for words in (
        ["init", "w.duckdb", "--source", hospital, "--schema", "mimic3"],
        ["sync", "w.duckdb"],
    ):
        assert watched(*words)[0] == 0
    embed = ["embed", "w.duckdb", model, "--device", "cpu", "--ray"]
    status, _, err, _ = watched(*embed, within=prefix)
    assert status == 0, err.decode()
    assert Store(watched.work / "w.duckdb").one("SELECT count(*) > 100 FROM embeddings") == (True,)
    assert sorted(path.name for path in watched.places[0].rglob("*")) == []
