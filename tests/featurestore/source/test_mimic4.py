"""The same patients as MIMIC-III and as MIMIC-IV get the same labels."""

import pytest

from featurestore import create_store, sync, write_hospital
from featurestore.synthetic.mimic4 import write_mimic4_hospital


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One store per schema, of the same 500 patients."""
    folder = tmp_path_factory.mktemp("both")
    write_hospital(folder / "three", 500)
    write_mimic4_hospital(folder / "four", 500)
    stores = []
    for name, schema in (("three", "mimic3"), ("four", "mimic4")):
        stores.append(create_store(folder / f"{name}.duckdb", folder / name, schema))
        sync(stores[-1])
    return stores


@pytest.mark.parametrize("rule", ["readmission", "clinicalbert"])
def test_both_schemas_give_the_same_labels(both, rule):
    three, four = (
        store.sql(
            f"FROM {rule}_labels() WHERE reason IS DISTINCT FROM 'newborn' ORDER BY hadm_id"
        ).fetchall()
        for store in both
    )
    assert len(four) > 700
    if rule == "clinicalbert":
        # next_hadm_id may be a newborn's stay, and MIMIC-IV has none.
        assert {row[0]: row[3] for row in four} == {row[0]: row[3] for row in three}
    else:
        assert four == three
        assert {row[4] for row in four if row[4]} >= {
            "died in hospital", "planned return", "left against medical advice",
            "transferred to acute hospital", "admitted after death",
        }  # fmt: skip


def test_both_schemas_give_notes_the_same_availability(both):
    three, four = (
        store.sql(
            "SELECT hadm_id, category, available_at, time_basis, text_hash FROM notes "
            "WHERE status = 'ready' AND category IN ('Discharge summary', 'Radiology') "
            "AND NOT (category = 'Radiology' AND time_basis = 'date') "
            "AND hadm_id IN (SELECT hadm_id FROM admissions WHERE admission_type <> 'NEWBORN') "
            "ORDER BY ALL"
        ).fetchall()
        for store in both
    )
    assert len(four) > 1_000
    assert four == three
    assert {row[3] for row in four if row[1] == "Discharge summary"} == {"date"}


def test_mimic4_keeps_its_note_ids_and_derives_ages_from_the_anchor_year(both):
    _, four = both
    assert four.one("SELECT count(*) FROM notes WHERE NOT regexp_full_match(note_id, $r)",
                    r=r"\d+-(DS|RR)-\d+") == (0,)  # fmt: skip
    ages = both[0].sql("SELECT hadm_id, age FROM admissions").fetchall()
    anchored = dict(four.sql("SELECT hadm_id, age FROM admissions").fetchall())
    # MIMIC-IV has only years of birth. Both schemas give 91 to patients over 89.
    assert all(abs(age - anchored[hadm]) <= 2 for hadm, age in ages if hadm in anchored)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_mimic4_hospital(tmp_path / name, 5, seed=3)
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.gz")]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert (tmp_path / "one" / file).stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError, match=r"edstays\.csv\.gz already exists"):
        write_mimic4_hospital(tmp_path / "one", 5)
