"""What a scorer is worth: what stands beside it, and all that is measured on test patients."""

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training import baselines
from batch.training.data import TrainingSet, ids
from batch.training.metrics import (
    BOOTSTRAPS,
    Floats,
    Interval,
    PatientBootstrap,
    auroc,
    calibration_slope,
    ends,
    in_words,
    probability,
)
from batch.training.model_selection import FEW, NAIVE, CalibratedFit, Fit, Vectors, learning_curve
from featurestore.store.store import Store

_FEWEST_EVENTS = 20  # of a subgroup, returned or not, to be judged on its own
_ENOUGH_EVENTS = 100  # of test patients: below it, no validation is thought reliable
_AGE_BANDS = """
    CASE WHEN a.age < 18 THEN 'under 18' WHEN a.age < 45 THEN '18 to 44'
    WHEN a.age < 65 THEN '45 to 64' WHEN a.age < 75 THEN '65 to 74'
    WHEN a.age < 85 THEN '75 to 84' WHEN a.age >= 85 THEN '85 and over' END
"""


def fit_baselines(
    store: Store,
    rows: TrainingSet,
    cutoff: str,
    windows: Vectors | None,
    head: bytes | None,
    words: bool,
) -> dict[str, Floats]:
    """What stands beside a scorer, and the probabilities that it gives: (admissions,) each.

    Prior admissions; with `words` a bag-of-words regression on the same notes, streamed from the
    source; the fine-tuned classifier itself, where the encoder has its head.
    """
    cohort = rows.cohort
    found = {"prior_admissions": baselines.prior_admissions(store, rows.hadm_id, cohort)}
    if words:
        found["bag_of_words"] = baselines.bag_of_words(store, rows.hadm_id, cohort, cutoff)
    if head and windows:
        found["head"] = baselines.head(head, windows, cohort)
    return found


def measure(
    store: Store,
    rows: TrainingSet,
    cutoff: str,
    found: Sequence[Fit],
    kept: CalibratedFit,
    others: dict[str, Floats],
) -> dict[str, Any]:
    """All that the store keeps of how a scorer was made and how good it is, as JSON takes it.

    `found` are the fits that were tried, `others` what stands beside the one that was kept.
    """
    measured = {
        "admissions": _counts(rows.split),
        "positives": _counts(rows.split[rows.y]),
        "c": kept.fit.c,
        "aggregate": kept.fit.aggregate,
        "fitted_on": kept.fit.fitted_on,
        "calibration": {
            "slope": kept.slope,
            "intercept": kept.intercept,
            "calibrated_on": kept.calibrated_on,
        },
        **_on_test_patients(store, rows, found, kept, others),
        "stays_a_day": _stays_a_day(store, cutoff),
        "seed": 0,
        "bootstraps": BOOTSTRAPS,
        "versions": _versions(),
    }
    return measured | {"warnings": _warnings(measured)}


def _on_test_patients(
    store: Store,
    rows: TrainingSet,
    found: Sequence[Fit],
    kept: CalibratedFit,
    others: dict[str, Floats],
) -> dict[str, Any]:
    test, p = rows.split == "test", kept.probability
    bootstrap = PatientBootstrap(rows.y[test], rows.subject_id[test])
    constant = np.full(len(rows.y), rows.y[rows.split == "train"].mean())
    systems = {"scorer": p, "prevalence": constant, **others}
    return {
        "test": {name: bootstrap.metrics(of_system[test]) for name, of_system in systems.items()},
        "differences": {
            name: bootstrap.difference(auroc, p[test], of_system[test])
            for name, of_system in others.items()
        },
        "alerts": bootstrap.alerts(p[test]),
        "candidates": [_candidate(each, kept.fit, bootstrap, test) for each in found],
        "subgroups": _subgroups(store, rows, bootstrap, p),
        "learning_curve": learning_curve(kept.vectors, rows.cohort, kept.fit, bootstrap),
    }


def _candidate(
    fit: Fit, kept: Fit, bootstrap: PatientBootstrap, test: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    raw = probability(fit.log_odds[test])
    return {
        "aggregate": fit.aggregate,
        "fitted_on": fit.fitted_on,
        "c": fit.c,
        "valid_auroc": fit.valid_auroc,
        "test_auroc": bootstrap.estimate(auroc, fit.log_odds[test]),
        "test_slope": bootstrap.estimate(calibration_slope, raw),  # before calibration
        "naive": fit.aggregate == "mean" and fit.fitted_on == NAIVE,
        "kept": fit is kept,
    }


def _subgroups(
    store: Store, rows: TrainingSet, bootstrap: PatientBootstrap, p: Floats
) -> list[dict[str, Any]]:
    """AUROC, and returns observed and expected, in each group of test patients."""
    test = rows.split == "test"
    table = _groups(store, rows.hadm_id[test])
    found = []
    for by in table.column_names:
        groups = np.array([group or "not known" for group in table[by].to_pylist()], dtype=str)
        for group in sorted(set(groups.tolist())):
            of_group = _subgroup(rows.y[test], p[test], groups == group, bootstrap)
            found.append({"by": by, "group": group, **of_group})
    return found


def _groups(store: Store, hadm_id: npt.NDArray[np.int64]) -> Any:
    """A column for each way to group admissions, in the order of hadm_id."""
    con = store.connect()
    con.register("tested", ids(hadm_id))
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
    return table


def _subgroup(
    y: npt.NDArray[np.bool_], p: Floats, members: npt.NDArray[np.bool_], bootstrap: PatientBootstrap
) -> dict[str, Any]:
    y, p = y[members], p[members]
    shown = min(y.sum(), (~y).sum()) >= _FEWEST_EVENTS
    return {
        "admissions": int(members.sum()),
        "returned": int(y.sum()),
        "auroc": bootstrap.of(members).estimate(auroc, p) if shown else None,
        "observed": float(y.mean()) if shown else None,
        "expected": float(p.mean()) if shown else None,
    }


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


def _warnings(measured: dict[str, Any]) -> list[str]:
    """What a reader of the numbers must know first."""
    return [
        *_of_one_outcome(measured),
        *_of_auroc(measured["test"]["scorer"]["auroc"], measured["positives"]["test"]),
        *_of_words(measured["differences"].get("bag_of_words")),
        *_of_calibration(**measured["calibration"]),
    ]


def _of_one_outcome(measured: dict[str, Any]) -> Iterator[str]:
    positives, admissions = measured["positives"], measured["admissions"]
    for split in ("valid", "test"):
        if positives[split] in (0, admissions[split]):
            yield (
                f"of {admissions[split]:,} stays of {_NAMES[split]} patients {positives[split]:,} "
                f"returned: they cannot {_NOTHING[split]}"
            )


def _of_auroc(auroc: Interval, returned: int) -> Iterator[str]:
    if auroc is None:
        return
    estimate, low, high = auroc
    if returned < _ENOUGH_EVENTS:
        yield (
            f"only {returned:,} test stays returned: below {_ENOUGH_EVENTS} every number here is "
            "rough"
        )
    if low <= 0.5 <= high:
        yield (
            f"the test AUROC of {in_words(auroc)} cannot be told from 0.5, which is no better than "
            "chance"
        )
    elif high - low > estimate - 0.5:
        yield (
            f"the interval of the test AUROC, {ends(auroc)}, is wider than its distance from "
            f"chance ({estimate - 0.5:.3f}) - more test patients would say more"
        )


def _of_words(difference: Interval) -> Iterator[str]:
    if difference and difference[2] < 0:
        worse = [-difference[0], -difference[2], -difference[1]]
        yield (
            f"bag-of-words is better by {worse[0]:.3f} AUROC ({ends(worse)}) on the same test "
            "patients"
        )


def _of_calibration(slope: float, intercept: float, calibrated_on: str) -> Iterator[str]:
    if not calibrated_on.startswith("validation"):
        yield (
            f"fewer than {FEW} validation stays returned (or did not): the fit was not compared "
            f"with others, and was calibrated on {calibrated_on}"
        )
    if slope <= 0.01:
        yield f"on {calibrated_on.split(',')[0]} the scorer does not tell who returns"


_NAMES = {"valid": "validation", "test": "test"}
_NOTHING = {"valid": "choose between fits", "test": "say how good the scorer is"}


def _versions() -> dict[str, str]:
    packages = ("clinical-featurestore", "duckdb", "numpy", "scikit-learn", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _counts(values: npt.NDArray[np.str_]) -> dict[str, int]:
    return {split: int((values == split).sum()) for split in ("train", "valid", "test")}
