"""Leaks and immature labels: what would make a reported number too good, in plain sentences."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError
from featurestore.store.store import Store

# Above what the literature reaches (arXiv 1904.05342): an early AUROC of 0.67, 0.71 at discharge.
PLAUSIBLE_AUROC = {"24h": 0.75, "48h": 0.75, "72h": 0.75, "discharge": 0.80}
# Parts of the names of models that were pretrained on the notes of MIMIC-III.
_SAW_MIMIC = r"clinical[-_]?bert|bluebert|clinical[-_]?longformer|mimic"

_EXCLUDED_BUT_EMBEDDED = """
    SELECT count(DISTINCT note_id) FROM embeddings SEMI JOIN
    (FROM notes WHERE status = 'excluded') AS n USING (note_id)
"""
_DATED = "SELECT count(*) FROM notes WHERE status = 'ready' AND time_basis = 'date'"
_TEXT_ON_TWO_SIDES = """
    SELECT count(*) FROM (
        SELECT text_hash FROM notes WHERE status = 'ready'
        GROUP BY text_hash HAVING count(DISTINCT patient_split(subject_id)) > 1
    )
"""
_PATIENT_ON_TWO_SIDES = """
    SELECT count(*) FROM (
        SELECT a.subject_id FROM scorer_admissions AS r INNER JOIN admissions AS a USING (hadm_id)
        WHERE r.scorer_id = $scorer GROUP BY a.subject_id HAVING count(DISTINCT r.split) > 1
    )
"""
_NOT_KNOWN_THEN = """
    SELECT count(*) FROM scorer_admissions AS r
    INNER JOIN scorers AS s USING (scorer_id)
    INNER JOIN admission_embeddings AS m
        ON r.hadm_id = m.hadm_id AND s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
    LEFT JOIN admission_windows(cutoff := $cutoff) AS w
        ON m.hadm_id = w.hadm_id AND m.encoder_id = w.encoder_id
    WHERE r.scorer_id = $scorer AND m.windows_hash IS DISTINCT FROM w.windows_hash
"""
_LABELS = """
    SELECT
        count(*) FILTER (l.reason = 'horizon not yet observed'),
        count(*) FILTER (
            l.label IS DISTINCT FROM r.label
            AND l.reason IS DISTINCT FROM 'horizon not yet observed'
        )
    FROM scorer_admissions AS r
    LEFT JOIN readmission_labels(horizon_days := $horizon) AS l ON r.hadm_id = l.hadm_id
    WHERE r.scorer_id = $scorer
"""


def audit(store: Store, scorer: str | None = None) -> list[str]:
    """What could make the store's numbers wrong: a sentence each, with what to do; none is good.

    Looks at the whole store and at one scorer (a name means its newest version), or at all.
    Raises FeatureStoreError where there is no such scorer.
    """
    scorers = store.sql(
        "SELECT scorer_id, name, cutoff, horizon_days, encoder_id, metrics FROM scorers "
        "WHERE $scorer IS NULL OR $scorer IN (scorer_id, name) ORDER BY created_at DESC",
        scorer=scorer,
    ).fetchall()
    if scorer is not None:
        if not scorers:
            raise FeatureStoreError(
                f'{store.path} holds no scorer {scorer} - "featurestore scorers {store.path}" '
                "lists them"
            )
        scorers = [row for row in scorers if row[0] == scorer] or scorers[:1]
    found = list(_store_findings(store))
    for scorer_id, _, cutoff, horizon, encoder_id, metrics in reversed(scorers):
        for finding in _scorer_findings(store, scorer_id, cutoff, horizon, json.loads(metrics)):
            found.append(f"{scorer_id}: {finding}")
        manifest, source = store.one(
            "SELECT manifest, schema_name FROM encoders, settings WHERE encoder_id = $encoder",
            encoder=encoder_id,
        )
        found += [f"{scorer_id}: {f}" for f in _encoder_findings(json.loads(manifest), source)]
    return found


def _store_findings(store: Store) -> Iterator[str]:
    if n := store.one(_EXCLUDED_BUT_EMBEDDED)[0]:
        yield f"{n:,} notes that are excluded still have vectors - run featurestore embed"
    if n := store.one(_DATED)[0]:
        yield (
            f"{n:,} notes have a date and no time, and count as known when that day is over - "
            "give their storetime in the source where there is one"
        )
    if n := store.one(_TEXT_ON_TWO_SIDES)[0]:
        yield (
            f"{n:,} texts stand in notes of patients on both sides of the split, word for word - "
            "look whether they are templates, or one patient under two numbers"
        )


def _scorer_findings(
    store: Store, scorer_id: str, cutoff: str, horizon: int, metrics: dict[str, Any]
) -> Iterator[str]:
    if n := store.one(_PATIENT_ON_TWO_SIDES, scorer=scorer_id)[0]:
        yield f"{n:,} patients are on both sides of its split - train it again"
    if n := store.one(_NOT_KNOWN_THEN, scorer=scorer_id, cutoff=cutoff)[0]:
        yield (
            f"the means of {n:,} of its admissions are not those of the notes known at the "
            "prediction time - run featurestore embed, then train it again"
        )
    immature, changed = store.one(_LABELS, scorer=scorer_id, horizon=horizon)
    if immature:
        yield (
            f"{immature:,} of its labels are not mature: the horizon is still running - train it "
            "again later, or with a shorter horizon"
        )
    if changed:
        yield f"{changed:,} of its labels are not what the rule says now - train it again"
    auroc = metrics["test"]["scorer"]["auroc"]
    if auroc is not None and auroc[0] > PLAUSIBLE_AUROC[cutoff]:
        yield (
            f"its test AUROC of {auroc[0]:.3f} is above {PLAUSIBLE_AUROC[cutoff]:.2f}, more than "
            f"the literature reaches at {cutoff} - look for a leak before you believe it"
        )


def _encoder_findings(manifest: dict[str, Any], source_schema: str) -> Iterator[str]:
    encoder_id = manifest.get("encoder_id", manifest.get("name"))
    finetuned = (manifest.get("checkpoint") or {}).get("finetune")
    if finetuned is None:
        yield (
            f"on which patients {encoder_id} was fine-tuned is not known, so that its test "
            "patients may be among them - fine-tune with featurestore finetune"
        )
    elif not str(finetuned.get("patients", "")).startswith("patient_split"):
        yield (
            f"{encoder_id} was fine-tuned on patients who were not split as the scorer's are - "
            "fine-tune with featurestore finetune"
        )
    if read_before(manifest, source_schema):
        yield (
            f"{encoder_id} comes from a model pretrained on MIMIC's notes and is tested on "
            "MIMIC - say so beside every number, or test it on another hospital"
        )


def read_before(manifest: dict[str, Any], source_schema: str) -> bool:
    """Whether an encoder goes back to a model that was pretrained on the source's very notes.

    Told by name, of a hub or of a folder: of the encoder, its checkpoint, and what that was
    fine-tuned from.
    """
    checkpoint = manifest.get("checkpoint") or {}
    base = (checkpoint.get("finetune") or {}).get("base")
    names = f"{manifest.get('name')} {checkpoint.get('name')} {base}"
    saw_mimic = re.search(_SAW_MIMIC, names, re.IGNORECASE) is not None
    return saw_mimic and Path(source_schema).name in ("mimic3", "mimic4")
