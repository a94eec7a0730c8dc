"""The report command."""

import os
import tempfile
from pathlib import Path

import click

from batch.cli.embedding import say_pending_notes
from featurestore.cli.json_output import echo_json
from featurestore.cli.options import JSON, SCORER, STORE


@click.command("report")
@STORE
@SCORER
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="An .html file."
)
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    metavar="P",
    help="A predicted risk from which on stays are alerted; may be repeated.  [default: six from "
    "0.05 to 0.5]",
)
@click.option(
    "--small-cells", is_flag=True, help="Show counts under 11, which may identify people."
)
@JSON
def report_command(
    store: Path,
    scorer: str,
    output: Path,
    thresholds: tuple[float, ...],
    small_cells: bool,
    as_json: bool,
) -> None:
    """Write a scorer's report, one HTML file."""
    from batch.scoring.scorer_registry import find_scorer
    from featurestore import Store, report

    opened = Store(store)
    query = "SELECT encoder_id FROM scorers WHERE scorer_id = $s"
    (encoder_id,) = opened.one(query, s=find_scorer(opened, scorer))
    say_pending_notes(opened, encoder_id)
    # matplotlib writes its font cache there, which would otherwise stay in the home folder.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        result = report(opened, scorer, output, thresholds, small_cells)
    if as_json:
        echo_json(result)
    else:
        click.echo(f"{result['figures']} figures of {result['scorer_id']} in {output}")
