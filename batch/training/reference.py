"""What a scorer's nights are compared with: notes and scores of its training period."""

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch.training.calibration import Floats
from featurestore.store.changes import query_in_parts
from featurestore.store.integrity.checksums import insert_rows
from featurestore.store.sql_files import read_sql

ALL_NOTES = "all notes"
TAILS = (0.005, 0.995)  # quantiles that the log odds of notes are limited to
_MIN_NOTES, _MIN_PATIENTS = 50, 10
_PRIOR_PAIRS = 10  # of notes with a correlation of 1: few pairs are no evidence of independence


def record_reference(con: duckdb.DuckDBPyConnection, scorer_id: str) -> None:
    """Record the notes and scores of patients whom a new scorer was not fitted on.

    The log odds and scores of training patients are too extreme, as those of any regression are.
    """
    scores = query_in_parts(
        con, read_sql("training/scores_of_predicted_stays"), {"scorer": scorer_id}
    )
    con.register("scores_of_stays", scores)
    insert_rows(con, "reference_scores", "FROM scores_of_stays ORDER BY hadm_id", by_name=True)
    con.unregister("scores_of_stays")
    note_log_odds = con.execute(
        read_sql("training/log_odds_of_held_out_notes"), {"scorer": scorer_id}
    ).to_arrow_table()
    con.register("note_log_odds", note_log_odds)
    notes = con.execute(
        read_sql("training/notes_in_log_odds"), {"scorer": scorer_id}
    ).to_arrow_table()
    con.unregister("note_log_odds")
    rows = reference_rows(
        np.array(notes["category"].to_pylist(), dtype=str),
        notes["subject_id"].to_numpy(),
        notes["known_on"].to_numpy(),
        notes["log_odds"].to_numpy(),
    )
    if rows:
        con.register("reference_rows", pa.Table.from_pylist(rows))
        insert_rows(
            con,
            "reference_log_odds",
            "SELECT $1 AS scorer_id, * FROM reference_rows ORDER BY category",
            [scorer_id],
            by_name=True,
        )
        con.unregister("reference_rows")


def reference_rows(
    category: npt.NDArray[np.str_],
    subject_id: npt.NDArray[np.int64],
    known_on: npt.NDArray[np.datetime64],
    log_odds: Floats,
) -> list[dict[str, float | int | str]]:
    """Return the rows of reference_log_odds for notes (notes,); none if there are too few.

    Categories with few notes or patients, or whose notes all have the same log odds, are left out.
    """
    rows: list[dict[str, float | int | str]] = []
    shift = np.full(len(log_odds), np.nan)
    for name in np.unique(category).tolist():
        members = category == name
        if members.sum() < _MIN_NOTES or len(np.unique(subject_id[members])) < _MIN_PATIENTS:
            continue
        low, high = np.quantile(log_odds[members], TAILS)
        limited = np.clip(log_odds[members], low, high)
        mean, spread = float(limited.mean()), float(limited.std())
        if spread <= 1e-9 * max(1.0, abs(mean)):  # without a signal all coefficients are 0
            continue
        shift[members] = (limited - mean) / spread
        row = {"category": name, "low": float(low), "high": float(high), "mean": mean}
        rows.append(
            row
            | {"spread": spread}
            | _clusters(shift[members], subject_id[members], known_on[members])
        )
    if rows:
        used = ~np.isnan(shift)
        row = {"category": ALL_NOTES, "mean": 0.0, "spread": 1.0}
        row |= {"low": float(shift[used].min()), "high": float(shift[used].max())}
        rows.append(row | _clusters(shift[used], subject_id[used], known_on[used]))
    return rows


def _clusters(
    shift: Floats, subject_id: npt.NDArray[np.int64], known_on: npt.NDArray[np.datetime64]
) -> dict[str, float | int]:
    """Return how alike the notes of a patient are, for notes with mean 0 and variance 1."""
    patient = np.unique(subject_id, return_inverse=True)[1]
    day = np.unique(known_on, return_inverse=True)[1]
    cell = np.unique(patient * (day.max() + 1) + day, return_inverse=True)[1]
    squares = float(shift @ shift)
    cell_squares, cell_notes = _sum_of_squares(cell, shift)
    patient_squares, patient_notes = _sum_of_squares(patient, shift)
    # Sums over pairs of different notes: of a patient and day, then of a patient on two days.
    same_day = (cell_squares - squares + _PRIOR_PAIRS) / (cell_notes - len(shift) + _PRIOR_PAIRS)
    same_day = min(1.0, max(0.0, same_day))
    same_patient = (patient_squares - cell_squares + _PRIOR_PAIRS * same_day) / (
        patient_notes - cell_notes + _PRIOR_PAIRS
    )
    return {
        "n_notes": len(shift),
        "n_patients": int(patient.max()) + 1,
        "skewness": float((shift**3).mean()),
        "same_day": same_day,
        "same_patient": min(same_day, max(0.0, same_patient)),
        "standard_error": float(np.sqrt(patient_squares)) / len(shift),
    }


def _sum_of_squares(cluster: npt.NDArray[np.int64], values: Floats) -> tuple[float, float]:
    """Return the sums over clusters of squared sums of values, and of squared sizes."""
    sums = np.bincount(cluster, values)
    sizes = np.bincount(cluster).astype(np.float64)
    return float(sums @ sums), float(sizes @ sizes)
