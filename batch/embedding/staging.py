"""Embed notes into shards beside the store, in this process or on Ray."""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from batch.embedding.changed_notes import digests_of_last_run, note_digests
from batch.embedding.chunks import embed_notes
from batch.embedding.cluster.distribution import RayWorkers
from batch.embedding.encoder import Encoder
from batch.embedding.pending import pending_notes, split_pending
from batch.embedding.shards import Shards
from featurestore.source.source import open_source
from featurestore.source.sync import SourceDiff
from featurestore.store.store import Store
from featurestore.store.transaction import translate_disk_errors


@dataclass
class Throughput:
    """How many notes, windows and tokens a run has embedded, and how fast."""

    total: int  # notes to read
    notes: int = 0
    windows: int = 0
    tokens: int = 0  # without padding
    padding: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __str__(self) -> str:
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return (
            f"{self.windows / seconds:,.1f} windows/s, {self.tokens / seconds:,.0f} tokens/s, "
            f"{self.padding / max(self.tokens + self.padding, 1):.1%} padding"
        )


Progress = Callable[[int, int, Throughput], None]  # notes read, notes to read, throughput


@dataclass
class Staged:
    """Embedded windows that wait for a commit, the counts, and the notes without tokens.

    `provider` is what the model ran on. `changed_notes` are digests of the notes whose text is not
    the indexed one; `is_changed_notes_new` is whether the last run recorded others.
    """

    shards: Shards
    counts: dict[str, int]
    without_tokens: list[str]
    provider: str
    changed_notes: list[str]
    is_changed_notes_new: bool

    @property
    def memory(self) -> dict[str, list[str]]:
        """What the next run has to know, for the counts of this run."""
        return {"changed_notes": self.changed_notes} if self.changed_notes else {}

    def __bool__(self) -> bool:
        """Return whether there is anything to commit."""
        return bool(
            self.without_tokens
            or self.counts["embedded"]
            or self.counts["resumed"]
            or self.is_changed_notes_new
        )


def stage(
    store: Store,
    encoder: Encoder,
    limit: int | None = None,
    progress: Progress | None = None,
    categories: Sequence[str] = (),
    diff: SourceDiff | None = None,
    ray: str | None = None,
) -> Staged:
    """Embed the pending notes into shards beside the store, resuming from existing shards.

    The notes are embedded in this process, or by workers of the Ray cluster at `ray`; a thread of
    this process writes the shards. The store itself does not change.
    """
    shards = Shards(store.staging / encoder.id, store.shard_seal())
    pending = pending_notes(store, encoder.id, diff)
    to_embed, resumed = split_pending(pending, shards.notes(), categories)
    if limit is not None:
        to_embed = to_embed.slice(0, max(0, limit - resumed))
    counts = {
        "pending": len(pending),
        "resumed": resumed,
        "embedded": 0,
        "no_words": 0,
        "windows": 0,
    }
    without_tokens: list[str] = []
    changed: list[tuple[str, str]] = []
    throughput = Throughput(len(to_embed))

    def report() -> None:
        if progress:
            progress(throughput.notes, throughput.total, throughput)

    def on_batch(tokens: int, padding: int) -> None:
        throughput.tokens += tokens
        throughput.padding += padding
        report()

    workers = None if ray is None else RayWorkers(store, encoder, ray)
    chunks = (
        workers.embed_notes(to_embed, on_batch)
        if workers
        else embed_notes(open_source(store), encoder, to_embed, on_batch)
    )
    written: Future[None] | None = None
    with (
        translate_disk_errors(store.path),
        ThreadPoolExecutor(1) as writer,
        contextlib.closing(chunks),
    ):
        for notes in chunks:
            if written:
                written.result()
            if len(notes.windows.text_no):
                written = writer.submit(shards.write, notes.note_ids, notes.hashes, notes.windows)
            without_tokens += notes.without_tokens
            counts["embedded"] += len(notes.note_ids) - len(notes.without_tokens)
            changed += notes.changed
            throughput.notes += len(notes.note_ids) + len(notes.changed)
            throughput.windows += len(notes.windows.text_no)
            report()
        if written:
            written.result()
    crashed = len(workers.crashed) if workers else 0
    counts["no_words"] = len(without_tokens)
    counts["crashed"] = crashed
    counts["withdrawn_since_sync"] = len(to_embed) - throughput.notes - crashed
    counts["waiting"] = len(pending) - resumed - counts["embedded"] - len(without_tokens)
    digests, previous = note_digests(store, changed), digests_of_last_run(store)
    counts["changed_since_sync"] = len(changed)
    counts["changed_again"] = len(set(digests) & set(previous))
    provider = workers.provider if workers else encoder.provider
    return Staged(shards, counts, without_tokens, provider, digests, digests != previous)
