"""vector . coefficients, in SQL: a score for every admission, kept in a ledger, and again later."""

import csv
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from batch.embedding.embed import follow_sync, pending_notes
from featurestore.errors import FeatureStoreError
from featurestore.store.files import private_file
from featurestore.store.store import Store, Transaction

_DUE = """
    FROM score_admissions($scorer)
    ANTI JOIN (FROM latest_scores WHERE scorer_id = $scorer)
        USING (hadm_id, prediction_time, probability)
"""

_FROM_MEANS = """
    SELECT
        v.hadm_id,
        hash(v.embedding) AS input_hash,
        1 / (1 + exp(-(array_inner_product(v.embedding, s.coef) + s.intercept))) AS probability
    FROM scorers AS s
    INNER JOIN (
        SELECT encoder_id, hadm_id, cutoff, embedding FROM admission_embeddings
        UNION ALL
        SELECT encoder_id, hadm_id, cutoff, embedding FROM archived_admission_embeddings
    ) AS v USING (encoder_id, cutoff)
    WHERE s.scorer_id = $scorer
    QUALIFY row_number() OVER (PARTITION BY v.hadm_id, hash(v.embedding)) = 1
"""


def score(
    store: Store,
    scorer: str,
    output: str | Path | None = None,
    hadm_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Score every admission of the scorer's cutoff, or some; add a run to the ledger.

    `scorer` is a name (its newest version) or a scorer_id; `output` a .csv or .parquet file that
    gets the scores too, private, the highest first. Vectors and means follow the last sync
    before; `pending_notes` counts the notes that wait for their first vectors. Returns the run's
    counts. Raises FeatureStoreError, also where one of `hadm_ids` cannot be scored, and why.
    """
    scorer_id = find_scorer(store, scorer)
    output = Path(output) if output else None
    if output and (output.suffix not in (".csv", ".parquet") or not output.parent.is_dir()):
        raise FeatureStoreError(
            f"{output} cannot be written - name a .csv or .parquet file in a folder that is there"
        )
    encoder, cutoff = find_question(store, scorer_id)
    follow_sync(store)
    for hadm_id in hadm_ids:
        check_admission(store, hadm_id, encoder, cutoff)
    pending = len(pending_notes(store, encoder))
    with store.transaction("score") as transaction:
        scored = add_scores(transaction, scorer_id, hadm_ids=hadm_ids)
        transaction.counts.update(scorer=scorer_id, scored=scored)
    if output:
        _write_scores(store, transaction.run_id, output)
    return {
        "run_id": transaction.run_id,
        "scorer_id": scorer_id,
        "scored": scored,
        "pending_notes": pending,
    }


def replay(store: Store, run_id: int) -> dict[str, Any]:
    """Compute the scores of a past run again, from the store alone; nothing is written.

    Each is computed from the very vectors that it was computed from, found by their hash. Of a
    scorer on means they are kept when notes change; of one on windows the admission's score cannot
    be computed again then, and counts as `changed_since`. Returns scored, same (to the last bit),
    different, changed_since and max_difference. Raises FeatureStoreError where the run gave no
    scores.
    """
    scorers = store.sql(
        "SELECT DISTINCT s.scorer_id, s.aggregate FROM scores AS l "
        "INNER JOIN scorers AS s USING (scorer_id) WHERE l.run_id = $run",
        run=run_id,
    ).fetchall()
    if not scorers:
        runs = store.sql("SELECT DISTINCT run_id FROM scores ORDER BY 1 DESC LIMIT 5").fetchall()
        known = ", ".join(str(run) for (run,) in runs) or "none yet"
        raise FeatureStoreError(
            f"run {run_id} of {store.path} gave no scores - the last runs that did: {known}"
        )
    ((scorer_id, aggregate),) = scorers
    again = _FROM_MEANS if aggregate == "mean" else "FROM score_admissions($scorer)"
    scored, same, gone, difference = store.one(
        f"""
        SELECT
            count(*),
            count(*) FILTER (again.probability = l.probability),
            count(*) FILTER (again.probability IS NULL),
            coalesce(max(abs(again.probability - l.probability)), 0)
        FROM (FROM scores WHERE run_id = $run) AS l
        LEFT JOIN ({again}) AS again
            ON l.hadm_id = again.hadm_id AND l.input_hash = again.input_hash
        """,
        run=run_id,
        scorer=scorer_id,
    )
    return {
        "run_id": run_id,
        "scorer_id": scorer_id,
        "scored": scored,
        "same": same,
        "different": scored - same - gone,
        "changed_since": gone,
        "max_difference": difference,
    }


def check_admission(store: Store, hadm_id: int, encoder: str, cutoff: str) -> None:
    """Raise FeatureStoreError, saying why, where an admission has no embedding at a cutoff."""
    where = f"admission {hadm_id}"
    known, at, embedded = store.one(
        """
        SELECT
            (SELECT count(*) FROM admissions WHERE hadm_id = $hadm),
            (SELECT count(*) FROM prediction_times(cutoff := $cutoff) WHERE hadm_id = $hadm),
            (
                SELECT count(*) FROM admission_embeddings
                WHERE (encoder_id, hadm_id, cutoff) = ($encoder, $hadm, $cutoff)
            )
        """,
        hadm=hadm_id,
        cutoff=cutoff,
        encoder=encoder,
    )
    if not known:
        raise FeatureStoreError(f"{where} is not in {store.path} - see the table admissions")
    if not at:
        raise FeatureStoreError(
            f"{where} is not predicted at {cutoff}: the stay is too short for it, set aside, or "
            "over for other reasons (sql/prediction_times.sql) - choose another cutoff"
        )
    if not embedded:
        raise FeatureStoreError(
            f"{where} has no embedded note that was known at {cutoff} - "
            f'"featurestore embed {store.path} MODEL" embeds what is pending'
        )


def find_question(store: Store, scorer_id: str) -> tuple[str, str]:
    """Encoder and cutoff of a scorer; raises FeatureStoreError where its encoder was dropped."""
    encoder, cutoff, there = store.one(
        "SELECT s.encoder_id, s.cutoff, e.encoder_id IS NOT NULL FROM scorers AS s "
        "LEFT JOIN encoders AS e USING (encoder_id) WHERE s.scorer_id = $s",
        s=scorer_id,
    )
    if not there:
        raise FeatureStoreError(
            f"{scorer_id} was trained on {encoder}, which {store.path} holds no more - train a "
            "scorer on another encoder"
        )
    return encoder, cutoff


def add_scores(
    transaction: Transaction, scorer_id: str, only_due: bool = False, hadm_ids: Sequence[int] = ()
) -> int:
    """Add a scorer's scores to the ledger: all, those that are due, or some; return how many."""
    scores = _DUE if only_due else "FROM score_admissions($scorer)"
    scored: int = transaction.con.execute(
        "INSERT INTO scores SELECT $scorer, hadm_id, $run, probability, prediction_time, $now, "
        f"input_hash FROM ({scores}) WHERE len($only) = 0 OR list_contains($only, hadm_id) "
        "ORDER BY hadm_id",
        {
            "scorer": scorer_id,
            "run": transaction.run_id,
            "now": datetime.now(),
            "only": list(hadm_ids),
        },
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


def risk_ranks(store: Store, scorer_id: str, hadm_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return hadm_id, probability, risk_rank and fraction_above of some admissions, in order."""
    return store.rows(
        "SELECT hadm_id, probability, risk_rank, fraction_above FROM latest_scores "
        "WHERE scorer_id = $scorer AND list_contains($hadm_ids, hadm_id) "
        "ORDER BY list_position($hadm_ids, hadm_id)",
        scorer=scorer_id,
        hadm_ids=list(hadm_ids),
    )


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
