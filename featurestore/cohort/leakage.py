"""The leakage audit: what could make a reported performance too good."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featurestore.errors import UnknownNameError
from featurestore.store.scorer_metrics import ScorerMetrics
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store

# Above published results (arXiv 1904.05342): an AUROC of 0.67 early in the stay, 0.71 at discharge.
PLAUSIBLE_AUROC = {"24h": 0.75, "48h": 0.75, "72h": 0.75, "discharge": 0.80}
# Parts of the names of models that were pretrained on the notes of MIMIC-III.
_PRETRAINED_ON_MIMIC = r"clinical[-_]?bert|bluebert|clinical[-_]?longformer|mimic"


def audit(store: Store, scorer: str | None = None) -> list[str]:
    """Return the findings about a store and its scorers, a sentence each with what to do.

    Checks all scorers, or one: by its id, or by its name the newest version. Raises
    UnknownNameError where there is no such scorer.
    """
    findings = list(_store_findings(store))
    for row in _scorers(store, scorer):
        scorer_findings = [
            *_scorer_findings(store, row["scorer_id"], row["cutoff"], row["horizon_days"]),
            *_auroc_findings(row["cutoff"], json.loads(row["metrics"])),
            *_encoder_findings(row["encoder_id"], row["manifest"], row["schema_name"]),
        ]
        findings += [f"{row['scorer_id']}: {finding}" for finding in scorer_findings]
    return findings


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


def _store_findings(store: Store) -> Iterator[str]:
    if n := store.one(read_sql("cohort/excluded_notes_with_vectors"))[0]:
        yield f"{n:,} excluded notes still have vectors - run featurestore embed"
    if n := store.one(read_sql("cohort/notes_without_time"))[0]:
        yield (
            f"{n:,} notes have a date but no time, so they count as known from the next day - "
            "add their storetime to the source where it exists"
        )
    if n := store.one(read_sql("cohort/texts_in_several_splits"))[0]:
        yield (
            f"{n:,} identical texts are in notes of patients in different splits - check whether "
            "they are templates, or one patient with two subject_ids"
        )


def _scorer_findings(store: Store, scorer_id: str, cutoff: str, horizon_days: int) -> Iterator[str]:
    if n := store.one(read_sql("cohort/patients_in_several_splits"), scorer_id=scorer_id)[0]:
        yield f"{n:,} patients are in several of its splits - train it again"
    if n := store.one(
        read_sql("cohort/outdated_admission_embeddings"), scorer_id=scorer_id, cutoff=cutoff
    )[0]:
        yield (
            f"the embeddings of {n:,} of its admissions are not the means of the notes known at "
            "the prediction time - run featurestore embed, then train it again"
        )
    n_immature, n_changed = store.one(
        read_sql("cohort/outdated_labels"), scorer_id=scorer_id, horizon_days=horizon_days
    )
    if n_immature:
        yield (
            f"{n_immature:,} of its labels are immature, as their horizon is not over - train it "
            "again later, or with a shorter horizon"
        )
    if n_changed:
        yield f"{n_changed:,} of its labels differ from what the rule gives now - train it again"


def _auroc_findings(cutoff: str, metrics: ScorerMetrics) -> Iterator[str]:
    auroc = metrics["test"]["scorer"]["auroc"]
    if auroc is not None and auroc[0] > PLAUSIBLE_AUROC[cutoff]:
        yield (
            f"its test AUROC of {auroc[0]:.3f} is above {PLAUSIBLE_AUROC[cutoff]:.2f}, more than "
            f"published models reach at {cutoff} - look for a leak before you report it"
        )


def _encoder_findings(encoder_id: str, manifest_json: str | None, schema: str) -> Iterator[str]:
    if manifest_json is None:
        yield f"its encoder {encoder_id} was dropped, so it can score nothing - train it again"
        return
    manifest = json.loads(manifest_json)
    finetuned = (manifest.get("checkpoint") or {}).get("finetune")
    if finetuned is None:
        yield (
            f"the patients on which {encoder_id} was fine-tuned are unknown and may include its "
            "test patients - fine-tune with featurestore finetune"
        )
    elif not str(finetuned.get("patients", "")).startswith("patient_split"):
        yield (
            f"{encoder_id} was fine-tuned on patients with another split than the scorer's - "
            "fine-tune with featurestore finetune"
        )
    if pretrained_on_source(manifest, schema):
        yield (
            f"{encoder_id} is based on a model pretrained on MIMIC's notes and is evaluated on "
            "MIMIC - report this with every result, or evaluate on another hospital"
        )
