"""Why this score, and who reads alike: by note, window and admission, never by text."""

from typing import Any

from batch.embedding.encoders import find_encoder
from batch.scoring.score import check_admission, find_question, find_scorer
from featurestore.errors import FeatureStoreError
from featurestore.store.store import Store, check_question


def explain(store: Store, hadm_id: int, scorer: str | None = None) -> dict[str, Any]:
    """Which notes and windows moved an admission's score; `scorer` is the newest one unless named.

    Contributions are exact, and what they add up to is in sql/explain_admission.sql. Returns
    scorer_id, probability, base, unit (log odds, or probability before calibration), `notes` and
    `windows`, whatever moved it most first. Raises FeatureStoreError.
    """
    scorer_id = find_scorer(store, _newest(store) if scorer is None else scorer)
    check_admission(store, hadm_id, *find_question(store, scorer_id))
    windows = store.rows("FROM explain_admission($scorer, $hadm)", scorer=scorer_id, hadm=hadm_id)
    probability, aggregate = store.one(
        "SELECT a.probability, s.aggregate FROM score_admissions($scorer) AS a, scorers AS s "
        "WHERE a.hadm_id = $hadm AND s.scorer_id = $scorer",
        scorer=scorer_id,
        hadm=hadm_id,
    )
    return {
        "scorer_id": scorer_id,
        "hadm_id": hadm_id,
        "probability": probability,
        "base": windows[0]["base"],
        "unit": "log odds" if aggregate == "mean" else "probability before calibration",
        "notes": _by_note(windows),
        "windows": windows,
    }


def _newest(store: Store) -> str:
    found = store.sql("SELECT scorer_id FROM scorers ORDER BY created_at DESC LIMIT 1").fetchone()
    if found is None:
        raise FeatureStoreError(
            f'{store.path} holds no scorer yet - "featurestore train {store.path} NAME" makes one'
        )
    return str(found[0])


def _by_note(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the windows of each note add up to, the strongest note first."""
    notes: dict[str, dict[str, Any]] = {}
    for window in windows:
        told = {name: window[name] for name in ("note_id", "category", "available_at")}
        note = notes.setdefault(window["note_id"], told | {"windows": 0, "contribution": 0.0})
        note["windows"] += 1
        note["contribution"] += window["contribution"]
    return sorted(notes.values(), key=lambda note: (-abs(note["contribution"]), note["note_id"]))


def similar(
    store: Store, hadm_id: int, n: int = 10, cutoff: str = "72h", horizon_days: int = 30
) -> list[dict[str, Any]]:
    """The n nearest other patients' stays by the active encoder, and what became of them.

    hadm_id, subject_id, similarity (cosine), label, reason and days_to_return, the nearest first.
    Raises FeatureStoreError.
    """
    check_question(cutoff, horizon_days)
    check_admission(store, hadm_id, find_encoder(store, None), cutoff)
    return store.rows(
        """
        SELECT s.hadm_id, s.subject_id, s.similarity, l.label, l.reason, l.days_to_return
        FROM similar_admissions($hadm, n := $n, cutoff := $cutoff) AS s
        LEFT JOIN readmission_labels(horizon_days := $horizon) AS l ON s.hadm_id = l.hadm_id
        ORDER BY s.similarity DESC, s.hadm_id
        """,
        hadm=hadm_id,
        n=n,
        cutoff=cutoff,
        horizon=horizon_days,
    )
