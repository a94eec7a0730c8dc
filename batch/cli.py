"""The commands of the jobs: embed, nightly, train, score and what belongs to them, demo."""

import json
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from featurestore.cli import CUTOFF, HORIZON, JSON, SINCE, STORE, main, progress, say

MODEL = click.argument("model", type=click.Path(path_type=Path))
SCORER = click.argument("scorer")
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)


@main.command("embed")
@STORE
@MODEL
@DEVICE
@click.option("--limit", type=click.IntRange(min=0), help="Embed at most so many notes now.")
@click.option("--category", multiple=True, help="Only notes of this category; may be repeated.")
@JSON
def embed_command(
    store: Path,
    model: Path,
    device: str,
    limit: int | None,
    category: tuple[str, ...],
    as_json: bool,
) -> None:
    """Embed every note that is new or changed."""
    from batch import OnnxEncoder, embed_pending
    from batch.embed import on_bar
    from featurestore import Store

    opened = Store(store)
    encoder = OnnxEncoder(model, device)
    say(f"{encoder.id} on {encoder.provider}")
    with progress("notes") as done:
        counts = embed_pending(opened, encoder, limit, on_bar(done), category)
    if as_json:
        click.echo(json.dumps(counts))
        return
    told = {what: n for what, n in counts.items() if n or what in ("pending", "embedded")}
    click.echo(", ".join(f"{count:,} {what}" for what, count in told.items()))


@main.command("nightly")
@STORE
@MODEL
@SCORER
@DEVICE
@click.option("--force", is_flag=True, help="Commit though tonight is unlike the last nights.")
@SINCE
def nightly_command(
    store: Path, model: Path, scorer: str, device: str, force: bool, since: datetime | None
) -> None:
    """Sync, embed, score and check the night, in one commit.

    One JSON line on stdout. Exit status 75 where another job has the store.
    """
    from batch import OnnxEncoder, nightly
    from batch.embed import on_bar
    from featurestore import Store

    opened = Store(store)
    with opened.lock("nightly"):  # a second job need not load a model to be told
        encoder = OnnxEncoder(model, device)
        with progress("notes") as done:
            day = since.date() if since else None
            facts = nightly(opened, encoder, scorer, force, day, on_bar(done))
    click.echo(json.dumps(facts))


@main.command("drop-encoder")
@STORE
@click.argument("encoder_id")
@click.option("--force", is_flag=True, help="Though scorers were trained on it.")
def drop_encoder_command(store: Path, encoder_id: str, force: bool) -> None:
    """Remove an encoder and its vectors."""
    from batch import drop_encoder
    from featurestore import Store

    windows = drop_encoder(Store(store), encoder_id, force)
    click.echo(f"{encoder_id} and its {windows:,} windows are no longer in {store}")


@main.command("promote")
@STORE
@click.argument("encoder_id")
def promote_command(store: Path, encoder_id: str) -> None:
    """Make an encoder the active one."""
    from batch import promote
    from featurestore import Store

    promote(Store(store), encoder_id)
    click.echo(f"{encoder_id} is the active encoder of {store}")


@main.command("train")
@STORE
@SCORER
@click.option("--encoder", help="An encoder_id (default: the active one).")
@CUTOFF
@HORIZON
@click.option(
    "--baseline/--no-baseline", default=True, help="Fit bag-of-words beside it, from the source."
)
@JSON
def train_command(
    store: Path,
    scorer: str,
    encoder: str | None,
    cutoff: str,
    horizon_days: int,
    baseline: bool,
    as_json: bool,
) -> None:
    """Fit a scorer on the admission embeddings."""
    from batch import train
    from featurestore import Store

    facts = train(Store(store), scorer, encoder, cutoff, horizon_days, baseline)
    click.echo(json.dumps(facts) if as_json else training_summary(facts))


def training_summary(facts: dict[str, Any]) -> str:
    """What was fitted, and how good it is on the test patients."""
    lines = [
        f"{facts['scorer_id']}  C = {facts['c']:.3g}, chosen by {facts['chosen_by']}",
        f"{'':<14}{'train':>8}{'valid':>8}{'test':>8}",
    ]
    for what in ("admissions", "positives"):
        counts = facts[what]
        lines.append(
            f"{what:<14}" + "".join(f"{counts[s]:>8,}" for s in ("train", "valid", "test"))
        )
    lines.append(f"{'on test':<14}{'AUROC':>8}{'AUPRC':>8}{'accuracy':>10}")
    for what in ("embeddings", "bag_of_words"):
        if what in facts:
            numbers = [facts[what][metric] for metric in ("auroc", "auprc", "accuracy")]
            auroc, auprc, accuracy = ("-" if n is None else f"{n:.3f}" for n in numbers)
            lines.append(f"{what.replace('_', '-'):<14}{auroc:>8}{auprc:>8}{accuracy:>10}")
    prevalence = facts["embeddings"]["prevalence"]
    if prevalence is not None:
        majority = max(prevalence, 1 - prevalence)
        lines.append(f"{'prevalence':<14}{0.5:>8.3f}{prevalence:>8.3f}{majority:>10.3f}")
    return "\n".join(lines)


@main.command("scorers")
@STORE
@JSON
def scorers_command(store: Path, as_json: bool) -> None:
    """List the scorers."""
    from featurestore import Store

    rows = Store(store).sql(
        "SELECT scorer_id, encoder_id, cutoff, horizon_days, label_rule, "
        "CAST(metrics ->> '$.embeddings.auroc' AS DOUBLE) AS test_auroc, created_at "
        "FROM scorers ORDER BY created_at"
    )
    if as_json:
        found = [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]
        click.echo(json.dumps(found, default=str))
    else:
        click.echo(str(rows).rstrip("\n"))


@main.command("score")
@STORE
@SCORER
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write them: .csv or .parquet."
)
@JSON
def score_command(store: Path, scorer: str, output: Path | None, as_json: bool) -> None:
    """Score every admission in SQL."""
    from batch import score
    from featurestore import Store

    facts = score(Store(store), scorer, output)
    if as_json:
        click.echo(json.dumps(facts))
        return
    if facts["pending_notes"]:
        say(
            f"{facts['pending_notes']:,} ready notes have no vectors by its encoder yet - "
            f'"featurestore embed {store} MODEL" makes them'
        )
    where = f", and in {output}" if output else ""
    click.echo(
        f"{facts['scored']:,} admissions scored by {facts['scorer_id']}: "
        f"run {facts['run_id']} of {store}{where}"
    )


@main.command("demo")
@click.argument("folder", type=click.Path(path_type=Path), default="demo")
@click.option("--patients", default=1_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def demo_command(folder: Path, patients: int, seed: int) -> None:
    """Run the whole way on a synthetic hospital."""
    from batch.demo import demo
    from export.cli import needs_torch

    needs_torch()
    facts = demo(folder, patients, seed, progress, say)
    click.echo(training_summary(facts["train"]))
    store = facts["store"]
    program = "featurestore" if shutil.which("featurestore") else sys.argv[0]
    click.echo(
        f"""
{facts["score"]["scored"]:,} admissions scored. What to try next:

  {program} info {store}
  {program} labels {store}
  {program} sql {store} "FROM latest_scores ORDER BY probability DESC LIMIT 10"
  {program} sql {store} "FROM similar_admissions({facts["hadm_id"]}, n := 5)"
  {program} train {store} readmit-discharge --cutoff discharge"""
    )
