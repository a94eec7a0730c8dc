"""Pending notes to shards to one commit: every ready note gets one vector a window, once."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch.encoder import Encoder, Windows
from featurestore.errors import FeatureStoreError
from featurestore.source import Source
from featurestore.store import CUTOFFS, Store, set_width

# Texts are taken up to this many characters at a time, about 200 full windows: enough to find
# like lengths, little enough to lose when a run is killed.
_LOOK_AHEAD = 500_000
_MEANS_AT_ONCE = 32_768

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
_EXPECTED = " UNION ALL ".join(f"FROM admission_windows(cutoff := '{c}')" for c in CUTOFFS)
_STORED = """
    SELECT encoder_id, hadm_id, cutoff, prediction_time, n_notes, n_windows, windows_hash
    FROM admission_embeddings
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
        shards = Shards(store.staging / encoder.id, encoder.manifest["dim"])
        pending = _pending(store, encoder)
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
            shards.clear()
    return counts


class Shards:
    """Finished windows that wait for the commit: Parquet files in the private staging folder."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder = folder
        self.dim = dim

    def files(self) -> list[Path]:
        """The whole shards, in the order they were written."""
        return sorted(self.folder.glob("*.parquet"))

    def write(self, note_ids: list[str], hashes: list[str], windows: Windows) -> None:
        """Write a shard, durably: it is there whole or not at all."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.folder / f"{len(self.files()):06d}.parquet"
        draft = file.with_suffix(".partial")
        with os.fdopen(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
        ) as stream:
            table = pa.table(
                {
                    "note_id": pa.array(note_ids, pa.string()).take(pa.array(windows.text_no)),
                    "text_hash": pa.array(hashes, pa.string()).take(pa.array(windows.text_no)),
                    "window_no": windows.window_no,
                    "n_tokens": windows.n_tokens,
                    "embedding": vectors_to_arrow(windows.vectors),
                }
            )
            pq.write_table(table, stream, compression="none", write_page_checksum=True)
            stream.flush()
            os.fsync(stream.fileno())
        draft.rename(file)

    def tables(self) -> Iterator[pa.Table]:
        """Each shard's windows."""
        for file in self.files():
            yield pq.read_table(file, page_checksum_verification=True)

    def notes(self) -> set[tuple[str, str]]:
        """The notes that were finished, each with the hash of its text."""
        found: set[tuple[str, str]] = set()
        for file in self.files():
            rows = pq.read_table(file, columns=["note_id", "text_hash"])
            found.update(zip(*(rows.column(no).to_pylist() for no in (0, 1)), strict=True))
        return found

    def clear(self) -> None:
        """Remove the shards, once they are committed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def vectors_to_arrow(vectors: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """A matrix (rows, dim) as an Arrow column that DuckDB reads without copying."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def arrow_to_vectors(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """A `FLOAT[dim]` column as a matrix (rows, dim) float32."""
    dim = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)


def refresh_means(con: duckdb.DuckDBPyConnection) -> None:
    """Bring admission_embeddings in line with the windows that count; only what differs moves."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE expected AS {_EXPECTED}")
    con.execute(
        "DELETE FROM admission_embeddings WHERE (encoder_id, hadm_id, cutoff) IN "
        f"(SELECT (encoder_id, hadm_id, cutoff) FROM ({_STORED} EXCEPT FROM expected))"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE missing_means AS "
        "SELECT row_number() OVER (ORDER BY encoder_id, hadm_id, cutoff) - 1 AS row_no, * "
        f"FROM (FROM expected EXCEPT {_STORED})"
    )
    total = con.execute("SELECT count(*) FROM missing_means").fetchall()[0][0]
    for first in range(0, total, _MEANS_AT_ONCE):
        last = min(first + _MEANS_AT_ONCE, total)
        con.register(
            "means",
            pa.table(
                {
                    "row_no": np.arange(first, last),
                    "embedding": vectors_to_arrow(_means(con, first, last)),
                }
            ),
        )
        con.execute(
            "INSERT INTO admission_embeddings SELECT m.* EXCLUDE (row_no), v.embedding "
            "FROM missing_means AS m INNER JOIN means AS v USING (row_no) ORDER BY row_no"
        )
        con.unregister("means")


def _means(con: duckdb.DuckDBPyConnection, first: int, last: int) -> npt.NDArray[np.float32]:
    """The means of some rows of missing_means, summed in double so that no order shows."""
    (width,) = con.execute("SELECT max(dim) FROM encoders").fetchall()[0]
    sums = np.zeros((last - first, width))  # (means, dim)
    counts = np.zeros((last - first, 1))
    for cutoff in CUTOFFS:
        windows = con.execute(
            f"""
            SELECT m.row_no - $first AS row_no, e.embedding
            FROM missing_means AS m
            INNER JOIN known_notes(cutoff := '{cutoff}') AS k ON m.hadm_id = k.hadm_id
            INNER JOIN embeddings AS e
                ON m.encoder_id = e.encoder_id
                AND k.note_id = e.note_id
                AND k.text_hash = e.text_hash
            WHERE m.cutoff = '{cutoff}' AND m.row_no >= $first AND m.row_no < $last
            """,
            {"first": first, "last": last},
        )
        for batch in windows.to_arrow_reader(16_384):
            rows = batch.column("row_no").to_numpy()
            order = np.argsort(rows, kind="stable")
            rows, starts = np.unique(rows[order], return_index=True)
            vectors = arrow_to_vectors(batch.column("embedding")).astype(np.float64)[order]
            sums[rows] += np.add.reduceat(vectors, starts)
            counts[rows, 0] += np.diff(np.append(starts, len(order)))
    means: npt.NDArray[np.float32] = (sums / counts).astype(np.float32)
    return means


def _check_encoder(store: Store, encoder: Encoder) -> None:
    """Refuse vectors of another width before a note is read."""
    held = store.sql("SELECT dim FROM encoders LIMIT 1").fetchone()
    dim = encoder.manifest["dim"]
    if held is not None and held[0] != dim:
        raise FeatureStoreError(
            f"{store.path} holds {held[0]}-wide vectors, {encoder.id} makes {dim} - "
            "make another store for it with featurestore init"
        )


def _pending(store: Store, encoder: Encoder) -> dict[str, str]:
    """The ready notes without a vector of their text as it is now: note_id to hash."""
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
            encoder=encoder.id,
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
        current = [
            (note, text)
            for note, text in notes
            if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() == todo[note]
        ]
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
        f"FROM ({_EXPECTED}) EXCEPT {_STORED}",
        f"{_STORED} EXCEPT FROM ({_EXPECTED})",
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
