"""Pending notes to shards to one commit: every ready note gets one vector a window, once."""

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa

from batch.embedding.admission_means import means_are_stale, refresh_means
from batch.embedding.drift import NightlyStats
from batch.embedding.encoder import Encoder, Windows, encode
from batch.embedding.shards import Shards, arrow_to_vectors
from export.tokenizer import Ids
from featurestore.errors import FeatureStoreError
from featurestore.source.source import Source, open_source, text_hash
from featurestore.source.sync import SourceDiff
from featurestore.store import failpoints
from featurestore.store.database import open_duckdb
from featurestore.store.shard_seal import ShardSeal
from featurestore.store.store import Store, Transaction, set_width

# Texts are taken, sorted by length and staged up to so many characters at a time: enough to find
# like lengths, little enough to lose when a run is killed. About 200 full windows on a CPU.
_CHARACTERS = 500  # a word piece of the encoder's budget
_MOST_CHARACTERS = 4_000_000
_NOTES_AT_ONCE = 250_000  # their names and hashes are held in memory

_STALE = """
    SELECT DISTINCT e.note_id, e.text_hash
    FROM embeddings AS e
    ANTI JOIN (FROM notes WHERE status = 'ready') AS n USING (note_id, text_hash)
"""
_MOVED = """
    SELECT n.note_id, n.hadm_id, n.available_at
    FROM notes AS n
    SEMI JOIN (
        SELECT DISTINCT e.note_id
        FROM embeddings AS e
        INNER JOIN notes AS o USING (note_id, text_hash)
        WHERE (e.hadm_id, e.available_at) <> (o.hadm_id, o.available_at)
    ) AS moved USING (note_id)
    WHERE n.status = 'ready'
"""


@dataclass
class Pace:
    """How far a run has come, and how fast."""

    of: int  # notes to read
    notes: int = 0
    windows: int = 0
    tokens: int = 0  # word pieces that the model saw, without padding
    padding: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __str__(self) -> str:
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return (
            f"{self.windows / seconds:,.1f} windows/s, {self.tokens / seconds:,.0f} tokens/s, "
            f"{self.padding / max(self.tokens + self.padding, 1):.1%} padding"
        )


Progress = Callable[[Pace], None]


def on_bar(advance: Callable[..., None]) -> Progress:
    """Progress shown by a bar that is told done, to do, and how fast it goes."""
    return lambda pace: advance(pace.notes, pace.of, pace)


@dataclass
class Staged:
    """Finished windows that wait for a commit, and what became of the notes."""

    shards: Shards
    counts: dict[str, int]
    wordless: list[str]

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.wordless or self.counts["embedded"] or self.counts["resumed"])


def embed_pending(
    store: Store,
    encoder: Encoder,
    limit: int | None = None,
    progress: Progress | None = None,
    categories: Sequence[str] = (),
) -> dict[str, int]:
    """Embed every note that is new or whose text changed; return the counts.

    Finished windows are staged as they are done, so a run that is killed loses only the few notes
    at hand, and one commit at the end takes them over. Vectors of notes that were edited, flagged
    or withdrawn go, those of moved notes move along, and the means of their admissions follow.
    Where nothing is pending nothing is written. `limit` is the most notes to embed now,
    `categories` which ones (all, if none is named); `progress` is called after every pass of the
    model. Raises FeatureStoreError.
    """
    started_at = datetime.now()
    with store.lock("embed"):
        staged = stage(store, encoder, limit, progress, categories)
        if staged or is_out_of_date(store):
            with store.transaction("embed", started_at) as transaction:
                commit_staged(transaction, encoder, staged)
                transaction.counts.update(staged.counts, provider=encoder.provider)
        staged.shards.clear()
    return staged.counts


def follow_sync(store: Store) -> None:
    """Let vectors and means follow what the last sync changed; new text waits for an encoder."""
    with store.lock("embed"):
        if is_out_of_date(store):
            with store.transaction("embed") as transaction:
                drop_stale_vectors(transaction.con)
                refresh_means(transaction.con)


def _check_encoder(store: Store, encoder: Encoder) -> None:
    """Refuse vectors of another width before a note is read."""
    held = store.sql("SELECT dim FROM encoders LIMIT 1").fetchone()
    dim = encoder.manifest["dim"]
    if held is not None and held[0] != dim:
        raise FeatureStoreError(
            f"{store.path} holds {held[0]}-wide vectors, {encoder.id} makes {dim} - "
            "make another store for it with featurestore init"
        )


def pending_notes(store: Store, encoder_id: str, diff: SourceDiff | None = None) -> pa.Table:
    """The ready notes without a vector of their text as it is now: note_id, text_hash, category.

    `difference` is what the next version's index will follow. Raises FeatureStoreError where the
    store was never synced.
    """
    con = store.connect()
    notes = "notes"
    if diff is not None:
        con.register("changed_notes", diff.rows["notes"])
        con.register("gone_notes", diff.deleted["notes"])
        notes = """(
            FROM notes
            ANTI JOIN (
                SELECT note_id FROM changed_notes UNION ALL SELECT note_id FROM gone_notes
            ) USING (note_id)
            UNION ALL FROM changed_notes
        )"""
    elif store.one("SELECT count(*) FROM notes") == (0,):
        raise FeatureStoreError(
            f'{store.path} holds no notes yet - "featurestore sync {store.path}" reads their index'
        )
    pending = con.execute(
        f"""
        SELECT n.note_id, n.text_hash, n.category
        FROM {notes} AS n
        ANTI JOIN (
            SELECT note_id, text_hash FROM embeddings WHERE encoder_id = $encoder AND window_no = 0
        ) AS e USING (note_id, text_hash)
        WHERE n.status = 'ready'
        ORDER BY n.hadm_id, n.note_id
        """,
        {"encoder": encoder_id},
    ).to_arrow_table()
    if diff is not None:
        con.unregister("changed_notes")
        con.unregister("gone_notes")
    return pending


def stage(
    store: Store,
    encoder: Encoder,
    limit: int | None = None,
    progress: Progress | None = None,
    categories: Sequence[str] = (),
    diff: SourceDiff | None = None,
) -> Staged:
    """Embed what is pending into shards beside the store, and go on from those that are there.

    Reading and tokenizing run ahead of the model in a thread of their own, shards are written
    behind it in another. The store is not changed.
    """
    _check_encoder(store, encoder)
    shards = Shards(store.staging / encoder.id, ShardSeal(store))
    pending = pending_notes(store, encoder.id, diff)
    todo, resumed = _split(pending, shards.notes(), categories)
    if limit is not None:
        todo = todo.slice(0, max(0, limit - resumed))
    counts = {"pending": len(pending), "resumed": resumed, "embedded": 0, "no words": 0}
    counts |= {"changed since sync": 0, "windows": 0}
    wordless: list[str] = []
    pace = Pace(len(todo))

    def passed(tokens: int, padding: int) -> None:
        pace.tokens += tokens
        pace.padding += padding
        if progress:
            progress(pace)

    written: Future[None] | None = None
    ahead = prefetch(_tokenized(open_source(store), encoder, todo))
    with store.writing(), ThreadPoolExecutor(1) as writer, contextlib.closing(ahead):
        for notes in ahead:
            failpoints.hit("encode")
            windows = encode(encoder, notes.cut, passed)
            check_vectors(encoder, windows)
            if written:
                written.result()
            if len(windows.text_no):
                written = writer.submit(shards.write, notes.note_ids, notes.hashes, windows)
            empty = [no for no, cut in zip(notes.note_ids, notes.cut, strict=True) if not cut]
            wordless += empty
            counts["embedded"] += len(notes.note_ids) - len(empty)
            counts["changed since sync"] += notes.read - len(notes.note_ids)
            pace.notes += notes.read
            pace.windows += len(windows.text_no)
            if progress:
                progress(pace)
        if written:
            written.result()
    counts["no words"] = len(wordless)
    counts["withdrawn since sync"] = len(todo) - pace.notes
    counts["waiting"] = len(pending) - resumed - counts["embedded"] - len(wordless)
    return Staged(shards, counts, wordless)


def _split(pending: pa.Table, staged: pa.Table, categories: Sequence[str]) -> tuple[pa.Table, int]:
    """What is still to do of the pending notes, and how many are staged already."""
    with open_duckdb() as con:
        con.register("pending", pending)
        con.register("staged", staged)
        todo = con.execute(
            """
            SELECT p.note_id, p.text_hash
            FROM (SELECT row_number() OVER () AS place, * FROM pending) AS p
            ANTI JOIN staged AS s USING (note_id, text_hash)
            WHERE len($categories) = 0 OR p.category IN (SELECT unnest($categories))
            ORDER BY p.place
            """,
            {"categories": list(categories)},
        ).to_arrow_table()
        both = "SELECT count(*) FROM pending SEMI JOIN staged USING (note_id, text_hash)"
        return todo, con.execute(both).fetchall()[0][0]


@dataclass
class _Notes:
    """Some notes, ready for the model."""

    note_ids: list[str]
    hashes: list[str]
    cut: list[list[Ids]]
    read: int  # how many were read; those whose text is not the index's any more wait for a sync


def _tokenized(source: Source, encoder: Encoder, todo: pa.Table) -> Iterator[_Notes]:
    """The notes to do, in one pass over the source for many of them, each note once."""
    characters = min(_CHARACTERS * encoder.budget, _MOST_CHARACTERS)
    for first in range(0, len(todo), _NOTES_AT_ONCE):
        some = todo.slice(first, _NOTES_AT_ONCE)
        hash_of = dict(zip(*(some[c].to_pylist() for c in ("note_id", "text_hash")), strict=True))
        for notes in _look_ahead(source, list(hash_of), characters):
            current = [(note, text) for note, text in notes if text_hash(text) == hash_of[note]]
            cut = encoder.tokenize([text for _, text in current])
            ids = [note for note, _ in current]
            yield _Notes(ids, [hash_of[note] for note in ids], cut, len(notes))


def prefetch(items: Iterator[_Notes]) -> Generator[_Notes]:
    """The same items, each made in another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


def _look_ahead(
    source: Source, note_ids: list[str], characters: int
) -> Iterator[list[tuple[str, str]]]:
    """The texts of some notes in lists of up to so many characters."""
    held: list[tuple[str, str]] = []
    length = 0
    failpoints.hit("read")
    for notes in source.texts(note_ids):
        for note, text in notes:
            held.append((note, text))
            length += len(text)
            if length >= characters:
                yield held
                held, length = [], 0
        failpoints.hit("read")
    if held:
        yield held


def commit_staged(transaction: Transaction, encoder: Encoder, staged: Staged) -> NightlyStats:
    """Bring the staged windows into the next version, and let all else follow the index.

    Returns what tonight's vectors are like. Raises FeatureStoreError unless every note of the
    index is accounted for.
    """
    con = transaction.con
    _register(con, encoder)
    _exclude_wordless(con, staged.wordless)
    drop_stale_vectors(con)
    night = _insert(con, encoder, staged.shards)
    staged.counts["windows"] = night.windows
    check_all_notes_accounted(con, encoder, staged.counts)
    refresh_means(con)
    return night


def check_all_notes_accounted(
    con: duckdb.DuckDBPyConnection, encoder: Encoder, counts: dict[str, int]
) -> None:
    """Notes of the index = embedded + unchanged + excluded + waiting, or nothing is committed."""
    notes, excluded, embedded = con.execute(
        """
        SELECT
            count(*),
            count(*) FILTER (WHERE status = 'excluded'),
            count(*) FILTER (WHERE status = 'ready' AND (note_id, text_hash) IN (
                SELECT (note_id, text_hash) FROM embeddings WHERE encoder_id = $1 AND window_no = 0
            ))
        FROM notes
        """,
        [encoder.id],
    ).fetchall()[0]
    if notes != embedded + excluded + counts["waiting"]:
        raise FeatureStoreError(
            f"of {notes:,} notes {embedded:,} would be embedded, {excluded:,} excluded and "
            f"{counts['waiting']:,} wait, which is not all of them; nothing was changed - please "
            "report this"
        )
    counts["unchanged"] = embedded - counts["embedded"] - counts["resumed"]


def check_vectors(encoder: Encoder, windows: Windows) -> None:
    """Refuse vectors that no note should get: not finite, or the same for all."""
    if not np.isfinite(windows.vectors).all():
        raise FeatureStoreError(
            f"{encoder.id} made vectors with NaN or infinity; nothing was stored - export it in "
            "fp32, or on another device"
        )
    # Windows of different lengths are different texts: a model that tells nothing apart is broken.
    if len(set(windows.n_tokens.tolist())) > 1 and windows.vectors.std(axis=0).max() < 1e-6:
        raise FeatureStoreError(
            f"{encoder.id} gives every note the same vector; nothing was stored - it may take "
            "[CLS] from the embedding layer: export the last one"
        )


def is_out_of_date(store: Store) -> bool:
    """Whether vectors or means have to follow what the last sync changed."""
    con = store.connect()
    for query in (_STALE, _MOVED):
        if con.execute(f"SELECT count(*) FROM ({query})").fetchall()[0][0]:
            return True
    return means_are_stale(con)


def _register(con: duckdb.DuckDBPyConnection, encoder: Encoder) -> None:
    manifest = encoder.manifest
    known = con.execute(
        "SELECT count(*), count(*) FILTER (encoder_id = $1) FROM encoders", [encoder.id]
    )
    encoders, this = known.fetchall()[0]
    if this:
        return
    if not encoders:
        set_width(con, manifest["dim"])
    con.execute(
        "INSERT INTO encoders VALUES ($id, $name, $fingerprint, $dim, $precision, $max_tokens, "
        "$stride, $manifest, $active, $head)",
        {
            "id": encoder.id,
            **{key: manifest[key] for key in ("name", "fingerprint", "dim", "precision")},
            **{key: manifest[key] for key in ("max_tokens", "stride")},
            "manifest": json.dumps(manifest),
            "active": not encoders,
            "head": encoder.head,
        },
    )


def _exclude_wordless(con: duckdb.DuckDBPyConnection, wordless: list[str]) -> None:
    con.execute(
        "UPDATE notes SET status = 'excluded', reason = 'no words' "
        "WHERE note_id IN (SELECT unnest($1::VARCHAR[]))",
        [wordless],
    )


def drop_stale_vectors(con: duckdb.DuckDBPyConnection) -> None:
    """Drop the vectors of notes that were edited, flagged or withdrawn; move the moved ones."""
    con.execute(
        "DELETE FROM embeddings WHERE (note_id, text_hash) IN "
        f"(SELECT (note_id, text_hash) FROM ({_STALE}))"
    )
    con.execute(
        "UPDATE embeddings SET hadm_id = m.hadm_id, available_at = m.available_at "
        f"FROM ({_MOVED}) AS m WHERE embeddings.note_id = m.note_id"
    )


def _insert(con: duckdb.DuckDBPyConnection, encoder: Encoder, shards: Shards) -> NightlyStats:
    """Take the shards over, but for what is there already."""
    con.execute("PRAGMA force_compression = 'uncompressed'")  # floats gain nothing, and cost time
    con.execute(
        "CREATE OR REPLACE TEMP TABLE wanted AS "
        "SELECT n.note_id, n.text_hash, n.hadm_id, n.available_at, n.category FROM notes AS n "
        "ANTI JOIN (SELECT note_id FROM embeddings WHERE encoder_id = $1) AS e USING (note_id) "
        "WHERE n.status = 'ready'",
        [encoder.id],
    )
    night = NightlyStats(encoder.id, encoder.manifest["dim"])
    for shard in shards.tables():
        failpoints.hit("insert")
        con.register("shard", shard)
        rows = con.execute(
            """
            SELECT
                w.category, $1 AS encoder_id, w.hadm_id, s.note_id, s.window_no, s.n_tokens,
                w.available_at, s.text_hash, hash(s.embedding) AS vector_hash, s.embedding
            FROM shard AS s
            INNER JOIN wanted AS w USING (note_id, text_hash)
            ORDER BY w.hadm_id, s.note_id, s.window_no
            """,
            [encoder.id],
        ).to_arrow_table()
        con.unregister("shard")
        if len(rows):  # their notes may have been edited or withdrawn since a run was killed
            con.register("rows", rows)
            con.execute("INSERT INTO embeddings SELECT * EXCLUDE (category) FROM rows")
            con.unregister("rows")
            night.add(rows["category"], rows["window_no"], arrow_to_vectors(rows["embedding"]))
    return night
