"""The flow of admissions through a label rule, as papers report it."""

from collections.abc import Iterable
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.store.schema import check_label_options
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

LABEL_RULES = ("readmission", "clinicalbert")


def admission_flow(
    store: Store, horizon_days: int = 30, rule: str = "readmission"
) -> dict[str, Any]:
    """Count the admissions that are excluded, with reasons, and those that returned or did not.

    Keys: rule, horizon_days, admissions, excluded (reason to count), labelled, returned,
    not_returned, and of these planned_returns and died_within_horizon (after discharge, with no
    return before). Raises FeatureStoreError where the store has no admissions.
    """
    check_label_options(horizon_days=horizon_days)
    check_rule(rule)
    rows = store.rows(read_sql("cohort/flow"), rule=rule, horizon_days=horizon_days)
    if not rows:
        raise FeatureStoreError(
            f'{store.path} has no admissions yet - run "featurestore sync {store.path}"'
        )
    with_label = [row for row in rows if row["label"] is not None]
    not_returned = [row for row in with_label if not row["label"]]
    return {
        "rule": rule,
        "horizon_days": horizon_days,
        "admissions": _total(rows),
        "excluded": {row["reason"]: row["n_admissions"] for row in rows if row["label"] is None},
        "labelled": _total(with_label),
        "returned": _total(with_label) - _total(not_returned),
        "not_returned": _total(not_returned),
        "planned_returns": _total(row for row in rows if row["reason"] == "planned return"),
        "died_within_horizon": sum(row["n_died"] for row in not_returned),
    }


def compare_rules(store: Store, horizon_days: int = 30) -> list[dict[str, Any]]:
    """Return the outcomes by both rules where they differ, the most frequent pair first.

    Keys: readmission, clinicalbert (the outcome by each rule), admissions (how many).
    """
    check_label_options(horizon_days=horizon_days)
    return store.rows(read_sql("cohort/rule_comparison"), horizon_days=horizon_days)


def check_rule(rule: str) -> None:
    """Raise FeatureStoreError unless there is a label rule of this name."""
    if rule not in LABEL_RULES:
        raise FeatureStoreError(f"unknown label rule {rule} - use one of {', '.join(LABEL_RULES)}")


def _total(rows: Iterable[dict[str, Any]]) -> int:
    return sum(row["n_admissions"] for row in rows)
