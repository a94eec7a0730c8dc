"""The command group, and the commands of the store: init, sync, labels, forget, sql, info."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from signal import SIGINT, SIGTERM, signal
from typing import Any

import click
from click.core import ParameterSource

from featurestore import __version__
from featurestore.cli.redaction import hide_values, sentence, trace
from featurestore.errors import StoreBusyError

# Where each command lives, and what it is for: read without importing what the command needs.
COMMANDS = {
    "demo": ("batch.cli.demo", "Run the pipeline end to end on a synthetic hospital."),
    "synth": ("featurestore.cli.group", "Write a synthetic hospital, as MIMIC is downloaded."),
    "init": ("featurestore.cli.group", "Make an empty store that reads from a hospital."),
    "sync": ("featurestore.cli.group", "Bring admissions and the index of notes up to date."),
    "labels": ("featurestore.cli.group", "Show who is labelled, and why the others are not."),
    "audit": ("featurestore.cli.group", "Look for leaks and immature labels."),
    "finetune": ("export.cli", "Fine-tune a BERT on the store's labelled notes."),
    "export": ("export.cli", "Export a checkpoint to ONNX for [CLS] extraction."),
    "embed": ("batch.cli.embedding", "Embed every note that is new or changed."),
    "nightly": ("batch.cli.nightly_job", "Sync, embed, score and check for drift, in one commit."),
    "promote": ("batch.cli.embedding", "Make an encoder the active one."),
    "drop-encoder": ("batch.cli.embedding", "Remove an encoder and its vectors."),
    "train": ("batch.cli.training", "Fit a scorer on the admission embeddings."),
    "scorers": ("batch.cli.training", "List the scorers."),
    "score": ("batch.cli.scoring", "Score every admission in SQL."),
    "replay": ("batch.cli.scoring", "Compute the scores of a past run again."),
    "outcomes": ("batch.cli.scoring", "Compare recorded scores with what happened."),
    "report": ("batch.cli.report", "Write a scorer's report, one HTML file."),
    "similar": ("batch.cli.scoring", "Find the most similar admissions of other patients."),
    "explain": ("batch.cli.scoring", "Show how much each note and window contributed to a score."),
    "sql": ("featurestore.cli.group", "Ask the store in SQL, read-only."),
    "forget": ("featurestore.cli.group", "Take patients out of a store, to the last byte."),
    "info": ("featurestore.cli.group", "Show what a store holds."),
    "verify": (
        "featurestore.cli.group",
        "Check that a store is whole, and what the last job left.",
    ),
}
_LINE_EVERY = 60.0  # seconds
STORE = click.argument("store", type=click.Path(path_type=Path))
HORIZON = click.option(
    "--horizon-days", type=click.IntRange(1, 3650), default=30, show_default=True
)
CUTOFF = click.option(
    "--cutoff",
    type=click.Choice(["24h", "48h", "72h", "discharge"]),
    default="72h",
    show_default=True,
    help="How much of the stay a prediction may see.",
)
SINCE = click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Look only at notes of that day and later; withdrawn ones wait for a whole sync.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class Failure(click.ClickException):
    """A sentence on stderr and exit status 1."""


class Busy(Failure):
    """Another job runs: exit status 75, which a scheduler takes for "try again later"."""

    exit_code = 75


class Interrupted(Failure):
    """Ctrl-C: exit status 130, as a shell has it."""

    exit_code = 130


class Terminated(Failure):
    """SIGTERM: exit status 143."""

    exit_code = 143


class Commands(click.Group):
    """Finds each command by name when it is called, and turns errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(COMMANDS[name][0])
        command: click.Command = getattr(module, f"{name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        arguments, debug = list(ctx.args), ctx.params["debug"]
        hide_values(debug)
        with _stoppable() as stopped:
            try:
                return super().invoke(ctx)
            except (click.UsageError, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise
            except BaseException as error:  # a Rust library's panic is no Exception
                if debug:
                    say(trace(error))
                if stopped:  # DuckDB makes a RuntimeError of it
                    how = Terminated if stopped == [SIGTERM] else Interrupted
                    raise how(sentence(KeyboardInterrupt())) from None
                raise _failure(error, arguments, debug) from None


def _failure(error: BaseException, arguments: list[str], debug: bool) -> click.ClickException:
    """The one line that an error comes to, with its exit status."""
    if isinstance(error, click.ClickException):
        return error
    said = sentence(error, arguments)
    if isinstance(error, StoreBusyError):
        return Busy(said)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(said)
    if said.endswith("please report this") and not debug:
        said += ' ("featurestore --debug" shows where)'
    return Failure(said)


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Let SIGTERM end the block as Ctrl-C does, so that what is half done is cleared away.

    The list is given the signal that came.
    """
    stopped: list[int] = []

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal(number, stop) for number in (SIGINT, SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal(number, handler)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featurestore")
@click.option("--debug", is_flag=True, help="Where a command fails, show where; never a value.")
def main(debug: bool) -> None:
    """A feature store for clinical-note embeddings, in one DuckDB file.

    The usual way: init, sync, finetune, export, embed, train, score. "featurestore demo" shows it.
    """
    os.umask(0o077)  # Whatever a library writes is private too.


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, or a line a minute where that is no terminal.

    The block is given a function to tell done and to do, and perhaps how fast it goes.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn(f"{what:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task(what, total=None, pace="")
    begun = said = time.monotonic()

    def advance(done: int, total: int, pace: object = "") -> None:
        nonlocal said
        bar.start()  # not before there is something to show
        bar.update(task, completed=done, total=total, pace=str(pace))
        now = time.monotonic()
        if not console.is_terminal and now - said >= _LINE_EVERY:
            said = now
            left = (now - begun) * (total - done) / done / 60 if done else 0.0
            say(f"{what}: {done:,} of {total:,}, {left:,.0f} min left {pace}".rstrip())

    try:
        yield advance
    finally:
        bar.stop()


def say(message: str) -> None:
    """A message for a person, on stderr."""
    click.echo(message, err=True)


@main.command("synth")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--patients", default=400, show_default=True)
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same bytes.")
@click.option("--schema", type=click.Choice(["mimic3", "mimic4"]), default="mimic3")
def synth_command(folder: Path, patients: int, seed: int, schema: str) -> None:
    """Write a synthetic hospital, as MIMIC is downloaded."""
    from featurestore import write_hospital
    from featurestore.synthetic.mimic4 import write_mimic4_hospital

    write = write_hospital if schema == "mimic3" else write_mimic4_hospital
    try:
        with progress("patients") as done:
            counts = write(folder, patients, seed, progress=lambda n: done(n, patients))
    except (ValueError, FileExistsError) as error:
        raise Failure(str(error)) from None
    click.echo(", ".join(f"{count:,} {what}" for what, count in counts.items()) + f" in {folder}")


@main.command("init")
@STORE
@click.option(
    "--source",
    required=True,
    envvar="FEATURESTORE_SOURCE",
    help="A folder, a DuckDB file or a SQLAlchemy URL; with a password from FEATURESTORE_SOURCE.",
)
@click.option("--schema", required=True, help="mimic3, mimic4, or a folder with two SELECTs.")
@click.option("--live", is_flag=True, help="A running hospital, not a research extract.")
@click.option("--group", help="Let this group of users read the store.")
@click.option(
    "--encrypt",
    is_flag=True,
    help="Encrypt it, with the key in FEATURESTORE_KEY or in the file FEATURESTORE_KEY_FILE.",
)
def init_command(
    store: Path, source: str, schema: str, live: bool, group: str | None, encrypt: bool
) -> None:
    """Make an empty store that reads from a hospital."""
    from featurestore.source.engines import without_password
    from featurestore.source.source import create_store

    given = click.get_current_context().get_parameter_source("source")
    if (
        given is ParameterSource.COMMANDLINE
        and "://" in source
        and source != without_password(source)
    ):
        raise Failure(
            "a password on the command line can be read by everybody on this machine - put the "
            "URL into the environment as FEATURESTORE_SOURCE and leave --source out"
        )
    create_store(store, source, schema, live, group, encrypt)
    click.echo(f'{store} is ready - next: "featurestore sync {store}"')


@main.command("sync")
@STORE
@click.option("--force", is_flag=True, help="Though more than half of what was there is gone.")
@SINCE
@JSON
def sync_command(store: Path, force: bool, since: datetime | None, as_json: bool) -> None:
    """Bring admissions and the index of notes up to date."""
    from featurestore import Store, sync

    counts = sync(Store(store), force, since.date() if since else None)
    if as_json:
        click.echo(json.dumps(counts))
        return
    for table, of_table in counts.items():
        changes = ", ".join(
            f"{of_table[what]:,} {what}"
            for what in ("new", "changed", "withdrawn", "forgotten")
            if what in of_table
        )
        click.echo(f"{table:<11}{of_table['total']:>9,}   {changes}")
    if place := counts["notes"].get("not_utf8"):
        say(f"{place} is not UTF-8: its invalid bytes were read as replacement characters")
    excluded = counts["notes"]["excluded"]
    click.echo(f"  ready    {counts['notes']['total'] - sum(excluded.values()):>9,}")
    for reason, count in excluded.items():
        click.echo(f"  excluded {count:>9,}   {reason}")


@main.command("labels")
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
    help="Write the labels of the stays predicted at --cutoff as MEDS labels (.parquet).",
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
    """Show who is labelled, and why the others are not."""
    from featurestore import Store
    from featurestore.cohort.flow import admission_flow, compare_rules
    from featurestore.cohort.meds_labels import write_meds

    opened = Store(store)
    if meds:
        count = write_meds(opened, meds, cutoff, horizon_days, rule)
        click.echo(f"{count:,} labels of stays predicted at {cutoff} in {meds}")
        return
    if compare:
        differences = compare_rules(opened, horizon_days)
        click.echo(json.dumps(differences) if as_json else compare_table(differences))
    else:
        counts = admission_flow(opened, horizon_days, rule)
        click.echo(json.dumps(counts) if as_json else flow_table(counts))


def flow_table(counts: dict[str, Any]) -> str:
    """The flow of admissions, with percentages of the line that each belongs to."""

    def line(what: str, count: int, of: int) -> str:
        return f"{what:<44}{count:>9,}" + (f"{count / of:>8.1%}" if of else "")

    everyone, labelled = counts["admissions"], counts["labelled"]
    lines = [line("admissions", everyone, 0)]
    lines.append(line("  left out", everyone - labelled, everyone))
    lines += [line(f"    {why}", n, everyone) for why, n in counts["excluded"].items()]
    lines.append(line("  labelled", labelled, everyone))
    lines.append(
        line(f"    returned within {counts['horizon_days']} days", counts["returned"], labelled)
    )
    lines.append(line("    did not return", counts["not_returned"], labelled))
    if counts["planned_returns"]:
        lines.append(line("      planned return", counts["planned_returns"], labelled))
    if counts["died_within_horizon"]:
        lines.append(line("      died after discharge", counts["died_within_horizon"], labelled))
    return "\n".join(lines)


def compare_table(differences: list[dict[str, Any]]) -> str:
    """Where the two rules disagree, a line each."""
    heading = f"{'readmission says':<36}{'clinicalbert says':<20}{'admissions':>12}"
    return "\n".join(
        [
            heading,
            *(
                f"{row['readmission']:<36}{row['clinicalbert']:<20}{row['admissions']:>12,}"
                for row in differences
            ),
        ]
    )


@main.command("audit")
@STORE
@click.argument("scorer", required=False)
@JSON
def audit_command(store: Path, scorer: str | None, as_json: bool) -> None:
    """Look for leaks and immature labels.

    Exit status 1 where something was found. SCORER: one scorer only (default: all).
    """
    from featurestore import Store
    from featurestore.cohort.leakage import audit

    found = audit(Store(store), scorer)
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo("\n".join(f"- {finding}" for finding in found) or "nothing found")
    if found:
        raise click.exceptions.Exit(1)


@main.command("sql")
@STORE
@click.argument("query", required=False)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="How the answer is written (default: as the file of -o ends, else a table).",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Into this private file.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help="At most so many rows; 0 for all (default: 10,000, and all into a file).",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds that the query may take.",
)
@click.option("--schema", is_flag=True, help="Show what there is to ask.")
def sql_command(
    store: Path,
    query: str | None,
    kind: str | None,
    output: Path | None,
    limit: int | None,
    timeout: float,
    schema: bool,
) -> None:
    """Ask the store in SQL, read-only.

    Nothing but the store is within reach. "--schema" shows its tables, views and macros.
    """
    from featurestore import Store
    from featurestore.query.catalog import write_catalog
    from featurestore.query.execution import SHOWN, ask
    from featurestore.query.output import target

    if schema == (query is not None):
        raise click.UsageError("Give a QUERY, or --schema.")
    if kind == "parquet" and output is None:
        raise click.UsageError("Parquet goes into a file: name it with -o FILE.")
    opened = Store(store)
    limit = limit if limit is not None else 0 if output else SHOWN
    with target(opened, output, kind) as (stream, kind):
        if query is None:
            write_catalog(opened, stream, kind)
        elif ask(opened, query, stream, kind, limit, timeout):
            say(f"{limit:,} rows are shown, there are more - --limit 0 shows all")


@main.command("info")
@STORE
@JSON
def info_command(store: Path, as_json: bool) -> None:
    """Show what a store holds."""
    from featurestore import Store, info

    facts = info(Store(store))
    if as_json:
        click.echo(json.dumps(facts, default=str))
        return
    for what, fact in facts.items():
        if not isinstance(fact, list):
            click.echo(f"{what:<12}{fact}")
            continue
        click.echo(f"{what}{'' if fact else ': none yet'}")
        for row in fact:
            counts = json.loads(row.pop("counts", "{}"))
            row |= {name: n for name, n in counts.items() if isinstance(n, int | str) and n != 0}
            click.echo("  " + "  ".join(f"{name} {value}" for name, value in row.items()))


@main.command("forget")
@STORE
@click.argument("subject_id", type=int, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write the receipt, as JSON."
)
@JSON
def forget_command(
    store: Path, subject_id: tuple[int, ...], output: Path | None, as_json: bool
) -> None:
    """Take patients out of a store, to the last byte.

    They go from every table and from staging, the file is written anew, and no sync brings them
    back. There is no way to undo it. The receipt names no patient.
    """
    from featurestore import Store
    from featurestore.store.forget import forget

    receipt = forget(Store(store), subject_id, output)
    click.echo(json.dumps(receipt) if as_json else receipt_lines(receipt))


def receipt_lines(receipt: dict[str, Any]) -> str:
    """What a receipt of forget says, for a person."""
    plural = "s" if receipt["patients"] > 1 else ""
    lines = [f"{receipt['patients']} patient{plural} forgotten: run {receipt['run_id']}"]
    went = receipt["rows"] | {"staged shards": receipt["shards"]}
    lines += [f"  {table:<22}{rows:>9,}" for table, rows in went.items() if rows]
    for scorer in receipt["scorers"]:
        splits = ", ".join(f"{scorer[s]:,} {s}" for s in ("train", "valid", "test") if scorer[s])
        fitted = scorer["train"] or scorer["valid"]
        verb, advice = ("fitted", " - train it again") if fitted else ("tested", "")
        lines.append(f"{scorer['scorer_id']} was {verb} on them ({splits}){advice}")
    lines.append("not reached:")
    lines += [f"- {place}" for place in receipt["not_reached"]]
    return "\n".join(lines)


@main.command("verify")
@STORE
def verify_command(store: Path) -> None:
    """Check that a store is whole, and what the last job left.

    Modes, seal, manifest, audit trail, vectors, notes, means, coefficients, staged shards. Prints
    the last run and its link: who keeps them elsewhere can tell later that nothing was rewritten.
    Exit status 1 where something was found.
    """
    from featurestore import Store, verify

    opened = Store(store)
    if found := verify(opened):
        click.echo("\n".join(f"- {finding}" for finding in found))
        raise click.exceptions.Exit(1)
    run, link = opened.one("SELECT run_id, chain FROM runs ORDER BY run_id DESC LIMIT 1")
    click.echo(f"as it was written: run {run}, {link}")
