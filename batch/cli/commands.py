"""The commands of the jobs: embed, nightly, train, score and what belongs to them, demo."""

import json
import os
import shutil
import sys
import tempfile
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from batch.training.metrics import in_words
from featurestore.cli.group import CUTOFF, HORIZON, JSON, SINCE, STORE, main, progress, say

MODEL = click.argument("model", type=click.Path(path_type=Path))
SCORER = click.argument("scorer")
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
interval = partial(in_words, to="-")  # a terminal is narrower than a page


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
    from batch.embedding.embed import on_bar
    from featurestore import OnnxEncoder, Store, embed_pending

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
    from batch.embedding.embed import on_bar
    from featurestore import OnnxEncoder, Store, nightly

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
    from featurestore import Store, drop_encoder

    windows = drop_encoder(Store(store), encoder_id, force)
    click.echo(f"{encoder_id} and its {windows:,} windows are no longer in {store}")


@main.command("promote")
@STORE
@click.argument("encoder_id")
def promote_command(store: Path, encoder_id: str) -> None:
    """Make an encoder the active one."""
    from featurestore import Store, promote

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
@click.option(
    "--aggregate",
    type=click.Choice(["mean", "clinicalbert"]),
    help="Of the windows: their mean, or ClinicalBERT's rule (default: the better one).",
)
@JSON
def train_command(
    store: Path,
    scorer: str,
    encoder: str | None,
    cutoff: str,
    horizon_days: int,
    baseline: bool,
    aggregate: str | None,
    as_json: bool,
) -> None:
    """Fit a scorer on the admission embeddings."""
    from featurestore import Store, train

    facts = train(Store(store), scorer, encoder, cutoff, horizon_days, baseline, aggregate)
    click.echo(json.dumps(facts) if as_json else training_summary(facts))


def training_summary(facts: dict[str, Any]) -> str:
    """What was fitted, and how good it is on the test patients."""
    of = {"mean": "the mean of the windows", "clinicalbert": "windows by ClinicalBERT's rule"}
    lines = [
        f"{facts['scorer_id']}  {of[facts['aggregate']]}, C = {facts['c']:.3g}, "
        f"fitted on {facts['fitted_on']}",
        f"{'':<18}{'train':>8}{'valid':>8}{'test':>8}",
    ]
    for what in ("admissions", "positives"):
        counts = facts[what]
        lines.append(
            f"{what:<18}" + "".join(f"{counts[s]:>8,}" for s in ("train", "valid", "test"))
        )
    lines += metrics_table(facts["test"]).splitlines()
    return "\n".join([*lines, *(f"- {warning}" for warning in facts["warnings"])])


def metrics_table(systems: dict[str, Any]) -> str:
    """The main metrics of each system on test patients, with their 95% intervals."""
    metrics = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "calibration_slope": "slope"}
    lines = [f"{'on test (95%)':<18}" + "".join(f"{name:<23}" for name in metrics.values())]
    for name, measured in systems.items():
        cells = (interval(measured[metric]) for metric in metrics)
        lines.append(f"{name.replace('_', ' '):<18}" + "".join(f"{cell:<23}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


@main.command("scorers")
@STORE
@JSON
def scorers_command(store: Path, as_json: bool) -> None:
    """List the scorers."""
    from featurestore import Store

    found = Store(store).rows(
        "SELECT scorer_id, encoder_id, cutoff, horizon_days, label_rule, aggregate, "
        "CAST(metrics -> '$.test.scorer.auroc' AS DOUBLE[]) AS test_auroc, created_at "
        "FROM scorers ORDER BY created_at"
    )
    if as_json:
        click.echo(json.dumps(found, default=str))
        return
    for row in found:
        click.echo(
            f"{row['scorer_id']:<20}{row['cutoff']:<10}{row['horizon_days']:>3} days  "
            f"AUROC {interval(row['test_auroc']):<21}  {row['aggregate']:<13}{row['encoder_id']}"
        )


@main.command("score")
@STORE
@SCORER
@click.option("--hadm-id", type=int, multiple=True, help="Only this admission; may be repeated.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write them: .csv or .parquet."
)
@JSON
def score_command(
    store: Path, scorer: str, hadm_id: tuple[int, ...], output: Path | None, as_json: bool
) -> None:
    """Score every admission in SQL."""
    from featurestore import Store, score

    opened = Store(store)
    facts = score(opened, scorer, output, hadm_id)
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
        f"{facts['scored']:,} admission{'s' * (facts['scored'] != 1)} scored by "
        f"{facts['scorer_id']}: run {facts['run_id']} of {store}{where}"
    )
    for one in hadm_id:
        p, rank, above = opened.one(
            "SELECT probability, risk_rank, fraction_above FROM latest_scores "
            "WHERE (scorer_id, hadm_id) = ($scorer, $hadm)",
            scorer=facts["scorer_id"],
            hadm=one,
        )
        click.echo(f"{one}  {p:.1%}  rank {rank:,}, {above:.1%} of admissions are above")


@main.command("replay")
@STORE
@click.argument("run_id", type=int)
@JSON
def replay_command(store: Path, run_id: int, as_json: bool) -> None:
    """Compute a past run again.

    Exit status 1 where a score comes out differently.
    """
    from featurestore import Store, replay

    facts = replay(Store(store), run_id)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(
            f"run {run_id} of {facts['scorer_id']}: {facts['same']:,} of {facts['scored']:,} "
            "scores computed again are the same to the last bit"
        )
        if facts["changed_since"]:
            click.echo(
                f"{facts['changed_since']:,} cannot be computed again: their notes changed since, "
                "and of a scorer on windows old windows are not kept"
            )
        if facts["different"]:
            click.echo(
                f"{facts['different']:,} differ, by at most {facts['max_difference']:.2g} - "
                f'"featurestore verify {store}" looks for what was changed'
            )
    if facts["different"]:
        raise click.exceptions.Exit(1)


@main.command("outcomes")
@STORE
@SCORER
@click.option(
    "--alert-above",
    type=click.FloatRange(0, 1),
    help="An alert's probability (default: that of the riskiest 10% of test patients).",
)
@JSON
def outcomes_command(store: Path, scorer: str, alert_above: float | None, as_json: bool) -> None:
    """Compare the scores that were given with what happened."""
    from featurestore import Store, outcomes

    facts = outcomes(Store(store), scorer, alert_above)
    click.echo(json.dumps(facts) if as_json else outcomes_table(facts))


def outcomes_table(facts: dict[str, Any]) -> str:
    """A line for each period, and how good the scores were over all."""
    columns = ("scored", "known", "returned", "expected", "alerts", "right")
    lines = [f"{'':<10}" + "".join(f"{name:>10}" for name in columns) + "  AUROC (95%)"]
    for period in [*facts["periods"], {**facts, "period": "all"}][-13:]:
        right = period["alerted_returned"] / max(period["alerts_known"], 1)
        numbers = [f"{period[name]:,.0f}" for name in columns[:-1]]
        numbers.append(f"{right:.0%}" if period["alerts_known"] else "-")
        cells = "".join(f"{number:>10}" for number in numbers)
        lines.append(f"{period['period']:<10}{cells}  {interval(period['auroc'])}")
    if len(facts["periods"]) == 1:
        del lines[1]
    return "\n".join(
        [
            *lines,
            f"calibration slope {interval(facts['calibration_slope'])}, "
            f"intercept {interval(facts['calibration_intercept'])}",
            f"an alert is a probability of {facts['alert_above']:.3f} or more; "
            f"{facts['waiting']:,} outcomes are not yet known; {facts['fitted_on']:,} scored "
            "admissions are left out: the scorer was fitted or chosen on them",
        ]
    )


@main.command("similar")
@STORE
@click.argument("hadm_id", type=int)
@click.option("-n", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@CUTOFF
@HORIZON
@JSON
def similar_command(
    store: Path, hadm_id: int, n: int, cutoff: str, horizon_days: int, as_json: bool
) -> None:
    """Find the other patients' stays that read most alike."""
    from featurestore import Store, similar

    found = similar(Store(store), hadm_id, n, cutoff, horizon_days)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'hadm_id':>10}{'subject_id':>12}{'similarity':>12}  what became of it")
    for row in found:
        told = {True: "returned", False: "did not return", None: "no label"}[row["label"]]
        days = f" after {row['days_to_return']} days" if row["label"] else ""
        why = f" ({row['reason']})" if row["reason"] else ""
        click.echo(
            f"{row['hadm_id']:>10}{row['subject_id']:>12}{row['similarity']:>12.6f}  "
            f"{told}{days}{why}"
        )


@main.command("explain")
@STORE
@click.argument("hadm_id", type=int)
@click.option("--scorer", help="A name or scorer_id (default: the newest).")
@click.option("-n", type=click.IntRange(1), default=10, show_default=True, help="How many notes.")
@JSON
def explain_command(store: Path, hadm_id: int, scorer: str | None, n: int, as_json: bool) -> None:
    """Show which notes and windows moved a score."""
    from featurestore import Store, explain

    facts = explain(Store(store), hadm_id, scorer)
    click.echo(json.dumps(facts, default=str) if as_json else explanation(facts, n))


def explanation(facts: dict[str, Any], n: int) -> str:
    """The notes that moved a score most, and of each the window that did most of it."""
    notes, windows = facts["notes"], facts["windows"]
    lines = [
        f"{facts['hadm_id']}  {facts['probability']:.1%} by {facts['scorer_id']}, from "
        f"{len(windows):,} windows of {len(notes):,} notes; in {facts['unit']}:",
        f"{'note':<12}{'category':<20}{'known at':<18}{'moved by':>9}  most by window",
        f"{'the average admission':<50}{facts['base']:>+9.3f}",
    ]
    if facts["unit"] != "log odds":
        lines.pop()
    for note in notes[:n]:
        most = next(w for w in windows if w["note_id"] == note["note_id"])
        lines.append(
            f"{note['note_id']:<12}{note['category'] or '':<20}"
            f"{note['available_at']:%Y-%m-%d %H:%M}  {note['contribution']:>+9.3f}  "
            + f"{most['window_no'] + 1} of {note['windows']}"
        )
    others = sum(note["contribution"] for note in notes[n:])
    if notes[n:]:
        lines.append(f"{f'{len(notes) - n:,} other notes':<50}{others:>+9.3f}")
    total = facts["base"] + sum(note["contribution"] for note in notes)
    return "\n".join([*lines, f"{'together':<50}{total:>+9.3f}"])


@main.command("report")
@STORE
@SCORER
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="An .html file."
)
@JSON
def report_command(store: Path, scorer: str, output: Path, as_json: bool) -> None:
    """Write a scorer's report, one HTML file."""
    from batch.report.data import report
    from featurestore import Store

    # Else matplotlib would leave its list of fonts at home.
    with tempfile.TemporaryDirectory() as own:
        os.environ["MPLCONFIGDIR"] = own
        facts = report(Store(store), scorer, output)
    click.echo(
        json.dumps(facts, default=str)
        if as_json
        else f"{facts['figures']} figures of {facts['scorer_id']} in {output}"
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
  {program} report {store} readmit-72h -o {Path(store).parent / "report.html"}
  {program} explain {store} {facts["hadm_id"]}
  {program} similar {store} {facts["hadm_id"]}
  {program} train {store} readmit-discharge --cutoff discharge"""
    )
