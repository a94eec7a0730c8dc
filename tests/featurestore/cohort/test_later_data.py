"""Covariates are computed again without what came after the prediction."""

import duckdb
import pytest

from featurestore.cohort.later_data import find_later_data
from featurestore.errors import QueryError
from featurestore.store.sql_files import read_sql

STAYS = "FROM prediction_times(cutoff := $cutoff) AS p INNER JOIN admissions AS a USING (hadm_id)"
NOTES = "FROM prediction_times(cutoff := $cutoff) AS p LEFT JOIN {} AS n USING (hadm_id) GROUP BY 1"
ALL_NOTES = f"SELECT p.hadm_id, count(n.note_id) AS n_notes {NOTES.format('notes')}"
KNOWN = f"SELECT p.hadm_id, count(n.note_id) AS n {NOTES.format('known_notes(cutoff := $cutoff)')}"
LENGTH = f"SELECT HADM_ID AS HADM_ID, epoch(a.dischtime - a.admittime) AS length {STAYS}"
DIED = f"SELECT hadm_id, a.died_in_hospital AS died {STAYS}"
LATER_STAYS = f"""
SELECT
    hadm_id,
    a.age,
    (SELECT count(*) FROM admissions AS o WHERE o.subject_id = a.subject_id) AS stays
{STAYS}
"""


@pytest.mark.parametrize(
    ("query", "cutoff", "columns"),
    [
        pytest.param(ALL_NOTES, "72h", ["n_notes"], id="all notes, also the later ones"),
        pytest.param(ALL_NOTES, "discharge+48h", [], id="all notes after discharge are known"),
        pytest.param(KNOWN, "72h", [], id="the known notes"),
        pytest.param(LENGTH, "72h", ["length"], id="the length of a stay that is not over"),
        pytest.param(LENGTH, "discharge+0h", [], id="the length of a stay that is over"),
        pytest.param(DIED, "24h", ["died"], id="the outcome itself"),
        pytest.param(LATER_STAYS, "72h", ["stays"], id="later stays; the age is known"),
        *(
            pytest.param(read_sql(f"covariates/{name}"), cutoff, [], id=f"{name} at {cutoff}")
            for name in ("demographics", "utilisation")
            for cutoff in ("24h", "discharge+48h")
        ),
    ],
)
def test_covariates_that_count_later_data_are_found(synthetic_store, query, cutoff, columns):
    later_data = find_later_data(synthetic_store, [query], cutoff)
    assert (later_data.sampled, later_data.columns) == (30, columns)
    assert (later_data.stays > 0) == bool(columns)


def test_each_select_of_a_set_is_checked(synthetic_store):
    later_data = find_later_data(synthetic_store, [KNOWN, ALL_NOTES, LENGTH], "24h")
    assert later_data.columns == ["n_notes", "length"]


def test_a_select_reads_the_store_alone(synthetic_store):
    with pytest.raises(QueryError):
        find_later_data(synthetic_store, ["SELECT 1 AS hadm_id FROM read_csv('x')"], "72h")
    with pytest.raises(duckdb.Error):
        find_later_data(synthetic_store, ["SELECT hadm_id, nothing FROM admissions"], "72h")
