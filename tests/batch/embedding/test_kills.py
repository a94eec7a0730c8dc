"""A run that is killed or out of disk at any moment and repeated ends as an undisturbed one."""

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
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints
from tests import jobs
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

NIGHTS = 6  # that the readers see
KILLS = int(os.environ.get("KILLS", "6"))  # "make test-kill" asks for 200


@pytest.fixture(scope="module")
def changed_ward(tmp_path_factory):
    """Return the folder of a store with a scorer, whose hospital has changed since."""
    folder = tmp_path_factory.mktemp("changed")
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
def before(changed_ward, tmp_path_factory):
    """Return by job the store before it, synced if the job does not sync, and its contents."""
    stores = {}
    for job in (jobs.night, jobs.embedding):
        folder = tmp_path_factory.mktemp("before")
        for name in ("w.duckdb", "w.duckdb.seal"):
            shutil.copy(changed_ward / name, folder)
        store = Store(folder / "w.duckdb")
        if job is jobs.embedding:
            sync(store)
        stores[job] = store.path, jobs.contents(store)
    return stores


@pytest.fixture(scope="module")
def undisturbed(before, tmp_path_factory):
    """Return by job the contents after an undisturbed run, and how often it hits each failpoint."""
    expected, hits = {}, {}
    for job in (jobs.night, jobs.embedding):
        path = fresh(before, tmp_path_factory.mktemp("undisturbed"), job)
        hits[job] = collections.Counter()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WordCounter, "budget", 6)
            patch.setattr(failpoints, "hit", lambda name, job=job: hits[job].update([name]))
            job(path)
        expected[job] = jobs.contents(Store(path))
        assert verify(Store(path)) == []
    return expected, hits


def fresh(before, folder, job):
    """Return a copy of the store before the job."""
    shutil.copy(f"{before[job][0]}.seal", folder / "w.duckdb.seal")
    return shutil.copy(before[job][0], folder / "w.duckdb")


def moments(n_hits, every):
    """Return which hits of a failpoint to disturb: every one, or one in the middle."""
    return range(1, n_hits + 1) if every else [n_hits // 2 + 1]


EVERY = pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one hit", "every hit"]
)


@EVERY
@pytest.mark.parametrize("step", failpoints.FAILPOINTS)
@pytest.mark.parametrize(
    "job",
    [jobs.night, pytest.param(jobs.embedding, marks=pytest.mark.slow)],
    ids=["nightly", "embed"],
)
def test_after_a_kill_at_any_failpoint_the_next_run_ends_as_an_undisturbed_one(
    before, undisturbed, tmp_path, monkeypatch, job, step, every
):
    monkeypatch.setattr(WordCounter, "budget", 6)
    expected, hits = undisturbed
    assert hits[job][step], f"the job does not hit the failpoint {step}"
    for nth in moments(hits[job][step], every):
        path = fresh(before, tmp_path, job)
        status = jobs.ended(jobs.start(jobs.killed_at, job, path, step, nth))
        assert status == -signal.SIGKILL
        # All of the run or none of it: the rename decides.
        assert jobs.contents(Store(path)) in (before[job][1], expected[job])
        job(path)
        assert jobs.contents(Store(path)) == expected[job]
        assert verify(Store(path)) == []
        assert not Store(path).staging.exists()


@pytest.mark.slow
def test_after_kills_at_random_moments_the_next_run_ends_as_an_undisturbed_one(
    before, undisturbed, tmp_path
):
    rng = random.Random(1)
    killed = 0
    for no in range(KILLS):
        job = (jobs.night, jobs.embedding)[no % 2]
        path = fresh(before, tmp_path, job)
        while True:  # until a run completes
            process = jobs.start(job, path)
            time.sleep(rng.uniform(0, 1.2))
            process.kill()
            if jobs.ended(process) == 0:
                break
            killed += 1
            if rng.random() < 0.5:
                assert jobs.ended(jobs.start(job, path)) == 0
                break
        assert jobs.contents(Store(path)) == undisturbed[0][job]
        assert verify(Store(path)) == []
    assert killed


@EVERY
@pytest.mark.parametrize("step", failpoints.FAILPOINTS)
def test_with_a_full_disk_at_any_failpoint_the_old_version_stays_and_the_next_run_completes(
    before, undisturbed, tmp_path, monkeypatch, step, every
):
    def full(name):
        nonlocal n_hits
        n_hits += name == step
        if n_hits == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "w.duckdb.staging/000000")

    monkeypatch.setattr(WordCounter, "budget", 6)
    expected = undisturbed[0][jobs.night]
    for nth in moments(undisturbed[1][jobs.night][step], every):
        n_hits = 0
        path = fresh(before, tmp_path, jobs.night)
        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "hit", full)
            try:
                jobs.night(path)
            except FeatureStoreError as error:
                assert "could not be changed (No space left on device)" in str(error)
            except OSError as error:
                assert error.errno == errno.ENOSPC
        assert n_hits >= nth
        assert jobs.contents(Store(path)) in (before[jobs.night][1], expected)
        jobs.night(path)
        assert jobs.contents(Store(path)) == expected
        assert not Store(path).staging.exists()


@pytest.mark.parametrize("kilobytes", [1, 20, 300, 2_000, 3_000, 4_000, 6_000])
def test_with_a_limit_on_the_size_of_files_the_old_version_stays(
    before, undisturbed, tmp_path, monkeypatch, kilobytes
):
    monkeypatch.setattr(WordCounter, "budget", 6)
    path = fresh(before, tmp_path, jobs.night)
    most = kilobytes * 1_000
    status = jobs.ended(jobs.start(jobs.with_small_disk, jobs.night, path, most))
    if status == 0:
        assert kilobytes >= 2_000
        assert jobs.contents(Store(path)) == undisturbed[0][jobs.night]
    else:
        assert status == 3
        assert jobs.contents(Store(path)) == before[jobs.night][1]
    jobs.night(path)
    assert jobs.contents(Store(path)) == undisturbed[0][jobs.night]


def test_a_second_job_exits_75_and_names_the_first_and_can_start_once_that_is_killed(
    before, undisturbed, tmp_path, model
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
    assert jobs.contents(Store(path)) == undisturbed[0][jobs.night]


@pytest.mark.parametrize("n_readers", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_readers_see_only_complete_runs_and_nobody_waits(tmp_path, n_readers):
    stays = [admission(n) for n in range(1, NIGHTS + 1)]
    notes = [note(n, n, "pain " * n) for n in range(1, NIGHTS + 1)]
    folder = write_hospital(tmp_path / "h", stays, notes[:1])
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    windows = list(itertools.accumulate(-(-n // 4) for n in range(1, NIGHTS + 1)))
    complete_runs = [(n, windows[n - 1], windows[n - 1]) for n in range(1, NIGHTS + 1)]
    # A sync is a run of its own: its new note has no vector yet.
    complete_runs += [(n + 1, windows[n - 1], windows[n - 1]) for n in range(1, NIGHTS)]
    early_reader = duckdb.connect(store.path, read_only=True)
    stop = jobs.readers(store.path, complete_runs, n_readers)
    for n in range(2, NIGHTS + 1):
        write_hospital(folder, stays, notes[:n])
        sync(store)
        embed_pending(store, WordCounter())
        assert early_reader.execute(jobs.TOTALS).fetchall() == [(1, 1, 1)]
    reports = stop()
    assert [errors for _, errors in reports] == [[]] * n_readers
    assert min(reads for reads, _ in reports) > 0
    assert store.one("SELECT max(run_id) FROM runs") == (2 * NIGHTS,)
    assert store.sql(jobs.TOTALS).fetchall() == [(NIGHTS, windows[-1], windows[-1])]
