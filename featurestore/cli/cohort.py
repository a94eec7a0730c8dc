"""The commands of the cohort: labels, audit."""

import json
from pathlib import Path

import click

from featurestore.cli.options import CUTOFF, HORIZON, JSON, STORE
from featurestore.cli.text_tables import flow_table, rules_table


@click.command("labels")
@STORE
@HORIZON
@click.option(
    "--rule",
    type=click.Choice(["readmission", "clinicalbert"]),
    default="readmission",
    show_default=True,
)
@click.option("--compare", is_flag=True, help="Show where the two rules disagree.")
@click.option(
    "--meds",
    type=click.Path(path_type=Path),
    help="Write the labels of the admissions predicted at --cutoff as MEDS labels (.parquet).",
)
@CUTOFF
@JSON
def labels_command(
    store: Path,
    horizon_days: int,
    rule: str,
    compare: bool,
    meds: Path | None,
    cutoff: str,
    as_json: bool,
) -> None:
    """Count the labels, and why admissions have none."""
    from featurestore import Store
    from featurestore.cohort.flow import admission_flow, compare_rules
    from featurestore.cohort.meds_labels import write_meds

    opened = Store(store)
    if meds:
        count = write_meds(opened, meds, cutoff, horizon_days, rule)
        click.echo(f"{count:,} labels of admissions predicted at {cutoff} in {meds}")
    elif compare:
        differences = compare_rules(opened, horizon_days)
        click.echo(json.dumps(differences) if as_json else rules_table(differences))
    else:
        counts = admission_flow(opened, horizon_days, rule)
        click.echo(json.dumps(counts) if as_json else flow_table(counts))


@click.command("audit")
@STORE
@click.argument("scorer", required=False)
@JSON
def audit_command(store: Path, scorer: str | None, as_json: bool) -> None:
    """Check for leakage and immature labels.

    SCORER: check only this scorer (default: all). The exit status is 1 if there are findings.
    """
    from featurestore import Store, audit

    findings = audit(Store(store), scorer)
    if as_json:
        click.echo(json.dumps(findings))
    else:
        click.echo("\n".join(f"- {finding}" for finding in findings) or "no findings")
    if findings:
        raise click.exceptions.Exit(1)
