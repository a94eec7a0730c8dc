"""What is done with a scorer: score, rank, replay, outcomes, explain, similar."""

import json
import math
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from featurestore import (
    Store,
    create_store,
    embed_pending,
    explain,
    outcomes,
    replay,
    score,
    similar,
    sync,
    train,
    verify,
)
from featurestore.cli.group import main
from featurestore.errors import FeatureStoreError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

PATIENTS = 300


def tables():
    """Who is in pain comes back more often, and some stay for two notes."""
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for patient in range(1, PATIENTS + 1):
        pain = int(rng.integers(0, 4))
        stays.append(admission(patient, patient, day(0), day(10)))
        if rng.random() < 0.1 + 0.2 * pain:
            stays.append(admission(1000 + patient, patient, day(20), day(21)))
        words = ["home"] * int(rng.integers(1, 4)) + ["pain"] * pain
        notes.append(note(patient, patient, " ".join(words), subject_id=patient))
        if rng.random() < 0.3:
            notes.append(note(5000 + patient, patient, "alone home", day(2), subject_id=patient))
    return stays, notes


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    store = create_store(
        folder / "w.duckdb", write_hospital(folder / "hospital", *tables()), "mimic3"
    )
    sync(store)
    embed_pending(store, WordCounter())
    train(store, "means", baseline=False, aggregate="mean")
    train(store, "windows", baseline=False, aggregate="clinicalbert")
    return store.path.read_bytes()


@pytest.fixture
def store(template, tmp_path):
    """A trained store of its own, whose hospital the test may change."""
    (tmp_path / "w.duckdb").write_bytes(template)
    (tmp_path / "w.duckdb").chmod(0o600)
    write_hospital(tmp_path / "hospital", *tables())
    store = Store(tmp_path / "w.duckdb")
    with store.transaction("move") as transaction:
        transaction.con.execute("UPDATE settings SET source = $1", [str(tmp_path / "hospital")])
    return store


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_riskiest_has_rank_one_and_nobody_above(store):
    score(store, "means")
    rows = store.sql(
        "SELECT probability, risk_rank, fraction_above FROM latest_scores ORDER BY probability DESC"
    ).fetchall()
    assert rows[0][1:] == (1, 0.0)
    for probability, rank, above in rows:
        higher = sum(p > probability for p, _, _ in rows)
        assert (rank, above) == (higher + 1, pytest.approx(higher / len(rows)))


def test_one_admission_is_scored_alone(store):
    assert score(store, "means", hadm_ids=[7])["scored"] == 1
    assert store.sql("SELECT hadm_id FROM scores").fetchall() == [(7,)]
    result = run("score", store.path, "means", "--hadm-id", 7)
    assert result.exit_code == 0
    assert "rank 1, 0.0% of admissions are above" in result.stdout


@pytest.mark.parametrize(
    ("hadm_id", "why"),
    [
        (99_999, "admission 99999 is not in"),
        (1001, "admission 1001 is not predicted at 72h: the stay is too short"),
    ],
)
def test_an_admission_that_cannot_be_scored_says_why_and_nothing_is(template, store, hadm_id, why):
    if hadm_id == 1001:
        hadm_id = store.one("SELECT min(hadm_id) FROM admissions WHERE hadm_id > 1000")[0]
        why = why.replace("1001", str(hadm_id))
    for act in (
        lambda: score(store, "means", hadm_ids=[7, hadm_id]),
        lambda: explain(store, hadm_id),
        lambda: similar(store, hadm_id),
    ):
        with pytest.raises(FeatureStoreError, match=why):
            act()
    assert store.one("SELECT count(*) FROM scores") == (0,)


def test_a_scorer_whose_encoder_was_dropped_says_so(store):
    with store.transaction("test") as transaction:
        transaction.con.execute("DELETE FROM encoders")
    with pytest.raises(FeatureStoreError, match="was trained on counter-00000000, which"):
        score(store, "means")


def edit_the_hospital(store, number):
    """One more night: two notes are edited, one is withdrawn, one is new."""
    stays, notes = tables()
    for night in range(number + 1):
        notes[night]["TEXT"] = "pain " * (night + 2)
        notes[50 + night]["TEXT"] = "home"
        del notes[100]
        notes.append(note(9000 + night, 200 + night, "pain pain pain", subject_id=200 + night))
    write_hospital(store.path.parent / "hospital", stays, notes)
    sync(store)
    embed_pending(store, WordCounter())


@pytest.mark.parametrize("scorer", ["means", "windows"])
def test_a_run_of_three_versions_ago_is_computed_again_to_the_last_bit(store, scorer):
    first = score(store, scorer)["run_id"]
    for night in range(3):
        edit_the_hospital(store, night)
        score(store, scorer)
    # What it says now is something else.
    then, now = (
        dict(store.sql(query, scorer=f"{scorer}-v1").fetchall())
        for query in (
            f"SELECT hadm_id, probability FROM scores WHERE run_id = {first} AND scorer_id = "
            "$scorer",
            "SELECT hadm_id, probability FROM score_admissions($scorer)",
        )
    )
    changed = sum(then[hadm_id] != now.get(hadm_id) for hadm_id in then)
    assert changed >= 9
    found = replay(store, first)
    assert (found["scored"], found["different"], found["max_difference"]) == (PATIENTS, 0, 0.0)
    if scorer == "means":
        assert found["same"] == PATIENTS
    else:
        assert found["same"] + found["changed_since"] == PATIENTS
        assert found["changed_since"] == changed
    assert f"{found['same']} of {PATIENTS} scores" in run("replay", store.path, first).stdout


def test_a_vector_kept_for_replay_is_kept_once(store):
    for _ in range(2):
        score(store, "means")
    for night in range(2):
        edit_the_hospital(store, night)
    kept = store.sql(
        "SELECT hadm_id, count(*) FROM archived_admission_embeddings GROUP BY 1"
    ).fetchall()
    assert len(kept) >= 6 and {count for _, count in kept} == {1}
    assert verify(store) == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE scorers SET coef = list_transform(coef, lambda x: x * 1.0001)::FLOAT[4]",
        "UPDATE scores SET probability = probability * 0.999 WHERE hadm_id = 7",
    ],
)
def test_a_score_that_is_not_what_was_computed_is_found(store, change):
    run_id = score(store, "means")["run_id"]
    with store.transaction("test") as draft:
        draft.con.execute(change)
    result = run("replay", store.path, run_id)
    assert result.exit_code == 1
    assert "differ, by at most" in result.stdout


def test_a_run_without_scores_cannot_be_replayed(store):
    with pytest.raises(FeatureStoreError, match=r"run 1 of .* recorded no scores - .*: none yet"):
        replay(store, 1)


def test_outcomes_are_those_of_admissions_that_the_scorer_was_not_fitted_on(store):
    score(store, "means")
    found = outcomes(store, "means", alert_above=0.5)
    rows = store.sql(
        "SELECT r.label, s.probability FROM scores AS s INNER JOIN scorer_admissions AS r USING "
        "(hadm_id, scorer_id) WHERE r.split = 'test'"
    ).fetchall()
    y, p = np.array(rows).T
    assert found["fitted_on"] == PATIENTS - len(y)
    assert (found["known"], found["returned"], found["waiting"]) == (len(y), y.sum(), 0)
    assert found["auroc"][0] == pytest.approx(roc_auc_score(y, p))
    assert found["expected"] == pytest.approx(p.sum())
    assert found["alerts"] == (p >= 0.5).sum()
    assert found["alerted_returned"] == y[p >= 0.5].sum()
    assert [period["period"] for period in found["periods"]] == ["all"]


def test_the_score_that_was_acted_on_counts_and_the_outcome_only_once_it_is_known(store):
    score(store, "means")
    before = outcomes(store, "means")
    edit_the_hospital(store, 0)
    score(store, "means")
    assert outcomes(store, "means") == before
    with store.transaction("test") as transaction:
        transaction.con.execute(
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-25'"
        )
    live = outcomes(store, "means")
    # Who came back is known at once; who did not, only when 30 days are over.
    assert (live["known"], live["returned"]) == (before["returned"], before["returned"])
    assert live["waiting"] == before["known"] - before["returned"]
    assert [period["period"] for period in live["periods"]] == ["2150-01"]
    assert "outcomes are not yet known" in run("outcomes", store.path, "means").stdout


def test_outcomes_of_a_scorer_that_has_scored_nobody(store):
    with pytest.raises(FeatureStoreError, match="means-v1 has not scored any admission - "):
        outcomes(store, "means")


def test_contributions_add_up_to_the_log_odds(store):
    (hadm_id,) = store.one("SELECT hadm_id FROM notes GROUP BY 1 HAVING count(*) = 2 ORDER BY 1")
    found = explain(store, hadm_id, "means")
    total = found["base"] + sum(window["contribution"] for window in found["windows"])
    assert 1 / (1 + math.exp(-total)) == pytest.approx(found["probability"], abs=1e-6)
    assert total == pytest.approx(
        found["base"] + sum(note["contribution"] for note in found["notes"])
    )
    # By hand: coef . (window - average) / n
    coef, intercept = store.one("SELECT coef, intercept FROM scorers WHERE name = 'means'")
    average = np.mean(
        store.sql("SELECT embedding FROM admission_embeddings WHERE cutoff = '72h'")
        .fetchnumpy()["embedding"]
        .tolist(),
        axis=0,
    )
    windows = store.sql(
        "SELECT note_id, window_no, embedding FROM embeddings WHERE hadm_id = $h", h=hadm_id
    ).fetchall()
    expected = {
        (note_id, number): np.dot(coef, np.array(vector) - average) / len(windows)
        for note_id, number, vector in windows
    }
    ours = {(w["note_id"], w["window_no"]): w["contribution"] for w in found["windows"]}
    assert ours == pytest.approx(expected, abs=1e-6)
    assert found["base"] == pytest.approx(np.dot(coef, average) + intercept, abs=1e-6)
    strengths = [abs(note["contribution"]) for note in found["notes"]]
    assert strengths == sorted(strengths, reverse=True)


def test_contributions_of_windows_add_up_to_clinicalberts_probability(store):
    found = explain(store, 7, "windows")
    slope, shift = store.one(
        "SELECT calibration_slope, calibration_intercept FROM scorers WHERE name = 'windows'"
    )
    total = sum(window["contribution"] for window in found["windows"])
    log_odds = slope * math.log(total / (1 - total)) + shift
    assert 1 / (1 + math.exp(-log_odds)) == pytest.approx(found["probability"], abs=1e-6)


def test_a_note_moved_a_score_by_what_its_windows_did(store):
    (hadm_id,) = store.one("SELECT hadm_id FROM notes GROUP BY 1 HAVING count(*) = 2 ORDER BY 1")
    for scorer in ("means", "windows"):
        found = explain(store, hadm_id, scorer)
        in_sql = store.rows(
            "SELECT note_id, category, available_at, count(*) AS windows, "
            "sum(contribution) AS contribution FROM explain_admission($scorer, $hadm) "
            "GROUP BY ALL ORDER BY abs(sum(contribution)) DESC, note_id",
            scorer=f"{scorer}-v1",
            hadm=hadm_id,
        )
        assert len(in_sql) == 2
        for ours, theirs in zip(found["notes"], in_sql, strict=True):
            assert ours == theirs | {"contribution": pytest.approx(theirs["contribution"])}


def test_a_score_of_windows_is_explained_without_a_look_at_other_stays(store):
    alone, with_others = Store(shutil.copy(store.path, f"{store.path}-alone")), explain(store, 7)
    with alone.transaction("test") as transaction:
        transaction.con.execute("DELETE FROM admission_embeddings WHERE hadm_id <> 7")
        transaction.con.execute("DELETE FROM embeddings WHERE hadm_id <> 7")
    assert explain(alone, 7) == with_others
    assert explain(alone, 7, "means")["base"] != explain(store, 7, "means")["base"]


def test_an_explanation_names_notes_and_never_tells_them(store):
    result = run("explain", store.path, 7, "--scorer", "means")
    assert result.exit_code == 0
    assert "Nursing" in result.stdout
    assert not {"pain", "home", "alone"} & set(result.stdout.split())
    told = json.loads(run("explain", store.path, 7, "--json").stdout)
    assert told["scorer_id"] == "windows-v1"  # the newest


def test_neighbours_come_with_what_became_of_them(store):
    found = similar(store, 7, n=3)
    assert len(found) == 3
    labels = dict(store.sql("SELECT hadm_id, label FROM readmission_labels()").fetchall())
    assert [row["label"] for row in found] == [labels[row["hadm_id"]] for row in found]
    result = run("similar", store.path, 7, "-n", 3)
    assert str(found[0]["hadm_id"]) in result.stdout
    assert "return" in result.stdout
