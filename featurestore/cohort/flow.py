"""The flow of admissions through a label rule: the table that a paper shows."""

from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.store.files import private_file
from featurestore.store.store import Store, check_question

RULES = ("readmission", "clinicalbert")

# "continued by 123456" is one reason, whatever the stay.
_REASON = r"regexp_replace(reason, '^continued by \d+$', 'continued by the next stay')"


def flow(store: Store, horizon_days: int = 30, rule: str = "readmission") -> dict[str, Any]:
    """How many admissions there are, are left out and why, came back, and did not.

    Keys: admissions, excluded (reason to count), labelled, returned, not_returned, and of these
    planned_returns and died_within_horizon (after discharge, with no return before).
    """
    check_question(horizon_days=horizon_days)
    rows = store.sql(
        f"""
        SELECT label, {_REASON} AS reason, count(*), count(*) FILTER (died_within_horizon)
        FROM {rule}_labels(horizon_days := $horizon)
        GROUP BY ALL
        ORDER BY count(*) DESC, reason
        """,
        horizon=horizon_days,
    ).fetchall()
    if not rows:
        raise FeatureStoreError(
            f'{store.path} holds no admissions yet - "featurestore sync {store.path}" reads them'
        )
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
    check_question(horizon_days=horizon_days)
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


def write_meds(
    store: Store,
    file: str | Path,
    cutoff: str = "72h",
    horizon_days: int = 30,
    rule: str = "readmission",
) -> int:
    """Write the labels of the predicted stays as MEDS labels (Parquet); return how many.

    MEDS 0.4's label schema: subject_id, prediction_time and boolean_value. The file is private
    (0600). Raises FeatureStoreError.
    """
    import pyarrow.parquet as pq

    check_question(cutoff, horizon_days)
    file = Path(file)
    if file.suffix != ".parquet" or not file.parent.is_dir():
        raise FeatureStoreError(
            f"{file} cannot be written - name a .parquet file in a folder that is there"
        )
    rows = store.sql(
        f"""
        SELECT l.subject_id, p.prediction_time, l.label AS boolean_value
        FROM {rule}_labels(horizon_days := $horizon) AS l
        INNER JOIN prediction_times(cutoff := $cutoff) AS p ON l.hadm_id = p.hadm_id
        WHERE l.label IS NOT NULL
        ORDER BY l.subject_id, p.prediction_time
        """,
        horizon=horizon_days,
        cutoff=cutoff,
    ).to_arrow_table()
    with private_file(file) as stream:
        pq.write_table(rows, stream)
    return len(rows)
