"""Find scorers, and check that an admission can be scored."""

from typing import Any

import duckdb

from batch.training.performance.thresholds import riskiest_tenth
from featurestore.errors import FeatureStoreError, NotEnoughDataError, UnknownNameError
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store


def list_scorers(store: Store) -> list[dict[str, Any]]:
    """Return the settings and the test AUROC (estimate, low, high) of each scorer, by age."""
    return store.rows(read_sql("scoring/list_scorers"))


def find_scorer(store: Store, scorer: str) -> str:
    """Return the scorer of that id, or the newest version of that name.

    Raises UnknownNameError.
    """
    row = store.sql(
        "SELECT scorer_id FROM scorers WHERE scorer_id = $scorer OR name = $scorer "
        "ORDER BY scorer_id = $scorer DESC, version DESC",
        scorer=scorer,
    ).fetchone()
    if row is None:
        names = [name for (name,) in store.sql("SELECT DISTINCT name FROM scorers").fetchall()]
        known = f"it has {', '.join(sorted(names))}" if names else "it has none"
        raise UnknownNameError(
            f'{store.path} holds no scorer {scorer}: {known} - "featurestore train {store.path} '
            f'{scorer}" makes it'
        )
    return str(row[0])


def why_no_signal(store: Store, scorer_id: str) -> str | None:
    """Return why all probabilities of a scorer are the prevalence; None if they are not."""
    reason: str | None = store.one(
        "SELECT metrics ->> '$.no_signal' FROM scorers WHERE scorer_id = $s", s=scorer_id
    )[0]
    return reason


def default_threshold(con: duckdb.DuckDBPyConnection, scorer_id: str) -> float:
    """Return what the riskiest 10% of predicted test stays reach; of training stays if none are."""
    for split in ("test", "train"):
        p = con.execute(
            "SELECT probability FROM scorer_admissions "
            "WHERE (scorer_id, split) = ($1, $2) AND probability IS NOT NULL",
            [scorer_id, split],
        ).fetchnumpy()["probability"]
        if len(p):
            break
    return riskiest_tenth(p)


def newest_scorer(store: Store) -> str:
    """Return the scorer that was trained last; raise NotEnoughDataError if there is none."""
    row = store.sql("SELECT scorer_id FROM scorers ORDER BY created_at DESC LIMIT 1").fetchone()
    if row is None:
        raise NotEnoughDataError(
            f'{store.path} holds no scorer yet - "featurestore train {store.path} NAME" makes one'
        )
    return str(row[0])


def encoder_and_cutoff(store: Store, scorer_id: str) -> tuple[str, str]:
    """Return encoder and cutoff of a scorer.

    Raises UnknownNameError if its encoder was dropped, or the task that decides when it predicts.
    """
    check_cutoff_kept(store, scorer_id)
    encoder, cutoff, is_stored = store.one(
        "SELECT s.encoder_id, s.cutoff, e.encoder_id IS NOT NULL FROM scorers AS s "
        "LEFT JOIN encoders AS e USING (encoder_id) WHERE s.scorer_id = $s",
        s=scorer_id,
    )
    if not is_stored:
        raise UnknownNameError(
            f"{scorer_id} was trained on {encoder}, which is no longer in {store.path} - train a "
            "scorer on another encoder"
        )
    return encoder, cutoff


def check_cutoff_kept(store: Store, scorer_id: str) -> None:
    """Raise UnknownNameError if the task that decides when a scorer predicts was dropped."""
    task, is_kept = store.one(
        "SELECT label_rule, cutoff IN (SELECT k.cutoff FROM kept_cutoffs AS k) FROM scorers "
        "WHERE scorer_id = $s",
        s=scorer_id,
    )
    if not is_kept:
        raise UnknownNameError(
            f"the task {task} decides when {scorer_id} predicts, and was dropped from "
            f'{store.path} - "featurestore task add" adds it again'
        )


def check_admission(store: Store, hadm_id: int, encoder_id: str, cutoff: str) -> None:
    """Raise an error that says why if an admission has no embedding at a cutoff.

    UnknownNameError if the store does not hold it, FeatureStoreError if it is not predicted at the
    cutoff, NotEnoughDataError if it has no embedded note.
    """
    is_known, is_predicted, is_embedded = store.one(
        read_sql("scoring/admission_status"),
        hadm_id=hadm_id,
        encoder_id=encoder_id,
        cutoff=cutoff,
    )
    if not is_known:
        raise UnknownNameError(
            f"admission {hadm_id} is not in {store.path} - see the table admissions"
        )
    if not is_predicted:
        raise FeatureStoreError(
            f"admission {hadm_id} is not predicted at {cutoff}: the stay is too short, or excluded "
            "for another reason (sql/macros/prediction_times.sql) - choose another cutoff"
        )
    if not is_embedded:
        raise NotEnoughDataError(
            f"admission {hadm_id} has no embedded note that was known at {cutoff} - "
            f'"featurestore embed {store.path} MODEL" embeds pending notes'
        )
