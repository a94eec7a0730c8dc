"""Workers, nodes and drivers that die or differ: nothing is lost, nothing is there twice."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from featurestore import OnnxEncoder, Store, create_store, embed_pending, sync, verify
from featurestore.store.vectors import arrow_to_vectors
from tests.batch.embedding.cluster.faulty import POISON
from tests.conftest import prose
from tests.hospital import admission, note, write_hospital

ROOT = Path(__file__).resolve().parents[4]
FOLDERS = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
KEYS = "encoder_id, note_id, window_no, hadm_id, n_tokens, available_at, text_hash"
NOTES = 2_000
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """Return the path of a store whose notes take two workers some seconds."""
    folder = tmp_path_factory.mktemp("faults")
    notes = [note(no, 1 + no % 9, prose(250 + no % 300, no)) for no in range(NOTES)]
    hospital = write_hospital(folder / "h", [admission(n) for n in range(1, 10)], notes)
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(store)
    return store.path


@pytest.fixture(scope="module")
def expected(synced, model, tmp_path_factory):
    """Return the rows after a run without Ray."""
    store = copy_store(synced, tmp_path_factory.mktemp("plain"))
    embed_pending(store, OnnxEncoder(model, "cpu"))
    return rows(store)


@pytest.fixture
def store(synced, tmp_path):
    return copy_store(synced, tmp_path)


def copy_store(path, folder):
    shutil.copy(f"{path}.seal", folder / "w.duckdb.seal")
    return Store(shutil.copy(path, folder / "w.duckdb"))


def rows(store):
    """Return the keys and the vectors of a store."""
    keys = store.sql(f"SELECT {KEYS} FROM embeddings ORDER BY ALL").fetchall()
    table = store.sql(f"SELECT embedding FROM embeddings ORDER BY {KEYS}").to_arrow_table()
    return keys, arrow_to_vectors(table["embedding"])


def assert_same(store, expected):
    keys, vectors = rows(store)
    assert keys == expected[0]
    assert np.abs(vectors - expected[1]).max() < 1e-6
    assert verify(store) == []


def start(fault, *arguments, **environment):
    """Start a command, with workers that fail in a given way or none of these."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.batch.embedding.cluster.faulty", fault]
        + [str(argument) for argument in arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return the exit status, stdout and the lines of stderr of a process."""
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out, err.splitlines()


def wait_for_shards(store, process, number):
    """Wait until a run has staged so many shards."""
    deadline = time.monotonic() + 120
    while len(list(store.staging.rglob("*.shard"))) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run hangs"
        time.sleep(0.02)


def processes(name):
    """Return the numbers of the processes with a word in their arguments, oldest first."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name.encode() in (folder / "cmdline").read_bytes():
                pids.append(int(folder.name))
    return sorted(pids)


def folders_of(process):
    """Return the folders of the Ray that a process has started."""
    return list(FOLDERS.glob(f"fs-ray-{process.pid}-*"))


def workers_of(process):
    """Return the numbers of the processes that embed for a driver of this machine."""
    return [
        pid
        for raylet in processes(f"--temp_dir={FOLDERS}/fs-ray-{process.pid}-")
        for pid in children(raylet)
        if b"EmbeddingWorker.embed" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def children(pid):
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                pids.append(int(folder.name))
    return sorted(pids)


def test_a_worker_that_is_killed_is_replaced_and_its_notes_are_embedded(store, model, expected):
    process = start("none", "embed", store.path, model, "--ray", "--json")
    for shards in (2, 5):
        wait_for_shards(store, process, shards)
        worker = workers_of(process)[-1]
        # Ray's own default would let every other program of the machine go first.
        assert os.getpriority(os.PRIO_PROCESS, worker) == os.getpriority(os.PRIO_PROCESS, 0)
        os.kill(worker, signal.SIGKILL)
    status, out, err = finish(process)
    assert (status, len(out.splitlines())) == (0, 1), err
    assert json.loads(out)["embedded"] == NOTES
    assert_same(store, expected)


def test_a_note_that_ends_its_worker_waits_and_all_others_are_embedded(tmp_path, model):
    notes = [note(no, 1, prose(20, no) + f" {POISON}" * (no == 77)) for no in range(150)]
    hospital = write_hospital(tmp_path / "h", [admission(1)], notes)
    store = create_store(tmp_path / "w.duckdb", hospital, "mimic3")
    sync(store)
    status, out, err = finish(start("KilledByANote", "embed", store.path, model, "--ray", "--json"))
    assert status == 0, err
    counts = json.loads(out)
    assert (counts["embedded"], counts["crashed"], counts["waiting"]) == (149, 1, 1)
    assert counts["withdrawn_since_sync"] == 0
    assert "Warning: 1 note ended its worker" in err[-1]
    query = "SELECT note_id FROM notes ANTI JOIN embeddings USING (note_id)"
    assert store.sql(query).fetchall() == [("77",)]
    assert verify(store) == []
    assert embed_pending(store, OnnxEncoder(model, "cpu"))["embedded"] == 1


def test_a_driver_that_is_killed_leaves_shards_and_the_next_run_tidies_up(store, model, expected):
    process = start("none", "embed", store.path, model, "--ray")
    wait_for_shards(store, process, 3)
    process.kill()
    finish(process)
    assert folders_of(process)
    again = start("none", "embed", store.path, model, "--ray", "--json")
    status, out, err = finish(again)
    assert status == 0, err
    counts = json.loads(out)
    assert counts["resumed"] > 0 and counts["resumed"] + counts["embedded"] == NOTES
    assert_same(store, expected)
    assert folders_of(process) + folders_of(again) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_ends_its_ray_and_says_so(store, model, number):
    process = start("none", "embed", store.path, model, "--ray")
    wait_for_shards(store, process, 2)
    started = time.monotonic()
    process.send_signal(number)
    status, out, err = finish(process)
    assert (status, out) == (128 + number, "")
    assert err[-1].startswith("Error: stopped - the store is unchanged")
    assert time.monotonic() - started < 15
    assert folders_of(process) == []
    assert processes(f"/fs-ray-{process.pid}-") == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("DiesAtOnce", r"3 workers on \S+ died while they started - check that"),
        ("DiesOfAnyNote", "20 workers in a row died before they had embedded a note"),
        ("AnotherModel", r"other is other-\w{8} here and small-\w{8} where the store is"),
        ("AnotherVersion", r"featurestore is \S+ here and 0.0.1 where the store is"),
        ("NoSource", "h/nowhere is not a folder, database file or URL"),
        ("no room", "this machine has had no free CPUs for 2 s - run this again when other jobs"),
        ("Talkative", r"ValueError in faulty.py, line \d+ - please report this"),
    ],
)
def test_a_fault_of_all_workers_is_one_line(store, model, tmp_path, fault, message):
    shutil.copytree(model, tmp_path / "other")
    rename_model(tmp_path / "other")
    process = start(
        fault, "embed", store.path, model, "--ray", "--limit", 200, ANOTHER_MODEL=tmp_path / "other"
    )
    status, out, err = finish(process)
    assert (status, out) == (1, "")
    assert re.match(f"Error: .*{message}", err[-1]), err
    assert len(err) == 2  # "small-... on Ray" and the error
    assert folders_of(process) == []


def rename_model(folder):
    """Give a model folder another name, and with it another encoder id."""
    from export.model_folder import SETTINGS, write_manifest

    manifest = json.loads((folder / "encoder.json").read_text())
    settings = {key: manifest[key] for key in SETTINGS}
    fixed = {"encoder_id", "name", "fingerprint", "files", "sha256", *SETTINGS}
    info = {key: value for key, value in manifest.items() if key not in fixed}
    write_manifest(folder, "other", settings, **info)


@pytest.fixture
def cluster():
    """Return the address of a cluster of two nodes, its environment, and how to replace a node."""
    folder = Path(tempfile.mkdtemp(prefix="fs-test-", dir="/tmp"))  # a short path, for sockets
    (folder / "ray").mkdir()
    (folder / "token").write_text("0" * 64)
    environment = {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    nodes = subprocess.Popen(
        [sys.executable, "-m", "tests.batch.embedding.cluster.nodes"],
        env={**os.environ, **environment, "RAY_TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def replace_node():
        nodes.stdin.write("\n")
        nodes.stdin.flush()

    try:
        address = nodes.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield address, environment, replace_node
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            nodes.communicate(timeout=60)
        nodes.kill()
        shutil.rmtree(folder)


@pytest.mark.parametrize("fault", ["none", "Elsewhere"], ids=["shared model", "model sent"])
def test_a_cluster_of_two_nodes_stores_the_same_rows(store, model, expected, cluster, fault):
    address, environment, _ = cluster
    process = start(fault, "embed", store.path, model, "--ray", address, "--json", **environment)
    status, out, err = finish(process)
    assert status == 0, err
    assert json.loads(out)["embedded"] == NOTES
    assert_same(store, expected)


def test_the_notes_of_a_node_that_leaves_are_embedded_by_another(store, model, expected, cluster):
    address, environment, replace_node = cluster
    process = start("none", "embed", store.path, model, "--ray", address, "--json", **environment)
    wait_for_shards(store, process, 2)
    replace_node()
    status, out, err = finish(process)
    assert (status, len(out.splitlines())) == (0, 1), err
    assert json.loads(out)["embedded"] == NOTES
    assert_same(store, expected)


def test_a_cluster_without_a_gpu_is_refused_where_one_is_asked_for(store, model, cluster):
    address, environment, _ = cluster
    process = start(
        "none", "embed", store.path, model, "--ray", address, "--device", "cuda", **environment
    )
    status, _, err = finish(process)
    assert status == 1
    assert err[-1].startswith(f"Error: the Ray cluster at {address} has no GPU - use --device cpu")


def test_a_cluster_of_another_ray_is_refused(store, model, cluster):
    address, environment, _ = cluster
    process = start("another ray", "embed", store.path, model, "--ray", address, **environment)
    status, _, err = finish(process)
    assert status == 1
    assert "has another version of Ray or Python than this machine (Ray 2.1.0" in err[-1], err


def test_a_run_without_the_token_of_the_cluster_is_refused(store, model, cluster, tmp_path):
    address, environment, _ = cluster
    (tmp_path / "token").write_text("1" * 64)
    environment["RAY_AUTH_TOKEN_PATH"] = tmp_path / "token"
    status, _, err = finish(
        start("none", "embed", store.path, model, "--ray", address, **environment)
    )
    assert status == 1
    assert err[-1].startswith(f"Error: there is no usable Ray at {address}"), err


def test_a_port_that_is_not_ray_is_refused(store, model):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        status, _, err = finish(start("none", "embed", store.path, model, "--ray", address))
    assert status == 1
    assert err[-1].startswith(f"Error: no Ray cluster answers at {address}"), err
    assert time.monotonic() - started < 60
