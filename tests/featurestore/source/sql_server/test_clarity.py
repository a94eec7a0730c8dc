"""The SELECTs over Epic's Clarity in docs/sources.md, run by the stand-in for SQL Server."""

import re
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from featurestore import create_store, sync
from featurestore.source.note_texts import text_hash
from featurestore.source.source import open_source
from tests.featurestore.source.sql_server.tds_server import TdsServer

PAGE = Path(__file__).resolve().parents[4] / "docs" / "sources.md"

TABLES = """
CREATE TABLE PATIENT AS FROM (VALUES
    ('Z1', DATE '1950-03-04', NULL, 1),
    ('Z2', DATE '1980-01-01', DATE '2026-03-09', 2)
) AS t (PAT_ID, BIRTH_DATE, DEATH_DATE, SEX_C);
CREATE TABLE PAT_ENC_HSP AS FROM (VALUES
    (101, 'Z1', TIMESTAMP '2026-01-01 08:00', TIMESTAMP '2026-01-05 12:00', 3, 101, 1, 900, 1),
    (102, 'Z1', TIMESTAMP '2026-02-01 09:00', TIMESTAMP '2026-02-02 12:00', 1, 104, 2, NULL, NULL),
    (103, 'Z2', TIMESTAMP '2026-03-01 10:00', TIMESTAMP '2026-03-09 23:00', 1, 101, 20, NULL, 1),
    (104, 'Z2', TIMESTAMP '2026-04-01 10:00', NULL, 1, 101, NULL, NULL, 3),
    (105, 'Z2', TIMESTAMP '2026-04-02 10:00', NULL, 1, 103, NULL, NULL, 1)
) AS t (PAT_ENC_CSN_ID, PAT_ID, HOSP_ADMSN_TIME, HOSP_DISCH_TIME, HOSP_ADMSN_TYPE_C,
    ADT_PAT_CLASS_C, DISCH_DISP_C, HSP_ACCOUNT_ID, ADMIT_CONF_STAT_C);
CREATE TABLE HSP_ACCOUNT AS SELECT 900 AS HSP_ACCOUNT_ID, 2 AS ACCT_FIN_CLASS_C;
CREATE TABLE PATIENT_RACE AS SELECT 'Z1' AS PAT_ID, 1 AS LINE, 5 AS PATIENT_RACE_C;
CREATE TABLE HNO_INFO AS FROM (VALUES
    ('N1', 101, 1), ('N2', 101, 4), ('N3', 103, 1), ('N4', 103, 1)
) AS t (NOTE_ID, PAT_ENC_CSN_ID, IP_NOTE_TYPE_C);
CREATE TABLE NOTE_ENC_INFO AS FROM (VALUES
    ('N1', 1, 'N', 2, TIMESTAMP '2026-01-02 10:00'),
    ('N1', 2, 'Y', 3, TIMESTAMP '2026-01-03 10:00'),
    ('N2', 3, 'Y', 2, TIMESTAMP '2026-01-02 11:00'),
    ('N3', 4, 'Y', 1, TIMESTAMP '2026-03-02 11:00'),
    ('N4', 5, 'Y', 4, TIMESTAMP '2026-03-02 12:00')
) AS t (NOTE_ID, CONTACT_SERIAL_NUM, MOST_RECENT_CNCT_YN, NOTE_STATUS_C, NOT_FILETM_LOC_DTTM);
ALTER TABLE PAT_ENC_HSP ALTER PAT_ENC_CSN_ID TYPE DECIMAL(18, 0);
ALTER TABLE NOTE_ENC_INFO ADD COLUMN SPEC_TIME_LOC_DTTM TIMESTAMP DEFAULT '2026-01-02 09:00';
CREATE TABLE HNO_NOTE_TEXT AS FROM (VALUES
    (1, 1, 'first version'),
    (2, 3, ' for a week.'), (2, 1, 'Chest pa'), (2, 2, 'in, 38 °C,'),
    (3, 1, 'Plan.'), (4, 1, 'draft'), (5, 1, 'deleted')
) AS t (NOTE_CSN_ID, LINE, NOTE_TEXT);
"""
CATEGORIES = {
    "ZC_PAT_CLASS": ("ADT_PAT_CLASS_C", {101: "Inpatient", 103: "Emergency", 104: "Observation"}),
    "ZC_HOSP_ADMSN_TYPE": ("HOSP_ADMSN_TYPE_C", {1: "Emergency", 3: "Elective"}),
    "ZC_DISCH_DISP": (
        "DISCH_DISP_C",
        {1: "Home or Self Care", 2: "Left Against Medical Advice", 20: "Expired"},
    ),
    "ZC_SEX": ("RCPT_MEM_SEX_C", {1: "Female", 2: "Male"}),
    "ZC_PATIENT_RACE": ("PATIENT_RACE_C", {5: "White"}),
    "ZC_FIN_CLASS": ("FIN_CLASS_C", {2: "Medicare"}),
    "ZC_NOTE_STATUS": (
        "NOTE_STATUS_C",
        {1: "Incomplete", 2: "Signed", 3: "Addendum", 4: "Deleted"},
    ),
    "ZC_NOTE_TYPE_IP": ("TYPE_IP_C", {1: "Progress Notes", 4: "H&P"}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store that has synced by the two SELECTs of the page."""
    folder = tmp_path_factory.mktemp("clarity")
    with duckdb.connect(folder / "clarity.db") as con:
        con.execute(TABLES)
        for table, (key, names) in CATEGORIES.items():
            con.execute(f"CREATE TABLE {table} ({key} INTEGER, NAME VARCHAR)")
            con.executemany(f"INSERT INTO {table} VALUES (?, ?)", list(names.items()))
    (folder / "our-clarity").mkdir()
    for block in re.findall(r"^```tsql\n(.*?)^```$", PAGE.read_text(), re.M | re.S):
        name, select = re.match(r"-- (\S+)\n(.*)", block, re.S).groups()
        (folder / name).write_text(select)
    with TdsServer(folder / "clarity.db") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_SOURCE", server.url)
        store = create_store(folder / "w.duckdb", server.url, folder / "our-clarity")
        sync(store)
        yield store


def test_stays_get_the_words_of_the_label_rule(store):
    assert store.sql(
        "SELECT hadm_id, source_subject_id, admission_type, planned, discharge_location, "
        "died_in_hospital, deathtime, age, gender, ethnicity, insurance FROM admissions ORDER BY 1"
    ).fetchall() == [
        (101, "Z1", "ELECTIVE", True, "HOME OR SELF CARE", False, None, 75, "Female", "White",
         "Medicare"),
        (102, "Z1", "DIRECT OBSERVATION", False, "AGAINST ADVICE", False, None, 75, "Female",
         "White", None),
        (103, "Z2", "EMERGENCY", False, "DIED", True, datetime(2026, 3, 9, 23), 46, "Male", None,
         None),
    ]  # fmt: skip
    assert store.sql("SELECT hadm_id, reason FROM readmission_labels() ORDER BY 1").fetchall() == [
        (101, None),
        (102, "observation stay"),
        (103, "died in hospital"),
    ]


def test_a_note_in_three_lines_is_one_text_of_its_newest_version(store):
    text = "Chest pain, 38 °C, for a week."
    assert list(open_source(store).texts(["N1"])) == [[("N1", text)]]
    assert store.sql(
        "SELECT note_id, hadm_id, category, available_at, text_hash, reason FROM notes ORDER BY 1"
    ).fetchall() == [
        ("N1", 101, "Progress Notes", datetime(2026, 1, 3, 10), text_hash(text), None),
        ("N2", 101, "H&P", datetime(2026, 1, 2, 11), text_hash("Plan."), None),
        ("N4", 103, "Progress Notes", datetime(2026, 3, 2, 12), text_hash("deleted"),
         "flagged as an error"),
    ]  # fmt: skip
