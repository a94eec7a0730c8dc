"""The figures of a report, by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from batch.report import development, performance
from batch.report.data import ReportData
from batch.report.monitoring import draw_drift, draw_night_scores, draw_outcomes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[["Figure", ReportData], None]] = {
    "flow": development.flow,
    "roc": performance.roc,
    "pr": performance.pr,
    "calibration": performance.calibration,
    "decision": performance.decision,
    "scores": performance.scores,
    "alerts": performance.alerts,
    "subgroups": performance.subgroups,
    "learning": development.learning,
    "map": development.embedding_map,
    "drift": lambda figure, data: draw_drift(figure, data.monitoring),
    "night-scores": lambda figure, data: draw_night_scores(figure, data.monitoring),
    "outcomes": lambda figure, data: draw_outcomes(figure, data.monitoring),
}
# Figures that need test stays of both outcomes.
OUTCOME_FIGURES = ("roc", "pr", "calibration", "decision", "scores", "alerts", "subgroups")
