"""The leakage audit: what could make a reported performance too good, and what was accepted."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from featurestore.cohort.caveats import caveats
from featurestore.cohort.flow import MANY_EARLY_RETURNS, admission_flow
from featurestore.cohort.later_data import find_later_data
from featurestore.cohort.tasks import Task, find_task, scorer_task, stored_task, task_names
from featurestore.errors import FeatureStoreError, QueryError, UnknownNameError
from featurestore.store.integrity.audit_log import user_name
from featurestore.store.scorer_metrics import ScorerMetrics, format_interval
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.task_select import SHIPPED

# Above published results (arXiv 1904.05342): an AUROC of 0.67 early in the stay, 0.71 at discharge.
PLAUSIBLE_AUROC = {"early": 0.75, "discharge": 0.80}  # of readmission
PLAUSIBLE_AUROC_OF_TASKS = 0.95  # of another outcome
PLAUSIBLE_AUROC_OF_COVARIATE = 0.90  # one number alone, of another outcome
SEVERITIES = ("error", "warning", "note")
# An error is a leak or a stale result, and a warning may be one. All others are notes, which belong
# in every report of a result.
MANY_EVALUATED = 5  # scorers of a task on test patients
SEVERITY_OF = {
    "excluded-notes-with-vectors": "error",
    "patients-in-several-splits": "error",
    "outdated-admission-embeddings": "error",
    "immature-labels": "error",
    "changed-labels": "error",
    "other-finetuning-split": "error",
    "dropped-encoder": "error",
    "changed-task": "error",
    "outcome-known-at-prediction": "error",
    "broken-task": "error",
    "covariates-see-later-data": "error",
    "broken-covariates": "error",
    "stays-over-at-prediction": "warning",
    "outcomes-known-at-different-times": "warning",
    "dropped-task": "warning",
    "separating-covariate": "warning",
    "unlimited-covariates": "warning",
    "implausible-auroc": "warning",
    "test-patients-looked-at-often": "warning",
    "texts-in-several-splits": "warning",
    "pending-notes": "warning",
    "unknown-finetuning-patients": "warning",
    "pretrained-on-source": "warning",
    "early-returns-before-prediction": "warning",
    "no-planned-stays": "warning",
    "labels-without-known-at": "note",
    "notes-without-time": "note",
    "radiology-exam-time": "note",
}
# Parts of the names of models that were pretrained on the notes of MIMIC-III.
_PRETRAINED_ON_MIMIC = r"clinical[-_]?bert|bluebert|clinical[-_]?longformer|mimic"


@dataclass(frozen=True)
class Acceptance:
    """Who accepted a finding, and when (local time)."""

    by: str
    at: datetime


@dataclass(frozen=True)
class Finding:
    """A finding of the leakage audit: `message` is a sentence on what was found and what to do.

    `code` names the kind of finding and does not change. `severity` is error, warning or note.
    `scorer_id` is None for a finding of the store. `count` is the number that the message states,
    None where it states none.
    """

    code: str
    severity: str
    scorer_id: str | None
    count: int | None
    message: str
    accepted: Acceptance | None = None


def audit(store: Store, scorer: str | None = None, task: str | None = None) -> list[Finding]:
    """Return the findings about a store and its scorers, errors first.

    Checks all scorers, or one: by its id, or by its name the newest version. `task` checks only
    those that were trained on it. Raises UnknownNameError where there is no such scorer.
    """
    scorers = [row for row in _scorers(store, scorer) if task in (None, row["label_rule"])]
    if task and not scorers:
        find_task(store, task)
    tasks = {row["label_rule"] for row in scorers} if scorer or task else None
    findings = [*_store_findings(store, tasks)]
    checked: dict[tuple[str, str], Finding | None] = {}  # sets of covariates at a cutoff
    for row in scorers:
        findings += [
            replace(finding, scorer_id=row["scorer_id"])
            for finding in (
                *_admission_findings(store, row),
                *_auroc_findings(row["label_rule"], row["cutoff"], json.loads(row["metrics"])),
                *covariate_findings(row["label_rule"], row["cutoff"], json.loads(row["metrics"])),
                *_later_data_findings(store, row, checked),
                *_encoder_findings(store, row),
            )
        ]
    findings += _caveat_findings(
        store, {row["label_rule"] for row in scorers} or {task or "readmission"}
    )
    acceptances = _acceptances(store)
    findings = [
        replace(finding, accepted=_acceptance(finding, acceptances)) for finding in findings
    ]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def accept_finding(store: Store, code: str, scorer: str | None = None) -> None:
    """Record that the current findings of a code are accepted: all of them, or a scorer's.

    An accepted error comes back when its count grows. Raises UnknownNameError, and records nothing,
    where there is no such finding.
    """
    with store.lock("audit"):
        findings = audit(store, scorer)
        if scorer is not None:
            findings = [finding for finding in findings if finding.scorer_id is not None]
        accepted = [finding for finding in findings if finding.code == code]
        if not accepted:
            raise UnknownNameError(_no_such_finding(store, code, scorer, findings))
        with store.transaction("audit") as transaction:
            transaction.con.executemany(
                "INSERT INTO accepted_findings VALUES ($1, $2, $3, $4, $5)",
                [
                    [code, finding.scorer_id, finding.count, user_name(), datetime.now()]
                    for finding in accepted
                ],
            )
            transaction.counts.update(accepted=code, findings=len(accepted))


def pending_notes_finding(store: Store, encoder_id: str) -> Finding | None:
    """Return the finding that an encoder of the store has not embedded every ready note, if so."""
    query = f"SELECT count(*) FROM ({read_sql('embedding/unembedded_notes')})"
    (pending,) = store.one(query, encoder_id=encoder_id)
    is_stored = store.one("SELECT count(*) FROM encoders WHERE encoder_id = $e", e=encoder_id)[0]
    if not pending or not is_stored:
        return None
    (ready,) = store.one("SELECT count(*) FROM notes WHERE status = 'ready'")
    return _finding(
        "pending-notes",
        pending,
        f"{pending:,} of {ready:,} ready notes are not embedded by {encoder_id} - "
        f'"featurestore embed {store.path} MODEL" embeds them',
    )


def pretrained_on_source(manifest: dict[str, Any], schema: str) -> bool:
    """Return whether an encoder is based on a model that was pretrained on the source's notes.

    It is recognised by name: that of the encoder, of its checkpoint, or of the model from which
    the checkpoint was fine-tuned.
    """
    checkpoint = manifest.get("checkpoint") or {}
    base = (checkpoint.get("finetune") or {}).get("base")
    names = f"{manifest.get('name')} {checkpoint.get('name')} {base}"
    on_mimic = re.search(_PRETRAINED_ON_MIMIC, names, re.IGNORECASE) is not None
    return on_mimic and Path(schema).name in ("mimic3", "mimic4")


def covariate_findings(task: str, cutoff: str, metrics: ScorerMetrics) -> Iterator[Finding]:
    """Yield the covariates of a scorer that may hold what was not known at the prediction."""
    limit = min(_plausible_auroc(task, cutoff), PLAUSIBLE_AUROC_OF_COVARIATE)
    for each in metrics.get("covariates", []):
        if each["auroc"] is not None and each["auroc"][1] > limit:
            yield _finding(
                "separating-covariate",
                None,
                f"the covariate {each['name']} alone has an AUROC of "
                f"{format_interval(each['auroc'])} on training stays, above {limit:.2f} - check "
                "that it holds nothing that was known only after the prediction",
            )
    unlimited = [each["name"] for each in metrics.get("covariates", []) if not each["is_limited"]]
    if unlimited:
        yield _finding(
            "unlimited-covariates",
            len(unlimited),
            f"covariates of a SELECT without $cutoff and known_at: {', '.join(unlimited)}. Nothing "
            "limits them to what was known at the prediction - use prediction_times(cutoff := "
            "$cutoff), or give known_at",
        )


def _later_data_findings(
    store: Store, scorer: dict[str, Any], checked: dict[tuple[str, str], Finding | None]
) -> Iterator[Finding]:
    """Yield what is wrong with the covariates of a scorer; `checked` has those of others."""
    query, cutoff = read_sql("cohort/covariates/set_of_scorer"), scorer["cutoff"]
    for covariates_id, queries in store.sql(query, scorer_id=scorer["scorer_id"]).fetchall():
        if (covariates_id, cutoff) not in checked:
            checked[covariates_id, cutoff] = later_data_finding(store, queries, cutoff)
        if finding := checked[covariates_id, cutoff]:
            yield finding


def later_data_finding(store: Store, queries: Sequence[str], cutoff: str) -> Finding | None:
    """Return what is wrong with the values that SELECTs of covariates give at a cutoff, if so."""
    try:
        later_data = find_later_data(store, queries, cutoff)
    except (duckdb.Error, QueryError) as error:
        return _finding(
            "broken-covariates",
            None,
            f"a SELECT of its covariates fails now ({type(error).__name__}) - train it again with "
            "one that does not",
        )
    if not later_data.stays:
        return None
    return _finding(
        "covariates-see-later-data",
        later_data.stays,
        f"its covariates {', '.join(later_data.columns)} have other values for "
        f"{later_data.stays:,} of {later_data.sampled:,} sampled stays when what came after the "
        "prediction is removed - count only what was known at prediction_times(cutoff := $cutoff), "
        "then train it again",
    )


def _finding(code: str, count: int | None, message: str) -> Finding:
    return Finding(code, SEVERITY_OF.get(code, "note"), None, count, message)


def _scorers(store: Store, scorer: str | None) -> list[dict[str, Any]]:
    """Return the scorers to check, with the manifest of their encoder, the oldest first."""
    rows = store.rows(read_sql("cohort/audited_scorers"), scorer=scorer)
    if scorer is None:
        return rows
    if not rows:
        raise UnknownNameError(
            f'{store.path} has no scorer {scorer} - "featurestore scorers {store.path}" lists them'
        )
    return [row for row in rows if row["scorer_id"] == scorer] or rows[-1:]


# --- what is found


def _store_findings(store: Store, tasks: set[str] | None) -> Iterator[Finding]:
    """Yield what concerns no single scorer; `tasks` are those of the audited scorers, None all."""
    for task, n in store.sql(read_sql("cohort/evaluated_scorers")).fetchall():
        if n >= MANY_EVALUATED and (tasks is None or task in tasks):
            yield _finding(
                "test-patients-looked-at-often",
                n,
                f"{n:,} scorers of the task {task} were evaluated on test patients, and the best "
                "of several looks better than it is - train with --no-test, choose by the log "
                "loss, and evaluate the one that you chose",
            )
    if n := store.one(read_sql("cohort/notes/excluded_notes_with_vectors"))[0]:
        yield _finding(
            "excluded-notes-with-vectors",
            n,
            f"{n:,} excluded notes still have vectors - run featurestore embed",
        )
    if n := store.one(read_sql("cohort/notes/texts_in_several_splits"))[0]:
        yield _finding(
            "texts-in-several-splits",
            n,
            f"{n:,} identical texts are in notes of patients in different splits - check whether "
            "they are templates, or one patient with two subject_ids",
        )
    n_stays, n_planned = store.one("SELECT count(*), count_if(planned) FROM admissions")
    if n_stays and not n_planned:
        yield _finding(
            "no-planned-stays",
            n_stays,
            f"none of {n_stays:,} stays is planned, so a planned return counts as a readmission - "
            "select what says so as the column planned of the schema's admissions.sql",
        )
    for (encoder_id,) in store.sql("SELECT encoder_id FROM encoders WHERE active").fetchall():
        if pending := pending_notes_finding(store, encoder_id):
            yield pending
    if n := store.one(read_sql("cohort/notes/notes_without_time"))[0]:
        yield _finding(
            "notes-without-time",
            n,
            f"{n:,} notes have a date but no time, so they count as known from the next day - "
            "add their storetime to the source where it exists",
        )
    if n := store.one(read_sql("cohort/notes/radiology_exam_times"))[0]:
        yield _finding(
            "radiology-exam-time",
            n,
            f"{n:,} radiology reports have no storetime and count as known at their charttime, the "
            "time of the exam, hours before they were written - add their storetime to the source "
            "where it exists",
        )


def _admission_findings(store: Store, scorer: dict[str, Any]) -> Iterator[Finding]:
    scorer_id, cutoff = scorer["scorer_id"], scorer["cutoff"]
    if n := store.one(read_sql("cohort/patients_in_several_splits"), scorer_id=scorer_id)[0]:
        yield _finding(
            "patients-in-several-splits",
            n,
            f"{n:,} patients are in several of its splits - train it again",
        )
    query = read_sql("cohort/outdated_admission_embeddings")
    is_kept = store.one("SELECT $c IN (SELECT cutoff FROM kept_cutoffs)", c=cutoff)[0]
    if is_kept and (n := store.one(query, scorer_id=scorer_id, cutoff=cutoff)[0]):
        yield _finding(
            "outdated-admission-embeddings",
            n,
            f"the embeddings of {n:,} of its admissions are not the means of the notes known at "
            "the prediction time - run featurestore embed, then train it again",
        )
    try:
        task = scorer_task(store, scorer_id)
    except FeatureStoreError as error:
        yield _finding("broken-task", None, str(error))
        return
    n_immature, n_changed = store.one(
        read_sql("cohort/outdated_labels"),
        scorer_id=scorer_id,
        labels=task.labels,
        observed_until=json.loads(scorer["metrics"]).get("observed_until"),
    )
    if n_immature:
        yield _finding(
            "immature-labels",
            n_immature,
            f"{n_immature:,} of its labels are immature, as their horizon is not over or was not "
            "when it was fitted - train it again, later or with a shorter horizon",
        )
    if n_changed:
        yield _finding(
            "changed-labels",
            n_changed,
            f"{n_changed:,} of its labels differ from what the rule gives now - train it again",
        )
    yield from _task_findings(store, scorer, task)
    if cutoff == "discharge+48h" and task.horizon_days is not None:
        yield from _early_return_findings(store, task)


def _task_findings(store: Store, scorer: dict[str, Any], task: Task) -> Iterator[Finding]:
    n_known, n_unchecked, n_over, days_positive, days_negative = store.one(
        read_sql("cohort/tasks/known_at_prediction"),
        scorer_id=scorer["scorer_id"],
        labels=task.labels,
    )
    if n_known:
        yield _finding(
            "outcome-known-at-prediction",
            n_known,
            f"{n_known:,} of its outcomes were known before their prediction - predict earlier",
        )
    if n_unchecked:
        yield _finding(
            "labels-without-known-at",
            n_unchecked,
            f"{n_unchecked:,} of its labels have no known_at, so nothing says whether they were "
            "known at their prediction - add when each label was known to the task",
        )
    if n_over and task.gives_prediction_time:
        yield _finding(
            "stays-over-at-prediction",
            n_over,
            f"{n_over:,} of its stays were over before their prediction, whose time the task "
            f"{task.name} gives - predict earlier if the outcome lies in the stay",
        )
    if None not in (days_positive, days_negative) and (
        abs(days_positive - days_negative) > 1
        and max(days_positive, days_negative) > 2 * min(days_positive, days_negative)
    ):
        yield _finding(
            "outcomes-known-at-different-times",
            None,
            f"positives of the task {task.name} are known {days_positive:.1f} days after the "
            f"prediction and negatives {days_negative:.1f} (medians), so the newest labels are of "
            "one kind - give known_at the time when either would be known",
        )
    if task.name not in task_names(store):
        yield _finding(
            "dropped-task",
            None,
            f"its task {task.name} was dropped from the store, so its labels cannot change and a "
            "task with prediction times of its own predicts nothing - add the task again",
        )
    elif task.name not in SHIPPED and (
        task.select != task.with_select(stored_task(store, task.name)[0]).select
    ):
        yield _finding(
            "changed-task",
            None,
            f"the task {task.name} has another SELECT than when it was fitted - train it again",
        )


def _early_return_findings(store: Store, task: Task) -> Iterator[Finding]:
    flow = admission_flow(store, task, cutoff="discharge")
    horizon_days = task.horizon_days
    n_early, n_returns = flow["predicted"]["returns_before_prediction"], flow["positive"]
    if n_early > MANY_EARLY_RETURNS * n_returns:
        yield _finding(
            "early-returns-before-prediction",
            n_early,
            f"{n_early:,} of {n_returns:,} returns within {horizon_days} days "
            f"({n_early / n_returns:.0%}) come before the prediction 48 hours after discharge - "
            "report them as missed, or predict at an earlier cutoff",
        )


def _auroc_findings(task: str, cutoff: str, metrics: ScorerMetrics) -> Iterator[Finding]:
    auroc, limit = metrics["test"]["scorer"]["auroc"], _plausible_auroc(task, cutoff)
    # The lower end: of few test patients, chance alone can lift an estimate.
    if auroc is not None and auroc[1] > limit:
        yield _finding(
            "implausible-auroc",
            None,
            f"the interval of its test AUROC, {format_interval(auroc)}, lies above {limit:.2f}, "
            f"more than published models reach at {cutoff} - look for a leak before you report it",
        )


def _plausible_auroc(task: str, cutoff: str) -> float:
    if task not in ("readmission", "clinicalbert"):
        return PLAUSIBLE_AUROC_OF_TASKS
    return PLAUSIBLE_AUROC["discharge" if cutoff.startswith("discharge") else "early"]


def _encoder_findings(store: Store, scorer: dict[str, Any]) -> Iterator[Finding]:
    encoder_id, manifest_json = scorer["encoder_id"], scorer["manifest"]
    if manifest_json is None:
        yield _finding(
            "dropped-encoder",
            None,
            f"its encoder {encoder_id} was dropped, so it can score nothing - train it again",
        )
        return
    manifest = json.loads(manifest_json)
    finetuned = (manifest.get("checkpoint") or {}).get("finetune")
    if finetuned is None:
        yield _finding(
            "unknown-finetuning-patients",
            None,
            f"the patients on which {encoder_id} was fine-tuned are unknown and may include its "
            "test patients - fine-tune with featurestore finetune",
        )
    elif not str(finetuned.get("patients", "")).startswith("patient_split"):
        yield _finding(
            "other-finetuning-split",
            None,
            f"{encoder_id} was fine-tuned on patients with another split than the scorer's - "
            "fine-tune with featurestore finetune",
        )
    if pretrained_on_source(manifest, store.one("SELECT schema_name FROM settings")[0]):
        yield _finding(
            "pretrained-on-source",
            None,
            f"{encoder_id} is based on a model pretrained on MIMIC's notes and is evaluated on "
            "MIMIC - report this with every result, or evaluate on another hospital",
        )
    # What the active encoder has not embedded is a finding of the store.
    if not scorer["active"] and (pending := pending_notes_finding(store, encoder_id)):
        yield pending


def _caveat_findings(store: Store, rules: set[str]) -> Iterator[Finding]:
    codes: dict[str, str] = {}
    for rule in sorted(rules):
        codes |= caveats(store, rule)
    for code, sentence in codes.items():
        yield _finding(code, None, f"{sentence} - report this with every result")


# --- what was accepted

_Acceptances = dict[tuple[str, str | None], tuple[int | None, Acceptance]]


def _acceptances(store: Store) -> _Acceptances:
    """Return the newest acceptance, and the count that it holds for, by code and scorer."""
    return {
        (code, scorer_id): (count, Acceptance(by, at))
        for code, scorer_id, count, by, at in store.sql(
            read_sql("cohort/latest_acceptances")
        ).fetchall()
    }


def _acceptance(finding: Finding, acceptances: _Acceptances) -> Acceptance | None:
    count, acceptance = acceptances.get((finding.code, finding.scorer_id), (None, None))
    # What grows every night, such as notes without a time, is accepted once and for all.
    grown = finding.count is not None and (count is None or finding.count > count)
    holds = finding.severity != "error" or not grown
    return acceptance if holds else None


def _no_such_finding(store: Store, code: str, scorer: str | None, findings: list[Finding]) -> str:
    subject = f"the scorer {scorer}" if scorer else str(store.path)
    codes = ", ".join(dict.fromkeys(finding.code for finding in findings)) or "none"
    hint = "; those of the store are accepted without SCORER" if scorer else ""
    return (
        f"{subject} has no finding {code}, so nothing was accepted - its findings now: "
        f"{codes}{hint}"
    )
