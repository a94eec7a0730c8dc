"""Distribute notes among workers on Ray, and bring their vectors back, whatever dies meanwhile."""

import contextlib
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch.embedding.chunks import MAX_NOTES, EmbeddedNotes, OnBatch
from batch.embedding.cluster.ray_session import LOCAL, ray_session
from batch.embedding.cluster.worker import (
    Chunk,
    EmbeddingWorker,
    Failure,
    Job,
    ModelNeeded,
    Opened,
)
from batch.embedding.encoder import Encoder, OnnxEncoder
from export.onnx_session import PRECISIONS_OF_CPUS
from featurestore import errors
from featurestore.errors import FeatureStoreError
from featurestore.source.urls import with_secrets
from featurestore.store.store import Store

WORKER: type = EmbeddingWorker
LEAST_NOTES = 32  # for which another worker is started
_CORES_PER_WORKER = 4  # without a GPU
_CHUNKS_AHEAD = 2  # that a worker may finish before the first is fetched
_TRIES = 2  # of a part of the notes that makes no progress, before it is halved
_FAILED_STARTS = 3  # in a row
_FUTILE_WORKERS = 20  # in a row, before the fault is taken to lie elsewhere than in the notes
_PLACEMENT_SECONDS = 120  # until a cluster that makes room is given up
_POLL_SECONDS = 5


@dataclass
class _Part:
    """Notes (note_id, text_hash) for one worker at a time, and those that came back."""

    notes: pa.Table
    tries: int = 0  # that ended without progress
    done: list[str] = field(default_factory=list)

    def remaining(self) -> pa.Table:
        is_done = pc.is_in(self.notes["note_id"], value_set=pa.array(self.done, pa.string()))
        return self.notes.filter(pc.invert(is_done))


@dataclass
class _Worker:
    actor: Any
    node: str | None = None  # None until Ray has found a place
    is_open: bool = False
    part: _Part | None = None


@dataclass
class _Resources:
    """What each worker takes of a cluster, and how many workers there is room for."""

    device: str
    threads: int
    options: dict[str, float]
    room: int


class RayWorkers:
    """The workers that embed a store's notes, on a cluster at HOST:PORT or on this machine.

    `provider` is what their models ran on. `crashed` are the notes that ended their worker each
    time they were tried. Raises FeatureStoreError for an encoder that has no model folder.
    """

    def __init__(self, store: Store, encoder: Encoder, address: str) -> None:
        if not isinstance(encoder, OnnxEncoder):
            raise FeatureStoreError("on Ray the workers load a model folder: give an OnnxEncoder")
        location, self._schema = store.one("SELECT source, schema_name FROM settings")
        self._location = with_secrets(location)
        self._encoder = encoder
        self._address = address
        self.crashed: list[str] = []
        self._providers: set[str] = set()

    @property
    def provider(self) -> str:
        return ", ".join(sorted(self._providers)) or "no worker"

    def embed_notes(self, to_embed: pa.Table, on_batch: OnBatch) -> Generator[EmbeddedNotes]:
        """Yield the notes of a table (note_id, text_hash) in chunks, as workers finish them.

        Notes that were with a worker that dies are embedded by another. Raises FeatureStoreError
        where Ray cannot be used, where a worker cannot open the source or the model, and where
        workers keep dying.
        """
        if not len(to_embed):
            return
        wants_gpus = self._encoder.device != "cpu"
        with ray_session(self._address, wants_gpus) as ray:
            run = _Run(ray, self, to_embed)
            try:
                yield from run.chunks(on_batch)
            finally:
                run.stop()

    def job(self, device: str, threads: int) -> Job:
        folder = str(self._encoder.folder.resolve())
        encoder_id = self._encoder.id
        return Job(self._location, self._schema, folder, encoder_id, device, threads)

    def model_files(self) -> dict[str, bytes]:
        """Return the files of the model folder, for workers on machines that cannot see it."""
        return {
            file.name: file.read_bytes()
            for file in Path(self._encoder.folder).iterdir()
            if file.is_file()
        }

    def resources(self, ray: ModuleType) -> _Resources:
        """Return what a worker takes: a GPU, or a group of cores where no GPU is to be used."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = [int(node.get("GPU", 0)) for node in nodes]
        cores = [int(node.get("CPU", 0)) for node in nodes]
        device = self._encoder.device
        if device == "auto":
            for_cpus = self._encoder.manifest["precision"] in PRECISIONS_OF_CPUS
            device = "cuda" if sum(gpus) and not for_cpus else "cpu"
        if device == "cuda" and not sum(gpus):
            raise FeatureStoreError(
                f"{self.where()} has no GPU - use --device cpu, or start Ray where it sees one"
            )
        if device == "cuda":
            threads = min(max(1, c // g) for c, g in zip(cores, gpus, strict=True) if g)
            return _Resources(device, threads, {"num_gpus": 1, "num_cpus": 0}, sum(gpus))
        if not sum(cores):
            raise FeatureStoreError(
                f"{self.where()} has no CPU for a worker - start its nodes with --num-cpus"
            )
        # Two workers on a small machine: while one waits for the source, the other computes.
        threads = max(1, min(_CORES_PER_WORKER, min(filter(None, cores)) // 2))
        return _Resources(device, threads, {"num_cpus": threads}, sum(c // threads for c in cores))

    def where(self) -> str:
        is_local = self._address == LOCAL
        return "this machine" if is_local else f"the Ray cluster at {self._address}"

    def add_provider(self, provider: str) -> None:
        self._providers.add(provider)


class _Run:
    """One distribution: parts that wait, and workers with what they were last asked for."""

    def __init__(self, ray: ModuleType, workers: RayWorkers, to_embed: pa.Table) -> None:
        self._ray = ray
        self._workers = workers
        self._resources = workers.resources(ray)
        self._job = workers.job(self._resources.device, self._resources.threads)
        self._actor_class = ray.remote(WORKER)
        most = min(self._resources.room, -(-len(to_embed) // LEAST_NOTES))
        self._n_workers = most
        # One pass over the source for each part, so as few parts as there are workers.
        size = min(MAX_NOTES, -(-len(to_embed) // most))
        parts = range(0, len(to_embed), size)
        self._waiting = deque(_Part(to_embed.slice(first, size)) for first in parts)
        self._busy: dict[Any, _Worker] = {}  # by the reference or generator that is awaited
        self._idle: list[_Worker] = []
        self._files: Any = None  # the model's, in Ray's object store
        self._failed_starts = 0
        self._futile_workers = 0  # that ended without a finished chunk since the last one
        self._last_sign = time.monotonic()

    def chunks(self, on_batch: OnBatch) -> Generator[EmbeddedNotes]:
        while self._waiting or any(worker.part for worker in self._busy.values()):
            self._hand_out()
            # A generator counts as ready when its next chunk is.
            ready, _ = self._ray.wait([*self._busy], timeout=_POLL_SECONDS)
            if not ready:
                self._check_placement()
                continue
            self._last_sign = time.monotonic()
            worker = self._busy[ready[0]]
            try:
                answer = self._ray.get(next(ready[0]) if worker.is_open else ready[0])
            except StopIteration:
                del self._busy[ready[0]]
                worker.part = None
                self._idle.append(worker)
                continue
            except self._ray.exceptions.RayError:  # whose message may hold anything
                del self._busy[ready[0]]
                self._bury(worker)
                continue
            if isinstance(answer, Failure):
                raise self._error(answer, worker)
            if isinstance(answer, Chunk):
                assert worker.part
                worker.part.tries = self._futile_workers = 0
                worker.part.done += answer.notes.note_ids
                worker.part.done += [note_id for note_id, _ in answer.notes.changed]
                on_batch(answer.tokens, answer.padding)
                yield answer.notes
                continue
            del self._busy[ready[0]]
            self._open(worker, answer)

    def stop(self) -> None:
        for worker in (*self._busy.values(), *self._idle):
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(worker.actor)

    def _hand_out(self) -> None:
        """Give waiting parts to idle workers; start workers where there are too few."""
        while self._waiting and self._idle:
            self._give(self._idle.pop())
        starting = sum(worker.part is None for worker in self._busy.values())
        while starting < len(self._waiting) and len(self._busy) < self._n_workers:
            actor = self._actor_class.options(
                max_restarts=0, max_task_retries=0, **self._resources.options
            ).remote()
            self._busy[actor.node.remote()] = _Worker(actor)
            starting += 1

    def _open(self, worker: _Worker, answer: str | Opened | ModelNeeded) -> None:
        """Take a worker one step on: it has a place, it needs the model's files, or it is open."""
        if isinstance(answer, Opened):
            worker.is_open = True
            self._failed_starts = 0
            self._workers.add_provider(answer.provider)
            self._idle.append(worker)
        elif isinstance(answer, ModelNeeded):
            if self._files is None:
                self._files = self._ray.put(self._workers.model_files())
            self._busy[worker.actor.open.remote(self._job, self._files)] = worker
        else:
            worker.node = answer
            self._busy[worker.actor.open.remote(self._job)] = worker

    def _give(self, worker: _Worker) -> None:
        worker.part = self._waiting.popleft()
        chunks = worker.actor.embed.options(
            num_returns="streaming", _generator_backpressure_num_objects=_CHUNKS_AHEAD
        ).remote(worker.part.remaining())
        self._busy[chunks] = worker

    def _bury(self, worker: _Worker) -> None:
        """Return the unfinished notes of a dead worker to the queue, halved if they may be why."""
        self._ray.kill(worker.actor)
        part, worker.part = worker.part, None
        if part is None:
            self._failed_starts += 1
            if self._failed_starts == _FAILED_STARTS:
                raise FeatureStoreError(
                    f"{_FAILED_STARTS} workers on {worker.node or self._workers.where()} died while"
                    " they started - check that clinical-featurestore is installed there, and that "
                    "there is memory for the model"
                )
            return
        notes = part.remaining()
        tries = part.tries + 1
        self._futile_workers += 1
        if self._futile_workers == _FUTILE_WORKERS:
            raise FeatureStoreError(
                f"{_FUTILE_WORKERS} workers in a row died before they had embedded a note - check "
                "the memory of their machines, then run this again: finished work is kept"
            )
        if not len(notes):
            return
        if tries < _TRIES:
            self._waiting.append(_Part(notes, tries))
        elif len(notes) > 1:
            half = len(notes) // 2
            self._waiting.extend(
                _Part(piece, tries - 1) for piece in (notes.slice(0, half), notes.slice(half))
            )
        else:
            self._workers.crashed += notes["note_id"].to_pylist()

    def _check_placement(self) -> None:
        """Raise FeatureStoreError if no worker has found a place for a long time."""
        has_place = any(worker.node for worker in (*self._busy.values(), *self._idle))
        if not has_place and time.monotonic() - self._last_sign > _PLACEMENT_SECONDS:
            needed = "GPU" if self._resources.device == "cuda" else "CPUs"
            raise FeatureStoreError(
                f"{self._workers.where()} has had no free {needed} for {_PLACEMENT_SECONDS} s - run"
                " this again when other jobs have ended"
            )

    def _error(self, failure: Failure, worker: _Worker) -> FeatureStoreError:
        message = failure.message
        if self._workers.where() != "this machine":
            message += f" (on {worker.node})"
        error: FeatureStoreError = getattr(errors, failure.kind)(message)
        error.__cause__ = FeatureStoreError(f"on a worker:\n{failure.trace}")
        return error
