"""The notes of a store, embedded by workers of a Ray of this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featurestore import OnnxEncoder, Store, create_store, embed_pending, sync, train, verify
from featurestore.errors import FeatureStoreError
from featurestore.store.vectors import arrow_to_vectors
from tests.batch.test_nightly import Ward
from tests.conftest import prose
from tests.hospital import admission, note, write_hospital

ROOT = Path(__file__).resolve().parents[4]
COMMAND = [sys.executable, "-P", "-c", "from featurestore.cli import main; main()"]
SHARED_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
KEYS = "encoder_id, note_id, window_no, hadm_id, n_tokens, available_at, text_hash"


def run(*arguments, **environment):
    """Run a command; return the finished process, which has left no folder of Ray."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=300)
    assert list(SHARED_MEMORY.glob(f"fs-ray-{process.pid}-*")) == []
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """Return the path of a store with 80 notes, one without words and one copied."""
    folder = tmp_path_factory.mktemp("ray")
    texts = [prose(10 + 7 * number % 200, number) for number in range(78)]
    texts += ["[** 2101-10-20 **]", texts[5]]
    notes = [note(number, 1 + number % 9, text) for number, text in enumerate(texts)]
    hospital = write_hospital(folder / "h", [admission(n) for n in range(1, 10)], notes)
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(store)
    return store.path


@pytest.fixture
def copied(synced, tmp_path):
    """Return a function that makes a copy of the store."""

    def copy(name="w"):
        shutil.copy(f"{synced}.seal", tmp_path / f"{name}.duckdb.seal")
        return Store(shutil.copy(synced, tmp_path / f"{name}.duckdb"))

    return copy


def vectors(store):
    table = store.sql(f"SELECT embedding FROM embeddings ORDER BY {KEYS}").to_arrow_table()
    return arrow_to_vectors(table["embedding"])


def test_two_workers_store_the_same_rows_and_leave_nothing_behind(copied, model):
    plain, on_ray = copied("plain"), copied("ray")
    counts = embed_pending(plain, OnnxEncoder(model, "cpu"))
    finished = run("embed", on_ray.path, model, "--ray", "--device", "cpu", "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == counts
    keys = f"SELECT {KEYS} FROM embeddings ORDER BY ALL"
    assert on_ray.sql(keys).fetchall() == plain.sql(keys).fetchall()
    assert np.abs(vectors(on_ray) - vectors(plain)).max() < 1e-6
    assert verify(on_ray) == []
    provider = "SELECT counts ->> 'provider' FROM runs WHERE command = 'embed'"
    assert on_ray.one(provider) == ("CPUExecutionProvider",)


@pytest.mark.slow
def test_a_night_on_ray_is_one_json_line_and_one_commit(tmp_path, model):
    ward = Ward(tmp_path)
    encoder = OnnxEncoder(model, "cpu")
    embed_pending(ward.store, encoder)
    train(ward.store, "on_ray", encoder.id, baseline=False)
    ward.add(40)
    finished = run("nightly", ward.store.path, model, "on_ray", "--device", "cpu", "--ray")
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    counts = json.loads(line)
    assert (counts["new"], counts["embedded"], counts["waiting"]) == (40, 40, 0)
    assert counts["provider"] == "CPUExecutionProvider"
    assert counts["run_id"] == ward.store.one("SELECT max(run_id) FROM runs")[0]
    assert verify(ward.store) == []


def test_without_the_extra_one_line_says_how_to_get_it(copied, model, tmp_path):
    store = copied()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    finished = run("embed", store.path, model, "--ray", PYTHONPATH=paths)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == (
        "Error: --ray needs Ray, which is not installed - pip install 'clinical-featurestore[ray]'"
    )
    # With nothing to embed, Ray is not needed.
    embed_pending(store, OnnxEncoder(model, "cpu"))
    assert run("embed", store.path, model, "--ray", PYTHONPATH=paths).returncode == 0


def test_nothing_imports_ray_where_it_is_not_asked_for(copied, model):
    script = (
        "import sys; from featurestore import *; from featurestore import OnnxEncoder, Store\n"
        f"embed_pending(Store({str(copied().path)!r}), OnnxEncoder({str(model)!r}, 'cpu'))\n"
        "assert 'ray' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_an_encoder_without_a_model_folder_is_refused(copied, counter):
    with pytest.raises(FeatureStoreError, match="the workers load a model folder"):
        embed_pending(copied(), counter(), ray="local")


def test_an_address_where_nothing_answers_fails_at_once(copied, model):
    store = copied()
    with pytest.raises(FeatureStoreError, match="no Ray cluster answers at"):
        embed_pending(store, OnnxEncoder(model, load=False), ray="127.0.0.1:1")
    assert store.one("SELECT count(*) FROM embeddings") == (0,)


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:x", ""])
def test_what_is_not_an_address_is_refused(copied, model, address):
    with pytest.raises(FeatureStoreError, match="is not the address of a Ray cluster"):
        embed_pending(copied(), OnnxEncoder(model, load=False), ray=address)
