"""Compare recorded scores with what happened."""

from typing import Any

import numpy as np

from batch.scoring.scorer_registry import find_scorer
from batch.training.bootstrap import PatientBootstrap
from batch.training.metrics import auroc, calibration_intercept, calibration_slope
from featurestore.errors import NotEnoughDataError
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

ALERTED = 0.10  # fraction of test patients above the default threshold of an alert


def outcomes(store: Store, scorer: str, alert_above: float | None = None) -> dict[str, Any]:
    """Compare the first score of each admission with its label, if the label is known.

    Admissions that the scorer was fitted or selected on are excluded. An alert is a probability of
    at least `alert_above` (default: the threshold that the riskiest 10% of test patients reach).

    Returns counts and metrics (estimate, low, high: patient-level bootstrap) over all admissions,
    and `periods`, the same by month of the prediction. A research extract is one period, because
    its dates are shifted by patient. Raises NotEnoughDataError if nothing was scored.
    """
    scorer_id = find_scorer(store, scorer)
    horizon = store.one("SELECT horizon_days FROM scorers WHERE scorer_id = $s", s=scorer_id)[0]
    rows = (
        store.sql(read_sql("scoring/scores_with_outcomes"), scorer=scorer_id, horizon_days=horizon)
        .to_arrow_table()
        .to_pydict()
    )
    if not rows["probability"]:
        raise NotEnoughDataError(
            f"{scorer_id} has not scored any admission - "
            f'"featurestore score {store.path} {scorer_id}" does'
        )
    fitted_on = np.array([bool(value) for value in rows["fitted_on"]])
    known = np.array([label is not None for label in rows["label"]]) & ~fitted_on
    waiting = np.array(rows["waiting"], dtype=bool) & ~fitted_on
    y = np.array([bool(label) for label in rows["label"]])
    p = np.array(rows["probability"])
    period = np.array(rows["period"], dtype=str)
    threshold = _default_threshold(store, scorer_id) if alert_above is None else alert_above
    bootstrap = PatientBootstrap(y[known], np.array(rows["subject_id"])[known])
    alerted = p >= threshold

    def counts(members: Any) -> dict[str, Any]:
        mature = members & known
        return {
            "scored": int((members & ~fitted_on).sum()),
            "waiting": int((members & waiting).sum()),
            "known": int(mature.sum()),
            "returned": int(y[mature].sum()),
            "expected": float(p[mature].sum()),
            "alerts": int((alerted & members & ~fitted_on).sum()),
            "alerts_known": int((alerted & mature).sum()),
            "alerted_returned": int(y[alerted & mature].sum()),
            "auroc": bootstrap.subset(members[known]).estimate(auroc, p[mature])
            if mature.any()
            else None,
        }

    def calibration(metric: Any) -> Any:
        return bootstrap.estimate(metric, p[known]) if known.any() else None

    return {
        "scorer_id": scorer_id,
        "horizon_days": horizon,
        "fitted_on": int(fitted_on.sum()),
        "alert_above": threshold,
        **counts(np.ones(len(p), bool)),
        "calibration_slope": calibration(calibration_slope),
        "calibration_intercept": calibration(calibration_intercept),
        "periods": [
            {"period": name, **counts(period == name)} for name in sorted(set(period.tolist()))
        ],
    }


def _default_threshold(store: Store, scorer_id: str) -> float:
    """Return what the riskiest 10% of test patients reach; of training patients if none are."""
    for split in ("test", "train"):
        (threshold,) = store.one(
            "SELECT quantile_cont(probability, $q) FROM scorer_admissions "
            "WHERE scorer_id = $scorer AND split = $split",
            scorer=scorer_id,
            split=split,
            q=1 - ALERTED,
        )
        if threshold is not None:
            return float(threshold)
    return 0.5
