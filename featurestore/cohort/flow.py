"""The flow of admissions through a label rule and the predictions, as papers report it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from featurestore.cohort.tasks import Task, find_task
from featurestore.errors import FeatureStoreError
from featurestore.store.schema import check_label_options
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

MANY_EARLY_RETURNS = 0.10  # of all returns, above which the discharge prediction is too late
MANY_WITHOUT_NOTES = 0.10  # of the judged stays, above which those with a note are another cohort


def admission_flow(
    store: Store,
    task: Task | None = None,
    cutoff: str | None = None,
    encoder: str | None = None,
) -> dict[str, Any]:
    """Count the admissions with and without a label, and how many of each are predicted.

    `task` is readmission within 30 days by default, `cutoff` 72h or the task's own.

    Keys: task, outcome (what positives did), horizon_days (None without a horizon), admissions,
    excluded (reason to count), immature (the horizon is not over) and of these positive_so_far,
    labelled (mature), positive, negative, and of these planned_returns and died_within_horizon
    (after discharge, with no return before).

    `predicted` holds the same for the stays that are predicted at the cutoff: stays, judged (they
    have a mature label), positive, negative, not_judged (reason to count), immature,
    positive_so_far; and positive_not_predicted, the positives among other stays. For the cutoff
    discharge+48h, returns_before_prediction counts the returns within 48 hours of discharge, and
    `warnings` says if they are many. With an `encoder`, `scored` holds the counts for the predicted
    stays that have a known note, and `warnings` says if many have none, or if no horizon is over.
    Raises
    FeatureStoreError where the store has no admissions.
    """
    task = task or find_task(store)
    cutoff, horizon_days = task.cutoff(store, cutoff), task.horizon_days
    rows = store.rows(read_sql("cohort/flow"), labels=task.labels, cutoff=cutoff, encoder=encoder)
    if not rows:
        raise _no_admissions(store)
    total = _outcomes(rows)
    negative = [row for row in rows if row["outcome"] == "negative"]
    positive = [row for row in rows if row["outcome"] == "positive"]
    predicted: dict[str, Any] = {
        "cutoff": cutoff,
        **_outcomes(_as_judged(row) for row in rows if row["is_predicted"]),
        "positive_not_predicted": _total(row for row in positive if not row["is_predicted"]),
    }
    flow = {
        "task": task.name,
        "outcome": task.outcome,
        "horizon_days": horizon_days,
        "admissions": total["stays"],
        "excluded": total["not_judged"],
        "immature": total["immature"],
        "positive_so_far": total["positive_so_far"],
        "labelled": total["judged"],
        "positive": total["positive"],
        "negative": total["negative"],
        "planned_returns": _total(row for row in negative if row["reason"] == "planned return"),
        "died_within_horizon": sum(row["n_died"] for row in negative),
        "predicted": predicted,
        "warnings": [*_warn_of_no_label(total, horizon_days)],
    }
    if cutoff == "discharge+48h" and horizon_days is not None:
        early = _total(row for row in positive if row["returned_early"])
        predicted["returns_before_prediction"] = early
        flow["warnings"] += _warn_of_early_returns(early, total["positive"], horizon_days)
    if encoder is not None:
        flow["scored"] = _outcomes(_as_judged(row) for row in rows if row["is_scored"])
        flow["warnings"] += _warn_of_stays_without_notes(predicted, flow["scored"])
    return flow


def compare_rules(store: Store, horizon_days: int = 30) -> list[dict[str, Any]]:
    """Return the outcomes by both rules where they differ, the most frequent pair first.

    Keys: readmission, clinicalbert (the outcome by each rule), admissions (how many). Raises
    FeatureStoreError where the store has no admissions.
    """
    check_label_options(horizon_days=horizon_days)
    if not store.sql("FROM admissions LIMIT 1").fetchall():
        raise _no_admissions(store)
    return store.rows(read_sql("cohort/rule_comparison"), horizon_days=horizon_days)


def _no_admissions(store: Store) -> FeatureStoreError:
    return FeatureStoreError(
        f'{store.path} has no admissions yet - run "featurestore sync {store.path}"'
    )


def _outcomes(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of admissions in rows of the flow, by outcome."""
    outcomes: Counter[str] = Counter()
    not_judged: Counter[str] = Counter()
    positive_so_far = 0
    for row in rows:
        outcomes[row["outcome"]] += row["n_admissions"]
        positive_so_far += row["n_admissions"] * row["positive_so_far"]
        if row["outcome"] == "excluded":
            not_judged[row["reason"]] += row["n_admissions"]
    return {
        "stays": outcomes.total(),
        "judged": outcomes["positive"] + outcomes["negative"],
        "positive": outcomes["positive"],
        "negative": outcomes["negative"],
        "not_judged": dict(not_judged.most_common()),
        "immature": outcomes["immature"],
        "positive_so_far": positive_so_far,
    }


def _as_judged(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of predicted stays; all wait for their horizon, with a label or without."""
    return row if row["mature"] else row | {"outcome": "immature"}


def _warn_of_no_label(total: dict[str, Any], horizon_days: int | None) -> Iterator[str]:
    if total["immature"] and not total["judged"] and horizon_days is None:
        yield (
            f"the labels of all {total['immature']:,} possible stays are not known yet, so nothing "
            "can be trained or judged - wait until they are"
        )
    elif total["immature"] and not total["judged"]:
        yield (
            f"the horizon of all {total['immature']:,} possible index stays is not over, so "
            "nothing can be trained or judged - wait until it is, or choose a shorter horizon"
        )


def _warn_of_early_returns(early: int, returned: int, horizon_days: int) -> Iterator[str]:
    if early > MANY_EARLY_RETURNS * returned:
        yield (
            f"{early:,} of {returned:,} returns within {horizon_days} days come before the "
            "discharge prediction, 48 hours after discharge, and cannot be predicted by it - "
            "choose an earlier cutoff, such as discharge+0h, or a longer horizon"
        )


def _warn_of_stays_without_notes(
    predicted: dict[str, Any], scored: dict[str, Any]
) -> Iterator[str]:
    missing = predicted["judged"] - scored["judged"]
    if missing > MANY_WITHOUT_NOTES * predicted["judged"]:
        yield (
            f"{missing:,} of {predicted['judged']:,} stays that are judged at "
            f"{predicted['cutoff']} have no embedded note that was known by then, and are left out "
            "- choose a later cutoff, or embed all notes"
        )


def _total(rows: Iterable[dict[str, Any]]) -> int:
    return sum(row["n_admissions"] for row in rows)
