"""Compare recorded scores with what happened."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batch.scoring.outcome_charts import cusum_summary, observed_expected
from batch.scoring.scorer_registry import default_threshold, find_scorer, why_no_signal
from batch.training.bootstrap import PatientBootstrap, alert_outcomes
from batch.training.calibration import Floats
from batch.training.metrics import (
    auroc,
    calibration_intercept,
    calibration_slope,
    is_alerted,
)
from batch.training.performance.thresholds import alert_ppv
from featurestore.cohort.tasks import Task, find_task, scorer_task
from featurestore.errors import NotEnoughDataError
from featurestore.store.scorer_metrics import negate
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa


def outcomes(
    store: Store, scorer: str, alert_above: float | None = None, task: str | None = None
) -> dict[str, Any]:
    """Compare the first score of each admission with its label, once its horizon is over.

    Admissions that the scorer was fitted or selected on are excluded, and so are those without a
    label of the same patients and time. An alert is a probability of at least `alert_above`
    (default: what the riskiest 10% of predicted test stays reach). `task` names another outcome
    than the scorer was trained on.

    Returns counts and metrics (estimate, low, high: 95%) over all admissions,
    and `periods`, the same by month of the prediction. A research extract is one period, because
    its dates are shifted by patient. Of the `scored` admissions some are `waiting`, as their
    horizon is not over (`positive_so_far` of them), some are `judged` by their label (`positive`;
    `expected` is the sum of their probabilities, `observed_expected` the ratio with its exact
    Poisson interval), and some are `not_judged`, as they have none. `waiting_reasons` and
    `not_judged_reasons` count why the label is not known (reason to count).
    `alert_outcomes` splits the alerts that are not waiting; `ppv` is the fraction of them that
    are positive, with its interval, None below 20. `outcome` is what positives did. `cusum` says
    where the risk-adjusted charts of the judged admissions stand (`cusum_summary`; None of an
    extract).
    `no_signal` says why all probabilities are the prevalence; then nobody is alerted by default.
    Raises NotEnoughDataError if nothing was scored.
    """
    scorer_id = find_scorer(store, scorer)
    question = find_task(store, task) if task else scorer_task(store, scorer_id)
    table = scores_with_outcomes(store, scorer_id, question)
    rows = table.to_pydict()
    if not rows["probability"]:
        raise NotEnoughDataError(
            f"{scorer_id} has not scored any admission - "
            f'"featurestore score {store.path} {scorer_id}" does'
        )
    fitted_on = np.array([bool(value) for value in rows["fitted_on"]])
    scored = ~fitted_on
    mature = np.array(rows["mature"], dtype=bool) & scored
    judged = np.array([label is not None for label in rows["label"]]) & mature
    reason = np.array([reason or "" for reason in rows["reason"]], dtype=str)
    y = np.array([bool(label) for label in rows["label"]])
    so_far = np.where(y, f"{question.outcome} so far", f"{negate(question.outcome)} so far")
    p = np.array(rows["probability"])
    period = np.array(rows["period"], dtype=str)
    no_signal = why_no_signal(store, scorer_id)
    if alert_above is not None:
        threshold = alert_above
    elif no_signal:  # all are equal, so nobody is at a higher risk than others
        threshold = 1.0
    else:
        threshold = default_threshold(store.connect(), scorer_id)
    patient = np.array(rows["subject_id"])
    bootstrap = PatientBootstrap(y[judged], patient[judged])
    alerted = is_alerted(p, threshold) & scored

    def counts(members: Any) -> dict[str, Any]:
        with_label, mature_alerts = members & judged, members & alerted & mature
        waiting, not_judged = members & scored & ~mature, members & mature & ~judged
        return {
            "scored": int((members & scored).sum()),
            "waiting": int(waiting.sum()),
            "waiting_reasons": _count(np.where(reason == "", so_far, reason)[waiting]),
            "positive_so_far": int(y[waiting].sum()),
            "judged": int(with_label.sum()),
            "not_judged": int(not_judged.sum()),
            "not_judged_reasons": _count(reason[not_judged]),
            "positive": int(y[with_label].sum()),
            "expected": float(p[with_label].sum()),
            "observed_expected": observed_expected(y[with_label], p[with_label]),
            "alerts": int((members & alerted).sum()),
            "alert_outcomes": alert_outcomes(y[mature_alerts], reason[mature_alerts]),
            "ppv": alert_ppv(y, mature_alerts, patient),
            "auroc": bootstrap.subset(members[judged]).estimate(auroc, p[with_label])
            if with_label.any()
            else None,
        }

    def calibration(metric: Any) -> Any:
        return bootstrap.estimate(metric, p[judged]) if judged.any() else None

    return {
        "scorer_id": scorer_id,
        "task": question.name,
        "horizon_days": question.horizon_days,
        "outcome": question.outcome,
        "no_signal": no_signal,
        "fitted_on": int(fitted_on.sum()),
        "alert_above": threshold,
        **counts(np.ones(len(p), bool)),
        "calibration_slope": calibration(calibration_slope),
        "calibration_intercept": calibration(calibration_intercept),
        "cusum": cusum_summary(*judged_in_order(table)),
        "periods": [
            {"period": name, **counts(period == name)}
            for name in sorted(set(period[scored].tolist()))
        ],
    }


def _count(reasons: npt.NDArray[np.str_]) -> dict[str, int]:
    """Return how often each reason occurs, the most frequent first."""
    return dict(Counter(reasons.tolist()).most_common())


def scores_with_outcomes(store: Store, scorer_id: str, task: Task) -> "pa.Table":
    """Return the first score of each admission with its label by a task."""
    query = read_sql("scoring/scores_with_outcomes")
    return store.sql(query, scorer=scorer_id, labels=task.labels).to_arrow_table()


def judged_in_order(
    scores: "pa.Table",
) -> tuple[npt.NDArray[np.bool_], Floats, npt.NDArray[np.datetime64]]:
    """Return outcome, first probability and time of prediction of judged admissions, in its order.

    `scores` are those of `scores_with_outcomes`. Empty for a research extract, whose dates are
    shifted by patient, so that they have no order.
    """
    import pyarrow.compute as pc

    rows = scores.filter(
        pc.field("label").is_valid()
        & pc.field("mature")
        & ~pc.field("fitted_on")
        & pc.field("predicted_at").is_valid()
    ).sort_by([("predicted_at", "ascending"), ("probability", "ascending")])
    y = rows["label"].to_numpy().astype(bool)
    p = rows["probability"].to_numpy().astype(np.float64)
    return y, p, rows["predicted_at"].to_numpy().astype("datetime64[s]")
