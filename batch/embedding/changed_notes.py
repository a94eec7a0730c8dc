"""Notes whose text differs from the index, and whether that was so in the run before."""

import hmac
import json
from collections.abc import Iterable

from featurestore.store.store import Store

_MOST = 1_000  # that a run remembers


def note_digests(store: Store, notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return a keyed hash of each (note_id, text_hash of the index): it names no note."""
    (secret,) = store.one("SELECT secret FROM settings")
    return sorted(
        hmac.digest(bytes(secret), f"{note_id}\0{text_hash}".encode(), "sha256").hex()[:16]
        for note_id, text_hash in notes
    )[:_MOST]


def digests_of_last_run(store: Store) -> list[str]:
    """Return the digests that the last run of embed or nightly has recorded."""
    row = store.sql(
        "SELECT counts FROM runs WHERE command IN ('embed', 'nightly') ORDER BY run_id DESC LIMIT 1"
    ).fetchone()
    digests: list[str] = json.loads(row[0]).get("changed_notes", []) if row else []
    return digests
