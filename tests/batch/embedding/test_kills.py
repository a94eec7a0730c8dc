"""Killed at any moment, out of disk at any moment: the tables end as those of a quiet run."""

import collections
import errno
import itertools
import os
import random
import shutil
import signal
import time

import duckdb
import pytest
from click.testing import CliRunner

from featurestore import Store, create_store, embed_pending, sync, train, verify
from featurestore.cli.group import main
from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints
from tests import jobs
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

NIGHTS = 6  # that ten readers see
KILLS = int(os.environ.get("KILLS", "6"))  # "make test-kill" asks for 200


@pytest.fixture(scope="module")
def evening(tmp_path_factory):
    """A store with a scorer, whose hospital has got new, edited and flagged notes since."""
    folder = tmp_path_factory.mktemp("evening")
    rng = random.Random(0)
    stays, notes = [], []
    for patient in range(1, 41):
        ill = rng.random() < 0.5
        stays.append(admission(patient, patient, day(0), day(5)))
        if ill:
            stays.append(admission(patient + 1_000, patient, day(20), day(25)))
        words = ("pain alone " if ill else "home ") * rng.randint(1, 4)
        notes.append(note(patient, patient, words + rng.choice(["alone", "pain", "quiet"])))
    store = create_store(folder / "w.duckdb", write_hospital(folder / "h", stays, notes), "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    train(store, "readmit", baseline=False)
    notes[0]["TEXT"] = "edited pain " * 10
    notes[1]["ISERROR"] = 1
    notes += [note(n, 1 + n % 40, f"pain home {n} " * 200, day(2)) for n in range(100, 112)]
    write_hospital(folder / "h", stays, notes[:2] + notes[3:])
    return folder


@pytest.fixture(scope="module")
def before(evening, tmp_path_factory):
    """By job, the store as it was in the evening, synced where the job does not do it."""
    found = {}
    for job in (jobs.night, jobs.embedding):
        folder = tmp_path_factory.mktemp("before")
        for name in ("w.duckdb", "w.duckdb.seal"):
            shutil.copy(evening / name, folder)
        store = Store(folder / "w.duckdb")
        if job is jobs.embedding:
            sync(store)
        found[job] = store.path, jobs.contents(store)
    return found


@pytest.fixture(scope="module")
def quiet(before, tmp_path_factory):
    """What an undisturbed run leaves, by job, and how often it begins each step."""
    found, begun = {}, {}
    for job in (jobs.night, jobs.embedding):
        path = fresh(before, tmp_path_factory.mktemp("quiet"), job)
        begun[job] = collections.Counter()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WordCounter, "budget", 6)
            patch.setattr(failpoints, "hit", lambda name, job=job: begun[job].update([name]))
            job(path)
        found[job] = jobs.contents(Store(path))
        assert verify(Store(path)) == []
    return found, begun


def fresh(before, folder, job):
    """A copy of the store before the job."""
    shutil.copy(f"{before[job][0]}.seal", folder / "w.duckdb.seal")
    return shutil.copy(before[job][0], folder / "w.duckdb")


@pytest.mark.parametrize("step", failpoints.FAILPOINTS)
@pytest.mark.parametrize("job", [jobs.night, jobs.embedding], ids=["nightly", "embed"])
def test_killed_before_any_step_the_next_run_ends_as_an_undisturbed_one(
    before, quiet, tmp_path, monkeypatch, job, step
):
    monkeypatch.setattr(WordCounter, "budget", 6)
    whole, begun = quiet
    assert begun[job][step], f"the job has no step {step}"
    for nth in range(1, begun[job][step] + 1):
        path = fresh(before, tmp_path, job)
        status = jobs.ended(jobs.start(jobs.killed_at, job, path, step, nth))
        assert status == -signal.SIGKILL
        # Either all of it or nothing: the rename decides.
        assert jobs.contents(Store(path)) in (before[job][1], whole[job])
        job(path)
        assert jobs.contents(Store(path)) == whole[job]
        assert verify(Store(path)) == []
        assert not Store(path).staging.exists()


def test_killed_at_random_moments(before, quiet, tmp_path):
    rng = random.Random(1)
    killed = 0
    for no in range(KILLS):
        job = (jobs.night, jobs.embedding)[no % 2]
        path = fresh(before, tmp_path, job)
        while True:  # until one comes through
            process = jobs.start(job, path)
            time.sleep(rng.uniform(0, 1.2))
            process.kill()
            if jobs.ended(process) == 0:
                break
            killed += 1
            if rng.random() < 0.5:
                assert jobs.ended(jobs.start(job, path)) == 0
                break
        assert jobs.contents(Store(path)) == quiet[0][job]
        assert verify(Store(path)) == []
    assert killed


@pytest.mark.parametrize("step", failpoints.FAILPOINTS)
def test_with_a_full_disk_at_any_step_the_old_version_stays_and_the_next_run_completes(
    before, quiet, tmp_path, monkeypatch, step
):
    def full(name):
        nonlocal begun
        begun += name == step
        if begun == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "w.duckdb.staging/000000")

    monkeypatch.setattr(WordCounter, "budget", 6)
    whole = quiet[0][jobs.night]
    for nth in range(1, quiet[1][jobs.night][step] + 1):
        begun = 0
        path = fresh(before, tmp_path, jobs.night)
        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "hit", full)
            try:
                jobs.night(path)
            except FeatureStoreError as error:
                assert "could not be changed (No space left on device)" in str(error)
            except OSError as error:
                assert error.errno == errno.ENOSPC
        assert begun >= nth
        assert jobs.contents(Store(path)) in (before[jobs.night][1], whole)
        jobs.night(path)
        assert jobs.contents(Store(path)) == whole
        assert not Store(path).staging.exists()


@pytest.mark.parametrize("kilobytes", [1, 20, 300, 2_000, 3_000, 4_000, 6_000])
def test_where_files_really_cannot_grow(before, quiet, tmp_path, monkeypatch, kilobytes):
    monkeypatch.setattr(WordCounter, "budget", 6)
    path = fresh(before, tmp_path, jobs.night)
    most = kilobytes * 1_000
    status = jobs.ended(jobs.start(jobs.with_small_disk, jobs.night, path, most))
    if status == 0:
        assert kilobytes >= 2_000
        assert jobs.contents(Store(path)) == quiet[0][jobs.night]
    else:
        assert status == 3
        assert jobs.contents(Store(path)) == before[jobs.night][1]
    jobs.night(path)
    assert jobs.contents(Store(path)) == quiet[0][jobs.night]


def test_a_second_job_exits_75_and_names_the_first_and_after_a_kill_starts_at_once(
    before, quiet, tmp_path, model
):
    path = fresh(before, tmp_path, jobs.night)
    started = jobs.event()
    first = jobs.start(jobs.holding, path, started)
    assert started.wait(30)
    second = CliRunner().invoke(main, ["nightly", str(path), str(model), "readmit"])
    assert second.exit_code == 75
    assert f"is being changed by featurestore nightly (pid {first.pid}, since" in second.stderr
    assert second.stdout == ""
    first.kill()
    jobs.ended(first)
    assert jobs.ended(jobs.start(jobs.night, path)) == 0
    assert jobs.contents(Store(path)) == quiet[0][jobs.night]


def test_ten_readers_see_whole_runs_only_and_nobody_waits(tmp_path):
    stays = [admission(n) for n in range(1, NIGHTS + 1)]
    notes = [note(n, n, "pain " * n) for n in range(1, NIGHTS + 1)]
    folder = write_hospital(tmp_path / "h", stays, notes[:1])
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    windows = list(itertools.accumulate(-(-n // 4) for n in range(1, NIGHTS + 1)))
    whole_runs = [(n, windows[n - 1], windows[n - 1]) for n in range(1, NIGHTS + 1)]
    # A sync alone is a whole run too: its new note has no vector yet.
    whole_runs += [(n + 1, windows[n - 1], windows[n - 1]) for n in range(1, NIGHTS)]
    held = duckdb.connect(store.path, read_only=True)
    hear = jobs.readers(store.path, whole_runs, 10)
    for n in range(2, NIGHTS + 1):
        write_hospital(folder, stays, notes[:n])
        sync(store)
        embed_pending(store, WordCounter())
        assert held.execute(jobs.WHOLE).fetchall() == [(1, 1, 1)]
    heard = hear()
    assert [wrong for _, wrong in heard] == [[]] * 10
    assert min(reads for reads, _ in heard) > 0
    assert store.one("SELECT max(run_id) FROM runs") == (2 * NIGHTS,)
    assert store.sql(jobs.WHOLE).fetchall() == [(NIGHTS, windows[-1], windows[-1])]
