"""Compare the new notes and scores of a night with those of the scorer's training period."""

from collections import Counter
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from batch.embedding.commit import Floats
from batch.embedding.drift import MIN_NIGHTS, Finding, shares_differ
from batch.scoring.quiet_nights import (
    ALARMS,
    NIGHTS,
    Distribution,
    Reference,
    Shift,
    find_distributions,
    find_shifts,
)
from batch.scoring.scorer_registry import default_threshold
from batch.training.reference import ALL_NOTES
from featurestore.store.integrity.checksums import insert_rows
from featurestore.store.scorer_metrics import format_threshold
from featurestore.store.sql_files import read_sql

# Of the alarms: all notes together, the categories, and the scores.
_ALL, _CATEGORIES, _SCORES = 0.3 * ALARMS, 0.3 * ALARMS, 0.4 * ALARMS

# What differs beyond chance is a warning from the first, and stops the night from the second.
SHIFTS = (0.1, 0.2)  # in spreads of the notes
INDEXES = (0.1, 0.25)  # population stability index
RATES = (1.25, 1.5)  # ratio of alert rates, or its inverse

_MIN_SHARE, _MIN_NOTES = 0.10, 20  # of a night's notes, for a category without a reference


def monitored_coefs(con: duckdb.DuckDBPyConnection, scorer_id: str) -> dict[str, Floats]:
    """Return the coefficients of tonight's scorer, and of others that nights use."""
    rows = con.execute(
        read_sql("scoring/monitoring/monitored_scorers"), {"scorer": scorer_id}
    ).fetchall()
    return {name: np.array(coef) for name, coef in rows}


def record_notes(
    con: duckdb.DuckDBPyConnection, run_id: int, log_odds: dict[str, pa.Table]
) -> None:
    """Record how far the notes of a night (note_id, log_odds) lie from each scorer's reference."""
    for scorer_id, notes in log_odds.items():
        con.register("note_log_odds", notes)
        con.execute(
            "CREATE OR REPLACE TEMP TABLE night_notes AS " + read_sql("training/notes_in_log_odds"),
            {"scorer": scorer_id},
        )
        con.unregister("note_log_odds")
        query = read_sql("scoring/monitoring/notes_of_night")
        parameters = {"run": run_id, "scorer": scorer_id}
        insert_rows(con, "nightly_log_odds", query, parameters, by_name=True)


def check_scorer(
    con: duckdb.DuckDBPyConnection, scorer_id: str, no_signal: str | None
) -> tuple[list[Finding], dict[str, Any]]:
    """Return how the notes and scores of a night differ from the training period, and by how much.

    `no_signal` is why all scores are the same; then they are not compared.
    """
    findings, log_odds = _check_notes(con, scorer_id)
    of_scores, scores = ([], None) if no_signal else _check_scores(con, scorer_id)
    return findings + of_scores, {"log_odds": log_odds, "scores": scores}


def accepted_checks(con: duckdb.DuckDBPyConnection, scorer_id: str) -> set[str]:
    """Return the checks that `--force` accepted on the last 30 nights."""
    return {check for _, _, checks in _last_nights(con, scorer_id) for check in checks}


def has_reference(con: duckdb.DuckDBPyConnection, scorer_id: str) -> bool:
    """Return whether the notes of a scorer's training period are known in log odds."""
    (rows,) = con.execute(
        "SELECT count(*) FROM reference_log_odds WHERE scorer_id = $1", [scorer_id]
    ).fetchall()[0]
    return bool(rows)


def _last_nights(
    con: duckdb.DuckDBPyConnection, scorer_id: str
) -> list[tuple[int, bool, list[str]]]:
    query = read_sql("scoring/monitoring/last_nights")
    nights: list[tuple[int, bool, list[str]]] = con.execute(query, {"scorer": scorer_id}).fetchall()
    return nights


def _check_notes(
    con: duckdb.DuckDBPyConnection, scorer_id: str
) -> tuple[list[Finding], dict[str, Any] | None]:
    """Compare the notes that no night of this scorer has checked; none if there are none."""
    references = _references(con, scorer_id)
    rows = con.execute(
        read_sql("scoring/monitoring/recent_notes"), {"scorer": scorer_id, "nights": NIGHTS}
    ).fetchnumpy()
    nights = _last_nights(con, scorer_id)
    if not len(rows["run_id"]) or (nights and rows["run_id"].max() <= nights[0][0]):
        return [], None
    # What --force committed is usual from then on.
    forced = max((run for run, is_forced, _ in nights if is_forced), default=0)
    usual_nights = len(np.unique(rows["run_id"][rows["run_id"] >= forced])) - 1
    shift = np.ma.filled(rows["shift"].astype(float), np.nan)
    category = rows["category"].astype(str)
    findings, tonight = [], None
    for name, reference in references.items():
        members = ~np.isnan(shift) & ((name == ALL_NOTES) | (category == name))
        alarms = _ALL if name == ALL_NOTES else _CATEGORIES / (len(references) - 1)
        shifts = find_shifts(
            rows["night"][members],
            rows["subject_id"][members],
            rows["n_notes"][members],
            shift[members],
            reference,
            alarms,
            usual_nights,
        )
        findings += _shift_findings(name, shifts)
        if name == ALL_NOTES and shifts:
            tonight = {
                "notes": shifts[0].notes,
                "shift": round(shifts[0].shift, 4),
                "limit": round(shifts[0].limit, 4),
            }
    return [*findings, *_mix_findings(category, rows, set(references))], tonight


def _references(con: duckdb.DuckDBPyConnection, scorer_id: str) -> dict[str, Reference]:
    rows = con.execute(
        "SELECT category, n_patients, skewness, same_day, same_patient, standard_error "
        "FROM reference_log_odds WHERE scorer_id = $1 ORDER BY category",
        [scorer_id],
    ).fetchall()
    return {category: Reference(*values) for category, *values in rows}


def _shift_findings(category: str, shifts: list[Shift]) -> list[Finding]:
    name = category or "notes without a category"
    findings = []
    for since, end in ((False, ""), (True, " since the last nights")):
        unusual = [
            each
            for each in shifts
            if (each.nights == 0) == since and each.is_unusual and abs(each.shift) >= SHIFTS[0]
        ]
        if not unusual:
            continue
        most = max(unusual, key=lambda each: abs(each.shift))
        where = "above" if most.shift > 0 else "below"
        before = "of the nights before" if since else "of the training period"
        window = f" over {most.nights} nights" if most.nights > 1 else ""
        text = (
            f"the log odds of {name} are {abs(most.shift):.2f} spreads {where} those {before}"
            f"{window} (quiet nights: {most.limit:.2f} at most)"
        )
        stops = abs(most.shift) >= SHIFTS[1]
        findings.append(Finding(f"log odds of {name}{end}", text, stops, lasts=not since))
    return findings


def _mix_findings(category: Any, rows: dict[str, Any], known: set[str]) -> list[Finding]:
    """Return the categories whose share of the notes is another one than on the nights before."""
    is_tonight = rows["night"] == 0
    tonight, before = Counter[str](), Counter[str]()
    for name, n, new in zip(category.tolist(), rows["n_notes"].tolist(), is_tonight, strict=True):
        (tonight if new else before)[name] += n
    patients = [
        max(1, len(np.unique(rows["subject_id"][members]))) for members in (is_tonight, ~is_tonight)
    ]
    n_tonight, n_before = tonight.total(), before.total()
    findings = []
    for name in sorted(tonight | before):
        label, share = name or "no category", tonight[name] / max(n_tonight, 1)
        if name not in known and tonight[name] >= max(_MIN_NOTES, _MIN_SHARE * n_tonight):
            text = f"{share:.0%} of the notes are {label}, of which the training period had too few"
            findings.append(Finding(f"no reference of {label}", text, stops=False))
        if len(np.unique(rows["night"])) <= MIN_NIGHTS or n_tonight < _MIN_NOTES:
            continue
        usual = before[name] / n_before
        if shares_differ(share, usual, *patients):
            text = f"{share:.0%} of the notes are {label}, usually {usual:.0%}"
            findings.append(Finding(f"share of {label}", text, stops=False))
    return findings


def _check_scores(
    con: duckdb.DuckDBPyConnection, scorer_id: str
) -> tuple[list[Finding], dict[str, Any] | None]:
    scores = con.execute(
        read_sql("scoring/monitoring/recent_scores"), {"scorer": scorer_id, "nights": NIGHTS - 1}
    ).fetchnumpy()
    reference = con.execute(
        "SELECT probability FROM reference_scores WHERE scorer_id = $1 AND probability IS NOT NULL",
        [scorer_id],
    ).fetchnumpy()["probability"]
    threshold = default_threshold(con, scorer_id)
    distributions = find_distributions(
        scores["night"], scores["probability"], reference, threshold, _SCORES
    )
    if not distributions:
        return [], None
    last = distributions[-1]
    numbers = {
        "nights": last.nights,
        "stays": last.stays,
        "psi": round(last.psi, 4),
        "psi_limit": round(last.psi_limit, 4),
        "alert_rate": round(last.alert_rate, 4),
        "alert_rate_low": round(last.low, 4),
        "alert_rate_high": round(last.high, 4),
    }
    return [*_index_findings(distributions), *_rate_findings(distributions, threshold)], numbers


def _index_findings(distributions: list[Distribution]) -> list[Finding]:
    unusual = [each for each in distributions if each.psi > max(each.psi_limit, INDEXES[0])]
    if not unusual:
        return []
    most = max(unusual, key=lambda each: each.psi)
    text = (
        f"the scores of {most.stays:,} new stays{_last(most)} are distributed otherwise than in "
        f"the training period: population stability index {most.psi:.2f} (quiet nights: "
        f"{most.psi_limit:.2f} at most)"
    )
    return [Finding("distribution of scores", text, most.psi >= INDEXES[1], lasts=True)]


def _rate_findings(distributions: list[Distribution], threshold: float) -> list[Finding]:
    unusual = [
        each
        for each in distributions
        if not each.low <= each.alert_rate <= each.high and each.ratio >= RATES[0]
    ]
    if not unusual:
        return []
    most = max(unusual, key=lambda each: each.ratio)
    text = (
        f"{most.alert_rate:.0%} of {most.stays:,} new stays{_last(most)} reach "
        f"{format_threshold(threshold)}, the default threshold of an alert, in the training "
        f"period {most.usual_rate:.0%} (quiet nights: {most.low:.0%} to {most.high:.0%})"
    )
    return [Finding("alert rate", text, most.ratio >= RATES[1], lasts=True)]


def _last(distribution: Distribution) -> str:
    return f" of the last {distribution.nights} nights" if distribution.nights > 1 else ""
