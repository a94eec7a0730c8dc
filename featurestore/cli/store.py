"""The commands of the store file: info, verify, forget."""

import json
from pathlib import Path

import click

from featurestore.cli.options import JSON, NEGATIVE_NUMBERS, STORE
from featurestore.cli.text_tables import info_table, receipt_table


@click.command("info")
@STORE
@JSON
def info_command(store: Path, as_json: bool) -> None:
    """Show what a store contains."""
    from featurestore import Store, info

    contents = info(Store(store))
    click.echo(json.dumps(contents, default=str) if as_json else info_table(contents))


@click.command("verify")
@STORE
def verify_command(store: Path) -> None:
    """Check the integrity of a store.

    Checks modes, seal, checksums, audit log, vectors, notes, means, coefficients and staged shards.
    Prints the last run and its hash: keep them elsewhere to prove later that no run was rewritten.
    The exit status is 1 if there are findings.
    """
    from featurestore import Store, verify

    opened = Store(store)
    if findings := verify(opened):
        click.echo("\n".join(f"- {finding}" for finding in findings))
        raise click.exceptions.Exit(1)
    run, chain = opened.one("SELECT run_id, chain FROM runs ORDER BY run_id DESC LIMIT 1")
    click.echo(f"no findings: run {run}, {chain}")


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
    click.echo(json.dumps(receipt) if as_json else receipt_table(receipt))
