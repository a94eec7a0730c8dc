"""Covariates beside the vector: fitted as by scikit-learn, scored by one inner product."""

import json

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import expit
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from batch.training.aggregates import Vectors
from batch.training.data import Cohort
from batch.training.model_selection import fit_calibrated
from batch.training.performance.covariates_alone import auroc_alone
from batch.training.performance.estimates import clustered_auroc
from featurestore import (
    Store,
    add_task,
    audit,
    create_store,
    embed_pending,
    explain,
    forget,
    nightly,
    replay,
    report,
    score,
    sync,
    train,
    verify,
)
from featurestore.cli import main
from featurestore.errors import FeatureStoreError
from featurestore.store.integrity.checksums import update_rows
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import edited
from tests.timeline import day

PATIENTS = 240
OWN = """
-- burden($cutoff): a number that is missing for some, a constant, and a flag.
SELECT
    hadm_id,
    CASE WHEN hadm_id % 5 > 0 THEN 10 + sqrt(hadm_id % 97) END AS burden,
    7 AS constant,
    hadm_id % 3 = 0 AS is_third,
    prediction_time AS known_at
FROM prediction_times(cutoff := $cutoff);
"""


def tables():
    """Patients in pain return more often, the old too; pain is in the notes, age is not."""
    rng = np.random.default_rng(0)
    stays, notes, patients = [], [], []
    for patient in range(1, PATIENTS + 1):
        pain, old = int(rng.integers(0, 4)), bool(rng.random() < 0.5)
        patients.append(
            {
                "SUBJECT_ID": patient,
                "GENDER": "MF"[int(rng.integers(2))],
                "DOB": day(-365 * (80 if old else 40)),
            }
        )
        kind = "EMERGENCY" if rng.random() < 0.7 else "ELECTIVE"
        stays.append(admission(patient, admission_type=kind))
        if rng.random() < 0.05 + 0.12 * pain + 0.35 * old:
            stays.append(admission(1000 + patient, patient, day(20), day(25)))
            notes.append(note(1000 + patient, 1000 + patient, "home", day(21), subject_id=patient))
        words = " ".join(["home"] * int(rng.integers(1, 4)) + ["pain"] * pain)
        notes.append(note(patient, patient, words))
        if rng.random() < 0.3:
            notes.append(note(5000 + patient, patient, "alone home", day(2)))
    return stays, notes, patients


def add_note(folder):
    """Add a note to the first patient, whose mean changes."""
    stays, notes, patients = tables()
    write_hospital(folder, stays, [*notes, note(9000, 1, "canary canary", day(1))], patients)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("covariates")
    hospital = write_hospital(folder / "hospital", *tables())
    (folder / "own.sql").write_text(OWN)
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(store)
    embed_pending(store, WordCounter())
    for aggregate in ("mean", "max", "last-note"):
        result = train(
            store,
            aggregate,
            baseline=False,
            aggregate=aggregate,
            covariates=["demographics", folder / "own.sql"],
        )
        assert result["no_signal"] is None
    return store


@pytest.fixture
def store(template, tmp_path):
    """A copy to change, with a hospital of its own."""
    (tmp_path / "w.duckdb").write_bytes(template.path.read_bytes())
    (tmp_path / "w.duckdb").chmod(0o600)
    write_hospital(tmp_path / "hospital", *tables())
    store = Store(tmp_path / "w.duckdb")
    with store.transaction("move") as transaction:
        transaction.con.execute("UPDATE settings SET source = $1", [str(tmp_path / "hospital")])
    return store


def training_rows(store, name):
    """Return the vectors, the covariates (NaN: missing), the outcome and the split of stays."""
    rows = store.sql(
        "SELECT m.hadm_id, m.embedding, a.age, a.gender = 'M', a.planned, "
        "a.admission_type = 'EMERGENCY', r.label, r.split FROM scorer_admissions AS r "
        "JOIN admission_embeddings AS m USING (hadm_id) JOIN admissions AS a USING (hadm_id) "
        "WHERE scorer_id = $s AND cutoff = '72h' AND label IS NOT NULL ORDER BY hadm_id",
        s=f"{name}-v1",
    ).fetchall()
    hadm_id = np.array([row[0] for row in rows])
    burden = np.where(hadm_id % 5 > 0, 10 + np.sqrt(hadm_id % 97), np.nan)
    of_patient = np.array([row[2:6] for row in rows], dtype=float)
    constant, third = np.full(len(rows), 7.0), (hadm_id % 3 == 0).astype(float)
    covariates = np.column_stack([of_patient, burden, constant, third])
    X = np.array([row[1] for row in rows], dtype=np.float64)
    return hadm_id, X, covariates, np.array([r[6] for r in rows]), np.array([r[7] for r in rows])


def test_the_coefficients_are_those_of_a_pipeline_of_scikit_learn(template):
    """A plain pipeline with the recorded C on the same rows gives the same log odds, to 1e-6."""
    _, X, covariates, y, split = training_rows(template, "mean")
    metrics = json.loads(template.one("SELECT metrics FROM scorers WHERE name = 'mean'")[0])
    vector, numbers = list(range(X.shape[1])), list(range(X.shape[1], X.shape[1] + 7))
    with_indicators = make_union(
        SimpleImputer(),
        make_pipeline(FunctionTransformer(np.isnan), FunctionTransformer(np.float64)),
    )
    pipeline = make_pipeline(
        ColumnTransformer([("v", "passthrough", vector), ("c", with_indicators, numbers)]),
        StandardScaler(),
        LogisticRegression(C=metrics["c"], tol=1e-10, max_iter=10_000),
    )
    rows = np.hstack([X, covariates])
    pipeline.fit(rows[split == "train"], y[split == "train"])
    log_odds = pipeline.decision_function(rows)
    # Our log odds are calibrated: a straight line of those.
    coef, intercept = template.one("SELECT coef, intercept FROM scorers WHERE name = 'mean'")
    design = np.empty((len(rows), 14))
    design[:, ::2], design[:, 1::2] = np.nan_to_num(covariates), np.isnan(covariates)
    ours = np.hstack([X, design]) @ np.array(coef) + intercept
    slope, shift = np.polyfit(log_odds, ours, 1)
    assert slope == pytest.approx(metrics["calibration"]["slope"], rel=1e-5)
    assert (ours - shift) / slope == pytest.approx(log_odds, abs=1e-6)
    assert np.std(log_odds) > 0.1
    # Per standard deviation, as the standardised pipeline has them.
    theirs = pipeline[-1].coef_[0][X.shape[1] :]
    assert [each["log_odds"] / slope for each in metrics["covariates"]] == pytest.approx(
        theirs[:7], abs=1e-5
    )
    assert [each["name"] for each in metrics["covariates"]] == [
        *("age", "male", "planned", "emergency", "burden", "constant", "is_third")
    ]
    burden, constant = metrics["covariates"][4:6]
    assert burden["mean"] == pytest.approx(np.nanmean(covariates[split == "train", 4]))
    assert burden["missing"] == pytest.approx(np.isnan(covariates[split == "train", 4]).mean())
    assert constant["log_odds"] == constant["log_odds_if_missing"] == 0


def test_scores_are_one_inner_product_in_the_plain_shell(template, tmp_path):
    file = tmp_path / "copy.duckdb"
    file.write_bytes(template.path.read_bytes())
    with duckdb.connect(str(file), read_only=True) as con:
        typed = con.execute(
            """
            SELECT m.hadm_id, 1 / (1 + exp(-(
                list_inner_product(list_concat(m.embedding, c.design), s.coef) + s.intercept)))
            FROM admission_embeddings AS m, admission_covariates AS c, scorers AS s
            WHERE s.scorer_id = 'mean-v1' AND c.covariates_id = s.covariates_id
                AND m.encoder_id = s.encoder_id AND m.cutoff = s.cutoff AND c.cutoff = s.cutoff
                AND c.hadm_id = m.hadm_id
            """
        ).fetchall()
        scores = con.execute("SELECT hadm_id, probability FROM score_admissions('mean-v1')")
        in_sql = dict(scores.fetchall())
        limits = con.execute("SELECT min_probability, max_probability FROM scorers").fetchall()[0]
    assert len(in_sql) > PATIENTS
    assert {hadm_id: float(np.clip(p, *limits)) for hadm_id, p in typed} == in_sql


@pytest.mark.parametrize("aggregate", ["mean", "max", "last-note"])
def test_scores_in_sql_are_those_of_python_and_are_explained(template, aggregate):
    scorer = f"{aggregate}-v1"
    in_sql = dict(
        template.sql("SELECT hadm_id, probability FROM score_admissions($s)", s=scorer).fetchall()
    )
    fitted = template.sql(
        "SELECT hadm_id, probability FROM scorer_admissions WHERE scorer_id = $s", s=scorer
    ).fetchall()
    assert {hadm_id: in_sql[hadm_id] for hadm_id, _ in fitted} == pytest.approx(
        dict(fitted), abs=1e-6
    )
    for hadm_id in (3, 5, 10):
        explanation = explain(template, hadm_id, scorer)
        parts = [*explanation["windows"], *explanation["covariates"]]
        total = explanation["base"] + sum(part["contribution"] for part in parts)
        assert expit(total) == pytest.approx(explanation["probability"], abs=1e-6)
    coef, means = template.one(
        "SELECT coef, covariate_means FROM scorers WHERE name = $n", n=aggregate
    )
    part = {each["covariate"]: each for each in explanation["covariates"]}
    assert part["burden"]["value"] is None  # 10 is a multiple of 5
    assert part["age"]["contribution"] == pytest.approx(coef[4] * (part["age"]["value"] - means[0]))
    assert part["constant"]["contribution"] == 0


def test_what_each_part_adds_is_compared_on_the_same_test_stays(template):
    metrics = json.loads(template.one("SELECT metrics FROM scorers WHERE name = 'mean'")[0])
    rows = template.sql(
        "SELECT label, probability, notes_alone, covariates_alone FROM scorer_admissions "
        "WHERE scorer_id = 'mean-v1' AND split = 'test' AND label IS NOT NULL"
    ).fetchall()
    y, both, notes, covariates = np.array(rows, dtype=float).T
    assert metrics["test"]["notes_alone"]["auroc"][0] == pytest.approx(roc_auc_score(y, notes))
    for name, part in (("notes_alone", notes), ("covariates_alone", covariates)):
        estimate, low, high = metrics["differences"][name]
        assert estimate == pytest.approx(roc_auc_score(y, both) - roc_auc_score(y, part))
        assert low < estimate < high


def test_commands_show_the_covariates(template, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    path = tmp_path / "w.duckdb"
    path.write_bytes(template.path.read_bytes())
    path.chmod(0o600)
    shown = run("train", path, "again", "--no-baseline", "--covariates", "demographics",
                "--covariates", "utilisation")  # fmt: skip
    for words in ("notes alone", "covariates alone", "AUROC gained by covariates: ", "  age  "):
        assert words in shown
    explained = run("explain", path, 10, "--scorer", "mean")
    assert "burden                          missing" in explained
    report(Store(path), "mean", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Covariates alone" in page and "is_third " in page


def test_the_gain_of_a_covariate_that_the_notes_do_not_have_is_found():
    """Half of the risk is in the vector, half in a covariate."""
    rng = np.random.default_rng(0)
    n = 3_000
    X, x = rng.standard_normal((n, 3)).astype(np.float32), rng.standard_normal(n)
    y = rng.random(n) < expit(X[:, 0] + x)
    missing = rng.random(n) < 0.2
    design = np.column_stack([np.where(missing, 0, x), missing]).astype(float)
    cohort = Cohort(y, rng.choice(["train", "valid", "test"], n), np.arange(n))
    test = cohort.split == "test"

    def test_auroc(design):
        fit = fit_calibrated(Vectors("mean", X, np.arange(n), design), cohort, False)
        return roc_auc_score(y[test], fit.probability[test])

    ideal = roc_auc_score(y[test], (X[:, 0] + np.where(missing, 0, x))[test])
    assert test_auroc(design) == pytest.approx(ideal, abs=0.01)
    assert test_auroc(design) > test_auroc(None) + 0.05


# --- what is known at the prediction time


def test_utilisation_does_not_see_what_came_after_the_prediction(tmp_path):
    """A stay that ends, and another that begins, after the prediction changes nothing."""
    stays = [
        admission(1, 7, day(0), day(10)),  # 20 days before
        admission(2, 7, day(-500), day(-490)),  # before the 12 months
        admission(3, 7, day(30), day(90)),  # predicted at day 33
        admission(4, 7, day(95), day(99)),  # later
    ]
    folder = write_hospital(tmp_path / "hospital", stays, [note(1, 3, "home", day(31))])
    store = create_store(tmp_path / "w.duckdb", folder, "mimic3")
    sync(store)
    from featurestore.store.sql_files import read_sql

    def of_third(cutoff):
        rows = store.sql(read_sql("covariates/utilisation"), cutoff=cutoff).fetchall()
        return {row[0]: row[1:] for row in rows}.get(3)

    assert of_third("72h") == (1, 20, 3.0)
    # Two days after the discharge at day 90.
    assert of_third("discharge") == (1, 20, 60.0)
    write_hospital(
        folder, [*stays[:2], admission(3, 7, day(30), day(34))], [note(1, 3, "home", day(31))]
    )
    sync(store)
    assert of_third("72h") == (1, 20, 3.0)
    ages = store.sql(read_sql("covariates/demographics"), cutoff="72h").fetchall()
    assert (3, 60, False, False, True) in ages


# --- kept up, replayed and forgotten


def test_a_score_is_replayed_when_its_note_and_its_covariate_have_changed(store):
    first = score(store, "mean")["run_id"]
    add_note(store.path.parent / "hospital")
    with edited(store) as transaction:
        transaction.con.execute("UPDATE admissions SET age = 20 WHERE hadm_id IN (1, 2)")
    embed_pending(store, WordCounter())  # the covariates alone
    second = score(store, "mean")["run_id"]
    sync(store)
    embed_pending(store, WordCounter())
    for run_id in (first, second):
        result = replay(store, run_id)
        assert (result["same"], result["different"]) == (result["scored"], 0)
    ages = store.sql(
        "SELECT hadm_id, design[1] FROM archived_admission_covariates "
        "WHERE cutoff = '72h' ORDER BY 1"
    ).fetchall()
    assert {hadm_id for hadm_id, _ in ages} == {1, 2}
    assert verify(store) == []


def test_a_night_keeps_the_covariates_and_scores_what_they_change(store):
    score(store, "mean")
    stays, notes, patients = tables()
    patients[1]["DOB"] = day(-365 * 30)
    new = [admission(7000, 7000, day(0), day(10)), note(7000, 7000, "pain")]
    patients.append({"SUBJECT_ID": 7000, "GENDER": "F", "DOB": day(-365 * 50)})
    write_hospital(store.path.parent / "hospital", [*stays, new[0]], [*notes, new[1]], patients)
    counts = nightly(store, WordCounter(), "mean")
    scored = store.sql(
        "SELECT DISTINCT hadm_id FROM scores WHERE run_id = $r ORDER BY 1", r=counts["run_id"]
    ).fetchall()
    assert {2, 7000} <= {hadm_id for (hadm_id,) in scored}
    assert len(scored) <= 3  # and the return of the second patient, if there was one
    assert store.one(
        "SELECT count(*) = count(DISTINCT hadm_id) * 1 FROM admission_covariates "
        "WHERE hadm_id = 7000"
    ) == (True,)
    assert nightly(store, WordCounter(), "mean")["run_id"] is None
    assert verify(store) == []


def test_a_forgotten_patient_leaves_no_covariates(store):
    score(store, "mean")
    with edited(store) as transaction:
        transaction.con.execute("UPDATE admissions SET age = 20 WHERE hadm_id = 1")
    embed_pending(store, WordCounter())
    rows = forget(store, [1])["rows"]
    assert rows["admission_covariates"] >= 1 and rows["archived_admission_covariates"] == 1
    for table in ("admission_covariates", "archived_admission_covariates"):
        assert store.one(f"SELECT count(*) FROM {table} WHERE hadm_id = 1") == (0,)
    assert verify(store) == []


def test_a_predicted_stay_without_a_row_has_all_covariates_missing(store, tmp_path):
    file = tmp_path / "few.sql"
    file.write_text("SELECT hadm_id, age, hadm_id % 4 AS rest FROM admissions WHERE hadm_id < 200")
    train(store, "few", baseline=False, aggregate="mean", covariates=[file])
    assert (
        store.one(
            "SELECT count(*), min(design), max(design) FROM admission_covariates AS c "
            "JOIN scorers AS s USING (covariates_id) WHERE s.name = 'few' AND hadm_id >= 200"
        )[1:]
        == ([0.0, 1.0, 0.0, 1.0],) * 2
    )
    assert score(store, "few")["scored"] == score(store, "mean")["scored"]


def test_covariates_that_are_not_as_many_as_those_of_the_set_are_refused(store):
    refused = pytest.raises(FeatureStoreError, match="1 rows that do not have all covariates; noth")
    with refused, store.transaction("test") as transaction:
        update_rows(transaction.con, "admission_covariates", "design = design[3:]", "hadm_id = 7")


@pytest.mark.parametrize("cutoff", ["36h", "discharge", "task:given"])
def test_covariates_are_kept_at_the_cutoff_of_their_scorer(store, tmp_path, cutoff):
    options = {"cutoff": cutoff}
    if cutoff == "task:given":
        lines = [f"{n},{n % 2},{day(1, 20)}" for n in range(1, PATIENTS + 1)]
        file = tmp_path / "given.csv"
        file.write_text("\n".join(["hadm_id,label,prediction_time", *lines]))
        add_task(store, "given", file)
        options = {"task": "given"}
    sets = ["demographics", "utilisation"]
    scorer = train(store, "other", baseline=False, covariates=sets, **options)["scorer_id"]
    stored = store.sql(
        "SELECT c.cutoff, count(*), count(DISTINCT hadm_id) FROM admission_covariates AS c "
        "JOIN scorers AS s USING (covariates_id) WHERE s.scorer_id = $s GROUP BY 1",
        s=scorer,
    ).fetchall()
    predicted = store.one("SELECT count(*) FROM prediction_times(cutoff := $c)", c=cutoff)[0]
    kept = "discharge+48h" if cutoff == "discharge" else cutoff
    assert stored == [(kept, predicted, predicted)]
    run_id = score(store, scorer)["run_id"]
    assert replay(store, run_id)["same"] == replay(store, run_id)["scored"] > 0
    assert verify(store) == []


# --- errors


@pytest.mark.parametrize(
    ("select", "message"),
    [
        pytest.param(
            "SELECT hadm_id, age FROM admissions UNION ALL FROM (SELECT hadm_id, age "
            "FROM admissions WHERE hadm_id = 7)",
            "the covariates own give admission 7 more than once",
            id="an admission twice",
        ),
        pytest.param(
            "SELECT age FROM admissions", "have no integer column hadm_id", id="no hadm_id"
        ),
        pytest.param("SELECT hadm_id FROM admissions", "has no covariate beside", id="nothing"),
        pytest.param(
            "SELECT hadm_id, gender FROM admissions",
            "the covariate gender of own is VARCHAR, not a number or BOOLEAN",
            id="a text",
        ),
        pytest.param(
            "SELECT hadm_id, weight FROM admissions", 'fails: .*"weight" not found', id="no column"
        ),
        pytest.param("SELECT hadm_id, FROM", "the SELECT of the covariates own fails", id="no SQL"),
        pytest.param(
            "SELECT hadm_id, 1 AS one FROM read_csv('/etc/passwd')",
            r"read_csv\(\) is not allowed in a query",
            id="a file",
        ),
        pytest.param("DELETE FROM admissions", "the SELECT of the .* must be one", id="a change"),
        pytest.param(
            "SELECT hadm_id, $other AS x FROM admissions", "unknown parameter", id="a parameter"
        ),
        pytest.param(
            "SELECT hadm_id, CAST(gender AS INTEGER) AS g FROM admissions",
            "fails: a value of gender cannot be converted",
            id="a value that does not fit",
        ),
        pytest.param(
            "SELECT hadm_id, CASE WHEN hadm_id = 7 THEN 'inf'::DOUBLE ELSE 1 END AS x "
            "FROM admissions",
            "the covariate x of own has a value that is infinite or not a number",
            id="an infinite value",
        ),
        pytest.param(
            "SELECT hadm_id, age, dischtime AS known_at FROM admissions",
            r"the covariates own of \d+ admissions were known only after the prediction at 72h",
            id="known too late",
        ),
        pytest.param(
            "SELECT hadm_id, age, CASE WHEN hadm_id > 7 THEN prediction_time END AS known_at "
            "FROM prediction_times(cutoff := $cutoff) INNER JOIN admissions USING (hadm_id)",
            r"the covariates own of 7 admissions have no known_at \(the first: 1\)",
            id="known at no time",
        ),
        pytest.param(
            "SELECT hadm_id, hadm_id * 1e300 AS x FROM admissions",
            r"the covariate x of own has a value that is infinite .*, or beyond 1e\+100",
            id="a value whose square is infinite",
        ),
        pytest.param(
            "SELECT hadm_id, age + $1 AS x FROM admissions",
            r"unknown parameter \$1 - use \$cutoff",
            id="a parameter without a name",
        ),
    ],
)
def test_covariates_that_are_not_valid_are_an_error_and_nothing_is_stored(
    template, tmp_path, select, message
):
    file = tmp_path / "own.sql"
    file.write_text(select)
    before = template.path.read_bytes()
    with pytest.raises(FeatureStoreError, match=message) as raised:
        train(template, "bad", baseline=False, aggregate="mean", covariates=[file])
    assert "\n" not in str(raised.value)
    assert template.path.read_bytes() == before


def test_unknown_and_clashing_covariates_are_errors(template, tmp_path):
    def fails(message, **options):
        with pytest.raises(FeatureStoreError, match=message):
            train(template, "bad", baseline=False, **options)

    (tmp_path / "own.sql").write_text("SELECT hadm_id, age FROM admissions")
    fails("there are no covariates x - use demographics, utilisation or", covariates=["x"])
    fails(
        "two sets of covariates have a column age",
        covariates=["demographics", tmp_path / "own.sql"],
    )
    fails(
        "clinicalbert scores windows, and covariates are of admissions",
        covariates=["demographics"],
        aggregate="clinicalbert",
    )


# --- covariates that know too much


def covariate_warnings(store, file, select):
    """Train with a SELECT; return the codes that audit has of it, and the warnings of train."""
    file.write_text(select)
    result = train(store, "leak", baseline=False, aggregate="mean", covariates=[file])
    messages = {f.code: f.message for f in audit(store, "leak") if "covariate" in f.code}
    assert set(messages.values()) <= set(result["warnings"])
    return messages, result


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param("label AS x", id="the label"),
        pytest.param("CASE WHEN label THEN 1 END AS x", id="missing by the label"),
        pytest.param("5 - 2 * label::INTEGER + (hadm_id % 7) / 10 AS x", id="a lower number"),
    ],
)
def test_a_covariate_that_is_the_outcome_is_found(store, tmp_path, leak):
    select = f"SELECT hadm_id, {leak} FROM readmission_labels()"
    messages, _ = covariate_warnings(store, tmp_path / "own.sql", select)
    assert "the covariate x alone has an AUROC of 1.000" in messages["separating-covariate"]
    assert (
        "covariates of a SELECT without $cutoff and known_at: x."
        in messages["unlimited-covariates"]
    )


def test_honest_covariates_are_no_finding(store, tmp_path):
    """Neither those of the program, nor a SELECT in capitals that says when it was known."""
    file = tmp_path / "own.sql"
    select = (
        "SELECT HADM_ID AS HADM_ID, AGE AS YEARS, ADMITTIME AS KNOWN_AT, "
        "NULL AS nothing, 7 AS seven FROM ADMISSIONS"
    )
    messages, result = covariate_warnings(store, file, select)
    assert messages == {}
    assert [each["name"] for each in result["covariates"]] == ["YEARS", "nothing", "seven"]
    assert (
        "the covariate nothing is missing in all training stays and adds nothing"
        in (result["warnings"])
    )
    assert (
        "the covariate seven is the same in all training stays and adds nothing"
        in (result["warnings"])
    )
    assert not [f for f in audit(store, "mean") if "covariate" in f.code]


def test_a_covariate_that_counts_later_stays_is_a_leak(store, tmp_path):
    """It takes $cutoff, so nothing but its values shows that it counts the returns."""
    (tmp_path / "leak.sql").write_text(
        "SELECT p.hadm_id, count(*) AS stays FROM prediction_times(cutoff := $cutoff) AS p "
        "INNER JOIN admissions AS a USING (hadm_id) "
        "INNER JOIN admissions AS o ON a.subject_id = o.subject_id GROUP BY p.hadm_id"
    )
    train(store, "leak", baseline=False, aggregate="mean", covariates=[tmp_path / "leak.sql"])
    (finding,) = (f for f in audit(store) if f.code == "covariates-see-later-data")
    assert (finding.severity, finding.scorer_id) == ("error", "leak-v1")
    assert 0 < finding.count < 30
    assert finding.message.startswith(
        f"its covariates stays have other values for {finding.count} of 30 sampled stays"
    )


def test_a_set_whose_select_fails_now_is_an_error_of_each_of_its_scorers(store):
    with store.transaction("test") as transaction:
        transaction.con.execute(
            "UPDATE covariate_sets SET queries = ['SELECT hadm_id, no_column FROM admissions']"
        )
    broken = [f for f in audit(store) if f.code == "broken-covariates"]
    assert [f.scorer_id for f in broken] == ["mean-v1", "max-v1", "last-note-v1"]
    assert "fails now (BinderException)" in broken[0].message


def test_the_auroc_of_a_covariate_alone_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, x = rng.random(500) < 0.3, rng.integers(0, 20, 500).astype(float)
    x -= 3 * y
    design = np.column_stack([x, np.zeros(500)])
    alone = auroc_alone(y, design, np.arange(500))
    assert alone[0] == pytest.approx(1 - roc_auc_score(y, x))
    assert alone == pytest.approx(clustered_auroc(y, -x, np.arange(500)))
    # A value that is missing where the outcome comes says it too.
    missing = np.column_stack([np.zeros(500), y])
    assert auroc_alone(y, missing, np.arange(500)) == [1, 1, 1]
    assert auroc_alone(np.arange(500) < 9, design, np.arange(500)) is None
    # Copies of a patient's stay say no more than one stay.
    three_times = auroc_alone(np.tile(y, 3), np.tile(design, (3, 1)), np.tile(np.arange(500), 3))
    assert three_times == pytest.approx(alone)


def test_noise_is_no_finding():
    """Of 400 covariates without a signal, none is above the limit of readmission."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        y = rng.random(60) < 0.25
        design = np.column_stack([rng.standard_normal(60), np.zeros(60)])
        if interval := auroc_alone(y, design, np.arange(60)):
            assert interval[1] < 0.75
