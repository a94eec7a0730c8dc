"""A summary of a store for a person or a program."""

import json
from typing import Any

from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store


def info(store: Store) -> dict[str, Any]:
    """Return what a store holds: sizes, encoders, scorers, the last nights and the last runs.

    `copied` is how the last job made the copy that it changed: reflink (the file system shares
    blocks), bytes, or None. `synced_at` is the last complete sync. A research extract that says
    nothing else is observed fully (`observed_until` is None).
    """
    source, schema, live, observed_until = store.one(
        "SELECT source, schema_name, live, observed_until FROM settings"
    )
    ready, excluded = store.one(
        "SELECT count(*) FILTER (status = 'ready'), count(*) FILTER (status = 'excluded') "
        "FROM notes"
    )
    (synced_at,) = store.one(read_sql("sync/last_complete_sync"))
    (copied,) = store.one("SELECT max_by(versions ->> '$.copied_by', run_id) FROM runs")
    lists = {
        name: store.rows(read_sql(f"store/info/{name}"))
        for name in ("encoders", "scorers", "nights", "runs")
    }
    for run in lists["runs"]:
        run["counts"] = json.loads(run["counts"])
    return {
        "store": str(store.path),
        "bytes": store.path.stat().st_size,
        "copied": copied,
        "encrypted": store.is_encrypted(),
        "source": source,
        "schema": schema,
        "live": live,
        "observed_until": observed_until,
        "synced_at": synced_at,
        "admissions": store.one("SELECT count(*) FROM admissions")[0],
        "notes": {"ready": ready, "excluded": excluded},
        **lists,
    }
