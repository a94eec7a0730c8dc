"""X, y -> coefficients: a logistic regression on admission embeddings, kept in the store."""

import hashlib
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from batch import baselines
from batch.embed import follow_sync
from batch.evaluate import (
    BOOTSTRAPS,
    Interval,
    Judge,
    auroc,
    calibration_slope,
    ends,
    in_words,
    probability,
)
from batch.fitting import (
    FEW,
    NAIVE,
    Cohort,
    Fit,
    Vectors,
    best,
    calibrate,
    fits,
    learning_curve,
)
from batch.promote import find_encoder
from batch.shards import arrow_to_vectors
from featurestore.errors import FeatureStoreError
from featurestore.store import Store, check_question

LABEL_RULE = "readmission"
AGGREGATES = ("mean", "clinicalbert")
BASELINES = ("prevalence", "prior_admissions", "bag_of_words", "head")

Floats = npt.NDArray[np.float64]

_FEWEST = 10  # labelled admissions of training patients
_FEWEST_EVENTS = 20  # of a subgroup, returned or not, to be judged on its own
_ENOUGH_EVENTS = 100  # of test patients: below it, no validation is thought reliable
_TEST_SHARE = 0.1  # of the admissions
_AGE_BANDS = """
    CASE WHEN a.age < 18 THEN 'under 18' WHEN a.age < 45 THEN '18 to 44'
    WHEN a.age < 65 THEN '45 to 64' WHEN a.age < 75 THEN '65 to 74'
    WHEN a.age < 85 THEN '75 to 84' WHEN a.age >= 85 THEN '85 and over' END
"""


@dataclass
class TrainingSet:
    """What `training_set(...)` gives, ordered by hadm_id."""

    hadm_id: npt.NDArray[np.int64]  # (admissions,)
    subject_id: npt.NDArray[np.int64]  # (admissions,)
    split: npt.NDArray[np.str_]  # (admissions,) train, valid or test, by patient
    y: npt.NDArray[np.bool_]  # (admissions,)
    X: npt.NDArray[np.float32]  # (admissions, dim)

    @property
    def cohort(self) -> Cohort:
        return Cohort(self.y, self.split, self.subject_id)


def train(
    store: Store,
    name: str,
    encoder: str | None = None,
    cutoff: str = "72h",
    horizon_days: int = 30,
    baseline: bool = True,
    aggregate: str | None = None,
) -> dict[str, Any]:
    """Fit a scorer on the training patients, test it on the test patients, keep it in the store.

    The regression is fitted on the mean of each admission's windows (`aggregate` "mean") and on
    the windows, put together by ClinicalBERT's rule ("clinicalbert"); where the encoder was
    fine-tuned on the training patients, also on patients whom it did not see, and with more
    shrinkage. What is best on the validation patients, by more than chance, is kept and calibrated
    on them (Platt); standardisation and calibration are folded into the coefficients. Training a
    name again makes its next version. `encoder` is the active one where it is not given. With
    `baseline` a bag-of-words regression is fitted on the same admissions, its text streamed from
    the source. Returns scorer_id and the metrics that the store keeps (README, "A scorer and what
    it is worth"). Raises FeatureStoreError where there is nothing to learn from, and changes
    nothing then.
    """
    started_at = datetime.now()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise FeatureStoreError(
            f"{name!r} is no name for a scorer - use letters, digits, - . and _"
        )
    if aggregate not in (None, *AGGREGATES):
        raise FeatureStoreError(f"unknown aggregate {aggregate} - use mean or clinicalbert")
    with store.lock("train"):
        encoder = find_encoder(store, encoder)
        follow_sync(store)
        rows = training_set(store, encoder, cutoff, horizon_days)
        cohort = rows.cohort
        means = Vectors("mean", rows.X, np.arange(len(rows.y)))
        head = store.one("SELECT head FROM encoders WHERE encoder_id = $e", e=encoder)[0]
        windows = None
        if aggregate != "mean" or head is not None:
            windows = _windows(store, encoder, cutoff, rows.hadm_id)
        found = _fits(means, windows, cohort, aggregate, _saw_training(store, encoder))
        fit = best(found, cohort)
        slope, intercept, calibrated_on = calibrate(fit, cohort)
        p = probability(slope * fit.log_odds + intercept)
        beside = {
            "prior_admissions": baselines.prior_admissions(store, rows.hadm_id, cohort),
            **(
                {"bag_of_words": baselines.bag_of_words(store, rows.hadm_id, cohort, cutoff)}
                if baseline
                else {}
            ),
            **({"head": baselines.head(head, windows, cohort)} if head and windows else {}),
        }
        vectors = means if fit.aggregate == "mean" or windows is None else windows
        measured = {
            "admissions": _counts(rows.split),
            "positives": _counts(rows.split[rows.y]),
            "c": fit.c,
            "aggregate": fit.aggregate,
            "fitted_on": fit.fitted_on,
            "calibration": {
                "slope": slope,
                "intercept": intercept,
                "calibrated_on": calibrated_on,
            },
            **_evaluation(store, rows, fit, p, beside, found, vectors),
            "stays_a_day": _stays_a_day(store, cutoff),
            "seed": 0,
            "bootstraps": BOOTSTRAPS,
            "versions": _versions(),
        }
        measured["warnings"] = _warnings(measured, calibrated_on)
        coefficients = _folded(fit, slope, intercept)
        with store.change("train", started_at) as change:
            number = change.con.execute(
                "SELECT coalesce(max(version), 0) + 1 FROM scorers WHERE name = $1", [name]
            ).fetchall()[0][0]
            scorer_id = f"{name}-v{number}"
            change.con.register("coefficients", _column(coefficients.pop("coef")))
            change.con.execute(
                "INSERT INTO scorers SELECT $id, $name, $version, $encoder, $cutoff, $rule, "
                "$horizon, coef, $intercept, $metrics, $hash, $now, $aggregate, "
                "$calibration_slope, $calibration_intercept FROM coefficients",
                {
                    "id": scorer_id,
                    "name": name,
                    "version": number,
                    "encoder": encoder,
                    "cutoff": cutoff,
                    "rule": LABEL_RULE,
                    "horizon": horizon_days,
                    "metrics": json.dumps(measured),
                    "hash": _training_hash(rows, vectors),
                    "now": started_at,
                    "aggregate": fit.aggregate,
                    **coefficients,
                },
            )
            change.con.register("rows", _rows_table(rows, p, beside))
            change.con.execute(
                "INSERT INTO scorer_rows SELECT $1, hadm_id, split, label, probability, "
                "prior_admissions, bag_of_words, head FROM rows",
                [scorer_id],
            )
            change.counts.update(scorer=scorer_id, admissions=len(rows.y))
    return {"scorer_id": scorer_id, **measured}


def training_set(store: Store, encoder: str, cutoff: str, horizon_days: int) -> TrainingSet:
    """Read the labelled admissions of an encoder; raises FeatureStoreError where none can be."""
    check_question(cutoff, horizon_days)
    table = store.sql(
        "FROM training_set($encoder, cutoff := $cutoff, horizon_days := $horizon) ORDER BY hadm_id",
        encoder=encoder,
        cutoff=cutoff,
        horizon=horizon_days,
    ).to_arrow_table()
    rows = TrainingSet(
        hadm_id=table["hadm_id"].to_numpy(),
        subject_id=table["subject_id"].to_numpy(),
        split=np.array(table["split"].to_pylist(), dtype=str),
        y=np.array(table["label"].to_pylist(), dtype=bool),
        X=arrow_to_vectors(table["embedding"]),
    )
    if not len(rows.y):
        raise FeatureStoreError(_why_no_labels(store, encoder, cutoff, horizon_days))
    of_train = rows.y[rows.split == "train"]
    if of_train.sum() < 2 or (~of_train).sum() < 2 or len(of_train) < _FEWEST:
        raise FeatureStoreError(
            f"the training patients have {int(of_train.sum())} returns among {len(of_train)} "
            f"labelled stays at {cutoff}, and {_FEWEST} stays with 2 returns are the fewest - "
            "embed more notes, or choose another cutoff or horizon"
        )
    if (np.ptp(rows.X, axis=0) <= 1e-6 * np.abs(rows.X).max(axis=0)).all():
        raise FeatureStoreError(
            f"all {len(rows.y):,} admissions have the same embedding by {encoder} - export the "
            "model again, from its last layer"
        )
    return rows


def _why_no_labels(store: Store, encoder: str, cutoff: str, horizon_days: int) -> str:
    reasons = store.sql(
        r"""
        SELECT regexp_replace(coalesce(l.reason, 'labelled'), ' by \d+$', ''), count(*)
        FROM admission_embeddings AS m
        INNER JOIN readmission_labels(horizon_days := $horizon) AS l USING (hadm_id)
        WHERE (m.encoder_id, m.cutoff) = ($encoder, $cutoff)
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1
        """,
        horizon=horizon_days,
        encoder=encoder,
        cutoff=cutoff,
    ).fetchall()
    if not reasons:
        return (
            f"{encoder} has no vectors of notes known at {cutoff} - embed more notes, or choose "
            "another cutoff"
        )
    ((reason, count),) = reasons
    return (
        f"no admission with vectors at {cutoff} has a label: {count:,} say {reason!r} - wait until "
        f"outcomes are known, or choose a shorter horizon (featurestore labels {store.path} shows "
        "all reasons)"
    )


def _windows(
    store: Store, encoder: str, cutoff: str, hadm_id: npt.NDArray[np.int64]
) -> Vectors | None:
    """The windows that the admissions' means are taken over; None where each has just one."""
    con = store.connect()
    con.register("wanted", _ids(hadm_id))
    from_windows = """
        FROM known_notes(cutoff := $cutoff) AS k
        SEMI JOIN wanted USING (hadm_id)
        INNER JOIN embeddings AS e ON k.note_id = e.note_id AND k.text_hash = e.text_hash
        WHERE e.encoder_id = $encoder
    """
    asked = {"cutoff": cutoff, "encoder": encoder}
    count, dim = con.execute(
        f"SELECT count(*), max(len(e.embedding)) {from_windows}", asked
    ).fetchall()[0]
    X = np.empty((count, dim), np.float32)
    of = np.empty(count, np.int64)
    at = 0
    for batch in con.execute(
        f"SELECT k.hadm_id, e.embedding {from_windows} ORDER BY 1, k.note_id, e.window_no", asked
    ).to_arrow_reader(8_192):
        here = slice(at, at + len(batch))
        X[here] = arrow_to_vectors(batch.column("embedding"))
        of[here] = np.searchsorted(hadm_id, batch.column("hadm_id").to_numpy())
        at += len(batch)
    con.unregister("wanted")
    return Vectors("clinicalbert", X, of)


def _fits(
    means: Vectors,
    windows: Vectors | None,
    cohort: Cohort,
    aggregate: str | None,
    saw_training: bool,
) -> list[Fit]:
    """Every fit that is asked for; of one window an admission, both ways are the same."""
    found: list[Fit] = []
    if aggregate != "clinicalbert":
        found += fits(means, cohort, saw_training)
    several = windows is not None and len(windows.of) > len(means.of)
    if windows is not None and (aggregate == "clinicalbert" or (aggregate is None and several)):
        found += fits(windows, cohort, saw_training)
    return found


def _saw_training(store: Store, encoder: str) -> bool:
    """Whether the encoder was fine-tuned on the training patients."""
    (manifest,) = store.one("SELECT manifest FROM encoders WHERE encoder_id = $e", e=encoder)
    return bool(json.loads(manifest).get("checkpoint", {}).get("finetune"))


def _folded(fit: Fit, slope: float, intercept: float) -> dict[str, Any]:
    """Coefficients, and what stays outside of them.

    Calibration of a mean is folded in; that of ClinicalBERT's rule applies to the log odds of what
    the windows make together.
    """
    if fit.aggregate == "mean":
        intercept_inside = slope * fit.intercept + intercept
        return {
            "coef": slope * fit.coef,
            "intercept": intercept_inside,
            "calibration_slope": 1.0,
            "calibration_intercept": 0.0,
        }
    return {
        "coef": fit.coef,
        "intercept": fit.intercept,
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


def _evaluation(
    store: Store,
    rows: TrainingSet,
    fit: Fit,
    p: Floats,
    beside: dict[str, Floats],
    found: Sequence[Fit],
    vectors: Vectors,
) -> dict[str, Any]:
    """All that is measured on test patients."""
    test = rows.split == "test"
    judge = Judge(rows.y[test], rows.subject_id[test])
    constant = np.full(len(rows.y), rows.y[rows.split == "train"].mean())
    systems = {"scorer": p, "prevalence": constant, **beside}
    return {
        "test": {name: judge.metrics(of_system[test]) for name, of_system in systems.items()},
        "differences": {
            name: judge.difference(auroc, p[test], of_system[test])
            for name, of_system in beside.items()
        },
        "alerts": judge.alerts(p[test]),
        "candidates": [_candidate(each, fit, judge, test) for each in found],
        "subgroups": _subgroups(store, rows, judge, p),
        "learning_curve": learning_curve(vectors, rows.cohort, fit, judge),
    }


def _candidate(fit: Fit, kept: Fit, judge: Judge, test: npt.NDArray[np.bool_]) -> dict[str, Any]:
    raw = probability(fit.log_odds[test])
    return {
        "aggregate": fit.aggregate,
        "fitted_on": fit.fitted_on,
        "c": fit.c,
        "valid_auroc": fit.valid_auroc,
        "test_auroc": judge.judge(auroc, fit.log_odds[test]),
        "test_slope": judge.judge(calibration_slope, raw),  # before calibration
        "naive": fit.aggregate == "mean" and fit.fitted_on == NAIVE,
        "kept": fit is kept,
    }


def _subgroups(store: Store, rows: TrainingSet, judge: Judge, p: Floats) -> list[dict[str, Any]]:
    """AUROC, and returns observed and expected, in each group of test patients."""
    test = rows.split == "test"
    con = store.connect()
    con.register("tested", _ids(rows.hadm_id[test]))
    table = con.execute(
        f"""
        SELECT
            {_AGE_BANDS} AS age,
            a.gender,
            split_part(a.ethnicity, ' - ', 1) AS ethnicity,
            a.insurance,
            a.admission_type AS "admission type"
        FROM tested AS t INNER JOIN admissions AS a USING (hadm_id)
        ORDER BY a.hadm_id
        """
    ).to_arrow_table()
    con.unregister("tested")
    found = []
    for by in table.column_names:
        groups = np.array([group or "not known" for group in table[by].to_pylist()], dtype=str)
        for group in sorted(set(groups.tolist())):
            members = groups == group
            y, told = rows.y[test][members], p[test][members]
            shown = min(y.sum(), (~y).sum()) >= _FEWEST_EVENTS
            found.append(
                {
                    "by": by,
                    "group": group,
                    "admissions": int(members.sum()),
                    "returned": int(y.sum()),
                    "auroc": judge.of(members).judge(auroc, told) if shown else None,
                    "observed": float(y.mean()) if shown else None,
                    "expected": float(told.mean()) if shown else None,
                }
            )
    return found


def _stays_a_day(store: Store, cutoff: str) -> float | None:
    """How many stays a live hospital predicts a day; a research extract's days mean nothing."""
    stays, days = store.one(
        """
        SELECT count(*), date_diff('day', min(p.prediction_time), max(p.prediction_time)) + 1
        FROM prediction_times(cutoff := $cutoff) AS p
        CROSS JOIN settings AS s
        WHERE s.live AND p.prediction_time BETWEEN s.observed_until - INTERVAL 1 YEAR
            AND s.observed_until
        """,
        cutoff=cutoff,
    )
    return stays / days if stays else None


def _warnings(measured: dict[str, Any], calibrated_on: str) -> list[str]:
    """What a reader of the numbers must know first."""
    found = []
    positives, admissions = measured["positives"], measured["admissions"]
    of_test: Interval = measured["test"]["scorer"]["auroc"]
    for split in ("valid", "test"):
        if positives[split] in (0, admissions[split]):
            found.append(
                f"of {admissions[split]:,} stays of {_NAMES[split]} patients {positives[split]:,} "
                f"returned: they cannot {_NOTHING[split]}"
            )
    if of_test is not None:
        estimate, low, high = of_test
        if positives["test"] < _ENOUGH_EVENTS:
            found.append(
                f"only {positives['test']:,} test stays returned: below {_ENOUGH_EVENTS} every "
                "number here is rough"
            )
        if low <= 0.5 <= high:
            found.append(
                f"the test AUROC of {in_words(of_test)} cannot be told from "
                "0.5, which is no better than chance"
            )
        elif high - low > estimate - 0.5:
            found.append(
                f"the interval of the test AUROC, {ends(of_test)}, is wider than its "
                f"distance from chance ({estimate - 0.5:.3f}) - more test patients would say more"
            )
    words = measured["differences"].get("bag_of_words")
    if words and words[2] < 0:
        found.append(
            f"bag-of-words is better by {-words[0]:.3f} AUROC ({-words[2]:.3f} to {-words[1]:.3f}) "
            "on the same test patients"
        )
    if not calibrated_on.startswith("validation"):
        found.append(
            f"fewer than {FEW} validation stays returned (or did not): the fit was not compared "
            f"with others, and was calibrated on {calibrated_on}"
        )
    if measured["calibration"]["slope"] <= 0.01:
        found.append(f"on {calibrated_on.split(',')[0]} the scorer does not tell who returns")
    return found


_NAMES = {"valid": "validation", "test": "test"}
_NOTHING = {"valid": "choose between fits", "test": "say how good the scorer is"}


def _versions() -> dict[str, str]:
    packages = ("clinical-featurestore", "duckdb", "numpy", "scikit-learn", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _counts(values: npt.NDArray[np.str_]) -> dict[str, int]:
    return {split: int((values == split).sum()) for split in ("train", "valid", "test")}


def _ids(hadm_id: npt.NDArray[np.int64]) -> Any:
    import pyarrow as pa

    return pa.table({"hadm_id": hadm_id})


def _column(coef: Floats) -> Any:
    import pyarrow as pa

    return pa.table({"coef": pa.FixedSizeListArray.from_arrays(pa.array(coef), len(coef))})


def _rows_table(rows: TrainingSet, p: Floats, beside: dict[str, Floats]) -> Any:
    import pyarrow as pa

    nothing = pa.nulls(len(rows.y), pa.float64())
    columns = {"hadm_id": rows.hadm_id, "split": rows.split.tolist(), "label": rows.y}
    columns |= {"probability": p}
    columns |= {name: beside.get(name, nothing) for name in BASELINES[1:]}
    return pa.table(columns)


def _training_hash(rows: TrainingSet, vectors: Vectors) -> str:
    """A SHA-256 over the frozen training set, in the order of hadm_id."""
    digest = hashlib.sha256()
    for column in (rows.hadm_id, rows.y, vectors.X):
        digest.update(np.ascontiguousarray(column).data)
    digest.update("\n".join(rows.split.tolist()).encode())
    return digest.hexdigest()
