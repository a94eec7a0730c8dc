"""The flow of admissions through a label rule: the table that a paper shows."""

from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.store import Store

RULES = ("readmission", "clinicalbert")

# "continued by 123456" is one reason, whatever the stay.
_REASON = r"regexp_replace(reason, '^continued by \d+$', 'continued by the next stay')"


def flow(store: Store, horizon_days: int = 30, rule: str = "readmission") -> dict[str, Any]:
    """How many admissions there are, are left out and why, came back, and did not.

    Keys: admissions, excluded (reason to count), labelled, returned, not_returned, and of these
    planned_returns and died_within_horizon (after discharge, with no return before).
    """
    _check(horizon_days)
    rows = store.sql(
        f"""
        SELECT label, {_REASON} AS reason, count(*), count(*) FILTER (died_within_horizon)
        FROM {rule}_labels(horizon_days := $horizon)
        GROUP BY ALL
        ORDER BY count(*) DESC, reason
        """,
        horizon=horizon_days,
    ).fetchall()
    return {
        "rule": rule,
        "horizon_days": horizon_days,
        "admissions": sum(n for _, _, n, _ in rows),
        "excluded": {reason: n for label, reason, n, _ in rows if label is None},
        "labelled": sum(n for label, _, n, _ in rows if label is not None),
        "returned": sum(n for label, _, n, _ in rows if label),
        "not_returned": sum(n for label, _, n, _ in rows if label is False),
        "planned_returns": sum(n for _, reason, n, _ in rows if reason == "planned return"),
        "died_within_horizon": sum(died for label, _, _, died in rows if label is False),
    }


def compare_rules(store: Store, horizon_days: int = 30) -> list[dict[str, Any]]:
    """Where the two rules disagree: what each says, and of how many admissions, most first."""
    _check(horizon_days)
    said = "coalesce(CASE label WHEN TRUE THEN 'returned' WHEN FALSE THEN 'did not return' END, "
    rows = store.sql(
        f"""
        WITH ours AS (
            SELECT hadm_id, {said} {_REASON}) || CASE WHEN label IS FALSE AND reason IS NOT NULL
                THEN ' (' || reason || ')' ELSE '' END AS answer
            FROM readmission_labels(horizon_days := $horizon)
        ),

        theirs AS (
            SELECT hadm_id, {said} {_REASON}) AS answer
            FROM clinicalbert_labels(horizon_days := $horizon)
        )

        SELECT ours.answer, theirs.answer, count(*)
        FROM ours INNER JOIN theirs USING (hadm_id)
        WHERE split_part(ours.answer, ' (', 1) <> theirs.answer
        GROUP BY ALL
        ORDER BY count(*) DESC, 1, 2
        """,
        horizon=horizon_days,
    ).fetchall()
    return [
        {"readmission": ours, "clinicalbert": theirs, "admissions": n} for ours, theirs, n in rows
    ]


def _check(horizon_days: int) -> None:
    if horizon_days < 1:
        raise FeatureStoreError(f"a horizon of {horizon_days} days is none - give 1 or more")
