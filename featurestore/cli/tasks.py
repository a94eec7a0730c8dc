"""The commands of tasks: task add, task list, task drop."""

from pathlib import Path

import click

from featurestore.cli.json_output import echo_json
from featurestore.cli.options import JSON, STORE
from featurestore.cli.progress import say

NAME = click.argument("name")


@click.group("task")
def task_command() -> None:
    """Add, list and drop what can be predicted."""


@task_command.command("add")
@STORE
@NAME
@click.argument("file", type=click.Path(path_type=Path))
@JSON
def add_command(store: Path, name: str, file: Path, as_json: bool) -> None:
    """Add a task from a SELECT (.sql) or from labels (.csv, .parquet).

    The columns are hadm_id, label, reason and known_at, and prediction_time if the task decides
    when it predicts. A file of labels needs only hadm_id and label, or those of MEDS.
    """
    from featurestore import Store
    from featurestore.cohort.task_registry import add_task

    result = add_task(Store(store), name, file)
    if result.get("not_in_store"):
        say(f"{result['not_in_store']:,} labels are of no admission of {store} and are not kept")
    if as_json:
        echo_json(result)
        return
    cutoff = f"; predicted at {result['cutoff']}" if result["cutoff"] else ""
    click.echo(f"{name}: {result['labels']:,} labels, {result['positive']:,} positive{cutoff}")


@task_command.command("list")
@STORE
@JSON
def list_command(store: Path, as_json: bool) -> None:
    """List the tasks, and the scorers that were trained on each."""
    from featurestore import Store
    from featurestore.cohort.tasks import list_tasks

    tasks = list_tasks(Store(store))
    if as_json:
        echo_json(tasks)
        return
    rows = [
        (task["name"], task["outcome"], task["cutoff"] or "", ", ".join(task["scorers"]))
        for task in tasks
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        click.echo("  ".join(map(str.ljust, cells, widths)).rstrip())


@task_command.command("drop")
@STORE
@NAME
@JSON
def drop_command(store: Path, name: str, as_json: bool) -> None:
    """Remove a task; scorers that were trained on it keep its SELECT."""
    from featurestore import Store
    from featurestore.cohort.task_registry import drop_task

    scorers = drop_task(Store(store), name)
    if as_json:
        echo_json({"dropped": name, "scorers": scorers})
        return
    click.echo(f"{name} dropped" + (f"; {', '.join(scorers)} keep its SELECT" if scorers else ""))
