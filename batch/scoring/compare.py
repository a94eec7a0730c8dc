"""Compare two scorers, or a scorer and a baseline, on the same test stays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from batch.scoring.scorer_registry import find_scorer, why_no_signal
from batch.training.baselines import BASELINES
from batch.training.bootstrap import MIN_ALERTS, MIN_OUTCOMES, PatientBootstrap, enough_outcomes
from batch.training.metrics import (
    Metric,
    auprc,
    auroc,
    brier,
    is_alerted,
    log_loss,
    net_benefit,
)
from featurestore.errors import FeatureStoreError, NotEnoughDataError, UnknownNameError
from featurestore.store.scorer_metrics import Interval
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

COMPARED: dict[str, Metric] = {
    "auroc": auroc,
    "auprc": auprc,
    "brier": brier,
    "log_loss": log_loss,
}


def compare(
    store: Store, scorer: str, other: str, thresholds: Sequence[float] = ()
) -> dict[str, Any]:
    """Compare two scorers on the test stays that both have, paired by patient.

    `other` is a scorer, or a baseline that was recorded with the first one (bag_of_words, ...).
    Both are what they predicted when they were trained, for the same task and horizon. Stays of
    patients on whom either was trained or calibrated are excluded, and so are those whose label
    changed between the two.

    Returns `metrics` (auroc, auprc, brier, log_loss) and `net_benefit` at each of `thresholds`
    (Vickers & Elkin 2006; `alert_all` is that of alerting every stay), each with `scorer`, `other`
    and `difference`, the first less the second, as [estimate, low, high]. A net benefit is None
    below 20 alerts, and a difference where fewer than 20 stays are alerted by one of them only. A
    difference of AUPRC has no interval below 150 stays of an outcome.
    `admissions`, `patients` and `positives` are those that were compared, `excluded` counts the
    other test stays by reason, and `notes` are sentences to read first. Raises UnknownNameError for
    an unknown scorer, FeatureStoreError for different tasks, and NotEnoughDataError where too few
    test stays are common.
    """
    for threshold in thresholds:
        if not 0 < threshold < 1:
            raise FeatureStoreError(
                f"a threshold is a probability between 0 and 1, not {threshold}"
            )
    first, second, system = _find_systems(store, scorer, other)
    rows = store.sql(
        read_sql("scoring/common_stays"),
        scorer=first["scorer_id"],
        other=second["scorer_id"],
        system=system,
    ).fetchnumpy()
    is_common, is_trained_on = rows["is_common"], rows["trained_on_patient"]
    has_other_label = is_common & ~is_trained_on & rows["other_label"]
    members = is_common & ~is_trained_on & ~has_other_label
    excluded = {
        "of_one_scorer": int((~is_common & ~is_trained_on).sum()),
        "trained_on_patient": int(is_trained_on.sum()),
        "other_label": int(has_other_label.sum()),
    }
    y = np.asarray(rows["label"][members], np.bool_)
    _check_outcomes(first, second, y, excluded)
    patient = rows["subject_id"][members]
    p, q = (_probabilities(rows[name][members]) for name in ("probability", "other_probability"))
    bootstrap = PatientBootstrap(y, patient)

    def paired(intervals: tuple[Interval, Interval, Interval]) -> dict[str, Interval]:
        return dict(zip(("scorer", "other", "difference"), intervals, strict=True))

    benefits: list[dict[str, Any]] = []
    at_thresholds: dict[str, Metric] = {str(t): net_benefit(t) for t in thresholds}
    compared = bootstrap.compare(COMPARED | at_thresholds, p, q)
    for t in thresholds:
        ours, theirs, difference = compared[str(t)]
        alerted = [is_alerted(risk, t) for risk in (p, q)]
        alerts = [int(each.sum()) for each in alerted]
        only_by_one = int((alerted[0] != alerted[1]).sum())
        benefits.append(
            {
                "threshold": t,
                "alert_all": float(y.mean() - (1 - y.mean()) * t / (1 - t)),
                "alerts": {"scorer": alerts[0], "other": alerts[1]},
                "scorer": ours if alerts[0] >= MIN_ALERTS else None,
                "other": theirs if alerts[1] >= MIN_ALERTS else None,
                "difference": difference if min(*alerts, only_by_one) >= MIN_ALERTS else None,
            }
        )
    return {
        "scorer": first["scorer_id"],
        "other": second["name"],
        "task": first["label_rule"],
        "horizon_days": first["horizon_days"],
        "outcome": first["outcome"],
        "cutoffs": [first["cutoff"], second["cutoff"]],
        "admissions": len(y),
        "patients": len(np.unique(patient)),
        "positives": int(y.sum()),
        "excluded": excluded,
        "metrics": {name: paired(compared[name]) for name in COMPARED},
        "net_benefit": benefits,
        "notes": _notes(store, first, second, excluded),
    }


def _find_systems(
    store: Store, scorer: str, other: str
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the two scorers, and the column of the second one's probabilities.

    A baseline is a column of the first scorer.
    """
    first = _scorer(store, scorer)
    is_scorer = store.one(
        "SELECT count(*) > 0 FROM scorers WHERE $other IN (scorer_id, name)", other=other
    )[0]
    if other in BASELINES and not is_scorer:
        has_baseline = store.one(
            "SELECT count(*) > 0 FROM scorer_admissions AS s WHERE scorer_id = $scorer "
            "AND json_extract_string(to_json(s), '$.' || $baseline) IS NOT NULL",
            scorer=first["scorer_id"],
            baseline=other,
        )[0]
        if not has_baseline:
            raise NotEnoughDataError(
                f"{first['scorer_id']} was trained without the baseline {other} - train it again "
                "with it, or compare it with another one"
            )
        return first, first | {"name": other}, other
    if not is_scorer:
        names = store.sql("SELECT DISTINCT name FROM scorers ORDER BY name").fetchall()
        (recorded,) = store.one(
            "SELECT json_keys(metrics, '$.differences') FROM scorers WHERE scorer_id = $s",
            s=first["scorer_id"],
        )
        raise UnknownNameError(
            f"{store.path} holds no scorer {other}: it has {', '.join(n for (n,) in names)}; the "
            f"baselines of {first['scorer_id']} are {', '.join(recorded or ()) or 'none'}"
        )
    second = _scorer(store, other)
    if first["scorer_id"] == second["scorer_id"]:
        raise FeatureStoreError(
            f"{scorer} and {other} are the same scorer, {first['scorer_id']} - name two, such as "
            f"two versions, or a baseline: {', '.join(BASELINES)}"
        )
    _check_same_question(first, second)
    return first, second, "probability"


def _scorer(store: Store, name: str) -> dict[str, Any]:
    (row,) = store.rows(
        "SELECT scorer_id, scorer_id AS name, label_rule, task_hash, horizon_days, cutoff, "
        "metrics ->> '$.outcome' AS outcome FROM scorers WHERE scorer_id = $scorer",
        scorer=find_scorer(store, name),
    )
    return row


def _check_same_question(first: dict[str, Any], second: dict[str, Any]) -> None:
    ours, theirs = ({"task": s["label_rule"], "days": s["horizon_days"]} for s in (first, second))
    if ours == theirs and first["task_hash"] == second["task_hash"]:
        return
    if ours["task"] != theirs["task"]:
        what = f"predicts {ours['task']}, {second['scorer_id']} predicts {theirs['task']}"
    elif ours["days"] != theirs["days"]:
        what = f"predicts {ours['days']} days, {second['scorer_id']} {theirs['days']} days"
    else:
        what = (
            f"and {second['scorer_id']} were trained on different labels of the task "
            f"{ours['task']}: its SELECT or its parameters changed"
        )
    raise FeatureStoreError(
        f"{first['scorer_id']} {what} - compare scorers of the same task and horizon"
    )


def _check_outcomes(
    first: dict[str, Any], second: dict[str, Any], y: Any, excluded: dict[str, int]
) -> None:
    if enough_outcomes(y):
        return
    left_out = ", ".join(f"{n:,} {_REASONS[reason]}" for reason, n in excluded.items() if n)
    raise NotEnoughDataError(
        f"{first['scorer_id']} and {second['name']} have {len(y):,} test stays in common, "
        f"{int(y.sum()):,} of them positive{f' (excluded: {left_out})' if left_out else ''}: at "
        f"least {MIN_OUTCOMES} positive and {MIN_OUTCOMES} negative stays are needed - compare "
        "scorers with more test stays"
    )


_REASONS = {
    "of_one_scorer": "test stays of one of them only",
    "trained_on_patient": "of patients that one of them was trained or calibrated on",
    "other_label": "whose label changed between the two",
}


def _probabilities(values: Any) -> Any:
    return np.asarray(np.ma.filled(np.ma.asarray(values), np.nan), np.float64)


def _notes(
    store: Store, first: dict[str, Any], second: dict[str, Any], excluded: dict[str, int]
) -> list[str]:
    """Return what a reader of the comparison must know, a sentence each."""
    notes = [f"excluded: {n:,} {_REASONS[reason]}" for reason, n in excluded.items() if n]
    if first["cutoff"] != second["cutoff"]:
        notes.append(
            f"{first['scorer_id']} predicts at {first['cutoff']}, {second['name']} at "
            f"{second['cutoff']}: only stays that both predict are compared"
        )
    for scorer_id in dict.fromkeys((first["scorer_id"], second["scorer_id"])):
        if why_no_signal(store, scorer_id):
            notes.append(f"{scorer_id} has no signal: all its probabilities are the prevalence")
    return notes
