"""Table 1: who the patients of each split are, with and without the outcome."""

from featurestore.store.sql_files import read_sql
from tests.timeline import day, stay, store_with


def test_table_one_of_a_timeline():
    """Two training patients with three labelled stays, and a test stay that left the source."""
    con = store_with(
        [
            stay(1, day(0), day(4), "ELECTIVE"),
            stay(2, day(100), day(106)),
            stay(3, day(500), day(502)),  # more than 12 months after the others
            stay(4, day(50), day(60), patient=2),
            stay(5, day(61), day(70), patient=2),  # has no label
        ]
    )
    con.execute(
        "UPDATE admissions SET age = 60 + hadm_id, gender = 'F', insurance = NULL, "
        "ethnicity = CASE WHEN subject_id = 1 THEN 'WHITE - RUSSIAN' ELSE 'UNKNOWN' END"
    )
    con.executemany(
        "INSERT INTO scorer_admissions (scorer_id, hadm_id, split, label, reason, subject_id) "
        "VALUES ('s', $1, $2, $3, $4, $5)",
        [
            [1, "train", False, None, 1],
            [2, "train", True, None, 1],
            [3, "train", False, None, 1],
            [4, "train", True, None, 2],
            [5, "test", None, "died in hospital", 2],
            [6, "test", True, None, 3],
        ],
    )
    con.execute("INSERT INTO admission_embeddings VALUES ('e', 2, '72h', now(), 7, 9, 0, 0, [1])")
    rows = con.execute(
        read_sql("report/characteristics"), {"scorer": "s", "encoder": "e", "cutoff": "72h"}
    ).fetchall()
    table = {
        (split, outcome, name, level): (n, *quartiles)
        for split, outcome, name, level, n, *quartiles in rows
    }
    none = (None, None, None)
    for outcome, expected in {
        "all": {
            ("stays", None): (4, *none),
            ("patients", None): (2, *none),
            ("age", None): (4, 61.75, 62.5, 63.25),
            ("length of stay", None): (4, 3.5, 5, 7),
            ("admissions in 12 months", None): (4, 0, 0, 0.25),
            ("notes per stay", None): (1, 7, 7, 7),
            ("sex", "F"): (4, *none),
            ("insurance", "not known"): (4, *none),
            ("ethnicity", "White"): (3, *none),
            ("ethnicity", "not known"): (1, *none),
            ("admission type", "ELECTIVE"): (1, *none),
            ("admission type", "EMERGENCY"): (3, *none),
        },
        "positive": {
            ("stays", None): (2, *none),
            ("patients", None): (2, *none),
            ("admissions in 12 months", None): (2, 0.25, 0.5, 0.75),
            ("ethnicity", "White"): (1, *none),
        },
    }.items():
        for key, value in expected.items():
            assert table["train", outcome, *key] == value, key
    # Of a stay that has left the source nothing is known; the one without a label does not count.
    assert table["test", "all", "stays", None] == (1, *none)
    assert table["test", "all", "age", None] == (0, *none)
    assert table["test", "all", "ethnicity", "not known"] == (1, *none)
