"""The command that compares two scorers."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from featurestore.cli.completion import complete_scorer
from featurestore.cli.json_output import echo_result
from featurestore.cli.options import JSON, SCORER, STORE
from featurestore.store.scorer_metrics import Interval, format_interval

_NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier", "log_loss": "log loss"}


@click.command("compare")
@STORE
@SCORER
@click.argument("other", shell_complete=complete_scorer)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    help="Also compare the net benefit of alerts from this probability on; may be repeated.",
)
@JSON
def compare_command(
    store: Path, scorer: str, other: str, threshold: tuple[float, ...], as_json: bool
) -> None:
    """Compare two scorers on the same test stays.

    OTHER is a scorer, or a baseline of the first one, such as bag_of_words. Differences are SCORER
    less OTHER, paired by patient.
    """
    from featurestore import Store, compare

    result = compare(Store(store), scorer, other, threshold)
    echo_result(result, as_json, comparison_table)


def comparison_table(result: dict[str, Any]) -> str:
    """Return a line per metric, with both systems and their difference."""
    rows = [(name, result["metrics"][metric]) for metric, name in _NAMES.items()]
    rows += [(f"benefit {each['threshold']:g}", each) for each in result["net_benefit"]]
    width = max(25, len(result["scorer"]) + 2, len(result["other"]) + 2)
    lines = [
        f"{result['admissions']:,} test stays of {result['patients']:,} patients, of which "
        f"{result['positives']:,} {result['outcome']}",
        f"{'(95%)':<14}{result['scorer']:<{width}}{result['other']:<{width}}difference",
    ]
    for name, each in rows:
        cells = "".join(f"{_cell(each[system]):<{width}}" for system in ("scorer", "other"))
        lines.append(f"{name:<14}{cells}{_cell(each['difference'], sign=True)}")
    lines += [
        f"benefit {each['threshold']:g}: net benefit per stay of alerts from that probability on "
        f"({each['alerts']['scorer']:,} and {each['alerts']['other']:,} alerts); of alerting all "
        f"{each['alert_all']:.3f}"
        for each in result["net_benefit"]
    ]
    return "\n".join([*lines, *(f"- {note}" for note in result["notes"])])


def _cell(interval: Interval, sign: bool = False) -> str:
    text = partial(format_interval, to=" to " if sign else "-")(interval)
    return f"+{text}" if sign and interval and interval[0] >= 0 else text
