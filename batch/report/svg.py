"""Figures as SVG that takes its colours from the page, and the parts that they share."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from batch.report.colours import ACCENT, COLOURS, INK, MUTED, PAPER, RULE
from batch.report.data import ReportData
from featurestore.store.scorer_metrics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 360, 300  # in points; as many pixels fit the screen of a phone

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


def draw(
    name: str, data: ReportData, figure_of: Callable[["Figure", ReportData], None]
) -> dict[str, str]:
    """Return a figure as SVG: its viewBox, and its content without the outer tag."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # ignore a matplotlibrc of the working directory
        # The salt makes ids unique on a page of several figures.
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        warnings.filterwarnings("ignore", "Glyph")  # the font used to measure lacks some letters
        figure = Figure((WIDTH / 72, HEIGHT / 72), layout="constrained", frameon=False)
        FigureCanvasSVG(figure)
        figure_of(figure, data)
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


def unit_square(figure: "Figure", x: str, y: str, limit: float = 1.0) -> "Axes":
    """Return axes for two proportions."""
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.set(xlim=(0, limit), ylim=(0, limit * 1.01))
    return axes


def error_bars(axes: "Axes", points: Sequence[tuple[float, Interval]]) -> None:
    for x, interval in points:
        if interval:
            axes.plot([x, x], interval[1:], color=ACCENT, linewidth=1.2)
            axes.plot(x, interval[0], "o", color=ACCENT, markeredgecolor=PAPER, markersize=6.5)


def truncate(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
