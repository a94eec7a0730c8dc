"""The report of a scorer: one private HTML page with figures, which loads nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from batch.report.data import MAP_SIZE, ReportData, report_data, system_name
from batch.report.figures import FIGURES, OUTCOME_FIGURES
from batch.report.svg import draw
from batch.report.tables import table_one
from batch.scoring.monitoring import SHIFTS
from batch.training.bootstrap import MIN_OUTCOMES, enough_outcomes
from batch.training.performance.small_cells import OUTCOMES, SPLITS
from batch.training.performance.thresholds import ThresholdRow
from featurestore.errors import FeatureStoreError
from featurestore.store.files import private_file
from featurestore.store.scorer_metrics import (
    format_interval,
    format_range,
    format_threshold,
    negate,
)
from featurestore.store.store import Store
from featurestore.store.task_select import SHIPPED


class Report(TypedDict):
    """What `report` returns."""

    scorer_id: str
    file: str
    figures: int
    thresholds: list[ThresholdRow]
    subgroups: list[dict[str, Any]]  # small counts are None
    characteristics: list[dict[str, Any]]  # of the patients by split and outcome, as subgroups


def report(
    store: Store,
    scorer: str,
    output: str | Path,
    thresholds: Sequence[float] = (),
    small_cells: bool = False,
) -> Report:
    """Write a page on how a scorer was made, how it performs, and for whom.

    One .html file, private (0600), without scripts or external resources. Curves are drawn from the
    recorded predictions for test patients; the same store gives the same bytes. `thresholds` are
    the predicted risks at which alerts are evaluated (default: 0.05 to 0.5), the first also in
    groups of patients (default: what the riskiest 10% reach). Counts under 11 in the tables are
    suppressed unless `small_cells`. Raises FeatureStoreError where the scorer is unknown, a
    threshold is no probability, or the file cannot be written.
    """
    output = store.output_file(output, ".html")
    if wrong := [threshold for threshold in thresholds if not 0 < threshold < 1]:
        raise FeatureStoreError(
            f"{wrong[0]} is no threshold of a predicted risk - give one between 0 and 1"
        )
    data = report_data(store, scorer, thresholds, small_cells)
    missing = missing_figures(data)
    figures = {name: draw(name, data, FIGURES[name]) for name in FIGURES if name not in missing}
    page = render(data, figures, missing)
    with private_file(output, encoding="utf-8", newline="\n") as stream:
        stream.write(page)
    return {
        "scorer_id": data.scorer["scorer_id"],
        "file": str(output),
        "figures": len(figures),
        "thresholds": data.thresholds,
        "subgroups": data.subgroups,
        "characteristics": data.characteristics,
    }


def missing_figures(data: ReportData) -> dict[str, str]:
    """Return each figure that cannot be drawn, with the reason as a sentence."""
    missing = {}
    stays, positive = len(data.y), int(data.y.sum())
    if not enough_outcomes(data.y):
        reason = (
            f"{positive:,} of {stays:,} test stays {data.outcome}: this figure needs at least "
            f"{MIN_OUTCOMES} that did and {MIN_OUTCOMES} that did not."
        )
        if not stays:
            reason = "The test patients were not looked at."
        missing = dict.fromkeys(OUTCOME_FIGURES, reason)
    elif not any(group["auroc"] for group in data.subgroups):
        missing["subgroups"] = "No group of test patients is large enough for its own AUROC."
    if data.metrics["no_signal"]:
        missing["alerts"] = "Without a signal nobody is at a higher risk than others."
    if not data.metrics["learning_curve"]:
        missing["learning"] = (
            f"There are not two parts of the training patients with at least {MIN_OUTCOMES} stays "
            f"that {data.outcome} and {MIN_OUTCOMES} that did not, or too few such test stays."
        )
    if len(data.positive) < 3:
        missing["map"] = f"The store holds no vectors of {data.scorer['encoder_id']}."
    return missing | data.monitoring.missing


def render(
    data: ReportData,
    figures: dict[str, dict[str, str]],
    missing: dict[str, str],
) -> str:
    """Return the page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        interval=format_interval, range=format_range, threshold=format_threshold
    )
    return environment.get_template("report.html").render(
        **vars(data),
        test=data.metrics["test"],
        # The SELECT of another task may name admissions.
        shipped_task=data.scorer["label_rule"] in SHIPPED,
        systems=list(data.metrics["test"]),
        names={name: system_name(name) for name in data.metrics["test"]},
        table_one=table_one(data.characteristics, data.outcome),
        outcomes=OUTCOMES,
        splits=SPLITS,
        versions=data.scorer["versions"] | data.metrics["versions"],
        figures=figures,
        missing=missing,
        negated=negate(data.outcome),
        shift_limit=SHIFTS[1],
        forced_nights=sum(night["is_forced"] for night in data.monitoring.nights),
        map_size=MAP_SIZE,
    )
