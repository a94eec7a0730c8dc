"""The nightly command."""

from datetime import datetime
from pathlib import Path

import click

from batch.cli.embedding import DEVICE, MODEL, RAY, say_skipped
from featurestore.cli.json_output import echo_json
from featurestore.cli.options import SCORER, SINCE, STORE
from featurestore.cli.progress import progress, say


@click.command("nightly")
@STORE
@MODEL
@SCORER
@DEVICE
@click.option("--force", is_flag=True, help="Commit even if the drift check fails.")
@SINCE
@click.option(
    "--full-every",
    metavar="DAYS",
    type=click.IntRange(1, 365),
    help="Sync all notes once in so many days, and in between those of the last weeks.",
)
@RAY
def nightly_command(
    store: Path,
    model: Path,
    scorer: str,
    device: str,
    force: bool,
    since: datetime | None,
    full_every: int | None,
    ray: str | None,
) -> None:
    """Sync, embed, score and check for drift, in one commit.

    Prints one JSON line on stdout. Exits with status 75 if another job holds the store.
    """
    from featurestore import OnnxEncoder, Store, nightly

    if since and full_every:
        raise click.UsageError("--since and --full-every exclude each other.")
    opened = Store(store)
    with opened.lock("nightly"):  # a second job fails before it loads a model
        encoder = OnnxEncoder(model, device, load=ray is None)
        with progress("notes") as advance:
            day = since.date() if since else None
            result = nightly(opened, encoder, scorer, force, day, advance, ray, full_every)
    say_skipped(result)
    if result["no_signal"]:
        say(f"Warning: {result['no_signal']}")
    echo_json(result)
