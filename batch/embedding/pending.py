"""Which notes need an embedding."""

from collections.abc import Sequence

import pyarrow as pa

from featurestore.errors import NotEnoughDataError
from featurestore.source.sync import SourceDiff
from featurestore.store.changes import only_changed_stays
from featurestore.store.database import open_duckdb
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store


def pending_notes(store: Store, encoder_id: str, diff: SourceDiff | None = None) -> pa.Table:
    """Return the ready notes that have no vector of their current text.

    Columns: note_id, text_hash, category. With `diff`, the notes are those of the next version.
    Raises NotEnoughDataError if the store was never synced.
    """
    con = store.connect()
    if diff is None and store.one("SELECT count(*) FROM notes") == (0,):
        raise NotEnoughDataError(
            f'{store.path} holds no notes yet - "featurestore sync {store.path}" reads their index'
        )
    no_notes = con.execute("FROM notes LIMIT 0").to_arrow_table()
    con.register("changed_notes", diff.rows["notes"] if diff else no_notes)
    con.register("deleted_notes", diff.deleted["notes"] if diff else no_notes)
    with only_changed_stays(con, "vectors", [encoder_id]):
        pending = con.execute(
            read_sql("embedding/pending_notes"), {"encoder_id": encoder_id}
        ).to_arrow_table()
    con.unregister("changed_notes")
    con.unregister("deleted_notes")
    return pending


def split_pending(
    pending: pa.Table, staged: pa.Table, categories: Sequence[str]
) -> tuple[pa.Table, int]:
    """Return the pending notes still to embed, and how many pending notes are staged already."""
    with open_duckdb() as con:
        con.register("pending_notes", pending)
        con.register("staged_notes", staged)
        to_embed = con.execute(
            read_sql("embedding/notes_to_embed"), {"categories": list(categories)}
        ).to_arrow_table()
        (resumed,) = con.execute(
            "SELECT count(*) FROM pending_notes SEMI JOIN staged_notes USING (note_id, text_hash)"
        ).fetchall()[0]
    return to_embed, resumed
