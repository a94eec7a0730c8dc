"""A scorer as a clinical committee reads it: one page with figures, which loads nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.embedding.drift import SHIFT
from batch.report.figures import FIGURES, NAMES, OF_OUTCOMES, SPLITS, Facts, Floats, draw
from batch.scoring.scorers import find_scorer
from batch.training.metrics import ends, in_words
from featurestore.cohort.flow import admission_flow
from featurestore.cohort.leakage import pretrained_on_source
from featurestore.errors import FeatureStoreError
from featurestore.store.files import private_file
from featurestore.store.store import Store
from featurestore.store.vectors import arrow_to_vectors

_MAPPED = 4_000  # admissions of the map, at most
_SYSTEMS = ("scorer", "bag_of_words", "head", "prior_admissions")


def report(store: Store, scorer: str, output: str | Path) -> dict[str, Any]:
    """Write a page on a scorer: what it is worth, on whom, and where it comes from.

    One .html file, private (0600), without scripts or anything to load. Curves are drawn from the
    frozen rows of test patients; the same store gives the same bytes. Returns scorer_id, file and
    the number of figures. Raises FeatureStoreError.
    """
    output = Path(output)
    if output.suffix != ".html" or not output.parent.is_dir():
        raise FeatureStoreError(
            f"{output} cannot be written - name a .html file in a folder that is there"
        )
    facts = _facts(store, find_scorer(store, scorer))
    missing = _missing(facts)
    figures = {name: draw(name, facts) for name in FIGURES if name not in missing}
    page = _page(facts, figures, missing)
    with private_file(output, encoding="utf-8", newline="\n") as stream:
        stream.write(page)
    return {
        "scorer_id": facts.scorer["scorer_id"],
        "file": str(output),
        "figures": len(figures),
    }


# What the store knows


def _facts(store: Store, scorer_id: str) -> Facts:
    scorer = _scorer(store, scorer_id)
    metrics, encoder = (
        json.loads(scorer.pop(column) or "{}") for column in ("metrics", "manifest")
    )
    y, told = _test_rows(store, scorer_id)
    if "test" not in metrics or "scorer" not in told:
        raise FeatureStoreError(
            f"{scorer_id} was trained by an older version, which kept too little for a report - "
            f'"featurestore train {store.path} {scorer["name"]}" makes its next version'
        )
    embeddings, returned = _mapped(store, scorer)
    return Facts(
        scorer=scorer,
        metrics=metrics,
        encoder=encoder,
        schema=Path(store.one("SELECT schema_name FROM settings")[0]).name,
        y=y,
        told=told,
        flow=admission_flow(store, scorer["horizon_days"], scorer["label_rule"]),
        predicted=_predicted(store, scorer),
        patients=_patients(store, scorer_id),
        embeddings=embeddings,
        returned=returned,
        nights=_nights(store, scorer["encoder_id"]),
    )


def _scorer(store: Store, scorer_id: str) -> dict[str, Any]:
    (scorer,) = store.rows(
        """
        SELECT
            s.scorer_id, s.name, s.version, s.encoder_id, s.cutoff, s.label_rule, s.horizon_days,
            s.aggregate, len(s.coef) AS dim, s.intercept, s.metrics, s.training_hash, s.created_at,
            e.manifest, r.run_id, r.started_at, r.finished_at, r.versions
        FROM scorers AS s
        LEFT JOIN encoders AS e ON s.encoder_id = e.encoder_id
        LEFT JOIN runs AS r ON r.command = 'train' AND (r.counts ->> '$.scorer') = s.scorer_id
        WHERE s.scorer_id = $scorer
        ORDER BY r.run_id DESC
        LIMIT 1
        """,
        scorer=scorer_id,
    )
    return scorer | {"versions": json.loads(scorer["versions"] or "{}")}


def _test_rows(store: Store, scorer_id: str) -> tuple[npt.NDArray[np.bool_], dict[str, Floats]]:
    table = store.sql(
        "SELECT label, probability AS scorer, bag_of_words, head, prior_admissions "
        "FROM scorer_admissions WHERE scorer_id = $scorer AND split = 'test' ORDER BY hadm_id",
        scorer=scorer_id,
    ).to_arrow_table()
    told = {
        name: table[name].to_numpy().astype(np.float64)
        for name in _SYSTEMS
        if not table[name].null_count
    }
    return np.array(table["label"].to_pylist(), dtype=bool), told


def _predicted(store: Store, scorer: dict[str, Any]) -> int:
    (predicted,) = store.one(
        f"SELECT count(*) FROM {scorer['label_rule']}_labels(horizon_days := $horizon) AS l "
        "SEMI JOIN prediction_times(cutoff := $cutoff) USING (hadm_id) WHERE l.label IS NOT NULL",
        horizon=scorer["horizon_days"],
        cutoff=scorer["cutoff"],
    )
    return int(predicted)


def _patients(store: Store, scorer_id: str) -> dict[str, dict[str, Any]]:
    rows = store.rows(
        "SELECT r.split, count(DISTINCT a.subject_id) AS patients, median(a.age) AS age, "
        "avg(CAST(a.gender = 'F' AS INTEGER)) AS women, CAST(min(a.admittime) AS DATE) AS first, "
        "CAST(max(a.admittime) AS DATE) AS last FROM scorer_admissions AS r "
        "INNER JOIN admissions AS a USING (hadm_id) WHERE r.scorer_id = $scorer GROUP BY 1",
        scorer=scorer_id,
    )
    return {row["split"]: row for row in rows}


def _mapped(
    store: Store, scorer: dict[str, Any]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The embeddings and outcomes of the scorer's admissions, or as many as a map can show."""
    table = store.sql(
        """
        SELECT t.embedding, r.label
        FROM training_set($encoder, cutoff := $cutoff, horizon_days := $horizon) AS t
        INNER JOIN scorer_admissions AS r ON t.hadm_id = r.hadm_id AND r.scorer_id = $scorer
        ORDER BY md5(CAST(t.hadm_id AS VARCHAR)) LIMIT $mapped
        """,
        encoder=scorer["encoder_id"],
        cutoff=scorer["cutoff"],
        horizon=scorer["horizon_days"],
        scorer=scorer["scorer_id"],
        mapped=_MAPPED,
    ).to_arrow_table()
    returned = np.array(table["label"].to_pylist(), dtype=bool)
    if not len(returned):
        return np.zeros((0, 1), np.float32), returned
    return arrow_to_vectors(table["embedding"]), returned


def _nights(store: Store, encoder_id: str) -> dict[str, list[dict[str, Any]]]:
    """Each night's notes of a category, and how far their mean lies from that of all nights.

    The unit is the usual spread: the root of the windows' mean squared distance from the mean of
    all nights, as if they had been one night's.
    """
    table = store.sql(
        "SELECT category, run_id, n_notes, n_windows, spread, CAST(started_at AS DATE) AS night, "
        "embedding FROM nightly_embedding_stats "
        "INNER JOIN runs USING (run_id) WHERE encoder_id = $encoder "
        "ORDER BY category, run_id",
        encoder=encoder_id,
    ).to_arrow_table()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.drop_columns(["embedding"]).to_pylist():
        found.setdefault(row.pop("category") or "no category", []).append(row)
    first = 0
    for nights in found.values():
        means = arrow_to_vectors(table["embedding"].slice(first, len(nights))).astype(np.float64)
        weight = np.array([night["n_windows"] for night in nights], np.float64)
        usual = weight @ means / weight.sum()
        moved = ((means - usual) ** 2).sum(axis=1)
        spread = weight @ (np.array([night["spread"] for night in nights]) ** 2 + moved)
        unit = max(float(np.sqrt(spread / weight.sum())), 1e-12)
        for night, distance in zip(nights, np.sqrt(moved) / unit, strict=True):
            night["moved"] = float(distance)
        first += len(nights)
    return {name: nights for name, nights in found.items() if len(nights) > 1}


def _missing(facts: Facts) -> dict[str, str]:
    """Why a figure is not there: a sentence each."""
    found = {}
    stays, returned = len(facts.y), int(facts.y.sum())
    if returned in (0, stays):
        why = f"Of {stays:,} test stays {returned:,} returned: it takes both outcomes to draw this."
        found = dict.fromkeys(OF_OUTCOMES, why)
    elif not any(group["auroc"] for group in facts.metrics["subgroups"]):
        found["subgroups"] = "No group of test patients is large enough to be judged by itself."
    if not any(point["auroc"] for point in facts.metrics["learning_curve"]):
        found["learning"] = "There is no test AUROC to follow: one of both outcomes is missing."
    if len(facts.returned) < 3:
        found["map"] = f"The store holds no vectors of {facts.scorer['encoder_id']} to show."
    if not facts.nights:
        found["drift"] = (
            "There is nothing to show yet: it takes two nights with notes of one category."
        )
    return found


# The page


def _page(facts: Facts, figures: dict[str, dict[str, str]], missing: dict[str, str]) -> str:
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).resolve().parent)
    pages = jinja2.Environment(
        loader=folder,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    pages.filters.update(interval=in_words, ranged=ends)
    return pages.get_template("report.html").render(
        **vars(facts),
        test=facts.metrics["test"],
        systems=[name for name in NAMES if name in facts.metrics["test"]],
        names=NAMES,
        splits=SPLITS,
        versions=facts.scorer["versions"] | facts.metrics["versions"],
        figures=figures,
        missing=missing,
        contamination=pretrained_on_source(facts.encoder, facts.schema),
        stopping_shift=SHIFT,
        mapped=_MAPPED,
    )
