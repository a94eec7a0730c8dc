"""The nightly job: sync, embed, score and check for drift, in one commit."""

import contextlib
import time
from datetime import date, datetime
from typing import Any

import duckdb

from batch.embedding.commit import commit_staged, is_out_of_date
from batch.embedding.covariates import refresh_covariates
from batch.embedding.drift import NightlyStats, check_drift
from batch.embedding.encoder import Encoder
from batch.embedding.staging import Progress, stage
from batch.scoring.monitoring import (
    accepted_checks,
    check_scorer,
    has_reference,
    monitored_coefs,
    record_notes,
)
from batch.scoring.score import add_scores, due_scores
from batch.scoring.scorer_registry import check_cutoff_kept, find_scorer, why_no_signal
from featurestore.errors import FeatureStoreError, ModelError, UnusualNightError
from featurestore.source.sync import (
    SourceDiff,
    apply_diff,
    diff_source,
    record_sync,
    since_last_complete_sync,
)
from featurestore.store.changes import mark_up_to_date
from featurestore.store.store import Store
from featurestore.store.transaction import Transaction

NOTHING_FOUND: dict[str, Any] = {
    "unusual": [],
    "warnings": [],
    "accepted": [],
    "monitoring": {"log_odds": None, "scores": None},
}


def nightly(
    store: Store,
    encoder: Encoder,
    scorer: str,
    force: bool = False,
    since: date | None = None,
    progress: Progress | None = None,
    ray: str | None = None,
    full_every: int | None = None,
) -> dict[str, Any]:
    """Sync, embed pending notes, score, check for drift and commit once; return the counts.

    `scorer` is a name (its newest version) or a scorer_id. An admission is scored if it has no
    score by that scorer yet, or if its score would differ from the last one. `ray` is that of
    `embed_pending`. If nothing changed, nothing is written and `run_id` is None. The result also
    has `no_signal`, why all probabilities of the scorer are the prevalence (else None), and
    `seconds` by stage.

    With `since`, only the notes of that day and later are synced; with `full_every`, those of the
    last weeks, and all notes once in so many days (`since_last_complete_sync`). `sync` of the
    result is `complete` or the first day, and `not_seen` what such a sync cannot see. A complete
    sync that `full_every` asks for is recorded even if it found nothing.

    Raises FeatureStoreError if a stage fails, and UnusualNightError if the night differs from the
    last ones (batch/embedding/drift.py) and `force` is not given. The store then stays as it was,
    and embedded windows stay staged for the next run.
    """
    if since and full_every:
        raise FeatureStoreError("since and full_every exclude each other - give one of them")
    started_at, stopwatch = datetime.now(), _Stopwatch()
    with store.lock("nightly"), contextlib.ExitStack() as stack:
        scorer_id = _check_scorer(store, scorer, encoder)
        no_signal = why_no_signal(store, scorer_id)
        if full_every:
            since = since_last_complete_sync(store, full_every, started_at)
        diff = stack.enter_context(diff_source(store, force, since))
        stopwatch.lap("sync")
        staged = stage(store, encoder, progress=progress, diff=diff, ray=ray)
        stopwatch.lap("embed")
        counts = _sync_counts(diff)
        counts |= {"encoder": encoder.id, "provider": staged.provider, "scorer": scorer_id}
        run_id = None
        if diff or staged or is_out_of_date(store) or len(due_scores(store.connect(), scorer_id)):
            with store.transaction("nightly", started_at) as transaction:
                apply_diff(transaction, diff)
                coefs = monitored_coefs(transaction.con, scorer_id)
                stats = commit_staged(transaction, encoder, staged, coefs)
                refresh_covariates(store, transaction.con)
                counts |= staged.counts
                due = due_scores(transaction.con, scorer_id)
                counts["scored"] = add_scores(transaction, scorer_id, due)
                mark_up_to_date(transaction.con, "scores", [scorer_id])
                hours = _hours_since_last_night(transaction.con, started_at)
                counts |= _monitor(transaction, scorer_id, stats, counts, hours, no_signal, force)
                stopwatch.lap("apply")
                transaction.counts.update(counts, seconds=dict(stopwatch.seconds))
                transaction.counts.update(staged.memory)
                run_id = transaction.run_id
            stopwatch.lap("commit")
        else:
            if full_every and not since:
                run_id = record_sync(store, diff, started_at)
            (ready,) = store.one("SELECT count(*) FROM notes WHERE status = 'ready'")
            counts |= staged.counts | {"scored": 0, **NOTHING_FOUND}
            counts["unchanged"] = ready - counts["waiting"]
        staged.shards.clear()
    return {
        "run_id": run_id,
        **counts,
        "not_seen": diff.not_seen,
        "no_signal": no_signal,
        "seconds": stopwatch.seconds,
    }


def _monitor(
    transaction: Transaction,
    scorer_id: str,
    stats: NightlyStats,
    counts: dict[str, Any],
    hours: float,
    no_signal: str | None,
    force: bool,
) -> dict[str, Any]:
    """Record and check the notes and scores of a night; return what to add to its counts.

    Raises UnusualNightError for a finding that stops the night, unless forced or accepted before.
    """
    con = transaction.con
    record_notes(con, transaction.run_id, stats.log_odds())
    vectors_stop = not (no_signal or has_reference(con, scorer_id))
    findings, numbers = check_scorer(con, scorer_id, no_signal)
    seen, excluded = counts["seen"], counts["excluded"]
    findings += check_drift(con, stats, seen, excluded, hours, vectors_stop)
    accepted = accepted_checks(con, scorer_id)
    stops = [each for each in findings if each.stops and each.check not in accepted]
    if stops and not force:
        raise UnusualNightError(
            f"the drift check failed: {'; '.join(each.text for each in stops)}; nothing was "
            "changed - check the source, then run nightly --force if this is expected"
        )
    stats.record(con, transaction.run_id)
    return {
        "unusual": [each.text for each in stops],
        "warnings": [each.text for each in findings if each not in stops],
        "accepted": sorted({each.check for each in stops if each.lasts}),
        "monitoring": numbers,
    }


def _check_scorer(store: Store, scorer: str, encoder: Encoder) -> str:
    """Return the scorer's id; raise ModelError if it has another encoder, or one that is gone."""
    scorer_id = find_scorer(store, scorer)
    check_cutoff_kept(store, scorer_id)
    (trained_on,) = store.one("SELECT encoder_id FROM scorers WHERE scorer_id = $s", s=scorer_id)
    if trained_on != encoder.id:
        raise ModelError(
            f"{scorer_id} was trained on {trained_on}, and the model is {encoder.id} - name the "
            "model that it was trained on, or train a scorer on this one"
        )
    if not store.one("SELECT count(*) FROM encoders WHERE encoder_id = $e", e=encoder.id)[0]:
        raise ModelError(
            f"the encoder {encoder.id} was dropped from {store.path} - name the model and a scorer "
            "of the active encoder; embed would store the vectors of this one again"
        )
    return scorer_id


def _sync_counts(diff: SourceDiff) -> dict[str, Any]:
    """Return the counts of the sync; `excluded` counts among the `seen`, new or changed notes."""
    names = ("total", "new", "changed", "withdrawn", "forgotten", "not_utf8")
    counts = {name: diff.counts["notes"][name] for name in names if name in diff.counts["notes"]}
    counts |= {"seen": len(diff.rows["notes"]), "excluded": diff.n_excluded}
    return {"sync": diff.extent, "admissions": diff.counts["admissions"], **counts}


def _hours_since_last_night(con: duckdb.DuckDBPyConnection, now: datetime) -> float:
    (last,) = con.execute("SELECT max(started_at) FROM runs WHERE command = 'nightly'").fetchall()[
        0
    ]
    return (now - last).total_seconds() / 3600 if last else 0.0


class _Stopwatch:
    """The seconds of each stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("sync", "embed", "apply", "commit"), 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now
