"""The ledger against what happened: how good the scores were that people acted on."""

from typing import Any

import numpy as np

from batch.scoring.score import find_scorer
from batch.training.metrics import PatientBootstrap, auroc, calibration_intercept, calibration_slope
from featurestore.errors import FeatureStoreError
from featurestore.store.store import Store

ALERTED = 0.10  # of the test patients, by which the threshold of an alert is set

_LEDGER = """
    WITH first_scores AS (
        SELECT hadm_id, arg_min(probability, run_id) AS p, min(prediction_time) AS predicted
        FROM scores WHERE scorer_id = $scorer GROUP BY hadm_id
    )

    SELECT
        a.subject_id,
        f.p,
        CASE WHEN s.live THEN strftime(f.predicted, '%Y-%m') ELSE 'all' END AS period,
        r.split IN ('train', 'valid') AS fitted_on,
        l.label,
        coalesce(l.reason, '') = 'horizon not yet observed' AS waiting
    FROM first_scores AS f
    CROSS JOIN settings AS s
    INNER JOIN admissions AS a USING (hadm_id)
    LEFT JOIN (FROM scorer_admissions WHERE scorer_id = $scorer) AS r USING (hadm_id)
    LEFT JOIN readmission_labels(horizon_days := $horizon) AS l USING (hadm_id)
    ORDER BY period, a.subject_id, f.hadm_id
"""


def outcomes(store: Store, scorer: str, alert_above: float | None = None) -> dict[str, Any]:
    """Join the first score that each admission was given with its label, as far as it is known.

    Admissions that the scorer was fitted or chosen on are left out. An alert is a probability of
    at least `alert_above`; where it is not given, what the riskiest 10% of its test patients had.
    Returns counts, the metrics over all (estimate, low, high: patient bootstrap), and `periods`:
    the months of a live hospital's predictions; the dates of a research extract are shifted by
    patient, so it is one. Raises FeatureStoreError where nothing was scored.
    """
    scorer_id = find_scorer(store, scorer)
    horizon = store.one("SELECT horizon_days FROM scorers WHERE scorer_id = $s", s=scorer_id)[0]
    table = store.sql(_LEDGER, scorer=scorer_id, horizon=horizon).to_arrow_table().to_pydict()
    if not table["p"]:
        raise FeatureStoreError(
            f'{scorer_id} has scored nobody - "featurestore score {store.path} {scorer_id}" does'
        )
    fitted_on = np.array([bool(value) for value in table["fitted_on"]])
    known = np.array([label is not None for label in table["label"]]) & ~fitted_on
    waiting = np.array(table["waiting"], dtype=bool) & ~fitted_on
    y = np.array([bool(label) for label in table["label"]])
    p = np.array(table["p"])
    period = np.array(table["period"], dtype=str)
    threshold = _threshold(store, scorer_id) if alert_above is None else alert_above
    bootstrap = PatientBootstrap(y[known], np.array(table["subject_id"])[known])
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
            "auroc": bootstrap.of(members[known]).estimate(auroc, p[mature])
            if mature.any()
            else None,
        }

    everyone = np.ones(len(p), bool)
    return {
        "scorer_id": scorer_id,
        "horizon_days": horizon,
        "fitted_on": int(fitted_on.sum()),
        "alert_above": threshold,
        **counts(everyone),
        "calibration_slope": bootstrap.estimate(calibration_slope, p[known])
        if known.any()
        else None,
        "calibration_intercept": (
            bootstrap.estimate(calibration_intercept, p[known]) if known.any() else None
        ),
        "periods": [
            {"period": name, **counts(period == name)} for name in sorted(set(period.tolist()))
        ],
    }


def _threshold(store: Store, scorer_id: str) -> float:
    """What the riskiest 10% of the scorer's test patients had at least; of all, without any."""
    for split in ("test", "train"):
        (found,) = store.one(
            "SELECT quantile_cont(probability, $q) FROM scorer_admissions "
            "WHERE scorer_id = $scorer AND split = $split",
            scorer=scorer_id,
            split=split,
            q=1 - ALERTED,
        )
        if found is not None:
            return float(found)
    return 0.5
