"""Embed notes into shards beside the store: read, tokenize, encode, write."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from batch.embedding.changed_notes import digests_of_last_run, note_digests
from batch.embedding.encoder import Encoder, Windows, encode
from batch.embedding.pending import pending_notes, split_pending
from batch.embedding.shards import Shards
from export.tokenizer import Ids
from featurestore.errors import ModelError
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source, open_source
from featurestore.source.sync import SourceDiff
from featurestore.store import failpoints
from featurestore.store.store import Store
from featurestore.store.transaction import translate_disk_errors

# A chunk of notes is read, sorted by window length and staged at once: enough to find windows of
# the same length, little to lose when a run is killed. On a CPU about 200 full windows.
_CHARACTERS_PER_TOKEN = 500  # of the encoder's budget
_MAX_CHARACTERS = 4_000_000
_MAX_NOTES = 250_000  # whose ids and hashes are in memory at once


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

    `changed_notes` are digests of the notes whose text is not the indexed one;
    `is_changed_notes_new` is whether the last run recorded others.
    """

    shards: Shards
    counts: dict[str, int]
    without_tokens: list[str]
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


@dataclass
class TokenizedNotes:
    """Notes whose text is the indexed one, with their windows of token ids."""

    note_ids: list[str]
    hashes: list[str]
    windows: list[list[Ids]]
    changed: list[tuple[str, str]]  # notes whose text is not the indexed one, with that hash


def stage(
    store: Store,
    encoder: Encoder,
    limit: int | None = None,
    progress: Progress | None = None,
    categories: Sequence[str] = (),
    diff: SourceDiff | None = None,
) -> Staged:
    """Embed the pending notes into shards beside the store, resuming from existing shards.

    One thread reads and tokenizes ahead of the model, another writes shards behind it. The store
    itself does not change.
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
        "no words": 0,
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

    written: Future[None] | None = None
    chunks = prefetch(_tokenized(open_source(store), encoder, to_embed))
    with (
        translate_disk_errors(store.path),
        ThreadPoolExecutor(1) as writer,
        contextlib.closing(chunks),
    ):
        for notes in chunks:
            failpoints.hit("encode")
            windows = encode(encoder, notes.windows, on_batch)
            check_vectors(encoder, windows)
            if written:
                written.result()
            if len(windows.text_no):
                written = writer.submit(shards.write, notes.note_ids, notes.hashes, windows)
            empty = [no for no, ids in zip(notes.note_ids, notes.windows, strict=True) if not ids]
            without_tokens += empty
            counts["embedded"] += len(notes.note_ids) - len(empty)
            changed += notes.changed
            throughput.notes += len(notes.note_ids) + len(notes.changed)
            throughput.windows += len(windows.text_no)
            report()
        if written:
            written.result()
    counts["no words"] = len(without_tokens)
    counts["withdrawn since sync"] = len(to_embed) - throughput.notes
    counts["waiting"] = len(pending) - resumed - counts["embedded"] - len(without_tokens)
    digests, previous = note_digests(store, changed), digests_of_last_run(store)
    counts["changed since sync"] = len(changed)
    counts["changed since sync, again"] = len(set(digests) & set(previous))
    return Staged(shards, counts, without_tokens, digests, digests != previous)


def check_vectors(encoder: Encoder, windows: Windows) -> None:
    """Raise ModelError if vectors are not finite, or the same for windows of different lengths."""
    if not np.isfinite(windows.vectors).all():
        raise ModelError(
            f"{encoder.id} made vectors with NaN or infinity; nothing was stored - export it in "
            "fp32, or use another device"
        )
    # Windows of different lengths hold different texts.
    if len(set(windows.n_tokens.tolist())) > 1 and windows.vectors.std(axis=0).max() < 1e-6:
        raise ModelError(
            f"{encoder.id} gives every note the same vector; nothing was stored - it may take "
            "[CLS] from the embedding layer: export the last one"
        )


def _tokenized(source: Source, encoder: Encoder, to_embed: pa.Table) -> Iterator[TokenizedNotes]:
    """Yield the notes to embed in chunks; each pass over the source reads many of them."""
    max_characters = min(_CHARACTERS_PER_TOKEN * encoder.budget, _MAX_CHARACTERS)
    for first in range(0, len(to_embed), _MAX_NOTES):
        part = to_embed.slice(first, _MAX_NOTES)
        hash_of = dict(zip(*(part[c].to_pylist() for c in ("note_id", "text_hash")), strict=True))
        for notes in _read_in_chunks(source, list(hash_of), max_characters):
            current = [(note, text) for note, text in notes if text_hash(text) == hash_of[note]]
            windows = encoder.tokenize([text for _, text in current])
            note_ids = [note for note, _ in current]
            unchanged = set(note_ids)
            changed = [(note, hash_of[note]) for note, _ in notes if note not in unchanged]
            yield TokenizedNotes(note_ids, [hash_of[no] for no in note_ids], windows, changed)


def prefetch(items: Iterator[TokenizedNotes]) -> Generator[TokenizedNotes]:
    """Yield the items, each made in another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = reader.submit(next, items, None)
            yield item


def _read_in_chunks(
    source: Source, note_ids: list[str], max_characters: int
) -> Iterator[list[tuple[str, str]]]:
    """Yield (note_id, text) in lists of about `max_characters`."""
    chunk: list[tuple[str, str]] = []
    length = 0
    failpoints.hit("read")
    for notes in source.texts(note_ids):
        for note, text in notes:
            chunk.append((note, text))
            length += len(text)
            if length >= max_characters:
                yield chunk
                chunk, length = [], 0
        failpoints.hit("read")
    if chunk:
        yield chunk
