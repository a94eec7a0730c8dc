"""vector . coefficients, in SQL: a score for every admission, kept in a ledger."""

import csv
from datetime import datetime
from pathlib import Path
from typing import Any

from batch.embed import follow_sync, pending_notes
from featurestore.errors import FeatureStoreError
from featurestore.files import private_file
from featurestore.store import Change, Store

_DUE = """
    FROM score_admissions($scorer)
    ANTI JOIN (FROM latest_scores WHERE scorer_id = $scorer)
        USING (hadm_id, prediction_time, probability)
"""


def score(store: Store, scorer: str, output: str | Path | None = None) -> dict[str, Any]:
    """Score every admission of the scorer's cutoff and add a run to the ledger; return its counts.

    `scorer` is a name (its newest version) or a scorer_id; `output` a .csv or .parquet file that
    gets the scores too, private, the highest first. Vectors and means follow the last sync
    before; `pending_notes` counts the notes that wait for their first vectors. Raises
    FeatureStoreError.
    """
    scorer_id = find_scorer(store, scorer)
    output = Path(output) if output else None
    if output and (output.suffix not in (".csv", ".parquet") or not output.parent.is_dir()):
        raise FeatureStoreError(
            f"{output} cannot be written - name a .csv or .parquet file in a folder that is there"
        )
    (encoder,) = store.one("SELECT encoder_id FROM scorers WHERE scorer_id = $s", s=scorer_id)
    follow_sync(store)
    pending = len(pending_notes(store, encoder))
    with store.change("score") as change:
        scored = add_scores(change, scorer_id)
        change.counts.update(scorer=scorer_id, scored=scored)
    if output:
        _write_scores(store, change.run_id, output)
    return {
        "run_id": change.run_id,
        "scorer_id": scorer_id,
        "scored": scored,
        "pending_notes": pending,
    }


def add_scores(change: Change, scorer_id: str, only_due: bool = False) -> int:
    """Add a scorer's scores to the ledger, all or those that are due; return how many."""
    scores = _DUE if only_due else "FROM score_admissions($scorer)"
    scored: int = change.con.execute(
        "INSERT INTO scores SELECT $scorer, hadm_id, $run, probability, prediction_time, $now "
        f"FROM ({scores}) ORDER BY hadm_id",
        {"scorer": scorer_id, "run": change.run_id, "now": datetime.now()},
    ).fetchall()[0][0]
    return scored


def scores_due(store: Store, scorer_id: str) -> int:
    """How many admissions have no score by this scorer, or would get another than their last."""
    due: int = store.one(f"SELECT count(*) FROM ({_DUE})", scorer=scorer_id)[0]
    return due


def find_scorer(store: Store, scorer: str) -> str:
    """The scorer of that id, or the newest version of that name."""
    found = store.sql(
        "SELECT scorer_id FROM scorers WHERE scorer_id = $scorer OR name = $scorer "
        "ORDER BY scorer_id = $scorer DESC, version DESC",
        scorer=scorer,
    ).fetchone()
    if found is None:
        names = [name for (name,) in store.sql("SELECT DISTINCT name FROM scorers").fetchall()]
        known = f"it has {', '.join(sorted(names))}" if names else "it has none"
        raise FeatureStoreError(
            f'{store.path} holds no scorer {scorer}: {known} - "featurestore train {store.path} '
            f'{scorer}" makes it'
        )
    return str(found[0])


def _write_scores(store: Store, run_id: int, file: Path) -> None:
    rows = store.sql(
        "SELECT hadm_id, probability, prediction_time, scorer_id, run_id, scored_at FROM scores "
        "WHERE run_id = $run ORDER BY probability DESC, hadm_id",
        run=run_id,
    ).to_arrow_table()
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        with private_file(file) as stream:
            pq.write_table(rows, stream)
    else:
        with private_file(file, encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(rows.column_names)
            writer.writerows(zip(*(column.to_pylist() for column in rows.columns), strict=True))
