"""Figures of how a scorer performs on test patients."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batch.report.colours import ACCENT, INK, MUTED, PAPER, RULE, SECOND
from batch.report.data import Floats, ReportData, system_name
from batch.report.svg import WIDTH, error_bars, truncate, unit_square
from batch.training import metrics
from batch.training.bootstrap import MIN_ALERTS
from featurestore.store.scorer_metrics import Interval, format_interval, negate, positives

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THRESHOLDS = np.linspace(0.01, 0.6, 119)
# The same notes otherwise, and what is known without them: more curves hide each other.
_LINES: dict[str, dict[str, Any]] = {
    "scorer": {"color": ACCENT, "linewidth": 2.2, "zorder": 4},
    "bag_of_words": {"color": SECOND, "linewidth": 1.5},
    "utilisation": {"color": MUTED, "linewidth": 1.3},
    "lace": {"color": MUTED, "linewidth": 1.3, "linestyle": (0, (4, 2))},
    "hospital_score": {"color": MUTED, "linewidth": 1.3, "linestyle": (0, (1, 1.5))},
}


def roc(figure: "Figure", data: ReportData) -> None:
    from sklearn.metrics import roc_curve

    axes = unit_square(figure, "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
    for name, p in _drawn(data).items():
        false, true, _ = roc_curve(data.y, p)
        axes.plot(false, true, label=_label(data, name, "auroc"), **_LINES[name])
    axes.legend(loc="lower right")


def pr(figure: "Figure", data: ReportData) -> None:
    from sklearn.metrics import precision_recall_curve

    axes = unit_square(figure, "sensitivity", "PPV")
    prevalence = data.y.mean()
    axes.axhline(prevalence, color=RULE, linewidth=1)
    va = "top" if prevalence > 0.1 else "bottom"
    axes.text(0.015, prevalence, f"prevalence {prevalence:.2f}", color=MUTED, va=va, size=10.5)
    for name, p in _drawn(data).items():
        precision, recall, _ = precision_recall_curve(data.y, p)
        precision[-1] = precision[-2]  # undefined where nobody is alerted
        best = np.r_[recall[1:] != recall[:-1], True]  # of equal recall
        line = {"label": _label(data, name, "auprc"), "drawstyle": "steps-post", **_LINES[name]}
        axes.plot(recall[best], precision[best], **line)
    # The corner that few curves cross.
    axes.legend(loc="lower right" if prevalence > 0.3 else "upper right")


def calibration(figure: "Figure", data: ReportData) -> None:
    curve, p = data.curve, data.predictions["scorer"]
    assert curve is not None
    groups = np.array_split(np.argsort(p, kind="stable"), min(10, len(p)))
    expected = np.array([p[group].mean() for group in groups])
    observed = np.array([data.y[group].mean() for group in groups])
    limit = min(1.0, 1.08 * max(curve.observed.max(), curve.high.max(), *observed, *expected))
    separator = " " if len(data.outcome) <= 16 else "\n"
    observed_label = f"observed proportion{separator}that {data.outcome}"
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[6, 1])
    axes.set(xlim=(0, limit), ylim=(0, limit * 1.01), ylabel=observed_label)
    axes.fill_between(curve.risk, curve.low, curve.high, color=RULE, alpha=0.6, linewidth=0)
    axes.plot([0, limit], [0, limit], color=MUTED, linewidth=1)
    axes.plot(expected, observed, "o", color=PAPER, markeredgecolor=ACCENT, markersize=5)
    axes.plot(curve.risk, curve.observed, color=ACCENT, linewidth=2.2)
    below.hist(p, np.linspace(0, limit, 41), color=SECOND)
    below.set(xlabel="predicted risk", yticks=[])
    below.set_ylabel("stays", rotation=0, ha="right", va="center")
    below.spines["left"].set_visible(False)


def decision(figure: "Figure", data: ReportData) -> None:
    prevalence = float(data.y.mean())
    axes = figure.add_subplot()
    odds = _THRESHOLDS / (1 - _THRESHOLDS)
    axes.plot(_THRESHOLDS, prevalence - (1 - prevalence) * odds, color=MUTED, linewidth=1)
    axes.axhline(0, color=RULE, linewidth=1)
    for name, p in data.predictions.items():
        if name in ("scorer", "bag_of_words"):
            benefit = net_benefit(data.y, p)
            axes.plot(_THRESHOLDS, benefit, label=system_name(name), **_LINES[name])
    axes.set(xlim=(0, 0.6), ylim=(-0.3 * prevalence, 1.1 * prevalence))
    axes.set(xlabel="risk threshold of an alert", ylabel="net benefit")
    # The threshold where alerting all has a net benefit of -0.2 times the prevalence.
    label_at = 1.2 * prevalence / (1 + 0.2 * prevalence)
    axes.text(label_at + 0.015, -0.24 * prevalence, "alert all", color=MUTED, size=10.5)
    axes.text(0.6, -0.02 * prevalence, "alert none", color=MUTED, size=10, ha="right", va="top")
    axes.legend(loc="upper right")


def scores(figure: "Figure", data: ReportData) -> None:
    p = data.predictions["scorer"]
    bins = np.linspace(0, min(1.0, 1.02 * p.max()), 31)
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    groups = ((data.y, data.outcome, ACCENT), (~data.y, negate(data.outcome), SECOND))
    for axes, (group, name, colour) in zip(panels, groups, strict=True):
        weights = np.full(int(group.sum()), 100 / group.sum())
        axes.hist(p[group], bins, weights=weights, color=colour, histtype="stepfilled")
        median = float(np.median(p[group]))
        axes.axvline(median, color=INK, linewidth=1)
        axes.set_title(f"{name}: {int(group.sum()):,} stays", loc="left", color=colour)
        axes.set_title(f"median {median:.2f}", loc="right", size=10, color=MUTED)
    panels[1].set_xlabel("predicted risk")
    figure.supylabel("% of the group", size=11.5, color=MUTED)


def alerts(figure: "Figure", data: ReportData) -> None:
    points = data.metrics["alerts"]
    y = data.positive_by_risk
    alerted = np.arange(1, len(y) + 1)
    shown = alerted <= 0.32 * len(y)
    enough = alerted >= MIN_ALERTS  # the first few alerts make a PPV of 100% by luck
    ppv, sensitivity = figure.subplots(2, 1, sharex=True)
    for axes, title, curve, chance, estimates in (
        (
            ppv,
            f"PPV: alerted stays that {data.outcome}",
            np.where(enough, np.cumsum(y) / alerted, np.nan),
            [y.mean(), y.mean()],
            [(point["per_100"], point["ppv"]) for point in points],
        ),
        (
            sensitivity,
            f"Sensitivity: {positives(data.outcome)} that were alerted",
            np.cumsum(y) / y.sum(),
            [0, 0.32],
            [(point["per_100"], point["sensitivity"]) for point in points],
        ),
    ):
        axes.plot([0, 32], chance, color=RULE, linewidth=1)
        axes.plot(100 * alerted[shown] / len(y), curve[shown], color=ACCENT, linewidth=1)
        error_bars(axes, estimates)
        axes.set_title(title, loc="left")
        axes.set(ylim=(-0.02, 1.06), xlim=(0, 32), yticks=[0, 0.5, 1])
    per_day = data.metrics["stays_per_day"]
    ticks = [point["per_100"] for point in points]
    labels = [f"{n}\n{n * per_day / 100:.1f}" if per_day else f"{n}" for n in ticks]
    sensitivity.set_xticks(ticks, labels)
    second_row = "\n(second row: alerts per day)" if per_day else ""
    sensitivity.set_xlabel(f"alerts per 100 predicted stays{second_row}")


def subgroups(figure: "Figure", data: ReportData) -> None:
    rows: list[tuple[str, Interval]] = []
    for group in data.subgroups:
        if group["auroc"]:
            if group["by"] not in [name for name, _ in rows]:
                rows.append((group["by"], None))
            rows.append((truncate(group["group"], 22), group["auroc"]))
    figure.set_size_inches(WIDTH / 72, (60 + 21 * len(rows)) / 72)
    axes = figure.add_subplot()
    for row, (_, interval) in enumerate(rows):
        if interval:
            axes.plot(interval[1:], [row, row], color=ACCENT, linewidth=1.2)
            axes.plot(interval[0], row, "o", color=ACCENT, markersize=5.5)
            axes.text(
                1.03,
                row,
                format_interval(interval, 2),
                transform=axes.get_yaxis_transform(),
                size=9.5,
                va="center",
            )
    overall = data.metrics["test"]["scorer"]["auroc"]
    axes.axvline(0.5, color=RULE, linewidth=1)
    axes.axvline(overall[0] if overall else 0.5, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="AUROC")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for label, (_, interval) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color=MUTED if interval is None else INK, size=9.5)


def _drawn(data: ReportData) -> dict[str, Floats]:
    """Return the predictions whose curves are drawn; the table has all."""
    return {name: data.predictions[name] for name in _LINES if name in data.predictions}


def _label(data: ReportData, name: str, metric: str) -> str:
    interval = data.metrics["test"].get(name, {}).get(metric)
    return f"{system_name(name)} {interval[0]:.2f}" if interval else system_name(name)


def net_benefit(y: npt.NDArray[np.bool_], p: Floats) -> Floats:
    """Return the net benefit per stay at each threshold of the figure."""
    return np.array(
        [metrics.net_benefit(t).values(y.astype(np.float64), p).mean() for t in _THRESHOLDS]
    )
