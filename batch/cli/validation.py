"""The command that evaluates a scorer once more."""

from pathlib import Path
from typing import Any

import click

from batch.cli.training import interval, metrics_table
from featurestore.cli.json_output import echo_result
from featurestore.cli.options import JSON, SCORER, STORE


@click.command("evaluate")
@STORE
@SCORER
@click.option(
    "--from",
    "other",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Evaluate it on all patients of another store, of the same encoder.",
)
@JSON
def evaluate_command(store: Path, scorer: str, other: Path | None, as_json: bool) -> None:
    """Evaluate a scorer on test patients or elsewhere.

    Every evaluation is recorded in the table evaluations.
    """
    from featurestore import Store, evaluate_scorer

    result = evaluate_scorer(Store(store), scorer, Store(other) if other else None)
    echo_result(result, as_json, evaluation_table)


def evaluation_table(result: dict[str, Any]) -> str:
    """Return the metrics of an evaluation, and what to know about it."""
    kind = f"stays of {result['store']}" if result["store"] else "test stays"
    lines = [
        f"{result['scorer_id']}: {result['admissions']:,} {kind}, of {result['patients']:,} "
        f"patients, of which {result['positives']:,} {result['outcome']}"
    ]
    systems = {"scorer": result["metrics"]}
    if again := result["recalibrated"]:
        systems["recalibrated"] = again["metrics"]
    lines += metrics_table(systems).splitlines()
    if again:
        lines.append(
            f"- recalibrated: log odds times {again['slope']:.2f}, and {again['intercept']:+.2f}, "
            "estimated on other patients of that store"
        )
    else:
        lines.append(
            f"- calibration intercept {interval(result['metrics']['calibration_intercept'])}"
        )
    if result["no_signal"]:
        lines.append(f"- {result['no_signal']}")
    if result["excluded"]:
        lines.append(
            f"- {result['excluded']:,} stays of patients that it was fitted on are left out, as "
            "both stores read from the same source"
        )
    if before := result["evaluated_before"]:
        others = "scorers of the task were" if len(before) > 1 else "scorer of the task was"
        lines.append(
            f"- {len(before)} other {others} evaluated on test patients before "
            f"({', '.join(before)}): the best of several looks better than it is"
        )
    return "\n".join(lines)
