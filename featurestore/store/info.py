"""A summary of a store for a person or a program."""

from typing import Any

from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

# How each job makes the copy that it changes.
_COPIED = {
    "reflink": "in no time: the file system shares blocks (reflink)",
    "bytes": "byte by byte, at the speed of the disk",
}


def info(store: Store) -> dict[str, Any]:
    """Return what a store holds: sizes, encoders, scorers, the last nights and the last runs."""
    source, schema, live, observed_until = store.one(
        "SELECT source, schema_name, live, observed_until FROM settings"
    )
    ready, excluded = store.one(
        "SELECT count(*) FILTER (status = 'ready'), count(*) FILTER (status = 'excluded') "
        "FROM notes"
    )
    (last,) = store.one(read_sql("sync/last_complete_sync"))
    (copied_by,) = store.one("SELECT max_by(versions ->> '$.copied_by', run_id) FROM runs")
    return {
        "store": f"{store.path} ({store.path.stat().st_size / 1e6:,.1f} MB)",
        "copied": _COPIED.get(copied_by, "not yet"),
        "encrypted": "yes" if store.is_encrypted() else "no",
        "source": f"{source} ({schema})",
        "observed": f"until {observed_until}"
        if live or observed_until
        else "fully (a research extract)",
        "synced": f"completely at {last}" if last else "not completely yet",
        "admissions": store.one("SELECT count(*) FROM admissions")[0],
        "notes": f"{ready:,} ready, {excluded:,} excluded",
        **{
            name: store.rows(read_sql(f"store/info/{name}"))
            for name in ("encoders", "scorers", "nights", "runs")
        },
    }
