"""Values that a shell completes: scorers, encoders and stays of a store, and schemas."""

import contextlib
from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

_MOST = 50  # values that a shell shows


def _from_store(
    query: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return a function that completes the values of a query on the store of the command line."""

    def complete(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        from featurestore import Store

        values: list[tuple[str]] = []
        # Arguments before an option without its value are not parsed yet. A store may be missing,
        # damaged or encrypted: an error would spoil the line.
        path = ctx.params.get("store") or "".join(ctx.args[:1])
        with contextlib.suppress(Exception), Store(path) as store:
            values = store.sql(
                f"SELECT v::VARCHAR FROM ({query}) AS t(v) WHERE starts_with(v::VARCHAR, $begun) "
                f"ORDER BY v LIMIT {_MOST}",
                begun=begun,
            ).fetchall()
        return [CompletionItem(value) for (value,) in values]

    return complete


complete_scorer = _from_store("SELECT name FROM scorers UNION SELECT scorer_id FROM scorers")
complete_encoder = _from_store("SELECT encoder_id FROM encoders")
complete_hadm_id = _from_store("SELECT DISTINCT hadm_id FROM scores")


def complete_schema(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Complete a built-in schema, else a folder."""
    from featurestore.source.schemas import built_in_schemas

    schemas = [CompletionItem(name) for name in built_in_schemas() if name.startswith(begun)]
    return schemas or [CompletionItem(begun, type="dir")]
