"""Arguments and options that several commands share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from featurestore.cli.completion import complete_encoder, complete_hadm_id, complete_scorer

# Lets an argument be a negative number, such as an id of OHDSI's MIMIC, and not an option.
NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
STORE = click.argument("store", type=click.Path(path_type=Path))
SCORER = click.argument("scorer", shell_complete=complete_scorer)


class _AdmissionId(click.types.IntParamType):
    """The integer that names an admission."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return int(value)
        except ValueError:
            self.fail(
                f"{value!r} is not an integer. Where the source's ids are texts, the table "
                "admissions has them as source_hadm_id beside hadm_id.",
                param,
                ctx,
            )


ADMISSION_ID = _AdmissionId()
HADM_ID = click.argument("hadm_id", type=ADMISSION_ID, shell_complete=complete_hadm_id)
ENCODER_ID = click.argument("encoder_id", shell_complete=complete_encoder)
HORIZON = click.option(
    "--horizon-days",
    type=click.IntRange(1, 3650),
    help="Days after discharge in which a return counts.  [default: 30]",
)


def _cutoff(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from featurestore.errors import FeatureStoreError
    from featurestore.store.schema import canonical_cutoff

    try:
        return canonical_cutoff(value) if value is not None else None
    except FeatureStoreError as error:
        raise click.BadParameter(str(error)) from None


CUTOFF = click.option(
    "--cutoff",
    metavar="36h|discharge|...",
    callback=_cutoff,
    help="How much of the stay a prediction may see: hours after admission such as 36h, or after "
    "discharge such as discharge+0h; discharge alone is discharge+48h.  [default: 72h, or the "
    "task's own]",
)
TASK = click.option(
    "--task", help='What to predict; "featurestore task list" lists them.  [default: readmission]'
)
_RULE = (
    click.option("--min-age", type=click.IntRange(0, 150), help="Younger patients have no label."),
    click.option(
        "--planned-type",
        multiple=True,
        help="Admission type that is planned; may be repeated.  [default: as the schema says]",
    ),
    click.option(
        "--same-day",
        type=click.Choice(["continuation", "return"]),
        help="What a stay that begins on the day of discharge is.  [default: continuation]",
    ),
    click.option(
        "--deaths",
        type=click.Choice(["negative", "excluded", "positive"]),
        help="The label of a death within the horizon, without a return.  [default: negative]",
    ),
)


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the readmission rule; the command gets them as one argument, `rule`."""

    @wraps(command)
    def with_rule(*args: Any, **options: Any) -> Any:
        names = ("min_age", "planned_type", "same_day", "deaths")
        rule = {name: options.pop(name) for name in names}
        rule["planned_types"] = rule.pop("planned_type")
        return command(*args, rule=rule, **options)

    for option in reversed(_RULE):
        with_rule = option(with_rule)
    return with_rule


SINCE = click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Only notes of this day and later; deleted notes are found by a sync without it.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
