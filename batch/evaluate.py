"""How good is a scorer: its metrics on patients it has not seen, and bag-of-words beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.store import Store

# From "almost nothing is believed" to "almost no shrinkage".
GRID = tuple(float(c) for c in np.logspace(-5, 1, 13))  # for standardised columns
WORD_GRID = tuple(float(c) for c in np.logspace(-2, 4, 13))  # for TF-IDF rows of length 1
_FOLDS = 5
_WORD_COLUMNS = 2**18


def fit(X: Any, y: npt.NDArray[np.bool_], c: float) -> Any:
    """A logistic regression (l2, strength 1 / c) on X (admissions, columns), deterministic.

    Dense columns are standardised first, in a pipeline of `scale` and `regression`.
    """
    import scipy.sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if scipy.sparse.issparse(X):
        words = LogisticRegression(C=c, solver="liblinear", random_state=0)
        return Pipeline([("regression", words)]).fit(X, y)
    X = X.astype(np.float64)
    scaler = StandardScaler().fit(X)
    # A column that is the same up to rounding says nothing, and is not to be blown up.
    scaler.scale_[scaler.scale_ < 1e-6 * scaler.scale_.max()] = 1
    regression = LogisticRegression(C=c, max_iter=5_000).fit(scaler.transform(X), y)
    return Pipeline([("scale", scaler), ("regression", regression)])


def choose_c(
    X: Any,
    y: npt.NDArray[np.bool_],
    split: npt.NDArray[np.str_],
    subject_id: npt.NDArray[np.int64],
    grid: Sequence[float] = GRID,
) -> tuple[float, str]:
    """The C of a grid with the best AUROC on the validation patients, and how it was chosen.

    Where the validation patients have no return, or none but returns, the training patients are
    cross-validated by patient instead, and the answer says so.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    train, valid = split == "train", split == "valid"
    if len(set(y[valid])) == 2:
        folds, chosen_by = [(train, valid)], "validation patients"
    else:
        rows = np.flatnonzero(train)
        groups = min(_FOLDS, len(set(subject_id[train])))
        cuts = GroupKFold(groups).split(rows, groups=subject_id[train])
        folds = [(rows[fitted], rows[held_out]) for fitted, held_out in cuts]
        chosen_by = "cross-validation on training patients (validation has one outcome only)"

    def auroc(c: float) -> float:
        of_folds = [
            roc_auc_score(
                y[held_out], fit(X[fitted], y[fitted], c).predict_proba(X[held_out])[:, 1]
            )
            for fitted, held_out in folds
            if len(set(y[held_out])) == 2 and len(set(y[fitted])) == 2
        ]
        return float(np.mean(of_folds)) if of_folds else 0.5

    # Of equals the smallest, which shrinks most.
    return max(grid, key=lambda c: (round(auroc(c), 6), -c)), chosen_by


def metrics(
    X: Any, y: npt.NDArray[np.bool_], split: npt.NDArray[np.str_], model: Any
) -> dict[str, float | None]:
    """AUROC, AUPRC and accuracy (at 0.5) on the test patients, None where they have no meaning."""
    from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

    test = split == "test"
    if not test.any():
        return {"auroc": None, "auprc": None, "accuracy": None, "prevalence": None}
    probability = model.predict_proba(X[test])[:, 1]
    both = len(set(y[test])) == 2
    return {
        "auroc": float(roc_auc_score(y[test], probability)) if both else None,
        "auprc": float(average_precision_score(y[test], probability)) if both else None,
        "accuracy": float(accuracy_score(y[test], probability > 0.5)),
        "prevalence": float(y[test].mean()),
    }


def bag_of_words(store: Store, hadm_id: npt.NDArray[np.int64], cutoff: str) -> Any:
    """TF-IDF of the same notes that the embeddings saw: sparse (admissions, columns).

    Words and pairs of words, hashed, so that the text streams by; none of it is kept.
    """
    import scipy.sparse
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    place = {int(hadm): row for row, hadm in enumerate(hadm_id)}
    known = dict(
        store.sql(
            "SELECT note_id, hadm_id FROM known_notes(cutoff := $cutoff)", cutoff=cutoff
        ).fetchall()
    )
    wanted = {note: place[hadm] for note, hadm in known.items() if hadm in place}
    words = HashingVectorizer(
        ngram_range=(1, 2), n_features=_WORD_COLUMNS, alternate_sign=False, norm=None
    )
    counts = scipy.sparse.csr_matrix((len(hadm_id), _WORD_COLUMNS))
    for notes in store.source().texts(list(wanted)):
        rows = np.array([wanted[note] for note, _ in notes])
        here = words.transform([text for _, text in notes])
        to_admission = scipy.sparse.csr_matrix(
            (np.ones(len(rows)), (rows, np.arange(len(rows)))), (len(hadm_id), len(rows))
        )
        counts = counts + to_admission @ here
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts)
