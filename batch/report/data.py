"""Everything that a scorer's report reads from the store, as plain values and arrays."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.report.monitoring import Monitoring, read_monitoring
from batch.scoring.scorer_registry import check_cutoff_kept, find_scorer
from batch.training.baselines import BASELINES
from batch.training.bootstrap import enough_outcomes
from batch.training.performance.calibration_curve import calibration_curve, curves_if_calibrated
from batch.training.performance.evaluation_ledger import earlier_evaluations
from batch.training.performance.small_cells import (
    suppress_alerts,
    suppress_characteristics,
    suppress_subgroups,
)
from batch.training.performance.subgroups import groups_of, subgroup_metrics
from batch.training.performance.thresholds import (
    THRESHOLDS,
    ThresholdRow,
    riskiest_tenth,
    threshold_metrics,
)
from featurestore.cohort.caveats import caveats
from featurestore.cohort.flow import admission_flow
from featurestore.cohort.leakage import Finding, audit, pretrained_on_source
from featurestore.cohort.tasks import scorer_task
from featurestore.store.scorer_metrics import DEFAULT_OUTCOME, ScorerMetrics
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.vectors import arrow_to_vectors

Floats = npt.NDArray[np.float64]

MAP_SIZE = 4_000  # admissions in the map, at most
_CURVE_POINTS = 60  # of the calibration curve
_NAMES = {
    "classifier_head": "Fine-tuned model",
    "bag_of_words": "Bag-of-words",
    "lace": "LACE",
    "hospital_score": "HOSPITAL score",
}


@dataclass
class Curve:
    """A smooth calibration curve, and where 95% of the curves of calibrated risks lie."""

    risk: Floats  # (points,)
    observed: Floats  # (points,)
    low: Floats  # (points,)
    high: Floats  # (points,)


@dataclass
class ReportData:
    """The content of a report; it identifies no note, patient or admission."""

    scorer: dict[str, Any]  # its row, and the run that trained it
    metrics: ScorerMetrics
    encoder: dict[str, Any]  # its manifest; empty where the store no longer holds it
    schema: str
    outcome: str  # what positives did
    question: str  # what is predicted, as a title says it
    y: npt.NDArray[np.bool_]  # (test stays,)
    predictions: dict[str, Floats]  # probabilities of the scorer and its baselines: (test stays,)
    positive_by_risk: npt.NDArray[np.bool_]  # (predicted test stays,) labelled or not, by risk
    curve: Curve | None  # None with too few outcomes
    thresholds: list[ThresholdRow]
    group_threshold: float  # of an alert, in the groups
    subgroups: list[dict[str, Any]]  # as SubgroupMetrics; small counts are None, as below
    characteristics: list[dict[str, Any]]  # of the patients by split and outcome
    alerts: list[dict[str, Any]]  # as AlertMetrics
    flow: dict[str, Any]
    patients: dict[str, dict[str, Any]]  # of each split
    embeddings: npt.NDArray[np.float32]  # (stays in the map, dim)
    positive: npt.NDArray[np.bool_]  # (stays in the map,)
    monitoring: Monitoring
    evaluations: list[dict[str, Any]]  # of the scorer; sql/report/evaluations.sql
    evaluated_scorers: list[str]  # others of the task that were evaluated on test patients
    findings: list[Finding]  # of the audit, but for the caveats and the contamination
    caveats: list[str]  # of the source and of the label rule
    contamination: bool  # the encoder was pretrained on the notes of this source


def report_data(
    store: Store, scorer: str, thresholds: Sequence[float] = (), small_cells: bool = False
) -> ReportData:
    """Read a scorer, by name or scorer_id, and what its report shows.

    The first of the thresholds is that of the groups. Counts under 11 are suppressed unless
    `small_cells`.
    """
    (row,) = store.rows(read_sql("report/scorer"), scorer=find_scorer(store, scorer))
    check_cutoff_kept(store, row["scorer_id"])
    metrics: ScorerMetrics = json.loads(row.pop("metrics"))
    encoder = json.loads(row.pop("manifest") or "{}")
    row["versions"] = json.loads(row["versions"] or "{}")
    schema = Path(store.one("SELECT schema_name FROM settings")[0]).name
    outcome = metrics["outcome"]
    stays = _test_stays(store, row["scorer_id"])
    y, risk = stays.y[stays.has_label], stays.risk[stays.has_label]
    embeddings, positive = _embeddings(store, row)
    patients = store.rows(read_sql("report/patients"), scorer=row["scorer_id"])
    known_caveats = caveats(store, row["label_rule"])
    threshold = thresholds[0] if thresholds else riskiest_tenth(stays.risk)
    subgroups = subgroup_metrics(
        stays.y,
        stays.risk,
        stays.has_label,
        stays.patient,
        _groups(store, stays.hadm_id),
        threshold,
    )
    characteristics = store.rows(
        read_sql("report/characteristics"),
        scorer=row["scorer_id"],
        encoder=row["encoder_id"],
        cutoff=row["cutoff"],
    )
    return ReportData(
        scorer=row,
        metrics=metrics,
        encoder=encoder,
        schema=schema,
        outcome=outcome,
        question=_question(row, outcome),
        y=y,
        predictions=stays.predictions,
        positive_by_risk=stays.y[np.argsort(-stays.risk, kind="stable")],
        curve=_curve(y, risk) if enough_outcomes(y) else None,
        thresholds=threshold_metrics(
            stays.y,
            stays.risk,
            stays.has_label,
            stays.patient,
            thresholds or THRESHOLDS,
            metrics["stays_per_day"],
        ),
        group_threshold=threshold,
        subgroups=suppress_subgroups(subgroups, small_cells),
        characteristics=suppress_characteristics(characteristics, small_cells),
        alerts=suppress_alerts(metrics["alerts"], small_cells),
        flow=admission_flow(
            store, scorer_task(store, row["scorer_id"]), row["cutoff"], row["encoder_id"]
        ),
        patients={split["split"]: split for split in patients},
        embeddings=embeddings,
        positive=positive,
        monitoring=read_monitoring(store, row["scorer_id"]),
        evaluations=store.rows(read_sql("report/evaluations"), scorer=row["scorer_id"]),
        evaluated_scorers=earlier_evaluations(store, row["scorer_id"]),
        findings=[
            # The page is of the store, wherever it lies.
            replace(finding, message=finding.message.replace(str(store.path), store.path.name))
            for finding in audit(store, row["scorer_id"])
            if finding.code not in (*known_caveats, "pretrained-on-source")
        ],
        caveats=[*known_caveats.values()],
        contamination=pretrained_on_source(encoder, schema),
    )


def system_name(name: str) -> str:
    """Return the name of the scorer, or of a baseline, as a table shows it."""
    return _NAMES.get(name, name.replace("_", " ").capitalize())


def _question(scorer: dict[str, Any], outcome: str) -> str:
    """Return what a scorer predicts, as a title says it."""
    days = scorer["horizon_days"]
    within = f" within {days} {'day' if days == 1 else 'days'}" if days else ""
    if outcome == DEFAULT_OUTCOME:
        return f"unplanned return{within}"
    return f"task {scorer['label_rule']}: stays that {outcome}{within}"


@dataclass
class _TestStays:
    """The predicted test stays, with a label or without, by hadm_id."""

    hadm_id: npt.NDArray[np.int64]  # (predicted test stays,)
    y: npt.NDArray[np.bool_]  # (predicted test stays,) False without a label
    has_label: npt.NDArray[np.bool_]  # (predicted test stays,)
    patient: npt.NDArray[np.int64]  # (predicted test stays,)
    risk: Floats  # (predicted test stays,)
    predictions: dict[str, Floats]  # of the scorer and its baselines: (labelled test stays,)


def _test_stays(store: Store, scorer_id: str) -> _TestStays:
    table = store.sql(read_sql("report/test_predictions"), scorer=scorer_id).to_arrow_table()
    has_label = np.asarray(table["label"].is_valid().to_numpy(), bool)
    columns = {"scorer": table["probability"]} | {
        name: table[name] for name in BASELINES if not table[name].null_count
    }
    return _TestStays(
        hadm_id=table["hadm_id"].to_numpy(),
        y=np.array([bool(label) for label in table["label"].to_pylist()], dtype=bool),
        has_label=has_label,
        patient=table["subject_id"].to_numpy(),
        risk=table["probability"].to_numpy().astype(np.float64),
        predictions={
            name: column.to_numpy().astype(np.float64)[has_label]
            for name, column in columns.items()
        },
    )


def _groups(store: Store, hadm_id: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.str_]]:
    import pyarrow as pa

    con = store.connect()
    con.register("training_admissions", pa.table({"hadm_id": hadm_id}))
    try:
        return groups_of(con)
    finally:
        con.unregister("training_admissions")


def _curve(y: npt.NDArray[np.bool_], risk: Floats) -> Curve:
    """Return the calibration curve from the 1% to the 99% quantile of the risks."""
    at = np.linspace(np.quantile(risk, 0.01), np.quantile(risk, 0.99), _CURVE_POINTS)
    low, high = np.quantile(curves_if_calibrated(risk, at), [0.025, 0.975], axis=0)
    return Curve(at, calibration_curve(y, risk, at), low, high)


def _embeddings(
    store: Store, scorer: dict[str, Any]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    table = store.sql(
        read_sql("report/embeddings"),
        encoder=scorer["encoder_id"],
        cutoff=scorer["cutoff"],
        scorer=scorer["scorer_id"],
        limit=MAP_SIZE,
    ).to_arrow_table()
    positive = np.array(table["label"].to_pylist(), dtype=bool)
    if not len(positive):
        return np.zeros((0, 1), np.float32), positive
    return arrow_to_vectors(table["embedding"]), positive
