"""The command group, and the commands of the store: init, sync, labels, sql, info, synth."""

import contextlib
import csv
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from featurestore import __version__
from featurestore.errors import FeatureStoreError, StoreBusyError

# Where each command lives, and what it is for: read without importing what the command needs.
COMMANDS = {
    "demo": ("batch.cli", "Run the whole way on a synthetic hospital."),
    "synth": ("featurestore.cli", "Write a synthetic hospital as MIMIC-III CSVs."),
    "init": ("featurestore.cli", "Make an empty store that reads from a hospital."),
    "sync": ("featurestore.cli", "Bring admissions and the index of notes up to date."),
    "labels": ("featurestore.cli", "Show who is labelled, and why the others are not."),
    "finetune": ("export.cli", "Fine-tune a BERT on the store's labelled notes."),
    "export": ("export.cli", "Export a checkpoint to ONNX for [CLS] extraction."),
    "embed": ("batch.cli", "Embed every note that is new or changed."),
    "promote": ("batch.cli", "Make an encoder the active one."),
    "train": ("batch.cli", "Fit a scorer on the admission embeddings."),
    "scorers": ("batch.cli", "List the scorers."),
    "score": ("batch.cli", "Score every admission in SQL."),
    "sql": ("featurestore.cli", "Ask the store in SQL, read-only."),
    "info": ("featurestore.cli", "Show what a store holds."),
}
STORE = click.argument("store", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class Failure(click.ClickException):
    """A sentence on stderr and exit status 1."""


class Busy(Failure):
    """Another job runs: exit status 75, which a scheduler takes for "try again later"."""

    exit_code = 75


class Commands(click.Group):
    """Finds each command by name when it is called, and turns errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(COMMANDS[name][0])
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StoreBusyError as error:
            raise Busy(str(error)) from None
        except FeatureStoreError as error:
            raise Failure(str(error)) from None
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise Failure(f"{where}{error.strerror} - see to it, then run this again") from None
        except Exception as error:
            # Its message may quote a value, and a value may be a patient's: only the place is told.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            raise Failure(f"{type(error).__name__} in {place} - please report this") from None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featurestore")
def main() -> None:
    """A feature store for clinical-note embeddings, in one DuckDB file.

    The usual way: init, sync, finetune, export, embed, train, score. "featurestore demo" shows it.
    """
    os.umask(0o077)  # Whatever a library writes is private too.


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; the block is given a function to tell done and to do."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(f"{what:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(message: str) -> None:
    """A message for a person, on stderr."""
    click.echo(message, err=True)


@main.command("synth")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--patients", default=400, show_default=True)
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same bytes.")
def synth_command(folder: Path, patients: int, seed: int) -> None:
    """Write a synthetic hospital as MIMIC-III CSVs."""
    from featurestore import write_hospital

    try:
        with progress("patients") as done:
            counts = write_hospital(folder, patients, seed, progress=lambda n: done(n, patients))
    except (ValueError, FileExistsError) as error:
        raise Failure(str(error)) from None
    click.echo(", ".join(f"{count:,} {what}" for what, count in counts.items()) + f" in {folder}")


@main.command("init")
@STORE
@click.option("--source", required=True, help="The folder that holds the hospital's tables.")
@click.option("--schema", required=True, help="mimic3, or a folder with two SELECTs.")
@click.option("--live", is_flag=True, help="A running hospital, not a research extract.")
@click.option("--group", help="Let this group of users read the store.")
def init_command(store: Path, source: str, schema: str, live: bool, group: str | None) -> None:
    """Make an empty store that reads from a hospital."""
    from featurestore import Store

    Store.create(store, source, schema, live, group)
    click.echo(f'{store} is ready - next: "featurestore sync {store}"')


@main.command("sync")
@STORE
@JSON
def sync_command(store: Path, as_json: bool) -> None:
    """Bring admissions and the index of notes up to date."""
    from featurestore import Store, sync

    counts = sync(Store(store))
    if as_json:
        click.echo(json.dumps(counts))
        return
    for table, of_table in counts.items():
        changes = ", ".join(
            f"{of_table[what]:,} {what}" for what in ("new", "changed", "withdrawn")
        )
        click.echo(f"{table:<11}{of_table['total']:>9,}   {changes}")
    excluded = counts["notes"]["excluded"]
    click.echo(f"  ready    {counts['notes']['total'] - sum(excluded.values()):>9,}")
    for reason, count in excluded.items():
        click.echo(f"  excluded {count:>9,}   {reason}")


@main.command("labels")
@STORE
@click.option("--horizon-days", default=30, show_default=True)
@JSON
def labels_command(store: Path, horizon_days: int, as_json: bool) -> None:
    """Show who is labelled, and why the others are not."""
    from featurestore import Store

    rows = (
        Store(store)
        .sql(
            r"""
            SELECT
                CASE label WHEN TRUE THEN 'returned' WHEN FALSE THEN 'did not return'
                    ELSE regexp_replace(reason, '\d+', 'the next stay') END AS outcome,
                count(*) AS admissions
            FROM readmission_labels(horizon_days := $horizon)
            GROUP BY label IS NULL, outcome ORDER BY label IS NULL, admissions DESC, outcome
            """,
            horizon=horizon_days,
        )
        .fetchall()
    )
    if as_json:
        click.echo(json.dumps(dict(rows)))
        return
    total = sum(count for _, count in rows)
    click.echo(f"{'admissions':<32}{total:>9,}")
    for outcome, count in rows:
        click.echo(f"  {outcome:<30}{count:>9,}  {count / total:6.1%}")


@main.command("sql")
@STORE
@click.argument("query")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
)
def sql_command(store: Path, query: str, kind: str) -> None:
    """Ask the store in SQL, read-only.

    Tables: admissions, notes, encoders, embeddings, admission_embeddings, scorers, scorer_rows,
    scores, runs. Macros: readmission_labels(), prediction_times(), known_notes(), training_set(),
    similar_admissions(). View: latest_scores. Nothing but the store is within reach.
    """
    import duckdb

    from featurestore import Store

    try:
        answer = Store(store).sql(query)
        if answer is None:
            return
        if kind == "table":
            click.echo(str(answer).rstrip("\n"))
            return
        columns, rows = answer.columns, answer.fetchall()
    except duckdb.Error as error:
        raise Failure(f"{str(error).strip()}") from None
    if kind == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))


@main.command("info")
@STORE
@JSON
def info_command(store: Path, as_json: bool) -> None:
    """Show what a store holds."""
    from featurestore import Store

    facts = Store(store).facts()
    if as_json:
        click.echo(json.dumps(facts, default=str))
        return
    for what, fact in facts.items():
        if not isinstance(fact, list):
            click.echo(f"{what:<12}{fact}")
            continue
        click.echo(f"{what}{'' if fact else ': none yet'}")
        for row in fact:
            told = [f"{name} {value}" for name, value in row.items() if name != "counts"]
            click.echo("  " + "  ".join(told))
