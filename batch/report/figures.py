"""The figures of a report, as SVG that takes its colours from the page."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batch.report.colours import ACCENT, COLOURS, INK, MUTED, PAPER, RULE, SECOND
from batch.report.data import Floats, ReportData
from batch.report.monitoring import draw_drift, draw_night_scores, draw_outcomes
from featurestore.store.scorer_metrics import (
    DEFAULT_OUTCOME,
    Interval,
    format_interval,
    negate,
    positives,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "scorer": "Scorer",
    "bag_of_words": "Bag-of-words",
    "classifier_head": "Fine-tuned model",
    "prior_admissions": "Prior admissions",
    "notes_alone": "Notes alone",
    "covariates_alone": "Covariates alone",
    "prevalence": "Prevalence",
}

_WIDTH, _HEIGHT = 360, 300  # in points; as many pixels fit the screen of a phone
_THRESHOLDS = np.linspace(0.01, 0.6, 119)

_LINES: dict[str, dict[str, Any]] = {
    "scorer": {"color": ACCENT, "linewidth": 2.2, "zorder": 4},
    "bag_of_words": {"color": SECOND, "linewidth": 1.5},
    "classifier_head": {"color": SECOND, "linewidth": 1.3, "linestyle": (0, (4, 2))},
    "prior_admissions": {"color": MUTED, "linewidth": 1.3, "linestyle": (0, (1, 1.5))},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a note category may contain a dollar sign
    "font.family": "DejaVu Sans",  # to measure text; the page sets its own
    "font.size": 11.5,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11.5,
    "axes.titlesize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{axis}tick.color": RULE for axis in "xy"},
    **{f"{axis}tick.labelcolor": MUTED for axis in "xy"},
    **{f"{axis}tick.labelsize": 10.5 for axis in "xy"},
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "legend.labelcolor": "linecolor",
    "legend.handlelength": 1.6,
    "legend.labelspacing": 0.25,
}


def draw(name: str, data: ReportData) -> dict[str, str]:
    """Return a figure as SVG: its viewBox, and its content without the outer tag."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # ignore a matplotlibrc of the working directory
        # The salt makes ids unique on a page of several figures.
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        warnings.filterwarnings("ignore", "Glyph")  # the font used to measure lacks some letters
        figure = Figure((_WIDTH / 72, _HEIGHT / 72), layout="constrained", frameon=False)
        FigureCanvasSVG(figure)
        FIGURES[name](figure, data)
        buffer = io.BytesIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    return _inline(buffer.getvalue().decode())


def _inline(svg: str) -> dict[str, str]:
    opening = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', svg)
    assert opening
    body = svg[opening.end() : svg.rindex("</svg>")]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|\n\s*", " ", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", body)
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)
    for colour, variable in COLOURS.items():
        body = body.replace(colour, variable)
    return {"view": opening[1], "body": re.sub(r" +", " ", body)}


def _roc(figure: "Figure", data: ReportData) -> None:
    from sklearn.metrics import roc_curve

    axes = _unit_square(figure, "false positive rate", "sensitivity (recall)")
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
    for name, p in data.predictions.items():
        false, true, _ = roc_curve(data.y, p)
        axes.plot(false, true, label=_label(data, name, "auroc"), **_LINES[name])
    axes.legend(loc="lower right")


def _pr(figure: "Figure", data: ReportData) -> None:
    from sklearn.metrics import precision_recall_curve

    axes = _unit_square(figure, "recall (sensitivity)", "precision (PPV)")
    prevalence = data.y.mean()
    axes.axhline(prevalence, color=RULE, linewidth=1)
    va = "top" if prevalence > 0.1 else "bottom"
    axes.text(0.015, prevalence, f"prevalence {prevalence:.2f}", color=MUTED, va=va, size=10.5)
    for name, p in data.predictions.items():
        precision, recall, _ = precision_recall_curve(data.y, p)
        precision[-1] = precision[-2]  # undefined where nobody is alerted
        best = np.r_[recall[1:] != recall[:-1], True]  # of equal recall
        line = {"label": _label(data, name, "auprc"), "drawstyle": "steps-post", **_LINES[name]}
        axes.plot(recall[best], precision[best], **line)
    # The corner that few curves cross.
    axes.legend(loc="lower right" if prevalence > 0.3 else "upper right")


def _calibration(figure: "Figure", data: ReportData) -> None:
    from scipy.stats import binomtest

    p = data.predictions["scorer"]
    groups = np.array_split(np.argsort(p, kind="stable"), min(10, len(p)))
    expected = np.array([p[group].mean() for group in groups])
    observed = np.array([data.y[group].mean() for group in groups])
    intervals = [
        binomtest(int(data.y[group].sum()), len(group)).proportion_ci(method="wilson")
        for group in groups
    ]
    low, high = np.array([(interval.low, interval.high) for interval in intervals]).T
    limit = min(1.0, 1.05 * max(high.max(), expected.max()))
    separator = " " if len(data.outcome) <= 16 else "\n"
    observed_label = f"observed proportion{separator}that {data.outcome}"
    axes = _unit_square(figure, "mean predicted risk", observed_label, limit)
    axes.plot([0, limit], [0, limit], color=RULE, linewidth=1)
    axes.vlines(expected, low, high, color=ACCENT, linewidth=1.2)
    axes.plot(expected, observed, "o", color=ACCENT, markeredgecolor=PAPER, markersize=6.5)


def _decision(figure: "Figure", data: ReportData) -> None:
    prevalence = float(data.y.mean())
    axes = figure.add_subplot()
    odds = _THRESHOLDS / (1 - _THRESHOLDS)
    axes.plot(_THRESHOLDS, prevalence - (1 - prevalence) * odds, color=MUTED, linewidth=1)
    axes.axhline(0, color=RULE, linewidth=1)
    for name, p in data.predictions.items():
        if name in ("scorer", "bag_of_words"):
            benefit = net_benefit(data.y, p)
            axes.plot(_THRESHOLDS, benefit, label=NAMES[name], **_LINES[name])
    axes.set(xlim=(0, 0.6), ylim=(-0.3 * prevalence, 1.1 * prevalence))
    axes.set(xlabel="risk threshold of an alert", ylabel="net benefit")
    # The threshold where alerting all has a net benefit of -0.2 times the prevalence.
    label_at = 1.2 * prevalence / (1 + 0.2 * prevalence)
    axes.text(label_at + 0.015, -0.24 * prevalence, "alert all", color=MUTED, size=10.5)
    axes.text(0.6, -0.02 * prevalence, "alert none", color=MUTED, size=10, ha="right", va="top")
    axes.legend(loc="upper right")


def _scores(figure: "Figure", data: ReportData) -> None:
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


def _alerts(figure: "Figure", data: ReportData) -> None:
    points = data.metrics["alerts"]
    y = data.positive_by_risk
    alerted = np.arange(1, len(y) + 1)
    shown = alerted <= 0.32 * len(y)
    ppv, recall = figure.subplots(2, 1, sharex=True)
    for axes, title, curve, chance, estimates in (
        (
            ppv,
            f"PPV: alerted stays that {data.outcome}",
            np.cumsum(y) / alerted,
            [y.mean(), y.mean()],
            [(point["per_100"], point["ppv"]) for point in points],
        ),
        (
            recall,
            f"Recall: {positives(data.outcome)} that were alerted",
            np.cumsum(y) / y.sum(),
            [0, 0.32],
            [(point["per_100"], point["recall"]) for point in points],
        ),
    ):
        axes.plot([0, 32], chance, color=RULE, linewidth=1)
        axes.plot(100 * alerted[shown] / len(y), curve[shown], color=ACCENT, linewidth=1)
        _error_bars(axes, estimates)
        axes.set_title(title, loc="left")
        axes.set(ylim=(-0.02, 1.06), xlim=(0, 32), yticks=[0, 0.5, 1])
    per_day = data.metrics["stays_per_day"]
    ticks = [point["per_100"] for point in points]
    labels = [f"{n}\n{n * per_day / 100:.1f}" if per_day else f"{n}" for n in ticks]
    recall.set_xticks(ticks, labels)
    second_row = "\n(second row: alerts per day)" if per_day else ""
    recall.set_xlabel(f"alerts per 100 predicted stays{second_row}")


def _subgroups(figure: "Figure", data: ReportData) -> None:
    rows: list[tuple[str, Any]] = []
    for group in data.metrics["subgroups"]:
        if group["auroc"]:
            if group["by"] not in [name for name, _ in rows]:
                rows.append((group["by"], None))
            rows.append((_truncate(group["group"], 22), group))
    figure.set_size_inches(_WIDTH / 72, (60 + 21 * len(rows)) / 72)
    axes = figure.add_subplot()
    for row, (_, group) in enumerate(rows):
        if group:
            estimate, low, high = group["auroc"]
            axes.plot([low, high], [row, row], color=ACCENT, linewidth=1.2)
            axes.plot(estimate, row, "o", color=ACCENT, markersize=5.5)
            axes.text(
                1.03,
                row,
                format_interval(group["auroc"], 2),
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
    for label, (_, group) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color=MUTED if group is None else INK, size=9.5)


def _learning(figure: "Figure", data: ReportData) -> None:
    curve = data.metrics["learning_curve"]
    points = [(point["admissions"], point["auroc"]) for point in curve if point["auroc"]]
    axes = figure.add_subplot()
    stays = [admissions for admissions, _ in points]
    axes.plot(stays, [auroc[0] for _, auroc in points], color=ACCENT, linewidth=1)
    _error_bars(axes, points)
    axes.set_xscale("log")
    axes.set_xticks(stays, [f"{n:,}" for n in stays])
    axes.set_xticks([], minor=True)
    axes.margins(0.08, 0.1)
    axes.set(xlabel="stays fitted on", ylabel="AUROC on the same test stays")


def _map(figure: "Figure", data: ReportData) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="covariance_eigh").fit(data.embeddings.astype(np.float64))
    position = pca.transform(data.embeddings.astype(np.float64))  # (stays in the map, 2)
    axes = figure.add_subplot(xticks=[], yticks=[])
    for group, colour in ((~data.positive, SECOND), (data.positive, ACCENT)):
        # A line of length 0 with round ends draws a dot with a tenth of the SVG of a marker.
        outline = Outline(np.repeat(position[group], 2, axis=0), [1, 2] * int(group.sum()))
        outline.should_simplify = False
        axes.add_patch(
            PathPatch(
                outline, facecolor="none", edgecolor=colour, lw=3.2, capstyle="round", alpha=0.7
            )
        )
    axes.update_datalim(position)
    axes.autoscale_view()
    first, second = (f"{ratio:.0%}" for ratio in pca.explained_variance_ratio_)
    axes.set(xlabel=f"first component ({first} of the variance)", ylabel=f"second ({second})")
    axes.set_title(f"● {data.outcome}", loc="left", color=ACCENT)
    axes.set_title(f"● {negate(data.outcome)}", loc="right", color=SECOND)


def _drift(figure: "Figure", data: ReportData) -> None:
    draw_drift(figure, data.monitoring)


def _night_scores(figure: "Figure", data: ReportData) -> None:
    draw_night_scores(figure, data.monitoring)


def _outcomes(figure: "Figure", data: ReportData) -> None:
    draw_outcomes(figure, data.monitoring)


def _flow(figure: "Figure", data: ReportData) -> None:
    admissions, events = data.metrics["admissions"], data.metrics["positives"]
    predicted, scored = data.flow["predicted"], data.flow["scored"]
    cutoff, used = data.scorer["cutoff"], sum(admissions.values())
    not_predicted = {f"not predicted at {cutoff}": data.flow["admissions"] - predicted["stays"]}
    not_scored = {"no note known by then": predicted["stays"] - scored["stays"]}
    # Longer phrases do not fit the boxes.
    label, waiting = "positive", ("not mature, negative so far", "not mature, positive so far")
    if data.outcome == DEFAULT_OUTCOME:
        label, waiting = "returned", ("horizon not over, no return", "horizon not over, returned")
    not_judged = {
        **scored["not_judged"],
        waiting[0]: scored["immature"] - scored["positive_so_far"],
        waiting[1]: scored["positive_so_far"],
        "labelled since training": scored["judged"] - used,
    }
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    y = _step(axes, 1, "All admissions", data.flow["admissions"], "", not_predicted)
    if scored["stays"]:
        y = _step(axes, y, f"Predicted at {cutoff}", predicted["stays"], "", not_scored)
        y = _step(axes, y, "Scored", scored["stays"], "", not_judged)
    else:  # the encoder was dropped
        no_vectors = {"no note or no label": predicted["stays"] - used}
        y = _step(axes, y, f"Predicted at {cutoff}", predicted["stays"], "", no_vectors)
    y = _step(axes, y, "Judged", used, f"{sum(events.values()):,} {label}", {}) + 12
    axes.plot([58, 301], [y - 12, y - 12], color=MUTED, linewidth=1)
    for x, (split, name) in zip((1, 122, 243), SPLITS.items(), strict=True):
        title, count = f"{name}: {admissions[split]:,}", f"{events[split]:,} {label}"
        _box(axes, x, y, 116, title, count)
        _arrow(axes, x + 58, y - 12, y)
    axes.set(xlim=(0, _WIDTH), ylim=(y + 41, 0))
    figure.set_size_inches(_WIDTH / 72, (y + 41) / 72)


# Parts of figures


def _unit_square(figure: "Figure", x: str, y: str, limit: float = 1.0) -> "Axes":
    """Return axes for two proportions."""
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set(xlim=(0, limit), ylim=(0, limit * 1.01))
    return axes


def _label(data: ReportData, name: str, metric: str) -> str:
    interval = data.metrics["test"].get(name, {}).get(metric)
    return f"{NAMES[name]} {interval[0]:.2f}" if interval else NAMES[name]


def _error_bars(axes: "Axes", points: Sequence[tuple[float, Interval]]) -> None:
    for x, interval in points:
        if interval:
            axes.plot([x, x], interval[1:], color=ACCENT, linewidth=1.2)
            axes.plot(x, interval[0], "o", color=ACCENT, markeredgecolor=PAPER, markersize=6.5)


def _truncate(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def net_benefit(y: npt.NDArray[np.bool_], p: Floats) -> Floats:
    """Return the net benefit per stay at each threshold (Vickers and Elkin 2006)."""
    alerted = p[:, None] >= _THRESHOLDS
    true, false = (alerted & y[:, None]).mean(axis=0), (alerted & ~y[:, None]).mean(axis=0)
    return np.asarray(true - false * _THRESHOLDS / (1 - _THRESHOLDS))


def _box(axes: "Axes", x: float, y: float, width: float, title: str, count: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, 40, facecolor="none", edgecolor=MUTED, linewidth=1))
    axes.text(x + 9, y + 16, title, size=10, color=MUTED)
    axes.text(x + 9, y + 31, count, size=10.5)


def _arrow(axes: "Axes", x: float, start: float, end: float, head: str = "-|>") -> None:
    arrow = {"arrowstyle": head, "color": MUTED, "lw": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x, end), (x, start), arrowprops=arrow)


def _step(
    axes: "Axes", y: float, title: str, stays: int, positive: str, left_out: dict[str, int]
) -> float:
    """Draw a box with what is left out after it on its right; return where the next box begins."""
    _box(axes, 1, y, 150, title, f"{stays:,}" + (f", {positive}" if positive else ""))
    reasons = {reason: n for reason, n in left_out.items() if n > 0}
    total = {"not judged": sum(reasons.values())} if len(reasons) > 1 else {}
    lines = total | reasons
    end = y + 40 + (19 + 15 * len(lines) if lines else 20)
    if lines:
        axes.plot([76, 164], [y + 54, y + 54], color=MUTED, linewidth=1)
        for number, (reason, n) in enumerate(lines.items()):
            style: dict[str, Any] = {"size": 10, "color": INK if reason in total else MUTED}
            axes.text(170, y + 57 + 15 * number, reason, **style)
            axes.text(359, y + 57 + 15 * number, f"{n:,}", ha="right", **style)
    _arrow(axes, 76, y + 40, end, "-|>" if lines or not positive else "-")
    return end


SPLITS = {"train": "Training", "valid": "Validation", "test": "Test"}
FIGURES: dict[str, Callable[["Figure", ReportData], None]] = {
    "flow": _flow,
    "roc": _roc,
    "pr": _pr,
    "calibration": _calibration,
    "decision": _decision,
    "scores": _scores,
    "alerts": _alerts,
    "subgroups": _subgroups,
    "learning": _learning,
    "map": _map,
    "drift": _drift,
    "night-scores": _night_scores,
    "outcomes": _outcomes,
}
# Figures that need test stays of both outcomes.
OUTCOME_FIGURES = ("roc", "pr", "calibration", "decision", "scores", "alerts", "subgroups")
