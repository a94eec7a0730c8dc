"""The demo command."""

import shutil
import sys
from pathlib import Path

import click

from batch.cli.training import training_summary
from featurestore.cli.progress import progress, say


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path), default="demo")
@click.option("--patients", default=1_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def demo_command(folder: Path, patients: int, seed: int) -> None:
    """Run the pipeline end to end on a synthetic hospital."""
    from batch.demo import demo
    from export.cli import require_torch

    require_torch()
    result = demo(folder, patients, seed, progress, say)
    click.echo(training_summary(result["train"]))
    store = result["store"]
    program = "featurestore" if shutil.which("featurestore") else sys.argv[0]
    click.echo(
        f"""
{result["score"]["scored"]:,} admissions scored. What to try next:

  {program} info {store}
  {program} labels {store}
  {program} sql {store} "FROM latest_scores ORDER BY probability DESC LIMIT 10"
  {program} report {store} readmit-72h -o {Path(store).parent / "report.html"}
  {program} explain {store} {result["hadm_id"]}
  {program} similar {store} {result["hadm_id"]}
  {program} train {store} readmit-discharge --cutoff discharge"""
    )
