"""The commands of scorers: train, scorers, report."""

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click

from batch.training.metrics import in_words
from featurestore.cli.group import CUTOFF, HORIZON, JSON, STORE, main

SCORER = click.argument("scorer")
interval = partial(in_words, to="-")  # a terminal is narrower than a page


@main.command("train")
@STORE
@SCORER
@click.option("--encoder", help="An encoder_id (default: the active one).")
@CUTOFF
@HORIZON
@click.option(
    "--baseline/--no-baseline", default=True, help="Fit bag-of-words beside it, from the source."
)
@click.option(
    "--aggregate",
    type=click.Choice(["mean", "clinicalbert"]),
    help="Of the windows: their mean, or ClinicalBERT's rule (default: the better one).",
)
@JSON
def train_command(
    store: Path,
    scorer: str,
    encoder: str | None,
    cutoff: str,
    horizon_days: int,
    baseline: bool,
    aggregate: str | None,
    as_json: bool,
) -> None:
    """Fit a scorer on the admission embeddings."""
    from featurestore import Store, train

    facts = train(Store(store), scorer, encoder, cutoff, horizon_days, baseline, aggregate)
    click.echo(json.dumps(facts) if as_json else training_summary(facts))


def training_summary(facts: dict[str, Any]) -> str:
    """What was fitted, and how good it is on the test patients."""
    of = {"mean": "the mean of the windows", "clinicalbert": "windows by ClinicalBERT's rule"}
    lines = [
        f"{facts['scorer_id']}  {of[facts['aggregate']]}, C = {facts['c']:.3g}, "
        f"fitted on {facts['fitted_on']}",
        f"{'':<18}{'train':>8}{'valid':>8}{'test':>8}",
    ]
    for what in ("admissions", "positives"):
        counts = facts[what]
        lines.append(
            f"{what:<18}" + "".join(f"{counts[s]:>8,}" for s in ("train", "valid", "test"))
        )
    lines += metrics_table(facts["test"]).splitlines()
    return "\n".join([*lines, *(f"- {warning}" for warning in facts["warnings"])])


def metrics_table(systems: dict[str, Any]) -> str:
    """The main metrics of each system on test patients, with their 95% intervals."""
    metrics = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "calibration_slope": "slope"}
    lines = [f"{'on test (95%)':<18}" + "".join(f"{name:<23}" for name in metrics.values())]
    for name, measured in systems.items():
        cells = (interval(measured[metric]) for metric in metrics)
        lines.append(f"{name.replace('_', ' '):<18}" + "".join(f"{cell:<23}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


@main.command("scorers")
@STORE
@JSON
def scorers_command(store: Path, as_json: bool) -> None:
    """List the scorers."""
    from batch.scoring.scorers import list_scorers
    from featurestore import Store

    found = list_scorers(Store(store))
    if as_json:
        click.echo(json.dumps(found, default=str))
        return
    for row in found:
        click.echo(
            f"{row['scorer_id']:<20}{row['cutoff']:<10}{row['horizon_days']:>3} days  "
            f"AUROC {interval(row['test_auroc']):<21}  {row['aggregate']:<13}{row['encoder_id']}"
        )


@main.command("report")
@STORE
@SCORER
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="An .html file."
)
@JSON
def report_command(store: Path, scorer: str, output: Path, as_json: bool) -> None:
    """Write a scorer's report, one HTML file."""
    from batch.report.data import report
    from featurestore import Store

    # Else matplotlib would leave its list of fonts at home.
    with tempfile.TemporaryDirectory() as own:
        os.environ["MPLCONFIGDIR"] = own
        facts = report(Store(store), scorer, output)
    click.echo(
        json.dumps(facts, default=str)
        if as_json
        else f"{facts['figures']} figures of {facts['scorer_id']} in {output}"
    )
