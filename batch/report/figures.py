"""The figures of a report, as SVG whose colours are the page's."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batch.embedding.drift import SHIFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

NAMES = {
    "scorer": "Scorer",
    "bag_of_words": "Bag-of-words",
    "head": "Fine-tuned model",
    "prior_admissions": "Prior admissions",
    "prevalence": "Prevalence",
}

_CATEGORIES = 8  # of notes, in the figure of drift
_WIDTH, _HEIGHT = 360, 300  # of a figure: points in print, about the pixels of a telephone
_THRESHOLDS = np.linspace(0.01, 0.6, 119)

# Stand-ins for colours: the page's style sheet says what they are by day, by night and on paper.
_COLOURS = {
    f"#10000{n}": f"var(--{name})"
    for n, name in enumerate(("ink", "muted", "rule", "accent", "second", "paper"))
}
INK, MUTED, RULE, ACCENT, SECOND, PAPER = _COLOURS
_LINES: dict[str, dict[str, Any]] = {
    "scorer": {"color": ACCENT, "linewidth": 2.2, "zorder": 4},
    "bag_of_words": {"color": SECOND, "linewidth": 1.5},
    "head": {"color": SECOND, "linewidth": 1.3, "linestyle": (0, (4, 2))},
    "prior_admissions": {"color": MUTED, "linewidth": 1.3, "linestyle": (0, (1, 1.5))},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a note category may have a dollar sign
    "font.family": "DejaVu Sans",  # for measuring; the page sets its own
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


@dataclass
class Facts:
    """All that the page is made of; no note, no patient and no admission is named in it."""

    scorer: dict[str, Any]  # its row, and the run that trained it
    metrics: dict[str, Any]
    encoder: dict[str, Any]  # its manifest; empty where the store no longer holds it
    schema: str
    y: npt.NDArray[np.bool_]  # (test stays,)
    told: dict[str, Floats]  # the probabilities of each system there is: (test stays,)
    flow: dict[str, Any]
    predicted: int  # labelled stays that are predicted at the cutoff, with a known note or without
    patients: dict[str, dict[str, Any]]  # of each split
    embeddings: npt.NDArray[np.float32]  # (mapped stays, dim)
    returned: npt.NDArray[np.bool_]  # (mapped stays,)
    nights: dict[str, list[dict[str, Any]]]  # of each category of notes


def draw(name: str, facts: Facts) -> dict[str, str]:
    """A figure as SVG, without its outer tag: its viewBox and what is inside."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a matplotlibrc may lie in the working directory
        # The salt keeps the ids of two figures on one page apart.
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        warnings.filterwarnings("ignore", "Glyph")  # the font that measures has not every letter
        figure = Figure((_WIDTH / 72, _HEIGHT / 72), layout="constrained", frameon=False)
        FigureCanvasSVG(figure)
        FIGURES[name](figure, facts)
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _inline(buffer.getvalue().decode())


def _inline(svg: str) -> dict[str, str]:
    opening = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', svg)
    assert opening
    body = svg[opening.end() : svg.rindex("</svg>")]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|\n\s*", " ", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", body)
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)
    for colour, variable in _COLOURS.items():
        body = body.replace(colour, variable)
    return {"view": opening[1], "body": re.sub(r" +", " ", body)}


def _roc(figure: "Figure", facts: Facts) -> None:
    from sklearn.metrics import roc_curve

    axes = _square(figure, "of those who did not return, alerted", "of those who returned, alerted")
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
    for name, p in facts.told.items():
        false, true, _ = roc_curve(facts.y, p)
        axes.plot(false, true, label=_label(facts, name, "auroc"), **_LINES[name])
    axes.legend(loc="lower right")


def _pr(figure: "Figure", facts: Facts) -> None:
    from sklearn.metrics import precision_recall_curve

    axes = _square(figure, "of those who returned, alerted", "of those alerted, returned")
    share = facts.y.mean()
    axes.axhline(share, color=RULE, linewidth=1)
    va = "top" if share > 0.1 else "bottom"
    axes.text(0.015, share, f"all stays: {share:.2f}", color=MUTED, va=va, size=10.5)
    for name, p in facts.told.items():
        precision, recall, _ = precision_recall_curve(facts.y, p)
        precision[-1] = precision[-2]  # where nobody is alerted there is none
        best = np.r_[recall[1:] != recall[:-1], True]  # of the same recall
        line = {"label": _label(facts, name, "auprc"), "drawstyle": "steps-post", **_LINES[name]}
        axes.plot(recall[best], precision[best], **line)
    # Few curves go through the corner that is left.
    axes.legend(loc="lower right" if share > 0.3 else "upper right")


def _calibration(figure: "Figure", facts: Facts) -> None:
    p = facts.told["scorer"]
    groups = np.array_split(np.argsort(p, kind="stable"), min(10, len(p)))
    expected = np.array([p[group].mean() for group in groups])
    observed = np.array([facts.y[group].mean() for group in groups])
    low, high = np.array([wilson(int(facts.y[g].sum()), len(g)) for g in groups]).T
    most = min(1.0, 1.05 * max(high.max(), expected.max()))
    axes = _square(figure, "predicted risk, mean of the group", "of the group, returned", most)
    axes.plot([0, most], [0, most], color=RULE, linewidth=1)
    axes.vlines(expected, low, high, color=ACCENT, linewidth=1.2)
    axes.plot(expected, observed, "o", color=ACCENT, markeredgecolor=PAPER, markersize=6.5)


def _decision(figure: "Figure", facts: Facts) -> None:
    share = float(facts.y.mean())
    axes = figure.add_subplot()
    odds = _THRESHOLDS / (1 - _THRESHOLDS)
    axes.plot(_THRESHOLDS, share - (1 - share) * odds, color=MUTED, linewidth=1)
    axes.axhline(0, color=RULE, linewidth=1)
    for name, p in facts.told.items():
        if name in ("scorer", "bag_of_words"):
            benefit = net_benefit(facts.y, p)
            axes.plot(_THRESHOLDS, benefit, label=NAMES[name], **_LINES[name])
    axes.set(xlim=(0, 0.6), ylim=(-0.3 * share, 1.1 * share))
    axes.set(xlabel="risk from which a stay is alerted", ylabel="net benefit")
    leaves = 1.2 * share / (1 + 0.2 * share)  # where alerting all has a net benefit of -0.2 share
    axes.text(leaves + 0.015, -0.24 * share, "alert all", color=MUTED, size=10.5)
    axes.text(0.6, -0.02 * share, "alert none", color=MUTED, size=10, ha="right", va="top")
    axes.legend(loc="upper right")


def _scores(figure: "Figure", facts: Facts) -> None:
    p = facts.told["scorer"]
    bins = np.linspace(0, min(1.0, 1.02 * p.max()), 31)
    both = figure.subplots(2, 1, sharex=True, sharey=True)
    groups = ((facts.y, "returned", ACCENT), (~facts.y, "did not return", SECOND))
    for axes, (group, name, colour) in zip(both, groups, strict=True):
        weights = np.full(int(group.sum()), 100 / group.sum())
        axes.hist(p[group], bins, weights=weights, color=colour, histtype="stepfilled")
        median = float(np.median(p[group]))
        axes.axvline(median, color=INK, linewidth=1)
        axes.set_title(f"{name}: {int(group.sum()):,} stays", loc="left", color=colour)
        axes.set_title(f"median {median:.2f}", loc="right", size=10, color=MUTED)
    both[1].set_xlabel("predicted risk")
    figure.supylabel("% of the group", size=11.5, color=MUTED)


def _alerts(figure: "Figure", facts: Facts) -> None:
    points = facts.metrics["alerts"]
    y = facts.y[np.argsort(-facts.told["scorer"], kind="stable")]
    alerted = np.arange(1, len(y) + 1)
    shown = alerted <= 0.32 * len(y)
    found = {"ppv": np.cumsum(y) / alerted, "recall": np.cumsum(y) / y.sum()}
    by_chance = {"ppv": [y.mean(), y.mean()], "recall": [0, 0.32]}
    titles = {
        "ppv": "PPV: of those alerted, returned",
        "recall": "Recall: of those who returned, alerted",
    }
    both = figure.subplots(2, 1, sharex=True)
    for axes, (name, curve) in zip(both, found.items(), strict=True):
        axes.plot([0, 32], by_chance[name], color=RULE, linewidth=1)
        axes.plot(100 * alerted[shown] / len(y), curve[shown], color=ACCENT, linewidth=1)
        _intervals(axes, [(point["per_100"], point[name]) for point in points])
        axes.set_title(titles[name], loc="left")
        axes.set(ylim=(-0.02, 1.06), xlim=(0, 32), yticks=[0, 0.5, 1])
    a_day = facts.metrics["stays_a_day"]
    ticks = [point["per_100"] for point in points]
    names = [f"{n}\n{n * a_day / 100:.1f}" if a_day else f"{n}" for n in ticks]
    both[1].set_xticks(ticks, names)
    below = "\n(second row: alerts a day)" if a_day else ""
    both[1].set_xlabel(f"alerts per 100 predicted stays{below}")


def _subgroups(figure: "Figure", facts: Facts) -> None:
    rows: list[tuple[str, Any]] = []
    for group in facts.metrics["subgroups"]:
        if group["auroc"]:
            if group["by"] not in [name for name, _ in rows]:
                rows.append((group["by"], None))
            rows.append((_short(group["group"], 22), group))
    figure.set_size_inches(_WIDTH / 72, (60 + 21 * len(rows)) / 72)
    axes = figure.add_subplot()
    for place, (_, group) in enumerate(rows):
        if group:
            estimate, low, high = group["auroc"]
            axes.plot([low, high], [place, place], color=ACCENT, linewidth=1.2)
            axes.plot(estimate, place, "o", color=ACCENT, markersize=5.5)
            said = f"{estimate:.2f} ({low:.2f} to {high:.2f})"
            axes.text(
                1.03, place, said, transform=axes.get_yaxis_transform(), size=9.5, va="center"
            )
    whole = facts.metrics["test"]["scorer"]["auroc"]
    axes.axvline(0.5, color=RULE, linewidth=1)
    axes.axvline(whole[0] if whole else 0.5, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="AUROC")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for label, (_, group) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color=MUTED if group is None else INK, size=9.5)


def _learning(figure: "Figure", facts: Facts) -> None:
    points = [point for point in facts.metrics["learning_curve"] if point["auroc"]]
    axes = figure.add_subplot()
    stays = [point["admissions"] for point in points]
    axes.plot(stays, [point["auroc"][0] for point in points], color=ACCENT, linewidth=1)
    _intervals(axes, [(point["admissions"], point["auroc"]) for point in points])
    axes.set_xscale("log")
    axes.set_xticks(stays, [f"{n:,}" for n in stays])
    axes.set_xticks([], minor=True)
    axes.margins(0.08, 0.1)
    axes.set(xlabel="stays that it was fitted on", ylabel="AUROC on the same test stays")


def _map(figure: "Figure", facts: Facts) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="covariance_eigh").fit(facts.embeddings.astype(np.float64))
    at = pca.transform(facts.embeddings.astype(np.float64))  # (mapped stays, 2)
    axes = figure.add_subplot(xticks=[], yticks=[])
    for group, colour in ((~facts.returned, SECOND), (facts.returned, ACCENT)):
        # A line of no length with a round end is a dot, and a tenth of a marker's size in SVG.
        outline = Outline(np.repeat(at[group], 2, axis=0), [1, 2] * int(group.sum()))
        outline.should_simplify = False
        axes.add_patch(
            PathPatch(
                outline, facecolor="none", edgecolor=colour, lw=3.2, capstyle="round", alpha=0.7
            )
        )
    axes.update_datalim(at)
    axes.autoscale_view()
    first, second = (f"{share:.0%}" for share in pca.explained_variance_ratio_)
    axes.set(xlabel=f"first component ({first} of the variance)", ylabel=f"second ({second})")
    axes.set_title("● returned", loc="left", color=ACCENT)
    axes.set_title("● did not return", loc="right", color=SECOND)


def _drift(figure: "Figure", facts: Facts) -> None:
    most = sorted(facts.nights.items(), key=lambda of: -sum(n["n_notes"] for n in of[1]))
    shown = most[:_CATEGORIES]
    figure.set_size_inches(_WIDTH / 72, (58 + 44 * len(shown)) / 72)
    grid = figure.subplots(
        len(shown), 2, sharex=True, sharey="col", squeeze=False, width_ratios=[3, 2]
    )
    runs = sorted({night["run_id"] for _, nights in shown for night in nights})
    for (moved, count), (name, nights) in zip(grid, shown, strict=True):
        x = [runs.index(night["run_id"]) for night in nights]
        moved.axhline(SHIFT, color=SECOND, linewidth=1, linestyle=(0, (3, 2)))
        moved.plot(x, [night["moved"] for night in nights], color=ACCENT, linewidth=1.5)
        count.bar(x, [night["n_notes"] for night in nights], color=SECOND, width=0.8)
        moved.set_ylabel(_short(name, 17), rotation=0, ha="right", va="center", color=INK)
        count.yaxis.tick_right()
        count.spines["left"].set_visible(False)
    every = [night for _, nights in shown for night in nights]
    furthest = max(SHIFT, *(night["moved"] for night in every))
    grid[0][0].set(ylim=(0, 1.1 * furthest), yticks=[SHIFT], xticks=[])
    grid[0][1].set_yticks([max(night["n_notes"] for night in every)])
    for axes, title in zip(grid[0], ("distance in spreads", "notes"), strict=True):
        axes.set_title(title, loc="left", size=10, color=MUTED)
    dates = sorted(str(night["night"]) for night in every)
    figure.supxlabel(f"nights from {dates[0]} to {dates[-1]}", size=10, color=MUTED)


def _flow(figure: "Figure", facts: Facts) -> None:
    admissions, positives = facts.metrics["admissions"], facts.metrics["positives"]
    cutoff, used = facts.scorer["cutoff"], sum(admissions.values())
    later = {
        f"not predicted at {cutoff}": facts.flow["labelled"] - facts.predicted,
        "no note known by then": facts.predicted - used,
    }
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    y = _step(axes, 1, "All admissions", facts.flow["admissions"], None, facts.flow["excluded"])
    y = _step(axes, y, "Labelled", facts.flow["labelled"], facts.flow["returned"], later)
    y = _step(axes, y, f"Predicted at {cutoff}", used, sum(positives.values()), {}) + 12
    axes.plot([58, 301], [y - 12, y - 12], color=MUTED, linewidth=1)
    for x, (split, name) in zip((1, 122, 243), SPLITS.items(), strict=True):
        _box(axes, x, y, 116, name, f"{admissions[split]:,}, {positives[split]:,} returned")
        _arrow(axes, x + 58, y - 12, y)
    axes.set(xlim=(0, _WIDTH), ylim=(y + 41, 0))
    figure.set_size_inches(_WIDTH / 72, (y + 41) / 72)


# Pieces of figures


def _square(figure: "Figure", x: str, y: str, most: float = 1.0) -> "Axes":
    """Axes for two shares of something."""
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set(xlim=(0, most), ylim=(0, most * 1.01))
    return axes


def _label(facts: Facts, name: str, metric: str) -> str:
    found = facts.metrics["test"].get(name, {}).get(metric)
    return f"{NAMES[name]} {found[0]:.2f}" if found else NAMES[name]


def _intervals(axes: "Axes", points: list[tuple[float, list[float] | None]]) -> None:
    for x, found in points:
        if found:
            axes.plot([x, x], found[1:], color=ACCENT, linewidth=1.2)
            axes.plot(x, found[0], "o", color=ACCENT, markeredgecolor=PAPER, markersize=6.5)


def _short(name: str, letters: int) -> str:
    return name if len(name) <= letters else name[: letters - 1].rstrip() + "…"


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share k / n (Wilson 1927)."""
    z = 1.959964
    centre = (k + z**2 / 2) / (n + z**2)
    half = z * np.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def net_benefit(y: npt.NDArray[np.bool_], p: Floats) -> Floats:
    """True alerts less false ones at the odds of each threshold, a stay (Vickers, Elkin 2006)."""
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
    axes: "Axes", y: float, title: str, stays: int, returned: int | None, out: dict[str, int]
) -> float:
    """A box, on its right who leaves here; return where the next box begins."""
    _box(axes, 1, y, 150, title, f"{stays:,}" + (f", {returned:,} returned" if returned else ""))
    left = {why: n for why, n in out.items() if n > 0}
    end = y + 40 + (34 + 15 * (len(left) if len(left) > 1 else 0) if left else 20)
    if left:
        axes.plot([76, 164], [y + 54, y + 54], color=MUTED, linewidth=1)
        total = {"left out": sum(left.values())} if len(left) > 1 else {}
        for line, (why, n) in enumerate({**total, **left}.items()):
            style: dict[str, Any] = {"size": 10, "color": INK if why == "left out" else MUTED}
            axes.text(170, y + 57 + 15 * line, why, **style)
            axes.text(359, y + 57 + 15 * line, f"{n:,}", ha="right", **style)
    _arrow(axes, 76, y + 40, end, "-|>" if left or returned is None else "-")
    return end


SPLITS = {"train": "Training", "valid": "Validation", "test": "Test"}
FIGURES: dict[str, Callable[["Figure", Facts], None]] = {
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
}
OF_OUTCOMES = ("roc", "pr", "calibration", "decision", "scores", "alerts", "subgroups")
