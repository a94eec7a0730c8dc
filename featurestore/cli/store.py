"""The commands of the store file: info, verify, forget."""

from pathlib import Path

import click

from featurestore.cli.json_output import by_reason, echo_json, echo_result
from featurestore.cli.options import JSON, NEGATIVE_NUMBERS, STORE
from featurestore.cli.text_tables import info_table, receipt_table


@click.command("info")
@STORE
@JSON
def info_command(store: Path, as_json: bool) -> None:
    """Show what a store contains."""
    from featurestore import Store, info

    contents = info(Store(store))
    if as_json:
        for run in contents["runs"]:
            if isinstance(notes := run["counts"].get("notes"), dict):  # of a sync
                notes["excluded"] = by_reason(notes["excluded"])
        echo_json(contents)
    else:
        click.echo(info_table(contents))


@click.command("verify")
@STORE
@click.option("--accept", is_flag=True, help="Record that changes by another program were meant.")
@JSON
def verify_command(store: Path, accept: bool, as_json: bool) -> None:
    """Check the integrity of a store.

    Checks modes, seal, checksums, audit log, vectors, notes, means, coefficients and staged shards.
    Prints the last run and its hash: keep them elsewhere to prove later that no run was rewritten.
    The exit status is 1 if there are findings.
    """
    from featurestore import Store, verify

    opened = Store(store)
    findings, run, chain = verify(opened, accept), None, None
    if not findings:
        run, chain = opened.one("SELECT run_id, chain FROM runs ORDER BY run_id DESC LIMIT 1")
    if as_json:
        echo_json({"run_id": run, "chain": chain, "findings": findings})
    elif findings:
        click.echo("\n".join(f"- {finding}" for finding in findings))
    else:
        click.echo(f"no findings: run {run}, {chain}")
    if findings:
        raise click.exceptions.Exit(1)


@click.command("forget", context_settings=NEGATIVE_NUMBERS)
@STORE
@click.argument("subject_id", type=int, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write the receipt, as JSON."
)
@JSON
def forget_command(
    store: Path, subject_id: tuple[int, ...], output: Path | None, as_json: bool
) -> None:
    """Erase patients from a store.

    Deletes their rows from every table and from staging and rewrites the file, so that no bytes
    remain. Later syncs skip these patients. This cannot be undone. The receipt names no patient.
    """
    from featurestore import Store, forget

    receipt = forget(Store(store), subject_id, output)
    echo_result(receipt, as_json, receipt_table)
