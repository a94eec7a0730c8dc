"""Notes in chunks: read from the source, tokenized, embedded, each chunk with whole notes only."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batch.embedding.encoder import Encoder, Windows, encode
from export.tokenizer import Ids
from featurestore.errors import ModelError
from featurestore.source.note_texts import text_hash
from featurestore.source.source import Source
from featurestore.store import failpoints

# A chunk of notes is read, sorted by window length and staged at once: enough to find windows of
# the same length, little to lose when a run is killed. On a CPU about 200 full windows.
_CHARACTERS_PER_TOKEN = 500  # of the encoder's budget
_MAX_CHARACTERS = 4_000_000
MAX_NOTES = 250_000  # whose ids and hashes are in memory at once

OnBatch = Callable[[int, int], None]  # tokens, padding


@dataclass
class EmbeddedNotes:
    """A chunk of notes with the vectors of all their windows; it holds no text."""

    note_ids: list[str]
    hashes: list[str]
    windows: Windows  # text_no is the index of a note
    without_tokens: list[str]  # notes without a window
    changed: list[tuple[str, str]]  # notes whose text is not the indexed one, with that hash


@dataclass
class _TokenizedNotes:
    """Notes whose text is the indexed one, with their windows of token ids."""

    note_ids: list[str]
    hashes: list[str]
    windows: list[list[Ids]]
    changed: list[tuple[str, str]]


def embed_notes(
    source: Source, encoder: Encoder, to_embed: pa.Table, on_batch: OnBatch | None = None
) -> Generator[EmbeddedNotes]:
    """Yield the notes of a table (note_id, text_hash) in chunks, with their vectors.

    One thread reads and tokenizes ahead of the model. Notes that the source no longer has are left
    out. `on_batch` is called after every batch with its numbers of tokens and of padding. Raises
    SourceError and ModelError.
    """
    with contextlib.closing(_prefetch(_tokenized(source, encoder, to_embed))) as chunks:
        for notes in chunks:
            failpoints.hit("encode")
            windows = encode(encoder, notes.windows, on_batch)
            _check_vectors(encoder, windows)
            empty = [no for no, ids in zip(notes.note_ids, notes.windows, strict=True) if not ids]
            yield EmbeddedNotes(notes.note_ids, notes.hashes, windows, empty, notes.changed)


def _check_vectors(encoder: Encoder, windows: Windows) -> None:
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


def _tokenized(source: Source, encoder: Encoder, to_embed: pa.Table) -> Iterator[_TokenizedNotes]:
    """Yield the notes to embed in chunks; each pass over the source reads many of them."""
    max_characters = min(_CHARACTERS_PER_TOKEN * encoder.budget, _MAX_CHARACTERS)
    for first in range(0, len(to_embed), MAX_NOTES):
        part = to_embed.slice(first, MAX_NOTES)
        hash_of = dict(zip(*(part[c].to_pylist() for c in ("note_id", "text_hash")), strict=True))
        for notes in _read_in_chunks(source, list(hash_of), max_characters):
            current = [(note, text) for note, text in notes if text_hash(text) == hash_of[note]]
            windows = encoder.tokenize([text for _, text in current])
            note_ids = [note for note, _ in current]
            unchanged = set(note_ids)
            changed = [(note, hash_of[note]) for note, _ in notes if note not in unchanged]
            yield _TokenizedNotes(note_ids, [hash_of[no] for no in note_ids], windows, changed)


def _prefetch(items: Iterator[_TokenizedNotes]) -> Generator[_TokenizedNotes]:
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
