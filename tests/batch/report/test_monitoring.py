"""The figures of nights and outcomes: what they read and draw."""

import json
import re
from datetime import datetime, timedelta

import numpy as np
import pytest

from batch.report.monitoring import read_monitoring
from featurestore import create_store, embed_pending, outcomes, report, score, sync, train
from featurestore.cli import main
from tests.conftest import WordCounter
from tests.hospital import admission, note, write_hospital

TODAY = datetime(2026, 11, 1)
WEEKS = 30


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Return a live store whose scorer was fitted on 20 weeks, after which risks have doubled."""
    rng = np.random.default_rng(0)
    stays, notes = [], []
    for number in range(WEEKS * 28):
        week = number // 28
        admitted = TODAY - timedelta(weeks=WEEKS - week + 6)
        alone = int(rng.integers(0, 3))
        words = ["home"] * int(rng.integers(1, 4)) + ["alone"] * alone
        stays.append(admission(number, number + 1, admitted, admitted + timedelta(days=4)))
        notes.append(note(number, number, " ".join(words), admitted, subject_id=number + 1))
        risk = 0.08 + 0.12 * alone
        if rng.random() < (risk if week < 20 else 2 * risk):
            back = admitted + timedelta(days=10)
            stays.append(admission(10_000 + number, number + 1, back, back + timedelta(days=1)))
    folder = tmp_path_factory.mktemp("monitored-report")
    write_hospital(folder / "h", stays, notes)
    store = create_store(folder / "w.duckdb", folder / "h", "mimic3", live=True)
    sync(store)
    for until, job in (
        (TODAY - timedelta(weeks=WEEKS - 20), lambda: train(store, "readmit", baseline=False)),
        (TODAY, lambda: score(store, "readmit")),
    ):
        with store.transaction("test") as transaction:
            transaction.con.execute("UPDATE settings SET observed_until = $1", [until])
        embed_pending(store, WordCounter())
        job()
    return store


def test_observed_and_expected_outcomes_by_month_equal_those_of_outcomes(live):
    monitoring = read_monitoring(live, "readmit-v1")
    result = outcomes(live, "readmit")
    by_month = {each["period"]: each for each in result["periods"] if each["judged"]}
    assert [name for name, _ in monitoring.months] == list(by_month)
    for name, interval in monitoring.months:
        assert interval == pytest.approx(by_month[name]["observed_expected"])
    last = monitoring.months[-1][1]
    assert last[0] > 1.4 and last[1] > 1
    cusum = result["cusum"]
    assert cusum["stays"] == result["judged"] == len(monitoring.predicted_on)
    assert cusum["higher"]["value"] == pytest.approx(monitoring.charts["higher"][-1])
    assert cusum["higher"]["value"] > cusum["higher"]["limit"]
    assert cusum["higher"]["signal"] > str((TODAY - timedelta(weeks=WEEKS - 14)).date())
    assert cusum["lower"]["signal"] is None


def test_the_command_says_where_the_charts_stand(live):
    from click.testing import CliRunner

    lines = CliRunner().invoke(main, ["outcomes", str(live.path), "readmit"]).stdout.splitlines()
    assert max(map(len, lines)) <= 120
    (ratio,) = (line for line in lines if line.startswith("observed / expected"))
    assert "; not 1 in 2026-" in ratio
    higher, lower = (line for line in lines if line.startswith("CUSUM"))
    assert re.fullmatch(
        r"CUSUM for twice the odds: [\d.]+ after [\d,]+ judged stays, limit [\d.]+: above since "
        r"2026-\d\d-\d\d",
        higher,
    )
    assert lower.endswith("no signal")


def test_the_page_draws_outcomes_of_a_live_hospital_and_says_what_nights_lack(live, tmp_path):
    report(live, "readmit", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    (figure,) = re.findall(r'<figure id="outcomes">.*?</figure>', page, re.S)
    assert "observed / expected, by month" in figure and "<svg" in figure
    for name in ("drift", "night-scores"):
        (figure,) = re.findall(rf'<figure id="{name}">.*?</figure>', page, re.S)
        assert "<svg" not in figure and "It needs two nights" in figure


def test_what_nights_recorded_is_read_with_the_mean_over_notes(live):
    with live.transaction("nightly") as transaction:
        rows = [(1, "Nursing", 3, 0.5), (2, "Nursing", 1, -0.5), (3, "", 4, 1.0)]
        for patient, category, n, shift in rows:
            transaction.con.execute(
                "INSERT INTO nightly_log_odds VALUES ($1, 'readmit-v1', $2, $2, $3, $4, $5)",
                [transaction.run_id, patient, category, n, shift],
            )
        transaction.counts.update(
            scorer="readmit-v1",
            unusual=["forced"],
            monitoring={"log_odds": {"notes": 8}, "scores": None},
        )
    monitoring = read_monitoring(live, "readmit-v1")
    by_category = {
        name: [(each["n_notes"], each["shift"]) for each in nights]
        for name, nights in monitoring.shifts.items()
    }
    # (3 * 0.5 - 0.5) / 4, and of all notes (1 + 4) / 8.
    assert by_category == {
        "Nursing": [(4, 0.25)],
        "no category": [(4, 1.0)],
        "all notes": [(8, 0.625)],
    }
    (night,) = monitoring.nights
    assert (night["is_forced"], night["log_odds"]) == (True, {"notes": 8})
    assert json.dumps(sorted(monitoring.missing)) == '["drift", "night-scores"]'
