"""The report of a scorer: one private page that loads nothing and identifies nobody."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

from batch.report.figures import FIGURES
from batch.report.performance import _THRESHOLDS, net_benefit
from featurestore import Store, create_store, embed_pending, report, sync
from featurestore.cli import main
from featurestore.cohort.caveats import caveats
from featurestore.cohort.leakage import accept_finding, audit
from featurestore.cohort.tasks import find_task
from featurestore.errors import FeatureStoreError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import edited
from tests.timeline import day

PATIENTS = 300
CANARY = "zebrafinch"
SUBJECTS = range(7_310_001, 7_310_001 + PATIENTS)
STAYS, NOTES = 1_100_000, 2_200_000  # added to subject_id
SYSTEMS = ("scorer", "bag_of_words", "lace", "prior_admissions")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Every second patient returns; numbers of notes, stays and patients are unique."""
    stays, notes = [], []
    for subject in SUBJECTS:
        stays.append(admission(subject + STAYS, subject, day(0), day(10)))
        words = f"{CANARY} home" + " pain" * (subject % 3) + " alone" * (subject % 5)
        notes.append(note(subject + NOTES, subject + STAYS, words, subject_id=subject))
        if subject % 2:
            stays.append(admission(subject + 2 * STAYS, subject, day(20), day(21)))
    folder = write_hospital(tmp_path_factory.mktemp("reported") / "hospital", stays, notes)
    store = create_store(folder.parent / "ward.duckdb", folder, "mimic3")
    sync(store)
    embed_pending(store, WordCounter("one-00000000"))
    return store


@pytest.fixture(scope="module")
def reported(embedded, tmp_path_factory):
    """Return a store with a scorer and three nights, and its report."""
    store = copied(embedded, tmp_path_factory.mktemp("whole"))
    with edited(store) as transaction:
        # A group that is too small, whose name is markup.
        transaction.con.execute(
            "UPDATE admissions SET insurance = "
            "CASE WHEN subject_id % 6 = 0 THEN '<Own>' ELSE 'Medicare' END"
        )
    with_scorer(store)
    for night in range(3):
        with_night(store, night)
    file = store.path.with_name("report.html")
    result = report(store, "readmit", file)
    return store, result, file


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def copied(store, folder):
    return Store(shutil.copy(store.path, folder / "ward.duckdb"))


def with_scorer(store, one_outcome=False, **changed):
    """Insert a scorer with invented metrics."""
    rng = np.random.default_rng(0)
    rows = store.sql(
        "SELECT hadm_id, split, label AND NOT ($one_outcome AND split = 'test'), subject_id "
        "FROM training_set('one-00000000') ORDER BY hadm_id",
        one_outcome=one_outcome,
    ).fetchall()
    metrics = numbers(rows, one_outcome) | changed
    with store.transaction("train") as transaction:
        transaction.con.execute(
            "INSERT INTO scorers (scorer_id, name, version, encoder_id, cutoff, label_rule, "
            "horizon_days, coef, intercept, metrics, training_hash, created_at, aggregate, "
            "calibration_slope, calibration_intercept, min_probability, max_probability, "
            "coef_hash, task_sql, task_hash) VALUES "
            "('readmit-v1', 'readmit', 1, 'one-00000000', '72h', 'readmission', 30, [1, 2, 3, 4], "
            "0.5, $1, 'abcdef', TIMESTAMP '2026-01-02 03:04:05', 'mean', 1, 0, 0.01, 0.99, '', "
            "$2, '')",
            [json.dumps(metrics), find_task(store).select],
        )
        predictions = np.clip(rng.normal(0.35, 0.15, (len(rows), 4)), 0.01, 0.99)
        transaction.con.executemany(
            "INSERT INTO scorer_admissions (scorer_id, hadm_id, split, label, subject_id, "
            "probability, prior_admissions, bag_of_words, lace) VALUES "
            "('readmit-v1', $1, $2, $3, $4, $5, $6, $7, $8)",
            [[*row, *p] for row, p in zip(rows, predictions.tolist(), strict=True)],
        )
        transaction.counts.update(scorer="readmit-v1")


def with_night(store, number):
    with store.transaction("nightly") as transaction:
        for category in ("Nursing", "Case $management$ 護理 <b>"):
            transaction.con.execute(
                "INSERT INTO nightly_log_odds VALUES ($1, 'readmit-v1', 7, 7, $2, 9, $3)",
                [transaction.run_id, category, number / 10],
            )
        scores = {"stays": 40, "psi": number / 10, "psi_limit": 0.3, "alert_rate": 0.1}
        scores |= {"alert_rate_low": 0.02, "alert_rate_high": 0.2, "nights": 7}
        monitoring = {"log_odds": None, "scores": scores}
        transaction.counts.update(scorer="readmit-v1", unusual=[], monitoring=monitoring)


def numbers(rows, one_outcome=False):
    """Return metrics as train() records them, each a distinct number."""
    splits = ("train", "valid", "test")

    def interval(start):
        return None if one_outcome else [start, start - 0.05, start + 0.05]

    every = {
        "auroc": interval(0.7123),
        "auprc": interval(0.6123),
        "auprc_balanced": interval(0.6523),
        "accuracy": interval(0.5923),
        "brier": interval(0.2123),
        "calibration_slope": interval(1.1123),
        "calibration_intercept": interval(-0.0723),
        "log_loss": interval(0.5323),
        "recall_at_80_precision_balanced": None if one_outcome else [0.2323],
        "oe_ratio": interval(1.0823),
        "scaled_brier": interval(0.0923),
        "ici": None if one_outcome else [0.0423],
        "e50": None if one_outcome else [0.0323],
        "e90": None if one_outcome else [0.0823],
    }
    fit = {
        "aggregate": "mean",
        "c": 0.001,
        "log_loss": 0.6812,
        "test_auroc": interval(0.6923),
        "test_slope": interval(0.4423),
        "selected": False,
    }
    return {
        "outcome": "returned",
        "admissions": {split: sum(row[1] == split for row in rows) for split in splits},
        "positives": {split: sum(row[1] == split and row[2] for row in rows) for split in splits},
        "c": 0.001,
        "aggregate": "mean",
        "no_signal": None,
        "covariates": [],
        "candidates": [fit, fit | {"selected": True, "c": 0.01}],
        "calibration": {
            "slope": 0.77,
            "intercept": -0.11,
            "chi_squared": 31.4,
            "separated": False,
            "min_probability": 0.01,
            "max_probability": 0.99,
            "calibrated_on": "validation patients",
        },
        "test": dict.fromkeys((*SYSTEMS, "prevalence"), every),
        "differences": {name: interval(0.0323) for name in SYSTEMS[1:]},
        "alerts": [
            {
                "per_100": n,
                "ppv": interval(0.7),
                "sensitivity": interval(n / 50),
                "positive": n,
                "negative": 43,
                "died_in_hospital": 0,
                "other": 0,
            }
            for n in (1, 5, 10, 20)
        ],
        "at_80_precision": {
            "threshold": None if one_outcome else 0.6123,
            "alerts": 0 if one_outcome else 21,
            "precision": interval(0.8123),
            "recall": interval(0.1323),
        },
        "stays_per_day": 37.2,
        "test_from": None,
        "turns": None,
        "subgroups": [],  # the report evaluates them again
        "ici_if_calibrated": None if one_outcome else 0.0723,
        "learning_curve": [
            {"admissions": n, "positive": n // 3, "auroc": interval(0.6 + n / 1000)}
            for n in (20, 40) * (not one_outcome)
        ],
        "warnings": ["only a few test stays returned"],
        "versions": {"scikit-learn": "9.9.9"},
        "seed": 0,
        "bootstraps": 1000,
    }


def test_the_page_has_every_figure_with_a_caption_and_every_table(reported):
    _, result, file = reported
    page = file.read_text()
    # The outcomes of a research extract have no order.
    drawn = len(FIGURES) - 1
    assert (result["scorer_id"], result["file"], result["figures"]) == (
        "readmit-v1",
        str(file),
        drawn,
    )
    for name in FIGURES:
        assert page.count(f'<figure id="{name}">') == 1
    assert page.count("<figcaption>") == len(FIGURES)
    assert page.count('role="img" aria-label="') == drawn
    assert "It needs a live hospital with two months" in page
    for table in ("metrics", "candidates", "tripod", "thresholds", "groups", "characteristics"):
        assert page.count(f'id="{table}"') == 1
    items = re.findall(r'<td class="number">(\d+)([a-g]?(?:-[a-g])?)</td>', page)
    assert list(dict.fromkeys(number for number, _ in items)) == [str(n) for n in range(1, 28)]
    parts = {number: "".join(part for each, part in items if each == number) for number, _ in items}
    assert {number: letters for number, letters in parts.items() if letters} == {
        "3": "a-c",
        "5": "ab",
        "6": "abc",
        "8": "a-c",
        "9": "a-c",
        "12": "abcdefg",
        "18": "a-f",
        "20": "abc",
        "23": "ab",
        "27": "a-c",
    }


def test_curves_are_of_the_scorer_of_words_and_of_what_is_known_without_notes(reported):
    page = reported[2].read_text()
    for name in ("roc", "pr"):
        (figure,) = re.findall(rf'<figure id="{name}">.*?</figure>', page, re.S)
        assert all(f">{system} 0." in figure for system in ("Scorer", "Bag-of-words", "LACE"))
        assert "Prior admissions" not in figure
        assert "the table above has all systems" in figure
    (metrics,) = re.findall(r'<div[^>]* id="metrics".*?</div>', page, re.S)
    assert "Prior admissions" in metrics


def test_the_page_has_no_scripts_and_no_external_resources(reported):
    page = reported[2].read_text()
    assert not re.search(r"https?:|<script|<link|<img|@import|@font-face|javascript:", page)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_the_page_is_private_and_reproducible(reported, tmp_path):
    store, _, file = reported
    assert file.stat().st_mode & 0o777 == 0o600
    report(store, "readmit-v1", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == file.read_bytes()


def test_the_page_identifies_no_note_stay_or_patient(reported):
    page = reported[2].read_text()
    assert CANARY not in page
    for subject in SUBJECTS:
        for number in (subject, subject + STAYS, subject + 2 * STAYS, subject + NOTES):
            assert str(number) not in page


def test_the_page_shows_the_recorded_metrics(reported):
    store, _, file = reported
    page = file.read_text()
    recorded = json.loads(store.one("SELECT metrics FROM scorers")[0])
    for interval in (*recorded["test"]["scorer"].values(), recorded["candidates"][0]["test_auroc"]):
        estimate, *limits = interval
        assert f"{estimate:.3f}" in page or f"{estimate:.2f}" in page
        if limits:
            low, high = limits
            assert f"{low:.3f} to {high:.3f}" in page or f"{low:.2f} to {high:.2f}" in page
    for words in (
        "stays of test patients is <b>0.712 (0.662 to 0.762)</b>",
        "with a return 71 times in 100",
        "Only a few test stays returned.",
        f"Training: {recorded['admissions']['train']}",
        f"{recorded['positives']['train']} returned",
        "This hospital predicts 37.2 stays per day",
        "With the threshold of 0.612",
        "21 test stays are alerted: PPV 0.812 (0.762 to 0.862), sensitivity 0.132 (0.082 to",
        "slope 0.77, intercept -0.11",
        "scikit-learn 9.9.9",
        "too few to evaluate",
        "95% of samples have an ICI below 0.072",
    ):
        assert words in page, words


def test_the_page_says_first_what_a_score_means_and_what_the_scorer_does_not_beat(
    embedded, reported, tmp_path
):
    store, _, file = reported
    # Half of the patients return; the probabilities are drawn around 0.35.
    expected, observed = store.one(
        "SELECT avg(probability), avg(label::INT) FROM scorer_admissions WHERE split = 'test'"
    )
    page = file.read_text()
    first = page[: page.index('<dl class="numbers">')]
    assert "occur in 20 of 100 stays with a score of 20%" in first
    assert f"are {expected:.1%} on average, and {observed:.1%} returned: the scores are" in first
    assert "not a medical device" in first
    # The interval of each difference, -0.018 to 0.082, includes 0.
    assert "than these baselines: Bag-of-words, LACE, Prior admissions." in first
    store = copied(embedded, tmp_path)
    with_scorer(store, differences={"lace": [0.06, 0.01, 0.11], "bag_of_words": None})
    report(store, "readmit", tmp_path / "report.html")
    assert 'id="unbeaten"' not in (tmp_path / "report.html").read_text()


def test_the_page_says_that_test_patients_were_not_looked_at(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with_scorer(store, one_outcome=True)
    with edited(store) as transaction:
        transaction.con.execute("DELETE FROM scorer_admissions WHERE split = 'test'")
        transaction.con.execute(
            "UPDATE scorers SET metrics = json_merge_patch(metrics, "
            """'{"admissions": {"test": 0}, "positives": {"test": 0}}')"""
        )
    report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Its performance is not known: the test patients were not looked at" in page
    assert "test, not looked at" in page
    assert "labelled since training" not in page
    assert "this figure needs at least" not in page


def test_an_error_of_the_audit_is_in_the_headline(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with_scorer(store, one_outcome=True)  # draws two figures only, for speed
    for finding in audit(store, "readmit"):
        if finding.severity == "error":
            accept_finding(store, finding.code)
    report(store, "readmit", tmp_path / "report.html")
    assert 'id="errors"' not in (tmp_path / "report.html").read_text()
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE notes SET status = 'excluded', reason = 'withdrawn' "
            "WHERE note_id = (SELECT min(note_id) FROM notes)"
        )
    report(store, "readmit", tmp_path / "report.html")
    lead = (tmp_path / "report.html").read_text().split('<p class="lead">')[1].split("</p>")[0]
    assert "The leakage audit found errors: do not use the numbers of this page" in lead


def test_the_page_of_another_task_names_its_outcome_and_no_return(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with_scorer(store, outcome="stayed over 7 days", warnings=[])
    report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    page = re.sub(r'<ul id="findings">.*?</ul>', "", page, flags=re.S)  # of the store
    text = " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<body>") :]).split())
    for words in (
        "Task readmission: stays that stayed over 7 days within 30 days, predicted from the notes",
        "of two stays, one with the outcome and one without",
        "did not stay over 7 days: ",
        "observed proportion that stayed over 7 days",
        "Alerted Stayed over 7 days Did not stay over 7 days Other PPV",
        "Positive: stays that stayed over 7 days, by the task",
    ):
        assert words in text, words
    # What remains is the flow of the default rule, and its limits.
    text = text.replace("has not returned", "").split("Limitations of the cohort")[0]
    assert "return" not in text


def test_text_of_the_source_is_escaped(reported):
    page = reported[2].read_text()
    assert "&lt;Own&gt;" in page and "<Own>" not in page
    assert "Case $management" in page


def test_net_benefit_computed_by_hand():
    # At 0.5 four are alerted, three of whom returned: 3/8 - 1/8 * (0.5 / 0.5).
    y = np.array([True, True, True, False, False, False, False, True])
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    assert net_benefit(y, p)[np.abs(_THRESHOLDS - 0.5).argmin()] == pytest.approx(2 / 8, abs=1e-2)


def test_figures_that_need_both_outcomes_are_explained_when_one_is_missing(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with_scorer(store, one_outcome=True)
    result = report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert result["figures"] == 2
    assert all(f'<figure id="{name}">' in page for name in FIGURES)
    assert "this figure needs at least 10 that did and 10 that did not" in page
    assert "It needs two nights with new notes" in page
    assert "Its performance cannot be estimated" in page
    # Neither a headline nor a table of dashes.
    assert "<dt>AUROC</dt>" not in page and 'id="metrics"' not in page


def test_the_flow_leads_from_all_stays_to_the_judged_ones(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with edited(store) as transaction:
        transaction.con.execute(
            "UPDATE admissions SET died_in_hospital = TRUE WHERE subject_id % 10 = 2; "
            "DELETE FROM admission_embeddings WHERE hadm_id = (SELECT min(hadm_id) FROM admissions)"
        )
    with_scorer(store, one_outcome=True)  # draws two figures only, for speed
    report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    # Half of the patients have a short second stay; a tenth died; one stay has no note.
    stays, died = PATIENTS * 3 // 2, PATIENTS // 10
    scored = PATIENTS - 1
    assert store.one("SELECT count(*) FROM admissions") == (stays,)
    figure = page[page.index('<figure id="flow">') :]
    shown = re.findall(r"<text [^>]*>([^<]*)</text>", figure[: figure.index("</figure>")])
    assert shown[:13] == [
        *("All admissions", f"{stays}", "not predicted at 72h", f"{stays - PATIENTS}"),
        *("Predicted at 72h", f"{PATIENTS}", "no note known by then", "1"),
        *("Scored", f"{scored}", "died in hospital", f"{died}", "Judged"),
    ]
    assert shown[13].startswith(f"{scored - died}")
    for words in (
        f"{stays} stays, of which {PATIENTS} are predicted, {scored} scored and {scored - died} "
        "judged",
        f"Of the {PATIENTS} predicted stays, 1 have no known note and are not scored; of the "
        f"scored stays, {died} have no label",
        f"from {stays} stays to {scored - died} judged",
    ):
        assert words in page


def test_baselines_that_were_not_fitted_are_not_shown(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    alone = {"scorer": numbers([])["test"]["scorer"]}
    with_scorer(store, test=alone, differences={}, stays_per_day=None)
    with edited(store) as transaction:
        transaction.con.execute("UPDATE scorer_admissions SET bag_of_words = NULL, lace = NULL")
    report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Bag-of-words" not in page and "Fine-tuned model" not in page
    assert "alerts per day" not in page and "A day" not in page


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        pytest.param("emilyalsentzer/Bio_ClinicalBERT", True, id="from the hub"),
        pytest.param("Bio_ClinicalBERT", True, id="from a folder of that name"),
        pytest.param("bert-base-uncased", False, id="a model of no hospital"),
    ],
)
def test_page_and_audit_agree_whether_the_encoder_was_pretrained_on_these_notes(
    embedded, tmp_path, base, expected
):
    store = copied(embedded, tmp_path)
    with_scorer(store, one_outcome=True)  # draws two figures only, for speed
    manifest = WordCounter().manifest | {"checkpoint": {"finetune": {"base": base}}}
    with edited(store) as transaction:
        transaction.con.execute("UPDATE encoders SET manifest = $1", [json.dumps(manifest)])
    report(store, "readmit", tmp_path / "report.html")
    on_page = 'id="contamination"' in (tmp_path / "report.html").read_text()
    in_audit = "pretrained-on-source" in {finding.code for finding in audit(store)}
    assert (on_page, in_audit) == (expected, expected)


def test_the_page_lists_the_caveats_of_the_source_and_of_the_rule(reported):
    store, _, file = reported
    (caveat_list,) = re.findall(r'<ul id="caveats">(.*?)</ul>', file.read_text(), re.S)
    shown = [" ".join(item.split()) for item in re.findall(r"<li>(.*?)</li>", caveat_list, re.S)]
    assert [f"{text[0].lower()}{text[1:-1]}" for text in shown[1:]] == [
        *caveats(store, "readmission").values()
    ][1:]
    assert shown[0].startswith("MIMIC-III holds nearly only stays with intensive care")
    assert "Those of the source and of the label rule are listed under Cohort." in file.read_text()


def test_the_findings_of_the_audit_are_at_the_top_and_say_who_accepted_them(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with_scorer(store, one_outcome=True)  # draws two figures only, for speed
    accept_finding(store, "no-planned-stays")
    report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    first = page[page.index("Read this first") : page.index('<dl class="numbers">')]
    findings = [
        finding
        for finding in audit(store, "readmit")
        if finding.code not in caveats(store, "readmission")
    ]
    assert findings
    for finding in findings:
        assert f"<code>{finding.code}</code>" in first
    (accepted,) = (finding.accepted for finding in findings if finding.accepted)
    assert f"Accepted by {accepted.by} on {accepted.at:%Y-%m-%d}" in first


def test_thresholds_of_choice_are_those_of_the_table_and_the_groups(reported, tmp_path):
    store = reported[0]
    options = ("--threshold", 0.4, "--threshold", 0.25, "--json")
    done = run("report", store.path, "readmit", "-o", tmp_path / "report.html", *options)
    result = json.loads(done.stdout)
    assert [row["threshold"] for row in result["thresholds"]] == [0.25, 0.4]
    assert {group["threshold"] for group in result["subgroups"]} == {0.4}
    page = (tmp_path / "report.html").read_text()
    table = page[page.index('id="thresholds"') :]
    assert re.findall(
        r'<th class="n" scope="row">([^<]*)</th>', table[: table.index("</table>")]
    ) == [
        "25%",
        "40%",
    ]
    p, y = zip(
        *store.sql(
            "SELECT probability, label FROM scorer_admissions WHERE split = 'test'"
        ).fetchall(),
        strict=True,
    )
    alerted = np.array(p) >= 0.25
    (row, _) = result["thresholds"]
    assert row["alerts"] == alerted.sum()
    assert (np.sum(y) < 20, row["sensitivity"]) == (True, None)
    assert row["alerts_per_day"] == pytest.approx(37.2 * alerted.mean())
    assert "An alert is a predicted risk of 40.0% or more. Under" in page
    assert "or more, which the riskiest 10% of predicted test stays reach. " in (
        reported[2].read_text()
    )


@pytest.mark.parametrize("threshold", [0, 1, -0.2, 30])
def test_a_threshold_is_a_risk_between_0_and_1(reported, tmp_path, threshold):
    file = tmp_path / "report.html"
    with pytest.raises(FeatureStoreError, match=r"no threshold of a predicted risk - give one"):
        report(reported[0], "readmit", file, thresholds=[threshold])
    assert (
        run("report", reported[0].path, "readmit", "-o", file, "--threshold", threshold).exit_code
        == 2
    )
    assert not file.exists()


def test_small_counts_are_shown_only_where_they_are_asked_for(reported, tmp_path):
    store, result, file = reported
    everything = report(store, "readmit", tmp_path / "report.html", small_cells=True)

    def counts(report):
        levels = [row["n"] for row in report["characteristics"] if row["level"]]
        groups = [
            group[name] for group in report["subgroups"] for name in ("admissions", "positive")
        ]
        return [*levels, *groups]

    assert None not in counts(everything)
    assert 0 < min(filter(None, counts(everything))) < 11
    shown = set(counts(result))
    assert None in shown
    assert not shown & set(range(1, 11))
    pages = [each.read_text() for each in (file, tmp_path / "report.html")]
    assert [">*<" in page for page in pages] == [True, False]


def test_table_one_counts_labelled_stays_by_split_and_outcome(reported):
    store, result, _ = reported
    rows = {
        (row["characteristic"], row["split"], row["outcome"]): row
        for row in result["characteristics"]
        if row["level"] is None
    }
    for split, stays, positive, age in store.sql(
        "SELECT split, count(*), count_if(label), median(age) FROM scorer_admissions "
        "INNER JOIN admissions USING (hadm_id) GROUP BY split"
    ).fetchall():
        assert rows["stays", split, "all"]["n"] == stays
        assert rows["stays", split, "positive"]["n"] == positive
        assert rows["stays", split, "negative"]["n"] == stays - positive
        assert rows["age", split, "all"]["median"] == age


@pytest.mark.parametrize("name", ["report.pdf", "nowhere/report.html"])
def test_an_output_that_cannot_be_written_is_an_error(reported, tmp_path, name):
    with pytest.raises(FeatureStoreError, match=r"cannot be written - name a .html file in an"):
        report(reported[0], "readmit", tmp_path / name)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_window_of_a_browser_without_errors(reported, tmp_path, width):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: the page was not opened in a browser")
    # Chromium's window is at least 500 pixels wide; a frame can be as narrow as a phone.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="{reported[2].as_uri()}" style="width:{width}px;height:9000px;border:0" '
        "onload=\"document.title = 'wide ' + "
        'this.contentDocument.documentElement.scrollWidth"></iframe>'
    )
    common = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr --v=0 "
        "--allow-file-access-from-files --virtual-time-budget=5000 --dump-dom"
    ).split()

    def opened(file):
        command = [chromium, *common, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "CONSOLE" not in done.stderr
        return done.stdout

    page = opened(reported[2])
    assert all(f'<figure id="{name}">' in page for name in FIGURES)
    (scroll_width,) = re.findall(r"<title>wide (\d+)</title>", opened(frame))
    assert int(scroll_width) <= width
