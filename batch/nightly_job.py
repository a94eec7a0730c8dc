"""The job of every night: what is new goes from the hospital to scores, in one commit."""

import time
from datetime import date, datetime
from typing import Any

import pyarrow.compute as pc

from batch.embedding.drift import findings
from batch.embedding.embed import Progress, commit_staged, is_out_of_date, stage
from batch.embedding.encoder import Encoder
from batch.scoring.score import add_scores, find_scorer, scores_due
from featurestore.errors import FeatureStoreError
from featurestore.source.sync import apply_diff, diff_source
from featurestore.store.store import Store


def nightly(
    store: Store,
    encoder: Encoder,
    scorer: str,
    force: bool = False,
    since: date | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Sync, embed what is pending, score whom it concerns, check the night, commit once.

    Scored is whoever has no score by the newest scorer of that name, or would get another one than
    the last. Where nothing changed, nothing is written and `run_id` is None. Returns counts and
    `seconds`. Raises FeatureStoreError, with the old version as it was and the finished windows
    staged for the next run, where something fails or, unless `force` is given, where the night is
    unlike the last ones (batch/health.py).
    """
    started_at, clock = datetime.now(), _Clock()
    with store.lock("nightly"):
        scorer_id = _scorer_of(store, scorer, encoder)
        diff = diff_source(store, force, since)
        clock.lap("sync")
        staged = stage(store, encoder, progress=progress, diff=diff)
        clock.lap("embed")
        counts = _counts(diff.counts["notes"], diff.rows["notes"])
        counts |= {"encoder": encoder.id, "provider": encoder.provider, "scorer": scorer_id}
        run_id = None
        if diff or staged or is_out_of_date(store) or scores_due(store, scorer_id):
            with store.transaction("nightly", started_at) as transaction:
                apply_diff(transaction, diff)
                night = commit_staged(transaction, encoder, staged)
                hours = _hours_since(transaction.con, started_at)
                unusual = findings(
                    transaction.con, night, counts["seen"], counts["excluded"], hours
                )
                if unusual and not force:
                    raise FeatureStoreError(
                        f"tonight is unlike the last nights: {'; '.join(unusual)}; nothing was "
                        "changed - look at the source, then run nightly --force if it is right"
                    )
                night.record(transaction.con, transaction.run_id)
                counts |= staged.counts
                counts["scored"] = add_scores(transaction, scorer_id, only_due=True)
                counts["unusual"] = unusual
                clock.lap("apply")
                transaction.counts.update(counts, seconds=dict(clock.seconds))
                run_id = transaction.run_id
            clock.lap("commit")
        else:
            (ready,) = store.one("SELECT count(*) FROM notes WHERE status = 'ready'")
            counts |= staged.counts | {"scored": 0, "unusual": []}
            counts["unchanged"] = ready - counts["waiting"]
        staged.shards.clear()
    return {"run_id": run_id, **counts, "seconds": clock.seconds}


def _scorer_of(store: Store, scorer: str, encoder: Encoder) -> str:
    """The scorer's id, if it was trained on this encoder's vectors."""
    scorer_id = find_scorer(store, scorer)
    (trained_on,) = store.one("SELECT encoder_id FROM scorers WHERE scorer_id = $s", s=scorer_id)
    if trained_on != encoder.id:
        raise FeatureStoreError(
            f"{scorer_id} was trained on {trained_on}, and the model is {encoder.id} - name the "
            "model that it was trained on, or train a scorer on this one"
        )
    return scorer_id


def _counts(of_sync: dict[str, Any], changed: Any) -> dict[str, Any]:
    """What the index brought: `seen` notes are new or changed, `excluded` of them excluded."""
    told = ("total", "new", "changed", "withdrawn", "forgotten", "not_utf8")
    counts = {what: of_sync[what] for what in told if what in of_sync}
    excluded = pc.sum(pc.equal(changed["status"], "excluded")).as_py() or 0
    return {**counts, "seen": len(changed), "excluded": excluded}


def _hours_since(con: Any, now: datetime) -> float:
    (last,) = con.execute("SELECT max(started_at) FROM runs WHERE command = 'nightly'").fetchall()[
        0
    ]
    return (now - last).total_seconds() / 3600 if last else 0.0


class _Clock:
    """How long each part took, in seconds."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("sync", "embed", "apply", "commit"), 0.0)
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = round(now - self._last, 3)
        self._last = now
