"""The commands of encoders and their embeddings: embed, promote, drop-encoder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.cli.json_output import echo_json
from featurestore.cli.options import ENCODER_ID, JSON, STORE
from featurestore.cli.progress import progress, say

if TYPE_CHECKING:
    from featurestore import Store

MODEL = click.argument("model", type=click.Path(path_type=Path))
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
RAY = click.option(
    "--ray",
    metavar="[HOST:PORT]",
    is_flag=False,
    flag_value="local",
    help="Embed on Ray: a worker for each GPU or group of cores of this machine, or of a cluster.",
)


@click.command("embed")
@STORE
@MODEL
@DEVICE
@click.option("--limit", type=click.IntRange(min=0), help="Embed at most this many notes now.")
@click.option("--category", multiple=True, help="Only notes of this category; may be repeated.")
@RAY
@JSON
def embed_command(
    store: Path,
    model: Path,
    device: str,
    limit: int | None,
    category: tuple[str, ...],
    ray: str | None,
    as_json: bool,
) -> None:
    """Embed every note that is new or changed."""
    from featurestore import OnnxEncoder, Store, embed_pending

    opened = Store(store)
    encoder = OnnxEncoder(model, device, load=ray is None)
    say(f"{encoder.id} on {encoder.provider if ray is None else 'Ray'}")
    with progress("notes") as advance:
        counts = embed_pending(opened, encoder, limit, advance, category, ray)
    say_skipped(counts)
    say_not_active(opened, encoder.id)
    if as_json:
        echo_json(counts)
        return
    shown = {name: n for name, n in counts.items() if n or name in ("pending", "embedded")}
    click.echo(", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in shown.items()))


def say_skipped(counts: dict[str, Any]) -> None:
    """Print warnings on stderr if notes ended their worker, or changed for the second time."""
    if n_notes := counts["crashed"]:
        notes = "1 note ended its" if n_notes == 1 else f"{n_notes:,} notes ended their"
        say(
            f"Warning: {notes} worker each time, and may wait for ever - look for a ready note "
            "without a vector"
        )
    if n_notes := counts["changed_again"]:
        say(
            f"Warning: {n_notes:,} notes were skipped as changed since the sync, in this run and "
            "in the one before - run sync; if that does not help, the source does not return the "
            "same text twice"
        )


def say_not_active(store: "Store", encoder_id: str) -> None:
    """Print on stderr which encoder is active, if an encoder of the store is not."""
    active = dict(store.sql("SELECT encoder_id, active FROM encoders").fetchall())
    if not active.get(encoder_id, True):
        other = next(name for name, is_active in active.items() if is_active)
        say(
            f"{other} is still the active encoder, which train and similar use - "
            f'"featurestore promote {store.path} {encoder_id}" changes that'
        )


@click.command("promote")
@STORE
@ENCODER_ID
def promote_command(store: Path, encoder_id: str) -> None:
    """Make an encoder the active one."""
    from featurestore import Store, promote

    opened = Store(store)
    say_pending_notes(opened, encoder_id)
    promote(opened, encoder_id)
    click.echo(f"{encoder_id} is the active encoder of {store}")


def say_pending_notes(store: "Store", encoder_id: str) -> None:
    """Print a warning on stderr if an encoder has not embedded every ready note."""
    from featurestore.cohort.leakage import pending_notes_finding

    if finding := pending_notes_finding(store, encoder_id):
        say(finding.message)


@click.command("drop-encoder")
@STORE
@ENCODER_ID
@click.option("--force", is_flag=True, help="Drop it even if scorers were trained on it.")
def drop_encoder_command(store: Path, encoder_id: str, force: bool) -> None:
    """Remove an encoder and its vectors."""
    from featurestore import Store, drop_encoder

    windows = drop_encoder(Store(store), encoder_id, force)
    click.echo(f"removed {encoder_id} and its {windows:,} windows from {store}")
