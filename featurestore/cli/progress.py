"""Messages and progress for people, on stderr."""

import contextlib
import time
from collections.abc import Callable, Iterator

import click

_SECONDS_PER_LINE = 60.0  # where stderr is not a terminal


def say(message: str) -> None:
    """Print a message on stderr."""
    click.echo(message, err=True)


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr, or a line a minute if stderr is not a terminal.

    Yields a function of done, total and, if known, the pace.
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
        TextColumn(f"{label:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task(label, total=None, pace="")
    started = last_line = time.monotonic()

    def advance(done: int, total: int, pace: object = "") -> None:
        nonlocal last_line
        bar.start()  # only now, when there is something to show
        bar.update(task, completed=done, total=total, pace=str(pace))
        now = time.monotonic()
        if not console.is_terminal and now - last_line >= _SECONDS_PER_LINE:
            last_line = now
            minutes = (now - started) * (total - done) / done / 60 if done else 0.0
            say(f"{label}: {done:,} of {total:,}, {minutes:,.0f} min left {pace}".rstrip())

    try:
        yield advance
    finally:
        bar.stop()
