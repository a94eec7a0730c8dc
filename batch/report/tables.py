"""Table 1 as the cells that it shows."""

from collections.abc import Sequence
from typing import Any

from batch.training.performance.small_cells import ALL_OTHERS, CATEGORIES, OUTCOMES, SPLITS

SUPPRESSED = "*"
Cell = tuple[str, str]  # a number, and what is shown small under it
_NUMBERS = {
    "age": "Age, years",
    "length of stay": "Length of stay, days",
    "admissions in 12 months": "Admissions in the 12 months before",
    "notes per stay": "Notes known at the prediction",
}


def table_one(rows: Sequence[dict[str, Any]], outcome: str) -> list[dict[str, Any]]:
    """Return the rows of Table 1: `name`, `is_level`, and a cell per split and outcome."""
    cells = {
        (row["characteristic"], row["level"], row["split"], row["outcome"]): row for row in rows
    }
    columns = [(split, kind) for split in SPLITS for kind in OUTCOMES]

    def stays(split: str, kind: str) -> int:
        row = cells.get(("stays", None, split, kind))
        return row["n"] if row else 0

    def count(name: str, level: str | None, split: str, kind: str) -> Cell:
        total, row = stays(split, kind), cells.get((name, level, split, kind))
        if row is not None and row["n"] is None:
            return SUPPRESSED, ""
        n = row["n"] if row else 0
        return f"{n:,}", f"{n / total:.0%}" if level is not None and total else ""

    def quartiles(name: str, split: str, kind: str) -> Cell:
        row = cells.get((name, None, split, kind))
        if row is None or row["n"] == 0:
            return "-", ""
        if row["n"] is None:
            return SUPPRESSED, ""
        low, middle, high = (row[key] for key in ("lower_quartile", "median", "upper_quartile"))
        return _short(middle), f"{_short(low)} to {_short(high)}"

    def rate(split: str, kind: str) -> Cell:
        total = stays(split, "all")
        return f"{stays(split, 'positive') / total:.1%}" if kind == "all" and total else "", ""

    table = [
        _row("Stays", [count("stays", None, *column) for column in columns]),
        _row("Patients", [count("patients", None, *column) for column in columns]),
        _row(f"{outcome[:1].upper()}{outcome[1:]}", [rate(*column) for column in columns]),
    ]
    for name, title in _NUMBERS.items():
        table.append(_row(title, [quartiles(name, *column) for column in columns]))
    for name in CATEGORIES:
        table.append(_row(f"{name[:1].upper()}{name[1:]}", []))
        levels = {
            row["level"]: _size(rows, name, row["level"])
            for row in rows
            if row["characteristic"] == name
        }
        for level in sorted(levels, key=lambda level: (level == ALL_OTHERS, -levels[level], level)):
            level_cells = [count(name, level, *column) for column in columns]
            table.append(_row(level, level_cells, is_level=True))
    return table


def _short(number: float) -> str:
    return f"{number:.0f}" if number == round(number) or number >= 20 else f"{number:.1f}"


def _row(name: str, cells: list[Cell], is_level: bool = False) -> dict[str, Any]:
    return {"name": name, "is_level": is_level, "cells": cells}


def _size(rows: Sequence[dict[str, Any]], category: str, level: str) -> int:
    return sum(
        row["n"] or 0
        for row in rows
        if (row["characteristic"], row["level"], row["outcome"]) == (category, level, "all")
    )
