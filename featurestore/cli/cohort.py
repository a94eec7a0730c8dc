"""The commands of the cohort: labels, audit."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from featurestore.cli.completion import complete_scorer
from featurestore.cli.json_output import by_reason, echo_json, echo_result
from featurestore.cli.options import CUTOFF, HORIZON, JSON, STORE, rule_options
from featurestore.cli.progress import say
from featurestore.cli.text_tables import findings_table, flow_table, rules_table


@click.command("labels")
@STORE
@HORIZON
@click.option(
    "--task",
    "--rule",
    help='What the label is; "featurestore task list" lists them.  [default: readmission]',
)
@rule_options
@click.option("--compare", is_flag=True, help="Show where readmission and clinicalbert disagree.")
@click.option(
    "--meds",
    type=click.Path(path_type=Path),
    help="Write the labels of the admissions predicted at --cutoff as MEDS labels (.parquet).",
)
@CUTOFF
@JSON
def labels_command(
    store: Path,
    horizon_days: int | None,
    task: str | None,
    rule: dict[str, Any],
    compare: bool,
    meds: Path | None,
    cutoff: str | None,
    as_json: bool,
) -> None:
    """Count the labels, and why admissions have none."""
    from featurestore import Store
    from featurestore.cohort.caveats import caveats
    from featurestore.cohort.flow import admission_flow, compare_rules
    from featurestore.cohort.meds_labels import write_meds
    from featurestore.cohort.tasks import find_task

    opened = Store(store)
    question = find_task(opened, task, horizon_days, rule)
    if meds:
        count = write_meds(opened, meds, question, cutoff)
        when = question.cutoff(opened, cutoff)
        click.echo(f"{count:,} labels of admissions predicted at {when} in {meds}")
    elif compare:
        differences = compare_rules(opened, horizon_days or 30)
        echo_result(differences, as_json, rules_table)
    else:
        counts = admission_flow(opened, question, cutoff)
        limits = caveats(opened, question.name)
        if as_json:
            echo_json(_as_rows(counts) | {"caveats": _messages(limits)})
        else:
            click.echo("\n".join([flow_table(counts), *(f"- {text}" for text in limits.values())]))
        for warning in counts["warnings"]:
            say(f"warning: {warning}")


def _as_rows(flow: dict[str, Any]) -> dict[str, Any]:
    """Return a flow of admissions with its reasons as rows."""
    predicted = flow["predicted"]
    return flow | {
        "excluded": by_reason(flow["excluded"]),
        "predicted": predicted | {"not_judged": by_reason(predicted["not_judged"])},
    }


def _messages(by_code: dict[str, str]) -> list[dict[str, str]]:
    return [{"code": code, "message": message} for code, message in by_code.items()]


@click.command("audit")
@STORE
@click.argument("scorer", required=False, shell_complete=complete_scorer)
@click.option(
    "--accept", metavar="CODE", help="Record that the findings of this code are accepted."
)
@click.option("--task", help="Only scorers that were trained on this task.")
@JSON
def audit_command(
    store: Path, scorer: str | None, accept: str | None, task: str | None, as_json: bool
) -> None:
    """Check for leakage and immature labels.

    SCORER: check, or accept a finding of, only this scorer (default: all). The exit status is 1 if
    there is an error that is not accepted.
    """
    from featurestore import Store, accept_finding, audit

    opened = Store(store)
    if accept is not None:
        accept_finding(opened, accept, scorer)
    findings = audit(opened, scorer, task)
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        click.echo(findings_table(findings) or "no findings")
    if any(finding.severity == "error" and not finding.accepted for finding in findings):
        raise click.exceptions.Exit(1)
