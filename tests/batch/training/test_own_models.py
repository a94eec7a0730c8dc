"""Models of one's own on a store's training set: scikit-learn's pipeline, the project's metrics."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featurestore import create_store, embed_pending, evaluate_predictions, sync, train
from featurestore.errors import FeatureStoreError
from tests.conftest import WordCounter
from tests.hospital import invent_returns, write_hospital


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    stays, notes = invent_returns(400, base=0.1, effect=0.35, most_home=3)
    hospital = write_hospital(folder / "hospital", stays, notes)
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    return store, train(store, "readmit", baseline=False, aggregate="mean")


@pytest.mark.parametrize("solver", ["newton-cholesky", "lbfgs"])
def test_a_pipeline_of_scikit_learn_gives_the_recorded_coefficients_and_scores(trained, solver):
    store, metrics = trained
    data = store.training_set()
    fitted = data.split == "train"
    X = data.X.astype(np.float64)
    regression = LogisticRegression(C=metrics["c"], solver=solver, tol=1e-12, max_iter=10_000)
    pipeline = make_pipeline(StandardScaler(), regression).fit(X[fitted], data.y[fitted])

    slope, shift = metrics["calibration"]["slope"], metrics["calibration"]["intercept"]
    coef = slope * regression.coef_[0] / pipeline[0].scale_
    recorded_coef, recorded_intercept = store.one("SELECT coef, intercept FROM scorers")
    assert recorded_coef == pytest.approx(coef, abs=1e-6)
    intercept = slope * regression.intercept_[0] + shift - coef @ pipeline[0].mean_
    assert recorded_intercept == pytest.approx(intercept, abs=1e-6)

    limits = metrics["calibration"]["min_probability"], metrics["calibration"]["max_probability"]
    expected = np.clip(expit(slope * pipeline.decision_function(X) + shift), *limits)
    in_sql = dict(
        store.sql("SELECT hadm_id, probability FROM score_admissions('readmit-v1')").fetchall()
    )
    assert [in_sql[hadm_id] for hadm_id in data.hadm_id.tolist()] == pytest.approx(
        expected, abs=1e-6
    )
    assert np.std(expected) > 0.05


def test_the_metrics_of_recorded_predictions_are_the_recorded_metrics(trained):
    store, metrics = trained
    data = store.training_set()
    recorded = dict(store.sql("SELECT hadm_id, probability FROM scorer_admissions").fetchall())
    p = np.array([recorded[hadm_id] for hadm_id in data.hadm_id.tolist()])
    test = data.split == "test"
    y, p = data.y[test], p[test]
    evaluation = evaluate_predictions(y, p, data.groups[test])
    assert evaluation == metrics["test"]["scorer"]
    estimates = [evaluation[name][0] for name in ("auroc", "auprc", "brier")]
    by_scikit_learn = [f(y, p) for f in (roc_auc_score, average_precision_score, brier_score_loss)]
    assert estimates == pytest.approx(by_scikit_learn, abs=1e-9)
    # Texts as ids, and 0 and 1 as outcomes, give the same.
    assert (
        evaluate_predictions(y.astype(int).tolist(), p, data.groups[test].astype(str)) is not None
    )


def test_with_fewer_than_ten_stays_of_an_outcome_there_is_no_metric():
    y = np.arange(100) < 9
    assert set(evaluate_predictions(y, np.linspace(1, 0, 100), np.arange(100)).values()) == {None}


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        pytest.param([1, 0], [0.5], r"shapes \(2,\), \(1,\) and \(2,\)", id="another length"),
        pytest.param([1, 0], [[0.5, 0.5]] * 2, "predict_proba, column 1", id="both columns"),
        pytest.param([1, 2], [0.5, 0.5], "other values than True and False", id="a count"),
        pytest.param([1, 0], [0.5, -3.0], "give probabilities, not log odds", id="log odds"),
        pytest.param([1, 0], [0.5, np.nan], "values outside 0 to 1", id="NaN"),
    ],
)
def test_predictions_that_are_none_are_refused(y, p, message):
    with pytest.raises(FeatureStoreError, match=message):
        evaluate_predictions(y, p, [1, 2])
