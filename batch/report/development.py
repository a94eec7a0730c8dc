"""Figures of the cohort, of how a scorer was fitted."""

from typing import TYPE_CHECKING, Any

import numpy as np

from batch.report.colours import ACCENT, INK, MUTED, SECOND
from batch.report.data import ReportData
from batch.report.svg import WIDTH, error_bars
from batch.training.performance.small_cells import SPLITS
from featurestore.store.scorer_metrics import DEFAULT_OUTCOME, negate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def learning(figure: "Figure", data: ReportData) -> None:
    curve = data.metrics["learning_curve"]
    points = [(point["admissions"], point["auroc"]) for point in curve if point["auroc"]]
    axes = figure.add_subplot()
    stays = [admissions for admissions, _ in points]
    axes.plot(stays, [auroc[0] for _, auroc in points], color=ACCENT, linewidth=1)
    error_bars(axes, points)
    axes.set_xscale("log")
    axes.set_xticks(stays, [f"{n:,}" for n in stays])
    axes.set_xticks([], minor=True)
    axes.margins(0.08, 0.1)
    axes.set(xlabel="stays fitted on", ylabel="AUROC on the same test stays")


def embedding_map(figure: "Figure", data: ReportData) -> None:
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


def flow(figure: "Figure", data: ReportData) -> None:
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
        _not_in_split(data): scored["judged"] - used,
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
    axes.set(xlim=(0, WIDTH), ylim=(y + 41, 0))
    figure.set_size_inches(WIDTH / 72, (y + 41) / 72)


def _not_in_split(data: ReportData) -> str:
    """Return why judged stays are in no split."""
    if data.metrics.get("test_from"):
        return "outside the split by time"
    return (
        "labelled since training" if data.metrics["admissions"]["test"] else "test, not looked at"
    )


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
