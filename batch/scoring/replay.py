"""Compute the scores of a past run again and compare them with the recorded ones."""

from typing import Any

from featurestore.errors import UnknownNameError
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store


def replay(store: Store, run_id: int) -> dict[str, Any]:
    """Compute the scores of a past run again from the store alone; write nothing.

    Each score is computed from the same vectors as the recorded one, found by their hash. If notes
    changed since, a scorer on means finds the old means in the archive; another aggregate cannot
    reproduce the score, which counts as `changed_since`. Returns scored, same (to the last bit),
    different, changed_since and max_difference. Raises UnknownNameError if the run recorded no
    scores.
    """
    row = store.sql("SELECT scorer_id FROM scores WHERE run_id = $r LIMIT 1", r=run_id).fetchone()
    if row is None:
        runs = store.sql("SELECT DISTINCT run_id FROM scores ORDER BY 1 DESC LIMIT 5").fetchall()
        known = ", ".join(str(run) for (run,) in runs) or "none yet"
        raise UnknownNameError(
            f"run {run_id} of {store.path} recorded no scores - the last runs that did: {known}"
        )
    (scorer_id,) = row
    scored, same, missing, max_difference = store.one(
        read_sql("scoring/replay"), run=run_id, scorer=scorer_id
    )
    return {
        "run_id": run_id,
        "scorer_id": scorer_id,
        "scored": scored,
        "same": same,
        "different": scored - same - missing,
        "changed_since": missing,
        "max_difference": max_difference,
    }
