"""The command that queries a store: sql."""

from pathlib import Path

import click

from featurestore.cli.options import STORE
from featurestore.cli.progress import say


@click.command("sql")
@STORE
@click.argument("query", required=False)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "tsv", "json", "jsonl", "parquet", "arrow"]),
    help="Output format (default: that of the output file, else table).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this file, private to you: .csv, .tsv, .json, .jsonl, .parquet, .arrow or .txt.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    help="Maximum number of rows, 0 for all (default: 10,000, or all with --output).",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after which the query is cancelled.",
)
@click.option("--schema", is_flag=True, help="Describe the tables, views and macros of the store.")
def sql_command(
    store: Path,
    query: str | None,
    kind: str | None,
    output: Path | None,
    limit: int | None,
    timeout: float,
    schema: bool,
) -> None:
    """Query the store in SQL, read-only.

    A query cannot read files, settings or anything else outside the store.
    """
    from featurestore import Store
    from featurestore.query.catalog import write_catalog
    from featurestore.query.execution import MAX_ROWS, run_query
    from featurestore.query.output import open_output

    if schema == (query is not None):
        raise click.UsageError("Give a QUERY, or --schema.")
    if kind in ("parquet", "arrow") and output is None:
        raise click.UsageError(f"--format {kind} needs a file: name it with -o FILE.{kind}.")
    opened = Store(store)
    if limit is None:
        limit = 0 if output else MAX_ROWS
    with open_output(opened, output, kind) as (stream, kind):
        if query is None:
            write_catalog(opened, stream, kind)
        elif run_query(opened, query, stream, kind, limit, timeout):
            say(f"only the first {limit:,} rows are shown - --limit 0 shows all")
    if output:
        say(f"{output} is written")
