"""JSON for programs; docs/cli.md has the shape of what each command prints."""

import json
from collections.abc import Callable
from typing import Any

import click


def echo_json(value: Any) -> None:
    """Print a value as one line of JSON: NaN and infinity are null, dates and times text."""
    from featurestore.query.output import to_json  # It loads DuckDB, which no --help needs.

    click.echo(json.dumps(to_json(value), allow_nan=False))


def echo_result(value: Any, as_json: bool, text: Callable[[Any], str]) -> None:
    """Print a result as JSON, or as the text that a function makes of it."""
    if as_json:
        echo_json(value)
    else:
        click.echo(text(value))


def by_reason(counts: dict[str, int]) -> list[dict[str, Any]]:
    """Return counts by reason as rows, because a reason is data and no key."""
    return [{"reason": reason, "count": count} for reason, count in counts.items()]
