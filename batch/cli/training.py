"""The commands of scorers: train, scorers."""

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from batch.cli.embedding import say_pending_notes
from featurestore.cli.completion import complete_encoder
from featurestore.cli.json_output import echo_json
from featurestore.cli.options import CUTOFF, HORIZON, JSON, SCORER, STORE, TASK, rule_options
from featurestore.store.scorer_metrics import (
    AGGREGATES,
    Interval,
    TrainedScorer,
    format_interval,
    format_threshold,
    positives,
)

interval = partial(format_interval, to="-")  # a terminal is narrower than a page
_PADDED = ("scorer_id", "label_rule", "cutoff")


@click.command("train")
@STORE
@SCORER
@click.option(
    "--encoder",
    shell_complete=complete_encoder,
    help="An encoder_id (default: the active one).",
)
@TASK
@CUTOFF
@HORIZON
@rule_options
@click.option(
    "--baseline/--no-baseline",
    default=True,
    help="Also fit a bag-of-words baseline, on text read from the source.",
)
@click.option(
    "--aggregate",
    type=click.Choice(list(AGGREGATES)),
    help="How windows are combined (default: their mean, or what is better beyond chance).",
)
@click.option(
    "--covariates",
    multiple=True,
    metavar="NAME|FILE.sql",
    help="Numbers beside the notes: demographics, utilisation or a SELECT; may be repeated.",
)
@click.option(
    "--test/--no-test",
    default=True,
    help="Leave the test patients to the evaluate command.",
)
@click.option(
    "--test-from",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Test on stays that are predicted on that day or later.",
)
@click.option(
    "--turns",
    is_flag=True,
    help="Also test every patient once, in ten turns; for small cohorts.",
)
@JSON
def train_command(
    store: Path,
    scorer: str,
    encoder: str | None,
    task: str | None,
    cutoff: str | None,
    horizon_days: int | None,
    rule: dict[str, Any],
    baseline: bool,
    aggregate: str | None,
    covariates: tuple[str, ...],
    test: bool,
    test_from: datetime | None,
    turns: bool,
    as_json: bool,
) -> None:
    """Fit a scorer on the admission embeddings."""
    from batch.training.performance.small_cells import suppress_metrics
    from featurestore import Store, train
    from featurestore.store.vectors import find_encoder

    opened = Store(store)
    say_pending_notes(opened, find_encoder(opened, encoder))
    result = train(
        opened,
        scorer,
        encoder,
        cutoff,
        horizon_days,
        baseline,
        aggregate,
        task=task,
        rule=rule,
        covariates=covariates,
        test=test,
        test_from=test_from.date() if test_from else None,
        turns=turns,
    )
    if as_json:
        echo_json(suppress_metrics(result))
    else:
        click.echo(training_summary(result))


def training_summary(scorer: TrainedScorer) -> str:
    """Return what was fitted, its performance on test patients, and the warnings."""
    splits = ("train", "valid", "test")
    lines = [
        *([scorer["no_signal"]] if scorer["no_signal"] else []),
        f"{scorer['scorer_id']}  {AGGREGATES[scorer['aggregate']]}, C = {scorer['c']:.3g}",
        f"{'':<18}" + "".join(f"{split:>8}" for split in splits),
    ]
    for name, counts in (("admissions", scorer["admissions"]), ("positives", scorer["positives"])):
        lines.append(f"{name:<18}" + "".join(f"{counts[split]:>8,}" for split in splits))
    if has_estimates := scorer["test"]["scorer"]["auroc"] is not None:
        lines += metrics_table(scorer["test"]).splitlines()
    at_precision = scorer["at_80_precision"]
    if has_estimates and at_precision["threshold"] is not None:
        lines.append(
            f"from {format_threshold(at_precision['threshold'])} on, with a PPV of 80% out of "
            f"fold: {at_precision['alerts']:,} test stays, PPV "
            f"{interval(at_precision['precision'])}, sensitivity {interval(at_precision['recall'])}"
        )
    if (turns := scorer["turns"]) and turns["metrics"]["scorer"]["auroc"] is not None:
        lines.append(
            f"in ten turns, {turns['admissions']:,} stays of {turns['patients']:,} patients, "
            f"{turns['positives']:,} {positives(scorer['outcome'])}"
        )
        lines += metrics_table(turns["metrics"], "by turns (95%)").splitlines()
    if scorer["covariates"]:
        gains = (scorer["differences"][f"{part}_alone"] for part in ("notes", "covariates"))
        lines.append("AUROC gained by covariates: {}; by notes: {}".format(*map(interval, gains)))
        lines += [
            f"  {each['name']:<30}{each['log_odds']:>+8.3f} log odds per standard deviation"
            for each in scorer["covariates"]
        ]
    return "\n".join([*lines, *(f"- {warning}" for warning in scorer["warnings"])])


def metrics_table(systems: dict[str, dict[str, Interval]], title: str = "on test (95%)") -> str:
    """Return the main metrics of each system, with their 95% intervals."""
    metrics = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "calibration_slope": "slope"}
    lines = [f"{title:<18}" + "".join(f"{name:<23}" for name in metrics.values())]
    for name, estimates in systems.items():
        cells = (interval(estimates[metric]) for metric in metrics)
        lines.append(f"{name.replace('_', ' '):<18}" + "".join(f"{cell:<23}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


@click.command("scorers")
@STORE
@JSON
def scorers_command(store: Path, as_json: bool) -> None:
    """List the scorers."""
    from batch.scoring.scorer_registry import list_scorers
    from featurestore import Store

    scorers = list_scorers(Store(store))
    if as_json:
        echo_json(scorers)
        return
    width = {name: max((len(row[name]) for row in scorers), default=0) for name in _PADDED}
    for row in scorers:
        horizon = f"{row['horizon_days']} days" if row["horizon_days"] else ""
        click.echo(
            f"{row['scorer_id']:<{max(20, width['scorer_id'])}} "
            f"{row['label_rule']:<{max(14, width['label_rule'])}} "
            f"{row['cutoff']:<{max(14, width['cutoff'])}} {horizon:<8}  "
            f"AUROC {interval(row['test_auroc']):<21}  {row['aggregate']:<13}{row['encoder_id']}"
            f"{'  no signal' if row['no_signal'] else ''}"
        )
