"""A live hospital in which a new word means nothing: simulated for fourteen months."""

import shutil
from datetime import datetime, timedelta

import numpy as np
import pytest
from scipy.stats import binomtest

from featurestore import Store, audit, create_store, embed_pending, sync, train
from featurestore.errors import NotEnoughDataError
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital
from tests.jobs import edited

RATE = 0.16  # of stays that are followed by a return within 30 days
DAYS, STAYS_PER_DAY = 420, 19
NEW_WORD_AT = DAYS - 31  # the day on which a template word enters every note
TODAY = datetime(2026, 11, 1)


class Ward(WordCounter):
    """Counts three words of a note."""

    def __init__(self):
        super().__init__("ward-00000000")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Stays of ten days, some followed by a return at a random moment of the next 30 days."""
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for number in range(DAYS * STAYS_PER_DAY):
        discharged = TODAY - timedelta(days=DAYS - number / STAYS_PER_DAY)
        admitted = discharged - timedelta(days=10)
        patient = hadm_id = 1 + number
        stays.append(admission(hadm_id, patient, admitted, discharged))
        returned = discharged + timedelta(days=rng.uniform(1, 30))
        alone = int(rng.integers(0, 3))  # who lives alone returns more often
        if (
            rng.random() < RATE / 2 * (1 + alone) and returned < TODAY
        ):  # what has not happened yet is unknown
            stays.append(admission(100_000 + hadm_id, patient, returned, None))
        words = ["home"] * int(rng.integers(1, 4)) + ["alone"] * alone
        words += ["pain"] * (number / STAYS_PER_DAY >= NEW_WORD_AT)
        notes.append(note(hadm_id, hadm_id, " ".join(words), admitted, subject_id=patient))
    folder = tmp_path_factory.mktemp("live")
    source = write_hospital(folder / "hospital", stays, notes)
    store = create_store(folder / "ward.duckdb", source, "mimic3", live=True)
    sync(store)
    with edited(store) as transaction:
        transaction.con.execute("UPDATE settings SET observed_until = $1", [TODAY])
    embed_pending(store, Ward())
    return store


def scores_of_last_month(store, scorer_id):
    (probabilities,) = zip(
        *store.sql(
            "SELECT probability FROM score_admissions($scorer) "
            "INNER JOIN admissions USING (hadm_id) "
            "WHERE hadm_id < 100000 AND dischtime > $today - INTERVAL 30 DAY",
            scorer=scorer_id,
            today=TODAY,
        ).fetchall(),
        strict=True,
    )
    return np.array(probabilities)


def test_a_word_that_is_new_means_nothing(live):
    result = train(live, "readmit", baseline=False, aggregate="mean")
    assert result["no_signal"] is None
    (coef,) = live.one("SELECT coef FROM scorers WHERE scorer_id = $s", s=result["scorer_id"])
    assert abs(coef[WordCounter.COUNTED.index("pain")]) < 0.5
    assert coef[WordCounter.COUNTED.index("alone")] > 0.1
    last_month = scores_of_last_month(live, result["scorer_id"])
    assert len(last_month) > 500
    assert last_month.mean() == pytest.approx(RATE, abs=0.1)
    assert not [f for f in audit(live, "readmit") if f.code == "immature-labels"]


def test_a_scorer_of_early_returns_is_what_this_prevents(live):
    """Of the labels that are known, most with the word are returns, and few of the others."""
    rows = live.sql(
        "SELECT m.embedding[2], l.label FROM readmission_labels() AS l "
        "INNER JOIN admission_embeddings AS m USING (hadm_id) "
        "WHERE m.cutoff = '72h' AND l.label IS NOT NULL AND hadm_id < 100000"
    ).fetchall()
    pain, label = np.array(rows, float).T
    assert label[pain > 1].mean() > 0.7
    assert label[pain == 1].mean() < 0.2


def test_in_every_month_the_rate_of_mature_labels_is_the_true_one(live):
    months = live.sql(
        "SELECT date_trunc('month', dischtime), count(*) FILTER (label), count(*) "
        "FROM readmission_labels() WHERE mature AND label IS NOT NULL AND hadm_id < 100000 "
        "GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert len(months) >= 13
    assert sum(n for _, _, n in months) > 7_000
    for _, returned, n in months:
        # 99.9%: one interval of 95% in twenty would miss the truth.
        interval = binomtest(returned, n).proportion_ci(0.999, "wilson")
        assert interval.low <= RATE <= interval.high
    returned, n = np.sum([counts for _, *counts in months], axis=0)
    interval = binomtest(int(returned), int(n)).proportion_ci(0.95, "wilson")
    assert interval.low <= RATE <= interval.high


def test_a_store_live_for_less_than_the_horizon_cannot_be_trained_on(live, tmp_path):
    young = Store(shutil.copy(live.path, tmp_path / "young.duckdb"))
    with edited(young) as transaction:
        transaction.con.execute(
            "DELETE FROM admissions WHERE dischtime < $1 OR hadm_id > 100000 AND admittime < $1",
            [TODAY - timedelta(days=25)],
        )
    with pytest.raises(
        NotEnoughDataError, match="'horizon not yet observed' - wait until"
    ) as error:
        train(young, "too-early", baseline=False)
    assert "\n" not in str(error.value)
