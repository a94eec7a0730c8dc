"""The figures of a scorer's nights and of what happened after its scores."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batch.report.colours import ACCENT, INK, MUTED, PAPER, RULE, SECOND
from batch.scoring.monitoring import SHIFTS
from batch.scoring.outcome_charts import ODDS_RATIOS, control_limit, cusum, observed_expected
from batch.scoring.outcomes import judged_in_order, scores_with_outcomes
from batch.training.calibration import Floats
from batch.training.reference import ALL_NOTES
from featurestore.cohort.tasks import scorer_task
from featurestore.store.scorer_metrics import Interval
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CATEGORIES = 8  # of notes, all notes among them
_POINTS = 72


@dataclass
class Monitoring:
    """What the nights of a scorer measured, and the outcomes that are known since."""

    nights: list[dict[str, Any]]  # run_id, night, is_forced, log_odds, scores
    shifts: dict[str, list[dict[str, Any]]]  # of each category: run_id, n_notes, shift
    months: list[tuple[str, Interval]]  # observed over expected outcomes of each
    charts: dict[str, Floats]  # CUSUM of `higher` and `lower` odds: (judged stays,)
    limits: dict[str, float]
    predicted_on: npt.NDArray[np.datetime64]  # (judged stays,)

    @property
    def missing(self) -> dict[str, str]:
        """Return each figure that cannot be drawn, with the reason as a sentence."""
        missing = {}
        if len(self.shifts.get(ALL_NOTES, [])) < 2:
            missing["drift"] = "It needs two nights with new notes, and a reference of log odds."
        if sum(night["scores"] is not None for night in self.nights) < 2:
            missing["night-scores"] = "It needs two nights that compare the scores of new stays."
        if len(self.months) < 2:
            missing["outcomes"] = (
                "It needs a live hospital with two months of stays whose outcome is known, and "
                "that the scorer was not fitted on."
            )
        return missing


def read_monitoring(store: Store, scorer_id: str) -> Monitoring:
    """Read the nights and outcomes of a scorer."""
    nights = store.rows(read_sql("report/monitored_nights"), scorer=scorer_id)
    for night in nights:
        numbers = json.loads(night.pop("monitoring") or "{}")
        night |= {name: numbers.get(name) for name in ("log_odds", "scores")}
    shifts: dict[str, list[dict[str, Any]]] = {}
    for row in store.rows(read_sql("report/shifts_by_category"), scorer=scorer_id):
        shifts.setdefault(row.pop("category"), []).append(row)
    scores = scores_with_outcomes(store, scorer_id, scorer_task(store, scorer_id))
    y, p, predicted_at = judged_in_order(scores)
    month = predicted_at.astype("datetime64[M]")
    return Monitoring(
        nights=nights,
        shifts=shifts,
        months=[
            (str(name), observed_expected(y[month == name], p[month == name]))
            for name in np.unique(month)
        ],
        charts={name: cusum(y, p, ratio) for name, ratio in ODDS_RATIOS.items()} if len(y) else {},
        limits={name: control_limit(p, ratio) for name, ratio in ODDS_RATIOS.items()}
        if len(y)
        else {},
        predicted_on=predicted_at.astype("datetime64[D]"),
    )


def draw_drift(figure: "Figure", monitoring: Monitoring) -> None:
    """Draw the log odds of new notes by night, and their number, for each category."""

    def order(category: tuple[str, list[dict[str, Any]]]) -> tuple[bool, int]:
        return category[0] != ALL_NOTES, -sum(night["n_notes"] for night in category[1])

    categories = sorted(monitoring.shifts.items(), key=order)[:_CATEGORIES]
    figure.set_size_inches(360 / _POINTS, (58 + 44 * len(categories)) / _POINTS)
    grid = figure.subplots(
        len(categories), 2, sharex=True, sharey="col", squeeze=False, width_ratios=[3, 2]
    )
    rows = [night for _, nights in categories for night in nights]
    runs = sorted({night["run_id"] for night in rows})
    for (shift, count), (name, nights) in zip(grid, categories, strict=True):
        x = [runs.index(night["run_id"]) for night in nights]
        for limit in (-SHIFTS[1], SHIFTS[1]):
            shift.axhline(limit, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
        shift.axhline(0, color=RULE, linewidth=1)
        shift.plot(x, [night["shift"] for night in nights], color=ACCENT, linewidth=1.5)
        count.bar(x, [night["n_notes"] for night in nights], color=SECOND, width=0.8)
        label = name if len(name) <= 17 else name[:16].rstrip() + "…"
        shift.set_ylabel(label, rotation=0, ha="right", va="center", color=INK)
        count.yaxis.tick_right()
        count.spines["left"].set_visible(False)
    largest = max(2 * SHIFTS[1], *(abs(night["shift"]) for night in rows))
    grid[0][0].set(ylim=(-1.1 * largest, 1.1 * largest), yticks=[SHIFTS[1]], xticks=[])
    grid[0][1].set_yticks([max(night["n_notes"] for night in rows)])
    for axes, title in zip(grid[0], ("shift in spreads", "notes"), strict=True):
        axes.set_title(title, loc="left", size=10, color=MUTED)
    _name_nights(figure, [night for night in monitoring.nights if night["run_id"] in runs])


def draw_night_scores(figure: "Figure", monitoring: Monitoring) -> None:
    """Draw the stability index and the alert rate of new stays by night, with their limits."""
    nights = [night for night in monitoring.nights if night["scores"]]
    x = range(len(nights))

    def values(name: str) -> list[float]:
        return [night["scores"][name] for night in nights]

    index, rate = figure.subplots(2, 1, sharex=True)
    index.plot(x, values("psi_limit"), color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
    index.plot(x, values("psi"), color=ACCENT, linewidth=1.5)
    index.set_title("population stability index", loc="left")
    index.set(ylim=(0, None), xticks=[])
    low = [100 * value for value in values("alert_rate_low")]
    high = [100 * value for value in values("alert_rate_high")]
    for limit in (low, high):
        rate.plot(x, limit, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
    rate.plot(x, [100 * value for value in values("alert_rate")], color=ACCENT, linewidth=1.5)
    rate.set_title("% of new stays that are alerted", loc="left")
    rate.set(ylim=(0, None))
    _name_nights(figure, nights)


def _name_nights(figure: "Figure", nights: list[dict[str, Any]]) -> None:
    dates = sorted(str(night["night"]) for night in nights) or ["-"]
    figure.supxlabel(f"nights from {dates[0]} to {dates[-1]}", size=10, color=MUTED)


def draw_outcomes(figure: "Figure", monitoring: Monitoring) -> None:
    """Draw observed over expected outcomes by month, and the CUSUM charts."""
    months = monitoring.months[-24:]
    ratio, chart = figure.subplots(2, 1)
    ratio.axhline(1, color=RULE, linewidth=1)
    for x, (_, interval) in enumerate(months):
        if interval:
            ratio.plot([x, x], interval[1:], color=ACCENT, linewidth=1.2)
            ratio.plot(x, interval[0], "o", color=ACCENT, markeredgecolor=PAPER, markersize=5.5)
    shown = sorted({0, len(months) - 1, (len(months) - 1) // 2})
    ratio.set_xticks(shown, [months[x][0] for x in shown])
    ratio.set(ylim=(0, None))
    ratio.set_title("observed / expected, by month", loc="left")
    for name, sign in (("higher", 1), ("lower", -1)):
        values, limit = monitoring.charts[name], monitoring.limits[name]
        chart.axhline(sign * limit, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
        chart.plot(sign * values, color=ACCENT, linewidth=1.2)
    chart.axhline(0, color=RULE, linewidth=1)
    chart.set_title("CUSUM: up twice the odds, down half", loc="left")
    ends = (0, len(monitoring.predicted_on) - 1)
    chart.set_xticks(ends, [str(monitoring.predicted_on[end]) for end in ends])
    for label, side in zip(chart.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
