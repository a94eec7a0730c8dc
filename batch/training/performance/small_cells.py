"""Suppression of small counts, so that a table does not single out a few patients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.store.scorer_metrics import ScorerMetrics

SMALLEST = 11  # as the cell size policy of CMS: 1 to 10 are suppressed
SPLITS = {"train": "Training", "valid": "Validation", "test": "Test"}
OUTCOMES = ("all", "positive", "negative")
CATEGORIES = ("sex", "ethnicity", "insurance", "admission type")
ALL_OTHERS = "all others"
_MOST_LEVELS = 9  # of a category; rarer ones are shown together

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def hidden_cells(counts: Counts) -> Mask:
    """Return which counts (levels, 3) of a category to suppress: all, positive and negative stays.

    Those from 1 to 10, and then the smallest others until no suppressed one can be computed from
    the rest: of each level all stays are positive or negative, and the totals of the columns are
    known.
    """
    levels = np.arange(len(counts))
    lines = [levels[:, None] == level for level in levels]  # each (levels, 1)
    sums = [np.repeat(line, 3, axis=1) * np.array([1, -1, -1]) for line in lines]
    sums += [np.tile(np.arange(3) == column, (len(counts), 1)).astype(int) for column in range(3)]
    return _suppress(counts, sums)


def hidden_parts(parts: Sequence[int]) -> Mask:
    """Return which parts of a known total to suppress, so that none can be computed."""
    counts = np.array(parts, np.int64)
    return _suppress(counts, [np.ones(len(counts), int)])


def _suppress(counts: Counts, sums: list[npt.NDArray[np.int64]]) -> Mask:
    """Return what to suppress of counts whose sums, with these coefficients, are known."""
    hidden = (counts > 0) & (counts < SMALLEST)
    while hidden.any() and not hidden.all():
        equations = np.array([coefficients[hidden] for coefficients in sums], np.float64)
        # A count is determined by the sums if no solution of the homogeneous equations moves it.
        _, singular, directions = np.linalg.svd(equations)
        rank = int((singular > 1e-9).sum())
        moves = np.abs(directions[rank:]).max(axis=0, initial=0) > 1e-9
        if moves.all():
            break
        determined = np.zeros_like(hidden)
        determined[hidden] = ~moves
        shares = sum(np.abs(c) * bool((c * determined).any()) for c in sums) > 0
        candidates = np.flatnonzero(shares & ~hidden)
        if not len(candidates):
            break
        sizes = counts.ravel()[candidates]
        # All stays of a level say most, and a zero hides little: these are suppressed last.
        total = candidates % 3 == 0 if counts.ndim == 2 else np.zeros(len(candidates), bool)
        hidden.ravel()[candidates[np.lexsort((sizes, total, sizes == 0))[0]]] = True
    return np.asarray(hidden)


def suppress_subgroups(
    subgroups: Sequence[Mapping[str, Any]], small_cells: bool = False
) -> list[dict[str, Any]]:
    """Return groups with small counts as None, and without what is computed from a few stays.

    As they are if `small_cells`.
    """
    rows = [dict(row) for row in subgroups]
    if small_cells:
        return rows
    for by in dict.fromkeys(row["by"] for row in rows):
        members = [row for row in rows if row["by"] == by]
        counts = np.array([[row["admissions"], row["positive"]] for row in members], np.int64)
        hidden = hidden_cells(np.column_stack([counts, counts[:, 0] - counts[:, 1]]))
        for row, (admissions, positive, negative) in zip(members, hidden, strict=True):
            if admissions:
                row["admissions"] = None
            if positive or negative:
                row["positive"] = None
            if admissions or positive or negative or row["alerts"] < SMALLEST:
                row["alerts"] = None
        # An estimate from a few stays gives their number away.
        for row, (n_stays, n_positive) in zip(members, counts.tolist(), strict=True):
            few = [
                *(("sensitivity", "oe_ratio", "auroc") if n_positive < SMALLEST else ()),
                *(("false_positive_rate", "auroc") if n_stays - n_positive < SMALLEST else ()),
            ]
            row.update(dict.fromkeys(few))
            row["differences"] = {**row["differences"], **dict.fromkeys(few)}
        alerts = [row["alerts"] for row in subgroups if row["by"] == by]
        _hide_proportions(members, "sensitivity", counts[:, 1])
        _hide_proportions(members, "false_positive_rate", counts[:, 0] - counts[:, 1])
        _hide_proportions(members, "ppv", np.array(alerts, np.int64))
    return rows


def _hide_proportions(rows: Sequence[dict[str, Any]], name: str, counts: Counts) -> None:
    """Set a proportion of these counts (groups,) to None where it gives a small count away.

    One that is missing could be computed from the others and that of all stays, so a second is.
    """
    for row, n in zip(rows, counts.tolist(), strict=True):
        if row[name]:
            part = round(row[name][0] * n)
            if 0 < part < SMALLEST or 0 < n - part < SMALLEST:
                row[name] = None
    shown = [k for k in np.argsort(counts, kind="stable").tolist() if rows[k][name]]
    if shown and len(shown) == len(rows) - 1:
        rows[shown[0]][name] = None
    for row in rows:
        if not row[name]:
            row["differences"] = {**row["differences"], name: None}


def suppress_alerts(
    alerts: Sequence[Mapping[str, Any]], small_cells: bool = False
) -> list[dict[str, Any]]:
    """Return alerts with small counts of outcomes as None, or as they are if `small_cells`."""
    if small_cells:
        return [dict(alert) for alert in alerts]
    names = ("positive", "negative", "died_in_hospital", "other")
    rows = []
    for alert in alerts:
        hidden = hidden_parts([alert[name] for name in names])
        rows.append({**alert, **{name: None for name, h in zip(names, hidden, strict=True) if h}})
    return rows


def suppress_characteristics(
    characteristics: Sequence[dict[str, Any]], small_cells: bool = False
) -> list[dict[str, Any]]:
    """Return the rows of Table 1 with small counts as None, or all counts if `small_cells`.

    Numbers of stays by split and outcome stay, as every evaluation states them.
    """
    rows = _join_rare_levels(characteristics)
    if small_cells:
        return rows
    for row in rows:
        if row["characteristic"] != "stays" and row["level"] is None and row["n"] < SMALLEST:
            row.update(n=None, lower_quartile=None, median=None, upper_quartile=None)
    for split in SPLITS:
        for category in CATEGORIES:
            rows += _suppress_levels(rows, split, category)
    return rows


def _suppress_levels(
    rows: Sequence[dict[str, Any]], split: str, category: str
) -> list[dict[str, Any]]:
    """Set small counts of a category to None; return rows for those of 0 that become None."""
    cells = {
        (row["level"], row["outcome"]): row
        for row in rows
        if (row["split"], row["characteristic"]) == (split, category)
    }
    keys = [(level, outcome) for level in sorted({key[0] for key in cells}) for outcome in OUTCOMES]
    counts = np.array([cells[key]["n"] if key in cells else 0 for key in keys], np.int64)
    hidden = hidden_cells(counts.reshape(-1, len(OUTCOMES))).ravel()
    added = []
    for key, is_hidden in zip(keys, hidden.tolist(), strict=True):
        if is_hidden and key in cells:
            cells[key]["n"] = None
        elif is_hidden:
            level, outcome = key
            names = {"split": split, "characteristic": category, "level": level, "outcome": outcome}
            added.append({**dict.fromkeys(rows[0]), **names})
    return added


def suppress_metrics(metrics: ScorerMetrics) -> dict[str, Any]:
    """Return the metrics of a scorer with small counts as None."""
    return {
        **metrics,
        "subgroups": suppress_subgroups(metrics["subgroups"]),
        "alerts": suppress_alerts(metrics["alerts"]),
    }


def _join_rare_levels(characteristics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return copies of the rows, with the rarest levels of a category with many as one."""
    kept = {}
    for category in CATEGORIES:
        sizes: dict[str, int] = {}
        for row in characteristics:
            if row["characteristic"] == category and row["outcome"] == "all":
                sizes[row["level"]] = sizes.get(row["level"], 0) + row["n"]
        by_size = sorted(sizes, key=lambda level: (-sizes[level], level))
        kept[category] = set(
            by_size if len(by_size) <= _MOST_LEVELS + 1 else by_size[:_MOST_LEVELS]
        )
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in characteristics:
        name, level = row["characteristic"], row["level"]
        if name in kept and level not in kept[name]:
            level = ALL_OTHERS
        key = (row["split"], row["outcome"], name, level)
        if key in rows:
            rows[key]["n"] += row["n"]
        else:
            rows[key] = {**row, "level": level}
    return list(rows.values())
