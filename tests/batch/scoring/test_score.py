"""Scores, their replay, outcomes, explanations and similar admissions."""

import json
import math
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from batch.cli.scoring import explanation_table
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
from featurestore.cli import main
from featurestore.errors import FeatureStoreError, NotEnoughDataError, UnknownNameError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import edited
from tests.timeline import day

PATIENTS = 300


def tables():
    """Return stays and notes: patients in pain return more often, some have two notes."""
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
    """Return a trained store, whose hospital the test may change."""
    (tmp_path / "w.duckdb").write_bytes(template)
    (tmp_path / "w.duckdb").chmod(0o600)
    write_hospital(tmp_path / "hospital", *tables())
    store = Store(tmp_path / "w.duckdb")
    with store.transaction("move") as transaction:
        transaction.con.execute("UPDATE settings SET source = $1", [str(tmp_path / "hospital")])
    return store


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_riskiest_admission_has_rank_one_and_none_above(store):
    score(store, "means")
    rows = store.sql(
        "SELECT probability, risk_rank, fraction_above FROM latest_scores ORDER BY probability DESC"
    ).fetchall()
    assert rows[0][1:] == (1, 0.0)
    for probability, rank, above in rows:
        higher = sum(p > probability for p, _, _ in rows)
        assert (rank, above) == (higher + 1, pytest.approx(higher / len(rows)))


def test_a_score_is_recorded_again_only_where_it_has_changed(store, tmp_path):
    first = score(store, "means", tmp_path / "first.csv")
    assert first["recorded"] == first["scored"] == PATIENTS
    again = score(store, "means", tmp_path / "again.csv")
    assert again == {**first, "run_id": None, "recorded": 0}
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "first.csv").read_text()
    assert run("score", store.path, "means", "--hadm-id", 7).stdout.startswith(
        "1 admission scored by means-v1: all as before, so none was recorded\n7  "
    )
    assert store.one("SELECT max(run_id), count(*) FROM scores") == (first["run_id"], PATIENTS)
    # One note of patient 7 is in pain now.
    stays, notes = tables()
    notes[[row["ROW_ID"] for row in notes].index(7)]["TEXT"] = "pain " * 9
    write_hospital(tmp_path / "hospital", stays, notes)
    sync(store)
    embed_pending(store, WordCounter())
    line = run("score", store.path, "means").stdout.splitlines()[0]
    assert line.endswith(f"of {store.path}, 1 of them new or changed")
    assert store.sql("SELECT count(*) FROM scores GROUP BY hadm_id HAVING count(*) > 1").fetchall()
    assert store.one("SELECT count(*) FROM scores") == (PATIENTS + 1,)


def test_an_explanation_has_room_for_long_ids_and_counts_one_as_one():
    long_id = "10000032-DS-21-addendum"
    window = {"note_id": long_id, "window_no": 0, "contribution": 0.5}
    known = {"note_id": long_id, "category": "Discharge summary", "available_at": day(1)}
    explanation = {
        **{"hadm_id": 7, "probability": 0.25, "scorer_id": "means-v1", "no_signal": None},
        **{"unit": "log odds", "base": -1.5, "covariates": [], "windows": [window]},
        "notes": [{**known, "windows": 1, "contribution": 0.5}],
    }
    assert explanation_table(explanation, 10).splitlines() == [
        "admission 7: 25.0% by means-v1, from 1 window of 1 note",
        "contributions in log odds",
        "note                     category            known at          contribution  "
        "strongest window",
        "average admission                                                    -1.500",
        f"{long_id}  Discharge summary   {day(1):%Y-%m-%d %H:%M}        +0.500  1 of 1",
        "total                                                                -1.000",
    ]


def test_a_single_admission_can_be_scored(store):
    assert score(store, "means", hadm_ids=[7])["scored"] == 1
    assert store.sql("SELECT hadm_id FROM scores").fetchall() == [(7,)]
    result = run("score", store.path, "means", "--hadm-id", 7)
    assert result.exit_code == 0
    assert "rank 1, 0.0% of admissions are above" in result.stdout


@pytest.mark.parametrize(
    ("hadm_id", "reason"),
    [
        (99_999, "admission 99999 is not in"),
        (1001, "admission 1001 is not predicted at 72h: the stay is too short"),
    ],
)
def test_an_admission_that_cannot_be_scored_is_an_error_and_nothing_is_scored(
    store, hadm_id, reason
):
    if hadm_id == 1001:
        hadm_id = store.one("SELECT min(hadm_id) FROM admissions WHERE hadm_id > 1000")[0]
        reason = reason.replace("1001", str(hadm_id))
    for act in (
        lambda: score(store, "means", hadm_ids=[7, hadm_id]),
        lambda: explain(store, hadm_id),
        lambda: similar(store, hadm_id),
    ):
        with pytest.raises(FeatureStoreError, match=reason):
            act()
    assert store.one("SELECT count(*) FROM scores") == (0,)


def test_a_scorer_whose_encoder_was_dropped_is_an_error(store):
    with edited(store) as transaction:
        transaction.con.execute("DELETE FROM encoders")
    with pytest.raises(UnknownNameError, match="was trained on counter-00000000, which"):
        score(store, "means")


def edit_hospital(store, number):
    """Edit two notes, withdraw one and add one; sync and embed."""
    stays, notes = tables()
    for night in range(number + 1):
        notes[night]["TEXT"] = "pain " * (night + 2)
        notes[50 + night]["TEXT"] = "home"
        del notes[100]
        notes.append(note(9000 + night, 200 + night, "pain pain pain", subject_id=200 + night))
    write_hospital(store.path.parent / "hospital", stays, notes)
    sync(store)
    embed_pending(store, WordCounter())


@pytest.mark.parametrize("scorer", ["means", pytest.param("windows", marks=pytest.mark.slow)])
def test_a_run_of_three_versions_ago_is_reproduced_to_the_last_bit(store, scorer):
    first = score(store, scorer)["run_id"]
    for night in range(3):
        edit_hospital(store, night)
        score(store, scorer)
    # The current scores differ.
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
    result = replay(store, first)
    assert (result["scored"], result["different"], result["max_difference"]) == (PATIENTS, 0, 0.0)
    if scorer == "means":
        assert result["same"] == PATIENTS
    else:
        assert result["same"] + result["changed_since"] == PATIENTS
        assert result["changed_since"] == changed
    assert f"{result['same']} of {PATIENTS} scores" in run("replay", store.path, first).stdout


def test_a_mean_is_archived_once(store):
    for _ in range(2):
        score(store, "means")
    for night in range(2):
        edit_hospital(store, night)
    archived = store.sql(
        "SELECT hadm_id, count(*) FROM archived_admission_embeddings GROUP BY 1"
    ).fetchall()
    assert len(archived) >= 6 and {count for _, count in archived} == {1}
    assert verify(store) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE scorers SET coef = list_transform(coef, lambda x: x * 1.0001)::FLOAT[4]",
        "UPDATE scores SET probability = probability * 0.999 WHERE hadm_id = 7",
    ],
)
def test_a_changed_score_or_scorer_is_detected(store, statement):
    run_id = score(store, "means")["run_id"]
    with edited(store) as transaction:
        transaction.con.execute(statement)
    result = run("replay", store.path, run_id)
    assert result.exit_code == 1
    assert "differ, by at most" in result.stdout


def test_a_run_without_scores_cannot_be_replayed(store):
    with pytest.raises(UnknownNameError, match=r"run 1 of .* recorded no scores - .*: none yet"):
        replay(store, 1)


def test_outcomes_exclude_admissions_that_the_scorer_was_fitted_on(store):
    score(store, "means")
    result = outcomes(store, "means", alert_above=0.5)
    rows = store.sql(
        "SELECT r.label, s.probability FROM scores AS s INNER JOIN scorer_admissions AS r USING "
        "(hadm_id, scorer_id) WHERE r.split = 'test' AND r.label IS NOT NULL"
    ).fetchall()
    y, p = np.array(rows).T
    assert result["fitted_on"] == PATIENTS - len(y)
    assert (result["judged"], result["positive"], result["waiting"]) == (len(y), y.sum(), 0)
    assert result["auroc"][0] == pytest.approx(roc_auc_score(y, p))
    assert result["expected"] == pytest.approx(p.sum())
    assert result["alerts"] == (p >= 0.5).sum()
    assert result["alert_outcomes"]["positive"] == y[p >= 0.5].sum()
    assert (p >= 0.5).sum() < 10  # too few for a PPV
    assert result["ppv"] is None
    everybody = outcomes(store, "means", alert_above=0)
    estimate, low, high = everybody["ppv"]
    assert estimate == pytest.approx(y.mean())
    assert 0 < low < estimate < high < 1
    words = ["outcomes", str(store.path), "means", "--alert-above", "0"]
    assert f" {100 * estimate:.0f} ({100 * low:.0f}-{100 * high:.0f}) " in (
        CliRunner().invoke(main, words).stdout
    )
    assert [period["period"] for period in result["periods"]] == ["all"]


def test_the_first_score_counts_and_the_outcome_once_it_is_known(store):
    score(store, "means")
    before = outcomes(store, "means")
    edit_hospital(store, 0)
    score(store, "means")
    assert outcomes(store, "means") == before
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-25'"
        )
    live = outcomes(store, "means")
    # No horizon is over, so early returns are not counted either.
    assert (live["judged"], live["positive"], live["waiting"]) == (0, 0, before["judged"])
    assert live["positive_so_far"] == before["positive"]
    assert (live["ppv"], live["auroc"]) == (None, None)
    assert [period["period"] for period in live["periods"]] == ["2150-01"]
    table = run("outcomes", store.path, "means").stdout
    so_far = live["waiting"] - before["positive"]
    assert live["waiting_reasons"] == {
        "horizon not yet observed": so_far,
        "returned so far": before["positive"],
    }
    assert [line.rsplit(maxsplit=1) for line in table.splitlines() if "so far" in line] == [
        ["  returned so far", str(before["positive"])]
    ]
    assert max(map(len, table.splitlines())) <= 120


def test_the_outcomes_of_a_scorer_are_named_by_its_phrase(store):
    score(store, "means")
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE scorers SET metrics = json_merge_patch(metrics, $1)",
            ['{"outcome": "stayed long"}'],
        )
    result = outcomes(store, "means")
    header, counts, *lines = run("outcomes", store.path, "means").stdout.splitlines()
    assert counts[: header.index("  expected")].split()[-1] == str(result["positive"])
    assert result["outcome"] == "stayed long"
    text = "\n".join(lines)
    assert (
        "alerts that stayed long/did not/died in hospital without a label/other" in text
        and "waiting" not in text  # nobody is
    )
    assert "return" not in header + text


def test_an_outcome_of_a_similar_stay_is_marked_while_its_horizon_is_not_over(store):
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE settings SET live = TRUE, observed_until = TIMESTAMP '2150-01-25'"
        )
    neighbours = similar(store, 7, n=40)
    assert {(row["label"], row["mature"]) for row in neighbours} == {(True, False), (None, False)}
    lines = run("similar", store.path, 7, "-n", 40).stdout.splitlines()[1:]
    assert {line.split("  ")[-1] for line in lines} == {
        "returned after 10 days (horizon not over)",
        "no return so far (horizon not over)",
    }


def test_outcomes_of_a_scorer_without_scores_are_an_error(store):
    with pytest.raises(NotEnoughDataError, match="means-v1 has not scored any admission - "):
        outcomes(store, "means")


def test_contributions_add_up_to_the_log_odds(store):
    (hadm_id,) = store.one("SELECT hadm_id FROM notes GROUP BY 1 HAVING count(*) = 2 ORDER BY 1")
    explanation = explain(store, hadm_id, "means")
    total = explanation["base"] + sum(window["contribution"] for window in explanation["windows"])
    assert 1 / (1 + math.exp(-total)) == pytest.approx(explanation["probability"], abs=1e-6)
    assert total == pytest.approx(
        explanation["base"] + sum(note["contribution"] for note in explanation["notes"])
    )
    # Computed by hand: coef . (window - average) / n
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
    contributions = {
        (w["note_id"], w["window_no"]): w["contribution"] for w in explanation["windows"]
    }
    assert contributions == pytest.approx(expected, abs=1e-6)
    assert explanation["base"] == pytest.approx(np.dot(coef, average) + intercept, abs=1e-6)
    strengths = [abs(note["contribution"]) for note in explanation["notes"]]
    assert strengths == sorted(strengths, reverse=True)


def test_contributions_of_windows_add_up_to_clinicalberts_probability(store):
    explanation = explain(store, 7, "windows")
    slope, shift = store.one(
        "SELECT calibration_slope, calibration_intercept FROM scorers WHERE name = 'windows'"
    )
    total = sum(window["contribution"] for window in explanation["windows"])
    log_odds = slope * math.log(total / (1 - total)) + shift
    assert 1 / (1 + math.exp(-log_odds)) == pytest.approx(explanation["probability"], abs=1e-6)


def test_the_contribution_of_a_note_is_the_sum_over_its_windows(store):
    (hadm_id,) = store.one("SELECT hadm_id FROM notes GROUP BY 1 HAVING count(*) = 2 ORDER BY 1")
    for scorer in ("means", "windows"):
        explanation = explain(store, hadm_id, scorer)
        in_sql = store.rows(
            "SELECT note_id, category, available_at, count(*) AS windows, "
            "sum(contribution) AS contribution FROM explain_admission($scorer, $hadm) "
            "GROUP BY ALL ORDER BY abs(sum(contribution)) DESC, note_id",
            scorer=f"{scorer}-v1",
            hadm=hadm_id,
        )
        assert len(in_sql) == 2
        for note_row, expected in zip(explanation["notes"], in_sql, strict=True):
            approximate = pytest.approx(expected["contribution"])
            assert note_row == expected | {"contribution": approximate}


def test_the_explanation_of_a_scorer_on_windows_reads_no_other_admission(store):
    alone, with_others = Store(shutil.copy(store.path, f"{store.path}-alone")), explain(store, 7)
    with edited(alone) as transaction:
        transaction.con.execute("DELETE FROM admission_embeddings WHERE hadm_id <> 7")
        transaction.con.execute("DELETE FROM embeddings WHERE hadm_id <> 7")
    assert explain(alone, 7) == with_others
    assert explain(alone, 7, "means")["base"] != explain(store, 7, "means")["base"]


def test_an_explanation_names_notes_and_never_shows_their_text(store):
    result = run("explain", store.path, 7, "--scorer", "means")
    assert result.exit_code == 0
    assert "Nursing" in result.stdout
    assert not {"pain", "home", "alone"} & set(result.stdout.split())
    explanation = json.loads(run("explain", store.path, 7, "--json").stdout)
    assert explanation["scorer_id"] == "windows-v1"  # the newest


def test_similar_admissions_come_with_their_outcomes(store):
    neighbours = similar(store, 7, n=3)
    assert len(neighbours) == 3
    labels = dict(store.sql("SELECT hadm_id, label FROM readmission_labels()").fetchall())
    assert [row["label"] for row in neighbours] == [labels[row["hadm_id"]] for row in neighbours]
    result = run("similar", store.path, 7, "-n", 3)
    assert str(neighbours[0]["hadm_id"]) in result.stdout
    assert "return" in result.stdout


def test_a_text_has_the_nearest_admissions_by_mean_centred_cosine(store):
    """The counter sees 1 + each of four words in windows of four words: their mean is by hand."""
    text = "pain pain home home alone pain"
    vector = np.mean([[1, 3, 3, 1], [2, 2, 1, 1]], axis=0)
    ids, vectors = zip(
        *store.sql(
            "SELECT hadm_id, embedding FROM admission_embeddings WHERE cutoff = '72h' ORDER BY ALL"
        ).fetchall(),
        strict=True,
    )
    centre = np.mean(vectors, axis=0)
    distances = cdist(np.array(vectors) - centre, [vector - centre], "cosine")[:, 0]
    neighbours = similar(store, text=text, encoder=WordCounter(), n=len(ids))
    assert len(neighbours) == len(ids)
    assert {row["hadm_id"]: row["similarity"] for row in neighbours} == pytest.approx(
        dict(zip(ids, 1 - distances, strict=True)), abs=1e-5
    )
    labels = dict(store.sql("SELECT hadm_id, label FROM readmission_labels()").fetchall())
    assert all(row["label"] == labels[row["hadm_id"]] for row in neighbours)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "needs a hadm_id, or a text and its encoder"),
        ({"text": "pain"}, "needs a hadm_id, or a text and its encoder"),
        ({"hadm_id": 7, "text": "pain", "encoder": WordCounter()}, "needs a hadm_id, or a text"),
        ({"text": " ", "encoder": WordCounter()}, "has no words to compare"),
        (
            {"text": "pain", "encoder": WordCounter("other-00000000")},
            "by its active encoder counter-00000000, not by other-00000000",
        ),
    ],
    ids=["nothing", "no encoder", "both", "no words", "another encoder"],
)
def test_a_text_that_cannot_be_compared_is_refused(store, query, message):
    with pytest.raises(FeatureStoreError, match=message):
        similar(store, **query)
