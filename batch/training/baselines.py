"""What stands beside a scorer: its words alone, earlier admissions, and the encoder's own head."""

import io
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from batch.training.metrics import platt, probability
from batch.training.model_selection import Cohort, Vectors, enough
from featurestore.errors import FeatureStoreError
from featurestore.source.source import open_source
from featurestore.store.store import Store

Floats = npt.NDArray[np.float64]

WORD_GRID = tuple(float(c) for c in np.logspace(-2, 4, 13))  # for TF-IDF rows of length 1
_WORD_COLUMNS = 2**18
_NO_BETTER = 3  # values of C in a row that end the search


def bag_of_words(
    store: Store, hadm_id: npt.NDArray[np.int64], cohort: Cohort, cutoff: str
) -> Floats:
    """The calibrated probabilities of a regression on TF-IDF of the same notes: (admissions,).

    C is the best on validation patients, or the middle of the grid where they are too few.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    train, valid = cohort.split == "train", cohort.split == "valid"
    counts = word_counts(store, hadm_id, cutoff)
    X = TfidfTransformer(sublinear_tf=True).fit(counts[train]).transform(counts)

    # From one C to the next; where validation patients are no longer served, the rest is spared.
    model = LogisticRegression(warm_start=True, tol=1e-3, max_iter=1_000)
    grid = WORD_GRID if enough(cohort.y[valid]) else WORD_GRID[len(WORD_GRID) // 2 :][:1]
    best, kept, worse = -1.0, np.zeros(len(cohort.y)), 0
    for c in grid:
        z = model.set_params(C=c).fit(X[train], cohort.y[train]).decision_function(X)
        auroc = roc_auc_score(cohort.y[valid], z[valid]) if len(grid) > 1 else 0.0
        if round(auroc, 6) > best:
            best, kept, worse = round(auroc, 6), np.asarray(z), 0
        else:
            worse += 1
        if worse == _NO_BETTER:
            break
    return _calibrated(kept, cohort)


def word_counts(store: Store, hadm_id: npt.NDArray[np.int64], cutoff: str) -> Any:
    """How often each word and pair of words stands in the notes that the embeddings saw.

    Hashed, so that the text streams by; none of it is kept: sparse (admissions, columns).
    """
    import scipy.sparse
    from sklearn.feature_extraction.text import HashingVectorizer

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
    for notes in open_source(store).texts(list(wanted)):
        rows = np.array([wanted[note] for note, _ in notes])
        here = words.transform([text for _, text in notes])
        to_admission = scipy.sparse.csr_matrix(
            (np.ones(len(rows)), (rows, np.arange(len(rows)))), (len(hadm_id), len(rows))
        )
        counts = counts + to_admission @ here
    return counts


def prior_admissions(store: Store, hadm_id: npt.NDArray[np.int64], cohort: Cohort) -> Floats:
    """The rule "two or more admissions in the 12 months before this one": (admissions,).

    Yes and no each give the share of training stays that came back.
    """
    often = {
        hadm
        for (hadm,) in store.sql(
            """
            SELECT a.hadm_id
            FROM admissions AS a
            INNER JOIN admissions AS earlier
                ON a.subject_id = earlier.subject_id
                AND earlier.admittime < a.admittime
                AND earlier.admittime >= a.admittime - INTERVAL 12 MONTH
            GROUP BY a.hadm_id
            HAVING count(*) >= 2
            """
        ).fetchall()
    }
    yes = np.array([hadm in often for hadm in hadm_id.tolist()])
    train = cohort.split == "train"
    shares = [
        (cohort.y[train & group].sum() + 1) / ((train & group).sum() + 2) for group in (~yes, yes)
    ]
    return np.asarray(np.where(yes, shares[1], shares[0]))


def head(weights: bytes, windows: Vectors, cohort: Cohort) -> Floats:
    """What the fine-tuned classifier itself says, by ClinicalBERT's rule, calibrated."""
    return _calibrated(windows.log_odds(classifier_log_odds(weights, windows.X)), cohort)


def classifier_log_odds(weights: bytes, X: npt.NDArray[np.float32]) -> Floats:
    """Return the log odds of a model folder's classifier_head.npz for [CLS]: (windows,)."""
    try:
        layers = dict(np.load(io.BytesIO(weights), allow_pickle=False))
    except (ValueError, TypeError, OSError, zipfile.BadZipFile):  # no archive, or of other things
        raise FeatureStoreError(
            "the head of the encoder is no archive of numbers - export the model again"
        ) from None
    first = X @ layers["dense"].T + layers["dense_bias"]
    first = np.tanh(first) if str(layers["activation"]) == "tanh" else np.maximum(first, 0)
    logits = first @ layers["out"].T + layers["out_bias"]  # (windows, 2)
    return np.asarray(logits[:, 1] - logits[:, 0])


def _calibrated(z: Floats, cohort: Cohort) -> Floats:
    """Probabilities of log odds, Platt's way on validation patients where there are enough."""
    valid = cohort.split == "valid"
    slope, intercept = platt(z[valid], cohort.y[valid]) if enough(cohort.y[valid]) else (1.0, 0.0)
    return probability(slope * z + intercept)
