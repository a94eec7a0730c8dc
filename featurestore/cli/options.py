"""Arguments and options that several commands share."""

from pathlib import Path

import click

# Lets an argument be a negative number, such as an id of OHDSI's MIMIC, and not an option.
NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
STORE = click.argument("store", type=click.Path(path_type=Path))
HORIZON = click.option(
    "--horizon-days",
    type=click.IntRange(1, 3650),
    default=30,
    show_default=True,
    help="Days after discharge in which a return counts.",
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
    help="Only notes of this day and later; deleted notes are found by a sync without it.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
