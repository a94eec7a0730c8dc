"""The command group: finds each command by name, and turns each error into one line."""

import contextlib
import os
import threading
from collections.abc import Iterator
from importlib import import_module
from signal import SIGINT, SIGTERM, signal
from typing import Any

import click

from featurestore.cli.progress import say
from featurestore.cli.redaction import describe, hide_values, trace
from featurestore.errors import StoreBusyError
from featurestore.version import __version__

# The module and the help of each command, so that --help imports none of these modules.
COMMANDS = {
    "demo": ("batch.cli.demo", "Run the pipeline end to end on a synthetic hospital."),
    "synth": ("featurestore.cli.source", "Write a synthetic hospital as MIMIC CSV files."),
    "init": ("featurestore.cli.source", "Create an empty store that reads from a hospital."),
    "source": ("featurestore.cli.source", "Show or change where a store reads from."),
    "sync": ("featurestore.cli.source", "Update admissions and the index of notes."),
    "task": ("featurestore.cli.tasks", "Add, list and drop what can be predicted."),
    "labels": ("featurestore.cli.cohort", "Count the labels, and why admissions have none."),
    "audit": ("featurestore.cli.cohort", "Check for leakage and immature labels."),
    "finetune": ("export.cli", "Fine-tune a BERT on the store's labelled notes."),
    "export": ("export.cli", "Export a checkpoint to ONNX and compare it with PyTorch."),
    "embed": ("batch.cli.embedding", "Embed every note that is new or changed."),
    "nightly": ("batch.cli.nightly_job", "Sync, embed, score and check for drift, in one commit."),
    "promote": ("batch.cli.embedding", "Make an encoder the active one."),
    "drop-encoder": ("batch.cli.embedding", "Remove an encoder and its vectors."),
    "train": ("batch.cli.training", "Fit a scorer on the admission embeddings."),
    "scorers": ("batch.cli.training", "List the scorers."),
    "evaluate": ("batch.cli.validation", "Evaluate a scorer on test patients or elsewhere."),
    "compare": ("batch.cli.comparison", "Compare two scorers on the same test stays."),
    "score": ("batch.cli.scoring", "Score every admission in SQL."),
    "replay": ("batch.cli.scoring", "Compute the scores of a past run again."),
    "outcomes": ("batch.cli.scoring", "Compare recorded scores with what happened."),
    "report": ("batch.cli.report", "Write a scorer's report, one HTML file."),
    "similar": ("batch.cli.scoring", "Find the most similar admissions of other patients."),
    "explain": ("batch.cli.scoring", "Show how much each note and window contributed to a score."),
    "sql": ("featurestore.cli.query", "Query the store in SQL, read-only."),
    "forget": ("featurestore.cli.store", "Erase patients from a store."),
    "info": ("featurestore.cli.store", "Show what a store contains."),
    "verify": ("featurestore.cli.store", "Check the integrity of a store."),
}
_EXIT_BUSY = 75  # EX_TEMPFAIL of sysexits.h: a scheduler tries again later
_EXIT_SIGNAL = 128  # plus the number of the signal, as shells do


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is called."""

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
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        arguments, debug = list(ctx.args), ctx.params["debug"]
        hide_values(debug)
        with _signals_as_interrupts() as signals:
            try:
                return super().invoke(ctx)
            except (click.UsageError, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise
            except BaseException as error:  # a panic of a Rust library is not an Exception
                if debug:
                    say(trace(error))
                if signals:  # DuckDB raises a RuntimeError when it is interrupted
                    raise _failure(KeyboardInterrupt(), signal_number=signals[0]) from None
                raise _failure(error, arguments, debug) from None


def _failure(
    error: BaseException,
    arguments: list[str] | None = None,
    debug: bool = False,
    signal_number: int = SIGINT,
) -> click.ClickException:
    """Return the one-line message and the exit status for an error."""
    if isinstance(error, click.ClickException):
        return error
    message = describe(error, arguments or ())
    if message.endswith("please report this") and not debug:
        message += ' ("featurestore --debug" shows where)'
    failure = click.ClickException(message)
    if isinstance(error, StoreBusyError):
        failure.exit_code = _EXIT_BUSY  # type: ignore[misc]
    if isinstance(error, KeyboardInterrupt):
        failure.exit_code = _EXIT_SIGNAL + signal_number  # type: ignore[misc]
    return failure


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt on SIGTERM too, so that a job removes its unfinished files.

    The list receives the numbers of the signals.
    """
    signals: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    previous = {number: signal(number, interrupt) for number in (SIGINT, SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal(number, handler)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featurestore")
@click.option("--debug", is_flag=True, help="Show where a command fails, without data values.")
def main(debug: bool) -> None:
    """A feature store for clinical-note embeddings, in one DuckDB file.

    The usual order: init, sync, finetune, export, embed, train, score. "featurestore demo" runs it.
    """
    os.umask(0o077)  # so that files written by libraries are private too
