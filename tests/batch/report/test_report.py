"""The report: what the store knows of a scorer, on one private page that loads nothing."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from batch.report.data import report
from batch.report.figures import _THRESHOLDS, FIGURES, net_benefit, wilson
from featurestore import Store, create_store, embed_pending, sync
from featurestore.cohort.leakage import audit
from featurestore.errors import FeatureStoreError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.timeline import day

PATIENTS = 120
CANARY = "zebrafinch"
SUBJECTS = range(7_310_001, 7_310_001 + PATIENTS)
STAYS, NOTES = 1_100_000, 2_200_000  # more than the patient's number
SYSTEMS = ("scorer", "bag_of_words", "head", "prior_admissions")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Every second patient comes back; notes, stays and patients have numbers to look for."""
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
    """A store with a scorer and three nights, and its page."""
    store = copied(embedded, tmp_path_factory.mktemp("whole"))
    with_scorer(store)
    for night in range(3):
        with_night(store, night)
    file = store.path.with_name("report.html")
    facts = report(store, "readmit", file)
    return store, facts, file


def copied(store, folder):
    return Store(shutil.copy(store.path, folder / "ward.duckdb"))


def with_scorer(store, one_outcome=False, **changed):
    """Keep a scorer with made-up numbers."""
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
            "calibration_slope, calibration_intercept, coef_hash) VALUES "
            "('readmit-v1', 'readmit', 1, 'one-00000000', '72h', 'readmission', 30, [1, 2, 3, 4], "
            "0.5, $1, 'abcdef', TIMESTAMP '2026-01-02 03:04:05', 'mean', 1, 0, '')",
            [json.dumps(metrics)],
        )
        told = np.clip(rng.normal(0.35, 0.15, (len(rows), 4)), 0.01, 0.99)
        transaction.con.executemany(
            "INSERT INTO scorer_admissions (scorer_id, hadm_id, split, label, subject_id, "
            "probability, prior_admissions, bag_of_words, head) VALUES "
            "('readmit-v1', $1, $2, $3, $4, $5, $6, $7, $8)",
            [[*row, *p] for row, p in zip(rows, told.tolist(), strict=True)],
        )
        transaction.counts.update(scorer="readmit-v1")


def with_night(store, number):
    with store.transaction("nightly") as transaction:
        for category in ("Nursing", "Case $management$ 護理 <b>"):
            transaction.con.execute(
                "INSERT INTO nightly_embedding_stats "
                "VALUES ($1, 'one-00000000', $2, 7, 9, 1.5, [1, 2, 3, $3])",
                [transaction.run_id, category, float(number)],
            )


def numbers(rows, one_outcome=False):
    """The metrics that train() keeps, each easy to find again."""
    splits = ("train", "valid", "test")

    def some(start):
        return None if one_outcome else [start, start - 0.05, start + 0.05]

    every = {
        "auroc": some(0.7123),
        "auprc": some(0.6123),
        "auprc_balanced": some(0.6523),
        "accuracy": some(0.5923),
        "brier": some(0.2123),
        "calibration_slope": some(1.1123),
        "calibration_intercept": some(-0.0723),
        "recall_at_80_precision": some(0.1323),
        "recall_at_80_precision_balanced": some(0.2323),
    }
    group = {"by": "gender", "admissions": 41, "returned": 21, "observed": 0.51, "expected": 0.49}
    fit = {
        "aggregate": "mean",
        "fitted_on": "training patients, C by cross-validation",
        "c": 0.001,
        "valid_auroc": 0.6812,
        "test_auroc": some(0.6923),
        "test_slope": some(0.4423),
        "naive": True,
        "kept": False,
    }
    return {
        "admissions": {split: sum(row[1] == split for row in rows) for split in splits},
        "positives": {split: sum(row[1] == split and row[2] for row in rows) for split in splits},
        "c": 0.001,
        "aggregate": "mean",
        "fitted_on": "training patients, C by cross-validation",
        "candidates": [fit, fit | {"naive": False, "kept": True, "c": 0.01}],
        "calibration": {"slope": 0.77, "intercept": -0.11},
        "test": dict.fromkeys((*SYSTEMS, "prevalence"), every),
        "differences": {name: some(0.0323) for name in SYSTEMS[1:]},
        "alerts": [
            {"per_100": n, "ppv": some(0.7), "recall": some(n / 50)} for n in (1, 5, 10, 20)
        ],
        "stays_a_day": 37.2,
        "subgroups": [
            group | {"group": "M", "auroc": some(0.7223)},
            group | {"group": "<F>", "auroc": None, "observed": None, "expected": None},
        ],
        "learning_curve": [
            {"admissions": n, "returned": n // 3, "auroc": some(0.6 + n / 1000)} for n in (20, 40)
        ],
        "warnings": ["only a few test stays returned"],
        "versions": {"scikit-learn": "9.9.9"},
        "seed": 0,
        "bootstraps": 1000,
    }


def test_every_figure_is_there_with_its_words(reported):
    _, facts, file = reported
    page = file.read_text()
    assert facts == {"scorer_id": "readmit-v1", "file": str(file), "figures": len(FIGURES)}
    for name in FIGURES:
        assert page.count(f'<figure id="{name}">') == 1
    assert page.count("<figcaption>") == page.count('role="img" aria-label="') == len(FIGURES)
    for table in ("metrics", "candidates", "tripod"):
        assert page.count(f'id="{table}"') == 1
    assert re.findall(r'<td class="number">(\d+)</td>', page) == [str(n) for n in range(1, 28)]


def test_the_page_loads_nothing_and_runs_nothing(reported):
    page = reported[2].read_text()
    assert not re.search(r"https?:|<script|<link|<img|@import|@font-face|javascript:", page)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_the_page_is_private_and_the_same_again(reported, tmp_path):
    store, _, file = reported
    assert file.stat().st_mode & 0o777 == 0o600
    report(store, "readmit-v1", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == file.read_bytes()


def test_no_text_note_stay_or_patient_is_named(reported):
    page = reported[2].read_text()
    assert CANARY not in page
    for subject in SUBJECTS:
        for number in (subject, subject + STAYS, subject + 2 * STAYS, subject + NOTES):
            assert str(number) not in page


def test_numbers_are_those_of_the_metrics(reported):
    store, _, file = reported
    page = file.read_text()
    kept = json.loads(store.one("SELECT metrics FROM scorers")[0])
    for found in (*kept["test"]["scorer"].values(), kept["candidates"][0]["test_auroc"]):
        estimate, low, high = found
        assert f"{estimate:.3f}" in page or f"{estimate:.2f}" in page
        assert f"{low:.3f} to {high:.3f}" in page or f"{low:.2f} to {high:.2f}" in page
    for words in (
        "its AUROC is <b>0.712 (0.662 to 0.762)</b>",
        "higher risk 71 times of 100",
        "Only a few test stays returned.",
        f"{kept['admissions']['train']}, {kept['positives']['train']} returned",
        "This hospital predicts 37.2 stays a day",
        "slope 0.77, intercept -0.11",
        "scikit-learn 9.9.9",
        "too few to judge",
    ):
        assert words in page, words


def test_words_of_the_source_are_words_and_no_markup(reported):
    page = reported[2].read_text()
    assert "&lt;F&gt;" in page and "<F>" not in page
    assert "Case $management" in page


def test_a_curve_has_the_numbers_of_a_textbook():
    # Of four alerted at 0.5 three returned: 3/8 - 1/8 * (0.5 / 0.5).
    y = np.array([True, True, True, False, False, False, False, True])
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    assert net_benefit(y, p)[np.abs(_THRESHOLDS - 0.5).argmin()] == pytest.approx(2 / 8, abs=1e-2)
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1


def test_where_test_patients_have_one_outcome_the_page_says_so(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with_scorer(store, one_outcome=True)
    facts = report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert facts["figures"] == 2
    assert all(f'<figure id="{name}">' in page for name in FIGURES)
    assert "it takes both outcomes to draw this" in page
    assert "nothing to show yet: it takes two nights" in page
    assert "Nothing can be said yet of how good it is" in page


def test_baselines_that_are_not_there_are_left_out(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    alone = {"scorer": numbers([])["test"]["scorer"]}
    with_scorer(store, test=alone, differences={}, stays_a_day=None, subgroups=[])
    with store.transaction("test") as transaction:
        transaction.con.execute("UPDATE scorer_admissions SET bag_of_words = NULL, head = NULL")
    report(store, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Bag-of-words" not in page and "Fine-tuned model" not in page
    assert "alerts a day" not in page and "No group of test patients" in page


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        pytest.param("emilyalsentzer/Bio_ClinicalBERT", True, id="from the hub"),
        pytest.param("Bio_ClinicalBERT", True, id="from a folder of that name"),
        pytest.param("bert-base-uncased", False, id="a model of no hospital"),
    ],
)
def test_page_and_audit_say_the_same_of_a_model_that_read_the_notes_before(
    embedded, tmp_path, base, expected
):
    store = copied(embedded, tmp_path)
    with_scorer(store, one_outcome=True)  # there are hardly any figures to draw
    manifest = WordCounter().manifest | {"checkpoint": {"finetune": {"base": base}}}
    with store.transaction("test") as transaction:
        transaction.con.execute("UPDATE encoders SET manifest = $1", [json.dumps(manifest)])
    report(store, "readmit", tmp_path / "report.html")
    on_page = 'id="contamination"' in (tmp_path / "report.html").read_text()
    in_audit = any("pretrained on MIMIC's notes" in finding for finding in audit(store))
    assert (on_page, in_audit) == (expected, expected)


@pytest.mark.parametrize("name", ["report.pdf", "nowhere/report.html"])
def test_a_page_that_could_not_be_written(reported, tmp_path, name):
    with pytest.raises(FeatureStoreError, match=r"cannot be written - name a .html file in a fold"):
        report(reported[0], "readmit", tmp_path / name)


def test_a_scorer_of_an_older_version_asks_to_be_trained_again(embedded, tmp_path):
    store = copied(embedded, tmp_path)
    with_scorer(store)
    with store.transaction("test") as transaction:
        transaction.con.execute("UPDATE scorers SET metrics = '{}'")
    with pytest.raises(
        FeatureStoreError, match=r'older version.* - "featurestore train .* readmit'
    ):
        report(store, "readmit", tmp_path / "report.html")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_finds_nothing_wrong(reported, tmp_path, width):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: the page was not opened in a browser")
    # Chromium's own window is at least 500 wide; a frame is as narrow as a telephone.
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
    (found,) = re.findall(r"<title>wide (\d+)</title>", opened(frame))
    assert int(found) <= width
