"""The commands of the source: synth, init, source, sync."""

from datetime import datetime
from pathlib import Path

import click
from click.core import ParameterSource

from featurestore.cli.completion import complete_schema
from featurestore.cli.json_output import by_reason, echo_json
from featurestore.cli.options import JSON, SINCE, STORE
from featurestore.cli.progress import progress, say
from featurestore.cli.text_tables import sync_table

_PASSWORD_IS_VISIBLE = (
    "every user of this machine can read a password on the command line - set FEATURESTORE_SOURCE "
    "to the complete URL"
)


@click.command("synth")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--patients", default=400, show_default=True)
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same files.")
@click.option("--schema", type=click.Choice(["mimic3", "mimic4"]), default="mimic3")
def synth_command(folder: Path, patients: int, seed: int, schema: str) -> None:
    """Write a synthetic hospital as MIMIC CSV files."""
    from featurestore import write_hospital
    from featurestore.synthetic.mimic4 import write_mimic4_hospital

    write = write_hospital if schema == "mimic3" else write_mimic4_hospital
    try:
        with progress("patients") as advance:
            counts = write(folder, patients, seed, progress=lambda n: advance(n, patients))
    except (ValueError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(", ".join(f"{count:,} {name}" for name, count in counts.items()) + f" in {folder}")


@click.command("init")
@STORE
@click.option(
    "--source",
    required=True,
    envvar="FEATURESTORE_SOURCE",
    help="A folder, a DuckDB or SQLite file, or a SQLAlchemy URL. Pass a URL with a password in "
    "the environment variable FEATURESTORE_SOURCE.",
)
@click.option(
    "--schema",
    required=True,
    shell_complete=complete_schema,
    help="mimic3, mimic4, omop, omop53, fhir, or a folder with two SELECTs.",
)
@click.option("--live", is_flag=True, help="A running hospital, not a research extract.")
@click.option("--group", help="Let this group of users read the store.")
@click.option(
    "--encrypt",
    is_flag=True,
    help="Encrypt the store with the key in FEATURESTORE_KEY or in the file FEATURESTORE_KEY_FILE.",
)
def init_command(
    store: Path, source: str, schema: str, live: bool, group: str | None, encrypt: bool
) -> None:
    """Create an empty store that reads from a hospital."""
    from featurestore import create_store
    from featurestore.source.urls import has_password

    origin = click.get_current_context().get_parameter_source("source")
    if origin is ParameterSource.COMMANDLINE and "://" in source and has_password(source):
        raise click.ClickException(f"{_PASSWORD_IS_VISIBLE} and omit --source")
    create_store(store, source, schema, live, group, encrypt)
    click.echo(f'{store} is ready - next: "featurestore sync {store}"')


@click.command("source")
@STORE
@click.argument("new", required=False)
@click.option(
    "--force", is_flag=True, help="Proceed even if more than half of the stored rows are not there."
)
def source_command(store: Path, new: str | None, force: bool) -> None:
    """Show or change where a store reads from.

    NEW is a location of the same schema. A URL with a password is set in FEATURESTORE_SOURCE, and
    given here without it.
    """
    from featurestore import Store, change_source
    from featurestore.source.urls import has_password

    opened = Store(store)
    if new is None:
        location, schema = opened.one("SELECT source, schema_name FROM settings")
        click.echo(f"{location} (schema {schema})")
        return
    if "://" in new and has_password(new):
        raise click.ClickException(f"{_PASSWORD_IS_VISIBLE}, and give it here without it")
    click.echo(sync_table(change_source(opened, new, force)))
    say(f'{store} reads from there now - "featurestore sync {store}" brings these changes')


@click.command("sync")
@STORE
@click.option(
    "--force",
    is_flag=True,
    help="Proceed even if more than half of the stored rows have disappeared from the source.",
)
@SINCE
@JSON
def sync_command(store: Path, force: bool, since: datetime | None, as_json: bool) -> None:
    """Update admissions and the index of notes."""
    from featurestore import Store, sync

    counts = sync(Store(store), force, since.date() if since else None)
    if as_json:
        notes = counts["notes"]
        echo_json(counts | {"notes": notes | {"excluded": by_reason(notes["excluded"])}})
        return
    click.echo(sync_table(counts))
    if place := counts["notes"].get("not_utf8"):
        say(f"{place} is not UTF-8: its invalid bytes were read as replacement characters")
