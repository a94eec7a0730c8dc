"""Everything that training a scorer reads from the store, as plain arrays."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from batch.embedding.covariates import Covariates, design_rows, find_covariates
from batch.training.aggregates import MEAN, Vectors, Windows
from batch.training.calibration import Floats
from batch.training.performance.subgroups import groups_of
from featurestore.cohort.tasks import Task
from featurestore.errors import NotEnoughDataError, SourceError
from featurestore.source.source import open_source
from featurestore.store.scorer_metrics import positives
from featurestore.store.sql_files import read_sql
from featurestore.store.store import Store
from featurestore.store.vectors import arrow_to_vectors

Mask = npt.NDArray[np.bool_]

_MIN_TRAINING_STAYS = 10
_MIN_TRAINING_OUTCOMES = 2  # positives, and as many negatives
_HASHED_WORDS = 2**18  # columns

# Of the sets of covariates of these names: the baseline on what is known without the notes.
UTILISATION = (
    *("admissions_before", "days_since_discharge", "days_so_far"),
    *("age", "male"),
)
_LOGARITHMIC = ("admissions_before", "days_since_discharge")
# Published indices, and the tables that each needs.
POINT_SCORES = {"lace": ("diagnoses", "ed_visits"), "hospital_score": ("hospital_score_items",)}

SPLITS = ("train", "valid", "test")
UNLABELLED = "unlabelled"  # the split of predicted test stays that have no label


@dataclass
class Cohort:
    """The outcome, split and patient of each admission."""

    y: Mask  # (admissions,) whether the outcome happened; False where unlabelled
    split: npt.NDArray[np.str_]  # (admissions,) train, valid or test, by patient; or UNLABELLED
    subject_id: npt.NDArray[np.int64]  # (admissions,)

    def subset(self, admissions: Mask) -> "Cohort":
        """Return the cohort of a subset of the admissions."""
        return Cohort(self.y[admissions], self.split[admissions], self.subject_id[admissions])


@dataclass
class TrainingData:
    """The labelled admissions of an encoder at a cutoff, ordered by hadm_id.

    The predicted stays of test patients that have no label (the patient died in hospital, ...) are
    among them, as they are alerted too. Nothing is fitted or chosen on them.
    """

    hadm_id: npt.NDArray[np.int64]  # (admissions,)
    cohort: Cohort
    reason: npt.NDArray[np.str_]  # (admissions,) why unlabelled; '' where labelled
    means: Vectors
    windows: Windows | None  # None where nothing that is fitted needs them
    classifier_head: bytes | None  # classification head of the fine-tuned checkpoint (.npz)
    encoder_saw_training: bool  # the encoder was fine-tuned on the training patients
    utilisation: Floats  # (admissions, features) of the baseline; UTILISATION names the first
    point_scores: dict[str, Floats]  # published index -> (admissions, 2): points, is unknown
    subgroups: dict[str, npt.NDArray[np.str_]]  # grouping -> group of each admission
    stays_per_day: float | None  # predicted in a live hospital
    observed_until: datetime | None  # of a live hospital
    word_counts: Any | None  # sparse (admissions, hashed words); None without bag-of-words
    outcome: str  # what positives did
    test_from: datetime | None  # test stays are predicted then or later
    covariates: tuple[str, ...] = ()
    unlimited_covariates: tuple[str, ...] = ()  # neither with $cutoff nor with known_at
    design: Floats | None = None  # (admissions, 2 * covariates); None without covariates

    def vectors(self, aggregate: str) -> Vectors:
        """Return the input of a regression by an aggregate (of AGGREGATES), with covariates."""
        if aggregate == MEAN:
            return replace(self.means, design=self.design)
        if self.windows is None:
            raise ValueError(f"{aggregate} needs the windows")
        return replace(self.windows.vectors(aggregate), design=self.design)

    @property
    def has_label(self) -> Mask:
        """Which admissions have a label: (admissions,)."""
        return np.asarray(self.cohort.split != UNLABELLED)


def training_data(
    store: Store,
    encoder: str,
    task: Task,
    cutoff: str,
    windows: bool = True,
    bag_of_words: bool = True,
    test: bool = True,
    test_from: datetime | None = None,
) -> TrainingData:
    """Read the labelled admissions of an encoder.

    Without `test`, those of test patients are not read. With `test_from`, the test stays are those
    of test patients that are predicted then or later, and all other stays are those of the other
    patients whose label was known before: no patient is on both sides, and no outcome decides it.
    `windows` reads the windows for regressions on them; the classification head needs them too.
    `bag_of_words` streams the notes' text from the source. Raises NotEnoughDataError where too few
    admissions are labelled to fit a regression.
    """
    params = {
        **{"encoder": encoder, "cutoff": cutoff, "labels": task.labels},
        **{"splits": SPLITS if test else SPLITS[:2], "test_from": test_from},
    }
    hadm_id, cohort, X = labelled_admissions(store, params)
    if test_from and not (cohort.split != "test").any():
        raise NotEnoughDataError(
            f"no label of a training patient was known before {test_from:%Y-%m-%d} - let the test "
            "begin on a later day"
        )
    if not len(hadm_id):
        raise NotEnoughDataError(_why_no_labels(store, encoder, task, cutoff))
    check_training_patients(cohort, cutoff, task.outcome)
    if (np.ptp(X, axis=0) <= 1e-6 * np.abs(X).max(axis=0)).all():
        raise NotEnoughDataError(
            f"all {len(X):,} admissions have the same embedding by {encoder} - export the "
            "model again, from its last layer"
        )
    hadm_id, cohort, reason, X = _add_unlabelled_test_stays(store, params, hadm_id, cohort, X)
    head, manifest = store.one(
        "SELECT classifier_head, manifest FROM encoders WHERE encoder_id = $encoder",
        encoder=encoder,
    )
    stays, days = store.one(read_sql("training/stays_per_day"), cutoff=cutoff)
    observed_until = store.one("SELECT observed_until FROM settings")[0]
    con = store.connect()
    con.register("training_admissions", _hadm_id_table(hadm_id))
    try:
        subgroups = groups_of(con)
        return TrainingData(
            hadm_id=hadm_id,
            cohort=cohort,
            reason=reason,
            means=Vectors(MEAN, X, np.arange(len(hadm_id))),
            windows=_windows(con, encoder, cutoff, hadm_id) if windows or head else None,
            classifier_head=head,
            encoder_saw_training=bool(json.loads(manifest).get("checkpoint", {}).get("finetune")),
            utilisation=_utilisation(store, cutoff, hadm_id, subgroups),
            point_scores=_point_scores(con, cutoff),
            subgroups=subgroups,
            stays_per_day=stays / days if stays else None,
            observed_until=observed_until,
            word_counts=_baseline_words(store, hadm_id, cutoff) if bag_of_words else None,
            outcome=task.outcome,
            test_from=test_from,
        )
    finally:
        con.unregister("training_admissions")


def splits_in_turn(store: Store, cohort: Cohort, turn: int) -> Cohort:
    """Return the cohort with the splits of another turn of `patient_split`; 0 is the usual one."""
    con = store.connect()
    con.register("patients", _subject_id_table(cohort.subject_id))
    try:
        rows = con.execute(
            "SELECT patient_split(subject_id, turn := $1) AS split FROM patients ORDER BY row_no",
            [turn],
        ).to_arrow_table()
    finally:
        con.unregister("patients")
    split = np.array(rows["split"].to_pylist(), dtype=str)
    return replace(cohort, split=np.where(cohort.split == UNLABELLED, UNLABELLED, split))


def stays_of_scorer(
    store: Store, params: dict[str, Any], aggregate: str, covariates: Covariates | None
) -> tuple[Cohort, Vectors]:
    """Return the labelled admissions of a store with the input of a scorer, by hadm_id.

    `params` are those of sql/training/labelled_admissions.sql.
    """
    hadm_id, cohort, X = labelled_admissions(store, params)
    cutoff = params["cutoff"]
    vectors = Vectors(MEAN, X, np.arange(len(hadm_id)))
    if aggregate != MEAN:
        con = store.connect()
        con.register("training_admissions", _hadm_id_table(hadm_id))
        try:
            vectors = _windows(con, params["encoder"], cutoff, hadm_id).vectors(aggregate)
        finally:
            con.unregister("training_admissions")
    if covariates is not None:
        design = covariate_design(store, covariates, cutoff, hadm_id)
        vectors = replace(vectors, design=design)
    return cohort, vectors


def labelled_admissions(
    store: Store, params: dict[str, Any]
) -> tuple[npt.NDArray[np.int64], Cohort, npt.NDArray[np.float32]]:
    """Return the admissions with a mature label, and their means (admissions, dim), by hadm_id.

    `params` are those of sql/training/labelled_admissions.sql.
    """
    table = store.sql(read_sql("training/labelled_admissions"), **params).to_arrow_table()
    cohort = Cohort(
        y=np.array(table["label"].to_pylist(), dtype=bool),
        split=np.array(table["split"].to_pylist(), dtype=str),
        subject_id=table["subject_id"].to_numpy(),
    )
    # Without rows the width is not known.
    X = arrow_to_vectors(table["embedding"]) if len(table) else np.empty((0, 0), np.float32)
    return table["hadm_id"].to_numpy(), cohort, X


def _add_unlabelled_test_stays(
    store: Store,
    params: dict[str, Any],
    hadm_id: npt.NDArray[np.int64],
    cohort: Cohort,
    X: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], Cohort, npt.NDArray[np.str_], npt.NDArray[np.float32]]:
    """Return the admissions with the unlabelled ones among them, and the reasons of those."""
    table = store.sql(read_sql("training/unlabelled_test_stays"), **params).to_arrow_table()
    reason = np.array([""] * len(hadm_id) + table["reason"].to_pylist(), dtype=str)
    if not len(table):
        return hadm_id, cohort, reason, X
    hadm_id = np.concatenate([hadm_id, table["hadm_id"].to_numpy()])
    order = np.argsort(hadm_id)
    cohort = Cohort(
        y=np.concatenate([cohort.y, np.zeros(len(table), bool)])[order],
        split=np.concatenate([cohort.split, [UNLABELLED] * len(table)])[order],
        subject_id=np.concatenate([cohort.subject_id, table["subject_id"].to_numpy()])[order],
    )
    X = np.concatenate([X, arrow_to_vectors(table["embedding"])])
    return hadm_id[order], cohort, reason[order], X[order]


def check_training_patients(cohort: Cohort, cutoff: str, outcome: str) -> None:
    """Raise NotEnoughDataError where training patients have too few stays to fit a regression."""
    y = cohort.y[cohort.split == "train"]
    if len(np.unique(cohort.subject_id[cohort.split == "train"])) == 1:
        raise NotEnoughDataError(
            f"all {len(y)} labelled stays of training patients at {cutoff} are of one patient - "
            "embed the notes of more patients"
        )
    if min(y.sum(), (~y).sum()) < _MIN_TRAINING_OUTCOMES or len(y) < _MIN_TRAINING_STAYS:
        raise NotEnoughDataError(
            f"the training patients have {int(y.sum())} {positives(outcome)} among {len(y)} "
            f"labelled stays at {cutoff}, at least {_MIN_TRAINING_OUTCOMES} {positives(outcome)} "
            f"among {_MIN_TRAINING_STAYS} stays are needed - embed more notes, or choose another "
            "cutoff or horizon"
        )


def _why_no_labels(store: Store, encoder: str, task: Task, cutoff: str) -> str:
    reasons = store.sql(
        read_sql("training/most_frequent_reason"),
        encoder=encoder,
        cutoff=cutoff,
        labels=task.labels,
    ).fetchall()
    if not reasons:
        return (
            f"{encoder} has no vectors of notes known at {cutoff} - embed more notes, or choose "
            "another cutoff"
        )
    ((reason, count),) = reasons
    return (
        f"no admission with vectors at {cutoff} has a label, {count:,} of them because of "
        f"{reason!r} - wait until outcomes are known, or choose a shorter horizon "
        f"(featurestore labels {store.path} shows all reasons)"
    )


def _windows(
    con: duckdb.DuckDBPyConnection, encoder: str, cutoff: str, hadm_id: npt.NDArray[np.int64]
) -> Windows:
    """Return the windows over which the admissions' mean vectors are computed."""
    query, params = read_sql("training/known_windows"), {"encoder": encoder, "cutoff": cutoff}
    ((count,),) = con.execute(f"SELECT count(*) FROM ({query})", params).fetchall()
    ((dim,),) = con.execute("SELECT dim FROM encoders WHERE encoder_id = $1", [encoder]).fetchall()
    windows = Windows(
        X=np.empty((count, dim), np.float32),
        admission_index=np.empty(count, np.int64),
        note_no=np.empty(count, np.int64),
        is_of_last_note=np.empty(count, bool),
    )
    first = 0
    for batch in con.execute(query, params).to_arrow_reader(8_192):
        rows = slice(first, first + len(batch))
        windows.X[rows] = arrow_to_vectors(batch.column("embedding"))
        hadm_ids = batch.column("hadm_id").to_numpy()
        windows.admission_index[rows] = np.searchsorted(hadm_id, hadm_ids)
        windows.note_no[rows] = batch.column("note_no").to_numpy()
        windows.is_of_last_note[rows] = batch.column("is_of_last_note").to_pylist()
        first += len(batch)
    return windows


def _utilisation(
    store: Store, cutoff: str, hadm_id: npt.NDArray[np.int64], groups: dict[str, npt.NDArray[Any]]
) -> Floats:
    """Return what is known of a patient without the notes: (admissions, features).

    Each of UTILISATION, those of _LOGARITHMIC as log(1 + value), and whether it is missing; then a
    column for each admission type and insurance.
    """
    sets = find_covariates(store, ("utilisation", "demographics"))
    if sets is None:
        raise ValueError("no sets")
    design = covariate_design(store, sets, cutoff, hadm_id)
    columns = []
    for name in UTILISATION:
        at = 2 * sets.columns.index(name)
        value, missing = design[:, at], design[:, at + 1]
        columns += [np.log1p(value.clip(0)) if name in _LOGARITHMIC else value, missing]
    for grouping in ("admission type", "insurance"):
        of_group = groups[grouping]
        columns += [of_group == group for group in np.unique(of_group)]
    return np.column_stack(columns).astype(np.float64)


def _point_scores(con: duckdb.DuckDBPyConnection, cutoff: str) -> dict[str, Floats]:
    """Return the published indices at discharge whose inputs the source gives."""
    scores: dict[str, Floats] = {}
    if not cutoff.startswith("discharge"):
        return scores
    con.execute(read_sql("training/baselines/charlson_codes"))
    for name, tables in POINT_SCORES.items():
        if all(con.execute(f"FROM {table} LIMIT 1").fetchall() for table in tables):
            rows = con.execute(read_sql(f"training/baselines/{name}")).fetchnumpy()
            scores[name] = np.column_stack([rows["points"], rows["is_unknown"]]).astype(np.float64)
    return scores


def _baseline_words(store: Store, hadm_id: npt.NDArray[np.int64], cutoff: str) -> Any:
    try:
        return word_counts(store, hadm_id, cutoff)
    except SourceError as error:
        raise SourceError(
            f"{error}; only the bag-of-words baseline needs the text: --no-baseline "
            "(baseline=False in Python) trains without it"
        ) from None


def word_counts(store: Store, hadm_id: npt.NDArray[np.int64], cutoff: str) -> Any:
    """Count words and pairs of words in the notes known at the prediction times.

    A text that several notes of an admission repeat counts once, as it does in the means. Words are
    hashed while the text streams from the source; no text is kept. Returns a sparse matrix
    (admissions, hashed words).
    """
    import scipy.sparse
    from sklearn.feature_extraction.text import HashingVectorizer

    row_of = {int(hadm): row for row, hadm in enumerate(hadm_id)}
    known_notes = store.sql(read_sql("training/known_texts"), cutoff=cutoff).fetchall()
    row_of_note = {note_id: row_of[hadm] for note_id, hadm in known_notes if hadm in row_of}
    vectorizer = HashingVectorizer(
        ngram_range=(1, 2), n_features=_HASHED_WORDS, alternate_sign=False, norm=None
    )
    parts: list[Any] = []
    for notes in open_source(store).texts(list(row_of_note)):
        rows = np.array([row_of_note[note_id] for note_id, _ in notes])
        note_counts = vectorizer.transform([text for _, text in notes])
        admission_of_note = scipy.sparse.csr_matrix(
            (np.ones(len(rows)), (rows, np.arange(len(rows)))), (len(hadm_id), len(rows))
        )
        part = admission_of_note @ note_counts
        # Only matrices of about the same size are added, so that each count is copied few times.
        while parts and parts[-1].nnz <= 2 * part.nnz:
            part = parts.pop() + part
        parts.append(part)
    return sum(parts, start=scipy.sparse.csr_matrix((len(hadm_id), _HASHED_WORDS)))


def covariate_design(
    store: Store, covariates: Covariates, cutoff: str, hadm_id: npt.NDArray[np.int64]
) -> Floats:
    """Return the design of covariates of admissions (admissions, 2 * covariates)."""
    rows = design_rows(store, store.connect(), covariates, cutoff)
    width = 2 * len(covariates.columns)
    design = rows["design"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    predicted = rows["hadm_id"].to_numpy()
    if not np.isin(hadm_id, predicted).all():
        raise ValueError("an admission with a mean is not predicted")
    return np.asarray(design[np.searchsorted(predicted, hadm_id)])


def _hadm_id_table(hadm_id: npt.NDArray[np.int64]) -> Any:
    import pyarrow as pa

    return pa.table({"hadm_id": hadm_id})


def _subject_id_table(subject_id: npt.NDArray[np.int64]) -> Any:
    import pyarrow as pa

    return pa.table({"subject_id": subject_id, "row_no": np.arange(len(subject_id))})
