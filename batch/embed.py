"""Pending notes to shards to one commit: every ready note gets one vector a window, once."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime

import duckdb
import numpy as np

from batch.encoder import Encoder, Windows
from batch.means import EXPECTED, STORED, refresh_means
from batch.shards import Shards
from featurestore.errors import FeatureStoreError
from featurestore.source import Source, text_hash
from featurestore.store import Store, set_width

# Texts are taken up to this many characters at a time, about 200 full windows: enough to find
# like lengths, little enough to lose when a run is killed.
_LOOK_AHEAD = 500_000

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


def embed_pending(
    store: Store,
    encoder: Encoder,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Embed every note that is new or whose text changed; return the counts.

    Finished windows are staged as they are done, so a run that is killed loses at most one batch,
    and one commit at the end takes them over. Vectors of notes that were edited, flagged or
    withdrawn go, those of moved notes move along, and the means of their admissions follow.
    Where nothing is pending nothing is written. `limit` is the most notes to embed now;
    `progress` is called with the notes done and to do. Raises FeatureStoreError.
    """
    started_at = datetime.now()
    with store.lock("embed"):
        _check_encoder(store, encoder)
        shards = Shards(store.staging / encoder.id)
        pending = pending_notes(store, encoder.id)
        staged = shards.notes() & pending.items()
        todo = {note: text for note, text in pending.items() if (note, text) not in staged}
        if limit is not None:
            todo = dict(list(todo.items())[: max(0, limit - len(staged))])
        counts = {"pending": len(pending), "resumed": len(staged)}
        wordless = _embed_texts(store.source(), encoder, todo, shards, counts, progress)
        if shards.files() or wordless or _is_out_of_date(store):
            with store.change("embed", started_at) as change:
                _register(change.con, encoder)
                _exclude_wordless(change.con, wordless)
                _drop_stale(change.con)
                _follow_moved(change.con)
                counts["windows"] = _insert(change.con, encoder, shards)
                refresh_means(change.con)
                change.counts.update(counts)
                if provider := getattr(encoder, "provider", None):
                    change.counts["provider"] = provider  # what it really ran on
            shards.clear()
    return counts


def follow_sync(store: Store) -> None:
    """Let vectors and means follow what the last sync changed; new text waits for an encoder."""
    with store.lock("embed"):
        if _is_out_of_date(store):
            with store.change("embed") as change:
                _drop_stale(change.con)
                _follow_moved(change.con)
                refresh_means(change.con)


def _check_encoder(store: Store, encoder: Encoder) -> None:
    """Refuse vectors of another width before a note is read."""
    held = store.sql("SELECT dim FROM encoders LIMIT 1").fetchone()
    dim = encoder.manifest["dim"]
    if held is not None and held[0] != dim:
        raise FeatureStoreError(
            f"{store.path} holds {held[0]}-wide vectors, {encoder.id} makes {dim} - "
            "make another store for it with featurestore init"
        )


def pending_notes(store: Store, encoder_id: str) -> dict[str, str]:
    """The ready notes without a vector of their text as it is now: note_id to hash.

    Raises FeatureStoreError where the store was never synced.
    """
    if store.one("SELECT count(*) FROM notes") == (0,):
        raise FeatureStoreError(
            f'{store.path} holds no notes yet - "featurestore sync {store.path}" reads their index'
        )
    return dict(
        store.sql(
            """
            SELECT n.note_id, n.text_hash
            FROM notes AS n
            ANTI JOIN (SELECT note_id, text_hash FROM embeddings WHERE encoder_id = $encoder) AS e
                USING (note_id, text_hash)
            WHERE n.status = 'ready'
            ORDER BY n.hadm_id, n.note_id
            """,
            encoder=encoder_id,
        ).fetchall()
    )


def _embed_texts(
    source: Source,
    encoder: Encoder,
    todo: dict[str, str],
    shards: Shards,
    counts: dict[str, int],
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Embed the notes of `todo` into shards; return those in which no word was found."""
    counts.update({"embedded": 0, "no words": 0, "changed since sync": 0})
    wordless: list[str] = []
    done = 0
    for notes in _look_ahead(source, list(todo)):
        # The index says which text to expect: a newer one waits for the next sync.
        current = [(note, text) for note, text in notes if text_hash(text) == todo[note]]
        counts["changed since sync"] += len(notes) - len(current)
        note_ids = [note for note, _ in current]
        windows = encoder.encode([text for _, text in current])
        check_vectors(encoder, windows)
        found = set(windows.text_no.tolist())
        wordless += [note for no, note in enumerate(note_ids) if no not in found]
        if found:
            shards.write(note_ids, [todo[note] for note in note_ids], windows)
        counts["embedded"] += len(found)
        done += len(notes)
        if progress:
            progress(done, len(todo))
    counts["no words"] = len(wordless)
    counts["withdrawn since sync"] = len(todo) - done
    return wordless


def _look_ahead(source: Source, note_ids: list[str]) -> Iterator[list[tuple[str, str]]]:
    """The texts of some notes, each note once, in lists of up to _LOOK_AHEAD characters."""
    taken: set[str] = set()
    held: list[tuple[str, str]] = []
    characters = 0
    for notes in source.texts(note_ids):
        for note, text in notes:
            if note in taken:
                continue
            taken.add(note)
            held.append((note, text))
            characters += len(text)
            if characters >= _LOOK_AHEAD:
                yield held
                held, characters = [], 0
    if held:
        yield held


def check_vectors(encoder: Encoder, windows: Windows) -> None:
    """Refuse vectors that no note should get: not finite, of a wrong width, or all the same."""
    dim = encoder.manifest["dim"]
    if windows.vectors.shape != (len(windows.text_no), dim):
        raise FeatureStoreError(
            f"{encoder.id} made vectors of shape {windows.vectors.shape} where "
            f"{(len(windows.text_no), dim)} was expected - export the model again"
        )
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


def _is_out_of_date(store: Store) -> bool:
    """Whether vectors or means have to follow what the last sync changed."""
    queries = (
        _STALE,
        _MOVED,
        f"FROM ({EXPECTED}) EXCEPT {STORED}",
        f"{STORED} EXCEPT FROM ({EXPECTED})",
    )
    return any(store.one(f"SELECT count(*) FROM ({query})")[0] for query in queries)


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
        "$stride, $manifest, $active)",
        {
            "id": encoder.id,
            **{key: manifest[key] for key in ("name", "fingerprint", "dim", "precision")},
            **{key: manifest[key] for key in ("max_tokens", "stride")},
            "manifest": json.dumps(manifest),
            "active": not encoders,
        },
    )


def _exclude_wordless(con: duckdb.DuckDBPyConnection, wordless: list[str]) -> None:
    con.execute(
        "UPDATE notes SET status = 'excluded', reason = 'no words' "
        "WHERE note_id IN (SELECT unnest($1::VARCHAR[]))",
        [wordless],
    )


def _drop_stale(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        "DELETE FROM embeddings WHERE (note_id, text_hash) IN "
        f"(SELECT (note_id, text_hash) FROM ({_STALE}))"
    )


def _follow_moved(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        "UPDATE embeddings SET hadm_id = m.hadm_id, available_at = m.available_at "
        f"FROM ({_MOVED}) AS m WHERE embeddings.note_id = m.note_id"
    )


def _insert(con: duckdb.DuckDBPyConnection, encoder: Encoder, shards: Shards) -> int:
    """Take the shards over, but for what is there already; return how many windows came."""
    con.execute("PRAGMA force_compression = 'uncompressed'")  # floats gain nothing, and cost time
    con.execute(
        "CREATE OR REPLACE TEMP TABLE wanted AS SELECT n.* FROM notes AS n "
        "ANTI JOIN (SELECT note_id FROM embeddings WHERE encoder_id = $1) AS e USING (note_id) "
        "WHERE n.status = 'ready'",
        [encoder.id],
    )
    inserted = 0
    for shard in shards.tables():
        con.register("shard", shard)
        inserted += con.execute(
            """
            INSERT INTO embeddings
            SELECT
                $1, w.hadm_id, s.note_id, s.window_no, s.n_tokens, w.available_at, s.text_hash,
                s.embedding
            FROM shard AS s
            INNER JOIN wanted AS w USING (note_id, text_hash)
            ORDER BY w.hadm_id, s.note_id, s.window_no
            """,
            [encoder.id],
        ).fetchall()[0][0]
        con.unregister("shard")
    return inserted
