"""Everything that a scorer's report reads from the store, as plain values and arrays."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.report.monitoring import Monitoring, read_monitoring
from batch.scoring.scorer_registry import check_cutoff_kept, find_scorer
from featurestore.cohort.caveats import caveats
from featurestore.cohort.flow import admission_flow
from featurestore.cohort.leakage import pretrained_on_source
from featurestore.cohort.tasks import scorer_task
from featurestore.store.scorer_metrics import DEFAULT_OUTCOME, ScorerMetrics
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.vectors import arrow_to_vectors

Floats = npt.NDArray[np.float64]

MAP_SIZE = 4_000  # admissions in the map, at most
_SYSTEMS = ("scorer", "bag_of_words", "classifier_head", "prior_admissions")


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
    flow: dict[str, Any]
    patients: dict[str, dict[str, Any]]  # of each split
    embeddings: npt.NDArray[np.float32]  # (stays in the map, dim)
    positive: npt.NDArray[np.bool_]  # (stays in the map,)
    monitoring: Monitoring
    caveats: list[str]  # of the source and of the label rule
    contamination: bool  # the encoder was pretrained on the notes of this source


def report_data(store: Store, scorer: str) -> ReportData:
    """Read a scorer, by name or scorer_id, and what its report shows."""
    (row,) = store.rows(read_sql("report/scorer"), scorer=find_scorer(store, scorer))
    check_cutoff_kept(store, row["scorer_id"])
    metrics: ScorerMetrics = json.loads(row.pop("metrics"))
    encoder = json.loads(row.pop("manifest") or "{}")
    row["versions"] = json.loads(row["versions"] or "{}")
    schema = Path(store.one("SELECT schema_name FROM settings")[0]).name
    outcome = metrics["outcome"]
    y, predictions, positive_by_risk = _test_predictions(store, row["scorer_id"])
    embeddings, positive = _embeddings(store, row)
    patients = store.rows(read_sql("report/patients"), scorer=row["scorer_id"])
    return ReportData(
        scorer=row,
        metrics=metrics,
        encoder=encoder,
        schema=schema,
        outcome=outcome,
        question=_question(row, outcome),
        y=y,
        predictions=predictions,
        positive_by_risk=positive_by_risk,
        flow=admission_flow(
            store, scorer_task(store, row["scorer_id"]), row["cutoff"], row["encoder_id"]
        ),
        patients={split["split"]: split for split in patients},
        embeddings=embeddings,
        positive=positive,
        monitoring=read_monitoring(store, row["scorer_id"]),
        caveats=[*caveats(store, row["label_rule"]).values()],
        contamination=pretrained_on_source(encoder, schema),
    )


def _question(scorer: dict[str, Any], outcome: str) -> str:
    """Return what a scorer predicts, as a title says it."""
    days = scorer["horizon_days"]
    within = f" within {days} {'day' if days == 1 else 'days'}" if days else ""
    if outcome == DEFAULT_OUTCOME:
        return f"unplanned return{within}"
    return f"task {scorer['label_rule']}: stays that {outcome}{within}"


def _test_predictions(
    store: Store, scorer_id: str
) -> tuple[npt.NDArray[np.bool_], dict[str, Floats], npt.NDArray[np.bool_]]:
    """Return outcomes and predictions of labelled test stays, and the outcomes by descending risk.

    The last are those of all predicted test stays; without a label a stay is negative.
    """
    table = store.sql(read_sql("report/test_predictions"), scorer=scorer_id).to_arrow_table()
    y = np.array([bool(label) for label in table["label"].to_pylist()], dtype=bool)
    by_risk = np.argsort(-table["scorer"].to_numpy().astype(np.float64), kind="stable")
    has_label = table["label"].is_valid().to_numpy()
    predictions = {
        name: table[name].to_numpy().astype(np.float64)[has_label]
        for name in _SYSTEMS
        if not table[name].null_count
    }
    return y[has_label], predictions, y[by_risk]


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
